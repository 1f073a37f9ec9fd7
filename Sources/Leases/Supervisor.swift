// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Network
import SystemPackage

/// The clients of one interface, and what each is up to. Used by one thread: the one that makes it, then that of ``run()``.
final class Supervisor: @unchecked Sendable {
    private let options: UDHCPCLeases.Options
    private let shared: Shared
    private let deliver: @Sendable (LeaseEvent) -> Void
    private let bootID: String
    private var lock: FileLock?
    private let inotify: Descriptor

    private var entries: [String: Entry] = [:]  // by client identifier
    /// Whose client asks for an address, until it has one.
    private var acquiring: (entry: Entry, until: Double)?
    /// Whose client was told to renew, and until when nobody else is.
    private var renewing: (entry: Entry, until: Double)?
    /// Clients of no entry that have not ended yet: killed and held up, or what ran when the supervision ended.
    private var left: [Client] = []
    /// Events and answers that are due, once all is written down.
    private var outbox: [() -> Void] = []

    private static let longestLog: off_t = 64 << 10
    /// Leases shorter than this, in seconds, cannot be held: there would be no time for a second try.
    private static let shortestLease: UInt32 = 5
    /// A file whose lease nobody has held for so long is not kept.
    private static let forgetAfter: TimeInterval = 30 * 24 * 3600

    /// One holder, from its first wish for an address to its release.
    private final class Entry {
        let holder: LeaseHolder
        let client: ClientIdentifier
        let name: String
        /// What the holder has.
        var address: IPAddress?
        /// What to ask the server for.
        var hint: IPAddress?
        var server: IPAddress?
        var seconds: UInt32 = 0
        /// When the server last granted it, by ``LeaseClock/now`` and ``LeaseClock/uptime``.
        var obtained: Double = 0
        var stamp: Double = 0
        var process: Client?
        /// Whether it is kept without anybody who waits for it.
        var isWanted = false
        var waiters: [Waiter] = []
        /// From when on it may take its turn to acquire.
        var queued: Double?
        var failures = 0
        var renewal: Double?
        var read: off_t = 0
        /// Events of the file before the present one may still come.
        var older: CInt?
        var olderRead: off_t = 0

        init(_ holder: LeaseHolder, _ client: ClientIdentifier) {
            self.holder = holder
            self.client = client
            name = client.description
        }

        deinit { if let older { close(older) } }

        var expiry: Double { obtained + Double(seconds) }

        /// When its client should long have renewed it, or given up.
        var overdue: Double? { address != nil && process != nil ? obtained + Double(seconds) * 0.75 : nil }

        var lease: Lease? {
            guard let address, let server else { return nil }
            return Lease(
                holder: holder, address: address, server: server, seconds: seconds,
                expires: Date(timeIntervalSinceNow: expiry - LeaseClock.now))
        }
    }

    init(
        _ options: UDHCPCLeases.Options, _ shared: Shared, _ deliver: @escaping @Sendable (LeaseEvent) -> Void
    ) throws(Failure) {
        self.options = options
        self.shared = shared
        self.deliver = deliver
        guard if_nametoindex(options.interface) != 0 else {
            throw Failure(
                .failed, "lease addresses on \(options.interface)", "there is no such interface",
                hint: "set virtualIP.addresses.interface; ip link shows what there is")
        }
        bootID = try BootID.current()
        try OwnedDirectory(options.runtime).create()
        // Two of us would each hear half of what the clients say.
        // Not at once: a process that somebody starts just now has every lock of its parent's, until it is another program.
        try OwnedDirectory(options.state).create()
        lock = try FileLock(options.state.appending("lock"), timeout: .seconds(2))
        let script = options.state.appending("event")
        // A new file in its place: one that is being executed cannot be written.
        let new = options.state.appending("event.new")
        try SmallFile.write(Array(Client.script.utf8), to: new, mode: 0o755)
        guard chmod(new.string, 0o755) == 0, rename(new.string, script.string) == 0 else {
            throw Failure("write \(script)", errno: .current)
        }
        let file = inotify_init1(CInt(IN_CLOEXEC | IN_NONBLOCK))
        guard file >= 0 else { throw Failure("make an inotify descriptor", errno: .current) }
        inotify = Descriptor(owning: file)
        guard inotify_add_watch(file, options.runtime.string, UInt32(IN_MODIFY)) >= 0 else {
            throw Failure("watch \(options.runtime)", errno: .current)
        }
        restore()
        publish()
    }

    // MARK: The loop

    func run() {
        while true {
            let (commands, isStopped) = shared.take()
            for command in commands { isStopped ? refuseLater(command) : obey(command) }
            if isStopped {
                for entry in entries.values {
                    fail(entry, Failure(.failed, what(entry), "the lease source was closed"))
                }
                flush()
                left += entries.values.compactMap(\.process)
                entries = [:]
                // Now, and not when the last reference goes: the next one may come at once.
                lock = nil
                return
            }
            readEvents()
            noticeEnds()
            act()
            flush()
            wait()
        }
    }

    /// After ``run()``: the clients run on, and those that are children of this process are reaped as they end, whoever ends
    /// them. Returns when none is left; the process need not wait for that.
    func reapClients() {
        while !left.isEmpty { reapLeft(timeout: -1) }
    }

    private func reapLeft(timeout: CInt) {
        guard !left.isEmpty else { return }
        var list = left.map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
        guard poll(&list, nfds_t(list.count), timeout) > 0 else { return }
        let ended = Set(list.filter { $0.revents != 0 }.map(\.fd))
        for client in left where ended.contains(client.descriptor) { _ = client.reap() }
        left.removeAll { ended.contains($0.descriptor) }
    }

    private func flush() {
        publish()
        // An answer may make its receiver send the next command: that comes with the next turn.
        let due = outbox
        outbox = []
        for action in due { action() }
    }

    private func publish() {
        shared.held = entries.values.compactMap(\.lease).sorted { $0.address < $1.address }
    }

    private func emit(_ event: LeaseEvent) {
        let deliver = self.deliver
        outbox.append { deliver(event) }
    }

    /// Until something happens, or something is due.
    private func wait() {
        guard outbox.isEmpty else { return }
        var next = Double.infinity
        if let acquiring { next = min(next, acquiring.until) }
        if let renewing { next = min(next, renewing.until) }
        for entry in entries.values {
            if acquiring == nil, let queued = entry.queued { next = min(next, queued) }
            if renewing == nil, let renewal = entry.renewal { next = min(next, renewal) }
            if entry.address != nil { next = min(next, entry.expiry) }
            if let overdue = entry.overdue, acquiring?.entry !== entry { next = min(next, overdue) }
            for waiter in entry.waiters { next = min(next, waiter.deadline) }
        }
        let files =
            [shared.descriptor, inotify.raw] + entries.values.compactMap { $0.process?.descriptor }
            + left.map(\.descriptor)
        var list = files.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        let milliseconds = next.isFinite ? max(0, min((next - LeaseClock.now) * 1000 + 1, 3_600_000)) : -1
        // EINTR is a turn too many, no more.
        _ = poll(&list, nfds_t(list.count), CInt(milliseconds))
    }

    // MARK: What callers want

    private func refuseLater(_ command: Shared.Command) {
        outbox.append { Shared.refuse(command) }
    }

    private func obey(_ command: Shared.Command) {
        switch command {
        case .acquire(let holder, let waiter):
            let entry = entry(of: holder)
            if let lease = entry.lease {
                outbox.append { waiter.then(.success(lease)) }
                return
            }
            entry.waiters.append(waiter)
            if acquiring?.entry !== entry { entry.queued = min(entry.queued ?? .infinity, LeaseClock.now) }
        case .release(let holder, let then):
            release(entry(of: holder))
            outbox.append(then)
        }
    }

    private func entry(of holder: LeaseHolder) -> Entry {
        let entry = Entry(holder, ClientIdentifier(host: options.host, holder: holder))
        if let known = entries[entry.name] { return known }
        entries[entry.name] = entry
        if let file = LeaseFile.read(path(entry)), file.client == entry.name { entry.hint = file.address }
        return entry
    }

    private func release(_ entry: Entry) {
        fail(entry, Failure(.failed, what(entry), "it was released meanwhile"))
        end(entry)
        if let address = entry.address, let server = entry.server {
            do throws(Failure) {
                if LeaseClock.now < entry.expiry {
                    try DHCPRelease.send(address, server: server, client: entry.client, interface: options.interface)
                }
            } catch {
                emit(.troubled(entry.holder, address, why: error.description))
            }
            emit(.released(entry.holder, address))
            entry.hint = address
        }
        drop(entry)
    }

    /// Forgets it, but for the address to ask for next time.
    private func drop(_ entry: Entry) {
        end(entry)
        entry.address = nil
        entry.isWanted = false
        entries[entry.name] = nil
        _ = entry.hint == nil ? unlink(path(entry).string) : 0
        if entry.hint != nil { try? file(of: entry).write(path(entry)) }
        for name in ["events", "events.old", "log"] {
            unlink(options.runtime.appending("\(entry.name).\(name)").string)
        }
    }

    private func what(_ entry: Entry) -> String { "lease an address for \(entry.holder) on \(options.interface)" }

    private func fail(_ entry: Entry, _ failure: Failure) {
        for waiter in entry.waiters { outbox.append { waiter.then(.failure(failure)) } }
        entry.waiters = []
    }

    // MARK: What is due

    private func act() {
        let now = LeaseClock.now
        for entry in Array(entries.values) {
            if let address = entry.address, let overdue = entry.overdue, overdue <= now, acquiring?.entry !== entry {
                // Stopped, or stuck on a link that was down: another one may do better while there is time.
                emit(.troubled(entry.holder, address, why: "its udhcpc has not renewed it"))
                end(entry)
                entry.queued = now
            }
            if entry.address != nil, entry.expiry <= now { lose(entry, .expired) }
            let late = entry.waiters.filter { $0.deadline <= now }
            guard !late.isEmpty else { continue }
            entry.waiters.removeAll { $0.deadline <= now }
            for waiter in late {
                let why =
                    acquiring?.entry === entry
                    ? "no DHCP server gave one within \(Self.text(waiter.seconds)) s"
                    : "its turn did not come within \(Self.text(waiter.seconds)) s: others are being served"
                let failure = Failure(.failed, what(entry), why, hint: "see that a server answers there, and try again")
                outbox.append { waiter.then(.failure(failure)) }
            }
            if entry.waiters.isEmpty, !entry.isWanted { drop(entry) }
        }
        if let (entry, until) = acquiring, until <= now {
            give(up: entry, "the DHCP server did not come to an end")
        }
        if let renewing, renewing.until <= now { self.renewing = nil }
        while acquiring == nil, let entry = nextToAcquire(now) { start(entry) }
        if renewing == nil,
            let entry = entries.values.filter({ $0.process != nil && $0.renewal ?? .infinity <= now })
                .min(by: { $0.renewal ?? 0 < $1.renewal ?? 0 })
        {
            entry.renewal = nil
            entry.process?.renew()
            // As long as it listens for an answer by unicast: after that it asks by broadcast, in nobody's way.
            renewing = (entry, now + Double(options.interval) + 0.5)
        }
    }

    private static func text(_ seconds: Double) -> String {
        seconds == seconds.rounded() ? "\(Int(seconds))" : "\((seconds * 10).rounded() / 10)"
    }

    /// Who is waited for comes first, then who has waited longest.
    private func nextToAcquire(_ now: Double) -> Entry? {
        entries.values.filter { $0.queued ?? .infinity <= now }.min { a, b in
            a.waiters.isEmpty == b.waiters.isEmpty ? a.queued ?? 0 < b.queued ?? 0 : !a.waiters.isEmpty
        }
    }

    private func start(_ entry: Entry) {
        entry.queued = nil
        entry.renewal = nil
        end(entry)
        unlink(events(entry).string)
        entry.read = 0
        if let older = entry.older { close(older) }
        entry.older = nil
        do throws(Failure) {
            guard let program = options.client ?? Client.find() else { throw Client.missing(what(entry)) }
            var command =
                program + [
                    "-f", "-C", "-o", "-i", options.interface, "-x", "0x3d:\(entry.client)",
                    "-s", options.state.appending("event").string,
                    "-t", "\(options.tries)", "-T", "\(options.interval)", "-A", "3600",
                ]
            if let hint = entry.address ?? entry.hint { command += ["-r", "\(hint)"] }
            // Before the process: one that no file knows would be left to itself by the next of us.
            try file(of: entry).write(path(entry))
            try SmallFile.write([], to: events(entry), mode: 0o600)
            entry.process = try Client.start(command, events: events(entry), log: log(entry))
            try file(of: entry).write(path(entry))
            // Offers and requests, and the 3 s that the client keeps still after a refusal.
            acquiring = (entry, LeaseClock.now + Double(2 * options.tries * options.interval) + 4)
        } catch {
            let failure =
                error.code == .unavailable
                ? Failure(.unavailable, what(entry), error.reason, hint: error.hint) : error
            give(up: entry, failure)
        }
    }

    /// A try to acquire has failed: waits before the next, if the lease is to be held.
    private func give(up entry: Entry, _ failure: Failure) {
        if acquiring?.entry === entry { acquiring = nil }
        end(entry)
        fail(entry, failure)
        guard entry.isWanted else { return drop(entry) }
        entry.failures += 1
        var pause = min(pow(2, Double(min(entry.failures, 6))), 60)
        if let address = entry.address {
            pause = min(pause, max(1, (entry.expiry - LeaseClock.now) / 4))
            emit(.troubled(entry.holder, address, why: failure.reason))
        }
        entry.queued = LeaseClock.now + pause
    }

    private func give(up entry: Entry, _ why: String) {
        give(up: entry, Failure(.failed, what(entry), why, hint: "see that a server answers there, and try again"))
    }

    private func lose(_ entry: Entry, _ loss: LeaseLoss) {
        guard let address = entry.address else { return }
        entry.address = nil
        // What the server refused once, it need not be asked for again.
        entry.hint = loss == .refusedByServer ? nil : address
        entry.renewal = nil
        emit(.lost(entry.holder, address, loss))
        guard acquiring?.entry !== entry else { return }
        end(entry)
        save(entry)
        entry.queued = min(entry.queued ?? .infinity, LeaseClock.now)
    }

    /// Ends the client, if there is one.
    private func end(_ entry: Entry) {
        if acquiring?.entry === entry { acquiring = nil }
        if renewing?.entry === entry { renewing = nil }
        entry.renewal = nil
        if let process = entry.process { kill(process) }
        entry.process = nil
    }

    private func kill(_ client: Client) { if !client.end() { left.append(client) } }

    private func noticeEnds() {
        reapLeft(timeout: 0)
        var list = entries.values.compactMap { entry in
            entry.process.map { (entry, pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0)) }
        }
        var polls = list.map(\.1)
        guard !polls.isEmpty, poll(&polls, nfds_t(polls.count), 0) > 0 else { return }
        for index in list.indices { list[index].1 = polls[index] }
        for (entry, state) in list where state.revents != 0 {
            guard let process = entry.process, process.descriptor == state.fd else { continue }
            let how = process.reap()
            entry.process = nil
            if renewing?.entry === entry { renewing = nil }
            if acquiring?.entry === entry {
                let said = lastWords(entry) ?? how
                give(up: entry, "udhcpc ended\(said.map { ": \($0)" } ?? "")")
            } else if let address = entry.address {
                emit(.troubled(entry.holder, address, why: "its udhcpc ended\(how.map { ": \($0)" } ?? "")"))
                entry.queued = LeaseClock.now
                entry.renewal = nil
            }
        }
    }

    /// The last line that the client wrote, without its name.
    private func lastWords(_ entry: Entry) -> String? {
        guard let bytes = try? readWholeFile(log(entry)) else { return nil }
        let line = bytes.split(separator: UInt8(ascii: "\n")).last.map { String(decoding: $0, as: UTF8.self) }
        return line.map { $0.hasPrefix("udhcpc: ") ? String($0.dropFirst(8)) : $0 }
    }

    // MARK: What the clients say

    private func readEvents() {
        var buffer = [UInt8](repeating: 0, count: 16 << 10)
        var names: Set<String> = []
        var all = false
        while true {
            let count = read(inotify.raw, &buffer, buffer.count)
            guard count > 0 else { break }
            var at = 0
            while at + 16 <= count {  // struct inotify_event: wd, mask, cookie, len, then the name
                let (mask, length) = buffer.withUnsafeBytes {
                    (
                        $0.loadUnaligned(fromByteOffset: at + 4, as: UInt32.self),
                        Int($0.loadUnaligned(fromByteOffset: at + 12, as: UInt32.self))
                    )
                }
                if mask & UInt32(IN_Q_OVERFLOW) != 0 { all = true }
                let name = buffer[(at + 16)..<min(count, at + 16 + length)].prefix { $0 != 0 }
                names.insert(String(decoding: name, as: UTF8.self))
                at += 16 + length
            }
        }
        for entry in Array(entries.values)
        where all || names.contains("\(entry.name).events") || entry.older != nil {
            readEvents(of: entry) { [self] in take($0, from: entry) }
        }
    }

    private struct Said {
        let pid: pid_t
        let uptime: Double
        let event: String
        let address: IPAddress?
        let addressText: String
        let server: IPAddress?
        let seconds: UInt32?

        init?(_ line: some Collection<UInt8>) {
            let fields = line.split(separator: UInt8(ascii: " ")).map { String(decoding: $0, as: UTF8.self) }
            guard fields.count == 6, let pid = pid_t(fields[0]), let uptime = Double(fields[1]) else { return nil }
            self.pid = pid
            self.uptime = uptime
            event = fields[2]
            addressText = fields[3]
            address = IPAddress(fields[3])
            server = IPAddress(fields[4])
            seconds = UInt32(fields[5])
        }
    }

    /// The lines since the last call, whole ones alone.
    private func readEvents(of entry: Entry, _ body: (Said) -> Void) {
        var lines: [Said] = []
        if let older = entry.older { lines += Self.lines(older, from: &entry.olderRead) }
        guard let file = try? openFile(events(entry), O_RDONLY | O_NOFOLLOW) else { return lines.forEach(body) }
        lines += Self.lines(file, from: &entry.read)
        if entry.read > Self.longestLog {
            // Renamed, not cut: a script that has it open just now still writes where we look.
            if rename(events(entry).string, "\(events(entry).string).old") == 0 {
                if let older = entry.older { close(older) }
                entry.older = file
                entry.olderRead = entry.read
                entry.read = 0
                try? SmallFile.write([], to: events(entry), mode: 0o600)
            } else {
                close(file)
            }
        } else {
            close(file)
        }
        lines.forEach(body)
    }

    private static func lines(_ file: CInt, from start: inout off_t) -> [Said] {
        guard lseek(file, start, SEEK_SET) == start, let bytes = try? readWholeFile(file),
            let end = bytes.lastIndex(of: UInt8(ascii: "\n"))
        else { return [] }
        start += off_t(end + 1)
        return bytes[...end].split(separator: UInt8(ascii: "\n")).compactMap { Said($0) }
    }

    private func take(_ said: Said, from entry: Entry) {
        guard let process = entry.process, said.pid == process.identity.pid else { return }
        let isAcquiring = acquiring?.entry === entry
        switch said.event {
        case "bound", "renew": take(answer: said, for: entry)
        case "leasefail":
            if isAcquiring {
                give(
                    up: entry, "no DHCP server answered \(options.tries) times in \(options.tries * options.interval) s"
                )
            }
        case "nak":
            if !isAcquiring { lose(entry, .refusedByServer) }
        case "deconfig":
            // The first thing that a client says, and what follows a refusal; else it has given up before the time.
            guard !isAcquiring, let address = entry.address else { break }
            emit(.troubled(entry.holder, address, why: "the DHCP server does not answer"))
            end(entry)
            entry.queued = LeaseClock.now
        default: break
        }
    }

    /// An address that a server gave: into the entry, if it can be a session's.
    private func take(answer said: Said, for entry: Entry) {
        guard let address = said.address, let server = said.server, let seconds = said.seconds else {
            let lacks = said.address == nil ? "an address" : said.server == nil ? "a server identifier" : "a lease time"
            return refuse(
                said.addressText, for: entry, why: "the answer has no \(lacks.split(separator: " ", maxSplits: 1)[1])")
        }
        if let other = entries.values.first(where: { $0 !== entry && $0.address == address }) {
            return refuse(
                said.addressText, for: entry,
                why: "\(other.holder) has it: the server does not tell clients apart by their identifiers",
                hint: "set the server to use the client identifier (option 61), or use source: pool")
        }
        if server == address {
            return refuse(said.addressText, for: entry, why: "it is the server's own")
        }
        if let why = options.check.refusal(
            of: address, for: entry.holder, interface: options.interface, held: entry.address,
            before: entry.address ?? entry.hint)
        {
            return refuse(said.addressText, for: entry, why: why)
        }
        guard seconds >= Self.shortestLease else {
            return refuse(said.addressText, for: entry, why: "its lease time is \(seconds) s")
        }
        let before = entry.address
        entry.address = address
        entry.hint = address
        entry.server = server
        entry.seconds = seconds
        entry.stamp = said.uptime
        entry.obtained = LeaseClock.now - max(0, LeaseClock.uptime - said.uptime)
        entry.isWanted = true
        entry.failures = 0
        entry.queued = nil
        entry.renewal = entry.obtained + Double(seconds) * options.renewalPoint
        if acquiring?.entry === entry { acquiring = nil }
        if renewing?.entry === entry { renewing = nil }
        save(entry)
        var status = stat()
        if stat(log(entry).string, &status) == 0, status.st_size > Self.longestLog { truncate(log(entry).string, 0) }
        guard let lease = entry.lease else { return }
        if let before, before != address {
            emit(.changed(lease, from: before))
        } else {
            emit(before == nil ? .bound(lease) : .renewed(lease))
        }
        for waiter in entry.waiters { outbox.append { waiter.then(.success(lease)) } }
        entry.waiters = []
    }

    /// Nothing is given back: the address may be somebody's, and a server that took it back would give it away twice.
    private func refuse(_ address: String, for entry: Entry, why: String, hint remedy: String? = nil) {
        emit(.refused(entry.holder, address, why: why))
        give(
            up: entry,
            Failure(
                .failed, what(entry), "the server gave \(address): \(why)",
                hint: remedy ?? "see which server it is (\(log(entry)) has its answers)"))
    }

    // MARK: Files

    private func path(_ entry: Entry) -> FilePath { options.state.appending("\(entry.name).json") }
    private func events(_ entry: Entry) -> FilePath { options.runtime.appending("\(entry.name).events") }
    private func log(_ entry: Entry) -> FilePath { options.runtime.appending("\(entry.name).log") }

    private func file(of entry: Entry) -> LeaseFile {
        LeaseFile(
            holder: entry.holder, client: entry.name, interface: options.interface,
            address: entry.address ?? entry.hint, server: entry.server, seconds: entry.seconds,
            obtained: entry.address == nil ? nil : Date(timeIntervalSinceNow: entry.obtained - LeaseClock.now),
            stamp: entry.stamp, bootID: bootID, pid: entry.process?.identity.pid,
            startTime: entry.process?.identity.startTime, isHeld: entry.isWanted)
    }

    /// A lease is held whether or not this can be written; what is not known after a restart is asked for again.
    private func save(_ entry: Entry) {
        do throws(Failure) {
            try file(of: entry).write(path(entry))
        } catch {
            if let address = entry.address { emit(.troubled(entry.holder, address, why: error.description)) }
        }
    }

    /// What an earlier process has left.
    private func restore() {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: options.state.string)) ?? []
        for name in names where name.hasSuffix(".json") {
            let path = options.state.appending(name)
            guard let file = LeaseFile.read(path) else { continue }
            let entry = Entry(file.holder, ClientIdentifier(host: options.host, holder: file.holder))
            guard name == "\(entry.name).json", file.client == entry.name else { continue }
            var process: Client?
            if file.bootID == bootID, let pid = file.pid, let startTime = file.startTime {
                process = Client.adopt(ProcessIdentity(pid: pid, startTime: startTime), client: entry.client)
            }
            guard file.isHeld, file.bootID == bootID else {
                if let process { kill(process) }  // of a lease that nobody had yet, or has no more
                var status = stat()
                if stat(path.string, &status) == 0,
                    Date().timeIntervalSince1970 - Double(status.st_mtim.tv_sec) > Self.forgetAfter
                {
                    unlink(path.string)
                }
                continue
            }
            entry.isWanted = true
            entry.hint = file.address
            entry.server = file.server
            entry.seconds = file.seconds
            entry.stamp = file.stamp
            entry.obtained = LeaseClock.now - max(0, LeaseClock.uptime - file.stamp)
            if file.obtained != nil { entry.address = file.address }
            entry.process = process
            entries[entry.name] = entry
            if process != nil {
                entry.renewal =
                    entry.address == nil ? nil : entry.obtained + Double(entry.seconds) * options.renewalPoint
                // What it said meanwhile. The rest of the file is in what the lease file says.
                readEvents(of: entry) { [self] said in
                    if said.uptime > file.stamp { take(said, from: entry) }
                }
                // Renamed: a client names its interface at each step, and its script and files are elsewhere now.
                if file.interface != options.interface, let process = entry.process {
                    kill(process)
                    entry.process = nil
                    entry.renewal = nil
                    if let address = entry.address {
                        emit(.troubled(entry.holder, address, why: "its udhcpc was on \(file.interface)"))
                    }
                }
            } else if let address = entry.address {
                emit(.troubled(entry.holder, address, why: "its udhcpc ended while nobody looked"))
            }
            if entry.process == nil || entry.address == nil {
                entry.queued = min(entry.queued ?? .infinity, LeaseClock.now)
            }
        }
        // Those whose files are lost: they would hold for ever what nobody gives back.
        let known = Set(entries.values.compactMap { $0.process?.identity })
        for stray in Client.all(script: options.state.appending("event")) {
            if known.contains(stray.identity) { close(stray.descriptor) } else { kill(stray) }
        }
    }
}
