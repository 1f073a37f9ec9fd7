// SPDX-License-Identifier: Apache-2.0

public import BPFLoader
public import CVipABI
import Glibc
public import Host
public import Network
public import Policy

/// The pinned maps of one instance, opened with their types, and the order in which they are written.
///
/// Every write here follows one rule: at each step, a program gets a result of the old state or of the new state, and
/// never anything else. Callers hold the state lock; readers need none.
public struct PolicyMapSet: ~Copyable {
    public let config: BPFMap<UInt32, vip_config>
    public let sessions: BPFMap<UInt64, vip_session>
    public let ids: BPFMap<UInt32, UInt64>
    public let addresses: BPFMap<vip_address, vip_address_owner>
    public let governed: BPFMap<vip_prefix, UInt32>
    public let policies: BPFMap<UInt32, vip_policy>
    public let names: BPFMap<vip_program_name, vip_listing>
    public let scripts: BPFMap<vip_program_script, vip_listing>
    public let files: BPFMap<vip_program_file, vip_listing>
    public let listenerCounts: BPFMap<UInt64, Int32>

    /// Opens the maps pinned in `directory`. Throws unless they exist and have this build's layout.
    public init(_ directory: PinDirectory) throws(Failure) {
        try directory.requireLoaded()
        // Open all maps before storing any: a partly initialised value that owns descriptors cannot be dropped.
        let config: BPFMap<UInt32, vip_config> = try directory.map("config")
        let sessions: BPFMap<UInt64, vip_session> = try directory.map("sessions")
        let ids: BPFMap<UInt32, UInt64> = try directory.map("ids")
        let addresses: BPFMap<vip_address, vip_address_owner> = try directory.map("addresses")
        let governed: BPFMap<vip_prefix, UInt32> = try directory.map("governed")
        let policies: BPFMap<UInt32, vip_policy> = try directory.map("policies")
        let names: BPFMap<vip_program_name, vip_listing> = try directory.map("program_names")
        let scripts: BPFMap<vip_program_script, vip_listing> = try directory.map("program_scripts")
        let files: BPFMap<vip_program_file, vip_listing> = try directory.map("program_files")
        let listenerCounts: BPFMap<UInt64, Int32> = try directory.map("listener_counts")
        self.config = config
        self.sessions = sessions
        self.ids = ids
        self.addresses = addresses
        self.governed = governed
        self.policies = policies
        self.names = names
        self.scripts = scripts
        self.files = files
        self.listenerCounts = listenerCounts
    }

    /// The configuration in force.
    public func configuration() throws(Failure) -> vip_config {
        try config.value(of: 0) ?? vip_config()
    }

    /// Notes that all pinned programs are this build's and are attached everywhere: the last step of an attach.
    public static func noteObject(_ directory: PinDirectory) throws(Failure) {
        let config: BPFMap<UInt32, vip_config> = try directory.map("config")
        var row = try config.value(of: 0) ?? vip_config()
        row.setObjectID(BPFObject.embeddedID)
        try config.set(0, to: row)
    }

    // MARK: The policy

    /// The result of one ``apply(_:)``.
    public struct Changes: Hashable, Sendable {
        public var written = 0
        public var removed = 0
        public var generation: UInt32 = 0
    }

    /// Writes `desired` into the maps. For the hooks, the change happens in one step.
    ///
    /// Everything is written into the bank that is not in force, which no program reads. Then one store of the next
    /// generation puts it in force for all sessions. If a write before that store fails, the old policy stays in force
    /// unchanged, and the next attempt overwrites what was written.
    public func apply(_ desired: DesiredRows) throws(Failure) -> Changes {
        try requireRoom(for: desired)
        var changes = Changes()
        var row = try configuration()
        let bank = Int((row.generation &+ 1) & 1)

        // 1. Facts that the hooks may have early: the depths of sessions and the owners of addresses. Rows are only
        // added; step 4 removes rows.
        row.setLevels(Set(row.levelsInUse).union(desired.levels))
        row.setHostAddresses(desired.hostIPv4, desired.hostIPv6)
        try config.set(0, to: row)
        let liveAddresses = try Dictionary(rowsOf: addresses)
        changes.written += try write(desired.addresses, over: liveAddresses, to: addresses)
        let liveGoverned = try Dictionary(rowsOf: governed)
        changes.written += try write(desired.governed, over: liveGoverned, to: governed)
        let desiredIDs = Dictionary(desired.sessions.map { ($0.id, $0.cgroupID) }) { _, last in last }
        let liveIDs = try Dictionary(rowsOf: ids)
        changes.written += try write(desiredIDs, over: liveIDs, to: ids)

        // 2. The bank that is not in force: policies, program lists, and the policy of each session.
        for number in 0..<Int(VIP_POLICIES_PER_BANK) {
            let policy = number < desired.policies.count ? desired.policies[number] : vip_policy()
            let key = UInt32(bank * Int(VIP_POLICIES_PER_BANK) + number)
            if try policies.value(of: key) != policy {
                try policies.set(key, to: policy)
                changes.written += 1
            }
        }
        let staleNames = try prepare(desired.names, in: names, bank: bank, changes: &changes)
        let staleScripts = try prepare(desired.scripts, in: scripts, bank: bank, changes: &changes)
        let staleFiles = try prepare(desired.files, in: files, bank: bank, changes: &changes)
        let liveSessions = try Dictionary(rowsOf: sessions)
        var sessionRows: [UInt64: vip_session] = [:]
        let namespace = try NetworkNamespace.currentCookie()
        for session in desired.sessions {
            let live = liveSessions[session.cgroupID]
            var value = session.value(in: namespace)
            // An existing session keeps its policy in the bank that is still in force.
            if let live, live.id == session.id {
                value[policyInBank: 1 - bank] = live[policyInBank: 1 - bank]
                value.netns = live.netns
            }
            sessionRows[session.cgroupID] = value
        }
        changes.written += try write(sessionRows, over: liveSessions, to: sessions)

        // 3. The switch. Cached verdicts have the previous generation, so they are no longer used.
        row.generation &+= 1
        row.flags = desired.configFlags
        row.netns = namespace
        row.loopbackPrefix = desired.loopbackPrefix
        try config.set(0, to: row)
        changes.generation = row.generation
        // The other bank may be written again only once all programs that read it have returned.
        ProgramsInFlight.wait()

        // 4. Remove the rows that are no longer needed.
        changes.removed += try remove(liveSessions.keys.filter { sessionRows[$0] == nil }, from: sessions)
        changes.removed += try remove(liveIDs.keys.filter { desiredIDs[$0] == nil }, from: ids)
        changes.removed += try remove(liveAddresses.keys.filter { desired.addresses[$0] == nil }, from: addresses)
        changes.removed += try remove(liveGoverned.keys.filter { desired.governed[$0] == nil }, from: governed)
        changes.removed += try remove(staleNames, from: names)
        changes.removed += try remove(staleScripts, from: scripts)
        changes.removed += try remove(staleFiles, from: files)
        try configure { $0.setLevels(Set(desired.levels)) }
        return changes
    }

    /// Throws if the lists have no room. ``apply(_:)`` calls it first.
    public func requireRoom(for desired: DesiredRows) throws(Failure) {
        try requireRoom(for: desired.names, in: names)
        try requireRoom(for: desired.scripts, in: scripts)
        try requireRoom(for: desired.files, in: files)
    }

    /// Throws if a list has no room: for a moment, it contains the rows of the policy in force and of the next one.
    private func requireRoom<Key: MapRow & BitwiseCopyable>(
        for desired: [Key: ListMasks], in map: borrowing BPFMap<Key, vip_listing>
    ) throws(Failure) {
        let others = try map.rows().count { desired[$0.key] == nil }
        guard desired.count + others > map.maxEntries else { return }
        throw Failure(
            .failed, "apply the policy",
            "its \(desired.count) programs and the \(others) others in force do not fit map \(map.name) of \(map.maxEntries) rows",
            hint: others == 0 ? "list fewer programs, or '*'" : "list fewer programs, or change the lists in two steps")
    }

    /// Writes one bank of a program list. Returns the rows that no list of the new policy needs.
    private func prepare<Key: MapRow & BitwiseCopyable>(
        _ desired: [Key: ListMasks], in map: borrowing BPFMap<Key, vip_listing>, bank: Int, changes: inout Changes
    ) throws(Failure) -> [Key] {
        let live = try Dictionary(rowsOf: map)
        var rows: [Key: vip_listing] = [:]
        for key in Set(live.keys).union(desired.keys) {
            var value = live[key] ?? vip_listing()
            value[bank: bank] = desired[key] ?? ListMasks()
            rows[key] = value
        }
        changes.written += try write(rows, over: live, to: map)
        return live.keys.filter { desired[$0] == nil }
    }

    private func write<Key: Hashable & BitwiseCopyable & Sendable, Value: Equatable & BitwiseCopyable & Sendable>(
        _ desired: [Key: Value], over live: [Key: Value], to map: borrowing BPFMap<Key, Value>
    ) throws(Failure) -> Int {
        let rows = desired.filter { live[$0.key] != $0.value }.map { (key: $0.key, value: $0.value) }
        try map.set(rows)
        return rows.count
    }

    private func remove<Key: BitwiseCopyable & Sendable, Value: BitwiseCopyable & Sendable>(
        _ keys: [Key], from map: borrowing BPFMap<Key, Value>
    ) throws(Failure) -> Int {
        try map.remove(keys)
        return keys.count
    }

    // MARK: Sessions

    /// Adds sessions. The row that makes a cgroup a session is written last.
    ///
    /// - Parameters:
    ///   - levels: the depths of the cgroups of all sessions, including these.
    ///   - hostAddresses: the host's own addresses, which are updated as well. Addresses that the host no longer has
    ///     stay in the `addresses` map until the next ``apply(_:)``; the kernel itself refuses a bind to them.
    public func open(
        _ opened: [SessionRow], levels: [UInt32], hostAddresses: [IPAddress], broadcasts: [IPAddress]
    ) throws(Failure) {
        let namespace = try NetworkNamespace.currentCookie()
        try configure { row in
            row.setLevels(Set(levels))
            row.setHostAddresses(hostAddresses.compactMap(\.hostIPv4), hostAddresses.filter(\.isHostIPv6))
            row.netns = namespace
        }
        try addresses.set(
            DesiredRows.owners(of: hostAddresses, broadcasts: broadcasts, sessions: opened).map {
                (key: $0.key, value: $0.value)
            })
        try ids.set(opened.map { (key: $0.id, value: $0.cgroupID) })
        try sessions.set(opened.map { (key: $0.cgroupID, value: $0.value(in: namespace)) })
    }

    /// Gives an open session another address: first the address's owner, last the session's row, which is written
    /// whole.
    public func give(_ address: IPAddress, to session: SessionRow) throws(Failure) {
        try addresses.set(
            DesiredRows.owners(of: [], sessions: [session]).filter { $0.key == vip_address(address) }
                .map { (key: $0.key, value: $0.value) })
        var namespace = try NetworkNamespace.currentCookie()
        if let live = try sessions.value(of: session.cgroupID) { namespace = live.netns }
        try sessions.set(session.cgroupID, to: session.value(in: namespace))
    }

    /// Takes an address from an open session, in the reverse order. Missing rows are no error. The rest of the
    /// session's row stays, so its policy need not be known.
    public func take(_ address: IPAddress, from cgroupID: UInt64) throws(Failure) {
        if var row = try sessions.value(of: cgroupID) {
            let nothing = vip_session()
            switch address.family {
            case .v4: row.vip4 = nothing.vip4
            case .v6: row.vip6 = nothing.vip6
            }
            try sessions.set(cgroupID, to: row)
        }
        try addresses.remove([vip_address(address)])
    }

    /// Updates the host's own addresses in the maps; rows of sessions do not change.
    ///
    /// - Parameters:
    ///   - hostAddresses: the addresses that are not a session's.
    ///   - virtualIPs: the addresses that are. If one of these is also a broadcast address of the host, it stays the
    ///     session's.
    /// - Returns: whether anything changed.
    public func refreshHost(
        _ hostAddresses: [IPAddress], broadcasts: [IPAddress], virtualIPs: Set<IPAddress>
    ) throws(Failure) -> Bool {
        let before = try configuration()
        try configure { $0.setHostAddresses(hostAddresses.compactMap(\.hostIPv4), hostAddresses.filter(\.isHostIPv6)) }
        let live = try Dictionary(rowsOf: addresses)
        let sessions = Set(virtualIPs.map { vip_address($0) })
        let desired = DesiredRows.owners(of: hostAddresses, broadcasts: broadcasts, sessions: [])
            .filter { !sessions.contains($0.key) }
        let written = try write(desired, over: live, to: addresses)
        let stale = live.filter {
            $0.value.owner != VIP_OWNER_SESSION.rawValue && desired[$0.key] == nil && !sessions.contains($0.key)
        }
        let removed = try remove(Array(stale.keys), from: addresses)
        let after = try configuration()
        return written + removed > 0 || after != before
    }

    /// Whether these are exactly the files of listed programs in the policy in force.
    public func knowsExactly(_ programs: Set<vip_program_file>) throws(Failure) -> Bool {
        let bank = try configuration().bank
        let known = try files.rows().filter { $0.value[bank: bank] != ListMasks() }.map(\.key)
        return Set(known) == programs
    }

    /// Sets the prefix of the IPv6 loopbacks; `nil` for none.
    public func setLoopbackPrefix(_ prefix: LoopbackPrefix?) throws(Failure) {
        try configure { $0.loopbackPrefix = prefix }
    }

    /// Sets the attached cgroups, below which sessions are made.
    public func setAttached(_ cgroups: [Cgroup]) throws(Failure) {
        let namespace = try NetworkNamespace.currentCookie()
        try configure { row in
            row.netns = namespace
            row.setAttached(cgroups)
        }
    }

    /// Changes the configuration, and writes it only if it differs.
    private func configure(_ change: (inout vip_config) -> Void) throws(Failure) {
        let before = try configuration()
        var row = before
        change(&row)
        if row != before { try config.set(0, to: row) }
    }

    /// Removes sessions, in the reverse order. Missing rows are no error.
    public func close(_ closed: [SessionRow], remainingLevels: [UInt32]) throws(Failure) {
        try sessions.remove(closed.map(\.cgroupID))
        try ids.remove(closed.map(\.id))
        try addresses.remove(closed.flatMap(\.virtualIPs).map { vip_address($0) })
        try listenerCounts.remove(closed.map(\.cgroupID))
        try configure { $0.setLevels(Set(remainingLevels)) }
    }
}

extension vip_config {
    /// The bank in force: the lowest bit of the generation.
    public var bank: Int { Int(generation & 1) }

    /// The depths in use, ascending.
    public var levelsInUse: [UInt32] {
        withUnsafeBytes(of: levels) { bytes in
            bytes.bindMemory(to: UInt32.self).prefix(Int(level_count)).filter { $0 != VIP_LEVEL_NONE }.sorted()
        }
    }

    public var objectID: [UInt8] { withUnsafeBytes(of: object_id) { Array($0) } }

    /// The attached cgroups, each with its depth.
    public var attachedCgroups: [vip_attached] {
        withUnsafeBytes(of: attached) { Array($0.bindMemory(to: vip_attached.self).prefix(Int(attached_count))) }
    }

    /// At most ``attachedLimit`` of them.
    mutating func setAttached(_ cgroups: [Cgroup]) {
        withUnsafeMutableBytes(of: &attached) { bytes in
            let rows = bytes.bindMemory(to: vip_attached.self)
            for index in rows.indices {
                rows[index] = vip_attached()
                if index < cgroups.count {
                    rows[index] = vip_attached(
                        cgroup: cgroups[index].id, level: UInt32(cgroups[index].level), reserved: 0)
                }
            }
        }
        attached_count = UInt32(min(cgroups.count, Self.attachedLimit))
    }

    /// How many attached cgroups the configuration holds.
    public static var attachedLimit: Int { Int(VIP_ATTACHED_MAX) }

    /// Sets which depths are in use. A depth that stays keeps its slot, so that a hook that reads the slots at the same
    /// time does not miss it. A new depth takes a free slot; if there is none, remove unneeded depths first.
    mutating func setLevels(_ wanted: Set<UInt32>) {
        var count = Int(level_count)
        withUnsafeMutableBytes(of: &levels) { bytes in
            let slots = bytes.bindMemory(to: UInt32.self)
            for index in slots.indices where index >= count || !wanted.contains(slots[index]) {
                slots[index] = VIP_LEVEL_NONE
            }
            for level in wanted.subtracting(slots).sorted() {
                guard let free = slots.firstIndex(of: VIP_LEVEL_NONE) else { break }  // see checked(_:)
                slots[free] = level
            }
            count = (slots.lastIndex { $0 != VIP_LEVEL_NONE } ?? -1) + 1
        }
        level_count = UInt32(count)
    }

    /// Sets the host's addresses: IPv4 as numbers in host byte order, and IPv6. If more than fit, that family is left
    /// to the `addresses` map.
    mutating func setHostAddresses(_ addresses: [UInt32], _ addresses6: [IPAddress] = []) {
        let addresses6 = Set(addresses6).sorted()
        let fits6 = addresses6.count <= Int(VIP_HOST_ADDRESSES_MAX)
        withUnsafeMutableBytes(of: &host6) { bytes in
            let rows = bytes.bindMemory(to: vip_address.self)
            for index in rows.indices {
                rows[index] = fits6 && index < addresses6.count ? vip_address(addresses6[index]) : vip_address()
            }
        }
        host6_count = fits6 ? UInt32(addresses6.count) : UInt32.max
        let addresses = Set(addresses).sorted()
        let fits = addresses.count <= Int(VIP_HOST_ADDRESSES_MAX)
        withUnsafeMutableBytes(of: &host4) { bytes in
            let words = bytes.bindMemory(to: UInt32.self)
            for index in words.indices {
                words[index] = fits && index < addresses.count ? addresses[index].bigEndian : 0
            }
        }
        host4_count = fits ? UInt32(addresses.count) : UInt32.max
    }

    /// The IPv6 addresses of ``setHostAddresses(_:_:)``; `nil` if they did not fit.
    public var hostIPv6Addresses: [IPAddress]? {
        guard host6_count <= UInt32(VIP_HOST_ADDRESSES_MAX) else { return nil }
        return withUnsafeBytes(of: host6) { bytes in
            bytes.bindMemory(to: vip_address.self).prefix(Int(host6_count)).map(\.address)
        }
    }

    /// The prefix of the IPv6 loopbacks, as a /96; `nil` if there is none.
    public var loopbackPrefix: LoopbackPrefix? {
        get { LoopbackPrefix(first96Bits: withUnsafeBytes(of: loopback6) { Array($0) }) }
        set {
            let bytes = newValue?.network.bytes ?? []
            loopback6 = (0, 0, 0)
            withUnsafeMutableBytes(of: &loopback6) { $0.copyBytes(from: bytes.prefix($0.count)) }
        }
    }

    /// The IPv4 addresses of ``setHostAddresses(_:_:)``; `nil` if they did not fit.
    public var hostAddresses: [IPAddress]? {
        guard host4_count <= UInt32(VIP_HOST_ADDRESSES_MAX) else { return nil }
        return withUnsafeBytes(of: host4) { bytes in
            bytes.bindMemory(to: UInt32.self).prefix(Int(host4_count)).map { IPAddress(v4: UInt32(bigEndian: $0)) }
        }
    }

    mutating func setObjectID(_ id: [UInt8]) {
        withUnsafeMutableBytes(of: &object_id) { $0.copyBytes(from: id.prefix($0.count)) }
    }
}

extension Dictionary where Key: BitwiseCopyable & Sendable, Value: BitwiseCopyable & Sendable {
    /// Every row of a map.
    init(rowsOf map: borrowing BPFMap<Key, Value>) throws(Failure) {
        self.init(try map.rows().map { ($0.key, $0.value) }) { _, last in last }
    }
}

extension SessionRow {
    /// The session's row of the map `sessions`, with its policy in both banks.
    ///
    /// - Parameter namespace: The cookie of its network namespace.
    fileprivate func value(in namespace: UInt64) -> vip_session {
        let number = UInt8(policyNumber)
        return vip_session(
            id: id, vip4: virtualIPv4, vip6: virtualIPv6, policies: (number, number), namespace: namespace)
    }
}
