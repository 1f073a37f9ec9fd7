// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Host
import Logging
import Sessions

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
            try Login(user, options.instance).open(log, log.logger(options.verbose ? .debug : .warning))
        } catch {
            log.report(
                Event(
                    .sessionRefused, "\(error)", priority: .error, user: UserName.isAcceptable(user) ? user : nil,
                    reason: error.reason))
            throw error
        }
    }
}
