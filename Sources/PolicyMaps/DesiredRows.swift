// SPDX-License-Identifier: Apache-2.0

public import CVipABI
import Glibc
public import Host
public import Network
public import Policy
public import SystemPackage

/// The properties of a session that the maps contain.
public struct SessionRow: Hashable, Sendable {
    public var id: UInt32
    public var cgroupID: UInt64
    /// The depth of the cgroup below the cgroup v2 root.
    public var level: UInt32
    public var virtualIPs: [IPAddress]
    /// The number of its policy: 0 for the base, n for the n-th override.
    public var policyNumber: Int

    public init(id: UInt32, cgroupID: UInt64, level: UInt32, virtualIPs: [IPAddress], policyNumber: Int = 0) {
        self.id = id
        self.cgroupID = cgroupID
        self.level = level
        self.virtualIPs = virtualIPs
        self.policyNumber = policyNumber
    }

    public var virtualIPv4: IPAddress? { virtualIPs.first { $0.family == .v4 } }
    public var virtualIPv6: IPAddress? { virtualIPs.first { $0.family == .v6 } }
}

/// The contents that the maps should have, for a policy, its sessions and the host's addresses. Only this type decides
/// them.
///
/// It knows nothing of banks and generations: ``PolicyMapSet`` writes it into the bank that is not in force.
public struct DesiredRows: Sendable {
    /// The policies by number.
    public var policies: [vip_policy] = []
    /// The programs by executable name, by process name and by file.
    public var names: [vip_program_name: ListMasks] = [:]
    public var scripts: [vip_program_script: ListMasks] = [:]
    public var files: [vip_program_file: ListMasks] = [:]
    public var sessions: [SessionRow] = []
    public var addresses: [vip_address: vip_address_owner] = [:]
    /// The prefixes whose addresses belong to sessions even if no session has them now, and the host's exceptions:
    /// `enum vip_owner`.
    public var governed: [vip_prefix: UInt32] = [:]
    /// The host's own IPv4 addresses except loopback addresses, as numbers in host byte order.
    public var hostIPv4: [UInt32] = []
    /// The host's own IPv6 addresses except ::1, link-local ones included.
    public var hostIPv6: [IPAddress] = []
    /// The prefix of the sessions' IPv6 loopbacks; `nil` if the host has none.
    public var loopbackPrefix: LoopbackPrefix?
    /// The depths of the sessions' cgroups, ascending.
    public var levels: [UInt32] = []
    /// The bits of `enum vip_config_flag`.
    public var configFlags: UInt32 = 0
    /// Problems that are not errors: for example, a listed path without a file.
    public var warnings: [String] = []

    /// - Parameters:
    ///   - broadcasts: the network and broadcast addresses of the host's IPv4 networks.
    ///   - hostLoopbacks: the addresses of 127/8 that no session gets.
    ///   - loopbackPrefix: the prefix of the sessions' IPv6 loopbacks, if the host has made it local.
    ///   - identity: returns the file that a listed path leads to now; `nil` if there is none.
    public init(
        policy: Policy, sessions: [SessionRow], hostAddresses: some Sequence<IPAddress>, broadcasts: [IPAddress] = [],
        hostLoopbacks: [IPAddress] = [], loopbackPrefix: LoopbackPrefix? = nil,
        isScript: (FilePath) -> Bool = ProgramFile.isScript,
        identity: (FilePath) throws(Failure) -> vip_program_file?
    ) throws(Failure) {
        let overrides: [Policy.Override?] = [nil] + policy.overrides
        var identities: [FilePath: vip_program_file?] = [:]
        for (number, override) in overrides.enumerated() {
            let rules = policy.rules(for: override)
            policies.append(vip_policy(rules))
            if number == 0, policies[0].flags & VIP_POLICY_DENY_OUTSIDE.rawValue != 0 {
                configFlags |= VIP_CONFIG_DENY_OUTSIDE.rawValue
            }
            if rules.wildcardName == .asRequested { configFlags |= VIP_CONFIG_AS_REQUESTED.rawValue }
            let lists: [(ProgramList, [ProgramEntry])] = [
                (.virtualIP, rules.virtualIP.programs), (.loopback, rules.virtualLoopback.programs),
                (.preferLoopback, rules.preferLoopback.programs),
            ]
            for (list, entries) in lists {
                for entry in entries {
                    try add(
                        entry, to: list, of: number, identities: &identities, isScript: isScript, identity: identity)
                }
            }
        }
        self.sessions = sessions
        levels = try Self.levels(of: sessions)
        let hostAddresses = Array(hostAddresses)
        addresses = Self.owners(of: hostAddresses, broadcasts: broadcasts, sessions: sessions)
        governed = Self.governed(by: policy, hostLoopbacks: hostLoopbacks)
        let virtualIPs = Set(sessions.flatMap(\.virtualIPs))
        let own = hostAddresses.filter { !virtualIPs.contains($0) }
        hostIPv4 = own.compactMap(\.hostIPv4)
        hostIPv6 = own.filter(\.isHostIPv6)
        self.loopbackPrefix = loopbackPrefix
    }

    private mutating func add(
        _ entry: ProgramEntry, to list: ProgramList, of number: Int, identities: inout [FilePath: vip_program_file?],
        isScript: (FilePath) -> Bool, identity: (FilePath) throws(Failure) -> vip_program_file?
    ) throws(Failure) {
        let bit = UInt32(1) << UInt32(number)
        switch entry {
        case .everyProgram:
            break  // it is a flag in the policy's row
        case .name(let name):
            let bytes = Array(name.utf8)
            if let key = vip_program_name(bytes) { names[key, default: ListMasks()][list] |= bit }
            scripts[vip_program_script(bytes), default: ListMasks()][list] |= bit
        case .path(let path):
            let found: vip_program_file?
            if let known = identities[path] {
                found = known
            } else {
                found = try identity(path)
                identities[path] = .some(found)
                if found == nil {
                    warnings.append("program \(path): there is no such file; apply the policy again once it is there")
                } else if isScript(path) {
                    warnings.append("program \(path): a script runs under its interpreter; list it by its name instead")
                }
            }
            if let found { files[found, default: ListMasks()][list] |= bit }
        }
    }

    /// All of 127/8 and the pools are sessions'; of 127/8 some addresses are the host's.
    private static func governed(by policy: Policy, hostLoopbacks: [IPAddress]) -> [vip_prefix: UInt32] {
        var rows = [vip_prefix(.loopback4): VIP_OWNER_SESSION.rawValue]
        let sections = [policy.virtualIP] + policy.overrides.compactMap(\.virtualIP)
        for prefix in sections.flatMap(\.addresses.pool).flatMap(\.prefixes) {
            rows[vip_prefix(prefix)] = VIP_OWNER_SESSION.rawValue
        }
        let exceptions = hostLoopbacks.map { AddressRange($0) } + (policy.virtualLoopback.hostAddresses ?? [])
        for prefix in exceptions.flatMap(\.prefixes) { rows[vip_prefix(prefix)] = VIP_OWNER_HOST.rawValue }
        return rows
    }

    /// The distinct depths of the sessions' cgroups. The hooks look for a session at each of them.
    public static func levels(of sessions: some Sequence<SessionRow>) throws(Failure) -> [UInt32] {
        try checked(Set(sessions.map(\.level)))
    }

    /// The depths for the map, ascending. Throws if there are more than it holds.
    public static func checked(_ levels: Set<UInt32>) throws(Failure) -> [UInt32] {
        guard levels.count <= Int(VIP_LEVELS_MAX) else {
            throw Failure(
                .failed, "set where sessions are", "their cgroups are at \(levels.count) different depths",
                hint: "keep them at \(VIP_LEVELS_MAX) depths at most")
        }
        return levels.sorted()
    }

    /// The owner of each address. A session's address is the session's although it is on the host's interface.
    public static func owners(
        of hostAddresses: some Sequence<IPAddress>, broadcasts: [IPAddress] = [], sessions: some Sequence<SessionRow>
    ) -> [vip_address: vip_address_owner] {
        var owners: [vip_address: vip_address_owner] = [:]
        for address in broadcasts {
            owners[vip_address(address)] = vip_address_owner(owner: VIP_OWNER_BROADCAST.rawValue, id: 0)
        }
        // The hooks recognise 127/8 and ::1 by their values, so they need no row.
        for address in hostAddresses where !address.isLoopback {
            owners[vip_address(address)] = vip_address_owner(owner: VIP_OWNER_HOST.rawValue, id: 0)
        }
        for session in sessions {
            for address in session.virtualIPs {
                owners[vip_address(address)] = vip_address_owner(owner: VIP_OWNER_SESSION.rawValue, id: session.id)
            }
        }
        return owners
    }
}

extension IPAddress {
    /// The number of an IPv4 address outside 127/8; `nil` for any other address.
    var hostIPv4: UInt32? { isLoopback ? nil : v4 }

    /// Whether it is an IPv6 address, and not ::1.
    var isHostIPv6: Bool { family == .v6 && !isLoopback }
}
