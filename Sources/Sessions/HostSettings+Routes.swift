// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Logging
import Network
import Policy
import SystemPackage

// Prefixes that a route makes local as a whole: those of pools with `placement: prefix`, and that of the IPv6 loopbacks
// with `virtualLoopback.placement: route`.

extension Registry.Setting {
    /// The prefixes whose local routes vip-bpf made: a ``RouteNote``, written before the routes are made.
    static let routeNote = Registry.Setting(rawValue: "route_note")
    /// The network namespace in which net.ipv6.ip_nonlocal_bind was changed, and its former value:
    /// `BOOT-ID INODE VALUE`, written before the change.
    static let nonlocalBindNote = Registry.Setting(rawValue: "nonlocal_bind_note")
    /// What the map layouts up to 5 noted for the IPv6 loopbacks: `BOOT-ID INODE FORMER-SYSCTL PREFIX…`.
    static let formerLoopbackNote = Registry.Setting(rawValue: "loopback_note")
}

/// What must be undone with the last cgroup's links: `BOOT-ID INODE PREFIX…`.
struct RouteNote: Equatable {
    /// The network namespace, as ``HostSettings/network()`` returns it.
    var network: String
    var prefixes: [AddressPrefix]

    init(network: String, prefixes: [AddressPrefix]) {
        self.network = network
        self.prefixes = prefixes
    }

    init?(_ text: String) {
        let words = text.split(separator: " ").map(String.init)
        guard words.count >= 2 else { return nil }
        self.init(network: "\(words[0]) \(words[1])", prefixes: words.dropFirst(2).compactMap { AddressPrefix($0) })
    }

    var text: String { ([network] + prefixes.map(\.description)).joined(separator: " ") }
}

extension Policy {
    /// The prefixes of the pools in use that must be local.
    var poolPrefixes: [AddressPrefix] {
        var prefixes: [AddressPrefix] = []
        for rules in allRules where rules.virtualIP.enabled {
            let addresses = rules.virtualIP.addresses
            guard addresses.placement == .prefix else { continue }
            for prefix in addresses.pool.compactMap(\.prefix) where !prefixes.contains(prefix) {
                prefixes.append(prefix)
            }
        }
        return prefixes
    }

    /// All prefixes that must be local.
    var localPrefixes: [AddressPrefix] {
        poolPrefixes + (placesLoopbacks ? [] : [loopbackPrefix.local.prefix])
    }
}

extension HostRoute {
    /// Whether it makes the prefix local.
    func isLocal(_ other: AddressPrefix) -> Bool { isLocal && prefix == other }

    /// Whether the route leads to all or a part of the prefix, so that its addresses are used elsewhere. A wider route
    /// (a default route) is no conflict, because it only carries what the prefix leaves over. Nor is a blackhole route,
    /// which is usual for a prefix that is routed to this host.
    func isInTheWay(of other: AddressPrefix) -> Bool { isMain && isUnicast && other.contains(prefix) }
}

extension HostSettings {
    private func routeNote() throws(Failure) -> RouteNote? {
        guard let note = try registry.value(of: .routeNote).flatMap({ RouteNote($0) }), note.network.hasPrefix(bootID)
        else { return nil }
        return note
    }

    /// Takes over the note of a version that made the IPv6 loopbacks local as a whole under every policy.
    func adoptFormerNote() throws(Failure) {
        guard let text = try registry.value(of: .formerLoopbackNote) else { return }
        let words = text.split(separator: " ").map(String.init)
        if words.count >= 3, words[0] == bootID {
            let network = "\(words[0]) \(words[1])"
            var note = try routeNote() ?? RouteNote(network: network, prefixes: [])
            for prefix in words.dropFirst(3).compactMap({ AddressPrefix($0) }) where !note.prefixes.contains(prefix) {
                note.prefixes.append(prefix)
            }
            try registry.set(.routeNote, to: note.text)
            if words[2] != "1" { try registry.set(.nonlocalBindNote, to: "\(network) \(words[2])") }
        }
        try registry.set(.formerLoopbackNote, to: nil)
    }

    // MARK: Routes

    /// Throws if addresses of the prefixes are, or may be, used elsewhere. It is called before anything is changed.
    func checkRoutes(_ policy: Policy, _ present: [PlacedAddress]) throws(Failure) {
        let prefixes = policy.poolPrefixes
        guard !prefixes.isEmpty else { return }
        let remedy = "use placement: route; only a prefix that is routed to this host can be local as a whole"
        for prefix in prefixes {
            let what = "make \(prefix) local"
            if prefix.family == .v6, let obstacle = LoopbackHost.obstacle() {
                throw Failure(.failed, what, obstacle.reason, hint: obstacle.fix)
            }
            for placed in present
            where placed.address.family == prefix.family && placed.prefixLength < prefix.family.bits {
                let network = AddressPrefix(of: placed.address, length: placed.prefixLength)
                guard network.overlaps(prefix) else { continue }
                throw Failure(
                    .failed, what, "\(network) is the network of \(placed.interface), and others are in it",
                    hint: remedy
                )
            }
        }
        for family in IPAddress.Family.allCases where prefixes.contains(where: { $0.family == family }) {
            for route in try netlink.routes(family) {
                guard let prefix = prefixes.first(where: { route.isInTheWay(of: $0) }) else { continue }
                throw Failure(.failed, "make \(prefix) local", "there is a route \(route) already", hint: remedy)
            }
        }
    }

    /// Makes those prefixes local that are not. Notes of others stay, for ``settleRoutes(_:)``.
    ///
    /// - Returns: the prefixes that were not local.
    @discardableResult
    func prepareRoutes(_ prefixes: [AddressPrefix], for policy: Policy) throws(Failure) -> [AddressPrefix] {
        guard !prefixes.isEmpty else { return [] }
        let network = try network()
        var note = RouteNote(network: network, prefixes: [])
        if let noted = try routeNote() {
            if noted.network == network {
                note = noted
            } else {
                logger.warning("prefixes stay local in the network namespace that they were in until now")
            }
        }
        // A route that exists and was not noted was made by another instance or an administrator: do not remove it
        // later.
        var missing: [AddressPrefix] = []
        for family in IPAddress.Family.allCases {
            let wanted = prefixes.filter { $0.family == family }
            guard !wanted.isEmpty else { continue }
            let routes = try netlink.routes(family)
            missing += wanted.filter { prefix in !routes.contains { $0.isLocal(prefix) } }
        }
        note.prefixes += missing.filter { !note.prefixes.contains($0) }
        if try registry.value(of: .routeNote) != note.text { try registry.set(.routeNote, to: note.text) }
        // Multicast and broadcast leave by the interface of their source's route. For IPv6 it is that of the group's.
        let uplink = try netlink.defaultRouteInterface(.v4) ?? "lo"
        for prefix in missing {
            // Without a source, a connection to a loopback comes from ::1, as one to 127.0.0.8 comes from 127.0.0.1.
            let isLoopback = prefix == policy.loopbackPrefix.local.prefix
            try netlink.addLocalRoute(
                prefix, on: prefix.family == .v4 ? uplink : "lo",
                source: isLoopback ? IPAddress(.v6, value: 1) : nil)
        }
        return missing
    }

    /// Removes the routes that neither the policy nor an open session needs, and restores net.ipv6.ip_nonlocal_bind if
    /// no prefix needs it.
    ///
    /// - Parameter policy: the policy in force; `nil` if nothing is attached.
    func settleRoutes(_ policy: Policy?) throws(Failure) {
        let wanted = policy?.localPrefixes ?? []
        var kept: [AddressPrefix] = []
        if var note = try routeNote() {
            var others = note.prefixes.filter { !wanted.contains($0) }
            for address in others.isEmpty ? [] : try registry.prefixAddresses() {
                others.removeAll { $0.contains(address) }
            }
            if note.network == (try network()) {
                for other in others {
                    // Without the route, packets of such a socket would leave this host by the default route.
                    let sockets = policy == nil ? Self.sockets(on: other) : 0
                    if sockets > 0 {
                        logger.warning(
                            "\(sockets) sockets are still on \(other), so its route stays; when they are closed, run: ip -6 route del local \(other) dev lo"
                        )
                    } else {
                        try netlink.removeLocalRoute(other)
                    }
                }
            } else if !others.isEmpty {
                logger.warning("prefixes stay local in the network namespace that they are in")
            }
            note.prefixes.removeAll { others.contains($0) }
            if !others.isEmpty { try registry.set(.routeNote, to: note.prefixes.isEmpty ? nil : note.text) }
            kept = note.prefixes
        }
        if !(wanted + kept).contains(where: { $0.family == .v6 }) { try restoreNonlocalBind() }
    }

    /// Whether ``settleRoutes(_:)`` may have something to do.
    func hasRoutes() throws(Failure) -> Bool { try registry.value(of: .routeNote) != nil }

    /// The number of TCP and UDP sockets of this network namespace with a local address of an IPv6 prefix of whole
    /// 32-bit words, except those in TIME_WAIT. In /proc/net/tcp6 and udp6, an address is four words of 8 hexadecimal
    /// digits in the host's byte order.
    private static func sockets(on prefix: AddressPrefix) -> Int {
        guard prefix.family == .v6, prefix.length % 32 == 0 else { return 0 }
        let words = stride(from: 0, to: prefix.length / 8, by: 4).map { start in
            let word = prefix.network.bytes[start..<start + 4].withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) }
            let digits = String(word, radix: 16, uppercase: true)
            return String(repeating: "0", count: 8 - digits.count) + digits
        }
        let start = words.joined()
        let timeWait = "06"  // TCP_TIME_WAIT, net/tcp_states.h
        return ["tcp6", "udp6"].reduce(0) { count, name in
            let table = (try? readWholeFile(FilePath("/proc/net/\(name)"))) ?? []
            return count
                + String(decoding: table, as: UTF8.self).split(separator: "\n").dropFirst().count { line in
                    let fields = line.split(separator: " ", maxSplits: 4)
                    return fields.count > 3 && fields[1].hasPrefix(start) && fields[3] != timeWait
                }
        }
    }

    // MARK: net.ipv6.ip_nonlocal_bind

    /// Sets it to 1, and notes the value before.
    ///
    /// - Returns: what was changed, for a warning; `nil` if it was 1 already.
    func prepareNonlocalBind() throws(Failure) -> String? {
        guard let value = NonlocalBind.value(), value != "1" else { return nil }
        try registry.set(.nonlocalBindNote, to: "\(network()) \(value)")
        try NonlocalBind.set("1")
        return "net.ipv6.ip_nonlocal_bind was \(value) and is now 1, for every program of this host"
    }

    private func restoreNonlocalBind() throws(Failure) {
        guard let note = try registry.value(of: .nonlocalBindNote) else { return }
        let words = note.split(separator: " ").map(String.init)
        if words.count == 3, "\(words[0]) \(words[1])" == (try network()), NonlocalBind.value() == "1" {
            do throws(Failure) { try NonlocalBind.set(words[2]) } catch { logger.warning("\(error)") }
        }
        try registry.set(.nonlocalBindNote, to: nil)
    }
}
