// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Network
import Policy
import Sessions

struct SessionShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show one session.",
        discussion: """
            EXAMPLES
              vip-bpfctl session show 7
            """
    )

    @Argument(help: ArgumentHelp("The session ID.", valueName: "id"))
    var id: UInt32
    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let registry = try options.instance.registry()
        guard let record = try registry.session(id: id) else {
            throw Failure(
                .failed, "show session \(id)", "there is no such session", hint: "see vip-bpfctl session list")
        }
        let prefix = try registry.loopbackPrefix()
        try output.print(SessionPayload(record, prefix: prefix, isCgroupThere: record.isCgroupThere))
    }
}
