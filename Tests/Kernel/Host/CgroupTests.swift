// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Sessions
import SystemPackage
import TestSupport
import Testing

@Suite struct CgroupTextTests {
    @Test(
        "reads /proc/PID/cgroup",
        arguments: [
            ("0::/\n", "/"), ("9:name=systemd:/a\n0::/user.slice/x y\n", "/user.slice/x y"),
            ("0::/gone (deleted)\n", "/gone (deleted)"),
            ("1:cpu:/a\n", nil), ("", nil), ("10::/a\n", nil),
        ] as [(String, FilePath?)])
    func procCgroup(text: String, path: FilePath?) {
        #expect(Cgroup.path(inProcCgroup: Array(text.utf8)) == path)
    }

    @Test(
        "reads cgroup.events",
        arguments: [
            ("populated 1\nfrozen 0\n", true), ("populated 0\nfrozen 1\n", false), ("frozen 0\npopulated 1\n", true),
            ("", false),
        ])
    func events(text: String, isPopulated: Bool) {
        #expect(Cgroup.isPopulated(Array(text.utf8)) == isPopulated)
    }

    @Test(
        "refuses claims on, below and above a claimed path",
        arguments: [
            ("/cg/a", "session 1"), ("/cg/a/b", "session 1"), ("/cg", "session"), ("/cg/x/y/z", nil),
            ("/cg/x", "session 2"),
            ("/cg/x/y", "session 2"), ("/cg/x/y/w/v", "session 3"), ("/cg/ab", nil), ("/cg/x/y/z2", nil),
            ("/cg/b", nil),
        ] as [(FilePath, String?)])
    func claims(path: FilePath, owner: String?) throws {
        var claims = CgroupClaims()
        try claims.claim("/cg/a", session: 1)
        try claims.claim("/cg/x/y/z1", session: 2)
        try claims.claim("/cg/x/y/w", session: 3)
        if let owner {
            let error = try failure { try claims.claim(path, session: 9) }
            #expect(error.description.contains(owner))
            claims.release("/cg/a")
            claims.release("/cg/x/y/z1")
            claims.release("/cg/x/y/w")
            claims.release("/cg/nobody's")
        }
        try claims.claim(path, session: 9)
    }

    @Test("takes many claims without comparing each with all")
    func manyClaims() throws {
        let paths = (0..<6_000).map { FilePath("/sys/fs/cgroup/user.slice/user-\($0).slice") }
        let time = try ContinuousClock().measure {
            var claims = CgroupClaims()
            for (number, path) in paths.enumerated() { try claims.claim(path, session: UInt32(number)) }
        }
        #expect(time < hang, "each against all would take far longer")
    }
}

@Suite(.serialized, .requiresRoot) final class CgroupTests {
    let root: Cgroup
    let own: Cgroup

    init() throws {
        root = try Cgroup(path: MountTable.current().cgroup2Mount().mountPoint)
        own = try root.makeChild(named: "vip-sessions-test-\(getpid())-\(UInt32.random(in: 0 ... .max))")
    }

    deinit {
        try? own.kill()
        _ = try? own.waitUntilEmpty(timeout: hang)
        try? own.remove()
    }

    @Test("knows a cgroup by its id")
    func identity() throws {
        #expect(root.isRoot && root.level == 0 && root.id == 1)
        let inner = try own.makeChild(named: "a b").makeChild(named: "c")
        #expect(own.level == 1 && inner.level == 3 && !inner.isRoot)
        #expect(try Cgroup(path: inner.path) == inner)
        #expect(try Cgroup(path: FilePath("\(inner.path)/../c/.")) == inner)
        #expect(own.contains(inner) && root.contains(inner) && !inner.contains(own) && !own.contains(own))
        #expect(
            inner.relation(to: own) == .below && own.relation(to: inner) == .above && own.relation(to: own) == .same)
        let beside = try own.makeChild(named: "a b2")
        #expect(try Cgroup(path: inner.path.removingLastComponent()).relation(to: beside) == .unrelated)
    }

    /// name_to_handle_at(2) returns what the kernel uses as the cgroup's ID, as bpf_get_current_cgroup_id() does.
    @Test func idIsTheHandle() throws {
        typealias NameToHandle =
            @convention(c) (CInt, UnsafePointer<CChar>, UnsafeMutableRawPointer, UnsafeMutablePointer<CInt>, CInt) ->
            CInt
        let call = unsafeBitCast(try #require(dlsym(nil, "name_to_handle_at")), to: NameToHandle.self)
        var handle: [UInt32] = [8, 0, 0, 0]  // struct file_handle: bytes that follow, type, and the 8 bytes
        var mount: CInt = 0
        try #require(call(AT_FDCWD, own.path.string, &handle, &mount, 0) == 0)
        #expect(UInt64(handle[2]) | UInt64(handle[3]) << 32 == own.id)
    }

    @Test("is the same through a symbolic link and another mount")
    func throughASymbolicLinkAndAnotherMount() throws {
        let directory = try TemporaryDirectory()
        let inner = try own.makeChild(named: "inner")
        let link = directory.path.appending("link")
        symlink(inner.path.string, link.string)
        #expect(try Cgroup(path: link) == inner)

        let point = directory.path.appending("part of it")
        mkdir(point.string, 0o755)
        try shell("mount --bind '\(own.path)' '\(point)'")
        defer { try? shell("umount '\(point)'") }
        #expect(try Cgroup(path: point.appending("inner")) == inner)
        #expect(try Cgroup(path: point) == own)
    }

    @Test("refuses what is no cgroup")
    func noCgroups() throws {
        let directory = try TemporaryDirectory()
        var wrong: [(FilePath, String)] = [
            (own.path.appending("nothing"), "there is no such directory"),
            (own.path.appending("cgroup.procs"), "it is not a directory"),
            (directory.path, "it is not on cgroup v2"), ("/proc/self", "it is not on cgroup v2"),
        ]
        if let v1 = try MountTable.current().mounts.first(where: { $0.fsType == "cgroup" }) {
            wrong.append((v1.mountPoint, "it belongs to a cgroup v1 hierarchy"))
        }
        for (path, why) in wrong {
            let error = try failure { _ = try Cgroup(path: path) }
            #expect(error.reason == why && error.operation == "use cgroup \(path)" && error.hint != nil)
        }
    }

    /// In a cgroup namespace, `/` is a cgroup further down, so depths below it differ from the kernel's.
    @Test("finds the cgroup from inside a cgroup namespace")
    func inACgroupNamespace() throws {
        try own.add(process: getpid())
        defer { try? root.add(process: getpid()) }
        let directory = try TemporaryDirectory()
        let child = try Child(
            "unshare", "--cgroup", "--mount", "--propagation", "private", "sh", "-c",
            "umount -a -t cgroup2; mount -t cgroup2 none \(directory.path) && cat /proc/self/mountinfo && echo end; read x"
        )
        var text = ""
        while case let line = try child.line(), line != "end" {
            try #require(!line.isEmpty)
            text += line + "\n"
        }
        let mounts = try MountTable(text: text)
        #expect(mounts.cgroup2.map(\.root) == ["/"])
        // The mount table of the namespace, with the mount at a path by which this process reaches the same directory.
        let mount = try #require(text.split(separator: "\n").first { $0.contains(" - cgroup2 ") })
        let moved = try MountTable(text: mount.replacingOccurrences(of: " \(directory.path) ", with: " \(own.path) "))
        #expect(moved.cgroup2.map(\.mountPoint) == [own.path])
        let error = try failure { _ = try Cgroup(ofProcess: getpid(), mounts: moved) }
        #expect(error.code == .unavailable && error.description.contains("cgroup namespace"))
        child.kill()
    }

    @Test("tells a cgroup that was created again from the former")
    func removedAndCreatedAgain() throws {
        let first = try own.makeChild(named: "again")
        #expect(first.exists && first.isSame)
        try first.remove()
        #expect(!first.exists && !first.isSame)
        #expect(try !first.isPopulated() && first.processes().isEmpty && first.waitUntilEmpty() == .empty)
        try first.kill()
        let second = try own.makeChild(named: "again")
        #expect(second.id != first.id && first.exists && !first.isSame && second.isSame)
        try first.remove()
        #expect(second.isSame, "another cgroup at the same path is left alone")
    }

    @Test("moves, lists, waits for and kills processes")
    func processes() throws {
        let inner = try own.makeChild(named: "inner")
        #expect(try !own.isPopulated())
        let child = try Child("sleep", "1000")
        try inner.add(process: child.pid)
        #expect(try own.isPopulated() && inner.isPopulated() && root.isPopulated())
        #expect(
            try inner.processes() == [child.pid] && own.processes() == [] && own.processes(subtree: true) == [child.pid]
        )
        #expect(try Cgroup(ofProcess: child.pid, mounts: .current()) == inner)

        let busy = try failure { try own.remove() }
        #expect(busy.reason == "a process is still in it")
        #expect(inner.isSame, "nothing was removed")
        #expect(try own.waitUntilEmpty(timeout: .milliseconds(20)) == .timedOut)
        let pipe = try FileDescriptor.pipe()
        _ = try pipe.writeEnd.writeAll([1])
        #expect(try own.waitUntilEmpty(interruptedBy: pipe.readEnd) == .interrupted)
        try pipe.readEnd.close()
        try pipe.writeEnd.close()

        try own.kill()
        #expect(try own.waitUntilEmpty(timeout: hang) == .empty)
        child.wait()
        try own.remove()
        #expect(!inner.exists && !own.exists)
    }

    /// The wait does not poll: it is already waiting when the last process ends.
    @Test("wakes up when the last process ends")
    func wokenByTheLastExit() async throws {
        let child = try Child("sh", "-c", "read x")
        try own.add(process: child.pid)
        let own = own
        async let result = withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                continuation.resume(with: Result { try own.waitUntilEmpty(timeout: hang) })
            }
        }
        child.kill()
        #expect(try await result == .empty)
    }

    /// The processes of a threaded cgroup are listed at its domain.
    @Test("lists the processes of a threaded cgroup at its domain")
    func threaded() throws {
        let child = try Child("sleep", "1000")
        try own.add(process: child.pid)
        let threads = try own.makeChild(named: "threads")
        try shell("echo threaded > '\(threads.path)/cgroup.type'")
        #expect(try own.processes(subtree: true) == [child.pid])
        #expect(throws: Failure.self) { try threads.processes() }
    }

    @Test(
        "refuses names that are no file's",
        arguments: ["", ".", "..", "a/b", "/a", "a\nb", String(repeating: "x", count: 256)])
    func noName(name: String) throws {
        #expect(try failure { _ = try own.makeChild(named: name) }.code == .usage)
    }

    @Test("refuses to create a child that exists")
    func childThatIsThere() throws {
        _ = try own.makeChild(named: "twice")
        #expect(try failure { _ = try own.makeChild(named: "twice") }.reason == "there is one already")
    }

    @Test("refuses to remove, kill or await the root")
    func rootIsLeftAlone() {
        #expect(throws: Failure.self) { try self.root.remove() }
        #expect(throws: Failure.self) { try self.root.kill() }
        #expect(throws: Failure.self) { try self.root.waitUntilEmpty() }
    }

    @Test("refuses a process that does not exist")
    func noSuchProcess() throws {
        let child = try Child("true")
        child.wait()
        #expect(throws: Failure.self) { try Cgroup(ofProcess: child.pid, mounts: .current()) }
        #expect(try failure { try own.add(process: child.pid) }.reason == "there is no such process")
        #expect(try Cgroup.current().isSame)
    }
}
