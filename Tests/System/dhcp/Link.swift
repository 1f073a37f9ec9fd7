// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Network
import Synchronization
import SystemPackage
import Testing

@testable import Leases

struct HarnessError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

extension Trait where Self == ConditionTrait {
    /// Runs as root where the programs are installed; elsewhere it is skipped, but in CI a failure.
    static func needs(_ programs: String...) -> Self {
        .enabled("needs root and \(programs.joined(separator: ", "))") {
            let missing = programs.filter { name in
                !["/usr/sbin", "/usr/bin", "/sbin", "/bin"].contains { access("\($0)/\(name)", X_OK) == 0 }
            }
            if geteuid() == 0, missing.isEmpty { return true }
            if getenv("CI") != nil { throw HarnessError("must run in CI: not root, or without \(missing)") }
            return false
        }
    }
}

/// A program with lines to its standard input and from its standard output; killed with the last reference.
final class Program {
    let pid: pid_t
    private var input: FileDescriptor?
    private let output: FileDescriptor
    private var bytes: [UInt8] = []
    private var status: CInt?

    init(_ command: [String], errorsTo log: String? = nil) throws {
        _ = Glibc.signal(SIGPIPE, SIG_IGN)
        let toChild = try FileDescriptor.pipe(options: .closeOnExec)
        let fromChild = try FileDescriptor.pipe(options: .closeOnExec)
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, toChild.readEnd.rawValue, 0)
        posix_spawn_file_actions_adddup2(&actions, fromChild.writeEnd.rawValue, 1)
        if let log { posix_spawn_file_actions_addopen(&actions, 2, log, O_WRONLY | O_CREAT | O_APPEND, 0o600) }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        var arguments = command.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var child: pid_t = 0
        let error = posix_spawnp(&child, command[0], &actions, &attributes, &arguments, environ)
        try toChild.readEnd.close()
        try fromChild.writeEnd.close()
        guard error == 0 else { throw HarnessError("\(command): \(String(cString: strerror(error)))") }
        pid = child
        input = toChild.writeEnd
        output = fromChild.readEnd
    }

    deinit {
        if status == nil { kill(pid, SIGKILL) }
        _ = finish()
        try? output.close()
    }

    var isRunning: Bool {
        var now: CInt = 0
        if status == nil, waitpid(pid, &now, WNOHANG) == pid { status = now }
        return status == nil
    }

    func send(_ line: String) throws { _ = try input?.writeAll((line + "\n").utf8) }

    /// The next line; `nil` where none came in time, or it has ended.
    func line(within patience: Double = 15) -> String? {
        let deadline = LeaseClock.now + patience
        let file = output.rawValue
        while true {
            if let end = bytes.firstIndex(of: UInt8(ascii: "\n")) {
                defer { bytes.removeSubrange(...end) }
                return String(decoding: bytes[..<end], as: UTF8.self)
            }
            var poll = pollfd(fd: file, events: Int16(POLLIN), revents: 0)
            let left = deadline - LeaseClock.now
            guard left > 0, Glibc.poll(&poll, 1, CInt(left * 1000 + 1)) > 0 else { return nil }
            var buffer = [UInt8](repeating: 0, count: 4096)
            let count = read(file, &buffer, buffer.count)
            guard count > 0 else { return nil }
            bytes += buffer[..<count]
        }
    }

    /// Ends its input and waits; the exit code, or 128 + the signal.
    func finish() -> Int32 {
        try? input?.close()
        input = nil
        var now: CInt = 0
        while status == nil {
            if waitpid(pid, &now, 0) == pid { status = now } else if errno != EINTR { return -1 }
        }
        let status = status ?? 0
        return status & 0x7f == 0 ? status >> 8 & 0xff : 128 + status & 0x7f
    }
}

/// The network of a test: clients here, a server there, `link.sh` between them and what is left behind.
final class Link: @unchecked Sendable {  // of the test's one thread
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

    static func file(_ name: String) -> String {
        URL(filePath: #filePath).deletingLastPathComponent().appending(path: name).path
    }

    /// Runs the body on a thread of its own that is in the clients' network namespace, and takes everything down.
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
                            // Those that run on are killed by link.sh, and this process is to reap them all the same.
                            left = try zombies().union(link.clients())
                        }
                        guard link.janitor.finish() == 0 else { throw HarnessError("link.sh left something") }
                        try result.get()
                        try link.waitFor("the end of zombies") { try zombies().isDisjoint(with: left) }
                    })
            }
        }
    }

    /// Children of this process that have ended, and that nobody has waited for.
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
        // setns(2) is hidden from Swift: it wants _GNU_SOURCE.
        let setns = unsafeBitCast(try #require(dlsym(nil, "setns")), to: SetNS.self)
        let file = open(path, O_RDONLY | O_CLOEXEC)
        defer { close(file) }
        try #require(setns(file, 0x4000_0000) == 0, "CLONE_NEWNET, linux/sched.h")
    }

    /// Runs a shell command on the server's side, or here.
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

    /// dnsmasq does not lend for less than 120 s.
    func dnsmasq(_ more: String..., from first: String = "198.18.1.10", to last: String = "198.18.1.100") throws
        -> Program
    {
        let server = try serve(
            [
                "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces",
                "--user=root", "--pid-file=", "--no-ping", "--dhcp-authoritative", "--log-dhcp",
                "--dhcp-leasefile=\(directory)/dnsmasq.leases",
                "--dhcp-range=\(first),\(last),255.255.0.0,120",
            ] + more)
        try waitFor("dnsmasq") { text("server.log").contains("DHCP, IP range") }
        return server
    }

    /// - Parameter seconds: what it lends for.
    func kea(seconds: Int, pool: String = "198.18.1.10 - 198.18.1.100") throws -> Program {
        let configuration = """
            { "Dhcp4": {
                "interfaces-config": { "interfaces": ["eth0"], "dhcp-socket-type": "raw" },
                "lease-database": { "type": "memfile", "persist": true, "name": "\(directory)/kea.csv", "lfc-interval": 0 },
                "valid-lifetime": \(seconds), "authoritative": true,
                "subnet4": [{ "id": 1, "subnet": "198.18.0.0/16", "pools": [{ "pool": "\(pool)" }] }],
                "loggers": [{ "name": "kea-dhcp4", "severity": "INFO",
                    "output_options": [{ "output": "\(directory)/kea.log" }] }]
            } }
            """
        try configuration.write(toFile: "\(directory)/kea.json", atomically: true, encoding: .utf8)
        let server = try serve([
            "env", "KEA_PIDFILE_DIR=\(directory)", "KEA_LOCKFILE_DIR=none", "kea-dhcp4", "-c", "\(directory)/kea.json",
        ])
        try waitFor("kea") { text("kea.log").contains("DHCP4_STARTED") }
        return server
    }

    func hostile(_ behaviour: String) throws -> Program {
        let server = try serve(["python3", Self.file("hostile.py")])
        guard server.line() == "ready" else { throw HarnessError("hostile.py: \(text("server.log"))") }
        _ = try tell(server, behaviour)
        return server
    }

    /// - Returns: what came at the server before it changed its behaviour.
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

    /// Looks every 20 ms: for what cannot be waited for.
    func waitFor(_ what: String, within patience: Double = 15, _ condition: () throws -> Bool) throws {
        let deadline = LeaseClock.now + patience
        while try !condition() {
            guard LeaseClock.now < deadline else { throw HarnessError("\(what) in vain; log: \(text("server.log"))") }
            usleep(20_000)
        }
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

/// The events that came, in order; puts addresses on eth0 and takes them off, as a session's would be.
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
                case .bound(let lease): _ = try netlink.add(lease.address, to: "eth0")
                case .changed(let lease, let from):
                    _ = try netlink.remove(from, from: "eth0")
                    _ = try netlink.add(lease.address, to: "eth0")
                case .lost(_, let address, _), .released(_, let address):
                    _ = try netlink.remove(address, from: "eth0")
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

    /// The next event that is such a one, those before it skipped; and when it came.
    func await<T>(within patience: Double = 15, _ pick: (LeaseEvent) -> T?) throws -> (T, at: Double) {
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
