// SPDX-License-Identifier: Apache-2.0

public import Host
public import Network
public import Policy

/// An interface on which the host has no address of its own, so that programs outside sessions that bind no address
/// send from a session's.
public struct BorrowedSource: Sendable, Hashable {
    public let interface: String
    public let family: IPAddress.Family

    public init(interface: String, family: IPAddress.Family) {
        self.interface = interface
        self.family = family
    }

    public var message: String {
        "the host has no \(family.rawValue) address of its own on \(interface): programs outside sessions send from "
            + "sessions' addresses there"
    }

    public var remedy: String {
        let own = "give the host an \(family.rawValue) address on \(interface)"
        return family == .v4 ? "\(own), or set virtualIP.addresses.placement: route" : own
    }

    /// As the kernel chooses: inet_select_addr() in net/ipv4/devinet.c, and RFC 6724 as net/ipv6/addrconf.c has it.
    ///
    /// IPv4 takes the first address of the interface by which it leaves. IPv6 takes one of any interface: before a
    /// deprecated one, which sessions' virtual IPs and loopbacks are, one that is not; but a deprecated one before one
    /// that is link-local.
    ///
    /// - Parameters:
    ///   - virtual: sessions' addresses.
    ///   - placed: every address of the host, sessions' among them.
    ///   - interfaces: those that routes without a source address of their own leave by.
    /// - Returns: in the order of interfaces' names, IPv4 first.
    package static func all(
        virtual: Set<IPAddress>, placed: [PlacedAddress], leavingBy interfaces: (IPAddress.Family) -> Set<String>
    ) -> [BorrowedSource] {
        // IFA_F_DADFAILED, IFA_F_DEPRECATED and IFA_F_TENTATIVE of linux/if_addr.h.
        let unusable: UInt32 = 0x08 | 0x20 | 0x40
        let placed = placed.filter { $0.form == .address }
        let own = placed.filter { place in
            let address = place.address
            let isLinkLocal = address.v4.map { $0 >> 16 == 0xa9fe } ?? address.isIPv6LinkLocal
            return !virtual.contains(address) && !address.isLoopback && !isLinkLocal
                && (address.family == .v4 || place.flags & unusable == 0)
        }
        var found: [BorrowedSource] = []
        for family in IPAddress.Family.allCases {
            let ownOfFamily = own.filter { $0.address.family == family }
            let used = Set(
                placed.filter { $0.address.family == family && virtual.contains($0.address) }.map(\.interface))
            guard !used.isEmpty else { continue }
            let borrowing: Set<String> =
                switch family {
                case .v4: used.intersection(interfaces(family)).subtracting(ownOfFamily.map(\.interface))
                case .v6: ownOfFamily.isEmpty ? interfaces(family).subtracting(["lo"]) : []
                }
            for interface in borrowing {
                found.append(BorrowedSource(interface: interface, family: family))
            }
        }
        return found.sorted { ($0.interface, $0.family.bits) < ($1.interface, $1.family.bits) }
    }

    /// Those of this host.
    ///
    /// - Parameters:
    ///   - records: the registry's sessions.
    ///   - prefix: of their IPv6 loopbacks; `nil` if they have none.
    public static func all(
        of records: [SessionRecord], _ prefix: LoopbackPrefix?, _ netlink: Netlink
    ) throws(Failure) -> [BorrowedSource] {
        var virtual = Set(records.flatMap(\.addresses).filter(\.placed).map(\.address))
        if let prefix { virtual.formUnion(records.map { prefix.loopback(of: $0.id) }) }
        guard !records.isEmpty else { return [] }
        let placed = try netlink.hostAddresses()
        // Only where there is nothing better are the routes looked at.
        let candidates = all(virtual: virtual, placed: placed) { _ in Set(placed.map(\.interface)) }
        guard !candidates.isEmpty else { return [] }
        let names = try netlink.interfaces().mapValues(\.name)
        var ways: [IPAddress.Family: Set<String>] = [:]
        for family in Set(candidates.map(\.family)) {
            let leaving = try netlink.routes(family).filter {
                $0.isMain && $0.isUnicast && !$0.hasSource && !$0.network.isIPv6LinkLocal && !$0.network.isMulticast
            }
            ways[family] = Set(leaving.compactMap { $0.interface.flatMap { names[$0] } })
        }
        return candidates.filter { ways[$0.family]?.contains($0.interface) == true }
    }
}
