// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CVipABI
import Discovery
import FoundationEssentials
import Glibc
import Host
import PolicyMaps
import Sessions
import Synchronization
import SystemPackage

struct Watch: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print socket calls made in sessions, and their outcome, as they happen.",
        discussion: """
            Prints one line (with --json, one JSON object) for each call: time, user and program, hook, requested \
            address, resulting address, source address, and the verdict: rewritten, refused (and why), unaddressed \
            (let through with the host's address, as useHostAddress says), or seen (left as it is). Default: all but \
            seen.

            Events are generated only while a watcher runs; at most four watchers run at once. Events that come faster \
            than they can be written are lost: their number is reported on standard error, and with --json by a \
            separate object.

            Ends on SIGINT or SIGTERM, after --count events or --for seconds, or when its reader closes the pipe.

            EXAMPLES
              vip-bpfctl watch --session 7
              vip-bpfctl watch --verdict refused --json | jq .program
            """
    )

    @Option(help: ArgumentHelp("Only events of this session.", valueName: "id"))
    var session: UInt32?

    @Option(
        help: ArgumentHelp(
            "Only events of programs whose executable or process has this name; may be repeated.", valueName: "name"))
    var program: [String] = []

    @Option(help: "Only calls with this outcome; may be repeated.")
    var verdict: [Verdict] = []

    @Option(help: ArgumentHelp("Stop after this many events.", valueName: "n"))
    var count: UInt64?

    @Option(name: .customLong("for"), help: ArgumentHelp("Stop after this many seconds.", valueName: "seconds"))
    var seconds: Double?

    @Flag(help: "Print one JSON object per line.")
    var json = false

    @OptionGroup var options: InstanceOptions

    enum Verdict: String, CaseIterable, ExpressibleByArgument {
        case rewritten, refused, unaddressed, seen, all

        fileprivate var outcomes: [CallOutcome] {
            CallOutcome.allCases.filter { self == .all || $0.verdict == rawValue }
        }
    }

    func validate() throws {
        if let session, session == 0 || session > SessionIDs.last {
            throw ValidationError("--session \(session) is not a session ID")
        }
        if count == 0 { throw ValidationError("--count must be at least 1") }
        // At most a year, so that the time fits any clock.
        if let seconds, !(seconds > 0 && seconds <= 31_536_000) {
            throw ValidationError("--for \(seconds) is not a number of seconds above 0 and at most 31536000")
        }
    }

    func run() throws {
        let outcomes = verdict.isEmpty ? CallOutcome.allCases.filter { $0 != .seen } : verdict.flatMap(\.outcomes)
        // Before threads are started, so that the signals are blocked in all of them.
        let signals = try SignalReader([SIGINT, SIGTERM, SIGHUP])
        let deadline = seconds.map { ContinuousClock.now + .seconds($0) }
        let listener = try EventListener(
            options.instance.pins, EventFilter(outcomes: Set(outcomes), session: session))
        defer { listener.end() }
        let writing = try Writing(listener, EventText(isJSON: json, programs: Set(program), limit: count))
        try writing.start()
        var isLast = false
        while !writing.isDone {
            var polls = [
                pollfd(fd: signals.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: writing.ended, events: Int16(POLLIN), revents: 0),
                pollfd(fd: STDOUT_FILENO, events: 0, revents: 0),  // tells that the reader has closed its end
            ]
            var wait: CInt = -1
            if let deadline, !isLast {
                wait = (deadline - .now).pollTimeout
            }
            guard poll(&polls, 3, wait) >= 0 || errno == EINTR else { break }
            if polls[0].revents != 0 || polls[2].revents & Int16(POLLERR | POLLNVAL) != 0 { break }
            if let deadline, !isLast, deadline <= .now {
                isLast = true
                writing.finish()
            }
        }
        try writing.stopNow()
    }
}

/// Reads events and writes them on a thread of its own, because both may block.
private final class Writing: Sendable {
    private let worker: Worker
    private let listener: EventListener
    private let result: Mutex<Result<Void, Failure>?>
    private let text: Mutex<EventText>
    /// The time of the last event to write: CLOCK_BOOTTIME, ns.
    private let end: Mutex<UInt64?> = Mutex(nil)

    init(_ listener: EventListener, _ text: EventText) throws(Failure) {
        worker = try Worker()
        self.listener = listener
        self.text = Mutex(text)
        result = Mutex(nil)
    }

    /// A descriptor for poll(2), readable once the thread has ended.
    var ended: CInt { worker.finished }

    var isDone: Bool { result.withLock { $0 != nil } }

    func start() throws(Failure) {
        try worker.start("events") { [self] in
            let outcome = Result { () throws(Failure) in try run() }
            result.withLock { $0 = outcome }
        }
    }

    /// Makes the thread end once it has written what has happened until now.
    func finish() {
        end.withLock { $0 = BootTime.now() }
        listener.interrupt()
    }

    /// Ends the thread, and throws its failure if it has one.
    func stopNow() throws(Failure) {
        worker.stopSoon()
        listener.interrupt()
        // A blocked terminal may keep the thread, which then ends with the process.
        worker.end(within: .seconds(2))
        if case .failure(let failure) = result.withLock({ $0 }) { throw failure }
    }

    private func run() throws(Failure) {
        // No other thread uses it; the compiler requires the lock.
        let failure: Failure? = text.withLock { text in
            do throws(Failure) {
                var written = try write(text.heading)
                while written == .whole, !text.isComplete, !worker.isEnding {
                    let end = end.withLock(\.self)
                    var batch = try listener.poll(timeout: end == nil ? .milliseconds(500) : .zero)
                    let isLast = end.map { end in batch.events.last.map { $0.time > end } ?? true } ?? false
                    if let end { batch.events.removeAll { $0.time > end } }
                    warn(of: batch)
                    written = try write(text.lines(of: batch))
                    if isLast { break }
                }
                if written != .noReader { warn(of: try listener.poll(timeout: .zero)) }
                return nil
            } catch {
                return error
            }
        }
        if let failure { throw failure }
    }

    private func warn(of batch: EventBatch) {
        if batch.lost > 0 {
            StandardError.line("vip-bpfctl: warning: \(batch.lost) events were lost: they came too fast")
        }
        for gap in batch.gaps {
            let seconds = Int((Double(gap.upperBound - gap.lowerBound) / 1e9).rounded(.up))  // from nanoseconds
            StandardError.line(
                "vip-bpfctl: warning: no events were recorded for \(seconds) s: this process was stopped")
        }
    }

    private enum Written { case whole, stopped, noReader }

    /// Writes all bytes, unless the thread must end or the reader has gone.
    private func write(_ bytes: [UInt8]) throws(Failure) -> Written {
        var rest = bytes[...]
        while !rest.isEmpty {
            var polls = [
                pollfd(fd: STDOUT_FILENO, events: Int16(POLLOUT), revents: 0),
                pollfd(fd: worker.ending, events: Int16(POLLIN), revents: 0),
            ]
            guard poll(&polls, 2, -1) >= 0 else { continue }
            if polls[0].revents == 0 { return .stopped }
            // PIPE_BUF of limits.h: a pipe that poll(2) reports as writable accepts this many bytes without blocking.
            let count = rest.prefix(4096).withUnsafeBytes { Glibc.write(STDOUT_FILENO, $0.baseAddress, $0.count) }
            if count < 0 {
                switch Errno.current {
                case .interrupted, .wouldBlock: continue
                case .brokenPipe: return .noReader
                case let error:
                    throw Failure("write standard output", errno: error, hint: "check where standard output goes")
                }
            }
            rest = rest.dropFirst(count)
        }
        return .whole
    }
}
