// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Discovery
import FoundationEssentials
import Glibc
import Host
import Sessions
import SystemPackage

struct Discover: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Find out which programs need a virtual IP or a virtual loopback.",
        discussion: """
            Observes what the programs of some cgroups bind and connect to, for a time or until it is interrupted, \
            includes sockets that are open already, and reports for each program whether a second instance of it would \
            clash, on what, and what it needs so that it does not. Nothing is changed: programs that observe are \
            attached for as long as this command runs, and are removed when it ends, even if it is killed.

            Without --cgroup the attached cgroups are observed. The root of cgroup v2 is refused: every socket of the \
            host would pay for the observation. Name user.slice, system.slice or cgroups below them instead.

            --suggest prints a policy file: the policy in force with the missing entries added.

            EXAMPLES
              vip-bpfctl discover --for 60
              vip-bpfctl discover --cgroup /sys/fs/cgroup/user.slice --for 3600 --suggest >policy.yaml
              vip-bpfctl discover --for 60 --json | jq '.programs[] | select(.needs != "neither") | .entry'
            """
    )

    @Option(
        name: .customLong("for"),
        help: ArgumentHelp(
            "How long to observe; 0 shows only the sockets that are open. Default: until interrupted.",
            valueName: "seconds")
    )
    var seconds: Double?
    @Option(
        help: ArgumentHelp("Observe this cgroup and all below it; may be repeated.", valueName: "path"),
        completion: .directory)
    var cgroup: [String] = []
    @Flag(help: "Print a policy file under which they do not conflict.")
    var suggest = false
    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    /// The longest time, in seconds: a year of 366 days.
    private static let longest = 366.0 * 86400

    func validate() throws {
        if let seconds, !(0...Self.longest).contains(seconds) {
            throw ValidationError("--for \(seconds) is not between 0 and \(Int(Self.longest)) seconds")
        }
        if cgroup.contains(where: { $0.isEmpty || $0.utf8.contains(0) }) {
            throw ValidationError("--cgroup has no path")
        }
    }

    func run() throws {
        let signals = try SignalReader([SIGINT, SIGTERM, SIGHUP])
        let instance = options.instance
        let cgroups = try Observation.cgroups(cgroup.map { FilePath($0) }, instance)
        let policy = try instance.policyInForce()
        let from = Date()
        let observation = try Observation(of: cgroups, instance)
        try observation.start()
        if isatty(STDERR_FILENO) == 1 {
            let names = cgroups.map(\.path.string).joined(separator: ", ")
            let end = seconds.map { "for \($0 == $0.rounded() ? "\(Int($0))" : "\($0)") s, or until" } ?? "until"
            StandardError.line("vip-bpfctl: observing \(names.printableLine) \(end) ^C")
        }
        try observation.wait(for: seconds, signals)
        let result = try observation.result()
        let until = Date()
        let found = Verdicts(on: result.programs, ephemeral: result.ephemeral).ranked(result.programs)
        if options.verbose, observation.unreadable > 0 {
            StandardError.line("vip-bpfctl: the sockets of \(observation.unreadable) processes could not be seen")
        }
        var payload = DiscoverPayload(found, result, observed: cgroups, from: from, until: until, policy: policy)
        guard suggest else { return try output.print(payload) }
        let suggestion = try PolicySuggestion(for: found, inForce: policy).text()
        guard output.json else { return try StandardOutput.text(suggestion) }
        payload.suggestion = suggestion
        try output.print(payload)
    }
}
