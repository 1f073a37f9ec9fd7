// SPDX-License-Identifier: Apache-2.0

public import Host

/// Where an address is, and by what it is the host's.
public struct AddressPlace: Sendable, Hashable {
    /// What makes it the host's.
    public enum Form: Sendable, Hashable {
        /// An address of the interface.
        case address
        /// A route of type `local` to the interface, in the local table. IPv4 only: the kernel receives for such an
        /// address, answers ARP for it, and lets sockets bind it, but no listing of interfaces has it, and it is never
        /// chosen as a source. For IPv6, neighbour discovery answers only for addresses of the interface.
        case route
    }

    /// The interface's name.
    public var interface: String
    public var form: Form

    public init(_ interface: String, _ form: Form = .address) {
        self.interface = interface
        self.form = form
    }
}

/// An address that the host has now: of an interface, or by a route of its own.
public struct PlacedAddress: Sendable, Hashable {
    public let address: IPAddress
    /// The interface's name.
    public let interface: String
    public let form: AddressPlace.Form
    /// The length of the prefix in bits, at most the family's.
    public let prefixLength: Int
    /// Flags IFA_F_… of linux/if_addr.h: tentative, deprecated, noprefixroute.
    public let flags: UInt32

    public init(
        _ address: IPAddress, interface: String, form: AddressPlace.Form = .address, prefixLength: Int,
        flags: UInt32 = 0
    ) {
        self.address = address
        self.interface = interface
        self.form = form
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
    /// Whether it is of type `local`, in the local table.
    public let isLocal: Bool
    /// Whether it is in the main table.
    public let isMain: Bool
    /// Whether it is a unicast route, and not `blackhole`, `unreachable` or the like.
    public let isUnicast: Bool
    /// The index of the interface that its first next hop is on.
    public let interface: CInt?
    /// Whether it says from which address to send.
    public let hasSource: Bool

    public init(
        network: IPAddress, length: Int, isLocal: Bool, isMain: Bool = false, isUnicast: Bool = false,
        interface: CInt? = nil, hasSource: Bool = false
    ) {
        self.network = network
        self.length = length
        self.isLocal = isLocal
        self.isMain = isMain
        self.isUnicast = isUnicast
        self.interface = interface
        self.hasSource = hasSource
    }

    public var prefix: AddressPrefix { AddressPrefix(of: network, length: length) }

    public var description: String { "\(network)/\(length)" }
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

extension Netlink {
    /// Places one address: ``add(_:at:)``.
    public func add(_ address: IPAddress, at place: AddressPlace) throws(Failure) -> Addition {
        try Self.only(add([address], at: place), "place \(address) on \(place.interface)")
    }

    /// Removes one address: ``remove(_:at:)``.
    public func remove(_ address: IPAddress, at place: AddressPlace) throws(Failure) -> Removal {
        try Self.only(remove([address], at: place), "remove \(address) from \(place.interface)")
    }

    private static func only<T>(_ results: [Result<T, Failure>], _ what: String) throws(Failure) -> T {
        guard results.count == 1 else {
            throw Failure(.failed, what, "the kernel returned \(results.count) answers, not one")
        }
        return try results[0].get()
    }
}
