// SPDX-License-Identifier: Apache-2.0

public import Host

/// What of the host's network decides whether an address can be a session's: interfaces, their own addresses, and
/// default routes. Routes are looked up apart, because there may be very many.
public struct HostNetwork: Sendable, Hashable {
    /// The interfaces' names by index.
    public var interfaces: [CInt: String]
    /// The host's own addresses: all but those of sessions.
    public var own: [PlacedAddress]
    /// The interface of each family's default route.
    public var defaultInterfaces: [IPAddress.Family: String]

    public init(
        interfaces: [CInt: String], own: [PlacedAddress], defaultInterfaces: [IPAddress.Family: String] = [:]
    ) {
        self.interfaces = interfaces
        self.own = own
        self.defaultInterfaces = defaultInterfaces
    }

    /// The network as it is now.
    ///
    /// - Parameter isOwn: whether an address is the host's own, and not a session's.
    public init(_ netlink: Netlink, isOwn: (PlacedAddress) -> Bool) throws(Failure) {
        interfaces = try netlink.interfaces().mapValues(\.name)
        own = try netlink.hostAddresses().filter(isOwn)
        defaultInterfaces = [:]
        for family in IPAddress.Family.allCases {
            defaultInterfaces[family] = try netlink.defaultRouteInterface(family)
        }
    }

    /// The interface of a family's default route; for IPv6 without one, that of IPv4; else `lo`.
    public func defaultInterface(_ family: IPAddress.Family) -> String {
        defaultInterfaces[family] ?? (family == .v6 ? defaultInterfaces[.v4] : nil) ?? "lo"
    }

    public func has(interface name: String) -> Bool { interfaces.values.contains(name) }
}
