// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
import SystemPackage

/// Asks on the link whether another host has an address, and tells the link that this one has it now.
///
/// IPv4 by ARP as RFC 5227 says: probes have no sender address, so no cache learns from them and no proxy answers for what is
/// behind it. IPv6 questions by the kernel's neighbour discovery (RFC 4861). Links that are not Ethernet are passed over by ARP
/// and by announcements.
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

    /// How many IPv6 addresses are asked about at once: half of what the kernel's table of neighbours holds before it removes
    /// others' entries (gc_thresh2, 512, arp(7)). IPv4 has no limit.
    public static let neighboursAtOnce = 256
    /// Between two announcements of an address: ANNOUNCE_INTERVAL, RFC 5227, section 1.1.
    public static let announceInterval: Duration = .seconds(2)

    public init() {}

    /// Asks about addresses: those of IPv4 all at once, those of IPv6 ``neighboursAtOnce`` at a time. Blocks for `seconds` and
    /// a little, less where another host has every address, more where there are more IPv6 addresses than that.
    ///
    /// - Parameter seconds: how long to wait for an answer, at least 1; one question a second.
    public func ask(_ questions: [Question], seconds: Int) -> Answers {
        var answers = Answers()
        let v6 = questions.filter { $0.address.family == .v6 }
        // Of both families at once: the kernel asks while this waits for ARP.
        var pending = begin(v6.prefix(Self.neighboursAtOnce), seconds, &answers)
        askByARP(questions.filter { $0.address.family == .v4 }, seconds, &answers)
        for start in stride(from: Self.neighboursAtOnce, to: v6.count, by: Self.neighboursAtOnce) {
            finish(pending, &answers)
            pending = begin(v6[start...].prefix(Self.neighboursAtOnce), seconds, &answers)
        }
        finish(pending, &answers)
        return answers
    }

    /// Tells neighbours that this host has these addresses, so that those whose caches have another host for one learn of it:
    /// by ARP announcements (RFC 5227, section 2.3) and unsolicited neighbour advertisements (RFC 4861, section 7.2.6). Each
    /// is sent twice. What could not be sent is not reported: neighbours find out by themselves, later.
    ///
    /// - Parameter interval: how long to block before the second time, ``announceInterval`` by the RFC. Without it both are
    ///   sent at once: for a process that must end, two insure against one lost frame.
    public func announce(_ questions: [Question], interval: Duration = .zero) {
        var failures: [Failure] = []
        let links = Self.links(of: questions, &failures)
        for round in 0..<2 where !links.isEmpty {
            if round > 0, interval > .zero { usleep(useconds_t(interval / .microseconds(1))) }
            for link in links {
                // A link that fails here fails for all of its addresses.
                do throws(Errno) { for address in link.addresses { try link.socket.announce(address) } } catch {}
            }
        }
    }

    // MARK: IPv4

    /// An interface, and what is asked about there.
    private struct Link {
        let socket: ARPSocket
        var addresses: Set<IPAddress>
    }

    /// The Ethernet interfaces of questions, each with a socket; reports which could not be opened.
    private static func links(of questions: [Question], _ failures: inout [Failure]) -> [Link] {
        guard !questions.isEmpty else { return [] }
        let interfaces: [CInt: Interface]
        do throws(Failure) { interfaces = try Netlink().interfaces() } catch {
            failures.append(error)
            return []
        }
        let indices = Dictionary(interfaces.map { ($0.value.name, $0.key) }) { first, _ in first }
        var links: [Link] = []
        for (name, some) in Dictionary(grouping: questions, by: \.interface).sorted(by: { $0.key < $1.key }) {
            let addresses = Set(some.map(\.address))
            guard let index = indices[name] else {
                failures.append(failure(name, addresses, .init(rawValue: ENODEV)))
                continue
            }
            guard let hardwareAddress = interfaces[index]?.hardwareAddress else { continue }
            do throws(Errno) {
                let socket = try ARPSocket(on: name, index: index, hardwareAddress: hardwareAddress)
                links.append(Link(socket: socket, addresses: addresses))
            } catch {
                failures.append(failure(name, addresses, error))
            }
        }
        return links
    }

    private func askByARP(_ questions: [Question], _ seconds: Int, _ answers: inout Answers) {
        var links = Self.links(of: questions, &answers.failures)
        let own = Self.ownHardwareAddresses()
        for _ in 0..<max(1, seconds) where !links.isEmpty {
            for index in links.indices {
                Self.attempt(&links[index], &answers) { link, answers throws(Errno) in
                    for address in link.addresses where answers.taken[address] == nil {
                        try link.socket.probe(address)
                        // Answers to many questions at once must not overflow the socket's receive buffer.
                        try Self.take(from: link, own, &answers)
                    }
                }
            }
            let end = ContinuousClock.now + .seconds(1)
            while true {
                for index in links.indices {
                    Self.attempt(&links[index], &answers) { link, answers throws(Errno) in
                        try Self.take(from: link, own, &answers)
                    }
                    links[index].addresses.subtract(answers.taken.keys)
                }
                links.removeAll(where: \.addresses.isEmpty)
                let left = ContinuousClock.now.duration(to: end)
                guard !links.isEmpty, left > .zero else { break }
                var files = links.map { pollfd(fd: $0.socket.descriptor, events: Int16(POLLIN), revents: 0) }
                poll(&files, nfds_t(files.count), CInt((left / .milliseconds(1)).rounded(.up)))
            }
        }
    }

    /// Notes which addresses of a link others have, by what has come.
    private static func take(
        from link: Link, _ own: Set<HardwareAddress>, _ answers: inout Answers
    ) throws(Errno) {
        for packet in try link.socket.drain() {
            guard let address = packet.probed, !own.contains(packet.hardwareAddress), link.addresses.contains(address)
            else { continue }
            answers.taken[address] = packet.hardwareAddress.description
        }
    }

    /// A link that fails is given up; its addresses are taken for free, but those of which others said that they have them.
    private static func attempt(
        _ link: inout Link, _ answers: inout Answers, _ body: (Link, inout Answers) throws(Errno) -> Void
    ) {
        do throws(Errno) {
            try body(link, &answers)
        } catch {
            link.addresses.subtract(answers.taken.keys)
            if !link.addresses.isEmpty {
                answers.failures.append(failure(link.socket.interface, link.addresses, error))
            }
            link.addresses = []
        }
    }

    private static func failure(_ interface: String, _ addresses: Set<IPAddress>, _ error: Errno) -> Failure {
        let what = addresses.count == 1 ? "\(addresses.first!)" : "\(addresses.count) addresses"
        return Failure(
            "ask on \(interface) who has \(what)", errno: error, needs: [.netRaw],
            hint: "see ip link, or set virtualIP.addresses.probeSeconds to 0")
    }

    /// Of all interfaces of this host: what comes from another one of them is no other host's (RFC 5227, section 2.1.1).
    static func ownHardwareAddresses() -> Set<HardwareAddress> {
        Set((try? Netlink().interfaces().values.compactMap(\.hardwareAddress)) ?? [])
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
        if left > .zero { usleep(useconds_t(left / .microseconds(1))) }
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
