// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
import SystemPackage

/// A command that runs in a cgroup while this process waits for it and stands between it and the terminal.
package struct CgroupCommand {
    /// For messages.
    package let name: String
    package let arguments: CStrings
    /// The user to run it as; `nil` for the caller.
    package var user: SystemUsers.Account?
    /// Whether a command of another user has the caller's environment, working directory and umask.
    package var keepsEnvironment = false
    /// Whether it gets a pseudo-terminal if standard input and output are terminals.
    package var usesTerminal = true
    /// What to do if there is no pseudo-terminal.
    package var terminalHint = ""

    package init(name: String, arguments: CStrings) {
        self.name = name
        self.arguments = arguments
    }

    /// The signals that are passed on to the command.
    package static let passedOn: [CInt] = [SIGTERM, SIGHUP, SIGINT, SIGQUIT]
    /// The signals that ``run(in:_:)`` reads. They must be blocked before.
    package static let signals = passedOn + [SIGTSTP, SIGCONT, SIGWINCH, SIGCHLD]

    /// Starts the command, passes signals on, and returns the exit code once the cgroup is empty.
    package func run(in cgroup: Cgroup, _ signals: borrowing SignalReader) throws(Failure) -> Int32 {
        let isInteractive = usesTerminal && isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1
        let terminal =
            isInteractive ? try PseudoTerminal(owner: user?.number ?? getuid(), hint: terminalHint) : nil
        let child = try start(in: cgroup, terminal)
        let rawPidfd = vip_pidfd(child)
        guard rawPidfd >= 0 else {
            try cgroup.kill()
            throw Failure("follow process \(child)", errno: Errno(rawValue: -rawPidfd))
        }
        let pidfd = Descriptor(owning: rawPidfd)

        var status: CInt = 0
        var isRunning = true
        while isRunning || terminal?.hasOutput == true {
            var ready = [
                pollfd(fd: isRunning ? pidfd.raw : -1, events: Int16(POLLIN), revents: 0),
                pollfd(fd: signals.descriptor, events: Int16(POLLIN), revents: 0),
            ]
            if let terminal { ready += terminal.polled() }
            guard poll(&ready, nfds_t(ready.count), terminal?.patience ?? -1) >= 0 || errno == EINTR else {
                throw Failure("wait for process \(child)", errno: .current)
            }
            terminal?.copy(ready[2...])
            while let signal = signals.next() {
                switch signal.number {
                case SIGTSTP where isRunning:
                    // SIGTSTP has no effect on the leader of a session, because its process group is orphaned.
                    kill(-child, SIGSTOP)
                    suspend(child, terminal)
                case SIGCONT: terminal?.takeAgain()
                case SIGWINCH: terminal?.resize()
                case SIGCHLD, SIGTSTP: break
                case _ where isRunning:
                    // A signal from the terminal, such as ^C, is for all processes in the foreground.
                    kill(signal.isFromKernel ? -child : child, signal.number)
                default:
                    terminal?.close()
                    try pass(signal.number, to: cgroup)
                }
            }
            guard isRunning, waitpid(child, &status, WNOHANG | (terminal == nil ? 0 : WUNTRACED)) == child else {
                continue
            }
            if status & 0xff != 0x7f {  // WIFSTOPPED of sys/wait.h, a macro that does not import
                isRunning = false
            } else if terminal?.isInForeground == true {
                suspend(child, terminal)
            }
        }
        terminal?.close()
        // The command has left daemons behind: from now on, signals go to all of them.
        while try cgroup.waitUntilEmpty(interruptedBy: FileDescriptor(rawValue: signals.descriptor)) != .empty {
            while let signal = signals.next() {
                if signal.number == SIGTSTP { vip_stop() }
                if Self.passedOn.contains(signal.number) { try pass(signal.number, to: cgroup) }
            }
        }
        return ChildProcess.exitCode(status)
    }

    private func pass(_ signal: CInt, to cgroup: Cgroup) throws(Failure) {
        for process in try cgroup.processes(subtree: true) { kill(process, signal) }
    }

    /// Stops this process as ^Z does, so that the shell which started it goes on. Afterwards, continues the command.
    private func suspend(_ child: pid_t, _ terminal: PseudoTerminal?) {
        terminal?.giveBack()
        vip_stop()
        kill(-child, SIGCONT)
    }

    private func start(in cgroup: Cgroup, _ terminal: PseudoTerminal?) throws(Failure) -> CInt {
        let isLogin = user != nil && !keepsEnvironment
        let own = CgroupProcess.Surroundings(
            terminal: terminal?.slave,
            // In a session of its own, the command would not be stopped for reading input that is meant for the shell.
            hasNoInput: terminal == nil && isatty(STDIN_FILENO) == 1 && vip_terminal_is_ours(STDIN_FILENO) == 0,
            directory: isLogin ? user?.home : nil, umask: isLogin ? 0o022 : nil)
        return try CgroupProcess.start(
            arguments, environment(), in: cgroup, as: user?.name, with: own, for: "run \(name)",
            ifMissing: "give the command's name or its path")
    }

    /// The environment of the command: the caller's, or that of `runuser -l` for a user.
    private func environment() -> CStrings {
        let caller = CStrings(copying: environ)
        guard let account = user else { return caller }
        let variables = keepsEnvironment ? caller : CStrings()
        if !keepsEnvironment {
            for name in ["TERM", "COLORTERM", "NO_COLOR"] {
                if let value = getenv(name) { variables.set(name, to: String(cString: value)) }
            }
            variables.set("PATH", to: LoginDefinitions.path(ofRoot: account.number == 0))
        }
        variables.set("USER", to: account.name)
        variables.set("LOGNAME", to: account.name)
        variables.set("HOME", to: account.home)
        variables.set("SHELL", to: account.shell.isEmpty ? "/bin/sh" : account.shell)
        return variables
    }
}
