// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import SystemPackage

struct NamesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "names",
        abstract: "Resolve this host's name to the session's address inside sessions.",
        discussion: """
            Many programs ask for their own address by name: gethostname, then getaddrinfo. The name service module \
            libnss_vip.so.2 answers that with the session's virtual IP, for those programs to which one applies, and leaves all \
            other names and everybody outside a session to the sources after it.
            """,
        subcommands: [NamesEnable.self, NamesDisable.self]
    )
}

struct NamesOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The file to edit.", valueName: "file"), completion: .file())
    var file: String = NameServiceSwitch.defaultPath.string

    func validate() throws {
        guard FilePath(file).isAbsolute, !file.utf8.contains(0) else {
            throw ValidationError("--file '\(file)' is not an absolute path")
        }
    }
}

struct NamesEnable: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "enable",
        abstract: "Add the module at the beginning of the hosts line of nsswitch.conf.",
        discussion: """
            Only that line changes, in one step, and the file as it was is kept beside it as nsswitch.conf.vip-bpf. Repeating it \
            changes nothing. Running programs see it with their next look-up, since glibc 2.33.

            EXAMPLES
              vip-bpfctl names enable
              vip-bpfctl check | grep names
            """
    )

    @OptionGroup var names: NamesOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let outcome = try NameServiceSwitch(path: FilePath(names.file)).enable()
        try output.print(NamesPayload(outcome, file: names.file))
    }
}

struct NamesDisable: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "disable",
        abstract: "Remove the module from the hosts line of nsswitch.conf.",
        discussion: """
            The line becomes what it was, and what else was edited meanwhile stays. Repeating it changes nothing.

            EXAMPLES
              vip-bpfctl names disable
            """
    )

    @OptionGroup var names: NamesOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let outcome = try NameServiceSwitch(path: FilePath(names.file)).disable()
        try output.print(NamesPayload(outcome, file: names.file))
    }
}

struct NamesPayload: Payload {
    var file: String
    var isChanged: Bool
    var isEnabled: Bool
    var line: String
    @Nullable var backup: String?

    init(_ outcome: NameServiceSwitch.Outcome, file: String) {
        self.file = file
        isChanged = outcome.isChanged
        isEnabled = outcome.line.isEnabled
        line = outcome.line.text
        backup = outcome.backup?.string
    }

    var table: Table {
        Table(rows: [
            ["\(file): \(isChanged ? "now" : "unchanged"): \(line)\(backup.map { "; as it was: \($0)" } ?? "")"]
        ])
    }
}
