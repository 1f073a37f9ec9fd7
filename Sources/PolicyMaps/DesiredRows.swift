// SPDX-License-Identifier: Apache-2.0

public import CVipABI
import Glibc
public import Host
public import Network
public import Policy
public import SystemPackage

/// What the maps need to know of a session.
public struct SessionRow: Hashable, Sendable {
    public var id: UInt32
    public var cgroupID: UInt64
    /// Depth of the cgroup below the cgroup v2 root.
    public var level: UInt32
    public var virtualIPs: [IPAddress]
    /// Number of its policy: 0 for the base, n for the n-th override.
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

/// What should be in the maps, for a policy, its sessions and the host's addresses: the one place where that is decided.
///
/// It knows nothing of banks and generations; ``PolicyMapSet`` writes it into the bank that is not in force.
public struct DesiredRows: Sendable {
    /// By policy number.
    public var policies: [vip_policy] = []
    /// Programs by executable name, by process name, by file.
    public var names: [vip_program_name: ListMasks] = [:]
    public var scripts: [vip_program_script: ListMasks] = [:]
    public var files: [vip_program_file: ListMasks] = [:]
    public var sessions: [SessionRow] = []
    public var addresses: [vip_address: vip_address_owner] = [:]
    /// The host's own IPv4 addresses beside the loopback, as numbers in host byte order.
    public var hostIPv4: [UInt32] = []
    /// The same of IPv6, link-local ones among them.
    public var hostIPv6: [IPAddress] = []
    /// The prefix of the sessions' IPv6 loopbacks; `nil` where this host has none.
    public var loopbackPrefix: LoopbackPrefix?
    /// Depths of the sessions' cgroups, ascending.
    public var levels: [UInt32] = []
    /// `enum vip_config_flag`.
    public var configFlags: UInt32 = 0
    /// What an administrator should know though it is no error: a listed path with no file, say.
    public var warnings: [String] = []

    /// - Parameters:
    ///   - broadcasts: Network and broadcast addresses of the host's IPv4 networks.
    ///   - loopbackPrefix: Of the sessions' IPv6 loopbacks, where the host has made it local.
    ///   - identity: The file that a listed path means now, `nil` where there is none.
    public init(
        policy: Policy, sessions: [SessionRow], hostAddresses: some Sequence<IPAddress>, broadcasts: [IPAddress] = [],
        loopbackPrefix: LoopbackPrefix? = nil,
        isScript: (FilePath) -> Bool = ProgramFile.isScript,
        identity: (FilePath) throws(Failure) -> vip_program_file?
    ) throws(Failure) {
        let overrides: [Policy.Override?] = [nil] + policy.overrides
        var identities: [FilePath: vip_program_file?] = [:]
        for (number, override) in overrides.enumerated() {
            let rules = policy.rules(for: override)
            policies.append(vip_policy(rules))
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
            break  // a flag of the policy's row
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

    /// The different depths of the sessions' cgroups: the kernel looks for a session at each of them.
    public static func levels(of sessions: some Sequence<SessionRow>) throws(Failure) -> [UInt32] {
        try checked(Set(sessions.map(\.level)))
    }

    /// Depths as the map has them, ascending; fails where there are more than it holds.
    public static func checked(_ levels: Set<UInt32>) throws(Failure) -> [UInt32] {
        guard levels.count <= Int(VIP_LEVELS_MAX) else {
            throw Failure(
                .failed, "set where sessions are", "their cgroups are at \(levels.count) different depths",
                hint: "keep them at \(VIP_LEVELS_MAX) depths at most")
        }
        return levels.sorted()
    }

    /// Whose each address is. A session's address is the session's though it is on the host's interface too.
    public static func owners(
        of hostAddresses: some Sequence<IPAddress>, broadcasts: [IPAddress] = [], sessions: some Sequence<SessionRow>
    ) -> [vip_address: vip_address_owner] {
        var owners: [vip_address: vip_address_owner] = [:]
        for address in broadcasts {
            owners[vip_address(address)] = vip_address_owner(owner: VIP_OWNER_BROADCAST.rawValue, id: 0)
        }
        // 127/8 and ::1 are nobody's: the kernel side knows them by their numbers.
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
    /// The number of an IPv4 address outside 127/8; `nil` for any other.
    var hostIPv4: UInt32? { isLoopback ? nil : v4 }

    /// Whether it is an IPv6 address, and not ::1.
    var isHostIPv6: Bool { family == .v6 && !isLoopback }
}
