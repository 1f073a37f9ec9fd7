// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Leases
import Network
import Sessions
import SystemPackage

/// Leases addresses for sessions, and plans the changes of the sessions' addresses.
///
/// Like the rest of the daemon, it compares the present state with the desired one. Each time, ``plan(_:)`` takes what
/// the sessions need, requests the leases that are missing, releases those that no session needs, and returns the
/// changes to make. News of the sources only makes this run. So it does not matter what happened while the daemon did
/// not run.
final class LeaseReconciler {
    /// An address whose lease has ended.
    struct Removal {
        let record: SessionRecord
        let address: SessionRecord.Address
        let ending: SessionEnding
        let reason: String
    }

    /// The changes to make, in this order.
    struct Plan {
        var removals: [Removal] = []
        /// Leased addresses that the session does not have yet.
        var additions: [(record: SessionRecord, address: SessionRecord.Address)] = []
        /// Sessions that have no address for now.
        var refused: [(record: SessionRecord, failure: Failure)] = []
        /// Interfaces on which leases are needed, with the reason if none can be had there, or `nil`.
        var interfaces: [String: Failure?] = [:]
        /// When to reconcile again; `nil` to wait for an event.
        private(set) var nextLook: Duration?

        mutating func look(at time: ContinuousClock.Instant) {
            let delay = max(.zero, ContinuousClock.now.duration(to: time))
            nextLook = min(nextLook ?? delay, delay)
        }
    }

    /// A client of a DHCP server: a holder on an interface.
    private struct Place: Hashable {
        let interface: String
        let holder: LeaseHolder
    }

    private enum State {
        /// A lease was requested, and the source has not answered.
        case asked(request: Int)
        /// The source has, or had, a lease, and goes on by itself.
        case kept
        case failed(Failure, until: ContinuousClock.Instant)
    }

    /// Messages from the sources' threads.
    private enum News: Sendable {
        case event(_ interface: String, LeaseEvent)
        case answer(_ interface: String, LeaseHolder, request: Int, Result<Lease, Failure>)
    }

    private struct Session: Hashable {
        let id: UInt32
        let cgroupID: UInt64

        init(_ record: SessionRecord) { (id, cgroupID) = (record.id, record.cgroupID) }
    }

    private let log: EventLog
    private let news: Mailbox<News>
    private let sources: LeaseSources
    private var states: [Place: State] = [:]
    private var backoffs: [Place: Backoff] = [:]
    private var places: [Session: Place] = [:]
    private var records: [Place: SessionRecord] = [:]
    private var losses: [Place: LeaseLoss] = [:]
    private var request = 0
    private var hasOpenedKnown = false

    /// How long a lease may wait for its turn: 64 logins at the same time and a silent server, which is asked for 6 s
    /// each.
    private static let patience: Duration = .seconds(400)

    /// - Parameter runtime: the directory for files that outlive the daemon, but not a boot.
    init(_ instance: Instance, runtime: FilePath, log: EventLog) throws(Failure) {
        self.log = log
        let news = try Mailbox<News>()
        self.news = news
        sources = LeaseSources(instance, runtime: runtime, log) { interface, event in
            news.put(.event(interface, event))
        }
    }

    /// Readable if there is news.
    var descriptor: CInt { news.descriptor }

    /// Whether there may be leases that no session needs.
    var isBusy: Bool { !sources.all.isEmpty }

    /// Ends the supervision. The clients keep the leases for the next daemon.
    func close() { sources.close() }

    /// Moves the leases of renamed interfaces to the new names.
    ///
    /// - Parameter names: from old to new names, all together.
    func rename(_ names: [String: String]) {
        for old in sources.rename(names) {
            for place in Array(states.keys) where place.interface == old { forget(place) }
            places = places.filter { $0.value.interface != old }
        }
    }

    // MARK: News

    /// Reports the news from the sources.
    ///
    /// - Returns: whether any of it is a reason to reconcile the sessions.
    func handleNews() -> Bool {
        var isReason = false
        for item in news.take() {
            switch item {
            case .event(let interface, let event): isReason = handle(event, interface) || isReason
            case .answer(let interface, let holder, let request, let result):
                let place = Place(interface: interface, holder: holder)
                // If the lease was released and requested again, this answer is to an earlier request.
                guard case .asked(request) = states[place] else { continue }
                switch result {
                case .success:
                    states[place] = .kept
                    backoffs[place] = nil
                case .failure(let failure):
                    var backoff = backoffs[place] ?? Backoff()
                    states[place] = .failed(failure, until: .now + backoff.next())
                    backoffs[place] = backoff
                }
                isReason = true
            }
        }
        return isReason
    }

    private func handle(_ event: LeaseEvent, _ interface: String) -> Bool {
        switch event {
        case .bound(let lease):
            losses[Place(interface: interface, holder: lease.holder)] = nil
            return true
        case .renewed: return false
        case .changed(let lease, let from):
            report(
                .leaseChanged, "DHCP server changed the address of \(lease.holder) from \(from) to \(lease.address)",
                lease.holder, interface, address: lease.address.description, .warning)
            return true
        case .lost(let holder, let address, let loss):
            losses[Place(interface: interface, holder: holder)] = loss
            report(
                .leaseLost, "lost the lease of \(address) for \(holder): \(loss)", holder, interface,
                address: address.description, .error, reason: loss.description)
            return true
        case .refused(let holder, let address, let why):
            report(
                .leaseRefused, "refused \(address) from the DHCP server for \(holder): \(why)", holder, interface,
                address: address, .error, reason: why)
            return false
        case .troubled(let holder, let address, let why):
            report(
                .leaseTroubled, "lease of \(address) for \(holder) is not being renewed: \(why)", holder,
                interface,
                address: address.description, .warning, reason: why)
            return false
        case .released(let holder, let address):
            report(
                .leaseReleased, "released the lease of \(address) for \(holder)", holder, interface,
                address: address.description, .info)
            return true
        }
    }

    private func report(
        _ kind: Event.Kind, _ message: String, _ holder: LeaseHolder, _ interface: String, address: String,
        _ priority: Event.Priority, reason: String? = nil
    ) {
        let record = records[Place(interface: interface, holder: holder)]
        log.report(
            Event(
                kind, message, priority: priority, session: record?.id, user: record?.user ?? holder.user,
                cgroup: record?.cgroupPath.string, address: address, interface: interface, reason: reason))
    }

    // MARK: Reconciliation

    /// - Parameter wishes: the wishes of every open session.
    func plan(_ wishes: [LeaseWish]) -> Plan {
        var plan = Plan()
        assign(wishes)
        if !hasOpenedKnown {
            hasOpenedKnown = true
            sources.openKnown()
        }
        // This comes first, because a new session may get a released holder.
        releaseUnwanted()
        var held: [String: [LeaseHolder: Lease]] = [:]
        for wish in wishes {
            guard let place = places[Session(wish.record)] else {
                plan.refused.append((wish.record, Self.noInterface(wish.record)))
                continue
            }
            do throws(Failure) {
                let source = try sources.source(place.interface)
                plan.interfaces[place.interface] = .some(nil)
                if held[place.interface] == nil {
                    held[place.interface] = Dictionary(source.held.map { ($0.holder, $0) }) { first, _ in first }
                }
                if let lease = held[place.interface]?[place.holder] {
                    if case .asked = states[place] {} else { states[place] = .kept }
                    use(lease, at: place, for: wish, &plan)
                } else {
                    goWithout(source, place, wish, &plan)
                }
            } catch {
                planWithoutSource(place.interface, wish, error, &plan)
            }
        }
        return plan
    }

    private func releaseUnwanted() {
        for (interface, source) in sources.all {
            var unwanted = Set(source.held.map(\.holder))
            for place in states.keys where place.interface == interface { unwanted.insert(place.holder) }
            for holder in unwanted where records[Place(interface: interface, holder: holder)] == nil {
                forget(Place(interface: interface, holder: holder))
                source.release(holder) {}
            }
        }
        for place in Array(states.keys) where records[place] == nil { forget(place) }
    }

    /// Plans for a session with a lease: it gets the leased address, unless it already has it.
    private func use(_ lease: Lease, at place: Place, for wish: LeaseWish, _ plan: inout Plan) {
        if let leased = wish.leased {
            if leased.address == lease.address { return }
            plan.removals.append(
                Removal(
                    record: wish.record, address: leased, ending: .leaseChanged,
                    reason: "the DHCP server changed the address"))
        }
        plan.additions.append(
            (
                wish.record,
                SessionRecord.Address(
                    lease.address, interface: place.interface, form: wish.form, placed: true, fromPool: false,
                    leaseSlot: place.holder.slot)
            ))
    }

    /// Plans for a session without a lease: it loses its leased address, and a lease is requested unless that was done.
    private func goWithout(_ source: any LeaseSource, _ place: Place, _ wish: LeaseWish, _ plan: inout Plan) {
        if let leased = wish.leased {
            let why = losses[place].map { "\($0)" } ?? "no lease of it is held"
            plan.removals.append(Removal(record: wish.record, address: leased, ending: .leaseLost, reason: why))
        }
        switch states[place] {
        case .asked: break
        case .failed(let failure, let until) where until > .now:
            plan.refused.append((wish.record, failure))
            plan.look(at: until)
        // `kept` without a lease: it was released or lost.
        case .failed, .kept, nil: ask(source, place)
        }
    }

    private func planWithoutSource(_ interface: String, _ wish: LeaseWish, _ failure: Failure, _ plan: inout Plan) {
        plan.interfaces[interface] = failure
        if let time = sources.retry(interface) { plan.look(at: time) }
        guard let leased = wish.leased else { return plan.refused.append((wish.record, failure)) }
        // The client goes on by itself. But the interface was removed, and with it the address.
        guard if_nametoindex(interface) == 0 else { return }
        plan.removals.append(
            Removal(
                record: wish.record, address: leased, ending: .leaseLost, reason: "interface \(interface) was removed"))
    }

    private static func noInterface(_ record: SessionRecord) -> Failure {
        Failure(
            .failed, "lease an address for session \(record.id)",
            "the policy names no interface, and there is no default route", hint: "set virtualIP.addresses.interface")
    }

    private func forget(_ place: Place) {
        states[place] = nil
        backoffs[place] = nil
        losses[place] = nil
    }

    private func ask(_ source: any LeaseSource, _ place: Place) {
        request += 1
        states[place] = .asked(request: request)
        source.acquire(place.holder, timeout: Self.patience) { [news, request] result in
            news.put(.answer(place.interface, place.holder, request: request, result))
        }
    }

    /// Each session keeps its slot. A session without one gets the lowest that no other session of its user has.
    private func assign(_ wishes: [LeaseWish]) {
        var new: [Session: Place] = [:]
        var taken: Set<LeaseHolder> = []
        var rest: [LeaseWish] = []
        // Slots in the registry have priority over those in memory.
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
}
