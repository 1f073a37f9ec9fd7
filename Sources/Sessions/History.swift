// SPDX-License-Identifier: Apache-2.0

public import FoundationEssentials
import Glibc
public import Host
public import Network
import Policy
public import SystemPackage

/// A point in time by two clocks: the wall clock, which can be set, and the boot clock, which cannot.
public struct Moment: Sendable, Hashable {
    /// The wall clock's time, in whole seconds.
    public let date: Date
    /// The boot, by ``BootID``.
    public let bootID: String
    /// Milliseconds since that boot, including suspended time: CLOCK_BOOTTIME of clock_gettime(2). `nil` if it was not
    /// noted.
    public let uptime: Int64?

    public init(date: Date, bootID: String, uptime: Int64?) {
        self.date = Date(timeIntervalSince1970: date.timeIntervalSince1970.rounded(.down))
        self.bootID = bootID
        self.uptime = uptime
    }

    /// The present time, in the given boot.
    public static func now(bootID: String) -> Moment {
        Moment(date: Date(), bootID: bootID, uptime: Self.uptime())
    }

    /// The time since boot, in milliseconds.
    static func uptime() -> Int64 {
        var time = timespec()
        // This cannot fail: every kernel has had this clock since 2.6.39.
        clock_gettime(CLOCK_BOOTTIME, &time)
        return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
    }

    /// The time of the boot, by the present wall clock.
    var boot: Moment {
        Moment(date: date.addingTimeInterval(-Double(uptime ?? 0) / 1000), bootID: bootID, uptime: 0)
    }
}

/// Why a session or one of its addresses ended. It is extensible: readers must accept values that they do not know.
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
    /// It was open when the system stopped.
    public static let earlierBoot = SessionEnding(rawValue: "earlier-boot")
    /// The command that opened or closed it was killed, and another one finished the work.
    public static let commandKilled = SessionEnding(rawValue: "command-killed")
    /// It could not be opened, or its caller could not be told that it was.
    public static let notOpened = SessionEnding(rawValue: "not-opened")
    /// For an address: its lease expired, or the server refused to renew it.
    public static let leaseLost = SessionEnding(rawValue: "lease-lost")
    /// For an address: the server gave another one in its place.
    public static let leaseChanged = SessionEnding(rawValue: "lease-changed")
    /// By `detach --all`.
    public static let detached = SessionEnding(rawValue: "detached")
}

/// A period of time.
public struct Period: Sendable, Hashable {
    public let start: Moment
    /// The end; `nil` if it has not ended.
    public let end: Moment?

    public init(start: Moment, end: Moment?) {
        self.start = start
        self.end = end
    }

    /// What happened to the wall clock during the period.
    public enum Clock: String, Sendable {
        /// It was not set, so both times are right.
        case steady
        /// It was set, so the two times do not give the length of the period.
        case set
        /// The start is from another boot, or has no time of the boot clock. Whether it was set is not known.
        case unknown
    }

    /// How much the clocks may differ without one having been set, in milliseconds: both times are in whole seconds.
    private static let tolerance: Int64 = 2000

    /// The length of the period by the boot clock, in milliseconds; `nil` if it is not known.
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

    /// Whether the wall clock may have shown a time during the period.
    ///
    /// If the clock was set in the period, all times count that it may have shown. They are between the earliest and
    /// the latest of four times: the start and the end as noted, the end computed from the start, and the start
    /// computed from the end. So the answer may be too often `true` but never wrongly `false`, if the clock was set
    /// once.
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

/// A session that is open or was.
public struct SessionHistory: Sendable, Hashable {
    /// The number of the session, which rises with each one that is opened.
    public let number: Int64
    public let id: UInt32
    public let user: String?
    /// The override named with --policy.
    public let policy: String?
    public let cgroupPath: FilePath
    /// The cgroup's ID in the boot in which the session was opened.
    public let cgroupID: UInt64
    public let keeper: SessionRecord.Keeper
    public let period: Period
    /// Why it ended; `nil` if it has not ended.
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
    /// For how many days the history is kept.
    static let historyDays = Registry.Setting(rawValue: "history_days")
}

extension Registry {
    /// The open and the past sessions, in the order in which they were opened, as far back as the history is kept.
    public func history() throws(Failure) -> [SessionHistory] {
        try history(where: "TRUE", [])
    }

    /// The sessions that have or had an address, in the order in which they were opened.
    public func history(of address: IPAddress) throws(Failure) -> [SessionHistory] {
        try history(
            where: "number IN (SELECT session_number FROM address_history WHERE address = ?)", [address.description])
    }

    /// The sessions that have or had an ID, in the order in which they were opened.
    public func history(ofID id: UInt32) throws(Failure) -> [SessionHistory] {
        try history(where: "session_id = ?", [id])
    }

    /// When the first session in the history was opened; `nil` if there is none.
    public func historyStart() throws(Failure) -> Date? {
        try read { db in
            try db.value(Date.self, "SELECT min(opened_at) FROM session_history")
        }
    }

    /// Adds sessions to the history. Call it in the transaction that opens them.
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

    /// Adds the end of sessions to the history. Call it in the transaction that removes them.
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
        // The time between the end of that boot and the start of this one is unknown. The start is the latest possible
        // end.
        let boot = now.boot
        for (id, ending) in ended {
            let end = ending == .earlierBoot ? boot : now
            let parameters: [(any DatabaseValue)?] = [end.date, now.bootID, end.uptime, ending.rawValue, id]
            try addresses.run(parameters)
            try sessions.run(parameters)
        }
    }

    /// Removes sessions that ended, and addresses that became free, longer ago than the history is kept.
    ///
    /// For this boot, the age is measured by the boot clock, so that setting the wall clock forward removes nothing.
    ///
    /// - Parameter limit: of rows to remove from a table, so that a change does not wait for the removal of years.
    static func prune(_ db: Database, at now: Moment, limit: Int) throws {
        let days = try db.value(
            Int64.self, "SELECT CAST(value AS INTEGER) FROM settings WHERE key = ?", [Setting.historyDays.rawValue])
        let kept = days ?? Int64(Policy.History.defaultRetentionDays)
        // The pool uses the last holders of addresses, so they are kept for at least the longest rest.
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

    /// Reads the first six columns: start and end, each as time, boot and uptime.
    private static func period(_ row: Row) throws -> Period {
        let start = Moment(date: try row.get(0), bootID: try row.get(1), uptime: try row.optional(2))
        guard let date: Date = try row.optional(3) else { return Period(start: start, end: nil) }
        let end = Moment(date: date, bootID: try row.optional(4) ?? "", uptime: try row.optional(5))
        return Period(start: start, end: end)
    }
}
