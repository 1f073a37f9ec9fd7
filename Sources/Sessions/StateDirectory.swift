// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import SystemPackage

/// The directory that one instance keeps its state in: DIR/registry.sqlite and DIR/lock;
/// DIR/daemon.lock as long as a daemon runs.
///
/// Anybody may read it; only its owner, root as a rule, writes.
public struct StateDirectory: Sendable, Hashable {
    public let path: FilePath

    /// Names the directory; nothing is looked at or made.
    public init(_ path: FilePath) {
        self.path = path
    }

    /// The database of ``Registry``.
    public var registry: FilePath { path.appending("registry.sqlite") }

    /// The file of ``FileLock``.
    public var lockFile: FilePath { path.appending("lock") }

    /// The lock file of ``lockForDaemon()``.
    public var daemonLockFile: FilePath { path.appending("daemon.lock") }

    /// For what outlives the daemon, but not a boot: /run/vip-bpf, or for another state directory than the default one, a
    /// directory in there.
    public var runtime: FilePath {
        path == "/var/lib/vip-bpf" ? "/run/vip-bpf" : path.appending("run")
    }

    /// Makes the directory, mode 0755, and those above it; one that is there is fine.
    ///
    /// - Throws: ``Failure`` as ``OwnedDirectory/create()``.
    public func create() throws(Failure) { try OwnedDirectory(path).create() }

    /// Makes the directory where it is missing, and waits until no other process holds its lock.
    ///
    /// - Parameter timeout: how long to wait.
    /// - Throws: ``Failure`` that names the process that holds it, after the timeout; (not permitted) without root.
    public func lock(timeout: Duration = .seconds(10)) throws(Failure) -> FileLock {
        var made = New()
        return try lock(timeout: timeout, noting: &made)
    }

    /// What a change made here before anything was registered.
    struct New: Sendable {
        var directories: [FilePath] = []
        var files: [FilePath] = []
    }

    /// ``lock(timeout:)``; `new` has what is not there without the caller, also when it throws.
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
                // Another command may have removed the directory that it made.
                tries -= 1
                if error.errno != .noSuchFileOrDirectory || tries == 0 {
                    OwnedDirectory.remove(new.directories)
                    throw error
                }
            }
        }
    }

    /// Takes away what a change made of which nothing is registered. The caller has the lock.
    func remove(_ new: New) {
        guard !new.files.isEmpty, !hasDaemon else { return }
        for file in new.files { _ = file.withPlatformString { unlink($0) } }
        OwnedDirectory.remove(new.directories)
    }

    /// The right to be this directory's daemon, which is not the right to change something: a daemon takes that one
    /// for each change.
    ///
    /// - Throws: ``Failure`` that names the daemon that there is; (not permitted) without root.
    public func lockForDaemon() throws(Failure) -> FileLock {
        try create()
        // Not at once: ``hasDaemon`` has it for a moment.
        return try FileLock(daemonLockFile, timeout: .milliseconds(200)) { holder in
            Failure(
                .failed, "start the daemon of \(path)", "\(holder) is already running",
                hint: "stop it first: systemctl stop vip-bpfd")
        }
    }

    /// Whether a daemon runs, as far as the caller, root, can see.
    public var hasDaemon: Bool {
        guard let file = try? openFile(daemonLockFile, O_RDONLY | O_NOFOLLOW) else { return false }
        defer { close(file) }
        return flock(file, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK
    }
}
