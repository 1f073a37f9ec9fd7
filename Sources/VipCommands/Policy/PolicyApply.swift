// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import FoundationEssentials
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

            With --dry-run, everything is checked as for an application, and what would change is printed as by 'policy diff'; \
            nothing is changed. The exit code is that of the application.

            With --confirm, the policy is in force on trial: after SECONDS the one before is in force again, unless 'policy \
            confirm' was called. That also happens if the terminal is gone, this command was killed or no daemon runs. \
            Meanwhile 'policy rollback' goes back at once, and no other policy is applied.

            EXAMPLES
              vip-bpfctl policy apply /etc/vip-bpf/policy.yaml
              vip-bpfctl policy apply --confirm 60 new.yaml && ssh localhost true && vip-bpfctl policy confirm
              vip-bpfctl policy apply --dry-run new.yaml
              vip-bpfctl policy show | sed 's/deny/useHostAddress/' | vip-bpfctl policy apply -
            """
    )

    @Argument(help: policyFileHelp, completion: .file(extensions: ["yaml", "yml"]))
    var file: String

    @Flag(help: "Apply it also if it leaves open sessions without an address, or refuses all that they do.")
    var force = false

    @Flag(help: "Check everything and print what would change; change nothing.")
    var dryRun = false

    @Option(
        help: ArgumentHelp(
            "Go back to the policy before unless it is confirmed within this time.", valueName: "seconds"))
    var confirm: Int?

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if dryRun, confirm != nil { throw ValidationError("use either --dry-run or --confirm") }
        if let confirm, !TrialRequest.allowedSeconds.contains(confirm) {
            let allowed = TrialRequest.allowedSeconds
            throw ValidationError("--confirm \(confirm) is not in \(allowed.lowerBound)…\(allowed.upperBound) seconds")
        }
    }

    func run() throws {
        let file = try output.policyFile(file)
        if dryRun { return try tryOut(file) }
        let instance = options.instance
        var trial: TrialRequest?
        let (impact, changes) = try options.change {
            change throws(Failure) -> (PolicyImpact, PolicyMapSet.Changes?) in
            let impact = try change.impact(of: file.policy)
            guard force || impact.refused.isEmpty else { return (impact, nil) }
            // There is nothing to go back to if it is in force already.
            guard let confirm, try instance.policy(change.registry) != file.policy else {
                return (impact, try change.apply(file.policy, as: .apply))
            }
            let request = try instance.watchTrial(for: confirm, command: PolicyAwait.arguments)
            do throws(Failure) {
                let changes = try change.apply(file.policy, as: .trial, onTrial: request)
                trial = request
                return (impact, changes)
            } catch {
                instance.stopWatching(request)
                throw error
            }
        }
        guard let changes else { return try output.refuse(file, impact) }
        impact.report(file)
        var payload = AppliedPayload(changes, warnings: impact.warnings(in: file))
        payload.onTrialUntil = trial?.endsAt
        if let confirm {
            payload.note =
                trial == nil
                ? "it was in force already: there is nothing to confirm"
                : "on trial for \(confirm) s; keep it: vip-bpfctl policy confirm"
        }
        try output.print(payload)
    }

    private func tryOut(_ file: PolicyFile) throws {
        // Without the repair of what a killed command has left.
        let impact = try options.change(repairing: false) { change throws(Failure) in
            try change.check(file.policy)
            return try change.impact(of: file.policy)
        }
        try output.print(PolicyDiffPayload(file, impact))
        guard force || impact.refused.isEmpty else {
            if output.json { throw ExitCode(Failure.Code.harmfulPolicy.exitCode) }
            return try output.refuse(file, impact)
        }
        if !output.json { impact.report(file) }
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
    /// When the policy before is in force again if this one is not confirmed; `nil` if it stays.
    @Nullable var onTrialUntil: Date?
    /// For the table.
    var note: String?

    private enum CodingKeys: CodingKey { case generation, rowsWritten, rowsRemoved, warnings, onTrialUntil }

    init(_ changes: PolicyMapSet.Changes, warnings: [PolicyWarning] = []) {
        generation = changes.generation
        rowsWritten = changes.written
        rowsRemoved = changes.removed
        self.warnings = warnings
    }

    var table: Table {
        let applied = "policy in force: generation \(generation), \(rowsWritten) rows written, \(rowsRemoved) removed"
        return Table(rows: ([applied] + (note.map { [$0] } ?? [])).map { [$0] })
    }
}
