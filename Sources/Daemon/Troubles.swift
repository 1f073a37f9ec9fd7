// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Sessions
import SystemPackage

/// What is wrong at present, as far as an administrator should know.
enum Trouble: Hashable {
    /// The work of a whole keeper fails.
    case sessions, addresses, programs, leases
    /// A cgroup that should be a session is none.
    case noSession(FilePath)
    /// A session goes without an address: of one family, or of those that its policy gives it.
    case noAddress(session: UInt32, family: IPAddress.Family?)
    /// A session's address is missing on its interface.
    case missing(IPAddress)
    /// No leases can be had on an interface.
    case interface(String)
    /// Other hosts cannot be asked for their addresses.
    case conflictCheck
    /// Addresses that were reserved for the check stay reserved.
    case heldAddresses
    /// Cgroups or the state directory are not watched.
    case watches
    /// The directories of listed programs are not watched.
    case programWatches
    /// A warning of a change: not counted as trouble.
    case warning(String)
}

/// Reports each trouble once, until it is cleared or its text changes.
final class Troubles {
    private let log: EventLog
    private var reported: [Trouble: String] = [:]

    init(_ log: EventLog) { self.log = log }

    /// How many there are, warnings left out.
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

    /// Takes note of a trouble that another event has reported.
    func note(_ trouble: Trouble, _ text: String) { reported[trouble] = text }

    func clear(_ trouble: Trouble) { reported[trouble] = nil }

    /// Clears those for which the condition holds: what they were of no longer exists.
    func clear(where condition: (Trouble) -> Bool) {
        for trouble in reported.keys where condition(trouble) { reported[trouble] = nil }
    }
}
