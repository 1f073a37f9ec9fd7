// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
public import Host
import Logging
public import Network
public import Policy
import PolicyMaps
public import SystemPackage

// Repairs that the daemon makes regularly and commands make as well, because other programs change the host too.

/// A session's address that was checked.
public struct KeptAddress: Sendable, Hashable {
    public let record: SessionRecord
    public let address: SessionRecord.Address
}

/// The result of ``Change/keepAddresses()``.
public struct Upkeep: Sendable {
    /// Addresses that were missing on their interface and were restored.
    public var restored: [KeptAddress] = []
    /// Addresses that are missing and could not be restored, and why.
    public var missing: [(kept: KeptAddress, failure: Failure)] = []
    /// Whether the host's own addresses have changed since they were last written to the maps.
    public var hasHostChanged = false

    public init() {}
}

/// The result of ``Change/closeEnded(_:)``.
public struct EndedSessions: Sendable {
    /// The closed ones, and why each has ended.
    public var closed: [(closed: ClosedSession, reason: String)] = []
    /// Those of them that a program has entered meanwhile. They are open again.
    public var reopened: [SessionRecord] = []
}

extension Registry.Setting {
    /// The paths of the cgroups that are frozen while their sessions are closed, a line each.
    static let frozen = Registry.Setting(rawValue: "frozen")
}

extension Instance {
    /// Whether ``Change/keepAddresses()`` would change anything but routes of whole prefixes. Takes no lock.
    ///
    /// - Parameters:
    ///   - records: the registry's sessions.
    ///   - placed: all addresses of the host.
    public func needsUpkeep(_ records: [SessionRecord], _ placed: [PlacedAddress]) throws(Failure) -> Bool {
        let registry = try registry()
        let policy = try policy(registry)
        if try !missingLoopbacks(records, under: policy, registry, placed).isEmpty { return true }
        let there = Change.places(placed)
        let addresses = records.filter { $0.state == .open }.flatMap(\.addresses).filter(\.placed)
        if addresses.contains(where: { there[$0.address]?.contains($0.interface) != true }) { return true }
        guard pins.isLoaded else { return false }
        let virtual = Set(records.flatMap(\.addresses).map(\.address))
        let own = Change.hosts(own: placed, under: policy).filter { !virtual.contains($0) && !$0.isLoopback }
        let maps = try PolicyMapSet(pins)
        let known = try maps.addresses.rows().filter { $0.value.owner == VIP_OWNER_HOST.rawValue }.map(\.key.address)
        return Set(known) != Set(own)
    }

    /// Whether the maps have the present files of the programs that a policy lists by path.
    public func knowsPrograms(of policy: Policy) throws(Failure) -> Bool {
        guard pins.isLoaded else { return true }
        let mounts = try MountTable.current()
        var identities: Set<vip_program_file> = []
        for path in policy.listedPaths {
            if let identity = try ProgramFile.identity(of: path, mounts: mounts) { identities.insert(identity) }
        }
        return try PolicyMapSet(pins).knowsExactly(identities)
    }
}

extension Change {
    /// The interfaces of each address that is placed like a session's, as /32 or /128; sorted by name.
    static func places(_ placed: [PlacedAddress]) -> [IPAddress: [String]] {
        Dictionary(grouping: placed.filter { $0.prefixLength == $0.address.family.bits }, by: \.address)
            .mapValues { $0.map(\.interface).sorted() }
    }

    /// Restores virtual IPs that another program removed from their interface, and updates the host's own addresses in
    /// the maps.
    public mutating func keepAddresses() throws(Failure) -> Upkeep {
        var upkeep = Upkeep()
        let placed = try hostAddresses()
        let places = Self.places(placed)
        let there = Set(places.keys)
        var records = try registry.sessions()
        // If an interface was renamed while the daemon did not run, the addresses are still on it.
        var moved: [IPAddress: String] = [:]
        for index in records.indices where records[index].bootID == bootID {
            for number in records[index].addresses.indices where records[index].addresses[number].placed {
                let address = records[index].addresses[number]
                guard let now = places[address.address], !now.contains(address.interface), let first = now.first else {
                    continue
                }
                moved[address.address] = first
                records[index].addresses[number].interface = first
            }
        }
        if !moved.isEmpty { try registry.setInterface(moved) }
        (upkeep.restored, upkeep.missing) = putBackAddresses(of: records, present: there)
        if pins.isLoaded {
            let maps = try PolicyMapSet(pins)
            let virtual = Set(records.flatMap(\.addresses).map(\.address))
            let policy = try instance.policy(registry)
            upkeep.hasHostChanged = try maps.refreshHost(
                Self.hosts(own: placed, under: policy).filter { !virtual.contains($0) },
                broadcasts: placed.flatMap(\.networkAndBroadcast), virtualIPs: virtual)
            try repairPrefixes(under: policy)
            try repairLoopbacks(of: records, under: policy, placed)
        }
        return upkeep
    }

    /// The addresses among all of the host's that are none of a session's IPv6 loopbacks.
    static func hosts(own placed: [PlacedAddress], under policy: Policy) -> [IPAddress] {
        let prefix = policy.loopbackPrefix.local
        return placed.map(\.address).filter { !prefix.contains($0) }
    }

    /// Restores IPv6 loopbacks that another program removed from lo.
    private mutating func repairLoopbacks(
        of records: [SessionRecord], under policy: Policy, _ placed: [PlacedAddress]
    ) throws(Failure) {
        let missing = try instance.missingLoopbacks(records, under: policy, registry, placed)
        guard !missing.isEmpty, let prefix = try registry.loopbackPrefix() else { return }
        do throws(Failure) {
            try settings.addLoopbacks(of: missing, prefix)
            warnings.append("the IPv6 loopbacks of \(missing.count) sessions were missing on lo and are back")
        } catch {
            warnings.append("the IPv6 loopbacks of \(missing.count) sessions are missing on lo: \(error)")
        }
    }

    /// Restores the routes of whole prefixes and net.ipv6.ip_nonlocal_bind, if another program has changed them.
    mutating func repairPrefixes(under policy: Policy) throws(Failure) {
        var prefixes = policy.poolPrefixes
        if !policy.placesLoopbacks, let prefix = try registry.loopbackPrefix() { prefixes.append(prefix.prefix) }
        guard !prefixes.isEmpty else { return }
        do throws(Failure) {
            for prefix in try settings.prepareRoutes(prefixes, for: policy) {
                warnings.append("the local route of \(prefix) was missing and is back")
            }
            if prefixes.contains(where: { $0.family == .v6 }), let change = try settings.prepareNonlocalBind() {
                warnings.append(change)
            }
        } catch {
            warnings.append("prefixes are not local: \(error)")
        }
    }

    /// Restores virtual IPs of open sessions that another program removed from their interface.
    ///
    /// - Parameter present: all addresses of the host.
    /// - Returns: those that were restored, and those that could not be.
    func putBackAddresses(
        of records: [SessionRecord], present: Set<IPAddress>
    ) -> (restored: [KeptAddress], missing: [(kept: KeptAddress, failure: Failure)]) {
        var byPlace: [AddressPlace: [KeptAddress]] = [:]
        for record in records where record.state == .open && record.bootID == bootID {
            for address in record.addresses where address.placed && !present.contains(address.address) {
                byPlace[address.place, default: []].append(KeptAddress(record: record, address: address))
            }
        }
        var restored: [KeptAddress] = []
        var missing: [(kept: KeptAddress, failure: Failure)] = []
        for (place, kept) in byPlace.sorted(by: { $0.key.interface < $1.key.interface }) {
            do throws(Failure) {
                let results = try netlink.add(kept.map(\.address.address), at: place)
                for (kept, result) in zip(kept, results) {
                    switch result {
                    case .success: restored.append(kept)
                    case .failure(let failure): missing.append((kept, failure))
                    }
                }
            } catch {
                missing += kept.map { ($0, error) }
            }
        }
        return (restored, missing)
    }

    /// Records the new names of interfaces. Sessions' addresses stay on them.
    ///
    /// - Parameter names: from old to new names, all together, because an interface may have the old name of another
    ///   one.
    /// - Returns: the number of addresses on each, by its new name.
    public func renameInterfaces(_ names: [String: String]) throws(Failure) -> [String: Int] {
        var moved: [IPAddress: String] = [:]
        for address in try registry.sessions().flatMap(\.addresses) {
            if let new = names[address.interface] { moved[address.address] = new }
        }
        try registry.setInterface(moved)
        return Dictionary(grouping: moved.values, by: \.self).mapValues(\.count)
    }

    /// Closes those of the sessions that have ended, by ``SessionRecord/end``, and that still exist.
    ///
    /// Their cgroups are frozen for as long as that takes, so that a program that starts there meanwhile does not run
    /// without a session: it waits until the session is open again.
    public mutating func closeEnded(_ records: [SessionRecord]) throws(Failure) -> EndedSessions {
        var ended: [SessionRecord] = []
        for record in records {
            guard let now = try registry.session(id: record.id), now.cgroupID == record.cgroupID,
                now.bootID == record.bootID, now.end != nil
            else { continue }
            ended.append(now)
        }
        guard !ended.isEmpty else { return EndedSessions() }
        let frozen = try freeze(ended.filter(\.isCgroupThere).map(\.cgroup))
        var result = EndedSessions()
        do {
            defer { thaw(frozen) }
            var closing: [(record: SessionRecord, reason: String)] = []
            for record in ended {
                if let reason = record.end { closing.append((record, reason)) }
            }
            let counts = try tearDown(closing.map { ($0.record, $0.record.isCgroupThere ? .cgroupEmpty : .cgroupGone) })
            result.closed = closing.map {
                (ClosedSession(record: $0.record, destroyedSockets: counts[$0.record.id]), $0.reason)
            }
            reopenEntered(&result)
        }
        // A program that came just before the thaw has run for a moment without a session, as any that comes later.
        reopenEntered(&result)
        return result
    }

    /// Opens those of the closed sessions again that programs have entered.
    private mutating func reopenEntered(_ result: inout EndedSessions) {
        for record in result.closed.map(\.closed.record)
        where record.isCgroupThere && !result.reopened.contains(where: { $0.cgroupID == record.cgroupID }) {
            guard (try? record.cgroup.isPopulated()) == true else { continue }
            result.reopened += reopen(record)
        }
    }

    /// Opens a session again that a program has entered while it was being closed.
    private mutating func reopen(_ record: SessionRecord) -> [SessionRecord] {
        var request = SessionRequest(cgroup: record.cgroup)
        request.id = record.id
        request.prefersID = true
        request.allowReserved = true
        request.user = record.user
        request.policy = record.policy
        request.keeper = record.keeper
        request.opensWithoutAddress = true
        do throws(Failure) {
            return try open([request])
        } catch {
            warnings.append("a program of \(record.cgroupPath) runs without a session: \(error)")
            return []
        }
    }

    /// Freezes cgroups, but for those that somebody else has frozen. They are noted first, so that they are thawed
    /// after a kill, too. One that cannot be frozen is a warning.
    ///
    /// - Returns: the frozen ones.
    private mutating func freeze(_ cgroups: [Cgroup]) throws(Failure) -> [Cgroup] {
        let thawed = cgroups.filter { (try? $0.isFrozen()) == false }
        guard !thawed.isEmpty else { return [] }
        try registry.set(.frozen, to: thawed.map(\.path.string).joined(separator: "\n"))
        for cgroup in thawed {
            do throws(Failure) { try cgroup.setFrozen(true) } catch { warnings.append("\(error)") }
        }
        return thawed
    }

    private func thaw(_ cgroups: [Cgroup]) {
        guard !cgroups.isEmpty else { return }
        do throws(Failure) {
            for cgroup in cgroups { try cgroup.setFrozen(false) }
            try registry.set(.frozen, to: nil)
        } catch {
            logger.error("\(error); the next change tries again")
        }
    }

    /// Thaws the cgroups that a killed ``closeEnded(_:)`` has left frozen.
    func thawLeftovers() throws(Failure) {
        guard let noted = try registry.value(of: .frozen) else { return }
        let cgroups = noted.split(separator: "\n").compactMap { try? Cgroup(path: FilePath(String($0))) }
        guard !cgroups.isEmpty else { return try registry.set(.frozen, to: nil) }
        thaw(cgroups)
    }

    /// The session of a cgroup, or `nil`.
    public func session(on cgroup: Cgroup) throws(Failure) -> SessionRecord? {
        try registry.session(cgroupID: cgroup.id, bootID: bootID)
    }

    /// The ID for a login: logind's number of it, if that is free and allowed, else `nil`.
    public func sessionID(ofLogin name: String) throws(Failure) -> UInt32? {
        guard name.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), name.first != "0",
            let id = UInt32(name)
        else { return nil }
        let hostAddresses = try instance.policy(registry).virtualLoopback.hostAddresses
        guard (try? SessionIDs.check(id, hostAddresses: hostAddresses)) != nil, try registry.session(id: id) == nil
        else { return nil }
        return id
    }
}

extension SessionRecord {
    /// Why the session has ended; `nil` if it has not.
    ///
    /// A login's session ends with the last process in its cgroup. A session that was opened by hand continues in an
    /// empty cgroup, into which programs may still be started, until the cgroup is removed. A session of `run` is ended
    /// by `run` itself, or by the next change.
    public var end: String? {
        if keeper == .run { return nil }
        guard isCgroupThere else { return "its cgroup no longer exists" }
        guard keeper.isLogin, state == .open else { return nil }
        guard let text = try? readWholeFile(cgroupPath.appending("cgroup.events")) else {
            return isCgroupThere ? nil : "its cgroup no longer exists"
        }
        return Cgroup.isPopulated(text) ? nil : "the last process has left its cgroup"
    }
}

extension Policy {
    /// The absolute paths on its program lists, each once.
    public var listedPaths: Set<FilePath> {
        let all = allRules
        let entries = all.flatMap {
            $0.virtualIP.programs + $0.virtualLoopback.programs + $0.preferLoopback.programs
        }
        return Set(entries.compactMap { if case .path(let path) = $0 { path } else { nil } })
    }
}
