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
/// Each method is one transaction, so after a crash it is done or not done. A session between two of them is in the
/// state ``SessionRecord/State/opening`` or ``SessionRecord/State/closing``. Writers hold the ``FileLock``.
///
/// It uses SQLite's rollback journal and not a write-ahead log. A command opens the database for only two or three
/// transactions, so creating and removing the two files of the log would be most of its work. Readers see the last
/// commit during a write, and wait only at the moment of a commit.
public final class Registry: Sendable {
    public enum Access: Sendable {
        case readOnly, readWrite
        /// Of a file that is replaced, and never written: no lock is taken.
        case snapshot
    }

    /// The layout of the tables, in `PRAGMA user_version`.
    static let version = migrations.count
    /// "vipS", in `PRAGMA application_id`: identifies the registry among other databases.
    static let applicationID: Int32 = 0x7669_7053
    /// The mode of the database and its journal: whoever may open them may lock them, and so stop every change.
    static let fileMode: mode_t = 0o600
    /// How many past sessions one change removes from the history at most, besides as many as it ends. It takes some
    /// milliseconds.
    static let pruneLimit = 1000
    /// How long to wait for another connection's transaction, in seconds.
    static let busyTimeout: Int32 = 5

    let file: FilePath
    /// Used only under ``turn``.
    nonisolated(unsafe) private let database: Database
    private let turn = Mutex(())
    /// The policy in force that was last decoded, and the text that it was decoded from.
    let decodedPolicy = Mutex<(text: String, policy: Policy)?>(nil)

    /// Opens the registry.
    ///
    /// - Parameters:
    ///   - file: ``StateDirectory/registry``. If it does not exist, it is created with mode 0600; for reading, it
    ///     counts as empty.
    ///   - access: `readOnly` needs neither the lock nor write permission.
    /// - Throws: ``Failure`` that names the file: it is not a database, not a registry, damaged, or of a later version;
    ///   (not permitted) without permission.
    public init(_ file: FilePath, access: Access) throws(Failure) {
        self.file = file
        let what = "open registry \(file)"
        let (result, error) = file.withPlatformString {
            (faccessat(AT_FDCWD, $0, access == .readWrite ? R_OK | W_OK : R_OK, AT_EACCESS), errno)
        }
        do {
            let database: Database
            switch (result == 0 ? 0 : error, access) {
            case (0, _):
                if access == .readWrite { try Self.makePrivate(file) }
                database = try Database(
                    file.string, access: access == .readWrite ? .write : access == .readOnly ? .read : .readUnlocked,
                    timeout: Self.busyTimeout)
            case (ENOENT, .readOnly):
                database = try Database(nil, access: .write, timeout: 0)
                for migration in Self.migrations { try migration(database) }
                self.database = database
                return
            case (ENOENT, .readWrite):
                // SQLite would apply the umask. It creates the journal with the database's mode.
                let new = try openFile(file, O_RDWR | O_CREAT | O_EXCL, mode: Self.fileMode)
                let isSet = fchmod(new, Self.fileMode) == 0
                close(new)
                guard isSet else { throw Errno(rawValue: errno) }
                database = try Database(file.string, access: .write, timeout: Self.busyTimeout)
            default:
                throw Errno(rawValue: error)
            }
            // First, so that another program's database keeps its journal mode.
            try Self.prepare(database, file, access)
            if access == .readWrite {
                // Sessions end with the boot, so after a power failure the file must be sound but need not contain the
                // last change: half of the fsyncs suffice. The journal's file stays, with its header zeroed, so no
                // change writes the directory.
                try database.execute("PRAGMA synchronous = NORMAL; PRAGMA journal_mode = PERSIST")
            }
            self.database = database
        } catch {
            throw Self.failure(error, what, file)
        }
    }

    /// The whole database as the bytes of its file.
    func serialized() throws(Failure) -> [UInt8] {
        do {
            return try turn.withLock { _ in try database.serialized() }
        } catch {
            throw Self.failure(error, "read registry \(file)", file)
        }
    }

    /// The file change counter of a database file, which rises with every transaction that changes it: SQLite's file
    /// format, section 1.3.8. `nil` if it cannot be read.
    ///
    /// Do not call it during a transaction of this process: closing the file releases its locks (fcntl(2)).
    static func changeCounter(of path: FilePath) -> UInt32? {
        guard let file = try? openFile(path, O_RDONLY) else { return nil }
        defer { close(file) }
        var bytes: [UInt8] = [0, 0, 0, 0]
        guard pread(file, &bytes, bytes.count, 24) == bytes.count else { return nil }
        return bytes.reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// Whether no table has a row; `false` if that cannot be read.
    var isEmpty: Bool {
        (try? read { db in
            let tables: [String] = try db.rows("SELECT name FROM sqlite_master WHERE type = 'table'") { try $0.get(0) }
            return try tables.allSatisfy { try db.value(Int64.self, "SELECT 1 FROM \"\($0)\" LIMIT 1") == nil }
        }) ?? false
    }

    /// Makes the registry of an earlier version, mode 0644, private.
    ///
    /// A process that has it open can still lock it, so its content goes into a new file. A reader that has the old one
    /// open sees what was registered until now.
    private static func makePrivate(_ file: FilePath) throws(Errno) {
        for file in [file, FilePath("\(file)-journal")] {
            var status = stat()
            guard file.withPlatformString({ lstat($0, &status) }) == 0, status.st_mode & S_IFMT == S_IFREG,
                status.st_mode & 0o7777 & ~fileMode != 0, status.st_uid == geteuid()
            else { continue }
            if let bytes = try? readWholeFile(file),
                (try? replaceFile(file, with: bytes, mode: fileMode, isSynced: true)) != nil
            {
                continue
            }
            // Without room for a second one.
            let old = Descriptor(owning: try openFile(file, O_RDONLY | O_NOFOLLOW))
            guard fchmod(old.raw, fileMode) == 0 else { throw .current }
        }
    }

    /// Creates the tables if they are missing. If they exist, it reads only two fields of the file's header.
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
        // This comes first, so that an interrupted migration is recognised and continued.
        try database.execute("PRAGMA application_id = \(applicationID)")
        for number in max(found, 0)..<version {
            try database.transaction(.write) { database in
                try migrations[number](database)
                try database.execute("PRAGMA user_version = \(number + 1)")
            }
        }
    }

    /// Runs `body` in a reading transaction.
    func read<T: Sendable>(_ body: (Database) throws -> T) throws(Failure) -> T {
        try transaction(.read, "read registry \(file)", body)
    }

    /// Runs `body` in a writing transaction, which is rolled back if `body` throws.
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

    /// Converts any error into a failure of one line that names the file: https://www.sqlite.org/rescode.html
    private static func failure(_ error: any Error, _ what: String, _ file: FilePath) -> Failure {
        if let failure = error as? Failure { return failure }
        if let error = error as? Errno { return Failure(what, errno: error) }
        // An error that is not SQLite's comes from decoding.
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
                hint: "run any command as root", code: .interruptedWrite)
        case SQLITE_READONLY, SQLITE_PERM, SQLITE_AUTH:
            let refused = Failure(what, errno: .permissionDenied)
            return Failure(
                refused.code, what, "\(file) may not be written", hint: refused.hint, errno: refused.errno,
                detail: detail)
        case SQLITE_CANTOPEN:
            return failure(
                "\(file) or its journal cannot be opened",
                hint: "see whether its directory is there and may be written")
        case SQLITE_IOERR: return failure("I/O error on \(file)", hint: "see the kernel's log: dmesg")
        default: return failure("\(file): \(error.message)")
        }
    }
}

// MARK: Columns

/// Stored as bytes, because a path need not be UTF-8.
extension FilePath: DatabaseValue {
    init?(column: Int32, of statement: OpaquePointer) {
        guard let bytes = [UInt8](column: column, of: statement) else { return nil }
        self.init(bytes: bytes)
    }

    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32 { bytes.bind(to: statement, index) }

    private init(bytes: [UInt8]) {
        self.init(platformString: bytes.map(CChar.init(bitPattern:)) + [0])
    }
}

/// Stored as text in the form of inet_ntop(3).
extension IPAddress: DatabaseValue {
    init?(column: Int32, of statement: OpaquePointer) {
        guard let text = String(column: column, of: statement) else { return nil }
        self.init(text)
    }

    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32 { description.bind(to: statement, index) }
}

/// Stored as text: RFC 3339, UTC, in whole seconds.
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
    /// The registry's file exists and cannot be read as one.
    public static let damagedRegistry = Failure.Code("damaged registry", exitCode: 1)
    /// A process was killed while it wrote the registry, and what it wrote must be undone first.
    static let interruptedWrite = Failure.Code("interrupted write", exitCode: 77)
}
