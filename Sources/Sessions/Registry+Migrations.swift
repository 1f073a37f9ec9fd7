// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Policy

extension Registry {
    /// Each function makes a version of the tables from the one before it, the first one from nothing.
    static let migrations: [@Sendable (Database) throws -> Void] = [
        { try $0.execute(createSessions) },
        { try $0.execute(createHistory) },
        { try $0.execute(createFormerAddresses) },
        { try $0.execute(createUnsettledAddresses) },
        keepPoliciesAsJSON,
    ]

    private static let createSessions = """
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
        """

    private static let createHistory = """
        CREATE TABLE session_history (
            number INTEGER PRIMARY KEY,
            session_id INTEGER NOT NULL,
            user TEXT,
            policy TEXT,
            cgroup_path BLOB NOT NULL,
            cgroup_id INTEGER NOT NULL,
            keeper TEXT NOT NULL,
            opened_at TEXT NOT NULL,          -- RFC 3339, UTC
            opened_boot TEXT NOT NULL,
            opened_uptime INTEGER,            -- CLOCK_BOOTTIME in milliseconds
            closed_at TEXT,                   -- NULL: it is open
            closed_boot TEXT,
            closed_uptime INTEGER,
            ending TEXT,
            CHECK ((closed_at IS NULL) = (ending IS NULL))
        ) STRICT;
        CREATE INDEX session_history_by_id ON session_history (session_id);
        CREATE INDEX session_history_not_closed ON session_history (session_id) WHERE closed_at IS NULL;
        CREATE INDEX session_history_by_end ON session_history (closed_at) WHERE closed_at IS NOT NULL;
        CREATE TABLE address_history (
            session_number INTEGER NOT NULL REFERENCES session_history (number) ON DELETE CASCADE,
            address TEXT NOT NULL,
            interface TEXT NOT NULL,
            from_pool INTEGER NOT NULL,
            started_at TEXT NOT NULL,
            started_boot TEXT NOT NULL,
            started_uptime INTEGER,
            ended_at TEXT,
            ended_boot TEXT,
            ended_uptime INTEGER,
            ending TEXT,
            CHECK ((ended_at IS NULL) = (ending IS NULL))
        ) STRICT;
        CREATE INDEX address_history_by_session ON address_history (session_number);
        CREATE INDEX address_history_by_address ON address_history (address);
        INSERT INTO session_history (session_id, user, policy, cgroup_path, cgroup_id, keeper, opened_at, opened_boot)
            SELECT id, user, policy, cgroup_path, cgroup_id, keeper, opened_at, boot_id FROM sessions ORDER BY id;
        INSERT INTO address_history (session_number, address, interface, from_pool, started_at, started_boot)
            SELECT number, address, interface, from_pool, opened_at, opened_boot
            FROM addresses JOIN session_history USING (session_id);
        """

    private static let createFormerAddresses = """
        CREATE TABLE former_addresses (
            number INTEGER PRIMARY KEY,       -- rises with each release
            key BLOB NOT NULL UNIQUE,         -- 4 or 6, and the address in network order
            user TEXT,
            released_at TEXT NOT NULL,
            released_boot TEXT NOT NULL,
            released_uptime INTEGER
        ) STRICT;
        CREATE INDEX former_addresses_by_user ON former_addresses (user, number);
        CREATE INDEX former_addresses_by_release ON former_addresses (released_at);
        """

    private static let createUnsettledAddresses = """
        ALTER TABLE addresses ADD COLUMN lease_slot INTEGER;   -- NULL: not leased
        CREATE TABLE unsettled_addresses (    -- being given to an open session, or taken from it
            address TEXT PRIMARY KEY REFERENCES addresses (address) ON DELETE CASCADE
        ) STRICT, WITHOUT ROWID;
        """

    /// Up to version 4, policies were kept as the text of a policy file: `policy`, and `pending_policy` after a line
    /// with its generation. Besides `PRAGMA user_version`, a library kept a table of migrations of its own.
    ///
    /// A text that cannot be read is left: each reader of the policy reports it, and `policy apply` replaces it.
    private static func keepPoliciesAsJSON(_ database: Database) throws {
        try database.execute("DROP TABLE IF EXISTS grdb_migrations")
        let settings = try database.rows("SELECT key, value FROM settings WHERE key IN ('policy', 'pending_policy')") {
            (key: try $0.get(0, as: String.self), text: try $0.get(1, as: String.self))
        }
        for (key, text) in settings {
            let json: String?
            if key == Setting.policy.rawValue {
                json = try (try? Policy.read(yaml: text, file: key)).map(Self.json)
            } else {
                let parts = text.split(separator: "\n", maxSplits: 1, omittingEmptySubsequences: false)
                guard parts.count == 2, let generation = UInt32(parts[0]),
                    let policy = try? Policy.read(yaml: String(parts[1]), file: key)
                else { continue }
                json = try Self.json(PendingPolicy(generation: generation, policy: policy))
            }
            guard let json else { continue }
            try database.run("UPDATE settings SET value = ? WHERE key = ?", [json, key])
        }
    }
}
