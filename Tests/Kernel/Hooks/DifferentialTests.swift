// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// Random sequences of socket calls, in a session and in a network namespace with nothing attached. The results must be
/// the same. `scripts/differential` makes the environment, Tests/Tools/differential the sequences.
@Suite(.serialized, .requiresRoot)
struct DifferentialTests {
    private static let script = SourceTree.url("scripts/differential").path

    private func differential(_ arguments: String...) throws -> (status: Int32, output: String) {
        let program = try Program(
            [Self.script] + arguments, name: "scripts/differential",
            environment: ["VIP_BPFCTL": Build.controller.path], errorOutput: true)
        program.closeInput()
        let status = try program.wait()
        return (status, program.outputText + program.errorText)
    }

    /// Fixed seeds. Runs with new seeds, which may find new differences, are for `make differential`.
    @Test("finds no difference between a session and outside that is not known")
    func noDifference() throws {
        let result = try differential("--seed", "1", "--seed", "2", "--seconds", "1.5")
        print(result.output)
        #expect(result.status == 0, "\(result.output)")
    }

    /// Tests the test: without a hook, or with the features off, it must fail, with a short report.
    @Test("finds the difference that a missing hook makes", arguments: ["bind4", "connect6", "sendmsg4", "features"])
    func missingHookIsFound(hook: String) throws {
        let result = try differential("--break", hook, "--mode", "loopback", "--seed", "1", "--seconds", "100")
        #expect(result.status == 1, "\(result.output)")
        let calls = try #require(result.output.firstMatch(of: /in (\d+) calls:/), "\(result.output)")
        #expect(try #require(Int(calls.1)) <= 8, "\(result.output)")
    }
}
