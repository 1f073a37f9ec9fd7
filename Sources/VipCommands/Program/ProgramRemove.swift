// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Policy
import PolicyMaps
import Sessions

struct ProgramRemove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Remove a program from a list.",
        discussion: """
            EXAMPLES
              vip-bpfctl program remove redis-server --for virtual-ip
            """
    )

    @OptionGroup var program: ListedProgram

    func run() throws {
        try program.edit { policy, entry, list throws(Failure) in try policy.remove(entry, from: list) }
    }
}
