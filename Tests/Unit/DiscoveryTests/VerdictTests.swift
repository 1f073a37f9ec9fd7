// SPDX-License-Identifier: Apache-2.0

import Network
import Policy
import SystemPackage
import Testing

@testable import Discovery

/// The conclusions of `discover` from what it has observed.
struct VerdictTests {
    private static let hosts = HostAddresses(
        own: [IPAddress("192.0.2.1")!], virtualIPs: [IPAddress("10.20.0.17")!],
        virtualLoopbacks: [IPAddress("127.0.0.8")!])

    private static func use(
        _ call: AddressUse.Call, _ transport: AddressUse.Transport, _ address: String, _ port: UInt16,
        asked: Bool = true,
        sharesPort: Bool? = false, sharesAddress: Bool? = false
    ) -> AddressUse {
        let address = IPAddress(address)!
        return AddressUse(
            call: call, transport: transport, addressClass: hosts.addressClass(of: address), address: address,
            port: port, isAsked: asked, sharesPort: sharesPort, sharesAddress: sharesAddress)
    }

    private static func program(
        _ name: String, path: String? = nil, script: String? = nil, _ uses: AddressUse...
    ) -> ObservedProgram {
        ObservedProgram(
            path: (path ?? "/usr/bin/\(name)").utf8.map { $0 }, name: Array(name.utf8),
            script: script.map { Array($0.utf8) }, opened: Set(uses))
    }

    private static func verdict(_ program: ObservedProgram, beside others: [ObservedProgram] = []) -> Verdict {
        Verdicts(on: [program] + others, ephemeral: 32768...60999).verdict(on: program)
    }

    @Test func classes() {
        for (address, want) in [
            ("0.0.0.0", AddressClass.wildcard), ("::", .wildcard), ("127.0.0.1", .loopback), ("::1", .loopback),
            ("127.0.0.53", .otherLoopback), ("127.0.0.8", .virtualLoopback), ("10.20.0.17", .virtualIP),
            ("192.0.2.1", .hostAddress), ("224.0.0.251", .elsewhere), ("203.0.113.9", .elsewhere),
        ] {
            #expect(Self.hosts.addressClass(of: IPAddress(address)!) == want, "\(address)")
        }
    }

    @Test(arguments: [
        ("0.0.0.0", 80, Verdict.Need.virtualIP, Verdict.Clash.yes), ("::", 80, .virtualIP, .yes),
        ("192.0.2.1", 80, .virtualIP, .yes), ("127.0.0.1", 80, .virtualLoopback, .yes),
        ("::1", 80, .virtualLoopback, .yes), ("127.0.0.53", 53, .neither, .yes), ("0.0.0.0", 0, .neither, .no),
        ("224.0.0.251", 5353, .neither, .no), ("10.20.0.17", 80, .virtualIP, .no),
        ("127.0.0.8", 80, .virtualLoopback, .no),
    ])
    func servers(_ address: String, _ port: UInt16, _ need: Verdict.Need, _ clash: Verdict.Clash) {
        let verdict = Self.verdict(Self.program("server", Self.use(.bind, .tcp, address, port)))
        #expect(verdict.need == need && verdict.clash == clash, "\(verdict)")
        #expect(verdict.clashesOn.isEmpty == (clash == .no) && !verdict.reason.isEmpty)
    }

    @Test func portsOfTheEphemeralRange() {
        // A port that was only seen is the kernel's choice. A requested one is requested by the next instance as well.
        #expect(Self.verdict(Self.program("a", Self.use(.bind, .udp, "0.0.0.0", 40000, asked: false))).need == .neither)
        #expect(Self.verdict(Self.program("b", Self.use(.bind, .udp, "0.0.0.0", 40000))).need == .virtualIP)
        var random = Self.program("c")
        for port in 40000..<40005 { random.opened.insert(Self.use(.bind, .udp, "0.0.0.0", UInt16(port))) }
        #expect(Self.verdict(random).need == .neither)
        random.opened.insert(Self.use(.bind, .udp, "0.0.0.0", 53))
        #expect(Self.verdict(random).clashesOn == ["UDP 0.0.0.0:53"])
    }

    @Test func sharedPorts() {
        #expect(Self.verdict(Self.program("a", Self.use(.bind, .tcp, "::", 80, sharesPort: true))).clash == .shared)
        #expect(Self.verdict(Self.program("b", Self.use(.bind, .udp, "::", 80, sharesAddress: true))).clash == .shared)
        #expect(Self.verdict(Self.program("c", Self.use(.bind, .tcp, "::", 80, sharesAddress: true))).clash == .yes)
    }

    @Test func clientsNeedWhatTheirServerNeeds() {
        let loopback = Self.program("inner", Self.use(.bind, .tcp, "127.0.0.1", 6379))
        let wide = Self.program("outer", Self.use(.bind, .tcp, "0.0.0.0", 80))
        let others = [loopback, wide]
        for (uses, need) in [
            ([Self.use(.connect, .tcp, "127.0.0.1", 6379)], Verdict.Need.virtualLoopback),
            ([Self.use(.connect, .tcp, "127.0.0.1", 80)], .virtualLoopback),
            ([Self.use(.connect, .tcp, "0.0.0.0", 80)], .virtualLoopback),
            ([Self.use(.connect, .udp, "127.0.0.1", 6379)], .neither),
            ([Self.use(.connect, .tcp, "127.0.0.1", 25)], .neither),
            ([Self.use(.connect, .tcp, "192.0.2.1", 80)], .virtualIP),
            ([Self.use(.connect, .tcp, "192.0.2.1", 6379)], .neither),
            ([Self.use(.connect, .tcp, "192.0.2.1", 80), Self.use(.connect, .tcp, "127.0.0.1", 6379)], .both),
        ] {
            var client = Self.program("client")
            client.opened = Set(uses)
            let verdict = Self.verdict(client, beside: others)
            #expect(verdict.need == need && verdict.clash == .no, "\(uses.map(\.text)): \(verdict)")
        }
    }

    @Test func interpretersAreSaid() {
        let use = Self.use(.bind, .tcp, "0.0.0.0", 80)
        for name in ["python3.11", "java", "perl5.36.0", "node", "bash", "busybox"] {
            #expect(Self.verdict(Self.program(name, use)).reason.contains("everything that it runs"), "\(name)")
        }
        for name in ["nginx", "pythonic", "shell-server", "node-exporter", "java-updater", "python3.11-config"] {
            #expect(!Self.verdict(Self.program(name, use)).reason.contains("everything"), "\(name)")
        }
        #expect(!Self.verdict(Self.program("python3.11", script: "crm.py", use)).reason.contains("everything"))
    }

    // MARK: The suggestion

    private static func suggestion(_ programs: [ObservedProgram], _ inForce: Policy = Policy()) -> PolicySuggestion {
        let verdicts = Verdicts(on: programs, ephemeral: 32768...60999)
        return PolicySuggestion(for: programs.map { ($0, verdicts.verdict(on: $0)) }, inForce: inForce)
    }

    @Test func addsToThePolicyInForce() throws {
        var inForce = Policy()
        inForce.virtualLoopback.enabled = true
        inForce.virtualLoopback.programs = [.name("old")]
        inForce.isolation = false
        let found = [
            Self.program("old", Self.use(.bind, .tcp, "127.0.0.1", 1)),
            Self.program("new", Self.use(.bind, .tcp, "127.0.0.1", 2), Self.use(.bind, .tcp, "0.0.0.0", 2)),
            Self.program("none", Self.use(.bind, .tcp, "0.0.0.0", 0)),
        ]
        let suggestion = Self.suggestion(found, inForce)
        #expect(suggestion.policy.virtualLoopback.programs == [.name("old"), .name("new")])
        #expect(suggestion.policy.virtualIP.programs == [.name("new")] && suggestion.policy.virtualIP.enabled)
        #expect(suggestion.additions.map(\.entry) == [.name("new")] && !suggestion.policy.isolation)
        #expect(try Policy.read(yaml: suggestion.text(), file: "test") == suggestion.policy)
    }

    @Test func leavesWhatIsEnough() throws {
        var inForce = Policy()
        inForce.virtualIP.enabled = true
        inForce.virtualIP.mode = .perSession
        inForce.virtualLoopback.enabled = true
        inForce.virtualLoopback.programs = [.everyProgram]
        let found = [
            Self.program("new", Self.use(.bind, .tcp, "127.0.0.1", 2), Self.use(.bind, .tcp, "0.0.0.0", 2))
        ]
        let suggestion = Self.suggestion(found, inForce)
        #expect(suggestion.policy == inForce && suggestion.additions.isEmpty)
        #expect(try suggestion.text().hasPrefix("# There is nothing to add."))
    }

    @Test func namesWhatCannotBeMistaken() {
        let use = Self.use(.bind, .tcp, "127.0.0.1", 2)
        let one = Self.program("crm", path: "/opt/one/crm", use)
        let two = Self.program("crm", path: "/opt/two/crm")
        let script = Self.program("python3.11", script: "crm.py", use)
        var foul = Self.program("foul", use)
        foul.name = [0x66, 0xff]
        foul.path = Array("/opt/".utf8) + foul.name
        var long = Self.program(String(repeating: "n", count: 63), use)
        long.path = nil
        let suggestion = Self.suggestion([one, two, script, foul, long])
        #expect(suggestion.policy.virtualLoopback.programs == [.path("/opt/one/crm"), .name("crm.py")])
        #expect(suggestion.remarks.count == 2, "\(suggestion.remarks)")
    }
}
