// SPDX-License-Identifier: Apache-2.0

import Glibc

/// How long anything may take before the test counts it as a hang: ten times what a slow machine takes whose processors are
/// busy with something else. Only a test that fails waits as long.
public let hang: Duration = .seconds(300)

/// Looks at a condition until it holds, for what no event and no line of output reports.
///
/// - Parameter what: what is waited for, for the message where it does not happen.
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
