// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Logging
import Network
import Policy
import Sessions
import SystemPackage

struct Whoami: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show the ID and addresses of the session that the caller is in.",
        discussion: """
            Needs no privilege, and shows no other session. The kernel is asked for the virtual IPs, as any program \
            would ask it: by a socket bound to 0.0.0.0 and one bound to ::. Sockets bound to 127.0.0.1 and ::1 give \
            the virtual loopbacks, and so the ID. What does not apply to this program (it is not listed, or the \
            feature is off) is not known. The registry has it, with user and cgroup; root and members of the group of \
            'attach cgroup PATH --group NAME' may read it.

            The exit code is 1 if the caller is in no session, or if no feature applies to this program.

            EXAMPLES
              vip-bpfctl whoami
              vip-bpfctl whoami --json | jq -r '.virtual_ips[]'
            """
    )

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let what = "find the session of this process"
        var answers: [OwnSession.Answer] = []
        for family in IPAddress.Family.allCases { answers.append(try OwnSession.ask(family)) }
        var record: SessionRecord?
        var prefix: LoopbackPrefix?
        var obstacle: Failure?
        do throws(Failure) {
            let registry = try options.instance.registry()
            record = try OwnSession.record(registry)
            prefix = try registry.loopbackPrefix()
        } catch {
            obstacle = error
        }
        let asked = answers.compactMap { if case .virtualIP(let address) = $0 { address } else { nil } }
        if let found = record, !asked.allSatisfy({ address in found.addresses.contains { $0.address == address } }) {
            // There are two instances on the host, and this registry is not that of the hooks.
            record = nil
            obstacle = Failure(
                .failed, "use \(options.instance.state.registry)",
                "the registry does not know the addresses that the kernel returns",
                hint: "name the right one with --state")
        }
        var loopbacks: [IPAddress] = []
        if record == nil {
            for family in IPAddress.Family.allCases {
                if let loopback = try OwnSession.loopback(family) { loopbacks.append(loopback) }
            }
        }
        guard record != nil || answers.contains(where: \.isOfSession) || !loopbacks.isEmpty else {
            guard let obstacle else {
                throw Failure(
                    .failed, what, "this process is in no session",
                    hint: "run it in a session; vip-bpfctl session list shows them")
            }
            throw Failure(
                .failed, what, "this process is in no session, or no address of its session applies to this program",
                hint: obstacle.code == .notPermitted ? "run as root to know which" : "\(obstacle)",
                detail: obstacle.detail)
        }
        if record == nil, let obstacle, obstacle.code != .notPermitted {
            options.logger.warning("user and cgroup of the session are not known: \(obstacle)")
        } else if record == nil, loopbacks.isEmpty {
            options.logger.warning("the session ID is not known: no virtual loopback applies to this program")
        }
        try output.print(WhoamiPayload(record, prefix: prefix, asked: asked, loopbacks: loopbacks))
    }
}

struct WhoamiPayload: Payload {
    /// The ID; `nil` if neither the registry nor a virtual loopback says it.
    @Nullable var id: UInt32?
    var virtualIps: [String]
    @Nullable var virtualLoopback: String?
    @Nullable var virtualLoopback6: String?
    @Nullable var user: String?
    @Nullable var cgroup: String?

    /// - Parameters:
    ///   - asked: the virtual IPs that the kernel gives this program.
    ///   - loopbacks: the virtual loopbacks that it gives it, if the registry did not say the session.
    init(_ record: SessionRecord?, prefix: LoopbackPrefix?, asked: [IPAddress], loopbacks: [IPAddress]) {
        virtualIps = (record?.addresses.map(\.address) ?? asked).map(\.description)
        id = record?.id ?? loopbacks.lazy.compactMap(SessionIDs.id(ofLoopback:)).first
        func loopback(_ family: IPAddress.Family) -> String? {
            loopbacks.first { $0.family == family }?.description
        }
        virtualLoopback = record.map { SessionIDs.loopback(of: $0.id).description } ?? loopback(.v4)
        virtualLoopback6 =
            record.map { record in prefix?.loopback(of: record.id).description } ?? loopback(.v6)
        user = record?.user
        cgroup = record?.cgroupPath.string
    }

    var table: Table {
        Table(rows: [
            ["session", id.map { "\($0)" } ?? "unknown"], ["user", user ?? "-"],
            ["virtual IP", virtualIps.isEmpty ? "none" : virtualIps.joined(separator: ", ")],
            [
                "virtual loopback",
                id == nil ? "unknown" : [virtualLoopback, virtualLoopback6].compactMap(\.self).joined(separator: ", "),
            ],
            ["cgroup", cgroup ?? "unknown"],
        ])
    }
}
