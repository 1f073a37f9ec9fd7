// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Network
import Policy
import Sessions

struct SessionList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the sessions.",
        discussion: """
            Only root and members of the group of 'attach cgroup PATH --group NAME' may use this.

            --all also lists past sessions, in the order in which they were opened, with the time and reason of their \
            end. The policy's history.retentionDays says how long they are kept, 90 days by default.

            EXAMPLES
              vip-bpfctl session list
              vip-bpfctl session list --json | jq -r '.sessions[].virtual_ips[]'
              vip-bpfctl session list --all
            """
    )

    @Flag(help: "Include past sessions.")
    var all = false
    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let registry = try options.instance.registry()
        if all {
            return try output.print(SessionHistoryPayload(registry.history(), bootID: BootID.current()))
        }
        let prefix = try registry.loopbackPrefix()
        let sessions = try registry.sessions().map {
            SessionPayload($0, prefix: prefix, isCgroupThere: $0.isCgroupThere)
        }
        try output.print(SessionListPayload(sessions: sessions))
    }
}
