// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Network
import Policy
import SystemPackage
import TestSupport
import Testing

@testable import Sessions

@Suite struct PeriodTests {
    /// A moment, in seconds of the wall clock and of the boot clock.
    private static func at(_ wall: Int, _ boot: String = "a", _ uptime: Int?) -> Moment {
        Moment(
            date: Date(timeIntervalSince1970: 1_700_000_000 + Double(wall)), bootID: boot,
            uptime: uptime.map { Int64($0) * 1000 })
    }

    @Test(arguments: [
        // Start, end, what the clock did, times in the period, times outside it.
        (at(0, 100), at(60, 160), Period.Clock.steady, [0, 30, 60], [-1, 61]),
        (at(0, 100), at(61, 159), .steady, [0, 61], [-1, 62]),
        // Set back by two hours after ten minutes; the end is fifty minutes later.
        (at(0, 100), at(-3600, 3700), .set, [0, 600, -6600, -3600, 3600], [3601, -7201]),
        // Set forward.
        (at(0, 100), at(7200, 700), .set, [0, 600, 6600, 7200], [-1, 7201]),
        // Set so that the end equals the start.
        (at(0, 100), at(0, 3700), .set, [0, 3600, -3600], [3601, -3601]),
        // Another boot: only the two times are known, in any order.
        (at(0, 100), at(60, "b", 0), .unknown, [0, 60], [-1, 61]),
        (at(0, 100), at(-60, "b", 0), .set, [0, -60, -30], [1, -61]),
        (at(0, nil), at(60, 160), .unknown, [0, 60], [-1, 61]),
    ])
    func clocks(start: Moment, end: Moment, clock: Period.Clock, inside: [Int], outside: [Int]) {
        let later = Self.at(1_000_000, 1_000_100)
        for (period, now) in [(Period(start: start, end: end), later), (Period(start: start, end: nil), end)] {
            #expect(period.clock(now: now) == clock)
            for seconds in inside {
                #expect(period.mayInclude(Self.at(seconds, nil).date, now: now), "\(seconds)")
            }
            for seconds in outside {
                #expect(!period.mayInclude(Self.at(seconds, nil).date, now: now), "\(seconds)")
            }
        }
    }

    /// The end is in whole seconds, rounded down.
    @Test func fractionsOfASecond() {
        let period = Period(start: Self.at(0, 100), end: Self.at(5, 105))
        #expect(period.mayInclude(Self.at(5, nil).date.addingTimeInterval(0.75), now: Self.at(9, 109)))
    }

    private static func at(_ wall: Int, _ uptime: Int?) -> Moment { at(wall, "a", uptime) }
}

@Suite struct HistoryTests {
    let directory: TemporaryDirectory
    let file: FilePath

    init() throws {
        directory = try TemporaryDirectory()
        file = directory.path.appending("registry.sqlite")
    }

    static let boot = RegistryTests.boot
    static let start = Date(timeIntervalSince1970: 1_700_000_000)

    static func moment(_ seconds: Double, boot: String = boot) -> Moment {
        Moment(date: start.addingTimeInterval(seconds), bootID: boot, uptime: 1_000_000 + Int64(seconds * 1000))
    }

    static func record(_ id: UInt32, user: String? = nil, address: String? = nil, at seconds: Double = 0)
        -> SessionRecord
    {
        let ip = address.flatMap { IPAddress($0) } ?? IPAddress(v4: 0x0a00_0000 + id)
        return SessionRecord(
            id: id, cgroupPath: FilePath("/sys/fs/cgroup/s\(id)"), cgroupID: UInt64(8000 + id), cgroupLevel: 1,
            user: user, bootID: boot, openedAt: start.addingTimeInterval(seconds),
            addresses: [.init(ip, interface: "eth0", placed: true, fromPool: true)])
    }

    @Test("keeps sessions that were opened and closed")
    func whatIsOpenedAndClosedIsKept() throws {
        let registry = try Registry(file, access: .readWrite)
        try registry.open([Self.record(7, user: "ann", address: "10.0.0.1")], at: Self.moment(0))
        try registry.open([Self.record(8)], at: Self.moment(1))
        try registry.remove([(7, .cgroupGone)], at: Self.moment(60))
        try registry.open([Self.record(7, user: "bob", address: "10.0.0.1", at: 90)], at: Self.moment(90))

        let history = try Registry(file, access: .readOnly).history()
        #expect(history.map(\.id) == [7, 8, 7])
        #expect(history.map(\.user) == ["ann", nil, "bob"])
        #expect(history.map(\.ending) == [.cgroupGone, nil, nil])
        #expect(history[0].period == Period(start: Self.moment(0), end: Self.moment(60)))
        #expect(history[0].addresses.map(\.period) == [history[0].period])
        #expect(history[0].addresses.map(\.ending) == [.cgroupGone])
        #expect(history[0].cgroupPath == "/sys/fs/cgroup/s7" && history[0].cgroupID == 8007)
        #expect(history[2].period == Period(start: Self.moment(90), end: nil))
        let address = try #require(IPAddress("10.0.0.1"))
        #expect(try registry.history(of: address).map(\.number) == [history[0].number, history[2].number])
        #expect(try registry.history(ofID: 8) == [history[1]])
        #expect(try registry.historyStart() == Self.start)
    }

    @Test("records no session that could not be opened")
    func aSessionThatCannotBeIsNotNoted() throws {
        let registry = try Registry(file, access: .readWrite)
        try registry.open([Self.record(7)], at: Self.moment(0))
        #expect(throws: Failure.self) {
            try registry.open([Self.record(20), Self.record(8, address: "10.0.0.7")], at: Self.moment(1))
        }
        #expect(try registry.history().map(\.id) == [7])
    }

    /// Sessions that were open when the system stopped ended before this boot; the exact time is not known.
    @Test("ends sessions of an earlier boot at the start of this one")
    func anEarlierBootEndsWithTheStartOfThisOne() throws {
        let registry = try Registry(file, access: .readWrite)
        try registry.open([Self.record(7)], at: Self.moment(0))
        let now = Moment(date: Self.start.addingTimeInterval(1000), bootID: "next", uptime: 100_000)
        try registry.remove([(7, .earlierBoot)], at: now)
        let period = try #require(try registry.history().first).period
        #expect(period.end == Moment(date: Self.start.addingTimeInterval(900), bootID: "next", uptime: 0))
        #expect(period.clock(now: now) == .unknown)
    }

    @Test(
        "refuses values that it does not know",
        arguments: [
            "UPDATE session_history SET opened_at = 'yesterday'", "UPDATE session_history SET session_id = -1",
            "UPDATE address_history SET address = '10.0.0.300'", "UPDATE address_history SET started_at = ''",
        ])
    func strangeValue(sql: String) throws {
        try Registry(file, access: .readWrite).open([Self.record(7)], at: Self.moment(0))
        try shell("sqlite3 '\(file)' \"\(sql)\"")
        let registry = try Registry(file, access: .readOnly)
        #expect(try failure { _ = try registry.history() }.reason == "\(file) is damaged")
        #expect(try registry.sessions().count == 1, "the sessions are there all the same")
    }

    // MARK: Retention

    @Test("forgets what is older than the retention")
    func whatIsOldGoes() throws {
        let registry = try Registry(file, access: .readWrite)
        let day = 86400.0
        try registry.open((10..<13).map { Self.record($0) }, at: Self.moment(0))
        try registry.remove([(10, .closed)], at: Self.moment(0))
        try registry.remove([(11, .closed)], at: Self.moment(day))
        func known(at moment: Moment) throws -> [UInt32] {
            try registry.open([Self.record(100)], at: moment)
            try registry.remove([(100, .closed)], at: moment)
            return try registry.history().map(\.id).filter { $0 < 100 }
        }
        #expect(try known(at: Self.moment(89 * day)) == [10, 11, 12])
        #expect(try known(at: Self.moment(90 * day)) == [11, 12])
        // Set forward by ten years: in the same boot, the age of ended sessions does not change.
        let wrong = Moment(
            date: Self.start.addingTimeInterval(3650 * day), bootID: Self.boot, uptime: Self.moment(90 * day).uptime)
        #expect(try known(at: wrong) == [11, 12])
        #expect(try known(at: Self.moment(0, boot: "next")) == [11, 12], "set back")
        #expect(try known(at: Self.moment(3650 * day, boot: "next")) == [12], "an open session stays")
        let addresses = try Child("sqlite3", file.string, "SELECT count(*) FROM address_history").line()
        #expect(try addresses == "\(registry.history().count)", "addresses go with their sessions")
    }

    @Test("keeps the history for the configured time")
    func theSettingCounts() throws {
        let registry = try Registry(file, access: .readWrite)
        try registry.open((10..<3010).map { Self.record($0) }, at: Self.moment(0))
        try registry.remove((10..<3009).map { ($0, .closed) }, at: Self.moment(0))
        // All that are too old, however many.
        try registry.set(Policy(history: Policy.History(retentionDays: 1)), at: Self.moment(86400))
        #expect(try registry.history().map(\.id) == [3009])
        try registry.set(Policy(history: Policy.History(retentionDays: 0)), at: Self.moment(86400))
        try registry.remove([(3009, .closed)], at: Self.moment(86400))
        #expect(try registry.history().isEmpty)
    }

    @Test("forgets a little with each change")
    func aChangeForgetsALittleAtATime() throws {
        let registry = try Registry(file, access: .readWrite)
        try registry.open((10..<4010).map { Self.record($0) }, at: Self.moment(0))
        try registry.remove((10..<4009).map { ($0, .closed) }, at: Self.moment(0))
        try registry.remove([(4009, .closed)], at: Self.moment(91 * 86400))
        #expect(try registry.history().count == 4000 - Registry.pruneLimit - 1)
    }

    // MARK: Older registries

    /// A registry in the form of the first version.
    private func makeFirstVersion() throws {
        do {
            let registry = try Registry(file, access: .readWrite)
            try registry.open(RegistryTests.full)
            try registry.open(RegistryTests.record(7))
        }
        let sql = """
            DROP TABLE address_history; DROP TABLE session_history; DROP TABLE former_addresses; DROP TABLE unsettled_addresses;
            ALTER TABLE addresses DROP COLUMN lease_slot; DELETE FROM settings;
            CREATE TABLE grdb_migrations (identifier TEXT NOT NULL PRIMARY KEY); INSERT INTO grdb_migrations VALUES ('1');
            PRAGMA user_version = 1;
            """
        try shell("sqlite3 '\(file)' \"\(sql)\"")
    }

    @Test("migrates a registry of the first version")
    func theFirstVersionIsBroughtUpToDate() throws {
        try makeFirstVersion()
        let old = try failure { _ = try Registry(file, access: .readOnly) }
        #expect(old.reason.contains("an earlier vip-bpfctl wrote it (version 1)"))
        let registry = try Registry(file, access: .readWrite)
        #expect(try registry.sessions().map(\.id) == [7, SessionIDs.last])
        let history = try registry.history()
        #expect(history.map(\.id) == [7, SessionIDs.last])
        #expect(history[1].cgroupPath == RegistryTests.full.cgroupPath && history[1].user == "ann")
        #expect(history[1].addresses.map(\.address.description) == ["10.20.0.17", "2001:db8::17"])
        #expect(history.allSatisfy { $0.period.start.uptime == nil && $0.ending == nil })
        try registry.remove([(7, .closed)], at: .now(bootID: Self.boot))
        #expect(try registry.history()[0].ending == .closed)
    }

    @Test("changes nothing when a migration fails")
    func aMigrationThatIsRefusedChangesNothing() throws {
        try makeFirstVersion()
        // An existing table stands for any failure during the migration.
        try shell("sqlite3 '\(file)' 'CREATE TABLE address_history (x)'")
        let before = try Data(contentsOf: URL(filePath: file.string))
        #expect(throws: Failure.self) { try Registry(file, access: .readWrite) }
        let tables = try Child(
            "sqlite3", file.string, "SELECT count(*) FROM sqlite_master WHERE name = 'session_history'")
        #expect(try tables.line() == "0")
        #expect(try Data(contentsOf: URL(filePath: file.string)).count == before.count)
        try shell("sqlite3 '\(file)' 'DROP TABLE address_history'")
        #expect(try Registry(file, access: .readWrite).history().count == 2)
    }
}
