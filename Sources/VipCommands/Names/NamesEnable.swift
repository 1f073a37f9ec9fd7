// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import SystemPackage

struct NamesEnable: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "enable",
        abstract: "Add the module at the beginning of the hosts line of nsswitch.conf.",
        discussion: """
            Only that line changes, in one step, and the previous file is kept in the same directory as \
            nsswitch.conf.vip-bpf. Running it again changes nothing. Running programs see it with their next look-up, \
            since glibc 2.33.

            EXAMPLES
              vip-bpfctl names enable
              vip-bpfctl check | grep names
            """
    )

    @OptionGroup var names: NamesOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let outcome = try NameServiceSwitch(path: FilePath(names.file)).enable()
        try output.print(NamesPayload(outcome, file: names.file))
    }
}
