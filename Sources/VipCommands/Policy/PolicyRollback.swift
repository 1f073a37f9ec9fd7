// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Policy
import PolicyMaps
import Sessions

struct PolicyRollback: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rollback",
        abstract: "Put an earlier policy in force again.",
        discussion: """
            Without NUMBER, it is the one before that in force; two times in a row end where they began. A policy that is on \
            trial ('policy apply --confirm') is over with it. As by 'policy apply', a policy that would harm open sessions is \
            refused without --force. The policy file is not changed.

            EXAMPLES
              vip-bpfctl policy rollback
              vip-bpfctl policy history && vip-bpfctl policy rollback 3
            """
    )

    @Argument(help: ArgumentHelp("The number of a policy in the history.", valueName: "number"))
    var number: Int?

    @Flag(help: "Apply it also if it leaves open sessions without an address, or refuses all that they do.")
    var force = false

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let instance = options.instance
        let (file, impact, changes) = try options.change {
            change throws(Failure) -> (PolicyFile, PolicyImpact, PolicyMapSet.Changes?) in
            let former = try instance.formerPolicy(number, change.registry)
            let file = PolicyFile(former.policy, named: "policy \(former.number)")
            let impact = try change.impact(of: file.policy)
            guard force || impact.refused.isEmpty else { return (file, impact, nil) }
            return (file, impact, try change.apply(file.policy, as: .rollback))
        }
        guard let changes else { return try output.refuse(file, impact) }
        impact.report(file)
        try output.print(AppliedPayload(changes, warnings: impact.warnings(in: file)))
    }
}
