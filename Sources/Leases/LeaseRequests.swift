// SPDX-License-Identifier: Apache-2.0

import Host
import Synchronization

/// A caller that waits for an address.
struct Waiter: Sendable {
    let deadline: Double
    let seconds: Double
    let then: @Sendable (Result<Lease, Failure>) -> Void
}

/// The state that callers share with the supervisor's thread.
final class LeaseRequests: Sendable {
    enum Request: Sendable {
        case acquire(LeaseHolder, Waiter)
        case release(LeaseHolder, @Sendable () -> Void)
        case stop
    }

    private struct State {
        var held: [Lease] = []
        /// The holders whose release was requested and not handled yet.
        var releasing: [LeaseHolder] = []
        var isStopped = false
    }
    private let state = Mutex(State())
    private let mailbox: Mailbox<Request>

    init() throws(Failure) { mailbox = try Mailbox() }

    /// Readable when there are requests.
    var descriptor: CInt { mailbox.descriptor }

    /// The leases that are held. A lease whose release was requested is left out at once, before the request is
    /// handled.
    var held: [Lease] {
        get { state.withLock { $0.held } }
        set {
            state.withLock { state in
                state.held = newValue.filter { !state.releasing.contains($0.holder) }
            }
        }
    }

    func send(_ request: Request) {
        let isStopped = state.withLock { state in
            guard !state.isStopped else { return true }
            if case .release(let holder, _) = request {
                state.releasing.append(holder)
                state.held.removeAll { $0.holder == holder }
            }
            mailbox.put(request)
            return false
        }
        if isStopped { Self.refuse(request) }
    }

    static func refuse(_ request: Request) {
        switch request {
        case .acquire(let holder, let waiter):
            waiter.then(.failure(Failure(.failed, "lease an address for \(holder)", "the lease source is closed")))
        case .release(_, let then): then()
        case .stop: break
        }
    }

    /// Accepts no more requests.
    ///
    /// - Returns: `false` if this was called before.
    func stop() -> Bool {
        state.withLock { state in
            guard !state.isStopped else { return false }
            state.isStopped = true
            mailbox.put(.stop)
            return true
        }
    }

    /// Takes the requests since the last call.
    func take() -> [Request] {
        state.withLock { state in
            state.releasing = []
            return mailbox.take()
        }
    }
}
