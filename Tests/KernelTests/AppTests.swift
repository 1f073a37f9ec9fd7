// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

/// Real programs, unmodified, in two sessions: those that are quick. All of them: `make test-apps`.
@Suite(.serialized, .requiresRoot)
struct AppTests {
    /// What the driver prints is a line for each check; where one fails, all of it is the message.
    @Test(.timeLimit(.minutes(5)), arguments: ["redis", "python", "nginx", "socat"])
    func twoSessionsAsOutside(_ name: String) throws {
        let driver = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../scripts/test-apps")
        let program = try Program(
            [driver.standardized.path, name], environment: ["VIP_BPFCTL": Build.controller.path], errorOutput: true)
        program.closeInput()
        let code = try program.wait(within: .seconds(240))
        #expect(code == 0, "\(program.outputText)\(program.errorText)")
        #expect(program.outputText.contains("\nok "), "no check was made: \(program.outputText)")
    }
}
