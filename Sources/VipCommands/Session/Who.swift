// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import FoundationEssentials
import Host
import Network
import Policy
import Sessions
import SystemPackage

struct Who: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show which session, user and cgroup has or had an address.",
        discussion: """
            For virtual IPs, and for the loopbacks of sessions (127.0.0.8 is session 7's; those of IPv6 by the prefix \
            that is in force now). Several sessions are printed if the address changed hands within that second.

            The past is kept for history.retentionDays of the policy, 90 days by default. If the wall clock was set \
            during a session, its times do not give its length. Every time that the clock may have shown then counts, \
            and CLOCK is 'set', or 'unknown' if the host was rebooted in between. A session that was open when the \
            system went down ends with the start of the next boot. The exit code is 1 if no recorded session had the \
            address.

            Only root and members of the group of 'attach cgroup PATH --group NAME' may use this.

            EXAMPLES
              vip-bpfctl who 10.20.0.17
              vip-bpfctl who 10.20.0.17 --at 2026-11-22T14:30:00+01:00
            """
    )

    @Argument(help: ArgumentHelp("An IPv4 or IPv6 address.", valueName: "address"))
    var address: IPAddress
    @Option(
        help: ArgumentHelp(
            "When, in RFC 3339 with a time zone: 2026-11-22T14:30:00Z. Default: now.", valueName: "time"))
    var at: PointInTime?
    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let registry = try options.instance.registry()
        let now = Moment.now(bootID: try BootID.current())
        let address = address
        let id = try loopbackOwner(registry)
        let holders =
            try id.map { id throws(Failure) in try registry.history(ofID: id) } ?? registry.history(of: address)
        var found: [AddressHolder] = []
        for session in holders {
            let periods =
                id == nil
                ? session.addresses.filter { $0.address == address }.map { ($0.period, $0.ending) }
                : [(session.period, session.ending)]
            for (period, ending) in periods {
                let isMeant =
                    at.map { period.mayInclude($0.date, now: now) }
                    ?? (period.end == nil && period.start.bootID == now.bootID)
                if isMeant { found.append(AddressHolder(session, period, ending, now: now)) }
            }
        }
        guard !found.isEmpty else {
            let when = at.map { " at \($0.date.formatted(.iso8601))" } ?? ""
            let start = try registry.historyStart().map { "the history begins at \($0.formatted(.iso8601))" }
            throw Failure(
                .failed, "find who \(at == nil ? "has" : "had") \(address)\(when)",
                at == nil ? "no session has it" : "no recorded session had it",
                hint: at == nil ? "ask with --at for the past" : start ?? "the history is empty")
        }
        try output.print(WhoPayload(address: address.description, at: at?.date, holders: found))
    }

    /// The ID of the session whose loopback the address is.
    private func loopbackOwner(_ registry: Registry) throws(Failure) -> UInt32? {
        SessionIDs.id(ofLoopback: address, try registry.loopbackPrefix())
    }
}

/// A time with its zone, in the form of RFC 3339.
struct PointInTime: ExpressibleByArgument, Hashable {
    let date: Date

    init?(argument: String) {
        // The format style accepts more forms than RFC 3339. Require its minimum length, the T and a zone.
        let text = argument.uppercased()
        guard text.utf8.count >= 20, text.utf8.count <= 40,
            text.hasSuffix("Z") || text.suffix(6).first.map({ "+-".contains($0) }) == true,
            // The format style reads 31 November as 1 December: check that formatting the result gives the same text.
            case let written = "\(text.prefix(19))Z",
            (try? Date(written, strategy: .iso8601))?.formatted(.iso8601) == written,
            let date = (try? Date(text, strategy: .iso8601))
                ?? (try? Date(text, strategy: Date.ISO8601FormatStyle(includingFractionalSeconds: true)))
        else { return nil }
        self.date = date
    }

    var defaultValueDescription: String { date.formatted(.iso8601) }
}

/// A session that has or had an address, and the period.
struct AddressHolder: Encodable {
    var sessionId: UInt32
    @Nullable var user: String?
    var cgroup: String
    var cgroupId: UInt64
    var startedAt: Date
    /// `nil` if it still has it.
    @Nullable var endedAt: Date?
    @Nullable var ending: String?
    /// The boot in which the period began.
    var bootId: String
    /// `steady`, or `set` or `unknown` if the length of the period does not follow from the times.
    var clock: String

    init(_ session: SessionHistory, _ period: Period, _ ending: SessionEnding?, now: Moment) {
        sessionId = session.id
        user = session.user
        cgroup = session.cgroupPath.string
        cgroupId = session.cgroupID
        startedAt = period.start.date
        endedAt = period.end?.date
        self.ending = ending?.rawValue
        bootId = period.start.bootID
        clock = period.clock(now: now).rawValue
    }
}

struct WhoPayload: Payload {
    var address: String
    @Nullable var at: Date?
    var holders: [AddressHolder]

    init(address: String, at: Date?, holders: [AddressHolder]) {
        self.address = address
        self.at = at
        self.holders = holders
    }

    var table: Table {
        Table(
            headings: ["ID", "USER", "FROM", "TO", "ENDING", "CLOCK", "CGROUP"],
            rows: holders.map { holder in
                [
                    "\(holder.sessionId)", holder.user ?? "-", holder.startedAt.formatted(.iso8601),
                    holder.endedAt?.formatted(.iso8601) ?? "-", holder.ending ?? "-", holder.clock, holder.cgroup,
                ]
            })
    }
}

/// The open and past sessions.
struct SessionHistoryPayload: Payload {
    struct Session: Encodable {
        var id: UInt32
        @Nullable var user: String?
        var cgroup: String
        var cgroupId: UInt64
        var virtualIps: [String]
        var virtualLoopback: String
        @Nullable var policy: String?
        /// `open` or `closed`; `gone` if its cgroup was removed and no command has closed it since.
        var state: String
        var openedAt: Date
        @Nullable var closedAt: Date?
        @Nullable var ending: String?
        var bootId: String

        init(_ session: SessionHistory, bootID: String) {
            id = session.id
            user = session.user
            cgroup = session.cgroupPath.string
            cgroupId = session.cgroupID
            // The addresses that it has, or had at its end. `who` shows those that it lost before.
            virtualIps = session.addresses.filter { $0.period.end == session.period.end }.map(\.address.description)
            virtualLoopback = SessionIDs.loopback(of: min(session.id, SessionIDs.last)).description
            policy = session.policy
            let isThere =
                session.period.start.bootID == bootID && Cgroup.isThere(session.cgroupPath, id: session.cgroupID)
            state = session.period.end != nil ? "closed" : isThere ? "open" : "gone"
            openedAt = session.period.start.date
            closedAt = session.period.end?.date
            ending = session.ending?.rawValue
            bootId = session.period.start.bootID
        }
    }

    var sessions: [Session]

    init(_ sessions: [SessionHistory], bootID: String) {
        self.sessions = sessions.map { Session($0, bootID: bootID) }
    }

    var table: Table {
        Table(
            headings: ["ID", "USER", "VIRTUAL IP", "LOOPBACK", "OPENED", "CLOSED", "ENDING", "CGROUP"],
            rows: sessions.map { session in
                [
                    "\(session.id)", session.user ?? "-",
                    session.virtualIps.isEmpty ? "-" : session.virtualIps.joined(separator: ","),
                    session.virtualLoopback, session.openedAt.formatted(.iso8601),
                    session.closedAt?.formatted(.iso8601) ?? "-", session.ending ?? "-", session.cgroup,
                ]
            })
    }
}
