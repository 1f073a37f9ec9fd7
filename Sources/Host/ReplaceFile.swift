// SPDX-License-Identifier: Apache-2.0

package import Glibc
package import SystemPackage

/// Writes a file in one step: a reader gets the old content or the new one (rename(2)). It writes to `PATH.PID.new`
/// first; the PID keeps two processes apart.
///
/// - Parameters:
///   - mode: the file's mode, whatever the umask.
///   - isSynced: whether the content is on the disk before the file has its name (fsync(2)): a power failure may leave
///     an empty file otherwise.
///   - hint: what to do about an error that is not a missing privilege.
package func replaceFile(
    _ path: FilePath, with bytes: [UInt8], mode: mode_t = 0o644, isSynced: Bool = false, hint: String? = nil
) throws(Failure) {
    let what = "write \(path)"
    let new = FilePath("\(path).\(getpid()).new")
    // Removes a leftover, or a file that another user put there: opening a pipe would block.
    unlink(new.string)
    do throws(Errno) {
        let file = try openFile(new, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: mode)
        defer { close(file) }
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { write(file, $0.baseAddress, $0.count) }
            if count < 0, errno != EINTR { throw Errno.current }
            rest = rest.dropFirst(max(0, count))
        }
        if isSynced, fsync(file) != 0 { throw Errno.current }
        guard fchmod(file, mode) == 0, rename(new.string, path.string) == 0 else { throw Errno.current }
    } catch {
        unlink(new.string)
        throw Failure(what, errno: error, hint: hint)
    }
}
