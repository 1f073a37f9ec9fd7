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
        try (instance ?? self.instance).change(reporting: logger, repairing: repairing, body)
    }

    /// Opens sessions, and prints the warnings on standard error if it succeeds.
    func open(_ requests: (borrowing Change) throws(Failure) -> [SessionRequest]) throws(Failure) -> Opened {
        try instance.open(reporting: logger, requests)
    }

    /// Waits until the daemon has leased the address of a new session. See ``Instance/lease(for:_:reporting:)``.
    func lease(for record: SessionRecord, of opened: Opened) throws(Failure) -> SessionRecord {
        try instance.lease(for: record, opened.awaitingLease, reporting: logger)
    }
}

extension IPAddress: ExpressibleByArgument {
    public init?(argument: String) { self.init(argument) }
}

extension ProgramList: ExpressibleByArgument {}
