// SPDX-License-Identifier: Apache-2.0

import CSystemd
import FoundationEssentials
import Glibc
import Host
public import Logging
import Network
import Synchronization
import SystemPackage

/// Something that an administrator may want to know later: one entry of the journal, or one JSON line.
///
/// There are few fields, with one meaning each, so that `journalctl VIP_ADDRESS=10.20.0.17` finds all entries about an
/// address.
public struct Event: Sendable, Hashable {
    /// The kind of event. It is extensible: a new source of events adds its own.
    public struct Kind: RawRepresentable, Sendable, Hashable {
        public let rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }

        public static let started = Kind(rawValue: "started")
        public static let stopped = Kind(rawValue: "stopped")
        public static let sessionOpened = Kind(rawValue: "session_opened")
        public static let sessionClosed = Kind(rawValue: "session_closed")
        /// A login should have a session and has none.
        public static let sessionRefused = Kind(rawValue: "session_refused")
        public static let addressGiven = Kind(rawValue: "address_given")
        public static let addressTaken = Kind(rawValue: "address_taken")
        /// A session has no address: the pool is exhausted, or no lease could be had. `whenUnavailable` applies.
        public static let addressRefused = Kind(rawValue: "address_refused")
        /// Another host on the link has a session's address, or one of the pool.
        public static let addressConflict = Kind(rawValue: "address_conflict")
        /// A program of no session has a socket on an address that a session was to get.
        public static let addressOccupied = Kind(rawValue: "address_occupied")
        /// A program in a session holds a port on every address of the host, and so on every session's.
        public static let wildcardPort = Kind(rawValue: "wildcard_port")
        /// An address that another program had removed from its interface was restored.
        public static let addressRestored = Kind(rawValue: "address_restored")
        /// An address is missing and could not be restored.
        public static let addressMissing = Kind(rawValue: "address_missing")
        /// A DHCP server gave a session another address in place of the previous one.
        public static let leaseChanged = Kind(rawValue: "lease_changed")
        /// A DHCP server refused to renew a lease, or it was not renewed in time.
        public static let leaseLost = Kind(rawValue: "lease_lost")
        /// A DHCP server offered an address that cannot be a session's.
        public static let leaseRefused = Kind(rawValue: "lease_refused")
        /// A lease is not being renewed. It is kept until it expires.
        public static let leaseTroubled = Kind(rawValue: "lease_troubled")
        /// An address was released to its DHCP server.
        public static let leaseReleased = Kind(rawValue: "lease_released")
        public static let interfaceDown = Kind(rawValue: "interface_down")
        public static let interfaceUp = Kind(rawValue: "interface_up")
        public static let interfaceRenamed = Kind(rawValue: "interface_renamed")
        public static let interfaceRemoved = Kind(rawValue: "interface_removed")
        public static let interfaceAdded = Kind(rawValue: "interface_added")
        /// The host's own addresses have changed, and the maps were updated.
        public static let hostAddresses = Kind(rawValue: "host_addresses")
        public static let policyReloaded = Kind(rawValue: "policy_reloaded")
        /// A policy file was not applied, because it would leave open sessions without an address, or refuse all that
        /// they do.
        public static let policyRefused = Kind(rawValue: "policy_refused")
        /// A policy was not confirmed in time, and the one before is in force again.
        public static let policyReverted = Kind(rawValue: "policy_reverted")
        /// The policy in force leaves sessions without an address, or refuses all that they do.
        public static let policyHazard = Kind(rawValue: "policy_hazard")
        /// The files of listed programs were replaced, and match again.
        public static let programsRefreshed = Kind(rawValue: "programs_refreshed")
        public static let logindLost = Kind(rawValue: "logind_lost")
        public static let logindFollowed = Kind(rawValue: "logind_followed")
        public static let warning = Kind(rawValue: "warning")
        public static let error = Kind(rawValue: "error")
    }

    /// The numbers of syslog(3).
    public enum Priority: Int, Sendable {
        case error = 3
        case warning = 4
        case notice = 5
        case info = 6
    }

    public var kind: Kind
    public var priority: Priority
    /// A line of text for people.
    public var message: String
    public var session: UInt32?
    public var user: String?
    public var cgroup: String?
    public var address: String?
    public var interface: String?
    /// Why it happened, or why it failed.
    public var reason: String?
    /// The number of sockets that were destroyed.
    public var sockets: Int?

    public init(
        _ kind: Kind, _ message: String, priority: Priority = .info, session: UInt32? = nil, user: String? = nil,
        cgroup: String? = nil, address: String? = nil, interface: String? = nil, reason: String? = nil,
        sockets: Int? = nil
    ) {
        self.kind = kind
        self.priority = priority
        // It contains names from outside: keep it on one line.
        self.message = message.printableLine
        self.session = session
        self.user = user
        self.cgroup = cgroup
        self.address = address
        self.interface = interface
        self.reason = reason
        self.sockets = sockets
    }

    /// An event about a session, with the session's properties.
    public init(
        _ kind: Kind, _ message: String, priority: Priority = .info, of record: SessionRecord,
        address: SessionRecord.Address? = nil, reason: String? = nil, sockets: Int? = nil
    ) {
        self.init(
            kind, message, priority: priority, session: record.id, user: record.user, cgroup: record.cgroupPath.string,
            address: address?.address.description, interface: address?.interface, reason: reason, sockets: sockets)
    }

    /// ` (2 sockets destroyed)`, or nothing if none was.
    private static func note(destroyed count: Int?) -> String {
        guard let count, count > 0 else { return "" }
        return " (\(count) \(count == 1 ? "socket" : "sockets") destroyed)"
    }

    /// The event of an address that an open session loses.
    public init(
        released address: SessionRecord.Address, from record: SessionRecord, because reason: String, sockets: Int?
    ) {
        self.init(
            .addressTaken,
            "released \(address.address) from session \(record.id): \(reason)\(Self.note(destroyed: sockets))",
            priority: .warning, of: record, address: address, reason: reason, sockets: sockets)
    }

    /// The events of a closed session: one for each address that it had, and one for the session.
    public static func closing(of closed: ClosedSession, because reason: String) -> [Event] {
        let record = closed.record
        return record.addresses.map {
            Event(
                .addressTaken, "released \($0.address) from session \(record.id)", of: record, address: $0,
                reason: reason)
        } + [
            Event(
                .sessionClosed,
                "closed session \(record.id) of \(record.user ?? "-"): \(reason)"
                    + note(destroyed: closed.destroyedSockets),
                priority: .notice, of: record, reason: reason, sockets: closed.destroyedSockets)
        ]
    }

    public init(assigned address: SessionRecord.Address, to record: SessionRecord) {
        self.init(
            .addressGiven, "assigned \(address.address) (\(address.interface)) to session \(record.id)", of: record,
            address: address)
    }

    public init(_ conflict: AddressConflict) {
        self.init(
            .addressConflict, conflict.message, priority: .error, address: conflict.question.address.description,
            interface: conflict.question.interface, reason: "\(conflict.other) has it")
    }

    public init(_ squatter: Squatter) {
        self.init(
            .addressOccupied, squatter.message, priority: .warning, user: squatter.user,
            address: squatter.address.description, reason: squatter.holding)
    }

    /// The events of opened sessions: the sessions, their addresses, missing addresses, addresses of other hosts, and
    /// programs that were found on the addresses.
    public static func opening(of opened: Opened) -> [Event] {
        var events: [Event] = []
        for record in opened.records {
            let name = "session \(record.id)"
            events.append(
                Event(.sessionOpened, "opened \(name) for \(record.user ?? "-")", priority: .notice, of: record))
            events += record.addresses.map { Event(assigned: $0, to: record) }
            for refused in opened.unaddressed where refused.session == record.id {
                events.append(
                    Event(
                        .addressRefused, "\(name) has no address: \(refused.failure)", priority: .error, of: record,
                        reason: refused.failure.reason))
            }
        }
        events += opened.conflicts.map { Event($0) } + opened.squatters.map { Event($0) }
        return events + opened.warnings.map { Event(.warning, $0, priority: .warning) }
    }

    /// Names and values. Names are in lower case: `session` and so on.
    private var details: [(name: String, value: String)] {
        let all: [(String, String?)] = [
            ("session", session.map(String.init)), ("user", user), ("cgroup", cgroup), ("address", address),
            ("interface", interface), ("reason", reason), ("sockets", sockets.map(String.init)),
        ]
        return all.compactMap { name, value in value.map { (name, $0) } }
    }

    /// The fields of a journal entry, systemd.journal-fields(7). This project's own begin with `VIP_`.
    var journalFields: [(name: String, value: String)] {
        [
            ("MESSAGE", message), ("PRIORITY", "\(priority.rawValue)"), ("SYSLOG_IDENTIFIER", "vip-bpfctl"),
            ("VIP_EVENT", kind.rawValue),
        ] + details.map { ("VIP_\($0.name.uppercased())", $0.value) }
    }

    /// The event as a JSON object on one line, with the same names.
    func json(at time: Date) -> String {
        struct Document: Encodable {
            let time: String
            let event: String
            let priority: Int
            let message: String
            let session: UInt32?
            let user, cgroup, address, interface, reason: String?
            let sockets: Int?
        }
        let document = Document(
            time: time.formatted(.iso8601), event: kind.rawValue, priority: Int(priority.rawValue), message: message,
            session: session, user: user, cgroup: cgroup, address: address, interface: interface, reason: reason,
            sockets: sockets)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return (try? encoder.encode(document)).map { String(decoding: $0, as: UTF8.self) } ?? message
    }
}

/// Writes events to the journal if there is one, else to standard error as JSON lines.
public struct EventLog: Sendable {
    public enum Place: String, Sendable, CaseIterable {
        case journal
        case stderr
    }

    private static let journal = "/run/systemd/journal/socket"
    private let place: Place?
    private let isLogin: Bool
    /// How many events of each kind were reported.
    package let counts = EventCounts()

    /// - Parameters:
    ///   - place: `nil` for the journal if there is one.
    ///   - isLogin: whether this process is part of a login, whose standard error may not be visible. Without a
    ///     journal, the message then goes to syslog(3) as well.
    public init(_ place: Place? = nil, isLogin: Bool = false) {
        self.place = place
        self.isLogin = isLogin
    }

    /// For a command, which reports to its caller itself: writes events to the journal only.
    public static func reportOfCommand(_ events: [Event]) {
        guard access(journal, W_OK) == 0 else { return }
        for event in events { _ = send(event.journalFields) }
    }

    public func report(_ event: Event) {
        counts.count(event.kind)
        if place != .stderr, place == .journal || access(Self.journal, W_OK) == 0, Self.send(event.journalFields) {
            return
        }
        if isLogin {
            event.message.withCString { message in
                withVaList([message]) { vsyslog(CInt(event.priority.rawValue) | LOG_AUTHPRIV, "vip-bpfctl: %s", $0) }
            }
        }
        let line = event.json(at: Date()) + "\n"
        _ = line.withCString { write(STDERR_FILENO, $0, strlen($0)) }
    }

    /// - Returns: whether the journal accepted it: sd_journal_sendv(3).
    private static func send(_ fields: [(name: String, value: String)]) -> Bool {
        let buffers = fields.map { field in
            let text = Array("\(field.name)=\(field.value)".utf8)
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: text.count, alignment: 1)
            buffer.copyBytes(from: text)
            return buffer
        }
        defer { for buffer in buffers { buffer.deallocate() } }
        let vectors = buffers.map { iovec(iov_base: $0.baseAddress, iov_len: $0.count) }
        return sd_journal_sendv(vectors, CInt(vectors.count)) == 0
    }

    /// A logger that reports the messages of ``Instance`` and ``Change`` as events.
    public func logger(_ level: Logger.Level) -> Logger {
        Logger(label: "vip-bpfctl") { _ in EventLogHandler(log: self, logLevel: level) }
    }
}

private struct EventLogHandler: LogHandler {
    let log: EventLog
    var metadata: Logger.Metadata = [:]
    var logLevel: Logger.Level

    init(log: EventLog, logLevel: Logger.Level) {
        self.log = log
        self.logLevel = logLevel
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let isError = event.level >= .error
        let priority: Event.Priority = isError ? .error : event.level == .warning ? .warning : .info
        log.report(Event(isError ? .error : .warning, "\(event.message)", priority: priority))
    }
}

/// Counts the events of each kind.
package final class EventCounts: Sendable {
    private let counts = Mutex<[String: UInt64]>([:])

    package func count(_ kind: Event.Kind) { counts.withLock { $0[kind.rawValue, default: 0] += 1 } }

    package var all: [String: UInt64] { counts.withLock { $0 } }
}
