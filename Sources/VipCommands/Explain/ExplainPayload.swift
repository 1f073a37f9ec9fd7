// SPDX-License-Identifier: Apache-2.0

import CVipABI
import Explain
import Glibc
import Host
import Network
import Policy
import Sessions
import SystemPackage

struct ExplainPayload: Payload {
    struct Executable: Encodable {
        var path, name: String
        var inode: UInt64
        /// `MAJOR:MINOR`
        var device: String
        /// Whether its file is no longer at that path, or another one is.
        var isDeleted: Bool
    }

    struct Session: Encodable {
        var id: UInt32
        var cgroupId: UInt64
        @Nullable var cgroup: String?
        @Nullable var user: String?
        var virtualIps, virtualLoopbacks: [String]

        init(_ live: LiveSession, record: SessionRecord?) {
            id = live.id
            cgroupId = live.cgroupID
            cgroup = record?.cgroupPath.string
            user = record?.user
            virtualIps = live.virtualIPs.map(\.description)
            virtualLoopbacks = live.loopbacks.map(\.description)
        }
    }

    /// The policy that applies to the session.
    struct PolicyName: Encodable {
        /// The number; 0 for the base policy.
        var number: Int
        /// The name of the override.
        @Nullable var name: String?
        var reason: String

        init(_ live: LiveSession, _ finding: PolicyFinding) {
            number = live.number
            name = finding.override?.name
            reason = finding.reason
        }
    }

    struct Feature: Encodable {
        /// `virtual-ip`, `loopback`, `prefer-loopback`.
        var feature: String
        var applies: Bool
        @Nullable var entry: String?
        /// `executable name`, `process name`, `file`.
        @Nullable var matchedBy: String?
        var reason: String

        init(_ finding: FeatureFinding) {
            feature = finding.list.rawValue
            applies = finding.applies
            entry = finding.entry
            matchedBy = finding.way?.rawValue
            reason = finding.reason
        }
    }

    struct Outcome: Encodable {
        @Nullable var when: String?
        @Nullable var address: String?
        var unchanged: Bool
        @Nullable var error: String?
        @Nullable var source: String?
        @Nullable var getsockname: String?
        var alsoReachedAt: [String]

        init(_ outcome: CallTable.Outcome) {
            when = outcome.when
            address = outcome.address?.description
            unchanged = outcome.isAsAsked
            error = outcome.error
            source = outcome.source?.description
            getsockname = outcome.name?.description
            alsoReachedAt = outcome.besides.map(\.description)
        }

        var text: String {
            var text = error ?? (unchanged ? "unchanged" : address ?? "?")
            if let source { text += " from \(source)" }
            if let getsockname, getsockname != address { text += ", getsockname: \(getsockname)" }
            if !alsoReachedAt.isEmpty {
                text += ", reached at \(alsoReachedAt.joined(separator: " and ")) as well (TCP)"
            }
            return when.map { "\(text) if \($0)" } ?? text
        }
    }

    struct Call: Encodable {
        var call, asked, role: String
        var v6only: Bool
        /// The first one whose `when` holds is the result; the last one has none.
        var outcomes: [Outcome]

        init(_ row: CallTable.Row) {
            call = row.call.rawValue
            asked = row.asked.description
            role = row.role
            v6only = row.isV6Only
            outcomes = row.outcomes.map(Outcome.init)
        }
    }

    @Nullable var pid: Int32?
    var processName: String
    var executable: Executable
    @Nullable var cgroup: String?
    @Nullable var attachedCgroup: String?
    @Nullable var session: Session?
    /// Why the process is in no session.
    @Nullable var reason: String?
    @Nullable var policy: PolicyName?
    @Nullable var generation: UInt32?
    var features: [Feature] = []
    var calls: [Call] = []
    var notes: [String]

    let program: ExplainedProgram

    private enum CodingKeys: CodingKey {
        case pid, processName, executable, cgroup, attachedCgroup, session, reason, policy, generation, features
        case calls, notes
    }

    init(_ program: ExplainedProgram, pid: pid_t?, cgroup: Cgroup?) {
        self.program = program
        _pid = Nullable(wrappedValue: pid)
        processName = String(decoding: program.processName, as: UTF8.self)
        executable = Executable(
            path: String(decoding: program.path, as: UTF8.self), name: String(decoding: program.name, as: UTF8.self),
            inode: program.identity.inode, device: program.device, isDeleted: program.isDeleted)
        _cgroup = Nullable(wrappedValue: cgroup?.path.string)
        notes = program.notes
    }

    var table: Table {
        var rows: [[String]] = []
        if let pid { rows.append(["process", "\(pid) (\(processName))"]) }
        let file = "(inode \(executable.inode) on \(executable.device))"
        rows.append([
            "executable", "\(executable.path)\(executable.isDeleted ? ", replaced or deleted since" : "") \(file)",
        ])
        if let cgroup { rows.append(["cgroup", cgroup]) }
        if let session {
            rows.append([
                "session",
                "\(session.id)\(session.user.map { " of \($0)" } ?? ""): "
                    + (session.virtualIps.isEmpty ? "no virtual IP" : session.virtualIps.joined(separator: ", "))
                    + "; loopback \(session.virtualLoopbacks.joined(separator: ", "))",
            ])
        } else {
            rows.append(["session", "none: \(reason ?? "")"])
            rows.append(["calls", "no call is changed"])
        }
        if let policy {
            let name =
                policy.number == 0
                ? "the base policy" : policy.name.map { "override '\($0)'" } ?? "override \(policy.number)"
            rows.append(["policy", "\(name): \(policy.reason)"])
        }
        for feature in features {
            rows.append([feature.feature, "\(feature.applies ? "applies" : "does not apply"): \(feature.reason)"])
        }
        for call in calls {
            let asked = "\(call.call) \(call.asked)\(call.v6only ? " V6ONLY" : "")"
            for (number, outcome) in call.outcomes.enumerated() {
                let isLast = number == call.outcomes.count - 1
                rows.append([
                    number == 0 ? asked : "", (isLast && number > 0 ? "else " : "") + outcome.text,
                ])
            }
        }
        return Table(rows: rows, notes: notes.map(\.printableLine))
    }
}
