// SPDX-License-Identifier: Apache-2.0

public import Host
public import Network

/// The prefix of the sessions' IPv6 loopbacks, `virtualLoopback.prefix` of the policy: a unique local one (RFC 4193).
///
/// Its first 96 bits are followed by the session ID + 1: in fdd2:9088:43af::/96 session 7 has fdd2:9088:43af::8.
public struct LoopbackPrefix: Hashable, Sendable {
    /// The network's address. All bits after the length are zero.
    public let network: IPAddress
    /// The length in bits, one of ``lengths``.
    public let length: Int

    /// The length of the prefix that is made local. The remaining 32 bits are for the session ID.
    public static let localLength = 96

    /// The lengths that the policy may give: from a site's prefix to the longest one that leaves room for the IDs.
    public static let lengths = 48...96

    /// The prefix of every host whose policy names none.
    public static let `default` = LoopbackPrefix(
        unchecked: IPAddress(.v6, value: 0xfdd2_9088_43af << 80), 96)

    private init(unchecked network: IPAddress, _ length: Int) {
        self.network = network
        self.length = length
    }

    /// A /96 from its 12 bytes in network order; `nil` if all are zero.
    package init?(first96Bits bytes: [UInt8]) {
        guard let network = IPAddress(bytes: bytes + [0, 0, 0, 0]), !network.isUnspecified else { return nil }
        self.init(unchecked: network, Self.localLength)
    }

    /// The first /96 of the prefix, which is made local and is in the maps.
    public var local: LoopbackPrefix { LoopbackPrefix(unchecked: network, Self.localLength) }

    /// Reads `PREFIX/LENGTH`.
    ///
    /// - Throws: `Failure` with exit code 64. Its `reason` says what is wrong with the text.
    public init(_ text: String) throws(Failure) {
        func refused(_ why: String, hint remedy: String? = nil) -> Failure {
            Failure(.usage, "read prefix \(text.quotedForMessage)", why, hint: remedy)
        }
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2 else {
            throw refused("it has no length", hint: "write it like \(Self.default)")
        }
        guard let network = IPAddress(parts[0]), network.family == .v6 else {
            throw refused(
                "\(parts[0].quotedForMessage) is not an IPv6 address", hint: "write it like \(Self.default)")
        }
        guard network.value >> 121 == 0xfc >> 1 else {
            throw refused(
                "\(network) is not in fc00::/7, the unique local addresses", hint: "write it like \(Self.default)")
        }
        let digits = parts[1]
        guard digits.utf8.count == 2, digits.utf8.allSatisfy({ 0x30...0x39 ~= $0 }), let length = Int(digits),
            Self.lengths ~= length
        else {
            throw refused(
                "\(digits.quotedForMessage) is not a length of \(Self.lengths.lowerBound) to \(Self.lengths.upperBound) bits"
            )
        }
        let rest = (UInt128(1) << UInt128(128 - length)) - 1
        guard network.value & rest == 0 else {
            let meant = IPAddress(.v6, value: network.value & ~rest)
            throw refused("\(network) has bits set after the first \(length)", hint: "write \(meant)/\(length)")
        }
        self.init(unchecked: network, length)
    }

    /// Whether an address is in ``local``.
    public func contains(_ address: IPAddress) -> Bool {
        address.family == .v6 && address.value >> 32 == network.value >> 32
    }

    /// The IPv6 loopback of a session: the prefix followed by the ID + 1.
    public func loopback(of id: UInt32) -> IPAddress {
        IPAddress(.v6, value: network.value + UInt128(id) + 1)
    }
}

extension LoopbackPrefix: CustomStringConvertible {
    public var description: String { "\(network)/\(length)" }
}

extension LoopbackPrefix: CodableAsText {}
