// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Policy
import PolicyMaps
import Sessions

struct ProgramAdd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add",
        abstract: "Add a program to a list.",
        discussion: """
            EXAMPLES
              vip-bpfctl program add redis-server --for virtual-ip
              vip-bpfctl program add /opt/crm/bin/crm --for loopback
            """
    )

    @OptionGroup var program: ListedProgram

    func run() throws {
        try program.edit { policy, entry, list throws(Failure) in try policy.add(entry, to: list) }
    }
}
