// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CHost
import Glibc
import Host
import Logging
import Sessions
import SystemPackage

struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a command in a new session.",
        discussion: """
            Makes a cgroup below the first attached one, opens a session on it, and starts the command there. Options \
            of run come before the command; -- may separate them. Waits until the last process of the session has \
            ended, including daemons that the command leaves behind. Then it removes session and cgroup and exits with \
            the command's exit code (128 + N if signal N ended it). SIGTERM, SIGHUP, SIGINT and SIGQUIT are passed on \
            to the command.

            The command also gets a setsid(2) session of its own, and no open files except standard input, output and \
            error. If standard input and output are terminals, it gets a pseudo-terminal: keys, output, window size \
            and hang-up are passed on, and the terminal is given back when the command itself ends. Programs that it \
            leaves running lose that pseudo-terminal then. Without one, the command has no controlling terminal, and \
            its output is not altered.

            With --user, the command runs as that user, and the session is recorded as that user's. As with runuser \
            -l, it starts in the user's home directory (/ if there is none), with umask 022, and its environment has \
            HOME, SHELL, USER, LOGNAME and a PATH of the system's directories; of the caller's, only TERM, COLORTERM \
            and NO_COLOR are kept. With --preserve-env, environment, directory and umask are the caller's, but HOME, \
            SHELL, USER and LOGNAME are the user's.

            EXAMPLES
              vip-bpfctl run redis-server --port 6379
              vip-bpfctl run --ip 10.20.0.17 --user ann /opt/crm/bin/crm
            """
    )

    @OptionGroup var new: NewSessionOptions
    @Option(help: ArgumentHelp("The user to run the command as.", valueName: "name"))
    var user: String?
    @Flag(help: "Keep the caller's environment, working directory and umask, though the command runs as --user.")
    var preserveEnv = false
    @Flag(help: "Make no pseudo-terminal: the command reads from the terminal and writes to it itself.")
    var noPty = false
    @OptionGroup var options: InstanceOptions
    @Argument(
        parsing: .captureForPassthrough, help: ArgumentHelp("The command and its arguments.", valueName: "command"))
    var command: [String] = []

    mutating func validate() throws {
        if command.first == "--" {
            command.removeFirst()
        } else if let option = command.first, option.hasPrefix("-") {
            if ["-h", "--help"].contains(option) { throw CleanExit.helpRequest(self) }
            throw ValidationError("Unknown option '\(option)'")
        }
        if command.isEmpty { throw ValidationError("there is no command; write: vip-bpfctl run COMMAND [ARG…]") }
        if let user { try SessionBatch.check(user: user) }
    }

    /// The signals that are passed on to the command.
    private static let passedOn: [CInt] = [SIGTERM, SIGHUP, SIGINT, SIGQUIT]

    func run() throws {
        let account = try user.map { user throws(Failure) in
            guard let account = try SystemUsers.account(of: user) else {
                throw Failure(.usage, "run \(command[0])", "there is no user \(user)", hint: "see getent passwd")
            }
            return account
        }
        // The caller may have left SIGCHLD ignored. The reader would then leave it out, and the command's exit code
        // would be lost.
        signal(SIGCHLD, SIG_DFL)
        // The signals are blocked from here on, so that none ends this process while the session exists.
        let signals = try SignalReader(Self.passedOn + [SIGTSTP, SIGCONT, SIGWINCH, SIGCHLD])
        let new = new
        let user = user
        let keeper = try ProcessIdentity.own("run \(command[0])")
        var cgroup: Cgroup?
        let opened: Opened
        do throws(Failure) {
            opened = try options.open { change throws(Failure) in
                let own: Cgroup
                if let made = cgroup {
                    own = made
                } else {
                    own = try change.makeRunCgroup(of: keeper, "make a cgroup for the session")
                    cgroup = own
                }
                var request = SessionRequest(cgroup: own)
                new.fill(&request)
                request.user = user
                request.createdCgroup = true
                request.keeper = .run
                request.keeperProcess = keeper
                return [request]
            }
        } catch {
            try? cgroup?.remove()
            throw error
        }
        let record = opened.records[0]
        let result: Result<Int32, Failure>
        do throws(Failure) {
            _ = try options.lease(for: record, of: opened)
            // A signal that arrived while other hosts were asked. There was no command to pass it to.
            var early: CInt?
            while let signal = signals.next() {
                if Self.passedOn.contains(signal.number) { early = early ?? signal.number }
                if signal.number == SIGTSTP { vip_stop() }
            }
            if let early {
                result = .success(128 + early)
            } else {
                result = .success(try follow(record, as: account, signals))
            }
        } catch {
            result = .failure(error)
        }
        do throws(Failure) {
            try close(record)
        } catch {
            // The command's exit code is more important. The next command finds the session and closes it.
            options.logger.warning("\(error)")
        }
        throw ExitCode(try result.get())
    }

    private func close(_ record: SessionRecord) throws(Failure) {
        try options.change { change throws(Failure) in
            // Another command may have closed it in between.
            if try change.registry.session(id: record.id)?.cgroupID == record.cgroupID {
                let closed = try change.close(record.id, because: .runEnded)
                EventLog.reportOfCommand(Event.closing(of: closed, because: "the command has ended"))
            } else if record.isCgroupThere {
                try Cgroup(path: record.cgroupPath).remove()
            }
        }
    }

    /// Waits for the command, passes signals on, and returns the exit code once the cgroup is empty.
    private func follow(
        _ record: SessionRecord, as account: SystemUsers.Account?, _ signals: borrowing SignalReader
    ) throws(Failure) -> Int32 {
        let cgroup = try Cgroup(path: record.cgroupPath)
        let isInteractive = !noPty && isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1
        let terminal = isInteractive ? try PseudoTerminal(owner: account?.number ?? getuid()) : nil
        let child = try start(in: cgroup, as: account, terminal)
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

    private func start(
        in cgroup: Cgroup, as account: SystemUsers.Account?, _ terminal: PseudoTerminal?
    ) throws(Failure) -> pid_t {
        let what = "run \(command[0])"
        let rawProcs = cgroup.path.appending("cgroup.procs").withPlatformString { open($0, O_WRONLY | O_CLOEXEC) }
        guard rawProcs >= 0 else { throw Failure(what, errno: .current) }
        let procs = Descriptor(owning: rawProcs)

        // The arguments are passed on byte by byte, because they need not be UTF-8.
        let arguments = CStrings(copying: CommandLine.unsafeArgv + Int(CommandLine.argc) - command.count)
        let variables = environment(of: account)
        let isLogin = account != nil && !preserveEnv
        let directory = isLogin ? account.map { strdup($0.home) } ?? nil : nil
        defer { free(directory) }
        var own = vip_surroundings(
            terminal: terminal?.slave ?? -1,
            // In a session of its own, the command would not be stopped for reading input that is meant for the shell.
            no_input: terminal == nil && isatty(STDIN_FILENO) == 1 && vip_terminal_is_ours(STDIN_FILENO) == 0 ? 1 : 0,
            directory: directory,
            umask: isLogin ? 0o022 : -1)
        var step = VIP_SPAWN_FORK
        let pid = withExtendedLifetime((arguments, variables)) {
            vip_spawn(procs.raw, user, arguments.array, variables.array, &own, &step)
        }
        if pid > 0 { return pid }
        let error = Errno(rawValue: -pid)
        switch step {
        case VIP_SPAWN_EXEC:
            let isMissing = error == .noSuchFileOrDirectory
            throw Failure(what, errno: error, hint: isMissing ? "give the command's name or its path" : nil)
        case VIP_SPAWN_JOIN: throw Failure("\(what): move it into \(cgroup.path)", errno: error)
        case VIP_SPAWN_TERMINAL: throw Failure("\(what): give it its own terminal session (setsid)", errno: error)
        case VIP_SPAWN_DESCRIPTORS:
            throw Failure("\(what): close the caller's files", errno: error, hint: "use Linux 5.9 or later")
        case VIP_SPAWN_USER: throw Failure("\(what): become user \(user ?? "")", errno: error)
        default: throw Failure("\(what): fork", errno: error)
        }
    }

    /// The environment of the command: the caller's, or that of `runuser -l` for a user.
    private func environment(of account: SystemUsers.Account?) -> CStrings {
        let caller = CStrings(copying: environ)
        guard let account else { return caller }
        let variables = preserveEnv ? caller : CStrings()
        if !preserveEnv {
            for name in ["TERM", "COLORTERM", "NO_COLOR"] {
                if let value = getenv(name) { variables.set(name, to: String(cString: value)) }
            }
            variables.set(
                "PATH",
                to: account.number == 0
                    ? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" : "/usr/local/bin:/usr/bin:/bin")
        }
        variables.set("USER", to: account.name)
        variables.set("LOGNAME", to: account.name)
        variables.set("HOME", to: account.home)
        variables.set("SHELL", to: account.shell.isEmpty ? "/bin/sh" : account.shell)
        return variables
    }
}

/// A NULL-terminated array of C strings for execve(2).
final class CStrings {
    private var pointers: [UnsafeMutablePointer<CChar>?] = [nil]

    init() {}

    /// Copies an array that ends with NULL.
    init(copying strings: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) {
        var next = strings
        while let string = next.pointee {
            pointers.insert(strdup(string), at: pointers.count - 1)
            next += 1
        }
    }

    /// Sets an environment variable, and replaces its value if it has one.
    func set(_ name: String, to value: String) {
        let entry = strdup("\(name)=\(value)")
        let old = pointers.firstIndex { pointer in
            pointer.map { strncmp($0, "\(name)=", name.utf8.count + 1) == 0 } ?? false
        }
        if let old {
            free(pointers[old])
            pointers[old] = entry
        } else {
            pointers.insert(entry, at: pointers.count - 1)
        }
    }

    /// The array. It is valid until the next ``set(_:to:)``, as long as this object exists.
    var array: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?> {
        pointers.withUnsafeMutableBufferPointer { buffer in
            // The buffer is never empty, because it contains the NULL.
            buffer.baseAddress.unsafelyUnwrapped
        }
    }

    deinit {
        for pointer in pointers { free(pointer) }
    }
}
