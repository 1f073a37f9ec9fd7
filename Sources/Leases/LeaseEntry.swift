// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Host
import Network
import SystemPackage

/// A lease that a server has granted to a holder.
struct Grant {
    let address: IPAddress
    let server: IPAddress
    let seconds: UInt32
    /// When it was granted, by ``LeaseClock/now`` and by ``LeaseClock/uptime``.
    let obtained: Double
    let stamp: Double

    var expiry: Double { obtained + Double(seconds) }

    /// When its client should have renewed it or given up, at the latest.
    var overdue: Double { obtained + Double(seconds) * 0.75 }
}

/// The state of a lease. Times are those of ``LeaseClock/now``.
enum LeaseState {
    /// No client runs. From the given time on, one may be started to acquire an address.
    case queued(from: Double)
    /// The last attempts failed; the number is how many in a row. From `retry` on, another one may be made.
    case failed(Int, retry: Double)
    /// A client is asking for an address, until the given time at the latest.
    case acquiring(Client, until: Double, failures: Int)
    /// A client keeps the lease, and is told to renew it at the given time; `nil` if it was told already, and renews by
    /// itself.
    case held(Client, renewal: Double?)
    /// A client was told to renew. No other one is told until the given time.
    case renewing(Client, until: Double)

    var client: Client? {
        switch self {
        case .queued, .failed: nil
        case .acquiring(let client, _, _), .held(let client, _), .renewing(let client, _): client
        }
    }

    var isAcquiring: Bool { if case .acquiring = self { true } else { false } }

    var isRenewing: Bool { if case .renewing = self { true } else { false } }

    /// From when on a client may be started to acquire an address; `nil` if a client runs.
    var turn: Double? {
        switch self {
        case .queued(let from): from
        case .failed(_, let retry): retry
        case .acquiring, .held, .renewing: nil
        }
    }

    var failures: Int {
        switch self {
        case .failed(let count, _), .acquiring(_, _, let count): count
        case .queued, .held, .renewing: 0
        }
    }

    /// When this state ends by itself; `nil` for never.
    var deadline: Double? {
        switch self {
        case .acquiring(_, let until, _), .renewing(_, let until): until
        case .queued, .failed, .held: nil
        }
    }
}

/// A holder, from its first request for an address to its release.
final class LeaseEntry {
    let holder: LeaseHolder
    let client: ClientIdentifier
    let name: String
    let events: ClientEventFile
    var state: LeaseState
    /// The source that reports the client's end.
    var clientEnd: EventLoop.Source?
    /// The lease that the holder has. It is kept while another client is being started for it.
    var grant: Grant?
    /// The address to ask the server for next.
    var hint: IPAddress?
    /// Whether an address was acquired, so that the lease is kept even if no caller waits for it.
    var isKept = false
    var waiters: [Waiter] = []

    init(_ holder: LeaseHolder, _ client: ClientIdentifier, _ options: UDHCPCLeases.Options) {
        self.holder = holder
        self.client = client
        name = client.description
        events = ClientEventFile(options.runtime.appending("\(name).events"))
        state = .queued(from: LeaseClock.now)
    }

    var lease: Lease? {
        grant.map { grant in
            Lease(
                holder: holder, address: grant.address, server: grant.server, seconds: grant.seconds,
                expires: Date(timeIntervalSinceNow: grant.expiry - LeaseClock.now))
        }
    }

    /// When its client counts as stuck; `nil` if it has no lease, or no client that would renew it.
    var overdue: Double? {
        switch state {
        case .held, .renewing: grant?.overdue
        case .queued, .failed, .acquiring: nil
        }
    }
}
