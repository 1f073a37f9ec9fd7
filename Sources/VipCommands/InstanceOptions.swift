// SPDX-License-Identifier: Apache-2.0

public import ArgumentParser
import FoundationEssentials
import Host
import Logging
public import Network
import Policy
import Sessions
import SystemPackage

/// The options of every command, which choose its instance.
struct InstanceOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp("The directory in which programs, maps and links are pinned.", valueName: "dir"),
        completion: .directory)
    var bpffs: String = ProcessInfo.processInfo.environment["VIP_BPF_BPFFS"] ?? "/sys/fs/bpf/vip"

    @Option(help: ArgumentHelp("The directory of the session registry.", valueName: "dir"), completion: .directory)
    var state: String = ProcessInfo.processInfo.environment["VIP_BPF_STATE"] ?? "/var/lib/vip-bpf"

    @Flag(name: [.short, .long], help: "Print more detail, including the verifier log.")
    var verbose = false

    func validate() throws {
        for (option, value) in [("--bpffs", bpffs), ("--state", state)] {
            guard FilePath(value).isAbsolute, !value.utf8.contains(0) else {
                throw ValidationError("\(option) '\(value)' is not an absolute path")
            }
        }
    }

    var instance: Instance { Instance(bpffs: FilePath(bpffs), state: FilePath(state)) }

    var logger: Logger {
        Logger(label: "vip-bpfctl") { _ in StandardErrorLog(logLevel: verbose ? .debug : .warning) }
    }

    /// Runs a change under the lock, and prints its warnings on standard error if it succeeds.
    func change<T>(
        of instance: Instance? = nil, repairing: Bool = true, _ body: (inout Change) throws(Failure) -> T
    ) throws(Failure) -> T {
        var change = try (instance ?? self.instance).change(logger, repairing: repairing)
        let result = try body(&change)
        for warning in change.warnings { logger.warning("\(warning)") }
        return result
    }

    /// Opens sessions, and prints the warnings on standard error if it succeeds.
    func open(_ requests: (borrowing Change) throws(Failure) -> [SessionRequest]) throws(Failure) -> Opened {
        let opened = try instance.open(logger, requests: requests)
        EventLog.reportOfCommand(Event.opening(of: opened))
        let found = opened.conflicts.map(\.message) + opened.squatters.map(\.message)
        for warning in found + opened.warnings + risks(of: opened.records) { logger.warning("\(warning)") }
        return opened
    }

    /// What of the policy in force may keep the sessions from what they ask for. The opening itself reports that there
    /// is no pool.
    private func risks(of records: [SessionRecord]) -> [String] {
        let ids = Set(records.map(\.id))
        guard !ids.isEmpty, let registry = try? instance.registry(), let netlink = try? Netlink(),
            let policy = try? instance.policy(registry),
            let risks = try? instance.risksInForce(registry, netlink)
        else { return [] }
        let file = PolicyFile(policy, named: "the policy in force")
        return risks.filter {
            ![.noPool, .unaddressedSessions].contains($0.hazard.kind) && !ids.isDisjoint(with: $0.sessions)
        }
        .map { "\(file.problem($0.hazard))" }
    }
}

extension IPAddress: ExpressibleByArgument {
    public init?(argument: String) { self.init(argument) }
}

extension ProgramList: ExpressibleByArgument {}
