// SPDX-License-Identifier: Apache-2.0

public import Glibc
import SystemPackage

/// Identifies a process within one boot by PID and start time, so that a later process with the same PID differs.
public struct ProcessIdentity: Sendable, Hashable {
    public let pid: pid_t
    /// When it started, in clock ticks since boot: field 22 of /proc/PID/stat, proc_pid_stat(5).
    public let startTime: UInt64

    public init(pid: pid_t, startTime: UInt64) {
        self.pid = pid
        self.startTime = startTime
    }

    /// The process that has the PID now; `nil` if there is none.
    public init?(pid: pid_t) {
        guard let text = try? readWholeFile(FilePath("/proc/\(pid)/stat")),
            // The second field is a name in parentheses, which may contain spaces and parentheses itself.
            let end = text.lastIndex(of: UInt8(ascii: ")"))
        else { return nil }
        let fields = text[(end + 1)...].split(separator: UInt8(ascii: " "))
        guard fields.count > 19, let startTime = UInt64(String(decoding: fields[19], as: UTF8.self)) else { return nil }
        self.init(pid: pid, startTime: startTime)
    }

    /// The identity of this process.
    package static func own(_ what: String) throws(Failure) -> ProcessIdentity {
        guard let process = ProcessIdentity(pid: getpid()) else {
            throw Failure(.unavailable, what, "this process is not in /proc", hint: "mount -t proc proc /proc")
        }
        return process
    }

    /// Whether it still runs, or is a zombie that has not been reaped.
    public var isAlive: Bool { ProcessIdentity(pid: pid) == self }
}
