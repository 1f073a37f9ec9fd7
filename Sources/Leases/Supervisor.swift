// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Glibc
import Host
import Network
import SystemPackage

/// The leases of one interface, and the state of each client. It is used by one thread: first the one that creates it,
/// then that of ``run()``.
///
/// This file has the loop and the requests of callers. Supervisor+Turns.swift has the schedule,
/// Supervisor+Clients.swift the processes, Supervisor+Events.swift their events, and Supervisor+Files.swift the files
/// that outlive this process.
final class Supervisor: @unchecked Sendable {
    let options: UDHCPCLeases.Options
    let bootID: String
    var entries: [String: LeaseEntry] = [:]  // by client identifier
    private let requests: LeaseRequests
    private let deliver: @Sendable (LeaseEvent) -> Void
    let loop: EventLoop
    private var sources: [EventLoop.Source] = []
    /// Ends the loop's wait when something is due.
    var due: EventLoop.Deadline?
    private var lock: FileLock?
    private var isStopped = false
    /// Clients without an entry that were killed and have not ended yet.
    var ending: [CInt: (client: Client, source: EventLoop.Source?)] = [:]
    /// Events and answers to deliver once everything is written.
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
                hint: options.interfaceRemedy)
        }
        bootID = try BootID.current()
        loop = try EventLoop()
        try OwnedDirectory(options.runtime).create()
        try OwnedDirectory(options.state).create()
        // With two processes, each would get half of the clients' events. Wait for a moment: a process that is being
        // started holds its parent's locks until it executes its program.
        lock = try FileLock(options.state.appending("lock"), timeout: .seconds(2))
        // Replace the file: one that is being executed cannot be written.
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
            throw Failure("watch \(options.runtime)", errno: error, hint: "raise fs.inotify.max_user_watches")
        }
        restore()
        publish()
    }

    // MARK: The loop

    /// Supervises until the source is closed. The clients go on running.
    ///
    /// - Returns: the clients, and those that were killed and have not ended. The caller must reap those that are
    ///   children of this process.
    func run() -> [Client] {
        while !isStopped {
            act()
            flush()
            schedule()
            // This fails only without memory. The source ends then.
            do throws(Failure) { try loop.turn() } catch { isStopped = true }
        }
        _ = requests.stop()
        for entry in entries.values {
            answer(entry, .failure(Failure(.failed, what(entry), "the lease source was closed")))
        }
        for request in requests.take() { refuseLater(request) }
        flush()
        let clients = entries.values.compactMap(\.state.client) + ending.values.map(\.client)
        for entry in entries.values { entry.clientEnd = nil }
        entries = [:]
        ending = [:]
        // Release the lock now, and not with the last reference: the next supervisor may start at once.
        lock = nil
        return clients
    }

    private func flush() {
        publish()
        // The receiver of an answer may send the next request, which is handled in the next turn.
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
                return answer(waiter, .success(lease))
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
        answer(entry, .failure(Failure(.failed, what(entry), "it was released in the meantime")))
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

    /// Drops an entry. Only the address to ask for next time is kept.
    func drop(_ entry: LeaseEntry) {
        requeue(entry)
        entry.grant = nil
        entry.isKept = false
        entries[entry.name] = nil
        forgetFiles(of: entry)
    }

    func what(_ entry: LeaseEntry) -> String { "lease an address for \(entry.holder) on \(options.interface)" }

    /// Answers all callers that wait for an entry.
    func answer(_ entry: LeaseEntry, _ result: Result<Lease, Failure>) {
        for waiter in entry.waiters { answer(waiter, result) }
        entry.waiters = []
    }

    func answer(_ waiter: Waiter, _ result: Result<Lease, Failure>) {
        outbox.append { waiter.then(result) }
    }
}
