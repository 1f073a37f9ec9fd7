// SPDX-License-Identifier: Apache-2.0

package import Glibc
package import Host
package import Logging
package import Policy
package import SystemPackage

/// The login of a user, as seen from a process of it: `session open --pam`.
package struct Login {
    private let user: String
    private let instance: Instance

    package init(_ user: String, _ instance: Instance) {
        self.user = user
        self.instance = instance
    }

    /// Opens the session. Does nothing if it is open already, or if this process is not in a cgroup of the user.
    package func open(_ log: EventLog, _ logger: Logger) throws(Failure) {
        // su, sudo and cron also call this, in the cgroup of their caller, which is not the session of that user.
        guard let uid = try SystemUsers.number(of: user) else { return }
        let own = try Cgroup.current()
        let unit = try instance.policy(instance.registry()).sessions.unit
        guard let (path, login) = Self.cgroup(of: uid, unit, in: own.path) else { return }

        let cgroup = try Cgroup(path: path)
        var there: SessionRecord?
        let opened = try instance.open(logger) { change throws(Failure) in
            // It is the user's second login, or the daemon has opened the session already.
            there = try change.session(on: cgroup)
            guard there == nil else { return [] }
            var request = SessionRequest(cgroup: cgroup)
            request.user = UserName.isAcceptable(user) ? user : "\(uid)"
            request.keeper = .pam
            request.opensWithoutAddress = true
            if let login { request.id = try change.sessionID(ofLogin: login) }
            request.prefersID = true
            return [request]
        }
        for event in Event.opening(of: opened) { log.report(event) }
        // The lock is free now, so that the daemon can make its change.
        if let record = opened.records.first {
            guard opened.awaitingLease.contains(record.id) else { return }
            _ = try instance.awaitAddress(of: record, within: Instance.leasePatience)
        } else if let there, try instance.awaitsAddress(there) {
            _ = try instance.awaitAddress(of: there, within: Instance.leasePatience)
        }
    }

    /// The cgroup that becomes the session when a process in `path` logs in as `uid`, and logind's ID of the login if
    /// each login is a session. `nil` if the process is not in a cgroup of that user.
    package static func cgroup(
        of uid: uid_t, _ unit: Policy.SessionsSection.Unit, in path: FilePath
    ) -> (path: FilePath, login: String?)? {
        var above = FilePath(root: path.root, [])
        var rest = path.components[...]
        while let component = rest.popFirst() {
            above.append(component)
            guard component.string == "user-\(uid).slice" else { continue }
            if unit == .userSlice { return (above, nil) }
            guard let scope = rest.popFirst()?.string, scope.hasPrefix("session-"), scope.hasSuffix(".scope") else {
                return nil
            }
            above.append(scope)
            return (above, String(scope.dropFirst("session-".count).dropLast(".scope".count)))
        }
        return nil
    }
}
