// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// Earlier policies, and policies that go back by themselves.
@Suite(.serialized, .requiresRoot)
struct PolicyTrialTests: CommandHost {
    private struct History: Decodable {
        struct Entry: Decodable {
            let number: Int
            let appliedAt, user, loginUser: String?
            let action: String
            let isInForce: Bool
            let changedKeys: [String]?
        }
        let policies: [Entry]
    }

    private func history(_ sandbox: Sandbox) throws -> [History.Entry] {
        try sandbox.mustCtl("policy", "history", "--json").decode(History.self).policies
    }

    /// A policy that differs from others by a number.
    private func file(_ days: Int, _ sandbox: Sandbox) throws -> String {
        try sandbox.policyFile("\(Self.policy)\nhistory: {retentionDays: \(days)}\n", named: "\(days).yaml")
    }

    /// The number of the policy in force.
    private func days(_ sandbox: Sandbox) throws -> String? {
        try sandbox.mustCtl("policy", "show").stdout.firstMatch(of: /retentionDays: ([0-9]+)/).map { String($0.1) }
    }

    // MARK: History

    @Test("lists the last ten policies, and goes back to any of them")
    func goesBack() throws {
        try attached { sandbox in
            try refuses(sandbox, ["policy", "rollback"], code: 1, "the history has none")
            try sandbox.mustCtl("policy", "apply", file(1, sandbox))
            try sandbox.mustCtl("policy", "apply", file(1, sandbox))
            try sandbox.mustCtl("program", "add", "java", "--for", "virtual-ip")
            var entries = try history(sandbox)
            #expect(entries.map(\.action) == ["attach", "apply", "program"])
            #expect(entries.map(\.isInForce) == [false, false, true])
            #expect(entries.map(\.changedKeys) == [nil, ["history.retentionDays"], ["virtualIP.programs"]])
            #expect(entries.allSatisfy { $0.user == "root" && $0.appliedAt?.hasSuffix("Z") == true }, "\(entries)")
            let table = try sandbox.mustCtl("policy", "history").stdout.split(separator: "\n")
            #expect(table.count == 4 && table[0].hasPrefix("NUMBER  APPLIED"), "\(table)")
            #expect(table[3].contains("program") && table[3].contains("yes"), "\(table)")

            try sandbox.mustCtl("policy", "rollback")
            #expect(try !sandbox.mustCtl("program", "list").stdout.contains("java"))
            try sandbox.mustCtl("policy", "rollback")
            #expect(try sandbox.mustCtl("program", "list").stdout.contains("java"))
            try sandbox.mustCtl("policy", "rollback", "1")
            #expect(try days(sandbox) == "90")
            #expect(try history(sandbox).map(\.action).suffix(3) == ["rollback", "rollback", "rollback"])
            #expect(try sandbox.mustCtl("policy", "show", "2").stdout.contains("retentionDays: 1\n"))

            for days in 11...20 { try sandbox.mustCtl("policy", "apply", file(days, sandbox)) }
            entries = try history(sandbox)
            #expect(entries.map(\.number) == Array(7...16))
            #expect(entries.map(\.isInForce) == [Bool](repeating: false, count: 9) + [true])
            for command in ["rollback", "show"] {
                try refuses(sandbox, ["policy", command, "6"], code: 1, "the history has 7 to 16")
                try refuses(sandbox, ["policy", command, "x"], code: 64, "x")
            }
            try sandbox.mustCtl("policy", "rollback", "7")
            #expect(try days(sandbox) == "11")
            // It outlives the policy itself.
            try sandbox.mustCtl("detach", "--all")
            #expect(try history(sandbox).count == 10)
            #expect(try history(sandbox).allSatisfy { !$0.isInForce })
        }
    }

    @Test("refuses an earlier policy that would harm open sessions")
    func refusesHarm() throws {
        try attached("virtualIP: {enabled: true, mode: perSession}") { sandbox in
            try sandbox.mustCtl("policy", "apply", file(1, sandbox))
            _ = try sandbox.openSession("attached/ann", id: 7)
            let before = try snapshot(sandbox)
            let refused = try sandbox.ctl("policy", "rollback")
            #expect(refused.status == 1 && refused.stdout.isEmpty, "\(refused)")
            #expect(refused.stderr.hasPrefix("policy 1: virtualIP.addresses.pool: there is no pool"), "\(refused)")
            #expect(refused.stderr.hasSuffix("or use --force\n"), "\(refused)")
            #expect(try snapshot(sandbox) == before)
            try sandbox.mustCtl("policy", "rollback", "--force")
            #expect(try history(sandbox).last?.action == "rollback")
        }
    }

    // MARK: Trials

    /// The processes that wait for the end of a trial.
    private func watchers(_ sandbox: Sandbox) throws -> [pid_t] {
        try KernelFile.read("\(sandbox.cgroup)/control/cgroup.procs").split(separator: "\n").compactMap { pid_t($0) }
            .filter { (try? KernelFile.read("/proc/\($0)/cmdline").contains("await-confirmation")) == true }
    }

    @Test("goes back by itself if a policy is not confirmed")
    func goesBackByItself() throws {
        try attached { sandbox in
            try sandbox.mustCtl("policy", "apply", file(1, sandbox))
            let apply = try sandbox.mustCtl("policy", "apply", "--confirm", "2", file(2, sandbox))
            #expect(apply.stdout.contains("on trial for 2 s; keep it: vip-bpfctl policy confirm"), "\(apply)")
            try wait(for: "the former policy") { try days(sandbox) == "1" }
            try wait(for: "the end of the process that waits") { try watchers(sandbox).isEmpty }
            #expect(try history(sandbox).map(\.action).suffix(2) == ["apply-confirm", "not-confirmed"])
            try refuses(sandbox, ["policy", "confirm"], code: 1, "none is on trial")
            #expect(try !sandbox.mustCtl("status").stdout.contains("on trial"))
        }
    }

    @Test("keeps a policy that is confirmed, and applies no other one before")
    func keepsWhatIsConfirmed() throws {
        try attached { sandbox in
            try refuses(sandbox, ["policy", "confirm"], code: 1, "none is on trial")
            let new = try file(2, sandbox)
            struct Applied: Decodable { let onTrialUntil: String? }
            let applied: Applied = try sandbox.mustCtl("policy", "apply", "--confirm", "3600", new, "--json").decode()
            #expect(applied.onTrialUntil?.hasSuffix("Z") == true)
            let watcher = try #require(try watchers(sandbox).first)
            #expect(try sandbox.mustCtl("status").stdout.contains("policy: on trial until "))
            struct Status: Decodable { let policyOnTrialUntil: String? }
            #expect(try sandbox.mustCtl("status", "--json").decode(Status.self).policyOnTrialUntil != nil)

            let other = try file(3, sandbox)
            let attach = ["attach", "cgroup", sandbox.attached, "--policy", other]
            for command in [
                ["policy", "apply", other], ["policy", "apply", "--dry-run", other],
                ["policy", "apply", "--confirm", "9", other], ["program", "add", "java", "--for", "virtual-ip"], attach,
            ] {
                try refuses(sandbox, command, code: 1, "on trial for 3", "policy confirm", "policy rollback")
            }
            #expect(try watchers(sandbox) == [watcher])
            // The same policy may be applied: that is what keeps the maps up to date.
            try sandbox.mustCtl("policy", "apply", new)
            let same = try sandbox.mustCtl("policy", "apply", "--confirm", "9", new)
            #expect(same.stdout.contains("nothing to confirm"), "\(same)")

            #expect(try sandbox.mustCtl("policy", "confirm").stdout == "the policy in force stays: number 2\n")
            try wait(for: "the end of the process that waits") { try watchers(sandbox).isEmpty }
            try refuses(sandbox, ["policy", "confirm"], code: 1, "none is on trial")
            try sandbox.mustCtl("policy", "apply", other)
            #expect(try days(sandbox) == "3")
        }
    }

    @Test("ends a trial with a rollback, and with detach --all")
    func endsATrial() throws {
        try attached { sandbox in
            try sandbox.mustCtl("policy", "apply", file(1, sandbox))
            try sandbox.mustCtl("policy", "apply", "--confirm", "3600", file(2, sandbox))
            try sandbox.mustCtl("policy", "rollback")
            #expect(try days(sandbox) == "1")
            try wait(for: "the end of the process that waits") { try watchers(sandbox).isEmpty }
            try refuses(sandbox, ["policy", "confirm"], code: 1, "none is on trial")
            try sandbox.mustCtl("policy", "apply", "--confirm", "3600", file(2, sandbox))
            try sandbox.mustCtl("detach", "--all")
            try wait(for: "the end of the process that waits") { try watchers(sandbox).isEmpty }
            try sandbox.mustCtl("attach", "cgroup", sandbox.attached, "--policy", file(3, sandbox))
            #expect(try days(sandbox) == "3")
        }
    }

    /// The process that waits was killed, and no daemon runs.
    @Test("goes back with the next command if nothing else is left to do it")
    func goesBackWithTheNextCommand() throws {
        try attached { sandbox in
            try sandbox.mustCtl("policy", "apply", file(1, sandbox))
            try sandbox.mustCtl("policy", "apply", "--confirm", "1", file(2, sandbox))
            for watcher in try watchers(sandbox) { kill(watcher, SIGKILL) }
            // It fails, but repairs first.
            try wait(for: "the former policy") {
                _ = try sandbox.ctl("program", "remove", "none", "--for", "loopback")
                return try days(sandbox) == "1"
            }
            #expect(try history(sandbox).last?.action == "not-confirmed")
        }
    }

    /// The whole process group of the caller is killed, as with its terminal.
    @Test("goes back although the caller and its terminal are gone")
    func outlivesTheCaller() throws {
        try attached { sandbox in
            try sandbox.mustCtl("policy", "apply", file(1, sandbox))
            let script = "exec 9>&1; cd \"$2\"; \"$0\" policy apply --confirm 4 \"$1\"; kill -KILL 0"
            let caller = try sandbox.start(
                [
                    "setsid", "/bin/sh", "-c", script, Build.controller.path, file(2, sandbox), sandbox.directory,
                ], in: "control", environment: sandbox.controlEnvironment)
            caller.closeInput()
            try caller.wait()
            let watcher = try #require(try watchers(sandbox).first)
            try wait(for: "the process to leave the caller's directory") {
                try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(watcher)/cwd") == "/"
            }
            #expect(getsid(watcher) == watcher && getpgid(watcher) == watcher)
            let files = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(watcher)/fd").map {
                try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(watcher)/fd/\($0)")
            }
            #expect(Set(files) == ["/dev/null"], "\(files)")
            #expect(try days(sandbox) == "2")
            try wait(for: "the former policy") { try days(sandbox) == "1" }
        }
    }

    /// A command that is killed leaves the former policy in force, or the new one on trial.
    @Test("begins a trial or does not if the command is killed at any step")
    func survivesAKill() throws {
        try attached { sandbox in
            try sandbox.mustCtl("policy", "apply", file(1, sandbox))
            let new = try file(2, sandbox)
            var (step, trials) = (1, 0)
            var isKilled = true
            while isKilled {
                // Without -f, so that strace does not wait for the end of the process that waits.
                let script = """
                    strace -o /dev/null -e trace=bpf,fdatasync,fsync,pwrite64 \
                    -e inject=bpf,fdatasync,fsync,pwrite64:signal=KILL:when=\(step) \
                    '\(Build.controller.path)' --bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)' \
                    policy apply --confirm 3600 '\(new)' >/dev/null 2>&1 && echo done || echo killed
                    """
                isKilled = try sandbox.sh(script).contains("killed")
                // Any change repairs first; this one fails.
                _ = try sandbox.ctl("program", "remove", "none", "--for", "loopback")
                let inForce = try days(sandbox)
                let confirm = try sandbox.ctl("policy", "confirm")
                #expect(confirm.status == (inForce == "2" ? 0 : 1), "step \(step): \(inForce ?? "-"), \(confirm)")
                if inForce == "2" { trials += 1 }
                try sandbox.mustCtl("policy", "apply", file(1, sandbox))
                try expectAgreement(sandbox)
                // The process of a trial that did not begin ends with its deadline; here it would be an hour.
                for watcher in try watchers(sandbox) { kill(watcher, SIGKILL) }
                step += 7  // prime to the groups of calls: every kind is met
            }
            #expect(step > 10 && trials > 0, "no step was met")
        }
    }

    @Test("leaves nothing of a trial that does not begin")
    func leavesNothing() throws {
        try attached { sandbox in
            let names = (0..<20_000).map { "p\($0)" }.joined(separator: ",")
            let large = try sandbox.policyFile(
                "virtualIP: {enabled: true, programs: [\(names)], addresses: {pool: [198.51.100.16/28]}}",
                named: "large")
            try refuses(sandbox, ["policy", "apply", "--confirm", "60", large], code: 1, "do not fit map")
            #expect(try watchers(sandbox).isEmpty)
            try refuses(sandbox, ["policy", "confirm"], code: 1, "none is on trial")
            let good = try file(1, sandbox)
            for seconds in ["0", "-1", "86401", "x", "1.5", ""] {
                try refuses(sandbox, ["policy", "apply", "--confirm=\(seconds)", good], code: 64, "--confirm")
            }
            try refuses(sandbox, ["policy", "apply", "--confirm", "9", "--dry-run", good], code: 64, "--dry-run")
            try refuses(sandbox, ["policy", "await-confirmation", "--deadline", "x"], code: 64, "--deadline")
        }
    }
}
