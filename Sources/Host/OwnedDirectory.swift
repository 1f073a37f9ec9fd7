// SPDX-License-Identifier: Apache-2.0

import Glibc
public import SystemPackage

/// A directory of files that only root, or the caller, may change.
public struct OwnedDirectory: Sendable, Hashable {
    public let path: FilePath

    /// Names the directory; it is neither looked at nor made.
    public init(_ path: FilePath) {
        self.path = path
    }

    /// Makes the directory, mode 0755, and those above it; one that is there is fine.
    ///
    /// - Throws: ``Failure`` where it cannot be made, and where somebody else could put files into it.
    public func create() throws(Failure) {
        let what = "use directory \(path)"
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
}
