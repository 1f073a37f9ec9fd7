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

    @Argument(help: ArgumentHelp("A file name, an absolute path, or '*'.", valueName: "name-or-path"))
    var entry: String
    @Option(name: .customLong("for"), help: programListHelp)
    var list: ProgramList
    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let entry = try ProgramEntry(entry)
        let list = list
        let changes = try options.edit { policy throws(Failure) in try policy.remove(entry, from: list) }
        if output.json { try output.print(AppliedPayload(changes)) }
    }
}
