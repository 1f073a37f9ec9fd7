// SPDX-License-Identifier: Apache-2.0

import Host
import Logging
import Network
import Policy

/// The settings of the network namespace that sessions need: local routes for their IPv6 loopbacks and for pools with
/// `placement: route`, and net.ipv6.ip_nonlocal_bind.
///
/// Each change is noted in the registry before it is made, so that it is undone with the last attached cgroup, or by
/// the next change after a kill. Settings of other programs are not noted and stay.
struct HostSettings {
    let registry: Registry
    let netlink: Netlink
    let bootID: String
    let logger: Logger

    /// The calling process's network namespace and the boot: `BOOT-ID INODE`.
    func network() throws(Failure) -> String {
        "\(bootID) \(try NetworkNamespace.current().inode)"
    }

    /// Throws if something on the host conflicts with what a policy needs. It is called before anything is changed.
    ///
    /// - Parameter present: all addresses of the host.
    func check(_ policy: Policy, _ present: [PlacedAddress]) throws(Failure) {
        try checkLoopback(policy.loopbackPrefix)
        try checkRoutes(policy, present)
    }

    /// Makes the settings that a policy needs, if they are missing. Those for another policy stay until
    /// ``settle(_:for:)``.
    ///
    /// - Returns: the prefix of the IPv6 loopbacks; `nil` with a warning if this host cannot have them.
    func prepare(for policy: Policy, warnings: inout [String]) throws(Failure) -> LoopbackPrefix? {
        let prefix = try prepareLoopback(policy.loopbackPrefix, warnings: &warnings)
        try prepareRoutes(policy.routedPrefixes)
        return prefix
    }

    /// Removes settings that are no longer needed.
    ///
    /// - Parameters:
    ///   - prefix: the prefix of the IPv6 loopbacks; `nil` if there are none.
    ///   - policy: the policy in force.
    func settle(_ prefix: LoopbackPrefix?, for policy: Policy) throws(Failure) {
        try settleLoopback(prefix)
        try settleRoutes(policy)
    }

    /// Undoes all settings. Missing ones are no error.
    func undo() throws(Failure) {
        try undoLoopback()
        try settleRoutes(nil)
    }
}
