// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Network
import SystemPackage

/// The leases of one interface, and what each client is doing. Used by one thread: the one that makes it, then that of
/// ``run()``.
///
/// This file is the schedule: whose turn it is to acquire and to renew, and what has taken too long. What clients report is in
/// Supervisor+Events.swift, what outlives the process in Supervisor+Files.swift.
final class Supervisor: @unchecked Sendable {
    let options: UDHCPCLeases.Options
    let bootID: String
    var entries: [String: LeaseEntry] = [:]  // by client identifier
    private let requests: LeaseRequests
    private let deliver: @Sendable (LeaseEvent) -> Void
    private let loop: EventLoop
    private var sources: [EventLoop.Source] = []
    private var due: EventLoop.Deadline?
    private var lock: FileLock?
    private var isStopped = false
    /// Clients of no entry that were killed, and have not ended yet.
    private var ending: [CInt: (client: Client, source: EventLoop.Source?)] = [:]
    /// Events and answers that are due once all is written down.
    private var outbox: [() -> Void] = []

    init(
        _ options: UDHCPCLeases.Options, _ requests: LeaseRequests, _ deliver: @escaping @Sendable (LeaseEvent) -> Void
    ) throws(Failure) {
        self.options = options
        self.requests = requests
        self.deliver = deliver
        guard if_nametoindex(options.interface) != 0 else {
            throw Failure(
                .failed, "lease addresses on \(options.interface)", "there is no such interface",
                try: "set virtualIP.addresses.interface; ip link lists the interfaces")
        }
        bootID = try BootID.current()
        loop = try EventLoop()
        try OwnedDirectory(options.runtime).create()
        try OwnedDirectory(options.state).create()
        // Two processes would each get half of what the clients report. Not at once: a process that is being started has all
        // locks of its parent until it executes its program.
        lock = try FileLock(options.state.appending("lock"), timeout: .seconds(2))
        // A new file in its place: one that is being executed cannot be written.
        try replaceFile(options.state.appending("event"), with: Array(Client.script.utf8), mode: 0o755)
        due = try loop.deadline {}
        sources.append(try loop.watch(requests.descriptor) { [unowned self] in obeyRequests() })
        do throws(Errno) {
            sources.append(
                try loop.watch(options.runtime, UInt32(IN_MODIFY)) { [unowned self] event in
                    if event.mask & UInt32(IN_Q_OVERFLOW) != 0 {
                        for entry in Array(entries.values) { readEvents(of: entry) }
                        return
                    }
                    // NAME.events, NAME.events.old
                    let parts = event.name.split(separator: ".")
                    guard parts.count > 1, parts[1] == "events", let entry = entries[String(parts[0])] else { return }
                    readEvents(of: entry)
                })
        } catch {
            throw .kernel(error, "watch \(options.runtime)", try: "raise fs.inotify.max_user_watches")
        }
        restore()
        publish()
    }

    // MARK: The loop

    /// Supervises until the source is closed. The clients run on.
    ///
    /// - Returns: the clients, and those that were killed and have not ended: whichever of them are children of this process are
    ///   to be reaped.
    func run() -> [Client] {
        while !isStopped {
            act()
            flush()
            schedule()
            // It fails where the system has no memory left; then the source has ended.
            do throws(Failure) { try loop.turn() } catch { isStopped = true }
        }
        _ = requests.stop()
        for entry in entries.values { fail(entry, Failure(.failed, what(entry), "the lease source was closed")) }
        for request in requests.take() { refuseLater(request) }
        flush()
        let clients = entries.values.compactMap(\.state.client) + ending.values.map(\.client)
        for entry in entries.values { entry.clientEnd = nil }
        entries = [:]
        ending = [:]
        // Now, and not when the last reference goes: the next supervisor may come at once.
        lock = nil
        return clients
    }

    private func flush() {
        publish()
        // An answer may make its receiver send the next request: that comes with the next turn.
        let due = outbox
        outbox = []
        for action in due { action() }
    }

    private func publish() {
        requests.held = entries.values.compactMap(\.lease).sorted { $0.address < $1.address }
    }

    func emit(_ event: LeaseEvent) {
        let deliver = self.deliver
        outbox.append { deliver(event) }
    }

    /// Has the loop wake up when something is due.
    private func schedule() {
        let isAcquiring = acquiring != nil
        let isRenewing = renewing != nil
        var times: [Double] = []
        for entry in entries.values {
            times += [entry.state.deadline, entry.grant?.expiry, entry.overdue].compactMap(\.self)
            if !isAcquiring, let turn = entry.state.turn { times.append(turn) }
            if !isRenewing, let renewal = Self.renewal(entry) { times.append(renewal) }
            times += entry.waiters.map(\.deadline)
        }
        if let next = times.min() { due?.set(in: .seconds(max(0, next - LeaseClock.now))) } else { due?.clear() }
    }

    // MARK: Requests

    private func obeyRequests() {
        for request in requests.take() { isStopped ? refuseLater(request) : obey(request) }
    }

    private func refuseLater(_ request: LeaseRequests.Request) {
        outbox.append { LeaseRequests.refuse(request) }
    }

    private func obey(_ request: LeaseRequests.Request) {
        switch request {
        case .acquire(let holder, let waiter):
            let entry = entry(of: holder)
            if let lease = entry.lease {
                outbox.append { waiter.then(.success(lease)) }
                return
            }
            entry.waiters.append(waiter)
            if let turn = entry.state.turn { setTurn(entry, min(turn, LeaseClock.now)) }
        case .release(let holder, let then):
            if let entry = entries[ClientIdentifier(host: options.host, holder: holder).description] { release(entry) }
            outbox.append(then)
        case .stop:
            isStopped = true
        }
    }

    private func entry(of holder: LeaseHolder) -> LeaseEntry {
        let entry = LeaseEntry(holder, ClientIdentifier(host: options.host, holder: holder), options)
        if let known = entries[entry.name] { return known }
        entries[entry.name] = entry
        if let file = LeaseFile.read(path(entry)), file.client == entry.name { entry.hint = file.address }
        return entry
    }

    private func release(_ entry: LeaseEntry) {
        fail(entry, Failure(.failed, what(entry), "it was released meanwhile"))
        requeue(entry)
        if let grant = entry.grant {
            do throws(Failure) {
                if LeaseClock.now < grant.expiry {
                    try DHCPRelease.send(
                        grant.address, server: grant.server, client: entry.client, interface: options.interface)
                }
            } catch {
                emit(.troubled(entry.holder, grant.address, why: error.description))
            }
            emit(.released(entry.holder, grant.address))
            entry.hint = grant.address
        }
        drop(entry)
    }

    /// Forgets it, but for the address to ask for next time.
    private func drop(_ entry: LeaseEntry) {
        requeue(entry)
        entry.grant = nil
        entry.isKept = false
        entries[entry.name] = nil
        forgetFiles(of: entry)
    }

    func what(_ entry: LeaseEntry) -> String { "lease an address for \(entry.holder) on \(options.interface)" }

    func fail(_ entry: LeaseEntry, _ failure: Failure) {
        for waiter in entry.waiters { outbox.append { waiter.then(.failure(failure)) } }
        entry.waiters = []
    }

    func succeed(_ entry: LeaseEntry, _ lease: Lease) {
        for waiter in entry.waiters { outbox.append { waiter.then(.success(lease)) } }
        entry.waiters = []
    }

    // MARK: Turns

    /// Whose client asks for an address, until it has one.
    private var acquiring: LeaseEntry? { entries.values.first { $0.state.isAcquiring } }

    /// Whose client was told to renew.
    private var renewing: LeaseEntry? { entries.values.first { $0.state.isRenewing } }

    private static func renewal(_ entry: LeaseEntry) -> Double? {
        if case .held(_, let renewal) = entry.state { renewal } else { nil }
    }

    /// Sets when an entry without a client may take its turn.
    private func setTurn(_ entry: LeaseEntry, _ time: Double) {
        if case .failed(let count, _) = entry.state {
            entry.state = .failed(count, retry: time)
        } else {
            entry.state = .queued(from: time)
        }
    }

    /// Does what is due.
    private func act() {
        let now = LeaseClock.now
        for entry in Array(entries.values) {
            if let grant = entry.grant, let overdue = entry.overdue, overdue <= now {
                // Stopped, or stuck on a link that was down: another one may do better while there is time.
                emit(.troubled(entry.holder, grant.address, why: "its udhcpc has not renewed it"))
                requeue(entry)
            }
            if let grant = entry.grant, grant.expiry <= now { lose(entry, .expired) }
            timeOutWaiters(of: entry, now)
        }
        for entry in Array(entries.values) {
            switch entry.state {
            case .acquiring(_, let until, _) where until <= now: giveUp(entry, "the DHCP exchange timed out")
            case .renewing(let client, let until) where until <= now: entry.state = .held(client, renewal: nil)
            default: break
            }
        }
        while acquiring == nil, let entry = nextToAcquire(now) { start(entry) }
        if renewing == nil, let entry = nextToRenew(now), let client = entry.state.client {
            client.renew()
            // As long as it listens for an answer by unicast: after that it asks by broadcast, and disturbs no other client.
            entry.state = .renewing(client, until: now + Double(options.interval) + 0.5)
        }
    }

    private func timeOutWaiters(of entry: LeaseEntry, _ now: Double) {
        let late = entry.waiters.filter { $0.deadline <= now }
        guard !late.isEmpty else { return }
        entry.waiters.removeAll { $0.deadline <= now }
        for waiter in late {
            let seconds = Self.text(waiter.seconds)
            let why =
                entry.state.isAcquiring
                ? "no DHCP server granted one within \(seconds) s" : "timed out in the queue after \(seconds) s"
            let failure = Failure(
                .failed, what(entry), why, try: "check that a DHCP server answers there, and try again")
            outbox.append { waiter.then(.failure(failure)) }
        }
        if entry.waiters.isEmpty, !entry.isKept { drop(entry) }
    }

    private static func text(_ seconds: Double) -> String {
        seconds == seconds.rounded() ? "\(Int(seconds))" : "\((seconds * 10).rounded() / 10)"
    }

    /// Those with waiters come first, then those that have waited longest.
    private func nextToAcquire(_ now: Double) -> LeaseEntry? {
        entries.values.filter { $0.state.turn ?? .infinity <= now }.min { a, b in
            a.waiters.isEmpty == b.waiters.isEmpty
                ? a.state.turn ?? 0 < b.state.turn ?? 0 : !a.waiters.isEmpty
        }
    }

    private func nextToRenew(_ now: Double) -> LeaseEntry? {
        entries.values.filter { Self.renewal($0) ?? .infinity <= now }
            .min { Self.renewal($0) ?? 0 < Self.renewal($1) ?? 0 }
    }

    private func start(_ entry: LeaseEntry) {
        do throws(Failure) {
            guard let program = options.client ?? Client.find() else { throw Client.missing(what(entry)) }
            var command =
                program + [
                    "-f", "-C", "-o", "-i", options.interface, "-x", "0x3d:\(entry.client)",
                    "-s", options.state.appending("event").string,
                    "-t", "\(options.tries)", "-T", "\(options.interval)", "-A", "3600",
                ]
            if let hint = entry.grant?.address ?? entry.hint { command += ["-r", "\(hint)"] }
            // Before the process: the next supervisor would not know one that no file names.
            try write(entry)
            try entry.events.begin()
            let client = try Client.start(command, events: entry.events.path, log: log(entry))
            // Offers and requests, and the 3 s that udhcpc waits after a refusal.
            let until = LeaseClock.now + Double(2 * options.tries * options.interval) + 4
            run(client, for: entry, .acquiring(client, until: until, failures: entry.state.failures))
            try write(entry)
        } catch {
            let failure =
                error.code == .unavailable
                ? Failure(.unavailable, what(entry), error.why, try: error.remedy) : error
            giveUp(entry, failure)
        }
    }

    /// A try to acquire has failed: waits before the next, if the lease is to be held.
    func giveUp(_ entry: LeaseEntry, _ failure: Failure) {
        let failures = entry.state.failures + 1
        requeue(entry)
        fail(entry, failure)
        guard entry.isKept else { return drop(entry) }
        var pause = min(pow(2, Double(min(failures, 6))), 60)
        if let grant = entry.grant {
            pause = min(pause, max(1, (grant.expiry - LeaseClock.now) / 4))
            emit(.troubled(entry.holder, grant.address, why: failure.why))
        }
        entry.state = .failed(failures, retry: LeaseClock.now + pause)
    }

    func giveUp(_ entry: LeaseEntry, _ why: String) {
        giveUp(
            entry, Failure(.failed, what(entry), why, try: "check that a DHCP server answers there, and try again"))
    }

    func lose(_ entry: LeaseEntry, _ loss: LeaseLoss) {
        guard let grant = entry.grant else { return }
        entry.grant = nil
        // What the server refused once, it need not be asked for again.
        entry.hint = loss == .refusedByServer ? nil : grant.address
        emit(.lost(entry.holder, grant.address, loss))
        guard !entry.state.isAcquiring else { return }
        if let turn = entry.state.turn { setTurn(entry, min(turn, LeaseClock.now)) } else { requeue(entry) }
        save(entry)
    }

    /// Ends the client, if one runs. Another one is started when its turn comes.
    func requeue(_ entry: LeaseEntry) {
        entry.clientEnd = nil
        if let client = entry.state.client { kill(client) }
        entry.state = .queued(from: LeaseClock.now)
    }

    // MARK: Clients

    /// Has an entry be in a state in which a client runs for it.
    func run(_ client: Client, for entry: LeaseEntry, _ state: LeaseState) {
        entry.state = state
        // Where it cannot be watched, it counts as stuck after a time.
        entry.clientEnd = try? loop.watch(client.descriptor) { [unowned self, unowned entry] in
            clientEnded(client, entry)
        }
    }

    private func clientEnded(_ client: Client, _ entry: LeaseEntry) {
        entry.clientEnd = nil
        // What it reported last comes before its end.
        readEvents(of: entry)
        guard entry.state.client?.descriptor == client.descriptor else { return }
        let how = client.reap()
        let state = entry.state
        entry.state = .queued(from: LeaseClock.now)
        if case .acquiring(_, _, let failures) = state {
            entry.state = .failed(failures, retry: LeaseClock.now)
            let last = lastLogLine(of: entry) ?? how
            giveUp(entry, "udhcpc ended\(last.map { ": \($0)" } ?? "")")
        } else if let grant = entry.grant {
            emit(.troubled(entry.holder, grant.address, why: "its udhcpc ended\(how.map { ": \($0)" } ?? "")"))
        }
    }

    func kill(_ client: Client) {
        guard !client.end() else { return }
        // The kernel holds it up.
        let source = try? loop.watch(client.descriptor) { [unowned self] in
            ending[client.descriptor] = nil
            _ = client.reap()
        }
        ending[client.descriptor] = (client, source)
    }
}
