// SPDX-License-Identifier: Apache-2.0

import Glibc
public import SystemPackage

/// A directory whose files only root, or the caller, may change.
public struct OwnedDirectory: Sendable, Hashable {
    public let path: FilePath

    /// Names the directory. This neither reads nor creates it.
    public init(_ path: FilePath) {
        self.path = path
    }

    /// Creates the directory, mode 0755, and those above it, if they are missing.
    ///
    /// - Returns: the directories that it created, uppermost first.
    /// - Throws: ``Failure`` if it cannot be created, and then nothing is left of it; or if another user could put
    ///   files into it.
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

    private func create(_ made: inout [FilePath]) throws(Failure) {
        let what = "use directory \(path)"
        var status = stat()
        if path.withPlatformString({ stat($0, &status) }) != 0 {
            guard errno == ENOENT else { throw Failure(what, errno: Errno(rawValue: errno)) }
            var directory = FilePath(root: path.root, [])
            for component in path.components {
                directory.append(component)
                let (result, error) = directory.withPlatformString { (mkdir($0, 0o755), errno) }
                guard result == 0 || error == EEXIST else {
                    throw Failure("make \(directory)", errno: Errno(rawValue: error))
                }
                if result == 0 { made.append(directory) }
            }
            // Sets the mode regardless of the umask: readers need not be root.
            guard path.withPlatformString({ chmod($0, 0o755) }) == 0,
                path.withPlatformString({ stat($0, &status) }) == 0
            else { throw Failure(what, errno: Errno(rawValue: errno)) }
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw Failure(.failed, what, "it is not a directory", hint: "name another one with --state")
        }
        guard status.st_uid == 0 || status.st_uid == geteuid(), status.st_mode & 0o022 == 0 else {
            throw Failure(
                .failed, what, "other users may write to it", hint: "chown root \(path) && chmod go-w \(path)")
        }
    }
}
