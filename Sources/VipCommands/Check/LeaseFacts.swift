// SPDX-License-Identifier: Apache-2.0

import Glibc
import Leases
import Policy
import Sessions

/// What it takes to lease addresses, where the policy in force does.
enum LeaseFacts: CheckedSubject {
    static func facts(of host: CheckedHost) -> [CheckPayload.Fact] {
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
        // Who may not open the daemon's lock file cannot see it.
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
