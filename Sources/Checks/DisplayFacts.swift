// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Host
import Policy
import Sessions
import SystemPackage

/// Whether two sessions of one user get the same X display from sshd: each finds its first port free on its own
/// loopback, and both displays have one cookie in the user's ~/.Xauthority.
package enum DisplayFacts: CheckedSubject {
    private static let subject = "displays"
    /// The ports of the displays :10 and on, where sshd begins: X11DisplayOffset of sshd_config(5), and 6000 of X(7).
    private static let ports: ClosedRange<UInt16> = 6010...6063

    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: subject) { () throws(Failure) in
            let policy = try host.instance.policy(host.instance.registry())
            // With userSlice, all logins of a user are in one session.
            guard policy.sessions.unit == .sessionScope, forwardsX11(),
                policy.allRules.contains(where: { hidesDisplays($0.virtualLoopback) })
            else { return [] }
            let range = "\(ports.lowerBound)-\(ports.upperBound)"
            return [
                .warning(
                    subject,
                    "sessions.unit is sessionScope and sshd forwards X11: two logins of a user both get localhost:10, and "
                        + "the second one's cookie replaces the first's",
                    fix: "share the ports of displays: virtualLoopback.excludedPorts: [\(range)]; or use userSlice")
            ]
        }
    }

    private static func hidesDisplays(_ loopback: Policy.VirtualLoopback) -> Bool {
        let isOfSSHD = loopback.programs.contains { entry in
            switch entry {
            case .everyProgram: true
            case .name(let name): name == "sshd" || name == "sshd-session"
            case .path(let path): path.lastComponent?.string.hasPrefix("sshd") == true
            }
        }
        return loopback.enabled && isOfSSHD && !loopback.excludedPorts.contains(ports.lowerBound)
    }

    /// Whether a line of sshd's configuration says so. A Match block may limit it to some users.
    private static func forwardsX11() -> Bool {
        let directory = FilePath("/etc/ssh/sshd_config.d")
        let names = ((try? Directory.entries(of: directory)) ?? []).map(\.name)
        let files = [FilePath("/etc/ssh/sshd_config")] + names.sorted().map { directory.appending($0) }
        return files.contains { file in
            ((try? String(contentsOf: file)) ?? "").contains(/(?im)^[ \t]*X11Forwarding[ \t=]+"?yes\b/)
        }
    }
}
