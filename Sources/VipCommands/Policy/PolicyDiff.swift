// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Network
import Policy
import Sessions
import SystemPackage

struct PolicyDiff: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diff",
        abstract: "Show what a policy file would change, and for which sessions.",
        discussion: """
            Compares a file with the policy in force: the keys whose values differ, and what changes for the sessions that \
            are open. What 'policy apply' would warn of is on standard error, as by 'policy check'. Nothing is changed, and \
            the exit code is 0 for a file that can be read.

            EXAMPLES
              vip-bpfctl policy diff
              vip-bpfctl policy diff new.yaml --json | jq .sessions
            """
    )

    @Argument(
        help: ArgumentHelp("The policy file, '-' for standard input.", valueName: "file"),
        completion: .file(extensions: ["yaml", "yml"]))
    var file: String = Instance.defaultPolicyFile.string

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let file = try output.policyFile(file)
        let instance = options.instance
        let registry = try instance.registry()
        _ = try instance.policy(registry)  // without it, there is nothing to compare with
        let impact = try instance.impact(of: file.policy, registry, Netlink())
        try output.print(PolicyDiffPayload(file, impact))
        if !output.json { impact.report(file) }
    }
}

/// What a policy would change. This document is stable.
struct PolicyDiffPayload: Payload {
    struct Key: Encodable {
        let key: String
        /// As written in a file; `null` if the key is not given and has no default.
        @Nullable var before: String?
        @Nullable var after: String?

        init(_ difference: PolicyDifference) {
            key = difference.key
            before = difference.before
            after = difference.after
        }
    }

    struct Change: Encodable {
        let ids: [UInt32]
        /// The override that holds for them; `null` if it is the base policy.
        @Nullable var overrideBefore: String?
        @Nullable var overrideAfter: String?
        /// In words.
        let changes: [String]

        init(_ change: PolicyImpact.SessionChange) {
            ids = change.sessions
            overrideBefore = change.override.before
            overrideAfter = change.override.after
            changes = change.changes
        }

        private enum CodingKeys: CodingKey { case ids, overrideBefore, overrideAfter, changes }
    }

    let file: String
    /// The keys whose values differ.
    let keys: [Key]
    /// What changes for open sessions; those for which nothing does are not in it.
    let sessions: [Change]
    let warnings: [PolicyWarning]
    /// Whether the policy is not applied without --force.
    let isRefused: Bool

    init(_ file: PolicyFile, _ impact: PolicyImpact) {
        self.file = file.name
        keys = impact.differences.map(Key.init)
        sessions = impact.sessionChanges.map(Change.init)
        warnings = impact.warnings(in: file)
        isRefused = !impact.refused.isEmpty
    }

    var table: Table {
        guard !keys.isEmpty else { return Table(rows: [["the policy in force is that of \(file); nothing changes"]]) }
        let changes = sessions.flatMap { session in
            session.changes.map { change in
                let ids = "session\(session.ids.count == 1 ? "" : "s") \(session.ids.few)"
                return "\(ids)\(session.overrideAfter.map { " (override \($0))" } ?? ""): \(change)".printableLine
            }
        }
        return Table(
            headings: ["KEY", "IN FORCE", "NEW"],
            rows: keys.map { [$0.key, $0.before ?? "-", $0.after ?? "-"] },
            notes: changes.isEmpty ? ["nothing changes for open sessions"] : changes)
    }
}
