// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import SystemPackage

struct NamesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "names",
        abstract: "Resolve this host's name to the session's address inside sessions.",
        discussion: """
            Many programs ask for their own address by name: gethostname, then getaddrinfo. The name service module \
            libnss_vip.so.2 answers that with the session's virtual IP, for those programs to which one applies, and \
            leaves all other names and everybody outside a session to the sources after it.
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
            ["\(file): \(isChanged ? "now" : "unchanged"): \(line)\(backup.map { "; previous file: \($0)" } ?? "")"]
        ])
    }
}
