// SPDX-License-Identifier: Apache-2.0

import CVipABI
import Glibc
import Testing

/// The tables of the behaviour contract, row by row, against bpf/translate.h compiled for the host.
///
/// The expectations are written here a second time in another way, as tables, and share no code with translate.h.
/// Addresses are text, which the C library converts to numbers and back.

// MARK: Shorthand

private let v = VIP_V.rawValue
private let l = VIP_L.rawValue
private let p = VIP_P.rawValue
private let hasAddress = VIP_HAS_ADDRESS.rawValue
private let hasLoopback = VIP_HAS_LOOPBACK.rawValue
private let hasIPv4 = VIP_HAS_IPV4.rawValue
private let hasMapped = VIP_HAS_MAPPED.rawValue

/// The type; there is a function with the same name.
typealias Place = vip_addr_class

/// The classes that an address can have, for any call but bind.
private let places: [Place] = [
    VIP_ELSEWHERE, VIP_WILDCARD, VIP_LOCALHOST, VIP_OWN_LOOPBACK, VIP_OWN_ADDRESS, VIP_HOST_ADDRESS,
    VIP_OTHER_LOOPBACK, VIP_OTHER_ADDRESS, VIP_LOOPBACK_REST, VIP_ITSELF, VIP_NOT_LOCAL,
]
private let bindPlaces = places.filter { $0 != VIP_ITSELF } + [VIP_DUAL_WILDCARD]
private let families = [VIP_INET4, VIP_MAPPED, VIP_INET6]
private let everyFeatureSet: [UInt32] = [0, v, l, v | l, v | l | p]
private let everyHas = 0..<UInt32(16)
private let bools = [false, true]

/// The short names in the tables below.
private func name(_ answer: vip_action) -> String {
    switch answer {
    case VIP_AS_ASKED: "asked"
    case VIP_TO_LOOPBACK: "LO"
    case VIP_TO_ADDRESS: "VIP"
    case VIP_TO_LOCALHOST: "localhost"
    case VIP_TO_LOCALHOST_BACK: "localhost, back"
    case VIP_TO_MAPPED_LOOPBACK: "::ffff:LO4"
    case VIP_TO_MAPPED_ADDRESS: "::ffff:VIP4"
    case VIP_REFUSE_BIND: "another's"
    case VIP_REFUSE_PEER: "refused"
    case VIP_UNAVAILABLE: "none"
    default: "?"
    }
}

private func name(_ place: Place) -> String {
    switch place {
    case VIP_ELSEWHERE: "elsewhere"
    case VIP_WILDCARD: "wildcard"
    case VIP_DUAL_WILDCARD: "dual wildcard"
    case VIP_LOCALHOST: "localhost"
    case VIP_OWN_LOOPBACK: "own LO"
    case VIP_OWN_ADDRESS: "own VIP"
    case VIP_HOST_ADDRESS: "host address"
    case VIP_OTHER_LOOPBACK: "other's LO"
    case VIP_OTHER_ADDRESS: "other's VIP"
    case VIP_LOOPBACK_REST: "rest of loopback"
    case VIP_ITSELF: "itself"
    case VIP_NOT_LOCAL: "not local"
    case VIP_SOME_LOOPBACK: "some loopback"
    case VIP_SOME_ADDRESS: "some address"
    default: "?"
    }
}

/// An address, IPv4 in mapped form, as everywhere in translate.h.
func address(_ text: String) -> vip_address {
    var result = vip_address()
    let isRead = inet_pton(AF_INET6, text.contains(":") ? text : "::ffff:" + text, &result)
    precondition(isRead == 1, "\(text) is no address")
    return result
}

func text(_ address: vip_address) -> String {
    var address = address
    var buffer = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
    inet_ntop(AF_INET6, &address, &buffer, socklen_t(buffer.count))
    let text = String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    // In the form of a call of the family.
    return text.hasPrefix("::ffff:") && text.contains(".") ? String(text.dropFirst(7)) : text
}

private func prefixWords(_ prefix: String?) -> [UInt32] {
    guard let prefix else { return [0, 0, 0] }
    let words = address(prefix).word
    return [words.0, words.1, words.2]
}

/// A session as the hooks see it, and the addresses that it has by the contract.
private struct Session {
    var id: UInt32 = 7
    var vip4: String? = "10.20.0.17"
    var vip6: String? = "2001:db8::17"
    var prefix: String? = "fdd2:9088:43af::"

    /// The expected result of vip_own_of() for a row of `sessions`.
    func own(_ family: vip_family) -> vip_own {
        var own = vip_own()
        own.id = id
        own.vip4 = vip4.map { address($0).word.3 } ?? 0
        if family == VIP_INET6 {
            own.address = address(vip6 ?? "::")
            own.loopback = vip_loopback6(prefixWords(prefix), id)
            own.has =
                (vip6 == nil ? 0 : hasAddress) | (prefix == nil ? 0 : hasLoopback) | (vip4 == nil ? 0 : hasIPv4)
        } else {
            own.address = address(vip4 ?? "0.0.0.0")
            own.loopback = vip_mapped(vip_loopback4(id))
            own.has = (vip4 == nil ? 0 : hasAddress) | hasLoopback
        }
        return own
    }

    /// LO4 or LO6 as text, for the IDs below 254 of these tests.
    func loopback(_ family: vip_family) -> String {
        precondition(id < 254)
        if family != VIP_INET6 { return "127.0.0.\(id + 1)" }
        return prefix.map { $0 + String(id + 1, radix: 16) } ?? "::1"
    }

    func virtualIP(_ family: vip_family) -> String? { family == VIP_INET6 ? vip6 : vip4 }

    /// With and without each of the addresses that a session may lack.
    static var every: [Session] {
        [Session(), Session(vip6: nil), Session(vip4: nil), Session(vip4: nil, vip6: nil)].flatMap { session in
            [session, Session(id: session.id, vip4: session.vip4, vip6: session.vip6, prefix: nil)]
        }
    }
}

private func localhost(_ family: vip_family) -> String { family == VIP_INET6 ? "::1" : "127.0.0.1" }
private func wildcard(_ family: vip_family) -> String { family == VIP_INET6 ? "::" : "0.0.0.0" }

private func place(_ family: vip_family, _ session: Session, _ asked: String) -> Place {
    var own = session.own(family)
    return vip_class(family, &own, address(asked))
}

private func shown(_ family: vip_family, _ session: Session, _ name: String, _ other: String) -> String {
    var own = session.own(family)
    return text(vip_name(family, &own, address(name), address(other)))
}

private func granted(_ family: vip_family, _ session: Session, _ answer: vip_action, asked: String) -> String {
    var own = session.own(family)
    return text(vip_address_of(family, answer, address(asked), &own))
}

private func isPlain(_ family: vip_family, _ name: String, _ other: String) -> Bool {
    vip_name_is_plain(family, address(name), address(other)) != 0
}

/// Collects the first few errors, for one expectation after millions of cases: each #expect costs more than a case.
private struct Wrong {
    var cases: [String] = []

    mutating func note(_ isRight: Bool, _ what: @autoclosure () -> String) {
        if !isRight, cases.count < 8 { cases.append(what()) }
    }
}

// MARK: The loopback formulas

@Suite struct LoopbackFormula {
    @Test(
        arguments: [
            (7, "127.0.0.8", "fdd2:9088:43af::8"), (0, "127.0.0.1", "fdd2:9088:43af::1"),
            (254, "127.0.0.255", "fdd2:9088:43af::ff"), (255, "127.0.1.0", "fdd2:9088:43af::100"),
            (65534, "127.0.255.255", "fdd2:9088:43af::ffff"), (65535, "127.1.0.0", "fdd2:9088:43af::1:0"),
            (16_777_213, "127.255.255.254", "fdd2:9088:43af::ff:fffe"),
        ] as [(UInt32, String, String)])
    func rollsOver(id: UInt32, loopback4: String, loopback6: String) {
        #expect(text(vip_mapped(vip_loopback4(id))) == loopback4)
        #expect(text(vip_loopback6(prefixWords("fdd2:9088:43af::"), id)) == loopback6)
        #expect(vip_id_of_loopback(VIP_INET4, address(loopback4)) == id)
        #expect(vip_id_of_loopback(VIP_MAPPED, address(loopback4)) == id)
        #expect(vip_id_of_loopback(VIP_INET6, address(loopback6)) == id)
    }

    @Test func everyIDHasItsOwnAndComesBack() {
        // They rise by one from 127.0.0.1 and PREFIX::1, so they are distinct and within 127/8 and the prefix. One
        // expectation for the 16.7 million of them: each #expect costs more than the formula.
        let prefix = prefixWords("fdd2:9088:43af:1:2:3::")
        var firstWrong: UInt32?
        for id in 0...UInt32(VIP_ID_LAST) where firstWrong == nil {
            let loopback4 = vip_loopback4(id)
            let loopback6 = vip_loopback6(prefix, id).word
            if UInt32(bigEndian: loopback4) != 0x7f00_0001 + id || vip_is_127(loopback4) == 0
                || vip_id_of_loopback(VIP_INET4, vip_mapped(loopback4)) != id
                || loopback6.0 != prefix[0] || loopback6.1 != prefix[1] || loopback6.2 != prefix[2]
                || UInt32(bigEndian: loopback6.3) != 1 + id
                || vip_id_of_loopback(VIP_INET6, vip_address(word: loopback6)) != id
            {
                firstWrong = id
            }
        }
        #expect(firstWrong == nil)
        #expect(UInt32(bigEndian: vip_loopback4(UInt32(VIP_ID_LAST))) == 0x7fff_fffe)  // .255 is the broadcast address
    }

    @Test func nobodyHasTheNetworkAddress() {
        #expect(vip_id_of_loopback(VIP_INET4, address("127.0.0.0")) > UInt32(VIP_ID_LAST))
        #expect(vip_id_of_loopback(VIP_MAPPED, address("127.0.0.0")) > UInt32(VIP_ID_LAST))
        #expect(vip_id_of_loopback(VIP_INET6, address("fdd2:9088:43af::")) > UInt32(VIP_ID_LAST))
    }

    @Test func nobodyHasWhatIsAboveTheLastID() {
        #expect(vip_id_of_loopback(VIP_INET4, address("127.255.255.255")) > UInt32(VIP_ID_LAST))
        for above in ["fdd2:9088:43af::ff:ffff", "fdd2:9088:43af::100:0", "fdd2:9088:43af::ffff:ffff"] {
            #expect(vip_id_of_loopback(VIP_INET6, address(above)) > UInt32(VIP_ID_LAST))
        }
    }

    @Test(arguments: [0, 7, 254, UInt32(VIP_ID_LAST)] as [UInt32])
    func withoutAPrefixTheLoopbackIsTheHosts(id: UInt32) {
        #expect(text(vip_loopback6([0, 0, 0], id)) == "::1")
    }
}

// MARK: Numbers

@Suite struct Numbers {
    @Test func mappedIsOneExactForm() {
        #expect(vip_is_mapped(address("::ffff:10.20.0.17")) != 0)
        #expect(vip_is_mapped(address("::ffff:0.0.0.0")) != 0)
        for other in [
            "::", "::1", "::10.20.0.17", "::fffe:a14:11", "::1:ffff:a14:11", "::1:0:ffff:a14:11",
            "1::ffff:a14:11", "0:1::ffff:a14:11", "64:ff9b::10.20.0.17", "2001:db8::17",
        ] {
            #expect(vip_is_mapped(address(other)) == 0, "\(other)")
        }
    }

    @Test(arguments: families)
    func theWildcardAndLocalhost(family: vip_family) {
        #expect(text(vip_wildcard(family)) == wildcard(family))
        #expect(text(vip_localhost(family)) == localhost(family))
        #expect(vip_is_wildcard(family, address(wildcard(family))) != 0)
        #expect(vip_is_localhost(family, address(localhost(family))) != 0)
        #expect(vip_is_wildcard(family, address(localhost(family))) == 0)
        #expect(vip_is_localhost(family, address(wildcard(family))) == 0)
    }

    /// One bit, anywhere, makes another address of it.
    @Test func everyBitCounts() {
        for start in ["::", "::1", "2001:db8::17"] {
            for word in 0..<4 {
                for bit in 0..<UInt32(32) {
                    var other = address(start)
                    withUnsafeMutableBytes(of: &other) { bytes in
                        bytes.withMemoryRebound(to: UInt32.self) { $0[word] ^= (UInt32(1) << bit).bigEndian }
                    }
                    #expect(vip_same(VIP_INET6, address(start), other) == 0)
                    #expect(vip_same(VIP_INET6, other, other) != 0)
                    if start == "::" { #expect(vip_is_wildcard(VIP_INET6, other) == 0) }
                    if start == "::1" { #expect(vip_is_localhost(VIP_INET6, other) == 0) }
                    if word == 3 {
                        #expect(vip_same(VIP_INET4, address(start), other) == 0)
                        #expect(vip_same(VIP_MAPPED, address(start), other) == 0)
                    }
                }
            }
        }
    }

    @Test(
        arguments: [
            ("223.255.255.255", false), ("224.0.0.0", true), ("239.255.255.255", true), ("240.0.0.1", true),
            ("255.255.255.255", true), ("0.0.0.0", false), ("127.0.0.1", false), ("10.20.0.17", false),
        ])
    func multicast4(of: String, expected: Bool) {
        #expect((vip_is_multicast(VIP_INET4, address(of)) != 0) == expected)
        #expect((vip_is_multicast(VIP_MAPPED, address(of)) != 0) == expected)
    }

    @Test(
        arguments: [
            ("ff00::", true), ("ff02::1", true), ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true),
            ("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false), ("fe80::1", false), ("::", false), ("::1", false),
            ("2001:db8::ffff:ffff", false), ("::e000:1", false),
        ])
    func multicast6(of: String, expected: Bool) {
        #expect((vip_is_multicast(VIP_INET6, address(of)) != 0) == expected)
    }

    @Test(
        arguments: [
            ("fc00::", true), ("fcff::1", true), ("fd00::", true), ("fdd2:9088:43af::8", true),
            ("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true), ("fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false),
            ("fe00::", false), ("fe80::1", false), ("ff02::1", false), ("2001:db8::17", false), ("::1", false),
            ("::fc00:0", false),
        ])
    func uniqueLocal(of: String, expected: Bool) {
        #expect((vip_is_unique_local(address(of)) != 0) == expected)
    }
}

// MARK: Classes of addresses

@Suite struct Places {
    /// IPv4 by itself and on an AF_INET6 socket: the same row.
    @Test(
        arguments: [
            ("0.0.0.0", VIP_WILDCARD), ("127.0.0.1", VIP_LOCALHOST), ("127.0.0.8", VIP_OWN_LOOPBACK),
            ("10.20.0.17", VIP_OWN_ADDRESS), ("127.0.0.53", VIP_SOME_LOOPBACK), ("127.0.0.9", VIP_SOME_LOOPBACK),
            ("127.0.0.0", VIP_SOME_LOOPBACK), ("127.255.255.255", VIP_SOME_LOOPBACK),
            ("126.255.255.255", VIP_SOME_ADDRESS), ("128.0.0.0", VIP_SOME_ADDRESS), ("10.20.0.18", VIP_SOME_ADDRESS),
            ("0.0.0.1", VIP_SOME_ADDRESS), ("224.0.0.1", VIP_SOME_ADDRESS), ("255.255.255.255", VIP_SOME_ADDRESS),
        ] as [(String, Place)])
    func ofSession7(asked: String, expected: Place) {
        for family in [VIP_INET4, VIP_MAPPED] {
            #expect(place(family, Session(), asked) == expected)
            // The session's IPv6 addresses do not matter for IPv4.
            #expect(place(family, Session(vip6: nil, prefix: nil), asked) == expected)
        }
    }

    @Test(
        arguments: [
            // requested, with LO6, without a prefix
            ("::", VIP_WILDCARD, VIP_WILDCARD), ("::1", VIP_LOCALHOST, VIP_LOCALHOST),
            ("fdd2:9088:43af::8", VIP_OWN_LOOPBACK, VIP_SOME_ADDRESS),
            ("2001:db8::17", VIP_OWN_ADDRESS, VIP_OWN_ADDRESS),
            ("fdd2:9088:43af::", VIP_SOME_LOOPBACK, VIP_SOME_ADDRESS),
            ("fdd2:9088:43af::1", VIP_SOME_LOOPBACK, VIP_SOME_ADDRESS),
            ("fdd2:9088:43af::9", VIP_SOME_LOOPBACK, VIP_SOME_ADDRESS),
            ("fdd2:9088:43af::1:8", VIP_SOME_LOOPBACK, VIP_SOME_ADDRESS),
            ("fdd2:9088:43af::ffff:ffff", VIP_SOME_LOOPBACK, VIP_SOME_ADDRESS),
            // One bit outside the prefix, in each of its words, with LO6's last word.
            ("fdd2:9089:43af::8", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS),
            ("fdd2:9088:43ae::8", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS),
            ("fdd2:9088:43af::1:0:8", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS),
            // The same for VIP6.
            ("2001:db9::17", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS),
            ("2001:db8:0:1::17", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS),
            ("2001:db8::1:0:17", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS),
            ("2001:db8::18", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS),
            ("::2", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS), ("::8", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS),
            ("1::1", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS), ("::1:0:0", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS),
            ("fe80::1", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS), ("ff02::1", VIP_SOME_ADDRESS, VIP_SOME_ADDRESS),
        ] as [(String, Place, Place)])
    func ofSession7OverIPv6(asked: String, expected: Place, withoutPrefix: Place) {
        for vip4 in ["10.20.0.17", nil] {
            #expect(place(VIP_INET6, Session(vip4: vip4), asked) == expected)
            #expect(place(VIP_INET6, Session(vip4: vip4, prefix: nil), asked) == withoutPrefix)
        }
    }

    @Test func withoutAVirtualIPTheWildcardIsStillTheWildcard() {
        for family in [VIP_INET4, VIP_MAPPED] {
            #expect(place(family, Session(vip4: nil), "0.0.0.0") == VIP_WILDCARD)
            #expect(place(family, Session(vip4: nil), "10.20.0.17") == VIP_SOME_ADDRESS)
        }
        for prefix in ["fdd2:9088:43af::", nil] {
            #expect(place(VIP_INET6, Session(vip6: nil, prefix: prefix), "::") == VIP_WILDCARD)
            #expect(place(VIP_INET6, Session(vip6: nil, prefix: prefix), "2001:db8::17") == VIP_SOME_ADDRESS)
        }
    }

    @Test(
        arguments: [
            (VIP_SOME_LOOPBACK, VIP_OWNER_NOBODY, VIP_LOOPBACK_REST),
            (VIP_SOME_LOOPBACK, VIP_OWNER_HOST, VIP_LOOPBACK_REST),
            (VIP_SOME_LOOPBACK, VIP_OWNER_SESSION, VIP_OTHER_LOOPBACK),
            (VIP_SOME_LOOPBACK, VIP_OWNER_BROADCAST, VIP_LOOPBACK_REST),
            (VIP_SOME_ADDRESS, VIP_OWNER_NOBODY, VIP_ELSEWHERE), (VIP_SOME_ADDRESS, VIP_OWNER_HOST, VIP_HOST_ADDRESS),
            (VIP_SOME_ADDRESS, VIP_OWNER_SESSION, VIP_OTHER_ADDRESS),
            (VIP_SOME_ADDRESS, VIP_OWNER_BROADCAST, VIP_ELSEWHERE),
        ] as [(Place, vip_owner, Place)])
    func byOwner(place: Place, owner: vip_owner, expected: Place) {
        #expect(vip_class_of_owner(place, owner) == expected)
    }

    @Test(
        arguments: [
            (VIP_INET6, "2001:db8::dead", VIP_NOT_LOCAL), (VIP_INET6, "fe80::1", VIP_ELSEWHERE),
            (VIP_INET6, "febf::1", VIP_ELSEWHERE), (VIP_INET6, "fec0::1", VIP_NOT_LOCAL),
            (VIP_INET6, "ff02::1", VIP_ELSEWHERE), (VIP_INET6, "::ffff:192.0.2.99", VIP_ELSEWHERE),
            (VIP_INET4, "192.0.2.99", VIP_ELSEWHERE), (VIP_MAPPED, "192.0.2.99", VIP_ELSEWHERE),
        ] as [(vip_family, String, Place)])
    func addressOfNoInterface(family: vip_family, asked: String, expected: Place) {
        #expect(vip_class_of_local(family, VIP_ELSEWHERE, address(asked)) == expected)
        for place in places {
            #expect(place == VIP_ELSEWHERE || vip_class_of_local(family, place, address(asked)) == place)
        }
    }

    @Test func theOwnerChangesNothingOfTheOthers() {
        for place in bindPlaces {
            for owner in [VIP_OWNER_NOBODY, VIP_OWNER_HOST, VIP_OWNER_SESSION, VIP_OWNER_BROADCAST] {
                #expect(vip_class_of_owner(place, owner) == place)
            }
        }
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

    /// For :: and ::1, a session with VIP4 alone has an address; for all other requested addresses it has none.
    @Test func whetherThereIsAnAddress() {
        for has in everyHas {
            let ofFamily = has & hasAddress != 0
            let ofEither = ofFamily || has & hasIPv4 != 0
            for asked in [VIP_WILDCARD, VIP_DUAL_WILDCARD, VIP_LOCALHOST] {
                #expect((vip_has_address(asked, has) != 0) == ofEither, "\(name(asked)), has \(has)")
            }
            for asked in [
                VIP_HOST_ADDRESS, VIP_ELSEWHERE, VIP_OWN_ADDRESS, VIP_OWN_LOOPBACK, VIP_OTHER_ADDRESS,
                VIP_OTHER_LOOPBACK, VIP_LOOPBACK_REST, VIP_NOT_LOCAL,
            ] {
                #expect((vip_has_address(asked, has) != 0) == ofFamily, "\(name(asked)), has \(has)")
            }
        }
    }

    /// With both features and a session with VIP4 alone, `whenUnavailable` applies to IPv6 alone.
    @Test func useHostAddressIsOfOneFamily() {
        let flags = VIP_POLICY_VIRTUAL_IP.rawValue | VIP_POLICY_VIRTUAL_IP_ALL.rawValue
        let useHost = flags | VIP_POLICY_USE_HOST_ADDRESS.rawValue
        func features(_ flags: UInt32, _ family: vip_family, _ asked: Place) -> UInt32 {
            vip_features(flags, 0, vip_has_address(asked, Session(vip6: nil).own(family).has))
        }
        for asked in places {
            #expect(features(flags, VIP_INET6, asked) == v)
            #expect(features(useHost, VIP_INET4, asked) == v)
            #expect(features(useHost, VIP_MAPPED, asked) == v)
            let isOfBoth = asked == VIP_WILDCARD || asked == VIP_LOCALHOST
            #expect(features(useHost, VIP_INET6, asked) == (isOfBoth ? v : 0), "\(name(asked))")
        }
    }
}

// MARK: bind

@Suite struct Bind {
    struct Row {
        let asked: String
        /// The addresses of the session on which the row depends: the call's own VIP, VIP4 if that is another one, the
        /// loopback. "*": with or without it.
        let session: [Character]
        /// The results for a program on no list, with V, with L, with V and L, and with all three.
        let gets: [String]

        init(_ text: String) {
            let columns = text.split(separator: "|").map { $0.split(separator: " ").map(String.init) }
            asked = columns[0].joined(separator: " ")
            session = Array(columns[1][0])
            gets = columns[2]
        }

        func isOf(_ has: UInt32) -> Bool {
            zip(session, [hasAddress, hasIPv4, hasLoopback]).allSatisfy { mark, bit in
                mark == "*" || (mark == "+") == (has & bit != 0)
            }
        }
    }

    /// Isolation is on, and the port is not excluded. IPv4 by itself always has a loopback, and never "VIP4 if that is
    /// another one".
    static let rows: [Row] = [
        //   asked for        | has | no list     V           L           V, L        V, L, P
        Row("wildcard         | +*+ | asked       VIP         asked       VIP         LO"),
        Row("wildcard         | +*- | asked       VIP         asked       VIP         VIP"),
        Row("wildcard         | -++ | asked       LO          asked       LO          LO"),
        Row("wildcard         | -+- | asked       none        asked       none        none"),
        Row("wildcard         | --* | asked       none        asked       none        none"),
        Row("dual wildcard    | *+* | asked       ::ffff:VIP4 asked       ::ffff:VIP4 ::ffff:LO4"),
        Row("dual wildcard    | +-* | asked       VIP         asked       VIP         ::ffff:LO4"),
        Row("dual wildcard    | --* | asked       none        asked       none        none"),
        Row("host address     | +*+ | asked       VIP         asked       VIP         LO"),
        Row("host address     | +*- | asked       VIP         asked       VIP         VIP"),
        Row("host address     | -** | asked       none        asked       none        none"),
        Row("localhost        | *** | asked       asked       LO          LO          LO"),
        Row("own VIP          | *** | asked       asked       asked       asked       asked"),
        Row("own LO           | *** | asked       asked       asked       asked       asked"),
        Row("other's VIP      | +*+ | another's   VIP         another's   VIP         LO"),
        Row("other's VIP      | +*- | another's   VIP         another's   VIP         VIP"),
        Row("other's VIP      | -** | another's   none        another's   none        none"),
        Row("not local        | *** | asked       another's   asked       another's   another's"),
        Row("other's LO       | *** | another's   another's   another's   another's   another's"),
        Row("rest of loopback | *** | asked       asked       asked       asked       asked"),
        Row("elsewhere        | *** | asked       asked       asked       asked       asked"),
    ]

    @Test func everyRow() {
        // A flag that bind does not use must change nothing, so each is tried.
        let flags = (0..<12).map { UInt32(1) << $0 }
        for asked in bindPlaces {
            for has in everyHas {
                let rows = Self.rows.filter { $0.asked == name(asked) && $0.isOf(has) }
                #expect(rows.count == 1, "\(name(asked)), has \(has)")
                guard let row = rows.first, row.gets.count == everyFeatureSet.count else {
                    Issue.record("\(name(asked)), has \(has): the table is not whole")
                    continue
                }
                for (features, ordinary) in zip(everyFeatureSet, row.gets) {
                    for isolation in bools {
                        for excluded in bools {
                            var expected = ordinary
                            if !isolation, asked != VIP_NOT_LOCAL, expected == "another's" { expected = "asked" }
                            let isWildcard = asked == VIP_WILDCARD || asked == VIP_DUAL_WILDCARD
                            let hasVirtualIP = has & (hasAddress | hasIPv4) != 0
                            if excluded, asked == VIP_LOCALHOST || isWildcard && hasVirtualIP {
                                expected = "asked"
                            }
                            for flag in [0] + flags {
                                var flags = flag & ~VIP_POLICY_ISOLATION.rawValue
                                if isolation { flags |= VIP_POLICY_ISOLATION.rawValue }
                                let answer = name(vip_bind_action(asked, features, flags, has, excluded ? 1 : 0))
                                #expect(
                                    answer == expected,
                                    "\(name(asked)), features \(features), has \(has), excluded \(excluded), flags \(flags)"
                                )
                            }
                        }
                    }
                }
            }
        }
    }

    /// The same rows from end to end: the requested address in the contract's own words, for sessions with both
    /// families, one, or none.
    @Test(
        arguments: [
            // family, asked, V6ONLY, VIP4?, VIP6?, with V, with V, L and P
            (VIP_INET4, "0.0.0.0", true, true, true, "10.20.0.17", "127.0.0.8"),
            (VIP_INET4, "0.0.0.0", true, false, true, "none", "none"),
            (VIP_MAPPED, "0.0.0.0", true, true, true, "10.20.0.17", "127.0.0.8"),
            (VIP_MAPPED, "0.0.0.0", true, false, true, "none", "none"),
            (VIP_INET6, "::", true, true, true, "2001:db8::17", "fdd2:9088:43af::8"),
            (VIP_INET6, "::", true, false, true, "2001:db8::17", "fdd2:9088:43af::8"),
            (VIP_INET6, "::", true, true, false, "fdd2:9088:43af::8", "fdd2:9088:43af::8"),
            (VIP_INET6, "::", true, false, false, "none", "none"),
            (VIP_INET6, "::", false, true, true, "::ffff:VIP4", "::ffff:LO4"),
            (VIP_INET6, "::", false, false, true, "2001:db8::17", "::ffff:LO4"),
            (VIP_INET6, "::", false, true, false, "::ffff:VIP4", "::ffff:LO4"),
            (VIP_INET6, "::", false, false, false, "none", "none"),
            (VIP_INET6, "::1", false, true, true, "::1", "fdd2:9088:43af::8"),
            (VIP_INET6, "::1", false, false, false, "::1", "fdd2:9088:43af::8"),
            (VIP_INET4, "127.0.0.1", true, true, true, "127.0.0.1", "127.0.0.8"),
        ] as [(vip_family, String, Bool, Bool, Bool, String, String)])
    func inAddresses(
        family: vip_family, asked: String, isV6Only: Bool, hasVIP4: Bool, hasVIP6: Bool, withV: String, withVLP: String
    ) {
        var session = Session()
        if !hasVIP4 { session.vip4 = nil }
        if !hasVIP6 { session.vip6 = nil }
        var asPlace = place(family, session, asked)
        if asPlace == VIP_WILDCARD, !isV6Only { asPlace = VIP_DUAL_WILDCARD }
        for (features, expected) in [(v, withV), (v | l | p, withVLP)] {
            let answer = vip_bind_action(asPlace, features, 0, session.own(family).has, 0)
            switch answer {
            case VIP_UNAVAILABLE, VIP_TO_MAPPED_LOOPBACK, VIP_TO_MAPPED_ADDRESS:
                #expect(name(answer) == expected)
            default:
                #expect(granted(family, session, answer, asked: asked) == expected)
            }
        }
    }
}

// MARK: connect and sendto

/// The listeners on the requested port, as far as the decision uses them.
private struct Listeners {
    var onLocalhost = false
    /// Bound to the loopback itself.
    var onLoopback = false
    /// Bound to the VIP itself.
    var onAddress = false
    /// Bound to the wildcard by a socket outside: reachable at every address.
    var onWildcard = false
    /// A dual-stack server of the session, as with P and as with V.
    var onMappedLoopback = false
    var onMappedAddress = false
    /// On the very address that was asked for.
    var onAsked = false
    /// UDP: a peer that is connected to the sender, and its address.
    var answered: vip_action?

    static let all: [Listeners] = [nil, VIP_TO_LOOPBACK, VIP_TO_LOCALHOST].flatMap { answered in
        (0..<128).map {
            Listeners(
                onLocalhost: $0 & 1 != 0, onLoopback: $0 & 2 != 0, onAddress: $0 & 4 != 0, onWildcard: $0 & 8 != 0,
                onMappedLoopback: $0 & 16 != 0, onMappedAddress: $0 & 32 != 0, onAsked: $0 & 64 != 0,
                answered: answered)
        }
    }

    /// Carries out a plan as the hook does: the first probe that finds a listener. A session without VIP4 has no
    /// listener on ::ffff:VIP4, which the hook knows; everything else is the plan's.
    func carryOut(_ plan: vip_plan, _ has: UInt32) -> vip_action {
        func looks(_ probe: vip_probe) -> Bool { plan.probes & probe.rawValue != 0 }
        if looks(VIP_PROBE_LOCALHOST), onLocalhost || onWildcard { return VIP_AS_ASKED }
        if looks(VIP_PROBE_ASKED), onAsked || onWildcard { return VIP_AS_ASKED }
        if looks(VIP_PROBE_LOOPBACK), onLoopback || onWildcard { return VIP_TO_LOOPBACK }
        if looks(VIP_PROBE_OWN_LOOPBACK), onLoopback { return VIP_TO_LOOPBACK }
        if looks(VIP_PROBE_ANSWERED), let answered { return answered }
        if looks(VIP_PROBE_OWN_ADDRESS), onAddress { return VIP_TO_ADDRESS }
        if looks(VIP_PROBE_MAPPED), onMappedLoopback { return VIP_TO_MAPPED_LOOPBACK }
        if looks(VIP_PROBE_MAPPED), onMappedAddress, has & hasIPv4 != 0 { return VIP_TO_MAPPED_ADDRESS }
        return vip_action(plan.otherwise)
    }

    /// The contract for 127.0.0.1 and ::1: the results in the order of preference, and nil for those that are not
    /// possible.
    func preferred(_ features: UInt32, _ has: UInt32, isOn: Bool, fallbackHost: Bool) -> vip_action {
        let address = onAddress && has & hasAddress != 0 ? VIP_TO_ADDRESS : nil
        let mapped: [vip_action?] =
            has & hasMapped == 0
            ? []
            : [
                onMappedLoopback ? VIP_TO_MAPPED_LOOPBACK : nil,
                onMappedAddress && has & hasIPv4 != 0 ? VIP_TO_MAPPED_ADDRESS : nil,
            ]
        var order: [vip_action?]
        if features & l != 0 {
            order = [onLoopback || onWildcard ? VIP_TO_LOOPBACK : nil, answered, address] + mapped
            order.append(fallbackHost ? VIP_TO_LOCALHOST : VIP_TO_LOOPBACK)
        } else if features & v != 0 {
            // An IPv6 server of a session with VIP4 alone is on LO6.
            let isServerOnLoopback = onLoopback && has & hasAddress == 0 && has & hasIPv4 != 0
            order = [isServerOnLoopback ? VIP_TO_LOOPBACK : nil, answered, address] + mapped
        } else if isOn, !onLocalhost, !onWildcard {
            order = [onLoopback ? VIP_TO_LOOPBACK : nil, answered, address] + mapped
        } else {
            order = []
        }
        return order.compactMap(\.self).first ?? VIP_AS_ASKED
    }
}

@Suite struct Connect {
    /// Whether a program on no list may connect to servers of its session, by the policy.
    private static let policies: [(flags: UInt32, isOn: Bool)] = [
        (0, false), (VIP_POLICY_VIRTUAL_IP.rawValue, true), (VIP_POLICY_LOOPBACK.rawValue, true),
        (VIP_POLICY_VIRTUAL_IP.rawValue | VIP_POLICY_LOOPBACK.rawValue, true),
        (
            VIP_POLICY_VIRTUAL_IP.rawValue | VIP_POLICY_LOOPBACK.rawValue | VIP_POLICY_PREFER_LOOPBACK.rawValue,
            true
        ),
    ]

    /// The contract in the order of its rows, for all listeners.
    private func expected(
        _ asked: Place, _ features: UInt32, _ has: UInt32, _ listeners: Listeners, flags: UInt32, isolation: Bool,
        fallbackHost: Bool, excluded: Bool, isOn: Bool
    ) -> vip_action {
        switch asked {
        case VIP_LOCALHOST, VIP_WILDCARD:
            return excluded
                ? VIP_AS_ASKED : listeners.preferred(features, has, isOn: isOn, fallbackHost: fallbackHost)
        case VIP_HOST_ADDRESS:
            if features & v == 0 { return VIP_AS_ASKED }
            if has & hasAddress == 0 { return VIP_UNAVAILABLE }
            return listeners.onAddress ? VIP_TO_ADDRESS : VIP_AS_ASKED
        case VIP_LOOPBACK_REST:
            // Servers on the wildcard are on the session's addresses under V alone.
            if excluded || flags & VIP_POLICY_VIRTUAL_IP.rawValue == 0 { return VIP_AS_ASKED }
            if listeners.onAsked || listeners.onWildcard { return VIP_AS_ASKED }
            if flags & VIP_POLICY_PREFER_LOOPBACK.rawValue != 0, listeners.onLoopback { return VIP_TO_LOOPBACK }
            return listeners.onAddress && has & hasAddress != 0 ? VIP_TO_ADDRESS : VIP_AS_ASKED
        case VIP_OTHER_LOOPBACK:
            return isolation ? VIP_REFUSE_PEER : VIP_AS_ASKED
        case VIP_ELSEWHERE, VIP_OTHER_ADDRESS:
            return features & v != 0 && has & hasAddress == 0 ? VIP_UNAVAILABLE : VIP_AS_ASKED
        default:
            return VIP_AS_ASKED
        }
    }

    @Test(arguments: places)
    func everyRowWithEveryListener(asked: Place) {
        var wrong = Wrong()
        let everyListener = Listeners.all
        for features in everyFeatureSet {
            for has in everyHas {
                for policy in Self.policies where policy.isOn || features == 0 {  // no feature without its policy
                    for choice in 0..<8 {
                        let isolation = choice & 1 != 0
                        let fallbackHost = choice & 2 != 0
                        let excluded = choice & 4 != 0
                        var flags = policy.flags
                        if isolation { flags |= VIP_POLICY_ISOLATION.rawValue }
                        if fallbackHost { flags |= VIP_POLICY_FALLBACK_HOST.rawValue }
                        let plan = vip_connect_plan(asked, features, flags, has, excluded ? 1 : 0)
                        for listeners in everyListener {
                            let answer = listeners.carryOut(plan, has)
                            let expected = expected(
                                asked, features, has, listeners, flags: flags, isolation: isolation,
                                fallbackHost: fallbackHost, excluded: excluded, isOn: policy.isOn)
                            wrong.note(
                                answer == expected,
                                """
                                features \(features), has \(has), flags \(flags), excluded \(excluded), \(listeners): \
                                \(name(answer)) in place of \(name(expected))
                                """)
                        }
                    }
                }
            }
        }
        #expect(wrong.cases.isEmpty, "\(name(asked))")
    }

    @Test func aProgramWithNothingToDoLooksNowhere() {
        // With both features off, no connect may make a listener look-up.
        for asked in places {
            for has in everyHas {
                // What another session has on the wildcard is found at the session's own addresses, whatever the
                // program.
                let isOwn = asked == VIP_OWN_ADDRESS || asked == VIP_OWN_LOOPBACK
                let probes = isOwn ? VIP_PROBE_ASKED.rawValue : 0
                #expect(vip_connect_plan(asked, 0, VIP_POLICY_ISOLATION.rawValue, has, 0).probes == probes)
                #expect(vip_connect_plan(asked, 0, 0, has, 0).probes == 0)
            }
        }
    }

    /// All other probes are useless look-ups: with an excluded port, for an address that the session lacks, for mapped
    /// addresses by a socket that cannot reach them, and for addresses other than localhost, the host's and the rest of
    /// 127/8.
    @Test func nothingIsLookedForThatCannotBe() {
        let flags = VIP_POLICY_VIRTUAL_IP.rawValue | VIP_POLICY_LOOPBACK.rawValue
        for asked in places {
            let isLocal = asked == VIP_LOCALHOST || asked == VIP_WILDCARD
            for features in everyFeatureSet {
                for has in everyHas {
                    let plan = vip_connect_plan(asked, features, flags, has, 0)
                    let what: Comment = "\(name(asked)), features \(features), has \(has)"
                    func looks(_ probe: vip_probe) -> Bool { plan.probes & probe.rawValue != 0 }
                    #expect(looks(VIP_PROBE_MAPPED) == (isLocal && has & hasMapped != 0), what)
                    #expect(!looks(VIP_PROBE_OWN_ADDRESS) || has & hasAddress != 0, what)
                    #expect(looks(VIP_PROBE_ANSWERED) == isLocal, what)
                    if asked == VIP_HOST_ADDRESS {
                        #expect(plan.probes & ~VIP_PROBE_OWN_ADDRESS.rawValue == 0, what)
                    } else if asked == VIP_LOOPBACK_REST {
                        let probes = VIP_PROBE_ASKED.rawValue | VIP_PROBE_OWN_ADDRESS.rawValue
                        #expect(plan.probes == (has & hasAddress == 0 ? 0 : probes), what)
                    } else if !isLocal {
                        #expect(plan.probes == 0, what)
                    }
                    if isLocal { #expect(vip_connect_plan(asked, features, flags, has, 1).probes == 0, what) }
                }
            }
        }
    }
}

@Suite struct Source {
    /// The source, by the destination's class; "local": for a connection of the session with itself.
    private static let rows: [(Place, toAnother: String, toLoopback: String, toAddress: String)] = [
        (VIP_LOCALHOST, "kernel's", "local", "local"),
        (VIP_WILDCARD, "kernel's", "local", "local"),
        (VIP_OWN_LOOPBACK, "local", "local", "local"),
        (VIP_OTHER_LOOPBACK, "kernel's", "kernel's", "kernel's"),
        (VIP_LOOPBACK_REST, "kernel's", "kernel's", "kernel's"),
        (VIP_ITSELF, "kernel's", "kernel's", "kernel's"),
        (VIP_OWN_ADDRESS, "VIP", "VIP", "VIP"),
        (VIP_HOST_ADDRESS, "VIP", "VIP", "VIP"),
        (VIP_OTHER_ADDRESS, "VIP", "VIP", "VIP"),
        (VIP_ELSEWHERE, "VIP", "VIP", "VIP"),
    ]

    @Test func everyRow() {
        // Of VIP_NOT_LOCAL is only what is bound or sent from.
        #expect(Set(Self.rows.map(\.0.rawValue)) == Set(places.map(\.rawValue)).subtracting([VIP_NOT_LOCAL.rawValue]))
        // A mapped answer to ::1 is asked about once more, as IPv4's 127.0.0.1: its source is no IPv6 address.
        let answers = [
            VIP_AS_ASKED, VIP_TO_LOOPBACK, VIP_TO_ADDRESS, VIP_TO_LOCALHOST, VIP_TO_MAPPED_LOOPBACK,
            VIP_TO_MAPPED_ADDRESS,
        ]
        for row in Self.rows {
            for to in answers {
                for features in everyFeatureSet {
                    let kind =
                        switch to {
                        case VIP_TO_LOOPBACK: row.toLoopback
                        case VIP_TO_ADDRESS: row.toAddress
                        default: row.toAnother
                        }
                    let expected =
                        switch kind {
                        case "local": features & v != 0 && features & l == 0 ? VIP_TO_LOCALHOST : VIP_TO_LOOPBACK
                        case "VIP": features & v != 0 ? VIP_TO_ADDRESS : VIP_AS_ASKED
                        default: VIP_AS_ASKED
                        }
                    let source = vip_source_action(row.0, to, features)
                    #expect(
                        source == expected,
                        "\(name(row.0)) to \(name(to)), features \(features): \(name(source))")
                }
            }
        }
    }

    /// Its client is on localhost itself, and is connected to the loopback: it receives from no other address.
    @Test(arguments: everyFeatureSet)
    func anAnswerToLocalhostComesFromTheLoopback(features: UInt32) {
        for asked in [VIP_LOCALHOST, VIP_WILDCARD] {
            let source = vip_source_action(asked, VIP_TO_LOCALHOST_BACK, features)
            #expect(source == VIP_TO_LOOPBACK, "\(name(asked)): \(name(source))")
        }
    }
}

// MARK: Names

@Suite struct Names {
    static let ends4 = [
        "127.0.0.1", "127.0.0.8", "10.20.0.17", "127.0.0.9", "127.0.0.53", "192.0.2.1", "0.0.0.0", "10.20.0.18",
        "127.0.0.255", "127.0.1.0", "128.0.0.8", "126.255.255.255",
    ]
    static let ends6 = [
        "::1", "::", "fdd2:9088:43af::8", "2001:db8::17", "fdd2:9088:43af::9", "fdd2:9088:43af::",
        "fdd2:9088:43ae::8", "fdd2:9088:43af::1:0:8", "fdd2:9089:43af::8", "fc00::8", "2001:db8::18",
        "2001:db8:0:1::17", "2001:db8::1:0:17", "2001:db9::17", "fe80::1", "fdd2:9088:43af::ff",
        "fdd2:9088:43af::100", "::8", "::2", "1::1",
    ]

    private func ends(_ family: vip_family) -> [String] { family == VIP_INET6 ? Self.ends6 : Self.ends4 }

    /// The loopbacks of these IDs, written out.
    private static let ids: [(UInt32, String, String)] = [
        (7, "127.0.0.8", "fdd2:9088:43af::8"), (254, "127.0.0.255", "fdd2:9088:43af::ff"),
        (255, "127.0.1.0", "fdd2:9088:43af::100"),
    ]

    @Test(arguments: families)
    func everyPairOfEnds(family: vip_family) {
        for (id, loopback4, loopback6) in Self.ids {
            for var session in Session.every {
                session.id = id
                let loopback =
                    family != VIP_INET6 ? loopback4 : session.prefix == nil ? localhost(family) : loopback6
                for name in ends(family) {
                    for other in ends(family) {
                        let isOwnAddress = name == session.virtualIP(family)
                        let isLocal = other == loopback || other == localhost(family)
                        let expected =
                            name == loopback || isOwnAddress && isLocal ? localhost(family) : name
                        #expect(shown(family, session, name, other) == expected, "\(name) from \(other), \(session)")
                    }
                }
            }
        }
    }

    /// The shortcut must never skip a name that needs translation.
    @Test(arguments: families)
    func plainNamesNeedNoTranslation(family: vip_family) {
        for session in Session.every {
            for name in ends(family) {
                for other in ends(family) where isPlain(family, name, other) {
                    #expect(shown(family, session, name, other) == name, "\(name) from \(other)")
                }
            }
        }
    }

    /// The shortcut applies to all names of a host's ordinary connections, which then cost no look-up.
    @Test(arguments: families)
    func whichNamesArePlain(family: vip_family) {
        func mayBeLoopback(_ end: String) -> Bool {
            family == VIP_INET6
                ? end == "::1" || end.hasPrefix("fc") || end.hasPrefix("fd") : end.hasPrefix("127.")
        }
        for name in ends(family) {
            for other in ends(family) {
                // On an AF_INET6 socket, it may have to become ::1.
                let isLocalhost = family != VIP_MAPPED && name == localhost(family)
                let expected = isLocalhost || !mayBeLoopback(name) && !mayBeLoopback(other) && name != other
                #expect(isPlain(family, name, other) == expected, "\(name) from \(other)")
            }
        }
    }
}

// MARK: Translation and back

@Suite struct RoundTrip {
    static let ids: [UInt32] = [2, 7, 254, 255, 65535, UInt32(VIP_ID_LAST)]

    /// Whatever replaces 127.0.0.1 or ::1 at connect has that name again at both ends.
    @Test(arguments: families)
    func connectThenNames(family: vip_family) {
        for id in Self.ids {
            for prefix in ["fdd2:9088:43af::", nil] {
                let session = Session(id: id, prefix: prefix)
                for features in everyFeatureSet {
                    for to in [VIP_TO_LOOPBACK, VIP_TO_ADDRESS] {
                        for asked in [VIP_LOCALHOST, VIP_WILDCARD] {
                            let peer = granted(family, session, to, asked: localhost(family))
                            let source = vip_source_action(asked, to, features)
                            let own = granted(family, session, source, asked: localhost(family))
                            // getpeername at the client
                            #expect(shown(family, session, peer, own) == localhost(family))
                            // getsockname there; accept at the server
                            #expect(shown(family, session, own, peer) == localhost(family))
                        }
                    }
                }
            }
        }
    }

    /// ::1 by way of ::ffff:LO4 or ::ffff:VIP4: it is an IPv4 connection, but no shortcut may prevent the name ::1.
    @Test func mappedAnswersThenNames() {
        for id in Self.ids {
            let session = Session(id: id)
            for features in everyFeatureSet {
                for to in [VIP_TO_LOOPBACK, VIP_TO_ADDRESS] {
                    let peer = granted(VIP_MAPPED, session, to, asked: "127.0.0.1")
                    let own = granted(
                        VIP_MAPPED, session, vip_source_action(VIP_LOCALHOST, to, features), asked: "127.0.0.1")
                    #expect(!isPlain(VIP_MAPPED, peer, own) && !isPlain(VIP_MAPPED, own, peer))
                    #expect(shown(VIP_MAPPED, session, peer, own) == "127.0.0.1")
                    #expect(shown(VIP_MAPPED, session, own, peer) == "127.0.0.1")
                    // The names of a connection by IPv4 that did not ask for localhost do not change.
                    #expect(shown(VIP_MAPPED, session, "10.20.0.17", "10.20.0.17") == "10.20.0.17")
                }
            }
        }
    }

    /// A server on the address that it got for localhost or the wildcard is found there, and has that name.
    @Test(arguments: families)
    func bindThenNames(family: vip_family) {
        for session in Session.every {
            let own = session.own(family)
            for features in everyFeatureSet {
                for asked in [wildcard(family), localhost(family)] {
                    let answer = vip_bind_action(place(family, session, asked), features, 0, own.has, 0)
                    let bound = granted(family, session, answer, asked: asked)
                    let shown = shown(family, session, bound, wildcard(family))
                    switch answer {
                    case VIP_TO_LOOPBACK:
                        #expect(bound == session.loopback(family))
                        #expect(shown == localhost(family))
                    case VIP_TO_ADDRESS:
                        #expect(bound == session.virtualIP(family))
                        #expect(shown == session.virtualIP(family))
                    default:
                        #expect(bound == asked && shown == asked)
                    }
                    // Binding the granted address, as after getsockname, gives the same.
                    let again = vip_bind_action(place(family, session, bound), features, 0, own.has, 0)
                    #expect(granted(family, session, again, asked: bound) == bound)
                }
            }
        }
    }

    @Test(arguments: families)
    func answersInAddresses(family: vip_family) {
        for session in Session.every {
            let asked = family == VIP_INET6 ? "2001:db8::99" : "192.0.2.99"
            #expect(granted(family, session, VIP_TO_LOOPBACK, asked: asked) == session.loopback(family))
            #expect(granted(family, session, VIP_TO_LOCALHOST, asked: asked) == localhost(family))
            #expect(granted(family, session, VIP_TO_LOCALHOST_BACK, asked: asked) == localhost(family))
            if let virtualIP = session.virtualIP(family) {
                #expect(granted(family, session, VIP_TO_ADDRESS, asked: asked) == virtualIP)
            }
            #expect(granted(family, session, VIP_TO_MAPPED_LOOPBACK, asked: asked) == session.loopback(VIP_MAPPED))
            if let virtualIP = session.vip4 {
                #expect(granted(family, session, VIP_TO_MAPPED_ADDRESS, asked: asked) == virtualIP)
            }
            for answer in [VIP_AS_ASKED, VIP_REFUSE_BIND, VIP_REFUSE_PEER, VIP_UNAVAILABLE] {
                #expect(granted(family, session, answer, asked: asked) == asked)
            }
        }
    }
}

// MARK: Facts and decisions

@Suite struct Decisions {
    private static let everyClass = places + [VIP_DUAL_WILDCARD]
    private static let v4 = Session()

    private func facts(
        _ family: vip_family, asked: String, _ place: Place, features: UInt32 = 0, flags: UInt32 = 0,
        excluded: Bool = false, local: String? = nil, state: UInt32 = 0
    ) -> vip_facts {
        var facts = vip_facts()
        facts.own = Self.v4.own(family)
        facts.user_addr = address(asked)
        facts.local_addr = address(local ?? wildcard(family))
        facts.asked = place
        (facts.features, facts.flags, facts.state) = (features, flags, state)
        facts.is_excluded = excluded ? 1 : 0
        facts.unchanged = VIP_SEEN
        return facts
    }

    private func isEqual(_ a: vip_address, _ b: vip_address) -> Bool { vip_equal(a, b) != 0 }

    @Test(arguments: families) func ownAddressesOfASession(family: vip_family) {
        for session in Session.every {
            let expected = session.own(family)
            let own = vip_own_of(
                family, session.id, expected.vip4, address(session.vip6 ?? "::"), prefixWords(session.prefix))
            #expect(isEqual(own.address, expected.address) && isEqual(own.loopback, expected.loopback))
            #expect(own.has == expected.has && own.id == expected.id && own.vip4 == expected.vip4)
        }
    }

    /// Which actions refuse, and with which outcome.
    @Test func refusals() {
        let rows = [
            VIP_REFUSE_BIND: VIP_REFUSED_ISOLATION, VIP_REFUSE_PEER: VIP_REFUSED_PEER,
            VIP_UNAVAILABLE: VIP_REFUSED_UNAVAILABLE,
        ]
        for action in (0...VIP_UNAVAILABLE.rawValue).map({ vip_action($0) }) {
            #expect(vip_refusal(action) == rows[action] ?? VIP_SEEN, "\(name(action))")
        }
        for outcome in (0..<VIP_OUTCOME_COUNT.rawValue).map({ vip_outcome($0) }) {
            #expect((vip_is_refused(outcome) != 0) == (outcome.rawValue >= VIP_REFUSED_ISOLATION.rawValue))
        }
        #expect(vip_is_refused(VIP_OUTCOME_COUNT) == 0)
    }

    /// bind: the address, what is noted, and where no other server may be, for all that it depends on.
    @Test(arguments: families) func everyBind(family: vip_family) {
        let asked = family == VIP_INET6 ? "2001:db8::99" : "192.0.2.99"
        let own = Self.v4.own(family)
        var wrong = Wrong()
        for place in Self.everyClass where place != VIP_DUAL_WILDCARD || family == VIP_INET6 {
            for features in everyFeatureSet {
                for flags in [0, VIP_POLICY_ISOLATION.rawValue] {
                    for choice in 0..<8 {
                        let (hasPort, isStream, excluded) = (choice & 1 != 0, choice & 2 != 0, choice & 4 != 0)
                        var facts = facts(
                            family, asked: asked, place, features: features, flags: flags, excluded: excluded)
                        let call = vip_bind_facts(
                            has_port: hasPort ? 1 : 0, is_stream: isStream ? 1 : 0, is_datagram: isStream ? 0 : 1)
                        let bind = vip_decide_bind(family, &facts, call)
                        let decision = bind.decision
                        let action = vip_bind_action(place, features, flags, own.has, excluded ? 1 : 0)
                        let what = "\(name(place)), features \(features), flags \(flags), \(choice)"
                        if vip_refusal(action) != VIP_SEEN {
                            wrong.note(
                                decision.outcome == vip_refusal(action) && isEqual(decision.address, address(asked))
                                    && decision.remember | decision.forget == 0, what)
                            continue
                        }
                        // UDP on :: without a port stays there.
                        let stays = place == VIP_DUAL_WILDCARD && !isStream && !hasPort
                        let granted = stays ? asked : granted(family, Self.v4, action, asked: asked)
                        let isDual = place == VIP_DUAL_WILDCARD && features & v != 0 && !stays && !excluded
                        wrong.note(
                            decision.outcome == VIP_SEEN && text(decision.address) == granted
                                && (bind.is_dual != 0) == isDual, what)
                        let isOnAddress = granted == Self.v4.virtualIP(family)
                        let isInterfaces = place == VIP_HOST_ADDRESS || place == VIP_OTHER_ADDRESS
                        var remember: UInt32 = 0
                        if place == VIP_OWN_ADDRESS || isInterfaces && isOnAddress {
                            remember = VIP_SOCKET_NAMED_ADDRESS.rawValue
                        } else if place == VIP_WILDCARD, granted == Self.v4.loopback(family) {
                            remember = VIP_SOCKET_WILDCARD.rawValue
                        } else if isDual {
                            remember = VIP_SOCKET_DUAL.rawValue
                        }
                        let isNamed =
                            [VIP_LOCALHOST, VIP_OWN_LOOPBACK, VIP_OWN_ADDRESS].contains(place)
                            || isInterfaces && granted != asked
                        if !hasPort, isNamed { remember |= VIP_SOCKET_NAMED_SOURCE.rawValue }
                        wrong.note(decision.remember == remember, "\(what): remembers \(decision.remember)")
                        let isServer = family == VIP_INET6 && isStream && hasPort
                        let onLoopback =
                            isDual || granted == Self.v4.loopback(VIP_INET6) || place == VIP_OWN_LOOPBACK
                        // A dual-stack server that prefers the loopback is not at VIP6.
                        let onAddress =
                            isDual && features & p == 0 || granted == Self.v4.virtualIP(VIP_INET6)
                            || place == VIP_OWN_ADDRESS
                        wrong.note(
                            (bind.on_loopback != 0) == (isServer && onLoopback)
                                && (bind.on_address != 0) == (isServer && onAddress), "\(what): clashes")
                    }
                }
            }
        }
        #expect(wrong.cases.isEmpty)
    }

    /// The source of a connection, in the order of the contract.
    @Test(arguments: families) func everySource(family: vip_family) {
        let isolation = VIP_POLICY_ISOLATION.rawValue
        let owners = [VIP_OWNER_NOBODY, VIP_OWNER_HOST, VIP_OWNER_SESSION, VIP_OWNER_BROADCAST]
        let bounds = family == VIP_INET6 ? ["2001:db8::17", "ff02::1"] : ["10.20.0.17", "224.0.0.1"]
        var wrong = Wrong()
        for source in [VIP_AS_ASKED, VIP_TO_ADDRESS, VIP_TO_LOOPBACK, VIP_TO_LOCALHOST] {
            for place in places {
                for owner in owners {
                    for local in bounds {
                        for choice in 0..<32 {
                            var route = vip_route()
                            route.form = family
                            route.own = Self.v4.own(family)
                            route.source = source
                            route.source_addr = address(granted(family, Self.v4, source, asked: wildcard(family)))
                            var bound = vip_bound()
                            bound.address = address(local)
                            bound.`class` = place
                            bound.owner = owner
                            let (hasPort, isOther, isNamed) = (choice & 1 != 0, choice & 2 != 0, choice & 4 != 0)
                            bound.has_port = hasPort ? 1 : 0
                            bound.is_other_form = isOther ? 1 : 0
                            bound.is_named = isNamed ? 1 : 0
                            let isIsolated = choice & 8 != 0
                            let isOwn = [VIP_OWN_ADDRESS, VIP_OWN_LOOPBACK, VIP_LOCALHOST].contains(place)
                            let features = choice & 16 != 0 ? v : 0
                            let isRefused =
                                isIsolated && (place == VIP_OTHER_ADDRESS || place == VIP_OTHER_LOOPBACK)
                                || place == VIP_NOT_LOCAL && features != 0
                            let missing = source == VIP_TO_ADDRESS ? VIP_SOURCE_MISSING : VIP_SOURCE_KEEP
                            let expected: vip_source_decision =
                                if isOther, hasPort || family != VIP_INET6 {
                                    VIP_SOURCE_KEEP
                                } else if hasPort {
                                    if isOwn {
                                        VIP_SOURCE_KEEP
                                    } else if place == VIP_WILDCARD || owner == VIP_OWNER_BROADCAST
                                        || local == bounds[1]
                                    {
                                        missing
                                    } else {
                                        isRefused ? VIP_SOURCE_OTHERS : VIP_SOURCE_KEEP
                                    }
                                } else if isRefused {
                                    VIP_SOURCE_OTHERS
                                } else if place == VIP_WILDCARD ? source == VIP_AS_ASKED : !isOwn || isNamed {
                                    VIP_SOURCE_KEEP
                                } else {
                                    text(route.source_addr) == local ? VIP_SOURCE_KEEP : VIP_SOURCE_BIND
                                }
                            let decided = vip_decide_source(
                                &route, &bound, features, isIsolated ? isolation : 0)
                            wrong.note(
                                decided == expected,
                                "\(name(source)) from \(name(place)) \(local), owner \(owner.rawValue), \(choice)")
                        }
                    }
                }
            }
        }
        #expect(wrong.cases.isEmpty)
    }

    @Test func sourceThatCannotBeBound() {
        var route = vip_route()
        for form in families {
            route.form = form
            for v6only: Int32 in [0, 1] {
                route.source = VIP_TO_ADDRESS
                let isKernels = form == VIP_MAPPED && v6only == 1  // which returns ENETUNREACH
                #expect(vip_source_failed(&route, v6only) == (isKernels ? VIP_SOURCE_KEEP : VIP_SOURCE_MISSING))
                route.source = VIP_TO_LOOPBACK
                #expect(vip_source_failed(&route, v6only) == VIP_SOURCE_KEEP)
            }
        }
    }

    @Test(
        arguments: [
            // the source, whenUnavailable: useHostAddress, the outcome of a connect to another host
            (VIP_SOURCE_OTHERS, false, VIP_REFUSED_ISOLATION), (VIP_SOURCE_OTHERS, true, VIP_REFUSED_ISOLATION),
            (VIP_SOURCE_MISSING, false, VIP_REFUSED_UNAVAILABLE), (VIP_SOURCE_MISSING, true, VIP_UNADDRESSED),
            (VIP_SOURCE_BIND, false, VIP_REWRITTEN), (VIP_SOURCE_KEEP, false, VIP_REWRITTEN),
        ] as [(vip_source_decision, Bool, vip_outcome)])
    func outcomeOfConnect(source: vip_source_decision, usesHost: Bool, expected: vip_outcome) {
        for family in families {
            let asked = family == VIP_INET6 ? "2001:db8::99" : "192.0.2.99"
            var facts = facts(
                family, asked: asked, VIP_ELSEWHERE, features: v,
                flags: usesHost ? VIP_POLICY_USE_HOST_ADDRESS.rawValue : 0)
            var route = vip_route_of(family, family, &facts, VIP_AS_ASKED)
            #expect(vip_connect_outcome(&facts, &route, source) == expected)
            // Without V, the kernel chooses the source, and nothing changes.
            facts.features = 0
            facts.unchanged = VIP_UNADDRESSED
            route = vip_route_of(family, family, &facts, VIP_AS_ASKED)
            #expect(vip_connect_outcome(&facts, &route, VIP_SOURCE_KEEP) == VIP_UNADDRESSED)
        }
    }

    /// ::1 by a mapped address: from there on, everything has that form, and it is noted for the socket.
    @Test func routeInAnotherForm() {
        for (action, expected) in [(VIP_TO_MAPPED_LOOPBACK, "127.0.0.8"), (VIP_TO_MAPPED_ADDRESS, "10.20.0.17")] {
            for asked in [VIP_LOCALHOST, VIP_WILDCARD] {
                for (features, source) in [(v | l, "127.0.0.8"), (v, "127.0.0.1"), (l, "127.0.0.8")] {
                    var facts = facts(VIP_INET6, asked: "::1", asked, features: features)
                    #expect(vip_form_of(VIP_INET6, action) == VIP_MAPPED)
                    let route = vip_route_of(VIP_INET6, VIP_MAPPED, &facts, action)
                    #expect(vip_is_mapped(route.address) != 0 && text(route.address) == expected)
                    #expect(vip_is_mapped(route.source_addr) != 0 && text(route.source_addr) == source)
                    #expect(route.remember == VIP_SOCKET_MAPPED_PEER.rawValue)
                }
            }
        }
        for family in [VIP_INET4, VIP_MAPPED] { #expect(vip_form_of(family, VIP_TO_MAPPED_LOOPBACK) == family) }
    }

    /// The name of the peer at the client, from what connect has noted.
    @Test(arguments: families) func connectRemembersItsPeer(family: vip_family) {
        let virtualIP = Self.v4.virtualIP(family) ?? ""
        let loopback = Self.v4.loopback(family)
        // requested, the class, the action, the local address, the peer's name
        let rows: [(String, Place, vip_action, String, String)] = [
            (virtualIP, VIP_OWN_ADDRESS, VIP_AS_ASKED, loopback, virtualIP),
            (virtualIP, VIP_OWN_ADDRESS, VIP_AS_ASKED, virtualIP, virtualIP),
            (localhost(family), VIP_LOCALHOST, VIP_TO_ADDRESS, virtualIP, localhost(family)),
            (localhost(family), VIP_LOCALHOST, VIP_TO_ADDRESS, loopback, localhost(family)),
            (localhost(family), VIP_LOCALHOST, VIP_TO_LOOPBACK, loopback, localhost(family)),
        ]
        for (asked, place, to, local, name) in rows {
            var facts = facts(family, asked: asked, place, features: v | l, local: local)
            var route = vip_route_of(family, family, &facts, to)
            var own = Self.v4.own(family)
            facts.state = vip_peer_state(&route, vip_class(family, &own, address(local)))
            facts.user_addr = route.address
            let shown = vip_decide_peer_name(family, &facts, route.address)
            #expect(text(shown.address) == name, "\(asked) from \(local)")
        }
    }

    /// 127.0.1.1 by way of a session's address: from there on it is as 127.0.0.1, but its name.
    @Test(arguments: [VIP_INET4, VIP_MAPPED]) func theRestOfTheLoopback(family: vip_family) {
        for (to, destination) in [(VIP_TO_ADDRESS, "10.20.0.17"), (VIP_TO_LOOPBACK, "127.0.0.8")] {
            for (features, source) in [(v, "127.0.0.1"), (v | l, "127.0.0.8"), (0, "127.0.0.8")] {
                var facts = facts(family, asked: "127.0.1.1", VIP_LOOPBACK_REST, features: features)
                var route = vip_route_of(family, family, &facts, to)
                #expect(route.asked == VIP_LOCALHOST)
                #expect(text(route.address) == destination && text(route.source_addr) == source)
                #expect(route.remember == VIP_SOCKET_ASKED_PEER.rawValue)
                #expect(route.peer == address("127.0.1.1").word.3)
                // A server on the wildcard that is itself a client: its datagrams come from the loopback, too.
                facts.local_addr = address("10.20.0.17")
                let datagram = vip_decide_datagram(family, &facts, &route, VIP_OWN_ADDRESS, 0)
                #expect(text(datagram.source) == source)
                // The client's peer has the name that was asked for; its own name and the server's are 127.0.0.1.
                facts.user_addr = route.address
                facts.local_addr = route.source_addr
                #expect(text(vip_decide_peer_name(family, &facts, route.address).address) == "127.0.0.1")
                facts.peer = route.peer
                #expect(text(vip_decide_peer_name(family, &facts, route.address).address) == "127.0.1.1")
                #expect(vip_peer_name_needs_state(family, &facts) != 0)
            }
            var facts = facts(family, asked: "127.0.1.1", VIP_LOOPBACK_REST, features: v | l)
            let route = vip_route_of(family, family, &facts, VIP_AS_ASKED)
            #expect(route.asked == VIP_LOOPBACK_REST && route.source == VIP_AS_ASKED && route.remember == 0)
        }
    }

    /// The source of a datagram, by its class and destination, with V alone.
    @Test(arguments: families) func sourceOfADatagram(family: vip_family) {
        let virtualIP = Self.v4.virtualIP(family) ?? ""
        let loopback = Self.v4.loopback(family)
        let host = family == VIP_INET6 ? "2001:db8::1" : "192.0.2.1"
        // the source before, its class, the destination's class, with V, with V and L; "=": unchanged
        let rows: [(String, Place, Place, String, String)] = [
            (wildcard(family), VIP_WILDCARD, VIP_ELSEWHERE, virtualIP, virtualIP),
            (wildcard(family), VIP_WILDCARD, VIP_OWN_LOOPBACK, localhost(family), loopback),
            (virtualIP, VIP_OWN_ADDRESS, VIP_ELSEWHERE, "=", "="),
            (virtualIP, VIP_OWN_ADDRESS, VIP_LOCALHOST, localhost(family), localhost(family)),
            (localhost(family), VIP_LOCALHOST, VIP_OWN_LOOPBACK, "=", loopback),
            (loopback, VIP_OWN_LOOPBACK, VIP_ELSEWHERE, virtualIP, virtualIP),
            (loopback, VIP_OWN_LOOPBACK, VIP_HOST_ADDRESS, "=", "="),
            (host, VIP_HOST_ADDRESS, VIP_ELSEWHERE, virtualIP, virtualIP),
            (host, VIP_HOST_ADDRESS, VIP_OWN_LOOPBACK, "=", "="),
            (host, VIP_ELSEWHERE, VIP_ELSEWHERE, "=", "="),
        ]
        for (before, place, asked, withV, withVL) in rows {
            for (features, expected) in [(v, withV), (v | l, withVL)] {
                let destination = family == VIP_INET6 ? "2001:db8::99" : "192.0.2.99"
                var facts = facts(family, asked: destination, asked, features: features, local: before)
                var route = vip_route_of(family, family, &facts, VIP_AS_ASKED)
                let decision = vip_decide_datagram(family, &facts, &route, place, 0)
                #expect(
                    text(decision.source) == (expected == "=" ? before : expected),
                    "\(name(place)) to \(name(asked)), features \(features)")
                // A peer that is connected to VIP must receive from that address.
                if place == VIP_OWN_ADDRESS {
                    let kept = vip_decide_datagram(family, &facts, &route, place, 1)
                    #expect(text(kept.source) == before)
                }
            }
        }
        for place in [VIP_OTHER_ADDRESS, VIP_OTHER_LOOPBACK] {
            for (flags, outcome) in [(0, VIP_SEEN), (VIP_POLICY_ISOLATION.rawValue, VIP_REFUSED_ISOLATION)] {
                var facts = facts(family, asked: host, VIP_ELSEWHERE, features: v, flags: flags, local: host)
                var route = vip_route_of(family, family, &facts, VIP_AS_ASKED)
                #expect(vip_decide_datagram(family, &facts, &route, place, 0).outcome == outcome)
            }
        }
    }

    /// An address of no interface: IPV6_PKTINFO, IPV6_FREEBIND.
    @Test func sourceThatIsNotLocal() {
        for (features, outcome) in [(0, VIP_SEEN), (v, VIP_REFUSED_ISOLATION), (l, VIP_SEEN)] {
            var facts = facts(
                VIP_INET6, asked: "2001:db8::99", VIP_ELSEWHERE, features: features, local: "2001:db8::dead")
            var route = vip_route_of(VIP_INET6, VIP_INET6, &facts, VIP_AS_ASKED)
            #expect(vip_decide_datagram(VIP_INET6, &facts, &route, VIP_NOT_LOCAL, 0).outcome == outcome)
            let end = address("2001:db8::17")
            let connected = vip_decide_connected_datagram(VIP_INET6, &facts, end, VIP_NOT_LOCAL)
            #expect((vip_is_refused(connected.outcome) != 0) == (outcome != VIP_SEEN))
        }
    }

    /// IP_PKTINFO on a connected socket.
    @Test(arguments: families) func sourceOfAConnectedDatagram(family: vip_family) {
        let virtualIP = Self.v4.virtualIP(family) ?? ""
        let host = family == VIP_INET6 ? "2001:db8::1" : "192.0.2.1"
        for place in places {
            for end in [virtualIP, Self.v4.loopback(family)] {
                for flags in [0, VIP_POLICY_ISOLATION.rawValue] {
                    var facts = facts(family, asked: wildcard(family), VIP_WILDCARD, flags: flags, local: host)
                    let decision = vip_decide_connected_datagram(family, &facts, address(end), place)
                    let isEnds =
                        place == VIP_WILDCARD || place == VIP_LOCALHOST
                        || place == VIP_HOST_ADDRESS && end == virtualIP
                    let isRefused = flags != 0 && (place == VIP_OTHER_ADDRESS || place == VIP_OTHER_LOOPBACK)
                    #expect(text(decision.source) == (isEnds ? end : host), "\(name(place))")
                    #expect((vip_is_refused(decision.outcome) != 0) == isRefused, "\(name(place))")
                }
            }
        }
    }

    /// getsockname without a peer under wildcardName: asRequested, from what bind has noted.
    @Test func wildcardByName() {
        let rows: [(vip_family, String, vip_socket_flag?, String)] = [
            (VIP_INET4, "10.20.0.17", nil, "0.0.0.0"),
            (VIP_INET4, "10.20.0.17", VIP_SOCKET_NAMED_ADDRESS, "10.20.0.17"),
            (VIP_INET4, "127.0.0.8", VIP_SOCKET_WILDCARD, "0.0.0.0"), (VIP_INET4, "127.0.0.8", nil, "127.0.0.1"),
            (VIP_INET6, "2001:db8::17", nil, "::"), (VIP_INET6, "fdd2:9088:43af::8", VIP_SOCKET_WILDCARD, "::"),
            (VIP_INET6, "fdd2:9088:43af::8", nil, "::1"), (VIP_MAPPED, "10.20.0.17", VIP_SOCKET_DUAL, "::"),
            (VIP_MAPPED, "127.0.0.8", VIP_SOCKET_DUAL, "::"), (VIP_MAPPED, "10.20.0.17", nil, "0.0.0.0"),
            (VIP_MAPPED, "127.0.0.8", VIP_SOCKET_MAPPED_PEER, "::1"),
        ]
        for (family, name, flag, expected) in rows {
            var facts = facts(family, asked: name, VIP_ELSEWHERE, state: flag?.rawValue ?? 0)
            let shown = vip_decide_own_name(family, &facts, address(wildcard(family)), 1)
            #expect(text(shown.address) == expected, "\(name) \(String(describing: flag))")
        }
    }

    /// 0.0.0.0 is the socket's own address, if it has one that the program knows.
    @Test func destinationOfTheWildcard() {
        for family in families {
            var own = Self.v4.own(family)
            for local in [
                wildcard(family), localhost(family), Self.v4.loopback(family), Self.v4.virtualIP(family) ?? "",
            ] {
                #expect(vip_destination(family, &own, VIP_WILDCARD, address(local)) == VIP_WILDCARD)
            }
            let elsewhere = address(family == VIP_INET6 ? "2001:db8::99" : "192.0.2.99")
            let expected = family == VIP_INET6 ? VIP_WILDCARD : VIP_ITSELF
            #expect(vip_destination(family, &own, VIP_WILDCARD, elsewhere) == expected)
            #expect(vip_destination(family, &own, VIP_HOST_ADDRESS, elsewhere) == VIP_HOST_ADDRESS)
        }
    }
}
