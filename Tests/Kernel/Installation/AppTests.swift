// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// Real, unmodified programs in two sessions: the quick ones of `make test-apps`.
@Suite(.serialized, .requiresRoot)
struct AppTests {
    /// Some variants of each: a socket for each family and one for both, by name, TCP and UDP.
    static let programs = [
        "redis/open", "redis/protected", "python/::", "nginx/separate", "nginx/proxy", "socat/tcp6", "socat/udp4",
        "socat/udp6only",
    ]

    /// The driver prints a line for each check. If one fails, the message has all lines.
    @Test("serves real programs in two sessions as outside")
    func twoSessionsAsOutside() throws {
        let program = try Program(
            [SourceTree.url("scripts/test-apps").path] + Self.programs,
            environment: ["VIP_BPFCTL": Build.controller.path],
            errorOutput: true)
        program.closeInput()
        let code = try program.wait()
        #expect(code == 0, "\(program.outputText)\(program.errorText)")
        for name in Self.programs {
            let title = " - \(name.replacing("/", with: " ")): ben: localhost\n"
            #expect(program.outputText.contains(title), "\(name) was not run: \(program.outputText)")
        }
    }
}
