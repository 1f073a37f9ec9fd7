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
                if let shell = try? ChildProcess(arguments, output: .nowhere) { _ = shell.finish() }
            }
        }
    }

    // MARK: IPv4

    private func askByARP(_ questions: ArraySlice<Question>, _ seconds: Int, _ answers: inout Answers) {
        guard let first = questions.first else { return }
        guard let program else { return answers.failures.append(Self.failure(first, "busybox is not installed")) }
        var running: [(question: Question, child: ChildProcess)] = []
        for question in questions {
            let arguments = [
                program, "arping", "-D", "-f", "-c", "\(seconds)", "-w", "\(seconds)", "-I", question.interface,
                question.address.description,
            ]
            do throws(Errno) {
                running.append((question, try ChildProcess(arguments, output: .pipe)))
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
