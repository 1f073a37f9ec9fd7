// SPDX-License-Identifier: Apache-2.0

import CSQLite
public import Host
public import Network
public import SystemPackage

extension Registry {
    /// Registers a session and its addresses in the state of the record, usually `opening`.
    ///
    /// - Throws: ``Failure`` if the ID, the cgroup or an address is another session's. It names that session.
    public func open(_ record: SessionRecord) throws(Failure) {
        try open([record])
    }

    /// Registers all of the sessions, or none.
    ///
    /// - Parameter now: the time for the history; `nil` for the present time.
    /// - Throws: ``Failure`` as ``open(_:)-(SessionRecord)``, for the first that cannot be registered.
    public func open(_ records: [SessionRecord], at now: Moment? = nil) throws(Failure) {
        try write("register \(Self.name(records.map(\.id)))") { db in
            let sessions = try db.prepare(
                """
                INSERT INTO sessions (id, cgroup_path, cgroup_id, cgroup_level, user, policy, boot_id, opened_at, state,
                    created_cgroup, keeper, keeper_pid, keeper_started) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """)
            let addresses = try db.prepare(
                Self.insertAddress)
            for record in records {
                do {
                    try sessions.run([
                        record.id, record.cgroupPath, record.cgroupID,
                        record.cgroupLevel, record.user, record.policy, record.bootID, record.openedAt,
                        record.state.rawValue, record.createdCgroup, record.keeper.rawValue,
                        record.keeperProcess?.pid, record.keeperProcess?.startTime,
                    ])
                    for address in record.addresses {
                        try addresses.run(Self.row(address, of: record.id))
                    }
                } catch let error as DatabaseError where error.primaryCode == SQLITE_CONSTRAINT {
                    throw try Self.conflict(of: record, db) ?? error
                }
            }
            guard let bootID = records.first?.bootID else { return }
            let now = now ?? .now(bootID: bootID)
            try Self.noteOpened(records, uptime: now.uptime ?? Moment.uptime(), db)
            try Self.prune(db, at: now, limit: Self.pruneLimit)
        }
    }

    /// Sets the state of sessions to `open`.
    ///
    /// - Throws: ``Failure`` if one is not registered; nothing is changed then.
    public func markOpen(_ ids: [UInt32]) throws(Failure) {
        try setState(.open, ids)
    }

    /// Sets the state of sessions to `closing`.
    ///
    /// - Throws: ``Failure`` as ``markOpen(_:)``.
    public func beginClose(_ ids: [UInt32]) throws(Failure) {
        try setState(.closing, ids)
    }

    /// Removes sessions and their addresses. Only the history keeps them. It is no error if one is not registered.
    ///
    /// - Parameters:
    ///   - ended: the sessions, and why each of them ends.
    ///   - now: the time of their end.
    public func remove(_ ended: [(id: UInt32, ending: SessionEnding)], at now: Moment) throws(Failure) {
        try write("remove \(Self.name(ended.map(\.id)))") { db in
            try Self.noteReleased(ended, at: now, db)
            let delete = try db.prepare("DELETE FROM sessions WHERE id = ?")
            for (id, _) in ended { try delete.run([id]) }
            try Self.noteClosed(ended, at: now, db)
            try Self.prune(db, at: now, limit: Self.pruneLimit + ended.count)
        }
    }

    /// Records the interfaces of addresses after interfaces were renamed.
    public func setInterface(_ interfaces: [IPAddress: String]) throws(Failure) {
        try write("register addresses") { db in
            let update = try db.prepare("UPDATE addresses SET interface = ? WHERE address = ?")
            for (address, interface) in interfaces {
                try update.run([interface, address])
            }
        }
    }

    /// All sessions by ascending ID.
    public func sessions() throws(Failure) -> [SessionRecord] {
        try sessions(where: "TRUE", [])
    }

    /// The sessions that a command may have to repair, by ascending ID: not open, of another boot, or made by `run`.
    func unsettledSessions(bootID: String) throws(Failure) -> [SessionRecord] {
        try sessions(
            where: "state <> 'open' OR boot_id <> ? OR keeper = ?", [bootID, SessionRecord.Keeper.run.rawValue])
    }

    /// The depths of the cgroups of a boot's sessions, without some sessions. Ascending.
    func levels(bootID: String, without ids: [UInt32] = []) throws(Failure) -> [UInt32] {
        // Usually one or a few sessions are closed; for very many, filtering here costs no more than in SQL.
        let leftOut = Set(ids)
        return try read { db in
            if leftOut.isEmpty {
                return try db.rows(
                    "SELECT DISTINCT cgroup_level FROM sessions WHERE boot_id = ? ORDER BY 1", [bootID]
                ) { try $0.get(0) }
            }
            let all = try db.rows("SELECT id, cgroup_level FROM sessions WHERE boot_id = ?", [bootID]) { row in
                (id: try row.get(0, as: UInt32.self), level: try row.get(1, as: UInt32.self))
            }
            return Set(all.filter { !leftOut.contains($0.id) }.map(\.level)).sorted()
        }
    }

    private func sessions(
        where condition: String, _ parameters: [(any DatabaseValue)?]
    ) throws(Failure) -> [SessionRecord] {
        try read { db in
            let addresses = try db.rows(
                "\(Self.selectAddresses) WHERE session_id IN (SELECT id FROM sessions WHERE \(condition))", parameters,
                Self.address)
            let ofSession = Dictionary(grouping: addresses, by: \.session).mapValues { $0.map(\.address) }
            return try db.rows("\(Self.selectSessions) WHERE \(condition) ORDER BY id", parameters) { row in
                try Self.record(row) { ofSession[$0] ?? [] }
            }
        }
    }

    /// The session with an ID, or `nil`.
    public func session(id: UInt32) throws(Failure) -> SessionRecord? {
        try one("id = ?", [id])
    }

    /// The session of a cgroup, by the cgroup's ID in this boot, or `nil`.
    public func session(cgroupID: UInt64, bootID: String) throws(Failure) -> SessionRecord? {
        try one("cgroup_id = ? AND boot_id = ?", [cgroupID, bootID])
    }

    /// The session that has an address, or `nil`.
    public func session(address: IPAddress) throws(Failure) -> SessionRecord? {
        try one("id = (SELECT session_id FROM addresses WHERE address = ?)", [address])
    }

    /// The IDs in use, in any state.
    public func usedIDs() throws(Failure) -> Set<UInt32> {
        try read { db in Set(try db.rows("SELECT id FROM sessions") { try $0.get(0) }) }
    }

    /// The addresses in use and their sessions, in any state.
    public func usedAddresses() throws(Failure) -> [IPAddress: UInt32] {
        try read { db in
            let used = try db.rows("SELECT address, session_id FROM addresses") { row in
                (try row.get(0, as: IPAddress.self), try row.get(1, as: UInt32.self))
            }
            return Dictionary(used) { first, _ in first }
        }
    }

    /// The addresses of sessions that the route of a whole prefix makes local.
    func prefixAddresses() throws(Failure) -> [IPAddress] {
        try read { db in try db.rows("SELECT address FROM addresses WHERE NOT placed") { try $0.get(0) } }
    }

    /// The cgroups of this boot's sessions, for claims.
    ///
    /// - Parameter path: a cgroup to claim. Only the sessions that may conflict with it, at, above or below it, are
    ///   read then.
    public func cgroupClaims(bootID: String, around path: FilePath? = nil) throws(Failure) -> CgroupClaims {
        var sql = "SELECT id, cgroup_path FROM sessions WHERE boot_id = ?"
        var parameters: [(any DatabaseValue)?] = [bootID]
        if var path {
            // Paths below it begin with the path and "/"; the next character is "0".
            let below = path.components.isEmpty ? [] : path.bytes
            var above: [FilePath] = []
            repeat { above.append(path) } while path.removeLastComponent()
            let places = repeatElement("?", count: above.count).joined(separator: ", ")
            sql += " AND (cgroup_path IN (\(places)) OR cgroup_path > ? AND cgroup_path < ?)"
            parameters += above
            parameters += [below + Array("/".utf8), below + Array("0".utf8)]
        }
        let rows = try read { [sql, parameters] db in
            try db.rows(sql, parameters) { row in
                (id: try row.get(0, as: UInt32.self), path: try row.get(1, as: FilePath.self))
            }
        }
        var claims = CgroupClaims()
        for row in rows { try claims.claim(row.path, session: row.id) }
        return claims
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

    /// The parameters of ``insertAddress``. `placed` is 1 for an address of an interface, 2 for one with a route of its
    /// own, and 0 for one that the route of a prefix makes local.
    static func row(_ address: SessionRecord.Address, of session: UInt32) -> [(any DatabaseValue)?] {
        let placed: UInt32 =
            switch address.form {
            case _ where !address.placed: 0
            case .address: 1
            case .route: 2
            }
        return [address.address, session, address.interface, placed, address.fromPool, address.leaseSlot]
    }

    /// Reads a row of ``selectSessions``.
    private static func record(
        _ row: Row, addresses: (UInt32) throws -> [SessionRecord.Address]
    ) throws -> SessionRecord {
        let id: UInt32 = try row.get(0)
        guard let state = SessionRecord.State(rawValue: try row.get(8)) else { throw DatabaseError.corrupt }
        var process: ProcessIdentity?
        if let pid: Int32 = try row.optional(11), let started: UInt64 = try row.optional(12) {
            process = ProcessIdentity(pid: pid, startTime: started)
        }
        return SessionRecord(
            id: id, cgroupPath: try row.get(1), cgroupID: try row.get(2), cgroupLevel: try row.get(3),
            user: try row.optional(4), policy: try row.optional(5), bootID: try row.get(6), openedAt: try row.get(7),
            state: state, createdCgroup: try row.get(9), keeper: SessionRecord.Keeper(rawValue: try row.get(10)),
            keeperProcess: process, addresses: try addresses(id).sorted { $0.address < $1.address })
    }

    /// Reads a row of ``selectAddresses``.
    private static func address(_ row: Row) throws -> (session: UInt32, address: SessionRecord.Address) {
        let placed: UInt32 = try row.get(3)
        let address = SessionRecord.Address(
            try row.get(1), interface: try row.get(2), form: placed == 2 ? .route : .address, placed: placed != 0,
            fromPool: try row.get(4), leaseSlot: try row.optional(5))
        return (try row.get(0), address)
    }

    private func one(
        _ condition: String, _ parameters: [(any DatabaseValue)?]
    ) throws(Failure) -> SessionRecord? {
        try read { db in
            try db.rows("\(Self.selectSessions) WHERE \(condition)", parameters) { row in
                try Self.record(row) { id in
                    try db.rows("\(Self.selectAddresses) WHERE session_id = ?", [id], Self.address).map(\.address)
                }
            }.first
        }
    }

    private func setState(_ state: SessionRecord.State, _ ids: [UInt32]) throws(Failure) {
        let what = "mark \(Self.name(ids)) as \(state.rawValue)"
        try write(what) { db in
            let update = try db.prepare("UPDATE sessions SET state = ? WHERE id = ?")
            for id in ids {
                try update.run([state.rawValue, id])
                guard db.changeCount == 1 else {
                    throw Failure(.failed, what, "there is no session \(id)", hint: "see session list")
                }
            }
        }
    }

    /// The error for the row that conflicts with a record.
    private static func conflict(of record: SessionRecord, _ db: Database) throws -> Failure? {
        let what = "register session \(record.id)"
        let taken = try db.value(FilePath.self, "SELECT cgroup_path FROM sessions WHERE id = ?", [record.id])
        // If an address was the conflict, the record's own row is already there.
        let isOwn = try db.value(
            Bool.self, "SELECT EXISTS (SELECT 1 FROM sessions WHERE id = ? AND cgroup_id = ? AND boot_id = ?)",
            [record.id, record.cgroupID, record.bootID])
        if let taken, isOwn != true {
            return Failure(
                .failed, what, "the ID is taken, by cgroup \(taken)",
                hint: "choose another one, or close session \(record.id)")
        }
        let owner = try db.value(
            UInt32.self, "SELECT id FROM sessions WHERE cgroup_id = ? AND boot_id = ? AND id <> ?",
            [record.cgroupID, record.bootID, record.id])
        if let owner {
            return Failure(
                .failed, what, "cgroup \(record.cgroupPath) is session \(owner) already",
                hint: "close session \(owner) first")
        }
        for address in record.addresses {
            let owner = try db.value(
                UInt32.self, "SELECT session_id FROM addresses WHERE address = ?", [address.address])
            if let owner, owner != record.id {
                return Failure(
                    .failed, what, "\(address.address) belongs to session \(owner)",
                    hint: "choose another address, or close session \(owner)")
            }
        }
        if taken != nil {
            return Failure(.failed, what, "it is registered already", hint: "close session \(record.id) first")
        }
        return nil
    }

    private static func name(_ ids: [UInt32]) -> String {
        ids.count == 1 ? "session \(ids[0])" : "\(ids.count) sessions"
    }
}
