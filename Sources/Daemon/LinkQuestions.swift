// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Network
import Synchronization
import SystemPackage

/// Asks the link who has addresses, while the daemon goes on with other things: some at a time, in a thread of its own.
final class LinkQuestions: Sendable {
    struct Result: Sendable {
        let asked: [AddressProbe.Question]
        let answers: AddressProbe.Answers
    }

    private struct State {
        var isBusy = false
        var result: Result?
    }
    private let state = Mutex(State())
    private let probe: AddressProbe
    private let readEnd: Descriptor
    private let writeEnd: Descriptor

    init(_ probe: AddressProbe) throws(Failure) {
        self.probe = probe
        do throws(Errno) {
            let ends = try FileDescriptor.pipe(options: [.closeOnExec, .nonBlocking])
            readEnd = Descriptor(owning: ends.readEnd.rawValue)
            writeEnd = Descriptor(owning: ends.writeEnd.rawValue)
        } catch {
            throw Failure("make a pipe", errno: error)
        }
    }

    /// Readable when there is a result.
    var descriptor: CInt { readEnd.raw }

    /// Whether questions are out, or their answers not taken yet.
    var isBusy: Bool { state.withLock { $0.isBusy } }

    /// Begins to ask; not while ``isBusy``.
    func ask(_ questions: [AddressProbe.Question], seconds: Int) {
        state.withLock { $0.isBusy = true }
        Thread.detachNewThread { [self] in
            let answers = probe.ask(questions, seconds: seconds)
            state.withLock { $0.result = Result(asked: questions, answers: answers) }
            _ = write(writeEnd.raw, "r", 1)
        }
    }

    /// Tells neighbours of addresses, in a thread of its own as well.
    func announce(_ addresses: [AddressProbe.Question]) {
        guard !addresses.isEmpty else { return }
        Thread.detachNewThread { [probe] in probe.announce(addresses) }
    }

    /// What has come back; `nil` while nothing has.
    func take() -> Result? {
        var byte: UInt8 = 0
        guard read(readEnd.raw, &byte, 1) == 1 else { return nil }
        return state.withLock { state in
            defer { state = State() }
            return state.result
        }
    }
}
