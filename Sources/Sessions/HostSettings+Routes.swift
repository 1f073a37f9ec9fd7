// SPDX-License-Identifier: Apache-2.0

import Host
import Logging
import Network
import Policy

// With `placement: route`, virtual IPs are on no interface: a route makes each prefix of the pool local, as for the
// sessions' IPv6 loopbacks. IPv6 also needs net.ipv6.ip_nonlocal_bind, which is set for the loopbacks.

extension Registry.Setting {
    /// The prefixes of pools whose local routes vip-bpf made: a ``RouteNote``, written before the routes are made.
    static let routeNote = Registry.Setting(rawValue: "route_note")
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
    var routedPrefixes: [AddressPrefix] {
        var prefixes: [AddressPrefix] = []
        for rules in allRules where rules.virtualIP.enabled {
            let addresses = rules.virtualIP.addresses
            guard addresses.placement == .route else { continue }
            for prefix in addresses.pool.compactMap(\.prefix) where !prefixes.contains(prefix) {
                prefixes.append(prefix)
            }
        }
        return prefixes
    }
}

extension HostRoute {
    /// Whether it makes the prefix local.
    func isLocal(_ other: AddressPrefix) -> Bool { isLocalOnLoopback && prefix == other }

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

    /// Throws if addresses of the prefixes are, or may be, used elsewhere. It is called before anything is changed.
    func checkRoutes(_ policy: Policy, _ present: [PlacedAddress]) throws(Failure) {
        let prefixes = policy.routedPrefixes
        guard !prefixes.isEmpty else { return }
        let remedy = "use placement: address; only a prefix that is routed to this host can be local as a whole"
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
    func prepareRoutes(_ prefixes: [AddressPrefix]) throws(Failure) -> [AddressPrefix] {
        guard !prefixes.isEmpty else { return [] }
        let network = try network()
        var note = RouteNote(network: network, prefixes: [])
        if let noted = try routeNote() {
            if noted.network == network {
                note = noted
            } else {
                logger.warning("the pool's prefixes stay local in the network namespace that they were in until now")
            }
        }
        // A route that exists and was not noted was made by another instance or an administrator: do not remove it
        // later.
        for family in IPAddress.Family.allCases {
            let new = prefixes.filter { $0.family == family && !note.prefixes.contains($0) }
            guard !new.isEmpty else { continue }
            let routes = try netlink.routes(family)
            note.prefixes += new.filter { prefix in !routes.contains { $0.isLocal(prefix) } }
        }
        if try registry.value(of: .routeNote) != note.text { try registry.set(.routeNote, to: note.text) }
        var added: [AddressPrefix] = []
        for prefix in prefixes where try netlink.addLocalRoute(prefix) { added.append(prefix) }
        return added
    }

    /// Removes the routes that neither the policy nor an open session needs.
    ///
    /// - Parameter policy: the policy in force; `nil` if nothing is attached.
    func settleRoutes(_ policy: Policy?) throws(Failure) {
        guard var note = try routeNote() else { return }
        let wanted = policy?.routedPrefixes ?? []
        var others = note.prefixes.filter { !wanted.contains($0) }
        guard !others.isEmpty else { return }
        for address in try registry.routedAddresses() { others.removeAll { $0.contains(address) } }
        guard !others.isEmpty else { return }
        if note.network == (try network()) {
            for other in others { try netlink.removeLocalRoute(other) }
        } else {
            logger.warning("prefixes of pools stay local in the network namespace that they are in")
        }
        note.prefixes.removeAll { others.contains($0) }
        try registry.set(.routeNote, to: note.prefixes.isEmpty ? nil : note.text)
    }

    /// Whether ``settleRoutes(_:)`` may have something to do.
    func hasRoutes() throws(Failure) -> Bool { try registry.value(of: .routeNote) != nil }
}
