// SPDX-License-Identifier: Apache-2.0

import Host
import Sessions
import SystemPackage

/// Programs in sessions that are a listed program by their contents, and are not matched by any list.
package enum CopyFacts: CheckedSubject {
    private static let subject = "copies"

    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: subject) { () throws(Failure) in
            // /proc/PID/exe of others can be seen by root alone.
            guard Privileges.current.isRoot else { return [] }
            let registry = try host.instance.registry()
            let listed = ListedExecutables(try host.instance.policy(registry))
            guard !listed.isEmpty else { return [] }
            let search = try ProgramCopy.all(of: listed, in: registry.sessions())
            var facts = search.copies.map { copy in
                CheckedFact.warning(
                    subject,
                    "\(copy.name) (PID \(copy.pid)) in session \(copy.session) \(copy.how) \(copy.original), which is listed; "
                        + "it is treated as an unlisted program",
                    fix: "start the listed file itself, or use virtualIP.mode: perSession and \"*\"")
            }
            if search.isCut {
                facts.append(
                    .warning(
                        subject, "not all programs in sessions were compared with the listed ones: too much to read"))
            }
            return facts.isEmpty ? [.good(subject, "no program in a session is a copy of a listed one")] : facts
        }
    }
}
