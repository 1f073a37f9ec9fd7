// SPDX-License-Identifier: Apache-2.0

import CVipABI
import Network
import Policy
import Testing

@testable import PolicyMaps

/// The row of the map `config`.
@Suite struct ConfigTests {
    @Test func theConfigHoldsTheFirst96Bits() throws {
        var config = vip_config()
        #expect(config.loopbackPrefix == nil)
        config.loopbackPrefix = try LoopbackPrefix("fdd2:9088:43af::/48")
        #expect(config.loopbackPrefix?.description == "fdd2:9088:43af::/96")
        #expect(config.loopback6.0 == UInt32(0xfdd2_9088).bigEndian)
        #expect(config.loopback6.1 == UInt32(0x43af_0000).bigEndian)
        #expect(config.loopback6.2 == 0)
        config.loopbackPrefix = nil
        #expect(config == vip_config())
    }

    @Test func theConfigHoldsTheHostsAddresses() throws {
        var config = vip_config()
        let many = (1...UInt128(VIP_HOST_ADDRESSES_MAX) + 1).map { IPAddress(.v6, value: 0x2001_0db8 << 96 + $0) }
        config.setHostAddresses([], [many[1], many[0], many[1]])
        #expect(config.hostIPv6Addresses == [many[0], many[1]])
        config.setHostAddresses([], Array(many.dropLast()))
        #expect(config.hostIPv6Addresses == many.dropLast())
        config.setHostAddresses([1], many)
        #expect(config.hostIPv6Addresses == nil && config.host6_count > UInt32(VIP_HOST_ADDRESSES_MAX))
        #expect(config.hostAddresses?.count == 1, "the families have nothing to do with one another")
        config.setHostAddresses([], [])
        #expect(config == vip_config())
    }
}
