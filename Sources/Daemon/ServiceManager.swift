// SPDX-License-Identifier: Apache-2.0

import CSystemd
import Glibc

/// The service manager that started this process, if one did: sd_notify(3).
enum ServiceManager {
    static func notify(_ state: String) { _ = sd_notify(0, state) }

    /// Announces a reload, which READY=1 ends. Type=notify-reload of systemd.service(5) needs the time; other types
    /// ignore it.
    static func notifyReloading() {
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        notify("RELOADING=1\nMONOTONIC_USEC=\(UInt64(now.tv_sec) * 1_000_000 + UInt64(now.tv_nsec) / 1000)")
    }
}
