// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Policy
import PolicyMaps
import Sessions

struct ProgramCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "program",
        abstract: "Edit the program lists of the policy in force.",
        discussion: """
            An entry is an executable's file name (java), a script's file name, an absolute path (/opt/crm/bin/crm: \
            that file, not another of the same name), or '*' for every program.
            """,
        subcommands: [ProgramAdd.self, ProgramRemove.self, ProgramListCommand.self]
    )
}

/// The help of `LIST`.
let programListHelp = ArgumentHelp("The list: virtual-ip, loopback or prefer-loopback.", valueName: "list")

/// An entry and its list, and how to edit the policy with it.
struct ListedProgram: ParsableArguments {
    @Argument(help: ArgumentHelp("A file name, an absolute path, or '*'.", valueName: "name-or-path"))
    var entry: String
    @Option(name: .customLong("for"), help: programListHelp)
    var list: ProgramList
    @Flag(help: "Edit the list also if that leaves open sessions without an address, or refuses all that they do.")
    var force = false
    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func edit(_ body: (inout Policy, ProgramEntry, ProgramList) throws(Failure) -> Void) throws {
        let entry = try ProgramEntry(entry)
        let list = list
        let changes = try options.edit(isForced: force) { policy throws(Failure) in try body(&policy, entry, list) }
        if output.json { try output.print(AppliedPayload(changes)) }
    }
}

extension InstanceOptions {
    /// Applies the policy in force with one edit.
    ///
    /// - Parameter isForced: whether it is applied even if that would leave open sessions without an address, or refuse
    ///   all that they do.
    func edit(
        isForced: Bool, _ body: (inout Policy) throws(Failure) -> Void
    ) throws(Failure) -> PolicyMapSet.Changes {
        let instance = instance
        return try change { change throws(Failure) in
            var policy = try instance.policy(change.registry)
            try body(&policy)
            // The edited policy may be inconsistent, which only the reader checks.
            let name = "(policy in force, edited)"
            policy = try Policy.read(yaml: policy.yaml(), file: name)
            if !isForced { try change.requireHarmless(PolicyFile(policy, named: name)) }
            return try change.apply(policy, as: .edit)
        }
    }
}
