// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Network
import Policy
import Sessions

struct PolicyCheck: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check a policy file without applying it.",
        discussion: """
            Needs no privilege. Prints nothing for a good file. Each problem of another is one line on standard error, \
            FILE:LINE:COLUMN: KEY: PROBLEM; WHAT TO DO, and the exit code is 1. With --json, the problems are a document.

            A file that can be read, and would leave sessions without an address or refuse all that they do, has lines \
            FILE:LINE:COLUMN: warning: KEY: …, and the exit code is 0. As root, they name the open sessions for which 'policy \
            apply' refuses the file without --force.

            EXAMPLES
              vip-bpfctl policy check policy.yaml && vip-bpfctl policy apply policy.yaml
            """
    )

    @Argument(help: policyFileHelp, completion: .file(extensions: ["yaml", "yml"]))
    var file: String

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let file = try output.policyFile(file)
        let instance = options.instance
        // Without the privilege to read it, or if it is damaged, nothing is known of sessions.
        let registry = try? instance.registry()
        let impact = try instance.impact(of: file.policy, registry, Netlink())
        guard output.json else { return impact.report(file) }
        try StandardOutput.line(OutputOptions.json(PolicyVerdict(file, impact)))
    }
}
