// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
package import SystemPackage

/// A child process. It is waited for by its PID alone, and not for processes that it leaves behind. (Foundation's
/// Process waits until a socket is closed that those inherit.)
///
/// It has only the three standard descriptors, no signal blocked or ignored, and the environment that it is given. To
/// start a program inside a cgroup, use `vip_spawn()` of CHost: posix_spawn(3) has no option for it.
package struct ChildProcess: Sendable {
    package let pid: CInt
    /// The end of the pipe to read its output from, if there is one.
    private let output: CInt?

    /// Where its standard output and standard error go.
    package enum Output: Sendable {
        case nowhere
        /// A pipe that ``finish()`` reads. It holds 64 KiB, pipe(7).
        case pipe
        /// A file, which is truncated or created with mode 0600.
        case file(FilePath)
    }

    /// The PATH of the system's programs, and no variable of the caller's.
    package static let plainEnvironment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]

    /// Starts a program: posix_spawn(3).
    ///
    /// - Parameters:
    ///   - arguments: the first is the path of the program.
    ///   - inNewSession: whether it is to lead a session: setsid(2).
    package init(
        _ arguments: [String], environment: [String] = plainEnvironment, output: Output, inNewSession: Bool = false
    ) throws(Errno) {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        var ends: (readEnd: FileDescriptor, writeEnd: FileDescriptor)?
        switch output {
        case .nowhere: posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)
        case .file(let path):
            posix_spawn_file_actions_addopen(
                &actions, STDOUT_FILENO, path.string, O_WRONLY | O_CREAT | O_APPEND | O_TRUNC, 0o600)
        case .pipe:
            ends = try FileDescriptor.pipe(options: .closeOnExec)
            if let ends { posix_spawn_file_actions_adddup2(&actions, ends.writeEnd.rawValue, STDOUT_FILENO) }
        }
        posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)
        // Some descriptors of the process are not close-on-exec.
        vip_spawn_close_from(&actions, 3)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // The caller may have blocked signals, and ignores SIGPIPE.
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        sigfillset(&signals)
        posix_spawnattr_setsigdefault(&attributes, &signals)
        let newSession: Int16 = 0x80  // POSIX_SPAWN_SETSID of spawn.h, which Swift's view of glibc lacks
        posix_spawnattr_setflags(
            &attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF) | (inNewSession ? newSession : 0))
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        var variables: [UnsafeMutablePointer<CChar>?] = environment.map { strdup($0) } + [nil]
        defer { for word in words + variables { free(word) } }
        var pid: pid_t = 0
        let error = posix_spawn(&pid, arguments[0], &actions, &attributes, &words, &variables)
        if let ends { close(ends.writeEnd.rawValue) }
        guard error == 0 else {
            if let ends { close(ends.readEnd.rawValue) }
            throw Errno(rawValue: error)
        }
        self.pid = pid
        self.output = ends?.readEnd.rawValue
    }

    /// Waits until the process has ended. Call it once. Returns what it wrote, and its exit code, or 128 plus the
    /// signal.
    package func finish() -> (text: String, status: CInt) {
        var text = ""
        if let output {
            text = String(decoding: (try? readWholeFile(output)) ?? [], as: UTF8.self)
            close(output)
        }
        var status: CInt = 0
        while waitpid(pid, &status, 0) < 0 {
            guard errno == EINTR else { return (text, -1) }
        }
        return (text, Self.exitCode(status))
    }

    /// The exit code in a status of waitpid(2): the program's, or 128 plus the signal that ended it.
    package static func exitCode(_ status: CInt) -> CInt {
        let signal = status & 0x7f  // WTERMSIG of sys/wait.h, a macro that does not import
        return signal == 0 ? status >> 8 & 0xff : 128 + signal
    }
}
