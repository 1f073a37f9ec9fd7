// SPDX-License-Identifier: Apache-2.0

public import Network
public import Policy

extension LoopbackPrefix {
    /// All IPv6 loopbacks: the part of the prefix that is made local.
    public var prefix: AddressPrefix { AddressPrefix(of: network, length: Self.localLength) }
}

extension HostRoute {
    /// Whether it is the route that makes the prefix of the IPv6 loopbacks local.
    public func isLocal(_ prefix: LoopbackPrefix) -> Bool { isLocal && self.prefix == prefix.prefix }

    /// Whether addresses of the prefix are used elsewhere: the route leads to some of them, or to a site's network that
    /// would contain the prefix (a /48, RFC 4193). Wider routes (a default route, fc00::/7) are no conflict, nor are
    /// local ones: sessions' loopbacks have them.
    public func isInTheWay(of prefix: LoopbackPrefix) -> Bool {
        guard length >= LoopbackPrefix.lengths.lowerBound, !isLocal else { return false }
        let common = UInt128(128 - min(length, LoopbackPrefix.localLength))
        return network.value >> common == prefix.network.value >> common
    }
}
