// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// What session open, close, show and whoami do; batches.
@Suite(.serialized, .requiresRoot)
struct SessionTests: CommandHost {
    @Test("refuses IDs that are taken, reserved or out of range")
    func refusesIDs() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            let open = ["session", "open", "--cgroup", try sandbox.cgroup("attached/bob"), "--id"]
            try refuses(
                sandbox,
                [(open + ["7"], 1, ["taken"]), (open + ["0", "--allow-reserved"], 1, ["127.0.0.1"])]
                    + ["0", "1", "52", "53", "256"].map { (open + [$0], 1, ["reserved"]) }
                    + ["16777214", "4294967295"].map { (open + [$0], 1, ["16777213"]) }
                    + ["-1", "x", "4294967296", "1.5"].map { (open + [$0], 64, []) })

            // What may be: a reserved one that is asked for in so many words, and the last.
            try sandbox.mustCtl("session", "open", "--cgroup", open[3], "--id", "53", "--allow-reserved")
            try sandbox.mustCtl("session", "close", "53")
            try sandbox.mustCtl("session", "open", "--cgroup", open[3], "--id", "16777213")
        }
    }

    @Test("opens a session on the caller's cgroup when none is named")
    func opensTheCallersCgroup() throws {
        try attached { sandbox in
            let program = try sandbox.start(
                [Build.controller.path, "session", "open"], in: "attached/mine",
                environment: sandbox.controlEnvironment,
                errorOutput: true)
            program.closeInput()
            #expect(try program.wait() == 0, "\(program.errorText)")
            #expect(program.outputText == "2 198.51.100.16 127.0.0.3 fdd2:9088:43af::3\n")
            #expect(try sandbox.mustCtl("session", "show", "2").stdout.contains("\(sandbox.cgroup)/attached/mine"))
        }
    }

    @Test("opens 500 sessions of a batch as one change")
    func opensABatchOfFiveHundred() throws {
        try attached("virtualLoopback: {enabled: true, programs: [\"*\"]}") { sandbox in
            let lines = try (0..<500).map { "--cgroup \(try sandbox.cgroup("attached/s\($0)")) --user u\($0)" }
            let result = try sandbox.ctl(["session", "open", "--batch", "-"], input: lines.joined(separator: "\n"))
            #expect(result.status == 0, "\(result.stderr)")
            let ids = result.stdout.split(separator: "\n").compactMap { UInt32($0.split(separator: " ")[0]) }
            #expect(ids.count == 500)
            #expect(Set(ids).isDisjoint(with: [0, 1, 5, 52, 53, 256]))
            let again = try sandbox.ctl(["session", "open", "--batch", "-"], input: lines[7])
            #expect(again.status == 1, "\(again)")
        }
    }

    @Test("closes a session whose cgroup was removed when its path or address is needed")
    func replacesASessionWithoutCgroup() throws {
        try attached(Self.twoAddresses) { sandbox in
            _ = try sandbox.openSession("attached/a", id: 7)
            _ = try sandbox.openSession("attached/b", id: 8)
            try sandbox.sh("rmdir '\(sandbox.cgroup)/attached/a'")
            #expect(try sandbox.mustCtl("session", "show", "7").stdout.contains("gone"))
            // The same path, and the last address of the pool.
            _ = try sandbox.openSession("attached/a", id: 9)
            #expect(try sandbox.ctl("session", "show", "7").status == 1)
            try expectAgreement(sandbox)
        }
    }

    /// What an ordinary user in a cgroup is told of its own session.
    private func whoami(
        _ sandbox: Sandbox, in cgroup: String, _ options: [String] = ["--json"]
    ) throws -> (status: Int32, document: [String: Any], error: String) {
        let user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
        let program = try sandbox.start(
            user + [Build.controller.path, "whoami"] + options, in: cgroup, environment: sandbox.controlEnvironment,
            errorOutput: true)
        program.closeInput()
        let status = try program.wait()
        let document = try? JSONSerialization.jsonObject(with: Data(program.outputText.utf8)) as? [String: Any]
        #expect(program.errorText.split(separator: "\n").count <= 1, "\(program.errorText)")
        return (status, document ?? [:], program.errorText)
    }

    @Test("tells an ordinary user of the own session without the registry")
    func tellsAUserTheirSession() throws {
        let pool = "[198.51.100.16-198.51.100.23, 2001:db8:1::/64]"
        func policy(_ mode: String, loopback: Bool = true) -> String {
            """
            virtualIP: {enabled: true, mode: \(mode), addresses: {interface: eth0, probeSeconds: 0, pool: \(pool)}}
            virtualLoopback: {enabled: \(loopback), programs: ["*"]}
            """
        }
        try attached(policy("perSession")) { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            let bob = try sandbox.openSession("attached/bob", id: 8)
            _ = try sandbox.cgroup("attached/bob/below")
            for mode in ["perSession", "perProgram"] {
                try sandbox.mustCtl("policy", "apply", "--force", sandbox.policyFile(policy(mode)))
                for cgroup in ["attached/bob", "attached/bob/below"] {
                    let own = try whoami(sandbox, in: cgroup)
                    #expect(own.status == 0 && own.error.isEmpty, "\(own)")
                    #expect(own.document["id"] as? Int == 8)
                    #expect(
                        own.document["virtual_ips"] as? [String] == (mode == "perSession" ? bob.virtualIps : []))
                    #expect(own.document["virtual_loopback"] as? String == "127.0.0.9")
                    #expect(own.document["virtual_loopback6"] as? String == "fdd2:9088:43af::9")
                    #expect(own.document["cgroup"] is NSNull && own.document["user"] is NSNull)
                }
                let none = try whoami(sandbox, in: "attached/eve")
                #expect(none.status == 1 && none.error.contains("this process is in no session"), "\(none)")
            }

            // What the kernel says, and nothing where it says nothing.
            try sandbox.mustCtl("policy", "apply", "--force", sandbox.policyFile(policy("perSession", loopback: false)))
            let asked = try whoami(sandbox, in: "attached/bob")
            #expect(asked.status == 0 && asked.error.contains("the session ID is not known"), "\(asked)")
            #expect(asked.document["virtual_ips"] as? [String] == bob.virtualIps)
            #expect(asked.document["id"] is NSNull && asked.document["virtual_loopback"] is NSNull)
            try sandbox.mustCtl("policy", "apply", "--force", sandbox.policyFile(policy("perProgram", loopback: false)))
            let unknown = try whoami(sandbox, in: "attached/bob")
            #expect(unknown.status == 1 && unknown.error.contains("no address of its session applies"), "\(unknown)")

            // Root is told all by the registry.
            let root = try sandbox.start(
                [Build.controller.path, "whoami", "--json"], in: "attached/bob",
                environment: sandbox.controlEnvironment)
            root.closeInput()
            #expect(try root.wait() == 0)
            let known = try JSONSerialization.jsonObject(with: Data(root.outputText.utf8)) as? [String: Any]
            #expect(known?["id"] as? Int == 8 && known?["cgroup"] as? String == bob.cgroup, "\(root.outputText)")
            #expect(known?["virtual_ips"] as? [String] == bob.virtualIps)

            // Another instance's registry: its sessions are not these.
            try sandbox.mustCtl("policy", "apply", "--force", sandbox.policyFile(policy("perSession")))
            try sandbox.sh("mkdir -m 755 '\(sandbox.directory)/other'")
            let other = try whoami(sandbox, in: "attached/bob", ["--json", "--state", "\(sandbox.directory)/other"])
            #expect(other.document["virtual_ips"] as? [String] == bob.virtualIps, "\(other)")
            #expect(other.document["id"] as? Int == 8, "\(other)")
        }
    }

    /// Denied the wildcard is in a session, whatever the registry says.
    @Test("tells a session without a virtual IP that it has none")
    func tellsASessionWithoutAddress() throws {
        try attached("virtualIP: {enabled: true, mode: perSession, addresses: {probeSeconds: 0}}") { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            #expect(try whoami(sandbox, in: "attached/ann").document["virtual_ips"] as? [String] == [])
            let plain = try whoami(sandbox, in: "attached/ann", [])
            #expect(plain.status == 0, "\(plain)")
            let asked = try whoami(sandbox, in: "attached/ann")
            #expect(asked.status == 0 && asked.error.contains("the session ID is not known"), "\(asked)")
        }
    }
}
