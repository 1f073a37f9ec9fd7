// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// How the next command repairs what a killed command, or a lost registry, leaves.
@Suite(.serialized, .requiresRoot)
struct CrashTests: CommandHost {
    /// A command may be killed at any time; the next one finds what it left and repairs it.
    @Test("recovers from an open or close that was killed at any moment")
    func recoversFromKilledCommands() throws {
        let policy =
            "virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, probeSeconds: 0, pool: [198.51.100.16/28]}}"
        try attached(policy) { sandbox in
            let file = try sandbox.policyFile(policy, named: "again.yaml")
            for name in ["a", "b", "c", "d"] { _ = try sandbox.cgroup("attached/\(name)") }
            let batch = ["a", "b", "c", "d"].map { "--cgroup \(sandbox.cgroup)/attached/\($0)" }.joined(separator: "\n")
            try batch.write(toFile: "\(sandbox.directory)/batch", atomically: true, encoding: .utf8)
            var killed = 0
            for round in 0..<24 {
                // The kill comes later in each round; opening four sessions takes a few hundredths of a second.
                let delay = String(format: "%.3f", 0.004 * Double(round + 1))
                let script = """
                    timeout -s KILL \(delay) "$0" session open --batch '\(sandbox.directory)/batch' >/dev/null 2>&1 \
                    && echo done || echo killed
                    for id in $("$0" session list | awk 'NR > 1 {print $1}'); do
                        timeout -s KILL \(delay) "$0" session close $id 2>/dev/null || true
                    done
                    """
                let run = try sandbox.start(
                    ["/bin/sh", "-c", script, Build.controller.path], in: "control",
                    environment: sandbox.controlEnvironment)
                run.closeInput()
                #expect(try run.wait() == 0)
                if run.outputText.contains("killed") { killed += 1 }
                try sandbox.mustCtl("policy", "apply", file)
                try expectAgreement(sandbox)
            }
            #expect(killed > 0, "no command was killed in time: the delays are too long")
        }
    }

    /// The command is killed at some of its calls of bpf(2), by number. Whatever an attach, an apply or a detach
    /// leaves, another attach repairs it, and a program's bind follows the policy.
    @Test(
        "recovers from an attach, apply or detach that was killed at any step",
        arguments: ["attach", "attach after a boot", "apply", "detach"])
    func recoversFromAKillAtAnyStep(command: String) throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            let ann = try sandbox.cgroup("attached/ann")
            let file = try sandbox.policyFile(Self.policy)
            let arguments =
                switch command {
                case "attach after a boot": "attach cgroup '\(path)'"
                case "attach": "attach cgroup '\(path)' --policy '\(file)'"
                case "apply": "policy apply '\(file)'"
                default: "detach --all"
                }
            let common = "--bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)'"
            var step = 1
            var isKilled = true
            while isKilled {
                if command != "attach" {
                    try sandbox.mustCtl("attach", "cgroup", path, "--policy", file)
                    try sandbox.mustCtl("session", "open", "--cgroup", ann, "--id", "7")
                }
                // A boot removes pins, links and maps. The registry still has the policy.
                if command == "attach after a boot" { try sandbox.sh("rm -r '\(sandbox.bpffs)'") }
                let script = """
                    strace -f -o /dev/null -e trace=bpf,rename,unlink -e inject=bpf,rename,unlink:signal=KILL:when=\(step) \
                    '\(Build.controller.path)' \(common) \(arguments) >/dev/null 2>&1 && echo done || echo killed
                    """
                isKilled = try sandbox.sh(script).contains("killed")
                if command == "attach after a boot" {
                    try sandbox.mustCtl("attach", "cgroup", path)
                } else {
                    try sandbox.mustCtl("attach", "cgroup", path, "--policy", file)
                }
                if try sandbox.ctl("session", "show", "7").status != 0 {
                    try sandbox.mustCtl("session", "open", "--cgroup", ann, "--id", "7")
                }
                let probe = try sandbox.probe("server", in: "attached/ann")
                for call in ["socket a tcp", "bind a 0.0.0.0 9000"] { try probe.must(call) }
                #expect(
                    try probe.must("getsockname a").address == "198.51.100.16", "\(command) killed at step \(step)")
                try expectAgreement(sandbox)
                try sandbox.mustCtl("detach", "--all")
                #expect(try sandbox.sh("ls -d '\(sandbox.bpffs)' 2>/dev/null || true").isEmpty)
                #expect(try loopbackState(sandbox) == "0\n", "\(command) killed at step \(step)")
                try probe.send("quit")
                step += command.hasPrefix("attach") ? 9 : 7  // prime to the groups of calls: every kind is met
            }
            #expect(step > 10, "no step was met")
        }
    }

    @Test("refuses to apply a policy when sessions are missing from the registry")
    func noticesALostRegistry() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/a", id: 7)
            try sandbox.sh("mv '\(sandbox.stateDirectory)/registry.sqlite' '\(sandbox.directory)/kept'")
            let apply = try sandbox.ctl("policy", "apply", sandbox.policyFile(Self.policy))
            #expect(apply.status == 1, "\(apply)")
            #expect(apply.stderr.contains("does not know"), "\(apply)")
            try sandbox.sh("mv '\(sandbox.directory)/kept' '\(sandbox.stateDirectory)/registry.sqlite'")
            try expectAgreement(sandbox)
        }
    }

    /// Follows the hint of the error. Each policy that cannot be read is reported.
    @Test("applies a policy over those of a killed apply that cannot be read")
    func replacesPoliciesThatCannotBeRead() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/a", id: 7)
            try sandbox.sh(
                """
                python3 -c 'import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
                db.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", \
                [("policy", "no JSON"), ("pending_policy", "no JSON")]); db.commit()' \
                '\(sandbox.stateDirectory)/registry.sqlite'
                """)
            let apply = try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy))
            for policy in ["the policy in force", "the policy that was being applied"] {
                #expect(apply.stderr.contains("\(policy) cannot be read"), "\(apply)")
            }
            try expectAgreement(sandbox)
            let again = try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy))
            #expect(!again.stderr.contains("cannot be read"), "\(again)")
        }
    }

    /// The hint of the error for a damaged registry works.
    @Test("moves a damaged registry aside by detach --all, as its error advises")
    func clearsADamagedRegistry() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/a", id: 7)
            try sandbox.sh("head -c 5000 /dev/urandom >'\(sandbox.stateDirectory)/registry.sqlite'")
            let list = try sandbox.ctl("session", "list")
            #expect(list.status == 1, "\(list)")
            #expect(list.stderr.contains("detach --all"), "\(list)")
            try sandbox.mustCtl("detach", "--all")
            #expect(try !sandbox.sh("ip -br addr").contains(session.virtualIps[0]))
            #expect(try sandbox.sh("bpftool cgroup show '\(sandbox.cgroup)/attached'").isEmpty)
            try sandbox.mustCtl("attach", "cgroup", "\(sandbox.cgroup)/attached")
            _ = try sandbox.openSession("attached/a", id: 7)
        }
    }
}
