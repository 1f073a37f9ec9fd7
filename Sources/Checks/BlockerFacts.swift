// SPDX-License-Identifier: Apache-2.0

import Host
import Policy
import Sessions

/// Finds processes that hold a port on a wildcard. The port is then in use on the sessions' addresses too.
package enum BlockerFacts: CheckedSubject {
    private static let subject = "blockers"

    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: subject) { () throws(Failure) in
            let registry = try host.instance.registry()
            let policy = try host.instance.policy(registry)
            var groups: [String: [String]] = [:]
            var holders: [WildcardListener] = []
            for holder in try WildcardListener.all(registry.sessions()) {
                if let session = holder.session {
                    let number = try Instance.policyNumber(of: session, under: policy, groups: &groups)
                    // The policy leaves the wildcard of these ports to the session.
                    if policy.rules(number: number).virtualIP.excludedPorts?.contains(holder.port) == true { continue }
                }
                holders.append(holder)
            }
            guard !holders.isEmpty else { return [.good(subject, "no process holds a wildcard port")] }
            // Sessions to which the policy gives no virtual IP are named as well: whatever it meant, their ports are
            // taken from all others, and an administrator looks here for who has a port. virtualLoopback.excludedPorts
            // is about 127.0.0.1 alone, and a bind to the wildcard does not look at it.
            var counts: [UInt32: Int] = [:]
            var facts: [CheckedFact] = []
            for holder in holders {
                guard let session = holder.session else {
                    facts.append(outside(holder))
                    continue
                }
                counts[session.id, default: 0] += 1
                guard counts[session.id, default: 0] <= WildcardListener.namedLimit else { continue }
                facts.append(.warning(subject, holder.message, fix: Self.fix))
            }
            for (session, count) in counts.sorted(by: { $0.key < $1.key }) where count > WildcardListener.namedLimit {
                let others = WildcardListener.summary(ofOthers: count - WildcardListener.namedLimit, session: session)
                facts.append(.warning(subject, others, fix: Self.fix))
            }
            return facts
        }
    }

    /// For a program in a session, which is not listed, or listens without `bind`.
    private static let fix =
        "other sessions cannot use that port: end the program, or make the virtual IP apply to it "
        + "(see vip-bpfctl explain PID)"

    private static func outside(_ blocker: WildcardListener) -> CheckedFact {
        let place =
            blocker.process.map { process in
                "\(unit(ofCgroup: process.cgroup).map { ", unit \($0)," } ?? "") in \(process.cgroup)"
            } ?? ""
        return .warning(
            subject, "\(blocker.holder)\(place) \(blocker.holding)",
            fix: "no session can have that port: run it in a session, or bind it to one address")
    }

    /// The systemd unit of a cgroup: the last part of its path that names a service, scope or other unit that has
    /// processes.
    ///
    /// - Parameter path: the path in /proc/PID/cgroup. In unit names, systemd escapes only with `\xNN`, which is not
    ///   decoded.
    package static func unit(ofCgroup path: String) -> String? {
        let kinds = [".service", ".scope", ".socket", ".mount", ".swap"]
        return path.split(separator: "/").last { part in kinds.contains { part.hasSuffix($0) && part.count > $0.count }
        }
        .map(String.init)
    }
}
