// SPDX-License-Identifier: Apache-2.0

import CSQLite

/// An open SQLite database: statements, rows of typed columns, transactions.
///
/// Use it on one thread at a time.
final class Database {
    private let connection: OpaquePointer

    enum Access {
        case read, write
        /// For a file that no process changes (`immutable=1`): SQLite takes no lock and reads no journal.
        case readUnlocked
    }

    /// Opens an existing database, or an empty one in memory if there is no path.
    ///
    /// - Parameter timeout: how long to wait for another connection's transaction, in seconds.
    init(_ path: String?, access: Access, timeout: Int32) throws(DatabaseError) {
        var connection: OpaquePointer?
        var name = path ?? ":memory:"
        var flags = (access == .write ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY) | SQLITE_OPEN_NOMUTEX
        if access == .readUnlocked {
            name = "file:\(Self.escaped(name))?immutable=1"
            flags |= SQLITE_OPEN_URI
        }
        let code = sqlite3_open_v2(name, &connection, flags, nil)
        guard let connection else { throw DatabaseError(code: SQLITE_NOMEM, message: "out of memory") }
        self.connection = connection
        // From here on, deinit closes the connection. SQLite requires that also if the open has failed.
        guard code == SQLITE_OK else { throw error() }
        sqlite3_extended_result_codes(connection, 1)
        sqlite3_busy_timeout(connection, timeout * 1000)
        try execute("PRAGMA foreign_keys = ON")
    }

    deinit {
        sqlite3_close_v2(connection)
    }

    /// A path for a URI: https://www.sqlite.org/uri.html
    private static func escaped(_ path: String) -> String {
        path.replacing("%", with: "%25").replacing("?", with: "%3f").replacing("#", with: "%23")
    }

    /// The whole database as the bytes of its file: sqlite3_serialize().
    func serialized() throws(DatabaseError) -> [UInt8] {
        var size: sqlite3_int64 = 0
        guard let bytes = sqlite3_serialize(connection, "main", &size, 0) else {
            throw DatabaseError(code: SQLITE_NOMEM, message: "out of memory")
        }
        defer { sqlite3_free(bytes) }
        return Array(UnsafeBufferPointer(start: bytes, count: Int(size)))
    }

    /// The connection's last error.
    fileprivate func error() -> DatabaseError {
        DatabaseError(code: sqlite3_extended_errcode(connection), message: String(cString: sqlite3_errmsg(connection)))
    }

    /// Runs statements that have no parameters.
    func execute(_ sql: String) throws(DatabaseError) {
        guard sqlite3_exec(connection, sql, nil, nil, nil) == SQLITE_OK else { throw error() }
    }

    /// Compiles a statement that will be run several times.
    func prepare(_ sql: String) throws(DatabaseError) -> Statement {
        var statement: OpaquePointer?
        guard sqlite3_prepare_v2(connection, sql, -1, &statement, nil) == SQLITE_OK, let statement else {
            throw error()
        }
        return Statement(statement, self)
    }

    /// Runs a statement.
    func run(_ sql: String, _ parameters: [(any DatabaseValue)?] = []) throws(DatabaseError) {
        try prepare(sql).run(parameters)
    }

    /// Makes a value from each row of a statement, in order.
    func rows<T>(_ sql: String, _ parameters: [(any DatabaseValue)?] = [], _ make: (Row) throws -> T) throws -> [T] {
        try prepare(sql).rows(parameters, make)
    }

    /// The first column of the first row; `nil` if there is no row or the column is NULL.
    func value<T: DatabaseValue>(
        _ type: T.Type, _ sql: String, _ parameters: [(any DatabaseValue)?] = []
    ) throws -> T? {
        try rows(sql, parameters) { try $0.optional(0, as: type) }.first ?? nil
    }

    /// The number of rows that the last statement changed.
    var changeCount: Int { Int(sqlite3_changes(connection)) }

    var lastInsertedRowID: Int64 { sqlite3_last_insert_rowid(connection) }

    enum Transaction: String {
        /// Sees one state of the database until its end.
        case read = "BEGIN DEFERRED"
        /// Waits for other writers at its beginning, and not in its middle.
        case write = "BEGIN IMMEDIATE"
    }

    /// Runs `body` in a transaction, which is rolled back if `body` throws.
    func transaction<T>(_ kind: Transaction, _ body: (Database) throws -> T) throws -> T {
        try execute(kind.rawValue)
        do {
            let result = try body(self)
            try execute("COMMIT")
            return result
        } catch {
            // After some errors SQLite has already rolled back, and this fails.
            try? execute("ROLLBACK")
            throw error
        }
    }
}

/// A compiled statement of a ``Database``.
final class Statement {
    private let statement: OpaquePointer
    private let database: Database

    fileprivate init(_ statement: OpaquePointer, _ database: Database) {
        self.statement = statement
        self.database = database
    }

    deinit {
        sqlite3_finalize(statement)
    }

    /// Runs the statement.
    func run(_ parameters: [(any DatabaseValue)?] = []) throws(DatabaseError) {
        defer { sqlite3_reset(statement) }
        try bind(parameters)
        while try step() {}
    }

    /// Makes a value from each row, in order.
    func rows<T>(_ parameters: [(any DatabaseValue)?] = [], _ make: (Row) throws -> T) throws -> [T] {
        defer { sqlite3_reset(statement) }
        try bind(parameters)
        var made: [T] = []
        while try step() { made.append(try make(Row(statement: statement))) }
        return made
    }

    private func bind(_ parameters: [(any DatabaseValue)?]) throws(DatabaseError) {
        for (index, value) in parameters.enumerated() {
            let number = Int32(index + 1)
            let code = value?.bind(to: statement, number) ?? sqlite3_bind_null(statement, number)
            guard code == SQLITE_OK else { throw database.error() }
        }
    }

    /// - Returns: whether there is a row.
    private func step() throws(DatabaseError) -> Bool {
        switch sqlite3_step(statement) {
        case SQLITE_ROW: true
        case SQLITE_DONE: false
        default: throw database.error()
        }
    }
}

/// A row of a running statement. It is valid until the next row.
struct Row {
    fileprivate let statement: OpaquePointer

    /// The value of a column.
    ///
    /// - Throws: ``DatabaseError/corrupt`` if it is NULL or cannot be read as `T`.
    func get<T: DatabaseValue>(_ column: Int32, as type: T.Type = T.self) throws(DatabaseError) -> T {
        guard let value = try optional(column, as: type) else { throw .corrupt }
        return value
    }

    /// The value of a column; `nil` if it is NULL.
    func optional<T: DatabaseValue>(_ column: Int32, as type: T.Type = T.self) throws(DatabaseError) -> T? {
        if sqlite3_column_type(statement, column) == SQLITE_NULL { return nil }
        guard let value = T(column: column, of: statement) else { throw .corrupt }
        return value
    }
}

/// An error of SQLite: https://www.sqlite.org/rescode.html
struct DatabaseError: Error {
    /// The extended result code.
    let code: Int32
    let message: String

    var primaryCode: Int32 { code & 0xff }

    /// A column has a value that the registry does not write.
    static let corrupt = DatabaseError(code: SQLITE_CORRUPT, message: "a value is not one that this program writes")
}

/// A type whose values can be in a column.
protocol DatabaseValue {
    /// Reads the column; `nil` if it has a value of another type.
    init?(column: Int32, of statement: OpaquePointer)
    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32
}

extension Int64: DatabaseValue {
    init?(column: Int32, of statement: OpaquePointer) {
        guard sqlite3_column_type(statement, column) == SQLITE_INTEGER else { return nil }
        self = sqlite3_column_int64(statement, column)
    }

    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32 { sqlite3_bind_int64(statement, index, self) }
}

extension DatabaseValue where Self: FixedWidthInteger {
    init?(column: Int32, of statement: OpaquePointer) {
        guard let value = Int64(column: column, of: statement) else { return nil }
        self.init(exactly: value)
    }

    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32 { Int64(self).bind(to: statement, index) }
}

extension Int: DatabaseValue {}
extension Int32: DatabaseValue {}
extension UInt32: DatabaseValue {}

/// Stored as a signed number with the same 64 bits, because SQLite has no unsigned ones.
extension UInt64: DatabaseValue {
    init?(column: Int32, of statement: OpaquePointer) {
        guard let value = Int64(column: column, of: statement) else { return nil }
        self.init(bitPattern: value)
    }

    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32 {
        Int64(bitPattern: self).bind(to: statement, index)
    }
}

/// Stored as 0 or 1.
extension Bool: DatabaseValue {
    init?(column: Int32, of statement: OpaquePointer) {
        guard let value = Int64(column: column, of: statement) else { return nil }
        self = value != 0
    }

    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32 {
        (self ? 1 : 0 as Int64).bind(to: statement, index)
    }
}

extension String: DatabaseValue {
    init?(column: Int32, of statement: OpaquePointer) {
        guard sqlite3_column_type(statement, column) == SQLITE_TEXT, let text = sqlite3_column_text(statement, column)
        else { return nil }
        let count = Int(sqlite3_column_bytes(statement, column))
        self = String(decoding: UnsafeBufferPointer(start: text, count: count), as: UTF8.self)
    }

    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32 {
        vip_sqlite_bind_text(statement, index, self, Int32(utf8.count))
    }
}

/// Stored as a BLOB.
extension [UInt8]: DatabaseValue {
    init?(column: Int32, of statement: OpaquePointer) {
        guard sqlite3_column_type(statement, column) == SQLITE_BLOB else { return nil }
        let bytes = sqlite3_column_blob(statement, column)
        self = Array(UnsafeRawBufferPointer(start: bytes, count: Int(sqlite3_column_bytes(statement, column))))
    }

    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32 {
        // An empty array has no address, which would be NULL.
        withUnsafeBytes { bytes in
            bytes.isEmpty
                ? sqlite3_bind_zeroblob(statement, index, 0)
                : vip_sqlite_bind_blob(statement, index, bytes.baseAddress, Int32(bytes.count))
        }
    }
}
