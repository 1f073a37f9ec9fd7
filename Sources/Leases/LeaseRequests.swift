// SPDX-License-Identifier: Apache-2.0

import Host
import Synchronization

/// A caller that waits for an address.
struct Waiter: Sendable {
    let deadline: Double
    let seconds: Double
    let then: @Sendable (Result<Lease, Failure>) -> Void
}

/// What callers and the supervisor's thread have in common.
final class LeaseRequests: Sendable {
    enum Request: Sendable {
        case acquire(LeaseHolder, Waiter)
        case release(LeaseHolder, @Sendable () -> Void)
        case stop
    }

    private struct State {
        var held: [Lease] = []
        /// Holders with a release that was not taken yet.
        var releasing: [LeaseHolder] = []
        var isStopped = false
    }
    private let state = Mutex(State())
    private let mailbox: Mailbox<Request>

    init() throws(Failure) { mailbox = try Mailbox() }

    /// Readable when there are requests.
    var descriptor: CInt { mailbox.descriptor }

    /// A lease that is to be released is held no longer from the request on, not only when its turn has come.
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

    /// Lets no more requests in.
    ///
    /// - Returns: `false` where that had been asked before.
    func stop() -> Bool {
        state.withLock { state in
            guard !state.isStopped else { return false }
            state.isStopped = true
            mailbox.put(.stop)
            return true
        }
    }

    /// What was sent since the last call.
    func take() -> [Request] {
        state.withLock { state in
            state.releasing = []
            return mailbox.take()
        }
    }
}
