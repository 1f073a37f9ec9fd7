// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Sessions
import SystemPackage

/// Whether the daemon of this state directory runs: whether a process holds its lock.
package enum DaemonFacts: CheckedSubject {
    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        let file = host.instance.state.daemonLockFile
        if let pid = holder(of: file) {
            return [.good("daemon", pid > 0 ? "process \(pid)" : "runs, in another PID namespace")]
        }
        return [
            .warning(
                "daemon", "not running: sessions do not follow logins; removed addresses are not restored",
                fix: "systemctl start vip-bpfd")
        ]
    }

    /// The process that holds a flock(2) lock on a file, from /proc/locks (proc_locks(5)). Trying to take the lock
    /// could make a daemon fail that is being started.
    ///
    /// - Returns: 0 for a process of another PID namespace; `nil` if no process holds it.
    private static func holder(of file: FilePath) -> pid_t? {
        var status = stat()
        guard file.withPlatformString({ stat($0, &status) }) == 0,
            let locks = try? String(contentsOf: "/proc/locks")
        else { return nil }
        for line in locks.split(separator: "\n") {
            // `1: FLOCK  ADVISORY  WRITE 708 08:01:1839 0 EOF`. The device is the superblock's, which stat(2) may not
            // return.
            let fields = line.split(separator: " ")
            guard fields.count > 5, fields[1] == "FLOCK", let pid = pid_t(fields[4]),
                fields[5].split(separator: ":").last.flatMap({ UInt64($0) }) == UInt64(status.st_ino)
            else { continue }
            return max(pid, 0)
        }
        return nil
    }
}
