// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Network
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import Leases

extension Trait where Self == ConditionTrait {
    /// The test needs root and these programs. Without them it is skipped; in CI it fails.
    static func needs(_ programs: String...) -> Self {
        .enabled("needs root and \(programs.joined(separator: ", "))") {
            let missing = programs.filter { name in
                !["/usr/sbin", "/usr/bin", "/sbin", "/bin"].contains { access("\($0)/\(name)", X_OK) == 0 }
            }
            if geteuid() == 0, missing.isEmpty { return true }
            if Privilege.mustRun { throw HarnessError("must run in CI: not root, or without \(missing)") }
            return false
        }
    }
}

extension Program {
    func send(_ line: String) throws { try write(line + "\n") }

    /// The next line; `nil` if none arrived in time or the output has ended.
    func line() -> String? { try? readLine() }

    /// Closes its input and waits. Returns the exit code, or 128 plus the signal.
    func finish() -> Int32 {
        closeInput()
        return (try? reap()) ?? -1
    }
}

/// The network of a test: clients on this side, a server on the other side. `link.sh` makes and removes it.
final class Link: @unchecked Sendable {  // used only on the test's thread
    let name: String
    let directory: String
    private let janitor: Program
    private static let count = Atomic(0)
    static let host: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]

    init() throws {
        name = "vip-lease-\(getpid())-\(Self.count.add(1, ordering: .relaxed).newValue)"
        directory = "/tmp/\(name)"
        janitor = try Program(["setsid", "/bin/sh", Self.file("link.sh"), name, directory])
        guard janitor.line() == "ready" else { throw HarnessError("link.sh \(name) did not get ready") }
    }

    static func file(_ name: String) -> String { SourceTree.url("Tests/System/dhcp/\(name)").path }

    /// Runs the body on a new thread in the clients' network namespace, and removes everything afterwards.
    static func with(_ body: @Sendable @escaping (Link) throws -> Void) async throws {
        try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
            Thread.detachNewThread {
                continuation.resume(
                    with: Result {
                        let link = try Link()
                        var left: Set<pid_t> = []
                        let result = Result {
                            try enter("/run/netns/\(link.name)")
                            try body(link)
                            // link.sh kills those that still run; this process must reap them.
                            left = try zombies().union(link.clients())
                        }
                        guard link.janitor.finish() == 0 else { throw HarnessError("link.sh left something") }
                        try result.get()
                        try link.waitFor("the end of zombies") { try zombies().isDisjoint(with: left) }
                    })
            }
        }
    }

    /// Children of this process that have ended and were not reaped.
    private static func zombies() throws -> Set<pid_t> {
        Set(
            try FileManager.default.contentsOfDirectory(atPath: "/proc").compactMap { pid_t($0) }.filter { pid in
                // PID (name) state parent: proc_pid_stat(5).
                let text = (try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8)) ?? ""
                let fields = text.split(separator: ")").last?.split(separator: " ") ?? []
                return fields.count > 1 && fields[0] == "Z" && fields[1] == "\(getpid())"
            })
    }

    private static func enter(_ path: String) throws {
        typealias SetNS = @convention(c) (CInt, CInt) -> CInt
        // setns(2) needs _GNU_SOURCE, so Swift does not import it.
        let setns = unsafeBitCast(try #require(dlsym(nil, "setns")), to: SetNS.self)
        let file = open(path, O_RDONLY | O_CLOEXEC)
        defer { close(file) }
        try #require(setns(file, 0x4000_0000) == 0, "CLONE_NEWNET, linux/sched.h")
    }

    /// Runs a shell command on the server's side, or on this side.
    @discardableResult
    func sh(_ script: String, atServer: Bool = false) throws -> String {
        let program = try Program(
            ["nsenter", "--net=/run/netns/\(name)\(atServer ? "-s" : "")", "sh", "-ec", "exec 2>&1; \(script)"])
        var text = ""
        while let line = program.line() { text += line + "\n" }
        guard program.finish() == 0 else { throw HarnessError("\(script): \(text)") }
        return text
    }

    // MARK: Servers

    func serve(_ command: [String], log: String = "server.log") throws -> Program {
        try Program(["nsenter", "--net=/run/netns/\(name)-s"] + command, errorsTo: "\(directory)/\(log)")
    }

    /// dnsmasq, whose leases last at least 120 s.
    func dnsmasq(_ more: String..., from first: String = "198.18.1.10", to last: String = "198.18.1.100") throws
        -> Program
    {
        let server = try serve(
            DHCPServer.dnsmasq(in: directory, from: first, to: last, mask: "255.255.0.0", more))
        try waitFor("dnsmasq") { text("server.log").contains("DHCP, IP range") }
        return server
    }

    /// - Parameter seconds: the time of the leases.
    func kea(seconds: Int, pool: String = "198.18.1.10 - 198.18.1.100") throws -> Program {
        let server = try serve(
            DHCPServer.kea(in: directory, seconds: seconds, pool: pool, subnet: "198.18.0.0/16"))
        try waitFor("kea") { text("kea.log").contains("DHCP4_STARTED") }
        return server
    }

    func hostile(_ behaviour: String) throws -> Program {
        let server = try serve(["python3", Self.file("hostile.py")])
        guard server.line() == "ready" else { throw HarnessError("hostile.py: \(text("server.log"))") }
        _ = try tell(server, behaviour)
        return server
    }

    /// - Returns: the messages that the server got before it changed its behaviour.
    @discardableResult
    func tell(_ server: Program, _ behaviour: String) throws -> [String] {
        try server.send(behaviour)
        var lines: [String] = []
        while let line = server.line() {
            if line == "done" { return lines }
            lines.append(line)
        }
        throw HarnessError("hostile.py: \(text("server.log"))")
    }

    func text(_ name: String) -> String { (try? String(contentsOfFile: "\(directory)/\(name)", encoding: .utf8)) ?? "" }

    func waitFor(_ what: String, _ condition: () throws -> Bool) throws {
        try wait(for: "\(what); log: \(text("server.log"))", until: condition)
    }

    // MARK: Clients

    func options(_ change: (inout UDHCPCLeases.Options) -> Void = { _ in }) -> UDHCPCLeases.Options {
        var options = UDHCPCLeases.Options(
            interface: "eth0", state: FilePath("\(directory)/state"), runtime: FilePath("\(directory)/run"),
            host: Self.host)
        options.tries = 2
        options.interval = 1
        change(&options)
        return options
    }

    func source(
        _ events: Events = Events(), _ change: (inout UDHCPCLeases.Options) -> Void = { _ in }
    ) throws -> UDHCPCLeases {
        try UDHCPCLeases(options(change)) { events.take($0) }
    }

    /// The clients that run here.
    func clients() throws -> [pid_t] {
        try sh("ip netns pids \(name)").split(separator: "\n").compactMap { pid_t($0) }.filter { pid in
            ((try? String(contentsOfFile: "/proc/\(pid)/comm", encoding: .utf8)) ?? "").hasPrefix("udhcpc")
                || ((try? String(contentsOfFile: "/proc/\(pid)/comm", encoding: .utf8)) ?? "").hasPrefix("busybox")
        }
    }
}

/// The events in order. It places addresses on eth0 and removes them, as for a session.
final class Events: Sendable {
    private let all = Mutex<[(at: Double, event: LeaseEvent)]>([])
    private let next = Mutex(0)
    private let failures = Mutex<[String]>([])
    private let places: Bool

    init(places: Bool = true) { self.places = places }

    func take(_ event: LeaseEvent) {
        if places {
            do {
                let netlink = try Netlink()
                switch event {
                case .bound(let lease): _ = try netlink.add(lease.address, at: AddressPlace("eth0"))
                case .changed(let lease, let from):
                    _ = try netlink.remove(from, at: AddressPlace("eth0"))
                    _ = try netlink.add(lease.address, at: AddressPlace("eth0"))
                case .lost(_, let address, _), .released(_, let address):
                    _ = try netlink.remove(address, at: AddressPlace("eth0"))
                default: break
                }
            } catch {
                failures.withLock { $0.append("\(event): \(error)") }
            }
        }
        all.withLock { $0.append((LeaseClock.now, event)) }
    }

    var list: [LeaseEvent] { all.withLock { $0.map(\.event) } }
    var trouble: [String] { failures.withLock { $0 } }

    func count(_ isIt: (LeaseEvent) -> Bool) -> Int { list.filter(isIt).count }

    /// The next event that matches, with the time of its arrival. Events before it are skipped.
    func await<T>(within patience: Double = hang / .seconds(1), _ pick: (LeaseEvent) -> T?) throws -> (T, at: Double) {
        let deadline = LeaseClock.now + patience
        while true {
            let found: (T, at: Double)? = all.withLock { all in
                next.withLock { next in
                    while next < all.count {
                        defer { next += 1 }
                        if let picked = pick(all[next].event) { return (picked, at: all[next].at) }
                    }
                    return nil
                }
            }
            if let found { return found }
            guard LeaseClock.now < deadline else { throw HarnessError("no such event; there were \(list)") }
            usleep(10_000)
        }
    }
}

extension LeaseEvent {
    var bound: Lease? { if case .bound(let lease) = self { lease } else { nil } }
    var renewed: Lease? { if case .renewed(let lease) = self { lease } else { nil } }
    var changed: (Lease, from: IPAddress)? {
        if case .changed(let lease, let from) = self { (lease, from) } else { nil }
    }
    var lost: LeaseLoss? { if case .lost(_, _, let loss) = self { loss } else { nil } }
    var refused: (String, why: String)? { if case .refused(_, let text, let why) = self { (text, why) } else { nil } }
    var troubled: String? { if case .troubled(_, _, let why) = self { why } else { nil } }
    var released: IPAddress? { if case .released(_, let address) = self { address } else { nil } }
}
