// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// Logins through a real PAM stack, with the line that is installed: pamtester in a cgroup as pam_systemd makes it.
@Suite(.serialized, .requiresRoot)
struct PAMTests {
    private static let longName = String(repeating: "n", count: 300)
    /// A mount namespace's own /etc/passwd: names that a user database may hold, and should not.
    private static let users = [
        ("ann", 1001), ("--help", 1002), ("a/../b", 1003), (longName, 1004), ("-rf", 1005), ("ben", 1006),
    ]

    private func host(_ policy: String = DaemonTests.policy(), _ body: (Sandbox) throws -> Void) throws {
        try Sandbox.with { (sandbox) throws in
            let path = try sandbox.cgroup("attached")
            try sandbox.mustCtl("attach", "cgroup", path, "--policy", sandbox.policyFile(policy))
            try writePAM(sandbox, control: "optional")
            let passwd = Self.users.map { "\($0.0):x:\($0.1):\($0.1)::/:/bin/sh\n" }.joined()
            try "root:x:0:0:root:/root:/bin/sh\n\(passwd)".write(
                toFile: "\(sandbox.directory)/passwd", atomically: true, encoding: .utf8)
            try body(sandbox)
            try sandbox.mustCtl("detach", "--all")
        }
    }

    /// The installed line, with this sandbox's program, pins and state. Its output is kept in `log`.
    private func writePAM(_ sandbox: Sandbox, control: String) throws {
        let text = try String(contentsOf: SourceTree.url("packaging/pam-snippet.in"), encoding: .utf8)
        let line = try #require(text.split(separator: "\n").first { !$0.hasPrefix("#") })
            .replacing("optional", with: control).replacing(
                "@SBINDIR@", with: Build.controller.deletingLastPathComponent().path
            )
            .replacing("/sys/fs/bpf/vip", with: sandbox.bpffs).replacing(
                "/var/lib/vip-bpf", with: sandbox.stateDirectory
            )
            .replacing("pam_exec.so", with: "pam_exec.so log=\(sandbox.directory)/log")
        try FileManager.default.createDirectory(atPath: "\(sandbox.directory)/pam.d", withIntermediateDirectories: true)
        try "session required pam_permit.so\n\(line)\nauth required pam_permit.so\naccount required pam_permit.so\n"
            .write(
                toFile: "\(sandbox.directory)/pam.d/viptest", atomically: true, encoding: .utf8)
    }

    /// Calls PAM like a login, in a cgroup.
    private func pam(_ sandbox: Sandbox, _ user: String, in cgroup: String, _ operations: [String]) throws
        -> ControlResult
    {
        let enter = """
            mount --bind '\(sandbox.directory)/pam.d' /etc/pam.d && mount --bind '\(sandbox.directory)/passwd' /etc/passwd \
            && { [ ! -d /run/systemd/journal ] || mount -t tmpfs none /run/systemd/journal; } && exec "$@"
            """
        let program = try sandbox.start(
            ["unshare", "--mount", "/bin/sh", "-c", enter, "sh", "pamtester", "viptest", user] + operations, in: cgroup,
            errorOutput: true)
        program.closeInput()
        let status = try program.wait()
        return ControlResult(
            arguments: operations, status: status, stdout: program.outputText, stderr: program.errorText)
    }

    private func log(_ sandbox: Sandbox) -> String {
        (try? String(contentsOfFile: "\(sandbox.directory)/log", encoding: .utf8)) ?? ""
    }

    private func sessions(_ sandbox: Sandbox) throws -> [ListedSession] {
        struct List: Decodable { let sessions: [ListedSession] }
        return try sandbox.mustCtl("session", "list", "--json").decode(List.self).sessions
    }

    @Test func aLoginHasItsSessionBeforeItsFirstProgram() throws {
        try host { (sandbox) throws in
            let scope = "\(DaemonHost.slice(1001))/session-1.scope"
            // Only open_session opens a session.
            #expect(try pam(sandbox, "ann", in: scope, ["authenticate", "acct_mgmt", "close_session"]).status == 0)
            #expect(try sessions(sandbox).isEmpty)
            #expect(try pam(sandbox, "ann", in: scope, ["open_session"]).status == 0, "\(log(sandbox))")
            let session = try #require(try sessions(sandbox).first)
            #expect(session.user == "ann" && session.cgroup == "\(sandbox.attached)/user-1001.slice")
            #expect(session.virtualIps.first == "198.51.100.16")
            #expect(log(sandbox).contains("\"event\":\"session_opened\""))
            // A second login of the same user, and its end.
            let second = "\(DaemonHost.slice(1001))/session-2.scope"
            #expect(try pam(sandbox, "ann", in: second, ["open_session", "close_session"]).status == 0)
            #expect(try sessions(sandbox) == [session])
        }
    }

    @Test func eachLoginIsASession() throws {
        try host(DaemonTests.policy(unit: "sessionScope")) { (sandbox) throws in
            for login in ["7", "c3"] {
                let scope = "\(DaemonHost.slice(1001))/session-\(login).scope"
                #expect(try pam(sandbox, "ann", in: scope, ["open_session"]).status == 0, "\(log(sandbox))")
            }
            #expect(try sessions(sandbox).map(\.id) == [2, 7])
            #expect(try sessions(sandbox).last?.cgroup.hasSuffix("/session-7.scope") == true)
        }
    }

    @Test func theDaemonLeavesItAndEndsIt() throws {
        try host { (sandbox) throws in
            let shell = try sandbox.start(["sleep", "600"], in: "\(DaemonHost.slice(1001))/session-1.scope")
            #expect(
                try pam(sandbox, "ann", in: "\(DaemonHost.slice(1001))/session-1.scope", ["open_session"]).status == 0)
            let host = try DaemonHost(sandbox)
            try host.logind("user 1001 ann")
            try host.start()
            try host.event("logind_followed")
            shell.signal(SIGKILL)
            try shell.wait()
            #expect(try host.event("session_closed").user == "ann")
            #expect(!host.seen.contains { $0.event == "session_opened" })
            #expect(try host.stop() == 0)
        }
    }

    /// The daemon leases the address. The login waits for it, so that the first program has it, but only for a limited
    /// time.
    @Test func aLoginWaitsForTheDaemonsLease() throws {
        try host(DaemonHost.leasePolicy) { (sandbox) throws in
            let scopes = (1...3).map { "\(DaemonHost.slice($0 == 3 ? 1006 : 1001))/session-\($0).scope" }
            // Without a daemon, the login succeeds and has no address.
            let shell = try sandbox.start(["sleep", "600"], in: scopes[0])
            #expect(try pam(sandbox, "ann", in: scopes[0], ["open_session"]).status == 0)
            #expect(try sessions(sandbox).map(\.virtualIps) == [[]])
            #expect(log(sandbox).contains("none runs"), "\(log(sandbox))")

            let host = try DaemonHost(sandbox)
            let server = try host.dnsmasq()
            try host.start()
            let given = try host.event("address_given")
            #expect(given.user == "ann")
            // Her second login has nothing to wait for.
            #expect(try pam(sandbox, "ann", in: scopes[1], ["open_session"]).status == 0)
            let ben = try sandbox.start(["sleep", "600"], in: scopes[2])
            #expect(try pam(sandbox, "ben", in: scopes[2], ["open_session"]).status == 0)
            let lists = try sessions(sandbox)
            #expect(lists.map(\.user) == ["ann", "ben"] && lists.allSatisfy { $0.virtualIps.count == 1 }, "\(lists)")
            for program in [shell, ben] {
                try host.end(program)
                try host.event("lease_released")
            }

            server.signal(SIGKILL)
            let before = ContinuousClock.now
            let again = try sandbox.start(["sleep", "600"], in: scopes[0])
            #expect(try pam(sandbox, "ann", in: scopes[0], ["open_session"]).status == 0)
            #expect(ContinuousClock.now - before < hang, "it waits for no server")
            #expect(try sessions(sandbox).map(\.virtualIps) == [[]])
            try host.end(again)
            try host.event("session_closed") { $0.user == "ann" }
            #expect(try host.stop() == 0)
        }
    }

    @Test func hostileNamesAreHarmless() throws {
        try host { (sandbox) throws in
            for (name, uid) in Self.users.dropFirst() {
                let result = try pam(sandbox, name, in: "\(DaemonHost.slice(uid))/session-1.scope", ["open_session"])
                // pamtester itself may refuse a name that resembles an option. Only the result matters.
                #expect(result.status == 0 || name.hasPrefix("-"), "\(name): \(result)")
            }
            for name in ["ann\nben", "../../ann", "nobody-knows", String(repeating: "x", count: 4000)] {
                let result = try pam(sandbox, name, in: "\(DaemonHost.slice(1001))/session-1.scope", ["open_session"])
                #expect(result.status == 0, "\(name): \(result)")
            }
            // Users are only in their own sessions, and no session has an invalid name.
            for session in try sessions(sandbox) {
                let user = try #require(Self.users.first { $0.0 == session.user || "\($0.1)" == session.user })
                #expect(session.cgroup.hasSuffix("/user-\(user.1).slice"))
            }
            #expect(try Set(sessions(sandbox).map(\.user)).isSuperset(of: ["a/../b", "ben", "1004"]))
            #expect(
                try !sessions(sandbox).contains { $0.user == Self.longName || $0.cgroup.hasSuffix("/user-1001.slice") })
        }
    }

    @Test func aCallersCgroupIsNotTheUsersSession() throws {
        try host { (sandbox) throws in
            // With su and sudo, ann becomes ben in ann's cgroup. With cron, or without logind, the cgroup is not a
            // user's.
            for cgroup in ["\(DaemonHost.slice(1001))/session-1.scope", "attached/cron.service"] {
                #expect(try pam(sandbox, "ben", in: cgroup, ["open_session"]).status == 0)
            }
            #expect(try sessions(sandbox).isEmpty)
        }
    }

    @Test(arguments: [("optional", Int32(0)), ("required", 1)])
    func aFailureLocksNobodyOutUnlessAskedTo(control: String, status: Int32) throws {
        try host { (sandbox) throws in
            try writePAM(sandbox, control: control)
            // Not attached there.
            let result = try pam(sandbox, "ann", in: "elsewhere/user-1001.slice/session-1.scope", ["open_session"])
            #expect(result.status == status, "\(result)")
            #expect(log(sandbox).contains("\"event\":\"session_refused\""))
            #expect(log(sandbox).contains("neither it nor a cgroup above it is attached"))
            #expect(try sessions(sandbox).isEmpty)
        }
    }

    @Test func withoutAnAddressTheUserIsInAndDenied() throws {
        try host(DaemonTests.policy(pool: "[198.51.100.16]")) { (sandbox) throws in
            for (name, uid) in [("ann", 1001), ("ben", 1006)] {
                let result = try pam(sandbox, name, in: "\(DaemonHost.slice(uid))/session-1.scope", ["open_session"])
                #expect(result.status == 0, "\(result)")
            }
            #expect(try sessions(sandbox).map(\.virtualIps.count) == [1, 0])
            #expect(log(sandbox).contains("1 of 1"))
        }
    }
}
