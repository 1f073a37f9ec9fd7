// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import Host
import Policy
import PolicyMaps
import Sessions
import SystemPackage

struct PolicyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "policy",
        abstract: "Apply, check or show a policy.",
        subcommands: [PolicyApply.self, PolicyCheck.self, PolicyShow.self]
    )
}

struct PolicyApply: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply",
        abstract: "Apply a policy file to all sessions in one step.",
        discussion: """
            Also brings the maps in line with the host: programs replaced by an upgrade match again, sessions whose cgroup \
            has gone are closed, virtual IPs that something took off their interface are put back.

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
        let policy = try Policy.read(contentsOf: FilePath(file))
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
            Needs no privilege. Silent where the file is good.

            EXAMPLES
              vip-bpfctl policy check policy.yaml && vip-bpfctl policy apply policy.yaml
            """
    )

    @Argument(
        help: ArgumentHelp("The policy file.", valueName: "file"), completion: .file(extensions: ["yaml", "yml"]))
    var file: String

    @OptionGroup var output: OutputOptions

    func run() throws {
        let policy = try Policy.read(contentsOf: FilePath(file))
        if output.json { try StandardOutput.line(OutputOptions.json(["file": file, "verdict": "good"])) }
        _ = policy
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
            output.json ? try OutputOptions.json(policy, keys: .useDefaultKeys) + "\n" : try policy.yaml())
    }
}
