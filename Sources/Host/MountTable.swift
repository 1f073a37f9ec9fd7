// SPDX-License-Identifier: Apache-2.0

import Glibc
public import SystemPackage

/// The mounts that this process sees: /proc/self/mountinfo, see proc_pid_mountinfo(5).
///
/// A snapshot: it describes the mounts at the time of reading.
public struct MountTable: Sendable, Hashable {
    public struct Mount: Sendable, Hashable {
        /// The mount's ID, unique among the current mounts.
        public let id: UInt32
        /// The ID of the mount that contains the mount point. For the topmost mount it is its own ID, or one that is
        /// not in the table.
        public let parent: UInt32
        /// The device of its files in the kernel's own form: major << 20 | minor (include/linux/kdev_t.h). stat(2)
        /// reports another form, glibc's 64-bit `dev_t`.
        public let device: UInt32
        /// The directory of the file system that is at the mount point: `/` for the whole file system.
        public let root: FilePath
        public let mountPoint: FilePath
        /// The file system's type: `cgroup2`, `bpf`, `ext4`.
        public let fsType: String
    }

    /// The mounts in the kernel's order, which is mostly the order of mounting.
    public let mounts: [Mount]

    /// The cgroup v2 mounts that can be reached: those of the whole hierarchy first, then in the table's order.
    ///
    /// They are usually at /sys/fs/cgroup, or at /sys/fs/cgroup/unified beside cgroup v1.
    public private(set) var cgroup2: [Mount] = []

    /// The BPF file systems that can be reached, in the table's order.
    public private(set) var bpffs: [Mount] = []

    /// Reads the text of a mountinfo file. Empty text gives a table without mounts.
    ///
    /// - Throws: ``Failure`` for a line that proc_pid_mountinfo(5) does not allow.
    public init(text: String) throws(Failure) {
        try self.init(bytes: Array(text.utf8))
    }

    /// Reads the bytes of a mountinfo file, whose paths need not be UTF-8.
    ///
    /// - Throws: ``Failure`` as ``init(text:)``.
    public init(bytes: [UInt8]) throws(Failure) {
        var mounts: [Mount] = []
        for (number, line) in bytes.split(separator: UInt8(ascii: "\n")).enumerated() {
            guard let mount = Mount(line: line) else {
                throw Failure(
                    .failed, "read the mount table", "line \(number + 1) does not have the form of mountinfo",
                    detail: String(decoding: line, as: UTF8.self))
            }
            mounts.append(mount)
        }
        self.mounts = mounts
        let cgroup2 = reachable(ofType: "cgroup2")
        self.cgroup2 = cgroup2.filter { $0.root == "/" } + cgroup2.filter { $0.root != "/" }
        bpffs = reachable(ofType: "bpf")
    }

    /// The mounts of the calling process's mount namespace.
    ///
    /// - Throws: ``Failure`` (unavailable) if /proc cannot be read.
    public static func current() throws(Failure) -> MountTable {
        let file = FilePath("/proc/self/mountinfo")
        let bytes: [UInt8]
        do throws(Errno) {
            bytes = try readWholeFile(file)
        } catch {
            throw Failure(reading: file, errno: error, ifMissing: "mount -t proc proc /proc")
        }
        return try MountTable(bytes: bytes)
    }

    /// The mount of a path's file. It searches as the kernel does, from the topmost mount down, so it does not find a
    /// mount that a later one hides. `nil` for a relative path.
    ///
    /// Symbolic links are not followed: pass a path from realpath(3).
    public func mount(containing path: FilePath) -> Mount? {
        let ids = Set(mounts.map(\.id))
        var found: Mount?
        while true {
            let below = mounts.filter { mount in
                let isNext =
                    if let found { mount.parent == found.id && mount.id != found.id } else {
                        mount.parent == mount.id || !ids.contains(mount.parent)
                    }
                return isNext && path.starts(with: mount.mountPoint)
            }
            // Of two mounts at one mount point, the later one hides the earlier one. The shorter path comes first.
            guard
                let next = below.reversed().min(by: {
                    $0.mountPoint.components.count < $1.mountPoint.components.count
                })
            else { return found }
            found = next
        }
    }

    /// The cgroup v2 mount to use: the first of ``cgroup2``.
    ///
    /// - Throws: ``Failure`` (unavailable) if there is none.
    public func cgroup2Mount() throws(Failure) -> Mount {
        guard let mount = cgroup2.first else {
            throw Failure(
                .unavailable, "find cgroup v2", "it is not mounted",
                hint: "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        }
        return mount
    }

    /// The BPF file system to pin in: the first of ``bpffs``.
    ///
    /// - Throws: ``Failure`` (unavailable) if there is none.
    public func bpffsMount() throws(Failure) -> Mount {
        guard let mount = bpffs.first else {
            throw Failure(.unavailable, "find bpffs", "it is not mounted", hint: "mount -t bpf bpf /sys/fs/bpf")
        }
        return mount
    }

    private func reachable(ofType type: String) -> [Mount] {
        mounts.filter { $0.fsType == type && mount(containing: $0.mountPoint) == $0 }
    }
}

extension MountTable.Mount {
    /// Reads a line: `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw`. Between the sixth field and the
    /// dash there may be any number of tagged fields.
    fileprivate init?(line: ArraySlice<UInt8>) {
        let fields = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
        guard fields.count >= 6,
            let id = UInt32(String(decoding: fields[0], as: UTF8.self)),
            let parent = UInt32(String(decoding: fields[1], as: UTF8.self)),
            let dash = fields[6...].firstIndex(of: [UInt8(ascii: "-")]),
            dash + 1 < fields.count
        else { return nil }
        let device = fields[2].split(separator: UInt8(ascii: ":")).map { UInt32(String(decoding: $0, as: UTF8.self)) }
        guard device.count == 2, let major = device[0], let minor = device[1], major < 1 << 12, minor < 1 << 20,
            let root = FilePath(escaped: fields[3]), let mountPoint = FilePath(escaped: fields[4])
        else { return nil }
        self.init(
            id: id, parent: parent, device: major << 20 | minor, root: root, mountPoint: mountPoint,
            fsType: String(decoding: fields[dash + 1], as: UTF8.self))
    }
}

extension FilePath {
    /// Undoes the kernel's mangle_path(): it writes space, tab, newline, backslash and # as `\` and three octal digits.
    fileprivate init?(escaped field: ArraySlice<UInt8>) {
        var path: [CChar] = []
        var rest = field
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "\\") else {
                path.append(CChar(bitPattern: byte))
                continue
            }
            guard let code = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8), rest.count >= 3,
                code != 0
            else { return nil }
            rest = rest.dropFirst(3)
            path.append(CChar(bitPattern: code))
        }
        guard !path.isEmpty else { return nil }
        self.init(platformString: path + [0])
    }
}
