// SPDX-License-Identifier: Apache-2.0

import Network
import Policy
import Testing

@testable import Sessions

@Suite struct LoopbackTests {
    @Test(arguments: [
        ("::/0", false), ("fc00::/7", false), ("fd00::/8", false), ("fd00:1::/47", false),
        ("fd00:1::/48", true), ("fd00:1::/64", true), ("fd00:1::/95", true), ("fd00:1::/96", true),
        ("fd00:1::9/128", true), ("fd00:1::ffff:0/112", true), ("fd00:1::1:0:0/96", false), ("fd00:1:0:1::/64", false),
        ("fd00:2::/48", false), ("2001:db8::/64", false),
    ])
    func routesInTheWay(route: String, isInTheWay: Bool) throws {
        let parts = route.split(separator: "/")
        let found = HostRoute(
            network: try #require(IPAddress(parts[0])), length: try #require(Int(parts[1])), isLocal: false)
        // For any length of the policy's prefix.
        for prefix in ["fd00:1::/96", "fd00:1::/48"] {
            #expect(try found.isInTheWay(of: LoopbackPrefix(prefix)) == isInTheWay, "\(prefix)")
        }
    }

    @Test func ourOwnRouteIsNoConflict() throws {
        let prefix = try LoopbackPrefix("fd00:1::/64")
        let network = try #require(IPAddress("fd00:1::"))
        let own = HostRoute(network: network, length: 96, isLocal: true)
        #expect(own.isLocal(prefix) && !own.isInTheWay(of: prefix))
        let session = HostRoute(network: prefix.loopback(of: 8), length: 128, isLocal: true)
        #expect(!session.isInTheWay(of: prefix), "the route of a session's loopback")
        let other = HostRoute(network: network, length: 96, isLocal: false)
        #expect(!other.isLocal(prefix) && other.isInTheWay(of: prefix))
    }

    @Test(arguments: [
        ("2001:db8:1::5", 64, "2001:db8:1::"), ("2001:db8:1::5", 126, "2001:db8:1::4"), ("2001:db8:1::5", 127, nil),
        ("2001:db8:1::5", 128, nil), ("10.0.0.5", 24, nil), ("2001:db8:1::5", 0, "::"),
    ])
    func subnetRouters(address: String, length: Int, expected: String?) throws {
        let placed = PlacedAddress(try #require(IPAddress(address)), interface: "eth0", prefixLength: length)
        #expect(placed.subnetRouter?.description == expected)
    }
}

@Suite struct RouteNoteTests {
    @Test func theNoteReadsBack() throws {
        for prefixes in [[], ["203.0.113.0/24"], ["203.0.113.7/32", "2001:db8:9::/64"]] {
            let note = RouteNote(
                network: "0b1e 4026531840", prefixes: try prefixes.map { try #require(AddressPrefix($0)) })
            #expect(RouteNote(note.text) == note)
        }
        #expect(RouteNote("0b1e") == nil)
    }
}
