// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import FoundationEssentials
import Host
import Policy
import Sessions

struct PolicyShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show the policy in force, with every default.",
        discussion: """
            The text is a policy file: what it prints can be applied again. With --json, keys are those of the file.

            With NUMBER, it is an earlier one: 'policy history' lists them.

            EXAMPLES
              vip-bpfctl policy show > policy.yaml
              vip-bpfctl policy show 3 | vip-bpfctl policy diff -
            """
    )

    @Argument(help: ArgumentHelp("The number of a policy in the history.", valueName: "number"))
    var number: Int?

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let instance = options.instance
        let registry = try instance.registry()
        let policy =
            if let number { try instance.formerPolicy(number, registry).policy } else { try instance.policy(registry) }
        try StandardOutput.text(
            output.json ? try OutputOptions.json(policy, keys: .useDefaultKeys) + "\n" : policy.yaml())
    }
}
