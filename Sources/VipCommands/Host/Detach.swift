// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Logging
import Sessions
import SystemPackage

struct Detach: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Detach the programs from a cgroup, or remove everything.",
        usage: "vip-bpfctl detach cgroup <path>\n       vip-bpfctl detach --all",
        discussion: """
            --all closes every session, takes its addresses off the interfaces, and removes links, programs, maps and \
            the policy in force. It also removes the pins of other versions.

            EXAMPLES
              vip-bpfctl detach cgroup /sys/fs/cgroup/user.slice
              vip-bpfctl detach --all
            """
    )

    @Argument(help: ArgumentHelp("The word 'cgroup' and the cgroup's path.", valueName: "cgroup path"))
    var words: [String] = []

    @Flag(help: "Remove everything.")
    var all = false

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if all ? !words.isEmpty : words.count != 2 || words[0] != "cgroup" {
            throw ValidationError("use either 'detach cgroup PATH' or 'detach --all'")
        }
    }

    func run() throws {
        if all {
            try detachAll()
        } else {
            let path = FilePath(words[1])
            try options.change(of: options.instance.forRemoval()) { change throws(Failure) in try change.detach(path) }
        }
        if output.json { try output.print(DetachedPayload(all: all, cgroup: all ? nil : words[1])) }
    }

    private func detachAll() throws(Failure) {
        let instance = try options.instance.forRemoval()
        do throws(Failure) {
            let change = try instance.change(options.logger, repairing: false, isRemoval: true)
            try change.detachAll()
        } catch  where error.code == .damagedRegistry {
            // For any other error, the registry is needed.
            let aside = try instance.detachAllWithoutRegistry()
            let file = aside.map { "it is now \($0)" } ?? "a new one is made with the next attach"
            options.logger.warning("the registry could not be used (\(error.reason)); \(file)")
        }
    }
}

struct DetachedPayload: Payload {
    var detached = "cgroup"
    @Nullable var cgroup: String?

    init(all: Bool, cgroup: String?) {
        if all { detached = "all" }
        self.cgroup = cgroup
    }

    var table: Table { Table() }
}
