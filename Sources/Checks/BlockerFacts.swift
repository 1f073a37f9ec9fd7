// SPDX-License-Identifier: Apache-2.0

import Host
import Sessions

/// Finds processes outside all sessions that hold a port on a wildcard. The port is then in use on the sessions'
/// addresses too.
package enum BlockerFacts: CheckedSubject {
    private static let subject = "blockers"

    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: subject) { () throws(Failure) in
            let sessions = try host.instance.registry().sessions().map(\.cgroupPath)
            let blockers = try WildcardListener.all(outside: sessions)
            guard !blockers.isEmpty else {
                return [.good(subject, "no process outside a session holds a wildcard port")]
            }
            return blockers.map { blocker in
                let holder =
                    blocker.process.map { process in
                        let unit = unit(ofCgroup: process.cgroup).map { ", unit \($0)," } ?? ""
                        return "\(process.name) (PID \(process.pid))\(unit) in \(process.cgroup)"
                    } ?? "an unknown process"
                return .warning(
                    subject, "\(holder) holds \(blocker.transport) port \(blocker.port) on every address",
                    fix: "no session can have that port: run it in a session, or bind it to one address")
            }
        }
    }

    /// The systemd unit of a cgroup: the last part of its path that names a service, scope or other unit that has processes.
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
