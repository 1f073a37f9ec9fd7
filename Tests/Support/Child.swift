// SPDX-License-Identifier: Apache-2.0

import Foundation
public import Glibc
import SystemPackage
import Testing

/// A child process with a pipe to its standard input and one from its standard output.
public final class Child {
    public let pid: pid_t
    private var input: FileDescriptor?
    private let output: FileDescriptor
    private var isReaped = false

    public init(_ arguments: String...) throws {
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
    public func line() throws -> String {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while try withUnsafeMutableBytes(of: &byte, { try output.read(into: $0) }) == 1, byte != UInt8(ascii: "\n") {
            line.append(byte)
        }
        return String(decoding: line, as: UTF8.self)
    }

    public func send(_ text: String) throws {
        try #require(input).writeAll(text.utf8)
    }

    /// Ends its standard input.
    public func closeInput() {
        try? input?.close()
        input = nil
    }

    public func kill() {
        Glibc.kill(pid, SIGKILL)
        wait()
    }

    /// Its wait status, see waitpid(2).
    @discardableResult public func wait() -> CInt {
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
public func shell(_ command: String) throws {
    try #require(Child("sh", "-c", command).wait() == 0, "\(command)")
}
