// SPDX-License-Identifier: Apache-2.0

import Host
import Network

// Addresses that are given and taken while their session stays open.

extension Registry {
    /// Registers another address of a session as one that is being given, until ``settle(_:)``.
    ///
    /// - Throws: ``Failure`` if another session has it.
    func add(_ address: SessionRecord.Address, to session: UInt32, at now: Moment) throws(Failure) {
        let what = "register \(address.address) of session \(session)"
        try write(what) { db in
            if let owner = try db.value(
                UInt32.self, "SELECT session_id FROM addresses WHERE address = ?", [address.address])
            {
                throw Failure(.failed, what, "it belongs to session \(owner)", hint: "choose another address")
            }
            try db.run(Self.insertAddress, Self.row(address, of: session))
            try db.run("INSERT INTO unsettled_addresses (address) VALUES (?)", [address.address])
            try db.run(
                """
                INSERT INTO address_history (session_number, address, interface, from_pool, started_at, started_boot,
                    started_uptime)
                SELECT number, ?, ?, ?, ?, ?, ? FROM session_history WHERE session_id = ? AND closed_at IS NULL
                """,
                [
                    address.address, address.interface, address.fromPool, now.date, now.bootID, now.uptime, session,
                ])
        }
    }

    /// Notes that an address is being taken from its session, which stays open.
    func beginTaking(_ address: IPAddress) throws(Failure) {
        try write("note that \(address) is taken") { db in
            try db.run(
                "INSERT OR IGNORE INTO unsettled_addresses (address) VALUES (?)", [address])
        }
    }

    /// Notes that an address is completely in place.
    func settle(_ address: IPAddress) throws(Failure) {
        try write("note that \(address) is given") { db in
            try db.run(
                "DELETE FROM unsettled_addresses WHERE address = ?", [address])
        }
    }

    /// Removes an address of a session that stays open. Only the history keeps it.
    func remove(
        _ address: IPAddress, from session: UInt32, because ending: SessionEnding, at now: Moment
    ) throws(Failure) {
        try write("take \(address) from session \(session)") { db in
            // An address that was never completely given had no user.
            if ending != .notOpened {
                try Self.noteReleased(address, of: session, at: now, db)
            }
            try db.run(
                "DELETE FROM addresses WHERE address = ? AND session_id = ?", [address, session])
            let ofSession = """
                address = ? AND ended_at IS NULL AND session_number IN
                    (SELECT number FROM session_history WHERE session_id = ? AND closed_at IS NULL)
                """
            guard ending != .notOpened else {
                return try db.run(
                    "DELETE FROM address_history WHERE \(ofSession)", [address, session])
            }
            try db.run(
                """
                UPDATE address_history SET ended_at = ?, ended_boot = ?, ended_uptime = ?, ending = ?
                WHERE \(ofSession)
                """, [now.date, now.bootID, now.uptime, ending.rawValue, address, session])
        }
    }

    /// The addresses that were being given or taken, and their sessions.
    func unsettledAddresses() throws(Failure) -> [(session: UInt32, address: IPAddress)] {
        try read { db in
            try db.rows("SELECT session_id, address FROM addresses JOIN unsettled_addresses USING (address)") { row in
                (session: try row.get(0, as: UInt32.self), address: try row.get(1, as: IPAddress.self))
            }
        }
    }
}
