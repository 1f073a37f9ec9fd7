// SPDX-License-Identifier: Apache-2.0

public import ArgumentParser
import Daemon
import Host
import Logging
import Sessions
import SystemPackage

struct DaemonCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "daemon",
        abstract: "Open and close sessions as users log in and out, and keep their addresses.",
        discussion: """
            Follows logind. With sessions.unit of the policy userSlice (the default), a user has one session, with all \
            of the user's logins and services in it; with sessionScope, each login is one. A session ends when the \
            last process has left its cgroup, even if the user logged out earlier. Sessions that PAM or an \
            administrator opened are left alone; sessions opened by hand end when they are closed by hand or their \
            cgroup is removed.

            With source: dhcp in the policy, the daemon leases an IPv4 address for each session from the DHCP server, \
            renews it as long as the session lasts, and then releases it; it runs busybox's udhcpc for this (Debian's \
            package udhcpc). Sessions that had to be opened without an address get one as soon as the pool or the \
            server has one.

            The daemon restores virtual IPs that something removed from their interface, updates the maps as the \
            host's own addresses change, and makes listed programs match again after their files were replaced.

            It stays in the foreground. SIGHUP applies the policy file, SIGTERM ends it; sessions stay open, and a \
            daemon that is started again goes on with them. Events go to the journal, or if there is none, to standard \
            error as JSON lines.

            EXAMPLES
              vip-bpfctl daemon
              journalctl VIP_EVENT=session_opened -o json
            """
    )

    @Option(
        help: ArgumentHelp("The policy file that SIGHUP applies.", valueName: "file"),
        completion: .file(extensions: ["yaml", "yml"]))
    var policy: String = Instance.defaultPolicyFile.string

    @Option(
        help: ArgumentHelp(
            "The D-Bus that logind is on. Default: the system bus.", valueName: "address"))
    var bus: String?

    @Option(
        help: ArgumentHelp(
            "The cgroup with the users' slices. Default: user.slice below the root of cgroup v2.", valueName: "path"),
        completion: .directory)
    var userSlice: String?

    @Option(
        help: ArgumentHelp(
            "The directory for files that outlive the daemon, but not a boot. Default: /run/vip-bpf, or 'run' in another --state.",
            valueName: "dir"),
        completion: .directory)
    var runtime: String?

    @Option(help: "Where events go. Default: the journal if it exists.")
    var events: EventLog.Place?

    @OptionGroup var options: InstanceOptions

    func run() throws {
        var settings = Daemon.Options()
        settings.policyFile = FilePath(policy)
        settings.bus = bus
        settings.events = events
        settings.runtime = runtime.map { FilePath($0) }
        settings.userSlice = try userSlice.map { path throws(Failure) in try Cgroup(path: FilePath(path)).path }
        settings.logLevel = options.verbose ? .debug : .warning
        try Daemon(options.instance, settings).run()
    }
}

extension EventLog.Place: ExpressibleByArgument {}
