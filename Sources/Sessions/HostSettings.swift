// SPDX-License-Identifier: Apache-2.0

import Host
import Logging
import Network
import Policy

/// What the network namespace must have beside sessions' virtual IPs: sessions' IPv6 loopbacks, or local routes for
/// whole prefixes and, for prefixes of IPv6, net.ipv6.ip_nonlocal_bind.
///
/// Each setting of the host is noted in the registry before it is changed, so that it is undone with the last attached
/// cgroup, or by the next change after a kill. Settings of other programs are not noted and stay. An IPv6 loopback is
/// its session's, as a virtual IP is, and goes with it.
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

    /// Makes what a policy needs, if it is missing. Settings for another policy stay until ``settle(_:for:)``.
    ///
    /// - Returns: the prefix of the IPv6 loopbacks; `nil` with a warning if this host cannot have them.
    func prepare(for policy: Policy, warnings: inout [String]) throws(Failure) -> LoopbackPrefix? {
        try adoptFormerNote()
        let prefix = prepareLoopbacks(for: policy, warnings: &warnings)
        let pools = policy.poolPrefixes
        if pools.contains(where: { $0.family == .v6 }), let change = try prepareNonlocalBind() {
            warnings.append("\(change): virtualIP.addresses.placement: prefix needs it for IPv6")
        }
        try prepareRoutes(pools, for: policy)
        return prefix
    }

    /// Removes what is no longer needed.
    ///
    /// - Parameters:
    ///   - prefix: the prefix of the IPv6 loopbacks; `nil` if there are none.
    ///   - policy: the policy in force.
    func settle(_ prefix: LoopbackPrefix?, for policy: Policy) throws(Failure) {
        try settleLoopbacks(prefix, for: policy)
        try settleRoutes(policy)
    }

    /// Undoes all settings of the host. Missing ones are no error. Sessions that are still open keep their addresses.
    func undo() throws(Failure) {
        try adoptFormerNote()
        try settleRoutes(nil)
        if try registry.usedIDs().isEmpty { try registry.set(.loopbackPrefix, to: nil) }
    }
}
