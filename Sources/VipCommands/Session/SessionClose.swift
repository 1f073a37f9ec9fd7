// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Network
import Policy
import Sessions

struct SessionClose: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "close",
        abstract: "Close a session and release its addresses; its programs keep running.",
        discussion: """
            Programs in its cgroup go on; sockets on its virtual IP lose their address. Prints nothing, or with --json what \
            the session was.

            EXAMPLES
              vip-bpfctl session close 7
            """
    )

    @Argument(help: ArgumentHelp("The session ID.", valueName: "id"))
    var id: UInt32
    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let id = id
        let (record, prefix) = try options.change { change throws(Failure) in
            (try change.close(id), try change.registry.loopbackPrefix())
        }
        EventLog.reportOfCommand(Event.closing(of: record, because: "closed by hand"))
        if output.json { try output.print(SessionPayload(record, prefix: prefix, state: "closed")) }
    }
}
