// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// Pins and state where an unprivileged user could change or replace them: every command refuses them, and `detach`
/// takes them away.
@Suite(.serialized, .requiresRoot)
struct OwnershipTests: CommandHost {
    /// A number that no user has, so that errors show it.
    private static let mallory = "setpriv --reuid 64201 --regid 64201 --clear-groups --no-new-privs"

    /// Commands that each use pins and state.
    private func commands(_ sandbox: Sandbox) throws -> [[String]] {
        let cgroup = try sandbox.cgroup("attached/a")
        return [
            ["attach", "cgroup", sandbox.attached], ["status"], ["session", "open", "--cgroup", cgroup],
            ["policy", "apply", try sandbox.policyFile(Self.policy)], ["program", "add", "x", "--for", "virtual-ip"],
            ["map", "list"], ["map", "dump"], ["watch"], ["top"], ["run", "true"], ["metrics"],
            ["explain", "--exe", "/bin/sh", "--session", "7"],
        ]
    }

    private func refuses(
        _ sandbox: Sandbox, _ commands: [[String]], _ reason: String, location: SourceLocation = #_sourceLocation
    ) throws {
        for arguments in commands {
            let result = try sandbox.ctl(arguments)
            #expect(result.status == 1 && result.stdout.isEmpty, "\(result)", sourceLocation: location)
            #expect(result.stderr.contains(reason), "\(result)", sourceLocation: location)
            #expect(result.stderr.split(separator: "\n").count == 1, "\(result)", sourceLocation: location)
        }
    }

    @Test("refuses a directory for pins that another user has made")
    func anothersPinDirectory() throws {
        try Sandbox.with { sandbox in
            try sandbox.sh("\(Self.mallory) mkdir -m 777 '\(sandbox.bpffs)'")
            let attach = ["attach", "cgroup", sandbox.attached]
            try refuses(
                sandbox, [attach, ["status"], ["map", "list"]],
                "use directory \(sandbox.bpffs): it belongs to user 64201; chown root \(sandbox.bpffs) && chmod go-w ")
            #expect(try sandbox.sh("find '\(sandbox.bpffs)' -mindepth 1").isEmpty)
            let check = try sandbox.ctl(["check"])
            #expect(check.status == 1 && check.stdout.contains("it belongs to user 64201"), "\(check)")
            // What the error says to do is enough.
            try sandbox.sh("chown root '\(sandbox.bpffs)' && chmod go-w '\(sandbox.bpffs)'")
            try sandbox.mustCtl("attach", "cgroup", sandbox.attached)
            try sandbox.mustCtl("detach", "--all")
        }
    }

    /// As earlier versions accepted them.
    @Test("detaches what is pinned in another user's directory, and does nothing else with it")
    func detachesFromAnothersPinDirectory() throws {
        for detach in [["detach", "--all"], ["detach", "cgroup"]] {
            try Sandbox.with { sandbox in
                try sandbox.mustCtl(
                    "attach", "cgroup", sandbox.attached, "--policy", sandbox.policyFile(Self.policy))
                _ = try sandbox.openSession("attached/ann", id: 7)
                try sandbox.sh("chown 64201 '\(sandbox.bpffs)'")
                try refuses(sandbox, try commands(sandbox), "\(sandbox.bpffs): it belongs to user 64201")
                let result = try sandbox.ctl(detach + (detach.contains("--all") ? [] : [sandbox.attached]))
                #expect(result.status == 0, "\(result)")
                #expect(try sandbox.sh("bpftool cgroup show '\(sandbox.attached)'").isEmpty)
                try sandbox.mustCtl("detach", "--all")
                #expect(try sandbox.virtualIPs().isEmpty)
                #expect(try sandbox.sh("ls -d '\(sandbox.bpffs)' 2>/dev/null || true").isEmpty)
            }
        }
    }

    @Test("follows no link that another user has put in the place of a directory")
    func followsNoLink() throws {
        try attached { sandbox in
            let victim = "\(sandbox.directory)/bpf/victim"
            try sandbox.sh(
                """
                mkdir '\(victim)' && mv '\(sandbox.bpffs)/links' '\(victim)/links'
                chown 64201 '\(sandbox.bpffs)'
                \(Self.mallory) ln -s '\(victim)/links' '\(sandbox.bpffs)/links'
                """)
            let before = try sandbox.sh("find '\(victim)' | sort")
            let result = try sandbox.ctl(["detach", "--all"])
            #expect(result.status == 1 && result.stderr.contains("links: it is not a directory"), "\(result)")
            #expect(try sandbox.sh("find '\(victim)' | sort") == before)
            try sandbox.sh(
                "rm '\(sandbox.bpffs)/links' && mv '\(victim)/links' '\(sandbox.bpffs)/links'; rmdir '\(victim)'")
        }
    }

    @Test("refuses directories for pins whose place another user could take")
    func parentsOfThePins() throws {
        try attached { sandbox in
            let parent = "\(sandbox.directory)/bpf"
            try sandbox.sh("chmod 777 '\(parent)'")
            try refuses(
                sandbox, try commands(sandbox),
                "other users may write to \(parent) above it, and so can replace it; chown root \(parent) && chmod go-w"
            )
            try sandbox.sh("chmod 755 '\(parent)'; chown 64201 '\(parent)'")
            try refuses(
                sandbox, try commands(sandbox), "\(parent) above it belongs to user 64201, who can replace it")
            try sandbox.mustCtl("detach", "--all")
            try sandbox.sh("chown root '\(parent)'; chmod 1777 '\(parent)'")
            try sandbox.mustCtl("attach", "cgroup", sandbox.attached)
            // A directory in it that others may write to is as bad.
            try sandbox.sh("chmod 770 '\(sandbox.bpffs)/links'")
            try refuses(sandbox, [["status"], ["map", "list"]], "\(sandbox.bpffs)/links: other users may write to it")
        }
    }

    @Test("refuses a state directory that another user could change or replace")
    func stateDirectory() throws {
        try attached { sandbox in
            let state = sandbox.stateDirectory
            let others = ["map", "watch", "explain"]  // look at the pins alone
            let commands = try commands(sandbox).filter { !others.contains($0[0]) } + [["session", "list"]]
            try sandbox.sh("chown 64201 '\(state)'")
            try refuses(sandbox, commands, "use directory \(state): it belongs to user 64201; chown root \(state)")
            try sandbox.sh("chown root '\(state)'; chmod 775 '\(state)'")
            try refuses(sandbox, commands, "use directory \(state): other users may write to it")
            try sandbox.sh("chmod 755 '\(state)'; chown 64201 '\(sandbox.directory)'")
            try refuses(
                sandbox, commands, "\(sandbox.directory) above it belongs to user 64201, who can replace it")
            try sandbox.sh("chown root '\(sandbox.directory)'; chmod 1777 '\(sandbox.directory)'")
            try sandbox.mustCtl("status")
            // Others can put a link there, though not in the place of what is root's.
            try sandbox.sh("\(Self.mallory) ln -s state '\(sandbox.directory)/link'")
            let link = try sandbox.ctl(["status", "--state", "\(sandbox.directory)/link"])
            #expect(link.status == 1 && link.stderr.contains("it belongs to user 64201"), "\(link)")
            try sandbox.sh("chmod 755 '\(sandbox.directory)'")
        }
    }
}
