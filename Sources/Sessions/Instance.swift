// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import Glibc
public import Host
public import Logging
import Network
public import Policy
public import PolicyMaps
public import SystemPackage

/// An instance of vip-bpf on a host. It keeps pins, registry and interfaces in agreement.
///
/// An address passes from the provider to the registry, the interface and the map, and back in the reverse order. The
/// session's record has the state. So everything that a killed command leaves is known, and ``Change`` repairs it
/// first.
public struct Instance: Sendable {
    public private(set) var pins: PinDirectory
    public let state: StateDirectory

    /// The file of the policy if none is named.
    public static let defaultPolicyFile = FilePath("/etc/vip-bpf/policy.yaml")

    public init(bpffs: FilePath, state: FilePath) {
        pins = PinDirectory(bpffs)
        self.state = StateDirectory(state)
    }

    /// The same instance for `detach`: ``PinDirectory/forRemoval()``.
    public func forRemoval() throws(Failure) -> Instance {
        var copy = self
        copy.pins = try pins.forRemoval()
        return copy
    }

    /// Opens the registry for reading. This needs neither the lock nor write permission, unless a process was killed in
    /// the middle of a write: root then undoes that write first. A caller who may not open it gets the snapshot for
    /// members of a group.
    ///
    /// - Throws: ``Failure`` as ``OwnedDirectory/requireSafe()`` and as ``Registry``; (not permitted) if the caller is
    ///   neither root nor such a member.
    public func registry() throws(Failure) -> Registry {
        try OwnedDirectory(state.path).requireSafe()
        do throws(Failure) {
            return try Registry(state.registry, access: .readOnly)
        } catch  where error.code == .interruptedWrite && geteuid() == 0 {
            let lock = try state.lock()
            defer { _ = lock }
            _ = try Registry(state.registry, access: .readWrite)
            return try Registry(state.registry, access: .readOnly)
        } catch {
            guard error.errno == .permissionDenied, geteuid() != 0 else { throw error }
        }
        do throws(Failure) {
            return try Registry(state.snapshot, access: .snapshot)
        } catch {
            guard [.permissionDenied, .noSuchFileOrDirectory].contains(error.errno) else { throw error }
            throw Failure(
                .notPermitted, "read registry \(state.registry)",
                "it is for root, and for members of the group that 'attach cgroup PATH --group NAME' names",
                hint: "run as root", errno: .permissionDenied)
        }
    }

    /// Takes the lock, opens the registry, and repairs what a killed command has left.
    ///
    /// - Parameters:
    ///   - logger: receives what was repaired.
    ///   - repairing: `false` for a change that must work in any state, or changes nothing.
    ///   - isRemoval: whether everything is to be removed. That works also if the sessions' network namespace no longer
    ///     exists.
    public func change(
        _ logger: Logger, repairing: Bool = true, isRemoval: Bool = false
    ) throws(Failure) -> Change {
        var change = try Change(self, logger)
        try change.requireSamePlace(isRemoval: isRemoval)
        if repairing {
            try change.requireKnownSessions()
            try change.repair()
            try change.settleTrial()
        }
        return change
    }

    /// The version of the registry, which rises with every transaction that changes it, of any process; `nil` if it
    /// cannot be read.
    public var registryVersion: UInt32? { Registry.changeCounter(of: state.registry) }

    /// The policy in force; the defaults if none was applied.
    public func policy(_ registry: Registry) throws(Failure) -> Policy {
        try registry.policy() ?? Policy()
    }
}

extension Registry.Setting {
    /// The directory of pins that the registry belongs to, set by the first attach.
    static let pins = Registry.Setting(rawValue: "pins")
    /// The network namespace of the sessions' addresses, and the boot: `BOOT-ID INODE`.
    static let network = Registry.Setting(rawValue: "network")
}

/// A change of an instance. It holds the lock as long as it exists.
public struct Change: ~Copyable {
    public let instance: Instance
    public let registry: Registry
    let netlink: Netlink
    let bootID: String
    let logger: Logger
    let settings: HostSettings
    /// Warnings for the administrator, also if the change succeeds.
    public internal(set) var warnings: [String] = []
    /// Sessions that were opened without an address, because the daemon leases it.
    public internal(set) var awaitingLease: [UInt32] = []
    /// Sessions that were opened without an address that they should have, and why.
    public internal(set) var unaddressed: [(session: UInt32, failure: Failure)] = []
    /// Programs that were found on addresses that sessions were to get, and what became of it.
    public internal(set) var squatters: [Squatter] = []
    /// Addresses with other programs' sockets, which no session gets in this change.
    var occupied: Set<IPAddress> = []
    private let lock: FileLock
    private let new: StateDirectory.New

    fileprivate init(_ instance: Instance, _ logger: Logger) throws(Failure) {
        var new = StateDirectory.New()
        let lock = try instance.state.lock(noting: &new)
        let parts: (registry: Registry, netlink: Netlink, bootID: String)
        do throws(Failure) {
            parts = (
                try Registry(instance.state.registry, access: .readWrite), try Netlink(), try BootID.current()
            )
        } catch {
            instance.state.remove(new)
            throw error
        }
        (registry, netlink, bootID) = parts
        self.instance = instance
        self.logger = logger
        settings = HostSettings(registry: registry, netlink: netlink, bootID: bootID, logger: logger)
        self.lock = lock
        self.new = new
    }

    /// If the registry was created by this change and is still empty, because it failed or did nothing, removes it.
    deinit {
        if !new.files.isEmpty, registry.isEmpty { return instance.state.remove(new) }
        do throws(Failure) { try publish() } catch { logger.warning("\(error)") }
    }

    var pins: PinDirectory { instance.pins }

    // MARK: Consistency

    /// Throws if the registry belongs to other pins, or the sessions' addresses are in another network namespace. Their
    /// links and addresses could not be removed from here.
    ///
    /// - Parameter isRemoval: whether everything is to be removed.
    fileprivate func requireSamePlace(isRemoval: Bool) throws(Failure) {
        if let other = try registry.value(of: .pins), other != pins.path.string {
            throw Failure(
                .failed, "use state directory \(instance.state.path)",
                "it belongs to the pins in \(other), not in \(pins.path)",
                hint: "name the other of the two with --state or --bpffs")
        }
        guard let noted = try networkElsewhere() else { return }
        if isRemoval, let inode = UInt64(noted.dropFirst(bootID.count + 1)), !NetworkNamespace.exists(inode: inode) {
            return
        }
        throw Failure(
            .failed, "use state directory \(instance.state.path)", "its sessions are in another network namespace",
            hint: "run in that one: nsenter --net=FILE vip-bpfctl …")
    }

    /// The network namespace of the sessions' addresses, if there are sessions and it is another one than the caller's.
    func networkElsewhere() throws(Failure) -> String? {
        guard let noted = try registry.value(of: .network), noted.hasPrefix(bootID), noted != (try settings.network()),
            !(try registry.usedIDs().isEmpty)
        else { return nil }
        return noted
    }

    /// Throws if the registry is a new one, and the kernel has sessions. The registry with them was lost, or another
    /// directory is meant: a new session could get the ID, and so the loopback, of one that the kernel still has.
    ///
    /// - Parameter code: of the failure.
    func requireKnownSessions(_ code: Failure.Code = .failed) throws(Failure) {
        guard try registry.value(of: .pins) == nil, pins.isLoaded, let maps = try? PolicyMapSet(pins) else { return }
        let count = try maps.sessions.rows().count
        guard count > 0 else { return }
        throw Failure(
            code, "use state directory \(instance.state.path)",
            "the kernel has \(count) sessions that registry \(instance.state.registry) does not know: it is not the one "
                + "that they were opened with, or it was lost",
            hint: "name the right one with --state, or start over: vip-bpfctl detach --all")
    }

    // MARK: Repair

    /// Completes or undoes what a killed command has left: a cgroup that is frozen, a policy that is half applied,
    /// sessions that are half open or half closed, sessions of an earlier boot, and sessions of a `run` that has ended.
    fileprivate func repair() throws(Failure) {
        try thawLeftovers()
        try settlePendingPolicy()
        try settleAddresses()
        try removeAbandonedRunCgroups()
        let left = try registry.unsettledSessions(bootID: bootID).filter { record in
            record.state != .open || record.bootID != bootID || isAbandoned(record)
        }
        guard !left.isEmpty else { return }
        let few = 3  // more would hide the command's own messages
        func ending(_ record: SessionRecord) -> SessionEnding {
            record.bootID != bootID ? .earlierBoot : record.state == .open ? .runKilled : .commandKilled
        }
        for record in left.prefix(few) {
            let reason =
                switch ending(record) {
                case .earlierBoot: "it is from an earlier boot"
                case .runKilled: "its run command was killed"
                default: "a command was killed while \(record.state) it"
                }
            logger.warning("closing session \(record.id): \(reason)")
        }
        if left.count > few { logger.warning("closing \(left.count - few) more sessions for similar reasons") }
        try tearDown(left.map { ($0, ending($0)) })
    }

    /// Removes cgroups that a killed `run` has made, `run-PID-STARTTIME`, if they are empty and no sessions.
    func removeAbandonedRunCgroups() throws(Failure) {
        for attachment in try registry.attachments() {
            for entry in (try? Directory.entries(of: attachment.path)) ?? [] {
                let name = entry.name
                let parts = name.split(separator: "-", omittingEmptySubsequences: false)
                guard parts.count == 3, parts[0] == "run", let pid = pid_t(parts[1]), let started = UInt64(parts[2]),
                    !ProcessIdentity(pid: pid, startTime: started).isAlive
                else { continue }
                guard let cgroup = try? Cgroup(path: attachment.path.appending(name)),
                    try registry.session(cgroupID: cgroup.id, bootID: bootID) == nil,
                    (try? cgroup.isPopulated()) == false
                else { continue }
                try? cgroup.remove()
            }
        }
    }

    /// Whether the session belongs to a `run` that was killed, and its cgroup is empty or was removed.
    private func isAbandoned(_ record: SessionRecord) -> Bool {
        guard record.keeper == .run, let keeper = record.keeperProcess, !keeper.isAlive else { return false }
        guard record.isCgroupThere, let cgroup = try? Cgroup(path: record.cgroupPath) else { return true }
        return (try? cgroup.isPopulated()) == false
    }

    // MARK: Facts

    /// All addresses of the host on all interfaces, including those of sessions.
    func hostAddresses() throws(Failure) -> [PlacedAddress] {
        try netlink.hostAddresses()
    }

    /// The sessions as rows for the maps, under `policy`.
    func rows(of records: [SessionRecord], under policy: Policy) throws(Failure) -> [SessionRow] {
        var groups: [String: [String]] = [:]  // looked up once for each user
        var rows: [SessionRow] = []
        rows.reserveCapacity(records.count)
        for record in records {
            rows.append(
                SessionRow(
                    id: record.id, cgroupID: record.cgroupID, level: record.cgroupLevel,
                    virtualIPs: record.addresses.map(\.address),
                    policyNumber: try policyNumber(of: record, under: policy, groups: &groups)))
        }
        return rows
    }

    /// The number of the override for a session: the one that was named when it was opened, or the first that matches.
    func policyNumber(
        of record: SessionRecord, under policy: Policy, groups: inout [String: [String]]
    ) throws(Failure) -> Int {
        try Instance.policyNumber(of: record, under: policy, groups: &groups)
    }
}

extension Instance {
    /// The number of the override for a session: the one that was named when it was opened, or the first that matches.
    ///
    /// - Parameter groups: the groups of users that were already looked up.
    package static func policyNumber(
        of record: SessionRecord, under policy: Policy, groups: inout [String: [String]]
    ) throws(Failure) -> Int {
        if policy.overrides.isEmpty { return 0 }
        if let name = record.policy {
            if let named = policy.override(named: name) { return named.number }
            return 0  // the override no longer exists; policy apply warns
        }
        var traits = SessionTraits(user: record.user)
        if let user = record.user {
            if let known = groups[user] {
                traits.groups = known
            } else {
                traits.groups = try SystemUsers.groups(of: user)
                groups[user] = traits.groups
            }
        }
        traits.unit = record.cgroupPath.lastComponent?.string
        return policy.override(matching: traits)?.number ?? 0
    }
}
