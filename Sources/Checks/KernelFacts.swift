// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import SystemPackage

/// The running kernel: its release, its type information (BTF), and lockdown.
package enum KernelFacts: CheckedSubject {
    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        var name = utsname()
        uname(&name)
        let release = withUnsafeBytes(of: name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let btf: CheckedFact =
            FileStatus.exists("/sys/kernel/btf/vmlinux")
            ? .good("kernel", "\(release), with BTF")
            : .bad("kernel", "\(release) has no BTF", fix: "use a kernel with CONFIG_DEBUG_INFO_BTF", .host)
        return [btf, lockdown(try? String(contentsOf: "/sys/kernel/security/lockdown"))]
    }

    /// - Parameter text: the contents of /sys/kernel/security/lockdown, kernel_lockdown(7): `none [integrity]
    ///   confidentiality`.
    package static func lockdown(_ text: String?) -> CheckedFact {
        guard let text else { return .good("lockdown", "kernel lockdown is off") }
        let mode = text.split { $0.isWhitespace }.first { $0.hasPrefix("[") && $0.hasSuffix("]") }
        let word = mode.map { String($0.dropFirst().dropLast()) } ?? "unknown"
        // LOCKDOWN_BPF_READ_KERNEL refuses bpf_probe_read_kernel_str(), by which a hook reads a program's name.
        guard word == "confidentiality" else { return .good("lockdown", word) }
        return .bad(
            "lockdown", "confidentiality: BPF programs may not read which program is calling",
            fix: "boot with lockdown=integrity, or none", .host)
    }
}
