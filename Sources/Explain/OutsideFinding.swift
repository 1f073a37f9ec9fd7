// SPDX-License-Identifier: Apache-2.0

import CVipABI
import CVipHooks
import Glibc
package import Host
import Network
import PolicyMaps

/// What the hooks refuse to a program of no session. They are asked with an address of each kind.
package enum OutsideFinding {
    /// - Parameters:
    ///   - host: with the program's cgroups and its user.
    ///   - isAttached: whether the program is at or below an attached cgroup.
    ///   - isGuarded: whether it is at or below the guarded one.
    package static func notes(
        _ host: HookHost, isAttached: Bool, isGuarded: Bool
    ) throws(Failure) -> [String] {
        var notes: [String] = []
        if isAttached, try refuses(VIP_HOOK_BIND4, IPAddress(v4: INADDR_ANY), host) {
            notes.append(
                "the policy has withoutSession: deny: its binds to the wildcard or a host address, and its connections "
                    + "to anything but the loopback, fail with EADDRNOTAVAIL")
        }
        // No session can have 127.255.255.254, the loopback of the last ID, and the guard keeps others off it, too.
        if isGuarded, try refuses(VIP_HOOK_GUARD_BIND4, IPAddress(v4: 0x7fff_fffe), host) {
            notes.append(
                "it is below the guarded cgroup: addresses that belong to sessions fail with EADDRNOTAVAIL, and "
                    + "connections to sessions' loopbacks with ECONNREFUSED")
        }
        return notes
    }

    private static func refuses(_ hook: vip_hook, _ address: IPAddress, _ host: HookHost) throws(Failure) -> Bool {
        var socket = vip_host_socket()
        socket.local = vip_address(IPAddress(v4: INADDR_ANY))
        socket.remote = socket.local
        return try host.call(hook, &socket, vip_address(address), port: 1).error != 0
    }
}
