// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
import Logging
public import Network
public import Policy
import SystemPackage

// A session's IPv6 loopback is an address of lo. With `virtualLoopback.placement: route`, a route makes the whole
// prefix local instead.

extension Registry.Setting {
    /// The prefix of the IPv6 loopbacks; not set if this host cannot have them.
    static let loopbackPrefix = Registry.Setting(rawValue: "loopback_prefix")
}

extension Registry {
    /// The prefix of the sessions' IPv6 loopbacks; `nil` if this host has none.
    public func loopbackPrefix() throws(Failure) -> LoopbackPrefix? {
        guard let text = try value(of: .loopbackPrefix) else { return nil }
        return try LoopbackPrefix(text)
    }
}

/// Whether this network namespace can have IPv6 loopbacks.
public enum LoopbackHost {
    /// Why IPv6 loopbacks are not possible, and what to do about it; `nil` if they are possible.
    public static func obstacle() -> (reason: String, fix: String)? {
        guard NonlocalBind.value() != nil else {
            return ("this kernel has no IPv6", "boot without ipv6.disable=1, or use IPv4 only")
        }
        let disabled = FilePath("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        guard (try? readWholeFile(disabled))?.first == UInt8(ascii: "0") else {
            return ("IPv6 is disabled on lo", "sysctl net.ipv6.conf.lo.disable_ipv6=0, then attach again")
        }
        return nil
    }
}

extension Policy {
    /// Whether each IPv6 loopback is an address of lo.
    public var placesLoopbacks: Bool { virtualLoopback.placement ?? .address == .address }
}

extension Instance {
    /// Sessions of this boot whose IPv6 loopback should be an address of lo, and is not.
    ///
    /// - Parameters:
    ///   - records: the registry's sessions.
    ///   - placed: all addresses of the host.
    public func missingLoopbacks(
        _ records: [SessionRecord], under policy: Policy, _ registry: Registry, _ placed: [PlacedAddress]
    ) throws(Failure) -> [SessionRecord] {
        guard policy.placesLoopbacks, let prefix = try registry.loopbackPrefix() else { return [] }
        let present = Set(placed.lazy.filter { $0.interface == "lo" && $0.address.family == .v6 }.map(\.address))
        return records.filter { $0.state == .open && !present.contains(prefix.loopback(of: $0.id)) }
    }
}

extension LoopbackPrefix {
    /// Where a session's IPv6 loopback is.
    static let place = AddressPlace("lo")
}

extension HostSettings {
    /// Throws if addresses of the prefix are used elsewhere. It is called before anything is changed.
    func checkLoopback(_ prefix: LoopbackPrefix) throws(Failure) {
        guard LoopbackHost.obstacle() == nil else { return }
        if let other = try netlink.routes(.v6).first(where: { $0.isInTheWay(of: prefix) }) {
            throw Failure(
                .failed, "make the IPv6 loopbacks \(prefix.local) local", "there is a route \(other) already",
                hint: "set another virtualLoopback.prefix in the policy")
        }
    }

    /// Makes the IPv6 loopbacks of the open sessions local, or the whole prefix.
    ///
    /// - Returns: the prefix; `nil` with a warning if this host cannot have it.
    func prepareLoopbacks(for policy: Policy, warnings: inout [String]) -> LoopbackPrefix? {
        let prefix = policy.loopbackPrefix.local
        if let obstacle = LoopbackHost.obstacle() {
            warnings.append("sessions have no IPv6 loopback: \(obstacle.reason); \(obstacle.fix)")
            return nil
        }
        do throws(Failure) {
            if policy.placesLoopbacks {
                try addLoopbacks(of: registry.sessions().filter { $0.state == .open }, prefix)
            } else {
                if let change = try prepareNonlocalBind() {
                    warnings.append("\(change): virtualLoopback.placement: route needs it")
                }
                try prepareRoutes([prefix.prefix], for: policy)
            }
        } catch {
            warnings.append("sessions have no IPv6 loopback: \(error)")
            return nil
        }
        return prefix
    }

    /// Records the prefix in force, and removes the addresses that its placement does not need.
    func settleLoopbacks(_ prefix: LoopbackPrefix?, for policy: Policy) throws(Failure) {
        let former = try registry.loopbackPrefix()
        if let former, former != prefix || !policy.placesLoopbacks {
            try removeLoopbacks(of: registry.sessions(), former)
        }
        if former != prefix { try registry.set(.loopbackPrefix, to: prefix?.description) }
    }

    /// Puts the IPv6 loopbacks of sessions on lo. One that is there already is no error.
    func addLoopbacks(of records: [SessionRecord], _ prefix: LoopbackPrefix) throws(Failure) {
        for result in try netlink.add(records.map { prefix.loopback(of: $0.id) }, at: LoopbackPrefix.place) {
            _ = try result.get()
        }
    }

    /// Takes the IPv6 loopbacks of sessions off lo. Missing ones are no error.
    func removeLoopbacks(of records: [SessionRecord], _ prefix: LoopbackPrefix) throws(Failure) {
        // The kernel's list has the newest address first, and is searched from there.
        let newest = records.sorted { $0.id > $1.id }
        for result in try netlink.remove(newest.map { prefix.loopback(of: $0.id) }, at: LoopbackPrefix.place) {
            _ = try result.get()
        }
    }

    /// Takes the IPv6 loopbacks of sessions that end off lo.
    func removeLoopbacks(of records: [SessionRecord]) throws(Failure) {
        guard let prefix = try registry.loopbackPrefix(), (try? registry.policy())?.placesLoopbacks != false else {
            return
        }
        try removeLoopbacks(of: records, prefix)
    }
}
