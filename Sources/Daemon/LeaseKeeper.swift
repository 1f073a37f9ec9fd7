// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Sessions
import SystemPackage

/// Gives addresses to sessions that were opened without one, as soon as the pool has a free one or a lease arrives, and
/// removes addresses whose lease has ended.
final class LeaseKeeper {
    private let context: KeeperContext
    private var troubles: Troubles { context.troubles }
    private let leases: LeaseReconciler
    private let conflictCheck: AddressConflictCheck
    private var sources: [EventLoop.Source] = []
    private var reconciler: Reconciler?
    /// Addresses that no other host had at the last check.
    private var cleared: Set<AddressProbe.Question> = []
    private var hasRun = false

    /// - Parameter runtime: the directory for files that outlive the daemon, but not a boot.
    init(_ context: KeeperContext, runtime: FilePath) throws(Failure) {
        self.context = context
        leases = try LeaseReconciler(context.instance, runtime: runtime, log: context.log)
        conflictCheck = try AddressConflictCheck(.ofPolicy)
        reconciler = try Reconciler(context.loop, context.troubles, .leases) { [unowned self] () throws(Failure) in
            try reconcile()
        }
        sources = [
            try context.loop.watch(leases.descriptor) { [unowned self] in if leases.handleNews() { runNow() } },
            try context.loop.watch(conflictCheck.descriptor) { [unowned self] in
                for result in conflictCheck.takeResults() { handle(result) }
            },
        ]
    }

    func runNow() { reconciler?.runNow() }

    /// Reconciles the leases if sessions need one, or sessions with a lease may have ended.
    func sessionsReconciled(_ records: [SessionRecord]) {
        // A session that lacks only IPv6 is checked once a minute.
        if !hasRun || leases.isBusy || records.contains(where: { !$0.addresses.contains { $0.address.family == .v4 } })
        {
            runNow()
        }
    }

    func interfacesRenamed(_ names: [String: String]) {
        leases.rename(names)
        runNow()
    }

    /// Ends the supervision. The clients go on running for the next daemon.
    func close() { leases.close() }

    // MARK: Reconciliation

    /// - Returns: `false` if something failed for a reason that may be temporary.
    private func reconcile() throws(Failure) -> Bool {
        hasRun = true
        let registry = try context.instance.registry()
        try context.readPolicy(registry)
        let records = try context.sessions(registry)
        let wishes = try context.instance.wishes(records, under: context.policy, registry, context.netlink)
        let picked = try withoutConflicts(wishes.picked)
        let plan = leases.plan(wishes.leases)
        report(plan, wishes, records)
        if let delay = plan.nextLook { reconciler?.run(within: delay) }
        let additions = plan.additions + picked.map { ($0.record, $0.address) }
        guard !additions.isEmpty || !plan.removals.isEmpty else { return true }
        var added: [AddressProbe.Question] = []
        // Announce after the change, so that the lock is not held.
        defer { conflictCheck.announce(added) }
        return try context.change { change throws(Failure) in
            let isRemoved = remove(plan.removals, &change)
            return add(additions, &change, &added) && isRemoved
        }
    }

    private func report(_ plan: LeaseReconciler.Plan, _ wishes: AddressWishes, _ records: [SessionRecord]) {
        let ids = Set(records.map(\.id))
        troubles.clear { if case .noAddress(let session, _) = $0 { !ids.contains(session) } else { false } }
        for (interface, failure) in plan.interfaces.sorted(by: { $0.key < $1.key }) {
            if let failure {
                troubles.report(.interface(interface), failure)
            } else {
                troubles.clear(.interface(interface))
            }
        }
        for (record, failure) in plan.refused {
            troubles.report(.noAddress(session: record.id, family: nil), Self.refused(record, failure))
        }
        // The reason changes as addresses are used and freed, so report it only once.
        for (record, family, failure) in wishes.unavailable
        where !troubles.contains(.noAddress(session: record.id, family: nil)) {
            let trouble = Trouble.noAddress(session: record.id, family: family)
            if !troubles.contains(trouble) {
                troubles.report(trouble, Self.refused(record, failure, family))
            }
        }
    }

    private func remove(_ removals: [LeaseReconciler.Removal], _ change: inout Change) -> Bool {
        var isDone = true
        for removal in removals {
            let (record, address) = (removal.record, removal.address)
            do throws(Failure) {
                guard let taken = try change.take(address.address, from: record, because: removal.ending) else {
                    continue
                }
                context.log.report(
                    Event(
                        released: address, from: record, because: removal.reason, sockets: taken.destroyedSockets))
            } catch {
                isDone = false
                troubles.report(.noAddress(session: record.id, family: nil), error)
            }
        }
        return isDone
    }

    private func add(
        _ additions: [(record: SessionRecord, address: SessionRecord.Address)], _ change: inout Change,
        _ added: inout [AddressProbe.Question]
    ) -> Bool {
        var isDone = true
        defer { for squatter in change.squatters { context.log.report(Event(squatter)) } }
        for (record, address) in additions {
            do throws(Failure) {
                guard let after = try change.give(address, to: record) else { continue }
                troubles.clear(.noAddress(session: record.id, family: nil))
                troubles.clear(.noAddress(session: record.id, family: address.address.family))
                added.append(AddressProbe.Question(address.address, on: address.interface))
                context.log.report(Event(assigned: address, to: after))
            } catch {
                isDone = false
                troubles.report(.noAddress(session: record.id, family: nil), Self.refused(record, error, of: address))
            }
        }
        return isDone
    }

    private static func refused(
        _ record: SessionRecord, _ failure: Failure, _ family: IPAddress.Family? = nil,
        of address: SessionRecord.Address? = nil
    ) -> Event {
        Event(
            .addressRefused,
            "session \(record.id) has no \(family.map { "\($0.rawValue) " } ?? "")address: \(failure)",
            priority: .error, of: record, address: address, reason: failure.reason)
    }

    // MARK: Other hosts' addresses

    /// The addresses that no other host has, as far as is known. The other addresses are being checked; when the
    /// results arrive, this runs again.
    private func withoutConflicts(_ picked: [KeptAddress]) throws(Failure) -> [KeptAddress] {
        let known = cleared
        cleared = []
        let links = try Instance.askedLinks(context.policy, context.netlink)
        var open: [AddressProbe.Question] = []
        let free = picked.filter { kept in
            guard kept.address.placed, links.contains(kept.address.interface) else { return true }
            let question = AddressProbe.Question(kept.address.address, on: kept.address.interface)
            if known.contains(question) { return true }
            open.append(question)
            return false
        }
        guard !open.isEmpty, !conflictCheck.isBusy else { return free }
        let seconds = context.policy.probeSeconds
        let asked = open
        try context.change { change throws(Failure) in try change.hold(asked, seconds: seconds) }
        conflictCheck.ask(asked, seconds: seconds)
        return free
    }

    private func handle(_ result: AddressConflictCheck.Result) {
        runNow()
        var conflicts: [AddressConflict] = []
        for question in result.asked {
            if let other = result.answers.taken[question.address] {
                conflicts.append(AddressConflict(question: question, other: other))
            } else {
                cleared.insert(question)
            }
        }
        for conflict in conflicts { context.log.report(Event(conflict)) }
        if let failure = result.answers.failures.first {
            troubles.report(.conflictCheck, failure)
        } else {
            troubles.clear(.conflictCheck)
        }
        do throws(Failure) {
            let conflicts = conflicts
            try context.change { change throws(Failure) in try change.settleHeld(conflicts: conflicts) }
            troubles.clear(.heldAddresses)
        } catch {
            troubles.report(.heldAddresses, error)
        }
    }
}
