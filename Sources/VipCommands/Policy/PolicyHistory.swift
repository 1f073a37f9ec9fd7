// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import FoundationEssentials
import Host
import Policy
import Sessions

struct PolicyHistory: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "history",
        abstract: "List the last policies: when they were applied, by whom, and what changed.",
        discussion: """
            The last \(Registry.policyHistoryLimit) are kept; the last one is in force. BY is the user who logged in, as sudo and \
            su keep it, and the one that the command ran as. The history outlives 'detach --all'.

            EXAMPLES
              vip-bpfctl policy history
              vip-bpfctl policy history --json | jq '.policies[-1]'
            """
    )

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let registry = try options.instance.registry()
        let inForce = try registry.value(of: .policy) == nil ? nil : try options.instance.policy(registry)
        try output.print(PolicyHistoryPayload(registry.policyHistory(), inForce: inForce))
    }
}

/// The last policies. This document is stable.
struct PolicyHistoryPayload: Payload {
    struct Entry: Encodable {
        let number: Int
        /// `null` if an earlier version applied it, which keeps no history.
        @Nullable var appliedAt: Date?
        /// The user that the command ran as; `null` if the host does not know it, or nothing was noted.
        @Nullable var user: String?
        @Nullable var uid: UInt32?
        /// The user who logged in; `null` if the command belonged to no login.
        @Nullable var loginUser: String?
        /// `apply`, `apply-confirm`, `program`, `attach`, `reload`, `rollback`, `not-confirmed` or `unknown`.
        let action: String
        let isInForce: Bool
        /// The keys whose values differ from the policy before; `null` for the first.
        @Nullable var changedKeys: [String]?

        private enum CodingKeys: CodingKey {
            case number, appliedAt, user, uid, loginUser, action, isInForce, changedKeys
        }

        /// For the table.
        let author: String?

        init(_ past: PastPolicy, before: PastPolicy?, isInForce: Bool) {
            number = past.number
            action = past.action.rawValue
            author = past.author?.text
            self.isInForce = isInForce
            appliedAt = past.appliedAt
            user = past.author?.user
            uid = past.author?.uid
            loginUser = past.author?.login
            changedKeys = before.map { $0.policy.differences(to: past.policy).map(\.key) }
        }
    }

    let policies: [Entry]

    init(_ history: [PastPolicy], inForce: Policy?) {
        policies = history.indices.map { index in
            Entry(
                history[index], before: index == 0 ? nil : history[index - 1],
                isInForce: index == history.count - 1 && history[index].policy == inForce)
        }
    }

    var table: Table {
        guard !policies.isEmpty else { return Table(rows: [["no policy was applied"]]) }
        let few = 3  // keeps the line readable
        return Table(
            headings: ["NUMBER", "APPLIED", "BY", "ACTION", "IN FORCE", "CHANGED"],
            rows: policies.map { policy in
                let keys = policy.changedKeys ?? []
                let changed =
                    keys.prefix(few).joined(separator: ", ")
                    + (keys.count > few ? " and \(keys.count - few) more" : "")
                return [
                    "\(policy.number)", policy.appliedAt?.formatted(.iso8601) ?? "-", policy.author ?? "-",
                    policy.action, policy.isInForce ? "yes" : "-", changed.isEmpty ? "-" : changed,
                ]
            })
    }
}
