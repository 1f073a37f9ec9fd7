// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

struct MapCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "map",
        abstract: "Inspect the BPF maps.",
        subcommands: [MapList.self, MapDump.self]
    )
}
