// SPDX-License-Identifier: Apache-2.0

import Foundation
import GRDB
import Host
import Network

// Addresses that come and go while their session stays open.

extension Registry {
    static let createUnsettledAddresses = """
        ALTER TABLE addresses ADD COLUMN lease_slot INTEGER;   -- NULL: not leased
        CREATE TABLE unsettled_addresses (    -- being given to an open session, or taken from it
            address TEXT PRIMARY KEY REFERENCES addresses (address) ON DELETE CASCADE
        ) STRICT, WITHOUT ROWID;
        """

    /// Registers another address of a session, as one that is being given: ``settle(_:)`` ends that.
    ///
    /// - Throws: ``Failure`` where another session has it.
    func add(_ address: SessionRecord.Address, to session: UInt32, at now: Moment) throws(Failure) {
        let what = "register \(address.address) of session \(session)"
        try write(what) { db in
            let text = address.address.description
            if let owner = try UInt32.fetchOne(
                db, sql: "SELECT session_id FROM addresses WHERE address = ?", arguments: [text])
            {
                throw Failure(.failed, what, "it is session \(owner)'s", hint: "choose another address")
            }
            try db.execute(sql: Self.insertAddress, arguments: Self.row(address, of: session))
            try db.execute(sql: "INSERT INTO unsettled_addresses (address) VALUES (?)", arguments: [text])
            try db.execute(
                sql: """
                    INSERT INTO address_history (session_number, address, interface, from_pool, started_at, started_boot,
                        started_uptime)
                    SELECT number, ?, ?, ?, ?, ?, ? FROM session_history WHERE session_id = ? AND closed_at IS NULL
                    """,
                arguments: [
                    text, address.interface, address.fromPool, now.date.formatted(.iso8601), now.bootID, now.uptime,
                    Int64(session),
                ])
        }
    }

    /// Notes that an address is being taken from its session, which stays open.
    func beginTaking(_ address: IPAddress) throws(Failure) {
        try write("note that \(address) is taken") { db in
            try db.execute(
                sql: "INSERT OR IGNORE INTO unsettled_addresses (address) VALUES (?)", arguments: [address.description])
        }
    }

    /// Everything of an address is in place.
    func settle(_ address: IPAddress) throws(Failure) {
        try write("note that \(address) is given") { db in
            try db.execute(
                sql: "DELETE FROM unsettled_addresses WHERE address = ?", arguments: [address.description])
        }
    }

    /// Forgets an address of a session that stays open, but for the history.
    func remove(
        _ address: IPAddress, from session: UInt32, because ending: SessionEnding, at now: Moment
    ) throws(Failure) {
        try write("take \(address) from session \(session)") { db in
            let text = address.description
            let time = now.date.formatted(.iso8601)
            // Of one that was not given, it was nobody's.
            if ending != .notOpened {
                try Self.noteReleased(address, of: session, at: (time, now.bootID, now.uptime), db)
            }
            try db.execute(
                sql: "DELETE FROM addresses WHERE address = ? AND session_id = ?", arguments: [text, Int64(session)])
            let ofSession = """
                address = ? AND ended_at IS NULL AND session_number IN
                    (SELECT number FROM session_history WHERE session_id = ? AND closed_at IS NULL)
                """
            guard ending != .notOpened else {
                return try db.execute(
                    sql: "DELETE FROM address_history WHERE \(ofSession)", arguments: [text, Int64(session)])
            }
            try db.execute(
                sql: """
                    UPDATE address_history SET ended_at = ?, ended_boot = ?, ended_uptime = ?, ending = ?
                    WHERE \(ofSession)
                    """, arguments: [time, now.bootID, now.uptime, ending.rawValue, text, Int64(session)])
        }
    }

    /// The addresses that were being given or taken, and whose they are.
    func unsettledAddresses() throws(Failure) -> [(session: UInt32, address: IPAddress)] {
        try read { db in
            try Row.fetchAll(
                db, sql: "SELECT session_id, address FROM addresses JOIN unsettled_addresses USING (address)"
            ).map { row in
                guard let address = IPAddress(try row.decode(String.self, atIndex: 1)) else {
                    throw DatabaseError(resultCode: .SQLITE_CORRUPT)
                }
                return (try row.decode(atIndex: 0), address)
            }
        }
    }
}
