// SPDX-License-Identifier: Apache-2.0

public import CVipABI
public import Glibc
public import Host
public import SystemPackage

/// Finds the file that a path of a program list leads to, as the kernel knows a running program's file.
public enum ProgramFile {
    /// `8:1` for a device in the kernel's form, major << 20 | minor (include/linux/kdev_t.h).
    package static func text(ofDevice device: UInt32) -> String { "\(device >> 20):\(device & 0xfffff)" }

    /// The inode number, device and name of the file at `path`; links are followed.
    ///
    /// The device is that of the file system's superblock, which a BPF program can read. On btrfs, `stat(2)` returns
    /// another one for each subvolume, so the device is read from the mount table, for the mount that /proc/self/fdinfo
    /// names.
    ///
    /// - Returns: `nil` if there is no such file.
    public static func identity(of path: FilePath, mounts: MountTable) throws(Failure) -> vip_program_file? {
        let what = "look up program \(path)"
        let oPath: CInt = 0o10000000  // O_PATH of asm-generic/fcntl.h, which Glibc does not export without _GNU_SOURCE
        let raw = path.withPlatformString { open($0, oPath | O_CLOEXEC) }
        if raw < 0 {
            let error = Errno.current
            if error == .noSuchFileOrDirectory || error == .notDirectory { return nil }
            throw Failure(what, errno: error)
        }
        let file = Descriptor(owning: raw)
        guard let identity = try self.identity(of: file, mounts: mounts, what) else {
            throw Failure(.failed, what, "it is not a regular file", hint: "name the program's file itself")
        }
        return identity
    }

    /// The same for an open file; `nil` if it is not a regular file.
    private static func identity(
        of file: borrowing Descriptor, mounts: MountTable, _ what: String
    ) throws(Failure) -> vip_program_file? {
        var status = stat()
        guard fstat(file.raw, &status) == 0 else { throw Failure(what, errno: .current) }
        guard status.st_mode & S_IFMT == S_IFREG else { return nil }
        guard let mountID = mountID(of: file), let mount = mounts.mounts.last(where: { $0.id == mountID }) else {
            throw Failure(.failed, what, "its mount is not in the mount table", hint: "try again")
        }
        // The name by which the kernel opened it, after links were followed. A file with the same inode and another
        // name is not the listed one.
        guard let path = path(of: file) else {
            throw Failure(.failed, what, "it was removed in the meantime", hint: "try again")
        }
        return vip_program_file(inode: UInt64(status.st_ino), device: mount.device, name: lastComponent(of: path))
    }

    /// The executable of a process, as the kernel knows it.
    public struct Running: Sendable {
        /// Its key in the `program_files` map.
        public let identity: vip_program_file
        /// The path of the file, even if it was removed. It is bytes because it need not be UTF-8.
        public let path: [UInt8]
        /// Whether the path now leads to no file or to another one: an upgrade replaced it.
        public let isDeleted: Bool

        /// The last component of the path.
        public var name: [UInt8] { ProgramFile.lastComponent(of: path) }
    }

    /// The executable of a process: the file behind /proc/PID/exe, proc_pid_exe(5).
    ///
    /// - Returns: `nil` if the process has none: it is a kernel thread, or has ended.
    /// - Throws: ``Failure``, (not permitted) if the process is another user's.
    public static func running(in pid: pid_t) throws(Failure) -> Running? {
        let what = "look up the program of process \(pid)"
        let oPath: CInt = 0o10000000  // as above
        let raw = open("/proc/\(pid)/exe", oPath | O_CLOEXEC)
        if raw < 0 {
            let error = Errno.current
            if error == .noSuchFileOrDirectory || error == .noSuchProcess { return nil }
            throw Failure(what, errno: error)
        }
        let file = Descriptor(owning: raw)
        // The file was opened through the process's mounts, and the process may have a mount table of its own.
        let table: [UInt8]
        do throws(Errno) {
            table = try readWholeFile(FilePath("/proc/\(pid)/mountinfo"))
        } catch {
            if error == .noSuchFileOrDirectory || error == .noSuchProcess { return nil }
            throw Failure(what, errno: error)
        }
        let mounts = try MountTable(bytes: table)
        guard var path = path(of: file), let found = try identity(of: file, mounts: mounts, what) else { return nil }
        var status = stat()
        guard fstat(file.raw, &status) == 0 else { throw Failure(what, errno: .current) }
        // The kernel appends this. A file's name may end like this as well; such a file still exists.
        let mark = Array(" (deleted)".utf8)
        var there = stat()
        let isThere = FilePath(platformString: path.map(CChar.init(bitPattern:)) + [0]).withPlatformString {
            stat($0, &there) == 0 && there.st_ino == status.st_ino && there.st_dev == status.st_dev
        }
        let isDeleted = !isThere && path.suffix(mark.count) == mark[...]
        if isDeleted { path.removeLast(mark.count) }
        return Running(
            identity: vip_program_file(inode: found.inode, device: found.device, name: lastComponent(of: path)),
            path: path, isDeleted: isDeleted)
    }

    /// The path of an open file: the target of /proc/self/fd/N, proc_pid_fd(5).
    private static func path(of file: borrowing Descriptor) -> [UInt8]? {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/fd/\(file.raw)", &buffer, buffer.count)
        return count > 0 ? buffer[..<count].map(UInt8.init(bitPattern:)) : nil
    }

    private static func lastComponent(of path: [UInt8]) -> [UInt8] {
        path.split(separator: UInt8(ascii: "/")).last.map(Array.init) ?? []
    }

    /// Whether the file at `path` begins with `#!`. The kernel then runs the interpreter, so the path never matches.
    public static func isScript(_ path: FilePath) -> Bool {
        let raw = path.withPlatformString { open($0, O_RDONLY | O_CLOEXEC | O_NONBLOCK) }
        guard raw >= 0 else { return false }
        let file = Descriptor(owning: raw)
        var head: [UInt8] = [0, 0]
        return read(file.raw, &head, 2) == 2 && head == Array("#!".utf8)
    }

    /// The value of `mnt_id:` in proc_pid_fdinfo(5).
    private static func mountID(of file: borrowing Descriptor) -> UInt32? {
        let raw = open("/proc/self/fdinfo/\(file.raw)", O_RDONLY | O_CLOEXEC)
        guard raw >= 0 else { return nil }
        let info = Descriptor(owning: raw)
        var buffer = [UInt8](repeating: 0, count: 1024)  // four short lines for a file opened with O_PATH
        let count = read(info.raw, &buffer, buffer.count)
        guard count > 0 else { return nil }
        for line in String(decoding: buffer[..<count], as: UTF8.self).split(separator: "\n") {
            let parts = line.split(separator: ":")
            if parts.count == 2, parts[0] == "mnt_id" { return UInt32(parts[1].drop { $0 == " " || $0 == "\t" }) }
        }
        return nil
    }
}
