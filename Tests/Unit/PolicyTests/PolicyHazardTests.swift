// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Network
import Testing

@testable import Policy

/// A host with eth0 in 10.20.0.0/24 and 2001:db8:20::/64, and eth1 without an address.
@Suite struct PolicyHazardTests {
    static func placed(_ address: String, _ length: Int, on interface: String) -> PlacedAddress {
        PlacedAddress(IPAddress(address)!, interface: interface, prefixLength: length)
    }

    static let host = HostNetwork(
        interfaces: [1: "lo", 2: "eth0", 3: "eth1"],
        own: [
            placed("127.0.0.1", 8, on: "lo"), placed("::1", 128, on: "lo"), placed("10.20.0.5", 24, on: "eth0"),
            placed("2001:db8:20::5", 64, on: "eth0"), placed("fe80::5", 64, on: "eth0"),
        ], defaultInterfaces: [.v4: "eth0"])

    static func route(_ prefix: String, on interface: CInt? = nil, local: Bool = false) -> HostRoute {
        let prefix = AddressPrefix(prefix)!
        return HostRoute(
            network: prefix.network, length: prefix.length, isLocal: local, isMain: !local,
            isUnicast: interface != nil, interface: interface)
    }

    /// The hazards of a policy as `KIND KEY`, and what they say.
    private func hazards(
        _ yaml: String, host: HostNetwork? = host, routes: [HostRoute] = []
    ) throws -> [PolicyHazard] {
        try Policy.read(yaml: yaml, file: "policy.yaml").hazards(on: host) { family in
            routes.filter { $0.network.family == family }
        }
    }

    private func kinds(_ yaml: String, host: HostNetwork? = host, routes: [HostRoute] = []) throws -> [String] {
        try hazards(yaml, host: host, routes: routes).map { "\($0.kind) \($0.key)" }
    }

    /// A policy with this in `virtualIP`, and in `virtualIP.addresses`.
    private static func policy(_ addresses: String, _ more: String = "mode: perSession") -> String {
        "virtualIP: {enabled: true, \(more), addresses: {\(addresses)}}\n"
    }

    @Test(arguments: [
        "", "virtualIP: {mode: perSession}", "virtualIP: {enabled: false, mode: perProgram}",
        policy("pool: [10.20.0.10-10.20.0.250]"),
        policy("interface: eth0, pool: [10.20.0.10-10.20.0.250, \"2001:db8:20::100/120\"]"),
        policy("pool: [10.20.0.10]", "programs: [java]"), policy("source: dhcp"),
        policy("source: dhcp, interface: eth1"), policy("source: dhcp, interface: eth0", "programs: ['*']"),
        policy("interface: lo, pool: [203.0.113.0/24]"), policy("placement: prefix, pool: [203.0.113.0/24]"),
        "virtualLoopback: {enabled: true, programs: ['*']}",
        policy("pool: [10.20.0.10]")
            + "overrides: [{name: a, isolation: false}, {name: b, virtualIP: {enabled: false}}]",
        policy("pool: [10.20.0.10]") + "overrides: [{name: a, virtualIP: {enabled: true, mode: perSession}}]",
    ])
    func findsNone(yaml: String) throws {
        #expect(try kinds(yaml) == [])
    }

    @Test(arguments: [
        (policy(""), "noPool virtualIP.addresses.pool"),
        ("virtualIP: {enabled: true, mode: perSession}", "noPool virtualIP.addresses.pool"),
        (policy("", "programs: ['*']"), "noPool virtualIP.addresses.pool"),
        (policy("", "programs: [java]"), "noPool virtualIP.addresses.pool"),
        (
            policy("interface: eth0", "whenUnavailable: useHostAddress, mode: perSession"),
            "noPool virtualIP.addresses.pool"
        ),
        (policy("pool: [10.20.0.10]", "mode: perProgram"), "noPrograms virtualIP.programs"),
        (policy("", "programs: []"), "noPrograms virtualIP.programs"),
        (policy("interface: eth9, pool: [10.20.0.10]"), "missingInterface virtualIP.addresses.interface"),
        (policy("interface: eth9, source: dhcp"), "missingInterface virtualIP.addresses.interface"),
        (policy("pool: [10.20.0.10, 203.0.113.0/28]"), "unreachableRange virtualIP.addresses.pool[1]"),
        (policy("interface: eth1, pool: [10.20.0.10]"), "unreachableRange virtualIP.addresses.pool[0]"),
        (policy("pool: [\"2001:db8:21::/120\"]"), "unreachableRange virtualIP.addresses.pool[0]"),
        (policy("pool: [10.20.0.1-10.20.0.9]"), "hostAddress virtualIP.addresses.pool[0]"),
        (policy("pool: [10.20.0.0/24]"), "hostAddress virtualIP.addresses.pool[0]"),
        (policy("pool: [10.20.0.5]"), "hostAddress virtualIP.addresses.pool[0]"),
        (policy("pool: [\"2001:db8:20::1-2001:db8:20::10\"]"), "hostAddress virtualIP.addresses.pool[0]"),
        (policy("pool: [10.20.0.250-10.20.0.255]"), "networkAddress virtualIP.addresses.pool[0]"),
        (policy("pool: [10.20.0.0-10.20.0.4]"), "networkAddress virtualIP.addresses.pool[0]"),
        (policy("pool: [\"2001:db8:20::\"]"), "networkAddress virtualIP.addresses.pool[0]"),
        (policy("interface: lo, pool: [10.20.0.255]"), "networkAddress virtualIP.addresses.pool[0]"),
    ])
    func findsOne(yaml: String, hazard: String) throws {
        #expect(try kinds(yaml) == [hazard], "\(yaml)")
    }

    @Test func findsSeveralInOneRange() throws {
        #expect(
            try kinds(Self.policy("pool: [10.20.0.200-10.20.1.10]")) == [
                "unreachableRange virtualIP.addresses.pool[0]", "networkAddress virtualIP.addresses.pool[0]",
            ])
        let both = try hazards(Self.policy("pool: [10.20.0.0-10.20.0.9, 10.20.0.255]"))
        #expect(
            both.map(\.message) == [
                "10.20.0.0-10.20.0.9 holds the host's own 10.20.0.5 (eth0), which a session gets as soon as the interface "
                    + "lacks it",
                "10.20.0.0-10.20.0.9 holds 10.20.0.0, the network's address of 10.20.0.5/24 on eth0, which no session can "
                    + "use",
                "10.20.0.255 is the broadcast address of 10.20.0.5/24 on eth0, which no session can use",
            ])
        #expect(
            try hazards(Self.policy("pool: [10.20.0.5]")).map(\.message) == [
                "10.20.0.5 is the host's own, on eth0, and a session gets it as soon as the interface lacks it"
            ])
    }

    @Test func namesTheSectionOfAnOverride() throws {
        let all = "virtualIP: {enabled: true, mode: perSession}"
        #expect(
            try kinds(Self.policy("pool: [10.20.0.10]") + "overrides: [{name: a, virtualIP: {enabled: true}}]")
                == ["noPrograms overrides[0].virtualIP.programs"])
        // Both take their addresses from the base policy, which is off.
        let shared = try hazards("overrides: [{name: a, \(all)}, {name: b}, {name: c, \(all)}]")
        #expect(shared.map(\.key) == ["virtualIP.addresses.pool"])
        #expect(shared.map(\.numbers) == [[1, 3]])
        let own =
            "virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth9, pool: [10.20.0.4-10.20.0.6]}}"
        #expect(
            try kinds(Self.policy("pool: [10.20.0.10]") + "overrides: [{name: a}, {name: b, \(own)}]") == [
                "missingInterface overrides[1].virtualIP.addresses.interface",
                "hostAddress overrides[1].virtualIP.addresses.pool[0]",
            ])
    }

    /// A range that is in no network is fine if something leads to it.
    @Test func acceptsARangeThatIsRoutedHere() throws {
        let yaml = Self.policy("pool: [203.0.113.16/28]")
        for route in ["203.0.113.0/24", "203.0.113.16/28"] {
            #expect(try kinds(yaml, routes: [Self.route(route)]) == [], "blackhole \(route)")
            #expect(try kinds(yaml, routes: [Self.route(route, on: 2)]) == [], "\(route) dev eth0")
            #expect(try kinds(yaml, routes: [Self.route(route, local: true)]) == [], "local \(route)")
            #expect(try kinds(yaml, routes: [Self.route(route, on: 3)]).count == 1, "\(route) dev eth1")
        }
        for route in [Self.route("0.0.0.0/0", on: 2), Self.route("203.0.113.16/29"), Self.route("203.0.114.0/24")] {
            #expect(try kinds(yaml, routes: [route]).count == 1, "\(route)")
        }
        // The session's own address on lo is no route to it.
        let one = Self.policy("pool: [203.0.113.16]")
        #expect(try kinds(one, routes: [Self.route("203.0.113.16/32", local: true)]).count == 1)
    }

    @Test func withoutADefaultRouteAddressesAreOnLo() throws {
        var host = Self.host
        host.defaultInterfaces = [:]
        // They answer for any network of the host.
        #expect(try kinds(Self.policy("pool: [10.20.0.10]"), host: host) == [])
        let outside = try hazards(Self.policy("pool: [203.0.113.0/24]"), host: host)
        #expect(outside.map(\.kind) == [.unreachableRange])
        #expect(outside[0].message.contains("no default route"), "\(outside)")
        #expect(try kinds(Self.policy("source: dhcp"), host: host) == ["missingInterface virtualIP.addresses.source"])
    }

    @Test func withoutAHostItFindsWhatIsInTheFile() throws {
        #expect(try kinds(Self.policy("interface: eth9, pool: [10.20.0.5]"), host: nil) == [])
        #expect(try kinds(Self.policy(""), host: nil) == ["noPool virtualIP.addresses.pool"])
    }

    @Test(arguments: [
        ("10.20.0.1-10.20.0.9", "write 10.20.0.1-10.20.0.4, 10.20.0.6-10.20.0.9 in its place"),
        ("10.20.0.5-10.20.0.6", "write 10.20.0.6 in its place"),
        ("10.20.0.4-10.20.0.5", "write 10.20.0.4 in its place"),
        ("10.20.0.5", "leave it out"),
        ("10.20.0.4-10.20.0.255", "write 10.20.0.4, 10.20.0.6-10.20.0.254 in its place"),
    ])
    func saysWhatIsLeftOfARange(range: String, hint: String) throws {
        #expect(try hazards(Self.policy("pool: [\(range)]")).first?.hint == hint)
    }

    @Test func saysWhatFollows() throws {
        let denied = try #require(try hazards(Self.policy("")).first)
        #expect(denied.message.contains("deny refuses all programs"), "\(denied)")
        let listed = try #require(try hazards(Self.policy("", "programs: [java]")).first)
        #expect(listed.message.contains("listed programs"), "\(listed)")
        let shared = try #require(
            try hazards(Self.policy("", "mode: perSession, whenUnavailable: useHostAddress")).first)
        #expect(shared.message.contains("get the host's address"), "\(shared)")
        #expect(denied.isSame(as: listed), "one cause, whomever it concerns")
        let missing = try #require(try hazards(Self.policy("interface: eth9, pool: [10.20.0.10]")).first)
        #expect(missing.hint.contains("eth0, eth1"), "\(missing)")
    }

    // MARK: Places

    @Test func hasThePlaceOfTheKeyOrOfItsSection() throws {
        let text = """
            virtualIP:
              enabled: true
              mode: perSession
              addresses:
                interface: eth9
                pool:
                  - 10.20.0.10
                  - 203.0.113.0/28
            overrides:
              - name: a
                virtualIP:
                  enabled: true
              - name: b
                virtualIP: {enabled: true, mode: perSession, addresses: {source: dhcp}}
            """
        let file = try PolicyFile.check(yaml: text, file: "p.yaml").get()
        func place(_ key: String) -> String {
            file.problem(PolicyHazard(kind: .noPool, key: key, message: "M", hint: "H", numbers: [])).description
        }
        #expect(place("virtualIP.addresses.interface") == "p.yaml:5:16: virtualIP.addresses.interface: M; H")
        #expect(place("virtualIP.addresses.pool[1]").hasPrefix("p.yaml:8:9: "))
        #expect(place("virtualIP.programs").hasPrefix("p.yaml:1:1: "))
        #expect(place("overrides[0].virtualIP.programs").hasPrefix("p.yaml:11:5: "))
        #expect(place("overrides[1].virtualIP.addresses.pool[0]").hasPrefix("p.yaml:14:50: "))
        #expect(place("sessions.unit") == "p.yaml: sessions.unit: M; H")
        let none = PolicyFile(Policy(), named: "the policy in force")
        let hazard = PolicyHazard(kind: .noPool, key: "virtualIP", message: "M", hint: "H", numbers: [0])
        #expect(none.problem(hazard).description == "the policy in force: virtualIP: M; H")
    }
}
