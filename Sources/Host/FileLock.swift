// SPDX-License-Identifier: Apache-2.0

import Glibc
package import SystemPackage

/// A lock that one process has at a time, by a file: the right to change what the file stands for.
///
/// It is flock(2) LOCK_EX on a file, so it goes with its holder, however that ends. The file holds the holder's PID, for
/// others to name. Its mode is 0600: whoever may open a file may lock it, and other users must not be able to block root.
public struct FileLock: ~Copyable {
    private let file: CInt

    /// - Parameter isHeld: What to say where another process holds it still after the timeout, and which that is.
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
            // Another process may have removed the file meanwhile, and a third one have locked a new one.
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
