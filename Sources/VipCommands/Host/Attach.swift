// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

struct Attach: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Attach the BPF programs, so that sessions can be opened.",
        subcommands: [AttachCgroup.self]
    )
}
