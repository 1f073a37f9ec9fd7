// SPDX-License-Identifier: Apache-2.0

import Host
import Logging
import Network
import Policy

/// The settings of the network namespace that sessions need: local routes of their IPv6 loopbacks and of pools with
/// `placement: route`, and net.ipv6.ip_nonlocal_bind.
///
/// Each is noted in the registry before it is made, so that it is undone with the last attached cgroup, or by the next
/// change after a kill. What another program made is not noted, and left alone.
struct HostSettings {
    let registry: Registry
    let netlink: Netlink
    let bootID: String
    let logger: Logger

    /// The calling process's network namespace and the boot: `BOOT-ID INODE`.
    func network() throws(Failure) -> String {
        "\(bootID) \(try NetworkNamespace.current().inode)"
    }

    /// Fails where what a policy needs is in the way of what is there: before anything is changed.
    ///
    /// - Parameter present: every address of the host.
    func check(_ policy: Policy, _ present: [PlacedAddress]) throws(Failure) {
        try checkLoopback(policy.loopbackPrefix)
        try checkRoutes(policy, present)
    }

    /// Makes what a policy needs, where it is missing. What was made for another one stays until ``settle(_:for:)``.
    ///
    /// - Returns: the prefix of the IPv6 loopbacks; `nil` where this host cannot have them, which a warning says then.
    func prepare(for policy: Policy, warnings: inout [String]) throws(Failure) -> LoopbackPrefix? {
        let prefix = try prepareLoopback(policy.loopbackPrefix, warnings: &warnings)
        try prepareRoutes(policy.routedPrefixes)
        return prefix
    }

    /// Takes away what was made and is not needed any more.
    ///
    /// - Parameters:
    ///   - prefix: of the IPv6 loopbacks; `nil` where there are none.
    ///   - policy: the one in force.
    func settle(_ prefix: LoopbackPrefix?, for policy: Policy) throws(Failure) {
        try settleLoopback(prefix)
        try settleRoutes(policy)
    }

    /// Takes away all that was made. What is not there any more does not matter.
    func undo() throws(Failure) {
        try undoLoopback()
        try settleRoutes(nil)
    }
}
