// SPDX-License-Identifier: Apache-2.0

import Foundation
import GRDB
import Glibc
public import Host
public import Network
public import SystemPackage

/// The registry of sessions: a SQLite database, DIR/registry.sqlite.
///
/// Each method is one transaction, so a crash leaves it done or not done, and a session between two of them is seen as
/// ``SessionRecord/State/opening`` or ``SessionRecord/State/closing``. Whoever writes holds the ``FileLock``.
///
/// It keeps SQLite's rollback journal rather than a write-ahead log: a command opens the database for two or three
/// transactions and goes, so making and removing the log's two files would be most of its work; and a log can be read only by
/// who may write beside it, where `session list` is for everybody. Readers see the last commit while a writer works; what
/// remains, the moment of its commit, they wait for.
public final class Registry: Sendable {
    public enum Access: Sendable {
        case readOnly, readWrite
    }

    /// The layout of the tables, in `PRAGMA user_version`.
    static let version = 4
    /// "vipS", in `PRAGMA application_id`: tells the registry from any other database.
    static let applicationID: Int32 = 0x7669_7053
    /// Of the database and its journal.
    static let fileMode: mode_t = 0o644
    /// How many sessions of the past one change forgets at most, besides as many as it ends: some milliseconds' work.
    static let pruneLimit = 1000
    /// How long to wait for another connection's transaction, in seconds.
    static let busyTimeout: TimeInterval = 5

    private let file: FilePath
    private let database: DatabaseQueue

    /// Opens the registry.
    ///
    /// - Parameters:
    ///   - file: ``StateDirectory/registry``. Where there is none it is made, mode 0644; for reading only, it counts as empty.
    ///   - access: `readOnly` needs no lock and no right to write.
    /// - Throws: ``Failure`` that names the file: no database, not ours, damaged, of a later version; (not permitted) without the
    ///   right to.
    public init(_ file: FilePath, access: Access) throws(Failure) {
        self.file = file
        let what = "open registry \(file)"
        var configuration = Configuration()
        configuration.busyMode = .timeout(Self.busyTimeout)
        // GRDB's own is above that of the threads that wait for it: a priority that takes CAP_SYS_NICE, and libdispatch says
        // on standard error when it is refused.
        configuration.qos = .default
        configuration.readonly = access == .readOnly
        if access == .readWrite {
            configuration.prepareDatabase { db in
                // Sessions end with the boot, so what a power failure must leave is a sound file, not the last change:
                // half the fsyncs. And the journal stays, its header zeroed: no directory is written for each change.
                try db.execute(sql: "PRAGMA synchronous = NORMAL; PRAGMA journal_mode = PERSIST")
            }
        }

        let (result, error) = file.withPlatformString {
            (faccessat(AT_FDCWD, $0, access == .readOnly ? R_OK : R_OK | W_OK, AT_EACCESS), errno)
        }
        do {
            switch (result == 0 ? 0 : error, access) {
            case (0, _):
                database = try DatabaseQueue(path: file.string, configuration: configuration)
            case (ENOENT, .readOnly):
                configuration.readonly = false
                database = try DatabaseQueue(configuration: configuration)
                try Self.prepare(database, file, .readWrite)
                return
            case (ENOENT, .readWrite):
                // SQLite would apply the umask; readers need not be root.
                let new = try openFile(file, O_RDWR | O_CREAT | O_EXCL, mode: Self.fileMode)
                let isSet = fchmod(new, Self.fileMode) == 0
                close(new)
                guard isSet else { throw Errno(rawValue: errno) }
                database = try DatabaseQueue(path: file.string, configuration: configuration)
            default:
                throw Errno(rawValue: error)
            }
            try Self.prepare(database, file, access)
        } catch {
            throw Self.failure(error, what, file)
        }
    }

    /// Whether no table has a row; `false` where that cannot be read.
    var isEmpty: Bool {
        (try? database.read { db in
            try String.fetchAll(
                db, sql: "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'grdb_migrations'"
            )
            .allSatisfy { table in
                try Int.fetchOne(db, sql: "SELECT 1 FROM \"\(table)\" LIMIT 1") == nil
            }
        }) ?? false
    }

    /// Makes the tables where they are missing. Nothing but two header fields is read where they are there.
    private static func prepare(_ database: DatabaseQueue, _ file: FilePath, _ access: Access) throws {
        let what = "open registry \(file)"
        let isOlder = try database.inDatabase { db in
            let found = try Int.fetchOne(db, sql: "PRAGMA user_version") ?? 0
            let application = try Int32.fetchOne(db, sql: "PRAGMA application_id") ?? 0
            if application == applicationID && found == version { return false }
            if application == applicationID && found > version {
                throw Failure(
                    .failed, what, "a later vip-bpfctl wrote it (version \(found), this one knows \(version))",
                    hint: "use that one")
            }
            let isEmpty = try Int.fetchOne(db, sql: "SELECT 1 FROM sqlite_master") == nil
            guard application == applicationID || application == 0 && found == 0 && isEmpty else {
                throw Failure(
                    .failed, what, "it is another program's database", hint: "move it away, or name another --state")
            }
            guard access == .readWrite else {
                if isEmpty { throw Failure(.failed, what, "it is being made", hint: "try again") }
                throw Failure(
                    .failed, what, "an earlier vip-bpfctl wrote it (version \(found))",
                    hint: "run a command that changes something, as root, to bring it up to date")
            }
            // First of all, so that what is left of an interrupted migration is known for ours and gone on with.
            try db.execute(sql: "PRAGMA application_id = \(applicationID)")
            return true
        }
        if isOlder { try migrator.migrate(database) }
    }

    private static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1") { db in
            try db.execute(
                sql: """
                    CREATE TABLE sessions (
                        id INTEGER PRIMARY KEY,
                        cgroup_path BLOB NOT NULL,        -- bytes: a path need not be UTF-8
                        cgroup_id INTEGER NOT NULL,
                        cgroup_level INTEGER NOT NULL,
                        user TEXT,
                        policy TEXT,
                        boot_id TEXT NOT NULL,
                        opened_at TEXT NOT NULL,          -- RFC 3339, UTC
                        state TEXT NOT NULL CHECK (state IN ('opening', 'open', 'closing')),
                        created_cgroup INTEGER NOT NULL,
                        keeper TEXT NOT NULL,
                        keeper_pid INTEGER,
                        keeper_started INTEGER,           -- clock ticks since boot
                        UNIQUE (cgroup_id, boot_id)
                    ) STRICT;
                    CREATE INDEX sessions_by_cgroup_path ON sessions (cgroup_path);
                    CREATE TABLE addresses (
                        address TEXT PRIMARY KEY,         -- as inet_ntop(3) writes it
                        session_id INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
                        interface TEXT NOT NULL,
                        placed INTEGER NOT NULL,
                        from_pool INTEGER NOT NULL
                    ) STRICT, WITHOUT ROWID;
                    CREATE INDEX addresses_of_session ON addresses (session_id);
                    CREATE TABLE attachments (
                        path BLOB PRIMARY KEY,
                        cgroup_id INTEGER NOT NULL
                    ) STRICT, WITHOUT ROWID;
                    CREATE TABLE settings (
                        key TEXT PRIMARY KEY,
                        value TEXT NOT NULL
                    ) STRICT, WITHOUT ROWID;
                    PRAGMA user_version = 1;
                    """)
        }
        migrator.registerMigration("2") { db in
            try db.execute(sql: createHistory)
            try db.execute(sql: "PRAGMA user_version = 2")
        }
        migrator.registerMigration("3") { db in
            try db.execute(sql: createFormerAddresses)
            try db.execute(sql: "PRAGMA user_version = 3")
        }
        migrator.registerMigration("4") { db in
            try db.execute(sql: createUnsettledAddresses)
            try db.execute(sql: "PRAGMA user_version = 4")
        }
        return migrator
    }

    // MARK: Sessions

    /// Registers a session and its addresses, in the state that the record says: `opening` as a rule.
    ///
    /// - Throws: ``Failure`` where the ID, the cgroup or an address is another session's, and names that one.
    public func open(_ record: SessionRecord) throws(Failure) {
        try open([record])
    }

    /// Registers many sessions, or none of them.
    ///
    /// - Parameter now: for the history; `nil` is now.
    /// - Throws: ``Failure`` as ``open(_:)-(SessionRecord)``, for the first one that cannot be.
    public func open(_ records: [SessionRecord], at now: Moment? = nil) throws(Failure) {
        try write("register \(Self.name(records.map(\.id)))") { db in
            let sessions = try db.makeStatement(
                sql: """
                    INSERT INTO sessions (id, cgroup_path, cgroup_id, cgroup_level, user, policy, boot_id, opened_at, state,
                        created_cgroup, keeper, keeper_pid, keeper_started) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                    """)
            let addresses = try db.makeStatement(
                sql: Self.insertAddress)
            var written: (date: Date, text: String)?
            for record in records {
                if written?.date != record.openedAt { written = (record.openedAt, record.openedAt.formatted(.iso8601)) }
                do {
                    try sessions.execute(arguments: [
                        Int64(record.id), record.cgroupPath.data, Int64(bitPattern: record.cgroupID),
                        Int64(record.cgroupLevel), record.user, record.policy, record.bootID, written?.text,
                        record.state.rawValue, record.createdCgroup, record.keeper.rawValue,
                        record.keeperProcess.map { Int64($0.pid) },
                        record.keeperProcess.map { Int64(bitPattern: $0.startTime) },
                    ])
                    for address in record.addresses {
                        try addresses.execute(arguments: Self.row(address, of: record.id))
                    }
                } catch let error as DatabaseError where error.resultCode == .SQLITE_CONSTRAINT {
                    throw try Self.conflict(of: record, db) ?? error
                }
            }
            guard let bootID = records.first?.bootID else { return }
            let now = now ?? .now(bootID: bootID)
            try Self.noteOpened(records, uptime: now.uptime ?? Moment.uptime(), db)
            try Self.prune(db, at: now, limit: Self.pruneLimit)
        }
    }

    /// The sessions become `open`.
    ///
    /// - Throws: ``Failure`` where one is not registered; nothing is changed then.
    public func markOpen(_ ids: [UInt32]) throws(Failure) {
        try setState(.open, ids)
    }

    /// The sessions become `closing`.
    ///
    /// - Throws: ``Failure`` as ``markOpen(_:)``.
    public func beginClose(_ ids: [UInt32]) throws(Failure) {
        try setState(.closing, ids)
    }

    /// Forgets sessions and their addresses, but for the history. One that is not registered is fine.
    ///
    /// - Parameters:
    ///   - ended: which, and why each of them ends.
    ///   - now: the end.
    public func remove(_ ended: [(id: UInt32, ending: SessionEnding)], at now: Moment) throws(Failure) {
        try write("remove \(Self.name(ended.map(\.id)))") { db in
            try Self.noteReleased(ended, at: now, db)
            let delete = try db.makeStatement(sql: "DELETE FROM sessions WHERE id = ?")
            for (id, _) in ended { try delete.execute(arguments: [Int64(id)]) }
            try Self.noteClosed(ended, at: now, db)
            try Self.prune(db, at: now, limit: Self.pruneLimit + ended.count)
        }
    }

    /// Notes whether we put addresses on their interfaces. An address that is not registered is fine.
    public func setPlaced(_ placed: [IPAddress: Bool]) throws(Failure) {
        try write("register addresses") { db in
            let update = try db.makeStatement(sql: "UPDATE addresses SET placed = ? WHERE address = ?")
            for (address, isPlaced) in placed { try update.execute(arguments: [isPlaced, address.description]) }
        }
    }

    /// Notes that addresses are on an interface that is not the one noted: it was renamed.
    public func setInterface(_ interfaces: [IPAddress: String]) throws(Failure) {
        try write("register addresses") { db in
            let update = try db.makeStatement(sql: "UPDATE addresses SET interface = ? WHERE address = ?")
            for (address, interface) in interfaces {
                try update.execute(arguments: [interface, address.description])
            }
        }
    }

    /// Every session, by rising ID.
    public func sessions() throws(Failure) -> [SessionRecord] {
        try sessions(where: "TRUE", [])
    }

    /// The sessions that a command may have to repair: not open, of another boot, or made by `run`. By rising ID.
    func unsettledSessions(bootID: String) throws(Failure) -> [SessionRecord] {
        try sessions(
            where: "state <> 'open' OR boot_id <> ? OR keeper = ?", [bootID, SessionRecord.Keeper.run.rawValue])
    }

    /// The depths of the cgroups of the sessions of a boot, but for some sessions. Rising.
    func levels(bootID: String, without ids: [UInt32] = []) throws(Failure) -> [UInt32] {
        // One session is closed at a time, or a few; for very many it is no dearer to leave them out here.
        let leftOut = Set(ids)
        return try read { db in
            if leftOut.isEmpty {
                return try UInt32.fetchAll(
                    db, sql: "SELECT DISTINCT cgroup_level FROM sessions WHERE boot_id = ? ORDER BY 1",
                    arguments: [bootID])
            }
            var levels: Set<UInt32> = []
            let rows = try Row.fetchCursor(
                db, sql: "SELECT id, cgroup_level FROM sessions WHERE boot_id = ?", arguments: [bootID])
            while let row = try rows.next() {
                let id: UInt32 = try row.decode(atIndex: 0)
                if !leftOut.contains(id) { levels.insert(try row.decode(atIndex: 1)) }
            }
            return levels.sorted()
        }
    }

    private func sessions(where condition: String, _ arguments: StatementArguments) throws(Failure) -> [SessionRecord] {
        try read { db in
            var addresses: [UInt32: [SessionRecord.Address]] = [:]
            let rows = try Row.fetchCursor(
                db, sql: "\(Self.selectAddresses) WHERE session_id IN (SELECT id FROM sessions WHERE \(condition))",
                arguments: arguments)
            while let row = try rows.next() {
                let (session, address) = try Self.address(row)
                addresses[session, default: []].append(address)
            }
            return try Self.records(
                db, "\(Self.selectSessions) WHERE \(condition) ORDER BY id", arguments, addresses)
        }
    }

    /// The session of an ID, or `nil`.
    public func session(id: UInt32) throws(Failure) -> SessionRecord? {
        try one("id = ?", [Int64(id)])
    }

    /// The session of a cgroup, by the ID that the cgroup has in this boot, or `nil`.
    public func session(cgroupID: UInt64, bootID: String) throws(Failure) -> SessionRecord? {
        try one("cgroup_id = ? AND boot_id = ?", [Int64(bitPattern: cgroupID), bootID])
    }

    /// The session that has an address, or `nil`.
    public func session(address: IPAddress) throws(Failure) -> SessionRecord? {
        try one("id = (SELECT session_id FROM addresses WHERE address = ?)", [address.description])
    }

    /// The IDs that are taken, in whatever state.
    public func usedIDs() throws(Failure) -> Set<UInt32> {
        try read { db in try Set(UInt32.fetchCursor(db, sql: "SELECT id FROM sessions")) }
    }

    /// The addresses that are taken, and by which session, in whatever state.
    public func usedAddresses() throws(Failure) -> [IPAddress: UInt32] {
        try read { db in
            var used: [IPAddress: UInt32] = [:]
            let rows = try Row.fetchCursor(db, sql: "SELECT address, session_id FROM addresses")
            while let row = try rows.next() {
                guard let address = IPAddress(try row.decode(String.self, atIndex: 0)) else {
                    throw DatabaseError(resultCode: .SQLITE_CORRUPT)
                }
                used[address] = try row.decode(atIndex: 1)
            }
            return used
        }
    }

    /// The addresses of sessions that nobody has put on an interface: a route makes them local.
    func routedAddresses() throws(Failure) -> [IPAddress] {
        try read { db in
            try String.fetchAll(db, sql: "SELECT address FROM addresses WHERE NOT placed").map { text in
                guard let address = IPAddress(text) else { throw DatabaseError(resultCode: .SQLITE_CORRUPT) }
                return address
            }
        }
    }

    /// The cgroups that this boot's sessions have, ready to be asked.
    ///
    /// - Parameter path: to ask for this one alone: only what is in its way, at, above or below it, is read then.
    public func cgroupClaims(bootID: String, around path: FilePath? = nil) throws(Failure) -> CgroupClaims {
        var sql = "SELECT id, cgroup_path FROM sessions WHERE boot_id = ?"
        var arguments: StatementArguments = [bootID]
        if var path {
            // What is below begins with the path and "/"; "0" is the next character.
            let below = path.components.isEmpty ? Data() : path.data
            var above: [Data] = []
            repeat { above.append(path.data) } while path.removeLastComponent()
            let places = repeatElement("?", count: above.count).joined(separator: ", ")
            sql += " AND (cgroup_path IN (\(places)) OR cgroup_path > ? AND cgroup_path < ?)"
            arguments += StatementArguments(above + [below + Data("/".utf8), below + Data("0".utf8)])
        }
        let rows = try read { [sql, arguments] db in
            try Row.fetchAll(db, sql: sql, arguments: arguments).map { row in
                (id: try row.decode(UInt32.self, atIndex: 0), path: FilePath(data: try row.decode(atIndex: 1)))
            }
        }
        var claims = CgroupClaims()
        for row in rows { try claims.claim(row.path, session: row.id) }
        return claims
    }

    // MARK: Attached cgroups, settings

    /// The cgroups that the programs are attached to, with the ID that each had then, by path.
    public func attachments() throws(Failure) -> [(path: FilePath, cgroupID: UInt64)] {
        try read { db in
            try Row.fetchAll(db, sql: "SELECT path, cgroup_id FROM attachments ORDER BY path").map { row in
                (FilePath(data: try row.decode(atIndex: 0)), UInt64(bitPattern: try row.decode(Int64.self, atIndex: 1)))
            }
        }
    }

    /// Notes an attached cgroup, in place of one noted at the same path.
    public func addAttachment(_ cgroup: Cgroup) throws(Failure) {
        try write("note that \(cgroup.path) is attached") { db in
            try db.execute(
                sql: "INSERT OR REPLACE INTO attachments (path, cgroup_id) VALUES (?, ?)",
                arguments: [cgroup.path.data, Int64(bitPattern: cgroup.id)])
        }
    }

    /// Forgets an attached cgroup. One that is not noted is fine.
    public func removeAttachment(_ path: FilePath) throws(Failure) {
        try write("note that \(path) is detached") { db in
            try db.execute(sql: "DELETE FROM attachments WHERE path = ?", arguments: [path.data])
        }
    }

    /// Keys of the settings. An extensible code.
    public struct Setting: RawRepresentable, Sendable, Hashable {
        public let rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }

        /// The YAML text of the policy in force.
        public static let policy = Setting(rawValue: "policy")
    }

    /// Registers the policy in force, and what the registry itself goes by.
    func setPolicy(_ yaml: String, historyDays: Int, at now: Moment) throws(Failure) {
        try write("register the policy") { db in
            for (key, value) in [(Setting.policy, yaml), (.historyDays, "\(historyDays)")] {
                try db.execute(
                    sql: "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", arguments: [key.rawValue, value])
            }
            // All of it: who keeps less from now on wants it gone.
            try Self.prune(db, at: now, limit: .max)
        }
    }

    /// A setting's value, `nil` where it has none.
    public func value(of setting: Setting) throws(Failure) -> String? {
        try read { db in
            try String.fetchOne(db, sql: "SELECT value FROM settings WHERE key = ?", arguments: [setting.rawValue])
        }
    }

    /// Gives a setting a value; `nil` takes it away.
    public func set(_ setting: Setting, to value: String?) throws(Failure) {
        try write("register the \(setting.rawValue)") { db in
            if let value {
                try db.execute(
                    sql: "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)",
                    arguments: [setting.rawValue, value])
            } else {
                try db.execute(sql: "DELETE FROM settings WHERE key = ?", arguments: [setting.rawValue])
            }
        }
    }

    // MARK: Rows

    private static let selectSessions = """
        SELECT id, cgroup_path, cgroup_id, cgroup_level, user, policy, boot_id, opened_at, state, created_cgroup, keeper,
            keeper_pid, keeper_started FROM sessions
        """
    private static let selectAddresses =
        "SELECT session_id, address, interface, placed, from_pool, lease_slot FROM addresses"
    static let insertAddress = """
        INSERT INTO addresses (address, session_id, interface, placed, from_pool, lease_slot) VALUES (?, ?, ?, ?, ?, ?)
        """

    /// For ``insertAddress``.
    static func row(_ address: SessionRecord.Address, of session: UInt32) -> StatementArguments {
        [
            address.address.description, Int64(session), address.interface, address.placed, address.fromPool,
            address.leaseSlot.map { Int64($0) },
        ]
    }

    private static func records(
        _ db: Database, _ sql: String, _ arguments: StatementArguments, _ addresses: [UInt32: [SessionRecord.Address]]
    ) throws -> [SessionRecord] {
        var records: [SessionRecord] = []
        var read: (text: String, date: Date)?
        let rows = try Row.fetchCursor(db, sql: sql, arguments: arguments)
        while let row = try rows.next() {
            let id = try row.decode(UInt32.self, atIndex: 0)
            let openedAt = try row.decode(String.self, atIndex: 7)
            if read?.text != openedAt { read = (openedAt, try Date(openedAt, strategy: .iso8601)) }
            guard let state = SessionRecord.State(rawValue: try row.decode(atIndex: 8)), let date = read?.date else {
                throw DatabaseError(resultCode: .SQLITE_CORRUPT)
            }
            var process: ProcessIdentity?
            if let pid = try row.decode(Int32?.self, atIndex: 11),
                let started = try row.decode(Int64?.self, atIndex: 12)
            {
                process = ProcessIdentity(pid: pid, startTime: UInt64(bitPattern: started))
            }
            records.append(
                SessionRecord(
                    id: id, cgroupPath: FilePath(data: try row.decode(atIndex: 1)),
                    cgroupID: UInt64(bitPattern: try row.decode(Int64.self, atIndex: 2)),
                    cgroupLevel: try row.decode(atIndex: 3), user: try row.decode(String?.self, atIndex: 4),
                    policy: try row.decode(String?.self, atIndex: 5), bootID: try row.decode(atIndex: 6),
                    openedAt: date,
                    state: state, createdCgroup: try row.decode(atIndex: 9),
                    keeper: SessionRecord.Keeper(rawValue: try row.decode(atIndex: 10)), keeperProcess: process,
                    addresses: (addresses[id] ?? []).sorted { $0.address < $1.address }))
        }
        return records
    }

    private static func address(_ row: Row) throws -> (session: UInt32, address: SessionRecord.Address) {
        guard let address = IPAddress(try row.decode(String.self, atIndex: 1)) else {
            throw DatabaseError(resultCode: .SQLITE_CORRUPT)
        }
        return (
            try row.decode(atIndex: 0),
            SessionRecord.Address(
                address, interface: try row.decode(atIndex: 2), placed: try row.decode(atIndex: 3),
                fromPool: try row.decode(atIndex: 4), leaseSlot: try row.decode(UInt32?.self, atIndex: 5))
        )
    }

    private func one(_ condition: String, _ arguments: StatementArguments) throws(Failure) -> SessionRecord? {
        try read { db in
            guard
                var record = try Self.records(db, "\(Self.selectSessions) WHERE \(condition)", arguments, [:]).first
            else { return nil }
            record.addresses = try Row.fetchAll(
                db, sql: Self.selectAddresses + " WHERE session_id = ?", arguments: [Int64(record.id)]
            ).map { try Self.address($0).address }.sorted { $0.address < $1.address }
            return record
        }
    }

    private func setState(_ state: SessionRecord.State, _ ids: [UInt32]) throws(Failure) {
        let what = "mark \(Self.name(ids)) as \(state.rawValue)"
        try write(what) { db in
            let update = try db.makeStatement(sql: "UPDATE sessions SET state = ? WHERE id = ?")
            for id in ids {
                try update.execute(arguments: [state.rawValue, Int64(id)])
                guard db.changesCount == 1 else {
                    throw Failure(.failed, what, "there is no session \(id)", hint: "see session list")
                }
            }
        }
    }

    // MARK: Errors

    /// The row that keeps a record from being inserted.
    private static func conflict(of record: SessionRecord, _ db: Database) throws -> Failure? {
        let what = "register session \(record.id)"
        let taken = try Data.fetchOne(
            db, sql: "SELECT cgroup_path FROM sessions WHERE id = ?", arguments: [Int64(record.id)])
        // The record's own row is there when an address is what failed.
        let isOwn = try Bool.fetchOne(
            db, sql: "SELECT EXISTS (SELECT 1 FROM sessions WHERE id = ? AND cgroup_id = ? AND boot_id = ?)",
            arguments: [Int64(record.id), Int64(bitPattern: record.cgroupID), record.bootID])
        if let taken, isOwn != true {
            return Failure(
                .failed, what, "the ID is taken, by cgroup \(FilePath(data: taken))",
                hint: "choose another one, or close session \(record.id)")
        }
        let owner = try UInt32.fetchOne(
            db, sql: "SELECT id FROM sessions WHERE cgroup_id = ? AND boot_id = ? AND id <> ?",
            arguments: [Int64(bitPattern: record.cgroupID), record.bootID, Int64(record.id)])
        if let owner {
            return Failure(
                .failed, what, "cgroup \(record.cgroupPath) is session \(owner) already",
                hint: "close session \(owner) first")
        }
        for address in record.addresses {
            let owner = try UInt32.fetchOne(
                db, sql: "SELECT session_id FROM addresses WHERE address = ?", arguments: [address.address.description])
            if let owner, owner != record.id {
                return Failure(
                    .failed, what, "\(address.address) is session \(owner)'s",
                    hint: "choose another address, or close session \(owner)")
            }
        }
        if taken != nil {
            return Failure(.failed, what, "it is registered already", hint: "close session \(record.id) first")
        }
        return nil
    }

    func read<T>(_ body: (Database) throws -> T) throws(Failure) -> T {
        do {
            return try database.read(body)
        } catch {
            throw Self.failure(error, "read registry \(file)", file)
        }
    }

    func write<T>(_ what: String, _ body: (Database) throws -> T) throws(Failure) -> T {
        do {
            return try database.write(body)
        } catch {
            throw Self.failure(error, what, file)
        }
    }

    /// One line that names the file, out of whatever came up: https://www.sqlite.org/rescode.html
    private static func failure(_ error: any Error, _ what: String, _ file: FilePath) -> Failure {
        if let failure = error as? Failure { return failure }
        if let error = error as? Errno { return Failure(what, errno: error) }
        // What is no error of SQLite is one of decoding: a value that no statement of ours wrote.
        let detail = "\(error)"
        let error = error as? DatabaseError ?? DatabaseError(resultCode: .SQLITE_CORRUPT)
        switch error.resultCode {
        case .SQLITE_NOTADB:
            return Failure(
                .damagedRegistry, what, "\(file) is not a database",
                hint: "start over: vip-bpfctl detach --all; open sessions are lost", detail: detail)
        case .SQLITE_CORRUPT:
            return Failure(
                .damagedRegistry, what, "\(file) is damaged",
                hint: "start over: vip-bpfctl detach --all; open sessions are lost", detail: detail)
        case .SQLITE_BUSY, .SQLITE_LOCKED:
            return Failure(
                .failed, what, "\(file) has been locked by another process for \(Int(busyTimeout)) s",
                hint: "see who has it open: fuser -v \(file)", detail: detail)
        case .SQLITE_FULL:
            return Failure(
                .failed, what, "no space is left for \(file)", hint: "make room on its file system", detail: detail)
        case .SQLITE_READONLY where error.extendedResultCode == .SQLITE_READONLY_ROLLBACK:
            return Failure(
                .notPermitted, what, "\(file) has an interrupted write to undo, which needs the right to write",
                hint: "run any command as root", detail: detail)
        case .SQLITE_READONLY, .SQLITE_PERM, .SQLITE_AUTH:
            let refused = Failure(what, errno: .permissionDenied)
            return Failure(
                refused.code, what, "\(file) may not be written", hint: refused.hint, errno: refused.errno,
                detail: detail)
        case .SQLITE_CANTOPEN:
            return Failure(
                .failed, what, "\(file) or its journal cannot be opened",
                hint: "see whether its directory is there and may be written", detail: detail)
        case .SQLITE_IOERR:
            return Failure(
                .failed, what, "the disk under \(file) fails", hint: "see the kernel's log: dmesg", detail: detail)
        default:
            return Failure(
                .failed, what, "\(file): \(error.message ?? "SQLite error \(error.resultCode.rawValue)")",
                detail: detail)
        }
    }

    private static func name(_ ids: [UInt32]) -> String {
        ids.count == 1 ? "session \(ids[0])" : "\(ids.count) sessions"
    }
}

extension FilePath {
    var data: Data {
        withPlatformString { Data(bytes: $0, count: strlen($0)) }
    }

    init(data: Data) {
        self.init(platformString: data.map(CChar.init(bitPattern:)) + [0])
    }
}

extension Failure.Code {
    /// The registry's file is there, and is none that can be read.
    public static let damagedRegistry = Failure.Code("damaged registry", exitCode: 1)
}
