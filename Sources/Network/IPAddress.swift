// SPDX-License-Identifier: Apache-2.0

import Glibc

/// An IPv4 or IPv6 address, without port, scope or prefix length.
///
/// Addresses are ordered by family (IPv4 first), then numerically.
public struct IPAddress: Hashable, Sendable {
    public enum Family: String, Sendable, Codable, CaseIterable {
        case v4 = "IPv4"
        case v6 = "IPv6"

        /// The number of bits of an address: 32 or 128.
        public var bits: Int { self == .v4 ? 32 : 128 }
    }

    public let family: Family
    /// The address as a number; its most significant bit is the first on the wire. IPv4 uses the low 32 bits.
    public let value: UInt128

    public init(_ family: Family, value: UInt128) {
        precondition(family == .v6 || value <= UInt128(UInt32.max), "an IPv4 address has 32 bits")
        self.family = family
        self.value = value
    }

    /// An IPv4 address from its number in host byte order: `0x7f00_0001` is 127.0.0.1.
    public init(v4 number: UInt32) {
        self.init(.v4, value: UInt128(number))
    }

    /// Takes 4 or 16 bytes in network order; `nil` for any other number of bytes.
    public init?(bytes: some Collection<UInt8>) {
        guard bytes.count == 4 || bytes.count == 16 else { return nil }
        let value = bytes.reduce(UInt128(0)) { $0 << 8 | UInt128($1) }
        self.init(bytes.count == 4 ? .v4 : .v6, value: value)
    }

    /// Reads the text forms of `inet_pton(3)`; `nil` for any other text (prefix lengths and scopes are not read).
    public init?(_ text: some StringProtocol) {
        let text = String(text)
        guard !text.utf8.contains(0) else { return nil }
        var four = in_addr()
        var six = in6_addr()
        if inet_pton(AF_INET, text, &four) == 1 {
            self.init(v4: UInt32(bigEndian: four.s_addr))
        } else if inet_pton(AF_INET6, text, &six) == 1 {
            self.init(bytes: Swift.withUnsafeBytes(of: &six) { Array($0) })
        } else {
            return nil
        }
    }

    /// The address as 4 or 16 bytes in network order.
    public var bytes: [UInt8] {
        stride(from: family.bits - 8, through: 0, by: -8).map { UInt8(truncatingIfNeeded: value >> UInt128($0)) }
    }

    /// The address as 16 bytes in network order, IPv4 in mapped form (RFC 4291, 2.5.5.2): the key of the `addresses`
    /// map.
    public var mappedBytes: [UInt8] {
        family == .v6 ? bytes : [UInt8](repeating: 0, count: 10) + [0xff, 0xff] + bytes
    }

    /// The IPv4 number in host byte order, or `nil` for IPv6.
    public var v4: UInt32? { family == .v4 ? UInt32(value) : nil }

    /// Whether it is in 127.0.0.0/8, or ::1.
    public var isLoopback: Bool {
        family == .v4 ? value >> 24 == 127 : value == 1
    }

    /// Whether it is the wildcard: 0.0.0.0 or `::`.
    public var isUnspecified: Bool { value == 0 }

    /// Whether it is in fe80::/10. Such an address is only unique on its interface.
    public var isIPv6LinkLocal: Bool { family == .v6 && value >> 118 == 0xfe80 >> 6 }

    /// Whether it is in ::ffff:0:0/96: an IPv4 address in mapped form.
    public var isMapped: Bool { family == .v6 && value >> 32 == 0xffff }

    /// Whether it is in 224.0.0.0/4 or ff00::/8.
    public var isMulticast: Bool {
        family == .v4 ? value >> 28 == 0xe : value >> 120 == 0xff
    }
}

extension IPAddress: Comparable {
    public static func < (a: IPAddress, b: IPAddress) -> Bool {
        a.family == b.family ? a.value < b.value : a.family == .v4
    }
}

extension IPAddress: CustomStringConvertible {
    /// The text of `inet_ntop(3)`: dotted quad, or RFC 5952.
    public var description: String {
        var bytes = bytes
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        let af = family == .v4 ? AF_INET : AF_INET6
        guard inet_ntop(af, &bytes, &text, socklen_t(text.count)) != nil else {
            preconditionFailure("inet_ntop refuses \(bytes.count) bytes")
        }
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}

extension IPAddress: Codable {
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        guard let address = IPAddress(text) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "'\(text)' is not an IP address")
        }
        self = address
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}
