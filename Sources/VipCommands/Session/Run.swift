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
            HOME, SHELL, USER, LOGNAME and the PATH of /etc/login.defs; of the caller's, only TERM, COLORTERM \
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
        let signals = try SignalReader(CgroupCommand.signals)
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
                if CgroupCommand.passedOn.contains(signal.number) { early = early ?? signal.number }
                if signal.number == SIGTSTP { vip_stop() }
            }
            if let early {
                result = .success(128 + early)
            } else {
                // The arguments are passed on byte by byte, because they need not be UTF-8.
                let words = CStrings(copying: ProcessArguments.last(command.count))
                var started = CgroupCommand(name: command[0], arguments: words)
                started.user = account
                started.keepsEnvironment = preserveEnv
                started.usesTerminal = !noPty
                started.terminalHint = "use --no-pty"
                result = .success(try started.run(in: Cgroup(path: record.cgroupPath), signals))
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
}
