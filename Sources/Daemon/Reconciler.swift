// SPDX-License-Identifier: Apache-2.0

import Host

/// Runs the work of one keeper, which compares the present state with the desired one: when there is a reason to, and
/// again later if it fails.
final class Reconciler {
    /// The delay that lets one run handle a burst of changes, such as many logins.
    private static let settling: Duration = .milliseconds(50)

    private var deadline: EventLoop.Deadline?
    private var backoff = Backoff()

    /// - Parameters:
    ///   - trouble: the trouble as which a failure of the work is reported.
    ///   - work: returns `false` if something failed for a reason that may be temporary, and that it has reported.
    init(
        _ loop: EventLoop, _ troubles: Troubles, _ trouble: Trouble, _ work: @escaping () throws(Failure) -> Bool
    ) throws(Failure) {
        deadline = try loop.deadline { [unowned self] in
            do throws(Failure) {
                let isDone = try work()
                troubles.clear(trouble)
                if isDone { backoff.reset() } else { run(within: backoff.next()) }
            } catch {
                troubles.report(trouble, error)
                run(within: backoff.next())
            }
        }
    }

    /// Runs in the loop's next turn.
    func runNow() { run(within: .zero) }

    /// Runs after a short delay, in which more may arrive.
    func runSoon() { run(within: Self.settling) }

    func run(within delay: Duration) { deadline?.set(within: delay) }
}
