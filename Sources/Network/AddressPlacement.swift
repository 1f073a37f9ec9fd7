// SPDX-License-Identifier: Apache-2.0

public import Host

/// An address that is on an interface now.
public struct PlacedAddress: Sendable, Hashable {
    public let address: IPAddress
    /// The interface's name.
    public let interface: String
    /// The length of the prefix in bits, at most the family's.
    public let prefixLength: Int
    /// Flags IFA_F_… of linux/if_addr.h: tentative, deprecated, noprefixroute.
    public let flags: UInt32

    public init(_ address: IPAddress, interface: String, prefixLength: Int, flags: UInt32 = 0) {
        self.address = address
        self.interface = interface
        self.prefixLength = prefixLength
        self.flags = flags
    }
}

/// A network interface.
public struct Interface: Sendable, Hashable {
    public let name: String
    /// Whether it is administratively up (IFF_UP). The cable may still be unplugged.
    public let isUp: Bool
    /// Whether hosts on the link can be asked who has an address (ARP, RFC 826, or neighbour discovery, RFC 4861): the
    /// interface runs, and is neither a loopback nor a point-to-point link.
    public let hasNeighbours: Bool
    /// The hardware address of an Ethernet interface or a similar one (a bridge, a bond, Wi-Fi); `nil` for others.
    public let hardwareAddress: HardwareAddress?

    public init(
        name: String, isUp: Bool, hasNeighbours: Bool = false, hardwareAddress: HardwareAddress? = nil
    ) {
        self.name = name
        self.isUp = isUp
        self.hasNeighbours = hasNeighbours
        self.hardwareAddress = hardwareAddress
    }
}

/// A route of the main or the local table.
public struct HostRoute: Sendable, Hashable, CustomStringConvertible {
    public let network: IPAddress
    /// The length of the prefix, in bits.
    public let length: Int
    /// Whether it is `local … dev lo`, in the local table.
    public let isLocalOnLoopback: Bool
    /// Whether it is in the main table.
    public let isMain: Bool
    /// Whether it is a unicast route, and not `blackhole`, `unreachable` or the like.
    public let isUnicast: Bool
    /// The index of the interface that its first next hop is on.
    public let interface: CInt?
    /// Whether it says from which address to send.
    public let hasSource: Bool

    public init(
        network: IPAddress, length: Int, isLocalOnLoopback: Bool, isMain: Bool = false, isUnicast: Bool = false,
        interface: CInt? = nil, hasSource: Bool = false
    ) {
        self.network = network
        self.length = length
        self.isLocalOnLoopback = isLocalOnLoopback
        self.isMain = isMain
        self.isUnicast = isUnicast
        self.interface = interface
        self.hasSource = hasSource
    }

    public var prefix: AddressPrefix { AddressPrefix(of: network, length: length) }

    public var description: String { "\(network)/\(length)" }
}

/// Puts sessions' addresses on interfaces and removes them: ``Netlink``, or a test's substitute.
public protocol AddressPlacement {
    /// Every address of every interface, of both families.
    func hostAddresses() throws(Failure) -> [PlacedAddress]

    /// The interface of a family's default route with the lowest metric in the main table; `nil` if there is none.
    func defaultRouteInterface(_ family: IPAddress.Family) throws(Failure) -> String?

    /// Puts addresses on an interface, as /32 or /128 and without a route of their prefix.
    ///
    /// - Returns: for each address, in order, its result. One that fails does not stop the others.
    /// - Throws: ``Failure`` if the interface does not exist, or if the kernel does not answer. In the second case it
    ///   is not known which addresses were placed.
    func add(_ addresses: [IPAddress], to interface: String) throws(Failure) -> [Result<Addition, Failure>]

    /// Removes addresses from an interface, but only those that ``add(_:to:)`` placed: the host's own address, with its
    /// prefix, stays.
    ///
    /// Linux 6.18 removes 10,000 IPv4 addresses in under a second. As many IPv6 addresses take 20 s: the time for one
    /// of these grows with their number.
    ///
    /// - Returns: for each address, in order, its result. If the interface no longer exists, each is
    ///   ``Removal/alreadyGone``.
    /// - Throws: ``Failure`` if the kernel does not answer.
    func remove(_ addresses: [IPAddress], from interface: String) throws(Failure) -> [Result<Removal, Failure>]
}

/// The result of placing an address.
public enum Addition: Sendable, Hashable {
    case added
    /// The interface already had it; vip-bpf does not remove it.
    case alreadyThere
}

/// The result of removing an address.
public enum Removal: Sendable, Hashable {
    case removed
    case alreadyGone
}

extension AddressPlacement {
    /// Places one address: ``add(_:to:)-([IPAddress],_)``.
    public func add(_ address: IPAddress, to interface: String) throws(Failure) -> Addition {
        try Self.only(add([address], to: interface), "place \(address) on \(interface)")
    }

    /// Removes one address: ``remove(_:from:)-([IPAddress],_)``.
    public func remove(_ address: IPAddress, from interface: String) throws(Failure) -> Removal {
        try Self.only(remove([address], from: interface), "remove \(address) from \(interface)")
    }

    private static func only<T>(_ results: [Result<T, Failure>], _ what: String) throws(Failure) -> T {
        guard results.count == 1 else {
            throw Failure(.failed, what, "the kernel returned \(results.count) answers, not one")
        }
        return try results[0].get()
    }
}
