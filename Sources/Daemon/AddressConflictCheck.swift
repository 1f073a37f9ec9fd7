// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Synchronization

/// Asks other hosts whether they have addresses (RFC 5227), on a thread of its own.
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

    /// Whether questions are being asked, or their results were not taken yet.
    var isBusy: Bool { busy.withLock { $0 } }

    /// Starts asking. Do not call it while ``isBusy``.
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

    /// Announces addresses to neighbours, on a thread of its own. If none can be started, neighbours' caches update
    /// later.
    func announce(_ addresses: [AddressProbe.Question]) {
        guard !addresses.isEmpty else { return }
        try? Worker.detach("announcements") { [probe] in
            probe.announce(addresses, interval: AddressProbe.announceInterval)
        }
    }

    func takeResults() -> [Result] {
        let taken = results.take()
        if !taken.isEmpty { busy.withLock { $0 = false } }
        return taken
    }
}
