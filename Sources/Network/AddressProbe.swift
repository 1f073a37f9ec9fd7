// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
public import Host
import SystemPackage

/// Asks on the link whether another host has an address, and tells the link that this one has it now.
///
/// IPv4 as RFC 5227 says, by busybox's arping: probes have no sender address, so that no cache learns of them and no proxy
/// answers for what is behind it. IPv6 by the kernel's neighbour discovery (RFC 4861), with no process at all; it needs no
/// announcement, since neighbours find out by themselves that one has moved (section 7.3).
public struct AddressProbe: Sendable {
    /// An address, and the interface that it is to be placed on.
    public struct Question: Sendable, Hashable {
        public let address: IPAddress
        public let interface: String

        public init(_ address: IPAddress, on interface: String) {
            self.address = address
            self.interface = interface
        }
    }

    /// What came back.
    public struct Answers: Sendable {
        /// Who else has an address: a link-layer address, as text.
        public var taken: [IPAddress: String] = [:]
        /// Why some could not be asked about; they are taken for free.
        public var failures: [Failure] = []

        public init() {}
    }

    /// How many arpings run at once: one takes 1 MiB and no time of the processor.
    private static let atOnce = 64
    /// Half of what the kernel's table of neighbours holds before it removes others' entries (gc_thresh2, 512, arp(7)).
    private static let neighboursAtOnce = 256

    /// Has the applet `arping`; `nil` where none is installed.
    private let program: String?

    public init() {
        // Not by PATH: at a login, what PAM has read from a user's files may have a say in that.
        let directories = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"]
        program = directories.map { "\($0)/busybox" }.first { access($0, X_OK) == 0 }
    }

    /// Asks about addresses, all at once as far as that goes. Blocks for `seconds` and a little.
    ///
    /// - Parameter seconds: how long to wait for an answer, at least 1; one question a second.
    public func ask(_ questions: [Question], seconds: Int) -> Answers {
        var answers = Answers()
        let v6 = questions.filter { $0.address.family == .v6 }
        let v4 = questions.filter { $0.address.family == .v4 }
        // Of both families at once: the kernel asks while arping does.
        var pending = begin(v6.prefix(Self.neighboursAtOnce), seconds, &answers)
        for start in stride(from: 0, to: v4.count, by: Self.atOnce) {
            askByARP(v4[start...].prefix(Self.atOnce), seconds, &answers)
        }
        for start in stride(from: Self.neighboursAtOnce, to: v6.count, by: Self.neighboursAtOnce) {
            finish(pending, &answers)
            pending = begin(v6[start...].prefix(Self.neighboursAtOnce), seconds, &answers)
        }
        finish(pending, &answers)
        return answers
    }

    /// Tells neighbours whose caches have another host for an IPv4 address (RFC 5227, section 2.3: twice, a second apart
    /// here). Waits for nothing, and leaves nobody to be waited for.
    public func announce(_ questions: [Question]) {
        guard let program else { return }
        let byInterface = Dictionary(grouping: questions.filter { $0.address.family == .v4 }, by: \.interface)
        for (interface, some) in byInterface {
            // A shell that ends at once, so that whoever opens the session has no child: the rest is init's.
            let script = """
                program=$1 interface=$2; shift 2
                (printf '%s\\n' "$@" | xargs -P \(Self.atOnce) -I '{}' \
                    "$program" arping -U -q -c 2 -w 2 -I "$interface" -s '{}' '{}') </dev/null >/dev/null 2>&1 &
                """
            // An argument list has 128 KiB at least (ARG_MAX, limits.h): 4096 addresses of 16 bytes and a pointer fit.
            for start in stride(from: 0, to: some.count, by: 4096) {
                let addresses = some[start...].prefix(4096).map(\.address.description)
                let arguments = ["/bin/sh", "-c", script, "sh", program, interface] + addresses
                if let shell = try? Child(arguments, readingOutput: false) { _ = shell.finish() }
            }
        }
    }

    // MARK: IPv4

    private func askByARP(_ questions: ArraySlice<Question>, _ seconds: Int, _ answers: inout Answers) {
        guard let first = questions.first else { return }
        guard let program else { return answers.failures.append(Self.failure(first, "busybox is not installed")) }
        var running: [(question: Question, child: Child)] = []
        for question in questions {
            let arguments = [
                program, "arping", "-D", "-f", "-c", "\(seconds)", "-w", "\(seconds)", "-I", question.interface,
                question.address.description,
            ]
            do throws(Errno) {
                running.append((question, try Child(arguments, readingOutput: true)))
            } catch {
                answers.failures.append(Self.failure(question, "\(program) does not start: \(error)"))
                break
            }
        }
        for (question, child) in running {
            let (text, status) = child.finish()
            // Its exit code does not tell an answer from a failure; the line with the other's link-layer address does.
            if let other = Self.other(in: text) {
                answers.taken[question.address] = other
            } else if status != 0 {
                let line = text.split(separator: "\n").last.map(String.init)
                answers.failures.append(Self.failure(question, line ?? "arping ended with \(status)"))
            }
        }
    }

    private static func failure(_ question: Question, _ why: String) -> Failure {
        Failure(
            .failed, "ask on \(question.interface) who has \(question.address)", why,
            hint: "install busybox, or set virtualIP.addresses.probeSeconds to 0")
    }

    /// The link-layer address in busybox arping's line `Unicast reply from 192.0.2.1 [02:00:00:00:00:01] 0.014ms`.
    static func other(in text: String) -> String? {
        for line in text.split(separator: "\n") where line.contains(" reply from ") || line.contains(" request from ") {
            guard let open = line.firstIndex(of: "["), let close = line[open...].firstIndex(of: "]") else { continue }
            let address = line[line.index(after: open)..<close]
            if !address.isEmpty, address.allSatisfy({ $0.isHexDigit || $0 == ":" }) { return String(address) }
        }
        return nil
    }

    // MARK: IPv6

    /// What the kernel asks about, and when it is to be looked at.
    private struct Pending {
        var questions: [Question] = []
        var end = ContinuousClock.now
    }

    private func begin(_ questions: ArraySlice<Question>, _ seconds: Int, _ answers: inout Answers) -> Pending {
        guard !questions.isEmpty else { return Pending() }
        var pending = Pending(questions: [], end: .now + .seconds(seconds))
        do throws(Failure) {
            let netlink = try Netlink()
            let known = try netlink.neighbours(.v6)
            for question in questions {
                // What an administrator wrote down is an answer.
                if let neighbour = known[question], neighbour.isPermanent {
                    answers.taken[question.address] = neighbour.linkAddress
                } else {
                    try netlink.solicit(question.address, on: question.interface)
                    pending.questions.append(question)
                }
            }
        } catch {
            answers.failures.append(error)
        }
        return pending
    }

    private func finish(_ pending: Pending, _ answers: inout Answers) {
        guard !pending.questions.isEmpty else { return }
        let left = ContinuousClock.now.duration(to: pending.end)
        if left > .zero { Thread.sleep(forTimeInterval: left / .seconds(1)) }
        do throws(Failure) {
            let netlink = try Netlink()
            let answered = try netlink.neighbours(.v6)
            for question in pending.questions {
                if let other = answered[question]?.linkAddress { answers.taken[question.address] = other }
                try netlink.forgetNeighbour(question.address, on: question.interface)
            }
        } catch {
            answers.failures.append(error)
        }
    }
}

/// A child process that is waited for by its PID alone: one that it leaves behind is no matter of ours. (Foundation's Process
/// waits until a socket is closed that those have, too.)
private struct Child {
    private let pid: pid_t
    /// What it writes; `nil` where nobody wants it. arping writes some lines, and a pipe holds 64 KiB (pipe(7)).
    private let output: CInt?

    /// - Parameter arguments: the first is the path of the program. Its environment is a PATH, and nothing of ours.
    init(_ arguments: [String], readingOutput: Bool) throws(Errno) {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        let ends = readingOutput ? try FileDescriptor.pipe(options: .closeOnExec) : nil
        if let ends {
            posix_spawn_file_actions_adddup2(&actions, ends.writeEnd.rawValue, STDOUT_FILENO)
        } else {
            posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)
        }
        posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)
        // Whoever calls may have blocked signals, and ignores SIGPIPE.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        var all = sigset_t()
        sigemptyset(&none)
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        var variables: [UnsafeMutablePointer<CChar>?] = [strdup("PATH=/usr/sbin:/usr/bin:/sbin:/bin"), nil]
        defer { for word in words + variables { free(word) } }
        var pid: pid_t = 0
        let error = posix_spawn(&pid, arguments[0], &actions, &attributes, &words, &variables)
        if let ends { close(ends.writeEnd.rawValue) }
        guard error == 0 else {
            if let ends { close(ends.readEnd.rawValue) }
            throw Errno(rawValue: error)
        }
        self.pid = pid
        output = ends?.readEnd.rawValue
    }

    /// Waits until it has ended, once: what it wrote, and its exit code, or 128 and the signal.
    func finish() -> (text: String, status: CInt) {
        var bytes: [UInt8] = []
        if let output {
            var buffer = [UInt8](repeating: 0, count: 4096)
            while true {
                let count = read(output, &buffer, buffer.count)
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { break }
                bytes += buffer[..<count]
            }
            close(output)
        }
        var status: CInt = 0
        while waitpid(pid, &status, 0) < 0 {
            guard errno == EINTR else { return (String(decoding: bytes, as: UTF8.self), -1) }
        }
        let signal = status & 0x7f  // WTERMSIG of sys/wait.h, a macro that does not import
        return (String(decoding: bytes, as: UTF8.self), signal == 0 ? (status >> 8) & 0xff : 128 + signal)
    }
}
