// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport

/// The result of a run of vip-bpfctl.
struct ControlResult: CustomStringConvertible {
    let arguments: [String]
    /// The exit code.
    let status: Int32
    let stdout: String
    let stderr: String

    /// The document on standard output, decoded; its keys are in snake_case.
    func decode<T: Decodable>(_ type: T.Type = T.self) throws -> T {
        do {
            return try JSONDecoder.snake.decode(T.self, from: Data(stdout.utf8))
        } catch {
            throw HarnessError("\(self): not the expected JSON: \(error)")
        }
    }

    /// The document on standard output, as Foundation has it.
    var json: Any? { try? JSONSerialization.jsonObject(with: Data(stdout.utf8), options: .fragmentsAllowed) }

    var description: String {
        let streams = [stdout, stderr].map { $0.trimmingCharacters(in: .whitespacesAndNewlines) }.filter { !$0.isEmpty }
        return
            "vip-bpfctl \(arguments.joined(separator: " ")): exit code \(status): \(streams.joined(separator: " | "))"
    }
}

extension JSONDecoder {
    /// A decoder for the output of vip-bpfctl.
    static var snake: JSONDecoder {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return decoder
    }
}

/// A session as `session open --json` and `session show --json` print it.
struct OpenSession: Decodable, Sendable, Hashable {
    let id: UInt32
    let user: String?
    let cgroup: String
    let cgroupId: UInt64
    let virtualIps: [String]
    let virtualLoopback: String
    let virtualLoopback6: String?
    let policy: String?
}

extension Sandbox {
    /// The directory of pins. Like the default, it is a directory in a BPF file system and does not exist at first.
    var bpffs: String { "\(directory)/bpf/vip" }
    var stateDirectory: String { "\(directory)/state" }
    /// The cgroup to which tests attach the hooks.
    var attached: String { "\(cgroup)/attached" }

    /// The environment that makes vip-bpfctl use this sandbox.
    var controlEnvironment: [String: String] { ["VIP_BPF_BPFFS": bpffs, "VIP_BPF_STATE": stateDirectory] }

    /// Runs vip-bpfctl on the inner host, with pins and state of this sandbox's own.
    func ctl(
        _ arguments: [String], input: String = "", environment: [String: String] = [:],
        within patience: Duration = hang
    ) throws -> ControlResult {
        let own = controlEnvironment.merging(environment) { _, new in new }
        let program = try start([Build.controller.path] + arguments, in: "control", environment: own, errorOutput: true)
        // It need not read its input: an early error is seen by the exit code and standard error.
        if !input.isEmpty { try? program.write(input) }
        program.closeInput()
        let status = try program.wait(within: patience)
        return ControlResult(
            arguments: arguments, status: status, stdout: program.outputText, stderr: program.errorText)
    }

    func ctl(_ arguments: String...) throws -> ControlResult { try ctl(arguments) }

    /// The same; any failure is an error.
    @discardableResult
    func mustCtl(_ arguments: String...) throws -> ControlResult {
        let result = try ctl(arguments)
        guard result.status == 0 else { throw HarnessError("\(result)") }
        return result
    }

    /// Writes a policy file in the state of this sandbox, and returns its path.
    func policyFile(_ yaml: String, named name: String = "policy.yaml") throws -> String {
        let path = "\(directory)/\(name)"
        try yaml.write(toFile: path, atomically: true, encoding: .utf8)
        return path
    }

    /// Makes a cgroup a session: `attached/ann`, say.
    func openSession(_ cgroup: String, id: UInt32, ips: [String] = []) throws -> OpenSession {
        var arguments = ["session", "open", "--cgroup", try self.cgroup(cgroup), "--id", "\(id)", "--json"]
        for ip in ips { arguments += ["--ip", ip] }
        let result = try ctl(arguments)
        guard result.status == 0 else { throw HarnessError("\(result)") }
        return try result.decode()
    }
}
