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
            Needs no privilege, and shows no other session. The kernel is asked for the virtual IPs, as any program would ask \
            it: by a socket bound to 0.0.0.0 and one bound to ::. The ID, and addresses that do not apply to this program \
            (virtualIP.mode: perProgram), come from the registry, by the cgroup that this is run in; where the registry \
            cannot be read, they are left out, and a warning says so.

            The exit code is 1 outside every session.

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
        guard record != nil || answers.contains(where: \.isOfSession) else {
            if let obstacle {
                throw Failure(
                    obstacle.code == .notPermitted ? .notPermitted : .failed, what,
                    "no virtual IP applies to this program, and the registry cannot be read: \(obstacle.operation): "
                        + obstacle.reason,
                    hint: obstacle.hint, detail: obstacle.detail)
            }
            throw Failure(
                .failed, what, "this process is in no session",
                hint: "run it in a session; vip-bpfctl session list shows them")
        }
        if record == nil {
            options.logger.warning(
                "the session ID is not known: \(obstacle.map { "\($0)" } ?? "the registry has no session here")")
        }
        try output.print(WhoamiPayload(record, prefix: prefix, asked: asked))
    }
}

struct WhoamiPayload: Payload {
    /// The ID; `nil` if the registry does not have the session.
    @Nullable var id: UInt32?
    var virtualIps: [String]
    @Nullable var virtualLoopback: String?
    @Nullable var virtualLoopback6: String?
    @Nullable var user: String?
    @Nullable var cgroup: String?

    /// - Parameter asked: the virtual IPs that the kernel gives this program.
    init(_ record: SessionRecord?, prefix: LoopbackPrefix?, asked: [IPAddress]) {
        virtualIps = (record?.addresses.map(\.address) ?? asked).map(\.description)
        id = record?.id
        virtualLoopback = record.map { SessionIDs.loopback(of: $0.id).description }
        virtualLoopback6 = record.flatMap { prefix?.loopback(of: $0.id).description }
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
