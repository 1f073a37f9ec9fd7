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
        let found = try OwnSession.find(options.instance)
        if found.record == nil, let obstacle = found.obstacle, obstacle.code != .notPermitted {
            options.logger.warning("user and cgroup of the session are not known: \(obstacle)")
        } else if found.record == nil, found.loopbacks.isEmpty {
            options.logger.warning("the session ID is not known: no virtual loopback applies to this program")
        }
        try output.print(WhoamiPayload(found))
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

    init(_ found: OwnSession.Found) {
        let (record, loopbacks) = (found.record, found.loopbacks)
        virtualIps = (record?.addresses.map(\.address) ?? found.virtualIPs).map(\.description)
        id = record?.id ?? loopbacks.lazy.compactMap(SessionIDs.id(ofLoopback:)).first
        func loopback(_ family: IPAddress.Family) -> String? {
            loopbacks.first { $0.family == family }?.description
        }
        virtualLoopback = record.map { SessionIDs.loopback(of: $0.id).description } ?? loopback(.v4)
        virtualLoopback6 =
            record.map { record in found.prefix?.loopback(of: record.id).description } ?? loopback(.v6)
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
