// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Glibc
import Host
import Logging
import Policy
import Sessions
import SystemPackage

/// A user who is logging in, as pam_exec(8) passes it in the environment, in the cgroup that pam_systemd(8) made.
struct PAMLogin {
    private let options: InstanceOptions
    private let log = EventLog(isLogin: true)

    init(_ options: InstanceOptions) {
        self.options = options
    }

    /// Opens the session of the user. Does nothing if it is open already, or if this is not a login of logind's.
    func open() throws(Failure) {
        let environment = ProcessInfo.processInfo.environment
        guard environment["PAM_TYPE"] == "open_session" else { return }
        let user = environment["PAM_USER"] ?? ""
        do throws(Failure) {
            try open(user: user)
        } catch {
            log.report(
                Event(
                    .sessionRefused, "\(error)", priority: .error, user: UserName.isAcceptable(user) ? user : nil,
                    reason: error.reason))
            throw error
        }
    }

    private func open(user: String) throws(Failure) {
        let instance = options.instance
        // su, sudo and cron also call this, in the cgroup of their caller, which is not the session of that user.
        guard let uid = try SystemUsers.number(of: user) else { return }
        let own = try Cgroup.current()
        let unit = try instance.policy(instance.registry()).sessions.unit
        guard let (path, login) = Self.cgroup(of: uid, unit, in: own.path) else { return }

        let cgroup = try Cgroup(path: path)
        let logger = log.logger(options.verbose ? .debug : .warning)
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
    static func cgroup(
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
