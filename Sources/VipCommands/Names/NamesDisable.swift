// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import SystemPackage

struct NamesDisable: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "disable",
        abstract: "Remove the module from the hosts line of nsswitch.conf.",
        discussion: """
            The line is restored. Other edits to the file are kept. Running it again changes nothing.

            EXAMPLES
              vip-bpfctl names disable
            """
    )

    @OptionGroup var names: NamesOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let outcome = try NameServiceSwitch(path: FilePath(names.file)).disable()
        try output.print(NamesPayload(outcome, file: names.file))
    }
}
