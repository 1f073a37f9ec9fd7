// SPDX-License-Identifier: Apache-2.0

import Checks
import Host

struct CheckPayload: Payload {
    var facts: [CheckedFact]

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
