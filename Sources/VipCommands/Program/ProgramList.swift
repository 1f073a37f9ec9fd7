// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CVipABI
import Host
import Policy
import PolicyMaps
import Sessions

struct ProgramListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Show the program lists of the policy in force.",
        discussion: """
            FILE shows the inode and device of the file that the path leads to now, or '-' if there is none.

            EXAMPLES
              vip-bpfctl program list --json
            """
    )

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let instance = options.instance
        let policy = try instance.policy(instance.registry())
        let mounts = try MountTable.current()
        var rows: [ProgramsPayload.Row] = []
        let overrides: [Policy.Override?] = [nil] + policy.overrides
        for override in overrides {
            let lists: [(ProgramList, [ProgramEntry]?)] =
                if let override {
                    [
                        (.virtualIP, override.virtualIP?.programs), (.loopback, override.virtualLoopback?.programs),
                        (.preferLoopback, override.preferLoopback?.programs),
                    ]
                } else {
                    ProgramList.allCases.map { ($0, policy[$0]) }
                }
            for (list, entries) in lists {
                for entry in entries ?? [] {
                    var row = ProgramsPayload.Row(list: list.rawValue, program: entry.description)
                    row.override = override?.name
                    if case .path(let path) = entry, let file = try ProgramFile.identity(of: path, mounts: mounts) {
                        row.inode = file.inode
                        row.device = ProgramFile.text(ofDevice: file.device)
                    }
                    rows.append(row)
                }
            }
        }
        try output.print(ProgramsPayload(programs: rows))
    }
}

struct ProgramsPayload: Payload {
    struct Row: Encodable {
        var list: String
        var program: String
        @Nullable var override: String?
        @Nullable var inode: UInt64?
        @Nullable var device: String?

        init(list: String, program: String) {
            self.list = list
            self.program = program
        }
    }

    var programs: [Row]

    var table: Table {
        Table(
            headings: ["LIST", "PROGRAM", "OVERRIDE", "FILE"],
            rows: programs.map { row in
                let file = row.inode.flatMap { inode in row.device.map { "\(inode) on \($0)" } }
                return [row.list, row.program, row.override ?? "-", file ?? "-"]
            })
    }
}
