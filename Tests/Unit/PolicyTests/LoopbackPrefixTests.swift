// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Host
@testable import Network
@testable import Policy

@Suite struct LoopbackPrefixTests {
    @Test(arguments: ["fdd2:9088:43af::/96", "fdd2:9088:43af::/48", "fc00::/64", "fd00::1:2:3:0:0/96"])
    func reads(text: String) throws {
        let prefix = try LoopbackPrefix(text)
        #expect(prefix.description == text)
        #expect(prefix.local.length == 96 && prefix.local.network == prefix.network)
    }

    @Test(arguments: [
        ("fdd2:9088:43af::", "no length"), ("", "no length"), ("/96", "'' is not an IPv6 address"),
        ("10.0.0.0/96", "'10.0.0.0' is not an IPv6 address"), ("x/96", "'x' is not an IPv6 address"),
        ("2001:db8::/96", "not in fc00::/7"), ("fe00::/96", "not in fc00::/7"), ("fbff::/96", "not in fc00::/7"),
        ("fd00::/47", "'47' is not a length of 48 to 96"), ("fd00::/97", "'97' is not a length"),
        ("fd00::/128", "'128' is not a length"), ("fd00::/", "'' is not a length"), ("fd00::/+9", "'+9' is not"),
        ("fd00::/96/96", "'96/96' is not a length"), ("fd00::/96 ", "'96 ' is not a length"),
        ("fd00::1/96", "write fd00::/96"), ("fd00:0:0:1::/48", "write fd00::/48"),
    ])
    func refuses(text: String, why: String) throws {
        let failure = try #require(throws: Failure.self) { try LoopbackPrefix(text) }
        #expect(failure.code == .usage)
        #expect("\(failure)".contains(why), "\(failure)")
    }

    @Test func theLoopbackIsPrefixAndIDPlusOne() throws {
        let prefix = LoopbackPrefix.default
        #expect(prefix.description == "fdd2:9088:43af::/96")
        #expect(prefix.loopback(of: 7).description == "fdd2:9088:43af::8")
        #expect(prefix.loopback(of: 16_777_213).description == "fdd2:9088:43af::ff:fffe")
        #expect(prefix.contains(prefix.loopback(of: 0)))
        #expect(try !prefix.contains(#require(IPAddress("fdd2:9088:43af::1:0:0"))))
        #expect(try !prefix.contains(#require(IPAddress("10.0.0.1"))))
    }

    @Test func thePolicyHasOneForTheHost() throws {
        #expect(Policy().loopbackPrefix == .default)
        let policy = try Policy.read(
            yaml: "virtualLoopback: {prefix: 'fd00:1::/64'}\noverrides: [{name: a, virtualLoopback: {enabled: true}}]",
            file: "p.yaml")
        #expect(policy.loopbackPrefix.description == "fd00:1::/64")
        #expect(policy.overrides[0].virtualLoopback?.prefix == nil)
        let text = policy.yaml()
        #expect(text.matches(of: /prefix:/).count == 1, "\(text)")
        #expect(try Policy.read(yaml: text, file: "p.yaml") == policy)
        #expect(Policy().yaml().contains("prefix: fdd2:9088:43af::/96"))
    }
}
