// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import Foundation
import Glibc
import Host
import PolicyMaps
import TestSupport
import Testing

/// Errors that every command can meet: it fails with one line and the right exit code, and changes nothing.
@Suite(.serialized, .requiresRoot)
struct CommandErrorTests: CommandHost {
    @Test("exits with 64 and changes nothing when a command line is wrong")
    func rejectsWrongUsage() throws {
        try attached { sandbox in
            let wrong = [
                ["frobnicate"], ["session", "open", "--frobnicate"], ["session", "close"], ["detach"],
                ["detach", "cgroup"], ["run"], ["run", "--"], ["map", "dump", "nonsense"], ["session", "close", "x"],
                ["attach", "cgroup"], ["--bpffs", "relative", "status"],
                ["attach", "cgroup", "\(sandbox.cgroup)/attached", "--max-sessions", "0"],
            ]
            try refuses(sandbox, wrong.map { ($0, 64, []) })
        }
    }

    @Test("asks for an attach when nothing is attached")
    func asksForAnAttach() throws {
        try Sandbox.with { sandbox in
            let cgroup = try sandbox.cgroup("attached/a")
            try refuses(sandbox, ["session", "open", "--cgroup", cgroup], code: 1, "attach")
            try refuses(sandbox, ["policy", "apply", sandbox.policyFile(Self.policy)], code: 1, "attach")
            try refuses(sandbox, ["run", "--", "true"], code: 1, "attach")
            try refuses(sandbox, ["map", "list"], code: 1, "attach")
            #expect(try sandbox.mustCtl("status").stdout.contains("nothing is attached"))
        }
    }

    @Test("asks for a mount when the pins are to be on no BPF file system")
    func asksForABPFFileSystem() throws {
        try Sandbox.with { sandbox in
            let cgroup = try sandbox.cgroup("attached")
            for arguments in [
                ["attach", "cgroup", cgroup], ["session", "open", "--cgroup", cgroup], ["status"], ["map", "list"],
            ] {
                let result = try sandbox.ctl(arguments + ["--bpffs", "\(sandbox.directory)/nobpf/vip"])
                #expect(result.status == 69, "\(result)")
                #expect(result.stderr.contains("mount -t bpf"), "\(result)")
                #expect(result.stderr.split(separator: "\n").count == 1, "\(result)")
            }
            #expect(!FileManager.default.fileExists(atPath: "\(sandbox.directory)/nobpf"))
        }
    }

    /// Root without capabilities, which the kernel treats like a user without privilege.
    @Test("exits with 77 and names the capability when a privilege is missing")
    func namesTheMissingPrivilege() throws {
        try Sandbox.with { sandbox in
            let cgroup = try sandbox.cgroup("attached")
            let powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", Build.controller.path]
            let own = sandbox.controlEnvironment
            func run(_ arguments: [String]) throws -> (status: Int32, error: String) {
                let program = try sandbox.start(
                    powerless + arguments, in: "control", environment: own, errorOutput: true)
                program.closeInput()
                return (try program.wait(), program.errorText)
            }
            let attach = try run(["attach", "cgroup", cgroup])
            #expect(attach.status == 77, "\(attach.error)")
            #expect(attach.error.contains("CAP_BPF"), "\(attach.error)")
            #expect(attach.error.split(separator: "\n").count == 1, "\(attach.error)")
            #expect(!FileManager.default.fileExists(atPath: sandbox.bpffs))

            try sandbox.mustCtl("attach", "cgroup", cgroup, "--policy", sandbox.policyFile(Self.policy))
            let session = try sandbox.cgroup("attached/a")
            let before = try snapshot(sandbox)
            let open = try run(["session", "open", "--cgroup", session])
            #expect(open.status == 77, "\(open.error)")
            #expect(open.error.split(separator: "\n").count == 1, "\(open.error)")
            #expect(try snapshot(sandbox) == before)
        }
    }

    @Test("names the hook that this kernel does not have")
    func namesTheMissingHook() throws {
        // An attach type that no kernel has stands for one that this kernel lacks.
        let unknown = Hook(name: "bind4", attachType: 9999, number: 0, since: "99.0")
        let support = HookSupport.probe(hooks: [unknown])
        let failure = try #require(support.first?.failure)
        #expect(failure.code == .unavailable)
        #expect(failure.operation.contains("bind4"))
        #expect(!"\(failure)".contains("\n"))
        #expect(failure.detail?.isEmpty == false)
        #expect(HookSupport.probe().allSatisfy { $0.failure == nil })
    }

    @Test("opens no session when its answer cannot be written")
    func undoesWhatCannotBePrinted() throws {
        try attached { sandbox in
            let path = try sandbox.cgroup("attached/a")
            let before = try snapshot(sandbox)
            let open =
                "'\(Build.controller.path)' --bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)' session open"
            let full = try sandbox.sh("\(open) --cgroup '\(path)' 2>&1 >/dev/full || echo code $?")
            #expect(full.contains("write standard output: no space left on device"), "\(full)")
            #expect(full.hasSuffix("code 1\n"), "\(full)")
            #expect(try snapshot(sandbox) == before)
        }
    }

    /// Every command with --json prints a JSON object and nothing else.
    @Test("prints an object with --json, whichever the command")
    func printsJSON() throws {
        try attached { sandbox in
            let session = try sandbox.cgroup("attached/a")
            let policy = try sandbox.policyFile(Self.policy)
            for arguments in [
                ["attach", "cgroup", "\(sandbox.cgroup)/attached"],
                ["session", "open", "--cgroup", session, "--id", "7"],
                ["session", "show", "7"], ["session", "list"], ["session", "list", "--all"], ["who", "127.0.0.8"],
                ["policy", "apply", policy],
                ["policy", "check", policy],
                ["policy", "show"], ["program", "add", "java", "--for", "virtual-ip"], ["program", "list"],
                ["program", "remove", "java", "--for", "virtual-ip"], ["map", "list"], ["map", "dump"], ["status"],
                ["check"], ["explain", "\(getpid())"], ["explain", "--exe", "/bin/sh", "--session", "7"],
                ["session", "close", "7"], ["detach", "cgroup", "\(sandbox.cgroup)/attached"],
                ["detach", "--all"],
            ] {
                let result = try sandbox.ctl(arguments + ["--json"])
                #expect(result.status == 0, "\(result)")
                #expect(result.json is [String: Any], "\(result)")
            }
        }
    }

    /// Concurrent commands wait for each other, and none is lost.
    @Test("runs eight commands at once, one after another, and loses none")
    func runsCommandsAtOnce() throws {
        try attached { sandbox in
            for number in 0..<8 { _ = try sandbox.cgroup("attached/s\(number)") }
            let script = """
                for i in 0 1 2 3 4 5 6 7; do "$0" session open --cgroup "$1/attached/s$i" >/dev/null & pids="$pids $!"; done
                for pid in $pids; do wait $pid; done
                """
            let run = try sandbox.start(
                ["/bin/sh", "-ec", script, Build.controller.path, sandbox.cgroup], in: "control",
                environment: sandbox.controlEnvironment,
                errorOutput: true)
            run.closeInput()
            #expect(try run.wait() == 0, "\(run.errorText)")
            try expectAgreement(sandbox)
        }
    }
}
