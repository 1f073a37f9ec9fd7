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
            Makes a cgroup below the first attached one, a session on it, and starts the command in it. Waits until the \
            last process of the session has ended, so also for daemons that the command leaves behind; then session and \
            cgroup go, and the exit code is the command's (128 + N where signal N ended it). SIGTERM, SIGHUP, SIGINT and \
            SIGQUIT are passed on to the command.

            With --user, the command runs as that user, and the session is recorded as that user's.

            EXAMPLES
              vip-bpfctl run -- redis-server --port 6379
              vip-bpfctl run --ip 10.20.0.17 --user ann -- /opt/crm/bin/crm
            """
    )

    @OptionGroup var new: NewSessionOptions
    @Option(help: ArgumentHelp("The user to run the command as.", valueName: "name"))
    var user: String?
    @OptionGroup var options: InstanceOptions
    @Argument(parsing: .postTerminator, help: ArgumentHelp("The command and its arguments.", valueName: "command"))
    var command: [String] = []

    func validate() throws {
        if command.isEmpty { throw ValidationError("there is no command; write: vip-bpfctl run -- COMMAND [ARG…]") }
        if let user { try SessionBatch.check(user: user) }
    }

    func run() throws {
        // Blocked from here on, so that none ends this process between making the session and giving it back.
        let signals = try SignalReader([SIGTERM, SIGHUP, SIGINT, SIGQUIT])
        let new = new
        let user = user
        guard let keeper = ProcessIdentity(pid: getpid()) else {
            throw Failure(
                .unavailable, "run \(command[0])", "this process is not in /proc", hint: "mount -t proc proc /proc")
        }
        var cgroup: Cgroup?
        let opened: Opened
        do throws(Failure) {
            opened = try options.open { change throws(Failure) in
                let own: Cgroup
                if let made = cgroup {
                    own = made
                } else {
                    guard let parent = try change.attachedCgroups().first else {
                        throw Failure(
                            .failed, "make a cgroup for the session", "no cgroup is attached",
                            hint: "attach one first: vip-bpfctl attach cgroup PATH")
                    }
                    own = try parent.makeChild(named: "run-\(keeper.pid)-\(keeper.startTime)")
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
            _ = try LeaseWait.wait(for: record, opened.awaitingLease, options)
            // What came while the link was asked: there is no command yet that it could have been for.
            if let signal = signals.next() {
                result = .success(128 + signal.number)
            } else {
                result = .success(try follow(record, signals))
            }
        } catch {
            result = .failure(error)
        }
        do throws(Failure) {
            try close(record)
        } catch {
            // The command's own exit code counts for more; the next command finds the session and closes it.
            options.logger.warning("\(error)")
        }
        throw ExitCode(try result.get())
    }

    private func close(_ record: SessionRecord) throws(Failure) {
        try options.change { change throws(Failure) in
            // Another command may have closed it meanwhile.
            if try change.registry.session(id: record.id)?.cgroupID == record.cgroupID {
                let ended = try change.close(record.id, because: .runEnded)
                EventLog.reportOfCommand(Event.closing(of: ended, because: "the command has ended"))
            } else if record.isCgroupThere {
                try Cgroup(path: record.cgroupPath).remove()
            }
        }
    }

    /// Starts the command, passes signals on, and returns its exit code once the cgroup is empty.
    private func follow(_ record: SessionRecord, _ signals: borrowing SignalReader) throws(Failure) -> Int32 {
        let cgroup = try Cgroup(path: record.cgroupPath)
        let child = try start(in: cgroup)
        let rawPidfd = vip_pidfd(child)
        guard rawPidfd >= 0 else {
            try cgroup.kill()
            throw Failure("follow process \(child)", errno: Errno(rawValue: -rawPidfd))
        }
        let pidfd = Descriptor(owning: rawPidfd)

        var status: CInt = 0
        var isRunning = true
        while isRunning {
            var ready = [
                pollfd(fd: pidfd.raw, events: Int16(POLLIN), revents: 0),
                pollfd(fd: signals.descriptor, events: Int16(POLLIN), revents: 0),
            ]
            guard poll(&ready, nfds_t(ready.count), -1) >= 0 || errno == EINTR else {
                throw Failure("wait for process \(child)", errno: .current)
            }
            // A terminal's ^C has reached the command already: it is in the foreground like this process.
            while let signal = signals.next() {
                if !signal.isFromKernel { kill(child, signal.number) }
            }
            if waitpid(child, &status, WNOHANG) == child { isRunning = false }
        }
        // Daemons that it left: signals go to all of them now.
        while try cgroup.waitUntilEmpty(interruptedBy: FileDescriptor(rawValue: signals.descriptor)) != .empty {
            while let signal = signals.next() {
                for process in try cgroup.processes(subtree: true) { kill(process, signal.number) }
            }
        }
        return ChildProcess.exitCode(status)
    }

    private func start(in cgroup: Cgroup) throws(Failure) -> pid_t {
        let what = "run \(command[0])"
        let rawProcs = cgroup.path.appending("cgroup.procs").withPlatformString { open($0, O_WRONLY | O_CLOEXEC) }
        guard rawProcs >= 0 else { throw Failure(what, errno: .current) }
        let procs = Descriptor(owning: rawProcs)

        // As they came, byte by byte: neither need be UTF-8.
        let arguments = CStrings(copying: CommandLine.unsafeArgv + Int(CommandLine.argc) - command.count)
        let variables = CStrings(copying: environ)
        if let user {
            guard let account = getpwnam(user) else {
                throw Failure(.usage, what, "there is no user \(user)", hint: "see getent passwd")
            }
            variables.set("USER", to: user)
            variables.set("LOGNAME", to: user)
            variables.set("HOME", to: String(cString: account.pointee.pw_dir))
            variables.set("SHELL", to: String(cString: account.pointee.pw_shell))
        }
        var step = VIP_SPAWN_FORK
        let pid = withExtendedLifetime((arguments, variables)) {
            vip_spawn(procs.raw, user, arguments.array, variables.array, &step)
        }
        if pid > 0 { return pid }
        let error = Errno(rawValue: -pid)
        switch step {
        case VIP_SPAWN_EXEC:
            throw Failure(.failed, what, error.text, hint: "give the command's name or its path after --")
        case VIP_SPAWN_JOIN: throw Failure("\(what): move it into \(cgroup.path)", errno: error)
        case VIP_SPAWN_USER: throw Failure("\(what): become user \(user ?? "")", errno: error)
        default: throw Failure("\(what): fork", errno: error)
        }
    }
}

/// A NULL-terminated array of C strings, as execve(2) takes it.
final class CStrings {
    private var pointers: [UnsafeMutablePointer<CChar>?] = [nil]

    /// Copies an array that ends with NULL.
    init(copying strings: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) {
        var next = strings
        while let string = next.pointee {
            pointers.insert(strdup(string), at: pointers.count - 1)
            next += 1
        }
    }

    /// Gives an environment variable a value, in place of one that it has.
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

    /// Valid until the next ``set(_:to:)``, as long as this object lives.
    var array: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?> {
        pointers.withUnsafeMutableBufferPointer { buffer in
            // Never empty: the NULL is there.
            buffer.baseAddress.unsafelyUnwrapped
        }
    }

    deinit {
        for pointer in pointers { free(pointer) }
    }
}
