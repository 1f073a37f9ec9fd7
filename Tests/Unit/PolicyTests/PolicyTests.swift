// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Policy
import SystemPackage
import Testing

@Suite struct PolicyTests {
    typealias Match = Policy.Match

    @Test func isOffWithoutAFile() {
        let policy = Policy()
        #expect(!policy.virtualIP.enabled)
        #expect(policy.virtualIP.mode == .perProgram)
        #expect(policy.virtualIP.whenUnavailable == .deny)
        #expect(
            policy.virtualIP.addresses
                == Policy.Addresses(source: .pool, interface: nil, pool: [], restSeconds: 60, probeSeconds: 1))
        #expect(!policy.virtualLoopback.enabled)
        #expect(policy.virtualLoopback.fallback == .none)
        #expect(!policy.preferLoopback.enabled)
        #expect(policy.wildcardName == .virtual)
        #expect(policy.isolation)
        #expect(policy.sessions.unit == .userSlice)
        #expect(policy.overrides.isEmpty)
        #expect(Policy.overrideLimit == 31)
    }

    @Test(arguments: [
        (Match(), SessionTraits(user: "ann", groups: ["cti"], unit: "app-crm.slice"), false),
        (Match(users: ["ann"]), SessionTraits(user: "ann"), true),
        (Match(users: ["ann"]), SessionTraits(user: "anna"), false),
        (Match(users: ["ann*"]), SessionTraits(user: "anna"), false),  // user names are not patterns
        (Match(users: ["ann"]), SessionTraits(), false),
        (Match(groups: ["cti", "web"]), SessionTraits(user: "bob", groups: ["bob", "web"]), true),
        (Match(groups: ["cti"]), SessionTraits(user: "cti", groups: ["bob"]), false),
        (Match(units: ["app-*.slice"]), SessionTraits(unit: "app-crm.slice"), true),
        (Match(units: ["app-*.slice"]), SessionTraits(unit: "app-crm.scope"), false),
        (Match(units: ["app-*.slice"]), SessionTraits(unit: "my-app-crm.slice"), false),
        (Match(units: ["session-[0-9].scope"]), SessionTraits(unit: "session-3.scope"), true),
        (Match(units: ["session-?.scope"]), SessionTraits(unit: "session-33.scope"), false),
        (Match(units: ["*"]), SessionTraits(user: "ann"), false),  // no unit
        (Match(units: ["*"]), SessionTraits(unit: ".hidden"), true),
        (Match(users: ["ann"], groups: ["cti"], units: ["x"]), SessionTraits(user: "bob", groups: ["cti"]), true),
    ])
    func matches(match: Match, traits: SessionTraits, expected: Bool) {
        #expect(match.matches(traits) == expected)
    }

    @Test func takesTheFirstOverrideThatMatches() throws {
        let policy = Policy(overrides: [
            Policy.Override(name: "by name alone"),
            Policy.Override(name: "groups", match: Match(groups: ["cti"])),
            Policy.Override(name: "users", match: Match(users: ["ann"])),
        ])
        let both = try #require(policy.override(matching: SessionTraits(user: "ann", groups: ["cti"])))
        #expect(both.number == 2 && both.override.name == "groups")
        let one = try #require(policy.override(matching: SessionTraits(user: "ann")))
        #expect(one.number == 3 && one.override.name == "users")
        #expect(policy.override(matching: SessionTraits(user: "bob", groups: [], unit: "x")) == nil)
        let named = try #require(policy.override(named: "by name alone"))
        #expect(named.number == 1 && named.override == policy.overrides[0])
        #expect(policy.override(named: "By name alone") == nil)
    }

    @Test func anOverrideReplacesWholeSections() throws {
        let base = Policy(
            virtualIP: Policy.VirtualIP(enabled: true, programs: [.name("java")]),
            virtualLoopback: Policy.VirtualLoopback(
                enabled: true, programs: [.name("crm")], excludedPorts: [53], fallback: .host))
        let override = Policy.Override(
            name: "x", virtualLoopback: Policy.VirtualLoopback(enabled: true, programs: [.everyProgram]),
            wildcardName: .asRequested)
        let rules = base.rules(for: override)
        #expect(rules.virtualIP == base.virtualIP)
        #expect(rules.virtualLoopback == override.virtualLoopback)
        #expect(rules.virtualLoopback.excludedPorts.isEmpty)
        #expect(rules.preferLoopback == base.preferLoopback)
        #expect(rules.wildcardName == .asRequested)
        #expect(rules.isolation)
        #expect(base.rules(for: nil).virtualLoopback == base.virtualLoopback)
        let open = Policy.Override(name: "y", isolation: false)
        #expect(!base.rules(for: open).isolation)
    }

    /// The source of an override's addresses: its own pool, its own `source: dhcp`, or else that of the base policy.
    @Test func anOverridesAddresses() throws {
        func virtualIP(_ source: Policy.Addresses.Source, _ interface: String?, _ pool: String?) throws
            -> Policy.VirtualIP
        {
            Policy.VirtualIP(
                enabled: true,
                addresses: Policy.Addresses(
                    source: source, interface: interface, pool: try pool.map { [try AddressRange($0)] } ?? []))
        }
        let pool = Policy(virtualIP: try virtualIP(.pool, "eth0", "10.0.0.0/24"))
        let dhcp = Policy(virtualIP: try virtualIP(.dhcp, "eth0", nil))
        func rules(_ policy: Policy, _ own: Policy.VirtualIP) -> Policy.Addresses {
            policy.rules(for: Policy.Override(name: "x", virtualIP: own)).virtualIP.addresses
        }
        let none = try virtualIP(.pool, nil, nil)
        #expect(rules(pool, none).source == .pool && rules(pool, none).pool == pool.virtualIP.addresses.pool)
        #expect(rules(dhcp, none).source == .dhcp && rules(dhcp, none).interface == "eth0")
        let own = try virtualIP(.pool, nil, "10.1.0.0/24")
        #expect(rules(dhcp, own).source == .pool && rules(dhcp, own).pool == own.addresses.pool)
        let leased = try virtualIP(.dhcp, nil, nil)
        #expect(rules(pool, leased).source == .dhcp && rules(pool, leased).pool.isEmpty)
        #expect(rules(pool, leased).interface == "eth0")
        #expect(try rules(pool, virtualIP(.dhcp, "eth1", nil)).interface == "eth1")
        #expect(dhcp.leasesAddresses && !pool.leasesAddresses && !Policy().leasesAddresses)
        let mixed = Policy(virtualIP: pool.virtualIP, overrides: [Policy.Override(name: "x", virtualIP: leased)])
        #expect(mixed.leasesAddresses)
        for policy in [pool, dhcp, mixed] {
            #expect(try Policy.read(yaml: policy.yaml(), file: "written") == policy)
        }
    }

    @Test(arguments: ProgramList.allCases)
    func editsAList(list: ProgramList) throws {
        var policy = Policy()
        try policy.add(.name("java"), to: list)
        try policy.add(.everyProgram, to: list)
        try policy.add(.path("/usr/bin/java"), to: list)
        let edited = policy
        #expect(policy[list] == [.name("java"), .everyProgram, .path("/usr/bin/java")])
        #expect(ProgramList.allCases.filter { $0 != list }.allSatisfy { policy[$0].isEmpty })

        let twice = try #require(throws: Failure.self) { try policy.add(.name("java"), to: list) }
        #expect(twice.description == "add 'java' to the list \(list.rawValue): it is on the list already")
        #expect(policy == edited)

        try policy.remove(.everyProgram, from: list)
        #expect(policy[list] == [.name("java"), .path("/usr/bin/java")])
        let gone = try #require(throws: Failure.self) { try policy.remove(.everyProgram, from: list) }
        #expect(gone.description == "remove '*' from the list \(list.rawValue): it is not on the list")
    }

    @Test func saysWhichListHasIt() throws {
        var policy = Policy()
        try policy.add(.name("java"), to: .loopback)
        let failure = try #require(throws: Failure.self) { try policy.remove(.name("java"), from: .virtualIP) }
        #expect(failure.hint == "it is on loopback")
    }

    @Test func namesListsAsTheCommandLineDoes() {
        #expect(ProgramList.allCases.map(\.rawValue) == ["virtual-ip", "loopback", "prefer-loopback"])
    }
}
