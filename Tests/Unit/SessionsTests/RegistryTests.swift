// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Network
import Policy
import SystemPackage
import TestSupport
import Testing

@testable import Sessions

@Suite struct RegistryTests {
    let directory: TemporaryDirectory
    let file: FilePath

    init() throws {
        directory = try TemporaryDirectory()
        file = directory.path.appending("registry.sqlite")
    }

    static let boot = "0b0e8a1c-2f6b-4c47-9f3e-5a1d8c7e6f10"

    /// Session `id` with its own cgroup and one IPv4 address.
    static func record(_ id: UInt32, cgroupID: UInt64? = nil, address: String? = nil, boot: String = boot)
        -> SessionRecord
    {
        let ip = address.flatMap { IPAddress($0) } ?? IPAddress(v4: 0x0a00_0000 + id)
        return SessionRecord(
            id: id, cgroupPath: FilePath("/sys/fs/cgroup/s\(id)"), cgroupID: cgroupID ?? UInt64(8000 + id),
            cgroupLevel: 1,
            bootID: boot, addresses: [.init(ip, interface: "eth0", placed: true, fromPool: true)])
    }

    static let full = SessionRecord(
        id: SessionIDs.last, cgroupPath: "/sys/fs/cgroup/user.slice/a b'\"\u{fc}", cgroupID: .max, cgroupLevel: 7,
        user: "ann",
        policy: "callcentre", bootID: boot, openedAt: Date(timeIntervalSince1970: 1_700_000_000.75), state: .opening,
        createdCgroup: true, keeper: .run, keeperProcess: ProcessIdentity(pid: 4711, startTime: .max),
        addresses: [
            .init(IPAddress("10.20.0.17")!, interface: "eth0", placed: true, fromPool: false),
            .init(IPAddress("2001:db8::17")!, interface: "lo", placed: false, fromPool: true),
        ])

    // MARK: Sessions

    @Test func roundTrip() throws {
        let plain = Self.record(7)
        do {
            let registry = try Registry(file, access: .readWrite)
            try registry.open(Self.full)
            try registry.open(plain)
        }
        for access in [Registry.Access.readWrite, .readOnly] {
            let registry = try Registry(file, access: access)
            #expect(try registry.sessions() == [plain, Self.full])
            #expect(try registry.session(id: SessionIDs.last) == Self.full)
            #expect(try registry.session(id: 8) == nil)
            #expect(try registry.session(cgroupID: .max, bootID: Self.boot) == Self.full)
            #expect(try registry.session(cgroupID: .max, bootID: "another") == nil)
            #expect(try registry.session(address: IPAddress("2001:db8::17")!) == Self.full)
            #expect(try registry.usedIDs() == [7, SessionIDs.last])
            #expect(
                try registry.usedAddresses() == [
                    IPAddress("10.20.0.17")!: SessionIDs.last, IPAddress("2001:db8::17")!: SessionIDs.last,
                    IPAddress("10.0.0.7")!: 7,
                ])
            var claims = try registry.cgroupClaims(bootID: Self.boot)
            #expect(throws: Failure.self) { try claims.claim(plain.cgroupPath, session: 9) }
        }
    }

    @Test func pathThatIsNoText() throws {
        let path = FilePath(platformString: [0x2f, 0x61, -1, 0x62, 0])
        let registry = try Registry(file, access: .readWrite)
        try registry.open(SessionRecord(id: 7, cgroupPath: path, cgroupID: 1, cgroupLevel: 1, bootID: Self.boot))
        #expect(try registry.session(id: 7)?.cgroupPath == path)
    }

    @Test func times() throws {
        try Registry(file, access: .readWrite).open(Self.full)
        let text = try Child("sqlite3", file.string, "SELECT opened_at FROM sessions").line()
        #expect(text == "2023-11-14T22:13:20Z")
    }

    /// What another command finds after a crash at each point.
    @Test func aCrashIsSeen() throws {
        func seen() throws -> [SessionRecord.State] { try Registry(file, access: .readOnly).sessions().map(\.state) }
        let registry = try Registry(file, access: .readWrite)
        try registry.open(Self.record(7))
        #expect(try seen() == [.opening])
        try registry.markOpen([7])
        #expect(try seen() == [.open])
        try registry.beginClose([7])
        #expect(try seen() == [.closing])
        #expect(try registry.usedAddresses().count == 1, "an address is free when the session has gone, not before")
        try registry.remove([(7, .closed)], at: .now(bootID: Self.boot))
        #expect(try seen() == [])
        #expect(try registry.usedAddresses() == [:])
        try registry.remove([(7, .closed)], at: .now(bootID: Self.boot))
    }

    /// A writer that is killed during a transaction leaves nothing of it.
    @Test func killedWriter() throws {
        try Registry(file, access: .readWrite).open(Self.record(7))
        let writer = try Child("sqlite3", file.string)
        // With a cache of one page, uncommitted rows are already in the file when it is killed.
        try writer.send(
            """
            PRAGMA cache_size = 1; BEGIN; UPDATE sessions SET state = 'closing';
            WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
                INSERT INTO sessions SELECT i, x'2f', i, 1, NULL, NULL, 'b', '2023-11-14T22:13:20Z', 'open', 0, 'x', NULL, NULL
                FROM n;
            SELECT 'written';

            """)
        #expect(try writer.line() == "written")
        writer.kill()
        #expect(FileManager.default.fileExists(atPath: "\(file)-journal"), "there is something to undo")
        let reader = try failure { _ = try Registry(file, access: .readOnly).sessions() }
        #expect(reader.code == .interruptedWrite && reader.reason.contains("an interrupted write to undo"))
        #expect(try Registry(file, access: .readWrite).sessions().map(\.state) == [.opening])
    }

    @Test("reads back where an address is: on an interface, by a route, or by the route of a prefix")
    func places() throws {
        let registry = try Registry(file, access: .readWrite)
        for (id, form, placed) in [
            (UInt32(7), AddressPlace.Form.address, true), (8, .route, true), (9, .address, false),
        ] {
            var record = Self.record(id, cgroupID: UInt64(id), address: "10.0.0.\(id)")
            record.addresses[0].form = form
            record.addresses[0].placed = placed
            try registry.open(record)
            #expect(try registry.session(id: id)?.addresses == record.addresses)
        }
    }

    @Test(arguments: [
        (record(7, cgroupID: 1, address: "10.9.9.9"), "the ID is taken, by cgroup /sys/fs/cgroup/s7"),
        (record(8, cgroupID: 8007, address: "10.9.9.9"), "cgroup /sys/fs/cgroup/s8 is session 7 already"),
        (record(8, address: "10.0.0.7"), "10.0.0.7 belongs to session 7"),
        (record(7), "it is registered already"),
    ])
    func conflict(record: SessionRecord, why: String) throws {
        let registry = try Registry(file, access: .readWrite)
        try registry.open(Self.record(7))
        let before = try registry.sessions()
        // In a batch, the sessions before it are not registered either.
        let error = try failure { try registry.open([Self.record(20), record, Self.record(21)]) }
        #expect(error.operation == "register session \(record.id)")
        #expect(error.reason == why)
        #expect(try registry.sessions() == before)
    }

    @Test func cgroupOfAnEarlierBoot() throws {
        let registry = try Registry(file, access: .readWrite)
        try registry.open(Self.record(7, boot: "before"))
        try registry.open(Self.record(8, cgroupID: 8007))
        #expect(try registry.session(cgroupID: 8007, bootID: Self.boot)?.id == 8)
    }

    /// With one path it reads less, and gives the same result.
    @Test(
        arguments: [
            "/sys/fs/cgroup/a", "/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a/b/c/d", "/sys/fs/cgroup", "/",
            "/sys/fs/cgroup/a/bc",
            "/sys/fs/cgroup/a-", "/sys/fs/cgroup/x", "/sys/fs/cgroup/old",
        ] as [FilePath])
    func claimsAroundAPath(path: FilePath) throws {
        let registry = try Registry(file, access: .readWrite)
        for (id, path, boot) in [
            (2, "/sys/fs/cgroup/a/b", Self.boot), (3, "/sys/fs/cgroup/x/y", Self.boot),
            (4, "/sys/fs/cgroup/old", "before"),
        ] {
            try registry.open(
                SessionRecord(
                    id: UInt32(id), cgroupPath: FilePath(path), cgroupID: UInt64(id), cgroupLevel: 1, bootID: boot))
        }
        func answer(_ claims: CgroupClaims) -> Failure? {
            var claims = claims
            do throws(Failure) { try claims.claim(path, session: 9) } catch { return error }
            return nil
        }
        let whole = answer(try registry.cgroupClaims(bootID: Self.boot))
        #expect(try answer(registry.cgroupClaims(bootID: Self.boot, around: path)) == whole)
        let isFree = ["/sys/fs/cgroup/a/bc", "/sys/fs/cgroup/a-", "/sys/fs/cgroup/old"].contains(path)
        #expect((whole == nil) == isFree)
    }

    @Test func unknownSession() throws {
        let registry = try Registry(file, access: .readWrite)
        try registry.open(Self.record(7))
        #expect(try failure { try registry.markOpen([7, 8]) }.reason == "there is no session 8")
        #expect(try registry.session(id: 7)?.state == .opening)
        #expect(throws: Failure.self) { try registry.beginClose([8]) }
    }

    @Test func batchOfTenThousand() throws {
        let registry = try Registry(file, access: .readWrite)
        let records = (10..<10_010).map { Self.record($0) }
        let ids = records.map(\.id)
        try registry.open(records)
        try registry.markOpen(ids)
        let found = try registry.sessions()
        #expect(found.map(\.id) == ids && found.allSatisfy { $0.state == .open && $0.addresses.count == 1 })
        try registry.remove(ids.map { ($0, .closed) }, at: .now(bootID: Self.boot))
        #expect(try registry.sessions().isEmpty && registry.usedAddresses().isEmpty)
    }

    // MARK: Attachments and settings

    @Test func settings() throws {
        let registry = try Registry(file, access: .readWrite)
        #expect(try registry.value(of: .policy) == nil)
        try registry.set(.policy, to: "virtualIP: {}\n")
        try registry.set(.policy, to: "virtualIP:\n  enabled: true\n")
        #expect(try Registry(file, access: .readOnly).value(of: .policy) == "virtualIP:\n  enabled: true\n")
        try registry.set(.policy, to: nil)
        #expect(try registry.value(of: .policy) == nil)
    }

    // MARK: Policies

    static let policy = Policy(
        virtualIP: Policy.VirtualIP(
            enabled: true, mode: .perSession, whenUnavailable: .useHostAddress,
            addresses: Policy.Addresses(
                interface: "lo",
                pool: [try! AddressRange("10.20.0.10-10.20.0.250"), try! AddressRange("2001:db8:20::/120")],
                restSeconds: 5, reservations: [Policy.Reservation(user: "root", addresses: [IPAddress("10.20.0.50")!])])
        ),
        virtualLoopback: Policy.VirtualLoopback(
            enabled: true, programs: [.name("java"), .path("/usr/bin/python3"), .everyProgram],
            excludedPorts: [631, 53],
            fallback: .host),
        wildcardName: .asRequested, history: Policy.History(retentionDays: 30),
        overrides: [
            Policy.Override(
                name: "call centre", match: Policy.Match(users: ["ann"], groups: ["cti"], units: ["app-*.slice"]),
                isolation: false)
        ])

    @Test func keepsThePolicyInForce() throws {
        let registry = try Registry(file, access: .readWrite)
        #expect(try registry.policy() == nil)
        try registry.set(Self.policy, at: .now(bootID: Self.boot))
        #expect(try registry.policy() == Self.policy)
        try Registry(file, access: .readWrite).set(Policy(), at: .now(bootID: Self.boot))
        #expect(try registry.policy() == Policy(), "another process has put another in force")

        try registry.set(pending: Registry.PendingPolicy(generation: 7, policy: Self.policy))
        #expect(try Registry(file, access: .readOnly).pendingPolicy()?.generation == 7)
        #expect(try Registry(file, access: .readOnly).pendingPolicy()?.policy == Self.policy)
        try registry.set(pending: nil)
        #expect(try registry.pendingPolicy() == nil)
    }

    /// The policy in a registry of an earlier version is readable: a new key is optional, or has a migration.
    @Test func readsThePolicyOfVersion5() throws {
        let registry = try Registry(file, access: .readWrite)
        try registry.set(
            .policy,
            to: """
                {"history":{"retentionDays":90},"isolation":true,"overrides":[{"match":{"groups":[],"units":[],"users":[]},\
                "name":"a"}],"preferLoopback":{"enabled":false,"programs":[]},"sessions":{"unit":"userSlice"},\
                "virtualIP":{"addresses":{"pool":[],"probeSeconds":1,"reservations":[],"restSeconds":60,"source":"pool"},\
                "enabled":false,"mode":"perProgram","programs":[],"whenUnavailable":"deny"},\
                "virtualLoopback":{"enabled":false,"excludedPorts":[53,631],"fallback":"none",\
                "prefix":"fdd2:9088:43af::/96","programs":[]},"wildcardName":"virtual"}
                """)
        let policy = Policy(
            virtualLoopback: Policy.VirtualLoopback(excludedPorts: [631, 53]), overrides: [Policy.Override(name: "a")])
        #expect(try registry.policy() == policy)
        try registry.set(.policy, to: "{}")
        let error = try failure { _ = try registry.policy() }
        #expect(error.reason == "the policy in force cannot be read" && error.hint?.contains("policy apply") == true)
    }

    // MARK: Earlier versions

    /// The last release that kept policies as text made `registry-4.sql`.
    @Test func migratesVersion4() throws {
        let sql = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "registry-4.sql").path
        try shell("sqlite3 '\(file)' < '\(sql)'")
        try shell(
            "sqlite3 '\(file)' \"INSERT INTO settings SELECT 'pending_policy', '7' || char(10) || value FROM settings "
                + "WHERE key = 'policy'\"")
        let reader = try failure { _ = try Registry(file, access: .readOnly) }
        #expect(reader.reason == "an earlier vip-bpfctl wrote it (version 4)")

        _ = try Registry(file, access: .readWrite)
        let registry = try Registry(file, access: .readOnly)
        #expect(try registry.policy() == Self.policy)
        let pending = try #require(try registry.pendingPolicy())
        #expect(pending.generation == 7 && pending.policy == Self.policy)
        let session = try #require(try registry.sessions().first)
        #expect(try registry.sessions().count == 1)
        #expect(session.id == 3 && session.policy == "call centre" && session.state == .open)
        #expect(session.addresses.map(\.address.description) == ["10.20.0.10", "2001:db8:20::2"])
        #expect(try registry.history().map(\.id) == [2, 3])
        #expect(try registry.history().map(\.ending) == [.closed, nil])
        #expect(
            try registry.formerAddresses(of: "root").map(\.address.description) == ["2001:db8:20::1", "10.20.0.50"])
        #expect(try registry.attachments().map(\.cgroupID) == [10285])
        let version = try Child("sqlite3", file.string, "PRAGMA user_version; SELECT count(*) FROM sqlite_master")
        #expect(try version.line() == "\(Registry.version)")
        // The tables and indexes are those of a new registry.
        let new = directory.path.appending("new.sqlite")
        _ = try Registry(new, access: .readWrite)
        let fresh = try Child("sqlite3", new.string, "SELECT count(*) FROM sqlite_master")
        #expect(try version.line() == fresh.line())
    }

    @Test func leavesAPolicyThatCannotBeRead() throws {
        let sql = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "registry-4.sql").path
        try shell("sqlite3 '\(file)' < '\(sql)'")
        try shell("sqlite3 '\(file)' \"UPDATE settings SET value = 'colour: red' WHERE key = 'policy'\"")
        let registry = try Registry(file, access: .readWrite)
        #expect(try registry.sessions().count == 1)
        #expect(try failure { _ = try registry.policy() }.reason == "the policy in force cannot be read")
        #expect(try registry.value(of: .policy) == "colour: red")
    }

    // MARK: The file

    private func mode(_ path: String) -> mode_t {
        var status = stat()
        return stat(path, &status) == 0 ? status.st_mode & 0o7777 : 0
    }

    @Test(arguments: [0, 0o022, 0o077] as [mode_t])
    func madeForItsOwnerAlone(mask: mode_t) throws {
        let old = umask(mask)
        defer { umask(old) }
        try Registry(file, access: .readWrite).open(Self.record(7))
        #expect(mode(file.string) == 0o600 && mode("\(file)-journal") == 0o600)
    }

    /// That of an earlier version, which everybody could read: who has it open can lock it as long as they like.
    @Test func takenFromThoseWhoHaveItOpen() throws {
        try Registry(file, access: .readWrite).open(Self.record(7))
        try shell("chmod 644 '\(file)' '\(file)-journal'")
        let holder = try Child(
            "python3", "-c",
            """
            import fcntl, sys
            registry = open(sys.argv[1], 'rb')
            fcntl.lockf(registry, fcntl.LOCK_SH, 510, 0x40000002)
            print('locked', flush=True)
            sys.stdin.read()
            """, file.string)
        #expect(try holder.line() == "locked")
        #expect(try Registry(file, access: .readOnly).sessions().count == 1)
        #expect(mode(file.string) == 0o644, "a reader changes nothing")
        let registry = try Registry(file, access: .readWrite)
        #expect(mode(file.string) == 0o600 && mode("\(file)-journal") == 0o600)
        try registry.open(Self.record(8))
        #expect(try Registry(file, access: .readOnly).sessions().map(\.id) == [7, 8])
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path.string).count == 2)
        holder.closeInput()
        #expect(holder.wait() == 0)
    }

    @Test func noneYet() throws {
        let registry = try Registry(file, access: .readOnly)
        #expect(try registry.sessions() == [] && registry.attachments().isEmpty)
        #expect(!FileManager.default.fileExists(atPath: file.string), "reading makes nothing")
        #expect(throws: Failure.self) { try Registry(directory.path.appending("no/registry"), access: .readWrite) }
    }

    @Test(arguments: [
        (
            "a later version", "PRAGMA user_version = 99;",
            "a later vip-bpfctl wrote it (version 99, this one knows \(Registry.version))"
        ),
        (
            "another program's, with a write-ahead log", "PRAGMA application_id = 1; PRAGMA journal_mode = WAL;",
            "it is another program's database"
        ),
        ("another program's", "PRAGMA application_id = 1;", "it is another program's database"),
        ("nobody's", "PRAGMA application_id = 0; PRAGMA user_version = 0;", "it is another program's database"),
    ])
    func otherContents(_: String, sql: String, why: String) throws {
        try Registry(file, access: .readWrite).open(Self.record(7))
        try shell("sqlite3 '\(file)' '\(sql)'")
        let bytes = try Data(contentsOf: URL(filePath: file.string))
        for access in [Registry.Access.readOnly, .readWrite] {
            let error = try failure { _ = try Registry(file, access: access) }
            #expect(error.operation == "open registry \(file)" && error.reason == why && error.hint != nil)
        }
        #expect(try Data(contentsOf: URL(filePath: file.string)) == bytes, "it is left as it was")
    }

    @Test func noDatabase() throws {
        try Data("virtualIP: { enabled: true } # a file that is no database at all".utf8).write(
            to: URL(filePath: file.string))
        for access in [Registry.Access.readOnly, .readWrite] {
            let error = try failure { _ = try Registry(file, access: access) }
            #expect(error.reason == "\(file) is not a database")
        }
    }

    @Test func damaged() throws {
        do {
            let registry = try Registry(file, access: .readWrite)
            try registry.open((10..<1000).map { Self.record($0) })
        }
        // The header stays, so the damage is found while reading.
        try shell("dd if=/dev/urandom of='\(file)' bs=4096 seek=1 count=20 conv=notrunc status=none")
        let error = try failure { _ = try Registry(file, access: .readWrite).sessions() }
        #expect(error.reason == "\(file) is damaged")
        #expect(!error.description.contains("\n") && error.detail != nil)
    }

    /// A value of the column's type that is no valid value must not crash the program.
    @Test(arguments: [
        "UPDATE sessions SET id = -7", "UPDATE sessions SET opened_at = 'yesterday'",
        "UPDATE sessions SET cgroup_level = 1 << 40",
        "UPDATE addresses SET address = '10.0.0.300'",
    ])
    func strangeValue(sql: String) throws {
        try Registry(file, access: .readWrite).open(Self.record(7))
        try shell("sqlite3 '\(file)' \"\(sql)\"")
        #expect(try failure { _ = try Registry(file, access: .readOnly).sessions() }.reason == "\(file) is damaged")
    }

    @Test func interruptedBeforeItsTables() throws {
        try shell("sqlite3 '\(file)' 'PRAGMA application_id = \(Registry.applicationID)'")
        #expect(throws: Failure.self) { try Registry(file, access: .readOnly) }
        let registry = try Registry(file, access: .readWrite)
        #expect(try registry.sessions().isEmpty)
    }

    @Test func readOnlyDoesNotWrite() throws {
        try Registry(file, access: .readWrite).open(Self.record(7))
        let registry = try Registry(file, access: .readOnly)
        let error = try failure { try registry.remove([(7, .closed)], at: .now(bootID: Self.boot)) }
        #expect(error.reason == "\(file) may not be written" && error.errno == .permissionDenied)
        #expect(try registry.sessions().count == 1)
    }

    /// Readers can read while another process is writing.
    @Test func readersBesideAWriter() throws {
        let registry = try Registry(file, access: .readWrite)
        try registry.open(Self.record(7))
        let writer = try Child("sqlite3", file.string)
        try writer.send("BEGIN IMMEDIATE; DELETE FROM sessions; SELECT 1;\n")
        #expect(try writer.line() == "1")
        #expect(try Registry(file, access: .readOnly).sessions().count == 1)
        writer.closeInput()
        writer.wait()
    }
}

@Suite struct ProcessIdentityTests {
    @Test func ownAndGone() throws {
        let own = try #require(ProcessIdentity(pid: getpid()))
        #expect(own.isAlive)
        #expect(!ProcessIdentity(pid: own.pid, startTime: own.startTime + 1).isAlive)
        let child = try Child("sh", "-c", "read x")
        let identity = try #require(ProcessIdentity(pid: child.pid))
        #expect(identity.isAlive)
        child.kill()
        #expect(!identity.isAlive)
    }

    @Test func boot() throws {
        #expect(UUID(uuidString: try BootID.current()) != nil)
    }
}
