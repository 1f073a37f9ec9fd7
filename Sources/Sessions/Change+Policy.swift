// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
public import Host
import Logging
import Network
public import Policy
public import PolicyMaps
import SystemPackage

extension Change {
    /// Applies a policy to every session, in one step.
    ///
    /// It also brings everything else in the maps in line with the registry and the host, and closes sessions whose
    /// cgroup was removed. If it fails, the policy before stays in force.
    ///
    /// - Parameters:
    ///   - action: what applies it, for the history.
    ///   - request: to apply it on trial. That is not noted if the policy is in force already.
    /// - Returns: what was written.
    @discardableResult
    public mutating func apply(
        _ policy: Policy, as action: PolicyAction, onTrial request: TrialRequest? = nil
    ) throws(Failure) -> PolicyMapSet.Changes {
        if action != .rollback, action != .notConfirmed { try requireNoTrial(policy) }
        let maps = try PolicyMapSet(pins)
        try closeGone()
        var (records, hostAddresses, formerPrefix, desired) = try prepare(policy, maps)
        let (restored, missing) = putBackAddresses(of: records, present: Set(hostAddresses.map(\.address)))
        warnings += restored.map {
            "virtual IP \($0.address.address) was missing on \($0.address.interface) and is back"
        }
        warnings += missing.map { "\($0.failure)" }

        // The pending policy is registered before the generation changes, and becomes the current one afterwards. After
        // a kill in between, the generations are compared.
        let next = try maps.configuration().generation &+ 1
        let author = PolicyAuthor.current()
        let endedTrial = try registry.policyTrial()
        // The note of a trial is there before the policy is: a kill in between leaves one that settleTrial() drops.
        try registry.set(
            pending: Registry.PendingPolicy(generation: next, policy: policy, action: action, author: author),
            trial: request.map { request throws(Failure) in try trial(of: policy, request) })
        // The new prefix of the IPv6 loopbacks is made local before the hooks use it; the old one is removed
        // afterwards.
        let changes: PolicyMapSet.Changes
        do throws(Failure) {
            desired.loopbackPrefix = try settings.prepare(for: policy, warnings: &warnings)
            changes = try maps.apply(desired)
        } catch {
            // If the generation has changed, the policy is in force, and the next change completes the rest.
            if (try? maps.configuration().generation) != next {
                // A step that fails neither prevents the other one nor hides the first error.
                do throws(Failure) {
                    try settings.settle(formerPrefix, for: instance.policy(registry))
                } catch let undo {
                    logger.warning("\(undo)")
                }
                do throws(Failure) {
                    try registry.set(pending: nil)
                    if request != nil { try registry.set(.policyTrial, to: nil) }
                } catch let undo {
                    logger.warning("\(undo)")
                }
            }
            throw error
        }
        try registry.set(policy, at: .now(bootID: bootID), as: action, by: author)
        if request == nil, let endedTrial, endedTrial.policy != policy { try forget(endedTrial) }
        try settings.settle(desired.loopbackPrefix, for: policy)
        try registry.set(pending: nil)
        return changes
    }

    /// Throws if a policy cannot be applied: all that ``apply(_:)`` looks at before it changes anything.
    public mutating func check(_ policy: Policy) throws(Failure) {
        try requireNoTrial(policy)
        let maps = try PolicyMapSet(pins)
        let desired = try prepare(policy, maps).desired
        try maps.requireRoom(for: desired)
    }

    /// The note of a trial that begins now.
    private func trial(of policy: Policy, _ request: TrialRequest) throws(Failure) -> PolicyTrial {
        let watcher = request.watcher.map { PolicyTrial.Watcher(pid: $0.pid, startTime: $0.startTime) }
        return PolicyTrial(
            policy: policy, former: try instance.policy(registry), deadline: request.deadline, bootID: bootID,
            endsAt: request.endsAt, watcher: watcher)
    }

    /// Finds the rows of a policy. Throws if the host, the registry or the maps have something against it.
    private mutating func prepare(
        _ policy: Policy, _ maps: borrowing PolicyMapSet
    ) throws(Failure) -> (
        records: [SessionRecord], hostAddresses: [PlacedAddress], formerPrefix: LoopbackPrefix?, desired: DesiredRows
    ) {
        let records = try registry.sessions()
        let known = Set(records.map(\.cgroupID))
        let unknown = try maps.sessions.rows().count { !known.contains($0.key) }
        guard unknown == 0 else {
            throw Failure(
                .failed, "apply the policy",
                "the kernel has \(unknown) sessions that registry \(instance.state.registry) "
                    + "does not know: it is not the one that they were opened with, or it was lost",
                hint: "name the right one with --state, or start over: vip-bpfctl detach --all")
        }
        let formerPrefix = try maps.configuration().loopbackPrefix
        if let formerPrefix, formerPrefix != policy.loopbackPrefix.local, !records.isEmpty {
            throw Failure(
                .failed, "apply the policy",
                "virtualLoopback.prefix differs from \(formerPrefix), which \(records.count) open sessions use",
                hint: "close them first, or keep the prefix: IPv6 loopbacks in use would become unreachable")
        }
        try requireRoomForAttached(for: policy)
        let mounts = try MountTable.current()
        let hostAddresses = try hostAddresses()
        try settings.check(policy, hostAddresses)
        let desired = try DesiredRows(
            policy: policy, sessions: rows(of: records, under: policy),
            hostAddresses: Self.hosts(own: hostAddresses, under: policy),
            broadcasts: hostAddresses.flatMap(\.networkAndBroadcast),
            hostLoopbacks: SessionIDs.reservedLoopbacks
        ) { path throws(Failure) in try ProgramFile.identity(of: path, mounts: mounts) }
        warnings += desired.warnings
        for record in records {
            if let name = record.policy, policy.override(named: name) == nil {
                warnings.append(
                    "session \(record.id): the policy has no override \(name); the base policy holds for it")
            }
        }
        if policy.virtualIP.enabled {
            let without = records.filter(\.addresses.isEmpty).map(\.id)
            if !without.isEmpty {
                warnings.append(
                    "\(without.count) sessions have no virtual IP (ID \(without[0]) is the first): whenUnavailable holds "
                        + "for them until they are opened again or the daemon gives them one")
            }
        }
        return (records, hostAddresses, formerPrefix, desired)
    }

    /// After a kill during ``apply(_:)``: finds out whether the pending policy is in force, and completes or drops it.
    func settlePendingPolicy() throws(Failure) {
        let pending: Registry.PendingPolicy?
        do throws(Failure) {
            pending = try registry.pendingPolicy()
            if pending == nil { return }
        } catch {
            // A pending policy that cannot be read is dropped.
            logger.warning("\(error)")
            pending = nil
        }
        if pins.isLoaded {
            let maps = try PolicyMapSet(pins)
            if let pending, try maps.configuration().generation == pending.generation {
                try registry.set(
                    pending.policy, at: .now(bootID: bootID), as: pending.action ?? .unknown,
                    by: pending.author ?? .current())
            }
            // If the policy cannot be read, `policy apply` must still be able to replace it.
            let policy: Policy?
            do throws(Failure) {
                policy = try instance.policy(registry)
            } catch {
                logger.warning("\(error)")
                policy = nil
            }
            if let policy { try settings.settle(maps.configuration().loopbackPrefix, for: policy) }
        }
        try registry.set(pending: nil)
        logger.warning("an earlier policy apply was killed; it was completed, or undone")
    }

    /// Closes the sessions whose cgroup was removed.
    ///
    /// - Returns: whether there were any.
    @discardableResult
    func closeGone() throws(Failure) -> Bool {
        let gone = try registry.sessions().filter { !$0.isCgroupThere }
        guard !gone.isEmpty else { return false }
        for record in gone {
            logger.warning("closing session \(record.id): its cgroup \(record.cgroupPath) was removed")
        }
        try tearDown(gone.map { ($0, .cgroupGone) })
        return true
    }
}
