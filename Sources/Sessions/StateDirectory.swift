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
    /// - Throws: ``Failure`` where it cannot be made, and where somebody else could put files into it.
    public func create() throws(Failure) { try OwnedDirectory(path).create() }

    /// Makes the directory where it is missing, and waits until no other process holds its lock.
    ///
    /// - Parameter timeout: how long to wait.
    /// - Throws: ``Failure`` that names the process that holds it, after the timeout; (not permitted) without root.
    public func lock(timeout: Duration = .seconds(10)) throws(Failure) -> FileLock {
        try create()
        return try FileLock(lockFile, timeout: timeout)
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
                try: "stop it first: systemctl stop vip-bpfd")
        }
    }

    /// Whether a daemon runs, as far as the caller, root, can see.
    public var hasDaemon: Bool {
        guard let file = try? openFile(daemonLockFile, O_RDONLY | O_NOFOLLOW) else { return false }
        defer { close(file) }
        return flock(file, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK
    }
}
