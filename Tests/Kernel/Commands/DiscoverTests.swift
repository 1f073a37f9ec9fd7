// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// `discover`: what it observes and concludes, and that it affects no other program.
@Suite(.serialized, .requiresRoot)
struct DiscoverTests: CommandHost {
    struct Report: Decodable {
        struct Use: Decodable {
            let call: String
            let transport: String
            let addressClass: String
            let address: String?
            let port: Int
            let seen: String
            let reusesPort: Bool?
        }
        struct Program: Decodable {
            let name: String
            let path: String?
            let script: String?
            let isInterpreter: Bool
            let opened: [Use]
            let openedMore: Bool
            let processes: Int
            let sessions: [Int]
            let cgroups: [String]
            let users: [String]
            let clash: String
            let clashesOn: [String]
            let needs: String
            let reason: String
            let listed: [String]
            let entry: String?
        }
        struct Lost: Decodable {
            let programs: Int
            let processes: Int
            let endpoints: Int
            let names: Int
        }
        let calls: String
        let lost: Lost
        let programs: [Program]
        let suggestion: String?

        func program(_ name: String) throws -> Program {
            try #require(programs.first { $0.name == name }, "no \(name) among \(programs.map(\.name))")
        }
    }

    /// The observing programs that are attached to a cgroup now.
    private func observers(_ sandbox: Sandbox, of cgroup: String) throws -> Int {
        try sandbox.sh("bpftool cgroup show '\(cgroup)' | grep -c vip_see_ || true")
            .trimmingCharacters(in: .whitespacesAndNewlines).split(separator: "\n").first.flatMap { Int($0) } ?? 0
    }

    private func waitFor(_ count: Int, observersOf cgroup: String, _ sandbox: Sandbox) throws {
        try wait(for: "\(count) observers of \(cgroup)") { try observers(sandbox, of: cgroup) == count }
    }

    /// Observes a cgroup of the sandbox while `body` runs, then interrupts and returns the report.
    private func observe(
        _ sandbox: Sandbox, _ cgroup: String = "attached", _ more: [String] = [], isDefault: Bool = false,
        _ body: () throws -> Void
    ) throws -> Report {
        let path = try sandbox.cgroup(cgroup)
        let program = try sandbox.start(
            [Build.controller.path, "discover", "--json"] + (isDefault ? [] : ["--cgroup", path]) + more, in: "control",
            environment: sandbox.controlEnvironment, errorOutput: true)
        program.closeInput()
        try waitFor(6, observersOf: path, sandbox)
        try body()
        program.signal(SIGINT)
        let status = try program.wait()
        try #require(status == 0, "exit code \(status): \(program.errorText)")
        #expect(program.errorText.isEmpty)
        try waitFor(0, observersOf: path, sandbox)
        return try Self.decode(program.outputText)
    }

    private static func decode(_ text: String) throws -> Report {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(Report.self, from: Data(text.utf8))
    }

    // MARK: End to end

    /// Starts a Redis server. The name in argv[0] makes one of redis-check-rdb; Debian's package redis-server adds just
    /// this link.
    private func redis(_ sandbox: Sandbox, _ address: String, in cgroup: String) throws -> Program {
        let server = "\(sandbox.directory)/redis-server"
        if !FileManager.default.fileExists(atPath: server) {
            try FileManager.default.createSymbolicLink(
                atPath: server, withDestinationPath: "/usr/bin/redis-check-rdb")
        }
        return try sandbox.start(
            [
                server, "--port", "7001", "--bind", address, "--save", "", "--appendonly", "no", "--dir",
                sandbox.directory,
            ], in: cgroup, errorOutput: true)
    }

    /// Waits until the program serves, or has given up.
    private func serves(_ server: Program) throws -> Bool {
        while let line = try? server.readLine() {
            if line.contains("Ready to accept connections") { return true }
            if line.contains("Address already in use") { return false }
        }
        return false
    }

    @Test("suggests a policy under which two servers share a port", arguments: ["0.0.0.0", "127.0.0.1"])
    func suggestionMakesTheClashGoAway(_ address: String) throws {
        try Sandbox.with { sandbox in
            let cgroup = try sandbox.cgroup("attached")
            let report = try observe(sandbox, "attached", ["--suggest"]) {
                let first = try redis(sandbox, address, in: "attached/ann")
                try #require(try serves(first))
                let second = try redis(sandbox, address, in: "attached/bob")
                #expect(try !serves(second), "two on one port, without us")
                #expect(try second.wait() == 1)
                let client = try sandbox.start(["redis-cli", "-p", "7001", "ping"], in: "attached/ann")
                #expect(try client.readLine() == "PONG")
                #expect(try client.wait() == 0)
                first.signal(SIGTERM)
                #expect(try first.wait() == 0)
            }
            let server = try #require(report.programs.first { $0.clash == "yes" })
            #expect(server.clashesOn == ["TCP \(address):7001"] && server.processes == 2 && server.cgroups.count == 2)
            #expect(server.needs == (address == "0.0.0.0" ? "virtual_ip" : "virtual_loopback"))
            #expect(try report.program("redis-cli").needs == "virtual_loopback")
            #expect(try report.program("redis-cli").reason.contains("127.0.0.1:7001"))

            let policy = try sandbox.policyFile(try #require(report.suggestion), named: "suggested.yaml")
            try sandbox.mustCtl("policy", "check", policy)
            try sandbox.mustCtl("attach", "cgroup", cgroup, "--policy", policy)
            let ips = address == "0.0.0.0" ? [["198.51.100.20"], ["198.51.100.21"]] : [[], []]
            _ = try sandbox.openSession("attached/ann", id: 7, ips: ips[0])
            _ = try sandbox.openSession("attached/bob", id: 8, ips: ips[1])
            let servers = try ["attached/ann", "attached/bob"].map { try redis(sandbox, address, in: $0) }
            for server in servers { #expect(try serves(server)) }
            for name in ["ann", "bob"] {
                let set = try sandbox.start(["redis-cli", "-p", "7001", "set", "who", name], in: "attached/\(name)")
                #expect(try set.readLine() == "OK")
            }
            for name in ["ann", "bob"] {
                let get = try sandbox.start(["redis-cli", "-p", "7001", "get", "who"], in: "attached/\(name)")
                #expect(try get.readLine() == name)
            }
            for server in servers {
                server.signal(SIGTERM)
                try server.wait()
            }
            try sandbox.mustCtl("detach", "--all")
        }
    }

    // MARK: Beside the hooks

    /// The first kernel on which this was measured. Kernels between it and 6.1 may or may not accept BPF_F_PREORDER.
    private static let runsFirst: Bool = {
        let version = ProcessInfo.processInfo.operatingSystemVersion
        return (version.majorVersion, version.minorVersion) >= (6, 18)
    }()

    /// It sees the address before the hooks rewrite it, if it observes the attached cgroup (the default) or one above
    /// it.
    @Test("observes beside the hooks", arguments: ["attached", "."])
    func besideTheHooks(_ observed: String) throws {
        try Sandbox.with { sandbox in
            try sandbox.mustCtl(
                "attach", "cgroup", sandbox.cgroup("attached"), "--policy", sandbox.policyFile(Self.policy))
            let session = try sandbox.openSession("attached/ann", id: 7)
            let report = try observe(sandbox, observed, isDefault: observed == "attached") {
                let probe = try sandbox.probe("crm", in: "attached/ann")
                try probe.must("socket a tcp")
                try probe.must("bind a 0.0.0.0 9000")
                try probe.must("listen a")
                #expect(try probe.kernelView("a")?.local == "\(session.virtualIps.first ?? "?"):9000")
                try probe.must("socket b udp")
                try probe.must("bind b 127.0.0.1 9001")
                #expect(try probe.kernelView("b")?.local == "127.0.0.8:9001")
            }
            let crm = try report.program("crm")
            #expect(crm.needs == "both" && crm.sessions == [7] && crm.listed == ["loopback"])
            #expect(!Self.runsFirst || report.calls == "asked")
            let kinds = report.calls == "asked" ? ["wildcard", "loopback"] : ["virtual_ip", "virtual_loopback"]
            for (kind, port) in zip(kinds, [9000, 9001]) {
                #expect(
                    crm.opened.contains { $0.addressClass == kind && $0.port == port && $0.seen == "asked" },
                    "\(kind): \(crm.opened)")
            }
            try sandbox.mustCtl("detach", "--all")
        }
    }

    @Test("reports sockets that were open before it started")
    func takesInWhatIsOpen() throws {
        try Sandbox.with { sandbox in
            let cgroup = try sandbox.cgroup("attached")
            let probe = try sandbox.probe("early", in: "attached/ann")
            try probe.must("socket a tcp")
            try probe.must("bind a 127.0.0.1 9000")
            try probe.must("listen a")
            try probe.must("socket c tcp")
            try probe.must("listen c")  // without a bind: the kernel chooses
            let outside = try sandbox.probe("outside", in: "elsewhere")
            try outside.must("socket a tcp")
            try outside.must("bind a 127.0.0.1 9001")
            try outside.must("listen a")
            let result = try sandbox.ctl("discover", "--cgroup", cgroup, "--for", "0", "--json")
            try #require(result.status == 0, "\(result)")
            let report = try Self.decode(result.stdout)
            let early = try report.program("early")
            #expect(
                early.needs == "virtual_loopback" && early.processes == 1 && early.clashesOn == ["TCP 127.0.0.1:9000"])
            #expect(early.opened.count == 2 && early.opened.allSatisfy { $0.seen == "open" })
            #expect(!report.programs.contains { $0.name == "outside" })
        }
    }

    // MARK: Unusual cases

    @Test("leaves no program attached when it is killed")
    func killedItLeavesNothing() throws {
        try Sandbox.with { sandbox in
            let cgroup = try sandbox.cgroup("attached")
            let program = try sandbox.start(
                [Build.controller.path, "discover", "--cgroup", cgroup], in: "control",
                environment: sandbox.controlEnvironment)
            try waitFor(6, observersOf: cgroup, sandbox)
            program.signal(SIGKILL)
            #expect(try program.wait() == 128 + SIGKILL)
            try waitFor(0, observersOf: cgroup, sandbox)
        }
    }

    @Test("prints names of any bytes safely")
    func namesOfAnyBytes() throws {
        try Sandbox.with { sandbox in
            let cgroup = try sandbox.cgroup("attached")
            let report = try observe(sandbox) {
                let script = #"""
                    d=$1
                    for name in 'new\nline' 'es\033[31mc' 'na\377me'; do
                        file="$d/$(printf "$name.")"
                        cp "$0" "$file"
                        "$file" socket a tcp , bind a 127.0.0.1 9000 >/dev/null
                    done
                    """#
                let shell = try sandbox.start(
                    ["/bin/sh", "-ec", script, Build.probe.path, sandbox.directory], in: "attached/ann",
                    errorOutput: true)
                shell.closeInput()
                #expect(try shell.wait() == 0, "\(shell.errorText)")
            }
            #expect(report.programs.count { $0.needs == "virtual_loopback" } == 3)
            #expect(Set(report.programs.map(\.name)).isSuperset(of: ["new\nline.", "es\u{1b}[31mc.", "na\u{fffd}me."]))
            #expect(report.programs.filter { $0.needs != "neither" }.allSatisfy { $0.entry == nil })

            let held = try sandbox.start(
                ["/bin/sh", "-c", #"exec "$0"/new*"#, sandbox.directory], in: "attached/ann")
            let probe = Probe(held)
            try probe.must("socket a tcp")
            try probe.must("bind a 127.0.0.1 9000")
            try probe.must("listen a")
            for more in [[], ["--suggest"]] {
                let result = try sandbox.ctl(["discover", "--cgroup", cgroup, "--for", "0"] + more)
                #expect(result.status == 0 && result.stdout.contains("new\\u{a}line"), "\(result)")
                #expect(!result.stdout.contains("\u{1b}") && !result.stdout.contains("\nline"))
            }
        }
    }

    /// For processes that ended before they were identified, with their cgroup, only the kernel's name is known.
    @Test("reports programs that have ended")
    func processesThatVanish() throws {
        try Sandbox.with { sandbox in
            let report = try observe(sandbox) {
                for _ in 0..<50 {
                    try sandbox.sh(
                        """
                        mkdir -p '\(sandbox.cgroup)/attached/brief'
                        (echo 0 >'\(sandbox.cgroup)/attached/brief/cgroup.procs'
                        exec '\(Build.probe.path)' socket a udp , bind a 0.0.0.0 9000) >/dev/null
                        rmdir '\(sandbox.cgroup)/attached/brief'
                        """)
                }
            }
            let probe = try report.program("vip-probe")
            #expect(probe.needs == "virtual_ip" && probe.processes == 50 && probe.cgroups.count == 50)
            #expect(report.programs.count { $0.name == "vip-probe" } == 1)
        }
    }

    /// A program that uses all ports again and again takes no more memory than its share and hides no other program.
    /// Its calls get the same results as without an observer.
    @Test("needs no more memory for many calls, and counts what it lost")
    func manyCalls() throws {
        let script = #"""
            import socket, sys
            errors = []
            for round in range(2):
                for port in range(1, 40000):
                    s = socket.socket()
                    try: s.bind(("127.0.0.1", port))
                    except OSError as e: errors.append((port, e.errno))
                    s.close()
            for address in ("0.0.0.0", "198.51.100.1", "203.0.113.7", "224.0.0.1", "127.0.0.53"):
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                try: s.bind((address, 9000)); errors.append(s.getsockname())
                except OSError as e: errors.append((address, e.errno))
                try: s.sendto(b"x", ("127.0.0.1", 9)); errors.append(s.getsockname()[0])
                except OSError as e: errors.append(("sendto", e.errno))
                s.close()
            print(errors)
            """#
        try Sandbox.with { sandbox in
            func run() throws -> String {
                let program = try sandbox.start(["python3", "-c", script], in: "attached/ann")
                program.closeInput()
                #expect(try program.wait() == 0)
                return program.outputText
            }
            let alone = try run()
            var observed = ""
            let report = try observe(sandbox) {
                observed = try run()
                let probe = try sandbox.probe("quiet", in: "attached/bob")
                try probe.must("socket a tcp")
                try probe.must("bind a 0.0.0.0 9100")
            }
            #expect(alone == observed && !alone.isEmpty)
            #expect(report.lost.endpoints > 70000 && report.lost.programs == 0)
            let busy = try #require(report.programs.first { $0.isInterpreter })
            #expect(busy.openedMore && busy.opened.count <= 2200, "\(busy.opened.count)")
            #expect(busy.reason.contains("everything that it runs"))
            #expect(try report.program("quiet").clashesOn == ["TCP 0.0.0.0:9100"])
        }
    }

    /// A script is reported by its own name, not by its interpreter's.
    @Test("names a script by its own name")
    func scripts() throws {
        try Sandbox.with { sandbox in
            let report = try observe(sandbox) {
                let script = try sandbox.script("crm-server", in: "attached/ann")
                try script.must("socket a tcp")
                try script.must("bind a 0.0.0.0 9000")
            }
            let crm = try #require(report.programs.first { $0.script == "crm-server" })
            #expect(crm.entry == "crm-server" && crm.needs == "virtual_ip" && crm.name.hasPrefix("python3"))
        }
    }

    /// Two programs with the same name are distinguished by their paths.
    @Test("tells programs of one name apart by their paths")
    func ambiguousNames() throws {
        try Sandbox.with { sandbox in
            var probes: [Probe] = []  // they live until their paths are known
            let report = try observe(sandbox, "attached", ["--suggest"]) {
                for (index, path) in ["one/crm", "two/crm"].enumerated() {
                    let probe = try sandbox.probe(path, in: "attached/ann")
                    try probe.must("socket a tcp")
                    try probe.must("bind a 0.0.0.0 \(index == 0 ? 9000 : 0)")
                    try probe.must("listen a")
                    probes.append(probe)
                }
            }
            #expect(report.programs.count { $0.name == "crm" } == 2)
            let suggestion = try #require(report.suggestion)
            #expect(suggestion.contains("programs: [\(sandbox.directory)/one/crm]"), "\(suggestion)")
        }
    }

    @Test("refuses what it cannot observe")
    func refusals() throws {
        try Sandbox.with { sandbox in
            let root = try #require(CgroupMount.path)
            for (arguments, code, fragment) in [
                (["--for", "0"], 1, "--cgroup"),
                (["--for", "0", "--cgroup", "\(sandbox.cgroup)/nowhere"], 1, "nowhere"),
                (["--for", "0", "--cgroup", "/proc"], 1, "/proc"),
                (["--for", "0", "--cgroup", root], 1, "it is the root"),
                (["--for", "-1", "--cgroup", sandbox.cgroup], 64, "--for"),
                (["--for", "1e9", "--cgroup", sandbox.cgroup], 64, "--for"),
                (["--for", "soon"], 64, "soon"),
            ] {
                let result = try sandbox.ctl(["discover"] + arguments)
                #expect(result.status == Int32(code) && result.stdout.isEmpty, "\(result)")
                #expect(result.stderr.contains(fragment), "\(result)")
                #expect(result.stderr.split(separator: "\n").count == 1, "\(result)")
            }
            let nobody = try sandbox.start(
                [
                    "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", Build.controller.path,
                    "discover", "--for", "0", "--cgroup", try sandbox.cgroup("attached"),
                ], in: "control", environment: sandbox.controlEnvironment, errorOutput: true)
            nobody.closeInput()
            #expect(try nobody.wait() == 77, "\(nobody.errorText)")
            #expect(nobody.errorText.contains("run as root"))
        }
    }
}
