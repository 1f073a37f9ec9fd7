// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
import Glibc
public import Host
import Network
public import Policy
public import PolicyMaps
public import SystemPackage

extension Change {
    /// The result of ``attach(_:policy:sizes:guarding:)``.
    public struct Attached: Sendable {
        public let cgroup: Cgroup
        public let loading: PinDirectory.LoadOutcome
        public let hooks: [Hook: PinDirectory.AttachOutcome]
        /// The guarded cgroup, if there is one.
        public let guarded: FilePath?
    }

    /// What ``attach(_:policy:sizes:guarding:)`` does about the guarded cgroup.
    public enum Guarding: Sendable {
        /// It stays as it is.
        case unchanged
        case none
        case cgroup(Cgroup)
    }

    /// Loads the programs if they are not loaded, and attaches every hook to a cgroup.
    ///
    /// Repeating it changes nothing, except that the programs of another build are replaced in every attached cgroup.
    /// At every moment one of the two runs.
    ///
    /// - Parameters:
    ///   - policy: the policy to apply; `nil` keeps the one in force, or uses the defaults if nothing was loaded.
    ///   - sizes: the sizes of maps that are created now. Existing maps keep their sizes.
    ///   - guarding: below which cgroup programs of no session are kept off sessions' addresses.
    public mutating func attach(
        _ cgroup: Cgroup, policy: Policy?, sizes: MapSizes = .default, guarding: Guarding = .unchanged
    ) throws(Failure) -> Attached {
        try pins.requireBPFFS()
        let coming = if let policy { policy } else { try instance.policy(registry) }
        try settings.check(coming, hostAddresses())
        try requireNoTrial(coming)
        let live = try pins.attachments()
        for attachment in try registry.attachments() {
            guard attachment.cgroupID != cgroup.id, live[attachment.cgroupID] != nil,
                let other = try? Cgroup(path: attachment.path), other.id == attachment.cgroupID
            else { continue }
            switch cgroup.relation(to: other) {
            case .below:
                throw Failure(
                    .failed, "attach \(cgroup.path)", "\(other.path) above it is attached, and so this one is already",
                    hint: "leave it, or detach \(other.path) first")
            case .above:
                throw Failure(
                    .failed, "attach \(cgroup.path)",
                    "\(other.path) below it is attached, and would be rewritten twice",
                    hint: "detach \(other.path) first")
            case .same, .unrelated: break
            }
        }

        // Links of cgroups that were removed. No program runs by them.
        for (id, links) in live where links.values.allSatisfy({ $0.cgroupID == 0 }) { try pins.detach(cgroupID: id) }

        let pinnedID = pins.isLoaded ? try pinnedObjectID() : nil
        if pinnedID != nil, let limit = try sessionLimit(), sizes != .default, sizes.sessions != limit {
            warnings.append(
                "the maps exist already and hold \(limit) sessions; --max-sessions applies only when they are made")
        }
        let loading = try pins.load(sizes: sizes, pinnedID: pinnedID)
        let wasNoted = try registry.attachments().contains { $0.path == cgroup.path && $0.cgroupID == cgroup.id }
        var hooks: [Hook: PinDirectory.AttachOutcome] = [:]
        do throws(Failure) {
            // Note the cgroup first: other commands find links only by these notes.
            try registry.addAttachment(cgroup)
            try registry.set(.pins, to: pins.path.string)
            hooks = try pins.attach(to: cgroup)
            if loading == .updated {
                for attachment in try registry.attachments() where attachment.cgroupID != cgroup.id {
                    if let other = try? Cgroup(path: attachment.path), live[other.id] != nil {
                        _ = try pins.attach(to: other)
                    }
                }
                try pins.updateGuard()
            }
            try PolicyMapSet(pins).setAttached(attachedCgroups())
            try requireRoomForAttached(for: coming)
            // Generation 0: the maps were created by a command that was killed before this step.
            if let policy {
                try apply(policy, as: .attach)
            } else if try PolicyMapSet(pins).configuration().generation == 0 {
                try apply(coming, as: .attach)
            } else {
                let prefix = try settings.prepare(for: coming, warnings: &warnings)
                try PolicyMapSet(pins).setLoopbackPrefix(prefix)
                try settings.settle(prefix, for: coming)
            }
            try guardPrograms(guarding)
            // This is last, so that a killed attach is not taken for a finished one.
            if loading != .unchanged { try PolicyMapSet.noteObject(pins) }
        } catch {
            if loading == .loaded {
                try? pins.removeAll()
            } else if hooks.values.contains(.attached) {
                _ = try? pins.detach(cgroupID: cgroup.id)
            }
            if !wasNoted { try? registry.removeAttachment(cgroup.path) }
            if pins.isLoaded { try? PolicyMapSet(pins).setAttached(attachedCgroups()) }
            if (try? pins.attachments().isEmpty) == true {
                if pins.isLoaded { try? PolicyMapSet(pins).setLoopbackPrefix(nil) }
                try? settings.undo()
            }
            throw error
        }
        return Attached(
            cgroup: cgroup, loading: loading, hooks: hooks, guarded: try instance.guardedCgroup(registry)?.path)
    }

    /// Attaches or removes the guard. The path is noted first, for other commands.
    private func guardPrograms(_ guarding: Guarding) throws(Failure) {
        switch guarding {
        case .unchanged: break
        case .none:
            try pins.removeGuard()
            try registry.set(.guarded, to: nil)
        case .cgroup(let cgroup):
            let before = try registry.value(of: .guarded)
            try registry.set(.guarded, to: cgroup.path.string)
            do throws(Failure) {
                try pins.setGuard(cgroup)
            } catch {
                try? registry.set(.guarded, to: before)
                throw error
            }
        }
    }

    /// Throws if `withoutSession: deny` could not hold below all attached cgroups.
    func requireRoomForAttached(for policy: Policy) throws(Failure) {
        let count = try attachedCgroups().count
        guard policy.virtualIP.enabled, policy.virtualIP.withoutSession == .deny, count > vip_config.attachedLimit
        else {
            return
        }
        throw Failure(
            .failed, "deny programs of no session",
            "\(count) cgroups are attached, and withoutSession: deny holds below \(vip_config.attachedLimit) at most",
            hint: "attach one cgroup above them, or leave withoutSession out")
    }

    private func sessionLimit() throws(Failure) -> Int? {
        try PolicyMapSet(pins).sessions.maxEntries
    }

    private func pinnedObjectID() throws(Failure) -> [UInt8] {
        try pins.requireLayout()
        return try PolicyMapSet(pins).configuration().objectID
    }

    /// Removes the links of one cgroup. Its sessions stay registered, and their programs are no longer rewritten.
    ///
    /// - Parameter path: of an attached cgroup, or of one that was attached and no longer exists.
    public mutating func detach(_ path: FilePath) throws(Failure) {
        let cgroup = try? Cgroup(path: path)
        let noted = try registry.attachments().first { $0.path == cgroup?.path ?? path }
        guard let id = noted?.cgroupID ?? cgroup?.id, try pins.detach(cgroupID: id) || noted != nil else {
            // If the path itself is wrong, throw an error that says so.
            let cgroup = try Cgroup(path: path)
            throw Failure(.failed, "detach \(cgroup.path)", "it is not attached", hint: "see vip-bpfctl status")
        }
        if pins.isLoaded { try PolicyMapSet(pins).setAttached(attachedCgroups()) }
        if try pins.attachments().isEmpty {
            try registry.set(.guarded, to: nil)
            if pins.isLoaded { try PolicyMapSet(pins).setLoopbackPrefix(nil) }
            try settings.undo()
        }
        if let noted {
            try registry.removeAttachment(noted.path)
            let count = try registry.sessions().count { $0.cgroupPath.starts(with: noted.path) }
            if count > 0 {
                warnings.append("\(count) open sessions below \(noted.path) no longer get virtual addresses")
            }
        }
    }

    /// Removes everything: links, open sessions, their sockets and addresses, the cgroups that `run` made, maps,
    /// programs.
    ///
    /// - Throws: ``Failure`` (damaged registry) if the registry cannot be read, or is not the one of the kernel's
    ///   sessions: ``Instance/detachAllWithoutRegistry()`` is for that.
    public func detachAll() throws(Failure) {
        try pins.requireBPFFS()
        try requireKnownSessions(.damagedRegistry)
        for id in try pins.attachments().keys.sorted() { try pins.detach(cgroupID: id) }
        try removeAbandonedRunCgroups()
        for attachment in try registry.attachments() { try registry.removeAttachment(attachment.path) }
        let records = try registry.sessions()
        if !records.isEmpty {
            try registry.beginClose(records.map(\.id))
            // Close them in the maps before the registry forgets them. Otherwise a kill here would leave sessions in
            // the kernel that are not in the registry.
            if let maps = try? PolicyMapSet(pins) { try maps.close(records.map(Self.bareRow), remainingLevels: []) }
            // With their network namespace, addresses and sockets are gone.
            if try networkElsewhere() == nil {
                _ = destroySockets(of: records)
                try withdraw(records)
            }
            try registry.remove(records.map { ($0.id, .detached) }, at: .now(bootID: bootID))
        }
        try settings.undo()
        try pins.removeAll()
        if let trial = try registry.policyTrial() { try forget(trial) }
        for setting in [Registry.Setting.policy, .pendingPolicy, .pins, .network, .routeNote, .readers, .guarded] {
            try registry.set(setting, to: nil)
        }
        instance.state.removeRecord()
    }
}

extension Instance {
    /// The guarded cgroup, and whether every hook of the guard is attached to it; `nil` if none is guarded.
    public func guardedCgroup(_ registry: Registry) throws(Failure) -> (path: FilePath, isWhole: Bool)? {
        guard let path = try registry.value(of: .guarded).map({ FilePath($0) }) else { return nil }
        let links = try pins.guardLinksByHook()
        let id = (try? Cgroup(path: path))?.id
        return (path, id != nil && Hook.ofGuard.allSatisfy { links[$0.name]?.cgroupID == id })
    }

    /// ``Change/detachAll()`` without a readable registry. It finds links, maps and programs by their pins, and
    /// addresses by the maps. It renames the registry's file, so that the next attach creates a new one.
    ///
    /// - Returns: the new path of the registry's file; `nil` if there is none.
    public func detachAllWithoutRegistry() throws(Failure) -> FilePath? {
        let lock = try state.lock()
        defer { _ = lock }
        try pins.requireBPFFS()
        for id in try pins.attachments().keys.sorted() { try pins.detach(cgroupID: id) }
        if pins.isLoaded, let maps = try? PolicyMapSet(pins) {
            let owned = Set(
                try maps.addresses.rows().filter { $0.value.owner == VIP_OWNER_SESSION.rawValue }.map(\.key.address))
            let netlink = try Netlink()
            for placed in try netlink.hostAddresses()
            where owned.contains(placed.address) && placed.prefixLength == placed.address.family.bits {
                _ = try netlink.remove(placed.address, at: AddressPlace(placed.interface, placed.form))
            }
            // The routes of a pool's prefixes stay, because only the registry knows which of them vip-bpf made.
            // net.ipv6.ip_nonlocal_bind stays, because its former value is not known.
            if let prefix = try maps.configuration().loopbackPrefix {
                let loopbacks = try netlink.hostAddresses().map(\.address).filter { prefix.contains($0) }
                for result in try netlink.remove(loopbacks, at: LoopbackPrefix.place) { _ = try result.get() }
                try netlink.removeLocalRoute(prefix.prefix)
            }
        }
        try pins.removeAll()
        state.removeRecord()
        let aside = state.path.appending("registry.sqlite.damaged")
        let moved = state.registry.withPlatformString { old in aside.withPlatformString { new in rename(old, new) } }
        guard moved == 0 else {
            guard errno != ENOENT else { return nil }
            throw Failure("move \(state.registry) to \(aside)", errno: .current)
        }
        return aside
    }
}
