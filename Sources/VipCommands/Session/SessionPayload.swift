// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Host
import Network
import Policy
import Sessions
import SystemPackage

/// A session, as every command prints it.
struct SessionPayload: Payload {
    var id: UInt32
    @Nullable var user: String?
    var cgroup: String
    var cgroupId: UInt64
    var virtualIps: [String]
    var virtualLoopback: String
    /// `nil` if this host has no IPv6 loopbacks.
    @Nullable var virtualLoopback6: String?
    /// The override that was named when it was opened.
    @Nullable var policy: String?
    /// `open`; `gone` if its cgroup was removed; `opening` or `closing` during a command; `closed` for a past session.
    var state: String
    var openedAt: Date

    /// - Parameters:
    ///   - prefix: the prefix of the IPv6 loopbacks, if this host has them.
    ///   - state: replaces the record's own state.
    init(_ record: SessionRecord, prefix: LoopbackPrefix?, isCgroupThere: Bool = true, state: String? = nil) {
        id = record.id
        user = record.user
        cgroup = record.cgroupPath.string
        cgroupId = record.cgroupID
        virtualIps = record.addresses.map(\.address.description)
        virtualLoopback = SessionIDs.loopback(of: record.id).description
        virtualLoopback6 = prefix?.loopback(of: record.id).description
        policy = record.policy
        self.state = state ?? (record.state == .open && !isCgroupThere ? "gone" : record.state.rawValue)
        openedAt = record.openedAt
    }

    /// `ID VIRTUAL-IP… LOOPBACK LOOPBACK6`, for a shell's `read`.
    var line: String {
        let addresses = virtualIps.isEmpty ? "-" : virtualIps.joined(separator: ",")
        return "\(id) \(addresses) \(virtualLoopback) \(virtualLoopback6 ?? "-")"
    }

    var table: Table {
        Table(rows: [
            ["session", "\(id)"], ["user", user ?? "-"], ["state", state],
            ["virtual IP", virtualIps.isEmpty ? "none" : virtualIps.joined(separator: ", ")],
            ["virtual loopback", [virtualLoopback, virtualLoopback6].compactMap(\.self).joined(separator: ", ")],
            ["policy", policy ?? "by match"],
            ["cgroup", cgroup], ["cgroup ID", "\(cgroupId)"], ["opened", openedAt.formatted(.iso8601)],
        ])
    }
}

struct SessionListPayload: Payload {
    var sessions: [SessionPayload]

    var table: Table {
        Table(
            headings: ["ID", "USER", "VIRTUAL IP", "LOOPBACK", "LOOPBACK6", "POLICY", "STATE", "CGROUP"],
            rows: sessions.map { session in
                [
                    "\(session.id)", session.user ?? "-",
                    session.virtualIps.isEmpty ? "-" : session.virtualIps.joined(separator: ","),
                    session.virtualLoopback, session.virtualLoopback6 ?? "-", session.policy ?? "-", session.state,
                    session.cgroup,
                ]
            })
    }
}
