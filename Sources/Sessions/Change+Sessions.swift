// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
public import Host
public import Network
import Policy
import PolicyMaps
import SystemPackage

/// A session to be opened.
public struct SessionRequest: Sendable {
    public var cgroup: Cgroup
    /// The ID; `nil` for the lowest free one.
    public var id: UInt32?
    /// Whether another ID is given if a program has a socket on the loopback of ``id``.
    public var prefersID = false
    /// Whether ``id`` may be a reserved one (but never 0 or one above the last).
    public var allowReserved = false
    /// The addresses, at most one of each family. For a family without one, if virtual IP is on, one is taken from the
    /// pool.
    public var addresses: [IPAddress] = []
    public var user: String?
    /// The name of the override to use, whatever its match rules are.
    public var policy: String?
    /// Whether the cgroup was created for the session and is removed with it.
    public var createdCgroup = false
    /// Whether it is opened even if the pool has no free address; `whenUnavailable` then applies to it.
    public var opensWithoutAddress = false
    /// Whether it is opened without an address of the pool, and gets one later (``Change/give(_:to:)``).
    public var getsAddressLater = false
    public var keeper: SessionRecord.Keeper = .command
    public var keeperProcess: ProcessIdentity?
    /// Addresses that the pool gave it before other hosts were asked. It gets these if they are still free.
    var picked: [IPAddress] = []
    /// Whether no more addresses are tried, because too many were in use by other hosts.
    var isOutOfAddresses = false

    public init(cgroup: Cgroup) {
        self.cgroup = cgroup
    }
}

extension Change {
    /// Opens all sessions, or none.
    ///
    /// The order is registry (opening), interface, maps, registry (open). So a session's row is in the map only once
    /// its address can be bound. Sockets of other programs on the addresses are looked for before that, and again when
    /// the rows are in the maps, which keep the programs of other sessions off.
    ///
    /// - Returns: the records, in the order of the requests.
    public mutating func open(_ requests: [SessionRequest]) throws(Failure) -> [SessionRecord] {
        var rounds = 3
        while true {
            rounds -= 1
            do throws(Failure) {
                return try openOnce(requests)
            } catch {
                guard error.code == .occupied, rounds > 0 else { throw error }
            }
        }
    }

    private mutating func openOnce(_ requests: [SessionRequest]) throws(Failure) -> [SessionRecord] {
        guard !requests.isEmpty else { return [] }
        let maps = try PolicyMapSet(pins)
        let policy = try instance.policy(registry)
        let placed = try hostAddresses()
        let before = (warnings, unaddressed, awaitingLease)
        var records: [SessionRecord]
        do throws(Failure) {
            records = try planFree(requests, policy: policy, placed: placed)
        } catch {
            // The conflict may be with a session whose cgroup was removed.
            guard error.code == .failed, try closeGone() else { throw error }
            (warnings, unaddressed, awaitingLease) = before
            records = try planFree(requests, policy: policy, placed: hostAddresses())
        }
        let newRows = try rows(of: records, under: policy)
        let owners = try registry.usedAddresses()
        let levels = try DesiredRows.checked(Set(registry.levels(bootID: bootID)).union(newRows.map(\.level)))

        try pins.repairNetwork()
        try repairPrefixes(under: policy)
        try registry.set(.network, to: settings.network())
        try registry.open(records)
        var added: Set<IPAddress> = []
        var hasLoopbacks = false
        do throws(Failure) {
            try place(records, added: &added)
            hasLoopbacks = true
            addLoopbacks(of: records, under: policy)
            try maps.open(
                newRows, levels: levels,
                hostAddresses: Self.hosts(own: placed, under: policy).filter { owners[$0] == nil },
                broadcasts: placed.flatMap(\.networkAndBroadcast))
            try requireFree(records, requests)
            try registry.markOpen(records.map(\.id))
        } catch {
            if error.code == .occupied { (warnings, unaddressed, awaitingLease) = before }
            // Undo only what this call placed. Removing other addresses would fail for the same reason, a missing
            // privilege.
            for record in records.indices {
                for address in records[record].addresses.indices {
                    let isOurs = added.contains(records[record].addresses[address].address)
                    records[record].addresses[address].placed = isOurs
                }
            }
            // For the next round, `open` needs the cgroups. After the last one, whoever made them removes them.
            if error.code == .occupied { for record in records.indices { records[record].createdCgroup = false } }
            undo(records, hasLoopbacks: hasLoopbacks)
            throw error
        }
        for index in records.indices { records[index].state = .open }
        warnOfWaysOut(records)
        return records
    }

    /// One warning for each cgroup through which processes can leave these sessions.
    private mutating func warnOfWaysOut(_ records: [SessionRecord]) {
        var sessions: [Cgroup.WayOut: [UInt32]] = [:]
        for record in records {
            for way in record.cgroup.waysOut() { sessions[way, default: []].append(record.id) }
        }
        for (way, ids) in sessions.sorted(by: { $0.key.file.string < $1.key.file.string }) {
            warnings.append("\(way.message(sessions: ids)); \(way.remedy)")
        }
    }

    /// Closes a session. Its programs are no longer rewritten, the sockets on its addresses are destroyed, and the
    /// addresses are removed from the interface.
    ///
    /// - Parameters:
    ///   - ending: why, for the history.
    ///   - keepSockets: whether the sockets are left as they are.
    /// - Returns: its last record, and how many sockets were destroyed.
    @discardableResult
    public func close(
        _ id: UInt32, because ending: SessionEnding = .closed, keepSockets: Bool = false
    ) throws(Failure) -> ClosedSession {
        guard let record = try registry.session(id: id) else {
            throw Failure(
                .failed, "close session \(id)", "there is no such session", hint: "see vip-bpfctl session list")
        }
        // Maps of another layout are an error before anything is changed.
        if pins.isLoaded { _ = try PolicyMapSet(pins) }
        let counts = try tearDown([(record, ending)], keepSockets: keepSockets)
        return ClosedSession(record: record, destroyedSockets: counts[id])
    }

    /// Undoes a failed opening. If the registry cannot be written (a full disk), the sessions stay in it as `opening`,
    /// and the next change repairs that.
    private func undo(_ records: [SessionRecord], hasLoopbacks: Bool) {
        let ids = records.map(\.id)
        try? registry.beginClose(ids)
        if pins.isLoaded, let maps = try? PolicyMapSet(pins),
            let levels = try? registry.levels(bootID: bootID, without: ids)
        {
            try? maps.close(records.map(Self.bareRow), remainingLevels: levels)
        }
        do throws(Failure) { try withdraw(records, hasLoopbacks: hasLoopbacks) } catch { return }
        try? registry.remove(ids.map { ($0, .notOpened) }, at: .now(bootID: bootID))
    }

    /// Removes sessions from maps, interfaces and registry: the reverse order of opening. Missing parts are no error.
    /// Between maps and interfaces, the sockets on their addresses are destroyed.
    ///
    /// - Returns: the number of destroyed sockets by session ID.
    @discardableResult
    func tearDown(
        _ ended: [(record: SessionRecord, ending: SessionEnding)], keepSockets: Bool = false
    ) throws(Failure) -> [UInt32: Int] {
        let records = ended.map(\.record)
        let ids = records.map(\.id)
        try registry.beginClose(ids)
        if pins.isLoaded {
            let maps = try PolicyMapSet(pins)
            try maps.close(records.map(Self.bareRow), remainingLevels: registry.levels(bootID: bootID, without: ids))
        }
        let destroyed = keepSockets ? [:] : destroySockets(of: records)
        try withdraw(records)
        try registry.remove(ended.map { ($0.record.id, $0.ending) }, at: .now(bootID: bootID))
        if try settings.hasRoutes() {
            try settings.settleRoutes(pins.attachments().isEmpty ? nil : instance.policy(registry))
        }
        return destroyed
    }

    /// Removes the records' addresses and loopbacks from their interfaces, and the cgroups that were created for them.
    func withdraw(_ records: [SessionRecord], hasLoopbacks: Bool = true) throws(Failure) {
        for (place, addresses) in Self.byPlace(records.flatMap(\.addresses)) {
            for result in try netlink.remove(addresses, at: place) { _ = try result.get() }
        }
        if hasLoopbacks { try settings.removeLoopbacks(of: records) }
        for record in records where record.createdCgroup {
            // If programs are still in it, it stays. Without a session, that does no harm.
            if record.isCgroupThere, let cgroup = try? Cgroup(path: record.cgroupPath) { try? cgroup.remove() }
        }
    }

    /// The placed ones of these addresses, by place, in the order of the interfaces' names.
    static func byPlace(_ addresses: [SessionRecord.Address]) -> [(place: AddressPlace, addresses: [IPAddress])] {
        Dictionary(grouping: addresses.filter(\.placed), by: \.place)
            .map { ($0, $1.map(\.address)) }
            .sorted { ($0.0.interface, $0.0.form == .route ? 1 : 0) < ($1.0.interface, $1.0.form == .route ? 1 : 0) }
    }

    /// Puts the IPv6 loopbacks of sessions on lo. Without one, the session has everything else: that is a warning.
    private mutating func addLoopbacks(of records: [SessionRecord], under policy: Policy) {
        do throws(Failure) {
            guard policy.placesLoopbacks, let prefix = try registry.loopbackPrefix() else { return }
            try settings.addLoopbacks(of: records, prefix)
        } catch {
            warnings.append("sessions have no IPv6 loopback: \(error)")
        }
    }

    /// A row that suffices for removing a session from the maps, without its policy.
    static func bareRow(_ record: SessionRecord) -> SessionRow {
        SessionRow(
            id: record.id, cgroupID: record.cgroupID, level: record.cgroupLevel,
            virtualIPs: record.addresses.map(\.address))
    }

    /// Puts the records' addresses on their interfaces. `added` has those that were added, also if it throws.
    func place(_ records: [SessionRecord], added: inout Set<IPAddress>) throws(Failure) {
        for (place, addresses) in Self.byPlace(records.flatMap(\.addresses)) {
            var failure: Failure?
            for (address, result) in zip(addresses, try netlink.add(addresses, at: place)) {
                switch result {
                case .success(.added): added.insert(address)
                case .success(.alreadyThere):
                    failure =
                        failure
                        ?? Failure(
                            .failed, "place \(address) on \(place.interface)",
                            "another program has placed it in the meantime",
                            hint: "try again, or give another address")
                case .failure(let first): failure = failure ?? first
                }
            }
            if let failure { throw failure }
        }
    }

    // MARK: Planning

    /// Checks every request and chooses what it leaves open. Nothing is written.
    mutating func plan(
        _ requests: [SessionRequest], policy: Policy, placed: [PlacedAddress]
    ) throws(Failure) -> [SessionRecord] {
        let attached = try attachedCgroups()
        // For one session, read only the sessions that its cgroup may conflict with; for several, all of them.
        var claims = try registry.cgroupClaims(
            bootID: bootID, around: requests.count == 1 ? requests[0].cgroup.path : nil)
        let takenIDs = try registry.usedIDs()
        let loopbackPrefix = try registry.loopbackPrefix()
        let occupiedIDs = Set(occupied.compactMap { SessionIDs.id(ofLoopback: $0, loopbackPrefix) })
        var freeIDs = FreeSessionIDs(
            taken: takenIDs.union(occupiedIDs), hostAddresses: policy.virtualLoopback.hostAddresses ?? [])
        for id in requests.compactMap(\.id) { freeIDs.take(id) }
        var askedIDs: Set<UInt32> = []
        let now = Moment.now(bootID: bootID)
        var free = try FreeAddresses(registry, placed, now, occupied: occupied)
        var interfaces: [IPAddress.Family: [Int: String]] = [:]
        var groups: [String: [String]] = [:]

        var records: [SessionRecord] = []
        records.reserveCapacity(requests.count)
        for request in requests {
            let id: UInt32
            if let asked = request.id, !(request.prefersID && occupiedIDs.contains(asked)) {
                try SessionIDs.check(
                    asked, allowReserved: request.allowReserved, hostAddresses: policy.virtualLoopback.hostAddresses)
                guard !takenIDs.contains(asked), askedIDs.insert(asked).inserted else {
                    throw Failure(
                        .failed, "open session \(asked)", "the ID is taken",
                        hint: "leave --id out, or close session \(asked)")
                }
                id = asked
            } else {
                id = try freeIDs.next()
            }
            let what = "open session \(id) on \(request.cgroup.path)"
            guard request.cgroup.isSame else { throw Failure(.failed, what, "the cgroup no longer exists") }
            guard attached.contains(where: { $0.relation(to: request.cgroup) == .same || $0.contains(request.cgroup) })
            else {
                throw Failure(
                    .failed, what, "neither it nor a cgroup above it is attached",
                    hint: "attach one first: vip-bpfctl attach cgroup PATH")
            }
            try claims.claim(request.cgroup.path, session: id)
            if let name = request.policy, policy.override(named: name) == nil {
                throw Failure(
                    .failed, what, "the policy in force has no override named \(name)",
                    hint: "see vip-bpfctl policy show")
            }

            var record = SessionRecord(
                id: id, cgroup: request.cgroup, user: request.user, policy: request.policy, bootID: bootID,
                openedAt: now.date, createdCgroup: request.createdCgroup, keeper: request.keeper,
                keeperProcess: request.keeperProcess)
            let number = try policyNumber(of: record, under: policy, groups: &groups)
            let virtualIP = policy.rules(number: number).virtualIP

            var chosen: [(address: IPAddress, fromPool: Bool)] = []
            for address in request.addresses {
                if let other = chosen.first(where: { $0.address.family == address.family }) {
                    throw Failure(
                        .usage, what, "\(other.address) and \(address) are both \(address.family.rawValue)",
                        hint: "give one address of each family at most")
                }
                chosen.append((address, false))
            }
            if virtualIP.enabled {
                try free.usePool(number, of: policy)
                for family in IPAddress.Family.allCases
                where !request.getsAddressLater && free.hasPool(number, family)
                    && !chosen.contains(where: { $0.address.family == family })
                {
                    if let known = request.picked.first(where: { $0.family == family }),
                        free.canPick(known, from: number, for: request.user)
                    {
                        chosen.append((known, true))
                        continue
                    }
                    do throws(Failure) {
                        guard !request.isOutOfAddresses else {
                            throw Failure(
                                .failed, "pick an \(family.rawValue) address",
                                "other hosts have all the addresses that were tried",
                                hint: "see the warnings; take their addresses out of virtualIP.addresses.pool")
                        }
                        let pick = try free.pick(family, from: number, for: request.user)
                        if let warning = pick.warning { warnings.append("session \(id): \(warning)") }
                        chosen.append((pick.address, true))
                    } catch {
                        guard request.opensWithoutAddress else { throw error }
                        unaddressed.append((id, error))
                    }
                }
            }
            if virtualIP.enabled, virtualIP.addresses.source.isLeased {
                if !chosen.contains(where: { $0.address.family == .v4 }) { try awaitLease(id, request, what) }
            } else if virtualIP.enabled, !chosen.contains(where: { $0.address.family == .v4 }),
                !free.hasPool(number, .v4)
            {
                let kind = chosen.isEmpty ? "virtual IP" : "IPv4 virtual IP"
                warnings.append(
                    "session \(id) has no \(kind): the policy's pool has no \(chosen.isEmpty ? "range" : "IPv4 range"), "
                        + "and --ip gave none; whenUnavailable: \(virtualIP.whenUnavailable.rawValue) holds")
            }
            chosen.sort { $0.address < $1.address }
            for choice in chosen {
                let family = choice.address.family
                if interfaces[family]?[number] == nil {
                    interfaces[family, default: [:]][number] = try netlink.interface(for: virtualIP.addresses, family)
                }
                let interface = interfaces[family]?[number] ?? "lo"
                if !choice.fromPool {
                    if let loopbackPrefix, loopbackPrefix.contains(choice.address) {
                        throw Failure(
                            .usage, what, "\(choice.address) is a session's IPv6 loopback, in \(loopbackPrefix)",
                            hint: "give a unicast address of this host's network")
                    }
                    try check(choice.address, what, on: interface, pool: virtualIP.addresses.pool, free)
                }
                free.give(choice.address, to: id)
                record.addresses.append(
                    .init(choice.address, under: virtualIP.addresses, on: interface, fromPool: choice.fromPool))
            }
            records.append(record)
        }
        return records
    }

    /// Throws if a requested address cannot be a session's.
    private func check(
        _ address: IPAddress, _ what: String, on interface: String, pool: [AddressRange], _ free: FreeAddresses
    ) throws(Failure) {
        guard !address.isMapped else {
            throw Failure(
                .usage, what, "\(address) is an IPv4 address in IPv6 form", hint: "write it as an IPv4 address")
        }
        guard !address.isIPv6LinkLocal else {
            throw Failure(
                .usage, what, "\(address) is link-local, and no program could use it without naming the interface",
                hint: "give a global or unique local address")
        }
        guard !address.isLoopback, !address.isMulticast, !address.isUnspecified, address.v4 != UInt32.max else {
            throw Failure(
                .usage, what, "\(address) cannot be a virtual IP", hint: "give a unicast address of this host's network"
            )
        }
        if let network = free.placed.first(where: { $0.subnetRouter == address }) {
            throw Failure(
                .failed, what,
                "\(address) is the subnet-router anycast address of \(network.address)/\(network.prefixLength)",
                hint: "give another address of it")
        }
        if let network = free.placed.first(where: { $0.isNetworkOrBroadcast(address) }) {
            throw Failure(
                .failed, what,
                "\(address) is the network's or the broadcast address of \(network.address)/\(network.prefixLength)",
                hint: "give another address of it")
        }
        if let owner = free.owners[address] {
            throw Failure(
                .failed, what, "\(address) belongs to session \(owner)",
                hint: "give another address, or close session \(owner)")
        }
        if let owner = free.interface(of: address) {
            throw Failure(
                .failed, what, "\(address) is the host's own, on \(owner)", hint: "give an address that nothing has")
        }
        // On lo, all addresses are allowed: they are routed to this host from outside.
        let networks = free.placed.filter { $0.interface == interface && $0.prefixLength < $0.address.family.bits }
        guard
            interface == "lo" || pool.contains(where: { $0.contains(address) })
                || networks.contains(where: { $0.network(contains: address) })
        else {
            let networks = networks.filter { $0.address.family == address.family }
                .map { "\($0.address)/\($0.prefixLength)" }.joined(separator: ", ")
            throw Failure(
                .failed, what,
                "\(address) is neither in the pool nor in a network of \(interface)"
                    + (networks.isEmpty ? "" : " (\(networks))"),
                hint: "give one that is, or add it to virtualIP.addresses.pool")
        }
    }

    /// The cgroups that the programs are attached to and that still exist.
    public func attachedCgroups() throws(Failure) -> [Cgroup] {
        let live = try pins.attachments()
        let mounts = try MountTable.current()
        return try registry.attachments().compactMap { attachment in
            guard live[attachment.cgroupID] != nil, Cgroup.isThere(attachment.path, id: attachment.cgroupID) else {
                return nil
            }
            return try? Cgroup(path: attachment.path, mounts: mounts)
        }
    }
}
