// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Checks
import Glibc
import Host
import SelfTest
import Sessions
import SystemPackage

struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Check that this host meets the requirements.",
        discussion: """
            Prints one line per check, with a fix for each problem. Nothing is changed; the hooks are tested by \
            loading the real programs and unloading them again. Exit code 69 if the host lacks something that is \
            required, 77 if only privileges are missing, 1 if something is wrong that a command can fix.

            With --self-test, the command opens two sessions below the first attached cgroup and runs a test program \
            in each. The program makes socket calls, looks up the host's name and tries the other session's addresses. \
            It uses the process name of a program that the policy lists. The expected results are computed as explain \
            computes them. The sessions are removed afterwards; if the self-test is killed, the next command removes \
            them.

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
            payload = CheckPayload(facts: try SelfTestRun(options.instance, options.logger).run())
        } else {
            let host = CheckedHost(instance: options.instance, policyFile: policy.map { FilePath($0) })
            payload = CheckPayload(facts: host.facts())
        }
        try output.print(payload)
        if let code = payload.code { throw ExitCode(code.exitCode) }
    }
}
