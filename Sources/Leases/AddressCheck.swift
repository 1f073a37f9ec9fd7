// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
public import Network
import SystemPackage

/// Decides which addresses may become a session's. Answers from the network are not trusted: any host on the link can
/// send one.
public struct AddressCheck: Sendable {
    /// The networks in which leased addresses must be.
    public enum Networks: Sendable {
        /// In a prefix of one of the interface's own addresses.
        case ofInterface
        /// In one of these ranges.
        case within([AddressRange])
    }

    public var networks: Networks
    /// Called for each address that a holder does not have yet. Returns an owner that the source does not know, such as
    /// a session with an address from a pool; `nil` if there is none.
    public var owner: @Sendable (IPAddress, LeaseHolder) -> String?

    public init(
        networks: Networks = .ofInterface,
        owner: @escaping @Sendable (IPAddress, LeaseHolder) -> String? = { _, _ in nil }
    ) {
        self.networks = networks
        self.owner = owner
    }

    /// Why an address cannot be a session's; `nil` if it can.
    ///
    /// - Parameters:
    ///   - holder: the holder that would get it.
    ///   - interface: the interface that the lease is for.
    ///   - held: the address that the holder has.
    ///   - before: the address that the holder had before, which may still be on the interface.
    ///   - placed: all IPv4 addresses of the host.
    func refusal(
        of address: IPAddress, for holder: LeaseHolder, interface: String, held: IPAddress?, before: IPAddress?,
        placed: [InterfaceAddress] = InterfaceAddress.all()
    ) -> String? {
        guard let number = address.v4 else { return "it is not an IPv4 address" }
        if let why = AddressRange(address).whyNotAssignable { return why.replacing("it holds", with: "it is one of") }
        if number >> 24 == 0 { return "it is one of 0.0.0.0/8" }
        if number >> 28 == 0xf { return "it is reserved (240.0.0.0/4)" }
        // Prefixes of 32 bits are those of sessions' addresses.
        let links = placed.filter { $0.interface == interface && $0.length < 32 }
        for link in links + placed.filter({ $0.interface != interface && $0.length < 32 }) {
            if link.number == number { return "it is this host's own, on \(link.interface)" }
            // A prefix of 31 bits has no network and no broadcast address (RFC 3021).
            guard link.length < 31, link.contains(number) else { continue }
            if number == link.number & link.mask { return "it is the network's own address" }
            if number == link.number | ~link.mask { return "it is the network's broadcast address" }
        }
        if routers().contains(number) { return "this host's routes use it as a router" }
        if address != before, let other = placed.first(where: { $0.number == number }) {
            return "\(other.interface) has it already"
        }
        switch networks {
        case .ofInterface:
            guard !links.isEmpty else { return "\(interface) has no IPv4 prefix that it could be checked by" }
            guard links.contains(where: { $0.contains(number) }) else {
                return "it is in no network of \(interface)"
            }
        case .within(let ranges):
            guard ranges.contains(where: { $0.contains(address) }) else {
                return "it is outside the allowed networks"
            }
        }
        return address == held ? nil : owner(address, holder).map { "\($0) has it" }
    }
}

/// The next hops of this network namespace's IPv4 routes, in host byte order: /proc/net/route, proc(5).
func routers() -> Set<UInt32> {
    guard let text = try? readWholeFile("/proc/thread-self/net/route") else { return [] }
    let lines = String(decoding: text, as: UTF8.self).split(separator: "\n").dropFirst()
    // `eth0 00000000 0200000A 0003 …`: the third field is the address as it is in memory.
    let hops = lines.compactMap { line -> UInt32? in
        let fields = line.split(whereSeparator: \.isWhitespace)
        return fields.count > 2 ? UInt32(fields[2], radix: 16).map { UInt32(bigEndian: $0) } : nil
    }
    return Set(hops.filter { $0 != 0 })
}

/// An IPv4 address of an interface.
struct InterfaceAddress: Hashable {
    let interface: String
    /// The address in host byte order.
    let number: UInt32
    /// The length of the prefix in bits.
    let length: Int

    var mask: UInt32 { length == 0 ? 0 : ~0 << UInt32(32 - length) }

    func contains(_ other: UInt32) -> Bool { (number ^ other) & mask == 0 }

    /// All IPv4 addresses of the calling thread's network namespace: getifaddrs(3).
    static func all() -> [InterfaceAddress] {
        var list: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&list) == 0 else { return [] }
        defer { freeifaddrs(list) }
        var all: [InterfaceAddress] = []
        var next = list
        while let entry = next?.pointee {
            next = entry.ifa_next
            guard let address = number(entry.ifa_addr), let mask = number(entry.ifa_netmask) else { continue }
            all.append(
                InterfaceAddress(
                    interface: String(cString: entry.ifa_name), number: address, length: mask.nonzeroBitCount))
        }
        return all
    }

    private static func number(_ address: UnsafeMutablePointer<sockaddr>?) -> UInt32? {
        guard let address, address.pointee.sa_family == sa_family_t(AF_INET) else { return nil }
        return UnsafeRawPointer(address).withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
            UInt32(bigEndian: $0.pointee.sin_addr.s_addr)
        }
    }
}
