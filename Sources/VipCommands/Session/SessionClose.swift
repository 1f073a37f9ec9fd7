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
            Programs in its cgroup go on. TCP, MPTCP and UDP sockets on its virtual IPs and loopbacks are destroyed \
            (ECONNABORTED), even if a program outside its cgroup holds them, so that the next session with these \
            addresses does not get them. Prints nothing; with --json, prints the closed session.

            EXAMPLES
              vip-bpfctl session close 7
              vip-bpfctl session close 7 --keep-sockets
            """
    )

    @Argument(help: ArgumentHelp("The session ID.", valueName: "id"))
    var id: UInt32
    @Flag(help: "Leave the sockets on its addresses as they are.")
    var keepSockets = false
    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let id = id
        let keepSockets = keepSockets
        let (closed, prefix) = try options.change { change throws(Failure) in
            (try change.close(id, keepSockets: keepSockets), try change.registry.loopbackPrefix())
        }
        EventLog.reportOfCommand(Event.closing(of: closed, because: "closed by hand"))
        if output.json { try output.print(SessionPayload(closed.record, prefix: prefix, state: "closed")) }
    }
}
