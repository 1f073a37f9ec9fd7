// SPDX-License-Identifier: Apache-2.0

import CVipABI
import FoundationEssentials
import Host
import PolicyMaps
import Synchronization

/// Counts the rewritten and refused calls of each session, on a thread of its own, because waiting for events blocks.
package final class CallRates: Sendable {
    /// Numbers of calls, or of calls per second.
    package struct Calls<Number: Sendable>: Sendable {
        package var rewritten: Number
        package var refused: Number
    }

    /// The counts since the last call of ``CallRates/take()``.
    struct Tally: Sendable {
        var calls: [UInt32: Calls<UInt64>] = [:]
        /// Events that were lost for lack of room in the ring buffer. Their sessions are not known.
        var lost: UInt64 = 0
        /// For how long no events were written, because this process was stopped.
        var gap: Duration = .zero
        var time: Duration = .zero

        /// Whether there may have been more calls than these.
        var isLowerBound: Bool { lost > 0 || gap > .zero }
    }

    private let worker: Worker
    private let state: Mutex<State>

    private struct State {
        /// The listener, until the thread takes it.
        var listener: EventListener?
        weak var listening: EventListener?
        var tally = Tally()
        var since = ContinuousClock.now
        var failure: Failure?
    }

    /// Begins to listen.
    ///
    /// - Throws: ``Failure`` if nothing is attached, or there are as many listeners as possible.
    init(_ pins: PinDirectory) throws(Failure) {
        let outcomes = CallOutcome.allCases.filter { $0 == .rewritten || $0.isRefused }
        worker = try Worker()
        let listener = try EventListener(pins, EventFilter(outcomes: Set(outcomes)))
        state = Mutex(State(listener: listener, listening: listener))
    }

    /// Starts the thread. Call this once, and ``end()`` afterwards.
    func start() throws(Failure) {
        try worker.start("events") { [self] in count() }
    }

    /// A descriptor for poll(2), readable once the thread has ended.
    var ended: CInt { worker.finished }

    /// Returns the counts since the last call.
    ///
    /// - Throws: ``Failure`` if there will be no more events.
    func take() throws(Failure) -> Tally {
        let now = ContinuousClock.now
        let (tally, failure) = state.withLock { state in
            var tally = state.tally
            tally.time = now - state.since
            state.tally = Tally()
            state.since = now
            return (tally, state.failure)
        }
        if let failure { throw failure }
        return tally
    }

    /// Makes the thread free its listener's slot, and waits for that.
    func end() {
        worker.stopSoon()
        state.withLock { $0.listening }?.interrupt()
        worker.end(within: .seconds(2))
    }

    /// Only this function holds the listener, so it has ended when this returns.
    private func count() {
        let taken = state.withLock { state in
            defer { state.listener = nil }
            return state.listener
        }
        guard let listener = taken else { return }
        while !worker.isEnding {
            do throws(Failure) {
                add(try listener.poll(atMost: 4096, timeout: .seconds(1)))
            } catch {
                return state.withLock { $0.failure = error }
            }
        }
    }

    private func add(_ batch: EventBatch) {
        guard !batch.events.isEmpty || batch.lost > 0 || !batch.gaps.isEmpty else { return }
        state.withLock { state in
            for event in batch.events {
                guard let outcome = CallOutcome(rawValue: event.outcome) else { continue }
                var calls = state.tally.calls[event.session] ?? Calls(rewritten: 0, refused: 0)
                if outcome == .rewritten { calls.rewritten += 1 } else if outcome.isRefused { calls.refused += 1 }
                state.tally.calls[event.session] = calls
            }
            state.tally.lost += batch.lost
            for gap in batch.gaps { state.tally.gap += .nanoseconds(Int64(gap.upperBound - gap.lowerBound)) }
        }
    }
}
