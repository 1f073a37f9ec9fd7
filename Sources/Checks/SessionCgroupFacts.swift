// SPDX-License-Identifier: Apache-2.0

import Host
import Sessions
import SystemPackage

/// Whether users can move their processes out of their session, to where no hook looks at them.
package enum SessionCgroupFacts: CheckedSubject {
    private static let subject = "session cgroups"

    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: subject) { () throws(Failure) in
            var sessions: [Cgroup.WayOut: [UInt32]] = [:]
            for record in try host.instance.registry().sessions() where record.isCgroupThere {
                for way in record.cgroup.waysOut() { sessions[way, default: []].append(record.id) }
            }
            guard !sessions.isEmpty else { return [.good(subject, "no user can move processes out of a session")] }
            return sessions.sorted { $0.key.file.string < $1.key.file.string }.map { way, ids in
                .warning(subject, way.message(sessions: ids), fix: way.remedy)
            }
        }
    }
}
