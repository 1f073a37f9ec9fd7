// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Host
import Network
import Policy
import PolicyMaps
import Sessions
import SystemPackage

/// What the sessions are doing: rates since the last look, sockets, processes.
///
/// A look at all of them is a query of the registry, a dump of the sockets, and no more for each session than a few look-ups in
/// tables. What must be read for each session alone, its processes, is read for those that somebody looks at.
final class SessionActivity {
    /// The programs of a session, by the names of its processes.
    struct Programs: Sendable, Hashable {
        struct Program: Sendable, Hashable {
            /// As the process calls itself: proc_pid_comm(5). Not fit for a terminal yet.
            var name: String
            var processes: Int
        }

        var processes = 0
        /// Of the first ``SessionActivity/namedProcesses``, those with most processes first.
        var names: [Program] = []
        var isCgroupThere = true
        /// `false` where it has more cgroups than are looked at.
        var isAll = true
    }

    struct Row: Sendable {
        var record: SessionRecord
        /// Calls per second; `nil` where they are not measured.
        var rates: CallRates.Calls<Double>?
        /// TCP, MPTCP and UDP sockets, of all states; `nil` where they cannot be listed.
        var sockets: Int?
        /// `nil` where nobody has looked yet.
        var programs: Programs?
    }

    struct Snapshot: Sendable {
        var rows: [Row] = []
        var loopbackPrefix: LoopbackPrefix?
        /// Over how long the rates are measured; `nil` where they are not.
        var measured: Duration?
        var lost: UInt64 = 0
        /// Whether the rates may be higher.
        var isLowerBound = false
        /// Why there are no rates, where there are none and will be none.
        var ratesMissing: String?
        var socketsMissing: String?
        var time = Date()
    }

    /// Of a session not more processes than these are asked for their names.
    static let namedProcesses = 64
    /// Nor are more cgroups of it looked at: whoever may make some may make very many.
    private static let cgroupLimit = 1000

    private let instance: Instance
    private let ancestry: CgroupAncestry
    private var calls: CallRates?
    private var callsMissing: String?
    /// By session; of those that are there.
    private var programs: [UInt32: Programs] = [:]
    /// Which session a cgroup belongs to, by ID, for cgroups below those of sessions; 0 for none.
    private var owners: [UInt64: UInt32] = [:]
    /// Of the sessions that `owners` is right for.
    private var sessions: [UInt64: UInt32] = [:]
    /// Where to go on with the sessions that nobody looks at.
    private var cursor = 0

    /// Begins to measure.
    ///
    /// - Throws: ``Failure`` where nothing is attached, or without the right to see it.
    init(_ instance: Instance) throws(Failure) {
        self.instance = instance
        ancestry = try CgroupAncestry()
        try listen()
    }

    deinit {
        calls?.end()
    }

    /// Readable when there is nothing to listen to any more; ``look(measuring:)`` says why.
    var ended: CInt { calls?.done.descriptor.raw ?? -1 }

    /// Whether there will be rates.
    var isMeasuring: Bool { calls != nil }

    /// Where all places of listeners are taken, it does without.
    private func listen() throws(Failure) {
        do throws(Failure) {
            // Claiming one waits a little; not at every look.
            if callsMissing != nil, try EventListener.listeners(instance.pins).count >= EventListener.limit { return }
            let calls = try CallRates(instance.pins)
            try calls.start()
            self.calls = calls
            callsMissing = nil
        } catch {
            let others = (try? EventListener.listeners(instance.pins)) ?? []
            guard others.count >= EventListener.limit else { throw error }
            callsMissing =
                "no rates: \(others.count) listeners to events exist already, processes "
                + others.map { "\($0.pid)" }.joined(separator: ", ")
        }
    }

    /// Looks at all sessions, by rising ID. Their programs are those that were read last.
    ///
    /// - Parameter measuring: `false` at the beginning, where there is nothing to divide by yet.
    func look(measuring: Bool = true) throws(Failure) -> Snapshot {
        // A listener that is new has nothing to divide by yet, either.
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

    /// By session, of this network namespace.
    private func countSockets() throws(Failure) -> [UInt32: Int] {
        var counts: [UInt32: Int] = [:]
        var seen: Set<UInt64> = []
        for socket in try SocketDump.sockets() {
            // Closed by its program and still in the kernel's tables (TIME_WAIT): nobody's.
            guard let cgroup = socket.cgroupID, socket.inode != 0 else { continue }
            let session = owner(of: cgroup)
            if sessions[cgroup] == nil { seen.insert(cgroup) }
            if session != 0 { counts[session, default: 0] += 1 }
        }
        // Cgroups come and go; what is remembered of them must not grow.
        if owners.count > 2 * seen.count + 1024 { owners = owners.filter { seen.contains($0.key) } }
        return counts
    }

    /// A nested cgroup belongs to the session above it. 0 for none.
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

    /// Reads the programs of rows into them.
    ///
    /// - Parameter onlyNew: leaves out those that were read before.
    func readPrograms(of rows: Range<Int>, in snapshot: inout Snapshot, onlyNew: Bool = false) {
        let rows = rows.clamped(to: snapshot.rows.indices)
        for index in rows where !onlyNew || snapshot.rows[index].programs == nil {
            let found = Self.programs(of: snapshot.rows[index].record)
            programs[snapshot.rows[index].record.id] = found
            snapshot.rows[index].programs = found
        }
    }

    /// Reads the programs of as many rows as there is time for; the next time, of those after them.
    func readPrograms(in snapshot: inout Snapshot, until deadline: ContinuousClock.Instant) {
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
