// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// Who may read the record of sessions, and that nobody can keep it from being written.
@Suite(.serialized, .requiresRoot)
struct RecordTests: CommandHost {
    /// Of Debian's base-passwd; any host has it, and nobody is in it.
    private static let group = (name: "games", number: try? groupNumber("games"))
    private static let reading: [[String]] = [
        ["session", "list"], ["session", "list", "--all"], ["session", "show", "7"], ["who", "198.51.100.16"],
        ["policy", "show"], ["program", "list"],
    ]

    private static func groupNumber(_ name: String) throws -> gid_t {
        try #require(getgrnam(name)?.pointee.gr_gid)
    }

    private func start(
        _ sandbox: Sandbox, _ command: [String], isMember: Bool, errorOutput: Bool = true
    ) throws -> Program {
        let number = try #require(Self.group.number)
        let groups = isMember ? ["--groups", "\(number)"] : ["--clear-groups"]
        return try sandbox.start(
            ["setpriv", "--reuid", "65534", "--regid", "65534"] + groups + ["--"] + command, in: "control",
            environment: sandbox.controlEnvironment, errorOutput: errorOutput)
    }

    private func ctl(
        _ sandbox: Sandbox, _ arguments: [String], isMember: Bool
    ) throws -> (status: Int32, output: String, error: String) {
        let program = try start(sandbox, [Build.controller.path] + arguments, isMember: isMember)
        program.closeInput()
        let status = try program.wait()
        return (status, program.outputText, program.errorText)
    }

    private func mode(_ path: String) -> (mode: mode_t, group: gid_t) {
        var status = stat()
        return stat(path, &status) == 0 ? (status.st_mode & 0o7777, status.st_gid) : (0, .max)
    }

    private func expectNothingIsReadable(_ sandbox: Sandbox, isMember: Bool) throws {
        for arguments in Self.reading {
            let result = try ctl(sandbox, arguments, isMember: isMember)
            #expect(result.status == 77 && result.output.isEmpty, "\(arguments): \(result)")
            #expect(
                result.error
                    == "vip-bpfctl: read registry \(sandbox.stateDirectory)/registry.sqlite: it is for root, and for "
                    + "members of the group that 'attach cgroup PATH --group NAME' names; run as root\n")
        }
    }

    @Test("keeps the record for root, whatever the umask, and for a group that is named")
    func readers() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            let (state, record) = (sandbox.stateDirectory, "\(sandbox.stateDirectory).record")
            #expect(mode(state).mode == 0o700)
            for entry in try FileManager.default.contentsOfDirectory(atPath: state) {
                #expect(mode("\(state)/\(entry)").mode == 0o600, "\(entry)")
            }
            try expectNothingIsReadable(sandbox, isMember: true)
            #expect(!FileManager.default.fileExists(atPath: record))

            let attach = ["attach", "cgroup", sandbox.attached]
            let unknown = try sandbox.ctl(attach + ["--group", "no-such-group"])
            #expect(unknown.status == 64 && unknown.stderr.contains("there is no such group"), "\(unknown)")
            #expect(try sandbox.ctl(attach + ["--group", "games", "--no-group"]).status == 64)
            // As vip-bpf.service does it.
            let unit = try Build.leastPrivileges(of: "vip-bpf").joined(separator: " ")
            let named = try sandbox.sh(
                "umask 077; \(unit) '\(Build.controller.path)' --bpffs '\(sandbox.bpffs)' --state '\(state)' attach cgroup "
                    + "'\(sandbox.attached)' --group \(Self.group.name)")
            #expect(named.contains("programs"))
            #expect(mode(record) == (0o2750, Self.group.number))
            #expect(mode("\(record)/registry.sqlite") == (0o640, Self.group.number))

            for arguments in Self.reading {
                let root = try sandbox.ctl(arguments)
                let member = try ctl(sandbox, arguments, isMember: true)
                #expect(member.status == 0 && member.output == root.stdout, "\(arguments): \(member), \(root)")
            }
            let top = try ctl(sandbox, ["top", "--once"], isMember: true)
            #expect(
                top.status == 0 && top.output.contains("198.51.100.16")
                    && top.output.contains("no rates: root alone may read the events"), "\(top)")
            try expectNothingIsReadable(sandbox, isMember: false)
            #expect(try ctl(sandbox, ["top", "--once"], isMember: false).status == 77)
            // What the pins say is root's.
            for arguments in [["status"], ["map", "dump", "sessions"], ["watch"]] {
                #expect(try ctl(sandbox, arguments, isMember: true).status == 77, "\(arguments)")
            }
            #expect(try ctl(sandbox, ["session", "close", "7"], isMember: true).status == 77)

            // Each change is in it: by the daemon's few capabilities, after a boot, and after another attach.
            func list() throws -> String { try ctl(sandbox, ["session", "list"], isMember: true).output }
            let few = try sandbox.start(
                [
                    "setpriv", "--inh-caps=-all", "--bounding-set=-chown,-fsetid,-fowner,-dac_override",
                    Build.controller.path, "session", "open", "--cgroup", sandbox.cgroup("attached/ben"), "--id", "8",
                ], in: "control", environment: sandbox.controlEnvironment, errorOutput: true)
            few.closeInput()
            #expect(try few.wait() == 0 && few.errorText.isEmpty, "\(few.errorText)")
            #expect(try list().contains("attached/ben"))
            try sandbox.sh("rm -r '\(record)'")
            try expectNothingIsReadable(sandbox, isMember: true)
            try sandbox.mustCtl("session", "close", "8")
            #expect(try !list().contains("attached/ben") && list().contains("attached/ann"))
            #expect(mode(record) == (0o2750, Self.group.number))
            try sandbox.mustCtl("attach", "cgroup", sandbox.attached)
            #expect(try list().contains("attached/ann"))

            #expect(try sandbox.ctl(attach + ["--no-group"]).status == 0)
            #expect(!FileManager.default.fileExists(atPath: record))
            try expectNothingIsReadable(sandbox, isMember: true)
            #expect(try sandbox.ctl(attach + ["--group", Self.group.name]).status == 0)
            try sandbox.mustCtl("detach", "--all")
            #expect(!FileManager.default.fileExists(atPath: record))
        }
    }

    /// A read lock on the whole file, as SQLite's readers have it (its pending, reserved and shared bytes).
    @Test("opens and closes sessions while users hold every lock that they can get")
    func locks() throws {
        try attached { sandbox in
            let (state, record) = (sandbox.stateDirectory, "\(sandbox.stateDirectory).record")
            #expect(
                try sandbox.ctl(["attach", "cgroup", sandbox.attached, "--group", Self.group.name]).status == 0)
            _ = try sandbox.openSession("attached/ann", id: 7)
            let script = """
                import fcntl, os, sys
                held = []
                for directory in sys.argv[1:]:
                    for name in '', 'registry.sqlite', 'registry.sqlite-journal', 'lock', 'daemon.lock':
                        try:
                            descriptor = os.open(os.path.join(directory, name), os.O_RDONLY)
                            fcntl.flock(descriptor, fcntl.LOCK_EX)
                            if name: fcntl.lockf(descriptor, fcntl.LOCK_SH, 0, 0)
                            held.append(os.path.join(directory, name))
                        except OSError:
                            pass
                print(' '.join(held), flush=True)
                sys.stdin.read()
                """
            let holders = try [false, true].map { isMember in
                try start(
                    sandbox, ["/usr/bin/python3", "-c", script, state, record], isMember: isMember, errorOutput: false)
            }
            #expect(try holders[0].readLine() == "")
            #expect(try holders[1].readLine() == "\(record)/ \(record)/registry.sqlite")
            for id: UInt32 in 8...9 { _ = try sandbox.openSession("attached/s\(id)", id: id) }
            try sandbox.mustCtl("session", "close", "7")
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy))
            let member = try ctl(sandbox, ["session", "list"], isMember: true)
            #expect(member.output.contains("attached/s9") && !member.output.contains("attached/ann"), "\(member)")
            for holder in holders {
                holder.closeInput()
                #expect(try holder.wait() == 0)
            }
            try expectAgreement(sandbox)
        }
    }
}
