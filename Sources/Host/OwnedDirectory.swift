// SPDX-License-Identifier: Apache-2.0

public import Glibc
public import SystemPackage

/// A directory whose files only root, or the caller, may change.
public struct OwnedDirectory: Sendable, Hashable {
    public let path: FilePath
    /// The mode of directories that ``create()`` makes.
    public let mode: mode_t

    /// Names the directory. This neither reads nor creates it.
    public init(_ path: FilePath, mode: mode_t = 0o755) {
        self.path = path
        self.mode = mode
    }

    /// Creates the directory, with its mode, and those above it, mode 0755, if they are missing, whatever the umask is.
    ///
    /// - Returns: the directories that it created, uppermost first.
    /// - Throws: ``Failure`` if it cannot be created, and then nothing is left of it; or as ``requireSafe()``.
    @discardableResult
    public func create() throws(Failure) -> [FilePath] {
        var made: [FilePath] = []
        do throws(Failure) {
            try create(&made)
        } catch {
            Self.remove(made)
            throw error
        }
        return made
    }

    /// Removes directories that ``create()`` created, if they are empty.
    package static func remove(_ made: [FilePath]) {
        for directory in made.reversed() { _ = directory.withPlatformString { rmdir($0) } }
    }

    /// Takes the permissions that are not in ``mode`` from a directory of the caller's own, where it has them.
    ///
    /// - Parameter isAllowed: asked only where there is something to take.
    /// - Throws: ``Failure`` where that is not possible.
    package func narrow(if isAllowed: () -> Bool) throws(Failure) {
        let what = "set the permissions of \(path)"
        let directory = try open(what)
        var status = stat()
        guard fstat(directory.raw, &status) == 0 else { throw Failure(what, errno: .current) }
        let permissions = status.st_mode & 0o7777
        guard permissions & ~mode != 0, status.st_uid == geteuid(), isAllowed() else { return }
        guard fchmod(directory.raw, permissions & mode) == 0 else { throw Failure(what, errno: .current) }
    }

    private func create(_ made: inout [FilePath]) throws(Failure) {
        let what = "use directory \(path)"
        var status = stat()
        if path.withPlatformString({ stat($0, &status) }) != 0 {
            guard errno == ENOENT else { throw Failure(what, errno: Errno(rawValue: errno)) }
            var directory = FilePath(root: path.root, [])
            for component in path.components {
                directory.append(component)
                // It never has more permissions than its final mode.
                let mode = directory == path ? mode : 0o755
                let (result, error) = directory.withPlatformString { (mkdir($0, mode), errno) }
                guard result == 0 || error == EEXIST else {
                    throw Failure("make \(directory)", errno: Errno(rawValue: error))
                }
                guard result == 0 else { continue }
                made.append(directory)
                // Whatever the umask is.
                let opened = try OwnedDirectory(directory).open(what)
                guard fchmod(opened.raw, mode) == 0 else { throw Failure(what, errno: .current) }
            }
            guard path.withPlatformString({ stat($0, &status) }) == 0 else { throw Failure(what, errno: .current) }
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw Failure(.failed, what, "it is not a directory", hint: "name another one with --state")
        }
        try requireSafe()
    }

    private func open(_ what: String) throws(Failure) -> Descriptor {
        do throws(Errno) {
            return Descriptor(owning: try openFile(path, O_RDONLY | O_DIRECTORY))
        } catch {
            throw Failure(what, errno: error)
        }
    }
}
