// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import Network
public import Policy

/// What a policy means for the sessions that are open.
public struct PolicyImpact: Sendable {
    /// A hazard of the policy, and the sessions that it is about.
    public struct Risk: Sendable {
        public let hazard: PolicyHazard
        /// The IDs of the open sessions that it is about.
        public let sessions: [UInt32]
        /// Those of them that it is not about already, under the policy in force.
        public let newSessions: [UInt32]

        /// ` (2 open sessions: 7, 9)`, or nothing if it is about none.
        public var note: String {
            newSessions.isEmpty ? "" : " (\(newSessions.count.openSessions): \(newSessions.few))"
        }
    }

    /// What changes for sessions that have the same rules, before and after.
    public struct SessionChange: Sendable {
        /// The IDs of the sessions.
        public let sessions: [UInt32]
        /// The name of the override that holds for them; `nil` if it is the base policy.
        public let override: (before: String?, after: String?)
        /// In words; not empty.
        public let changes: [String]
    }

    /// The hazards in the order of the policy's rules.
    public let risks: [Risk]
    /// The keys that differ from the policy in force.
    public internal(set) var differences: [PolicyDifference] = []
    /// What changes for open sessions, in the order of their IDs. Those for which nothing changes are not in it.
    public internal(set) var sessionChanges: [SessionChange] = []

    /// Those for which the policy is not applied unless that is forced: they are about open sessions, and new to them.
    public var refused: [Risk] { risks.filter { !$0.newSessions.isEmpty } }

    /// The sessions that ``refused`` is about.
    public var endangered: [UInt32] { Set(refused.flatMap(\.newSessions)).sorted() }
}

extension Int {
    /// `1 open session`, `2 open sessions`.
    package var openSessions: String { "\(self) open \(self == 1 ? "session" : "sessions")" }
}

extension [UInt32] {
    /// The first IDs for a line of text: `7, 9 and 12 more`.
    package var few: String {
        let limit = 5
        return prefix(limit).map(String.init).joined(separator: ", ")
            + (count > limit ? " and \(count - limit) more" : "")
    }
}

extension Failure.Code {
    /// A policy would leave open sessions without an address, or refuse all that they do.
    public static let harmfulPolicy = Failure.Code("harmful policy", exitCode: 1)
}

extension Instance {
    /// What a policy would mean for the open sessions, in place of the one in force.
    ///
    /// - Parameter registry: `nil` if it may not be read: then nothing is known of sessions.
    public func impact(of policy: Policy, _ registry: Registry?, _ netlink: Netlink) throws(Failure) -> PolicyImpact {
        let used = try registry?.usedAddresses()
        let host = try HostNetwork(netlink) { placed in
            // Sessions' addresses have the full length.
            if let used { used[placed.address] == nil } else { placed.prefixLength < placed.address.family.bits }
        }
        var routes: [IPAddress.Family: [HostRoute]] = [:]
        func hazards(of policy: Policy) throws(Failure) -> [PolicyHazard] {
            try policy.hazards(on: host) { family throws(Failure) in
                if let known = routes[family] { return known }
                let all = try netlink.routes(family)
                routes[family] = all
                return all
            }
        }
        var found = try hazards(of: policy)
        guard let registry else {
            return PolicyImpact(risks: found.map { .init(hazard: $0, sessions: [], newSessions: []) })
        }
        let records = try registry.sessions().filter { $0.state == .open && $0.isCgroupThere }
        // One that cannot be read must not keep another from being applied: then all that harms is new.
        let inForce = (try? self.policy(registry)) ?? Policy()
        let before = try hazards(of: inForce)
        let places = try SessionPlaces(records, from: inForce, to: policy)
        // Only root can see whether a daemon runs.
        if geteuid() == 0, !state.hasDaemon { found += places.withoutAddress(noPool: found) }
        let risks = found.map { hazard in
            let concerned = places.all.filter { place in
                hazard.numbers.contains(place.after)
                    && (!hazard.isAboutGivenAddresses || place.record.getsAddressByPolicy)
                    && (hazard.kind != .unaddressedSessions || place.record.addresses.isEmpty)
            }
            let new = concerned.filter { place in
                !before.contains { $0.isSame(as: hazard) && $0.numbers.contains(place.before) }
                    && (hazard.kind != .unaddressedSessions || places.isNewlyDenied(place))
            }
            return PolicyImpact.Risk(
                hazard: hazard, sessions: concerned.map(\.record.id), newSessions: new.map(\.record.id))
        }
        return PolicyImpact(
            risks: risks, differences: inForce.differences(to: policy), sessionChanges: places.changes)
    }

    /// The hazards of the policy in force that are about some sessions. Other sessions are not looked at, however many
    /// there are.
    func hazards(
        of policy: Policy, for records: [SessionRecord], _ netlink: Netlink
    ) throws(Failure) -> [PolicyHazard] {
        let host = try HostNetwork(netlink) { $0.prefixLength < $0.address.family.bits }
        let all = try policy.hazards(on: host) { family throws(Failure) in try netlink.routes(family) }
        guard !all.isEmpty else { return [] }
        var groups: [String: [String]] = [:]
        var numbers: Set<Int> = []
        var given: Set<Int> = []
        for record in records {
            let number = try Self.policyNumber(of: record, under: policy, groups: &groups)
            numbers.insert(number)
            if record.getsAddressByPolicy { given.insert(number) }
        }
        return all.filter { !$0.numbers.isDisjoint(with: $0.isAboutGivenAddresses ? given : numbers) }
    }

    /// The hazards of the policy in force, with the sessions that they are about.
    public func risksInForce(_ registry: Registry, _ netlink: Netlink) throws(Failure) -> [PolicyImpact.Risk] {
        try impact(of: policy(registry), registry, netlink).risks
    }
}

extension Change {
    /// ``Instance/impact(of:_:_:)``.
    public func impact(of policy: Policy) throws(Failure) -> PolicyImpact {
        try instance.impact(of: policy, registry, netlink)
    }

    /// Throws if a policy would leave open sessions without an address, or refuse all that they do, and the one in
    /// force does not.
    ///
    /// - Throws: ``Failure`` (harmful policy) for the first of its hazards.
    public func requireHarmless(_ file: PolicyFile) throws(Failure) {
        let refused = try impact(of: file.policy).refused
        guard let first = refused.first else { return }
        let problem = file.problem(first.hazard)
        let more = refused.count == 1 ? "" : " (and \(refused.count - 1) more: vip-bpfctl policy diff lists them)"
        throw Failure(
            .harmfulPolicy, "apply policy \(problem.place)", "\(problem.messageOfKey)\(first.note)\(more)",
            hint: "\(first.hazard.hint); or force it: vip-bpfctl policy apply --force FILE")
    }
}

extension SessionRecord {
    /// Whether its addresses come from the pool or a lease, or it has none: --ip gave it none.
    fileprivate var getsAddressByPolicy: Bool {
        addresses.isEmpty || addresses.contains { $0.fromPool || $0.leaseSlot != nil }
    }
}

/// Which rules hold for each session under one policy, and under another one.
private struct SessionPlaces {
    struct Place {
        let record: SessionRecord
        let before, after: Int
    }

    let all: [Place]
    private let former: [Policy.Rules]
    private let next: [Policy.Rules]
    private let formerPolicy, policy: Policy

    init(_ records: [SessionRecord], from former: Policy, to next: Policy) throws(Failure) {
        var groups: [String: [String]] = [:]  // looked up once for each user
        var all: [Place] = []
        for record in records {
            all.append(
                Place(
                    record: record, before: try Instance.policyNumber(of: record, under: former, groups: &groups),
                    after: try Instance.policyNumber(of: record, under: next, groups: &groups)))
        }
        self.all = all
        self.former = former.allRules
        self.next = next.allRules
        formerPolicy = former
        policy = next
    }

    private static func denies(_ rules: Policy.Rules) -> Bool {
        rules.virtualIP.appliesToPrograms && rules.virtualIP.whenUnavailable == .deny
    }

    /// Whether a session without an address is refused what it was not refused before.
    func isNewlyDenied(_ place: Place) -> Bool {
        Self.denies(next[place.after]) && !Self.denies(former[place.before])
    }

    /// What changes for the sessions.
    var changes: [PolicyImpact.SessionChange] {
        struct Pair: Hashable { let before, after: Int }
        return Dictionary(grouping: all) { Pair(before: $0.before, after: $0.after) }.compactMap { pair, places in
            func name(_ policy: Policy, _ number: Int) -> String? {
                number == 0 ? nil : policy.overrides[number - 1].name
            }
            let names = (before: name(formerPolicy, pair.before), after: name(policy, pair.after))
            var changes = former[pair.before].changes(to: next[pair.after])
            if names.before != names.after {
                func text(_ name: String?) -> String { name.map { "override \($0)" } ?? "the base policy" }
                changes.insert("\(text(names.after)) holds in place of \(text(names.before))", at: 0)
            }
            guard !changes.isEmpty else { return nil }
            return PolicyImpact.SessionChange(
                sessions: places.map(\.record.id).sorted(), override: names, changes: changes)
        }.sorted { $0.sessions[0] < $1.sessions[0] }
    }

    /// The hazards of sessions that nothing gives an address: one for each section of the policy that refuses their
    /// calls.
    ///
    /// - Parameter noPool: the policy's other hazards, which may say the same.
    func withoutAddress(noPool: [PolicyHazard]) -> [PolicyHazard] {
        var sections: [String: Set<Int>] = [:]
        for place in all where place.record.addresses.isEmpty && Self.denies(next[place.after]) {
            guard !noPool.contains(where: { $0.kind == .noPool && $0.numbers.contains(place.after) }) else { continue }
            let isOwn = place.after > 0 && policy.overrides[place.after - 1].virtualIP != nil
            sections[isOwn ? "overrides[\(place.after - 1)].virtualIP" : "virtualIP", default: []].insert(place.after)
        }
        return sections.sorted { $0.key < $1.key }.map { section, numbers in
            PolicyHazard(
                kind: .unaddressedSessions, key: "\(section).enabled",
                message: "open sessions have no address, no daemon runs that would give them one, and "
                    + "whenUnavailable: deny refuses their programs servers and connections",
                hint: "start the daemon (systemctl start vip-bpfd), open these sessions again, or use "
                    + "whenUnavailable: useHostAddress",
                numbers: numbers)
        }
    }
}
