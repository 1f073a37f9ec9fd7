// SPDX-License-Identifier: Apache-2.0

package import Host

extension Cgroup.WayOut {
    /// `user ann can move processes out of session 7: /sys/fs/cgroup/x/cgroup.procs belongs to them`
    ///
    /// - Parameter sessions: the IDs of those that can be left so, at least one.
    package func message(sessions: [UInt32]) -> String {
        let others = sessions.count - 1
        let what = "session \(sessions[0])\(others > 0 ? " and \(others) more" : "")"
        guard let user else {
            return "other users than root can move processes out of \(what): they may write to \(file)"
        }
        let name = ((try? SystemUsers.name(of: user)) ?? nil) ?? "\(user)"
        return "user \(name) can move processes out of \(what): \(file) belongs to them"
    }

    /// What to do about it.
    package var remedy: String { "chown root \(file) && chmod go-w \(file)" }
}
