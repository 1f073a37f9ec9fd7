// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Policy
import Sessions

/// Reports programs in sessions that hold a port on the real wildcard, and so on every session's addresses: those to
/// which no virtual IP applies, and those that listen without `bind`, for which the kernel runs no hook.
///
/// Each look takes one dump of sockets. Processes and cgroups are read only for sockets that the last look did not
/// find. No event comes with a new socket, so it looks when everything is checked.
final class WildcardKeeper {
    private struct Holding: Hashable {
        /// Of the session: IDs of sessions are given again, those of cgroups are not.
        var cgroup: UInt64
        var transport: String
        var port: UInt16
    }

    private let context: KeeperContext
    private var reconciler: Reconciler?
    /// The sockets of the last look; `nil` for one that is not to be reported.
    private var known: [InternetSocket: Holding?] = [:]
    /// What decides whether a socket is to be reported, as of the last look.
    private var cgroups: Set<UInt64> = []
    private var policy = Policy()

    init(_ context: KeeperContext) throws(Failure) {
        self.context = context
        reconciler = try Reconciler(context.loop, context.troubles, .wildcards) { [unowned self] () throws(Failure) in
            try reconcile()
            return true
        }
    }

    func runNow() { reconciler?.runNow() }

    private func reconcile() throws(Failure) {
        let registry = try context.instance.registry()
        try context.readPolicy(registry)
        let records = try context.sessions(registry)
        forget(records)
        guard !records.isEmpty else {
            known = [:]
            return
        }
        let sockets = try WildcardListener.sockets()
        // A port that was closed and opened again since the last look counts as reported.
        let reported = Set(known.values.compactMap(\.self))
        known = known.filter { sockets.contains($0.key) }
        let unknown = sockets.subtracting(known.keys)
        guard !unknown.isEmpty else { return }
        let listeners = try WildcardListener.holders(of: unknown, records)
        let unreported = try unreportedPorts(of: Set(listeners.compactMap(\.session)))
        var new: [SessionRecord: [Holding: WildcardListener]] = [:]
        for listener in listeners {
            guard let session = listener.session, let ports = unreported[session.cgroupID],
                !ports.contains(listener.port)
            else {
                known[listener.socket] = .some(nil)
                continue
            }
            let holding = Holding(cgroup: session.cgroupID, transport: listener.transport, port: listener.port)
            known[listener.socket] = holding
            if !reported.contains(holding) { new[session, default: [:]][holding] = listener }
        }
        for (session, listeners) in new.sorted(by: { $0.key.id < $1.key.id }) {
            report(listeners.values.sorted { ($0.port, $0.transport) < ($1.port, $1.transport) }, of: session)
        }
    }

    /// Forgets what other sessions or another policy may have changed.
    private func forget(_ records: [SessionRecord]) {
        let now = Set(records.map(\.cgroupID))
        guard now != cgroups || context.policy != policy else { return }
        (cgroups, policy) = (now, context.policy)
        known = known.filter { _, holding in holding.map { now.contains($0.cgroup) } ?? false }
    }

    /// The cgroups of the sessions that are to have virtual IPs, and the ports on which the policy leaves the wildcard
    /// to them. Where the policy gives no virtual IP, all servers are on the host's addresses by the administrator's
    /// own choice, and nobody wants an event for each; `check` names them to whoever asks.
    private func unreportedPorts(of sessions: Set<SessionRecord>) throws(Failure) -> [UInt64: [UInt16]] {
        var groups: [String: [String]] = [:]
        var found: [UInt64: [UInt16]] = [:]
        for session in sessions {
            let number = try Instance.policyNumber(of: session, under: policy, groups: &groups)
            let rules = policy.rules(number: number).virtualIP
            if rules.enabled { found[session.cgroupID] = rules.excludedPorts ?? [] }
        }
        return found
    }

    private func report(_ listeners: [WildcardListener], of session: SessionRecord) {
        for listener in listeners.prefix(WildcardListener.namedLimit) {
            report(listener.message, "\(listener.transport) port \(listener.port): \(listener.holder)", session)
        }
        let others = listeners.count - WildcardListener.namedLimit
        guard others > 0 else { return }
        report(
            WildcardListener.summary(ofOthers: others, session: session.id),
            "\(others) more \(others == 1 ? "port" : "ports")", session)
    }

    private func report(_ message: String, _ reason: String, _ session: SessionRecord) {
        context.log.report(Event(.wildcardPort, message, priority: .warning, of: session, reason: reason))
    }
}
