// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import Host
@testable import Network

/// A host on the other end of eth0: `Tests/Tools/neighbour/neighbour.py` in a network namespace of its own.
private final class OtherHost {
    private let program: Child
    /// The hardware addresses of the two ends.
    let own: HardwareAddress
    let other: HardwareAddress

    /// Makes eth0 between the calling thread's network namespace, which has 192.0.2.1/24, and the other host,
    /// 192.0.2.2/24.
    init() throws {
        let script = URL(filePath: #filePath).deletingLastPathComponent()
            .appending(path: "../../Tools/neighbour/neighbour.py").standardized.path
        program = try Child(
            "unshare", "--net", "sh", "-c",
            """
            echo here; read _
            ip link set lo up; ip address add 192.0.2.2/24 dev eth0; ip link set eth0 up
            exec python3 "$0" eth0
            """, script)
        #expect(try program.line() == "here")
        try shell(
            """
            ip link set lo up
            ip link add eth0 address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns \(program.pid)
            ip address add 192.0.2.1/24 dev eth0; ip link set eth0 up
            """)
        try program.send("\n")
        own = try #require(HardwareAddress(bytes: [2, 0, 0, 0, 0, 1]))
        other = try #require(HardwareAddress(bytes: [2, 0, 0, 0, 0, 2]))
        #expect(try program.line() == "ready")
        let netlink = try Netlink()
        try wait(for: "eth0 to come up") {
            try netlink.interfaces().values.contains { $0.name == "eth0" && $0.hasNeighbours }
        }
        // Its kernel takes advertisements only when its IPv6 is ready, after duplicate address detection.
        try sh(
            """
            for round in $(seq 3000); do
                ! ip -6 address show dev eth0 scope link -tentative | grep -q inet6 || exit 0
                sleep 0.1
            done
            exit 1
            """)
    }

    /// Runs a script on the other host.
    func sh(_ script: String) throws {
        try #require(
            Child("nsenter", "--target", "\(program.pid)", "--net", "sh", "-ec", script).wait() == 0, "\(script)")
    }

    /// Sends it a command.
    ///
    /// - Returns: what it received before.
    @discardableResult
    func tell(_ line: String) throws -> [String] {
        try program.send(line + "\n")
        var seen: [String] = []
        while true {
            let next = try program.line()
            if next == "done" { return seen }
            if next.isEmpty { throw TestFailure("neighbour.py has ended") }
            seen.append(next)
        }
    }

    /// What it has received, without the IPv4 traffic between the two hosts themselves.
    func seen() throws -> [String] {
        try tell("nothing").filter { !$0.hasSuffix("192.0.2.1") && !$0.hasSuffix("192.0.2.2") }
    }

    /// The same, after this many packets.
    func seen(count: Int) throws -> [String] {
        var lines: [String] = []
        try wait(for: "the neighbour to see \(count) frames") {
            lines += try seen()
            return lines.count >= count
        }
        return lines
    }

    /// Waits until it has received a line.
    func waitFor(_ line: String) throws {
        try wait(for: "the neighbour to see \(line)") { try seen().contains(line) }
    }
}

private struct TestFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

private func question(_ address: String, on interface: String = "eth0") -> AddressProbe.Question {
    .init(IPAddress(address)!, on: interface)
}

@Suite(.requiresRoot) struct AddressProbeLinkTests {
    @Test func nobodyHasIt() async throws {
        try await inNetworkNamespace {
            let host = try OtherHost()
            var answers = AddressProbe.Answers()
            let taken = ContinuousClock().measure { answers = AddressProbe().ask([question("192.0.2.7")], seconds: 2) }
            #expect(answers.taken.isEmpty && answers.failures.isEmpty, "\(answers)")
            #expect(taken >= .seconds(2))
            // One question a second, without a sender address.
            #expect(try host.seen() == [String](repeating: "arp 1 \(host.own) 0.0.0.0 192.0.2.7", count: 2))
            // It is not in any table of the other host.
            try host.sh("! ip neigh show | grep 192.0.2.7")
        }
    }

    @Test func anotherHostHasIt() async throws {
        try await inNetworkNamespace {
            let host = try OtherHost()
            try host.sh("ip address add 192.0.2.7/32 dev eth0")
            var answers = AddressProbe.Answers()
            let taken = ContinuousClock().measure {
                // Only an answer ends it before the test counts as hanging.
                answers = AddressProbe().ask([question("192.0.2.7")], seconds: Int(hang / .seconds(1)))
            }
            #expect(answers.taken == [IPAddress("192.0.2.7")!: "\(host.other)"])
            #expect(answers.failures.isEmpty && taken < hang, "\(answers.failures) \(taken)")
        }
    }

    /// A probe of another host for the same address, a question from that address, and a reply to a third host.
    @Test(arguments: [
        "arp 1 02:00:00:00:00:99 0.0.0.0 PROBED", "arp 1 02:00:00:00:00:99 PROBED 192.0.2.200",
        "arp 2 02:00:00:00:00:99 PROBED 192.0.2.200",
    ]) func anotherHostSpeaksOfIt(line: String) async throws {
        try await inNetworkNamespace {
            let host = try OtherHost()
            try host.tell("respond \(line)")
            let answers = AddressProbe().ask([question("192.0.2.7")], seconds: 2)
            #expect(answers.taken == [IPAddress("192.0.2.7")!: "02:00:00:00:00:99"], "\(answers)")
        }
    }

    /// Packets that claim nothing: the host's own packet that comes back, one of another interface of this host, a
    /// question about the address by a host that has another one, claims of other addresses; and frames that are
    /// truncated or not ARP for IPv4.
    @Test func hostileOnesAreNotHeard() async throws {
        try await inNetworkNamespace {
            let host = try OtherHost()
            try shell("ip link add spare0 address 02:00:00:00:00:55 type veth peer name spare1")
            let header = "ffffffffffff0200000000990806"
            let claim = "0001080006040002020000000099c0000207000000000000c0000207"
            for line in [
                "arp 2 \(host.own) PROBED PROBED", "arp 1 02:00:00:00:00:55 PROBED PROBED",
                "arp 1 02:00:00:00:00:99 192.0.2.9 PROBED", "arp 2 02:00:00:00:00:99 192.0.2.8 PROBED",
                "arp 2 02:00:00:00:00:99 0.0.0.0 PROBED",
            ] + [0, 1, 8, 13, 20, 27].map({ "frame \(header)\(claim.prefix($0 * 2))" })
                + [
                    "frame \(header)0020\(claim.dropFirst(4))", "frame \(header)000186dd\(claim.dropFirst(8))",
                    "frame \(header)0001080008\(claim.dropFirst(10))",
                    "frame \(header)000108000610\(claim.dropFirst(12))",
                    "frame \(header)0001080006040009\(claim.dropFirst(16))",
                    // To another host.
                    "frame 020000000077\(header.dropFirst(12))\(claim)",
                    // Of a VLAN that eth0 is not in.
                    "frame \(header.dropLast(4))810000050806\(claim)",
                ]
            { try host.tell("respond \(line)") }
            let answers = AddressProbe().ask([question("192.0.2.7")], seconds: 1)
            #expect(answers.taken.isEmpty && answers.failures.isEmpty, "\(answers)")
            // The same claim, complete.
            try host.tell("respond frame \(header)\(claim)")
            #expect(AddressProbe().ask([question("192.0.2.7")], seconds: 1).taken.count == 1)
        }
    }

    @Test func aFloodDoesNotKeepIt() async throws {
        try await inNetworkNamespace {
            let host = try OtherHost()
            try host.tell("flood 60")
            let probe = AddressProbe()
            var answers = AddressProbe.Answers()
            let taken = ContinuousClock().measure {
                answers = probe.ask((10..<60).map { question("192.0.2.\($0)") }, seconds: 1)
            }
            #expect(answers.taken.isEmpty && answers.failures.isEmpty, "\(answers)")
            #expect(taken < hang, "\(taken)")
        }
    }

    /// All at the same time; no answer is lost.
    @Test func manyAtOnce() async throws {
        try await inNetworkNamespace {
            let host = try OtherHost()
            let all = (1...250).map { "198.51.100.\($0)" }
            let others = all.enumerated().filter { $0.offset % 2 == 0 }.map(\.element)
            try host.sh(
                "for a in \(others.joined(separator: " ")); do echo address add $a/32 dev eth0; done | ip -batch -")
            var answers = AddressProbe.Answers()
            let taken = ContinuousClock().measure { answers = AddressProbe().ask(all.map { question($0) }, seconds: 1) }
            #expect(Set(answers.taken.keys.map(\.description)) == Set(others))
            #expect(Set(answers.taken.values) == ["\(host.other)"])
            #expect(answers.failures.isEmpty && taken < hang, "\(answers.failures) \(taken)")
        }
    }

    @Test func whatCannotBeAsked() async throws {
        try await inNetworkNamespace {
            let host = try OtherHost()
            // Neither the loopback nor a tunnel is Ethernet.
            try shell("ip tuntap add tun0 mode tun; ip link set tun0 up")
            let passed = AddressProbe().ask(
                [question("192.0.2.7", on: "lo"), question("192.0.2.7", on: "tun0")], seconds: 1)
            #expect(passed.taken.isEmpty && passed.failures.isEmpty, "\(passed)")
            let gone = AddressProbe().ask([question("192.0.2.7", on: "nothing0")], seconds: 1)
            #expect(
                gone.failures.map(\.description) == [
                    "ask on nothing0 who has 192.0.2.7: no such device; see ip link"
                ])
            // The interface is set down during the wait.
            let down = try Child("sh", "-c", "sleep 0.5; ip link set eth0 down")
            let lost = AddressProbe().ask((7...9).map { question("192.0.2.\($0)") }, seconds: 9)
            down.wait()
            #expect(lost.failures.map(\.operation) == ["ask on eth0 who has 3 addresses"], "\(lost)")
            try shell("ip link set eth0 up")
            try dropCapabilities()
            let unprivileged = AddressProbe().ask([question("192.0.2.7"), question("192.0.2.8")], seconds: 9)
            #expect(
                unprivileged.failures.map(\.description) == [
                    "ask on eth0 who has 2 addresses: operation not permitted; grant CAP_NET_RAW, which root lacks here"
                ])
            _ = try host.seen()
        }
    }

    @Test func neighboursAreTold() async throws {
        try await inNetworkNamespace {
            let host = try OtherHost()
            try host.sh(
                """
                ip neigh replace 192.0.2.7 lladdr 02:00:00:00:00:99 nud stale dev eth0
                ip neigh replace 2001:db8::7 lladdr 02:00:00:00:00:99 nud stale dev eth0
                """)
            let told = [
                "arp 1 \(host.own) 192.0.2.7 192.0.2.7",
                "advertisement \(host.own) 255 20 2001:db8::7 2001:db8::7 "
                    + "\(host.own) True",
            ]
            AddressProbe().announce([question("192.0.2.7"), question("2001:db8::7")])
            try host.sh(
                """
                for address in 192.0.2.7 2001:db8::7; do
                    for try in $(seq 3000); do
                        ! ip neigh show $address dev eth0 | grep -q '\(host.own)' || continue 2
                        sleep 0.1
                    done
                    ip neigh show >&2
                    exit 1
                done
                """)
            #expect(try host.seen(count: 4).sorted() == [told[1], told[1], told[0], told[0]])

            let taken = ContinuousClock().measure {
                AddressProbe().announce([question("192.0.2.8")], interval: .milliseconds(300))
            }
            #expect(taken >= .milliseconds(300))
            #expect(try host.seen(count: 2) == [String](repeating: "arp 1 \(host.own) 192.0.2.8 192.0.2.8", count: 2))
            // Links without neighbours and a missing capability are no errors of announcements.
            AddressProbe().announce([question("192.0.2.7", on: "lo"), question("192.0.2.7", on: "nothing0")])
            try dropCapabilities()
            AddressProbe().announce([question("192.0.2.7")])
            #expect(try host.seen().isEmpty)
        }
    }
}

@Suite(.requiresRoot) struct ConflictWatchTests {
    /// The conflicts that a watch reports within a time.
    private static func conflicts(_ watch: ConflictWatch, within milliseconds: CInt = 300_000) -> [ConflictWatch
        .Conflict]
    {
        let end = ContinuousClock.now + .milliseconds(Int(milliseconds))
        while ContinuousClock.now < end {
            var file = pollfd(fd: watch.descriptor, events: Int16(POLLIN), revents: 0)
            poll(&file, 1, 50)
            let found = watch.drain()
            if !found.isEmpty { return found }
        }
        return []
    }

    @Test func anotherHostTakesTheAddress() async throws {
        try await inNetworkNamespace {
            let host = try OtherHost()
            let watch = try ConflictWatch(quietInterval: .seconds(5))
            #expect(watch.watch([question("192.0.2.7"), question("192.0.2.8"), question("2001:db8::7")]).isEmpty)
            #expect(watch.drain().isEmpty)
            try host.tell("arp 1 02:00:00:00:00:99 192.0.2.7 192.0.2.7")
            let found = Self.conflicts(watch)
            #expect(found.map(\.question) == [question("192.0.2.7")])
            #expect(found.map(\.hardwareAddress.description) == ["02:00:00:00:00:99"])
            // The address is defended once.
            try host.waitFor("arp 1 \(host.own) 192.0.2.7 192.0.2.7")

            // The same conflict, as long as it continues.
            for _ in 0..<4 {
                try host.tell("arp 2 02:00:00:00:00:98 192.0.2.7 192.0.2.200")
                #expect(Self.conflicts(watch, within: 400).isEmpty)
            }
            #expect(try !host.seen().contains { $0.contains("192.0.2.7 192.0.2.7") })
            // Afterwards there is a new conflict. Another address is another conflict in any case.
            try host.tell("arp 2 02:00:00:00:00:98 192.0.2.8 192.0.2.200")
            #expect(Self.conflicts(watch).map(\.question) == [question("192.0.2.8")])
            usleep(5_100_000)
            try host.tell("arp 2 02:00:00:00:00:98 192.0.2.7 192.0.2.200")
            #expect(Self.conflicts(watch).map(\.hardwareAddress.description) == ["02:00:00:00:00:98"])
        }
    }

    /// Probes and questions of other hosts, packets that this host sends on another interface, addresses that are not
    /// or no longer watched, malformed packets.
    @Test func whatIsNoConflict() async throws {
        try await inNetworkNamespace {
            let host = try OtherHost()
            let watch = try ConflictWatch()
            #expect(watch.watch([question("192.0.2.7"), question("192.0.2.8")]).isEmpty)
            #expect(watch.watch([question("192.0.2.7"), question("192.0.2.7", on: "lo")]).isEmpty)
            try shell("ip link add spare0 address 02:00:00:00:00:55 type veth peer name spare1")
            for line in [
                "arp 1 02:00:00:00:00:99 0.0.0.0 192.0.2.7", "arp 1 02:00:00:00:00:99 192.0.2.9 192.0.2.7",
                "arp 1 \(host.own) 192.0.2.7 192.0.2.7", "arp 1 02:00:00:00:00:55 192.0.2.7 192.0.2.7",
                "arp 1 02:00:00:00:00:99 192.0.2.8 192.0.2.8",
                "frame ffffffffffff02000000009908060001080006040002020000000099c0000207000000000000c00002",
            ] { try host.tell(line) }
            #expect(Self.conflicts(watch, within: 500).isEmpty)
            #expect(watch.watch([]).isEmpty)
            try host.tell("arp 1 02:00:00:00:00:99 192.0.2.7 192.0.2.7")
            #expect(Self.conflicts(watch, within: 300).isEmpty)
        }
    }

    /// The interface is set down and up, and created again with the same name.
    @Test func theInterfaceGoesAndComes() async throws {
        try await inNetworkNamespace {
            let watch = try ConflictWatch(quietInterval: .zero)
            for _ in 0..<2 {
                let host = try OtherHost()
                #expect(watch.watch([question("192.0.2.7")]).isEmpty)
                for _ in 0..<2 {
                    // Repeated until a frame arrives, because the other end may not be up yet.
                    var seen: [ConflictWatch.Conflict] = []
                    for _ in 0..<300 where seen.isEmpty {
                        try host.tell("arp 1 02:00:00:00:00:99 192.0.2.7 192.0.2.7")
                        seen = Self.conflicts(watch, within: 200)
                    }
                    #expect(seen.count == 1)
                    try shell("ip link set eth0 down")
                    while !watch.drain().isEmpty {}
                    #expect(Self.conflicts(watch, within: 100).isEmpty)
                    try shell(
                        "ip link set eth0 up; while ! ip link show eth0 | grep -q 'state UP'; do sleep 0.05; done")
                }
                try shell("ip link del eth0")
                #expect(Self.conflicts(watch, within: 100).isEmpty)
                // The descriptor is no longer readable.
                var file = pollfd(fd: watch.descriptor, events: Int16(POLLIN), revents: 0)
                #expect(poll(&file, 1, 0) == 0)
                #expect(watch.watch([question("192.0.2.7")]).isEmpty)
            }
        }
    }

    @Test func withoutTheCapability() async throws {
        try await inNetworkNamespace {
            let host = try OtherHost()
            let watch = try ConflictWatch()
            try dropCapabilities()
            #expect(
                watch.watch([question("192.0.2.7")]).map(\.description) == [
                    "watch eth0 for other hosts that use its addresses: operation not permitted; "
                        + "grant CAP_NET_RAW, which root lacks here"
                ])
            _ = try host.seen()
        }
    }
}
