// SPDX-License-Identifier: Apache-2.0

extension PlacedAddress {
    /// The first and the last address of its IPv4 network, for which the kernel has broadcast routes. Networks of one
    /// or two addresses have none (RFC 3021).
    package var networkAndBroadcast: [IPAddress] {
        guard let number = address.v4, !address.isLoopback, prefixLength <= 30 else { return [] }
        let host = prefixLength == 0 ? UInt32.max : (UInt32(1) << UInt32(32 - prefixLength)) - 1
        return [IPAddress(v4: number & ~host), IPAddress(v4: number | host)]
    }

    /// The subnet-router anycast address: the first one of its IPv6 network (RFC 4291, 2.6.1). Networks of one or two
    /// addresses have none (RFC 6164).
    package var subnetRouter: IPAddress? {
        guard address.family == .v6, prefixLength <= 126 else { return nil }
        let hostBits = UInt128(128 - prefixLength)
        return IPAddress(.v6, value: (address.value >> hostBits) << hostBits)
    }

    package func isNetworkOrBroadcast(_ other: IPAddress) -> Bool { networkAndBroadcast.contains(other) }

    /// Whether `other` is in the network of this address and its prefix length.
    package func network(contains other: IPAddress) -> Bool {
        guard other.family == address.family else { return false }
        let hostBits = UInt128(address.family.bits - prefixLength)
        return address.value >> hostBits == other.value >> hostBits
    }
}
