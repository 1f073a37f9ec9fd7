// SPDX-License-Identifier: Apache-2.0

public import Glibc
public import SystemPackage

/// A cgroup v2 directory, as it was when the value was made: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.
///
/// The path is only where it was found. A cgroup that was removed and created again at that path is another one:
/// ``isSame``.
public struct Cgroup: Sendable, Hashable {
    /// Canonical: absolute, without symbolic links, below the mount that shows the whole hierarchy.
    public let path: FilePath
    /// The inode number of its directory: bpf_get_current_cgroup_id() and the kernel's cgroup_id(). Never reused.
    public let id: UInt64
    /// Its depth as bpf_get_current_ancestor_cgroup_id() counts: the root is 0.
    public let level: UInt32

    /// Whether it is the hierarchy's root. The root cannot be a session, and cannot be removed, killed or waited for.
    public var isRoot: Bool { level == 0 }

    /// Looks up the cgroup at a path. It reads the mount table for this.
    ///
    /// - Throws: ``Failure``, see ``init(path:mounts:)``.
    public init(path: FilePath) throws(Failure) {
        try self.init(path: path, mounts: .current())
    }

    /// Looks up the cgroup at a path, absolute or relative to the working directory.
    ///
    /// - Parameter mounts: from ``MountTable/current()``; a caller that looks up many reads it once.
    /// - Throws: ``Failure`` if nothing is at the path, if it is not a directory of a cgroup v2 file system, if it may
    ///   not be read (not permitted), and (unavailable) if the depth is not known because this process is in a cgroup
    ///   namespace and sees only a part of the hierarchy.
    public init(path: FilePath, mounts: MountTable) throws(Failure) {
        let what = "use cgroup \(path)"
        let real: FilePath
        do throws(Errno) {
            real = try path.real()
        } catch .noSuchFileOrDirectory {
            throw Failure(.failed, what, "there is no such directory", hint: "give a directory below a cgroup v2 mount")
        } catch {
            throw Failure(what, errno: error)
        }

        let status: stat
        do throws(Errno) { status = try Self.status(of: real) } catch { throw Failure(what, errno: error) }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw Failure(.failed, what, "it is not a directory", hint: "give the directory that it is in")
        }
        guard let seen = mounts.mount(containing: real), seen.device == Self.kernelDevice(status.st_dev) else {
            throw Failure(.failed, what, "the mount table does not show what is mounted there", hint: "try again")
        }
        guard seen.fsType == "cgroup2" else {
            throw Failure(
                .failed, what,
                seen.fsType == "cgroup" ? "it belongs to a cgroup v1 hierarchy" : "it is not on cgroup v2",
                hint: "give a directory \(Self.place(mounts))")
        }
        let id = UInt64(status.st_ino)

        // A hierarchy, or a part of it, may be mounted at several places: use one name for each cgroup.
        let whole = try Self.wholeHierarchy(mounts)
        var below = seen.root
        below.append(Self.components(of: real, below: seen.mountPoint))
        var canonical = whole
        canonical.append(below.components)
        guard try Self.inode(at: canonical, what) == id else {
            throw Failure(
                .unavailable, what, "this process is in a cgroup namespace and does not see the whole hierarchy",
                hint: "run in the host's: nsenter --target 1 --cgroup --mount")
        }
        self.init(path: canonical, id: id, level: UInt32(below.components.count))
    }

    /// A cgroup as it was recorded by an earlier look-up. It may no longer exist: see ``isSame``.
    package init(notedPath path: FilePath, id: UInt64, level: UInt32) {
        self.init(path: path, id: id, level: level)
    }

    private init(path: FilePath, id: UInt64, level: UInt32) {
        self.path = path
        self.id = id
        self.level = level
    }

    /// The cgroup of the calling process.
    ///
    /// - Throws: ``Failure`` as ``init(ofProcess:mounts:)``.
    public static func current() throws(Failure) -> Cgroup {
        try Cgroup(ofProcess: getpid(), mounts: .current())
    }

    /// The cgroup of a process: the `0::` line of its /proc/PID/cgroup.
    ///
    /// - Throws: ``Failure`` if there is no such process, if its cgroup was removed, and as ``init(path:mounts:)``.
    public init(ofProcess pid: pid_t, mounts: MountTable) throws(Failure) {
        let what = "find the cgroup of process \(pid)"
        let text: [UInt8]
        do throws(Errno) {
            text = try readWholeFile(FilePath("/proc/\(pid)/cgroup"))
        } catch .noSuchFileOrDirectory {
            throw Failure(.failed, what, "there is no such process")
        } catch {
            throw Failure(what, errno: error)
        }
        guard let below = Self.path(inProcCgroup: text) else {
            throw Failure(
                .unavailable, what, "it is in no cgroup v2 hierarchy",
                hint: "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        }
        guard !below.components.contains(where: { $0.kind == .parentDirectory }) else {
            throw Failure(
                .unavailable, what, "it is outside this process's cgroup namespace",
                hint: "run in the host's: nsenter --target 1 --cgroup --mount")
        }
        var path = try Self.wholeHierarchy(mounts)
        path.append(below.components)
        try self.init(path: path, mounts: mounts)
    }

    // MARK: Its present state

    /// Whether anything is at the path. ``isSame`` says whether it is this cgroup.
    public var exists: Bool {
        (try? Self.inode(at: path)) != nil
    }

    /// Whether this cgroup still exists: the path leads to the same ID.
    public var isSame: Bool { Self.isThere(path, id: id) }

    /// Whether the cgroup that had this path and ID still exists. Takes one call of stat(2).
    ///
    /// - Parameter path: as ``path`` has it.
    public static func isThere(_ path: FilePath, id: UInt64) -> Bool {
        (try? inode(at: path)) == id
    }

    /// Whether a process is in the cgroup or below it: `populated` of cgroup.events. `false` if the cgroup no longer
    /// exists; always `true` for the root.
    ///
    /// - Throws: ``Failure`` if the file cannot be read.
    public func isPopulated() throws(Failure) -> Bool {
        guard !isRoot else { return true }
        guard isSame else { return false }
        do throws(Errno) {
            return Self.isPopulated(try readWholeFile(path.appending("cgroup.events")))
        } catch {
            if Self.isGone(error) { return false }
            throw Failure("read whether cgroup \(path) is empty", errno: error)
        }
    }

    /// The processes in the cgroup, by ID and without duplicates; none if the cgroup no longer exists.
    ///
    /// Processes of another PID namespace have no ID here and are left out; ``isPopulated()`` counts them.
    ///
    /// - Parameter subtree: whether to include the cgroups below.
    /// - Throws: ``Failure`` if cgroup.procs cannot be read, as in a threaded cgroup.
    public func processes(subtree: Bool = false) throws(Failure) -> [pid_t] {
        guard isSame else { return [] }
        return try processes(in: subtree ? try directoriesBottomUp() : [path])
    }

    /// The processes in the cgroup and below, as ``processes(subtree:)``, from at most `limit` cgroups.
    ///
    /// - Returns: the processes, and whether these are all.
    package func processes(
        inCgroupsAtMost limit: Int
    ) throws(Failure) -> (processes: [pid_t], isAll: Bool) {
        guard isSame else { return ([], true) }
        let directories = try directoriesBottomUp(atMost: limit + 1)
        // The uppermost cgroups are at the end.
        return (try processes(in: directories.suffix(limit)), directories.count <= limit)
    }

    private func processes(in directories: some Sequence<FilePath>) throws(Failure) -> [pid_t] {
        var found: Set<pid_t> = []
        for directory in directories {
            do throws(Errno) {
                let text = try readWholeFile(directory.appending("cgroup.procs"))
                found.formUnion(
                    text.split(separator: UInt8(ascii: "\n")).compactMap { pid_t(String(decoding: $0, as: UTF8.self)) })
            } catch {
                // The processes of a threaded cgroup are listed by the domain above it.
                if Self.isGone(error) || error == .notSupportedOnSocket && directory != path { continue }
                throw Failure("list the processes of cgroup \(directory)", errno: error)
            }
        }
        found.remove(0)
        return found.sorted()
    }

    /// The relation of two cgroups. It goes by path components, so `/a/bc` is not below `/a/b`.
    public enum Relation: Sendable, Hashable {
        case same, above, below, unrelated
    }

    /// This cgroup's relation to another: `.above` if the other is below it.
    public func relation(to other: Cgroup) -> Relation {
        if path == other.path { return .same }
        if other.path.starts(with: path) { return .above }
        return path.starts(with: other.path) ? .below : .unrelated
    }

    /// Whether the other cgroup is below this one. A cgroup does not contain itself.
    public func contains(_ other: Cgroup) -> Bool { relation(to: other) == .above }

    // MARK: Changing it

    /// Creates a cgroup below this one: mkdir(2), mode 0755.
    ///
    /// - Throws: ``Failure`` if the name is invalid or taken, if this cgroup no longer exists, and (not permitted)
    ///   without root.
    public func makeChild(named name: String) throws(Failure) -> Cgroup {
        let what = "make cgroup \(name) below \(path)"
        guard let component = FilePath.Component(name), component.kind == .regular, name.utf8.count <= Int(NAME_MAX),
            !name.contains(where: \.isNewline)  // cgroup_mkdir() refuses it
        else {
            throw Failure(
                .usage, what, "the name is not valid for a cgroup", hint: "use letters, digits, '-', '_' and '.'")
        }
        let child = path.appending(component)
        let (result, error) = child.withPlatformString { (mkdir($0, 0o755), errno) }
        guard result == 0 else {
            switch error {
            case EEXIST: throw Failure(.failed, what, "there is one already", hint: "choose another name")
            case ENOENT, ENODEV: throw Failure(.failed, what, "\(path) no longer exists")
            case EAGAIN:
                throw Failure(
                    .failed, what, "the limit of cgroup.max.descendants or cgroup.max.depth is reached",
                    hint: "raise it in \(path) or above")
            default: throw Failure(what, errno: Errno(rawValue: error))
            }
        }
        return Cgroup(path: child, id: try Self.inode(at: child, what), level: level + 1)
    }

    /// Removes the cgroup and all below it: rmdir(2), from the bottom up. It is no error if it no longer exists.
    /// Another cgroup that was created at its path is left alone.
    ///
    /// - Throws: ``Failure`` if a process is in it; nothing is removed then. If a process enters during the removal,
    ///   cgroups below may already be removed.
    public func remove() throws(Failure) {
        let what = "remove cgroup \(path)"
        guard !isRoot else { throw Failure(.failed, what, "it is the root of cgroup v2") }
        guard try !isPopulated() else {
            let count = (try? processes(subtree: true).count) ?? 0
            throw Failure(
                .failed, what, count == 1 ? "a process is still in it" : "\(count) processes are still in it",
                hint: "end them first")
        }
        guard isSame else { return }
        for directory in try directoriesBottomUp() {
            let (result, error) = directory.withPlatformString { (rmdir($0), errno) }
            guard result == 0 || error == ENOENT else {
                if error == EBUSY {
                    throw Failure(.failed, what, "a process is still in \(directory)", hint: "end it first")
                }
                throw Failure(what, errno: Errno(rawValue: error))
            }
        }
    }

    /// Sends SIGKILL to every process in the cgroup and below, including those that are being forked: cgroup.kill,
    /// Linux 5.14. Does not wait: ``waitUntilEmpty(timeout:interruptedBy:)``. It is no error if the cgroup no longer
    /// exists.
    ///
    /// - Throws: ``Failure`` for the root, and if the file cannot be written.
    public func kill() throws(Failure) {
        let what = "kill the processes of cgroup \(path)"
        guard !isRoot else { throw Failure(.failed, what, "it is the root of cgroup v2") }
        guard isSame else { return }
        do throws(Errno) {
            let file = try openFile(path.appending("cgroup.kill"), O_WRONLY)
            defer { close(file) }
            guard write(file, "1", 1) == 1 else { throw Errno(rawValue: errno) }
        } catch {
            guard isSame else { return }
            if error == .noSuchFileOrDirectory {
                throw Failure(.unavailable, what, "this kernel has no cgroup.kill", hint: "use Linux 5.14 or later")
            }
            throw Failure(what, errno: error)
        }
    }

    /// Whether freezing the cgroup was asked for: cgroup.freeze, Linux 5.2. `false` if it no longer exists.
    ///
    /// - Throws: ``Failure`` for the root, and if the file cannot be read.
    public func isFrozen() throws(Failure) -> Bool {
        let what = "read whether cgroup \(path) is frozen"
        guard !isRoot else { throw Failure(.failed, what, "it is the root of cgroup v2") }
        guard isSame else { return false }
        do throws(Errno) {
            return try readWholeFile(path.appending("cgroup.freeze")).first == UInt8(ascii: "1")
        } catch {
            if Self.isGone(error) { return false }
            throw Failure(what, errno: error)
        }
    }

    /// Freezes or thaws the cgroup and all below it: cgroup.freeze. A process that enters a frozen cgroup does not run
    /// before it is thawed. Does not wait until the processes in it have stopped. It is no error if the cgroup no
    /// longer exists.
    ///
    /// - Throws: ``Failure`` for the root, and if the file cannot be written.
    public func setFrozen(_ isFrozen: Bool) throws(Failure) {
        let what = "\(isFrozen ? "freeze" : "thaw") cgroup \(path)"
        guard !isRoot else { throw Failure(.failed, what, "it is the root of cgroup v2") }
        guard isSame else { return }
        do throws(Errno) {
            let file = try openFile(path.appending("cgroup.freeze"), O_WRONLY)
            defer { close(file) }
            guard write(file, isFrozen ? "1" : "0", 1) == 1 else { throw Errno(rawValue: errno) }
        } catch {
            guard isSame else { return }
            throw Failure(what, errno: error)
        }
    }

    /// Moves a process, with all its threads, into the cgroup: cgroup.procs.
    ///
    /// - Throws: ``Failure`` if there is no such process or cgroup, and (not permitted) without the privilege.
    public func add(process pid: pid_t) throws(Failure) {
        let what = "move process \(pid) into cgroup \(path)"
        do throws(Errno) {
            let file = try openFile(path.appending("cgroup.procs"), O_WRONLY)
            defer { close(file) }
            let text = String(pid)
            guard write(file, text, text.utf8.count) == text.utf8.count else { throw Errno(rawValue: errno) }
        } catch {
            switch error {
            case .noSuchProcess: throw Failure(.failed, what, "there is no such process")
            case _ where Self.isGone(error): throw Failure(.failed, what, "the cgroup no longer exists")
            default: throw Failure(what, errno: error)
            }
        }
    }

    /// What ended ``waitUntilEmpty(timeout:interruptedBy:)``.
    public enum WaitResult: Sendable, Hashable {
        /// No process is in it or below it, or it no longer exists.
        case empty
        case timedOut
        /// The descriptor became readable.
        case interrupted
    }

    /// Waits until no process is in the cgroup or below it: poll(2) on cgroup.events, which the kernel wakes when it
    /// changes.
    ///
    /// Blocks the calling thread, so do not call it on Swift's cooperative pool.
    ///
    /// - Parameters:
    ///   - timeout: the longest time to wait; `nil` waits without limit.
    ///   - descriptor: a descriptor (eventfd, signalfd, pipe) that ends the wait when it becomes readable.
    /// - Throws: ``Failure`` for the root, which has no events, and if they cannot be read.
    public func waitUntilEmpty(
        timeout: Duration? = nil, interruptedBy descriptor: FileDescriptor? = nil
    ) throws(Failure) -> WaitResult {
        let what = "wait until cgroup \(path) is empty"
        guard !isRoot else { throw Failure(.failed, what, "it is the root of cgroup v2") }
        guard isSame else { return .empty }
        let deadline = timeout.map { ContinuousClock.now + $0 }
        do throws(Errno) {
            let events = try openFile(path.appending("cgroup.events"), O_RDONLY)
            defer { close(events) }
            while true {
                guard lseek(events, 0, SEEK_SET) == 0 else { throw Errno(rawValue: errno) }
                // Reading the file arms the next wake-up, so a change between this and poll() is not missed.
                guard Self.isPopulated(try readWholeFile(events)) else { return .empty }
                var polled = [
                    pollfd(fd: events, events: Int16(POLLPRI), revents: 0),
                    pollfd(fd: descriptor?.rawValue ?? -1, events: Int16(POLLIN), revents: 0),
                ]
                let left = deadline.map { ContinuousClock.now.duration(to: $0) }
                if let left, left < .zero { return .timedOut }
                guard poll(&polled, nfds_t(polled.count), left?.pollTimeout ?? -1) >= 0 || errno == EINTR else {
                    throw Errno(rawValue: errno)
                }
                if polled[1].revents != 0 { return .interrupted }
            }
        } catch {
            if Self.isGone(error) { return .empty }
            throw Failure(what, errno: error)
        }
    }

    // MARK: How it is found

    /// The `0::` line of /proc/PID/cgroup, without the mark of a removed cgroup; `nil` without such a line.
    package static func path(inProcCgroup text: [UInt8]) -> FilePath? {
        let prefix = Array("0::/".utf8)
        guard let line = text.split(separator: UInt8(ascii: "\n")).first(where: { $0.starts(with: prefix) }) else {
            return nil
        }
        return FilePath(platformString: line.dropFirst(3).map(CChar.init(bitPattern:)) + [0])
    }

    package static func isPopulated(_ events: [UInt8]) -> Bool {
        events.split(separator: UInt8(ascii: "\n")).contains(Array("populated 1".utf8)[...])
    }

    /// The mount point that shows the hierarchy from its real root. The root's inode number is always 1
    /// (cgroup_setup_root() in kernel/cgroup/cgroup.c). In a cgroup namespace, `/` is a cgroup further down.
    package static func wholeHierarchy(_ mounts: MountTable) throws(Failure) -> FilePath {
        _ = try mounts.cgroup2Mount()
        for mount in mounts.cgroup2 where mount.root == "/" {
            if (try? inode(at: mount.mountPoint)) == 1 { return mount.mountPoint }
        }
        throw Failure(
            .unavailable, "find the root of cgroup v2",
            "no mount shows the whole hierarchy: this is a cgroup namespace",
            hint: "run in the host's: nsenter --target 1 --cgroup --mount")
    }

    private static func place(_ mounts: MountTable) -> String {
        mounts.cgroup2.first.map { "below \($0.mountPoint)" }
            ?? "on cgroup v2, once it is mounted: mount -t cgroup2 cgroup2 DIR"
    }

    private static func components(of path: FilePath, below parent: FilePath) -> FilePath.ComponentView.SubSequence {
        path.components.dropFirst(parent.components.count)
    }

    private static func status(of path: FilePath) throws(Errno) -> stat {
        var status = stat()
        let (result, error) = path.withPlatformString { (lstat($0, &status), errno) }
        guard result == 0 else { throw Errno(rawValue: error) }
        return status
    }

    private static func inode(at path: FilePath) throws(Errno) -> UInt64 {
        UInt64(try status(of: path).st_ino)
    }

    /// The kernel's own number (``MountTable/Mount/device``) of a device as stat(2) reports it: gnu_dev_major(3).
    private static func kernelDevice(_ device: dev_t) -> UInt32 {
        let major = device >> 8 & 0xfff | device >> 32 & ~0xfff
        let minor = device & 0xff | device >> 12 & 0xffff_ff00
        return UInt32(truncatingIfNeeded: major << 20 | minor)
    }

    private static func inode(at path: FilePath, _ what: String) throws(Failure) -> UInt64 {
        do throws(Errno) { return try inode(at: path) } catch { throw Failure(what, errno: error) }
    }

    /// Whether the error means that the cgroup was removed: ENOENT when the file is opened, ENODEV if it was already
    /// open.
    private static func isGone(_ error: Errno) -> Bool { error == .noSuchFileOrDirectory || error.rawValue == ENODEV }

    /// This cgroup's directory and all below it, each after those below it. With a limit, only the uppermost of them.
    private func directoriesBottomUp(atMost limit: Int = .max) throws(Failure) -> [FilePath] {
        var found = [path]
        var next = 0
        while next < found.count {
            let directory = found[next]
            next += 1
            let entries: [Directory.Entry]
            do throws(Errno) {
                entries = try Directory.entries(of: directory)
            } catch {
                if Self.isGone(error) { continue }
                throw Failure("list the cgroups below \(directory)", errno: error)
            }
            for entry in entries where entry.isDirectory && found.count < limit {
                found.append(directory.appending(entry.component))
            }
        }
        return found.reversed()
    }
}
