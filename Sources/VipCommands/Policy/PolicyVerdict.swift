// SPDX-License-Identifier: Apache-2.0

import Host
import Policy
import Sessions

/// A warning about a policy that can be read. This document is stable.
struct PolicyWarning: Encodable {
    /// What it is: a ``PolicyHazard/Kind``.
    let kind: PolicyHazard.Kind
    let file: String
    /// The line, counted from 1 like the column; `null` if the policy is not read from a file.
    @Nullable var line: Int?
    @Nullable var column: Int?
    let key: String
    let message: String
    let hint: String
    /// The IDs of the open sessions that it is about.
    let sessions: [UInt32]
    /// Whether the policy is not applied without --force because of it.
    let isRefused: Bool

    init(_ risk: PolicyImpact.Risk, in policy: PolicyFile) {
        let problem = policy.problem(risk.hazard)
        kind = risk.hazard.kind
        file = problem.file
        line = problem.line
        column = problem.column
        key = risk.hazard.key
        message = risk.hazard.message
        hint = risk.hazard.hint
        sessions = risk.sessions
        isRefused = !risk.newSessions.isEmpty
    }

    private enum CodingKeys: CodingKey { case kind, file, line, column, key, message, hint, sessions, isRefused }

    /// `FILE:LINE:COLUMN: warning: KEY: MESSAGE; HINT`, on one line.
    static func line(_ risk: PolicyImpact.Risk, in policy: PolicyFile, as severity: String = "warning: ") -> String {
        let problem = policy.problem(risk.hazard)
        return "\(problem.place): \(severity)\(problem.messageOfKey)\(risk.note); \(risk.hazard.hint)".printableLine
    }
}

extension PolicyImpact {
    /// Prints the risks on standard error: each a line, with its place in the policy's file.
    func report(_ policy: PolicyFile) {
        for risk in risks { StandardError.line(PolicyWarning.line(risk, in: policy)) }
    }

    func warnings(in policy: PolicyFile) -> [PolicyWarning] { risks.map { PolicyWarning($0, in: policy) } }

    /// Why a policy is not applied.
    func refusal(of policy: PolicyFile) -> Failure {
        Failure(
            .harmfulPolicy, "apply policy \(policy.name)",
            "it would leave \(endangered.count.openSessions) (\(endangered.few)) without an address, or refuse all that they do: see above",
            hint: "correct it, or use --force")
    }
}

/// The result for a policy file. This document is stable.
struct PolicyVerdict: Encodable {
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
    /// `good`; `warning`; `refused` if it is not applied without --force; or `bad` if it cannot be read.
    let verdict: String
    /// The problems in the order of the text, at most `PolicyProblems.limit`.
    let problems: [Problem]
    let warnings: [PolicyWarning]

    init(file: String, problems: [PolicyProblem]) {
        self.file = file
        verdict = "bad"
        self.problems = problems.map(Problem.init)
        warnings = []
    }

    init(_ file: PolicyFile, _ impact: PolicyImpact) {
        self.file = file.name
        verdict = impact.risks.isEmpty ? "good" : impact.refused.isEmpty ? "warning" : "refused"
        problems = []
        warnings = impact.warnings(in: file)
    }
}
