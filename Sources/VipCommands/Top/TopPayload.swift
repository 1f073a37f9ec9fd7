// SPDX-License-Identifier: Apache-2.0

import Activity
import FoundationEssentials
import Host
import Network
import Policy
import Sessions

/// A look at the sessions, as `top` prints it without a live table.
struct TopPayload: Payload {
    struct Session: Encodable {
        struct Program: Encodable {
            var name: String
            var processes: Int
        }

        var id: UInt32
        @Nullable var user: String?
        var cgroup: String
        var cgroupId: UInt64
        var state: String
        var virtualIps: [String]
        var virtualLoopback: String
        @Nullable var virtualLoopback6: String?
        @Nullable var rewrittenPerSecond: Double?
        @Nullable var refusedPerSecond: Double?
        @Nullable var sockets: Int?
        var processes: Int
        /// Whether there may be more processes, because the session has more cgroups than were read.
        var processesAreLowerBound: Bool
        /// The programs among the first 64 processes.
        var programs: [Program]

        init(_ row: SessionActivity.Row, prefix: LoopbackPrefix?) {
            let session = SessionPayload(
                row.record, prefix: prefix, isCgroupThere: row.programs?.isCgroupThere ?? true)
            id = session.id
            user = session.user
            cgroup = session.cgroup
            cgroupId = session.cgroupId
            state = session.state
            virtualIps = session.virtualIps
            virtualLoopback = session.virtualLoopback
            virtualLoopback6 = session.virtualLoopback6
            rewrittenPerSecond = row.rates.map { TopPayload.rounded($0.rewritten) }
            refusedPerSecond = row.rates.map { TopPayload.rounded($0.refused) }
            sockets = row.sockets
            processes = row.programs?.processes ?? 0
            processesAreLowerBound = row.programs.map { !$0.isAll } ?? true
            programs = (row.programs?.names ?? []).map { Program(name: $0.name, processes: $0.processes) }
        }
    }

    var time: Date
    /// The time over which the rates are measured; `nil` if they are not measured.
    @Nullable var measuredSeconds: Double?
    /// The number of lost events. If there are any, the real rates may be higher.
    var eventsLost: UInt64
    var ratesAreLowerBounds: Bool
    var sessions: [Session]
    var notes: [String]

    private let cells: [[String]]

    private enum CodingKeys: CodingKey {
        case time, measuredSeconds, eventsLost, ratesAreLowerBounds, sessions, notes
    }

    init(_ snapshot: SessionActivity.Snapshot) {
        time = snapshot.time
        measuredSeconds = snapshot.measured.map { Self.rounded($0 / .seconds(1)) }
        eventsLost = snapshot.lost
        ratesAreLowerBounds = snapshot.isLowerBound
        notes = TopText.notes(snapshot)
        sessions = snapshot.rows.map { Session($0, prefix: snapshot.loopbackPrefix) }
        cells = snapshot.rows.map { TopText.cells($0, isLowerBound: snapshot.isLowerBound) }
    }

    /// Rounds to a millionth.
    fileprivate static func rounded(_ number: Double) -> Double { (number * 1e6).rounded() / 1e6 }

    var table: Table { Table(headings: TopText.headings, rows: cells, notes: notes) }
}

/// The texts of the table, live or not.
enum TopText {
    /// Rates are per second. The most important columns come first, for narrow terminals.
    static let headings = [
        "SESSION", "USER", "REWRITES", "REFUSALS", "SOCKETS", "PROCS", "VIRTUAL IP", "LOOPBACK", "PROGRAMS",
    ]

    /// The cells of a row, with `-` for unknown values.
    static func cells(_ row: SessionActivity.Row, isLowerBound: Bool) -> [String] {
        let addresses = row.record.addresses.map(\.address.description).joined(separator: ",")
        return [
            "\(row.record.id)", row.record.user ?? "-", rate(row.rates?.rewritten, isLowerBound),
            rate(row.rates?.refused, isLowerBound), row.sockets.map { "\($0)" } ?? "-",
            row.programs.map { "\($0.isAll ? "" : ">")\($0.processes)" } ?? "-", addresses.isEmpty ? "-" : addresses,
            SessionIDs.loopback(of: row.record.id).description, programs(row.programs),
        ]
    }

    /// `0`, `0.5`, `120`, with `>` if the real rate may be higher.
    static func rate(_ rate: Double?, _ isLowerBound: Bool) -> String {
        guard let rate else { return "-" }
        let tenths = UInt64((rate * 10).rounded())
        let text =
            tenths == 0 && rate > 0
            ? "0.1" : tenths >= 100 || tenths % 10 == 0 ? "\((tenths + 5) / 10)" : "\(tenths / 10).\(tenths % 10)"
        return isLowerBound ? ">\(text)" : text
    }

    /// `redis-server, sh*3`: the first few names.
    private static func programs(_ programs: SessionActivity.Programs?) -> String {
        guard let programs else { return "-" }
        if !programs.isCgroupThere { return "(cgroup gone)" }
        guard !programs.names.isEmpty else { return "-" }
        let shown = programs.names.prefix(5).map { $0.processes == 1 ? $0.name : "\($0.name)*\($0.processes)" }
        let isMore = programs.names.count > shown.count || programs.processes > SessionActivity.namedProcesses
        return shown.joined(separator: ", ") + (isMore ? ", ..." : "")
    }

    /// What readers must know about the numbers.
    static func notes(_ snapshot: SessionActivity.Snapshot) -> [String] {
        var notes: [String] = []
        if let why = snapshot.ratesMissing { notes.append(why) }
        if let why = snapshot.socketsMissing { notes.append("no sockets: \(why)") }
        if snapshot.lost > 0 {
            notes.append("rates are at least these: \(snapshot.lost) events were lost, they came too fast")
        } else if snapshot.isLowerBound {
            notes.append("rates are at least these: this process was stopped in between")
        }
        return notes
    }
}
