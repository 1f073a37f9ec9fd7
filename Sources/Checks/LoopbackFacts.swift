// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Policy
import PolicyMaps
import Sessions

/// Whether sessions can have IPv6 loopbacks, and whether they have them.
package enum LoopbackFacts: CheckedSubject {
    private static let subject = "IPv6 loopback"

    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        if let obstacle = LoopbackHost.obstacle() {
            return [.warning(subject, obstacle.reason, fix: obstacle.fix)]
        }
        let possible = CheckedFact.good(subject, "this host can have it")
        let pins = host.instance.pins
        guard (try? pins.requireLoaded()) != nil, let maps = try? PolicyMapSet(pins) else { return [possible] }
        do throws(Failure) {
            guard let prefix = try maps.configuration().loopbackPrefix else {
                guard try pins.attachments().isEmpty else {
                    return [
                        .bad(
                            subject, "this host could not have one when the cgroup was attached",
                            fix: "attach again: vip-bpfctl attach cgroup PATH")
                    ]
                }
                return [possible]
            }
            let registry = try host.instance.registry()
            let policy = try host.instance.policy(registry)
            let fix = "put it back: vip-bpfctl policy apply FILE"
            if policy.placesLoopbacks {
                let missing = try host.instance.missingLoopbacks(
                    registry.sessions(), under: policy, registry, Netlink().hostAddresses())
                guard let first = missing.first else {
                    return [.good(subject, "each session's address in \(prefix) is on lo")]
                }
                return [
                    .bad(
                        subject,
                        "\(prefix.loopback(of: first.id)) of session \(first.id) is not on lo"
                            + (missing.count > 1 ? ", nor are those of \(missing.count - 1) others" : ""), fix: fix)
                ]
            }
            guard try Netlink().routes(.v6).contains(where: { $0.isLocal(prefix) }) else {
                return [.bad(subject, "\(prefix) is not local", fix: fix)]
            }
            guard NonlocalBind.value() == "1" else {
                return [
                    .bad(
                        subject, "net.ipv6.ip_nonlocal_bind is not 1, and nothing can bind to \(prefix)", fix: fix)
                ]
            }
            return [.good(subject, "\(prefix) is local, and net.ipv6.ip_nonlocal_bind is 1")]
        } catch {
            return [.bad(subject, error)]
        }
    }
}
