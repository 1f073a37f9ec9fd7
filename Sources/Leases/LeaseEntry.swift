// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Host
import Network
import SystemPackage

/// What a server has granted a holder.
struct Grant {
    let address: IPAddress
    let server: IPAddress
    let seconds: UInt32
    /// When, by ``LeaseClock/now`` and by ``LeaseClock/uptime``.
    let obtained: Double
    let stamp: Double

    var expiry: Double { obtained + Double(seconds) }

    /// When its client should long have renewed it, or given up.
    var overdue: Double { obtained + Double(seconds) * 0.75 }
}

/// What is being done for a lease. Times are of ``LeaseClock/now``.
enum LeaseState {
    /// No client runs. It may take its turn to ask a server from a time on.
    case queued(from: Double)
    /// The last tries failed, so many in a row. It may take its turn again from a time on.
    case failed(Int, retry: Double)
    /// A client asks for an address, until a time at most.
    case acquiring(Client, until: Double, failures: Int)
    /// A client keeps the lease. It is to be told to renew at a time; `nil` where it was told, and renews by itself.
    case held(Client, renewal: Double?)
    /// A client was told to renew. Until a time no other one is.
    case renewing(Client, until: Double)

    var client: Client? {
        switch self {
        case .queued, .failed: nil
        case .acquiring(let client, _, _), .held(let client, _), .renewing(let client, _): client
        }
    }

    var isAcquiring: Bool { if case .acquiring = self { true } else { false } }

    var isRenewing: Bool { if case .renewing = self { true } else { false } }

    /// From when on it may take its turn to acquire; `nil` where a client runs.
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

    /// When something is due that depends on no other lease; `nil` is never.
    var deadline: Double? {
        switch self {
        case .acquiring(_, let until, _), .renewing(_, let until): until
        case .queued, .failed, .held: nil
        }
    }
}

/// One holder, from its first wish for an address to its release.
final class LeaseEntry {
    let holder: LeaseHolder
    let client: ClientIdentifier
    let name: String
    let events: ClientEventFile
    var state: LeaseState
    /// Calls back when the client has ended.
    var clientEnd: EventLoop.Source?
    /// What the holder has. It may be kept while another client is being started for it.
    var grant: Grant?
    /// What to ask the server for next.
    var hint: IPAddress?
    /// Whether it was acquired, and is to be held while no caller waits for it.
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

    /// When its client counts as stuck; `nil` where it holds nothing, or no client is to renew it.
    var overdue: Double? {
        switch state {
        case .held, .renewing: grant?.overdue
        case .queued, .failed, .acquiring: nil
        }
    }
}
