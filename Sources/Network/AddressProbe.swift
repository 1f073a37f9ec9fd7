// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
import SystemPackage

/// Asks on the link whether another host has an address, and announces there that this host has it now.
///
/// It asks about IPv4 addresses by ARP probes (RFC 5227). They have no sender address, so no host's cache learns from
/// them and no proxy answers for addresses behind it. It asks about IPv6 addresses by the kernel's neighbour discovery
/// (RFC 4861). ARP and announcements skip links that are not Ethernet.
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

    /// The result of the questions.
    public struct Answers: Sendable {
        /// The addresses that other hosts have, each with the host's link-layer address as text.
        public var taken: [IPAddress: String] = [:]
        /// Why some addresses could not be asked about. The caller treats these as free.
        public var failures: [Failure] = []

        public init() {}
    }

    /// How many IPv6 addresses are asked about at the same time: half of what the kernel's table of neighbours holds
    /// before it removes entries of others (gc_thresh2, 512, arp(7)). IPv4 has no limit.
    public static let neighboursAtOnce = 256
    /// The time between two announcements of an address: ANNOUNCE_INTERVAL, RFC 5227, section 1.1.
    public static let announceInterval: Duration = .seconds(2)

    /// What to do if an interface cannot be asked.
    private let remedy: String

    public init(remedy: String = "see ip link") {
        self.remedy = remedy
    }

    /// Asks about addresses: the IPv4 addresses all together, the IPv6 addresses ``neighboursAtOnce`` at a time. Blocks
    /// for about `seconds` for each batch; for IPv4 alone, less if other hosts have all addresses.
    ///
    /// - Parameter seconds: how long to wait for an answer, at least 1. One question is sent each second.
    public func ask(_ questions: [Question], seconds: Int) -> Answers {
        var answers = Answers()
        let v6 = questions.filter { $0.address.family == .v6 }
        // Both families at the same time: the kernel asks while this waits for ARP.
        var pending = begin(v6.prefix(Self.neighboursAtOnce), seconds, &answers)
        askByARP(questions.filter { $0.address.family == .v4 }, seconds, &answers)
        for start in stride(from: Self.neighboursAtOnce, to: v6.count, by: Self.neighboursAtOnce) {
            finish(pending, &answers)
            pending = begin(v6[start...].prefix(Self.neighboursAtOnce), seconds, &answers)
        }
        finish(pending, &answers)
        return answers
    }

    /// Announces that this host has these addresses, so that neighbours whose caches name another host update them: by
    /// ARP announcements (RFC 5227, section 2.3) and unsolicited neighbour advertisements (RFC 4861, section 7.2.6).
    /// Each is sent twice. Errors are not reported: the caches expire later by themselves.
    ///
    /// - Parameter interval: how long to block before the second announcement; the RFC gives ``announceInterval``. If
    ///   it is zero, both are sent at once: for a process that must end, the second one covers the loss of one frame.
    public func announce(_ questions: [Question], interval: Duration = .zero) {
        var failures: [Failure] = []
        let links = self.links(of: questions, &failures)
        for round in 0..<2 where !links.isEmpty {
            if round > 0, interval > .zero { usleep(useconds_t(interval / .microseconds(1))) }
            for link in links {
                // If one fails, those of the link's other addresses fail as well.
                do throws(Errno) { for address in link.addresses { try link.socket.announce(address) } } catch {}
            }
        }
    }

    // MARK: IPv4

    /// An interface, and the addresses that are asked about there.
    private struct Link {
        let socket: ARPSocket
        var addresses: Set<IPAddress>
    }

    /// Opens a socket for each Ethernet interface of the questions, and reports those that cannot be opened.
    private func links(of questions: [Question], _ failures: inout [Failure]) -> [Link] {
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
        var links = self.links(of: questions, &answers.failures)
        let own = Self.ownHardwareAddresses()
        for _ in 0..<max(1, seconds) where !links.isEmpty {
            for index in links.indices {
                attempt(&links[index], &answers) { link, answers throws(Errno) in
                    for address in link.addresses where answers.taken[address] == nil {
                        try link.socket.probe(address)
                        // Read now, because the answers to many questions could overflow the socket's receive buffer.
                        try Self.take(from: link, own, &answers)
                    }
                }
            }
            let end = ContinuousClock.now + .seconds(1)
            while true {
                for index in links.indices {
                    attempt(&links[index], &answers) { link, answers throws(Errno) in
                        try Self.take(from: link, own, &answers)
                    }
                    links[index].addresses.subtract(answers.taken.keys)
                }
                links.removeAll(where: \.addresses.isEmpty)
                let left = ContinuousClock.now.duration(to: end)
                guard !links.isEmpty, left > .zero else { break }
                var files = links.map { pollfd(fd: $0.socket.descriptor, events: Int16(POLLIN), revents: 0) }
                poll(&files, nfds_t(files.count), left.pollTimeout)
            }
        }
    }

    /// Reads the packets of a link and notes the addresses that others have.
    private static func take(
        from link: Link, _ own: Set<HardwareAddress>, _ answers: inout Answers
    ) throws(Errno) {
        for packet in try link.socket.drain() {
            guard let address = packet.probed, !own.contains(packet.hardwareAddress), link.addresses.contains(address)
            else { continue }
            answers.taken[address] = packet.hardwareAddress.description
        }
    }

    /// Runs `body`. If it fails, the link is given up: its addresses are treated as free, except those already found in
    /// use.
    private func attempt(
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

    private func failure(_ interface: String, _ addresses: Set<IPAddress>, _ error: Errno) -> Failure {
        let what = addresses.count == 1 ? "\(addresses.first!)" : "\(addresses.count) addresses"
        return Failure(
            "ask on \(interface) who has \(what)", errno: error, needs: [.netRaw],
            hint: remedy)
    }

    /// The hardware addresses of all interfaces of this host. A packet from one of them is not from another host (RFC
    /// 5227, section 2.1.1).
    static func ownHardwareAddresses() -> Set<HardwareAddress> {
        Set((try? Netlink().interfaces().values.compactMap(\.hardwareAddress)) ?? [])
    }

    // MARK: IPv6

    /// Questions that the kernel is asking, and when to read the answers.
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
                // A permanent entry, which an administrator wrote, is an answer.
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
