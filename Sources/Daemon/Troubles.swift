// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Policy
import Sessions
import SystemPackage

/// A present problem that an administrator should know.
enum Trouble: Hashable {
    /// The work of a keeper fails as a whole.
    case sessions, addresses, programs, wildcards, leases
    /// A cgroup that should be a session is not one.
    case noSession(FilePath)
    /// A session has no address: of one family, or, with `nil`, of any.
    case noAddress(session: UInt32, family: IPAddress.Family?)
    /// A session's address is missing on its interface.
    case missing(IPAddress)
    /// No leases can be had on an interface.
    case interface(String)
    /// Other hosts cannot be asked about addresses.
    case conflictCheck
    /// Some interfaces cannot be watched for other hosts that use sessions' addresses.
    case conflictWatch
    /// Addresses that were held during the check could not be released.
    case heldAddresses
    /// Cgroups or the state directory cannot be watched.
    case watches
    /// The directories of listed programs cannot be watched.
    case programWatches
    /// Programs outside sessions send from sessions' addresses.
    case borrowedSource(BorrowedSource)
    /// The policy in force cannot be looked at.
    case policy
    /// The policy file was not applied, because it would harm open sessions.
    case policyRefused
    /// The policy in force leaves sessions without an address, or refuses all that they do.
    case hazard(PolicyHazard.Kind, subject: String)
    /// A warning of a change. It is not counted.
    case warning(String)
}

/// Reports each trouble once, until it is cleared or its text changes.
final class Troubles {
    private let log: EventLog
    private var reported: [Trouble: String] = [:]

    init(_ log: EventLog) { self.log = log }

    /// The number of troubles, without warnings.
    var count: Int { reported.keys.count { if case .warning = $0 { false } else { true } } }

    func contains(_ trouble: Trouble) -> Bool { reported[trouble] != nil }

    func report(_ trouble: Trouble, _ failure: Failure) {
        report(trouble, Event(.error, "\(failure)", priority: .error, reason: failure.reason))
    }

    func report(_ trouble: Trouble, _ event: Event) {
        guard reported[trouble] != event.message else { return }
        reported[trouble] = event.message
        log.report(event)
    }

    /// Notes a trouble that another event has reported.
    func note(_ trouble: Trouble, _ text: String) { reported[trouble] = text }

    func clear(_ trouble: Trouble) { reported[trouble] = nil }

    /// Clears the troubles for which the condition holds.
    func clear(where condition: (Trouble) -> Bool) {
        for trouble in reported.keys where condition(trouble) { reported[trouble] = nil }
    }
}
