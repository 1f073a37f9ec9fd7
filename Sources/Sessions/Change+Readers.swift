// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import SystemPackage

extension StateDirectory {
    /// The directory of ``snapshot``, root:GROUP: not in the state directory, which is root's alone.
    var record: FilePath {
        path == "/var/lib/vip-bpf" ? runtime.appending("record") : FilePath("\(path).record")
    }

    /// What members of a group may read: the registry as the last change left it. It is replaced and never written, so
    /// a lock on it keeps nobody waiting.
    public var snapshot: FilePath { record.appending("registry.sqlite") }

    /// Removes the snapshot. It is no error if there is none.
    func removeRecord() {
        for entry in (try? Directory.entries(of: record)) ?? [] where entry.name.hasPrefix("registry.sqlite") {
            _ = record.appending(entry.component).withPlatformString { unlink($0) }
        }
        _ = record.withPlatformString { rmdir($0) }
    }
}

/// A group whose members may read the record, as the host knows it.
public struct RecordReaders: Sendable, Hashable {
    public let group: String
    let number: gid_t

    /// - Throws: ``Failure`` where there is no such group (usage).
    public init(group: String) throws(Failure) {
        self.group = group
        guard let number = try SystemUsers.number(ofGroup: group) else {
            throw Failure(
                .usage, "let members of group \(group) read the record", "there is no such group",
                hint: "make it: groupadd --system \(group)")
        }
        self.number = number
    }
}

extension Registry.Setting {
    /// The group whose members may read the record.
    static let readers = Registry.Setting(rawValue: "readers")
}

extension Change {
    /// Says which group's members may read the registry: from now on, the end of each change writes a snapshot for
    /// them.
    ///
    /// - Parameter readers: `nil` for root alone.
    /// - Throws: ``Failure`` where the snapshot's directory cannot be made.
    public func setReaders(_ readers: RecordReaders?) throws(Failure) {
        // Remove a snapshot of another group.
        instance.state.removeRecord()
        if let readers { try Self.makeDirectory(instance.state.record) { readers.number } }
        try registry.set(.readers, to: readers?.group)
    }

    /// Brings the snapshot up to date, where there are readers. Also after a change that was killed before it did so.
    func publish() throws(Failure) {
        guard let group = try registry.value(of: .readers) else { return }
        let file = instance.state.snapshot
        // The directory does not survive a reboot. If it exists, it has its group already.
        try Self.makeDirectory(instance.state.record, isNew: false) { () throws(Failure) in
            try RecordReaders(group: group).number
        }
        let version = instance.registryVersion
        guard version == nil || Registry.changeCounter(of: file) != version else { return }
        // The directory's set-group-ID bit gives it the group: the daemon lacks CAP_CHOWN.
        try replaceFile(file, with: try registry.serialized(), mode: 0o640)
    }

    /// Makes a directory root:GROUP, mode 2750, or gives one of the caller's own both.
    ///
    /// - Parameter isNew: `false` leaves one that has this mode as it is.
    private static func makeDirectory(
        _ path: FilePath, isNew: Bool = true, group: () throws(Failure) -> gid_t
    ) throws(Failure) {
        let mode: mode_t = 0o2750
        // Keep it private until its group is set.
        try OwnedDirectory(path, mode: 0o700).create()
        let what = "use directory \(path)"
        let raw: CInt
        do throws(Errno) {
            raw = try openFile(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
        } catch {
            throw Failure(what, errno: error)
        }
        let directory = Descriptor(owning: raw)
        var status = stat()
        guard fstat(directory.raw, &status) == 0 else { throw Failure(what, errno: .current) }
        if !isNew, status.st_mode & 0o7777 == mode { return }
        guard fchown(directory.raw, uid_t.max, try group()) == 0, fchmod(directory.raw, mode) == 0 else {
            throw Failure(what, errno: .current, needs: [.chown])
        }
    }
}
