// SPDX-License-Identifier: Apache-2.0

import Glibc

/// How long something may take before the test counts it as a hang: ten times what it takes on a slow, busy machine.
/// Only failing tests wait this long.
public let hang: Duration = .seconds(300)

/// Checks a condition repeatedly until it holds, for what no event and no output reports.
///
/// - Parameter what: what is waited for, for the error message.
/// - Throws: `HarnessError` after `patience`.
public func wait(
    for what: @autoclosure () -> String, within patience: Duration = hang, until condition: () throws -> Bool
) throws {
    let deadline = ContinuousClock.now + patience
    while try !condition() {
        guard ContinuousClock.now < deadline else { throw HarnessError("waited \(patience) in vain for \(what())") }
        usleep(10_000)
    }
}
