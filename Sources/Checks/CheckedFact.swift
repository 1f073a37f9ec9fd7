// SPDX-License-Identifier: Apache-2.0

package import Host

/// A result of `check` about one subject, and what to do about it.
package struct CheckedFact: Encodable {
    package enum Verdict: String, Encodable {
        case good
        /// It works in part, or not for all users.
        case warning
        /// It cannot work.
        case bad
    }

    /// What a bad fact is about. It decides the exit code.
    package enum Kind { case host, privilege, state }

    private enum CodingKeys: CodingKey { case subject, verdict, fact, fix }

    package var subject: String
    package var kind: Kind
    package var verdict: Verdict
    package var fact: String
    /// What to do about it.
    @Nullable package var fix: String?

    package init(subject: String, kind: Kind = .state, verdict: Verdict, fact: String, fix: String? = nil) {
        self.subject = subject
        self.kind = kind
        self.verdict = verdict
        self.fact = fact
        self.fix = fix
    }
}

extension CheckedFact {
    package static func good(_ subject: String, _ fact: String) -> Self {
        Self(subject: subject, verdict: .good, fact: fact)
    }

    package static func warning(_ subject: String, _ fact: String, fix: String? = nil) -> Self {
        Self(subject: subject, verdict: .warning, fact: fact, fix: fix)
    }

    package static func bad(_ subject: String, _ fact: String, fix: String? = nil, _ kind: Kind = .state) -> Self {
        Self(subject: subject, kind: kind, verdict: .bad, fact: fact, fix: fix)
    }

    package static func bad(_ subject: String, _ failure: Failure) -> Self {
        let kind: Kind =
            failure.code == .unavailable ? .host : failure.code == .notPermitted ? .privilege : .state
        return bad(subject, "\(failure.operation): \(failure.reason)", fix: failure.hint, kind)
    }
}

extension CheckedSubject {
    /// Returns the facts that `body` finds; if it throws, one fact that says so.
    package static func looking(
        at subject: String, _ body: () throws(Failure) -> [CheckedFact]
    ) -> [CheckedFact] {
        do throws(Failure) { return try body() } catch { return [.bad(subject, error)] }
    }
}
