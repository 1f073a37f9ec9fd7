// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage

extension OwnedDirectory {
    /// Fails where another user could change what is in the directory, or put another directory in its place.
    ///
    /// The directory, the directories above it and the symbolic links that lead to it must belong to root or to the
    /// caller. Nobody else may write to them, except to a directory above it that has the sticky bit (/tmp): others
    /// cannot rename what is not theirs there. What does not exist yet, or may not be looked at, is left to whoever
    /// uses it.
    ///
    /// - Throws: ``Failure`` that names the directory or link that is wrong, why, and what to do.
    public func requireSafe() throws(Failure) {
        var current = FilePath("/")
        var rest = Array(path.components.map(\.string).reversed())
        var links = 0
        try requireSafe(current, isLast: rest.isEmpty)
        while let name = rest.popLast() {
            if name == "." { continue }
            if name == ".." {
                current.removeLastComponent()
                continue
            }
            let next = current.appending(name)
            guard let status = try requireSafe(next, isLast: rest.isEmpty) else { return }
            guard status.st_mode & S_IFMT == S_IFLNK else {
                current = next
                continue
            }
            // As many as the kernel follows: MAXSYMLINKS of include/linux/namei.h.
            links += 1
            guard links <= 40, let target = Self.target(of: next) else { return }
            if target.isAbsolute { current = FilePath("/") }
            rest += target.components.map(\.string).reversed()
        }
    }

    /// Checks one directory or link on the way; `nil` where there is none to be seen.
    @discardableResult
    private func requireSafe(_ place: FilePath, isLast: Bool) throws(Failure) -> stat? {
        var status = stat()
        guard place.withPlatformString({ lstat($0, &status) }) == 0 else { return nil }
        let what = "use directory \(path)"
        let effect = isLast ? "" : ", and so can replace it"
        guard status.st_uid == 0 || status.st_uid == geteuid() else {
            let name = (try? SystemUsers.name(of: status.st_uid)) ?? nil
            throw Failure(
                .failed, what,
                "\(isLast ? "it" : "\(place) above it") belongs to \(name ?? "user \(status.st_uid)")"
                    + (isLast ? "" : ", who can replace it"),
                hint: status.st_mode & S_IFMT == S_IFLNK
                    ? "name the directory that the link leads to" : "chown root \(place) && chmod go-w \(place)")
        }
        // The mode of a link means nothing.
        let othersWrite = status.st_mode & S_IFMT == S_IFDIR && status.st_mode & 0o022 != 0
        guard !othersWrite || !isLast && status.st_mode & S_ISVTX != 0 else {
            throw Failure(
                .failed, what, "other users may write to \(isLast ? "it" : "\(place) above it")\(effect)",
                hint: "chown root \(place) && chmod go-w \(place)")
        }
        return status
    }

    private static func target(of link: FilePath) -> FilePath? {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX) + 1)
        let count = link.withPlatformString { readlink($0, &buffer, buffer.count - 1) }
        return count > 0 ? FilePath(platformString: Array(buffer[..<count]) + [0]) : nil
    }
}
