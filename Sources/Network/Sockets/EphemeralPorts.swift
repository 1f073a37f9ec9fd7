// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import SystemPackage

/// The ports from which the kernel chooses if a program asks for port 0.
public enum EphemeralPorts {
    /// net.ipv4.ip_local_port_range, which holds for both families; the kernel's default if it cannot be read.
    public static func current() -> ClosedRange<UInt16> {
        let bytes = (try? readWholeFile(FilePath("/proc/sys/net/ipv4/ip_local_port_range"))) ?? []
        let ports = String(decoding: bytes, as: UTF8.self).split { $0 == "\t" || $0 == " " || $0 == "\n" }
            .compactMap { UInt16($0) }
        return ports.count == 2 && ports[0] <= ports[1] ? ports[0]...ports[1] : 32768...60999
    }
}
