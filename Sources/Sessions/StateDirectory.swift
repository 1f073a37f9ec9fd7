// SPDX-License-Identifier: Apache-2.0

public import BPFLoader
import Glibc
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

    /// The file of ``StateLock``.
    public var lockFile: FilePath { path.appending("lock") }

    /// The lock file of ``lockForDaemon()``.
    public var daemonLockFile: FilePath { path.appending("daemon.lock") }

    /// Makes the directory, mode 0755, and those above it; one that is there is fine.
    ///
    /// - Throws: ``Failure`` where it cannot be made, and where somebody else could put files into it.
    public func create() throws(Failure) {
        let what = "use state directory \(path)"
        var status = stat()
        if path.withPlatformString({ stat($0, &status) }) != 0 {
            guard errno == ENOENT else { throw .system(what, Errno(rawValue: errno)) }
            var directory = FilePath(root: path.root, [])
            for component in path.components {
                directory.append(component)
                let (result, error) = directory.withPlatformString { (mkdir($0, 0o755), errno) }
                guard result == 0 || error == EEXIST else { throw .system("make \(directory)", Errno(rawValue: error)) }
            }
            // Whatever the umask is: readers need not be root.
            guard path.withPlatformString({ chmod($0, 0o755) }) == 0,
                path.withPlatformString({ stat($0, &status) }) == 0
            else { throw .system(what, Errno(rawValue: errno)) }
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw Failure(.failed, what, "it is no directory", try: "name another one with --state")
        }
        guard status.st_uid == 0 || status.st_uid == geteuid(), status.st_mode & 0o022 == 0 else {
            throw Failure(
                .failed, what, "somebody else may write there", try: "chown root \(path) && chmod go-w \(path)")
        }
    }

    /// Makes the directory where it is missing, and waits until no other process holds its lock.
    ///
    /// - Parameter timeout: how long to wait.
    /// - Throws: ``Failure`` that names the process that holds it, after the timeout; (not permitted) without root.
    public func lock(timeout: Duration = .seconds(10)) throws(Failure) -> StateLock {
        try create()
        return try StateLock(lockFile, timeout: timeout)
    }

    /// The right to be this directory's daemon, which is not the right to change something: a daemon takes that one
    /// for each change.
    ///
    /// - Throws: ``Failure`` that names the daemon that there is; (not permitted) without root.
    public func lockForDaemon() throws(Failure) -> StateLock {
        try create()
        // Not at once: ``hasDaemon`` has it for a moment.
        return try StateLock(daemonLockFile, timeout: .milliseconds(200)) { holder in
            Failure(
                .failed, "start the daemon of \(path)", "\(holder) is it already",
                try: "let it be, or end it first: systemctl stop vip-bpfd")
        }
    }

    /// Whether a daemon runs, as far as the caller, root, can see.
    public var hasDaemon: Bool {
        guard let file = try? openFile(daemonLockFile, O_RDONLY | O_NOFOLLOW) else { return false }
        defer { close(file) }
        return flock(file, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK
    }
}

/// The right to change what one state directory stands for: registry, addresses, maps. One process has it at a time.
///
/// It is flock(2) LOCK_EX on a file, so it goes with its holder, however that ends. The file says the holder's PID, for
/// others to name. Its mode is 0600: whoever may open a file may lock it, and nobody else shall stop root.
public struct StateLock: ~Copyable {
    private let file: CInt

    /// - Parameter isHeld: What to say where another process holds it still after the timeout, and which that is.
    fileprivate init(
        _ path: FilePath, timeout: Duration, isHeld: ((_ holder: String) -> Failure)? = nil
    ) throws(Failure) {
        let what = "lock \(path)"
        let deadline = ContinuousClock.now + timeout
        while true {
            let file: CInt
            do throws(Errno) {
                file = try openFile(path, O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
            } catch {
                throw .system(what, error)
            }
            let error = Self.wait(for: file, until: deadline)
            guard error == 0 else {
                defer { close(file) }
                guard error == EWOULDBLOCK else { throw .system(what, Errno(rawValue: error)) }
                if let isHeld { throw isHeld(Self.holder(file)) }
                throw Failure(
                    .busy, what, "\(Self.holder(file)) has held it for \(timeout.components.seconds) s",
                    try: "wait for it to end, or end it")
            }
            // Somebody may have removed the file meanwhile, and another process have locked a new one.
            var mine = stat()
            var there = stat()
            guard fstat(file, &mine) == 0, path.withPlatformString({ lstat($0, &there) }) == 0,
                mine.st_dev == there.st_dev, mine.st_ino == there.st_ino
            else {
                close(file)
                guard ContinuousClock.now < deadline else {
                    throw Failure(.failed, what, "the file keeps changing", try: "try again")
                }
                continue
            }
            let text = "\(getpid())\n"
            guard ftruncate(file, 0) == 0, pwrite(file, text, text.utf8.count, 0) == text.utf8.count else {
                let error = Errno(rawValue: errno)
                close(file)
                throw .system(what, error)
            }
            self.file = file
            return
        }
    }

    deinit {
        ftruncate(file, 0)
        close(file)
    }

    /// Tries every 10 ms: flock(2) itself knows no timeout, a signal to cut it short would be the whole process's, and a thread
    /// left waiting in it could not be ended. At most 1,000 tries in 10 s, and none where the lock is free, as it mostly is.
    ///
    /// - Returns: 0, or the errno: EWOULDBLOCK after the deadline.
    private static func wait(for file: CInt, until deadline: ContinuousClock.Instant) -> CInt {
        while flock(file, LOCK_EX | LOCK_NB) != 0 {
            switch errno {
            case EINTR: continue
            case EWOULDBLOCK where ContinuousClock.now < deadline: usleep(10_000)
            case let error: return error
            }
        }
        return 0
    }

    private static func holder(_ file: CInt) -> String {
        var text = [UInt8](repeating: 0, count: 16)
        let count = pread(file, &text, text.count, 0)
        guard count > 0,
            let pid = pid_t(String(decoding: text[..<count].prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self))
        else { return "another process" }
        let name = (try? readWholeFile(FilePath("/proc/\(pid)/comm"))).map {
            String(decoding: $0.dropLast(), as: UTF8.self)
        }
        return "process \(pid)\(name.map { " (\($0))" } ?? "")"
    }
}
