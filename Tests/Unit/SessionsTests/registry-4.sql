-- SPDX-License-Identifier: Apache-2.0
-- A registry of version 4, as sqlite3 .dump writes it: one session open, one closed, a policy in force.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
PRAGMA application_id = 1986621523;
PRAGMA user_version = 4;
CREATE TABLE grdb_migrations (identifier TEXT NOT NULL PRIMARY KEY);
INSERT INTO grdb_migrations VALUES('1');
INSERT INTO grdb_migrations VALUES('2');
INSERT INTO grdb_migrations VALUES('3');
INSERT INTO grdb_migrations VALUES('4');
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
INSERT INTO sessions VALUES(3,X'2f7379732f66732f6367726f75702f756e69666965642f7669702d706f6c6963792d6669782f62',10323,2,NULL,'call centre','fe6f36d5-7b4f-44da-a097-819afe83e5bf','2026-11-25T17:34:45Z','open',0,'command',NULL,NULL);
CREATE TABLE addresses (
    address TEXT PRIMARY KEY,         -- as inet_ntop(3) writes it
    session_id INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    interface TEXT NOT NULL,
    placed INTEGER NOT NULL,
    from_pool INTEGER NOT NULL
, lease_slot INTEGER) STRICT, WITHOUT ROWID;
INSERT INTO addresses VALUES('10.20.0.10',3,'lo',1,1,NULL);
INSERT INTO addresses VALUES('2001:db8:20::2',3,'lo',1,1,NULL);
CREATE TABLE attachments (
    path BLOB PRIMARY KEY,
    cgroup_id INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO attachments VALUES(X'2f7379732f66732f6367726f75702f756e69666965642f7669702d706f6c6963792d666978',10285);
CREATE TABLE settings (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO settings VALUES('history_days','30');
INSERT INTO settings VALUES('loopback_note','fe6f36d5-7b4f-44da-a097-819afe83e5bf 4026533162 0 fdd2:9088:43af::/96');
INSERT INTO settings VALUES('loopback_prefix','fdd2:9088:43af::/96');
INSERT INTO settings VALUES('network','fe6f36d5-7b4f-44da-a097-819afe83e5bf 4026533162');
INSERT INTO settings VALUES('pins','/tmp/policy-fix/bpf/vip');
INSERT INTO settings VALUES('policy',replace('virtualIP:\n  enabled: true\n  mode: perSession\n  programs: []\n  whenUnavailable: useHostAddress\n  addresses:\n    source: pool\n    interface: lo\n    pool: ["10.20.0.10-10.20.0.250", "2001:db8:20::/120"]\n    restSeconds: 5\n    probeSeconds: 1\n    reservations:\n    - user: root\n      addresses: ["10.20.0.50"]\nvirtualLoopback:\n  enabled: true\n  programs: [java, /usr/bin/python3, "*"]\n  excludedPorts: [53, 631]\n  fallback: host\n  prefix: fdd2:9088:43af::/96\npreferLoopback:\n  enabled: false\n  programs: []\nwildcardName: asRequested\nisolation: true\nsessions:\n  unit: userSlice\nhistory:\n  retentionDays: 30\noverrides:\n- name: "call centre"\n  match:\n    users: [ann]\n    groups: [cti]\n    units: ["app-*.slice"]\n  isolation: false\n','\n',char(10)));
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
INSERT INTO session_history VALUES(1,2,'root',NULL,X'2f7379732f66732f6367726f75702f756e69666965642f7669702d706f6c6963792d6669782f61',10304,'command','2026-11-25T17:34:45Z','fe6f36d5-7b4f-44da-a097-819afe83e5bf',1978521,'2026-11-25T17:34:46Z','fe6f36d5-7b4f-44da-a097-819afe83e5bf',1979320,'closed');
INSERT INTO session_history VALUES(2,3,NULL,'call centre',X'2f7379732f66732f6367726f75702f756e69666965642f7669702d706f6c6963792d6669782f62',10323,'command','2026-11-25T17:34:45Z','fe6f36d5-7b4f-44da-a097-819afe83e5bf',1979101,NULL,NULL,NULL,NULL);
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
INSERT INTO address_history VALUES(1,'10.20.0.50','lo',1,'2026-11-25T17:34:45Z','fe6f36d5-7b4f-44da-a097-819afe83e5bf',1978521,'2026-11-25T17:34:46Z','fe6f36d5-7b4f-44da-a097-819afe83e5bf',1979320,'closed');
INSERT INTO address_history VALUES(1,'2001:db8:20::1','lo',1,'2026-11-25T17:34:45Z','fe6f36d5-7b4f-44da-a097-819afe83e5bf',1978521,'2026-11-25T17:34:46Z','fe6f36d5-7b4f-44da-a097-819afe83e5bf',1979320,'closed');
INSERT INTO address_history VALUES(2,'10.20.0.10','lo',1,'2026-11-25T17:34:45Z','fe6f36d5-7b4f-44da-a097-819afe83e5bf',1979101,NULL,NULL,NULL,NULL);
INSERT INTO address_history VALUES(2,'2001:db8:20::2','lo',1,'2026-11-25T17:34:45Z','fe6f36d5-7b4f-44da-a097-819afe83e5bf',1979101,NULL,NULL,NULL,NULL);
CREATE TABLE former_addresses (
    number INTEGER PRIMARY KEY,       -- rises with each release
    key BLOB NOT NULL UNIQUE,         -- 4 or 6, and the address in network order
    user TEXT,
    released_at TEXT NOT NULL,
    released_boot TEXT NOT NULL,
    released_uptime INTEGER
) STRICT;
INSERT INTO former_addresses VALUES(1,X'040a140032','root','2026-11-25T17:34:46Z','fe6f36d5-7b4f-44da-a097-819afe83e5bf',1979320);
INSERT INTO former_addresses VALUES(2,X'0620010db8002000000000000000000001','root','2026-11-25T17:34:46Z','fe6f36d5-7b4f-44da-a097-819afe83e5bf',1979320);
CREATE TABLE unsettled_addresses (    -- being given to an open session, or taken from it
    address TEXT PRIMARY KEY REFERENCES addresses (address) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_cgroup_path ON sessions (cgroup_path);
CREATE INDEX addresses_of_session ON addresses (session_id);
CREATE INDEX session_history_by_id ON session_history (session_id);
CREATE INDEX session_history_not_closed ON session_history (session_id) WHERE closed_at IS NULL;
CREATE INDEX session_history_by_end ON session_history (closed_at) WHERE closed_at IS NOT NULL;
CREATE INDEX address_history_by_session ON address_history (session_number);
CREATE INDEX address_history_by_address ON address_history (address);
CREATE INDEX former_addresses_by_user ON former_addresses (user, number);
CREATE INDEX former_addresses_by_release ON former_addresses (released_at);
COMMIT;
