// SPDX-License-Identifier: Apache-2.0

import Host
import SystemPackage

/// CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON among the effective capabilities: CapEff of proc_pid_status(5).
enum PrivilegeFacts: CheckedSubject {
    static func facts(of host: CheckedHost) -> [CheckPayload.Fact] {
        let names: [(bit: UInt64, name: String)] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")]
        let status = (try? String(contentsOf: "/proc/self/status")) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("CapEff:") }
        let effective = line.flatMap { UInt64($0.dropFirst(7).drop { $0 == "\t" || $0 == " " }, radix: 16) } ?? 0
        let missing = names.filter { effective >> $0.bit & 1 == 0 }.map(\.name)
        guard !missing.isEmpty else { return [.good("privileges", "all that are needed")] }
        return [.bad("privileges", "\(missing.joined(separator: ", ")) missing", try: "run as root", .privilege)]
    }
}
