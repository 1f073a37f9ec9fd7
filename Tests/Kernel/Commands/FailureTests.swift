// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// The errors of failed commands, and what they leave behind.
@Suite(.serialized, .requiresRoot)
struct FailureTests {
    @Test func rootIsToldWhichCapabilityItLacks() throws {
        try Sandbox.with { sandbox in
            let cgroup = try sandbox.cgroup("attached")
            let attach = try run(
                ["setpriv", "--bounding-set=-sys_admin,-bpf", "--inh-caps=-sys_admin,-bpf", "--"],
                ["attach", "cgroup", cgroup], sandbox)
            #expect(attach.status == 77, "\(attach.error)")
            #expect(attach.error.hasSuffix("operation not permitted; grant CAP_BPF, which root lacks here"))
        }
    }

    /// A directory that the caller may not enter is not reported as missing.
    @Test func aDirectoryThatMayNotBeEnteredIsReported() throws {
        try Sandbox.with { sandbox in
            let directory = "\(sandbox.directory)/private"
            try sandbox.sh("mkdir -m 700 '\(directory)'; chmod o+x '\(sandbox.directory)'")
            for (arguments, operation) in [
                (["metrics", "--output", "\(directory)/x.prom"], "write \(directory)/x.prom"),
                (["policy", "check", "\(directory)/p.yaml"], "read policy \(directory)/p.yaml"),
            ] {
                let nobody = try run(
                    ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"], arguments, sandbox)
                #expect(nobody.status == 77)
                #expect(nobody.error == "vip-bpfctl: \(operation): permission denied; run as root")
            }
            let missing = try run([], ["metrics", "--output", "\(directory)/none/x.prom"], sandbox)
            #expect(missing.status == 1 && missing.error.contains("no such file or directory"), "\(missing)")
        }
    }

    @Test func aFailingCommandCreatesNothing() throws {
        try Sandbox.with { sandbox in
            let cgroup = try sandbox.cgroup("never-attached")
            let state = "\(sandbox.directory)/a/state"
            let pins = "\(sandbox.bpffs)-of-failures"
            let policy = try sandbox.policyFile("virtualIP: {enabled: false}\n")
            for arguments in [
                ["session", "close", "9"], ["session", "open", "--cgroup", cgroup],
                ["session", "open", "--cgroup", cgroup, "--id", "1"], ["run", "--", "true"],
                ["policy", "apply", policy], ["policy", "apply", "\(state)/none"],
                ["detach", "cgroup", cgroup], ["attach", "cgroup", "/none"],
                ["attach", "cgroup", cgroup, "--policy", "/none"], ["whoami"], ["who", "192.0.2.1"], ["watch"],
                ["top", "--once"], ["map", "dump", "sessions"], ["metrics", "--output", "\(state)/x.prom"],
            ] {
                let result = try run([], arguments + ["--state", state, "--bpffs", pins], sandbox)
                #expect(result.status != 0 && result.status != 64, "\(arguments): \(result)")
                #expect(!FileManager.default.fileExists(atPath: "\(sandbox.directory)/a"), "\(arguments)")
                #expect(!FileManager.default.fileExists(atPath: pins), "\(arguments)")
            }
            // The same for a command that succeeds and has nothing to do.
            #expect(try run([], ["detach", "--all", "--state", state, "--bpffs", pins], sandbox).status == 0)
            #expect(!FileManager.default.fileExists(atPath: "\(sandbox.directory)/a"))
        }
    }

    private func run(
        _ prefix: [String], _ arguments: [String], _ sandbox: Sandbox
    ) throws -> (status: Int32, error: String) {
        let program = try sandbox.start(
            prefix + [Build.controller.path] + arguments, in: "control", environment: sandbox.controlEnvironment,
            errorOutput: true)
        program.closeInput()
        return (try program.wait(), program.errorText.trimmingCharacters(in: .newlines))
    }
}
