// SPDX-License-Identifier: Apache-2.0

import Dispatch
public import FoundationEssentials
public import Host
public import Network
import Synchronization

/// The holder of a lease. For the server, the same user with the same slot is the same client.
public struct LeaseHolder: Hashable, Sendable, Codable, CustomStringConvertible {
    public let user: String
    /// Distinguishes the sessions that a user has at the same time. It is the lowest free number, so usually 0.
    public let slot: UInt32

    public init(user: String, slot: UInt32 = 0) {
        self.user = user
        self.slot = slot
    }

    public var description: String {
        // The name comes from outside: keep the text on one line.
        let name = user.unicodeScalars.map { $0.properties.generalCategory == .control ? "?" : String($0) }.joined()
        return slot == 0 ? name : "\(name) (slot \(slot))"
    }
}

/// An address that a server has granted for a time.
public struct Lease: Hashable, Sendable {
    public let holder: LeaseHolder
    public let address: IPAddress
    /// The server that granted it.
    public let server: IPAddress
    /// For how long from the last answer on, in seconds; 4294967295 means forever (RFC 2131, 3.3).
    public let seconds: UInt32
    /// When it ends, by this host's present wall clock.
    public let expires: Date
}

/// Why a holder has lost an address.
public enum LeaseLoss: Hashable, Sendable, CustomStringConvertible {
    /// The server refused to renew it (DHCPNAK).
    case refusedByServer
    /// It was not renewed in time.
    case expired

    public var description: String {
        switch self {
        case .refusedByServer: "the server refused to renew it"
        case .expired: "it was not renewed in time"
        }
    }
}

/// An event of a lease. The receiver places addresses on the interface and removes them.
public enum LeaseEvent: Hashable, Sendable {
    /// The holder has the address from now on. It is its first, or the first after a loss.
    case bound(Lease)
    /// The holder keeps the address for longer.
    case renewed(Lease)
    /// The holder has another address, and no longer has `from`.
    case changed(Lease, from: IPAddress)
    /// The holder no longer has the address. The source tries to get another one until the lease is released.
    case lost(LeaseHolder, IPAddress, LeaseLoss)
    /// A server offered an address that cannot be a session's, and it was not taken. The holder keeps the address that
    /// it has.
    case refused(LeaseHolder, String, why: String)
    /// The lease is not being renewed: the server does not answer, or the client was killed. The holder keeps its
    /// address until it expires, and the source goes on trying.
    case troubled(LeaseHolder, IPAddress, why: String)
    /// The holder's address was released.
    case released(LeaseHolder, IPAddress)
}

/// A source of leased addresses on one interface.
public protocol LeaseSource: Sendable {
    /// Gets an address for a holder, or the one that it already has. `then` is called once, on a thread of the source.
    ///
    /// - Parameter timeout: the longest time for this, including the wait for its turn.
    func acquire(
        _ holder: LeaseHolder, timeout: Duration, then: @escaping @Sendable (Result<Lease, Failure>) -> Void)

    /// Releases a holder's address, if it has one. `then` is called when no client of the holder runs.
    func release(_ holder: LeaseHolder, then: @escaping @Sendable () -> Void)

    /// All leases that are held now.
    var held: [Lease] { get }

    /// Ends the source, and leaves the leases to the next one that is opened with the same state.
    func close()
}

extension LeaseSource {
    /// ``acquire(_:timeout:then:)`` for a thread that may block: not one of Swift's pool, and not the one that delivers
    /// events.
    public func acquire(_ holder: LeaseHolder, timeout: Duration = .seconds(30)) throws(Failure) -> Lease {
        let box = Box()
        acquire(holder, timeout: timeout) { result in
            box.answer.withLock { $0 = result }
            box.done.signal()
        }
        box.done.wait()
        guard let answer = box.answer.withLock({ $0 }) else { preconditionFailure("signalled without an answer") }
        return try answer.get()
    }

    /// ``release(_:then:)`` for a thread that may block: not one of Swift's pool, and not the one that delivers events.
    public func release(_ holder: LeaseHolder) {
        let done = DispatchSemaphore(value: 0)
        release(holder) { done.signal() }
        done.wait()
    }
}

/// Passes an answer to the thread that waits for it.
private final class Box: Sendable {
    let answer = Mutex<Result<Lease, Failure>?>(nil)
    let done = DispatchSemaphore(value: 0)
}
