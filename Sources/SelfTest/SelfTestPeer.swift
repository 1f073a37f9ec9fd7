// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import SystemPackage

/// A program of the self-test, and the socket to it.
final class SelfTestPeer {
    let pid: pid_t
    private let line: FileDescriptor
    private var isReaped = false
    private var rest: [UInt8] = []

    /// How long one answer may take; the program's own timeouts are 2 s each.
    private static let patience: Duration = .seconds(20)

    init(in cgroup: Cgroup) throws(Failure) {
        let what = "start a program of the self-test in \(cgroup.path)"
        var ends: [CInt] = [0, 0]
        let kind = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else { throw Failure(what, errno: .current) }
        let (ours, its) = (FileDescriptor(rawValue: ends[0]), ends[1])
        defer { Glibc.close(its) }
        // The program inherits only its end of the socket.
        guard fcntl(its, F_SETFD, 0) == 0 else {
            try? ours.close()
            throw Failure(what, errno: .current)
        }
        do throws(Failure) {
            pid = try CgroupProcess.start(
                CStrings(SelfTestProgram.arguments(line: its)), CStrings(copying: environ), in: cgroup, for: what)
        } catch {
            try? ours.close()
            throw error
        }
        line = ours
    }

    deinit { reap() }

    /// Ends the program, if it has not ended: it exits at the end of its input.
    func reap() {
        guard !isReaped else { return }
        isReaped = true
        try? line.close()
        kill(pid, SIGKILL)
        while waitpid(pid, nil, 0) < 0, errno == EINTR {}
    }

    /// Sends a line, and waits for the words of the answer.
    ///
    /// - Throws: ``Failure`` if the program does not answer, or a signal tells this process to end.
    func ask(_ command: String, _ signals: borrowing SignalReader) throws(Failure) -> [String] {
        let what = "run the self-test (\(command))"
        var bytes = Array((command + "\n").utf8)[...]
        while !bytes.isEmpty {
            let count = bytes.withUnsafeBytes { send(line.rawValue, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) }
            guard count > 0 else { throw Failure(what, errno: .current) }
            bytes = bytes.dropFirst(count)
        }
        let deadline = ContinuousClock.now + Self.patience
        while true {
            if let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
                let answer = String(decoding: rest[..<end], as: UTF8.self)
                rest.removeSubrange(...end)
                return answer.split(separator: " ").map(String.init)
            }
            var ready = [
                pollfd(fd: line.rawValue, events: Int16(POLLIN), revents: 0),
                pollfd(fd: signals.descriptor, events: Int16(POLLIN), revents: 0),
            ]
            let left = ContinuousClock.now.duration(to: deadline)
            guard left > .zero else { throw Failure(.failed, what, "its program did not answer", hint: "try again") }
            guard poll(&ready, nfds_t(ready.count), left.pollTimeout) >= 0 || errno == EINTR else {
                throw Failure(what, errno: .current)
            }
            if let signal = signals.next() {
                throw Failure(
                    Failure.Code("interrupted", exitCode: 128 + signal.number), "run the self-test",
                    "it was interrupted")
            }
            guard ready[0].revents != 0 else { continue }
            var buffer = [UInt8](repeating: 0, count: 4096)
            let count = recv(line.rawValue, &buffer, buffer.count, 0)
            guard count > 0 else { throw Failure(.failed, what, "its program has ended", hint: "try again") }
            rest += buffer[..<count]
        }
    }
}
