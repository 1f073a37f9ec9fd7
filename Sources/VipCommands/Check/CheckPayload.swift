// SPDX-License-Identifier: Apache-2.0

import Checks
import Host

struct CheckPayload: Payload {
    var facts: [CheckedFact]

    /// The exit code for the bad facts: first what the host lacks, then the caller's privileges, then what a command
    /// can fix.
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
