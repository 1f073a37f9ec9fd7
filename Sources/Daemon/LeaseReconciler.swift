// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Leases
import Network
import Sessions
import SystemPackage

/// Leases addresses for sessions, and tells what is to change of the sessions' addresses.
///
/// Like the rest of the daemon it compares what is with what should be: each time, ``plan(_:)`` gets what sessions wish, asks
/// the sources for what they do not hold, releases what no session wishes, and returns what to change. News of the sources in
/// between are only the reason to look. So it does not matter what happened while the daemon did not run.
final class LeaseReconciler {
    /// An address whose lease has ended.
    struct Removal {
        let record: SessionRecord
        let address: SessionRecord.Address
        let ending: SessionEnding
        let reason: String
    }

    /// What to change, in this order.
    struct Plan {
        var removals: [Removal] = []
        /// Leased, and not the session's yet.
        var additions: [(record: SessionRecord, address: SessionRecord.Address)] = []
        /// Sessions that have to go without for now.
        var refused: [(record: SessionRecord, failure: Failure)] = []
        /// Interfaces that leases are wished on, and why none can be had there; `nil` where they can.
        var interfaces: [String: Failure?] = [:]
        /// When to look again; `nil` is when something happens.
        private(set) var nextLook: Duration?

        mutating func look(at time: ContinuousClock.Instant) {
            let delay = max(.zero, ContinuousClock.now.duration(to: time))
            nextLook = min(nextLook ?? delay, delay)
        }
    }

    /// One client of a DHCP server.
    private struct Place: Hashable {
        let interface: String
        let holder: LeaseHolder
    }

    private enum State {
        /// The source was asked, and has not answered.
        case asked(request: Int)
        /// The source has, or had, a lease, and goes on by itself.
        case kept
        case failed(Failure, until: ContinuousClock.Instant)
    }

    /// What the sources' threads tell.
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

    /// How long a lease waits for its turn among others: 64 logins at once behind a silent server, which is asked for 6 s each.
    private static let patience: Duration = .seconds(400)

    /// - Parameter runtime: for what outlives the daemon, but not a boot.
    init(_ instance: Instance, runtime: FilePath, log: EventLog) throws(Failure) {
        self.log = log
        let news = try Mailbox<News>()
        self.news = news
        sources = LeaseSources(instance, runtime: runtime, log) { interface, event in
            news.put(.event(interface, event))
        }
    }

    /// Readable when there are news.
    var descriptor: CInt { news.descriptor }

    /// Whether leases may be held that no session wishes any more.
    var isBusy: Bool { !sources.all.isEmpty }

    /// Ends the supervision. The leases are kept by their clients, for the next daemon.
    func close() { sources.close() }

    /// Interfaces have other names: what is leased on them goes on there.
    ///
    /// - Parameter names: old to new, all at once.
    func rename(_ names: [String: String]) {
        for old in sources.rename(names) {
            for place in Array(states.keys) where place.interface == old { forget(place) }
            places = places.filter { $0.value.interface != old }
        }
    }

    // MARK: What comes in

    /// Reports what has happened.
    ///
    /// - Returns: whether anything has that is a reason to look at the sessions.
    func handleNews() -> Bool {
        var isReason = false
        for item in news.take() {
            switch item {
            case .event(let interface, let event): isReason = handle(event, interface) || isReason
            case .answer(let interface, let holder, let request, let result):
                let place = Place(interface: interface, holder: holder)
                // One that was released, and asked for again, is another request.
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

    // MARK: What is and what should be

    /// - Parameter wishes: those of every open session.
    func plan(_ wishes: [LeaseWish]) -> Plan {
        var plan = Plan()
        assign(wishes)
        if !hasOpenedKnown {
            hasOpenedKnown = true
            sources.openKnown()
        }
        // First, since a released holder may be a new session's next time.
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

    /// A lease is held: the session gets its address, where it has not got it yet.
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
                    lease.address, interface: place.interface, placed: true, fromPool: false,
                    leaseSlot: place.holder.slot)
            ))
    }

    /// No lease is held: the session loses the address that it has by one, and the source is asked where it is not being.
    private func goWithout(_ source: UDHCPCLeases, _ place: Place, _ wish: LeaseWish, _ plan: inout Plan) {
        if let leased = wish.leased {
            let why = losses[place].map { "\($0)" } ?? "no lease of it is held"
            plan.removals.append(Removal(record: wish.record, address: leased, ending: .leaseLost, reason: why))
        }
        switch states[place] {
        case .asked: break
        case .failed(let failure, let until) where until > .now:
            plan.refused.append((wish.record, failure))
            plan.look(at: until)
        // Kept, and no longer held: it was released, or lost.
        case .failed, .kept, nil: ask(source, place)
        }
    }

    private func planWithoutSource(_ interface: String, _ wish: LeaseWish, _ failure: Failure, _ plan: inout Plan) {
        plan.interfaces[interface] = failure
        if let time = sources.retry(interface) { plan.look(at: time) }
        guard let leased = wish.leased else { return plan.refused.append((wish.record, failure)) }
        // Its client goes on by itself; but an address is not restored on an interface that was removed.
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

    private func ask(_ source: UDHCPCLeases, _ place: Place) {
        request += 1
        states[place] = .asked(request: request)
        source.acquire(place.holder, timeout: Self.patience) { [news, request] result in
            news.put(.answer(place.interface, place.holder, request: request, result))
        }
    }

    /// Each session keeps its slot; one without gets the lowest that no other session of its user has.
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
}
