// SPDX-License-Identifier: Apache-2.0

public import Host

/// Consecutive addresses of one family, both ends included: an entry of `virtualIP.addresses.pool`.
///
/// Written as `10.20.0.10-10.20.0.250`, `2001:db8:20::/120` or `10.20.0.7`. A prefix stands for its addresses that a
/// host can have. For IPv4 up to /30 these are all but the network's and the broadcast address. For IPv6 up to /126
/// these are all but the subnet-router anycast address (RFC 4291, 2.6.1). A longer prefix stands for all of its
/// addresses (RFC 3021, RFC 6164).
///
/// The addresses are computed, not stored. Two ranges are equal if they hold the same addresses and are written in the
/// same way; compare `first` and `last` if the way does not matter.
public struct AddressRange: Hashable, Sendable {
    private enum Notation: Hashable {
        case ends
        case one
        /// The address whose host part is zero, which is not in the range itself, and the prefix length in bits.
        case prefix(IPAddress, Int)
    }

    public let first: IPAddress
    public let last: IPAddress
    private let notation: Notation

    /// A range of one address.
    public init(_ address: IPAddress) {
        first = address
        last = address
        notation = .one
    }

    /// The addresses from one to another, both included.
    ///
    /// - Throws: `Failure` with exit code 64 if the ends are of different families or in the wrong order, or if the
    ///   range is all of IPv6, whose number of addresses does not fit 128 bits.
    public init(from first: IPAddress, through last: IPAddress) throws(Failure) {
        let text = "\(first)-\(last)"
        guard first.family == last.family else {
            throw Self.unreadable(
                text, "\(first) is \(first.family.rawValue) and \(last) is \(last.family.rawValue)",
                hint: "write one range a family")
        }
        guard first <= last else {
            throw Self.unreadable(text, "\(first) comes after \(last)", hint: "write \(last)-\(first)")
        }
        guard first.family == .v4 || first.value > 0 || last.value < .max else {
            throw Self.unreadable(text, "it holds all of IPv6")
        }
        self.first = first
        self.last = last
        notation = .ends
    }

    /// The addresses of a prefix that a host can have.
    ///
    /// - Parameters:
    ///   - network: the prefix, with all bits after it zero.
    ///   - prefixLength: in bits: 0…32 or 0…128.
    /// - Throws: `Failure` with exit code 64 if the length is out of bounds or host bits are set.
    public init(network: IPAddress, prefixLength: Int) throws(Failure) {
        let text = "\(network)/\(prefixLength)"
        let bits = network.family.bits
        guard 0...bits ~= prefixLength else {
            throw Self.unreadable(
                text, "an \(network.family.rawValue) prefix has a length of 0 to \(bits) bits, not \(prefixLength)")
        }
        // A shift by all 128 bits gives 0, so the host part of ::/0 is all ones as it should be.
        let hostPart = (UInt128(1) << UInt128(bits - prefixLength)) &- 1
        guard network.value & hostPart == 0 else {
            let meant = IPAddress(network.family, value: network.value & ~hostPart)
            throw Self.unreadable(
                text, "\(network) has bits set after the first \(prefixLength)",
                hint: "write \(meant)/\(prefixLength), or \(network) for one address")
        }
        let keepsEnds = prefixLength > bits - 2
        let top = network.value | hostPart
        first = IPAddress(network.family, value: keepsEnds ? network.value : network.value + 1)
        last = IPAddress(network.family, value: keepsEnds || network.family == .v6 ? top : top - 1)
        notation = .prefix(network, prefixLength)
    }

    /// Reads `FIRST-LAST`, `PREFIX/LENGTH` or one address, without spaces.
    ///
    /// - Throws: `Failure` with exit code 64. Its `reason` says what is wrong with the text.
    public init(_ text: String) throws(Failure) {
        func address(_ part: Substring) throws(Failure) -> IPAddress {
            guard let address = IPAddress(part) else {
                throw Self.unreadable(text, "\(part.quotedForMessage) is not an IP address")
            }
            return address
        }
        if let dash = text.firstIndex(of: "-") {
            try self.init(
                from: address(text[..<dash]), through: address(text[text.index(after: dash)...]))
        } else if let slash = text.firstIndex(of: "/") {
            let network = try address(text[..<slash])
            let digits = text[text.index(after: slash)...]
            // At most three digits and no leading zero, so that a length can be written in one way and cannot overflow.
            guard 1...3 ~= digits.utf8.count, digits.utf8.allSatisfy({ 0x30...0x39 ~= $0 }),
                digits == "0" || !digits.hasPrefix("0"), let length = Int(digits)
            else {
                throw Self.unreadable(text, "\(digits.quotedForMessage) is not a prefix length in bits")
            }
            try self.init(network: network, prefixLength: length)
        } else {
            self.init(try address(text[...]))
        }
    }

    private static func unreadable(_ text: String, _ why: String, hint remedy: String? = nil) -> Failure {
        Failure(.usage, "read address range \(text.quotedForMessage)", why, hint: remedy)
    }

    public var family: IPAddress.Family { first.family }

    /// The prefix, if the range was written as a prefix or as one address; `nil` if it was written with two ends.
    public var prefix: AddressPrefix? {
        switch notation {
        case .ends: nil
        case .one: AddressPrefix(of: first, length: family.bits)
        case .prefix(let network, let length): AddressPrefix(of: network, length: length)
        }
    }

    /// The fewest prefixes that hold its addresses and no other. For what was written as a prefix, that prefix: the
    /// addresses in it that no host can have are its own as well.
    public var prefixes: [AddressPrefix] {
        if let prefix { return [prefix] }
        var result: [AddressPrefix] = []
        var next = first.value
        while true {
            // The longest run that begins here: it is aligned, and does not go past the end.
            var bits = min(next.trailingZeroBitCount, family.bits)
            while bits > 0, (UInt128(1) << UInt128(bits)) - 1 > last.value - next { bits -= 1 }
            result.append(AddressPrefix(of: IPAddress(family, value: next), length: family.bits - bits))
            let end = next + ((UInt128(1) << UInt128(bits)) - 1)
            if end >= last.value { return result }
            next = end + 1
        }
    }

    /// The number of addresses, at least 1.
    public var count: UInt128 { last.value - first.value + 1 }

    /// The address `offset` places after the first.
    ///
    /// - Parameter offset: less than `count`.
    public subscript(offset: UInt128) -> IPAddress {
        precondition(offset < count, "offset \(offset) of a range of \(count) addresses")
        return IPAddress(family, value: first.value + offset)
    }

    public func contains(_ address: IPAddress) -> Bool {
        first <= address && address <= last
    }

    public func overlaps(_ other: AddressRange) -> Bool {
        first <= other.last && other.first <= last
    }

    /// Why an address of the range cannot be a session's: it is the wildcard, a loopback, IPv6 link-local or multicast
    /// address, the limited broadcast address (RFC 919), or an IPv4 address in mapped form, which the `addresses` map
    /// could not tell from the IPv4 one. `nil` if each address can be a session's.
    public var whyNotAssignable: String? {
        func has(_ family: IPAddress.Family, _ low: UInt128, _ high: UInt128) -> Bool {
            self.family == family && first.value <= high && low <= last.value
        }
        if has(.v4, 0, 0) || has(.v6, 0, 0) {
            return "it holds the wildcard address \(IPAddress(family, value: 0))"
        }
        if has(.v4, 0x7f00_0000, 0x7fff_ffff) { return "it holds loopback addresses (127.0.0.0/8)" }
        if has(.v6, 1, 1) { return "it holds the loopback address ::1" }
        if has(.v4, 0xe000_0000, 0xefff_ffff) { return "it holds multicast addresses (224.0.0.0/4)" }
        if has(.v6, 0xfe80 << 112, 0xfebf << 112 | (1 << 112) - 1) {
            return "it holds link-local addresses (fe80::/10)"
        }
        if has(.v6, 0xff << 120, .max) { return "it holds multicast addresses (ff00::/8)" }
        if has(.v4, 0xffff_ffff, 0xffff_ffff) { return "it holds the broadcast address 255.255.255.255" }
        if has(.v6, 0xffff << 32, 0xffff_ffff_ffff) { return "it holds IPv4 addresses in IPv6 form (::ffff:0:0/96)" }
        return nil
    }
}

extension AddressRange: CustomStringConvertible {
    /// The text it was read from, with each address in the form of `inet_ntop(3)`.
    public var description: String {
        switch notation {
        case .one: "\(first)"
        case .ends: "\(first)-\(last)"
        case .prefix(let network, let length): "\(network)/\(length)"
        }
    }
}

extension AddressRange: CodableAsText {}
