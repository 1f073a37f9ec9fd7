// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// vip-bpfctl run: a session for one command.
@Suite(.serialized, .requiresRoot)
struct RunTests: CommandHost {
    @Test("gives the command a session, and returns its exit code")
    func givesTheCommandASession() throws {
        try attached { sandbox in
            let script = "cat /proc/self/cgroup; exit 7"
            let result = try sandbox.ctl("run", "--id", "9", "--ip", "198.51.100.20", "--", "sh", "-c", script)
            #expect(result.status == 7, "\(result)")
            #expect(result.stdout.contains("/attached/run-"))
            #expect(try sandbox.mustCtl("session", "list").stdout.split(separator: "\n").count == 1)
            #expect(try !sandbox.sh("ip -br addr").contains("198.51.100.20"))
            #expect(try sandbox.sh("ls -d '\(sandbox.cgroup)'/attached/*/ 2>/dev/null || true").isEmpty)
            #expect(try sandbox.ctl("run", "--", "sh", "-c", "kill -TERM $$").status == 128 + SIGTERM)
            let missing = try sandbox.ctl("run", "--", "no-such-command-at-all")
            #expect(missing.status == 1, "\(missing)")
            #expect(missing.stderr.contains("no-such-command-at-all"))
            #expect(try sandbox.sh("ls -d '\(sandbox.cgroup)'/attached/*/ 2>/dev/null || true").isEmpty)
        }
    }

    @Test("runs the command as --user says")
    func becomesTheUser() throws {
        try attached { sandbox in
            let result = try sandbox.ctl("run", "--user", "nobody", "--", "sh", "-c", "id -un; echo $HOME $USER")
            #expect(result.status == 0, "\(result)")
            #expect(result.stdout.hasPrefix("nobody\n"))
            #expect(result.stdout.contains(" nobody\n"))
            let unknown = try sandbox.ctl("run", "--user", "no-such-user", "--", "true")
            #expect(unknown.status == 64, "\(unknown)")
            #expect(unknown.stderr.contains("no-such-user"))
        }
    }

    @Test("removes its cgroup though its session was closed meanwhile")
    func removesItsCgroup() throws {
        try attached { sandbox in
            let run = try sandbox.start(
                [Build.controller.path, "run", "--id", "9", "--", "sh", "-c", "echo up; read line"], in: "control",
                environment: sandbox.controlEnvironment,
                errorOutput: true)
            #expect(try run.readLine() == "up")
            try sandbox.mustCtl("session", "close", "9")
            try run.write("\n")
            #expect(try run.wait() == 0, "\(run.errorText)")
            #expect(try sandbox.sh("ls -d '\(sandbox.cgroup)'/attached/*/ 2>/dev/null || true").isEmpty)
        }
    }

    /// A daemon that the command leaves behind keeps the session; a signal reaches it.
    @Test("keeps the session for what the command left running, and passes signals on")
    func waitsForTheLastProcess() throws {
        try attached { sandbox in
            let run = try sandbox.start(
                [Build.controller.path, "run", "--id", "9", "--", "sh", "-c", "sleep 1000 & echo left $!"],
                in: "control",
                environment: sandbox.controlEnvironment,
                errorOutput: true)
            #expect(try run.readLine().hasPrefix("left "))
            #expect(try sandbox.mustCtl("session", "show", "9").stdout.contains("open"))
            run.signal(SIGTERM)
            #expect(try run.wait() == 0, "\(run.errorText)")
            #expect(try sandbox.ctl("session", "show", "9").status == 1)
        }
    }

    /// A run that is killed before its session is open leaves a cgroup, for the next command.
    @Test("leaves no cgroup to the next command when it is killed")
    func leavesNoCgroupAfterAKill() throws {
        try attached { sandbox in
            let common = "--bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)'"
            for step in [1, 4, 8] {
                try sandbox.sh(
                    "! strace -f -o /dev/null -e trace=pwrite64 -e inject=pwrite64:signal=KILL:when=\(step) "
                        + "'\(Build.controller.path)' \(common) run -- true 2>/dev/null")
                try sandbox.mustCtl("program", "add", "p\(step)", "--for", "virtual-ip")
                #expect(try sandbox.sh("ls -d '\(sandbox.cgroup)'/attached/*/ 2>/dev/null || true").isEmpty, "\(step)")
                try expectAgreement(sandbox)
            }
        }
    }
}
