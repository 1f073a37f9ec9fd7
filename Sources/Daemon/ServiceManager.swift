// SPDX-License-Identifier: Apache-2.0

import CSystemd
import Glibc

/// The service manager, where one started this process: sd_notify(3). Without it, nothing happens.
enum ServiceManager {
    /// How often the watchdog wants to hear from us; `nil` where there is none: sd_watchdog_enabled(3).
    static func watchdogInterval() -> Duration? {
        var microseconds: UInt64 = 0
        guard sd_watchdog_enabled(0, &microseconds) > 0, microseconds > 0 else { return nil }
        return .microseconds(Int64(clamping: microseconds))
    }

    static func notify(_ state: String) { _ = sd_notify(0, state) }

    /// Between the two, a reload: Type=notify-reload of systemd.service(5) wants the time, an older one ignores it.
    static func notifyReloading() {
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        notify("RELOADING=1\nMONOTONIC_USEC=\(UInt64(now.tv_sec) * 1_000_000 + UInt64(now.tv_nsec) / 1000)")
    }
}
