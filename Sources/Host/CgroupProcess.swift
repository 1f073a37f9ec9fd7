// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
import SystemPackage

/// Starts programs inside a cgroup, so that they run nowhere else before.
package enum CgroupProcess {
    /// What a program gets if it does not share its caller's terminal, descriptors and environment. It then has a
    /// session of its own (setsid(2)), and only its standard input, output and error.
    package struct Surroundings {
        /// Its controlling terminal, in place of each of the three that is a terminal.
        package var terminal: CInt?
        /// Whether its standard input is /dev/null.
        package var hasNoInput: Bool
        /// Its working directory, or / if the user may not enter it; `nil` for the caller's.
        package var directory: String?
        /// `nil` for the caller's.
        package var umask: CInt?

        package init(terminal: CInt?, hasNoInput: Bool, directory: String?, umask: CInt?) {
            self.terminal = terminal
            self.hasNoInput = hasNoInput
            self.directory = directory
            self.umask = umask
        }
    }

    /// Starts a program: `vip_spawn()` of CHost.
    ///
    /// - Parameters:
    ///   - user: `nil` to keep the caller's user.
    ///   - own: `nil` for the caller's session, and all of its inheritable descriptors.
    ///   - what: the operation of a failure.
    ///   - remedy: what to do if there is no such program.
    /// - Returns: the PID, once the program runs.
    package static func start(
        _ arguments: CStrings, _ environment: CStrings, in cgroup: Cgroup, as user: String? = nil,
        with own: Surroundings? = nil, for what: String, ifMissing remedy: String? = nil
    ) throws(Failure) -> CInt {
        let rawProcs = cgroup.path.appending("cgroup.procs").withPlatformString { open($0, O_WRONLY | O_CLOEXEC) }
        guard rawProcs >= 0 else { throw Failure(what, errno: .current) }
        let procs = Descriptor(owning: rawProcs)
        let directory = own?.directory.map { strdup($0) } ?? nil
        defer { free(directory) }
        var surroundings = vip_surroundings(
            terminal: own?.terminal ?? -1, no_input: own?.hasNoInput == true ? 1 : 0, directory: directory,
            umask: own?.umask ?? -1)
        var step = VIP_SPAWN_FORK
        let pid = withExtendedLifetime((arguments, environment)) {
            withUnsafePointer(to: &surroundings) { surroundings in
                vip_spawn(
                    procs.raw, user, arguments.array, environment.array, own == nil ? nil : surroundings, &step)
            }
        }
        if pid > 0 { return pid }
        let error = Errno(rawValue: -pid)
        switch step {
        case VIP_SPAWN_EXEC:
            throw Failure(what, errno: error, hint: error == .noSuchFileOrDirectory ? remedy : nil)
        case VIP_SPAWN_JOIN: throw Failure("\(what): move it into \(cgroup.path)", errno: error)
        case VIP_SPAWN_TERMINAL: throw Failure("\(what): give it its own terminal session (setsid)", errno: error)
        case VIP_SPAWN_DESCRIPTORS:
            throw Failure("\(what): close the caller's files", errno: error, hint: "use Linux 5.9 or later")
        case VIP_SPAWN_USER: throw Failure("\(what): become user \(user ?? "")", errno: error)
        default: throw Failure("\(what): fork", errno: error)
        }
    }
}
