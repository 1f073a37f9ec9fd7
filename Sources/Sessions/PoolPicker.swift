// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Host
import Network
import Policy

/// The last use of an address that is free now.
struct FormerAddress: Sendable, Hashable {
    let address: IPAddress
    /// The user whose session had it; `nil` if none was given. Sessions without a user count as those of one user.
    let user: String?
    let released: Moment

    /// How much longer it must rest, in milliseconds; 0 or less if it has rested.
    ///
    /// This uses the boot clock, which cannot be set. An address that was released in an earlier boot has rested at
    /// least since the start of this one, and maybe longer by the wall clock.
    func restLeft(_ rest: Int, now: Moment) -> Int64 {
        let rest = Int64(rest) * 1000
        let uptime = now.uptime ?? 0
        if released.bootID == now.bootID, let then = released.uptime { return rest - (uptime - then) }
        let shown = now.date.timeIntervalSince(released.date) * 1000
        return rest - max(uptime, Int64(shown))
    }
}

/// Picks addresses from one pool of the policy, for the sessions of one change.
///
/// A user gets the first of these that is free: an address reserved for the user; the user's last address; the lowest
/// address that no session has had, so that others can get theirs again; the address that has been free longest, once
/// it has rested. The history is read from the registry once, when it is first needed.
struct PoolPicker {
    /// `the pool`, or the name of the override that has it.
    private let name: String
    private var pool: AddressPool
    private let rest: Int
    private let reservations: [Policy.Reservation]
    private let owners: [IPAddress: String]
    private let now: Moment

    private var ofUser: [String?: [FormerAddress]] = [:]
    private var known: [IPAddress.Family: Set<IPAddress>] = [:]
    /// Addresses that were used before, the one that has been free longest first, and how many of them were tried.
    private var others: [IPAddress.Family: (all: [FormerAddress], next: Int)] = [:]

    /// - Parameters:
    ///   - addresses: the addresses section of the policy's rules, with a pool.
    ///   - override: the name of the override whose pool it is; `nil` for the base policy's.
    init(_ addresses: Policy.Addresses, override: String?, now: Moment) throws(Failure) {
        name = override.map { "the pool of override \($0)" } ?? "the pool"
        pool = try AddressPool(addresses.pool.map { $0.first...$0.last })
        rest = addresses.restSeconds ?? Policy.Addresses.defaultRestSeconds
        reservations = addresses.reservations
        var owners: [IPAddress: String] = [:]
        for reservation in reservations {
            for address in reservation.addresses { owners[address] = reservation.user }
        }
        self.owners = owners
        self.now = now
    }

    func has(_ family: IPAddress.Family) -> Bool { pool.has(family) }

    /// Whether the policy lets a user have an address of the pool.
    func allows(_ address: IPAddress, for user: String?) -> Bool {
        pool.contains(address) && (owners[address] == nil || owners[address] == user)
    }

    /// The picked address, and a warning for the administrator.
    struct Pick {
        let address: IPAddress
        var warning: String?
    }

    /// - Parameters:
    ///   - taken: whether an address is a session's or the host's, or cannot be used.
    ///   - used: the addresses of sessions, for the error.
    ///   - held: those of `taken` that other hosts have, or are being asked about, for the error.
    ///   - occupied: those of `taken` on which other programs have sockets, for the error.
    /// - Throws: ``Failure`` if none is free. It says why.
    mutating func pick(
        _ family: IPAddress.Family, for user: String?, _ registry: Registry, used: [IPAddress: UInt32],
        held: Set<IPAddress> = [], occupied: Set<IPAddress> = [], taken: (IPAddress) -> Bool
    ) throws(Failure) -> Pick {
        var warning: String?
        let reserved = reservations.first { $0.user == user }?.addresses.filter { $0.family == family } ?? []
        for address in reserved where !taken(address) {
            guard let former = try registry.formerAddress(address), former.user != user,
                former.restLeft(rest, now: now) > 0
            else { return Pick(address: address) }
        }
        if let user, !reserved.isEmpty {
            warning =
                "the addresses reserved for \(user) are in use (\(reserved.map(\.description).joined(separator: ", "))): "
                + "another \(family.rawValue) address is picked"
        }
        if ofUser[user] == nil { ofUser[user] = try registry.formerAddresses(of: user) }
        for former in ofUser[user] ?? [] where former.address.family == family {
            if pool.contains(former.address), owners[former.address] == nil, !taken(former.address) {
                return Pick(address: former.address, warning: warning)
            }
        }
        if known[family] == nil { known[family] = try registry.formerAddresses(family) }
        let known = known[family] ?? []
        let fresh = pool.next(family) { taken($0) || known.contains($0) || owners[$0] != nil }
        if let fresh { return Pick(address: fresh, warning: warning) }

        // All free addresses were used before.
        if others[family] == nil { others[family] = (try registry.formerAddressesByRelease(family), 0) }
        while let (all, next) = others[family], next < all.count {
            others[family]?.next += 1
            let former = all[next]
            if pool.contains(former.address), owners[former.address] == nil, !taken(former.address),
                former.restLeft(rest, now: now) <= 0
            {
                return Pick(address: former.address, warning: warning)
            }
        }
        throw exhausted(family, user, used: used, held: held, occupied: occupied, taken: taken)
    }

    private func exhausted(
        _ family: IPAddress.Family, _ user: String?, used: [IPAddress: UInt32], held: Set<IPAddress>,
        occupied: Set<IPAddress>, taken: (IPAddress) -> Bool
    ) -> Failure {
        let what = "pick an \(family.rawValue) address"
        let add = "add an \(family.rawValue) range to virtualIP.addresses.pool"
        let count = pool.count(family)
        let inUse = used.keys.count { $0.family == family && pool.contains($0) }
        let resting = (others[family]?.all ?? []).filter {
            pool.contains($0.address) && owners[$0.address] == nil && !taken($0.address)
        }.map { $0.restLeft(rest, now: now) }.filter { $0 > 0 }
        let reserved = owners.count { $0.key.family == family && $0.value != user && used[$0.key] == nil }
        let elsewhere = held.count { $0.family == family && pool.contains($0) }
        let squatted = occupied.count { $0.family == family && pool.contains($0) && used[$0] == nil }
        guard !resting.isEmpty || reserved > 0 || elsewhere > 0 || squatted > 0 else {
            return Failure(
                .failed, what,
                count == 1
                    ? "\(name)'s only \(family.rawValue) one (1 of 1) is in use"
                    : "all \(count) \(family.rawValue) addresses of \(name) are in use (\(count) of \(count))",
                hint: "close sessions, or \(add)")
        }
        var parts = ["\(inUse) of \(count) in use"]
        if let first = resting.min() {
            parts.append("\(resting.count) resting after use, the first for \((first + 999) / 1000) s more")
        }
        if elsewhere > 0 { parts.append("\(elsewhere) used by other hosts or being checked") }
        if squatted > 0 { parts.append("\(squatted) with sockets of other programs (ss -lntup)") }
        if reserved > 0 { parts.append("\(reserved) reserved for other users") }
        return Failure(
            .failed, what, "no \(family.rawValue) address of \(name) is free: \(parts.joined(separator: ", "))",
            hint: "\(resting.isEmpty ? "" : "wait, ")close sessions, or \(add)")
    }
}
