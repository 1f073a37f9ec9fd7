// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Glibc
import Host
import Policy
import Sessions

struct PolicyConfirm: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "confirm",
        abstract: "Keep the policy that 'policy apply --confirm' has put in force.",
        discussion: """
            EXAMPLES
              vip-bpfctl policy confirm
            """
    )

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    private struct Confirmed: Payload {
        /// The number of the policy in the history.
        @Nullable var number: Int?

        init(_ number: Int?) { self.number = number }

        var table: Table { Table(rows: [["the policy in force stays\(number.map { ": number \($0)" } ?? "")"]]) }
    }

    func run() throws {
        let number = try options.change { change throws(Failure) in
            try change.confirmPolicy()
            return try change.registry.policyHistory().last?.number
        }
        try output.print(Confirmed(number))
    }
}

/// The process that ends a trial which is not confirmed: it waits for the deadline, and then makes a change, which puts
/// the former policy in force again.
struct PolicyAwait: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "await-confirmation", shouldDisplay: false)

    /// By CLOCK_BOOTTIME, in milliseconds.
    @Option var deadline: Int64

    @OptionGroup var options: InstanceOptions

    static func arguments(_ deadline: Int64) -> [String] {
        ["policy", "await-confirmation", "--deadline", "\(deadline)"]
    }

    func run() throws {
        // So that it keeps no file system of the caller's from being unmounted.
        _ = chdir("/")
        Instance.wait(until: deadline)
        // Others may hold the lock for longer than a change waits for it. A minute of that is enough: the next change
        // of any command does it as well.
        let tries = 6
        for attempt in 1...tries {
            do throws(Failure) {
                return try options.change { _ in }
            } catch {
                guard error.code == .busy, attempt < tries else { throw error }
            }
        }
    }
}
