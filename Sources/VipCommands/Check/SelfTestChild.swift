// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import SelfTest

/// The program that `check --self-test` runs in each of its sessions.
struct SelfTestChild: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: SelfTestProgram.command, shouldDisplay: false)

    @Option var line: Int32

    func run() { SelfTestProgram.run(line: line) }
}
