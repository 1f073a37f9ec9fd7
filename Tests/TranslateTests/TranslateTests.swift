// SPDX-License-Identifier: Apache-2.0

import CVipABI
import Testing

/// The IPv4 tables of the behaviour contract, row by row, against bpf/translate.h compiled for the host.
///
/// What the tests expect is written down here a second time and in other words, as tables: it shares no code with
/// translate.h.

// MARK: Shorthand

private let v = VIP_V.rawValue
private let l = VIP_L.rawValue
private let p = VIP_P.rawValue

private func address(_ a: UInt32, _ b: UInt32, _ c: UInt32, _ d: UInt32) -> UInt32 {
    (a << 24 | b << 16 | c << 8 | d).bigEndian
}

private let localhost = address(127, 0, 0, 1)
private let vip = address(10, 20, 0, 17)

private let places: [vip_place] = [
    VIP_ELSEWHERE, VIP_WILDCARD, VIP_LOCALHOST, VIP_OWN_LOOPBACK, VIP_OWN_ADDRESS, VIP_HOST_ADDRESS,
    VIP_OTHER_LOOPBACK, VIP_OTHER_ADDRESS, VIP_LOOPBACK_REST,
]
private let everyFeatureSet: [UInt32] = [0, v, l, v | l, v | l | p]
private let bools = [false, true]

private func name(_ answer: vip_answer) -> String {
    switch answer {
    case VIP_AS_ASKED: "as asked"
    case VIP_TO_LOOPBACK: "LO4"
    case VIP_TO_ADDRESS: "VIP4"
    case VIP_TO_LOCALHOST: "127.0.0.1"
    case VIP_REFUSE_BIND: "EADDRNOTAVAIL (another's)"
    case VIP_REFUSE_PEER: "ECONNREFUSED"
    case VIP_UNAVAILABLE: "EADDRNOTAVAIL (none)"
    default: "?"
    }
}

// MARK: The loopback formula

@Suite struct LoopbackFormula {
    @Test(
        arguments: [
            (7, address(127, 0, 0, 8)), (0, localhost), (254, address(127, 0, 0, 255)), (255, address(127, 0, 1, 0)),
            (65534, address(127, 0, 255, 255)), (65535, address(127, 1, 0, 0)),
            (16_777_213, address(127, 255, 255, 254)),
        ] as [(UInt32, UInt32)])
    func rollsOver(id: UInt32, expected: UInt32) {
        #expect(vip_loopback4(id) == expected)
        #expect(vip_id_of_loopback4(expected) == id)
    }

    @Test func everyIDHasItsOwnAndComesBack() {
        // Rising by one from 127.0.0.1 on, so distinct and all within 127/8. One expectation for the 16.7 million of
        // them: each #expect costs more than the formula.
        var firstWrong: UInt32?
        for id in 0...UInt32(VIP_ID_LAST) where firstWrong == nil {
            let loopback = vip_loopback4(id)
            if UInt32(bigEndian: loopback) != 0x7f00_0001 + id || vip_id_of_loopback4(loopback) != id
                || vip_is_127(loopback) == 0
            {
                firstWrong = id
            }
        }
        #expect(firstWrong == nil)
        #expect(UInt32(bigEndian: vip_loopback4(UInt32(VIP_ID_LAST))) == 0x7fff_fffe)  // .255 is the broadcast address
    }

    @Test func nobodyHasTheNetworkAddress() {
        #expect(vip_id_of_loopback4(address(127, 0, 0, 0)) > UInt32(VIP_ID_LAST))
    }
}

// MARK: What an address is

@Suite struct Places {
    @Test(
        arguments: [
            (address(0, 0, 0, 0), VIP_WILDCARD), (localhost, VIP_LOCALHOST), (address(127, 0, 0, 8), VIP_OWN_LOOPBACK),
            (vip, VIP_OWN_ADDRESS), (address(127, 0, 0, 53), VIP_SOME_LOOPBACK),
            (address(127, 0, 0, 9), VIP_SOME_LOOPBACK),
            (address(127, 0, 0, 0), VIP_SOME_LOOPBACK), (address(127, 255, 255, 255), VIP_SOME_LOOPBACK),
            (address(126, 255, 255, 255), VIP_SOME_ADDRESS), (address(128, 0, 0, 0), VIP_SOME_ADDRESS),
            (address(10, 20, 0, 18), VIP_SOME_ADDRESS), (address(224, 0, 0, 1), VIP_SOME_ADDRESS),
            (address(255, 255, 255, 255), VIP_SOME_ADDRESS),
        ] as [(UInt32, vip_place)])
    func ofSession7(asked: UInt32, expected: vip_place) {
        #expect(vip_place4(vip, 7, asked) == expected)
    }

    @Test func withoutAVirtualIPTheWildcardIsStillTheWildcard() {
        #expect(vip_place4(0, 7, 0) == VIP_WILDCARD)
        #expect(vip_place4(0, 7, vip) == VIP_SOME_ADDRESS)
    }

    @Test(
        arguments: [
            (VIP_SOME_LOOPBACK, VIP_OWNER_NOBODY, VIP_LOOPBACK_REST),
            (VIP_SOME_LOOPBACK, VIP_OWNER_SESSION, VIP_OTHER_LOOPBACK),
            (VIP_SOME_ADDRESS, VIP_OWNER_NOBODY, VIP_ELSEWHERE), (VIP_SOME_ADDRESS, VIP_OWNER_HOST, VIP_HOST_ADDRESS),
            (VIP_SOME_ADDRESS, VIP_OWNER_SESSION, VIP_OTHER_ADDRESS), (VIP_WILDCARD, VIP_OWNER_HOST, VIP_WILDCARD),
            (VIP_LOCALHOST, VIP_OWNER_SESSION, VIP_LOCALHOST),
        ] as [(vip_place, vip_owner, vip_place)])
    func byOwner(place: vip_place, owner: vip_owner, expected: vip_place) {
        #expect(vip_place_of_owner(place, owner) == expected)
    }
}

// MARK: When V, L and P apply

@Suite struct Features {
    @Test func everyCombinationOfFlagsAndLists() {
        let bits: [vip_policy_flag] = [
            VIP_POLICY_VIRTUAL_IP, VIP_POLICY_VIRTUAL_IP_ALL, VIP_POLICY_LOOPBACK, VIP_POLICY_LOOPBACK_ALL,
            VIP_POLICY_PREFER_LOOPBACK, VIP_POLICY_PREFER_LOOPBACK_ALL, VIP_POLICY_USE_HOST_ADDRESS,
        ]
        for choice in 0..<UInt32(1 << bits.count) {
            var flags: UInt32 = 0
            for (index, bit) in bits.enumerated() where choice >> UInt32(index) & 1 == 1 { flags |= bit.rawValue }
            func has(_ flag: vip_policy_flag) -> Bool { flags & flag.rawValue != 0 }
            for listed in 0..<UInt32(8) {
                for hasAddress in bools {
                    let ip =
                        has(VIP_POLICY_VIRTUAL_IP) && (has(VIP_POLICY_VIRTUAL_IP_ALL) || listed & v != 0)
                        && !(has(VIP_POLICY_USE_HOST_ADDRESS) && !hasAddress)
                    let loopback = has(VIP_POLICY_LOOPBACK) && (has(VIP_POLICY_LOOPBACK_ALL) || listed & l != 0)
                    let prefer =
                        has(VIP_POLICY_PREFER_LOOPBACK) && (has(VIP_POLICY_PREFER_LOOPBACK_ALL) || listed & p != 0)
                        && ip && loopback
                    let expected = (ip ? v : 0) | (loopback ? l : 0) | (prefer ? p : 0)
                    #expect(vip_features(flags, listed, hasAddress ? 1 : 0) == expected)
                }
            }
        }
    }
}

// MARK: bind

@Suite struct Bind {
    /// The contract's rows for a session that has a virtual IP, isolation on, the port not excluded:
    /// what each kind of program gets.
    static let rows: [(vip_place, none: vip_answer, v: vip_answer, l: vip_answer, vl: vip_answer, vlp: vip_answer)] = [
        (VIP_WILDCARD, VIP_AS_ASKED, VIP_TO_ADDRESS, VIP_AS_ASKED, VIP_TO_ADDRESS, VIP_TO_LOOPBACK),
        (VIP_LOCALHOST, VIP_AS_ASKED, VIP_AS_ASKED, VIP_TO_LOOPBACK, VIP_TO_LOOPBACK, VIP_TO_LOOPBACK),
        (VIP_HOST_ADDRESS, VIP_AS_ASKED, VIP_TO_ADDRESS, VIP_AS_ASKED, VIP_TO_ADDRESS, VIP_TO_LOOPBACK),
        (VIP_OWN_ADDRESS, VIP_AS_ASKED, VIP_AS_ASKED, VIP_AS_ASKED, VIP_AS_ASKED, VIP_AS_ASKED),
        (VIP_OWN_LOOPBACK, VIP_AS_ASKED, VIP_AS_ASKED, VIP_AS_ASKED, VIP_AS_ASKED, VIP_AS_ASKED),
        (VIP_OTHER_ADDRESS, VIP_REFUSE_BIND, VIP_REFUSE_BIND, VIP_REFUSE_BIND, VIP_REFUSE_BIND, VIP_REFUSE_BIND),
        (VIP_OTHER_LOOPBACK, VIP_REFUSE_BIND, VIP_REFUSE_BIND, VIP_REFUSE_BIND, VIP_REFUSE_BIND, VIP_REFUSE_BIND),
        (VIP_LOOPBACK_REST, VIP_AS_ASKED, VIP_AS_ASKED, VIP_AS_ASKED, VIP_AS_ASKED, VIP_AS_ASKED),
        (VIP_ELSEWHERE, VIP_AS_ASKED, VIP_AS_ASKED, VIP_AS_ASKED, VIP_AS_ASKED, VIP_AS_ASKED),
    ]

    @Test func everyRow() {
        #expect(Set(Self.rows.map(\.0.rawValue)) == Set(places.map(\.rawValue)))
        for row in Self.rows {
            for (features, ordinary) in zip(everyFeatureSet, [row.none, row.v, row.l, row.vl, row.vlp]) {
                for isolation in bools {
                    for hasAddress in bools {
                        for excluded in bools {
                            var expected = ordinary
                            if !isolation, expected == VIP_REFUSE_BIND { expected = VIP_AS_ASKED }
                            if excluded, row.0 == VIP_LOCALHOST { expected = VIP_AS_ASKED }
                            if !hasAddress, features & v != 0, row.0 == VIP_WILDCARD || row.0 == VIP_HOST_ADDRESS {
                                expected = VIP_UNAVAILABLE
                            }
                            let flags = isolation ? VIP_POLICY_ISOLATION.rawValue : 0
                            let answer = vip_bind(row.0, features, flags, hasAddress ? 1 : 0, excluded ? 1 : 0)
                            #expect(
                                answer == expected,
                                "place \(row.0.rawValue), features \(features), excluded \(excluded): \(name(answer))")
                        }
                    }
                }
            }
        }
    }
}

// MARK: connect and sendto

/// What listens on the asked port, as far as the decision cares.
private struct Listeners {
    var onLocalhost = false
    /// Bound to LO4 itself.
    var onLoopback = false
    /// Bound to VIP4 itself.
    var onAddress = false
    /// Bound to 0.0.0.0 by someone outside: reachable at every address.
    var onWildcard = false

    static let all: [Listeners] = (0..<16).map {
        Listeners(onLocalhost: $0 & 1 != 0, onLoopback: $0 & 2 != 0, onAddress: $0 & 4 != 0, onWildcard: $0 & 8 != 0)
    }

    /// Carries out a plan as the hook does: the first probe that finds something.
    func carryOut(_ plan: vip_plan) -> vip_answer {
        if plan.probes & VIP_PROBE_LOCALHOST.rawValue != 0, onLocalhost || onWildcard { return VIP_AS_ASKED }
        if plan.probes & VIP_PROBE_LOOPBACK.rawValue != 0, onLoopback || onWildcard { return VIP_TO_LOOPBACK }
        if plan.probes & VIP_PROBE_OWN_LOOPBACK.rawValue != 0, onLoopback { return VIP_TO_LOOPBACK }
        if plan.probes & VIP_PROBE_OWN_ADDRESS.rawValue != 0, onAddress { return VIP_TO_ADDRESS }
        return vip_answer(plan.otherwise)
    }
}

@Suite struct Connect {
    /// The contract in the order of its rows, over what listens where.
    private func expected(
        _ asked: vip_place, _ features: UInt32, _ listeners: Listeners, isolation: Bool, fallbackHost: Bool,
        hasAddress: Bool, excluded: Bool, isOn: Bool
    ) -> vip_answer {
        switch asked {
        case VIP_LOCALHOST, VIP_WILDCARD:
            if excluded { return VIP_AS_ASKED }
            if features & l != 0 {
                if listeners.onLoopback || listeners.onWildcard { return VIP_TO_LOOPBACK }
                if hasAddress, listeners.onAddress { return VIP_TO_ADDRESS }
                return fallbackHost ? VIP_TO_LOCALHOST : VIP_TO_LOOPBACK
            }
            if features & v != 0 { return hasAddress && listeners.onAddress ? VIP_TO_ADDRESS : VIP_AS_ASKED }
            if !isOn || listeners.onLocalhost || listeners.onWildcard { return VIP_AS_ASKED }
            if listeners.onLoopback { return VIP_TO_LOOPBACK }
            return hasAddress && listeners.onAddress ? VIP_TO_ADDRESS : VIP_AS_ASKED
        case VIP_HOST_ADDRESS:
            if features & v == 0 { return VIP_AS_ASKED }
            if !hasAddress { return VIP_UNAVAILABLE }
            return listeners.onAddress ? VIP_TO_ADDRESS : VIP_AS_ASKED
        case VIP_OTHER_LOOPBACK:
            return isolation ? VIP_REFUSE_PEER : VIP_AS_ASKED
        case VIP_ELSEWHERE, VIP_OTHER_ADDRESS:
            return features & v != 0 && !hasAddress ? VIP_UNAVAILABLE : VIP_AS_ASKED
        default:
            return VIP_AS_ASKED
        }
    }

    @Test func everyRowWithEveryListener() {
        for asked in places {
            for features in everyFeatureSet {
                for listeners in Listeners.all {
                    for choice in 0..<32 {
                        let isolation = choice & 1 != 0
                        let fallbackHost = choice & 2 != 0
                        let hasAddress = choice & 4 != 0
                        let excluded = choice & 8 != 0
                        let isOn = choice & 16 != 0
                        if !isOn, features != 0 { continue }  // no feature without its policy
                        var flags: UInt32 = 0
                        if isolation { flags |= VIP_POLICY_ISOLATION.rawValue }
                        if fallbackHost { flags |= VIP_POLICY_FALLBACK_HOST.rawValue }
                        if isOn { flags |= VIP_POLICY_VIRTUAL_IP.rawValue | VIP_POLICY_LOOPBACK.rawValue }
                        let plan = vip_connect(asked, features, flags, hasAddress ? 1 : 0, excluded ? 1 : 0)
                        let answer = listeners.carryOut(plan)
                        let expected = expected(
                            asked, features, listeners, isolation: isolation, fallbackHost: fallbackHost,
                            hasAddress: hasAddress, excluded: excluded, isOn: isOn)
                        #expect(
                            answer == expected,
                            "place \(asked.rawValue), features \(features), \(listeners), choice \(choice): \(name(answer))"
                        )
                    }
                }
            }
        }
    }

    @Test func aProgramWithNothingToDoLooksNowhere() {
        // A policy with both features off must not cost a listener look-up on any connect.
        for asked in places {
            #expect(vip_connect(asked, 0, VIP_POLICY_ISOLATION.rawValue, 1, 0).probes == 0)
        }
    }
}

@Suite struct Source {
    @Test func everyRow() {
        let answers = [VIP_AS_ASKED, VIP_TO_LOOPBACK, VIP_TO_ADDRESS, VIP_TO_LOCALHOST]
        for asked in places {
            for to in answers {
                for features in everyFeatureSet {
                    let vWithoutL = features & (v | l) == v
                    let isLocalName = asked == VIP_LOCALHOST || asked == VIP_WILDCARD
                    let isLocalConnection =
                        asked == VIP_OWN_LOOPBACK || isLocalName && (to == VIP_TO_LOOPBACK || to == VIP_TO_ADDRESS)
                    let leavesLoopback =
                        !isLocalName && asked != VIP_OWN_LOOPBACK && asked != VIP_OTHER_LOOPBACK
                        && asked != VIP_LOOPBACK_REST
                    let expected =
                        isLocalConnection
                        ? (vWithoutL ? VIP_TO_LOCALHOST : VIP_TO_LOOPBACK)
                        : leavesLoopback && features & v != 0 ? VIP_TO_ADDRESS : VIP_AS_ASKED
                    let source = vip_source(asked, to, features)
                    #expect(
                        source == expected,
                        "place \(asked.rawValue) to \(name(to)), features \(features): \(name(source))")
                }
            }
        }
    }
}

// MARK: Names

@Suite struct Names {
    static let ends = [
        localhost, address(127, 0, 0, 8), vip, address(127, 0, 0, 9), address(127, 0, 0, 53), address(192, 0, 2, 1),
        address(0, 0, 0, 0), address(10, 20, 0, 18),
    ]

    @Test func everyPairOfEnds() {
        for id in [UInt32(7), 254, 255] {
            let loopback = vip_loopback4(id)
            for vip4 in [vip, 0] {
                for name in Self.ends + [loopback] {
                    for other in Self.ends + [loopback] {
                        let standsForLocalhost =
                            name == loopback || vip4 != 0 && name == vip4 && (other == loopback || other == localhost)
                        #expect(vip_name4(name, other, vip4, id) == (standsForLocalhost ? localhost : name))
                    }
                }
            }
        }
    }

    /// The early way out must never swallow a name that needs translation.
    @Test func plainNamesNeedNoTranslation() {
        for name in Self.ends {
            for other in Self.ends where vip_name_is_plain4(name, other) != 0 {
                #expect(vip_name4(name, other, vip, 7) == name)
            }
        }
    }
}

// MARK: There and back

@Suite struct RoundTrip {
    /// Whatever stands in for 127.0.0.1 at connect is 127.0.0.1 again by name, at both ends.
    @Test func connectThenNames() {
        for id in [UInt32(2), 7, 254, 255, 65535, UInt32(VIP_ID_LAST)] {
            for features in everyFeatureSet {
                for to in [VIP_TO_LOOPBACK, VIP_TO_ADDRESS] {
                    let peer = vip_address4(to, localhost, vip, id)
                    let source = vip_source(VIP_LOCALHOST, to, features)
                    let own = vip_address4(source, localhost, vip, id)
                    #expect(vip_name4(peer, own, vip, id) == localhost)  // getpeername at the client
                    #expect(vip_name4(own, peer, vip, id) == localhost)  // getsockname there; accept at the server
                }
            }
        }
    }

    @Test(arguments: [VIP_AS_ASKED, VIP_REFUSE_BIND, VIP_REFUSE_PEER, VIP_UNAVAILABLE])
    func answersThatNameNoAddressKeepTheAsked(answer: vip_answer) {
        #expect(vip_address4(answer, localhost, vip, 7) == localhost)
    }
}
