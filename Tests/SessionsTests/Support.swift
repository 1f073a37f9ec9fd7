// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import SystemPackage
import Testing

private struct NotRoot: Error, CustomStringConvertible {
    let description = "this test needs root, and CI must run it"
}

extension Trait where Self == ConditionTrait {
    /// Runs as root; elsewhere it is skipped, but in CI (CI in the environment) a failure.
    static var requiresRoot: Self {
        .enabled("needs root") {
            guard geteuid() != 0 else { return true }
            if let value = getenv("CI"), value.pointee != 0 { throw NotRoot() }
            return false
        }
    }
}

/// A directory that goes with its owner.
final class TemporaryDirectory: Sendable {
    let path: FilePath

    init() throws {
        var template = "/tmp/vip-sessions-test.XXXXXX".utf8CString
        let made = template.withUnsafeMutableBufferPointer { mkdtemp($0.baseAddress!) != nil }
        try #require(made)
        path = template.withUnsafeBufferPointer { FilePath(platformString: $0.baseAddress!) }
        chmod(path.string, 0o755)
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path.string)
    }
}

/// A child process with a pipe to its standard input and one from its standard output.
final class Child {
    let pid: pid_t
    private var input: FileDescriptor?
    private let output: FileDescriptor
    private var isReaped = false

    init(_ arguments: String...) throws {
        let toChild = try FileDescriptor.pipe(options: .closeOnExec)
        let fromChild = try FileDescriptor.pipe(options: .closeOnExec)
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, toChild.readEnd.rawValue, 0)
        posix_spawn_file_actions_adddup2(&actions, fromChild.writeEnd.rawValue, 1)
        // The threads of the pool block signals, and a child inherits that: a shell would wait for its own children for ever.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        var argv = arguments.map { strdup($0) } + [nil]
        defer { for argument in argv { free(argument) } }
        var child: pid_t = 0
        let error = posix_spawnp(&child, arguments[0], &actions, &attributes, &argv, environ)
        try toChild.readEnd.close()
        try fromChild.writeEnd.close()
        try #require(error == 0, "\(arguments[0]): \(String(cString: strerror(error)))")
        pid = child
        input = toChild.writeEnd
        output = fromChild.readEnd
    }

    /// What it writes next, up to a newline; "" at its end.
    func line() throws -> String {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while try withUnsafeMutableBytes(of: &byte, { try output.read(into: $0) }) == 1, byte != UInt8(ascii: "\n") {
            line.append(byte)
        }
        return String(decoding: line, as: UTF8.self)
    }

    func send(_ text: String) throws {
        try #require(input).writeAll(text.utf8)
    }

    /// Ends its standard input.
    func closeInput() {
        try? input?.close()
        input = nil
    }

    func kill() {
        Glibc.kill(pid, SIGKILL)
        wait()
    }

    /// Its wait status, see waitpid(2).
    @discardableResult func wait() -> CInt {
        var status: CInt = 0
        guard !isReaped else { return 0 }
        while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
        isReaped = true
        return status
    }

    deinit {
        if !isReaped { kill() }
        closeInput()
        try? output.close()
    }
}

/// Runs a command to its end; it must succeed.
func shell(_ command: String) throws {
    try #require(Child("sh", "-c", command).wait() == 0, "\(command)")
}

/// Runs the body on a thread of its own that is in a new network namespace; both go when it returns.
func inNetworkNamespace<T: Sendable>(_ body: @Sendable @escaping () throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread {
            continuation.resume(
                with: Result {
                    typealias Unshare = @convention(c) (CInt) -> CInt
                    // unshare(2) is hidden from Swift: it wants _GNU_SOURCE.
                    let unshare = unsafeBitCast(try #require(dlsym(nil, "unshare")), to: Unshare.self)
                    try #require(unshare(0x4000_0000) == 0, "CLONE_NEWNET, linux/sched.h")
                    return try body()
                })
        }
    }
}

/// Takes all capabilities in effect from the calling thread: capset(2).
func dropCapabilities() throws {
    typealias Capset = @convention(c) (UnsafePointer<UInt32>, UnsafePointer<UInt32>) -> CInt
    let capset = unsafeBitCast(try #require(dlsym(nil, "capset")), to: Capset.self)
    // _LINUX_CAPABILITY_VERSION_3 and this thread; then two times effective, permitted, inheritable.
    try #require(capset([0x2008_0522, 0], [0, 0, 0, 0, 0, 0]) == 0)
}

/// The failure that the body throws.
func failure(_ body: () throws -> Void, sourceLocation: SourceLocation = #_sourceLocation) throws -> Failure {
    try #require(#expect(throws: Failure.self, sourceLocation: sourceLocation, performing: body))
}
