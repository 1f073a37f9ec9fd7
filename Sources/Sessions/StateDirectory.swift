// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import SystemPackage

/// The directory of an instance's state: DIR/registry.sqlite and DIR/lock, and DIR/daemon.lock of a daemon.
///
/// Every user may read it. Only its owner, usually root, writes.
public struct StateDirectory: Sendable, Hashable {
    public let path: FilePath

    /// Names the directory. This neither reads nor creates it.
    public init(_ path: FilePath) {
        self.path = path
    }

    /// The database of ``Registry``.
    public var registry: FilePath { path.appending("registry.sqlite") }

    /// The file of ``FileLock``.
    public var lockFile: FilePath { path.appending("lock") }

    /// The lock file of ``lockForDaemon()``.
    public var daemonLockFile: FilePath { path.appending("daemon.lock") }

    /// The directory for files that outlive the daemon, but not a boot: /run/vip-bpf, or a directory in it for a state
    /// directory other than the default.
    public var runtime: FilePath {
        path == "/var/lib/vip-bpf" ? "/run/vip-bpf" : path.appending("run")
    }

    /// Creates the directory, mode 0755, and those above it. It is no error if it exists.
    ///
    /// - Throws: ``Failure`` as ``OwnedDirectory/create()``.
    public func create() throws(Failure) { try OwnedDirectory(path).create() }

    /// Creates the directory if it is missing, and takes its lock.
    ///
    /// - Parameter timeout: how long to wait for another process to release it.
    /// - Throws: ``Failure`` that names the process that holds it after the timeout; (not permitted) without root.
    public func lock(timeout: Duration = .seconds(10)) throws(Failure) -> FileLock {
        var made = New()
        return try lock(timeout: timeout, noting: &made)
    }

    /// Files and directories that a change has created, and that are removed if it registers nothing.
    struct New: Sendable {
        var directories: [FilePath] = []
        var files: [FilePath] = []
    }

    /// ``lock(timeout:)``; also sets `new` to what did not exist before, even if it throws.
    func lock(timeout: Duration = .seconds(10), noting new: inout New) throws(Failure) -> FileLock {
        var tries = 3
        while true {
            new.directories += try OwnedDirectory(path).create()
            let hadLock = FileStatus.exists(lockFile)
            do throws(Failure) {
                let lock = try FileLock(lockFile, timeout: timeout)
                if !FileStatus.exists(registry) {
                    new.files = [path.appending("registry.sqlite-journal"), registry] + (hadLock ? [] : [lockFile])
                }
                return lock
            } catch {
                // Another command may have removed the directory that it had created.
                tries -= 1
                if error.errno != .noSuchFileOrDirectory || tries == 0 {
                    OwnedDirectory.remove(new.directories)
                    throw error
                }
            }
        }
    }

    /// Removes what a change has created, if it has registered nothing. The caller holds the lock.
    func remove(_ new: New) {
        guard !new.files.isEmpty, !hasDaemon else { return }
        for file in new.files { _ = file.withPlatformString { unlink($0) } }
        OwnedDirectory.remove(new.directories)
    }

    /// The lock that makes a process the daemon of this directory. It does not allow changes: the daemon takes the
    /// other lock for each of them.
    ///
    /// - Throws: ``Failure`` that names the running daemon; (not permitted) without root.
    public func lockForDaemon() throws(Failure) -> FileLock {
        try create()
        // Wait for a moment, because ``hasDaemon`` takes the lock for a short time.
        return try FileLock(daemonLockFile, timeout: .milliseconds(200)) { holder in
            Failure(
                .failed, "start the daemon of \(path)", "\(holder) is already running",
                hint: "stop it first: systemctl stop vip-bpfd")
        }
    }

    /// Whether a daemon runs. Only root can see it.
    public var hasDaemon: Bool {
        guard let file = try? openFile(daemonLockFile, O_RDONLY | O_NOFOLLOW) else { return false }
        defer { close(file) }
        return flock(file, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK
    }
}
