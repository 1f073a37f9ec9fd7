// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Network
import Policy
import SystemPackage
import Testing

@Suite struct PolicyReaderTests {
    static let file = "/etc/vip-bpf/policy.yaml"

    // MARK: - Valid files

    @Test func readsTheWholeDocument() throws {
        let policy = try Policy.read(
            yaml: """
                virtualIP:
                  enabled: true
                  mode: perProgram              # perSession | perProgram
                  programs: [redis-server, /opt/crm/bin/crm]
                  whenUnavailable: deny         # deny | useHostAddress
                  excludedPorts: [5353, 1900]
                  addresses:
                    source: pool                # pool | dhcp
                    interface: eth0
                    pool: [10.20.0.10-10.20.0.250, 2001:db8:20::/120]
                virtualLoopback:
                  enabled: true                 # default false
                  programs: [crm]
                  excludedPorts: [53, 631]
                  fallback: none                # none | host
                preferLoopback:
                  enabled: false
                  programs: []
                wildcardName: virtual           # virtual | asRequested
                isolation: true
                sessions:
                  unit: userSlice               # userSlice | sessionScope
                overrides:                      # the first that matches a session replaces the sections it names
                  - name: callcentre
                    match: { users: [], groups: [cti], units: ["app-*.slice"] }
                    virtualLoopback: { enabled: true, programs: ["*"] }
                """, file: Self.file)
        let expected = Policy(
            virtualIP: Policy.VirtualIP(
                enabled: true, mode: .perProgram, programs: [.name("redis-server"), .path("/opt/crm/bin/crm")],
                whenUnavailable: .deny, excludedPorts: [1900, 5353],
                addresses: Policy.Addresses(
                    source: .pool, interface: "eth0",
                    pool: [try AddressRange("10.20.0.10-10.20.0.250"), try AddressRange("2001:db8:20::/120")])),
            virtualLoopback: Policy.VirtualLoopback(
                enabled: true, programs: [.name("crm")], excludedPorts: [53, 631], fallback: .none),
            preferLoopback: Policy.PreferLoopback(enabled: false, programs: []),
            wildcardName: .virtual, isolation: true, sessions: Policy.SessionsSection(unit: .userSlice),
            overrides: [
                Policy.Override(
                    name: "callcentre", match: Policy.Match(users: [], groups: ["cti"], units: ["app-*.slice"]),
                    virtualLoopback: Policy.VirtualLoopback(enabled: true, programs: [.everyProgram]))
            ])
        #expect(policy == expected)
    }

    @Test func readsWhatIsNotTheDefault() throws {
        let policy = try Policy.read(
            yaml: """
                wildcardName: asRequested
                virtualIP: {enabled: True, mode: perSession, whenUnavailable: useHostAddress}
                virtualLoopback: {enabled: TRUE, fallback: host}
                preferLoopback: {enabled: true}
                isolation: false
                sessions: {unit: sessionScope}
                history: {retentionDays: 0}
                """, file: Self.file)
        let expected = Policy(
            virtualIP: Policy.VirtualIP(enabled: true, mode: .perSession, whenUnavailable: .useHostAddress),
            virtualLoopback: Policy.VirtualLoopback(enabled: true, fallback: .host),
            preferLoopback: Policy.PreferLoopback(enabled: true),
            wildcardName: .asRequested, isolation: false, sessions: Policy.SessionsSection(unit: .sessionScope),
            history: Policy.History(retentionDays: 0))
        #expect(policy == expected)
    }

    @Test(arguments: [
        "", "\n", "# nothing but a comment", "---", "---\n...\n", "null", "~", "{}", "\u{FEFF}",
        "\u{FEFF}isolation: true",
        "%YAML 1.1\n---\n", "virtualIP:\nvirtualLoopback:\npreferLoopback: {}\nsessions: null\noverrides:\n",
        "virtualIP:\n  addresses:\n", "overrides: []", "isolation: true\r\nwildcardName: virtual\r\n",
        "\"isolation\": true",
    ])
    func takesNothingAsTheDefaults(yaml: String) throws {
        #expect(try Policy.read(yaml: yaml, file: Self.file) == Policy())
    }

    /// In YAML 1.2's core schema, all of these are texts.
    @Test(arguments: [
        ("yes", "yes"), ("on", "on"), ("off", "off"), ("n", "n"), ("7z", "7z"), ("2to3", "2to3"), ("1.2.3", "1.2.3"),
        ("'true'", "true"), ("\"null\"", "null"), ("'42'", "42"), ("!!str 42", "42"), ("! 42", "42"),
        ("R&D", "R&D"), ("'&a'", "&a"), ("a*b", "a*b"), ("\"*b\"", "*b"), ("\"gr\\u00f6\\xdfe\"", "größe"),
        ("1_000", "1_000"), ("0o8", "0o8"), ("0o", "0o"), ("0xg", "0xg"), ("0x", "0x"), ("0x-1", "0x-1"), ("1e", "1e"),
        ("e1", "e1"), ("+", "+"), ("+.", "+."), ("-.nan", "-.nan"), ("inf", "inf"), ("nan", "nan"), ("1e1.5", "1e1.5"),
        ("-0x1", "-0x1"), ("0b1", "0b1"), ("12:30:45", "12:30:45"), ("=", "="), ("<<", "<<"),
    ])
    func readsTextsAsTexts(yaml: String, text: String) throws {
        let policy = try Policy.read(
            yaml: "virtualLoopback: { programs: [\(yaml)] }\noverrides: [{ name: \(yaml) }]", file: Self.file)
        #expect(policy.virtualLoopback.programs == [.name(text)])
        #expect(policy.overrides.map(\.name) == [text])
    }

    @Test(arguments: [
        "0", "007", "-1", "+1", "1.", "1.5", ".5", "-.5", "1e3", "1.E-3", "+1.5e+3", "0o17", "0x1F", ".inf", "-.Inf",
        "+.INF",
        ".nan", ".NaN", "123456789012345678901234567890", "1e999",
    ])
    func tellsNumbersFromTexts(number: String) throws {
        let failure = try #require(throws: Failure.self) {
            try Policy.read(yaml: "virtualIP: { programs: [\(number)] }", file: Self.file)
        }
        #expect(failure.operation == "read policy \(Self.file):1:25")
        #expect(failure.reason == "virtualIP.programs[0]: expected a text, found the number '\(number)'")
        #expect(failure.hint == "put it in quotes")
    }

    @Test func takesWhatOnlyLooksLikeAnAlias() throws {
        let yaml = "overrides: # see &a, *a\n- name: &a c *a\n  match: {users: ['&a *a'], groups: [\" *a\"]}\n"
        let override = try Policy.read(yaml: yaml, file: Self.file).overrides[0]
        #expect(override == Policy.Override(name: "c *a", match: Policy.Match(users: ["&a *a"], groups: [" *a"])))
    }

    @Test func takesAsManyOverridesAsThereIsRoomFor() throws {
        let yaml = "overrides:\n" + (1...31).map { "  - { name: o\($0) }\n" }.joined()
        #expect(try Policy.read(yaml: yaml, file: Self.file).overrides.map(\.name) == (1...31).map { "o\($0)" })
    }

    @Test func takesWhatTheInterfaceAllows() throws {
        let yaml = "virtualIP: { addresses: { interface: br-0123456789.x } }"
        #expect(try Policy.read(yaml: yaml, file: Self.file).virtualIP.addresses.interface == "br-0123456789.x")
    }

    @Test func takesPreferLoopbackWhereAnOverrideCompletesIt() throws {
        let yaml = """
            virtualIP: { enabled: true }
            overrides:
              - name: a
                virtualLoopback: { enabled: true }
                preferLoopback: { enabled: true }
            """
        #expect(try Policy.read(yaml: yaml, file: Self.file).overrides[0].preferLoopback?.enabled == true)
    }

    /// The settings of a pool belong to it; the rest time is the base's if an override has none.
    @Test func reservationsGoWithTheirPool() throws {
        let policy = try Policy.read(
            yaml: """
                virtualIP:
                  addresses: {placement: prefix, pool: [10.0.0.0/24], restSeconds: 5, reservations: [{user: ann, addresses: [10.0.0.9]}]}
                overrides:
                - {name: a, virtualIP: {enabled: true}}
                - {name: b, virtualIP: {addresses: {pool: [10.0.1.0/24], restSeconds: 0}}}
                """, file: Self.file)
        let rules = ([nil] + policy.overrides).map { policy.rules(for: $0).virtualIP.addresses }
        #expect(rules.map(\.restSeconds) == [5, 5, 0])
        #expect(rules.map(\.placement) == [.prefix, .prefix, nil])
        #expect(rules.map { $0.reservations.map(\.user) } == [["ann"], ["ann"], []])
        #expect(rules.map { $0.pool.map(\.description) } == [["10.0.0.0/24"], ["10.0.0.0/24"], ["10.0.1.0/24"]])
        #expect(try Policy.read(yaml: policy.yaml(), file: "x") == policy)
        #expect(Policy().rules(for: nil).virtualIP.addresses.restSeconds == 60)
    }

    // MARK: - Problems

    struct Wrong: Sendable, CustomTestStringConvertible {
        let name: String
        let yaml: String
        /// The line of the error, counted from 1.
        let line: Int?
        /// The path of the key; empty for none.
        let key: String
        /// A part of the reason or the hint.
        let fragment: String
        /// The number of other problems in the text.
        let others: Int

        init(_ name: String, _ yaml: String, _ line: Int?, _ key: String, _ fragment: String, others: Int = 0) {
            self.name = name
            self.yaml = yaml
            self.line = line
            self.key = key
            self.fragment = fragment
            self.others = others
        }

        var testDescription: String { name }
    }

    static let keys: [Wrong] = [
        Wrong("unknown key", "\nvirtualIp: {}", 2, "virtualIp", "there is no such key; did you mean 'virtualIP'?"),
        Wrong("unknown key, nested", "virtualIP:\n  programm: []", 2, "virtualIP.programm", "did you mean 'programs'?"),
        Wrong(
            "unknown key, like no other", "virtualIP:\n  addresses:\n    colour: red", 3, "virtualIP.addresses.colour",
            "the keys here are source, placement, interface, pool, restSeconds, probeSeconds, reservations"),
        Wrong(
            "unknown key in an override", "overrides:\n- name: a\n  sessions: {}", 3, "overrides[0].sessions", "no such"
        ),
        Wrong("unknown key with odd signs", "\"a\\nb c\": 1", 1, "'a\\u{a}b c'", "there is no such key"),
        Wrong("merge key", "virtualIP:\n  <<: {}", 2, "virtualIP.'<<'", "there is no such key"),
        Wrong("empty key", "'': 1", 1, "''", "there is no such key"),
        Wrong(
            "long key", String(repeating: "k", count: 1000) + ": 1", 1, "'\(String(repeating: "k", count: 64))…'",
            "no such"),
        Wrong(
            "list for a key", "virtualIP:\n  ? [enabled]\n  : true", 2, "virtualIP",
            "a key is a list, a mapping or an alias; write its name"),
        Wrong(
            "key twice", "isolation: true\nwildcardName: virtual\nisolation: true", 3, "isolation", "first on line 1"),
        Wrong(
            "key twice, nested", "virtualIP:\n  enabled: true\n  addresses:\n    pool: []\n    pool: []", 5,
            "virtualIP.addresses.pool", "the key is given twice, first on line 4; leave one out"),
        Wrong("key twice in one line", "sessions: { unit: userSlice, unit: userSlice }", 1, "sessions.unit", "twice"),
        Wrong("key twice, once in quotes", "isolation: true\n\"isolation\": false", 2, "isolation", "twice"),
        Wrong("key twice with different tags", "!a isolation: true\n!b isolation: false", 2, "isolation", "twice"),
        Wrong(
            "key three times", "isolation: true\nisolation: true\nisolation: true", 2, "isolation", "first on line 1",
            others: 1),
        Wrong(
            "two keys twice", "isolation: true\nsessions:\nsessions:\nisolation: false", 3, "sessions",
            "first on line 2", others: 1),
        Wrong(
            "key twice behind wide characters",
            "# ö\u{1F600}\r\noverrides: [{ name: ö\u{1F600}, match: {}, match: {} }]", 2,
            "overrides[0].match", "first on line 2"),
        Wrong("unknown key twice", "colour: 1\ncolour: 2", 1, "colour", "there is no such key", others: 1),
        Wrong("key twice where none belongs", "isolation: { a: 1, a: 2 }", 1, "isolation", "found a mapping"),
        Wrong(
            "many keys twice", (1...20).map { "k\($0): 1\nk\($0): 2\n" }.joined(), 1, "k1", "there is no such key",
            others: 39),
        Wrong(
            "more problems than anybody reads", (1...500).map { "k\($0): 1\n" }.joined(), 1, "k1",
            "there is no such key", others: PolicyProblems.limit - 1),
    ]

    static let types: [Wrong] = [
        Wrong("text for the document", "hello", 1, "", "expected a mapping with the keys virtualIP, virtualLoopback"),
        Wrong("list for the document", "- a", 1, "", "found a list"),
        Wrong("placement", addresses("placement: routed"), 4, "virtualIP.addresses.placement", "did you mean 'route'?"),
        Wrong(
            "a prefix without a pool", "virtualIP: {addresses: {placement: prefix}}", 1,
            "virtualIP.addresses.placement",
            "it belongs to a pool"),
        Wrong(
            "placement of the base's pool by an override",
            addresses("restSeconds: 1") + "\noverrides: [{name: a, virtualIP: {addresses: {placement: route}}}]", 5,
            "overrides[0].virtualIP.addresses.placement", "it belongs to a pool"),
        Wrong(
            "a prefix on an interface", addresses("placement: prefix\n    interface: eth0"), 5,
            "virtualIP.addresses.interface", "no address is placed on an interface; leave it out"),
        Wrong(
            "a range that is no prefix", pool("10.0.0.0/24, 10.0.1.0-10.0.1.9") + "\n    placement: prefix", 3,
            "virtualIP.addresses.pool[1]", "10.0.1.0-10.0.1.9 is not a prefix"),
        Wrong("rest with a unit", addresses("restSeconds: 60s"), 4, "virtualIP.addresses.restSeconds", "0 to 86400"),
        Wrong("long probe", addresses("probeSeconds: 11"), 4, "virtualIP.addresses.probeSeconds", "0 to 10"),
        Wrong("long rest", addresses("restSeconds: 86401"), 4, "virtualIP.addresses.restSeconds", "0 to 86400"),
        Wrong(
            "a mapping of reservations", addresses("reservations: {ann: 10.0.0.9}"), 4,
            "virtualIP.addresses.reservations", "expected a list"),
        Wrong(
            "a reservation with an unknown key", addresses("reservations: [{user: a, addresses: [], group: b}]"), 4,
            "virtualIP.addresses.reservations[0].group", "there is no such key; the keys here are user, addresses"),
        Wrong(
            "a reservation for nobody", addresses("reservations: [{addresses: [10.0.0.9]}]"), 4,
            "virtualIP.addresses.reservations[0]", "a user and addresses"),
        Wrong(
            "a reservation of a range", addresses("reservations: [{user: a, addresses: [10.0.0.8-10.0.0.9]}]"), 4,
            "virtualIP.addresses.reservations[0].addresses[0]", "'10.0.0.8-10.0.0.9' is not an IP address"),
        Wrong(
            "a reservation outside the pool", addresses("reservations: [{user: a, addresses: [10.0.1.9]}]"), 4,
            "virtualIP.addresses.reservations[0].addresses[0]", "10.0.1.9 is not in the pool of this section; reserve"),
        Wrong(
            "a reservation of another family", addresses("reservations: [{user: a, addresses: ['2001:db8::9']}]"), 4,
            "virtualIP.addresses.reservations[0].addresses[0]", "which has no IPv6 range"),
        Wrong(
            "an address reserved twice",
            addresses("reservations: [{user: a, addresses: [10.0.0.9]},\n      {user: b, addresses: [10.0.0.9]}]"), 5,
            "virtualIP.addresses.reservations[1].addresses[0]", "10.0.0.9 is reserved already, on line 4"),
        Wrong(
            "a user with two reservations",
            addresses("reservations: [{user: a, addresses: [10.0.0.9]},\n      {user: a, addresses: [10.0.0.8]}]"), 5,
            "virtualIP.addresses.reservations[1].user", "'a' has a reservation already, on line 4"),
        Wrong(
            "a reservation in the base's pool by an override",
            addresses("restSeconds: 1")
                + "\noverrides:\n- name: a\n  virtualIP: {addresses: {reservations: [{user: a, addresses: [10.0.0.9]}]}}",
            7,
            "overrides[0].virtualIP.addresses.reservations[0].addresses[0]", "not in the pool of this section"),
        Wrong("days in quotes", "history: {retentionDays: '9'}", 1, "history.retentionDays", "without quotes"),
        Wrong(
            "days with a unit", "history:\n  retentionDays: 90d", 2, "history.retentionDays",
            "expected a number of days, 0 to 36500, found the text '90d'"),
        Wrong("days below zero", "history: {retentionDays: -1}", 1, "history.retentionDays", "'-1' is not"),
        Wrong("days with a fraction", "history: {retentionDays: 1.5}", 1, "history.retentionDays", "0 to 36500"),
        Wrong("too many days", "history: {retentionDays: 36501}", 1, "history.retentionDays", "0 to 36500"),
        Wrong("days in octal", "history: {retentionDays: 010}", 1, "history.retentionDays", "'010' is not"),
        Wrong("days without end", "history: {retentionDays: 99999999999999999999}", 1, "history.retentionDays", "not"),
        Wrong("unknown key of the history", "history: {days: 1}", 1, "history.days", "there is no such key"),
        Wrong(
            "history of an override", "overrides: [{name: a, history: {}}]", 1, "overrides[0].history", "no such key"),
        Wrong("text for a section", "virtualIP: true", 1, "virtualIP", "found the boolean true"),
        Wrong(
            "list for a section", "sessions: []", 1, "sessions", "expected a mapping with the keys unit, found a list"),
        Wrong(
            "text for a boolean", "isolation: maybe", 1, "isolation", "expected true or false, found the text 'maybe'"),
        Wrong("yes for a boolean", "isolation: yes", 1, "isolation", "found the text 'yes'; write true"),
        Wrong("Off for a boolean", "isolation: Off", 1, "isolation", "found the text 'Off'; write false"),
        Wrong("quoted boolean", "isolation: \"true\"", 1, "isolation", "found the text 'true'"),
        Wrong("number for a boolean", "isolation: 1", 1, "isolation", "found the number '1'"),
        Wrong(
            "nothing for a boolean", "virtualIP:\n  enabled:\n  programs: []", 2, "virtualIP.enabled", "found nothing"),
        Wrong("list for a boolean", "isolation: [true]", 1, "isolation", "found a list"),
        Wrong(
            "boolean for a text", "overrides: [{name: true}]", 1, "overrides[0].name", "boolean true; put it in quotes"),
        Wrong(
            "number for a text", "overrides: [{name: 0x1F}]", 1, "overrides[0].name", "number '0x1F'; put it in quotes"),
        Wrong("fraction for a text", "overrides: [{name: -.5e3}]", 1, "overrides[0].name", "number '-.5e3'"),
        Wrong("infinity for a text", "overrides: [{name: .inf}]", 1, "overrides[0].name", "number '.inf'"),
        Wrong("nothing for a text", "overrides: [{name: }]", 1, "overrides[0].name", "expected a text, found nothing"),
        Wrong("number for a word", "wildcardName: 3", 1, "wildcardName", "expected one of virtual, asRequested"),
        Wrong(
            "mapping for a list", "virtualIP: {programs: {a: b}}", 1, "virtualIP.programs",
            "expected a list, found a mapping"),
        Wrong("text for a list", "virtualIP: {programs: java}", 1, "virtualIP.programs", "put it in brackets"),
        Wrong("nothing for a list", "virtualIP:\n  programs:", 2, "virtualIP.programs", "write [] for an empty one"),
        Wrong(
            "mapping for an entry", "virtualIP:\n  programs:\n  - a\n  - b: c", 4, "virtualIP.programs[1]",
            "found a mapping"),
        Wrong("mapping for overrides", "overrides: {name: a}", 1, "overrides", "expected a list"),
        Wrong(
            "text for an override", "overrides: [a]", 1, "overrides[0]", "expected a mapping with the keys name, match"),
        Wrong(
            "tag on a scalar", "isolation: !!bool true", 1, "isolation", "tag 'tag:yaml.org,2002:bool' is not supported"
        ),
        Wrong("tag on a list", "virtualIP: {programs: !x []}", 1, "virtualIP.programs", "tag '!x' is not supported"),
        Wrong("tag on a mapping", "virtualIP: !!omap {}", 1, "virtualIP", "is not supported; leave it out"),
        Wrong("NUL", #"overrides: [{name: "a\0b"}]"#, 1, "overrides[0].name", "'a\\u{0}b' has the character U+0000"),
        Wrong("escape sequence", #"overrides: [{name: "\e[31m"}]"#, 1, "overrides[0].name", "U+001B"),
        Wrong("C1 control", #"overrides: [{name: "\x9b"}]"#, 1, "overrides[0].name", "U+009B"),
        Wrong("line break", "overrides:\n- name: |\n    a\n", 2, "overrides[0].name", "U+000A"),
    ]

    /// Three lines of a policy.
    static let everythingOn =
        "virtualIP: { enabled: true }\nvirtualLoopback: { enabled: true }\npreferLoopback: { enabled: true }\n"

    static let values: [Wrong] = [
        Wrong(
            "mode", "virtualIP:\n  enabled: true\n\n  mode: perUser", 4, "virtualIP.mode",
            "'perUser' is not one of perSession, perProgram"),
        Wrong("mode, nearly", "virtualIP: {mode: persession}", 1, "virtualIP.mode", "did you mean 'perSession'?"),
        Wrong(
            "whenUnavailable", "virtualIP: {whenUnavailable: x}", 1, "virtualIP.whenUnavailable",
            "one of deny, useHostAddress"),
        Wrong(
            "withoutSession", "virtualIP: {withoutSession: never}", 1, "virtualIP.withoutSession",
            "one of allow, deny"),
        Wrong(
            "withoutSession of an override", "overrides:\n  - name: a\n    virtualIP:\n      withoutSession: deny", 4,
            "overrides[0].virtualIP.withoutSession", "programs of no session"),
        Wrong(
            "dual-stack servers", "virtualIP: {dualStackServers: 65537}", 1, "virtualIP.dualStackServers", "65536"),
        Wrong(
            "wildcard port", "virtualIP: {excludedPorts: [5353, 0]}", 1, "virtualIP.excludedPorts[1]",
            "'0' is not a port, 1 to 65535"),
        Wrong("source", "virtualIP: {addresses: {source: x}}", 1, "virtualIP.addresses.source", "one of pool, dhcp"),
        Wrong(
            "DHCP on lo", "virtualIP:\n  addresses:\n    interface: lo\n    source: dhcp", 3,
            "virtualIP.addresses.interface", "no DHCP server is on lo; name the interface of the server's network"),
        Wrong(
            "DHCP and an IPv4 pool", "virtualIP: {addresses: {source: dhcp, pool: ['2001:db8::/64', 10.0.0.0/24]}}", 1,
            "virtualIP.addresses.pool[1]",
            "with source: dhcp, IPv4 addresses come from the server, and the pool is for IPv6 alone"),
        Wrong(
            "DHCP by prefix", "virtualIP: {addresses: {source: dhcp, pool: ['2001:db8::/64'], placement: prefix}}", 1,
            "virtualIP.addresses.placement",
            "with source: dhcp, addresses are placed one by one; write placement: route, or leave it out"),
        Wrong(
            "placement of loopbacks", "virtualLoopback: {placement: prefix}", 1, "virtualLoopback.placement",
            "one of address, route"),
        Wrong(
            "placement of loopbacks by an override",
            "overrides: [{name: a, virtualLoopback: {placement: route}}]", 1,
            "overrides[0].virtualLoopback.placement", "the placement is for the whole host, not for some sessions"),
        Wrong("fallback", "virtualLoopback: {fallback: x}", 1, "virtualLoopback.fallback", "one of none, host"),
        Wrong(
            "IPv4 prefix", "virtualLoopback:\n  prefix: 10.0.0.0/8", 2, "virtualLoopback.prefix",
            "'10.0.0.0' is not an IPv6 address; write it like fdd2:9088:43af::/96"),
        Wrong("global prefix", "virtualLoopback: {prefix: '2001:db8::/96'}", 1, "virtualLoopback.prefix", "fc00::/7"),
        Wrong("short prefix", "virtualLoopback: {prefix: 'fd00::/8'}", 1, "virtualLoopback.prefix", "48 to 96 bits"),
        Wrong("long prefix", "virtualLoopback: {prefix: 'fd00::/112'}", 1, "virtualLoopback.prefix", "48 to 96 bits"),
        Wrong(
            "prefix's bits", "virtualLoopback: {prefix: 'fd00::1/96'}", 1, "virtualLoopback.prefix", "write fd00::/96"),
        Wrong(
            "the host's addresses outside 127/8", "virtualLoopback: {hostAddresses: [127.0.0.9, 10.0.0.1]}", 1,
            "virtualLoopback.hostAddresses[1]", "'10.0.0.1' is not in 127.0.0.0/8"),
        Wrong(
            "the host's addresses past 127/8", "virtualLoopback: {hostAddresses: [127.0.0.0-128.0.0.0]}", 1,
            "virtualLoopback.hostAddresses[0]", "is not in 127.0.0.0/8"),
        Wrong(
            "the host's addresses as text", "virtualLoopback: {hostAddresses: [local]}", 1,
            "virtualLoopback.hostAddresses[0]", "is not an IP address"),
        Wrong(
            "the host's addresses in an override",
            "overrides:\n  - name: a\n    virtualLoopback:\n      hostAddresses: [127.0.0.9]", 4,
            "overrides[0].virtualLoopback.hostAddresses", "for the whole host"),
        Wrong("number for a prefix", "virtualLoopback: {prefix: 96}", 1, "virtualLoopback.prefix", "expected a text"),
        Wrong(
            "prefix of some sessions",
            "overrides:\n  - name: a\n    virtualLoopback:\n      prefix: fd00::/96", 4,
            "overrides[0].virtualLoopback.prefix", "for the whole host"),
        Wrong(
            "pool in the prefix", pool("\"fdd2:9088:43af::10-fdd2:9088:43af::1f\""), 3, "virtualIP.addresses.pool[0]",
            "overlaps fdd2:9088:43af::/96, the prefix of the IPv6 loopbacks"),
        Wrong("IPv6 link-local", pool("fe80::/64"), 3, "virtualIP.addresses.pool[0]", "link-local addresses"),
        Wrong("wildcardName", "wildcardName: x", 1, "wildcardName", "one of virtual, asRequested"),
        Wrong("unit", "sessions: {unit: x}", 1, "sessions.unit", "one of userSlice, sessionScope"),
        Wrong(
            "override's word", "overrides: [{name: a, wildcardName: x}]", 1, "overrides[0].wildcardName",
            "one of virtual"),

        Wrong("address", pool("10.0.0.256"), 3, "virtualIP.addresses.pool[0]", "'10.0.0.256' is not an IP address"),
        Wrong(
            "number for an address", pool("10.5"), 3, "virtualIP.addresses.pool[0]", "expected a text, found the number"
        ),
        Wrong("second range", pool("10.0.0.1, 10.0.0.5-10.0.0.2"), 3, "virtualIP.addresses.pool[1]", "comes after"),
        Wrong("mixed families", pool("10.0.0.1-2001:db8::1"), 3, "virtualIP.addresses.pool[0]", "one range a family"),
        Wrong("host bits", pool("10.0.0.1/24"), 3, "virtualIP.addresses.pool[0]", "write 10.0.0.0/24"),
        Wrong("prefix length", pool("10.0.0.0/33"), 3, "virtualIP.addresses.pool[0]", "0 to 32 bits, not 33"),
        Wrong(
            "all of IPv6", pool("'::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'"), 3, "virtualIP.addresses.pool[0]",
            "all of IPv6"),
        Wrong("loopback", pool("127.0.0.8"), 3, "virtualIP.addresses.pool[0]", "loopback"),
        Wrong("IPv6 loopback", pool("\"::1\""), 3, "virtualIP.addresses.pool[0]", "loopback"),
        Wrong("multicast", pool("224.0.0.0/24"), 3, "virtualIP.addresses.pool[0]", "multicast"),
        Wrong("IPv6 multicast", pool("ff02::/64"), 3, "virtualIP.addresses.pool[0]", "multicast"),
        Wrong("wildcard", pool("0.0.0.0-0.0.0.5"), 3, "virtualIP.addresses.pool[0]", "wildcard address 0.0.0.0"),
        Wrong("IPv6 wildcard", pool("\"::\""), 3, "virtualIP.addresses.pool[0]", "wildcard address ::"),
        Wrong("broadcast", pool("255.255.255.255"), 3, "virtualIP.addresses.pool[0]", "broadcast"),
        Wrong(
            "mapped IPv4", pool("\"::ffff:10.0.0.1\""), 3, "virtualIP.addresses.pool[0]", "IPv4 addresses in IPv6 form"),
        Wrong(
            "same range twice", pool("10.0.0.1, 10.0.0.1"), 3, "virtualIP.addresses.pool[1]",
            "10.0.0.1 overlaps 10.0.0.1 (line 3, virtualIP.addresses.pool[0])"),
        Wrong(
            "overlap behind a short range", pool("10.0.0.1-10.0.0.99, 10.0.0.200, 10.0.0.100, 10.0.0.90"), 3,
            "virtualIP.addresses.pool[3]", "10.0.0.90 overlaps 10.0.0.1-10.0.0.99"),
        Wrong(
            "overlap two ranges on", pool("10.0.0.1-10.0.0.99, 10.1.0.0/24, 10.0.0.0/8"), 3,
            "virtualIP.addresses.pool[2]",
            "10.0.0.0/8 overlaps 10.0.0.1-10.0.0.99"),
        Wrong(
            "override's range in the base's",
            pool("10.0.0.0/24")
                + "\noverrides:\n- name: a\n  virtualIP:\n    addresses:\n      pool:\n      - 10.0.0.9", 9,
            "overrides[0].virtualIP.addresses.pool[0]", "overlaps 10.0.0.0/24 (line 3, virtualIP.addresses.pool[0])"),
        Wrong(
            "two overrides' ranges",
            """
            overrides:
            - { name: a, virtualIP: { addresses: { pool: [10.0.0.5] } } }
            - { name: b, virtualIP: { addresses: { pool: [10.0.0.5] } } }
            """, 3, "overrides[1].virtualIP.addresses.pool[0]", "(line 2, overrides[0].virtualIP.addresses.pool[0])"),

        Wrong(
            "interface too long", interface("abcdefghijklmnop"), 1, "virtualIP.addresses.interface",
            "more than 15 bytes"),
        Wrong(
            "interface with a slash", interface("a/b"), 1, "virtualIP.addresses.interface",
            "has a slash, a colon or a space"),
        Wrong(
            "interface with an accented slash", interface("a/\u{301}"), 1, "virtualIP.addresses.interface",
            "has a slash"),
        Wrong(
            "interface with a space", interface("a b"), 1, "virtualIP.addresses.interface",
            "has a slash, a colon or a space"),
        Wrong(
            "interface with a colon", interface("eth0:1"), 1, "virtualIP.addresses.interface",
            "has a slash, a colon or a space"),
        Wrong(
            "interface ..", interface("..").replacing("..", with: "'..'"), 1, "virtualIP.addresses.interface",
            "is not an interface name"),
        Wrong("interface, empty", interface("''"), 1, "virtualIP.addresses.interface", "it is empty"),
        Wrong("interface, nothing", interface(""), 1, "virtualIP.addresses.interface", "found nothing"),

        Wrong("port 0", ports("0"), 2, "virtualLoopback.excludedPorts[0]", "'0' is not a port, 1 to 65535"),
        Wrong(
            "range backwards", ports("6063-6010"), 2, "virtualLoopback.excludedPorts[0]",
            "'6063-6010' is not a range of"),
        Wrong(
            "range from port 0", ports("0-10"), 2, "virtualLoopback.excludedPorts[0]", "'0-10' is not a range of ports"),
        Wrong(
            "range too far", ports("1-65536"), 2, "virtualLoopback.excludedPorts[0]",
            "'1-65536' is not a range of ports"),
        Wrong("open range", ports("6010-"), 2, "virtualLoopback.excludedPorts[0]", "'6010-' is not a range of ports"),
        Wrong("spaced range", ports("1 - 2"), 2, "virtualLoopback.excludedPorts[0]", "'1 - 2' is not a range of ports"),
        Wrong("range twice", ports("1-9, 1-9"), 2, "virtualLoopback.excludedPorts[1]", "'1-9' is on the list already"),
        Wrong("port 65536", ports("53, 65536"), 2, "virtualLoopback.excludedPorts[1]", "'65536' is not a port"),
        Wrong("negative port", ports("-1"), 2, "virtualLoopback.excludedPorts[0]", "'-1' is not a port"),
        Wrong("port with a sign", ports("+53"), 2, "virtualLoopback.excludedPorts[0]", "'+53' is not a port"),
        Wrong("octal port", ports("010"), 2, "virtualLoopback.excludedPorts[0]", "'010' is not a port"),
        Wrong("hexadecimal port", ports("0x35"), 2, "virtualLoopback.excludedPorts[0]", "'0x35' is not a port"),
        Wrong("fraction for a port", ports("53.0"), 2, "virtualLoopback.excludedPorts[0]", "'53.0' is not a port"),
        Wrong("service for a port", ports("domain"), 2, "virtualLoopback.excludedPorts[0]", "found the text 'domain'"),
        Wrong("quoted port", ports("\"53\""), 2, "virtualLoopback.excludedPorts[0]", "write it without quotes"),
        Wrong("huge port", ports("99999999999999999999"), 2, "virtualLoopback.excludedPorts[0]", "is not a port"),
        Wrong(
            "port twice", ports("53,\n 631,\n 53"), 4, "virtualLoopback.excludedPorts[2]",
            "'53' is on the list already, on line 2"),

        Wrong(
            "program twice", "virtualIP:\n  programs:\n  - a\n  - a", 4, "virtualIP.programs[1]",
            "'a' is on the list already"),
        Wrong(
            "program twice, otherwise", "virtualIP: {programs: [/a//b, /a/b]}", 1, "virtualIP.programs[1]",
            "'/a/b' is on the"),
        Wrong(
            "every program twice", "preferLoopback: {programs: ['*', '*']}", 1, "preferLoopback.programs[1]",
            "'*' is on the"),
        Wrong("empty program", "virtualIP: {programs: ['']}", 1, "virtualIP.programs[0]", "it is empty"),
        Wrong(
            "relative program", "virtualLoopback: {programs: [bin/java]}", 1, "virtualLoopback.programs[0]",
            "program 'bin/java': it is a relative path; give the file name alone or an absolute path"),
        Wrong("program ..", "virtualIP: {programs: [..]}", 1, "virtualIP.programs[0]", "it names a directory"),
        Wrong("directory", "virtualIP: {programs: [/opt/]}", 1, "virtualIP.programs[0]", "ends in a slash"),
        Wrong("NUL in a program", #"virtualIP: {programs: ["a\0"]}"#, 1, "virtualIP.programs[0]", "U+0000"),
        Wrong(
            "long program", "virtualIP: {programs: [\(String(repeating: "n", count: 64))]}", 1, "virtualIP.programs[0]",
            "a name has at most 63 bytes"),

        Wrong("override with no name", "overrides:\n- match: {}", 2, "overrides[0]", "it has no name"),
        Wrong("override of nothing", "overrides:\n-", 2, "overrides[0]", "it has no name"),
        Wrong("override with an empty name", "overrides:\n- name: ''", 2, "overrides[0].name", "it is empty"),
        Wrong(
            "two overrides of one name", "overrides:\n- name: a\n- name: b\n- name: a", 4, "overrides[2]",
            "the override on line 2 has the name 'a' as well"),
        Wrong(
            "too many overrides", "overrides:\n" + (1...32).map { "- name: o\($0)\n" }.joined(), 33, "overrides[31]",
            "there are 32 overrides, at most 31 are possible"),
        Wrong(
            "user twice", "overrides: [{name: a, match: {users: [a, b, a]}}]", 1, "overrides[0].match.users[2]",
            "on the list"),
        Wrong(
            "empty group", "overrides: [{name: a, match: {groups: ['']}}]", 1, "overrides[0].match.groups[0]",
            "it is empty"),
        Wrong(
            "number for a user", "overrides: [{name: a, match: {users: [1000]}}]", 1, "overrides[0].match.users[0]",
            "in quotes"),
        Wrong(
            "number for a unit", "overrides: [{name: a, match: {units: [1]}}]", 1, "overrides[0].match.units[0]",
            "in quotes"),

        Wrong(
            "preferLoopback alone", "preferLoopback:\n  programs: []\n  enabled: true", 3, "preferLoopback.enabled",
            "preferLoopback is enabled while virtualIP and virtualLoopback are off; enable both, or disable preferLoopback"
        ),
        Wrong(
            "preferLoopback without virtual IP", "virtualLoopback: {enabled: true}\npreferLoopback: {enabled: true}", 2,
            "preferLoopback.enabled", "while virtualIP is off; enable virtualIP"),
        Wrong(
            "preferLoopback without virtual loopback", "virtualIP: {enabled: true}\npreferLoopback: {enabled: true}", 2,
            "preferLoopback.enabled", "while virtualLoopback is off; enable virtualLoopback"),
        Wrong(
            "override enables preferLoopback",
            "virtualIP: {enabled: true}\noverrides:\n- name: a\n  preferLoopback: {enabled: true}",
            4, "overrides[0].preferLoopback.enabled", "while virtualLoopback is off under the override 'a'"),
        Wrong(
            "override disables virtual IP",
            "\(everythingOn)overrides:\n- name: a\n  virtualIP: { programs: [java] }", 6, "overrides[0].virtualIP",
            "while virtualIP is off under the override 'a'"),
        Wrong(
            "override disables virtual loopback",
            "\(everythingOn)overrides:\n- name: a\n- name: b\n  virtualLoopback: { enabled: false }", 7,
            "overrides[1].virtualLoopback", "while virtualLoopback is off under the override 'b'"),
    ]

    static let syntax: [Wrong] = [
        Wrong("unclosed list", "virtualIP:\n  programs: [a,\nisolation: true", nil, "", "this is not YAML"),
        Wrong("tab", "virtualIP:\n\tenabled: true", 2, "", "cannot start any token"),
        Wrong("wrong indentation", "virtualIP:\n  enabled: true\n programs: []", 3, "", "this is not YAML"),
        Wrong("unquoted star", "virtualIP:\n  programs: [*]", 2, "", "put a text that begins with * in quotes"),
        Wrong(
            "unquoted pattern", "overrides: [{name: a, match: {units: [*.slice]}}]", 1, "", "begins with * in quotes"),
        Wrong(
            "unquoted star and name", "virtualIP:\n  programs: [*java]", 2, "virtualIP.programs[0]",
            "put a text that begins with * in quotes"),
        Wrong("unquoted ampersand", "virtualIP: {programs: [& x]}", 1, "", "begins with & in quotes"),
        Wrong("unclosed quotes", "isolation: 'true", nil, "", "this is not YAML"),
        Wrong("invalid escape", #"isolation: "\ud800""#, 1, "", "this is not YAML"),
        Wrong("control character", "isolation: true\n# \u{7}", 2, "", "control characters are not allowed (U+7)"),
        Wrong("two documents", "isolation: true\n---\nisolation: false", 2, "", "a second YAML document begins"),
        Wrong("two documents, one empty", "isolation: true\n---\n", 2, "", "a second YAML document begins"),
        Wrong("two documents, one broken", "isolation: true\n---\n[", 2, "", "a second YAML document begins"),
        Wrong(
            "alias", "virtualIP: {programs: &a [java]}\nvirtualLoopback:\n  programs: *a", 3,
            "virtualLoopback.programs", "YAML aliases (*name) are not supported; write the entries out"),
        Wrong(
            "alias after a key twice", "isolation: &a true\nisolation: false\nwildcardName: *a", 3, "wildcardName",
            "YAML aliases (*name) are not supported", others: 1),
        Wrong("alias for a key", "? &a isolation\n: true\n*a : true", 3, "", "a key is a list, a mapping or an alias"),
        Wrong("alias for the document", "*a", 1, "", "YAML aliases (*name) are not supported"),
        Wrong("deep nesting", String(repeating: "[", count: 500_000), 1, "", "nested too deeply"),
        Wrong("deep blocks", String(repeating: "- ", count: 500_000), 1, "", "nested too deeply"),
        Wrong("deep keys", String(repeating: "? ", count: 500_000), 1, "", "nested too deeply"),
        Wrong(
            "nearly as deep", String(repeating: "[", count: 990) + String(repeating: "]", count: 990), 1, "",
            "found a list"),
        Wrong("too large", String(repeating: "#", count: Policy.sizeLimit + 1), nil, "", "it is larger than 1 MiB"),
    ]

    @Test(arguments: keys + types + values + syntax)
    func refuses(_ row: Wrong) throws {
        guard case .failure(let problems) = Policy.check(yaml: row.yaml, file: Self.file) else {
            Issue.record("it is taken")
            return
        }
        #expect(problems.all.count == row.others + 1, "\(problems.all)")
        let problem = problems.all.first { problem in
            problem.line == row.line ?? problem.line && problem.key ?? "" == row.key
                && problem.description.contains(row.fragment)
        }
        #expect(problem != nil, "\(problems.all)")
        for problem in problems.all {
            #expect(problem.file == Self.file)
            #expect(problem.description.hasPrefix("\(Self.file):\(problem.line.map { "\($0):" } ?? "")"))
            #expect(!problem.description.contains { $0.isNewline })
            #expect(problem.description.utf8.count < 500)
        }
        #expect(problems.all.map { $0.line ?? 0 } == problems.all.map { $0.line ?? 0 }.sorted())

        let failure = try #require(throws: Failure.self) { try Policy.read(yaml: row.yaml, file: Self.file) }
        #expect(failure == problems.failure)
        #expect(failure.code == .failed)
        #expect(failure.operation.hasPrefix("read policy \(Self.file)"))
        #expect(!failure.description.contains { $0.isNewline })
    }

    /// Each problem of a file has its place and what to do.
    @Test(arguments: [
        (
            """
            virtualIP:
              enabled: yes
              mode: perUser
              programs: [java, bin/x, java, 8080]
              addresses: {pool: [10.0.0.0/24, 10.0.0.9, 10.0.1.1/24]}
            colour: red
            isolation: 1
            """,
            [
                "2:12: virtualIP.enabled: expected true or false, found the text 'yes'; write true",
                "3:9: virtualIP.mode: 'perUser' is not one of perSession, perProgram",
                "4:20: virtualIP.programs[1]: program 'bin/x': it is a relative path; "
                    + "give the file name alone or an absolute path",
                "4:27: virtualIP.programs[2]: 'java' is on the list already, on line 4; leave one out",
                "4:33: virtualIP.programs[3]: expected a text, found the number '8080'; put it in quotes",
                "5:35: virtualIP.addresses.pool[1]: 10.0.0.9 overlaps 10.0.0.0/24 (line 5, virtualIP.addresses.pool[0]); "
                    + "give each address to one range",
                "5:45: virtualIP.addresses.pool[2]: '10.0.1.1/24': 10.0.1.1 has bits set after the first 24; "
                    + "write 10.0.1.0/24, or 10.0.1.1 for one address",
                "6:1: colour: there is no such key; the keys here are virtualIP, virtualLoopback, preferLoopback, "
                    + "wildcardName, isolation, sessions, history, overrides",
                "7:12: isolation: expected true or false, found the number '1'",
            ]
        ),
        (
            """
            overrides:
              - name: a
                wildcardName: x
                match: {users: [1]}
              - match: {}
                virtualLoopback: {prefix: fd00::/96, excludedPorts: [0]}
            """,
            [
                "3:19: overrides[0].wildcardName: 'x' is not one of virtual, asRequested",
                "4:21: overrides[0].match.users[0]: expected a text, found the number '1'; put it in quotes",
                "5:5: overrides[1]: it has no name; give it one that no other override has",
                "6:31: overrides[1].virtualLoopback.prefix: the prefix is for the whole host, not for some sessions; "
                    + "write it in the base policy's virtualLoopback",
                "6:58: overrides[1].virtualLoopback.excludedPorts[0]: '0' is not a port, 1 to 65535",
            ]
        ),
        // Problems that would only follow from an unreadable part are not reported.
        (
            "virtualIP: {enabled: yes}\nvirtualLoopback: {enabled: true}\npreferLoopback: {enabled: true}",
            ["1:22: virtualIP.enabled: expected true or false, found the text 'yes'; write true"]
        ),
        (
            "virtualIP: {addresses: {pool: [x], placement: prefix, reservations: [{user: a, addresses: [10.0.0.1]}]}}",
            ["1:32: virtualIP.addresses.pool[0]: 'x' is not an IP address"]
        ),
        // Columns count characters.
        (
            "overrides: [{name: ö\u{1F600}, isolation: 1}]",
            [
                "1:35: overrides[0].isolation: expected true or false, found the number '1'"
            ]
        ),
        ("isolation: true\n---\n", ["2:1: a second YAML document begins; keep one document in a file"]),
        ("# ö\n ö\u{7}", ["2:3: this is not YAML: control characters are not allowed (U+7)"]),
    ])
    func reportsAllProblems(yaml: String, lines: [String]) throws {
        guard case .failure(let problems) = Policy.check(yaml: yaml, file: "p.yaml") else {
            Issue.record("it is taken")
            return
        }
        #expect(problems.all.map(\.description) == lines.map { "p.yaml:\($0)" })
        let failure = problems.failure.description
        #expect(failure.hasPrefix("read policy p.yaml:\(lines[0].prefix { $0 != ";" })"))
        #expect(failure.contains("and \(lines.count - 1) more: vip-bpfctl policy check") == (lines.count > 1))
    }

    /// Beyond the limit, the problems of a large file cost little, because no hints are made for them.
    @Test(.timeLimit(.minutes(1))) func stopsCollecting() {
        let yaml = (0..<90_000).map { "k\($0): 1\n" }.joined()
        guard case .failure(let problems) = Policy.check(yaml: yaml, file: Self.file) else {
            Issue.record("it is taken")
            return
        }
        #expect(problems.all.count == PolicyProblems.limit)
        #expect(problems.all.last?.line == PolicyProblems.limit)
    }

    private static func addresses(_ more: String) -> String {
        pool("10.0.0.0/24") + "\n    \(more)"
    }

    private static func pool(_ ranges: String) -> String {
        "virtualIP:\n  addresses:\n    pool: [\(ranges)]"
    }

    private static func interface(_ name: String) -> String {
        "virtualIP: {addresses: {interface: \(name) }}"
    }

    private static func ports(_ ports: String) -> String {
        "virtualLoopback:\n  excludedPorts: [\(ports)]"
    }

    /// A reader that follows aliases would take forever for each of these: 10 to the power of 30 nodes.
    @Test(
        .timeLimit(.minutes(1)),
        arguments: [
            "virtualIP: *l30", "? *l30\n: 1", "virtualIP: {*l30 : 1}", "virtualIP: [*l30:1]", "virtualIP: {*l30}",
            "virtualIP: [? *l30 : 1]", "? - *l30\n: 1", "? [*l30]\n: 1", "*l30 : 1", "virtualIP:\u{2028}  *l30 : 1",
            "---\u{85}? *l30\u{85}: 1", "virtualIP: {?*l30 : 1}", "virtualIP: {\"a\":*l30}", "{!x *l30 : 1}",
        ])
    func survivesAliasBombs(use: String) throws {
        var levels = "l0: &l0 [x]\n"
        for level in 1...30 {
            levels +=
                "l\(level): &l\(level) [\([String](repeating: "*l\(level - 1)", count: 10).joined(separator: ","))]\n"
        }
        #expect(throws: Failure.self) { try Policy.read(yaml: levels + use, file: Self.file) }
        // The same without a line break or space before a mark.
        let tight = levels.replacing(": &", with: ": !!seq\t&")
        #expect(throws: Failure.self) { try Policy.read(yaml: tight + use, file: Self.file) }
    }

    /// With a small stack, like that of a pool's threads, the reader works to the depth limit of the YAML library.
    @Test func needsLittleStack() async throws {
        let deep = String(repeating: "[", count: 999) + String(repeating: "]", count: 999)
        let said = try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<String, any Error>) in
            let thread = Thread {
                continuation.resume(
                    with: Result {
                        try #require(throws: Failure.self) { try Policy.read(yaml: deep, file: Self.file) }.description
                    })
            }
            thread.stackSize = 1 << 20
            thread.start()
        }
        #expect(said.contains("found a list"))
    }

    /// A good policy that is cut anywhere, or has any byte changed, gives a policy or an error of one line.
    @Test func survivesDamage() throws {
        let whole = Self.sample.yaml()
        var random = SplitMix64(seed: 7)
        for length in 0..<whole.utf8.count {
            let cut = String(decoding: whole.utf8.prefix(length), as: UTF8.self)
            expectPolicyOrLine(cut)
            var bytes = Array(whole.utf8)
            bytes[length] = UInt8("\t\n \"'#&*,-:?[]{}|>!%@`\\~0ay\u{7f}".utf8.randomElement(using: &random) ?? 0)
            expectPolicyOrLine(String(decoding: bytes, as: UTF8.self))
        }
    }

    private func expectPolicyOrLine(_ yaml: String) {
        do throws(Failure) {
            let policy = try Policy.read(yaml: yaml, file: Self.file)
            let again = try Policy.read(yaml: policy.yaml(), file: "what was written")
            #expect(again == policy)
        } catch {
            #expect(error.operation.hasPrefix("read policy \(Self.file)"))
            #expect(!error.description.contains { $0.isNewline })
        }
    }

    static let sample = Policy(
        virtualIP: Policy.VirtualIP(enabled: true, programs: [.name("a"), .everyProgram]),
        virtualLoopback: Policy.VirtualLoopback(enabled: true, programs: [.path("/b")], excludedPorts: [1, 65535]),
        preferLoopback: Policy.PreferLoopback(enabled: true),
        overrides: [Policy.Override(name: "o", match: Policy.Match(units: ["x*"]), isolation: false)])

    // MARK: - Files

    @Test func readsAFile() throws {
        try withFile(Data("isolation: false\n".utf8)) { path in
            let policy = try Policy.read(contentsOf: path)
            #expect(policy == Policy(isolation: false))
        }
    }

    /// None of them is waited for: a pipe without a writer would be for ever.
    @Test(arguments: ["fifo", "socket", "link to a fifo", "link to a device"])
    func refusesWhatIsNoRegularFile(kind: String) throws {
        try withDirectory { directory in
            let path = directory.appending("policy.yaml")
            switch kind {
            case "fifo": try #require(mkfifo(path.string, 0o600) == 0)
            case "socket":
                let raw = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
                defer { close(raw) }
                var address = sockaddr_un()
                address.sun_family = sa_family_t(AF_UNIX)
                withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.string.utf8) }
                let bound = withUnsafePointer(to: &address) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        bind(raw, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
                    }
                }
                try #require(bound == 0)
            case "link to a fifo":
                let fifo = directory.appending("fifo")
                try #require(mkfifo(fifo.string, 0o600) == 0 && symlink(fifo.string, path.string) == 0)
            default: try #require(symlink("/dev/zero", path.string) == 0)
            }
            let failure = try #require(throws: Failure.self) { try Policy.read(contentsOf: path) }
            #expect(
                failure.description
                    == "read policy \(path): it is not a regular file; put the policy into one, or give it on standard "
                    + "input: -")
        }
    }

    /// As `policy check <(COMMAND)` gives it.
    @Test func readsAPipeOfItsOwn() throws {
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        defer { close(ends[0]) }
        try #require(write(ends[1], "isolation: false\n", 17) == 17)
        close(ends[1])
        #expect(try Policy.read(contentsOf: FilePath("/dev/fd/\(ends[0])")) == Policy(isolation: false))
    }

    @Test func acceptsTheLargestFile() throws {
        let programs = (0..<50_000).map { "program-\($0)" }
        var yaml = "virtualLoopback: { programs: [\(programs.joined(separator: ","))] }\n#"
        yaml += String(repeating: "x", count: Policy.sizeLimit - yaml.utf8.count)
        try withFile(Data(yaml.utf8)) { path in
            let policy = try Policy.read(contentsOf: path)
            #expect(policy.virtualLoopback.programs == programs.map { .name($0) })
        }
    }

    @Test func readsAndWritesRangesOfPorts() throws {
        let yaml = "virtualLoopback: {excludedPorts: [631, 6010-6012, 53, 54, 6012-6013, 65535-65535]}"
        let policy = try Policy.read(yaml: yaml, file: Self.file)
        #expect(policy.virtualLoopback.excludedPorts == [53, 54, 631, 6010, 6011, 6012, 6013, 65535])
        #expect(policy.yaml().contains("excludedPorts: [53, 54, 631, 6010-6013, 65535]"))
        #expect(try Policy.read(yaml: policy.yaml(), file: Self.file) == policy)
        let ip = try Policy.read(yaml: "virtualIP: {excludedPorts: [7400-7410]}", file: Self.file)
        #expect(ip.virtualIP.excludedPorts == Array(7400...7410) && ip.yaml().contains("[7400-7410]"))
    }

    @Test func acceptsEveryPort() throws {
        let yaml = "virtualLoopback: { excludedPorts: \(Array(1...65535)) }"
        #expect(try Policy.read(yaml: yaml, file: Self.file).virtualLoopback.excludedPorts.count == 65535)
    }

    @Test(arguments: [
        ("not UTF-8", Data([0x23, 0x0a, 0x61, 0xff]), ":2:2: it is not UTF-8; save it as UTF-8"),
        ("cut within a character", Data([0x23, 0xc3]), ":1:2: it is not UTF-8; save it as UTF-8"),
        ("overlong form", Data([0x23, 0xc0, 0xaf]), ":1:2: it is not UTF-8; save it as UTF-8"),
        ("UTF-16", Data([0xff, 0xfe, 0x61, 0x00]), ":1:1: it is not UTF-8; save it as UTF-8"),
        ("NUL", Data([0x23, 0x00]), ":1:2: this is not YAML: control characters are not allowed"),
        ("too large", Data(repeating: 0xff, count: (1 << 20) + 1), ": it is larger than 1 MiB"),
    ])
    func refusesAFile(name: String, data: Data, fragment: String) throws {
        try withFile(data) { path in
            let failure = try #require(throws: Failure.self) { try Policy.read(contentsOf: path) }
            #expect(failure.description == "read policy \(path)\(fragment)")
        }
    }

    /// Any bytes give a policy or problems, also those of YAML's own signs and of a policy's words.
    @Test func survivesRandomText() throws {
        let words = [
            "virtualIP", "enabled", "true", "overrides", "name", ":", ": ", "- ", "\n", "\n  ", "[", "]", "{", "}", ",",
            "&a ", "*a", "!x ", "!!str ", "? ", "'", "\"", "|", ">", "%", "@", "`", "#", "---\n", "...\n", "\t", "\r",
            "\u{85}", "\u{2028}", "\u{feff}", "\u{7}", "\\", "ö", "<<", "~", "10.0.0.0/8", "pool", "addresses",
        ]
        var random = SplitMix64(seed: 11)
        for _ in 0..<5000 {
            let count = Int.random(in: 1...40, using: &random)
            let text = (0..<count).map { _ in words.randomElement(using: &random) ?? "" }.joined()
            if case .failure(let problems) = Policy.check(yaml: text, file: Self.file) {
                #expect(!problems.all.isEmpty && problems.all.allSatisfy { !$0.description.contains { $0.isNewline } })
            }
        }
        for _ in 0..<2000 {
            let bytes = (0..<Int.random(in: 0...64, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random)
            }
            let text = String(decoding: bytes, as: UTF8.self)
            if case .failure(let problems) = Policy.check(yaml: text, file: Self.file) {
                #expect(!problems.all.isEmpty)
            }
        }
    }

    @Test func refusesWhatIsNoFile() throws {
        try withDirectory { directory in
            let missing = directory.appending("missing.yaml")
            let none = try #require(throws: Failure.self) { try Policy.read(contentsOf: missing) }
            #expect(none.description == "read policy \(missing): there is no such file")
            #expect(none.code == .failed)
            let folder = try #require(throws: Failure.self) { try Policy.read(contentsOf: directory) }
            #expect(folder.description == "read policy \(directory): it is a directory; name the file in it")
            try Data().write(to: URL(filePath: missing.string))
            let below = try #require(throws: Failure.self) { try Policy.read(contentsOf: missing.appending("x")) }
            #expect(below.description == "read policy \(missing)/x: not a directory")
        }
    }

    @Test func saysWhatTheKernelSays() throws {
        // Address 0 is not mapped, for root either.
        let failure = try #require(throws: Failure.self) { try Policy.read(contentsOf: "/proc/self/mem") }
        #expect(failure.description == "read policy /proc/self/mem: input/output error")
    }

    private func withDirectory(_ body: (FilePath) throws -> Void) throws {
        let url = FileManager.default.temporaryDirectory.appending(path: "vip-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: url) }
        try body(FilePath(url.path))
    }

    private func withFile(_ data: Data, _ body: (FilePath) throws -> Void) throws {
        try withDirectory { directory in
            let path = directory.appending("policy.yaml")
            try data.write(to: URL(filePath: path.string))
            try body(path)
        }
    }
}
