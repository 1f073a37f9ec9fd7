// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import SystemPackage

/// The running kernel: its release, its types (BTF), whether it is locked down.
enum KernelFacts: CheckedSubject {
    static func facts(of host: CheckedHost) -> [CheckPayload.Fact] {
        var name = utsname()
        uname(&name)
        let release = withUnsafeBytes(of: name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let btf: CheckPayload.Fact =
            FileStatus.exists("/sys/kernel/btf/vmlinux")
            ? .good("kernel", "\(release), with BTF")
            : .bad("kernel", "\(release) has no BTF", fix: "use a kernel with CONFIG_DEBUG_INFO_BTF", .host)
        return [btf, lockdown(try? String(contentsOf: "/sys/kernel/security/lockdown"))]
    }

    /// - Parameter text: of /sys/kernel/security/lockdown, kernel_lockdown(7): `none [integrity] confidentiality`.
    static func lockdown(_ text: String?) -> CheckPayload.Fact {
        guard let text else { return .good("lockdown", "kernel lockdown is off") }
        let mode = text.split { $0.isWhitespace }.first { $0.hasPrefix("[") && $0.hasSuffix("]") }
        let word = mode.map { String($0.dropFirst().dropLast()) } ?? "unknown"
        // bpf_probe_read_kernel_str(), by which a hook reads a program's name, is refused (LOCKDOWN_BPF_READ_KERNEL).
        guard word == "confidentiality" else { return .good("lockdown", word) }
        return .bad(
            "lockdown", "confidentiality: BPF programs may not read which program is calling",
            fix: "boot with lockdown=integrity, or none", .host)
    }
}
