// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

struct SessionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "session",
        abstract: "Open, close and list sessions.",
        subcommands: [SessionOpen.self, SessionClose.self, SessionList.self, SessionShow.self]
    )
}
