// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// What commands do where the registry, the sessions' network namespace, /proc or the standard streams are not as
/// usual.
@Suite(.serialized, .requiresRoot)
struct RecoveryTests: CommandHost {
    private func command(_ sandbox: Sandbox) -> String {
        "'\(Build.controller.path)' --bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)'"
    }

    @Test("has its arguments without /proc")
    func withoutProc() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            let hide = "mount -t tmpfs tmpfs /proc"
            let output = try sandbox.sh(
                "unshare -m sh -c \"\(hide); \(command(sandbox)) session close 99 2>&1; echo status \\$?\"")
            #expect(output.contains("vip-bpfctl: ") && !output.contains("status 0"), "\(output)")
            #expect(!output.contains("USAGE"), "\(output)")
        }
    }

    @Test(
        "ends, and takes no file of its own for a standard stream, where that is closed",
        arguments: ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    func closedStreams(redirection: String) throws {
        try attached { sandbox in
            // What cannot be printed is an error. Nothing goes into a file of the command's own, and nothing hangs.
            let fails = redirection.contains(">&-") && redirection != "2>&-"
            for arguments in ["watch --for 0.1", "session list", "status --json"] {
                let status = try sandbox.sh("\(command(sandbox)) \(arguments) \(redirection) || echo failed")
                #expect(status.contains("failed") == fails, "\(arguments) \(redirection): \(status)")
            }
            // Without standard output, it is undone.
            try sandbox.sh(
                "\(command(sandbox)) session open --cgroup '\(try sandbox.cgroup("attached/b"))' \(redirection) || true"
            )
            try expectAgreement(sandbox)
        }
    }

    @Test("root's reading commands undo a write of the registry that a kill has interrupted")
    func interruptedWrite() throws {
        try attached { sandbox in
            let path = try sandbox.cgroup("attached/ann")
            var interrupted = 0
            for step in 1...40 {
                let calls = "pwrite64,fdatasync,fsync"
                let script = """
                    strace -f -qq -o /dev/null -e trace=\(calls) -e inject=\(calls):signal=KILL:when=\(step) \
                    \(command(sandbox)) session open --cgroup '\(path)' --id 7 >/dev/null 2>&1 && echo done || echo killed
                    """
                guard try sandbox.sh(script).contains("killed") else { break }
                interrupted += 1
                for arguments in [["session", "list"], ["status"], ["policy", "show"]] {
                    let result = try sandbox.ctl(arguments)
                    #expect(result.status == 0, "after a kill at step \(step): \(result)")
                }
            }
            #expect(interrupted > 5)
        }
    }

    /// The pages of each table, in turn.
    @Test(
        "detach --all removes everything, whichever table of the registry is damaged",
        arguments: [
            "sessions", "addresses", "attachments", "settings", "session_history", "address_history",
            "former_addresses",
        ])
    func damagedTable(table: String) throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            try sandbox.mustCtl("attach", "cgroup", path, "--policy", sandbox.policyFile(Self.policy))
            for id in [7, 8] as [UInt32] { _ = try sandbox.openSession("attached/s\(id)", id: id) }
            let registry = "\(sandbox.stateDirectory)/registry.sqlite"
            try sandbox.sh(
                """
                python3 - '\(registry)' \(table) <<'END'
                import sqlite3, sys
                file, table = sys.argv[1:]
                database = sqlite3.connect(file)
                (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
                (size,) = database.execute("PRAGMA page_size").fetchone()
                database.close()
                with open(file, "r+b") as f:
                    f.seek((page - 1) * size)
                    f.write(b"\\xff" * size)
                END
                """)
            let detach = try sandbox.ctl("detach", "--all")
            #expect(detach.status == 0, "\(detach)")
            #expect(try sandbox.virtualIPs().isEmpty)
            #expect(try loopbackState(sandbox) == "0\n")
            #expect(try sandbox.sh("ls -d '\(sandbox.bpffs)' 2>/dev/null || true").isEmpty)
            try sandbox.mustCtl("attach", "cgroup", path, "--policy", sandbox.policyFile(Self.policy))
            try sandbox.mustCtl("detach", "--all")
        }
    }

    @Test("opens nothing over sessions of a registry that was lost")
    func lostRegistry() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            try sandbox.sh("rm '\(sandbox.stateDirectory)'/registry.sqlite*")
            for arguments in [
                ["attach", "cgroup", "\(sandbox.cgroup)/attached"],
                ["session", "open", "--cgroup", try sandbox.cgroup("attached/ben")],
                ["policy", "apply", try sandbox.policyFile(Self.policy)],
            ] {
                let result = try sandbox.ctl(arguments)
                #expect(result.status == 1, "\(result)")
                #expect(result.stderr.contains("the kernel has 1 sessions that registry"), "\(result)")
            }
            try sandbox.mustCtl("detach", "--all")
            #expect(try sandbox.virtualIPs().isEmpty)
            try sandbox.mustCtl("attach", "cgroup", "\(sandbox.cgroup)/attached")
            #expect(try sandbox.openSession("attached/ben", id: 7).virtualLoopback == "127.0.0.8")
        }
    }

    @Test("detach --all works where the sessions' network namespace no longer exists, and not where it does")
    func lostNamespace() throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            let policy = try sandbox.policyFile(
                "virtualIP: {enabled: true, mode: perSession, addresses: {pool: [10.99.0.1-10.99.0.9], probeSeconds: 0}}"
            )
            let session = try sandbox.cgroup("attached/ann")
            let script = """
                ip link set lo up; \(command(sandbox)) attach cgroup '\(path)' --policy '\(policy)' >/dev/null 2>&1
                \(command(sandbox)) session open --cgroup '\(session)' >/dev/null 2>&1
                """
            let holder = try sandbox.start(
                ["unshare", "-n", "sh", "-ec", "\(script); echo ready; read line"], in: "control")
            #expect(try holder.readLine() == "ready")
            let elsewhere = try sandbox.ctl("detach", "--all")
            #expect(elsewhere.status == 1 && elsewhere.stderr.contains("another network namespace"), "\(elsewhere)")
            holder.closeInput()
            _ = try holder.wait()
            try wait(for: "the namespace's end") { try sandbox.ctl("detach", "--all").status == 0 }
            #expect(try sandbox.sh("ls -d '\(sandbox.bpffs)' 2>/dev/null || true").isEmpty)
        }
    }

    @Test("status and check fail where sessions are registered and nothing is attached")
    func nothingAttached() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            #expect(try sandbox.ctl("status").status == 0)
            try sandbox.mustCtl("detach", "cgroup", "\(sandbox.cgroup)/attached")
            let status = try sandbox.ctl("status")
            #expect(status.status == 1 && status.stderr.contains("1 sessions are registered"), "\(status)")
            let check = try sandbox.ctl("check")
            #expect(check.status == 1 && check.stdout.contains("no cgroup is attached, and 1 sessions"), "\(check)")
        }
    }
}
