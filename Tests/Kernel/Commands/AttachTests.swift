// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import Foundation
import TestSupport
import Testing

/// The effect of attach and detach on cgroups, programs, links and the network namespace.
@Suite(.serialized, .requiresRoot)
struct AttachTests: CommandHost {
    @Test("refuses paths that are no cgroup")
    func refusesPathsThatAreNoCgroup() throws {
        try attached { sandbox in
            try sandbox.sh("touch '\(sandbox.directory)/file'")
            for command in [["attach", "cgroup"], ["session", "open", "--cgroup"]] {
                try refuses(
                    sandbox,
                    [
                        (command + ["\(sandbox.cgroup)/nowhere"], 1, ["nowhere"]),
                        (command + [sandbox.directory], 1, [sandbox.directory, "cgroup v2"]),
                        (command + ["\(sandbox.directory)/file"], 1, ["director"]),
                        (command + ["/proc"], 1, ["/proc"]),
                        (command + [""], 1, []),
                    ])
            }
        }
    }

    @Test("refuses cgroups below or above a session, outside an attachment, or attached already")
    func refusesNestedCgroups() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/ann", id: 7)
            let below = try sandbox.cgroup("attached/ann/below")
            let outside = try sandbox.cgroup("elsewhere")
            try refuses(
                sandbox,
                [
                    (["session", "open", "--cgroup", session.cgroup], 1, ["session 7", session.cgroup]),
                    (["session", "open", "--cgroup", below], 1, ["session 7", "below"]),
                    (["session", "open", "--cgroup", "\(sandbox.cgroup)/attached"], 1, ["session 7"]),
                    (["session", "open", "--cgroup", outside], 1, ["attach"]),
                    (["attach", "cgroup", below], 1, ["already"]),
                    (["attach", "cgroup", sandbox.cgroup], 1, ["twice"]),
                    (["detach", "cgroup", outside], 1, ["not attached"]),
                    (["session", "close", "8"], 1, ["no such session"]),
                    (["session", "show", "8"], 1, ["no such session"]),
                ])
        }
    }

    /// A sk_lookup link that is defunct, or in another namespace, is replaced.
    @Test("keeps one sk_lookup link for all cgroups, and replaces it in another namespace")
    func keepsOneLinkForTheNetworkNamespace() throws {
        try attached { sandbox in
            struct Status: Decodable {
                struct Link: Decodable { var hook: String, linkId: Int?, state: String }
                var network: [Link]
            }
            func link() throws -> Status.Link {
                let status: Status = try sandbox.mustCtl("status", "--json").decode()
                guard let link = status.network.first else { throw HarnessError("status has no hook of the network") }
                return link
            }
            let first = try link()
            #expect(first.hook == "sk_lookup" && first.state == "attached")
            try sandbox.mustCtl("attach", "cgroup", sandbox.cgroup("second"))
            #expect(try link().linkId == first.linkId, "one for all cgroups")
            let attach = "'\(Build.controller.path)' --bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)'"
            try sandbox.sh("unshare --net \(attach) attach cgroup '\(sandbox.cgroup)/attached' >/dev/null 2>&1")
            // That namespace ended with its only process.
            #expect(try link().state == "gone")
            #expect(try sandbox.ctl("check").stdout.contains("sk_lookup is attached to another network namespace"))
            try sandbox.mustCtl("attach", "cgroup", "\(sandbox.cgroup)/attached")
            #expect(try link().state == "attached")
            try sandbox.mustCtl("detach", "cgroup", "\(sandbox.cgroup)/attached")
            #expect(try link().state == "attached")
            try sandbox.mustCtl("detach", "cgroup", "\(sandbox.cgroup)/second")
            #expect(try link().state == "none")
        }
    }

    /// Changes the only row of the `config` map without the controller.
    private func editConfig(_ sandbox: Sandbox, _ edit: (inout [UInt8]) -> Void) throws {
        let pin = "\(sandbox.bpffs)/maps/config"
        let row = try sandbox.sh("bpftool -j map lookup pinned '\(pin)' key 0 0 0 0")
        let document = try JSONSerialization.jsonObject(with: Data(row.utf8)) as? [String: Any]
        let value = try #require(document?["value"] as? [String])
        var bytes = value.compactMap { UInt8($0.dropFirst(2), radix: 16) }
        try #require(bytes.count == 400)
        edit(&bytes)
        let hex = bytes.map { String(format: "%02x", $0) }.joined(separator: " ")
        try sandbox.sh("bpftool map update pinned '\(pin)' key hex 00 00 00 00 value hex \(hex)")
    }

    /// An upgrade: the pinned programs are of another build. They are replaced in every attached cgroup, while a
    /// program binds all the time. Every bind is rewritten.
    @Test("updates the programs of another build in place, and misses no bind")
    func updatesProgramsInPlace() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/ann", id: 7)
            try sandbox.mustCtl("attach", "cgroup", sandbox.cgroup("second"))
            let before = try sandbox.mustCtl("status", "--json").stdout
            // Another object's ID, in the last 32 bytes of the row.
            try editConfig(sandbox) { $0.replaceSubrange(368..<400, with: [UInt8](repeating: 7, count: 32)) }
            #expect(try sandbox.mustCtl("status").stdout.contains("another build's"))
            let probe = try sandbox.probe("server", in: "attached/ann")
            let update = try sandbox.start(
                [Build.controller.path, "attach", "cgroup", "\(sandbox.cgroup)/attached", "--json"], in: "control",
                environment: sandbox.controlEnvironment,
                errorOutput: true)
            update.closeInput()
            var isUpdating = true
            while isUpdating {
                for _ in 0..<20 {
                    for call in ["socket a tcp", "bind a 0.0.0.0 0"] { try probe.must(call) }
                    #expect(try probe.must("getsockname a").address == session.virtualIps[0])
                    try probe.must("close a")
                }
                isUpdating = update.isRunning
            }
            #expect(try update.wait() == 0, "\(update.errorText)")
            #expect(update.outputText.contains("\"updated\""), "\(update.outputText)")
            let after = try sandbox.mustCtl("status", "--json").stdout
            // In both cgroups, the links are the same and the programs are not.
            struct Status: Decodable {
                struct Attachment: Decodable {
                    struct Hook: Decodable { var hook: String, linkId: Int, programId: Int }
                    var cgroup: String, hooks: [Hook]
                }
                var attachments: [Attachment], isThisBuild: Bool
            }
            let decoder = JSONDecoder()
            decoder.keyDecodingStrategy = .convertFromSnakeCase
            let old = try decoder.decode(Status.self, from: Data(before.utf8))
            let new = try decoder.decode(Status.self, from: Data(after.utf8))
            #expect(new.isThisBuild)
            #expect(new.attachments.count == 2)
            for (old, new) in zip(old.attachments, new.attachments) {
                #expect(old.hooks.map(\.linkId) == new.hooks.map(\.linkId))
                #expect(zip(old.hooks, new.hooks).allSatisfy { $0.programId != $1.programId })
            }
            try expectAgreement(sandbox)
        }
    }

    @Test("leaves maps with a newer layout alone, but for detach --all")
    func leavesANewerLayoutAlone() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            // Version 99, as a later build would write it: the first four bytes of the only row of config.
            try editConfig(sandbox) { $0.replaceSubrange(0..<4, with: [99, 0, 0, 0]) }

            for arguments in [
                ["session", "open", "--cgroup", try sandbox.cgroup("attached/b")], ["status"],
                ["map", "dump"], ["watch"], ["policy", "apply", try sandbox.policyFile(Self.policy)],
                ["attach", "cgroup", "\(sandbox.cgroup)/attached"],
            ] {
                let result = try sandbox.ctl(arguments)
                #expect(result.status == 1, "\(result)")
                #expect(result.stderr.contains("layout is version 99"), "\(result)")
            }
            try sandbox.mustCtl("detach", "--all")
            #expect(try sandbox.virtualIPs().isEmpty)
            try sandbox.mustCtl("attach", "cgroup", "\(sandbox.cgroup)/attached")
        }
    }

    @Test("changes nothing when the cgroup is attached already")
    func attachesOnce() throws {
        try attached { sandbox in
            let path = "\(sandbox.cgroup)/attached"
            let before = try sandbox.mustCtl("status", "--json").stdout
            let again = try sandbox.mustCtl("attach", "cgroup", path, "--json").stdout
            #expect(!again.contains("\"attached\""))
            #expect(try sandbox.mustCtl("status", "--json").stdout == before)
        }
    }

    @Test("attaches a cgroup that was removed and created again")
    func attachesARecreatedCgroup() throws {
        try attached { sandbox in
            let path = try sandbox.cgroup("second")
            try sandbox.mustCtl("attach", "cgroup", path)
            try sandbox.sh("rmdir '\(path)'")
            #expect(try sandbox.mustCtl("status").stdout.contains("gone"))
            _ = try sandbox.cgroup("second")
            let again = try sandbox.mustCtl("attach", "cgroup", path, "--json").stdout
            #expect(again.contains("\"attached\""))
            try sandbox.mustCtl("detach", "cgroup", path)
        }
    }

    @Test("leaves no pin, link, address or session after detach --all")
    func detachAllLeavesNothing() throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            let before = try sandbox.sh("ip -br addr") + loopbackState(sandbox)
            try sandbox.mustCtl("attach", "cgroup", path, "--policy", sandbox.policyFile(Self.policy))
            for (number, name) in ["a", "b", "c"].enumerated() {
                _ = try sandbox.openSession("attached/\(name)", id: UInt32(100 + number))
            }
            try sandbox.mustCtl("detach", "--all")
            #expect(try sandbox.sh("ip -br addr") + loopbackState(sandbox) == before)
            #expect(try sandbox.sh("ls -d '\(sandbox.bpffs)' 2>/dev/null || true").isEmpty)
            #expect(try sandbox.sh("bpftool cgroup show '\(path)'").isEmpty)
            #expect(try sandbox.mustCtl("session", "list").stdout.split(separator: "\n").count == 1)
            try sandbox.mustCtl("detach", "--all")  // nothing is left, which is no error
        }
    }

    @Test("refuses a state directory that belongs to other pins")
    func refusesTheStateOfOtherPins() throws {
        try attached { sandbox in
            try refuses(
                sandbox,
                [(["detach", "--all", "--bpffs", "\(sandbox.directory)/bpf/other"], 1, ["belongs to the pins"])])
            let nowhere = try sandbox.ctl("detach", "--all", "--bpffs", "\(sandbox.directory)/nobpf/vip")
            #expect(nowhere.status != 0)
        }
    }

    /// Opening and closing a session at another depth must not affect another session for a moment.
    @Test("rewrites every bind of a session while others open and close at another depth")
    func protectsWhileDepthsChange() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/deep/ann", id: 7)
            let probe = try sandbox.probe("server", in: "attached/deep/ann")
            let path = try sandbox.cgroup("attached/flat")
            let changes = try sandbox.start(
                [
                    "/bin/sh", "-ec",
                    "for i in $(seq 40); do \"$0\" session open --cgroup \"$1\" --id 8; \"$0\" session close 8; done",
                ]
                    + [Build.controller.path, path], in: "control",
                environment: sandbox.controlEnvironment,
                errorOutput: true)
            changes.closeInput()
            var isChanging = true
            while isChanging {
                for _ in 0..<100 {
                    for call in ["socket a tcp", "bind a 0.0.0.0 0"] { try probe.must(call) }
                    #expect(try probe.must("getsockname a").address == session.virtualIps[0])
                    try probe.must("close a")
                }
                isChanging = changes.isRunning
            }
            #expect(try changes.wait() == 0, "\(changes.errorText)")
        }
    }
}
