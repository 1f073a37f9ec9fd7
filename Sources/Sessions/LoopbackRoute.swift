// SPDX-License-Identifier: Apache-2.0

public import Host
public import Network
public import Policy

// The route that makes the sessions' IPv6 loopbacks addresses of this host.

extension HostRoute {
    /// Whether it is what makes the prefix of the IPv6 loopbacks local.
    public func isLocal(_ prefix: LoopbackPrefix) -> Bool {
        isLocalOnLoopback && network == prefix.network && length == LoopbackPrefix.localLength
    }

    /// Whether somebody else has addresses of the prefix: the route leads to some of them, or to a site's network of
    /// which the prefix would be a part (a /48, RFC 4193). What is wider (a default route, fc00::/7) is in nobody's way.
    public func isInTheWay(of prefix: LoopbackPrefix) -> Bool {
        guard length >= LoopbackPrefix.lengths.lowerBound, !isLocal(prefix) else { return false }
        let common = UInt128(128 - min(length, LoopbackPrefix.localLength))
        return network.value >> common == prefix.network.value >> common
    }
}

extension Netlink {
    /// Makes the IPv6 loopbacks local: `ip -6 route add local PREFIX dev lo src ::1`.
    ///
    /// What has no source yet comes from ::1, as what goes to 127.0.0.8 comes from 127.0.0.1.
    ///
    /// - Returns: `false` where it was so already.
    @discardableResult
    public func addLocalRoute(_ prefix: LoopbackPrefix) throws(Failure) -> Bool {
        try addLocalRoute(
            AddressPrefix(of: prefix.network, length: LoopbackPrefix.localLength), source: IPAddress(.v6, value: 1))
    }

    /// Takes the route of ``addLocalRoute(_:)-(LoopbackPrefix)`` away; one that is not there is fine.
    public func removeLocalRoute(_ prefix: LoopbackPrefix) throws(Failure) {
        try removeLocalRoute(AddressPrefix(of: prefix.network, length: LoopbackPrefix.localLength))
    }
}
