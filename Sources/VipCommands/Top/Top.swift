// SPDX-License-Identifier: Apache-2.0

import Activity
import ArgumentParser
import FoundationEssentials
import Glibc
import Host
import Sessions
import Synchronization
import SystemPackage

struct Top: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show the activity of sessions in a live table.",
        discussion: """
            A row for each session: its user, calls rewritten and refused per second over the last interval, TCP and \
            UDP sockets in this network namespace, processes, virtual IPs, virtual loopback, and the names of its \
            programs. '>' before a rate marks a lower bound: events came faster than they could be counted. '-' means \
            unknown.

            If standard output is not a terminal, and with --once or --json, it measures for one interval and prints \
            one table or document. Rates come from the events that 'watch' prints; if there are four listeners \
            already, no rates are shown, and a note says so.

            KEYS
              q           quit (Ctrl-C, too)
              s u r k p   sort by session, user, rate, sockets, programs; press the key again, or R, to reverse
              space       pause
              arrows, Page Up, Page Down, Home, End
              h           a line of help

            EXAMPLES
              vip-bpfctl top --sort rate
              vip-bpfctl top --json --interval 10 | jq '.sessions[] | select(.refused_per_second > 0)'
            """
    )

    @Option(help: ArgumentHelp("Refresh interval, over which rates are measured.", valueName: "seconds"))
    var interval: Double = 2

    @Option(help: "The column to sort by.")
    var sort: ActivityKey = .session

    @Flag(help: "Reverse the sort order.")
    var reverse = false

    @Flag(help: "Print one table and exit, even on a terminal.")
    var once = false

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard interval >= 0.1, interval <= 3600 else {
            throw ValidationError("--interval \(interval) is not a number of seconds from 0.1 to 3600")
        }
    }

    func run() throws {
        let interval = Duration.seconds(interval)
        let order = ActivityOrder(key: sort, isReversed: reverse)
        // Before threads are started, so that the signals are blocked in all of them.
        let ending = try SignalReader([SIGINT, SIGTERM, SIGHUP])
        if once || output.json || !StandardOutput.isTerminal {
            return try output.print(TopPayload(snapshot(interval, order, ending)))
        }
        let live = try LiveTable(options.instance, order, interval)
        try live.start()
        var polls = [
            pollfd(fd: ending.descriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: live.ended, events: Int16(POLLIN), revents: 0),
        ]
        while poll(&polls, 2, -1) < 0, errno == EINTR {}
        try live.end()
    }

    /// One look, after an interval in which calls are counted. A signal shortens the interval.
    private func snapshot(
        _ interval: Duration, _ order: ActivityOrder, _ ending: borrowing SignalReader
    ) throws(Failure) -> SessionActivity.Snapshot {
        let activity = try SessionActivity(options.instance)
        if activity.isMeasuring {
            var polls = [
                pollfd(fd: ending.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: activity.ended, events: Int16(POLLIN), revents: 0),
            ]
            poll(&polls, 2, interval.pollTimeout)
        }
        var snapshot = try activity.look()
        activity.readPrograms(of: snapshot.rows.indices, in: &snapshot)
        order.sort(&snapshot.rows)
        return snapshot
    }
}

/// The table on the terminal, on a thread of its own, because a blocked terminal must not block the process.
private final class LiveTable: Sendable {
    private let worker: Worker
    private let signals: SignalReader
    private let instance: Instance
    private let order: ActivityOrder
    private let interval: Duration
    private let result: Mutex<Result<Void, Failure>?>

    /// At most a fifth of the time is spent on looks: with very many sessions, there are fewer.
    private static let idleShare = 5

    init(_ instance: Instance, _ order: ActivityOrder, _ interval: Duration) throws(Failure) {
        worker = try Worker()
        let signals = try SignalReader([SIGWINCH, SIGTSTP, SIGCONT])
        self.signals = signals
        self.instance = instance
        self.order = order
        self.interval = interval
        result = Mutex(nil)
    }

    /// A descriptor for poll(2), readable once the thread has ended.
    var ended: CInt { worker.finished }

    func start() throws(Failure) {
        try worker.start("screen") { [self] in
            let outcome = Result { () throws(Failure) in try show() }
            result.withLock { $0 = outcome }
        }
    }

    /// Ends the thread, and throws its failure if it has one.
    func end() throws(Failure) {
        if !worker.end(within: .seconds(2)) { Screen.restoreAtOnce() }
        if case .failure(let failure) = result.withLock({ $0 }) { throw failure }
    }

    private func show() throws(Failure) {
        // Do first what may fail with an error message, before the screen is used.
        let activity = try SessionActivity(instance)
        var snapshot = try activity.look(measuring: false)
        var screen = try Screen()
        var view = TopView(order)
        order.sort(&snapshot.rows)
        var trouble: String?
        var current = interval
        // Show the first rates soon.
        var next = ContinuousClock.now + min(interval, .seconds(1))

        while true {
            let notes = (trouble.map { [$0] } ?? []) + TopText.notes(snapshot)
            let rows = view.visibleRows(snapshot, notes: notes, height: screen.height)
            activity.readPrograms(of: rows, in: &snapshot, onlyNew: true)
            screen.draw(view.lines(snapshot, rows: rows, notes: notes, interval: current, on: screen))

            var polls = [
                pollfd(fd: worker.ending, events: Int16(POLLIN), revents: 0),
                pollfd(fd: signals.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: activity.ended, events: Int16(POLLIN), revents: 0),
                pollfd(fd: screen.isShown ? screen.input : -1, events: Int16(POLLIN), revents: 0),
            ]
            var wait = view.isPaused ? -1 : (next - .now).pollTimeout
            // If the job is in the background, a shell may give it the terminal without a signal.
            if !screen.isShown { wait = wait < 0 ? 500 : min(wait, 500) }
            guard poll(&polls, nfds_t(polls.count), wait) >= 0 || errno == EINTR else { return }
            if polls[0].revents != 0 { return }
            if !screen.isShown { screen.resume() }
            while let signal = signals.next() {
                switch signal.number {
                case SIGWINCH: screen.fit()
                case SIGTSTP:
                    screen.suspend()
                    screen.resume()
                default: screen.resume()
                }
            }
            // The terminal was hung up.
            if polls[3].revents & Int16(POLLHUP | POLLERR | POLLNVAL) != 0 { return }
            var isSorted = true
            while let key = screen.key() {
                switch view.press(key, rows: rows.count) {
                case .quit: return
                case .sort: isSorted = false
                case .nothing: break
                }
            }
            if polls[2].revents != 0 || !view.isPaused && next <= .now {
                let begin = ContinuousClock.now
                do throws(Failure) {
                    var looked = try activity.look()
                    if view.order.key == .programs {
                        activity.readPrograms(in: &looked, until: begin + interval / Self.idleShare)
                    }
                    snapshot = looked
                    view.order.sort(&snapshot.rows)
                    isSorted = true
                    let rows = view.visibleRows(snapshot, notes: TopText.notes(snapshot), height: screen.height)
                    activity.readPrograms(of: rows, in: &snapshot)
                    trouble = nil
                } catch {
                    // It is an error if there will be no more events, but not if the registry is locked for long.
                    if polls[2].revents != 0 { throw error }
                    trouble = "\(error)"
                }
                current = max(interval, (ContinuousClock.now - begin) * Self.idleShare)
                next = begin + current
            }
            if !isSorted {
                if view.order.key == .programs {
                    activity.readPrograms(in: &snapshot, until: .now + interval / Self.idleShare)
                }
                view.order.sort(&snapshot.rows)
            }
        }
    }
}
