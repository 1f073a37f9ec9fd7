// SPDX-License-Identifier: Apache-2.0

import Glibc
package import SystemPackage

/// A lock that one process holds at a time: flock(2) with LOCK_EX on a file.
///
/// The kernel releases it when its holder ends, in whatever way. The file contains the holder's PID, for messages of
/// other processes. Its mode is 0600: any user who can open a file can lock it, and other users must not be able to
/// block root.
public struct FileLock: ~Copyable {
    private let file: CInt

    /// - Parameter isHeld: makes the error for a lock that another process still holds after the timeout, from its PID.
    package init(
        _ path: FilePath, timeout: Duration, isHeld: ((_ holder: String) -> Failure)? = nil
    ) throws(Failure) {
        let what = "lock \(path)"
        let deadline = ContinuousClock.now + timeout
        while true {
            let file: CInt
            do throws(Errno) {
                file = try openFile(path, O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
            } catch {
                throw Failure(what, errno: error)
            }
            let error = Self.wait(for: file, until: deadline)
            guard error == 0 else {
                defer { close(file) }
                guard error == EWOULDBLOCK else { throw Failure(what, errno: Errno(rawValue: error)) }
                if let isHeld { throw isHeld(Self.holder(file)) }
                throw Failure(
                    .busy, what, "\(Self.holder(file)) has held it for \(timeout.components.seconds) s",
                    hint: "wait for it to end, or end it")
            }
            // While this waited, another process may have removed the file, and a third one may have locked a new one.
            var mine = stat()
            var there = stat()
            guard fstat(file, &mine) == 0, path.withPlatformString({ lstat($0, &there) }) == 0,
                mine.st_dev == there.st_dev, mine.st_ino == there.st_ino
            else {
                close(file)
                guard ContinuousClock.now < deadline else {
                    throw Failure(.failed, what, "the file keeps changing", hint: "try again")
                }
                continue
            }
            let text = "\(getpid())\n"
            guard ftruncate(file, 0) == 0, pwrite(file, text, text.utf8.count, 0) == text.utf8.count else {
                let error = Errno(rawValue: errno)
                close(file)
                throw Failure(what, errno: error)
            }
            self.file = file
            return
        }
    }

    deinit {
        ftruncate(file, 0)
        close(file)
    }

    /// Tries every 10 ms. flock(2) has no timeout; a signal that interrupts it would affect the whole process; and a
    /// thread that waits in it could not be ended. At most 1,000 tries are made in 10 s, and usually the first
    /// succeeds.
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
