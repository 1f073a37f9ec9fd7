// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Glibc
public import Host
public import Logging
public import Network
public import Policy

/// The result of opening sessions.
public struct Opened: Sendable {
    /// The records, in the order of the requests.
    public var records: [SessionRecord]
    /// Warnings for the administrator.
    public var warnings: [String]
    /// Sessions that should have an address and have none, and why.
    public var unaddressed: [(session: UInt32, failure: Failure)]
    /// Sessions that have no address yet, because the daemon leases it.
    public var awaitingLease: [UInt32] = []
    /// The prefix of the sessions' IPv6 loopbacks; `nil` if they have none.
    public var loopbackPrefix: LoopbackPrefix? = nil
    /// Addresses of the pool that other hosts have.
    public var conflicts: [AddressConflict] = []
    /// Programs that were on the sessions' addresses.
    public var squatters: [Squatter] = []

    public init(
        records: [SessionRecord], warnings: [String], unaddressed: [(session: UInt32, failure: Failure)],
        awaitingLease: [UInt32] = [], loopbackPrefix: LoopbackPrefix? = nil, conflicts: [AddressConflict] = [],
        squatters: [Squatter] = []
    ) {
        self.records = records
        self.warnings = warnings
        self.unaddressed = unaddressed
        self.awaitingLease = awaitingLease
        self.loopbackPrefix = loopbackPrefix
        self.conflicts = conflicts
        self.squatters = squatters
    }
}

/// An address of the pool that another host has.
public struct AddressConflict: Sendable {
    public let question: AddressProbe.Question
    /// The other host's link-layer address.
    public let other: String

    public init(question: AddressProbe.Question, other: String) {
        self.question = question
        self.other = other
    }

    public var message: String {
        "\(question.address) belongs to another host (\(other)) on \(question.interface), though it is in the pool: take it out of "
            + "virtualIP.addresses.pool, or remove it from that host"
    }
}

/// An address that no session gets for some time: other hosts are being asked about it, or one has it.
struct HeldAddress: Codable, Sendable {
    var address: String
    /// When it ends, by CLOCK_BOOTTIME in milliseconds.
    var until: Int64
    var bootID: String
    /// The process that is asking; `nil` if the answer has arrived.
    var pid: Int32?
    var startTime: UInt64?
    /// The other host's link-layer address.
    var other: String?
    /// Whether it is a program of this host that has it.
    var isOccupied: Bool?
}

extension Registry.Setting {
    /// The ``HeldAddress`` values, as JSON.
    static let heldAddresses = Registry.Setting(rawValue: "held_addresses")
}

extension Instance {
    /// How long an address of another host is not tried again, in milliseconds. DHCP clients wait at least 10 s after
    /// they have declined an address (RFC 2131, 3.1), and servers usually hours before they offer it again.
    static let conflictRest: Int64 = 600_000
    /// How often addresses of other hosts are replaced by others, before the opening gives up.
    private static let rounds = 5

    /// Opens all sessions, or none, after it has asked other hosts whether they have the addresses. Then it announces
    /// the addresses (``AddressProbe``).
    ///
    /// The lock is not held during the wait for answers, so logins do not wait for each other.
    ///
    /// - Parameters:
    ///   - logger: receives what was repaired first.
    ///   - requests: returns the sessions to open. It is called again after each wait, because other processes may have
    ///     changed the state.
    public func open(
        _ logger: Logger, probe: AddressProbe = .ofPolicy,
        requests: (borrowing Change) throws(Failure) -> [SessionRequest]
    ) throws(Failure) -> Opened {
        var picked: [[IPAddress]] = []
        var asked: Set<IPAddress> = []
        var answers = AddressProbe.Answers()
        var conflicts: [AddressConflict] = []
        var squatters: [Squatter] = []
        var occupied: Set<IPAddress> = []
        var round = 0
        while true {
            var change = try change(logger)
            (change.squatters, change.occupied) = (squatters, occupied)
            try change.settleHeld(conflicts: conflicts)
            var wanted = try requests(change)
            for (index, addresses) in picked.enumerated() where index < wanted.count {
                wanted[index].picked = addresses.filter { answers.taken[$0] == nil }
            }
            if round >= Self.rounds {
                for index in wanted.indices { wanted[index].isOutOfAddresses = true }
            }
            let (records, questions) = try change.questions(wanted)
            (squatters, occupied) = (change.squatters, change.occupied)
            let open = questions.filter { !asked.contains($0.address) }
            guard !open.isEmpty, round < Self.rounds else {
                let opened = try change.open(wanted)
                for failure in answers.failures.prefix(1) {
                    let others = answers.failures.count - 1
                    change.warnings.append("\(failure)\(others > 0 ? " (and \(others) more like it)" : "")")
                }
                let result = Opened(
                    records: opened, warnings: change.warnings, unaddressed: change.unaddressed,
                    awaitingLease: change.awaitingLease, loopbackPrefix: try change.registry.loopbackPrefix(),
                    conflicts: conflicts, squatters: change.squatters)
                change.unlock()
                let placed = Set(opened.flatMap(\.addresses).map(\.address))
                probe.announce(questions.filter { placed.contains($0.address) })
                return result
            }
            let seconds = try policy(change.registry).probeSeconds
            try change.hold(open, seconds: seconds)
            picked = records.map { $0.addresses.filter(\.fromPool).map(\.address) }
            change.unlock()

            let more = probe.ask(open, seconds: seconds)
            answers.failures += more.failures
            answers.taken.merge(more.taken) { _, new in new }
            asked.formUnion(open.map(\.address))
            for question in open {
                guard let other = more.taken[question.address] else { continue }
                if let record = records.first(where: {
                    $0.addresses.contains { $0.address == question.address && !$0.fromPool }
                }) {
                    throw Failure(
                        .failed, "open session \(record.id) on \(record.cgroupPath)",
                        "\(question.address) belongs to another host (\(other)) on \(question.interface)",
                        hint: "give another address, or remove it from that host")
                }
                conflicts.append(AddressConflict(question: question, other: other))
            }
            round += 1
        }
    }
}

extension Registry {
    /// The addresses that are held now.
    func held(bootID: String) throws(Failure) -> [HeldAddress] {
        guard let text = try value(of: .heldAddresses) else { return [] }
        let all = (try? JSONDecoder().decode([HeldAddress].self, from: Data(text.utf8))) ?? []
        let uptime = Moment.uptime()
        var alive: [ProcessIdentity: Bool] = [:]  // one process may hold very many addresses
        return all.filter { row in
            guard row.bootID == bootID, uptime < row.until else { return false }
            guard let pid = row.pid, let startTime = row.startTime else { return true }
            let process = ProcessIdentity(pid: pid, startTime: startTime)
            if let known = alive[process] { return known }
            alive[process] = process.isAlive
            return process.isAlive
        }
    }

    /// Addresses that other hosts have.
    public func conflictingAddresses(bootID: String) throws(Failure) -> Set<IPAddress> {
        Set(try held(bootID: bootID).filter { $0.other != nil }.compactMap { IPAddress($0.address) })
    }

    /// Addresses that are held by other processes or hosts, so that no session gets them from the pool now.
    public func heldAddresses(bootID: String) throws(Failure) -> Set<IPAddress> {
        let own = getpid()
        return Set(
            try held(bootID: bootID).filter { $0.pid != own && $0.isOccupied != true }
                .compactMap { IPAddress($0.address) })
    }

    /// Addresses that no session gets from the pool now, because a program was found on them a short time ago.
    func occupiedAddresses(bootID: String) throws(Failure) -> Set<IPAddress> {
        Set(try held(bootID: bootID).filter { $0.isOccupied == true }.compactMap { IPAddress($0.address) })
    }
}

extension Policy {
    /// How long other hosts are asked: the longest time of the base policy and the overrides.
    public var probeSeconds: Int {
        allRules.map { $0.virtualIP.addresses.probeSeconds ?? Addresses.defaultProbeSeconds }.max() ?? 0
    }
}

extension Instance {
    /// The interfaces on which other hosts are asked before an address is used.
    public static func askedLinks(_ policy: Policy, _ netlink: Netlink) throws(Failure) -> Set<String> {
        guard policy.probeSeconds > 0 else { return [] }
        return Set(try netlink.interfaces().values.filter(\.hasNeighbours).map(\.name))
    }
}

extension Change {
    /// Ends the change, and with it the lock.
    consuming func unlock() {}

    /// The records that the requests would get now, and the addresses among them about which other hosts can be asked.
    mutating func questions(
        _ requests: [SessionRequest]
    ) throws(Failure) -> (records: [SessionRecord], questions: [AddressProbe.Question]) {
        let policy = try instance.policy(registry)
        let links = try Instance.askedLinks(policy, netlink)
        guard !requests.isEmpty, !links.isEmpty else { return ([], []) }
        let before = (warnings, unaddressed, awaitingLease)
        // These come from the final plan only.
        defer { (warnings, unaddressed, awaitingLease) = before }
        let records: [SessionRecord]
        do throws(Failure) {
            records = try planFree(requests, policy: policy, placed: hostAddresses())
        } catch {
            // As in `open`, which reports an error itself.
            guard error.code == .failed, try closeGone(),
                let again = try? planFree(requests, policy: policy, placed: hostAddresses())
            else { return ([], []) }
            records = again
        }
        var questions: [AddressProbe.Question] = []
        for address in records.flatMap(\.addresses) where address.placed && links.contains(address.interface) {
            questions.append(.init(address.address, on: address.interface))
        }
        return (records, questions)
    }

    // MARK: Held addresses

    /// Keeps addresses from other processes while this one asks about them.
    public func hold(_ questions: [AddressProbe.Question], seconds: Int) throws(Failure) {
        guard let own = ProcessIdentity(pid: getpid()) else { return }
        // If the process hangs, they are held for at most a minute more for each batch of questions.
        let until =
            Moment.uptime() + Int64(seconds + 60) * 1000 * Int64(questions.count / AddressProbe.neighboursAtOnce + 1)
        try set(
            registry.held(bootID: bootID)
                + questions.map {
                    HeldAddress(
                        address: $0.address.description, until: until, bootID: bootID, pid: own.pid,
                        startTime: own.startTime)
                })
    }

    /// Releases the addresses that this process held, and notes those that other hosts have.
    public func settleHeld(conflicts: [AddressConflict]) throws(Failure) {
        let own = getpid()
        let before = try registry.held(bootID: bootID)
        var after = before.filter { $0.pid != own }
        for conflict in conflicts {
            let address = conflict.question.address.description
            after.removeAll { $0.address == address }
            after.append(
                HeldAddress(
                    address: address, until: Moment.uptime() + Instance.conflictRest, bootID: bootID,
                    other: conflict.other))
        }
        if before.contains(where: { $0.pid == own }) || !conflicts.isEmpty { try set(after) }
    }

    /// Keeps an address of the pool from sessions for a time, because a program is on it.
    func holdOccupied(_ address: IPAddress) throws(Failure) {
        try set(
            registry.held(bootID: bootID)
                + [
                    HeldAddress(
                        address: address.description, until: Moment.uptime() + Instance.conflictRest, bootID: bootID,
                        isOccupied: true)
                ])
    }

    private func set(_ held: [HeldAddress]) throws(Failure) {
        guard !held.isEmpty, let data = try? JSONEncoder().encode(held) else {
            return try registry.set(.heldAddresses, to: nil)
        }
        try registry.set(.heldAddresses, to: String(decoding: data, as: UTF8.self))
    }
}

extension AddressProbe {
    /// The probe of the policy's addresses.
    public static var ofPolicy: AddressProbe {
        AddressProbe(remedy: "see ip link, or set virtualIP.addresses.probeSeconds to 0")
    }
}
