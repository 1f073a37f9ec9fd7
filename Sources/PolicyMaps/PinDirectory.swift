// SPDX-License-Identifier: Apache-2.0

public import BPFLoader
internal import CVipABI
import Glibc
public import Host
import Network
public import SystemPackage

/// One instance of vip-bpf in the kernel: everything that is pinned below one directory of a BPF file system.
///
///     DIR/maps/NAME               the maps, by their names in bpf/maps.h
///     DIR/programs/HOOK           the programs, by hook
///     DIR/links/CGROUP-ID/HOOK    a link for each hook of each attached cgroup
///     DIR/links/network/HOOK      the links to the network namespace, as long as any cgroup is attached
///     DIR/links/guard/HOOK        the links to the guarded cgroup, if there is one, for as long
///
/// Pins keep these objects alive without a process. Callers that change them must hold the state lock.
///
/// Who may write to these directories can unpin the programs, so only root may. Every use checks this
/// (``requireOwned()``).
public struct PinDirectory: Sendable, Hashable {
    public let path: FilePath

    public var maps: FilePath { path.appending("maps") }
    public var programs: FilePath { path.appending("programs") }
    public var links: FilePath { path.appending("links") }
    private var networkLinks: FilePath { links.appending("network") }
    private var guardLinks: FilePath { links.appending("guard") }

    /// Whether this is for `detach`, which must work whoever owns the directories above.
    private var isForRemoval = false

    /// Names the directory. This neither reads nor creates it.
    public init(_ path: FilePath) {
        self.path = path.lexicallyNormalized()
    }

    // MARK: Ownership

    /// Throws if another user could remove or replace pins: ``OwnedDirectory/requireSafe()``.
    public func requireOwned() throws(Failure) {
        guard !isForRemoval else { return }
        for directory in [path, maps, programs, links, networkLinks, guardLinks] {
            try OwnedDirectory(directory).requireSafe()
        }
    }

    /// The same directory for removing its pins, also if ``requireOwned()`` throws.
    ///
    /// Directories that belong to another user, or that others may write to, become root's first (mode 0700), so that
    /// nobody can replace their contents meanwhile. Nothing outside a BPF file system is changed.
    ///
    /// - Throws: ``Failure`` if one of them is a symbolic link or not a directory.
    public func forRemoval() throws(Failure) -> PinDirectory {
        var copy = self
        copy.isForRemoval = true
        guard Pin.isOnBPFFileSystem(path) else { return copy }
        for directory in [path, maps, programs, links] { try takeOver(directory) }
        for name in try entries(of: links) { try takeOver(links.appending(name)) }
        return copy
    }

    private func takeOver(_ directory: FilePath) throws(Failure) {
        let what = "take over \(directory)"
        let raw = directory.withPlatformString { open($0, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) }
        guard raw >= 0 else {
            let error = Errno.current
            switch error {
            case .noSuchFileOrDirectory: return
            // What open(2) returns for a symbolic link with these flags.
            case .notDirectory, .tooManySymbolicLinkLevels:
                throw Failure(.failed, what, "it is not a directory", hint: "remove it: rm \(directory)", errno: error)
            default: throw Failure(what, errno: error)
            }
        }
        let opened = Descriptor(owning: raw)
        var status = stat()
        guard fstat(opened.raw, &status) == 0 else { throw Failure(what, errno: .current) }
        guard status.st_uid != 0 || status.st_mode & 0o022 != 0 else { return }
        guard Pin.isOnBPFFileSystem(FilePath("/proc/self/fd/\(opened.raw)")) else {
            throw Failure(.failed, what, "it is not on a BPF file system", hint: "name another directory with --bpffs")
        }
        guard fchown(opened.raw, 0, 0) == 0, fchmod(opened.raw, 0o700) == 0 else {
            throw Failure(what, errno: .current)
        }
    }

    // MARK: Presence

    /// Throws unless `path`, or the nearest existing directory above it, is on a BPF file system.
    ///
    /// - Throws: ``Failure``, also as ``requireOwned()``.
    public func requireBPFFS() throws(Failure) {
        var existing = path
        while existing.withPlatformString({ access($0, F_OK) }) != 0 {
            let parent = existing.removingLastComponent()
            guard parent != existing, !parent.isEmpty else { break }
            existing = parent
        }
        guard Pin.isOnBPFFileSystem(existing) else {
            let mountPoint = path.removingLastComponent()
            throw Failure(
                .unavailable, "use \(path)", "\(existing) is not on a BPF file system",
                hint: "mount one: mount -t bpf bpf \(mountPoint)")
        }
        try requireOwned()
    }

    /// Whether the maps exist: a cgroup was attached since the last boot or `detach --all`.
    public var isLoaded: Bool {
        maps.appending("config").withPlatformString { access($0, F_OK) } == 0
    }

    /// Throws if the caller may not see whether the maps exist; ``isLoaded`` is `false` then.
    ///
    /// - Throws: ``Failure``, also as ``requireOwned()``.
    public func requireReadable() throws(Failure) {
        try requireOwned()
        guard maps.appending("config").withPlatformString({ access($0, F_OK) }) != 0, errno == EACCES else { return }
        throw Failure("look into \(path)", errno: .permissionDenied)
    }

    /// Throws unless the maps exist, only root may change them, and they have this build's layout.
    public func requireLoaded() throws(Failure) {
        try requireOwned()
        guard isLoaded else {
            try requireReadable()
            try requireBPFFS()
            throw Failure(
                .failed, "open the maps in \(maps)", "nothing is attached",
                hint: "attach a cgroup first: vip-bpfctl attach cgroup PATH")
        }
        try requireLayout()
    }

    /// Throws if the pinned maps have another layout than this build's.
    ///
    /// In every layout, the version is the first four bytes of the `config` map.
    public func requireLayout() throws(Failure) {
        let version = try layoutVersion()
        guard version == UInt32(VIP_ABI_VERSION) else {
            throw Failure(
                .failed, "use the maps in \(maps)",
                "their layout is version \(version), and this vip-bpfctl has version \(VIP_ABI_VERSION)",
                hint: "use the vip-bpfctl that made them, or start over: vip-bpfctl detach --all")
        }
    }

    /// The layout version of the pinned maps.
    public func layoutVersion() throws(Failure) -> UInt32 {
        do throws(Failure) {
            return try BPFMap<UInt32, UInt32>.firstWord(pinnedAt: maps.appending("config"))
        } catch {
            guard error.errno == nil else { throw error }
            throw Failure(
                .failed, "use the maps in \(maps)", "map config was not made by vip-bpf",
                hint: "name another directory with --bpffs, or start over: vip-bpfctl detach --all")
        }
    }

    /// Opens a pinned map with the types of its rows.
    public func map<Key, Value>(
        _ name: String, _: Key.Type = Key.self, _: Value.Type = Value.self
    ) throws(Failure) -> BPFMap<Key, Value> {
        try BPFMap(pinnedAt: maps.appending(name), hints: Self.hints)
    }

    private static let hints = MapHints(
        missing: "attach a cgroup first: vip-bpfctl attach cgroup PATH",
        otherLayout: "use the vip-bpfctl that made it, or start over with: vip-bpfctl detach --all",
        full: "close sessions, or start over with larger maps: vip-bpfctl detach --all, "
            + "then vip-bpfctl attach cgroup PATH --max-sessions N")

    // MARK: Loading

    public enum LoadOutcome: String, Sendable {
        /// The pinned programs were already this build's.
        case unchanged
        /// Maps and programs were created.
        case loaded
        /// The maps keep their contents; the programs are now this build's.
        case updated
    }

    /// Loads and pins maps and programs, unless those of this build are pinned.
    ///
    /// A pinned map is reused with its contents. The `config` map is pinned last, so it stands for the whole set:
    /// without it, what a killed process left is removed first.
    ///
    /// - Parameter pinnedID: the object ID in the pinned config; `nil` if nothing is loaded.
    public func load(sizes: MapSizes, pinnedID: [UInt8]?, hooks: [Hook] = Hook.all) throws(Failure) -> LoadOutcome {
        let hasPrograms = hooks.allSatisfy {
            programs.appending($0.name).withPlatformString { access($0, F_OK) } == 0
        }
        try requireBPFFS()
        if isLoaded, hasPrograms, pinnedID == BPFObject.embeddedID { return .unchanged }
        let wasLoaded = isLoaded
        if wasLoaded { try requireLayout() }

        let object = try BPFObject(programsOf: hooks, sizes)
        let names = object.mapNames
        if wasLoaded {
            for name in names { try object.reuse(map: name, pinnedAt: maps.appending(name)) }
        }
        try object.load()

        if !wasLoaded {
            do throws(Failure) {
                for directory in [path, maps, programs, links] { try makeDirectory(directory) }
                try requireOwned()  // another user may have made one of them just before
                for name in names { try unlinkIfThere(maps.appending(name)) }
                for name in names where name != "config" { try object.pin(map: name, at: maps.appending(name)) }
                for hook in hooks { try object.program(hook.programName).pin(replacing: programs.appending(hook.name)) }
                try object.writeLayoutVersion()
                try object.pin(map: "config", at: maps.appending("config"))
            } catch {
                try? removeAll()
                throw error
            }
            return .loaded
        }
        for hook in hooks { try object.program(hook.programName).pin(replacing: programs.appending(hook.name)) }
        return .updated
    }

    // MARK: Attaching

    /// The result of attaching one hook to one cgroup.
    public enum AttachOutcome: String, Sendable {
        case attached
        /// The link already ran the pinned program.
        case unchanged
        /// An existing link now runs the pinned program. One of the two programs ran at every moment.
        case updated
    }

    /// Attaches every pinned program to `cgroup`, or to the caller's network namespace, and pins the links:
    /// `bpf_link_create(2)`, multi mode.
    ///
    /// A pinned link is updated in place. A link that is defunct (its cgroup or namespace was removed), or that is in
    /// another network namespace, is replaced. If one hook fails, the links that this call created are removed again.
    public func attach(to cgroup: Cgroup, hooks: [Hook] = Hook.attachOrder) throws(Failure) -> [Hook: AttachOutcome] {
        let directory = links.appending("\(cgroup.id)")
        try makeDirectory(links)
        try makeDirectory(directory)
        var outcome: [Hook: AttachOutcome] = [:]
        do throws(Failure) {
            for hook in hooks {
                switch hook.place {
                case .cgroup: outcome[hook] = try attach(hook, to: cgroup, at: directory.appending(hook.name))
                case .network: outcome[hook] = try attachToNetwork(hook)
                case .guarded: preconditionFailure("the guard is attached by setGuard")
                }
            }
        } catch {
            // The link to the network namespace also serves the other cgroups.
            let isFirst = (try? attachments().keys.allSatisfy { $0 == cgroup.id }) == true
            for (hook, done) in outcome where done == .attached && (hook.place == .cgroup || isFirst) {
                let parent = hook.place == .cgroup ? directory : networkLinks
                _ = parent.appending(hook.name).withPlatformString { unlink($0) }
            }
            _ = networkLinks.withPlatformString { rmdir($0) }  // fails if older links are in it, which stay
            _ = directory.withPlatformString { rmdir($0) }
            throw error
        }
        return outcome
    }

    private func attach(_ hook: Hook, to cgroup: Cgroup, at pin: FilePath) throws(Failure) -> AttachOutcome {
        let what = "attach \(hook.name) to \(cgroup.path)"
        let program = try BPFProgram(pinnedAt: programs.appending(hook.name))
        if let link = try BPFLink.info(pinnedAt: pin) {
            let isDefunct = link.cgroupID == 0
            if !isDefunct { return try update(pin, link, to: program, what) }
            try unlinkIfThere(pin)
        }
        let hint = "see what else is attached there: bpftool cgroup show \(cgroup.path)"
        let link = try BPFLink(
            attaching: program, to: .cgroup(cgroup.path), hook.attachType, what, hint: hint)
        try link.pin(at: pin, what)
        return .attached
    }

    /// Attaches the programs of the network namespace to the caller's, if a link is missing or is to another one.
    public func repairNetwork() throws(Failure) {
        for hook in Hook.ofNetwork { _ = try attachToNetwork(hook) }
    }

    private func attachToNetwork(_ hook: Hook) throws(Failure) -> AttachOutcome {
        let what = "attach \(hook.name) to the network namespace"
        let program = try BPFProgram(pinnedAt: programs.appending(hook.name))
        try makeDirectory(networkLinks)
        let pin = networkLinks.appending(hook.name)
        if let link = try BPFLink.info(pinnedAt: pin), link.namespace == (try NetworkNamespace.current().inode) {
            return try update(pin, link, to: program, what)
        }
        // There is no link, or one to another or a removed namespace (0). That one stays until the new link exists.
        let link = try BPFLink(
            attaching: program, to: .networkNamespace(NetworkNamespace.ownFile), hook.attachType, what,
            hint: "see what else is attached there: bpftool link list")
        try link.pin(replacing: pin, what)
        return .attached
    }

    /// Makes a pinned link run `program`, unless it already does.
    private func update(
        _ pin: FilePath, _ link: BPFLink.Info, to program: borrowing BPFProgram, _ what: String
    ) throws(Failure) -> AttachOutcome {
        guard link.programID != (try program.id()) else { return .unchanged }
        try BPFLink(pinnedAt: pin).update(to: program, what)
        return .updated
    }

    /// Removes the links of one cgroup, in the reverse order of attaching; with the last cgroup, also the links to the
    /// network namespace. Returns `false` if the cgroup had none.
    @discardableResult
    public func detach(cgroupID: UInt64) throws(Failure) -> Bool {
        let directory = links.appending("\(cgroupID)")
        guard directory.withPlatformString({ access($0, F_OK) }) == 0 else { return false }
        for hook in Hook.attachOrder.reversed() { try removeLink(at: directory.appending(hook.name)) }
        for name in try entries(of: directory) { try removeLink(at: directory.appending(name)) }
        // The cgroup's directory is removed last, because it shows what a killed detach has left.
        let others = try entries(of: links).contains { UInt64($0).map { $0 != cgroupID } ?? false }
        if !others {
            try removeLinks(in: guardLinks)
            try removeLinks(in: networkLinks)
        }
        guard directory.withPlatformString({ rmdir($0) }) == 0 else {
            throw Failure("remove \(directory)", errno: .current)
        }
        return true
    }

    /// Removes a directory with the links in it. It is no error if it does not exist.
    private func removeLinks(in directory: FilePath) throws(Failure) {
        for name in try entries(of: directory) { try removeLink(at: directory.appending(name)) }
        try removeIfThere(directory)
    }

    /// Detaches a link and removes its pin. A pin that is no link, or that cannot be opened, is only removed.
    private func removeLink(at pin: FilePath) throws(Failure) {
        if let link = try? BPFLink(pinnedAt: pin) { try? link.detach("detach \(pin)") }
        try unlinkIfThere(pin)
    }

    // MARK: Guarding

    /// Attaches the guard's programs to `cgroup`, in place of the cgroup that was guarded before.
    ///
    /// A link to the former cgroup stays until the new one exists, so each hook runs at every moment at one of the two.
    /// If one hook fails and nothing was guarded before, nothing is.
    public func setGuard(_ cgroup: Cgroup) throws(Failure) {
        let isFirst = try guardLinksByHook().isEmpty
        try makeDirectory(links)
        try makeDirectory(guardLinks)
        do throws(Failure) {
            for hook in Hook.ofGuard {
                let what = "attach \(hook.name) to \(cgroup.path)"
                let pin = guardLinks.appending(hook.name)
                let program = try BPFProgram(pinnedAt: programs.appending(hook.name))
                if let link = try BPFLink.info(pinnedAt: pin), link.cgroupID == cgroup.id {
                    _ = try update(pin, link, to: program, what)
                    continue
                }
                let link = try BPFLink(
                    attaching: program, to: .cgroup(cgroup.path), hook.attachType, what,
                    hint: "see what else is attached there: bpftool cgroup show \(cgroup.path)")
                if let former = try? BPFLink(pinnedAt: pin) {
                    try link.pin(replacing: pin, what)
                    try? former.detach(what)
                } else {
                    try link.pin(replacing: pin, what)
                }
            }
        } catch {
            if isFirst { try? removeGuard() }
            throw error
        }
    }

    /// Makes the links of the guarded cgroup run the pinned programs.
    public func updateGuard() throws(Failure) {
        for hook in Hook.ofGuard {
            let pin = guardLinks.appending(hook.name)
            guard let link = try BPFLink.info(pinnedAt: pin), link.cgroupID != 0 else { continue }
            let program = try BPFProgram(pinnedAt: programs.appending(hook.name))
            _ = try update(pin, link, to: program, "update \(hook.name) of the guarded cgroup")
        }
    }

    /// Removes the links of the guarded cgroup. It is no error if there is none.
    public func removeGuard() throws(Failure) { try removeLinks(in: guardLinks) }

    /// The links of the guarded cgroup by the hook's name, including defunct ones.
    public func guardLinksByHook() throws(Failure) -> [String: BPFLink.Info] {
        var hooks: [String: BPFLink.Info] = [:]
        for hook in try entries(of: guardLinks) where !Pin.isLeftover(hook) {
            hooks[hook] = try BPFLink.info(pinnedAt: guardLinks.appending(hook))
        }
        return hooks
    }

    /// Removes the links, programs and maps, and the directory itself.
    public func removeAll() throws(Failure) {
        for name in try entries(of: links) {
            if let id = UInt64(name) { try detach(cgroupID: id) }
        }
        try removeLinks(in: guardLinks)
        try removeLinks(in: networkLinks)
        for directory in [links, programs, maps, path] {
            for name in try entries(of: directory) { try unlinkIfThere(directory.appending(name)) }
            try removeIfThere(directory)
        }
    }

    /// Removes an empty directory. It is no error if it does not exist.
    private func removeIfThere(_ directory: FilePath) throws(Failure) {
        guard directory.withPlatformString({ rmdir($0) }) != 0 else { return }
        let error = Errno.current
        guard error == .noSuchFileOrDirectory else { throw Failure("remove \(directory)", errno: error) }
    }

    // MARK: Inspecting

    /// One pinned link to a network namespace.
    public struct NetworkLink: Sendable, Hashable {
        public let id: UInt32
        public let programID: UInt32
        /// The inode of the namespace's file, namespaces(7); 0 if the link is defunct because its namespace was
        /// removed.
        public let namespace: UInt64
        /// Whether it is the caller's namespace.
        public let isHere: Bool
    }

    /// The links to a network namespace by the hook's name, including defunct ones.
    public func networkAttachments() throws(Failure) -> [String: NetworkLink] {
        var hooks: [String: NetworkLink] = [:]
        for hook in try entries(of: networkLinks) where !Pin.isLeftover(hook) {
            hooks[hook] = try networkLink(at: networkLinks.appending(hook))
        }
        return hooks
    }

    /// The IDs of the attached cgroups, each with its links by the hook's name, including defunct ones.
    public func attachments() throws(Failure) -> [UInt64: [String: BPFLink.Info]] {
        var result: [UInt64: [String: BPFLink.Info]] = [:]
        for name in try entries(of: links) {
            guard let id = UInt64(name) else { continue }
            var hooks: [String: BPFLink.Info] = [:]
            for hook in try entries(of: links.appending(name)) {
                hooks[hook] = try BPFLink.info(pinnedAt: links.appending(name).appending(hook))
            }
            result[id] = hooks
        }
        return result
    }

    /// The kernel's IDs of the pinned programs, by hook name.
    public func programIDs() throws(Failure) -> [String: UInt32] {
        var result: [String: UInt32] = [:]
        for name in try entries(of: programs) where !Pin.isLeftover(name) {
            result[name] = try BPFProgram(pinnedAt: programs.appending(name)).id()
        }
        return result
    }

    private func networkLink(at pin: FilePath) throws(Failure) -> NetworkLink? {
        guard let link = try BPFLink.info(pinnedAt: pin) else { return nil }
        return NetworkLink(
            id: link.id, programID: link.programID, namespace: link.namespace,
            isHere: link.namespace == (try NetworkNamespace.current().inode))
    }

    private func entries(of directory: FilePath) throws(Failure) -> [String] {
        do throws(Errno) {
            return try Directory.entries(of: directory).map(\.name).sorted()
        } catch {
            if error == .noSuchFileOrDirectory { return [] }
            throw Failure("read \(directory)", errno: error)
        }
    }

    private func makeDirectory(_ directory: FilePath) throws(Failure) {
        guard directory.withPlatformString({ mkdir($0, 0o700) }) != 0 else { return }
        let error = Errno.current
        guard error == .fileExists else {
            throw Failure("make \(directory)", errno: error)
        }
    }

    private func unlinkIfThere(_ path: FilePath) throws(Failure) {
        guard path.withPlatformString({ unlink($0) }) != 0 else { return }
        let error = Errno.current
        guard error == .noSuchFileOrDirectory else {
            throw Failure("remove \(path)", errno: error)
        }
    }
}
