// SPDX-License-Identifier: Apache-2.0

import CSQLite
import FoundationEssentials
import Glibc
public import Host
import Network
import Policy
import Synchronization
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
    static let version = migrations.count
    /// "vipS", in `PRAGMA application_id`: tells the registry from any other database.
    static let applicationID: Int32 = 0x7669_7053
    /// Of the database and its journal.
    static let fileMode: mode_t = 0o644
    /// How many sessions of the past one change forgets at most, besides as many as it ends: some milliseconds' work.
    static let pruneLimit = 1000
    /// How long to wait for another connection's transaction, in seconds.
    static let busyTimeout: Int32 = 5

    let file: FilePath
    /// Used under ``turn`` alone.
    nonisolated(unsafe) private let database: Database
    private let turn = Mutex(())
    /// The policy in force as it was last decoded, and the text that it was decoded from.
    let decodedPolicy = Mutex<(text: String, policy: Policy)?>(nil)

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
        let (result, error) = file.withPlatformString {
            (faccessat(AT_FDCWD, $0, access == .readOnly ? R_OK : R_OK | W_OK, AT_EACCESS), errno)
        }
        do {
            let database: Database
            switch (result == 0 ? 0 : error, access) {
            case (0, _):
                database = try Database(file.string, isReadOnly: access == .readOnly, timeout: Self.busyTimeout)
            case (ENOENT, .readOnly):
                database = try Database(nil, isReadOnly: false, timeout: 0)
                for migration in Self.migrations { try migration(database) }
                self.database = database
                return
            case (ENOENT, .readWrite):
                // SQLite would apply the umask; readers need not be root.
                let new = try openFile(file, O_RDWR | O_CREAT | O_EXCL, mode: Self.fileMode)
                let isSet = fchmod(new, Self.fileMode) == 0
                close(new)
                guard isSet else { throw Errno(rawValue: errno) }
                database = try Database(file.string, isReadOnly: false, timeout: Self.busyTimeout)
            default:
                throw Errno(rawValue: error)
            }
            if access == .readWrite {
                // Sessions end with the boot, so what a power failure must leave is a sound file, not the last change:
                // half the fsyncs. And the journal stays, its header zeroed: no directory is written for each change.
                try database.execute("PRAGMA synchronous = NORMAL; PRAGMA journal_mode = PERSIST")
            }
            try Self.prepare(database, file, access)
            self.database = database
        } catch {
            throw Self.failure(error, what, file)
        }
    }

    /// Whether no table has a row; `false` where that cannot be read.
    var isEmpty: Bool {
        (try? read { db in
            let tables: [String] = try db.rows("SELECT name FROM sqlite_master WHERE type = 'table'") { try $0.get(0) }
            return try tables.allSatisfy { try db.value(Int64.self, "SELECT 1 FROM \"\($0)\" LIMIT 1") == nil }
        }) ?? false
    }

    /// Makes the tables where they are missing. Nothing but two header fields is read where they exist.
    private static func prepare(_ database: Database, _ file: FilePath, _ access: Access) throws {
        let what = "open registry \(file)"
        let found = Int(try database.value(Int64.self, "PRAGMA user_version") ?? 0)
        let application = try database.value(Int32.self, "PRAGMA application_id") ?? 0
        if application == applicationID && found == version { return }
        if application == applicationID && found > version {
            throw Failure(
                .failed, what, "a later vip-bpfctl wrote it (version \(found), this one knows \(version))",
                hint: "use that one")
        }
        let isEmpty = try database.value(Int64.self, "SELECT 1 FROM sqlite_master") == nil
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
        // First of all, so that an interrupted migration is recognized and continued.
        try database.execute("PRAGMA application_id = \(applicationID)")
        for number in max(found, 0)..<version {
            try database.transaction(.write) { database in
                try migrations[number](database)
                try database.execute("PRAGMA user_version = \(number + 1)")
            }
        }
    }

    /// Runs `body` in a transaction that reads.
    func read<T: Sendable>(_ body: (Database) throws -> T) throws(Failure) -> T {
        try transaction(.read, "read registry \(file)", body)
    }

    /// Runs `body` in a transaction that writes; it is undone where `body` throws.
    func write<T: Sendable>(_ what: String, _ body: (Database) throws -> T) throws(Failure) -> T {
        try transaction(.write, what, body)
    }

    private func transaction<T: Sendable>(
        _ kind: Database.Transaction, _ what: String, _ body: (Database) throws -> T
    ) throws(Failure) -> T {
        do {
            return try turn.withLock { _ in try database.transaction(kind, body) }
        } catch {
            throw Self.failure(error, what, file)
        }
    }

    /// One line that names the file, out of whatever came up: https://www.sqlite.org/rescode.html
    private static func failure(_ error: any Error, _ what: String, _ file: FilePath) -> Failure {
        if let failure = error as? Failure { return failure }
        if let error = error as? Errno { return Failure(what, errno: error) }
        // What is no error of SQLite is one of decoding.
        let detail = "\(error)"
        let error = error as? DatabaseError ?? .corrupt
        func failure(_ reason: String, hint: String? = nil, code: Failure.Code = .failed) -> Failure {
            Failure(code, what, reason, hint: hint, detail: detail)
        }
        let startOver = "start over: vip-bpfctl detach --all; open sessions are lost"
        switch error.primaryCode {
        case SQLITE_NOTADB: return failure("\(file) is not a database", hint: startOver, code: .damagedRegistry)
        case SQLITE_CORRUPT: return failure("\(file) is damaged", hint: startOver, code: .damagedRegistry)
        case SQLITE_BUSY, SQLITE_LOCKED:
            return failure(
                "\(file) has been locked by another process for \(busyTimeout) s",
                hint: "see who has it open: fuser -v \(file)")
        case SQLITE_FULL: return failure("no space is left for \(file)", hint: "make room on its file system")
        case SQLITE_READONLY where error.code == SQLITE_READONLY | 3 << 8:
            return failure(
                "\(file) has an interrupted write to undo, which needs the right to write",
                hint: "run any command as root", code: .notPermitted)
        case SQLITE_READONLY, SQLITE_PERM, SQLITE_AUTH:
            let refused = Failure(what, errno: .permissionDenied)
            return Failure(
                refused.code, what, "\(file) may not be written", hint: refused.hint, errno: refused.errno,
                detail: detail)
        case SQLITE_CANTOPEN:
            return failure(
                "\(file) or its journal cannot be opened",
                hint: "see whether its directory is there and may be written")
        case SQLITE_IOERR: return failure("the disk under \(file) fails", hint: "see the kernel's log: dmesg")
        default: return failure("\(file): \(error.message)")
        }
    }
}

// MARK: Columns

/// The bytes of a path, which need not be UTF-8.
extension FilePath: DatabaseValue {
    init?(column: Int32, of statement: OpaquePointer) {
        guard let bytes = [UInt8](column: column, of: statement) else { return nil }
        self.init(bytes: bytes)
    }

    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32 { bytes.bind(to: statement, index) }

    var bytes: [UInt8] {
        withPlatformString { [UInt8](UnsafeRawBufferPointer(start: $0, count: strlen($0))) }
    }

    private init(bytes: [UInt8]) {
        self.init(platformString: bytes.map(CChar.init(bitPattern:)) + [0])
    }
}

/// As inet_ntop(3) writes it.
extension IPAddress: DatabaseValue {
    init?(column: Int32, of statement: OpaquePointer) {
        guard let text = String(column: column, of: statement) else { return nil }
        self.init(text)
    }

    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32 { description.bind(to: statement, index) }
}

/// RFC 3339, UTC, to the second.
extension Date: DatabaseValue {
    init?(column: Int32, of statement: OpaquePointer) {
        guard let text = String(column: column, of: statement), let date = try? Date(text, strategy: .iso8601) else {
            return nil
        }
        self = date
    }

    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32 {
        formatted(.iso8601).bind(to: statement, index)
    }
}

extension Failure.Code {
    /// The registry's file is there, and is none that can be read.
    public static let damagedRegistry = Failure.Code("damaged registry", exitCode: 1)
}
