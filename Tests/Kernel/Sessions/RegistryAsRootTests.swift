// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Network
import SystemPackage
import TestSupport
import Testing

@testable import Sessions

/// What of the registry needs another user, a file system of its own, or the cgroup mount.
@Suite(.serialized, .requiresRoot)
struct RegistryAsRootTests {
    private static func record(_ id: UInt32) -> SessionRecord {
        SessionRecord(
            id: id, cgroupPath: FilePath("/sys/fs/cgroup/s\(id)"), cgroupID: UInt64(8000 + id), cgroupLevel: 1,
            bootID: "0b0e8a1c-2f6b-4c47-9f3e-5a1d8c7e6f10",
            addresses: [.init(IPAddress(v4: 0x0a00_0000 + id), interface: "eth0", placed: true, fromPool: true)])
    }

    /// By a process, as this one stays root. Who may open a file may lock it.
    @Test("lets an ordinary user open neither registry nor journal")
    func ordinaryUser() throws {
        let directory = try TemporaryDirectory()
        chmod(directory.path.string, 0o755)
        let file = directory.path.appending("registry.sqlite")
        try Registry(file, access: .readWrite).open(Self.record(7))
        let user = try Child(
            "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c",
            """
            import errno, os, sys
            for name in sys.argv[1:]:
                for flags in os.O_RDONLY, os.O_WRONLY:
                    try:
                        os.open(name, flags)
                        print(name, 'opened')
                    except OSError as error:
                        print(errno.errorcode[error.errno])
            """, file.string, "\(file)-journal")
        for _ in 0..<4 { #expect(try user.line() == "EACCES") }
        #expect(user.wait() == 0)
    }

    @Test("keeps what is registered when the disk is full or read-only")
    func fullDisk() throws {
        let directory = try TemporaryDirectory()
        try shell("mount -t tmpfs -o size=256k,mode=755 vip-sessions-test '\(directory.path)'")
        defer { try? shell("umount '\(directory.path)'") }
        let file = directory.path.appending("registry.sqlite")
        do {
            let registry = try Registry(file, access: .readWrite)
            try registry.open(Self.record(7))
            let error = try failure { try registry.open((10..<10_000).map { Self.record($0) }) }
            #expect(error.reason == "no space is left for \(file)")
            #expect(try registry.sessions() == [Self.record(7)].map { try registry.session(id: $0.id) ?? $0 })
            #expect(try registry.history().map(\.id) == [7])
        }
        try shell("mount -o remount,ro '\(directory.path)'")
        #expect(try failure { _ = try Registry(file, access: .readWrite) }.reason.contains("read-only"))
        #expect(try Registry(file, access: .readOnly).sessions().count == 1)
    }

    @Test("registers a cgroup that is attached once")
    func attachments() throws {
        let directory = try TemporaryDirectory()
        let registry = try Registry(directory.path.appending("registry.sqlite"), access: .readWrite)
        let cgroup = try Cgroup(path: MountTable.current().cgroup2Mount().mountPoint)
        try registry.addAttachment(cgroup)
        try registry.addAttachment(cgroup)
        #expect(try registry.attachments().map(\.path) == [cgroup.path])
        #expect(try registry.attachments().map(\.cgroupID) == [1])
        try registry.removeAttachment(cgroup.path)
        try registry.removeAttachment(cgroup.path)
        #expect(try registry.attachments().isEmpty)
    }
}
