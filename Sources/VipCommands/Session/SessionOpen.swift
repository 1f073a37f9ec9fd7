// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Network
import Policy
import Sessions
import SystemPackage

struct SessionOpen: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "open",
        abstract: "Make a cgroup a session.",
        discussion: """
            If the policy has source: dhcp, the daemon leases the address and must be running. Except with --batch, \
            the command waits for the address for up to 6 seconds. Without one by then, the session is open and gets \
            its address later.

            Prints the session's ID, its virtual IPs with a comma between ('-' for none), its virtual loopback and its \
            IPv6 loopback ('-' if this host has none). Programs that already run in the cgroup join the session. Their \
            open sockets keep their addresses.

            With --batch, reads one session per line, with the options of this command, and opens all of them or none:
              --cgroup /sys/fs/cgroup/a --user ann
              --cgroup /sys/fs/cgroup/b --id 12 --ip 10.20.0.12

            With --pam, the cgroup is the one that pam_systemd made for the login: the user's slice or the login's \
            scope, as sessions.unit says. The command does nothing if that cgroup is a session already, or if the \
            caller is not in a cgroup of the user who logs in (su, sudo, cron). It prints nothing, and also logs a \
            failure.

            EXAMPLES
              vip-bpfctl session open --cgroup /sys/fs/cgroup/mine --user ann
              read -r id ip loopback loopback6 < <(vip-bpfctl session open --ip 10.20.0.17)
              vip-bpfctl session open --ip 10.20.0.17 --ip 2001:db8:20::17
              generate | vip-bpfctl session open --batch -
            """
    )

    @Option(
        help: ArgumentHelp("The cgroup v2 directory. Default: the caller's own.", valueName: "path"),
        completion: .directory)
    var cgroup: String?
    @OptionGroup var new: NewSessionOptions
    @Option(
        help: ArgumentHelp("User that owns the session (recorded, and matched by overrides).", valueName: "name"))
    var user: String?
    @Option(
        help: ArgumentHelp("Read sessions from a file, '-' for standard input.", valueName: "file"), completion: .file()
    )
    var batch: String?
    @Flag(
        help: ArgumentHelp(
            "For pam_exec(8), after pam_systemd: open the session of the user who logs in, by PAM_TYPE and PAM_USER."
        ))
    var pam = false

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if pam, batch != nil || cgroup != nil || user != nil || new.id != nil || !new.addresses.isEmpty || output.json {
            throw ValidationError("--pam takes what it needs from PAM and the policy; leave the other options out")
        }
        if batch != nil, cgroup != nil || user != nil || new.id != nil || !new.addresses.isEmpty || new.policy != nil {
            throw ValidationError("--batch takes its sessions from the file alone; leave the other options out")
        }
        if let user { try SessionBatch.check(user: user) }
    }

    func run() throws {
        if pam { return try PAMLogin(options).open() }
        let requests: [SessionRequest]
        let mounts = try MountTable.current()
        if let batch {
            requests = try SessionBatch.read(batch, mounts: mounts)
        } else {
            var request = SessionRequest(
                cgroup: try cgroup.map { path throws(Failure) in try Cgroup(path: FilePath(path), mounts: mounts) }
                    ?? Cgroup.current())
            guard !request.cgroup.isRoot else {
                throw Failure(
                    .failed, "open a session on \(request.cgroup.path)",
                    "it is the root of cgroup v2, and so every process would be in the session",
                    hint: "name a cgroup below it with --cgroup")
            }
            request.user = user
            new.fill(&request)
            requests = [request]
        }
        let opened = try options.open { _ in requests }
        let prefix = opened.loopbackPrefix
        var records = opened.records
        if batch == nil { records[0] = try options.lease(for: records[0], of: opened) }
        do throws(Failure) {
            try print(records, prefix)
        } catch {
            // The caller could not be told about the sessions, so close them.
            try options.change { change throws(Failure) in
                for record in records { try change.close(record.id, because: .notOpened) }
            }
            throw error
        }
    }

    private func print(_ records: [SessionRecord], _ prefix: LoopbackPrefix?) throws(Failure) {
        let sessions = records.map { SessionPayload($0, prefix: prefix) }
        if !output.json {
            try StandardOutput.text(sessions.map { $0.line + "\n" }.joined())
        } else if batch != nil {
            try output.print(SessionListPayload(sessions: sessions))
        } else if let session = sessions.first {
            try output.print(session)
        }
    }
}
