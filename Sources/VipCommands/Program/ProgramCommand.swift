// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CVipABI
import Host
import Policy
import PolicyMaps
import Sessions
import SystemPackage

struct ProgramCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "program",
        abstract: "Edit the program lists of the policy in force.",
        discussion: """
            An entry is an executable's file name (java), a script's file name, an absolute path (/opt/crm/bin/crm: that \
            file, not another of the same name), or '*' for every program.
            """,
        subcommands: [ProgramAdd.self, ProgramRemove.self, ProgramListCommand.self]
    )
}

private let listHelp = ArgumentHelp("The list: virtual-ip, loopback or prefer-loopback.", valueName: "list")

struct ProgramAdd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add",
        abstract: "Add a program to a list.",
        discussion: """
            EXAMPLES
              vip-bpfctl program add redis-server --for virtual-ip
              vip-bpfctl program add /opt/crm/bin/crm --for loopback
            """
    )

    @Argument(help: ArgumentHelp("A file name, an absolute path, or '*'.", valueName: "name-or-path"))
    var entry: String
    @Option(name: .customLong("for"), help: listHelp)
    var list: ProgramList
    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let entry = try ProgramEntry(entry)
        let list = list
        let changes = try options.edit { policy throws(Failure) in try policy.add(entry, to: list) }
        if output.json { try output.print(AppliedPayload(changes)) }
    }
}

struct ProgramRemove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Remove a program from a list.",
        discussion: """
            EXAMPLES
              vip-bpfctl program remove redis-server --for virtual-ip
            """
    )

    @Argument(help: ArgumentHelp("A file name, an absolute path, or '*'.", valueName: "name-or-path"))
    var entry: String
    @Option(name: .customLong("for"), help: listHelp)
    var list: ProgramList
    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let entry = try ProgramEntry(entry)
        let list = list
        let changes = try options.edit { policy throws(Failure) in try policy.remove(entry, from: list) }
        if output.json { try output.print(AppliedPayload(changes)) }
    }
}

extension InstanceOptions {
    /// Applies the policy in force with one edit.
    fileprivate func edit(_ body: (inout Policy) throws(Failure) -> Void) throws(Failure) -> PolicyMapSet.Changes {
        let instance = instance
        return try change { change throws(Failure) in
            var policy = try instance.policy(change.registry)
            try body(&policy)
            // Together they may be impossible; the reader is the one judge of that.
            return try change.apply(Policy.read(yaml: policy.yaml(), file: "(policy in force, edited)"))
        }
    }
}

struct ProgramListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Show the program lists of the policy in force.",
        discussion: """
            FILE is the inode and device that a path means now; '-' where there is no such file.

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
                        row.device = "\(file.device >> 20):\(file.device & 0xfffff)"
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
