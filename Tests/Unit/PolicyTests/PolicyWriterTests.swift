// SPDX-License-Identifier: Apache-2.0

import Foundation
import Network
import Policy
import SystemPackage
import Testing

@Suite struct PolicyWriterTests {
    /// The defaults of the last sections.
    static let otherDefaults = """
        preferLoopback:
          enabled: false
          programs: []
        wildcardName: virtual
        isolation: true
        sessions:
          unit: userSlice
        history:
          retentionDays: 90
        """

    @Test func writesEveryDefault() throws {
        #expect(
            Policy().yaml() == """
                virtualIP:
                  enabled: false
                  mode: perProgram
                  programs: []
                  whenUnavailable: deny
                  withoutSession: allow
                  dualStackServers: 256
                  addresses:
                    source: pool
                    pool: []
                    restSeconds: 60
                    probeSeconds: 1
                virtualLoopback:
                  enabled: false
                  programs: []
                  excludedPorts: []
                  fallback: none
                  prefix: fdd2:9088:43af::/96
                \(Self.otherDefaults)
                overrides: []

                """)
    }

    @Test func writesWhatPeopleWouldWrite() throws {
        let policy = Policy(
            virtualIP: Policy.VirtualIP(
                enabled: true, programs: [.name("redis-server"), .path("/opt/crm/bin/crm"), .everyProgram],
                addresses: Policy.Addresses(
                    interface: "eth0",
                    pool: [try AddressRange("10.20.0.10-10.20.0.250"), try AddressRange("2001:db8::/64")],
                    reservations: [
                        Policy.Reservation(
                            user: "ann",
                            addresses: [IPAddress("10.20.0.50"), IPAddress("2001:db8::50")].compactMap(\.self))
                    ])
            ),
            virtualLoopback: Policy.VirtualLoopback(excludedPorts: [631, 53], fallback: .host),
            overrides: [
                Policy.Override(
                    name: "call centre", match: Policy.Match(groups: ["cti"], units: ["app-*.slice"]), isolation: false)
            ])
        #expect(
            policy.yaml() == """
                virtualIP:
                  enabled: true
                  mode: perProgram
                  programs: [redis-server, /opt/crm/bin/crm, "*"]
                  whenUnavailable: deny
                  withoutSession: allow
                  dualStackServers: 256
                  addresses:
                    source: pool
                    interface: eth0
                    pool: ["10.20.0.10-10.20.0.250", "2001:db8::/64"]
                    restSeconds: 60
                    probeSeconds: 1
                    reservations:
                    - user: ann
                      addresses: ["10.20.0.50", "2001:db8::50"]
                virtualLoopback:
                  enabled: false
                  programs: []
                  excludedPorts: [53, 631]
                  fallback: host
                  prefix: fdd2:9088:43af::/96
                \(Self.otherDefaults)
                overrides:
                - name: "call centre"
                  match:
                    users: []
                    groups: [cti]
                    units: ["app-*.slice"]
                  isolation: false

                """)
    }

    @Test func writesALongListLineByLine() throws {
        let names = (1...20).map { "program-\($0)" }
        let policy = Policy(virtualIP: Policy.VirtualIP(programs: names.map { .name($0) }))
        #expect(policy.yaml().contains("  programs:\n  - program-1\n  - program-2\n"))
        #expect(try Policy.read(yaml: policy.yaml(), file: "x") == policy)
    }

    /// Texts that YAML would read as another type, or that need an escape.
    @Test(arguments: [
        "true", "Yes", "no", "on", "off", "y", "null", "NULL", "~", "1", "0x1f", "0o17", "1e3", ".inf", "-1", "1:30",
        "2020-01-01",
        "a: b", "a:", "- a", "-", "--", "---", "...", "?", "? a", "[a]", "{a}", "a, b", "#a", "a #b", "&a", "*a", "*",
        "!a", "|", ">",
        "%a", "@a", "`a", "'", "\"", "it's", "\\", "\\n", " a", "a ", "  ", "ö", "\u{1F600}", "e\u{301}", "\u{a0}",
        "\u{2028}",
        "\u{200b}", "\u{e000}", "\u{fffd}", "\u{ffff}", "\u{10ffff}", "<<", "=", "a &b *b",
    ])
    func keepsAnyText(text: String) throws {
        let policy = Policy(
            virtualLoopback: Policy.VirtualLoopback(programs: [.path(FilePath("/" + text))]),
            overrides: [Policy.Override(name: text, match: Policy.Match(users: [text], groups: [text], units: [text]))])
        let yaml = policy.yaml()
        #expect(try Policy.read(yaml: yaml, file: "x") == policy, "\(yaml)")
    }

    @Test func readsBackEqual() throws {
        var random = SplitMix64(seed: 42)
        for round in 0..<150 {
            let policy = Self.policy(using: &random)
            let yaml = policy.yaml()
            #expect(try Policy.read(yaml: yaml, file: "x") == policy, "round \(round):\n\(yaml)")
            #expect(try Policy.read(yaml: yaml, file: "x").yaml() == yaml)
            // The JSON document has the file's keys. JSON is YAML, except that a line separator must be escaped.
            let json = String(decoding: try JSONEncoder().encode(policy), as: UTF8.self)
                .replacing("\u{2028}", with: "\\u2028")
            #expect(try Policy.read(yaml: json, file: "x") == policy, "round \(round):\n\(json)")
            #expect(try JSONDecoder().decode(Policy.self, from: JSONEncoder().encode(policy)) == policy)
        }
    }

    @Test func encodesWithTheKeysOfTheFile() throws {
        let policy = Policy(
            virtualLoopback: Policy.VirtualLoopback(excludedPorts: [631, 53]), overrides: [Policy.Override(name: "a")])
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        #expect(
            String(decoding: try encoder.encode(policy), as: UTF8.self) == """
                {"history":{"retentionDays":90},"isolation":true,"overrides":[{"match":{"groups":[],"units":[],"users":[]},"name":"a"}],\
                "preferLoopback":{"enabled":false,"programs":[]},"sessions":{"unit":"userSlice"},\
                "virtualIP":{"addresses":{"pool":[],"probeSeconds":1,"reservations":[],"restSeconds":60,"source":"pool"},"dualStackServers":256,"enabled":false,"mode":"perProgram",\
                "programs":[],"whenUnavailable":"deny","withoutSession":"allow"},"virtualLoopback":{"enabled":false,\
                "excludedPorts":[53,631],"fallback":"none","prefix":"fdd2:9088:43af::/96","programs":[]},\
                "wildcardName":"virtual"}
                """)
    }

    // MARK: - Random policies that a file may contain

    static func policy(using random: inout SplitMix64) -> Policy {
        // Each range is from its own /24 or /112, so that none overlap.
        var nextBlock: UInt128 = 0
        var policy = Policy(
            virtualIP: virtualIP(using: &random, &nextBlock), virtualLoopback: virtualLoopback(using: &random),
            wildcardName: element(of: Policy.WildcardName.allCases, using: &random), isolation: .random(using: &random),
            sessions: Policy.SessionsSection(unit: element(of: Policy.SessionsSection.Unit.allCases, using: &random)),
            history: Policy.History(retentionDays: .random(in: 0...Policy.History.retentionLimit, using: &random)))
        let length = Int.random(in: LoopbackPrefix.lengths, using: &random)
        let bits = UInt128.random(in: 0...UInt128.max, using: &random) >> 7 | 0xfc << 120
        let network = IPAddress(.v6, value: (bits >> UInt128(128 - length)) << UInt128(128 - length))
        policy.virtualLoopback.prefix = try? LoopbackPrefix("\(network)/\(length)")
        policy.preferLoopback = preferLoopback(allowed: policy.rules(for: nil), using: &random)
        for number in 0..<Int.random(in: 0...4, using: &random) {
            var override = Policy.Override(
                name: text(using: &random) + "\(number)",
                match: Policy.Match(
                    users: texts(using: &random), groups: texts(using: &random), units: texts(using: &random)))
            if .random(using: &random) { override.virtualIP = virtualIP(using: &random, &nextBlock) }
            if .random(using: &random) { override.virtualLoopback = virtualLoopback(using: &random) }
            if .random(using: &random) {
                override.wildcardName = element(of: Policy.WildcardName.allCases, using: &random)
            }
            if .random(using: &random) { override.isolation = .random(using: &random) }
            let rules = policy.rules(for: override)
            if .random(using: &random) || !(rules.virtualIP.enabled && rules.virtualLoopback.enabled) {
                override.preferLoopback = preferLoopback(allowed: rules, using: &random)
            }
            policy.overrides.append(override)
        }
        return policy
    }

    private static func virtualIP(using random: inout SplitMix64, _ nextBlock: inout UInt128) -> Policy.VirtualIP {
        var pool: [AddressRange] = []
        for _ in 0..<Int.random(in: 0...3, using: &random) {
            nextBlock += 1
            if let range = range(block: nextBlock, using: &random) { pool.append(range) }
        }
        var reservations: [Policy.Reservation] = []
        for (number, range) in pool.enumerated() where .random(using: &random) {
            reservations.append(
                Policy.Reservation(
                    user: text(using: &random) + "\(number)", addresses: Array(Set([range.first, range.last]))))
        }
        return Policy.VirtualIP(
            enabled: .random(using: &random), mode: element(of: Policy.VirtualIP.Mode.allCases, using: &random),
            programs: programs(using: &random),
            whenUnavailable: element(of: Policy.VirtualIP.WhenUnavailable.allCases, using: &random),
            dualStackServers: element(of: [nil, 0, 7, Policy.VirtualIP.dualStackServerLimit], using: &random),
            excludedPorts: element(of: [nil, [5353], [1, 1900, 65535]], using: &random),
            addresses: Policy.Addresses(
                placement: pool.isEmpty ? nil : element(of: [nil, .address], using: &random),
                interface: element(of: [nil, "eth0", "lo", "0", "br-é", "null", "a.100"], using: &random), pool: pool,
                restSeconds: .random(in: 0...Policy.Addresses.restLimit, using: &random),
                probeSeconds: .random(in: 0...Policy.Addresses.probeLimit, using: &random), reservations: reservations))
    }

    private static func range(block: UInt128, using random: inout SplitMix64) -> AddressRange? {
        let family = element(of: [IPAddress.Family.v4, .v6], using: &random)
        let start: UInt128 = family == .v4 ? 10 << 24 | block << 8 : 0x2001_0db8 << 96 | block << 16
        let network = IPAddress(family, value: start)
        switch Int.random(in: 0..<3, using: &random) {
        case 0: return AddressRange(network)
        case 1:
            return try? AddressRange(
                network: network, prefixLength: family.bits - Int.random(in: 0...8, using: &random))
        default:
            let length = UInt128.random(in: 0..<256, using: &random)
            return try? AddressRange(from: network, through: IPAddress(family, value: start + length))
        }
    }

    private static func virtualLoopback(using random: inout SplitMix64) -> Policy.VirtualLoopback {
        let ports = (0..<Int.random(in: 0...40, using: &random)).map { _ in UInt16.random(in: 1...65535, using: &random)
        }
        return Policy.VirtualLoopback(
            enabled: .random(using: &random), programs: programs(using: &random), excludedPorts: Set(ports),
            fallback: element(of: Policy.VirtualLoopback.Fallback.allCases, using: &random))
    }

    private static func preferLoopback(
        allowed rules: Policy.Rules, using random: inout SplitMix64
    ) -> Policy.PreferLoopback {
        let possible = rules.virtualIP.enabled && rules.virtualLoopback.enabled
        return Policy.PreferLoopback(
            enabled: possible && .random(using: &random), programs: programs(using: &random))
    }

    private static func programs(using random: inout SplitMix64) -> [ProgramEntry] {
        var entries: [ProgramEntry] = []
        for text in texts(using: &random) {
            let name = element(of: [text, "/" + text, "/opt/" + text, "*"], using: &random)
            if let entry = try? ProgramEntry(name), !entries.contains(entry) { entries.append(entry) }
        }
        return entries
    }

    /// Distinct texts.
    private static func texts(using random: inout SplitMix64) -> [String] {
        var texts: [String] = []
        for _ in 0..<Int.random(in: 0...12, using: &random) {
            let text = text(using: &random)
            if !texts.contains(text) { texts.append(text) }
        }
        return texts
    }

    private static func text(using random: inout SplitMix64) -> String {
        let words = ["java", "true", "no", "null", "1", "0x1", "1.5", ".", "-", "app-*.slice", "[a-z]?", "größe"]
        if .random(using: &random) { return element(of: words, using: &random) }
        let characters = Array("aZ09 -_./*?&!|>%@`'\"#,:;[]{}()~\\$=+^ö€\u{1F600}\u{301}\u{2028}\u{e000}")
        let length = Int.random(in: 1...20, using: &random)
        return String((0..<length).map { _ in element(of: characters, using: &random) })
    }

    private static func element<Element>(of elements: [Element], using random: inout SplitMix64) -> Element {
        elements[Int.random(in: elements.indices, using: &random)]
    }
}
