// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Host
import Network

// Addresses that sessions had before. The pool uses them.

/// An address as a key in numerical order: a byte 4 or 6, and the address in network order.
private struct AddressKey: DatabaseValue {
    let address: IPAddress

    init(_ address: IPAddress) { self.address = address }

    init?(column: Int32, of statement: OpaquePointer) {
        guard let bytes = [UInt8](column: column, of: statement), let address = IPAddress(bytes: bytes.dropFirst())
        else {
            return nil
        }
        self.address = address
    }

    func bind(to statement: OpaquePointer, _ index: Int32) -> Int32 {
        ([address.family == .v4 ? 4 : 6] + address.bytes).bind(to: statement, index)
    }
}

extension Registry {
    /// Notes which addresses become free. Call it in the transaction that removes the sessions, before the removal.
    static func noteReleased(_ ended: [(id: UInt32, ending: SessionEnding)], at now: Moment, _ db: Database) throws {
        let select = try db.prepare(
            """
            SELECT address, user FROM addresses JOIN sessions ON sessions.id = session_id WHERE session_id = ?
            """)
        let insert = try db.prepare(
            """
            INSERT OR REPLACE INTO former_addresses (key, user, released_at, released_boot, released_uptime)
            VALUES (?, ?, ?, ?, ?)
            """)
        let boot = now.boot
        // The address of a session that was not opened had no user.
        for (id, ending) in ended where ending != .notOpened {
            let end = ending == .earlierBoot ? boot : now
            let released = try select.rows([id]) { row in
                (address: try row.get(0, as: IPAddress.self), user: try row.optional(1, as: String.self))
            }
            for (address, user) in released {
                try insert.run([AddressKey(address), user, end.date, now.bootID, end.uptime])
            }
        }
    }

    /// Notes that an address of a session becomes free. Call it in the transaction that removes it, before the removal.
    static func noteReleased(
        _ address: IPAddress, of session: UInt32, at now: Moment, _ db: Database
    ) throws {
        try db.run(
            """
            INSERT OR REPLACE INTO former_addresses (key, user, released_at, released_boot, released_uptime)
            SELECT ?, user, ?, ?, ? FROM addresses JOIN sessions ON id = session_id WHERE id = ? AND address = ?
            """,
            [AddressKey(address), now.date, now.bootID, now.uptime, session, address])
    }

    /// The former addresses of a user, the last one first.
    func formerAddresses(of user: String?) throws(Failure) -> [FormerAddress] {
        try former("WHERE user IS ? ORDER BY number DESC", [user])
    }

    /// The former addresses of a family, the first that became free first.
    func formerAddressesByRelease(_ family: IPAddress.Family) throws(Failure) -> [FormerAddress] {
        try former("WHERE \(Self.isOf(family)) ORDER BY number", [])
    }

    /// The last use of an address that is free now; `nil` if none is known.
    func formerAddress(_ address: IPAddress) throws(Failure) -> FormerAddress? {
        try former("WHERE key = ?", [AddressKey(address)]).first
    }

    /// The free addresses of a family whose last use is known.
    func formerAddresses(_ family: IPAddress.Family) throws(Failure) -> Set<IPAddress> {
        try read { db in
            Set(
                try db.rows("SELECT key FROM former_addresses WHERE \(Self.isOf(family))") { row in
                    try row.get(0, as: AddressKey.self).address
                })
        }
    }

    private static func isOf(_ family: IPAddress.Family) -> String {
        family == .v4 ? "key < x'05'" : "key >= x'06'"
    }

    private func former(_ clause: String, _ parameters: [(any DatabaseValue)?]) throws(Failure) -> [FormerAddress] {
        try read { db in
            try db.rows(
                "SELECT key, user, released_at, released_boot, released_uptime FROM former_addresses \(clause)",
                parameters
            ) { row in
                FormerAddress(
                    address: try row.get(0, as: AddressKey.self).address, user: try row.optional(1),
                    released: Moment(date: try row.get(2), bootID: try row.get(3), uptime: try row.optional(4)))
            }
        }
    }
}
