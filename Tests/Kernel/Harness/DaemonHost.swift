// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// A sandbox with its own D-Bus, a mock of logind on it, and `vip-bpfctl daemon` that follows the mock.
///
/// The users' slices are in `attached`. All processes end with the sandbox's cgroup.
final class DaemonHost {
    let sandbox: Sandbox
    private var bus: Program
    private var logind: Program
    private(set) var daemon: Program?
    /// Events that were read and skipped, for messages.
    private(set) var seen: [Event] = []

    /// A line of the daemon's output.
    struct Event: Decodable, CustomStringConvertible {
        let time: String
        let event: String
        let message: String
        let priority: Int
        let session: UInt32?
        let user: String?
        let cgroup: String?
        let address: String?
        let interface: String?
        let reason: String?
        let sockets: Int?

        var description: String { "\(event): \(message)" }
    }

    /// A host with the hooks attached to `attached` and this policy. The daemon is not started yet.
    static func attached(_ policy: String, _ body: (DaemonHost) throws -> Void) throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            try sandbox.mustCtl("attach", "cgroup", path, "--policy", sandbox.policyFile(policy))
            let host = try DaemonHost(sandbox)
            try body(host)
            #expect(try host.stop() == 0, "\(host.seen.suffix(12))")
            try sandbox.mustCtl("detach", "--all")
        }
    }

    private var busAddress: String { "unix:path=\(sandbox.directory)/bus" }

    init(_ sandbox: Sandbox) throws {
        self.sandbox = sandbox
        (bus, logind) = try Self.startBus(sandbox)
    }

    private static func startBus(_ sandbox: Sandbox) throws -> (Program, Program) {
        let path = "\(sandbox.directory)/bus"
        let settings = """
            <!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
              "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
            <busconfig><listen>unix:path=\(path)</listen><policy context="default"><allow user="*"/><allow own="*"/>
            <allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
            """
        try settings.write(toFile: "\(path).conf", atomically: true, encoding: .utf8)
        let bus = try sandbox.start(
            ["dbus-daemon", "--config-file=\(path).conf", "--nofork", "--nopidfile", "--print-address"], in: "outside",
            errorOutput: true)
        _ = try bus.readLine()
        let logind = try sandbox.start([Build.mockLogind.path, "unix:path=\(path)"], in: "outside", errorOutput: true)
        guard try logind.readLine() == "ready" else { throw HarnessError("the mock of logind said nonsense") }
        return (bus, logind)
    }

    /// Ends the bus, and logind with it.
    func endBus() throws {
        for program in [logind, bus] {
            program.signal(SIGKILL)
            try program.wait()
        }
        try? FileManager.default.removeItem(atPath: "\(sandbox.directory)/bus")
    }

    func startBus() throws { (bus, logind) = try Self.startBus(sandbox) }

    /// Sends the mock a command: `user 1001 ann`, `login -3`.
    func logind(_ command: String) throws {
        try logind.write(command + "\n")
        guard try logind.readLine() == "ok" else { throw HarnessError("the mock of logind did not \(command)") }
    }

    /// The name of a user's slice, relative to the sandbox's cgroup.
    static func slice(_ uid: Int) -> String { "attached/user-\(uid).slice" }

    /// Starts a process in a cgroup, which runs until it is ended. It is in the cgroup when this returns.
    func process(in cgroup: String) throws -> Program {
        let program = try sandbox.start(["sleep", "600"], in: cgroup)
        let procs = "\(sandbox.cgroup)/\(cgroup)/cgroup.procs"
        try wait(for: "\(program.pid) to be in \(cgroup)") {
            try KernelFile.read(procs).split(separator: "\n").contains("\(program.pid)")
        }
        return program
    }

    func end(_ program: Program) throws {
        program.signal(SIGKILL)
        try program.wait()
    }

    /// The environment with which a program takes the wall clock, and no other clock, from a file (libfaketime).
    func fakeClock(from file: String) throws -> [String: String] {
        // libfaketime moves absolute timers of every clock, also of those that it does not fake. Those must be the
        // kernel's here.
        let source = """
            #include <sys/syscall.h>
            #include <unistd.h>
            int timerfd_settime(int fd, int flags, const void *value, void *old)
            {
                return (int)syscall(SYS_timerfd_settime, fd, flags, value, old);
            }
            """
        let library = "\(sandbox.directory)/timers.so"
        try source.write(toFile: "\(library).c", atomically: true, encoding: .utf8)
        try sandbox.sh("gcc -shared -fPIC -o '\(library)' '\(library).c'")
        return [
            "LD_PRELOAD": "\(library) /usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
            "FAKETIME_TIMESTAMP_FILE": file, "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        ]
    }

    /// Starts the daemon and waits until it runs.
    ///
    /// - Parameter wrapper: a command that runs the daemon: `unshare …`.
    func start(
        _ arguments: [String] = [], wrapper: [String] = [], environment: [String: String] = [:],
        events: [String] = ["--events", "stderr"], waiting: Bool = true
    ) throws {
        let command =
            ["/bin/sh", "-c", #"exec "$@" 2>&1"#, "sh"] + wrapper + (try Build.leastPrivileges(of: "vip-bpfd"))
            + [Build.controller.path, "daemon", "--bus", busAddress, "--user-slice", sandbox.attached] + events
            + arguments
        daemon = try sandbox.start(
            command, in: "control", environment: sandbox.controlEnvironment.merging(environment) { _, new in new })
        if waiting { _ = try event("started") }
    }

    /// Ends the daemon and returns its exit code.
    @discardableResult
    func stop(_ signal: Int32 = SIGTERM) throws -> Int32 {
        guard let daemon else { return 0 }
        self.daemon = nil
        daemon.signal(signal)
        return try daemon.wait()
    }

    /// The next event of a kind that satisfies `condition`; others are skipped.
    @discardableResult
    func event(
        _ kind: String, within patience: Duration = hang, where condition: (Event) -> Bool = { _ in true }
    ) throws -> Event {
        guard let daemon else { throw HarnessError("there is no daemon") }
        let deadline = ContinuousClock.now + patience
        while true {
            let line: String
            do {
                line = try daemon.readLine(within: max(.zero, deadline - .now))
            } catch {
                throw HarnessError("no \(kind) after \(seen.suffix(12)): \(error)")
            }
            guard let event = try? JSONDecoder().decode(Event.self, from: Data(line.utf8)) else {
                throw HarnessError("the daemon said: \(line)")
            }
            seen.append(event)
            if event.event == kind, condition(event) { return event }
        }
    }

    /// The registered sessions by ascending ID.
    func sessions() throws -> [ListedSession] {
        struct List: Decodable { let sessions: [ListedSession] }
        return try sandbox.mustCtl("session", "list", "--json").decode(List.self).sessions
    }
}

struct ListedSession: Decodable, Hashable {
    let id: UInt32
    let user: String?
    let cgroup: String
    let virtualIps: [String]
    let state: String
}
