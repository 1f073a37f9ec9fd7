// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Policy
import SystemPackage

struct PolicyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "policy",
        abstract: "Apply, check, compare or show a policy, or go back to an earlier one.",
        subcommands: [
            PolicyApply.self, PolicyCheck.self, PolicyDiff.self, PolicyShow.self, PolicyHistory.self,
            PolicyRollback.self, PolicyConfirm.self, PolicySchemaCommand.self, PolicyAwait.self,
        ]
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
