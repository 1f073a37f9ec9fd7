// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Network
import Policy
import Sessions

/// The options for a new session's ID, addresses and user.
struct NewSessionOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The session ID, 2…16777213. Default: the lowest free one.", valueName: "n"))
    var id: UInt32?

    @Flag(help: "Allow a reserved ID (1, 52, 53, 256).")
    var allowReserved = false

    @Option(
        name: .customLong("ip"),
        help: ArgumentHelp(
            "A virtual IP; one IPv4 and one IPv6 address at most. Default: for each family, one from the policy's pool, the user's last one if it is free.",
            valueName: "addr"))
    var addresses: [IPAddress] = []

    @Option(help: ArgumentHelp("Use this policy override, ignoring its match rules.", valueName: "name"))
    var policy: String?

    func fill(_ request: inout SessionRequest) {
        request.id = id
        request.allowReserved = allowReserved
        request.addresses = addresses
        request.policy = policy
    }
}
