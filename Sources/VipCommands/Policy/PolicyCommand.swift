// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import FoundationEssentials
import Host
import Policy
import PolicyMaps
import Sessions
import SystemPackage

struct PolicyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "policy",
        abstract: "Apply, check or show a policy.",
        subcommands: [PolicyApply.self, PolicyCheck.self, PolicyShow.self, PolicySchemaCommand.self]
    )
}

struct PolicyApply: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply",
        abstract: "Apply a policy file to all sessions in one step.",
        discussion: """
            Also brings the maps in line with the host: programs replaced by an upgrade match again, sessions whose cgroup \
            no longer exists are closed, and missing virtual IPs are restored.

            EXAMPLES
              vip-bpfctl policy apply /etc/vip-bpf/policy.yaml
            """
    )

    @Argument(
        help: ArgumentHelp("The policy file.", valueName: "file"), completion: .file(extensions: ["yaml", "yml"]))
    var file: String

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let policy = try output.policy(contentsOf: file)
        let changes = try options.change { change throws(Failure) in try change.apply(policy) }
        try output.print(AppliedPayload(changes))
    }
}

struct AppliedPayload: Payload {
    var generation: UInt32
    var rowsWritten: Int
    var rowsRemoved: Int

    init(_ changes: PolicyMapSet.Changes) {
        generation = changes.generation
        rowsWritten = changes.written
        rowsRemoved = changes.removed
    }

    var table: Table {
        Table(rows: [["policy in force: generation \(generation), \(rowsWritten) rows written, \(rowsRemoved) removed"]]
        )
    }
}

struct PolicyCheck: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check a policy file without applying it.",
        discussion: """
            Needs no privilege. Prints nothing for a good file. Each problem of another is one line on standard error, \
            FILE:LINE:COLUMN: KEY: PROBLEM; WHAT TO DO, and the exit code is 1. With --json, the problems are a document.

            EXAMPLES
              vip-bpfctl policy check policy.yaml && vip-bpfctl policy apply policy.yaml
            """
    )

    @Argument(
        help: ArgumentHelp("The policy file.", valueName: "file"), completion: .file(extensions: ["yaml", "yml"]))
    var file: String

    @OptionGroup var output: OutputOptions

    func run() throws {
        _ = try output.policy(contentsOf: file)
        if output.json { try StandardOutput.line(OutputOptions.json(PolicyVerdict(file: file, problems: []))) }
    }
}

extension OutputOptions {
    /// Reads a policy file. If it has problems, reports all of them and ends the command.
    fileprivate func policy(contentsOf file: String) throws -> Policy {
        switch try Policy.check(contentsOf: FilePath(file)) {
        case .success(let policy): return policy
        case .failure(let problems):
            if json {
                try StandardOutput.line(OutputOptions.json(PolicyVerdict(file: file, problems: problems.all)))
            } else {
                for problem in problems.all { StandardError.line("\(problem)") }
            }
            throw ExitCode(Failure.Code.failed.exitCode)
        }
    }
}

/// The result for a policy file. This document is stable.
private struct PolicyVerdict: Encodable {
    struct Problem: Encodable {
        let file: String
        /// The line, counted from 1 like the column; `null` if the problem concerns the whole file.
        @Nullable var line: Int?
        @Nullable var column: Int?
        @Nullable var key: String?
        let message: String
        @Nullable var hint: String?

        init(_ problem: PolicyProblem) {
            file = problem.file
            message = problem.message
            line = problem.line
            column = problem.column
            key = problem.key
            hint = problem.hint
        }
    }

    let file: String
    /// `good` or `bad`.
    let verdict: String
    /// The problems in the order of the text, at most `PolicyProblems.limit`.
    let problems: [Problem]

    init(file: String, problems: [PolicyProblem]) {
        self.file = file
        verdict = problems.isEmpty ? "good" : "bad"
        self.problems = problems.map(Problem.init)
    }
}

struct PolicyShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show the policy in force, with every default.",
        discussion: """
            The text is a policy file: what it prints can be applied again. With --json, keys are those of the file.

            EXAMPLES
              vip-bpfctl policy show > policy.yaml
            """
    )

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let instance = options.instance
        let policy = try instance.policy(instance.registry())
        try StandardOutput.text(
            output.json ? try OutputOptions.json(policy, keys: .useDefaultKeys) + "\n" : policy.yaml())
    }
}
