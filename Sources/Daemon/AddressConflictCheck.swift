// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Synchronization

/// Asks other hosts for addresses (RFC 5227) on a separate thread, while the daemon does other work.
final class AddressConflictCheck: Sendable {
    struct Result: Sendable {
        let asked: [AddressProbe.Question]
        let answers: AddressProbe.Answers
    }

    private let probe: AddressProbe
    private let results: Mailbox<Result>
    private let busy = Mutex(false)

    init(_ probe: AddressProbe) throws(Failure) {
        self.probe = probe
        results = try Mailbox()
    }

    /// Readable when there is a result.
    var descriptor: CInt { results.descriptor }

    /// Whether questions are out, or their answers not taken yet.
    var isBusy: Bool { busy.withLock { $0 } }

    /// Begins to ask; not while ``isBusy``.
    func ask(_ questions: [AddressProbe.Question], seconds: Int) {
        busy.withLock { $0 = true }
        do throws(Failure) {
            try Worker.detach("conflicts") { [self] in
                results.put(Result(asked: questions, answers: probe.ask(questions, seconds: seconds)))
            }
        } catch {
            var answers = AddressProbe.Answers()
            answers.failures = [error]
            results.put(Result(asked: questions, answers: answers))
        }
    }

    /// Announces addresses to neighbours, on a separate thread as well. Where none can be started, they find out by asking.
    func announce(_ addresses: [AddressProbe.Question]) {
        guard !addresses.isEmpty else { return }
        try? Worker.detach("announcements") { [probe] in probe.announce(addresses) }
    }

    func takeResults() -> [Result] {
        let taken = results.take()
        if !taken.isEmpty { busy.withLock { $0 = false } }
        return taken
    }
}
