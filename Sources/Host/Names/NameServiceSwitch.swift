// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
package import SystemPackage

/// The file nsswitch.conf(5). It is replaced in one step: a reader gets the old one or the new one.
package struct NameServiceSwitch {
    package static let defaultPath: FilePath = "/etc/nsswitch.conf"

    package let path: FilePath

    package init(path: FilePath) { self.path = path }

    /// A copy of the file before the module was added.
    package var backup: FilePath { FilePath("\(path).vip-bpf") }

    /// The result of a change.
    package struct Outcome {
        package var isChanged: Bool
        package var line: HostsLine
        /// The path of the backup, if there is one now.
        package var backup: FilePath?
    }

    /// Puts the module before every other source, and saves the previous file as ``backup``.
    package func enable() throws(Failure) -> Outcome {
        let what = "enable names in \(path)"
        let file = try open(what)
        let line = try HostsLine(in: file.bytes, what)
        guard !line.isEnabled else { return Outcome(isChanged: false, line: line, backup: existingBackup) }
        let edited = line.enabling()
        let isFirst = !FileStatus.exists(backup)
        try write(file.bytes, to: backup, like: file, what)
        do throws(Failure) {
            try unchanged(file, what)
            try write(edited, to: path, like: file, what)
        } catch {
            if isFirst { _ = backup.withPlatformString { unlink($0) } }
            throw error
        }
        return Outcome(isChanged: true, line: try HostsLine(in: edited, what), backup: backup)
    }

    /// Removes the module. The backup is restored if nothing else was edited since; otherwise only the line changes.
    package func disable() throws(Failure) -> Outcome {
        let what = "disable names in \(path)"
        let file = try open(what)
        let line = try HostsLine(in: file.bytes, what)
        guard line.hasModule else { return Outcome(isChanged: false, line: line, backup: existingBackup) }
        let kept = existingBackup.flatMap { backup in try? readWholeFile(backup) }
        var restored = line.removing()
        if let kept, let before = try? HostsLine(in: kept, what), before.enabling() == file.bytes { restored = kept }
        guard let result = try? HostsLine(in: restored, what) else {
            throw Failure(
                .failed, what, "no source would be left on its hosts line", hint: "make it one: hosts: files dns")
        }
        try unchanged(file, what)
        try write(restored, to: path, like: file, what)
        // Remove the backup only once the file has its old content; until then it may be needed.
        if kept == restored { _ = backup.withPlatformString { unlink($0) } }
        return Outcome(isChanged: true, line: result, backup: existingBackup)
    }

    private var existingBackup: FilePath? {
        var status = stat()
        guard backup.withPlatformString({ lstat($0, &status) }) == 0, status.st_mode & S_IFMT == S_IFREG else {
            return nil
        }
        return backup
    }

    // MARK: The file

    private struct OpenFile: ~Copyable {
        let descriptor: Descriptor
        let status: stat
        let bytes: [UInt8]
    }

    private func open(_ what: String) throws(Failure) -> OpenFile {
        var status = stat()
        guard path.withPlatformString({ lstat($0, &status) }) == 0 else { throw Self.failure(what) }
        guard status.st_mode & S_IFMT != S_IFLNK else {
            throw Failure(
                .failed, what, "it is a symbolic link, so something else writes it",
                hint: "have that write the line, or name its file with --file")
        }
        guard status.st_mode & S_IFMT == S_IFREG else { throw Failure(.failed, what, "it is not a regular file") }
        let raw = path.withPlatformString { Glibc.open($0, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) }
        guard raw >= 0 else { throw Self.failure(what) }
        let descriptor = Descriptor(owning: raw)
        guard fstat(raw, &status) == 0 else { throw Self.failure(what) }
        do throws(Errno) {
            return OpenFile(descriptor: descriptor, status: status, bytes: try readWholeFile(raw))
        } catch {
            throw Failure(what, errno: error)
        }
    }

    /// Throws if the file was replaced since it was read, for example by an editor.
    private func unchanged(_ file: borrowing OpenFile, _ what: String) throws(Failure) {
        var now = stat()
        guard path.withPlatformString({ lstat($0, &now) }) == 0, now.st_ino == file.status.st_ino,
            now.st_size == file.status.st_size, now.st_mtim.tv_sec == file.status.st_mtim.tv_sec,
            now.st_mtim.tv_nsec == file.status.st_mtim.tv_nsec
        else { throw Failure(.failed, what, "another process changed it at the same time", hint: "try again") }
    }

    /// Writes a new file beside `target`, with the owner, mode and extended attributes of `file`, and renames it to
    /// `target`.
    private func write(
        _ bytes: [UInt8], to target: FilePath, like file: borrowing OpenFile, _ what: String
    ) throws(Failure) {
        let fresh = FilePath("\(target).\(getpid())")
        let raw = fresh.withPlatformString {
            Glibc.open($0, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        }
        guard raw >= 0 else { throw Self.failure(what) }
        let copy = Descriptor(owning: raw)
        do throws(Failure) {
            var rest = bytes[...]
            while !rest.isEmpty {
                let count = rest.withUnsafeBytes { Glibc.write(copy.raw, $0.baseAddress, $0.count) }
                guard count >= 0 || errno == EINTR else { throw Self.failure(what) }
                rest = rest.dropFirst(max(count, 0))
            }
            // The owner first: a change of the owner may clear bits of the mode.
            guard fchown(copy.raw, file.status.st_uid, file.status.st_gid) == 0,
                fchmod(copy.raw, file.status.st_mode & 0o7777) == 0,
                vip_copy_attributes(file.descriptor.raw, copy.raw) == 0, fsync(copy.raw) == 0,
                fresh.withPlatformString({ old in target.withPlatformString { new in rename(old, new) } }) == 0
            else { throw Self.failure(what) }
        } catch {
            _ = fresh.withPlatformString { unlink($0) }
            throw error
        }
        // This makes the new name survive a power failure. A failure of it is ignored.
        let directory = target.removingLastComponent()
        if let raw = try? openFile(directory.isEmpty ? "." : directory, O_RDONLY | O_DIRECTORY) {
            fsync(raw)
            close(raw)
        }
    }

    /// An error with the errno of the call that has just failed.
    private static func failure(_ what: String) -> Failure {
        let error = Errno.current
        switch error {
        case .permissionDenied, .notPermitted:
            return Failure(what, errno: error, hint: "see whether the file is immutable: lsattr(1)")
        case .resourceBusy:
            return Failure(
                .failed, what, "a file system is mounted there", hint: "edit the file that is mounted", errno: error)
        default: return Failure(what, errno: error)
        }
    }
}
