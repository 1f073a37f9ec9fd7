// SPDX-License-Identifier: Apache-2.0

public import FoundationEssentials
import Glibc
public import Host
public import Network
import Policy
public import SystemPackage

/// A point in time by both clocks: the wall clock, which can be set, and the boot's, which cannot.
public struct Moment: Sendable, Hashable {
    /// To the second.
    public let date: Date
    /// ``BootID``.
    public let bootID: String
    /// Since that boot, suspended or not, in milliseconds: CLOCK_BOOTTIME of clock_gettime(2). `nil` where it was not noted.
    public let uptime: Int64?

    public init(date: Date, bootID: String, uptime: Int64?) {
        self.date = Date(timeIntervalSince1970: date.timeIntervalSince1970.rounded(.down))
        self.bootID = bootID
        self.uptime = uptime
    }

    /// Now, in the boot that the caller knows.
    public static func now(bootID: String) -> Moment {
        Moment(date: Date(), bootID: bootID, uptime: Self.uptime())
    }

    /// How long ago the system booted, in milliseconds.
    static func uptime() -> Int64 {
        var time = timespec()
        // Every kernel has this clock since 2.6.39: it cannot fail.
        clock_gettime(CLOCK_BOOTTIME, &time)
        return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
    }

    /// The start of its boot, by the wall clock as it stands at this moment.
    var boot: Moment {
        Moment(date: date.addingTimeInterval(-Double(uptime ?? 0) / 1000), bootID: bootID, uptime: 0)
    }
}

/// Why a session ended. An extensible code: a reader must be ready for one that it does not know.
public struct SessionEnding: RawRepresentable, Sendable, Hashable {
    public let rawValue: String
    public init(rawValue: String) { self.rawValue = rawValue }

    /// By `session close`.
    public static let closed = SessionEnding(rawValue: "closed")
    /// Its cgroup was removed.
    public static let cgroupGone = SessionEnding(rawValue: "cgroup-gone")
    /// The last process of a login has left its cgroup.
    public static let cgroupEmpty = SessionEnding(rawValue: "cgroup-empty")
    /// The last process of a `run` has ended.
    public static let runEnded = SessionEnding(rawValue: "run-ended")
    /// Its `run` was killed.
    public static let runKilled = SessionEnding(rawValue: "run-killed")
    /// It was open when the system went down.
    public static let earlierBoot = SessionEnding(rawValue: "earlier-boot")
    /// The command that opened or closed it was killed, and another one finished the work.
    public static let commandKilled = SessionEnding(rawValue: "command-killed")
    /// It could not be opened, or nobody could be told that it was.
    public static let notOpened = SessionEnding(rawValue: "not-opened")
    /// Of an address: its lease was over, by its time or by the server's word.
    public static let leaseLost = SessionEnding(rawValue: "lease-lost")
    /// Of an address: the server gave another one in its place.
    public static let leaseChanged = SessionEnding(rawValue: "lease-changed")
    /// By `detach --all`.
    public static let detached = SessionEnding(rawValue: "detached")
}

/// From one moment to another: how long something was the case.
public struct Period: Sendable, Hashable {
    public let start: Moment
    /// `nil` where it still is.
    public let end: Moment?

    public init(start: Moment, end: Moment?) {
        self.start = start
        self.end = end
    }

    /// What the wall clock did between the two.
    public enum Clock: String, Sendable {
        /// It went on: the two times are all there is to know.
        case steady
        /// It was set: the two times do not say how long it was.
        case set
        /// The start is of another boot, or was not noted by the boot's clock: whether it was set is not known.
        case unknown
    }

    /// What may be between the clocks without one having been set, in milliseconds: both times are to the second.
    private static let tolerance: Int64 = 2000

    /// How long it was by the boot's clock, in milliseconds; `nil` where that is not known.
    private func length(until end: Moment) -> Int64? {
        guard start.bootID == end.bootID, let first = start.uptime, let last = end.uptime else { return nil }
        return last - first
    }

    public func clock(now: Moment) -> Clock {
        let end = end ?? now
        guard let length = length(until: end) else { return end.date < start.date ? .set : .unknown }
        let shown = Int64((end.date.timeIntervalSince(start.date) * 1000).rounded())
        return abs(shown - length) <= Self.tolerance ? .steady : .set
    }

    /// Whether it may have been the case when the wall clock stood at a time.
    ///
    /// Where the clock was set meanwhile, every time counts that it may have shown: from the earlier to the later of the
    /// start and the end, of what the end was by the clock of the start, and the other way round. So the answer
    /// may be too many, never one too few, however the clock was set once.
    public func mayInclude(_ date: Date, now: Moment) -> Bool {
        let date = Date(timeIntervalSince1970: date.timeIntervalSince1970.rounded(.down))
        let end = end ?? now
        var times = [start.date, end.date]
        if clock(now: now) == .set, let length = length(until: end) {
            let seconds = Double(length) / 1000
            times += [start.date.addingTimeInterval(seconds), end.date.addingTimeInterval(-seconds)]
        }
        guard let first = times.min(), let last = times.max() else { return false }
        return first <= date && date <= last
    }
}

/// A session that is or was.
public struct SessionHistory: Sendable, Hashable {
    /// Rises with each session that is opened.
    public let number: Int64
    public let id: UInt32
    public let user: String?
    /// The override named with --policy.
    public let policy: String?
    public let cgroupPath: FilePath
    /// Of the boot in which it was opened.
    public let cgroupID: UInt64
    public let keeper: SessionRecord.Keeper
    public let period: Period
    /// `nil` while it is not at its end.
    public let ending: SessionEnding?
    public var addresses: [AddressHistory]
}

/// An address that a session has or had.
public struct AddressHistory: Sendable, Hashable {
    public let address: IPAddress
    public let interface: String
    public let fromPool: Bool
    public let period: Period
    public let ending: SessionEnding?
}

extension Registry.Setting {
    /// For how many days the past is kept.
    static let historyDays = Registry.Setting(rawValue: "history_days")
}

extension Registry {
    /// The sessions that are and those that were, in the order in which they were opened, as far back as is kept.
    public func history() throws(Failure) -> [SessionHistory] {
        try history(where: "TRUE", [])
    }

    /// The sessions that have an address and those that had it, in the order in which they were opened.
    public func history(of address: IPAddress) throws(Failure) -> [SessionHistory] {
        try history(
            where: "number IN (SELECT session_number FROM address_history WHERE address = ?)", [address.description])
    }

    /// The sessions that have an ID and those that had it, in the order in which they were opened.
    public func history(ofID id: UInt32) throws(Failure) -> [SessionHistory] {
        try history(where: "session_id = ?", [id])
    }

    /// When the first session of all that are known was opened; `nil` where none is.
    public func historyStart() throws(Failure) -> Date? {
        try read { db in
            try db.value(Date.self, "SELECT min(opened_at) FROM session_history")
        }
    }

    /// Writes down that sessions begin, within the transaction that opens them.
    static func noteOpened(_ records: [SessionRecord], uptime: Int64, _ db: Database) throws {
        let sessions = try db.prepare(
            """
            INSERT INTO session_history (session_id, user, policy, cgroup_path, cgroup_id, keeper, opened_at,
                opened_boot, opened_uptime) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            """)
        let addresses = try db.prepare(
            """
            INSERT INTO address_history (session_number, address, interface, from_pool, started_at, started_boot,
                started_uptime) VALUES (?, ?, ?, ?, ?, ?, ?)
            """)
        for record in records {
            try sessions.run([
                record.id, record.user, record.policy, record.cgroupPath,
                record.cgroupID, record.keeper.rawValue, record.openedAt, record.bootID, uptime,
            ])
            let number = db.lastInsertedRowID
            for address in record.addresses {
                try addresses.run([
                    number, address.address, address.interface, address.fromPool, record.openedAt,
                    record.bootID, uptime,
                ])
            }
        }
    }

    /// Writes down that sessions are at their end, within the transaction that removes them.
    static func noteClosed(_ ended: [(id: UInt32, ending: SessionEnding)], at now: Moment, _ db: Database) throws {
        let addresses = try db.prepare(
            """
            UPDATE address_history SET ended_at = ?, ended_boot = ?, ended_uptime = ?, ending = ?
            WHERE ended_at IS NULL AND session_number IN
                (SELECT number FROM session_history WHERE session_id = ? AND closed_at IS NULL)
            """)
        let sessions = try db.prepare(
            """
            UPDATE session_history SET closed_at = ?, closed_boot = ?, closed_uptime = ?, ending = ?
            WHERE session_id = ? AND closed_at IS NULL
            """)
        // Between the end of that boot and the start of this one nobody knows; after it, the address was nobody's.
        let boot = now.boot
        for (id, ending) in ended {
            let end = ending == .earlierBoot ? boot : now
            let parameters: [(any DatabaseValue)?] = [end.date, now.bootID, end.uptime, ending.rawValue, id]
            try addresses.run(parameters)
            try sessions.run(parameters)
        }
    }

    /// Forgets sessions that ended, and addresses that became free, longer ago than is kept.
    ///
    /// What ended in this boot is as old as the boot's clock says, so that a clock that was set forward takes nothing away.
    ///
    /// - Parameter limit: of sessions to forget: a change does not wait for years of them at once.
    static func prune(_ db: Database, at now: Moment, limit: Int) throws {
        let days = try db.value(
            Int64.self, "SELECT CAST(value AS INTEGER) FROM settings WHERE key = ?", [Setting.historyDays.rawValue])
        let kept = days ?? Int64(Policy.History.defaultRetentionDays)
        // Who had an address last is what the pool goes by: as long as an address may rest, at least.
        let rows = [
            ("session_history", "closed", kept),
            ("former_addresses", "released", max(kept, Int64(Policy.Addresses.restLimit / 86400))),
        ]
        for (table, event, days) in rows {
            let date = now.date.addingTimeInterval(-Double(days) * 86400)
            try db.run(
                """
                DELETE FROM \(table) WHERE number IN (
                    SELECT number FROM \(table) WHERE \(event)_at <= ?
                        AND (\(event)_boot <> ? OR \(event)_uptime IS NULL OR \(event)_uptime <= ?)
                    ORDER BY \(event)_at LIMIT ?)
                """,
                [date, now.bootID, (now.uptime ?? .max) - days * 86_400_000, limit])
        }
    }

    private func history(
        where condition: String, _ parameters: [(any DatabaseValue)?]
    ) throws(Failure) -> [SessionHistory] {
        try read { db in
            let addresses = try db.rows(
                """
                SELECT started_at, started_boot, started_uptime, ended_at, ended_boot, ended_uptime, ending,
                    session_number, address, interface, from_pool
                FROM address_history WHERE session_number IN (SELECT number FROM session_history WHERE \(condition))
                """, parameters
            ) { row in
                let address = AddressHistory(
                    address: try row.get(8), interface: try row.get(9), fromPool: try row.get(10),
                    period: try Self.period(row), ending: try row.optional(6).map(SessionEnding.init))
                return (session: try row.get(7, as: Int64.self), address: address)
            }
            let ofSession = Dictionary(grouping: addresses, by: \.session).mapValues { $0.map(\.address) }
            return try db.rows(
                """
                SELECT opened_at, opened_boot, opened_uptime, closed_at, closed_boot, closed_uptime, ending,
                    number, session_id, user, policy, cgroup_path, cgroup_id, keeper
                FROM session_history WHERE \(condition) ORDER BY number
                """, parameters
            ) { row in
                let number: Int64 = try row.get(7)
                return SessionHistory(
                    number: number, id: try row.get(8), user: try row.optional(9), policy: try row.optional(10),
                    cgroupPath: try row.get(11), cgroupID: try row.get(12),
                    keeper: SessionRecord.Keeper(rawValue: try row.get(13)), period: try Self.period(row),
                    ending: try row.optional(6).map(SessionEnding.init),
                    addresses: (ofSession[number] ?? []).sorted { $0.address < $1.address })
            }
        }
    }

    /// The first six columns: start and end, each as time, boot and uptime.
    private static func period(_ row: Row) throws -> Period {
        let start = Moment(date: try row.get(0), bootID: try row.get(1), uptime: try row.optional(2))
        guard let date: Date = try row.optional(3) else { return Period(start: start, end: nil) }
        let end = Moment(date: date, bootID: try row.optional(4) ?? "", uptime: try row.optional(5))
        return Period(start: start, end: end)
    }
}
