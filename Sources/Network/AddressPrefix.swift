// SPDX-License-Identifier: Apache-2.0

/// A network's prefix: `10.20.0.0/24`.
public struct AddressPrefix: Hashable, Sendable {
    /// The network's address. All bits after the length are zero.
    public let network: IPAddress
    /// The length in bits, at most the family's.
    public let length: Int

    /// The prefix of a given length that contains an address.
    public init(of address: IPAddress, length: Int) {
        precondition(0...address.family.bits ~= length, "no \(address.family.rawValue) prefix has \(length) bits")
        // A shift by the full width gives 0.
        let rest = UInt128(address.family.bits - length)
        network = IPAddress(address.family, value: (address.value >> rest) << rest)
        self.length = length
    }

    /// Reads `NETWORK/LENGTH`; `nil` for any other text.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, let network = IPAddress(parts[0]), let length = Int(parts[1]),
            0...network.family.bits ~= length
        else { return nil }
        self.init(of: network, length: length)
        guard self.network == network else { return nil }
    }

    /// 127.0.0.0/8, RFC 1122 3.2.1.3.
    public static let loopback4 = AddressPrefix(of: IPAddress(v4: 0x7f00_0000), length: 8)

    public var family: IPAddress.Family { network.family }

    public func contains(_ address: IPAddress) -> Bool {
        address.family == family && AddressPrefix(of: address, length: length) == self
    }

    /// Whether every address of the other one is in this one.
    public func contains(_ other: AddressPrefix) -> Bool {
        other.length >= length && contains(other.network)
    }

    public func overlaps(_ other: AddressPrefix) -> Bool {
        contains(other) || other.contains(self)
    }
}

extension AddressPrefix: CustomStringConvertible {
    public var description: String { "\(network)/\(length)" }
}
