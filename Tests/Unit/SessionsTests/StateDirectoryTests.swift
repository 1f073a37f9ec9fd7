// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Sessions
import SystemPackage
import TestSupport
import Testing

@Suite struct StateDirectoryTests {
    let temporary: TemporaryDirectory
    let directory: StateDirectory

    init() throws {
        temporary = try TemporaryDirectory()
        directory = StateDirectory(temporary.path.appending("var/lib/vip"))
    }

    func mode(_ path: FilePath) -> mode_t {
        var status = stat()
        return stat(path.string, &status) == 0 ? status.st_mode & 0o7777 : 0
    }

    @Test("creates the directory with its mode", arguments: [0, 0o022, 0o077] as [mode_t])
    func made(mask: mode_t) throws {
        let old = umask(mask)
        defer { umask(old) }
        _ = try directory.lock()
        try directory.create()
        #expect(mode(directory.path) == 0o700)
        #expect(mode(directory.path.removingLastComponent()) == 0o755)
        #expect(mode(directory.lockFile) == 0o600, "whoever may open it may lock it")
    }

    @Test("takes a directory of an earlier version from everybody else")
    func narrowed() throws {
        let path = directory.path
        try shell(
            "mkdir -p '\(path)/leases'; cd '\(path)'; touch registry.sqlite registry.sqlite-journal lock daemon.lock")
        chmod(path.string, 0o755)
        _ = try directory.lock()
        #expect(mode(path) == 0o700)
    }

    @Test("leaves the mode of a directory in which something else is")
    func shared() throws {
        try shell("mkdir -p -m 755 '\(directory.path)'; touch '\(directory.path)/passwd'")
        chmod(directory.path.string, 0o755)
        _ = try directory.lock()
        #expect(mode(directory.path) == 0o755)
        #expect(mode(directory.lockFile) == 0o600)
    }

    @Test("refuses a directory that others may write to")
    func othersMayWriteThere() throws {
        try directory.create()
        chmod(directory.path.string, 0o777)
        #expect(try failure { try directory.create() }.reason == "other users may write to it")
    }

    @Test("refuses a path that is no directory")
    func noDirectory() throws {
        try shell("mkdir -p '\(temporary.path)/var/lib'; touch '\(directory.path)'")
        #expect(try failure { try directory.create() }.reason == "it is not a directory")
    }

    @Test("names the process that holds the lock")
    func heldByAnotherProcess() async throws {
        let directory = directory
        try directory.create()
        let holder = try Child(
            "sh", "-c", "exec 9<>'\(directory.lockFile)'; flock 9; echo $$ >&9; echo locked; read x")
        #expect(try holder.line() == "locked")
        let error = try failure { _ = try directory.lock(timeout: .milliseconds(50)) }
        #expect(error.operation == "lock \(directory.lockFile)")
        #expect(error.reason.contains("process \(holder.pid) (sh)"))

        // A killed holder releases the lock, and a waiting process gets it.
        async let result: Void = withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                continuation.resume(with: Result { _ = try directory.lock() })
            }
        }
        holder.kill()
        try await result
    }

    @Test("writes its PID into the lock and removes it")
    func saysWhoHoldsItAndLetsGo() throws {
        do {
            let lock = try directory.lock()
            #expect(try String(contentsOfFile: directory.lockFile.string, encoding: .utf8) == "\(getpid())\n")
            #expect(try Child("flock", "--nonblock", directory.lockFile.string, "true").wait() != 0)
            _ = consume lock
        }
        #expect(try Child("flock", "--nonblock", directory.lockFile.string, "true").wait() == 0)
        #expect(try String(contentsOfFile: directory.lockFile.string, encoding: .utf8) == "")
    }

    /// A child that is started while the lock is held does not keep it.
    @Test("lets no child keep the lock")
    func notInherited() throws {
        let child: Child
        do {
            let lock = try directory.lock()
            child = try Child("sh", "-c", "echo started; read x")
            #expect(try child.line() == "started")
            _ = consume lock
        }
        // Wait: between its fork and its exec, any child of this process has the lock, also one of another test.
        _ = try directory.lock(timeout: hang)
        child.kill()
    }

    @Test("lets one writer in at a time")
    func oneWriterAtATime() async throws {
        let counter = temporary.path.appending("counter").string
        try "0".write(toFile: counter, atomically: false, encoding: .utf8)
        let directory = directory
        try await withThrowingTaskGroup { group in
            for _ in 0..<8 {
                group.addTask {
                    try await withCheckedThrowingContinuation { continuation in
                        Thread.detachNewThread {
                            continuation.resume(
                                with: Result {
                                    for _ in 0..<5 {
                                        let lock = try directory.lock()
                                        let count = try Int(String(contentsOfFile: counter, encoding: .utf8)) ?? -1000
                                        try "\(count + 1)".write(toFile: counter, atomically: false, encoding: .utf8)
                                        _ = consume lock
                                    }
                                })
                        }
                    }
                }
            }
            try await group.waitForAll()
        }
        #expect(try String(contentsOfFile: counter, encoding: .utf8) == "40")
    }

    /// The lock file that other processes use now is another one.
    @Test("takes a new lock after the lock file was removed")
    func lockFileRemovedByWhomeverHeldIt() async throws {
        try directory.create()
        let holder = try Child(
            "sh", "-c",
            "exec 9<>'\(directory.lockFile)'; flock 9; echo locked; read x; rm '\(directory.lockFile)'")
        #expect(try holder.line() == "locked")
        let directory = directory
        async let isSame = withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                continuation.resume(
                    with: Result {
                        let lock = try directory.lock()
                        let isHeld = try Child("flock", "--nonblock", directory.lockFile.string, "true").wait() != 0
                        _ = consume lock
                        return isHeld
                    })
            }
        }
        holder.closeInput()
        holder.wait()
        #expect(try await isSame)
    }
}
