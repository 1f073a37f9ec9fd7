// SPDX-License-Identifier: Apache-2.0

package import FoundationEssentials
import Glibc
package import Host
import Network
package import Policy
import PolicyMaps
package import Sessions
import SystemPackage

/// The activity of the sessions: call rates since the last look, sockets, processes.
///
/// A look at all sessions takes one query of the registry, one dump of the sockets, and a few table look-ups for each
/// session. Processes must be read for each session separately, so they are read only for sessions that are shown.
package final class SessionActivity {
    /// The programs of a session, by the names of its processes.
    package struct Programs: Sendable, Hashable {
        package struct Program: Sendable, Hashable {
            /// The name of the process: proc_pid_comm(5). It must be escaped before it is printed on a terminal.
            package var name: String
            package var processes: Int
        }

        package var processes = 0
        /// The programs among the first ``SessionActivity/namedProcesses`` processes, those with most processes first.
        package var names: [Program] = []
        package var isCgroupThere = true
        /// `false` if the session has more cgroups than are read.
        package var isAll = true
    }

    package struct Row: Sendable {
        package var record: SessionRecord
        /// Calls per second; `nil` if they are not measured.
        package var rates: CallRates.Calls<Double>?
        /// The number of TCP, MPTCP and UDP sockets in all states; `nil` if they cannot be listed.
        package var sockets: Int?
        /// `nil` if the programs were not read yet.
        package var programs: Programs?
    }

    package struct Snapshot: Sendable {
        package var rows: [Row] = []
        package var loopbackPrefix: LoopbackPrefix?
        /// The time over which the rates are measured; `nil` if they are not measured.
        package var measured: Duration?
        package var lost: UInt64 = 0
        /// Whether the real rates may be higher.
        package var isLowerBound = false
        /// Why there are no rates, if there will be none.
        package var ratesMissing: String?
        package var socketsMissing: String?
        package var time = Date()
    }

    /// At most this many processes of a session are asked for their names.
    package static let namedProcesses = 64
    /// At most this many of a session's cgroups are read: a user may have created very many.
    private static let cgroupLimit = 1000

    private let instance: Instance
    private let ancestry: CgroupAncestry
    private var calls: CallRates?
    private var callsMissing: String?
    /// Whether the caller may read the record of sessions, and not the events.
    private var isReader = false
    /// The programs of each present session.
    private var programs: [UInt32: Programs] = [:]
    /// The session of each cgroup below sessions' cgroups, by the cgroup's ID; 0 for none.
    private var owners: [UInt64: UInt32] = [:]
    /// The sessions for which `owners` is valid.
    private var sessions: [UInt64: UInt32] = [:]
    /// The index from which to go on with the sessions that are not shown.
    private var cursor = 0

    /// Begins to measure.
    ///
    /// - Throws: ``Failure`` if nothing is attached, or without the privilege.
    package init(_ instance: Instance) throws(Failure) {
        self.instance = instance
        ancestry = try CgroupAncestry()
        try listen()
    }

    deinit {
        calls?.end()
    }

    /// Readable if there will be no more events; ``look(measuring:)`` throws the reason.
    package var ended: CInt { calls?.ended ?? -1 }

    /// Whether rates are measured.
    package var isMeasuring: Bool { calls != nil }

    /// Begins to listen. If there are as many listeners as possible, there are no rates.
    private func listen() throws(Failure) {
        do throws(Failure) {
            if isReader { return }
            // Trying to get a slot takes some time, so do it only if one may be free.
            if callsMissing != nil, try EventListener.listeners(instance.pins).count >= EventListener.limit { return }
            let calls = try CallRates(instance.pins)
            try calls.start()
            self.calls = calls
            callsMissing = nil
        } catch {
            if error.code == .notPermitted, geteuid() != 0, (try? instance.registry()) != nil {
                isReader = true
                callsMissing = "no rates: root alone may read the events"
                return
            }
            let others = (try? EventListener.listeners(instance.pins)) ?? []
            guard others.count >= EventListener.limit else { throw error }
            callsMissing =
                "no rates: \(others.count) listeners to events exist already, processes "
                + others.map { "\($0.pid)" }.joined(separator: ", ")
        }
    }

    /// Looks at all sessions, by ascending ID. Their programs are those that were last read.
    ///
    /// - Parameter measuring: `false` for the first look, because there is no interval yet.
    package func look(measuring: Bool = true) throws(Failure) -> Snapshot {
        // A new listener has no interval yet either.
        let isMeasured = measuring && calls != nil
        if calls == nil { try listen() }
        var snapshot = Snapshot()
        let registry = try instance.registry()
        let records = try registry.sessions()
        snapshot.loopbackPrefix = try registry.loopbackPrefix()

        var sessions: [UInt64: UInt32] = [:]
        for record in records { sessions[record.cgroupID] = record.id }
        if sessions != self.sessions {
            self.sessions = sessions
            owners = [:]
            let ids = Set(sessions.values)
            programs = programs.filter { ids.contains($0.key) }
        }
        var sockets: [UInt32: Int]?
        do throws(Failure) {
            sockets = try countSockets()
        } catch {
            snapshot.socketsMissing = "\(error)"
        }

        let tally = isMeasured ? try calls?.take() : nil
        if let tally {
            snapshot.measured = tally.time
            snapshot.lost = tally.lost
            snapshot.isLowerBound = tally.isLowerBound
        }
        snapshot.ratesMissing = callsMissing
        snapshot.rows = records.map { record in
            let rates = tally.map { tally in
                let calls = tally.calls[record.id] ?? .init(rewritten: 0, refused: 0)
                let seconds = max(tally.time / .seconds(1), 1e-3)
                return CallRates.Calls(
                    rewritten: Double(calls.rewritten) / seconds, refused: Double(calls.refused) / seconds)
            }
            return Row(
                record: record, rates: rates, sockets: sockets.map { $0[record.id] ?? 0 }, programs: programs[record.id]
            )
        }
        return snapshot
    }

    // MARK: Sockets

    /// The number of sockets by session, in this network namespace.
    private func countSockets() throws(Failure) -> [UInt32: Int] {
        var counts: [UInt32: Int] = [:]
        var seen: Set<UInt64> = []
        for socket in try SocketDump.sockets() {
            // Without an inode, the program has closed it (TIME_WAIT): it is not counted.
            guard let cgroup = socket.cgroupID, socket.inode != 0 else { continue }
            let session = owner(of: cgroup)
            if sessions[cgroup] == nil { seen.insert(cgroup) }
            if session != 0 { counts[session, default: 0] += 1 }
        }
        // Cgroups are created and removed, so bound the size of the cache.
        if owners.count > 2 * seen.count + 1024 { owners = owners.filter { seen.contains($0.key) } }
        return counts
    }

    /// The session of a cgroup or of one above it; 0 for none.
    private func owner(of cgroup: UInt64) -> UInt32 {
        if let session = sessions[cgroup] ?? owners[cgroup] { return session }
        var session: UInt32 = 0
        for id in ancestry.ids(from: cgroup) {
            guard let found = sessions[id] else { continue }
            session = found
            break
        }
        owners[cgroup] = session
        return session
    }

    // MARK: Programs

    /// Reads the programs of some rows.
    ///
    /// - Parameter onlyNew: leaves out rows that were read before.
    package func readPrograms(of rows: Range<Int>, in snapshot: inout Snapshot, onlyNew: Bool = false) {
        let rows = rows.clamped(to: snapshot.rows.indices)
        for index in rows where !onlyNew || snapshot.rows[index].programs == nil {
            let found = Self.programs(of: snapshot.rows[index].record)
            programs[snapshot.rows[index].record.id] = found
            snapshot.rows[index].programs = found
        }
    }

    /// Reads the programs of rows until the deadline. The next call goes on with the rows after them.
    package func readPrograms(in snapshot: inout Snapshot, until deadline: ContinuousClock.Instant) {
        let count = snapshot.rows.count
        for _ in 0..<count {
            guard ContinuousClock.now < deadline else { return }
            cursor = cursor < count ? cursor : 0
            let found = Self.programs(of: snapshot.rows[cursor].record)
            programs[snapshot.rows[cursor].record.id] = found
            snapshot.rows[cursor].programs = found
            cursor += 1
        }
    }

    private static func programs(of record: SessionRecord) -> Programs {
        let cgroup = Cgroup(notedPath: record.cgroupPath, id: record.cgroupID, level: record.cgroupLevel)
        guard cgroup.isSame else { return Programs(isCgroupThere: false) }
        let (processes, isAll) = (try? cgroup.processes(inCgroupsAtMost: cgroupLimit)) ?? ([], false)
        var counts: [String: (first: Int, processes: Int)] = [:]
        for (place, pid) in processes.prefix(namedProcesses).enumerated() {
            guard let bytes = ProcessFacts(pid).name else { continue }  // it has ended
            counts[String(decoding: bytes, as: UTF8.self), default: (place, 0)].processes += 1
        }
        let names = counts.sorted { ($1.value.processes, $0.value.first) < ($0.value.processes, $1.value.first) }
        return Programs(
            processes: processes.count, names: names.map { .init(name: $0.key, processes: $0.value.processes) },
            isAll: isAll)
    }
}
