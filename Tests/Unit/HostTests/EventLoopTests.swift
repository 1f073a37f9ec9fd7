// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Synchronization
import SystemPackage
import Testing

/// The loop of the daemon and the lease supervisor, and how other threads reach it.
@Suite struct EventLoopTests {
    @Test func deadlinesComeInTheirOrder() throws {
        let loop = try EventLoop()
        var order: [Int] = []
        let last = try loop.deadline {
            order.append(3)
            loop.exit()
        }
        let first = try loop.deadline { order.append(1) }
        let second = try loop.deadline { order.append(2) }
        let never = try loop.deadline { order.append(0) }
        last.set(in: .seconds(4))
        first.set(in: .milliseconds(10))
        first.set(within: .seconds(60))
        second.set(in: .seconds(60))
        second.set(within: .seconds(2))
        never.set(in: .zero)
        never.clear()
        try loop.run()
        #expect(order == [1, 2, 3])
    }

    /// A deadline that is set in its own handler is due again.
    @Test func aDeadlineMayBeSetAgain() throws {
        let loop = try EventLoop()
        var count = 0
        var deadline: EventLoop.Deadline?
        deadline = try loop.deadline {
            count += 1
            if count == 3 { loop.exit() } else { deadline?.set(within: .milliseconds(1)) }
        }
        deadline?.set(in: .zero)
        try loop.run()
        #expect(count == 3)
        deadline = nil
    }

    @Test func aMailboxWakesTheLoop() throws {
        let loop = try EventLoop()
        let mailbox = try Mailbox<Int>()
        var items: [Int] = []
        let source = try loop.watch(mailbox.descriptor) { items += mailbox.take() }
        var turns = 0
        let afterwards = try loop.afterwards {
            turns += 1
            if items.last == 99 { loop.exit() }
        }
        try Worker.detach("putting") { for number in 0..<100 { mailbox.put(number) } }
        try withExtendedLifetime((source, afterwards)) { try loop.run() }
        #expect(items == Array(0..<100) && turns > 0)
        #expect(mailbox.take().isEmpty)
    }

    @Test func aWatchTellsOfFilesUntilItIsDropped() throws {
        let directory = "/tmp/vip-loop-\(getpid())-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let loop = try EventLoop()
        var names: [String] = []
        var source: EventLoop.Source?
        source = try loop.watch(FilePath(directory), UInt32(IN_CREATE)) { event in
            names.append(event.name)
            source = nil
        }
        let end = try loop.deadline { loop.exit() }
        for name in ["a", "b"] { try Data().write(to: URL(filePath: "\(directory)/\(name)")) }
        end.set(in: .seconds(2))
        try loop.run()
        #expect(names == ["a"] && source == nil)
        #expect(throws: Errno.noSuchFileOrDirectory) {
            _ = try loop.watch(FilePath("\(directory)/none"), UInt32(IN_CREATE)) { _ in }
        }
    }

    @Test func aWorkerEndsWhenItIsAskedTo() throws {
        let name = Mutex("")
        let worker = try Worker("a worker") { stop in
            name.withLock { $0 = (try? String(contentsOf: "/proc/thread-self/comm")) ?? "" }
            var entry = pollfd(fd: stop, events: Int16(POLLIN), revents: 0)
            poll(&entry, 1, -1)
        }
        #expect(worker.end())
        #expect(worker.end(within: .zero))
        #expect(name.withLock(\.self) == "a worker\n")
        let gate = DispatchSemaphore(value: 0)
        let stuck = try Worker("stuck") { _ in gate.wait() }
        #expect(!stuck.end(within: .milliseconds(10)))
        gate.signal()
        #expect(stuck.end())
    }

    @Test func aFileIsReplacedInOneStep() throws {
        let directory = "/tmp/vip-replace-\(getpid())-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let path = FilePath("\(directory)/file")
        // Opening an existing pipe at the new file's path would block.
        #expect(mkfifo("\(path).\(getpid()).new", 0o600) == 0)
        try replaceFile(path, with: Array("one".utf8))
        let old = try openFile(path, O_RDONLY)
        defer { close(old) }
        try replaceFile(path, with: Array("two".utf8), mode: 0o600)
        #expect(try readWholeFile(old) == Array("one".utf8) && readWholeFile(path) == Array("two".utf8))
        #expect(try FileManager.default.attributesOfItem(atPath: path.string)[.posixPermissions] as? Int == 0o600)
        let failure = #expect(throws: Failure.self) {
            try replaceFile(FilePath("\(directory)/none/file"), with: [], hint: "make the directory")
        }
        #expect(failure?.description == "write \(directory)/none/file: no such file or directory; make the directory")
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory) == ["file"])
    }
}
