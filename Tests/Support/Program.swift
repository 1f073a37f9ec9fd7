// SPDX-License-Identifier: Apache-2.0

import Foundation
public import Glibc

/// A running program: its standard input, standard output and standard error.
///
/// All waiting uses poll(2) with a deadline. With the last reference, the process is killed and reaped.
public final class Program {
    public let pid: pid_t
    /// The command, for messages.
    public let name: String
    public private(set) var status: Int32?
    private var input: Int32
    private var output: Stream
    private var error: Stream

    private static let spawning = NSLock()

    private struct Stream {
        var descriptor: Int32
        var bytes: [UInt8] = []
    }

    /// Writing to a program that has ended is an error, and must not end the test process.
    private static let ignorePipeSignal: Void = { _ = Glibc.signal(SIGPIPE, SIG_IGN) }()

    /// - Parameters:
    ///   - command: the path of the executable, then its arguments.
    ///   - environment: added to the test's own.
    ///   - errorOutput: whether standard error is kept for `errorText`; if not, it is the test's own.
    ///   - log: a file that standard error is appended to instead.
    public init(
        _ command: [String], name: String? = nil, environment: [String: String] = [:], errorOutput: Bool = false,
        errorsTo log: String? = nil
    ) throws {
        Self.ignorePipeSignal
        // One at a time: between pipe and fcntl, another child could inherit an end, and delay the end of file.
        Self.spawning.lock()
        defer { Self.spawning.unlock() }
        self.name = name ?? command.joined(separator: " ")
        let (inputRead, inputWrite) = try Self.pipe()
        let (outputRead, outputWrite) = try Self.pipe()
        let (errorRead, errorWrite) = try Self.pipe()
        defer { for descriptor in [inputRead, outputWrite, errorWrite] { close(descriptor) } }

        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, inputRead, STDIN_FILENO)
        posix_spawn_file_actions_adddup2(&actions, outputWrite, STDOUT_FILENO)
        if errorOutput { posix_spawn_file_actions_adddup2(&actions, errorWrite, STDERR_FILENO) }
        if let log {
            posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        }

        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        sigaddset(&signals, SIGPIPE)
        posix_spawnattr_setsigdefault(&attributes, &signals)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

        let merged = ProcessInfo.processInfo.environment.merging(environment) { _, new in new }
        var arguments: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) } + [nil]
        var variables: [UnsafeMutablePointer<CChar>?] = merged.map { strdup("\($0)=\($1)") } + [nil]
        defer { for pointer in arguments + variables { free(pointer) } }
        var pid: pid_t = 0
        let failed = posix_spawnp(&pid, command[0], &actions, &attributes, &arguments, &variables)
        guard failed == 0 else {
            for descriptor in [inputWrite, outputRead, errorRead] { close(descriptor) }
            throw HarnessError("start \(command[0]): \(String(cString: strerror(failed)))")
        }
        self.pid = pid
        input = inputWrite
        output = Stream(descriptor: outputRead)
        error = Stream(descriptor: errorRead)
    }

    deinit {
        closeInput()
        if status == nil {
            kill(pid, SIGKILL)
            var status: Int32 = 0
            while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
        }
        close(output.descriptor)
        close(error.descriptor)
    }

    /// A pipe, close-on-exec. Call it only under the lock `spawning`.
    private static func pipe() throws -> (read: Int32, write: Int32) {
        var ends: [Int32] = [0, 0]
        guard Glibc.pipe(&ends) == 0 else { throw HarnessError.errno("pipe") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        return (ends[0], ends[1])
    }

    public func write(_ text: String) throws {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let written = rest.withUnsafeBytes { Glibc.write(input, $0.baseAddress, $0.count) }
            guard written > 0 else { throw HarnessError.errno("write to \(name)") }
            rest = rest.dropFirst(written)
        }
    }

    /// Closes the program's input.
    public func closeInput() {
        if input >= 0 { close(input) }
        input = -1
    }

    /// The next line of standard output, without its end.
    public func readLine(within patience: Duration = hang) throws -> String {
        let deadline = ContinuousClock.now + patience
        while true {
            if let end = output.bytes.firstIndex(of: UInt8(ascii: "\n")) {
                defer { output.bytes.removeSubrange(...end) }
                return String(decoding: output.bytes[..<end], as: UTF8.self)
            }
            guard try fill(until: deadline, waitingFor: "a line") else {
                throw HarnessError("\(name) ended without a word (exit code \(try wait()))")
            }
        }
    }

    /// Waits for the end of the program. Returns its exit code, or 128 plus the signal that ended it.
    @discardableResult
    public func wait(within patience: Duration = hang) throws -> Int32 {
        if let status { return status }
        let deadline = ContinuousClock.now + patience
        while try fill(until: deadline, waitingFor: "its end") {}
        // It has closed its output, so it is ending, and this does not block for long.
        return try reap()
    }

    /// Waits for the end of the process alone, even if other processes still have its output.
    @discardableResult
    public func reap() throws -> Int32 {
        if let status { return status }
        var raw: Int32 = 0
        while waitpid(pid, &raw, 0) < 0 {
            guard errno == EINTR else { throw HarnessError.errno("waitpid for \(name)") }
        }
        return end(raw)
    }

    public var isRunning: Bool {
        guard status == nil else { return false }
        // Do not reap it: `wait` still reads its output.
        var info = siginfo_t()
        return waitid(P_PID, id_t(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_signo == 0
    }

    private func end(_ raw: Int32) -> Int32 {
        let signal = raw & 0x7f
        let code = signal == 0 ? raw >> 8 & 0xff : 128 + signal
        status = code
        return code
    }

    /// The standard output that was not read as lines; complete once `wait` has returned.
    public var outputText: String { String(decoding: output.bytes, as: UTF8.self) }
    /// The standard error, if it is kept; complete once `wait` has returned.
    public var errorText: String { String(decoding: error.bytes, as: UTF8.self) }

    public func signal(_ number: Int32) { kill(pid, number) }

    /// Reads the output that is there or arrives before the deadline; `false` at the end of both streams.
    private func fill(until deadline: ContinuousClock.Instant, waitingFor what: String) throws -> Bool {
        var polls = [output, error].filter { $0.descriptor >= 0 }.map {
            pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0)
        }
        if polls.isEmpty { return false }
        let left = deadline - .now
        let milliseconds = left.components.seconds * 1000 + left.components.attoseconds / 1_000_000_000_000_000
        let ready = poll(&polls, nfds_t(polls.count), Int32(max(0, milliseconds)))
        if ready < 0 && errno == EINTR { return true }
        guard ready > 0 else { throw HarnessError("\(name): no sign of \(what) in time; stderr: \(errorText)") }
        for entry in polls where entry.revents != 0 {
            if entry.fd == output.descriptor { Self.read(&output) } else { Self.read(&error) }
        }
        return true
    }

    private static func read(_ stream: inout Stream) {
        let chunk = [UInt8](unsafeUninitializedCapacity: 65536) { buffer, count in
            count = max(0, Glibc.read(stream.descriptor, buffer.baseAddress, buffer.count))
        }
        stream.bytes += chunk
        if chunk.isEmpty {
            close(stream.descriptor)
            stream.descriptor = -1
        }
    }
}
