// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// Real programs, unmodified, in two sessions: quick ones, by the driver of `make test-apps`, which has all of them.
@Suite(.serialized, .requiresRoot)
struct AppTests {
    /// Each with one of its variants or two: both families on a socket each and on one, by name, TCP and UDP.
    static let programs = [
        "redis/open", "redis/protected", "python/::", "nginx/separate", "nginx/proxy", "socat/tcp6", "socat/udp4",
        "socat/udp6only",
    ]

    /// What the driver prints is a line for each check; where one fails, all of it is the message.
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
