// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
import Discovery
import FoundationEssentials
import Host
import Network
import Policy
import SystemPackage

/// The report of `discover`.
struct DiscoverPayload: Payload {
    struct Use: Encodable {
        var call: AddressUse.Call
        var transport: AddressUse.Transport
        var addressClass: AddressClass
        @Nullable var address: IPAddress?
        var port: UInt16
        /// `asked` if the program requested it; `open` if one of its sockets was on it.
        var seen: String
        var v6Only: Bool
        @Nullable var reusesPort: Bool?
        @Nullable var reusesAddress: Bool?

        init(_ use: AddressUse) {
            call = use.call
            transport = use.transport
            addressClass = use.addressClass
            address = use.address
            port = use.port
            seen = use.isAsked ? "asked" : "open"
            v6Only = use.isV6Only
            reusesPort = use.sharesPort
            reusesAddress = use.sharesAddress
        }
    }

    struct Program: Encodable {
        var name: String
        @Nullable var path: String?
        @Nullable var script: String?
        var isInterpreter: Bool
        var opened: [Use]
        /// Whether it opened more than is listed.
        var openedMore: Bool
        var processes: Int
        var moreProcesses: Bool
        var sessions: [UInt32]
        var cgroups: [String] = []
        var users: [String] = []
        var clash: Verdict.Clash
        var clashesOn: [String]
        var needs: Verdict.Need
        var reason: String
        /// The lists of the policy in force that contain it.
        var listed: [String] = []
        /// Its entry for a program list; `nil` if there can be none.
        @Nullable var entry: String?

        /// The name for the table.
        var label: String

        init(_ program: ObservedProgram, _ verdict: Verdict) {
            name = String(decoding: program.name, as: UTF8.self)
            path = program.path.map { String(decoding: $0, as: UTF8.self) }
            script = program.script.map { String(decoding: $0, as: UTF8.self) }
            isInterpreter = program.isInterpreter
            opened = DiscoverPayload.sorted(program.opened).map { Use($0) }
            openedMore = program.isCut
            processes = program.processes
            moreProcesses = program.hasMoreProcesses
            sessions = program.sessions.sorted()
            clash = verdict.clash
            clashesOn = verdict.clashesOn
            needs = verdict.need
            reason = verdict.reason
            label = program.label
        }

        private enum CodingKeys: String, CodingKey {
            case name, path, script, isInterpreter, opened, openedMore, processes, moreProcesses, sessions, cgroups
            case users, clash, clashesOn, needs, reason, listed, entry
        }
    }

    struct Lost: Encodable {
        var programs, processes, endpoints, names: UInt64
    }

    var observed: [String]
    var from: Date
    var until: Date
    /// `asked`: calls are seen as the programs made them. `rewritten`: after earlier attached hooks have changed them.
    var calls: String
    var lost: Lost
    var programs: [Program]
    /// The text of the policy file, with `--suggest`.
    @Nullable var suggestion: String?

    init(
        _ found: [(program: ObservedProgram, verdict: Verdict)], _ result: Observation.Result, observed: [Cgroup],
        from: Date, until: Date, policy: Policy
    ) {
        self.observed = observed.map(\.path.string)
        self.from = from
        self.until = until
        calls = result.order == .first ? "asked" : "rewritten"
        lost = Lost(
            programs: result.lost.programs, processes: result.lost.processes, endpoints: result.lost.endpoints,
            names: result.lost.events)
        var users: [UInt32: String] = [:]
        let all = found.map(\.program)
        for user in Set(all.flatMap(\.users)) { users[user] = (try? SystemUsers.name(of: user)) ?? "\(user)" }
        programs = found.map { program, verdict in
            let cgroups = program.cgroups.map { result.cgroupPaths[$0]?.string ?? "(gone: ID \($0))" }
            var row = Program(program, verdict)
            row.cgroups = cgroups.sorted()
            row.users = program.users.map { users[$0] ?? "\($0)" }.sorted()
            row.listed = ProgramList.allCases.filter { program.isListed(in: policy[$0]) }.map(\.rawValue)
            row.entry = PolicySuggestion.entry(for: program, among: all)?.description
            return row
        }
    }

    private static func sorted(_ opened: Set<AddressUse>) -> [AddressUse] {
        opened.sorted {
            ($0.call.rawValue, $0.text, $0.isAsked ? 0 : 1, $0.isV6Only ? 1 : 0, $0.sharesPort == true ? 1 : 0)
                < ($1.call.rawValue, $1.text, $1.isAsked ? 0 : 1, $1.isV6Only ? 1 : 0, $1.sharesPort == true ? 1 : 0)
        }
    }

    /// `any address: TCP 80 443, UDP 53; loopback: TCP 6379`: for each kind some ports, and the number of the others.
    private static func summary(_ uses: [Use], _ call: AddressUse.Call) -> String {
        let few = 6
        var parts: [String] = []
        for kind in AddressClass.allCases {
            var byTransport: [String] = []
            for transport in [AddressUse.Transport.tcp, .udp] {
                let ports = Set(
                    uses.filter { $0.call == call && $0.addressClass == kind && $0.transport == transport }.map(\.port)
                ).sorted()
                guard !ports.isEmpty else { continue }
                let name = transport.rawValue.uppercased()
                if kind == .elsewhere, call == .connect {
                    byTransport.append(name)
                    continue
                }
                var shown = ports.prefix(few).map { $0 == 0 ? "any" : "\($0)" }
                if ports.count > few { shown.append("+\(ports.count - few)") }
                byTransport.append("\(name) \(shown.joined(separator: " "))")
            }
            if !byTransport.isEmpty { parts.append("\(kind.label): \(byTransport.joined(separator: ", "))") }
        }
        return parts.isEmpty ? "-" : parts.joined(separator: "; ")
    }

    var table: Table {
        let rows = programs.map { program in
            [
                program.label, Self.summary(program.opened, .bind), Self.summary(program.opened, .connect),
                "\(program.processes)\(program.moreProcesses ? "+" : "")", "\(program.sessions.count)",
                "\(program.users.count)", program.clash.rawValue, program.needs.label,
                program.listed.isEmpty ? "-" : program.listed.joined(separator: ","),
            ]
        }
        var notes = programs.map { "\(($0.label).printableLine): \($0.needs.label): \(($0.reason).printableLine)" }
        if programs.isEmpty { notes.append("No program has bound or connected to anything.") }
        for program in programs where program.openedMore {
            notes.append(
                "\(program.label.printableLine) has used more addresses and ports than are recorded for one program.")
        }
        if calls == "rewritten" {
            notes.append(
                "This kernel shows calls after the attached hooks, so calls that they have changed are listed as virtual."
            )
        }
        for (count, what) in [
            (lost.programs, "calls of programs"), (lost.processes, "calls of processes"),
            (lost.endpoints, "addresses and ports"), (lost.names, "processes' paths"),
        ] where count > 0 {
            notes.append("Not recorded, because a map was full: \(count) \(what).")
        }
        return Table(
            headings: [
                "PROGRAM", "BINDS", "CONNECTS TO", "PROCESSES", "SESSIONS", "USERS", "CLASH", "NEEDS", "LISTED",
            ], rows: rows, notes: notes)
    }
}
