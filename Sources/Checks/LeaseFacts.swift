// SPDX-License-Identifier: Apache-2.0

import Glibc
import Leases
import Policy
import Sessions

/// Whether addresses can be leased, if the policy in force does that.
package enum LeaseFacts: CheckedSubject {
    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        let subject = "DHCP"
        guard let registry = try? host.instance.registry(), let policy = try? host.instance.policy(registry),
            policy.leasesAddresses
        else { return [] }
        guard let client = UDHCPCLeases.installedClient else {
            return [
                .bad(
                    subject, "the policy leases addresses, and udhcpc is not installed", fix: "apt-get install udhcpc")
            ]
        }
        // Only a user who may open the daemon's lock file can tell whether it is held.
        guard geteuid() != 0 || host.instance.state.hasDaemon else {
            return [
                .bad(
                    subject, "the policy leases addresses, and the daemon does not run",
                    fix: "start it: systemctl start vip-bpfd")
            ]
        }
        return [.good(subject, "addresses are leased by \(client[0])")]
    }
}
