// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
import Host
import PolicyMaps
import Sessions

/// Finds sessions that have as many TCP servers on `::` without IPV6_V6ONLY as their policy allows.
package enum DualStackFacts: CheckedSubject {
    private static let subject = "dual-stack servers"

    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: subject) { () throws(Failure) in
            let pins = host.instance.pins
            try pins.requireReadable()
            guard pins.isLoaded else { return [] }
            let maps = try PolicyMapSet(pins)
            let counts = try maps.listenerCounts.rows()
            let bank = try maps.configuration().bank
            var facts: [CheckedFact] = []
            var total = 0
            for (cgroup, count) in counts.sorted(by: { $0.key < $1.key }) {
                guard let session = try maps.sessions.value(of: cgroup) else { continue }
                total += Int(max(0, count))
                let key = UInt32(bank * Int(VIP_POLICIES_PER_BANK)) + UInt32(session[policyInBank: bank])
                let limit = Int32(try maps.policies.value(of: key)?.listener_limit ?? 0)
                guard count > 0, count >= limit else { continue }
                facts.append(
                    .warning(
                        subject,
                        "session \(session.id) has \(count), its limit: further ones are not reached by IPv6",
                        fix: "end some, or raise virtualIP.dualStackServers (\(limit))"))
            }
            guard facts.isEmpty else { return facts }
            return [.good(subject, "\(total) servers on :: are reached by IPv6; no session is at its limit")]
        }
    }
}
