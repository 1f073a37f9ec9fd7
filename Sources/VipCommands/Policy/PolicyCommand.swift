// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Policy
import SystemPackage

struct PolicyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "policy",
        abstract: "Apply, check or show a policy.",
        subcommands: [PolicyApply.self, PolicyCheck.self, PolicyShow.self]
    )
}

/// The argument FILE of a command that reads a policy.
let policyFileHelp = ArgumentHelp("The policy file, '-' for standard input.", valueName: "file")

extension OutputOptions {
    /// Reads a policy file. If it has problems, reports all of them and ends the command.
    ///
    /// - Parameter path: `-` for standard input.
    func policyFile(_ path: String) throws -> PolicyFile {
        switch try PolicyFile.check(contentsOf: FilePath(path)) {
        case .success(let file): return file
        case .failure(let problems):
            if json {
                let name = problems.all[0].file
                try StandardOutput.line(OutputOptions.json(PolicyVerdict(file: name, problems: problems.all)))
            } else {
                for problem in problems.all { StandardError.line("\(problem)") }
            }
            throw ExitCode(Failure.Code.failed.exitCode)
        }
    }
}
