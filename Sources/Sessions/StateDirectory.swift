// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import SystemPackage

/// The directory of an instance's state: DIR/registry.sqlite and DIR/lock, and DIR/daemon.lock of a daemon.
///
/// Only its owner, usually root, may read it: whoever may open a file may lock it, and so stop every change.
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

    /// Creates the directory, mode 0700, and those above it. An existing one gets this mode, unless it has other files:
    /// then it is not this instance's alone. Files that are private have their own mode.
    ///
    /// - Returns: those that it made, uppermost first.
    /// - Throws: ``Failure`` as ``OwnedDirectory/create()``.
    @discardableResult
    public func create() throws(Failure) -> [FilePath] {
        let directory = OwnedDirectory(path, mode: 0o700)
        let made = try directory.create()
        if made.isEmpty { try directory.narrow { holdsNothingElse } }
        return made
    }

    private var holdsNothingElse: Bool {
        guard let entries = try? Directory.entries(of: path) else { return false }
        return entries.allSatisfy { entry in
            ["lock", "daemon.lock", "leases", "run"].contains(entry.name) || entry.name.hasPrefix("registry.sqlite")
        }
    }

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
            new.directories += try create()
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
