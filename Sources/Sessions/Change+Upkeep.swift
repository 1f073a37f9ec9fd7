// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
public import Host
public import Network
public import Policy
import PolicyMaps
public import SystemPackage

// What the daemon does from time to time, and commands do on the way: the host is changed by others, too.

/// An address of a session that was looked after.
public struct KeptAddress: Sendable, Hashable {
    public let record: SessionRecord
    public let address: SessionRecord.Address
}

/// What ``Change/keepAddresses()`` found and did.
public struct Upkeep: Sendable {
    /// Missing on their interface, and back.
    public var restored: [KeptAddress] = []
    /// Missing, and not to be put back: why.
    public var missing: [(kept: KeptAddress, failure: Failure)] = []
    /// Whether addresses of the host's own had come or gone since the maps were told.
    public var hasHostChanged = false

    public init() {}
}

extension Instance {
    /// Whether ``Change/keepAddresses()`` would change something. Takes no lock.
    ///
    /// - Parameters:
    ///   - records: the registry's sessions.
    ///   - placed: every address of the host.
    public func needsUpkeep(_ records: [SessionRecord], _ placed: [PlacedAddress]) throws(Failure) -> Bool {
        let there = Change.places(placed)
        let addresses = records.filter { $0.state == .open }.flatMap(\.addresses).filter(\.placed)
        if addresses.contains(where: { there[$0.address]?.contains($0.interface) != true }) { return true }
        guard pins.isLoaded else { return false }
        let virtual = Set(records.flatMap(\.addresses).map(\.address))
        let own = placed.map(\.address).filter { !virtual.contains($0) && !$0.isLoopback }
        let maps = try PolicyMapSet(pins)
        let known = try maps.addresses.rows().filter { $0.value.owner == VIP_OWNER_HOST.rawValue }.map(\.key.address)
        return Set(known) != Set(own)
    }

    /// Whether the programs that a policy lists by path are the files that the kernel knows them as.
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
    /// On which interfaces addresses are as sessions have them, /32 and /128; by address, in the order of names.
    static func places(_ placed: [PlacedAddress]) -> [IPAddress: [String]] {
        Dictionary(grouping: placed.filter { $0.prefixLength == $0.address.family.bits }, by: \.address)
            .mapValues { $0.map(\.interface).sorted() }
    }

    /// Puts virtual IPs back that something took off their interface, and tells the maps which addresses are the host's own.
    public mutating func keepAddresses() throws(Failure) -> Upkeep {
        var upkeep = Upkeep()
        let placed = try hostAddresses()
        let places = Self.places(placed)
        let there = Set(places.keys)
        var records = try registry.sessions()
        // An interface that was renamed while nobody looked has them still.
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
            upkeep.hasHostChanged = try maps.refreshHost(
                placed.map(\.address).filter { !virtual.contains($0) },
                broadcasts: placed.flatMap(\.networkAndBroadcast), virtualIPs: virtual)
            try repairLoopback(maps)
        }
        return upkeep
    }

    /// Puts back what something else has undone since the last attach: quick where nothing has.
    mutating func repairLoopback(_ maps: borrowing PolicyMapSet) throws(Failure) {
        guard let prefix = try maps.configuration().loopbackPrefix else { return }
        try settings.repairLoopback(prefix, warnings: &warnings)
    }

    /// Puts virtual IPs of open sessions back that something took off their interface.
    ///
    /// - Parameter present: every address of the host.
    /// - Returns: those that were missing and are back, and those that could not be put back.
    func putBackAddresses(
        of records: [SessionRecord], present: Set<IPAddress>
    ) -> (restored: [KeptAddress], missing: [(kept: KeptAddress, failure: Failure)]) {
        var byInterface: [String: [KeptAddress]] = [:]
        for record in records where record.state == .open && record.bootID == bootID {
            for address in record.addresses where address.placed && !present.contains(address.address) {
                byInterface[address.interface, default: []].append(KeptAddress(record: record, address: address))
            }
        }
        var restored: [KeptAddress] = []
        var missing: [(kept: KeptAddress, failure: Failure)] = []
        for (interface, kept) in byInterface.sorted(by: { $0.key < $1.key }) {
            do throws(Failure) {
                let results = try netlink.add(kept.map(\.address.address), to: interface)
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

    /// Notes that interfaces have other names now: sessions' addresses stay on them.
    ///
    /// - Parameter names: all of them at once, old to new, since one may have another's old name.
    /// - Returns: how many addresses are on each, by its new name.
    public func renameInterfaces(_ names: [String: String]) throws(Failure) -> [String: Int] {
        var moved: [IPAddress: String] = [:]
        for address in try registry.sessions().flatMap(\.addresses) {
            if let new = names[address.interface] { moved[address.address] = new }
        }
        try registry.setInterface(moved)
        return Dictionary(grouping: moved.values, by: \.self).mapValues(\.count)
    }

    /// Closes those sessions of a list that have ended, as ``SessionRecord/end`` says, and are still the same.
    ///
    /// - Returns: what they were, and why each has ended.
    public func closeEnded(_ records: [SessionRecord]) throws(Failure) -> [(record: SessionRecord, reason: String)] {
        var ended: [(record: SessionRecord, reason: String)] = []
        for record in records {
            guard let now = try registry.session(id: record.id), now.cgroupID == record.cgroupID,
                now.bootID == record.bootID, let reason = now.end
            else { continue }
            ended.append((now, reason))
        }
        if !ended.isEmpty {
            try tearDown(ended.map { ($0.record, $0.record.isCgroupThere ? .cgroupEmpty : .cgroupGone) })
        }
        return ended
    }

    /// The session that a cgroup is, or `nil`.
    public func session(on cgroup: Cgroup) throws(Failure) -> SessionRecord? {
        try registry.session(cgroupID: cgroup.id, bootID: bootID)
    }

    /// The ID for a login of logind's: its own number where that is a free one that may be used, `nil` for any other.
    public func sessionID(ofLogin name: String) throws(Failure) -> UInt32? {
        guard name.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), name.first != "0",
            let id = UInt32(name), (try? SessionIDs.check(id)) != nil, try registry.session(id: id) == nil
        else { return nil }
        return id
    }
}

extension SessionRecord {
    /// Why the session has ended; `nil` while it goes on.
    ///
    /// A login's ends with the last process in its cgroup. One that was opened by hand goes on in an empty cgroup, where
    /// programs may be yet to come, until that is removed. One of `run` is its own keeper's, or the next change's.
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
