// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import Foundation
import Glibc
import SystemPackage
import TestSupport
import Testing

/// An object of `vip-bpfctl watch --json`.
private struct WatchEvent: Decodable, CustomStringConvertible {
    let event: String
    let hook: String?
    let verdict: String?
    let reason: String?
    let errno: String?
    let askedAddress: String?
    let askedPort: Int?
    let gotAddress: String?
    let gotPort: Int?
    let sourceAddress: String?
    let session: UInt32?
    let pid: Int32?
    let uid: UInt32?
    let user: String?
    let program: String?
    let process: String?
    let `protocol`: String?
    let time: String?
    let cgroupId: UInt64?
    let count: UInt64?

    /// `bind4 rewritten 0.0.0.0:9000 -> 198.51.100.17:9000`, with the source and the reason if there are any.
    var description: String {
        let asked = "\(askedAddress ?? "?"):\(askedPort ?? -1)"
        let got = gotAddress.map { " -> \($0):\(gotPort ?? -1)" } ?? " -> \(errno ?? "?") \(reason ?? "?")"
        return
            "\(hook ?? event) \(verdict ?? "\(count ?? 0)") \(asked)\(got)\(sourceAddress.map { " from \($0)" } ?? "")"
    }
}

/// `vip-bpfctl watch`, running.
private final class Watcher {
    let program: Program

    /// Starts it and waits until the map shows that it listens.
    init(_ sandbox: Sandbox, _ arguments: String...) throws {
        program = try sandbox.start(
            [Build.controller.path, "watch"] + arguments, in: "control", environment: sandbox.controlEnvironment,
            errorOutput: true)
        let listening = "\"pid\" : \(program.pid),"
        try wait(for: "watch to listen") {
            try sandbox.mustCtl("map", "dump", "watchers", "--json").stdout.contains(listening)
        }
    }

    func next() throws -> WatchEvent {
        try JSONDecoder.snake.decode(WatchEvent.self, from: Data(program.readLine().utf8))
    }

    func next(_ count: Int) throws -> [WatchEvent] { try (0..<count).map { _ in try next() } }
}

/// The map `watchers`: the ends of the slots' leases, then the slots.
private struct RawWatchers: BitwiseCopyable, Sendable {
    var until: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    var slots: (RawWatcher, RawWatcher, RawWatcher, RawWatcher) = (.init(), .init(), .init(), .init())
}
private struct RawWatcher: BitwiseCopyable, Sendable {
    var filter: (UInt64, UInt64) = (0, 0)
    var written: UInt64 = 0
    var dropped: UInt64 = 0
}

/// The events that the hooks write for listeners, and the output of `watch`.
@Suite(.serialized, .requiresRoot)
struct WatchTests {
    static let rules = """
        virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0}}
        virtualLoopback: {enabled: true, programs: ["*"]}
        """

    /// A sandbox with the sessions of ann (7), ben (300) and poor (20), who has no virtual IP.
    private func sessions(_ policy: String = rules, _ body: (Sandbox) throws -> Void) throws {
        try Sandbox.with { sandbox in
            try sandbox.mustCtl(
                "attach", "cgroup", try sandbox.cgroup("attached"), "--policy", sandbox.policyFile(policy))
            _ = try sandbox.openSession("attached/ann", id: 7, ips: ["198.51.100.17", "2001:db8:51::17"])
            _ = try sandbox.openSession("attached/ben", id: 300, ips: ["198.51.100.18", "2001:db8:51::18"])
            _ = try sandbox.openSession("attached/poor", id: 20)
            try body(sandbox)
            _ = try sandbox.ctl("detach", "--all")
        }
    }

    /// The same with a listener to all events of ann, and a program of hers.
    private func watchingAnn(_ body: (Sandbox, Watcher, Probe) throws -> Void) throws {
        try sessions { sandbox in
            let watcher = try Watcher(sandbox, "--json", "--verdict", "all", "--session", "7")
            try body(sandbox, watcher, sandbox.probe("app", in: "attached/ann"))
        }
    }

    private func raw(_ sandbox: Sandbox) throws -> RawWatchers {
        let map: BPFMap<UInt32, RawWatchers> = try BPFMap(pinnedAt: FilePath("\(sandbox.bpffs)/maps/watchers"))
        return try #require(try map.value(of: 0))
    }

    /// The events of each call, in order.
    private func expect(
        _ watcher: Watcher, _ probe: Probe, _ rows: [(call: String, tells: [String])],
        location: SourceLocation = #_sourceLocation
    ) throws {
        for row in rows {
            try probe(row.call)
            for expected in row.tells {
                let event = try watcher.next()
                #expect("\(event)" == expected, "\(row.call)", sourceLocation: location)
                #expect(event.pid == probe.pid && event.program == "app" && event.uid == 0, "\(row.call)")
            }
        }
    }

    @Test("reports the calls of every IPv4 hook")
    func everyHook() throws {
        try watchingAnn { _, watcher, probe in
            try expect(
                watcher, probe,
                [
                    ("socket s tcp", []),
                    ("bind s 0.0.0.0 9000", ["bind4 rewritten 0.0.0.0:9000 -> 198.51.100.17:9000"]),
                    ("listen s", []),
                    ("socket c tcp", []),
                    (
                        "connect c 127.0.0.1 9000",
                        ["connect4 rewritten 127.0.0.1:9000 -> 198.51.100.17:9000 from 127.0.0.8"]
                    ),
                ])
            let port = try probe.kernelView("c").map { $0.local.split(separator: ":").last ?? "" } ?? ""
            try expect(
                watcher, probe,
                [
                    ("accept s a", ["getpeername4 rewritten 127.0.0.8:\(port) -> 127.0.0.1:\(port)"]),
                    ("getpeername c", ["getpeername4 rewritten 198.51.100.17:9000 -> 127.0.0.1:9000"]),
                    ("getsockname c", ["getsockname4 rewritten 127.0.0.8:\(port) -> 127.0.0.1:\(port)"]),
                    ("socket u udp", []),
                    ("bind u 127.0.0.1 9001", ["bind4 rewritten 127.0.0.1:9001 -> 127.0.0.8:9001"]),
                    ("socket v udp", []),
                    ("bind v 127.0.0.1 9002", ["bind4 rewritten 127.0.0.1:9002 -> 127.0.0.8:9002"]),
                    (
                        "sendto v 127.0.0.1 9001 x",
                        ["sendmsg4 rewritten 127.0.0.1:9001 -> 127.0.0.8:9001 from 127.0.0.8"]
                    ),
                    ("recvfrom u", ["recvmsg4 rewritten 127.0.0.8:9002 -> 127.0.0.1:9002"]),
                    ("socket r tcp", []),
                    ("bind r 127.0.1.45 9003", ["bind4 refused 127.0.1.45:9003 -> EADDRNOTAVAIL isolation"]),
                    ("connect r 127.0.1.45 9003", ["connect4 refused 127.0.1.45:9003 -> ECONNREFUSED peer"]),
                    ("bind r 239.1.2.3 9003", ["bind4 seen 239.1.2.3:9003 -> 239.1.2.3:9003"]),
                    ("socket w udp", []),
                    (
                        "sendto w 198.51.100.2 9004 x",
                        ["sendmsg4 rewritten 198.51.100.2:9004 -> 198.51.100.2:9004 from 198.51.100.17"]
                    ),
                ])
        }
    }

    @Test("reports the calls of every IPv6 hook")
    func everyHook6() throws {
        let loopback = "fdd2:9088:43af::8"
        try watchingAnn { sandbox, watcher, probe in
            try expect(
                watcher, probe,
                [
                    ("socket s tcp 6", []),
                    ("setsockopt s v6only 1", []),
                    ("bind s :: 9000", ["bind6 rewritten :::9000 -> 2001:db8:51::17:9000"]),
                    ("listen s", []),
                    ("socket c tcp 6", []),
                    ("connect c ::1 9000", ["connect6 rewritten ::1:9000 -> 2001:db8:51::17:9000 from \(loopback)"]),
                ])
            let port = try probe.kernelView("c").map { $0.local.split(separator: ":").last ?? "" } ?? ""
            try expect(
                watcher, probe,
                [
                    ("accept s a", ["getpeername6 rewritten \(loopback):\(port) -> ::1:\(port)"]),
                    ("getpeername c", ["getpeername6 rewritten 2001:db8:51::17:9000 -> ::1:9000"]),
                    ("getsockname c", ["getsockname6 rewritten \(loopback):\(port) -> ::1:\(port)"]),
                    ("socket d tcp 6", []),
                    ("bind d :: 9000", ["bind6 refused :::9000 -> EADDRINUSE in_use"]),
                    (
                        "bind d fdd2:9088:43af::12d 9003",
                        ["bind6 refused fdd2:9088:43af::12d:9003 -> EADDRNOTAVAIL isolation"]
                    ),
                    (
                        "connect d fdd2:9088:43af::12d 9003",
                        ["connect6 refused fdd2:9088:43af::12d:9003 -> ECONNREFUSED peer"]
                    ),
                    ("bind d :: 9005", ["bind6 rewritten :::9005 -> ::ffff:198.51.100.17:9005"]),
                    ("socket m tcp 6", []),
                    (
                        "bind m ::ffff:127.0.0.1 9006",
                        ["bind6 rewritten ::ffff:127.0.0.1:9006 -> ::ffff:127.0.0.8:9006"]
                    ),
                    ("socket u udp 6", []),
                    ("bind u ::1 9001", ["bind6 rewritten ::1:9001 -> \(loopback):9001"]),
                    ("socket v udp 6", []),
                    ("bind v ::1 9002", ["bind6 rewritten ::1:9002 -> \(loopback):9002"]),
                    ("sendto v ::1 9001 x", ["sendmsg6 rewritten ::1:9001 -> \(loopback):9001 from \(loopback)"]),
                    ("recvfrom u", ["recvmsg6 rewritten \(loopback):9002 -> ::1:9002"]),
                ])
            let counters = try sandbox.mustCtl("status", "--json").decode(Counted.self).counters
            #expect(
                counters.first { $0.hook == "bind6" }?.refusedFor
                    == ["isolation": 1, "unavailable": 0, "peer": 0, "in_use": 1, "unsupported": 0])
            #expect(counters.first { $0.hook == "connect6" }?.refusedFor["peer"] == 1)
            #expect(counters.first { $0.hook == "connect6" }?.rewritten == 1)
            #expect(counters.first { $0.hook == "recvmsg6" }?.seen == 1)
            // The listener is in the maps, with the number of its events.
            let dump = try sandbox.mustCtl("map", "dump", "watchers").stdout
            #expect(dump.contains("session 7") && dump.contains("written 14") && dump.contains("dropped 0"), "\(dump)")
            #expect(try sandbox.mustCtl("map", "dump", "watcher_rings").stdout.contains("slot 0  map_id "))
        }
    }

    @Test func sessionsWithoutAnAddress() throws {
        try sessions { sandbox in
            let watcher = try Watcher(sandbox, "--json")
            let probe = try sandbox.probe("app", in: "attached/poor")
            let calls = ["socket s tcp", "bind s 0.0.0.0 9000", "connect s 198.51.100.2 9"]
            for call in calls { try probe(call) }
            #expect(try "\(watcher.next())" == "bind4 refused 0.0.0.0:9000 -> EADDRNOTAVAIL unavailable")
            #expect(try "\(watcher.next())" == "connect4 refused 198.51.100.2:9 -> EADDRNOTAVAIL unavailable")
            let useHost = Self.rules.replacing("mode:", with: "whenUnavailable: useHostAddress, mode:")
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(useHost))
            for call in ["socket t tcp", "bind t 0.0.0.0 9000", "socket u tcp", "connect u 198.51.100.2 9"] {
                try probe(call)
            }
            #expect(try "\(watcher.next())" == "bind4 unaddressed 0.0.0.0:9000 -> 0.0.0.0:9000")
            #expect(try "\(watcher.next())" == "connect4 unaddressed 198.51.100.2:9 -> 198.51.100.2:9")
            // The counters agree.
            let status = try sandbox.mustCtl("status", "--json").decode(Counted.self)
            let bind = try #require(status.counters.first { $0.hook == "bind4" })
            #expect(bind.seen == 2 && bind.refused == 1 && bind.unaddressed == 1 && bind.rewritten == 0)
            #expect(bind.refusedFor == ["isolation": 0, "unavailable": 1, "peer": 0, "in_use": 0, "unsupported": 0])
        }
    }

    private struct Counted: Decodable {
        struct Hook: Decodable {
            let hook: String
            let seen, rewritten, unaddressed, refused: UInt64
            let refusedFor: [String: UInt64]
        }
        let counters: [Hook]
    }

    @Test func filters() throws {
        try sessions { sandbox in
            let all = try Watcher(sandbox, "--json")
            let ben = try Watcher(sandbox, "--json", "--session", "300")
            let app = try Watcher(sandbox, "--json", "--program", "app", "--count", "2")
            let refused = try Watcher(sandbox, "--json", "--verdict", "refused")
            // All four slots are in use.
            let fifth = try sandbox.ctl("watch")
            #expect(fifth.status == 1 && fifth.stderr.contains("\(all.program.pid)"), "\(fifth)")
            for (name, cgroup) in [("app", "ann"), ("tool", "ann"), ("app", "ben")] {
                let probe = try sandbox.probe(name, in: "attached/\(cgroup)")
                for call in ["socket s tcp", "bind s 0.0.0.0 9000", "socket t tcp", "bind t 239.1.2.3 1"] {
                    try probe.must(call)
                }
                if name == "tool" { _ = try probe("bind t 127.0.1.45 1") }
                probe.program.closeInput()
                try probe.program.wait()
            }
            let probe = try sandbox.probe("app", in: "attached/ann")
            for call in ["socket r tcp", "bind r 127.0.1.45 9003"] { try probe(call) }
            #expect(
                try all.next(4).map { "\($0.session ?? 0) \($0.program ?? "") \($0.verdict ?? "")" }
                    == ["7 app rewritten", "7 tool rewritten", "300 app rewritten", "7 app refused"])
            #expect(try ben.next().session == 300)
            #expect(try app.next(2).map(\.session) == [7, 300])
            #expect(try app.program.wait() == 0)
            #expect(try "\(refused.next())" == "bind4 refused 127.0.1.45:9003 -> EADDRNOTAVAIL isolation")
        }
    }

    /// A watcher that ends frees its slot. A killed one costs nothing once its lease is over.
    @Test("writes no event when there is no listener")
    func nobodyListens() throws {
        try sessions { sandbox in
            let probe = try sandbox.probe("app", in: "attached/ann")
            try probe.must("socket s tcp")
            #expect(try raw(sandbox).until == (0, 0, 0, 0))
            let watcher = try Watcher(sandbox, "--json")
            try probe("burst s 3 127.0.1.45 9003")
            _ = try watcher.next(3)
            #expect(try raw(sandbox).slots.0.written == 3)
            watcher.program.signal(SIGINT)
            #expect(try watcher.program.wait() == 0)
            #expect(watcher.program.errorText.isEmpty)
            try probe("burst s 10 127.0.1.45 9003")
            let ended = try raw(sandbox)
            #expect(ended.until == (0, 0, 0, 0) && ended.slots.0.written == 3 && ended.slots.0.dropped == 0)

            let killed = try Watcher(sandbox, "--json")
            killed.program.signal(SIGKILL)
            _ = try killed.program.wait()
            let until = try raw(sandbox).until.0
            #expect(until != 0)
            // A hook frees the slot once the lease is over; events of earlier calls are still written.
            try wait(for: "the slot to be free") {
                guard try raw(sandbox).until.0 != 0 else { return true }
                try probe("burst s 1 127.0.1.45 9003")
                return false
            }
            let written = try raw(sandbox).slots.0.written
            try probe("burst s 10 127.0.1.45 9003")
            #expect(try raw(sandbox).slots.0.written == written && raw(sandbox).slots.0.dropped == 0)
            // The next watcher takes the slot.
            let next = try Watcher(sandbox, "--json")
            try probe("burst s 1 127.0.1.45 9003")
            #expect(try next.next().reason == "isolation")
            #expect(try raw(sandbox).slots.0.written == 1)
        }
    }

    /// Events that do not fit into the ring buffer of a slow watcher are counted, and the number is reported.
    @Test("counts the events that a slow reader lost")
    func overflow() throws {
        try sessions { sandbox in
            let probe = try sandbox.probe("app", in: "attached/ann")
            try probe.must("socket s tcp")
            let watcher = try Watcher(sandbox, "--json")
            watcher.program.signal(SIGSTOP)
            let sent: UInt64 = 60_000  // the ring has room for some 23,000
            #expect(try probe("burst s \(sent) 127.0.1.45 9003").count == Int(sent))
            watcher.program.signal(SIGCONT)
            var calls: UInt64 = 0
            var lost: UInt64 = 0
            while calls + lost < sent {
                let event = try watcher.next()
                if event.event == "lost" { lost += event.count ?? 0 } else { calls += 1 }
            }
            #expect(calls + lost == sent && lost > 30_000 && calls > 20_000, "\(calls) \(lost)")
            watcher.program.signal(SIGTERM)
            #expect(try watcher.program.wait() == 0)
            #expect(watcher.program.errorText.contains("\(lost) events were lost"), "\(watcher.program.errorText)")
        }
    }

    /// A watcher that is stopped for longer than its lease reports the gap, and goes on.
    @Test("tells a watcher that was stopped for long that it missed events")
    func stoppedForLong() throws {
        try sessions { sandbox in
            let probe = try sandbox.probe("app", in: "attached/ann")
            try probe.must("socket s tcp")
            let watcher = try Watcher(sandbox, "--json")
            watcher.program.signal(SIGSTOP)
            var written = 0
            try wait(for: "the slot to be free") {
                guard try raw(sandbox).until.0 != 0 else { return true }
                try probe("burst s 1 127.0.1.45 9003")
                written = Int(try raw(sandbox).slots.0.written)
                return false
            }
            watcher.program.signal(SIGCONT)
            while try watcher.next().event == "call" { written -= 1 }  // the next event is "gap"
            #expect(written == 0)
            try probe("burst s 1 127.0.1.45 9004")
            #expect(try watcher.next().askedPort == 9004)
            watcher.program.signal(SIGTERM)
            #expect(try watcher.program.wait() == 0)
            #expect(watcher.program.errorText.contains("no events were recorded for"), "\(watcher.program.errorText)")
        }
    }

    /// A reader that stops reading costs the watcher no memory, and does not prevent its end.
    @Test("keeps no memory for a reader that stops, and still ends")
    func readerThatStops() throws {
        try sessions { sandbox in
            let probe = try sandbox.probe("app", in: "attached/ann")
            try probe.must("socket s tcp")
            let watcher = try Watcher(sandbox, "--json")
            func memory() throws -> Int {
                let status = try KernelFile.read("/proc/\(watcher.program.pid)/status")
                let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") })
                return try #require(Int(line.split(separator: " ")[1]))
            }
            try probe("burst s 100000 127.0.1.45 9003")
            let before = try memory()
            try probe("burst s 1000000 127.0.1.45 9003")
            #expect(try memory() - before < 4096, "KiB, after a million events")
            // Its output is full and is not read: it is in write(2).
            watcher.program.signal(SIGTERM)
            #expect(try watcher.program.wait() == 0)
            #expect(watcher.program.errorText.contains("events were lost"))
        }
    }

    /// With --for, all events of that time are written, including those that are still in the ring at its end.
    @Test("ends after the time that was asked for")
    func endsAfterATime() throws {
        try sessions { sandbox in
            let probe = try sandbox.probe("app", in: "attached/ann")
            try probe.must("socket s tcp")
            let watcher = try Watcher(sandbox, "--json", "--for", "3")
            watcher.program.signal(SIGSTOP)
            try probe("burst s 20000 127.0.1.45 9003")
            watcher.program.signal(SIGCONT)
            #expect(try watcher.program.wait() == 0)
            #expect(watcher.program.outputText.split(separator: "\n").count == 20000)
            #expect(watcher.program.errorText.isEmpty)
        }
    }

    @Test("ends when its reader closes the pipe")
    func closedPipe() throws {
        try sessions { sandbox in
            let probe = try sandbox.probe("app", in: "attached/ann")
            try probe.must("socket s tcp")
            // It closes the pipe after a line; no further event comes.
            let script = #"set -o pipefail; "$0" watch --json | { read -r line; echo "$line"; }"#
            let pipe = try sandbox.start(
                ["bash", "-c", script, Build.controller.path], in: "control",
                environment: sandbox.controlEnvironment, errorOutput: true)
            try wait(for: "watch to listen") { try raw(sandbox).slots.0.filter != (0, 0) }
            try probe("burst s 1 127.0.1.45 9003")
            #expect(try pipe.readLine().contains("\"isolation\""))
            #expect(try pipe.wait() == 0)
            #expect(pipe.errorText.isEmpty)
        }
    }

    /// A name may be anything: a line stays one line, and JSON stays valid.
    @Test("prints names of programs safely on one line")
    func crookedNames() throws {
        try sessions { sandbox in
            let json = try Watcher(sandbox, "--json")
            let table = try Watcher(sandbox)
            #expect(try table.program.readLine().hasPrefix("TIME "))
            try sandbox.sh(
                #"mkdir -p '\#(sandbox.directory)/x'; install -m 755 '\#(Build.probe.path)' "$(printf '%s/x/a\nb\033[31m"\\\377\342\200\256z' '\#(sandbox.directory)')""#
            )
            let script = #"exec "$0"/a*z socket s tcp , bind s 0.0.0.0 9000"#
            let program = try sandbox.start(
                ["/bin/sh", "-c", script, "\(sandbox.directory)/x"], in: "attached/ann")
            #expect(try program.wait() == 0)
            let event = try json.next()
            #expect(event.program == "a\nb\u{1b}[31m\"\\\u{fffd}\u{202e}z")
            let line = try table.program.readLine()
            #expect(line.contains("  a\\u{a}b\\u{1b}[31m\"\\\u{fffd}\\u{202e}z["), "\(line)")
            #expect(line.hasSuffix("0.0.0.0:9000           198.51.100.17:9000"), "\(line)")
            // There were no other lines, so each event was on one line.
            let probe = try sandbox.probe("app", in: "attached/ann")
            for call in ["socket r tcp", "bind r 127.0.1.45 9003"] { try probe(call) }
            #expect(try json.next().program == "app")
            #expect(try table.program.readLine().hasSuffix("127.0.1.45:9003        EADDRNOTAVAIL (isolation)"))
        }
    }

    @Test("refuses to watch when nothing is attached")
    func nothingToWatch() throws {
        try Sandbox.with { sandbox in
            let nothing = try sandbox.ctl("watch")
            #expect(nothing.status == 1 && nothing.stderr.contains("attach cgroup"), "\(nothing)")
            for arguments in [
                ["--session", "0"], ["--count", "0"], ["--for", "-1"], ["--for", "nan"], ["--verdict", "no"],
            ] {
                let result = try sandbox.ctl(["watch"] + arguments)
                #expect(result.status == 64 && result.stderr.split(separator: "\n").count == 1, "\(result)")
            }
            let path = try sandbox.cgroup("attached")
            try sandbox.mustCtl("attach", "cgroup", path, "--policy", sandbox.policyFile(Self.rules))
            let brief = try sandbox.ctl("watch", "--json", "--for", "0.1")
            #expect(brief.status == 0 && brief.stdout.isEmpty && brief.stderr.isEmpty, "\(brief)")
            try sandbox.mustCtl("detach", "cgroup", path)
            let detached = try sandbox.ctl("watch")
            #expect(detached.status == 1 && detached.stderr.contains("attach cgroup"), "\(detached)")
            try sandbox.mustCtl("detach", "--all")
        }
    }

    /// A cgroup that is detached and attached again is still watched. Without the maps, watching ends.
    @Test("ends when the hooks are detached")
    func detachedWhileWatching() throws {
        try sessions { sandbox in
            let watcher = try Watcher(sandbox, "--json")
            let probe = try sandbox.probe("app", in: "attached/ann")
            try probe.must("socket s tcp")
            try sandbox.mustCtl("detach", "cgroup", sandbox.attached)
            try sandbox.mustCtl("attach", "cgroup", sandbox.attached)
            try probe("bind s 127.0.1.45 9003")
            #expect(try watcher.next().verdict == "refused")
            try sandbox.mustCtl("detach", "--all")
            #expect(try watcher.program.wait() == 1)
            #expect(watcher.program.errorText.contains("detached in the meantime"), "\(watcher.program.errorText)")
            #expect(watcher.program.errorText.split(separator: "\n").count == 1)
        }
    }
}
