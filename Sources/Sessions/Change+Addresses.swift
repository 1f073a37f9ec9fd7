// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Glibc
public import Host
import Logging
public import Network
public import Policy
import PolicyMaps
import SystemPackage

// Addresses that are given and taken while their session stays open: by leases, and when the pool has a free one again.

/// An open session whose IPv4 address is leased, or should be.
public struct LeaseWish: Sendable, Hashable {
    public let record: SessionRecord
    /// The interface on which to ask a server; `nil` if the policy names none and there is no default route.
    public let interface: String?
    /// The form in which a leased address is placed.
    public let form: AddressPlace.Form
    /// The leased address that it has.
    public var leased: SessionRecord.Address? { record.addresses.first { $0.leaseSlot != nil } }
}

/// Addresses that open sessions lack, or have only by a lease.
public struct AddressWishes: Sendable {
    public var leases: [LeaseWish] = []
    /// Free addresses of the pool, for sessions that were opened when the pool had none, or before there was a pool.
    public var picked: [KeptAddress] = []
    /// Sessions for which the pool has no free address, and why.
    public var unavailable: [(record: SessionRecord, family: IPAddress.Family, failure: Failure)] = []
}

extension Instance {
    /// The addresses that open sessions should have by the policy in force, and lack. It takes no lock, so a picked
    /// address may be in use by the time that it is given.
    ///
    /// - Parameter records: sessions of this boot.
    public func wishes(
        _ records: [SessionRecord], under policy: Policy, _ registry: Registry, _ netlink: Netlink
    ) throws(Failure) -> AddressWishes {
        var wishes = AddressWishes()
        var groups: [String: [String]] = [:]  // looked up once for each user
        var interfaces: [Int: String?] = [:]
        var free: FreeAddresses?
        for record in records {
            // A session keeps its lease until it is closed, whatever the policy is.
            if let leased = record.addresses.first(where: { $0.leaseSlot != nil }) {
                wishes.leases.append(LeaseWish(record: record, interface: leased.interface, form: leased.form))
            }
            guard record.state == .open else { continue }
            let missing = IPAddress.Family.allCases.filter { family in
                !record.addresses.contains { $0.address.family == family }
            }
            guard !missing.isEmpty else { continue }
            let number: Int
            do throws(Failure) {
                number = try Self.policyNumber(of: record, under: policy, groups: &groups)
            } catch {
                // The user's groups could not be looked up. Go on with the other sessions.
                wishes.unavailable.append((record, missing[0], error))
                continue
            }
            let virtualIP = policy.rules(number: number).virtualIP
            guard virtualIP.enabled else { continue }
            if virtualIP.addresses.source.isLeased, missing.contains(.v4) {
                let interface: String?
                if let known = interfaces[number] {
                    interface = known
                } else {
                    let found = try netlink.interface(for: virtualIP.addresses, .v4)
                    interface = found == "lo" ? nil : found
                    interfaces[number] = interface
                }
                wishes.leases.append(
                    LeaseWish(record: record, interface: interface, form: virtualIP.addresses.form(.v4)))
            }
            guard !virtualIP.addresses.pool.isEmpty else { continue }
            if free == nil {
                free = try FreeAddresses(registry, netlink.hostAddresses(), .now(bootID: record.bootID))
            }
            guard var known = free.take() else { continue }
            defer { free = known }
            try known.usePool(number, of: policy)
            for family in missing where known.hasPool(number, family) {
                let address: IPAddress
                do throws(Failure) {
                    address = try known.pick(family, from: number, for: record.user).address
                } catch {
                    wishes.unavailable.append((record, family, error))
                    continue
                }
                known.give(address, to: record.id)
                let interface = try netlink.interface(for: virtualIP.addresses, family)
                wishes.picked.append(
                    KeptAddress(
                        record: record,
                        address: .init(address, under: virtualIP.addresses, on: interface, fromPool: true)))
            }
        }
        return wishes
    }

    /// Whether a session has no IPv4 address yet and the running daemon will give it one: by a lease, or from the pool
    /// once other hosts were asked.
    public func awaitsAddress(_ record: SessionRecord) throws(Failure) -> Bool {
        guard state.hasDaemon, !record.addresses.contains(where: { $0.address.family == .v4 }) else { return false }
        var groups: [String: [String]] = [:]
        let policy = try self.policy(registry())
        let number = try Self.policyNumber(of: record, under: policy, groups: &groups)
        let virtualIP = policy.rules(number: number).virtualIP
        guard virtualIP.enabled else { return false }
        if virtualIP.addresses.source.isLeased { return true }
        // The daemon first asks other hosts, which takes only a short time. After that, a session without an address
        // gets none.
        let age = Date().timeIntervalSince(record.openedAt)
        return !virtualIP.addresses.pool.isEmpty && (0...Double(policy.probeSeconds + 2)).contains(age)
    }

    /// The number of open sessions without an IPv4 address to which the policy gives one.
    public func withoutAddress(_ records: [SessionRecord], under policy: Policy) throws(Failure) -> Int {
        var groups: [String: [String]] = [:]
        var count = 0
        for record in records
        where record.state == .open && !record.addresses.contains(where: { $0.address.family == .v4 }) {
            // Leave out a user whose groups cannot be looked up, so that the other figures are not lost.
            guard let number = try? Self.policyNumber(of: record, under: policy, groups: &groups) else { continue }
            let virtualIP = policy.rules(number: number).virtualIP
            if virtualIP.enabled { count += 1 }
        }
        return count
    }

    /// Waits until the daemon has given a session an address.
    ///
    /// - Parameters:
    ///   - record: the session before the wait.
    ///   - patience: the longest time to wait.
    /// - Returns: the session after the wait; `nil` if it was closed.
    public func awaitAddress(of record: SessionRecord, within patience: Duration) throws(Failure) -> SessionRecord? {
        // Each change writes the lock file, and closes it at its end.
        let raw = inotify_init1(CInt(IN_CLOEXEC | IN_NONBLOCK))
        guard raw >= 0 else {
            throw Failure("wait for an address", errno: .current, hint: "raise fs.inotify.max_user_instances")
        }
        let watch = Descriptor(owning: raw)
        let mask = UInt32(IN_CLOSE_WRITE) | UInt32(IN_ONLYDIR)
        guard state.path.withPlatformString({ inotify_add_watch(watch.raw, $0, mask) }) >= 0 else {
            throw Failure("watch \(state.path)", errno: .current, hint: "raise fs.inotify.max_user_watches")
        }
        let deadline = ContinuousClock.now + patience
        while true {
            guard let now = try registry().session(id: record.id), now.cgroupID == record.cgroupID,
                now.bootID == record.bootID
            else { return nil }
            let left = ContinuousClock.now.duration(to: deadline)
            if now.addresses.count > record.addresses.count || left <= .zero { return now }
            var ready = pollfd(fd: watch.raw, events: Int16(POLLIN), revents: 0)
            _ = poll(&ready, 1, left.pollTimeout)
            var events = [UInt8](repeating: 0, count: 4096)
            while read(watch.raw, &events, events.count) > 0 {}
        }
    }
}

extension Policy.Addresses {
    /// Whether IPv4 addresses are placed by a route each.
    public var placesRoutes: Bool { placement ?? Self.defaultPlacement != .address }

    /// The form in which an address of a family is placed, if no prefix's route makes it local.
    func form(_ family: IPAddress.Family) -> AddressPlace.Form { family == .v4 && placesRoutes ? .route : .address }
}

extension SessionRecord.Address {
    /// An address that these rules place.
    ///
    /// - Parameter interface: that of the rules for its family.
    init(_ address: IPAddress, under rules: Policy.Addresses, on interface: String, fromPool: Bool) {
        if rules.placement == .prefix, rules.pool.contains(where: { $0.contains(address) }) {
            self.init(
                address, interface: address.family == .v6 ? "lo" : interface, placed: false, fromPool: fromPool)
        } else {
            self.init(
                address, interface: interface, form: rules.form(address.family), placed: true, fromPool: fromPool)
        }
    }
}

extension Netlink {
    /// The interface for virtual IPs of a family: the first that exists of the policy's, that of the family's default
    /// route, for IPv6 that of IPv4's default route, and `lo`.
    func interface(for addresses: Policy.Addresses, _ family: IPAddress.Family) throws(Failure) -> String {
        if let named = addresses.interface { return named }
        if let own = try defaultRouteInterface(family) { return own }
        guard family == .v6 else { return "lo" }
        return try defaultRouteInterface(.v4) ?? "lo"
    }
}

extension Change {
    /// Gives an open session another address, in the order of opening: registry, interface, map. If it fails, the
    /// session stays as it was.
    ///
    /// - Parameter record: the session as the caller knows it; it may have ended.
    /// - Returns: the session with the address; `nil` if it is no longer open, or already has an address of the family.
    public mutating func give(
        _ address: SessionRecord.Address, to record: SessionRecord
    ) throws(Failure) -> SessionRecord? {
        guard let before = try current(record),
            !before.addresses.contains(where: { $0.address.family == address.address.family })
        else { return nil }
        let what = "give \(address.address) to session \(record.id)"
        let maps = try PolicyMapSet(pins)
        let policy = try instance.policy(registry)
        if address.placed, let placed = try hostAddresses().first(where: { $0.address == address.address }) {
            throw Failure(.failed, what, "the host has it already, on \(placed.interface)", hint: "see ip address show")
        }
        var after = before
        after.addresses = (before.addresses + [address]).sorted { $0.address < $1.address }
        var alone = before
        alone.addresses = [address]
        let row = try rows(of: [after], under: policy)[0]
        if !address.placed {
            try settings.prepareRoutes(policy.poolPrefixes.filter { $0.contains(address.address) }, for: policy)
        }
        do throws(Failure) {
            try requireFree(address.address, for: before)
        } catch {
            // If it came from the pool, the next attempt picks another one.
            if address.fromPool { try holdOccupied(address.address) }
            throw error
        }
        try registry.add(address, to: record.id, at: .now(bootID: bootID))
        var added: Set<IPAddress> = []
        do throws(Failure) {
            try place([alone], added: &added)
            try maps.give(address.address, to: row)
            try requireFree(address.address, for: before)
            try registry.settle(address.address)
        } catch {
            // If this fails, the next change does it.
            var left = address
            left.placed = added.contains(address.address)
            _ = try? takeAway(left, from: before, because: .notOpened)
            if error.code == .occupied, address.fromPool { try? holdOccupied(address.address) }
            throw error
        }
        return after
    }

    /// Takes an address from an open session, in the order of closing: map, sockets, interface, registry. From then on,
    /// `whenUnavailable` applies to the session.
    ///
    /// - Returns: the session without the address, and how many sockets on it were destroyed (`nil` if the kernel
    ///   destroys none); `nil` if the session is no longer open, or does not have the address.
    @discardableResult
    public func take(
        _ address: IPAddress, from record: SessionRecord, because ending: SessionEnding
    ) throws(Failure) -> (destroyedSockets: Int?, record: SessionRecord)? {
        guard var now = try current(record), let index = now.addresses.firstIndex(where: { $0.address == address })
        else { return nil }
        let taken = now.addresses.remove(at: index)
        try registry.beginTaking(address)
        let destroyed = try takeAway(taken, from: now, because: ending)
        return (destroyed, now)
    }

    /// Completes what a killed command has begun: addresses that may not be completely in place are removed.
    func settleAddresses() throws(Failure) {
        for (session, address) in try registry.unsettledAddresses() {
            guard var record = try registry.session(id: session), record.state == .open, record.bootID == bootID,
                let index = record.addresses.firstIndex(where: { $0.address == address })
            else { continue }  // the session itself will be removed
            logger.warning(
                "removing \(address) from session \(session): an earlier command was killed while assigning it")
            let taken = record.addresses.remove(at: index)
            try takeAway(taken, from: record, because: .commandKilled)
        }
    }

    /// - Parameter record: the session without the address.
    /// - Returns: how many sockets on it were destroyed.
    @discardableResult
    private func takeAway(
        _ address: SessionRecord.Address, from record: SessionRecord, because ending: SessionEnding
    ) throws(Failure) -> Int? {
        if pins.isLoaded {
            try PolicyMapSet(pins).take(address.address, from: record.cgroupID)
        }
        // An address that could not be given may be the host's own by now.
        let destroyed = ending == .notOpened ? nil : destroySockets(on: address.address)
        if address.placed {
            _ = try netlink.remove(address.address, at: address.place)
        }
        try registry.remove(address.address, from: record.id, because: ending, at: .now(bootID: bootID))
        return destroyed
    }

    /// The present state of a session; `nil` if it is no longer open.
    private func current(_ record: SessionRecord) throws(Failure) -> SessionRecord? {
        guard let now = try registry.session(id: record.id), now.cgroupID == record.cgroupID,
            now.bootID == record.bootID, now.state == .open
        else { return nil }
        return now
    }

    /// Opens a session without an address for now, because the daemon leases it.
    ///
    /// - Throws: ``Failure`` if no daemon runs and the request does not allow a session without an address.
    mutating func awaitLease(_ id: UInt32, _ request: SessionRequest, _ what: String) throws(Failure) {
        guard !instance.state.hasDaemon, request.keeper != .logind else { return awaitingLease.append(id) }
        let failure = Failure(
            .failed, what, "its address is to be leased by DHCP, which the daemon does, and none runs",
            hint: "start it (systemctl start vip-bpfd), or give an address with --ip")
        guard request.opensWithoutAddress else { throw failure }
        unaddressed.append((id, failure))
    }
}
