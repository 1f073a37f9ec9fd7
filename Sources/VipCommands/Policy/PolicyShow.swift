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

            EXAMPLES
              vip-bpfctl policy show > policy.yaml
            """
    )

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let instance = options.instance
        let policy = try instance.policy(instance.registry())
        try StandardOutput.text(
            output.json ? try OutputOptions.json(policy, keys: .useDefaultKeys) + "\n" : policy.yaml())
    }
}
