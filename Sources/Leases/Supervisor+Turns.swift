// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Glibc
import Host
import Network
import SystemPackage

/// The schedule: which entry acquires and which renews next, and what has taken too long.
extension Supervisor {
    /// The entry whose client is asking for an address.
    private var acquiring: LeaseEntry? { entries.values.first { $0.state.isAcquiring } }

    /// The entry whose client was told to renew.
    private var renewing: LeaseEntry? { entries.values.first { $0.state.isRenewing } }

    private static func renewal(_ entry: LeaseEntry) -> Double? {
        if case .held(_, let renewal) = entry.state { renewal } else { nil }
    }

    /// Sets when a client may be started for an entry.
    func setTurn(_ entry: LeaseEntry, _ time: Double) {
        if case .failed(let count, _) = entry.state {
            entry.state = .failed(count, retry: time)
        } else {
            entry.state = .queued(from: time)
        }
    }

    /// Sets the timer to when something is due next.
    func schedule() {
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

    /// Does what is due.
    func act() {
        let now = LeaseClock.now
        for entry in Array(entries.values) {
            if let grant = entry.grant, let overdue = entry.overdue, overdue <= now {
                // The client was stopped, or is stuck on a link that was down. A new one may succeed while there is
                // time.
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
            // For as long as the client listens for a unicast answer. After that it asks by broadcast and disturbs no
            // other client.
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
                .failed, what(entry), why, hint: "check that a DHCP server answers there, and try again")
            answer(waiter, .failure(failure))
        }
        if entry.waiters.isEmpty, !entry.isKept { drop(entry) }
    }

    private static func text(_ seconds: Double) -> String {
        seconds == seconds.rounded() ? "\(Int(seconds))" : "\((seconds * 10).rounded() / 10)"
    }

    /// The entry to acquire next: those with waiters come first, then those that have waited longest.
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

    /// Ends a failed attempt to acquire. If the lease is to be kept, another attempt follows after a pause.
    func giveUp(_ entry: LeaseEntry, _ failure: Failure) {
        let failures = entry.state.failures + 1
        requeue(entry)
        answer(entry, .failure(failure))
        guard entry.isKept else { return drop(entry) }
        var pause = min(pow(2, Double(min(failures, 6))), 60)
        if let grant = entry.grant {
            pause = min(pause, max(1, (grant.expiry - LeaseClock.now) / 4))
            emit(.troubled(entry.holder, grant.address, why: failure.reason))
        }
        entry.state = .failed(failures, retry: LeaseClock.now + pause)
    }

    func giveUp(_ entry: LeaseEntry, _ why: String) {
        giveUp(
            entry, Failure(.failed, what(entry), why, hint: "check that a DHCP server answers there, and try again"))
    }

    func lose(_ entry: LeaseEntry, _ loss: LeaseLoss) {
        guard let grant = entry.grant else { return }
        entry.grant = nil
        // Do not ask again for an address that the server refused.
        entry.hint = loss == .refusedByServer ? nil : grant.address
        emit(.lost(entry.holder, grant.address, loss))
        guard !entry.state.isAcquiring else { return }
        if let turn = entry.state.turn { setTurn(entry, min(turn, LeaseClock.now)) } else { requeue(entry) }
        save(entry)
    }

    /// Ends the client, if one runs. Another one is started when it is the entry's turn.
    func requeue(_ entry: LeaseEntry) {
        entry.clientEnd = nil
        if let client = entry.state.client { kill(client) }
        entry.state = .queued(from: LeaseClock.now)
    }
}
