// SPDX-License-Identifier: Apache-2.0

import Host

/// Whether CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are effective: CapEff of proc_pid_status(5).
package enum PrivilegeFacts: CheckedSubject {
    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        let privileges = Privileges.current
        let missing = privileges.missing(Capability.bpfPrograms.sorted { $0.bit < $1.bit })
        guard !missing.isEmpty else { return [.good("privileges", "all that are needed")] }
        let names = missing.map(\.description).joined(separator: ", ")
        return [
            .bad(
                "privileges", "\(names) missing",
                fix: privileges.isRoot ? "grant them: root lacks them here" : "run as root", .privilege)
        ]
    }
}
