// SPDX-License-Identifier: Apache-2.0

public import Glibc
import Testing

/// A `Program` of which a test needs only some lines, or the end.
public final class Child {
    private let program: Program
    public var pid: pid_t { program.pid }

    public init(_ arguments: String...) throws { program = try Program(arguments) }

    /// The next line of its output; "" at its end.
    public func line() throws -> String {
        do { return try program.readLine() } catch { return program.outputText }
    }

    public func send(_ text: String) throws { try program.write(text) }

    /// Ends its standard input.
    public func closeInput() { program.closeInput() }

    public func kill() {
        program.signal(SIGKILL)
        wait()
    }

    /// The exit code, or 128 plus the signal that ended it.
    @discardableResult public func wait() -> Int32 { (try? program.reap()) ?? -1 }
}

/// Runs a command to its end; it must succeed.
public func shell(_ command: String) throws {
    try #require(Child("sh", "-c", command).wait() == 0, "\(command)")
}
