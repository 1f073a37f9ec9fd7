// SPDX-License-Identifier: Apache-2.0

import Discovery
import Host

struct CheckPayload: Payload {
    struct Fact: Encodable {
        enum Verdict: String, Encodable {
            case good
            /// Works, but not all of it or not for everybody.
            case warning
            /// Cannot work.
            case bad
        }

        /// What a bad fact is a matter of.
        enum Kind { case host, privilege, state }

        private enum CodingKeys: CodingKey { case subject, verdict, fact, fix }

        var subject: String
        var kind: Kind
        var verdict: Verdict
        var fact: String
        /// What to do about it.
        @Nullable var fix: String?

        init(subject: String, kind: Kind = .state, verdict: Verdict, fact: String, fix: String? = nil) {
            self.subject = subject
            self.kind = kind
            self.verdict = verdict
            self.fact = fact
            self.fix = fix
        }
    }

    var facts: [Fact]

    /// What the bad facts come to: the host lacks something, else the caller's privileges, else what a command can fix.
    var code: Failure.Code? {
        let bad = Set(facts.filter { $0.verdict == .bad }.map(\.kind))
        return bad.contains(.host)
            ? .unavailable : bad.contains(.privilege) ? .notPermitted : bad.isEmpty ? nil : .failed
    }

    var table: Table {
        Table(
            rows: facts.map { fact in
                [fact.verdict.rawValue, fact.subject, fact.fix.map { "\(fact.fact); \($0)" } ?? fact.fact]
            })
    }
}

extension CheckPayload.Fact {
    static func good(_ subject: String, _ fact: String) -> Self {
        Self(subject: subject, verdict: .good, fact: fact)
    }

    static func warning(_ subject: String, _ fact: String, fix: String? = nil) -> Self {
        Self(subject: subject, verdict: .warning, fact: fact, fix: fix)
    }

    static func bad(_ subject: String, _ fact: String, fix: String? = nil, _ kind: Kind = .state) -> Self {
        Self(subject: subject, kind: kind, verdict: .bad, fact: fact, fix: fix)
    }

    static func bad(_ subject: String, _ failure: Failure) -> Self {
        let kind: Kind =
            failure.code == .unavailable ? .host : failure.code == .notPermitted ? .privilege : .state
        return bad(subject, "\(failure.operation): \(failure.reason)", fix: failure.hint, kind)
    }
}

extension CheckedSubject {
    /// The facts that `body` finds, or the one that it could not find them.
    static func looking(
        at subject: String, _ body: () throws(Failure) -> [CheckPayload.Fact]
    ) -> [CheckPayload.Fact] {
        do throws(Failure) { return try body() } catch { return [.bad(subject, error)] }
    }
}
