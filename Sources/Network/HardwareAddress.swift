// SPDX-License-Identifier: Apache-2.0

/// An Ethernet hardware address.
public struct HardwareAddress: Hashable, Sendable, CustomStringConvertible {
    /// The 48 bits of the address. The first byte on the wire is the most significant one.
    public let value: UInt64

    /// - Parameter value: 48 bits; higher bits are dropped.
    public init(value: UInt64) {
        self.value = value & 0xffff_ffff_ffff
    }

    /// Takes 6 bytes in the order of the wire; `nil` for any other number of bytes.
    public init?(bytes: some Collection<UInt8>) {
        guard bytes.count == 6 else { return nil }
        self.init(value: bytes.reduce(0) { $0 << 8 | UInt64($1) })
    }

    /// The text form of `ip link`: `02:00:00:00:00:01`.
    public var description: String {
        stride(from: 40, through: 0, by: -8).map { shift in
            let text = String(value >> UInt64(shift) & 0xff, radix: 16)
            return text.count == 1 ? "0\(text)" : text
        }.joined(separator: ":")
    }
}
