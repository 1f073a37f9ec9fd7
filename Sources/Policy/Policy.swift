// SPDX-License-Identifier: Apache-2.0

import CVipABI
import Glibc
public import Host
public import Network

/// A policy: which features are on, for which programs, for which sessions.
///
/// `Policy()` holds if there is no file. The properties have the names of the file's keys, and so have the keys that it
/// encodes to. Its JSON form is therefore a policy file too, unless a name in it contains an unescaped U+2028 or
/// U+2029.
public struct Policy: Hashable, Sendable, Codable {
    public var virtualIP: VirtualIP
    public var virtualLoopback: VirtualLoopback
    public var preferLoopback: PreferLoopback
    public var wildcardName: WildcardName
    /// Whether one session's programs are refused the addresses of another session.
    public var isolation: Bool
    public var sessions: SessionsSection
    public var history: History
    /// The overrides in the file's order; the first that matches a session applies to it. At most `overrideLimit`.
    public var overrides: [Override]

    /// How many overrides fit the `policies` map; number 0 is the base policy.
    public static let overrideLimit = Int(VIP_POLICIES_PER_BANK) - 1

    public init(
        virtualIP: VirtualIP = VirtualIP(), virtualLoopback: VirtualLoopback = VirtualLoopback(),
        preferLoopback: PreferLoopback = PreferLoopback(), wildcardName: WildcardName = .virtual,
        isolation: Bool = true, sessions: SessionsSection = SessionsSection(), history: History = History(),
        overrides: [Override] = []
    ) {
        self.virtualIP = virtualIP
        self.virtualIP.withoutSession = virtualIP.withoutSession ?? .allow
        self.virtualIP.dualStackServers = virtualIP.dualStackServers ?? VirtualIP.defaultDualStackServers
        self.virtualIP.addresses.restSeconds =
            virtualIP.addresses.restSeconds ?? Addresses.defaultRestSeconds
        self.virtualIP.addresses.probeSeconds =
            virtualIP.addresses.probeSeconds ?? Addresses.defaultProbeSeconds
        self.virtualLoopback = virtualLoopback
        self.virtualLoopback.prefix = virtualLoopback.prefix ?? .default
        self.preferLoopback = preferLoopback
        self.wildcardName = wildcardName
        self.isolation = isolation
        self.sessions = sessions
        self.history = history
        self.overrides = overrides
    }

    /// A policy that an earlier version has stored lacks some keys; it gets their defaults.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        self.init(
            virtualIP: try container.decode(VirtualIP.self, forKey: .virtualIP),
            virtualLoopback: try container.decode(VirtualLoopback.self, forKey: .virtualLoopback),
            preferLoopback: try container.decode(PreferLoopback.self, forKey: .preferLoopback),
            wildcardName: try container.decode(WildcardName.self, forKey: .wildcardName),
            isolation: try container.decode(Bool.self, forKey: .isolation),
            sessions: try container.decode(SessionsSection.self, forKey: .sessions),
            history: try container.decode(History.self, forKey: .history),
            overrides: try container.decode([Override].self, forKey: .overrides))
    }
}

extension Policy {
    /// Programs get the session's own address if they ask for the wildcard or a host address.
    public struct VirtualIP: Hashable, Sendable, Codable {
        /// The programs to which it applies.
        public enum Mode: String, CaseIterable, Sendable, Codable {
            /// All programs of a session.
            case perSession
            /// The programs on `programs`.
            case perProgram
        }

        /// What the programs get in a session that has no virtual IP.
        public enum WhenUnavailable: String, CaseIterable, Sendable, Codable {
            /// EADDRNOTAVAIL.
            case deny
            /// The host's address, as if virtual IP were off.
            case useHostAddress
        }

        /// What a program gets that is not root's, below an attached cgroup and in no session.
        public enum WithoutSession: String, CaseIterable, Sendable, Codable {
            /// The host's address, as any program.
            case allow
            /// EADDRNOTAVAIL, as in a session without a virtual IP.
            case deny
        }

        public var enabled: Bool
        public var mode: Mode
        public var programs: [ProgramEntry]
        public var whenUnavailable: WhenUnavailable
        /// The base policy alone has a value, and always.
        public var withoutSession: WithoutSession?
        /// How many TCP servers on `::` without IPV6_V6ONLY a session may have that are reached by IPv6, at most
        /// `dualStackServerLimit`. The base policy always has a value; `nil` in an override means the base's.
        public var dualStackServers: Int?
        /// Ports in host byte order, 1…65535, ascending, on which a bind to the wildcard stays as it is, so that the
        /// socket hears groups and broadcasts. `nil` is none.
        public var excludedPorts: [UInt16]?
        public var addresses: Addresses

        /// The default. The `listeners` map holds 65,536 for all sessions together.
        public static let defaultDualStackServers = 256
        /// All that the map holds.
        public static let dualStackServerLimit = 65536

        public init(
            enabled: Bool = false, mode: Mode = .perProgram, programs: [ProgramEntry] = [],
            whenUnavailable: WhenUnavailable = .deny, withoutSession: WithoutSession? = nil,
            dualStackServers: Int? = nil, excludedPorts: [UInt16]? = nil, addresses: Addresses = Addresses()
        ) {
            self.enabled = enabled
            self.mode = mode
            self.programs = programs
            self.whenUnavailable = whenUnavailable
            self.withoutSession = withoutSession
            self.dualStackServers = dualStackServers
            self.excludedPorts = excludedPorts?.sorted()
            self.addresses = addresses
        }
    }

    /// The source of virtual IPs, and their placement.
    public struct Addresses: Hashable, Sendable, Codable {
        public enum Source: String, CaseIterable, Sendable, Codable {
            /// From `pool`.
            case pool
            /// IPv4 addresses from a DHCP server on the interface's network, by the daemon; IPv6 addresses from `pool`.
            case dhcp

            /// Whether IPv4 addresses come from a lease that the daemon keeps, not from `pool`.
            public var isLeased: Bool { self == .dhcp }
        }

        /// How the addresses become the host's.
        public enum Placement: String, CaseIterable, Sendable, Codable {
            /// As long as a session has it, each IPv4 address has a local route to the interface, and each IPv6 address
            /// is on it.
            case route
            /// Each address is on the interface as long as a session has it.
            case address
            /// The pool's prefixes, which are routed to this host, are made local as a whole.
            case prefix
        }

        public var source: Source
        /// The placement of the addresses; `nil` means ``defaultPlacement``. An override without a pool of its own
        /// takes the base's.
        public var placement: Placement?
        /// The interface that they are placed on, at most 15 bytes; `nil` for that of the default route, or `lo`
        /// without one.
        public var interface: String?
        /// The ranges, which are used in this order; with `source: dhcp`, for IPv6 alone. No two ranges of a policy
        /// overlap, including those of its overrides.
        public var pool: [AddressRange]
        /// How long an address of the pool rests after use before another user gets it, in seconds, at most
        /// `restLimit`. The base policy always has a value; `nil` in an override means the base's.
        public var restSeconds: Int?
        /// How long to ask on the link whether another host has an address before a session gets it, in seconds, at
        /// most `probeLimit`; 0 does not ask. `nil` in an override means the base's, as for `restSeconds`.
        public var probeSeconds: Int?
        /// Addresses of the pool that are reserved for users; at most one reservation for each user.
        public var reservations: [Reservation]

        public static let defaultPlacement = Placement.route
        /// Longer than other hosts usually remember an address in connections, neighbour tables and most caches.
        public static let defaultRestSeconds = 60
        /// One day.
        public static let restLimit = 86400
        /// One question. RFC 5227 (section 1.1) asks three times in 4 to 7 s, which is too long to wait at a login.
        public static let defaultProbeSeconds = 1
        /// More than the three of RFC 5227.
        public static let probeLimit = 10

        public init(
            source: Source = .pool, placement: Placement? = nil, interface: String? = nil, pool: [AddressRange] = [],
            restSeconds: Int? = nil, probeSeconds: Int? = nil, reservations: [Reservation] = []
        ) {
            self.source = source
            self.placement = placement
            self.interface = interface
            self.pool = pool
            self.restSeconds = restSeconds
            self.probeSeconds = probeSeconds
            self.reservations = reservations
        }
    }

    /// Addresses of the pool that only one user gets.
    public struct Reservation: Hashable, Sendable, Codable {
        /// The user's name, compared as it is written.
        public var user: String
        /// In the order in which the user's sessions get them. All are in the pool, and each is in one reservation
        /// only.
        public var addresses: [IPAddress]

        public init(user: String, addresses: [IPAddress]) {
            self.user = user
            self.addresses = addresses
        }
    }

    /// Programs get the session's own 127.x if they ask for 127.0.0.1.
    public struct VirtualLoopback: Hashable, Sendable, Codable {
        /// Where a connection to 127.0.0.1 goes if nothing of the session listens on the port.
        public enum Fallback: String, CaseIterable, Sendable, Codable {
            /// It still goes to the session's loopback.
            case none
            /// It goes to 127.0.0.1.
            case host
        }

        /// How the IPv6 loopbacks become the host's.
        public enum Placement: String, CaseIterable, Sendable, Codable {
            /// Each is an address of lo, as long as its session is open.
            case address
            /// A route makes their prefix local as a whole, and net.ipv6.ip_nonlocal_bind is 1.
            case route
        }

        public var enabled: Bool
        public var programs: [ProgramEntry]
        /// Ports in host byte order, 1…65535, on which 127.0.0.1 is not replaced.
        public var excludedPorts: Set<UInt16>
        public var fallback: Fallback
        /// The prefix of the IPv6 loopbacks. It holds for the whole host: only the base policy has one.
        public var prefix: LoopbackPrefix?
        /// The placement of the IPv6 loopbacks, for the whole host; `nil` means `address`. The base policy alone has
        /// it.
        public var placement: Placement?
        /// Addresses of 127/8 that services of the host use: no session gets them. `nil` is none; the base policy alone
        /// has them.
        public var hostAddresses: [AddressRange]?

        public init(
            enabled: Bool = false, programs: [ProgramEntry] = [], excludedPorts: Set<UInt16> = [],
            fallback: Fallback = .none, prefix: LoopbackPrefix? = nil, placement: Placement? = nil,
            hostAddresses: [AddressRange]? = nil
        ) {
            self.enabled = enabled
            self.programs = programs
            self.excludedPorts = excludedPorts
            self.fallback = fallback
            self.prefix = prefix
            self.placement = placement
            self.hostAddresses = hostAddresses
        }

        private enum CodingKeys: CodingKey {
            case enabled, programs, excludedPorts, fallback, prefix, placement, hostAddresses
        }

        /// As `Codable` would, but with the ports sorted: the order of a set differs from process to process.
        public func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(enabled, forKey: .enabled)
            try container.encode(programs, forKey: .programs)
            try container.encode(excludedPorts.sorted(), forKey: .excludedPorts)
            try container.encode(fallback, forKey: .fallback)
            try container.encodeIfPresent(prefix, forKey: .prefix)
            try container.encodeIfPresent(placement, forKey: .placement)
            try container.encodeIfPresent(hostAddresses, forKey: .hostAddresses)
        }
    }

    /// Programs get the session's loopback if they ask for the wildcard or a host address. Needs virtual IP and virtual
    /// loopback.
    public struct PreferLoopback: Hashable, Sendable, Codable {
        public var enabled: Bool
        public var programs: [ProgramEntry]

        public init(enabled: Bool = false, programs: [ProgramEntry] = []) {
            self.enabled = enabled
            self.programs = programs
        }
    }

    /// What getsockname(2) returns for a socket that was bound to the wildcard.
    public enum WildcardName: String, CaseIterable, Sendable, Codable {
        /// The virtual IP.
        case virtual
        /// The wildcard.
        case asRequested
    }

    /// Which cgroups become sessions as users log in.
    public struct SessionsSection: Hashable, Sendable, Codable {
        public enum Unit: String, CaseIterable, Sendable, Codable {
            /// One session for each user: `user-1000.slice`.
            case userSlice
            /// One session for each login: `session-3.scope`.
            case sessionScope
        }

        public var unit: Unit

        public init(unit: Unit = .userSlice) {
            self.unit = unit
        }
    }

    /// What is kept about past sessions.
    public struct History: Hashable, Sendable, Codable {
        /// A quarter of a year: long enough for abuse reports.
        public static let defaultRetentionDays = 90
        /// A hundred years.
        public static let retentionLimit = 36500

        /// For how many days after a session's end its record is kept, at most `retentionLimit`; 0 keeps none.
        public var retentionDays: Int

        public init(retentionDays: Int = Self.defaultRetentionDays) {
            self.retentionDays = retentionDays
        }
    }

    /// Sections that replace whole sections of the base policy in the sessions that it matches.
    public struct Override: Hashable, Sendable, Codable {
        /// The name: not empty, and no two overrides of a policy have the same.
        public var name: String
        public var match: Match
        public var virtualIP: VirtualIP?
        public var virtualLoopback: VirtualLoopback?
        public var preferLoopback: PreferLoopback?
        public var wildcardName: WildcardName?
        public var isolation: Bool?

        public init(
            name: String, match: Match = Match(), virtualIP: VirtualIP? = nil,
            virtualLoopback: VirtualLoopback? = nil, preferLoopback: PreferLoopback? = nil,
            wildcardName: WildcardName? = nil, isolation: Bool? = nil
        ) {
            self.name = name
            self.match = match
            self.virtualIP = virtualIP
            self.virtualLoopback = virtualLoopback
            self.preferLoopback = preferLoopback
            self.wildcardName = wildcardName
            self.isolation = isolation
        }
    }

    /// The sessions that an override applies to: those that match any entry of any list. An override whose lists are
    /// all empty applies only to sessions that ask for it by name.
    public struct Match: Hashable, Sendable, Codable {
        /// User names, compared as they are written.
        public var users: [String]
        /// Group names, compared as they are written.
        public var groups: [String]
        /// Patterns of fnmatch(3) for the name of the systemd unit.
        public var units: [String]

        public init(users: [String] = [], groups: [String] = [], units: [String] = []) {
            self.users = users
            self.groups = groups
            self.units = units
        }

        public func matches(_ traits: SessionTraits) -> Bool {
            if let user = traits.user, users.contains(user) { return true }
            if traits.groups.contains(where: groups.contains) { return true }
            guard let unit = traits.unit else { return false }
            // No flags: `*` matches any characters, because names of units have no slash.
            return units.contains { fnmatch($0, unit, 0) == 0 }
        }
    }

    /// The sections that apply to one session.
    public struct Rules: Hashable, Sendable {
        public var virtualIP: VirtualIP
        public var virtualLoopback: VirtualLoopback
        public var preferLoopback: PreferLoopback
        public var wildcardName: WildcardName
        public var isolation: Bool

        public init(
            virtualIP: VirtualIP, virtualLoopback: VirtualLoopback, preferLoopback: PreferLoopback,
            wildcardName: WildcardName, isolation: Bool
        ) {
            self.virtualIP = virtualIP
            self.virtualLoopback = virtualLoopback
            self.preferLoopback = preferLoopback
            self.wildcardName = wildcardName
            self.isolation = isolation
        }
    }

    /// The prefix of the sessions' IPv6 loopbacks, on this host.
    public var loopbackPrefix: LoopbackPrefix { virtualLoopback.prefix ?? .default }

    /// The base policy, with the sections that the override names in place of its own.
    ///
    /// If an override's `virtualIP` gives neither a pool nor `source: dhcp`, it takes its addresses from the base's
    /// pool. Otherwise it could not share that pool, because the same range cannot be written twice.
    public func rules(for override: Override?) -> Rules {
        var virtualIP = override?.virtualIP ?? self.virtualIP
        if virtualIP.addresses.source == .dhcp {
            virtualIP.addresses.interface = virtualIP.addresses.interface ?? self.virtualIP.addresses.interface
        } else if virtualIP.addresses.pool.isEmpty {
            virtualIP.addresses.source = self.virtualIP.addresses.source
            virtualIP.addresses.pool = self.virtualIP.addresses.pool
            virtualIP.addresses.interface = virtualIP.addresses.interface ?? self.virtualIP.addresses.interface
            virtualIP.addresses.placement = self.virtualIP.addresses.placement
            virtualIP.addresses.reservations = self.virtualIP.addresses.reservations
        }
        virtualIP.withoutSession = self.virtualIP.withoutSession
        virtualIP.dualStackServers = virtualIP.dualStackServers ?? self.virtualIP.dualStackServers
        virtualIP.addresses.restSeconds = virtualIP.addresses.restSeconds ?? self.virtualIP.addresses.restSeconds
        virtualIP.addresses.probeSeconds = virtualIP.addresses.probeSeconds ?? self.virtualIP.addresses.probeSeconds
        return Rules(
            virtualIP: virtualIP,
            virtualLoopback: override?.virtualLoopback ?? virtualLoopback,
            preferLoopback: override?.preferLoopback ?? preferLoopback,
            wildcardName: override?.wildcardName ?? wildcardName,
            isolation: override?.isolation ?? isolation)
    }

    /// Whether some sessions' addresses are leased.
    public var leasesAddresses: Bool {
        allRules.contains { $0.virtualIP.enabled && $0.virtualIP.addresses.source.isLeased }
    }

    /// The rules of the base policy and of each override, by their numbers.
    public var allRules: [Rules] { (0...overrides.count).map(rules(number:)) }

    /// The rules of an override by its number, 1 for the first; those of the base policy for 0.
    public func rules(number: Int) -> Rules {
        rules(for: override(number: number))
    }

    /// The override with this number in the maps, which counts from 1. `nil` for 0, the base policy, and for a number
    /// that this policy does not have.
    public func override(number: Int) -> Override? {
        number > 0 && number <= overrides.count ? overrides[number - 1] : nil
    }

    /// The override of that name, and its number: 1 for the first. Number 0 is the base policy.
    public func override(named name: String) -> (number: Int, override: Override)? {
        numberedOverride { $0.name == name }
    }

    /// The first override that is for such a session, and its number: 1 for the first. Number 0 is the base policy.
    public func override(matching traits: SessionTraits) -> (number: Int, override: Override)? {
        numberedOverride { $0.match.matches(traits) }
    }

    private func numberedOverride(where fits: (Override) -> Bool) -> (number: Int, override: Override)? {
        overrides.firstIndex(where: fits).map { (number: $0 + 1, override: overrides[$0]) }
    }
}

/// The properties of a session that an override's `match` tests.
public struct SessionTraits: Hashable, Sendable {
    /// The user's name; `nil` if the session has no user.
    public var user: String?
    /// The names of the groups that the user is in.
    public var groups: [String]
    /// The systemd unit of the session's cgroup: `user-1000.slice`; `nil` if the cgroup is not a unit's.
    public var unit: String?

    public init(user: String? = nil, groups: [String] = [], unit: String? = nil) {
        self.user = user
        self.groups = groups
        self.unit = unit
    }
}

/// The program lists of a policy, by their names on the command line.
public enum ProgramList: String, CaseIterable, Sendable, Codable {
    case virtualIP = "virtual-ip"
    case loopback
    case preferLoopback = "prefer-loopback"
}

extension Policy {
    /// The entries on a list of the base policy.
    public subscript(list: ProgramList) -> [ProgramEntry] {
        get {
            switch list {
            case .virtualIP: virtualIP.programs
            case .loopback: virtualLoopback.programs
            case .preferLoopback: preferLoopback.programs
            }
        }
        set {
            switch list {
            case .virtualIP: virtualIP.programs = newValue
            case .loopback: virtualLoopback.programs = newValue
            case .preferLoopback: preferLoopback.programs = newValue
            }
        }
    }

    /// Appends an entry to a list of the base policy.
    ///
    /// - Throws: `Failure` if it is on the list already.
    public mutating func add(_ entry: ProgramEntry, to list: ProgramList) throws(Failure) {
        guard !self[list].contains(entry) else {
            throw Failure(
                .failed, "add \(entry.description.quotedForMessage) to the list \(list.rawValue)",
                "it is on the list already")
        }
        self[list].append(entry)
    }

    /// Removes an entry from a list of the base policy.
    ///
    /// - Throws: `Failure` if it is not on the list.
    public mutating func remove(_ entry: ProgramEntry, from list: ProgramList) throws(Failure) {
        guard let index = self[list].firstIndex(of: entry) else {
            let others = ProgramList.allCases.filter { self[$0].contains(entry) }.map(\.rawValue)
            throw Failure(
                .failed, "remove \(entry.description.quotedForMessage) from the list \(list.rawValue)",
                "it is not on the list",
                hint: others.isEmpty ? nil : "it is on \(others.joined(separator: " and "))")
        }
        self[list].remove(at: index)
    }
}
