// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Leases
import Network
import Sessions
import Synchronization
import SystemPackage

/// Leases addresses for sessions, and says what is to become of the sessions' addresses.
///
/// Like the rest of the daemon it compares what is with what should be: each turn, ``plan(_:now:)`` gets what sessions wish, asks
/// the sources for what they do not hold, gives back what nobody wishes, and answers with what to change. What the sources say
/// in between is only the reason to look. So it does not matter what happened while the daemon was not there.
final class Lessee {
    /// What to change, in this order.
    struct Plan {
        /// Addresses whose lease is over.
        var taken: [(record: SessionRecord, address: SessionRecord.Address, ending: SessionEnding, reason: String)] = []
        /// Leased, and not the session's yet.
        var given: [(record: SessionRecord, address: SessionRecord.Address)] = []
        /// Sessions that have to go without for now.
        var refused: [(record: SessionRecord, failure: Failure)] = []
        /// Interfaces that leases are wished on, and why none can be looked after there; `nil` where they are.
        var broken: [String: Failure?] = [:]
        /// When to look again; `nil` is when something happens.
        var until: ContinuousClock.Instant?
    }

    private struct Place: Hashable {
        let interface: String
        let holder: LeaseHolder
    }

    private enum State {
        /// The source was asked, and has not answered.
        case asked(turn: Int)
        /// The source has, or had, a lease, and goes on by itself.
        case kept
        case failed(Failure, until: ContinuousClock.Instant)
    }

    private struct Session: Hashable {
        let id: UInt32
        let cgroupID: UInt64

        init(_ record: SessionRecord) { (id, cgroupID) = (record.id, record.cgroupID) }
    }

    private let instance: Instance
    private let runtime: FilePath
    private let log: EventLog
    private let news: LeaseNews
    private var sources: [String: UDHCPCLeases] = [:]
    /// Interfaces without a source: why, and until when not to try again.
    private var broken: [String: (failure: Failure, until: ContinuousClock.Instant)] = [:]
    private var states: [Place: State] = [:]
    private var backoffs: [Place: Backoff] = [:]
    private var places: [Session: Place] = [:]
    private var records: [Place: SessionRecord] = [:]
    private var losses: [Place: LeaseLoss] = [:]
    private var turn = 0

    /// How long one waits for its turn among others: 64 logins at once behind a silent server, which is asked for 6 s each.
    private static let patience: Duration = .seconds(400)

    /// - Parameter runtime: for what outlives the daemon, but not a boot.
    init(_ instance: Instance, runtime: FilePath, log: EventLog) throws(Failure) {
        self.instance = instance
        self.runtime = runtime
        self.log = log
        news = try LeaseNews()
    }

    /// Readable when there is something to hear.
    var descriptor: CInt { news.descriptor }

    private var directory: FilePath { instance.state.path.appending("leases") }

    /// Whether there is anything to look after but what sessions wish.
    var isBusy: Bool { !sources.isEmpty }

    /// Ends the supervision. The leases are kept by their clients, for the next daemon.
    func close() { for source in sources.values { source.close() } }

    /// Interfaces have other names: what is leased on them goes on there, with new clients.
    ///
    /// - Parameter names: old to new, all at once, since one may have another's old name.
    func rename(_ names: [String: String]) {
        let known = names.filter { sources[$0.key] != nil }
        for old in known.keys {
            sources.removeValue(forKey: old)?.close()
            for place in Array(states.keys) where place.interface == old { forget(place) }
            places = places.filter { $0.value.interface != old }
        }
        for new in known.values { broken[new] = nil }
        // Out of the way first. Where something of a name is there all the same, the leases are asked for anew.
        for parent in [directory, runtime] {
            for (old, new) in known { move(parent.appending(old), to: parent.appending(".\(new)"), new) }
            for new in known.values { move(parent.appending(".\(new)"), to: parent.appending(new), new) }
        }
    }

    private func move(_ old: FilePath, to new: FilePath, _ interface: String) {
        guard Glibc.rename(old.string, new.string) != 0, errno != ENOENT else { return }
        let failure = Failure("rename \(old)", errno: .current)
        log.report(Event(.warning, "\(failure)", priority: .warning, interface: interface, reason: failure.reason))
    }

    // MARK: What comes in

    /// Reports what has happened.
    ///
    /// - Returns: whether anything has that is a reason to look at the sessions.
    func hear() -> Bool {
        var isNews = false
        for item in news.take() {
            switch item {
            case .event(let interface, let event): isNews = hear(event, interface) || isNews
            case .answer(let interface, let holder, let turn, let result):
                let place = Place(interface: interface, holder: holder)
                // One that was given back, and asked for again, has another turn.
                guard case .asked(turn) = states[place] else { continue }
                switch result {
                case .success:
                    states[place] = .kept
                    backoffs[place] = nil
                case .failure(let failure):
                    var backoff = backoffs[place] ?? Backoff(from: .seconds(1), to: .seconds(60))
                    states[place] = .failed(failure, until: backoff.next())
                    backoffs[place] = backoff
                }
                isNews = true
            }
        }
        return isNews
    }

    private func hear(_ event: LeaseEvent, _ interface: String) -> Bool {
        switch event {
        case .bound(let lease):
            losses[Place(interface: interface, holder: lease.holder)] = nil
            return true
        case .renewed: return false
        case .changed(let lease, let from):
            say(
                .leaseChanged, "the DHCP server changed \(lease.holder)'s address from \(from) to \(lease.address)",
                lease.holder, interface, address: lease.address.description, .warning)
            return true
        case .lost(let holder, let address, let loss):
            losses[Place(interface: interface, holder: holder)] = loss
            say(
                .leaseLost, "the lease of \(address) to \(holder) is over: \(loss)", holder, interface,
                address: address.description, .error, reason: loss.description)
            return true
        case .refused(let holder, let address, let why):
            say(
                .leaseRefused, "the DHCP server's \(address) for \(holder) was not taken: \(why)", holder, interface,
                address: address, .error, reason: why)
            return false
        case .troubled(let holder, let address, let why):
            say(
                .leaseTroubled, "the lease of \(address) to \(holder) is not being prolonged: \(why)", holder,
                interface,
                address: address.description, .warning, reason: why)
            return false
        case .released(let holder, let address):
            say(
                .leaseReleased, "\(address) was \(holder)'s, and is given back to the DHCP server", holder, interface,
                address: address.description, .info)
            return true
        }
    }

    private func say(
        _ kind: Event.Kind, _ message: String, _ holder: LeaseHolder, _ interface: String, address: String,
        _ priority: Event.Priority, reason: String? = nil
    ) {
        let record = records[Place(interface: interface, holder: holder)]
        log.report(
            Event(
                kind, message, priority: priority, session: record?.id, user: record?.user ?? holder.user,
                cgroup: record?.cgroupPath.string, address: address, interface: interface, reason: reason))
    }

    // MARK: What is and what should be

    /// - Parameter wishes: those of every open session.
    func plan(_ wishes: [LeaseWish]) -> Plan {
        var plan = Plan()
        let now = ContinuousClock.now
        assign(wishes)
        if directoryIsNew { openKnownSources() }

        // First what nobody wishes: its holder may be somebody's new session's next time.
        for (interface, source) in sources {
            var unwanted = Set(source.held.map(\.holder))
            for place in states.keys where place.interface == interface { unwanted.insert(place.holder) }
            for holder in unwanted where records[Place(interface: interface, holder: holder)] == nil {
                forget(Place(interface: interface, holder: holder))
                source.release(holder) {}
            }
        }
        for place in Array(states.keys) where records[place] == nil { forget(place) }

        var held: [String: [LeaseHolder: Lease]] = [:]
        for wish in wishes {
            guard let place = places[Session(wish.record)] else {
                plan.refused.append((wish.record, Self.noInterface(wish.record)))
                continue
            }
            let source: UDHCPCLeases
            do throws(Failure) {
                source = try self.source(place.interface, now: now)
                plan.broken[place.interface] = .some(nil)
            } catch {
                plan.broken[place.interface] = error
                plan.until = [plan.until, broken[place.interface]?.until].compactMap(\.self).min()
                if let leased = wish.leased {
                    // Its client goes on by itself; but what was on an interface that is gone is nobody's to put back.
                    if if_nametoindex(place.interface) == 0 {
                        plan.taken.append((wish.record, leased, .leaseLost, "interface \(place.interface) is gone"))
                    }
                } else {
                    plan.refused.append((wish.record, error))
                }
                continue
            }
            if held[place.interface] == nil {
                held[place.interface] = Dictionary(source.held.map { ($0.holder, $0) }) { first, _ in first }
            }
            if let lease = held[place.interface]?[place.holder] {
                if case .asked = states[place] {} else { states[place] = .kept }
                if let leased = wish.leased {
                    if leased.address == lease.address { continue }
                    plan.taken.append(
                        (wish.record, leased, .leaseChanged, "the DHCP server gave another address in its place"))
                }
                plan.given.append(
                    (
                        wish.record,
                        SessionRecord.Address(
                            lease.address, interface: place.interface, placed: true, fromPool: false,
                            leaseSlot: place.holder.slot)
                    ))
                continue
            }
            if let leased = wish.leased {
                let why = losses[place].map { "\($0)" } ?? "no lease of it is held"
                plan.taken.append((wish.record, leased, .leaseLost, why))
            }
            switch states[place] {
            case .asked: break
            case .failed(let failure, let until) where until > now:
                plan.refused.append((wish.record, failure))
                plan.until = min(plan.until ?? until, until)
            // Kept, and not held any more: it was given back, or lost.
            case .failed, .kept, nil: ask(source, place)
            }
        }
        return plan
    }

    private func forget(_ place: Place) {
        states[place] = nil
        backoffs[place] = nil
        losses[place] = nil
    }

    private func ask(_ source: UDHCPCLeases, _ place: Place) {
        turn += 1
        states[place] = .asked(turn: turn)
        source.acquire(place.holder, timeout: Self.patience) { [news, turn] result in
            news.put(.answer(place.interface, place.holder, turn: turn, result))
        }
    }

    /// Each session keeps its slot; one without gets the lowest that none of its user's has.
    private func assign(_ wishes: [LeaseWish]) {
        var new: [Session: Place] = [:]
        var taken: Set<LeaseHolder> = []
        var rest: [LeaseWish] = []
        // What is written down counts for more than what is remembered.
        for wish in wishes {
            guard let leased = wish.leased, let slot = leased.leaseSlot else {
                rest.append(wish)
                continue
            }
            let holder = LeaseHolder(user: wish.record.user ?? "", slot: slot)
            taken.insert(holder)
            new[Session(wish.record)] = Place(interface: leased.interface, holder: holder)
        }
        for wish in rest {
            guard let known = places[Session(wish.record)], known.interface == wish.interface,
                taken.insert(known.holder).inserted
            else { continue }
            new[Session(wish.record)] = known
        }
        for wish in rest where new[Session(wish.record)] == nil {
            guard let interface = wish.interface else { continue }
            var holder = LeaseHolder(user: wish.record.user ?? "")
            while !taken.insert(holder).inserted { holder = LeaseHolder(user: holder.user, slot: holder.slot + 1) }
            new[Session(wish.record)] = Place(interface: interface, holder: holder)
        }
        places = new
        records = [:]
        for wish in wishes { if let place = new[Session(wish.record)] { records[place] = wish.record } }
    }

    // MARK: Sources

    private var directoryIsNew = true

    /// Those of an earlier daemon: what it held and nobody wishes any more is given back.
    private func openKnownSources() {
        directoryIsNew = false
        for name in (try? FileManager.default.contentsOfDirectory(atPath: directory.string)) ?? []
        where if_nametoindex(name) != 0 {
            _ = try? source(name, now: .now)
        }
    }

    private func source(_ interface: String, now: ContinuousClock.Instant) throws(Failure) -> UDHCPCLeases {
        if let source = sources[interface] { return source }
        if let (failure, until) = broken[interface], until > now { throw failure }
        do throws(Failure) {
            var options = UDHCPCLeases.Options(
                interface: interface, state: directory.appending(interface), runtime: runtime.appending(interface),
                host: try ClientIdentifier.hostIdentifier())
            options.check.owner = { [instance] address, holder in Self.owner(of: address, besides: holder, instance) }
            let source = try UDHCPCLeases(options) { [news] event in news.put(.event(interface, event)) }
            sources[interface] = source
            broken[interface] = nil
            return source
        } catch {
            // As long as it takes for an interface to come back.
            broken[interface] = (error, now + .seconds(5))
            throw error
        }
    }

    /// Which session has an address already; called on a source's thread.
    private static func owner(of address: IPAddress, besides holder: LeaseHolder, _ instance: Instance) -> String? {
        do throws(Failure) {
            guard let record = try instance.registry().session(address: address) else { return nil }
            let slot = record.addresses.first { $0.address == address }?.leaseSlot
            return record.user ?? "" == holder.user && slot == holder.slot ? nil : "session \(record.id)"
        } catch {
            // Then nobody can say that it is free.
            return "somebody (\(error))"
        }
    }

    private static func noInterface(_ record: SessionRecord) -> Failure {
        Failure(
            .failed, "lease an address for session \(record.id)",
            "the policy names no interface, and there is no default route", hint: "set virtualIP.addresses.interface")
    }
}

/// What the sources' threads say, for the daemon's to hear.
private final class LeaseNews: Sendable {
    enum Item: Sendable {
        case event(_ interface: String, LeaseEvent)
        case answer(_ interface: String, LeaseHolder, turn: Int, Result<Lease, Failure>)
    }

    private let items = Mutex<[Item]>([])
    private let readEnd: Descriptor
    private let writeEnd: Descriptor

    init() throws(Failure) {
        do throws(Errno) {
            let ends = try FileDescriptor.pipe(options: [.closeOnExec, .nonBlocking])
            readEnd = Descriptor(owning: ends.readEnd.rawValue)
            writeEnd = Descriptor(owning: ends.writeEnd.rawValue)
        } catch {
            throw Failure("make a pipe", errno: error)
        }
    }

    var descriptor: CInt { readEnd.raw }

    func put(_ item: Item) {
        items.withLock { $0.append(item) }
        // A pipe that is full wakes just as well.
        _ = write(writeEnd.raw, "n", 1)
    }

    func take() -> [Item] {
        var bytes = [UInt8](repeating: 0, count: 4096)
        while read(readEnd.raw, &bytes, bytes.count) == bytes.count {}
        return items.withLock { items in
            defer { items = [] }
            return items
        }
    }
}
