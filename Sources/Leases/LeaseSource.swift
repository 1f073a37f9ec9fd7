// SPDX-License-Identifier: Apache-2.0

import Dispatch
public import FoundationEssentials
public import Host
public import Network
import Synchronization

/// Who has a lease. The same user with the same slot is the same client to the server.
public struct LeaseHolder: Hashable, Sendable, Codable, CustomStringConvertible {
    public let user: String
    /// Tells sessions that a user has at the same time apart; the lowest free one, so that it is mostly 0.
    public let slot: UInt32

    public init(user: String, slot: UInt32 = 0) {
        self.user = user
        self.slot = slot
    }

    public var description: String {
        // A user's name comes from outside: one line, whatever it holds.
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
    /// How long from the last answer on, in seconds; 4294967295 is for ever (RFC 2131, 3.3).
    public let seconds: UInt32
    /// When it ends, by this host's wall clock as it is now.
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

/// What happens to leases. The receiver puts addresses on the interface and takes them off.
public enum LeaseEvent: Hashable, Sendable {
    /// The holder has the address from now on: the first, or one after it was lost.
    case bound(Lease)
    /// The same address, for longer.
    case renewed(Lease)
    /// Another address than `from`, which the holder has no longer.
    case changed(Lease, from: IPAddress)
    /// The holder has the address no longer. The source goes on trying to get one until the lease is released.
    case lost(LeaseHolder, IPAddress, LeaseLoss)
    /// A server offered an address that cannot be a session's; it was not taken. What the holder has, it keeps.
    case refused(LeaseHolder, String, why: String)
    /// The lease is not being renewed: the server does not answer, or the client was killed. The holder keeps its
    /// address until it expires, and the source goes on trying.
    case troubled(LeaseHolder, IPAddress, why: String)
    /// Released.
    case released(LeaseHolder, IPAddress)
}

/// A source of leased addresses on one interface.
public protocol LeaseSource: Sendable {
    /// Gets an address for a holder; the one it has, where it has one. `then` is called once, on a thread of the source.
    ///
    /// - Parameter timeout: how long that may take, its turn among others included.
    func acquire(
        _ holder: LeaseHolder, timeout: Duration, then: @escaping @Sendable (Result<Lease, Failure>) -> Void)

    /// Gives a holder's address back; one that has none is fine. `then` is called when no client of the holder runs any more.
    func release(_ holder: LeaseHolder, then: @escaping @Sendable () -> Void)

    /// Every address that is held now.
    var held: [Lease] { get }
}

extension LeaseSource {
    /// ``acquire(_:timeout:then:)`` for a thread that may block: not one of Swift's pool, and not that of the events.
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

    /// ``release(_:then:)`` for a thread that may block: not one of Swift's pool, and not that of the events.
    public func release(_ holder: LeaseHolder) {
        let done = DispatchSemaphore(value: 0)
        release(holder) { done.signal() }
        done.wait()
    }
}

/// Where an answer is put for the thread that waits for it.
private final class Box: Sendable {
    let answer = Mutex<Result<Lease, Failure>?>(nil)
    let done = DispatchSemaphore(value: 0)
}
