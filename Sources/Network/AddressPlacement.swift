// SPDX-License-Identifier: Apache-2.0

public import Host

/// An address that is on an interface now.
public struct PlacedAddress: Sendable, Hashable {
    public let address: IPAddress
    /// The interface's name.
    public let interface: String
    /// In bits, at most the family's.
    public let prefixLength: Int
    /// IFA_F_… of linux/if_addr.h: tentative, deprecated, noprefixroute.
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
    /// Whether it is administratively up (IFF_UP); not whether a cable is in it.
    public let isUp: Bool
    /// Whether other hosts can be asked there who has an address (ARP, RFC 826, or neighbour discovery, RFC 4861): a link
    /// that is on, and neither the loopback nor one between two ends only.
    public let hasNeighbours: Bool
    /// Of an Ethernet interface, or one like it (a bridge, a bond, Wi-Fi); `nil` for others.
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
    /// Of the prefix, in bits.
    public let length: Int
    /// `local … dev lo`, in the local table.
    public let isLocalOnLoopback: Bool
    /// Whether it is of the main table.
    public let isMain: Bool
    /// Whether it leads anywhere: not `blackhole`, `unreachable` and the like.
    public let isUnicast: Bool

    public init(
        network: IPAddress, length: Int, isLocalOnLoopback: Bool, isMain: Bool = false, isUnicast: Bool = false
    ) {
        self.network = network
        self.length = length
        self.isLocalOnLoopback = isLocalOnLoopback
        self.isMain = isMain
        self.isUnicast = isUnicast
    }

    public var prefix: AddressPrefix { AddressPrefix(of: network, length: length) }

    public var description: String { "\(network)/\(length)" }
}

/// Where sessions' addresses are put on interfaces and taken off: ``Netlink``, or a test's stand-in.
public protocol AddressPlacement {
    /// Every address of every interface, of both families.
    func hostAddresses() throws(Failure) -> [PlacedAddress]

    /// The interface of a family's default route with the lowest metric in the main table; `nil` without one.
    func defaultRouteInterface(_ family: IPAddress.Family) throws(Failure) -> String?

    /// Puts addresses on an interface, as /32 or /128 and without a route of their prefix.
    ///
    /// - Returns: for each address, in order, what became of it. One that fails does not stop the others.
    /// - Throws: ``Failure`` where there is no such interface, or no answer: what was placed then is not known.
    func add(_ addresses: [IPAddress], to interface: String) throws(Failure) -> [Result<Addition, Failure>]

    /// Takes addresses off an interface, those of ``add(_:to:)`` alone: a host's own, with its prefix, stays.
    ///
    /// Linux 6.18 removes 10,000 IPv4 addresses in under a second, as many IPv6 addresses in 20: its time for one of
    /// these grows with their number.
    ///
    /// - Returns: for each address, in order, what became of it. If the interface no longer exists, each is ``Removal/alreadyGone``.
    /// - Throws: ``Failure`` without an answer.
    func remove(_ addresses: [IPAddress], from interface: String) throws(Failure) -> [Result<Removal, Failure>]
}

/// What became of an address to be placed.
public enum Addition: Sendable, Hashable {
    case added
    /// The interface had it already; vip-bpf does not remove it.
    case alreadyThere
}

/// What became of an address to be taken off.
public enum Removal: Sendable, Hashable {
    case removed
    case alreadyGone
}

extension AddressPlacement {
    /// One address, as ``add(_:to:)-([IPAddress],_)``.
    public func add(_ address: IPAddress, to interface: String) throws(Failure) -> Addition {
        try Self.only(add([address], to: interface), "place \(address) on \(interface)")
    }

    /// One address, as ``remove(_:from:)-([IPAddress],_)``.
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
