// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Checks
import Glibc
import Host
import Sessions
import SystemPackage

struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Check that this host meets the requirements.",
        discussion: """
            Prints one line per check, with a fix for each problem. Nothing is changed; the hooks are tested by loading the \
            real programs and dropping them again. Exit code 69 if the host lacks something that is required, 77 if only \
            privileges are missing, 1 if something is wrong that a command can fix.

            With --self-test, two sessions are opened below the first attached cgroup, with addresses as any session gets \
            them, and a program in each makes its calls: bind, connect, accept, names, the other session's addresses. It \
            takes the name of a program that the policy in force lists, and what it is to get is computed as explain does. \
            Nothing else is touched, and everything is taken away again; a self-test that was killed is cleared away by the \
            next command, as a run is.

            EXAMPLES
              vip-bpfctl check
              vip-bpfctl check --json | jq '.facts[] | select(.verdict != "good")'
              vip-bpfctl check --self-test
            """
    )

    @Option(
        help: ArgumentHelp(
            "The policy file to compare with the policy in force. Default: \(Instance.defaultPolicyFile), if it exists.",
            valueName: "file"),
        completion: .file(extensions: ["yaml", "yml"]))
    var policy: String?

    @Flag(help: "Open two temporary sessions and test that they work.")
    var selfTest = false

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let payload: CheckPayload
        if selfTest {
            payload = CheckPayload(facts: try SelfTest(options).run())
        } else {
            let host = CheckedHost(instance: options.instance, policyFile: policy.map { FilePath($0) })
            payload = CheckPayload(facts: host.facts())
        }
        try output.print(payload)
        if let code = payload.code { throw ExitCode(code.exitCode) }
    }
}
