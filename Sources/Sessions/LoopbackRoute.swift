// SPDX-License-Identifier: Apache-2.0

public import Host
public import Network
public import Policy

// The route that makes the sessions' IPv6 loopbacks local.

extension HostRoute {
    /// Whether it is the route that makes the prefix of the IPv6 loopbacks local.
    public func isLocal(_ prefix: LoopbackPrefix) -> Bool {
        isLocalOnLoopback && network == prefix.network && length == LoopbackPrefix.localLength
    }

    /// Whether addresses of the prefix are used elsewhere: the route leads to some of them, or to a site's network that
    /// would contain the prefix (a /48, RFC 4193). Wider routes (a default route, fc00::/7) are no conflict.
    public func isInTheWay(of prefix: LoopbackPrefix) -> Bool {
        guard length >= LoopbackPrefix.lengths.lowerBound, !isLocal(prefix) else { return false }
        let common = UInt128(128 - min(length, LoopbackPrefix.localLength))
        return network.value >> common == prefix.network.value >> common
    }
}

extension Netlink {
    /// Makes the IPv6 loopbacks local: `ip -6 route add local PREFIX dev lo src ::1`.
    ///
    /// Connections there without a source address come from ::1, as those to 127.0.0.8 come from 127.0.0.1.
    ///
    /// - Returns: `false` if the route already exists.
    @discardableResult
    public func addLocalRoute(_ prefix: LoopbackPrefix) throws(Failure) -> Bool {
        try addLocalRoute(
            AddressPrefix(of: prefix.network, length: LoopbackPrefix.localLength), source: IPAddress(.v6, value: 1))
    }

    /// Removes the route of ``addLocalRoute(_:)-(LoopbackPrefix)``; it is no error if it does not exist.
    public func removeLocalRoute(_ prefix: LoopbackPrefix) throws(Failure) {
        try removeLocalRoute(AddressPrefix(of: prefix.network, length: LoopbackPrefix.localLength))
    }
}
