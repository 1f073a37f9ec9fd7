// SPDX-License-Identifier: Apache-2.0

public import Host
public import Network

/// Something in a well-formed policy that leaves sessions without an address, or refuses all that they do.
public struct PolicyHazard: Hashable, Sendable {
    public enum Kind: String, Sendable, Codable {
        /// Sessions should have addresses, and nothing gives them any.
        case noPool
        /// `mode: perProgram` without programs.
        case noPrograms
        /// The interface does not exist.
        case missingInterface
        /// A range of the pool is in no network of its interface, and no route leads to it.
        case unreachableRange
        /// A range of the pool holds addresses of the host.
        case hostAddress
        /// A range of the pool holds a network's first or last address.
        case networkAddress
        /// Sessions that are open have no address, and nothing gives them one.
        case unaddressedSessions
    }

    public let kind: Kind
    /// The path of the key that it is about, as in the policy file: `overrides[0].virtualIP.addresses.pool[1]`.
    public let key: String
    /// What tells it from another one of its kind, in this policy or another: the interface, the range, the addresses.
    public let subject: String
    /// What is wrong, and what follows from it.
    public let message: String
    /// What to do about it.
    public let hint: String
    /// The numbers of the rules that it is in, 0 for those of the base policy.
    public internal(set) var numbers: Set<Int>

    package init(kind: Kind, key: String, subject: String = "", message: String, hint: String, numbers: Set<Int>) {
        self.kind = kind
        self.key = key
        self.subject = subject
        self.message = message
        self.hint = hint
        self.numbers = numbers
    }

    /// Whether it is only about sessions that get their addresses by the policy, and not by --ip.
    public var isAboutGivenAddresses: Bool { kind != .noPrograms }

    /// Whether the other one, of another policy, is the same one.
    public func isSame(as other: PolicyHazard) -> Bool { kind == other.kind && subject == other.subject }
}

extension PolicyHazard: CustomStringConvertible {
    /// `KEY: MESSAGE; HINT` on one line.
    public var description: String { "\(key): \(message); \(hint)".printableLine }
}

extension Policy {
    /// The hazards of the policy, in the order of the rules: first those of the base policy.
    ///
    /// - Parameters:
    ///   - host: the host's network; `nil` finds those that are in the policy alone.
    ///   - routes: returns a family's routes. It is called only if a range is in no network of its interface.
    public func hazards(
        on host: HostNetwork?, routes: (IPAddress.Family) throws(Failure) -> [HostRoute]
    ) throws(Failure) -> [PolicyHazard] {
        var search = HazardSearch(policy: self, host: host)
        for number in 0...overrides.count { try search.look(at: number, routes) }
        return search.found
    }
}

extension Policy.VirtualIP {
    /// Whether it applies to any program.
    public var appliesToPrograms: Bool { enabled && (mode == .perSession || !programs.isEmpty) }

    /// To which programs it applies, as part of a sentence.
    fileprivate var who: String { mode == .perSession || programs.contains(.everyProgram) ? "all" : "listed" }

    /// What follows for sessions without an address.
    fileprivate var consequence: String {
        switch whenUnavailable {
        case .deny: "whenUnavailable: deny refuses \(who) programs the host's addresses, and so servers and connections"
        case .useHostAddress: "\(who) programs get the host's address"
        }
    }
}

private struct HazardSearch {
    let policy: Policy
    let host: HostNetwork?
    private(set) var found: [PolicyHazard] = []
    private var routes: [IPAddress.Family: [HostRoute]] = [:]

    init(policy: Policy, host: HostNetwork?) {
        self.policy = policy
        self.host = host
    }

    /// Notes a hazard; one that another of the rules has as well is noted once.
    private mutating func add(
        _ kind: PolicyHazard.Kind, _ key: String, subject: String = "", _ message: String, hint: String, _ number: Int
    ) {
        if let index = found.firstIndex(where: { $0.kind == kind && $0.key == key && $0.subject == subject }) {
            found[index].numbers.insert(number)
        } else {
            found.append(
                PolicyHazard(
                    kind: kind, key: key, subject: subject, message: message, hint: hint, numbers: [number]))
        }
    }

    mutating func look(
        at number: Int, _ lookUp: (IPAddress.Family) throws(Failure) -> [HostRoute]
    ) throws(Failure) {
        let virtualIP = policy.rules(number: number).virtualIP
        guard virtualIP.enabled else { return }
        let addresses = virtualIP.addresses
        let own = number == 0 ? nil : policy.overrides[number - 1].virtualIP
        let section = own == nil ? "virtualIP" : "overrides[\(number - 1)].virtualIP"
        // An override takes what it does not have from the base policy: Policy.rules(for:).
        let isOfOwnPool = own.map { $0.addresses.source == .dhcp || !$0.addresses.pool.isEmpty } ?? false
        let source = isOfOwnPool ? "\(section).addresses" : "virtualIP.addresses"
        let place = own?.addresses.interface != nil ? "\(section).addresses" : "virtualIP.addresses"

        if virtualIP.mode == .perProgram, virtualIP.programs.isEmpty {
            add(
                .noPrograms, "\(section).programs",
                "with mode: perProgram and no programs, the virtual IP applies to nothing, and all programs have the "
                    + "host's addresses",
                hint: "list programs, or use mode: perSession or enabled: false", number)
        } else if addresses.source == .pool, addresses.pool.isEmpty {
            add(
                .noPool, "\(source).pool",
                "there is no pool, so no session gets an address, and \(virtualIP.consequence)",
                hint: "write a pool or source: dhcp, or give each session its address with --ip", number)
        }
        guard let host else { return }
        if let name = addresses.interface, !host.has(interface: name) {
            let others = host.interfaces.values.filter { $0 != "lo" }.sorted()
            let few = 4  // keeps the line readable
            add(
                .missingInterface, "\(place).interface", subject: name,
                "there is no interface \(name) on this host, so no session can get an address",
                hint: others.isEmpty
                    ? "make it first" : "make it first, or name another: \(others.prefix(few).joined(separator: ", "))",
                number)
        } else if addresses.source.isLeased, addresses.interface == nil, host.defaultInterface(.v4) == "lo" {
            add(
                .missingInterface, "\(source).source", subject: "dhcp",
                "no interface is named and there is no default route, so no session can get a lease",
                hint: "name the interface of the server's network", number)
        }
        guard addresses.placement != .prefix else { return }  // refused where other hosts are in the prefix
        for (index, range) in addresses.pool.enumerated() {
            let key = "\(source).pool[\(index)]"
            try lookAtReach(of: range, addresses.interface, key, number, lookUp)
            lookAtOwners(of: range, key, number)
        }
    }

    // MARK: Ranges

    private mutating func lookAtReach(
        of range: AddressRange, _ named: String?, _ key: String, _ number: Int,
        _ lookUp: (IPAddress.Family) throws(Failure) -> [HostRoute]
    ) throws(Failure) {
        guard let host else { return }
        let family = range.first.family
        let interface = named ?? host.defaultInterface(family)
        // On lo by name, addresses are routed to this host: session open allows any.
        guard named != "lo", host.has(interface: interface) else { return }
        let networks = host.own.filter {
            $0.address.family == family && $0.prefixLength < family.bits && !$0.address.isLoopback
                && !$0.address.isIPv6LinkLocal && (interface == "lo" || $0.interface == interface)
        }
        guard !networks.contains(where: { $0.network(contains: range.first) && $0.network(contains: range.last) })
        else { return }
        if routes[family] == nil { routes[family] = try lookUp(family) }
        let index = host.interfaces.first { $0.value == interface }?.key
        let leads = (routes[family] ?? []).contains { route in
            guard route.length > 0, route.prefix.contains(range.first), route.prefix.contains(range.last) else {
                return false
            }
            // A blackhole route is usual for a prefix that is routed to this host.
            if route.isMain { return !route.isUnicast || route.interface == index }
            return route.isLocal && route.length < family.bits
        }
        guard !leads else { return }
        let names = networks.map { "\($0.address)/\($0.prefixLength)" }.joined(separator: ", ")
        let fallback = named == nil && interface == "lo"
        add(
            .unreachableRange, key, subject: "\(range) \(interface)",
            "\(range) is in no network of "
                + (fallback ? "this host, which has no default route" : interface)
                + (names.isEmpty ? "" : " (\(names))")
                + ", and no route leads to it, so sessions get no answers from the network",
            hint: (names.isEmpty ? "use addresses of the interface's network" : "use addresses of that network")
                + ", or have the range routed to this host and add a blackhole route for it", number)
    }

    private mutating func lookAtOwners(of range: AddressRange, _ key: String, _ number: Int) {
        guard let host else { return }
        let own = host.own.filter { !$0.address.isLoopback && range.contains($0.address) }
        let networks = host.own.filter { $0.prefixLength < $0.address.family.bits && !$0.address.isIPv6LinkLocal }
        var ends: [(address: IPAddress, what: String)] = []
        for network in networks {
            let name = "\(network.address)/\(network.prefixLength) on \(network.interface)"
            let pair = network.networkAndBroadcast
            if pair.count == 2 {
                ends.append((pair[0], "the network's address of \(name)"))
                ends.append((pair[1], "the broadcast address of \(name)"))
            }
            if let router = network.subnetRouter { ends.append((router, "the subnet-router address of \(name)")) }
        }
        ends = ends.filter { end in range.contains(end.address) && !own.contains { $0.address == end.address } }
        let unfit = Set(own.map(\.address) + ends.map(\.address)).sorted()
        guard !unfit.isEmpty else { return }
        let hint = Self.hint(leaving: unfit, outOf: range)
        let few = 3  // keeps the line readable
        func list(_ parts: [String]) -> String {
            parts.prefix(few).joined(separator: ", ") + (parts.count > few ? " and \(parts.count - few) more" : "")
        }
        if !own.isEmpty {
            let parts = own.sorted { $0.address < $1.address }.map { "\($0.address) (\($0.interface))" }
            add(
                .hostAddress, key, subject: list(parts),
                range.count == 1
                    ? "\(range.first) is the host's own, on \(own[0].interface), and a session gets it as soon as the "
                        + "interface lacks it"
                    : "\(range) holds the host's own \(list(parts)), which a session gets as soon as the interface lacks it",
                hint: hint, number)
        }
        if !ends.isEmpty {
            let parts = ends.sorted { $0.address < $1.address }.map { "\($0.address), \($0.what)" }
            add(
                .networkAddress, key, subject: list(parts),
                range.count == 1
                    ? "\(range.first) is \(ends[0].what), which no session can use"
                    : "\(range) holds \(list(parts)), which no session can use", hint: hint, number)
        }
    }

    /// What is left of a range without some of its addresses, which are sorted.
    private static func hint(leaving unfit: [IPAddress], outOf range: AddressRange) -> String {
        var parts: [String] = []
        var next = range.first.value
        let family = range.first.family
        func part(_ last: UInt128) {
            let ends = [IPAddress(family, value: next), IPAddress(family, value: last)]
            parts.append(next == last ? "\(ends[0])" : "\(ends[0])-\(ends[1])")
        }
        for address in unfit {
            if next < address.value { part(address.value - 1) }
            next = address.value &+ 1
        }
        if unfit.last != range.last { part(range.last.value) }
        let few = 4  // keeps the line readable
        switch parts.count {
        case 0: return "leave it out"
        case ...few: return "write \(parts.joined(separator: ", ")) in its place"
        default: return "leave these addresses out"
        }
    }
}
