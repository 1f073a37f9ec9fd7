// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// Policies that would leave open sessions without an address, or refuse all that they do.
@Suite(.serialized, .requiresRoot)
struct PolicySafetyTests: CommandHost {
    /// A harmful policy, the place and key of the hazard, and a part of its message.
    struct Harmful: CustomTestStringConvertible {
        let yaml, place, key, words: String
        var testDescription: String { "\(key): \(words)" }
    }

    private static func pool(_ range: String, _ more: String = "") -> String {
        """
        virtualIP:
          enabled: true
          mode: perSession
          addresses: {probeSeconds: 0, \(more)pool: [\(range)]}

        """
    }

    static let all: [Harmful] = [
        Harmful(
            yaml: "virtualIP:\n  enabled: true\n  mode: perSession\n", place: "1:1", key: "virtualIP.addresses.pool",
            words: "there is no pool, so no session gets an address"),
        Harmful(
            yaml: "virtualIP:\n  enabled: true\n  programs: ['*']\n", place: "1:1", key: "virtualIP.addresses.pool",
            words: "refuses all programs"),
        Harmful(
            yaml: "virtualIP:\n  enabled: true\n  mode: perProgram\n  programs: []\n", place: "4:13",
            key: "virtualIP.programs", words: "applies to nothing"),
        Harmful(
            yaml: pool("198.51.100.16/28", "interface: eth9, "), place: "4:43", key: "virtualIP.addresses.interface",
            words: "there is no interface eth9 on this host"),
        Harmful(
            yaml: pool("203.0.113.16/28"), place: "4:39", key: "virtualIP.addresses.pool[0]",
            words: "is in no network of eth0 (198.51.100.1/24)"),
        Harmful(
            yaml: pool("198.51.100.0/28"), place: "4:39", key: "virtualIP.addresses.pool[0]",
            words: "the host's own 198.51.100.1 (eth0)"),
        Harmful(
            yaml: pool("198.51.100.16/28, 198.51.100.255"), place: "4:57", key: "virtualIP.addresses.pool[1]",
            words: "198.51.100.255 is the broadcast address of 198.51.100.1/24"),
        Harmful(
            yaml: pool("198.51.100.16/28, 198.51.100.0"), place: "4:57", key: "virtualIP.addresses.pool[1]",
            words: "198.51.100.0 is the network's address of 198.51.100.1/24"),
    ]

    private struct Document: Decodable {
        struct Warning: Decodable {
            let kind, file, key, message, hint: String
            let line, column: Int?
            let sessions: [UInt32]
            let isRefused: Bool
        }
        let file, verdict: String?
        let warnings: [Warning]
        let generation: UInt32?
    }

    @Test("warns of a policy that harms open sessions, and applies it only if it is forced", arguments: all)
    func refusesHarm(_ harmful: Harmful) throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            let file = try sandbox.policyFile(harmful.yaml, named: "harmful.yaml")
            let start = "\(file):\(harmful.place): "
            let before = try snapshot(sandbox)

            let check = try sandbox.mustCtl("policy", "check", file)
            #expect(check.stderr.hasPrefix("\(start)warning: \(harmful.key): "), "\(check)")
            #expect(check.stderr.contains(harmful.words) && check.stderr.contains("(1 open session: 7); "), "\(check)")
            #expect(check.stdout.isEmpty && check.stderr.split(separator: "\n").count == 1, "\(check)")
            for command in ["check", "apply"] {
                let json = try sandbox.ctl("policy", command, file, "--json")
                #expect(json.status == (command == "check" ? 0 : 1) && json.stderr.isEmpty, "\(json)")
                let document: Document = try json.decode()
                #expect(document.verdict == "refused" && document.warnings.count == 1, "\(json)")
                let warning = try #require(document.warnings.first)
                #expect(warning.key == harmful.key && warning.isRefused && warning.sessions == [7], "\(json)")
                #expect("\(warning.line ?? 0):\(warning.column ?? 0)" == harmful.place, "\(json)")
            }
            let apply = try sandbox.ctl("policy", "apply", file)
            let lines = apply.stderr.split(separator: "\n")
            #expect(apply.status == 1 && apply.stdout.isEmpty && lines.count == 2, "\(apply)")
            #expect(lines.first?.hasPrefix("\(start)\(harmful.key): ") == true, "\(apply)")
            #expect(lines.last?.hasPrefix("vip-bpfctl: apply policy \(file): ") == true, "\(apply)")
            #expect(lines.last?.hasSuffix("correct it, or use --force") == true, "\(apply)")
            try refuses(
                sandbox, ["attach", "cgroup", sandbox.attached, "--policy", file], code: 1, start, harmful.words,
                "1 open session: 7", "--force")
            #expect(try snapshot(sandbox) == before, "it is in force")

            let forced = try sandbox.mustCtl("policy", "apply", "--force", file)
            #expect(forced.stderr.contains("\(start)warning: \(harmful.key): "), "\(forced)")
            // What it does to the session already is no reason to refuse it again.
            let again: Document = try sandbox.mustCtl("policy", "apply", file, "--json").decode()
            #expect(again.warnings.map(\.isRefused) == [false] && again.generation != nil)
            try sandbox.mustCtl("attach", "cgroup", sandbox.attached, "--policy", file)

            // Of a policy in force, these commands say it.
            let status = try sandbox.mustCtl("status")
            #expect(status.stdout.contains("policy: \(harmful.key): "), "\(status)")
            struct Status: Decodable { let policyWarnings: [Document.Warning] }
            let warnings = try sandbox.mustCtl("status", "--json").decode(Status.self).policyWarnings
            #expect(warnings.map(\.key) == [harmful.key] && warnings[0].sessions == [7], "\(warnings)")
            struct Facts: Decodable {
                struct Fact: Decodable { let subject, verdict, fact: String }
                let facts: [Fact]
            }
            let facts = try sandbox.ctl("check", "--json").decode(Facts.self).facts
            #expect(
                facts.contains {
                    $0.subject == "policy" && $0.verdict == "warning" && $0.fact.contains(harmful.words)
                        && $0.fact.contains("1 open session: 7")
                }, "\(facts.filter { $0.subject == "policy" })")
            let open = try sandbox.ctl("session", "open", "--cgroup", sandbox.cgroup("attached/ben"))
            let isMissing = harmful.key.hasSuffix("interface")  // such a session cannot be opened
            #expect(open.status == (isMissing ? 1 : 0), "\(open)")
            #expect(open.stderr.contains(isMissing ? "eth9" : harmful.key) || open.stderr.contains("no virtual IP"))
        }
    }

    @Test("only warns while no session is open that it would harm")
    func warnsWithoutSessions() throws {
        try attached { sandbox in
            for harmful in Self.all {
                let file = try sandbox.policyFile(harmful.yaml, named: "harmful.yaml")
                for command in ["check", "apply"] {
                    let result = try sandbox.mustCtl("policy", command, file)
                    #expect(result.stderr.contains(":\(harmful.place): warning: \(harmful.key)"), "\(result)")
                    #expect(!result.stderr.contains("open session"), "\(result)")
                }
                let document: Document = try sandbox.mustCtl("policy", "check", file, "--json").decode()
                #expect(document.verdict == "warning" && document.warnings.map(\.sessions) == [[]])
            }
            // A session that has its address by --ip needs no pool.
            let noPool = try sandbox.policyFile(Self.all[0].yaml, named: "nopool.yaml")
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy))
            _ = try sandbox.openSession("attached/ann", id: 7, ips: ["198.51.100.77"])
            #expect(try sandbox.mustCtl("policy", "apply", noPool).stderr.contains("warning: virtualIP.addresses.pool"))
        }
    }

    /// The rules that hold for a session count, not others.
    @Test("looks at the override that holds for a session")
    func looksAtOverrides() throws {
        let override = "overrides: [{name: a, virtualIP: {enabled: true, mode: perProgram}}]\n"
        let yaml = "\(Self.policy)\n\(override)"
        try attached(yaml.replacing("mode: perProgram", with: "mode: perSession")) { sandbox in
            try sandbox.mustCtl(
                "session", "open", "--cgroup", sandbox.cgroup("attached/ann"), "--id", "7", "--policy", "a")
            _ = try sandbox.openSession("attached/ben", id: 8)
            let file = try sandbox.policyFile(yaml, named: "harmful.yaml")
            let refused = try sandbox.ctl("policy", "apply", file)
            #expect(refused.status == 1 && refused.stderr.contains("(1 open session: 7)"), "\(refused)")
            #expect(refused.stderr.contains("overrides[0].virtualIP.programs: "), "\(refused)")
            try sandbox.mustCtl("session", "close", "7")
            try sandbox.mustCtl("policy", "apply", file)
        }
    }

    /// Sessions that were opened while no policy gave addresses.
    @Test("refuses to demand addresses of sessions that nothing gives one")
    func refusesToDemandAddresses() throws {
        try attached("virtualLoopback: {enabled: true, programs: ['*']}") { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            let file = try sandbox.policyFile(Self.policy, named: "virtual.yaml")
            let refused = try sandbox.ctl("policy", "apply", file)
            #expect(refused.status == 1, "\(refused)")
            #expect(refused.stderr.contains("\(file):1:22: virtualIP.enabled: open sessions have no address"))
            #expect(refused.stderr.contains("(1 open session: 7)"), "\(refused)")
            let host = Self.policy.replacing(
                "mode: perSession", with: "mode: perSession, whenUnavailable: useHostAddress")
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(host, named: "host.yaml"))
            #expect(try sandbox.ctl("policy", "apply", file).status == 1)
            try sandbox.mustCtl("policy", "apply", "--force", file)
            try sandbox.mustCtl("policy", "apply", file)
        }
    }

    @Test("refuses to edit the last program off a list in the same way")
    func refusesEdits() throws {
        try attached(Self.policy.replacing("mode: perSession", with: "programs: [java]")) { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            let remove = ["program", "remove", "java", "--for", "virtual-ip"]
            try refuses(
                sandbox, remove, code: 1, "(policy in force, edited): ", "virtualIP.programs: ", "applies to nothing",
                "1 open session: 7", "--force")
            #expect(try sandbox.ctl(remove + ["--force"]).status == 0)
            try sandbox.mustCtl("program", "add", "java", "--for", "virtual-ip")
        }
    }

    @Test("refuses --force where it has no meaning")
    func refusesBadUsage() throws {
        try attached { sandbox in
            try refuses(sandbox, ["attach", "cgroup", sandbox.attached, "--force"], code: 64, "--policy")
            try refuses(sandbox, ["policy", "check", "--force", "x"], code: 64, "--force")
        }
    }

    @Test("checks a policy without any privilege")
    func checksWithoutPrivilege() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            try sandbox.sh("chmod 755 '\(sandbox.directory)'")
            let file = try sandbox.policyFile(Self.all[0].yaml, named: "harmful.yaml")
            let good = try sandbox.policyFile(Self.policy, named: "good.yaml")
            let user = "setpriv --reuid 65534 --regid 65534 --clear-groups --"
            func check(_ file: String) throws -> String {
                try sandbox.sh(
                    "\(user) '\(Build.controller.path)' policy check '\(file)' --state '\(sandbox.stateDirectory)' 2>&1"
                )
            }
            let said = try check(file)
            #expect(said.contains("warning: virtualIP.addresses.pool: ") && !said.contains("open session"), "\(said)")
            // The session's address, which is on the interface, is not taken for the host's.
            #expect(try check(good) == "")
        }
    }

    @Test("reads a policy from standard input")
    func readsStandardInput() throws {
        try attached { sandbox in
            let good = try sandbox.ctl(["policy", "apply", "-"], input: "isolation: false\n")
            #expect(good.status == 0, "\(good)")
            #expect(try sandbox.mustCtl("policy", "show").stdout.contains("isolation: false"))
            let empty = try sandbox.ctl(["policy", "check", "-"])
            #expect(empty.status == 0 && empty.stderr.isEmpty, "\(empty)")
            let before = try snapshot(sandbox)
            for command in ["apply", "check"] {
                let bad = try sandbox.ctl(["policy", command, "-"], input: "isolation: maybe\n")
                #expect(bad.status == 1 && bad.stderr.hasPrefix("<stdin>:1:12: isolation: "), "\(bad)")
                let json = try sandbox.ctl(["policy", command, "-", "--json"], input: "isolation: maybe\n")
                #expect((json.json as? [String: Any])?["file"] as? String == "<stdin>", "\(json)")
            }
            #expect(try snapshot(sandbox) == before)
            let closed = try sandbox.sh("'\(Build.controller.path)' policy check - <&- 2>&1 || echo code $?")
            #expect(
                closed.contains("read policy <stdin>: bad file descriptor") && closed.contains("code 1"), "\(closed)")
        }
    }

    // MARK: Before it is applied

    @Test("says what a policy would change, and for which sessions")
    func comparesPolicies() throws {
        let override = "overrides: [{name: a, virtualLoopback: {enabled: true, programs: [java]}}]\n"
        try attached("\(Self.policy)\n\(override)") { sandbox in
            let shown = try sandbox.policyFile(sandbox.mustCtl("policy", "show").stdout, named: "shown.yaml")
            let same = try sandbox.mustCtl("policy", "diff", shown)
            #expect(same.stdout == "the policy in force is that of \(shown); nothing changes\n" && same.stderr.isEmpty)
            for (user, options) in [("ann", []), ("ben", []), ("eve", ["--policy", "a"])] {
                let opened = try sandbox.ctl(
                    ["session", "open", "--cgroup", sandbox.cgroup("attached/\(user)")] + options)
                #expect(opened.status == 0, "\(opened)")
            }
            let file = try sandbox.policyFile("\(Self.all[0].yaml)\(override)", named: "new.yaml")
            let before = try snapshot(sandbox)
            for arguments in [["policy", "diff", file], ["policy", "apply", "--dry-run", "--force", file]] {
                let text = try sandbox.ctl(arguments)
                #expect(text.status == 0, "\(text)")
                let words = text.stdout.split(separator: "\n").map { $0.split(separator: " ").joined(separator: " ") }
                #expect(words.first == "KEY IN FORCE NEW", "\(text)")
                #expect(words.contains("virtualLoopback.enabled true false"), "\(text)")
                #expect(words.contains("sessions 2, 3: virtualLoopback no longer applies to all programs"), "\(text)")
                let source = "addresses from no pool, not from 198.51.100.16-198.51.100.23 on eth0"
                #expect(
                    text.stdout.contains("session 4 (override a): sessions that are opened from now on get \(source)"))
                #expect(!text.stdout.contains("session 4 (override a): virtualLoopback"), "\(text)")
                #expect(text.stderr.contains("warning: virtualIP.addresses.pool: "), "\(text)")
                #expect(text.stderr.contains("(3 open sessions: 2, 3, 4)"), "\(text)")

                let json = try sandbox.ctl(arguments + ["--json"])
                struct Difference: Decodable {
                    struct Key: Decodable { let key: String, before, after: String? }
                    struct Session: Decodable { let ids: [UInt32], overrideAfter: String?, changes: [String] }
                    let file: String, keys: [Key], sessions: [Session], isRefused: Bool
                }
                let document: Difference = try json.decode()
                #expect(document.file == file && document.isRefused && json.stderr.isEmpty, "\(json)")
                #expect(document.sessions.map(\.ids) == [[2, 3], [4]], "\(json)")
                #expect(document.sessions.map(\.overrideAfter) == [nil, "a"], "\(json)")
                let interface = document.keys.first { $0.key == "virtualIP.addresses.interface" }
                #expect(interface?.before == "eth0" && interface?.after == nil && interface != nil, "\(json)")
            }
            let input = try sandbox.ctl(["policy", "diff", "-"], input: "isolation: maybe\n")
            #expect(input.status == 1 && input.stderr.hasPrefix("<stdin>:1:12: "), "\(input)")
            #expect(try snapshot(sandbox) == before)
        }
    }

    @Test("tries a policy without applying it")
    func triesAPolicy() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            let good = try sandbox.policyFile("\(Self.policy)\nisolation: false\n", named: "good.yaml")
            let before = try snapshot(sandbox)
            let tried = try sandbox.mustCtl("policy", "apply", "--dry-run", good)
            #expect(tried.stdout.contains("isolation") && tried.stderr.isEmpty, "\(tried)")
            let harmful = try sandbox.policyFile(Self.all[0].yaml, named: "harmful.yaml")
            let refused = try sandbox.ctl("policy", "apply", "--dry-run", harmful)
            #expect(refused.status == 1 && refused.stderr.contains("use --force"), "\(refused)")
            #expect(try sandbox.ctl("policy", "apply", "--dry-run", harmful, "--json").status == 1)
            // What only an application finds.
            let names = (0..<20_000).map { "p\($0)" }.joined(separator: ",")
            let large = "virtualLoopback: {enabled: true, programs: [\(names)]}"
            let prefix = "virtualLoopback: {prefix: \"fd12:3456:789a::/48\"}"
            for (yaml, words) in [(large, "do not fit map"), (prefix, "which 1 open sessions use")] {
                let file = try sandbox.policyFile(yaml, named: "bad.yaml")
                let options = ["policy", "apply", "--dry-run", "--force", file]
                try refuses(sandbox, options, code: 1, words)
            }
            #expect(try snapshot(sandbox) == before)
        }
        try Sandbox.with { sandbox in
            let file = try sandbox.policyFile(Self.policy)
            try refuses(sandbox, ["policy", "apply", "--dry-run", file], code: 1, "attach")
        }
    }
}
