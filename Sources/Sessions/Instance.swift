// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import Logging
import Network
public import Policy
public import PolicyMaps
public import SystemPackage

/// One vip-bpf on a host: what is pinned, what is registered, and what is on the interfaces, kept in agreement.
///
/// An address flows provider → registry → interface → map, and back in that order; a session's record says how far it
/// has come. So whatever a killed command leaves behind is known, and ``Change`` repairs it before it does anything else.
public struct Instance: Sendable {
    public let pins: PinDirectory
    public let state: StateDirectory

    /// The base policy where no file is named.
    public static let defaultPolicyFile = FilePath("/etc/vip-bpf/policy.yaml")

    public init(bpffs: FilePath, state: FilePath) {
        pins = PinDirectory(bpffs)
        self.state = StateDirectory(state)
    }

    /// The registry, for reading: needs neither the lock nor the right to write.
    public func registry() throws(Failure) -> Registry {
        try Registry(state.registry, access: .readOnly)
    }

    /// Takes the lock, opens the registry and repairs what a killed command has left.
    ///
    /// - Parameters:
    ///   - logger: told what was repaired.
    ///   - repairing: `false` for the one change that takes everything away, and so must work with whatever there is.
    public func change(_ logger: Logger, repairing: Bool = true) throws(Failure) -> Change {
        let change = try Change(self, logger)
        try change.requireSamePlace()
        if repairing { try change.repair() }
        return change
    }

    /// Rises with every transaction that changes the registry, whoever's: the file change counter of SQLite's file format
    /// (section 1.3.8); `nil` where it cannot be read.
    public var registryVersion: UInt32? {
        guard let file = try? openFile(state.registry, O_RDONLY) else { return nil }
        defer { Glibc.close(file) }
        var bytes: [UInt8] = [0, 0, 0, 0]
        guard pread(file, &bytes, bytes.count, 24) == bytes.count else { return nil }
        return bytes.reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// The policy in force; the defaults where none was applied.
    public func policy(_ registry: Registry) throws(Failure) -> Policy {
        try registry.policy() ?? Policy()
    }
}

extension Registry.Setting {
    /// The directory of pins that the registry belongs to, since the first attach.
    static let pins = Registry.Setting(rawValue: "pins")
    /// The network namespace that the sessions' addresses are in, and the boot: `BOOT-ID INODE`.
    static let network = Registry.Setting(rawValue: "network")
}

/// A change of an instance that is under way: the holder of its lock.
public struct Change: ~Copyable {
    public let instance: Instance
    public let registry: Registry
    let netlink: Netlink
    let bootID: String
    let logger: Logger
    let settings: HostSettings
    /// What an administrator should know though the change succeeded.
    public internal(set) var warnings: [String] = []
    /// Sessions that were opened without an address, which the daemon leases for them.
    public internal(set) var awaitingLease: [UInt32] = []
    /// Sessions that were opened without an address, as they wanted it, and why there is none.
    public internal(set) var unaddressed: [(session: UInt32, failure: Failure)] = []
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

    /// A change that has registered nothing leaves no registry behind where there was none: it failed, or did nothing.
    deinit {
        if !new.files.isEmpty, registry.isEmpty { instance.state.remove(new) }
    }

    var pins: PinDirectory { instance.pins }

    // MARK: The right place

    /// Fails where the registry belongs to other pins, or the sessions' addresses are in another network namespace: what
    /// is taken away there would be forgotten and left where it is.
    fileprivate func requireSamePlace() throws(Failure) {
        if let other = try registry.value(of: .pins), other != pins.path.string {
            throw Failure(
                .failed, "use state directory \(instance.state.path)",
                "it belongs to the pins in \(other), not in \(pins.path)",
                hint: "name the other of the two with --state or --bpffs")
        }
        guard let noted = try registry.value(of: .network), noted.hasPrefix(bootID), noted != (try settings.network()),
            !(try registry.usedIDs().isEmpty)
        else { return }
        throw Failure(
            .failed, "use state directory \(instance.state.path)", "its sessions are in another network namespace",
            hint: "run in that one: nsenter --net=FILE vip-bpfctl …")
    }

    // MARK: Repair

    /// Finishes or undoes what a killed command has left: a policy half in force, sessions half open or half closed,
    /// sessions of an earlier boot, sessions of a `run` that is no more.
    fileprivate func repair() throws(Failure) {
        try settlePendingPolicy()
        try settleAddresses()
        try removeAbandonedRunCgroups()
        let left = try registry.unsettledSessions(bootID: bootID).filter { record in
            record.state != .open || record.bootID != bootID || isAbandoned(record)
        }
        guard !left.isEmpty else { return }
        let few = 3  // more would hide what else the command has to say
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

    /// Removes cgroups that a `run` made before it was killed, empty and with no session on them: `run-PID-STARTTIME`.
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

    /// Whether the session belongs to a `run` that was killed, and nothing runs in it any more.
    private func isAbandoned(_ record: SessionRecord) -> Bool {
        guard record.keeper == .run, let keeper = record.keeperProcess, !keeper.isAlive else { return false }
        guard record.isCgroupThere, let cgroup = try? Cgroup(path: record.cgroupPath) else { return true }
        return (try? cgroup.isPopulated()) == false
    }

    // MARK: Facts

    /// Every address of the host, of all interfaces, sessions' own among them.
    func hostAddresses() throws(Failure) -> [PlacedAddress] {
        try netlink.hostAddresses()
    }

    /// The sessions as the maps know them, under `policy`.
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

    /// The number of the override that holds for a session: the one named when it was opened, or the first that matches.
    func policyNumber(
        of record: SessionRecord, under policy: Policy, groups: inout [String: [String]]
    ) throws(Failure) -> Int {
        try Instance.policyNumber(of: record, under: policy, groups: &groups)
    }
}

extension Instance {
    /// The number of the override that holds for a session: the one named when it was opened, or the first that matches.
    ///
    /// - Parameter groups: of users that were looked up before.
    static func policyNumber(
        of record: SessionRecord, under policy: Policy, groups: inout [String: [String]]
    ) throws(Failure) -> Int {
        if policy.overrides.isEmpty { return 0 }
        if let name = record.policy {
            if let named = policy.override(named: name) { return named.number }
            return 0  // the override was removed since; policy apply warns
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
