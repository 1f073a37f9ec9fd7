// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// The effect of applied policies, and of added and removed programs, on running sessions.
@Suite(.serialized, .requiresRoot)
struct PolicyChangeTests: CommandHost {
    @Test("refuses a broken policy and names line and key")
    func refusesBrokenPolicies() throws {
        try attached { sandbox in
            let broken = try sandbox.policyFile("virtualIP:\n  mode: perUser\n", named: "broken.yaml")
            for command in [["policy", "apply"], ["policy", "check"]] {
                try refuses(sandbox, command + ["\(sandbox.directory)/none.yaml"], code: 1, "none.yaml")
                try refuses(sandbox, command + [sandbox.directory], code: 1, sandbox.directory)
            }
            try refuses(
                sandbox, ["attach", "cgroup", "\(sandbox.cgroup)/attached", "--policy", broken], code: 1,
                "\(broken):2:9: ")
            try reportsProblems(sandbox)
            // Edits that would make an inconsistent policy.
            try refuses(sandbox, ["program", "add", "a/b", "--for", "loopback"], code: 64, "a/b")
            try refuses(sandbox, ["program", "add", "java", "--for", "everything"], code: 64, "everything")
            try refuses(sandbox, ["program", "remove", "java", "--for", "loopback"], code: 1, "java")
            try refuses(sandbox, ["program", "add", "*", "--for", "loopback"], code: 1, "*")
            try refuses(
                sandbox, ["session", "open", "--cgroup", sandbox.cgroup("attached/a"), "--policy", "none"], code: 1,
                "no override named none")
        }
    }

    /// All problems of a file are reported, one on each line or as a document, and nothing is applied.
    private func reportsProblems(_ sandbox: Sandbox) throws {
        let file = try sandbox.policyFile(
            "virtualIP:\n  mode: persession\nisolation: yes\ncolour: red\n", named: "bad.yaml")
        let sections =
            "virtualIP, virtualLoopback, preferLoopback, wildcardName, isolation, sessions, history, overrides"
        let text = """
            \(file):2:9: virtualIP.mode: 'persession' is not one of perSession, perProgram; did you mean 'perSession'?
            \(file):3:12: isolation: expected true or false, found the text 'yes'; write true
            \(file):4:1: colour: there is no such key; the keys here are \(sections)

            """
        let document = """
            {"file":"\(file)","problems":[\
            {"column":9,"file":"\(file)","hint":"did you mean 'perSession'?","key":"virtualIP.mode","line":2,\
            "message":"'persession' is not one of perSession, perProgram"},\
            {"column":12,"file":"\(file)","hint":"write true","key":"isolation","line":3,\
            "message":"expected true or false, found the text 'yes'"},\
            {"column":1,"file":"\(file)","hint":"the keys here are \(sections)","key":"colour","line":4,\
            "message":"there is no such key"}],"verdict":"bad","warnings":[]}

            """
        let before = try snapshot(sandbox)
        for command in ["apply", "check"] {
            let lines = try sandbox.ctl("policy", command, file)
            #expect(lines.status == 1 && lines.stdout.isEmpty && lines.stderr == text, "\(lines)")
            let json = try sandbox.ctl("policy", command, file, "--json")
            #expect(json.status == 1 && json.stderr.isEmpty, "\(json)")
            let expected = try JSONSerialization.jsonObject(with: Data(document.utf8)) as? NSDictionary
            #expect(json.json as? NSDictionary == expected, "\(json)")
        }
        #expect(try snapshot(sandbox) == before, "something was applied")
        let good = try sandbox.mustCtl(
            "policy", "check", sandbox.policyFile("isolation: true\n", named: "good.yaml"), "--json")
        #expect((good.json as? [String: Any])?["verdict"] as? String == "good", "\(good)")
        #expect(((good.json as? [String: Any])?["problems"] as? [Any])?.isEmpty == true, "\(good)")
    }

    @Test("refuses a policy with more programs than the map holds")
    func refusesAPolicyThatDoesNotFit() throws {
        try attached { sandbox in
            let names = (0..<20_000).map { "p\($0)" }.joined(separator: ",")
            let file = try sandbox.policyFile(
                "virtualIP: {enabled: true, programs: [\(names)]}", named: "large.yaml")
            try refuses(sandbox, ["policy", "apply", file], code: 1, "do not fit map", "16384")
        }
    }

    @Test("leads to the session's server from any of more host addresses than the map holds")
    func servesAHostWithManyAddresses() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/ann", id: 7)
            for number in 101...110 { try sandbox.sh("ip addr add 198.51.100.\(number)/24 dev eth0") }
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy))
            #expect(try sandbox.mustCtl("map", "dump", "config").stdout.contains("too many"))
            let server = try sandbox.probe("server", in: "attached/ann")
            for command in ["socket a tcp", "bind a 0.0.0.0 9000", "listen a"] { try server.must(command) }
            // At each of the host's addresses, the client reaches the session's own server.
            let client = try sandbox.probe("client", in: "attached/ann")
            for number in [1, 101, 110] {
                try client.must("socket c tcp")
                try client.must("connect c 198.51.100.\(number) 9000")
                #expect(try client.kernelView("c")?.remote == "\(session.virtualIps[0]):9000")
                try client.must("close c")
            }
        }
    }

    @Test("shows a policy that applies to the same")
    func showsThePolicyInForce() throws {
        try attached { sandbox in
            let shown = try sandbox.mustCtl("policy", "show").stdout
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(shown, named: "shown.yaml"))
            #expect(try sandbox.mustCtl("policy", "show").stdout == shown)
            try sandbox.mustCtl("program", "add", "java", "--for", "virtual-ip")
            try sandbox.mustCtl("program", "add", "/bin/sh", "--for", "loopback")
            let list = try sandbox.mustCtl("program", "list").stdout
            #expect(list.contains("java"))
            #expect(list.contains("/bin/sh"))
            #expect(try sandbox.mustCtl("map", "dump", "program_files").stdout.contains("inode"))
            try sandbox.mustCtl("program", "remove", "java", "--for", "virtual-ip")
            #expect(try !sandbox.mustCtl("program", "list").stdout.contains("java"))
        }
    }

    /// While policies change, every bind gets the result of one of them, and never another one.
    @Test("rewrites every bind while policies change")
    func protectsWhileThePolicyChanges() throws {
        let first =
            "virtualIP: {enabled: true, mode: perSession, addresses: {probeSeconds: 0, pool: [198.51.100.16-198.51.100.23]}}"
        let second = """
            virtualIP: {enabled: true, programs: [redis-like, other], addresses: {probeSeconds: 0, pool: [198.51.100.16-198.51.100.23]}}
            virtualLoopback: {enabled: true, programs: [redis-like]}
            """
        try attached(first) { sandbox in
            let session = try sandbox.openSession("attached/ann", id: 7)
            let probe = try sandbox.probe("redis-like", in: "attached/ann")
            let files = [
                try sandbox.policyFile(first, named: "1.yaml"), try sandbox.policyFile(second, named: "2.yaml"),
            ]
            // The changes run in parallel with the binds, and end when they are finished.
            let environment = sandbox.controlEnvironment
            let changes = try sandbox.start(
                [
                    "/bin/sh", "-ec",
                    "for i in $(seq 20); do \"$0\" policy apply \"$1\"; \"$0\" policy apply \"$2\"; done",
                ]
                    + [Build.controller.path] + files, in: "control", environment: environment, errorOutput: true)
            changes.closeInput()
            var binds = 0
            var isChanging = true
            while isChanging {
                for _ in 0..<50 {
                    try probe.must("socket a tcp")
                    try probe.must("bind a 0.0.0.0 0")
                    let name = try probe.must("getsockname a")
                    #expect(name.address == session.virtualIps[0])
                    try probe.must("close a")
                    binds += 1
                }
                isChanging = changes.isRunning
            }
            #expect(try changes.wait() == 0, "\(changes.errorText)")
            #expect(binds >= 50)
        }
    }

    /// A new file with the inode of a listed one is another program.
    @Test("takes a file with a listed one's inode for another program")
    func noticesAReusedInode() throws {
        let listed = "/tmp/vip-listed-\(getpid())"
        defer { try? FileManager.default.removeItem(atPath: listed) }
        try FileManager.default.copyItem(atPath: Build.probe.path, toPath: listed)
        let policy =
            "virtualIP: {enabled: true, programs: [\(listed)], addresses: {probeSeconds: 0, pool: [198.51.100.16/28]}}"
        try attached(policy) { sandbox in
            let session = try sandbox.openSession("attached/ann", id: 7)
            func bound(_ path: String) throws -> String? {
                let probe = try sandbox.probe(path, in: "attached/ann")
                for call in ["socket a tcp", "bind a 0.0.0.0 0"] { try probe.must(call) }
                return try probe.must("getsockname a").address
            }
            #expect(try bound(listed) == session.virtualIps[0])
            // Another name for the same inode, as after an unlink and a create. Here it is renamed.
            let other = "\(listed)-other"
            try FileManager.default.moveItem(atPath: listed, toPath: other)
            defer { try? FileManager.default.removeItem(atPath: other) }
            #expect(try bound(other) == "0.0.0.0")
        }
    }

    @Test("names the program outside sessions that has a port on the wildcard")
    func namesBlockers() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            let outside = try sandbox.probe("blocker", in: "elsewhere")
            try outside.must("socket a tcp")
            try outside.must("bind a 0.0.0.0 9000")
            try outside.must("listen a")
            let check = try sandbox.ctl("check")
            #expect(check.status == 0, "\(check)")
            #expect(check.stdout.contains("blocker (PID \(outside.pid))"), "\(check)")
            #expect(check.stdout.contains("TCP port 9000"), "\(check)")
        }
    }
}
