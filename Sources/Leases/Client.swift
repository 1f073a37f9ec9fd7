// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
import Host
import SystemPackage

/// A running udhcpc, the client of one lease. It goes on running after this process has ended, unless it is killed.
struct Client {
    let identity: ProcessIdentity
    /// From pidfd_open(2): readable when the process has ended. A signal sent through it cannot reach another process.
    let descriptor: CInt

    /// The script that udhcpc runs at each event (udhcpc(8), -s). It appends one line in one write: udhcpc's PID, the
    /// time, the event, and the lease. It uses only values that udhcpc has formatted itself, from four bytes each, and
    /// no other part of an answer.
    static let script = """
        #!/bin/sh
        # Made by vip-bpf. Reports what happens to a lease.
        read -r uptime idle </proc/uptime
        printf '%s\\n' "$PPID $uptime ${1-} ${ip:--} ${serverid:--} ${lease:--}" >>"$VIP_LEASE_EVENTS"

        """

    /// Finds the executable and its first arguments: udhcpc, or a busybox that may contain it.
    static func find() -> [String]? {
        for name in ["udhcpc", "busybox"] {
            for directory in ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"]
            where access("\(directory)/\(name)", X_OK) == 0 {
                return ["\(directory)/\(name)"] + (name == "busybox" ? ["udhcpc"] : [])
            }
        }
        return nil
    }

    /// Starts a client with setsid(2), so that a terminal's ^C does not reach it.
    ///
    /// - Parameters:
    ///   - events: the file that the script appends to.
    ///   - log: the file that gets udhcpc's output.
    static func start(_ command: [String], events: FilePath, log: FilePath) throws(Failure) -> Client {
        let what = "start \(command[0])"
        let environment = ChildProcess.plainEnvironment + ["LC_ALL=C", "VIP_LEASE_EVENTS=\(events)"]
        let pid: pid_t
        do throws(Errno) {
            pid = try ChildProcess(command, environment: environment, output: .file(log), inNewSession: true).pid
        } catch {
            if error == .noSuchFileOrDirectory || error == .notDirectory { throw missing(what) }
            throw Failure(what, errno: error)
        }
        let descriptor = vip_pidfd(pid)
        guard descriptor >= 0, let identity = ProcessIdentity(pid: pid) else {
            // The child was not waited for, so its PID was not reused.
            kill(pid, SIGKILL)
            while waitpid(pid, nil, 0) < 0, errno == EINTR {}
            if descriptor >= 0 { close(descriptor) }
            throw Failure(what, errno: Errno(rawValue: descriptor < 0 ? -descriptor : ESRCH))
        }
        return Client(identity: identity, descriptor: descriptor)
    }

    static func missing(_ what: String) -> Failure {
        Failure(.unavailable, what, "udhcpc is not installed", hint: "apt-get install udhcpc")
    }

    /// The client that a lease file names, if that process still runs and is a client with this identifier.
    static func adopt(_ identity: ProcessIdentity, client: ClientIdentifier) -> Client? {
        guard let found = Client(pid: identity.pid, where: { $0.contains("0x3d:\(client)") }) else { return nil }
        if found.identity == identity { return found }
        close(found.descriptor)
        return nil
    }

    /// Every process that runs this script, whichever process started it.
    static func all(script: FilePath) -> [Client] {
        var found: [Client] = []
        for entry in (try? Directory.entries(of: "/proc")) ?? [] {
            guard let pid = pid_t(entry.name) else { continue }
            if let client = Client(pid: pid, where: { $0.contains("-s") && $0.contains(script.string) }) {
                found.append(client)
            }
        }
        return found
    }

    private init(identity: ProcessIdentity, descriptor: CInt) {
        self.identity = identity
        self.descriptor = descriptor
    }

    /// The process with this PID, if its arguments satisfy the condition.
    private init?(pid: pid_t, where condition: ([String]) -> Bool) {
        func isOne() -> Bool {
            guard let command = try? readWholeFile(FilePath("/proc/\(pid)/cmdline")) else { return false }
            return condition(command.split(separator: 0).map { String(decoding: $0, as: UTF8.self) })
        }
        guard isOne() else { return nil }
        let descriptor = vip_pidfd(pid)
        guard descriptor >= 0 else { return nil }
        // Check again after pidfd_open: now the PID cannot belong to another process than the descriptor.
        guard isOne(), let identity = ProcessIdentity(pid: pid) else {
            close(descriptor)
            return nil
        }
        self.init(identity: identity, descriptor: descriptor)
    }

    func renew() { _ = vip_pidfd_signal(descriptor, SIGUSR1) }

    /// Kills the client. It has nothing to clean up, and without -R it does not release its lease.
    ///
    /// - Returns: `false` if it still runs after 2 s, because the kernel delays its end. The caller must reap it later.
    func end() -> Bool {
        _ = vip_pidfd_signal(descriptor, SIGKILL)
        var ready = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        var count: CInt
        repeat { count = poll(&ready, 1, 2000) } while count < 0 && errno == EINTR
        guard count > 0 else { return false }
        _ = reap()
        return true
    }

    /// Reaps the clients that are children of this process, as they end. Returns when none is left.
    static func reapAll(_ clients: [Client]) {
        var left = clients
        while !left.isEmpty {
            var list = left.map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
            guard poll(&list, nfds_t(list.count), -1) > 0 else { continue }
            let ended = Set(list.filter { $0.revents != 0 }.map(\.fd))
            for client in left where ended.contains(client.descriptor) { _ = client.reap() }
            left.removeAll { ended.contains($0.descriptor) }
        }
    }

    /// Closes the descriptor of a client that has ended, and reaps it if it is a child of this process. A client that
    /// an earlier process started is reaped by init.
    ///
    /// - Returns: how it ended, if it was a child of this process.
    func reap() -> String? {
        let status = vip_pidfd_reap(descriptor)
        close(descriptor)
        guard status >= 0 else { return nil }
        let signal = status & 0x7f
        return signal == 0 ? "exit code \(status >> 8 & 0xff)" : "killed by signal \(signal)"
    }
}
