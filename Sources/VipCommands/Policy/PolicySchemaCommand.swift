// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Policy

struct PolicySchemaCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "schema",
        abstract: "Print the JSON Schema of the policy file.",
        discussion: """
            With it, an editor completes keys, shows what they mean, and marks what is wrong. The installed schema is named in \
            the first line of the installed policy. `policy check` finds more: a schema cannot compare two parts of a file.

            EXAMPLES
              vip-bpfctl policy schema >policy.schema.json
            """
    )

    func run() throws {
        try StandardOutput.text(PolicySchema.text)
    }
}
