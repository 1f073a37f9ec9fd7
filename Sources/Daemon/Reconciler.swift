// SPDX-License-Identifier: Apache-2.0

import Host

/// The work of one keeper: to compare what is with what should be, when there is a reason to, and again later where it
/// fails.
final class Reconciler {
    /// What comes in a burst, many logins or addresses, is looked at together.
    private static let settling: Duration = .milliseconds(50)

    private var deadline: EventLoop.Deadline?
    private var backoff = Backoff()

    /// - Parameters:
    ///   - trouble: what a failure of the work is reported as.
    ///   - work: returns `false` where something could not be done for a reason that may pass, and that it has reported.
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

    /// At the loop's next turn.
    func runNow() { run(within: .zero) }

    /// In a moment, so that more may come.
    func runSoon() { run(within: Self.settling) }

    func run(within delay: Duration) { deadline?.set(within: delay) }
}
