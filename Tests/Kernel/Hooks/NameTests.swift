// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// The name service module in sessions and outside, with unmodified programs.
///
/// The host is called crm, in full crm.example.com. Its hosts file has an address of each family, so that a leak is
/// noticed.
@Suite(.serialized, .requiresRoot, .stage6)
struct NameTests {
    let stage: Stage
    private var sandbox: Sandbox { stage.sandbox }

    init() throws {
        stage = try #require(StageTrait.current)
        guard FileManager.default.fileExists(atPath: Self.module.path) else {
            throw HarnessError("\(Self.module.path) is not there: make \(Self.module.lastPathComponent), or make test")
        }
        try world("vip [TRYAGAIN=return] files")
    }

    private static let module = SourceTree.url("out/libnss_vip.so.2")
    private var etc: String { "\(sandbox.directory)/etc" }

    /// Writes the files of the name service.
    private func world(_ sources: String) throws {
        try FileManager.default.createDirectory(atPath: etc, withIntermediateDirectories: true)
        let files = [
            "nsswitch.conf": "passwd: files\nhosts: \(sources)\n",
            "hosts": """
            127.0.0.1 localhost
            ::1 localhost ip6-localhost
            \(Sandbox.hostAddress) crm.example.com crm www
            \(Sandbox.hostAddress6) crm.example.com crm www
            \(Sandbox.outsideAddress) other.example.com other

            """,
            "resolv.conf": "search example.com\n",
        ]
        for (name, text) in files { try text.write(toFile: "\(etc)/\(name)", atomically: false, encoding: .utf8) }
    }

    /// Starts a command on the host crm.
    private func start(_ command: [String], as party: Party, node: String = "crm") throws -> Program {
        let world = SourceTree.url("nss/tests/world").path
        return try sandbox.start(
            [world, node, etc, Self.module.deletingLastPathComponent().path] + command, in: party.cgroup,
            errorOutput: true)
    }

    /// Runs a command to its end. Returns its output, with lines and words separated by single spaces.
    private func run(
        _ command: [String], as party: Party, node: String = "crm", code: Int32 = 0,
        location: SourceLocation = #_sourceLocation
    ) throws -> String {
        let program = try start(command, as: party, node: node)
        program.closeInput()
        let status = try program.wait()
        #expect(status == code, "\(program.name): \(program.errorText)", sourceLocation: location)
        return program.outputText.split(whereSeparator: \.isWhitespace).joined(separator: " ")
    }

    private func sh(_ script: String, as party: Party, location: SourceLocation = #_sourceLocation) throws -> String {
        try run(["/bin/sh", "-c", script], as: party, location: location)
    }

    // MARK: Policies

    /// The feature for every program.
    private static let v = ContractPolicy(.virtualIP).with { $0.programs = ["*"] }
    private static let l = ContractPolicy(.loopback).with { $0.programs = ["*"] }
    private static let vl = ContractPolicy(.virtualIP, .loopback).with { $0.programs = ["*"] }
    private static let vlp = ContractPolicy(.virtualIP, .loopback, .preferred).with { $0.programs = ["*"] }
    private static let useHostAddress = vl.with { $0.whenUnavailable = "useHostAddress" }

    private static let host = "\(Sandbox.hostAddress) \(Sandbox.hostAddress6)"

    struct Row: Sendable, CustomTestStringConvertible {
        let policy: ContractPolicy
        let party: Party
        /// The addresses for any family, for AF_INET, for AF_INET6 with AI_V4MAPPED.
        let any: String
        let v4: String
        let v6: String

        var testDescription: String { "\(party) under \(policy)" }
    }

    private static func hosts(_ policy: ContractPolicy, _ party: Party) -> Row {
        Row(policy: policy, party: party, any: host, v4: Sandbox.hostAddress, v6: Sandbox.hostAddress6)
    }

    private static func ann(_ policy: ContractPolicy) -> Row {
        Row(
            policy: policy, party: .ann, any: "198.51.100.17 2001:db8:51::17", v4: "198.51.100.17",
            v6: "2001:db8:51::17")
    }

    private static func loopback(_ policy: ContractPolicy, _ party: Party) -> Row {
        Row(policy: policy, party: party, any: "127.0.0.1 ::1", v4: "127.0.0.1", v6: "::1")
    }

    private static let four = ("198.51.100.19", "::ffff:198.51.100.19")
    static let rows: [Row] = [
        ann(v), ann(vl), ann(vl.with { $0.wildcardName = "asRequested" }), ann(useHostAddress),
        ann(v.with { $0.programs = ["getent"] }), ann(v.with { $0.mode = "perSession" }),
        // No virtual IP applies.
        hosts(l, .ann), hosts(v.with { $0.programs = ["crm"] }, .ann), hosts(vl, .nobody), hosts(vl, .unhooked),
        hosts(ContractPolicy(), .ann), hosts(l, .poor),
        // One family alone: no address of the host for the other family.
        Row(policy: v, party: .four, any: four.0, v4: four.0, v6: four.1),
        Row(policy: vl, party: .four, any: four.0, v4: four.0, v6: four.1),
        Row(policy: useHostAddress, party: .four, any: four.0, v4: four.0, v6: four.1),
        Row(policy: vl, party: .six, any: "2001:db8:51::20", v4: "", v6: "2001:db8:51::20"),
        Row(
            policy: useHostAddress, party: .six, any: "2001:db8:51::20", v4: Sandbox.hostAddress, v6: "2001:db8:51::20"),
        // No address at all.
        Row(policy: v, party: .poor, any: "", v4: "", v6: ""), Row(policy: vl, party: .poor, any: "", v4: "", v6: ""),
        hosts(useHostAddress, .poor),
        // Programs that prefer the loopback get it.
        loopback(vlp, .ann), loopback(vlp, .four), loopback(vlp.with { $0.wildcardName = "asRequested" }, .ann),
        Row(policy: vlp, party: .poor, any: "", v4: "", v6: ""), hosts(vlp, .nobody),
    ]

    @Test("names the session's addresses for the host's own name", arguments: rows)
    func ownName(_ row: Row) throws {
        try stage.enforce(row.policy)
        // `files` does not understand a dot at the end.
        let isHosts = [row.any, row.v4].contains { $0.contains(Sandbox.hostAddress + " ") || $0 == Sandbox.hostAddress }
        for name in ["crm", "CRM", "crm.example.com"] + (isHosts ? [] : ["crm.", "Crm.Example.Com."]) {
            let answers = try sh(
                """
                for database in ahosts ahostsv4 ahostsv6; do
                    echo "$database:" $(getent $database \(name) | cut -d ' ' -f 1 | sort -u)
                done
                """, as: row.party)
            let expected = ["ahosts: \(row.any)", "ahostsv4: \(row.v4)", "ahostsv6: \(row.v6)"]
            let words = expected.joined(separator: " ").split(separator: " ").joined(separator: " ")
            expect(answers, is: words, "\(name) for \(row.testDescription)")
        }
    }

    /// Other names than the host's own are left to the other sources.
    @Test("leaves other names to the next source")
    func otherNames() throws {
        try stage.enforce(Self.vl)
        let others = [
            "www": Self.host, "other": Sandbox.outsideAddress, "other.example.com": Sandbox.outsideAddress,
            "localhost": "::1 127.0.0.1", "crm.example.org": "", "crmx": "", "xcrm.example.com": "",
        ]
        for (name, addresses) in others {
            for party in [Party.ann, .poor, .unhooked] {
                let answer = try sh("getent ahosts \(name) | cut -d ' ' -f 1 | sort -u", as: party)
                #expect(Set(answer.split(separator: " ")) == Set(addresses.split(separator: " ")), "\(name), \(party)")
            }
        }
    }

    @Test("names the host for the session's addresses")
    func addresses() throws {
        try stage.enforce(Self.vl)
        for address in ["198.51.100.17", "2001:db8:51::17"] {
            let answer = try run(["getent", "hosts", address], as: .ann)
            expect(answer, is: "\(address) crm.example.com crm", "reverse")
            // The address of another session gets no name.
            expect(try run(["getent", "hosts", address], as: .ben, code: 2), is: "", "reverse of another's")
            expect(try run(["getent", "hosts", address], as: .unhooked, code: 2), is: "", "reverse outside")
        }
        for party in [Party.ann, .unhooked] {
            expect(try run(["getent", "hosts", "127.0.0.1"], as: party), is: "127.0.0.1 localhost", "\(party)")
        }
    }

    /// If another program removes a virtual IP from the interface, the host's address does not replace it.
    @Test("names no address that was taken off the interface")
    func addressTakenAway() throws {
        try stage.enforce(Self.vl)
        let move = "local 198.51.100.19 dev eth0 table local"
        try sandbox.sh("ip route del \(move)")
        expect(try run(["getent", "ahosts", "crm"], as: .four, code: 2), is: "", "without the address")
        try sandbox.sh("ip route add \(move) proto kernel")
        #expect(try run(["getent", "ahostsv4", "crm"], as: .four).hasPrefix("198.51.100.19 STREAM crm.example.com"))
    }

    // MARK: Callers

    /// The addresses outside a session, for the callers below.
    private static let outside = (v4: Sandbox.hostAddress, v6: Sandbox.hostAddress6)
    private static let parties: [(party: Party, v4: String, v6: String)] = [
        (.ann, "198.51.100.17", "2001:db8:51::17"), (.ben, "198.51.100.18", "2001:db8:51::18"),
        (.unhooked, outside.v4, outside.v6),
    ]

    @Test("answers hostname(1)")
    func hostname() throws {
        try stage.enforce(Self.vl)
        for (party, v4, v6) in Self.parties {
            let own = try run(["hostname", "-i"], as: party)
            #expect(Set(own.split(separator: " ")) == [Substring(v4), Substring(v6)], "\(party)")
            expect(try run(["hostname", "-f"], as: party), is: "crm.example.com", "\(party)")
            expect(try run(["hostname", "-s"], as: party), is: "crm", "\(party)")
            expect(try run(["hostname", "-d"], as: party), is: "example.com", "\(party)")
            // A limit: it lists the addresses of the interfaces, and IPv6 virtual IPs are among them.
            let all = try run(["hostname", "-I"], as: party).split(separator: " ")
            #expect(all.contains(Substring(Sandbox.hostAddress)) && !all.contains("198.51.100.17"), "\(party)")
            #expect(all.contains("2001:db8:51::17"), "\(party)")
        }
    }

    @Test("answers Python")
    func python() throws {
        try stage.enforce(Self.vl)
        let script = """
            from socket import *
            name = gethostname()
            flags = AI_CANONNAME | AI_ADDRCONFIG | AI_PASSIVE
            def of(*arguments):
                return sorted({entry[4][0] for entry in getaddrinfo(*arguments)})
            print(gethostbyname(name), gethostbyname_ex(name)[2], gethostbyname_ex(name)[0], getfqdn())
            print(of(name, 9000), of(name, 9000, AF_INET, SOCK_STREAM), of(name, 9000, AF_INET6, SOCK_DGRAM))
            print(of(name, 9000, AF_INET6, 0, 0, AI_V4MAPPED), of(name, 9000, AF_INET6, 0, 0, AI_V4MAPPED | AI_ALL))
            print(getaddrinfo(name, 9000, 0, SOCK_STREAM, 0, flags)[0][3], of(name, 9000, 0, 0, 0, flags))
            print(gethostbyaddr(gethostbyname(name))[0], getnameinfo((gethostbyname(name), 9), NI_NAMEREQD)[0])
            print(of("localhost", 9000, AF_INET))
            try:
                print(of(name, 9000, 0, 0, 0, AI_NUMERICHOST))
            except gaierror as error:
                print(error.errno == EAI_NONAME)
            """
        for (party, v4, v6) in Self.parties {
            expect(
                try run(["/usr/bin/python3", "-c", script], as: party),
                is: """
                    \(v4) ['\(v4)'] crm.example.com crm.example.com \
                    ['\(v4)', '\(v6)'] ['\(v4)'] ['\(v6)'] \
                    ['\(v6)'] ['\(v6)', '::ffff:\(v4)'] \
                    crm.example.com ['\(v4)', '\(v6)'] \
                    crm.example.com crm.example.com \
                    ['127.0.0.1'] \
                    True
                    """, "\(party)")
        }
        // If there is no address to return, it is not the error of a name that does not exist.
        let failing = """
            from socket import *
            for call in (lambda: gethostbyname("crm"), lambda: getaddrinfo("crm", 9), lambda: getaddrinfo("crm", 9, AF_INET6)):
                try:
                    print(call())
                except gaierror as error:
                    print(error.errno == EAI_NODATA)
            """
        expect(try run(["/usr/bin/python3", "-c", failing], as: .poor), is: "True True True", "no virtual IP")
        expect(
            try run(
                ["/usr/bin/python3", "-c", "from socket import *; print(getaddrinfo('crm', 9, AF_INET6))"], as: .four,
                code: 1), is: "", "no IPv6 address")
    }

    @Test("answers Perl")
    func perl() throws {
        try stage.enforce(Self.vl)
        let script = """
            use Socket; use Sys::Hostname;
            my ($name, $aliases, $type, $length, @addresses) = gethostbyname(hostname());
            print join(" ", $name, $aliases, map { inet_ntoa($_) } @addresses), "\\n";
            print scalar gethostbyaddr($addresses[0], AF_INET), "\\n";
            """
        for (party, v4, _) in Self.parties {
            let answer = try run(["perl", "-e", script], as: party)
            let aliases = party == .unhooked ? "crm www" : "crm"
            expect(answer, is: "crm.example.com \(aliases) \(v4) crm.example.com", "\(party)")
        }
    }

    /// Without the action, libc asks the later sources if the module has no address to return; `check` warns about
    /// that.
    @Test("leaves the host's address in the answer without [TRYAGAIN=return]")
    func withoutTheAction() throws {
        try stage.enforce(Self.vl)
        try world("vip files")
        #expect(try run(["getent", "ahostsv4", "crm"], as: .poor).hasPrefix("\(Sandbox.hostAddress) "))
        #expect(try run(["getent", "ahostsv4", "crm"], as: .ann).hasPrefix("198.51.100.17 "))
    }

    /// A host whose name is fully qualified, and one that is called localhost.
    @Test func nodeNames() throws {
        try stage.enforce(Self.vl)
        for name in ["crm", "crm.a.example"] {
            let answer = try run(["getent", "ahostsv4", name], as: .ann, node: "crm.a.example")
            #expect(answer.hasPrefix("198.51.100.17 STREAM crm.a.example "), "\(answer)")
        }
        let answer = try run(["getent", "ahostsv4", "localhost"], as: .ann, node: "localhost")
        #expect(answer.hasPrefix("127.0.0.1 "), "\(answer)")
    }

    // MARK: Commands

    /// Runs vip-bpfctl on the host crm, whose /etc/nsswitch.conf is a mount of its own.
    private func check(_ arguments: [String] = [], subject: String = "names") throws -> [[String: String]] {
        let world = SourceTree.url("nss/tests/world").path
        let program = try sandbox.start(
            [
                world, "crm", etc, Self.module.deletingLastPathComponent().path, Build.controller.path, "check",
                "--json",
            ] + arguments,
            in: "control", environment: sandbox.controlEnvironment, errorOutput: true)
        program.closeInput()
        try program.wait()
        let document = try JSONSerialization.jsonObject(with: Data(program.outputText.utf8)) as? [String: Any]
        let facts = document?["facts"] as? [[String: Any]] ?? []
        return facts.filter { $0["subject"] as? String == subject }.map { $0.compactMapValues { $0 as? String } }
    }

    @Test("reports a wrong nsswitch.conf by check")
    func checkSaysWhatIsWrong() throws {
        let line = "'hosts: vip [TRYAGAIN=return] files'"
        try world("vip [TRYAGAIN=return] files")
        var facts = try check()
        #expect(facts.map { $0["verdict"] } == ["good", "good"], "\(facts)")
        let cases = [
            ("files", "does not ask vip", line),
            ("resolve [!UNAVAIL=return] vip [TRYAGAIN=return] myhostname", "resolve before vip", "names enable"),
        ]
        for (sources, fragment, fix) in cases {
            try world(sources)
            facts = try check()
            #expect(facts.first?["verdict"] == "warning", "\(facts)")
            #expect(facts.first?["fact"]?.contains(fragment) == true, "\(facts)")
            #expect(facts.first?["fix"]?.contains(fix) == true, "\(facts)")
        }
        // On the test's host itself, the module is usually not installed.
        let here = try sandbox.ctl("check")
        #expect(here.stdout.contains("libnss_vip.so.2"), "\(here)")
    }

    @Test("asks by name in the self-test")
    func selfTestAsksByName() throws {
        // So that the next policy is not taken for the one in force.
        try stage.enforce(Self.l)
        let pool = "[198.51.100.40-198.51.100.47, \"2001:db8:51::40-2001:db8:51::47\"]"
        let yaml = "virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, pool: \(pool)}}\n"
        try sandbox.mustCtl("policy", "apply", "--force", sandbox.policyFile(yaml, named: "pool.yaml"))
        defer { try? stage.enforce(Self.v) }
        try world("vip [TRYAGAIN=return] files")
        var facts = try check(["--self-test"], subject: "self-test").filter {
            $0["fact"]?.contains("the host's name") == true
        }
        #expect(facts.count == 2 && facts.allSatisfy { $0["verdict"] == "good" }, "\(facts)")
        #expect(facts.allSatisfy { $0["fact"]?.contains("2001:db8:51::4") == true }, "\(facts)")
        try world("files")
        facts = try check(["--self-test"], subject: "self-test").filter { $0["fact"]?.contains("names") == true }
        #expect(facts.count == 1 && facts[0]["verdict"] == "warning", "\(facts)")
    }

    @Test func namesCommands() throws {
        let file = "\(sandbox.directory)/nsswitch.conf"
        let before = "passwd: files\nhosts: files [NOTFOUND=return] dns # all\n"
        func content() throws -> String { try String(contentsOfFile: file, encoding: .utf8) }
        func left() throws -> String { try sandbox.sh("ls '\(sandbox.directory)' | grep nsswitch | xargs") }
        try before.write(toFile: file, atomically: false, encoding: .utf8)

        let enabled = try sandbox.mustCtl("names", "enable", "--file", file, "--json")
        #expect((enabled.json as? [String: Any])?["is_changed"] as? Bool == true, "\(enabled)")
        #expect(
            try content() == before.replacingOccurrences(of: "hosts: ", with: "hosts: vip [TRYAGAIN=return] "))
        #expect(try left() == "nsswitch.conf nsswitch.conf.vip-bpf\n")
        #expect(try sandbox.mustCtl("names", "enable", "--file", file).stdout.contains("unchanged"))
        try sandbox.mustCtl("names", "disable", "--file", file)
        #expect(try content() == before)
        #expect(try left() == "nsswitch.conf\n")

        // It is refused with one line, and nothing is left.
        let enable =
            "VIP_BPF_STATE='\(sandbox.stateDirectory)' '\(Build.controller.path)' names enable --file '\(file)'"
        let refusals = [
            ("setpriv --reuid 65534 --regid 65534 --clear-groups sh -c \"\(enable)\"", 77, "permission denied"),
            (
                "unshare --mount sh -c \"mount --bind '\(file)' '\(file)' && \(enable)\"", 1,
                "a file system is mounted there"
            ),
        ]
        for (script, code, fragment) in refusals {
            let output = try sandbox.sh("(\(script)) 2>&1 || echo code $?")
            #expect(output.contains("code \(code)"), "\(output)")
            #expect(output.contains("vip-bpfctl: enable names in \(file): ") && output.contains(fragment), "\(output)")
            #expect(try content() == before)
            #expect(try left() == "nsswitch.conf\n")
        }
        #expect(try sandbox.ctl("names", "enable", "--file", "nsswitch.conf").status == 64)
        #expect(try sandbox.ctl("names", "enable", "--file", "\(file).none").status == 1)
    }

    // MARK: A server and its client

    /// In each of two sessions, a Java server looks up the local host and binds that address, on the same port. A
    /// client finds it by the host's name.
    @Test(arguments: [v, vl, vl.with { $0.mode = "perSession" }]) func javaRound(_ policy: ContractPolicy) throws {
        let classes = "\(sandbox.directory)/java"
        if !FileManager.default.fileExists(atPath: classes) {
            let source = SourceTree.url("nss/tests/LocalHost.java").path
            let compiler = try sandbox.start(
                ["javac", "-d", classes, source], in: Party.unhooked.cgroup, errorOutput: true)
            let code = try compiler.wait()
            try #require(code == 0, "\(compiler.errorText)")
        }
        let java = ["java", "-XX:TieredStopAtLevel=1", "-cp", classes, "LocalHost"]
        try stage.enforce(policy.with { if $0.mode == "perProgram" { $0.programs = ["java"] } })
        for (party, v4, _) in Self.parties {
            expect(try run(java + ["print"], as: party), is: "crm \(v4)", "\(party)")
        }
        let servers = try Self.parties.prefix(2).map { party, v4, _ in
            let server = try start(java + ["serve", "\(party)"], as: party)
            expect(try server.readLine(), is: "at \(v4) 9000", "\(party)'s server")
            return server
        }
        for (party, v4, _) in Self.parties.prefix(2) {
            expect(try run(java + ["ask"], as: party), is: "\(party) \(v4)", "\(party)'s client")
        }
        for server in servers { #expect(try server.wait() == 0, "\(server.errorText)") }
    }
}
