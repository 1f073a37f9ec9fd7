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
    /// What ``attach(_:policy:sizes:)`` did.
    public struct Attached: Sendable {
        public let cgroup: Cgroup
        public let loading: PinDirectory.LoadOutcome
        public let hooks: [Hook: PinDirectory.AttachOutcome]
    }

    /// Loads the programs where they are not loaded yet, and attaches every hook to a cgroup.
    ///
    /// Repeating it changes nothing, except that programs of another build are replaced by this one's, in every attached
    /// cgroup, with no moment in which none runs.
    ///
    /// - Parameters:
    ///   - policy: To be put in force; `nil` keeps the one in force, or the defaults where nothing was loaded.
    ///   - sizes: For maps that are made now; those that are there keep theirs.
    public mutating func attach(
        _ cgroup: Cgroup, policy: Policy?, sizes: MapSizes = .default
    ) throws(Failure) -> Attached {
        try pins.requireBPFFS()
        let coming = if let policy { policy } else { try instance.policy(registry) }
        try settings.check(coming, hostAddresses())
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

        // Links of cgroups that were removed: nothing runs by them any more.
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
            // Noted before it is done: what is linked and not noted would be missed by every other command.
            try registry.addAttachment(cgroup)
            try registry.set(.pins, to: pins.path.string)
            hooks = try pins.attach(to: cgroup)
            if loading == .updated {
                for attachment in try registry.attachments() where attachment.cgroupID != cgroup.id {
                    if let other = try? Cgroup(path: attachment.path), live[other.id] != nil {
                        _ = try pins.attach(to: other)
                    }
                }
            }
            // Generation 0 is that of maps that were made by a command that did not come this far.
            if let policy {
                try apply(policy)
            } else if try PolicyMapSet(pins).configuration().generation == 0 {
                try apply(coming)
            } else {
                let prefix = try settings.prepare(for: coming, warnings: &warnings)
                try PolicyMapSet(pins).setLoopbackPrefix(prefix)
                try settings.settle(prefix, for: coming)
            }
            // Last: until here a killed attach is not taken for a finished one.
            if loading != .unchanged { try PolicyMapSet.noteObject(pins) }
        } catch {
            if loading == .loaded {
                try? pins.removeAll()
            } else if hooks.values.contains(.attached) {
                _ = try? pins.detach(cgroupID: cgroup.id)
            }
            if !wasNoted { try? registry.removeAttachment(cgroup.path) }
            if (try? pins.attachments().isEmpty) == true {
                if pins.isLoaded { try? PolicyMapSet(pins).setLoopbackPrefix(nil) }
                try? settings.undo()
            }
            throw error
        }
        return Attached(cgroup: cgroup, loading: loading, hooks: hooks)
    }

    private func sessionLimit() throws(Failure) -> Int? {
        try PolicyMapSet(pins).sessions.maxEntries
    }

    private func pinnedObjectID() throws(Failure) -> [UInt8] {
        try pins.requireLayout()
        return try PolicyMapSet(pins).configuration().objectID
    }

    /// Takes the links of one cgroup away; its sessions stay registered, and programs in them are no longer touched.
    ///
    /// - Parameter path: Of a cgroup that is attached, or of one that was and no longer exists.
    public mutating func detach(_ path: FilePath) throws(Failure) {
        let cgroup = try? Cgroup(path: path)
        let noted = try registry.attachments().first { $0.path == cgroup?.path ?? path }
        guard let id = noted?.cgroupID ?? cgroup?.id, try pins.detach(cgroupID: id) || noted != nil else {
            // Say what is wrong with the path itself, if something is.
            let cgroup = try Cgroup(path: path)
            throw Failure(.failed, "detach \(cgroup.path)", "it is not attached", hint: "see vip-bpfctl status")
        }
        if try pins.attachments().isEmpty {
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

    /// Takes everything away: links, open sessions, their addresses and cgroups that `run` made, maps, programs.
    public func detachAll() throws(Failure) {
        try pins.requireBPFFS()
        for id in try pins.attachments().keys.sorted() { try pins.detach(cgroupID: id) }
        try removeAbandonedRunCgroups()
        for attachment in try registry.attachments() { try registry.removeAttachment(attachment.path) }
        let records = try registry.sessions()
        if !records.isEmpty {
            try registry.beginClose(records.map(\.id))
            // Before the registry forgets them, and where the maps can be read: a kill here must not leave the kernel
            // sessions that nobody knows.
            if let maps = try? PolicyMapSet(pins) { try maps.close(records.map(Self.bareRow), remainingLevels: []) }
            try withdraw(records)
            try registry.remove(records.map { ($0.id, .detached) }, at: .now(bootID: bootID))
        }
        try settings.undo()
        try pins.removeAll()
        for setting in [Registry.Setting.policy, .pendingPolicy, .pins, .network, .routeNote] {
            try registry.set(setting, to: nil)
        }
    }
}

extension Instance {
    /// ``Change/detachAll()`` where the registry cannot be read: links, maps and programs go by their pins, addresses by
    /// what the maps say. The registry's file is moved aside, so that the next attach makes a new one.
    ///
    /// - Returns: where the registry's file is now.
    public func detachAllWithoutRegistry() throws(Failure) -> FilePath {
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
                _ = try netlink.remove(placed.address, from: placed.interface)
            }
            // Routes of a pool's prefixes stay: whose they are, only the registry knew.
            // What net.ipv6.ip_nonlocal_bind was, nobody knows any more: it stays.
            if let prefix = try maps.configuration().loopbackPrefix { try netlink.removeLocalRoute(prefix) }
        }
        try pins.removeAll()
        let aside = state.path.appending("registry.sqlite.damaged")
        let moved = state.registry.withPlatformString { old in aside.withPlatformString { new in rename(old, new) } }
        guard moved == 0 else { throw Failure("move \(state.registry) to \(aside)", errno: .current) }
        return aside
    }
}
