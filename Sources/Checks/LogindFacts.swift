// SPDX-License-Identifier: Apache-2.0

import Daemon
import Host

/// Whether logind answers. The daemon needs it to know who is logged in.
package enum LogindFacts: CheckedSubject {
    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        do throws(Failure) {
            try LogindProbe.ask()
            return [.good("logind", "answers on the system bus")]
        } catch {
            return [
                .warning(
                    "logind", "does not answer, so the daemon opens no sessions: \(error.reason)",
                    fix: "\(error.hint ?? "see systemctl status systemd-logind"), or open sessions by PAM or by hand")
            ]
        }
    }
}
