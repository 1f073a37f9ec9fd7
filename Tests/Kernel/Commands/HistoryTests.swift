// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// What the registry records of closed sessions and of the users of addresses.
@Suite(.serialized, .requiresRoot)
struct HistoryTests: CommandHost {
    private struct Past: Decodable {
        struct Session: Decodable, Equatable {
            let id: UInt32
            let user: String?
            let cgroup: String
            let virtualIps: [String]
            let state: String
            let openedAt: String
            let closedAt: String?
            let ending: String?
        }
        let sessions: [Session]
    }

    private struct Holders: Decodable {
        struct Holder: Decodable {
            let sessionId: UInt32
            let user: String?
            let cgroup: String
            let startedAt: String
            let endedAt: String?
            let ending: String?
            let clock: String
        }
        let holders: [Holder]
    }

    private func past(_ sandbox: Sandbox) throws -> [Past.Session] {
        try sandbox.mustCtl("session", "list", "--all", "--json").decode(Past.self).sessions
    }

    /// However a session ends, the history has the reason, and the user of the address.
    @Test("records how each session ended")
    func recordsEveryEnding() throws {
        try attached { sandbox in
            func open(_ name: String, id: UInt32) throws {
                try sandbox.mustCtl(
                    "session", "open", "--cgroup", sandbox.cgroup("attached/\(name)"), "--id", "\(id)", "--user", name)
            }
            func sql(_ text: String) throws {
                try sandbox.sh("sqlite3 '\(sandbox.stateDirectory)/registry.sqlite' \"\(text)\"")
            }
            try open("closed", id: 10)
            try sandbox.mustCtl("session", "close", "10")
            try open("gone", id: 11)
            try sandbox.sh("rmdir '\(sandbox.cgroup)/attached/gone'")
            #expect(try past(sandbox).last?.state == "gone")
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy))
            try sandbox.mustCtl("run", "--id", "12", "--", "true")
            try open("booted", id: 13)
            try sql(
                "UPDATE sessions SET boot_id = 'x'; UPDATE session_history SET opened_boot = 'x' WHERE session_id = 13")
            #expect(try past(sandbox).last?.state == "gone")
            try open("killed", id: 14)
            try sql("UPDATE sessions SET state = 'closing' WHERE id = 14")
            let kept = try sandbox.ctl(["session", "open", "--cgroup", sandbox.cgroup("attached/kept"), "--id", "15"])
            #expect(kept.status == 0, "\(kept)")
            try sandbox.mustCtl("detach", "--all")

            let sessions = try past(sandbox)
            #expect(sessions.map(\.id) == [10, 11, 12, 13, 14, 15])
            #expect(
                sessions.map(\.ending) == [
                    "closed", "cgroup-gone", "run-ended", "earlier-boot", "command-killed", "detached",
                ])
            #expect(sessions.map(\.user) == ["closed", "gone", nil, "booted", "killed", nil])
            #expect(sessions.allSatisfy { $0.state == "closed" && $0.closedAt != nil && $0.virtualIps.count == 1 })
            let table = try sandbox.mustCtl("session", "list", "--all").stdout
            #expect(table.contains("command-killed") && table.contains("\(sandbox.cgroup)/attached/killed"))
        }
    }

    @Test("shows who has an address, and who had it at a time")
    func tellsWhoHadAnAddress() throws {
        try attached { sandbox in
            func who(_ address: String, at time: String? = nil) throws -> [Holders.Holder] {
                let arguments = ["who", address, "--json"] + (time.map { ["--at", $0] } ?? [])
                let result = try sandbox.ctl(arguments)
                guard result.status == 0 else {
                    #expect(result.status == 1 && result.stdout.isEmpty, "\(result)")
                    #expect(result.stderr.split(separator: "\n").count == 1, "\(result)")
                    return []
                }
                return try result.decode(Holders.self).holders
            }
            #expect(try who("198.51.100.16").isEmpty)
            let path = try sandbox.cgroup("attached/ann")
            try sandbox.mustCtl("session", "open", "--cgroup", path, "--id", "7", "--user", "ann")
            for address in ["198.51.100.16", "127.0.0.8", "fdd2:9088:43af::8"] {
                let now = try who(address)
                #expect(now.map(\.sessionId) == [7] && now.map(\.user) == ["ann"], "\(address)")
                #expect(now[0].endedAt == nil && now[0].cgroup == path && now[0].clock == "steady")
            }
            #expect(try who("198.51.100.17").isEmpty && who("127.0.0.1").isEmpty && who("8.8.8.8").isEmpty)
            try sandbox.mustCtl("session", "close", "7")
            try sandbox.mustCtl(
                "session", "open", "--cgroup", path, "--id", "8", "--user", "bob", "--ip", "198.51.100.16")
            #expect(try who("198.51.100.16").map(\.user) == ["bob"])
            // Both had it within this second; before, no user had it.
            let first = try #require(try past(sandbox).first)
            let then = try who("198.51.100.16", at: first.openedAt)
            #expect(
                then.first?.user == "ann" && then.first?.ending == "closed" && then.first?.endedAt == first.closedAt)
            #expect(try who("198.51.100.16", at: "2001-01-01T00:00:00Z").isEmpty)
            let none = try sandbox.ctl("who", "198.51.100.16", "--at", "2001-01-01T00:00:00Z")
            #expect(none.stderr.contains("the history begins at \(first.openedAt)"), "\(none)")
            for wrong in [["who"], ["who", "x"], ["who", "10.0.0.1", "--at", "yesterday"], ["who", "10.0.0.0/8"]] {
                #expect(try sandbox.ctl(wrong).status == 64, "\(wrong)")
            }

            // The clock was set back by an hour while bob had the address, so the end is before the start.
            let path2 = "\(sandbox.stateDirectory)/registry.sqlite"
            try sandbox.mustCtl("session", "close", "8")
            try sandbox.sh(
                """
                sqlite3 '\(path2)' "UPDATE address_history SET ended_at = '2001-01-01T00:00:00Z' WHERE ending IS NOT NULL
                    AND session_number = (SELECT number FROM session_history WHERE session_id = 8)"
                """)
            #expect(try who("198.51.100.16", at: "2001-01-01T00:00:00Z").map(\.clock) == ["set"])
            #expect(try who("198.51.100.16", at: "2099-01-01T00:00:00Z").isEmpty)
            #expect(try sandbox.mustCtl("session", "list", "--all").stdout.contains("bob"))
        }
    }

    @Test("forgets closed sessions when history.retentionDays has passed")
    func forgetsByTheRetention() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            try sandbox.mustCtl("session", "close", "7")
            _ = try sandbox.openSession("attached/bob", id: 8)
            #expect(try past(sandbox).map(\.id) == [7, 8])
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy + "\nhistory: {retentionDays: 0}"))
            #expect(try past(sandbox).map(\.id) == [8])
            #expect(try sandbox.mustCtl("policy", "show").stdout.contains("retentionDays: 0"))
            try sandbox.mustCtl("session", "close", "8")
            #expect(try past(sandbox).isEmpty)
        }
    }

    /// A full disk, or one that cannot be written, loses nothing and leaves nothing half done.
    @Test("changes nothing when the disk is full or read-only", arguments: ["full", "read-only"])
    func changesNothingOnABadDisk(disk: String) throws {
        try attached { sandbox in
            for name in ["ann", "bob"] { _ = try sandbox.cgroup("attached/\(name)") }
            _ = try sandbox.openSession("attached/ann", id: 7)
            // In a mount namespace with the state on a small disk, which ends with the shell.
            let script = """
                cp -a "$3" "$3.kept"
                mount -t tmpfs -o size=400k,mode=755 vip-test "$3"
                cp -a "$3.kept/." "$3"
                if [ $0 = full ]; then
                    dd if=/dev/zero of="$3/ballast" bs=4k 2>/dev/null || true
                else
                    mount -o remount,ro "$3"
                fi
                state() { "$1" session list --json; "$1" session list --all --json; ip -br addr; bpftool -j map dump pinned "$2/maps/sessions"; }
                state "$@" >"$3.before"
                for try in 1 2; do
                    ! "$1" session open --cgroup "$4/attached/bob" --id 8 || echo opened
                    ! "$1" session close 7 || echo closed
                done 2>"$3.errors"
                state "$@" | diff "$3.before" - || echo changed
                if [ $0 = full ]; then rm "$3/ballast"; else mount -o remount,rw "$3"; fi
                "$1" session close 7
                "$1" session list --all --json
                """
            let program = try sandbox.start(
                [
                    "unshare", "-m", "/bin/sh", "-ec", script, disk, Build.controller.path, sandbox.bpffs,
                    sandbox.stateDirectory, sandbox.cgroup,
                ], in: "control", environment: sandbox.controlEnvironment, errorOutput: true)
            program.closeInput()
            #expect(try program.wait() == 0, "\(program.errorText) \(program.outputText)")
            let text = program.outputText
            let errors = try sandbox.sh("cat '\(sandbox.stateDirectory).errors'")
            #expect(!text.contains("opened\n") && !text.contains("closed\n") && !text.contains("changed\n"), "\(text)")
            let reason = disk == "full" ? "no space" : "read-only"
            let lines = errors.split(separator: "\n")
            #expect(lines.count == 4 && lines.allSatisfy { $0.lowercased().contains(reason) }, "\(errors)")
            let sessions = try JSONDecoder.snake.decode(Past.self, from: Data(text.utf8)).sessions
            #expect(sessions.map(\.id) == [7] && sessions.map(\.ending) == ["closed"], "\(text)")
        }
    }
}
