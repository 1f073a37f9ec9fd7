// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Policy
import PolicyMaps
import Sessions
import SystemPackage

struct PolicyApply: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply",
        abstract: "Apply a policy file to all sessions in one step.",
        discussion: """
            Also brings the maps in line with the host: programs replaced by an upgrade match again, sessions whose cgroup \
            no longer exists are closed, and missing virtual IPs are restored.

            A policy that would leave open sessions without an address, or refuse all that they do, is not applied, unless \
            --force is given; 'policy check' and 'policy diff' say so beforehand. What the policy in force does to a session \
            already is no reason.

            EXAMPLES
              vip-bpfctl policy apply /etc/vip-bpf/policy.yaml
              vip-bpfctl policy show | sed 's/deny/useHostAddress/' | vip-bpfctl policy apply -
            """
    )

    @Argument(help: policyFileHelp, completion: .file(extensions: ["yaml", "yml"]))
    var file: String

    @Flag(help: "Apply it also if it leaves open sessions without an address, or refuses all that they do.")
    var force = false

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let file = try output.policyFile(file)
        let (impact, changes) = try options.change {
            change throws(Failure) -> (PolicyImpact, PolicyMapSet.Changes?) in
            let impact = try change.impact(of: file.policy)
            guard force || impact.refused.isEmpty else { return (impact, nil) }
            return (impact, try change.apply(file.policy))
        }
        guard let changes else { return try output.refuse(file, impact) }
        impact.report(file)
        try output.print(AppliedPayload(changes, warnings: impact.warnings(in: file)))
    }
}

extension OutputOptions {
    /// Reports why a policy is not applied, and ends the command.
    func refuse(_ file: PolicyFile, _ impact: PolicyImpact) throws {
        if json {
            try StandardOutput.line(OutputOptions.json(PolicyVerdict(file, impact)))
            throw ExitCode(Failure.Code.harmfulPolicy.exitCode)
        }
        for risk in impact.refused { StandardError.line(PolicyWarning.line(risk, in: file, as: "")) }
        throw impact.refusal(of: file)
    }
}

struct AppliedPayload: Payload {
    var generation: UInt32
    var rowsWritten: Int
    var rowsRemoved: Int
    var warnings: [PolicyWarning]

    init(_ changes: PolicyMapSet.Changes, warnings: [PolicyWarning] = []) {
        generation = changes.generation
        rowsWritten = changes.written
        rowsRemoved = changes.removed
        self.warnings = warnings
    }

    var table: Table {
        Table(rows: [["policy in force: generation \(generation), \(rowsWritten) rows written, \(rowsRemoved) removed"]]
        )
    }
}
