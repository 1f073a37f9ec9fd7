// SPDX-License-Identifier: Apache-2.0

import Leases
import SystemPackage

// A process for tests to kill: it leases an address for each user, prints them, and holds them until its input ends.
//
//   vip-lease-holder INTERFACE STATE RUNTIME USER…
let arguments = CommandLine.arguments
let options = UDHCPCLeases.Options(
    interface: arguments[1], state: FilePath(arguments[2]), runtime: FilePath(arguments[3]),
    host: [1, 2, 3, 4, 5, 6, 7, 8])
let source = try UDHCPCLeases(options) { _ in }
for user in arguments.dropFirst(4) { print(try source.acquire(LeaseHolder(user: user)).address) }
print("ready")
while readLine() != nil {}
