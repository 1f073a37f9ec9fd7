// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import SystemPackage

/// Seconds since boot, including suspended time. Leases must expire in time even if the wall clock is set.
enum LeaseClock {
    /// CLOCK_BOOTTIME, clock_gettime(2).
    static var now: Double {
        var time = timespec()
        clock_gettime(CLOCK_BOOTTIME, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    /// The first field of /proc/uptime, for times from shell scripts. Containers may change it, so compare it only with
    /// itself.
    static var uptime: Double {
        let text = (try? readWholeFile(FilePath("/proc/uptime"))) ?? []
        return Double(String(decoding: text.prefix { $0 != UInt8(ascii: " ") }, as: UTF8.self)) ?? now
    }
}
