// SPDX-License-Identifier: Apache-2.0

public import BPFLoader
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
        let live = try pins.attachments()
        for attachment in try registry.attachments() {
            guard attachment.cgroupID != cgroup.id, live[attachment.cgroupID] != nil,
                let other = try? Cgroup(path: attachment.path), other.id == attachment.cgroupID
            else { continue }
            switch cgroup.relation(to: other) {
            case .below:
                throw Failure(
                    .failed, "attach \(cgroup.path)", "\(other.path) above it is attached, and so this one is already",
                    try: "leave it, or detach \(other.path) first")
            case .above:
                throw Failure(
                    .failed, "attach \(cgroup.path)",
                    "\(other.path) below it is attached, and would be rewritten twice",
                    try: "detach \(other.path) first")
            case .same, .unrelated: break
            }
        }

        let pinnedID = pins.isLoaded ? try pinnedObjectID() : nil
        let loading = try pins.load(sizes: sizes, pinnedID: pinnedID)
        do throws(Failure) {
            if loading == .loaded { try PolicyMapSet.initialize(pins) }
            if let policy {
                try apply(policy)
            } else if loading == .loaded {
                try apply(try instance.policy(registry))
            }
            let hooks = try pins.attach(to: cgroup)
            if loading == .updated {
                for attachment in try registry.attachments() where attachment.cgroupID != cgroup.id {
                    if let other = try? Cgroup(path: attachment.path), live[other.id] != nil {
                        _ = try pins.attach(to: other)
                    }
                }
                // Last: until here a killed update is not taken for a finished one.
                try PolicyMapSet.initialize(pins)
            }
            try registry.addAttachment(cgroup)
            return Attached(cgroup: cgroup, loading: loading, hooks: hooks)
        } catch {
            if loading == .loaded { try? pins.removeAll() }
            throw error
        }
    }

    private func pinnedObjectID() throws(Failure) -> [UInt8] {
        try pins.requireLayout()
        return try PolicyMapSet(pins).configuration().objectID
    }

    /// Takes the links of one cgroup away; its sessions stay registered, and programs in them are no longer touched.
    ///
    /// - Parameter path: Of a cgroup that is attached, or of one that was and has gone.
    public func detach(_ path: FilePath) throws(Failure) {
        let cgroup = try? Cgroup(path: path)
        let noted = try registry.attachments().first { $0.path == cgroup?.path ?? path }
        guard let id = noted?.cgroupID ?? cgroup?.id, try pins.detach(cgroupID: id) || noted != nil else {
            // Say what is wrong with the path itself, if something is.
            let cgroup = try Cgroup(path: path)
            throw Failure(.failed, "detach \(cgroup.path)", "it is not attached", try: "see vip-bpfctl status")
        }
        if let noted { try registry.removeAttachment(noted.path) }
    }

    /// Takes everything away: links, open sessions, their addresses and cgroups that `run` made, maps, programs.
    public func detachAll() throws(Failure) {
        for id in try pins.attachments().keys.sorted() { try pins.detach(cgroupID: id) }
        for attachment in try registry.attachments() { try registry.removeAttachment(attachment.path) }
        let records = try registry.sessions()
        if !records.isEmpty {
            try registry.beginClose(records.map(\.id))
            try withdraw(records)
            try registry.remove(records.map(\.id))
        }
        try pins.removeAll()
        try registry.set(.policy, to: nil)
    }
}
