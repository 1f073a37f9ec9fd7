// SPDX-License-Identifier: Apache-2.0

public import Glibc
import Host
public import SystemPackage

/// What /proc has about a process. Every fact is `nil` if the process no longer exists.
///
/// Names are bytes from outside. Text made from them is UTF-8, and must be escaped before it is printed on a terminal.
public struct ProcessFacts: Sendable {
    public let pid: pid_t

    public init(_ pid: pid_t) {
        self.pid = pid
    }

    /// A program's file: the target of /proc/PID/exe, proc_pid_exe(5).
    public struct Executable: Sendable, Hashable {
        /// The path as the process sees it: in a container, a path inside the container. The kernel's ` (deleted)` is
        /// removed.
        public var path: FilePath
        public var isDeleted: Bool
        /// The device, from stat(2).
        public var device: UInt64
        public var inode: UInt64

        public init(path: FilePath, isDeleted: Bool = false, device: UInt64, inode: UInt64) {
            self.path = path
            self.isDeleted = isDeleted
            self.device = device
            self.inode = inode
        }
    }

    /// The program's file; `nil` also for a kernel thread, and if this process may not read it (CAP_SYS_PTRACE).
    public var executable: Executable? {
        let link = "/proc/\(pid)/exe"
        var bytes = [CChar](repeating: 0, count: Int(PATH_MAX) + 16)
        let count = readlink(link, &bytes, bytes.count - 1)
        var status = stat()
        guard count > 0, stat(link, &status) == 0 else { return nil }
        var name = bytes[..<count]
        // A file's name may end like this; only one without a link to it (st_nlink 0) is deleted.
        let suffix = " (deleted)".utf8.map(CChar.init(bitPattern:))
        let isDeleted = status.st_nlink == 0
        if isDeleted, name.suffix(suffix.count).elementsEqual(suffix) { name = name.dropLast(suffix.count) }
        return Executable(
            path: FilePath(platformString: Array(name) + [0]), isDeleted: isDeleted, device: UInt64(status.st_dev),
            inode: UInt64(status.st_ino))
    }

    /// The name that the process has given itself, or its executable's: at most 15 bytes, proc_pid_comm(5).
    public var name: [UInt8]? {
        guard let bytes = try? readWholeFile(FilePath("/proc/\(pid)/comm")), !bytes.isEmpty else { return nil }
        return bytes.last == UInt8(ascii: "\n") ? bytes.dropLast() : bytes  // the name itself may contain newlines
    }

    /// The path of its cgroup v2, from the root of the hierarchy: `/user.slice/…`. It ends in ` (deleted)` if the
    /// cgroup was removed.
    public var cgroup: FilePath? {
        guard let bytes = try? readWholeFile(FilePath("/proc/\(pid)/cgroup")) else { return nil }
        return Cgroup.path(inProcCgroup: bytes)
    }

    /// The real user ID.
    public var user: uid_t? {
        guard let text = try? readWholeFile(FilePath("/proc/\(pid)/status")) else { return nil }
        for line in text.split(separator: UInt8(ascii: "\n")) where line.starts(with: "Uid:".utf8) {
            let fields = String(decoding: line.dropFirst(4), as: UTF8.self).split { $0 == "\t" || $0 == " " }
            return fields.first.flatMap { uid_t($0) }
        }
        return nil
    }
}
