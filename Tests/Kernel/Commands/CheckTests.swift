// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import PolicyMaps
import TestSupport
import Testing

/// The facts of `check` on a host with one problem, and `check --self-test`.
@Suite(.serialized, .requiresRoot)
struct CheckTests {
    struct Fact: Decodable, CustomStringConvertible {
        let subject: String
        let verdict: String
        let fact: String
        let fix: String?

        var description: String { "\(verdict) \(subject): \(fact)" }
    }

    private struct Facts: Decodable {
        let facts: [Fact]
    }

    static let policy = """
        virtualIP:
          enabled: true
          programs: [redis-server]
          addresses: { interface: eth0, pool: [198.51.100.16-198.51.100.31, "2001:db8:51::100-2001:db8:51::10f"] }
        virtualLoopback: { enabled: true, programs: [redis-server] }
        """ + "\n"

    private func attached(_ policy: String = policy, _ body: (Sandbox) throws -> Void) throws {
        try Sandbox.with { sandbox in
            try sandbox.mustCtl(
                "attach", "cgroup", sandbox.attached, "--guard", sandbox.cgroup, "--policy", sandbox.policyFile(policy))
            try body(sandbox)
            try sandbox.mustCtl("detach", "--all")
        }
    }

    private func check(
        _ sandbox: Sandbox, _ subject: String? = nil, status: Int32 = 0, _ arguments: [String] = [],
        environment: [String: String] = [:]
    ) throws -> [Fact] {
        let result = try sandbox.ctl(["check", "--json"] + arguments, environment: environment)
        #expect(result.status == status, "\(result)")
        return try result.decode(Facts.self).facts.filter { subject == nil || $0.subject == subject }
    }

    // MARK: The facts

    @Test func aHealthyHost() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/a", id: 7)
            let facts = try check(sandbox, nil, ["--policy", "\(sandbox.directory)/policy.yaml"])
            // A sandbox has no module in the linker's path, no daemon and no logind.
            let wrong = facts.filter { $0.verdict != "good" }.map(\.subject)
            #expect(Set(wrong).isSubset(of: ["names", "daemon", "logind", "blockers"]), "\(facts)")
            #expect(facts.count { $0.subject.hasPrefix("hook ") } == Hook.all.count)
            let subjects = [
                "kernel", "lockdown", "privileges", "cgroup v2", "bpffs", "attached", "other programs", "policy",
                "IPv6 loopback", "addresses", "sysctl", "blockers", "session cgroups", "names", "logind",
                "daemon",
            ]
            for subject in subjects { #expect(facts.contains { $0.subject == subject }, "\(subject)") }
        }
    }

    @Test func thePolicyInForceAgainstTheFile() throws {
        try attached { sandbox in
            let file = "\(sandbox.directory)/policy.yaml"
            #expect(try check(sandbox, "policy", ["--policy", file]).map(\.verdict) == ["good"])
            try sandbox.mustCtl("program", "add", "java", "--for", "virtual-ip")
            var facts = try check(sandbox, "policy", ["--policy", file])
            #expect(facts.first?.verdict == "warning", "\(facts)")
            #expect(facts.first?.fact.contains("virtualIP.programs") == true, "\(facts)")
            #expect(facts.first?.fix?.contains("policy apply \(file)") == true, "\(facts)")
            try "nonsense: 1\n".write(toFile: file, atomically: true, encoding: .utf8)
            facts = try check(sandbox, "policy", status: 1, ["--policy", file])
            #expect(facts.first?.fact.contains("nonsense") == true, "\(facts)")
            facts = try check(sandbox, "policy", status: 1, ["--policy", "/nowhere/policy.yaml"])
            #expect(facts.first?.verdict == "bad", "\(facts)")
        }
    }

    @Test func aListedFileThatWasReplaced() throws {
        try Sandbox.with { sandbox in
            let path = "\(sandbox.directory)/bin/app"
            let yaml = "virtualIP: {enabled: true, programs: [\(path)], addresses: {pool: [198.51.100.16]}}\n"
            try sandbox.sh("install -m 755 /bin/true '\(path)'")
            try sandbox.mustCtl("attach", "cgroup", sandbox.attached, "--policy", sandbox.policyFile(yaml))
            #expect(try !check(sandbox, "policy").contains { $0.verdict != "good" })
            try sandbox.sh("cp '\(path)' '\(path).new' && mv '\(path).new' '\(path)'")
            #expect(try check(sandbox, "policy").contains { $0.fact.contains("changed after the policy") })
            try sandbox.sh("rm '\(path)'")
            #expect(try check(sandbox, "policy").contains { $0.fact.contains("there is no such file") })
        }
    }

    @Test func linksThatAreMissingOrLeadNowhere() throws {
        try attached { sandbox in
            let second = try sandbox.cgroup("second")
            try sandbox.mustCtl("attach", "cgroup", second)
            try sandbox.sh("rm '\(sandbox.bpffs)'/links/*/connect4")
            let missing = try check(sandbox, "attached", status: 1)
            #expect(
                missing.count == 2 && missing.allSatisfy { $0.fact.contains("connect4 not attached") }, "\(missing)")
            for path in [sandbox.attached, second] { try sandbox.mustCtl("attach", "cgroup", path) }
            #expect(try check(sandbox, "attached").map(\.verdict) == ["good", "good"])
            try sandbox.sh("rmdir '\(second)'")
            let gone = try check(sandbox, "attached")
            #expect(gone.map(\.verdict) == ["warning"] && gone[0].fact.contains("was removed"), "\(gone)")
            _ = try sandbox.cgroup("second")
            let another = try check(sandbox, "attached", status: 1)
            #expect(another.first?.fact.contains("another cgroup has its path now") == true, "\(another)")
            try sandbox.mustCtl("attach", "cgroup", second)
            #expect(try check(sandbox, "attached").map(\.verdict) == ["good", "good"])
            try sandbox.sh("rm '\(sandbox.bpffs)/links/guard/guard_connect4'")
            let incomplete = try check(sandbox, "attached", status: 1)
            let fact = "\(sandbox.cgroup) is guarded, and hooks are missing there"
            #expect(incomplete.map(\.fact) == [fact], "\(incomplete)")
            try sandbox.mustCtl("attach", "cgroup", second, "--guard", sandbox.cgroup)
            #expect(try check(sandbox, "attached").map(\.verdict) == ["good", "good"])
            try sandbox.mustCtl("attach", "cgroup", second, "--no-guard")
            #expect(try check(sandbox, "attached").map(\.verdict) == ["good", "warning"])
        }
    }

    /// Programs of another instance are reported too. The child's run first, then those of the cgroups above it.
    @Test func otherProgramsAndTheirOrder() throws {
        try attached { sandbox in
            let other = ["--bpffs", "\(sandbox.directory)/bpf/other", "--state", "\(sandbox.directory)/other"]
            #expect(try check(sandbox, "other programs").map(\.verdict) == ["good"])
            #expect(try sandbox.ctl(["attach", "cgroup", sandbox.cgroup] + other).status == 0)
            var facts = try check(sandbox, "other programs").filter { $0.fact.contains("bind4") }
            #expect(
                facts.count == 1 && facts[0].fact.contains("on \(sandbox.cgroup) runs after vip-bpf's programs"),
                "\(facts)")
            #expect(facts.first?.fact.hasPrefix("vip_bind4 (ID ") == true, "\(facts)")
            let theirs = try sandbox.ctl(["check", "--json"] + other).decode(Facts.self).facts
            #expect(theirs.contains { $0.subject == "other programs" && $0.fact.contains("network namespace") })
            #expect(try sandbox.ctl(["detach", "--all"] + other).status == 0)

            // On one cgroup, they run in the order of attaching.
            try sandbox.mustCtl("detach", "cgroup", sandbox.attached)
            #expect(try sandbox.ctl(["attach", "cgroup", sandbox.attached] + other).status == 0)
            try sandbox.mustCtl("attach", "cgroup", sandbox.attached)
            facts = try check(sandbox, "other programs").filter { $0.fact.contains("bind4") }
            #expect(facts.count == 1 && facts[0].fact.contains("runs before vip-bpf's programs"), "\(facts)")
            #expect(try sandbox.ctl(["detach", "--all"] + other).status == 0)
        }
    }

    @Test func settingsThatStandInTheWay() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/a", id: 7)
            func sysctl(_ name: String, _ value: Int, says text: String, status: Int32 = 0) throws {
                try sandbox.sh("sysctl -qw net.\(name)=\(value)")
                let facts = try check(sandbox, "sysctl", status: status)
                #expect(facts.contains { $0.verdict != "good" && $0.fact.contains(text) }, "\(name): \(facts)")
                try sandbox.sh("sysctl -qw net.\(name)=0")
                #expect(try check(sandbox, "sysctl", status: status).map(\.verdict) == ["good"], "\(name)")
            }
            try sysctl("ipv4.conf.eth0.arp_ignore", 8, says: "arp_ignore is 8 on eth0")
            try sysctl("ipv4.conf.eth0.route_localnet", 1, says: "route_localnet is 1 on eth0")
            try sandbox.sh("sysctl -qw net.ipv6.conf.eth0.accept_ra=1 net.ipv6.conf.eth0.autoconf=1")
            try sysctl("ipv6.conf.eth0.max_addresses", 2, says: "takes no address of the host's own")
            // On lo, an address of eth0's network.
            let yaml = "virtualIP: {enabled: true, mode: perSession, addresses: {interface: lo}}\n"
            try sandbox.mustCtl("policy", "apply", "--force", sandbox.policyFile(yaml, named: "lo.yaml"))
            _ = try sandbox.openSession("attached/b", id: 8, ips: ["198.51.100.40"])
            try sysctl("ipv4.conf.eth0.arp_ignore", 1, says: "arp_ignore is 1 on eth0")
            // The interface of the addresses is not that of the default route.
            try sandbox.sh("ip link add far type veth peer name near && ip link set far up && ip link set near up")
            try sandbox.sh("ip route replace default dev far")
            try sysctl("ipv4.conf.eth0.rp_filter", 1, says: "rp_filter is 1 on eth0")
            // This removes the address as well.
            try sysctl("ipv6.conf.eth0.disable_ipv6", 1, says: "cannot have IPv6 virtual IPs", status: 1)
        }
    }

    @Test func blockersHaveAUnit() throws {
        try attached { sandbox in
            let blocker = try sandbox.probe("a\nb", in: "web.slice/httpd.service/worker")
            for command in ["socket a tcp", "bind a 0.0.0.0 9000", "listen a"] { try blocker.must(command) }
            let facts = try check(sandbox, "blockers").filter { $0.fact.contains("TCP port 9000 ") }
            #expect(facts.count == 1 && facts[0].fact.contains("unit httpd.service"), "\(facts)")
            // Whatever its name is, it is reported on one line.
            let text = try sandbox.mustCtl("check").stdout
            #expect(text.split(separator: "\n").count { $0.contains("(PID \(blocker.pid))") } == 1, "\(text)")
            #expect(text.split(separator: "\n").allSatisfy { $0.hasPrefix("good ") || $0.hasPrefix("warning ") })
        }
    }

    /// With a configuration of sshd in a mount namespace, over a copy of /etc.
    @Test(
        arguments: [
            ("X11Forwarding yes", "sessionScope", "[53]", true), ("X11Forwarding yes", "userSlice", "[53]", false),
            ("X11Forwarding yes", "sessionScope", "[6010-6063]", false),
            ("X11Forwarding no\n#X11Forwarding yes", "sessionScope", "[53]", false),
        ])
    func displaysOfTwoLogins(sshd: String, unit: String, ports: String, isNoticed: Bool) throws {
        try attached { sandbox in
            let policy = try sandbox.policyFile(
                """
                sessions: {unit: \(unit)}
                virtualLoopback: {enabled: true, programs: ["*"], excludedPorts: \(ports)}
                """, named: "displays.yaml")
            try sandbox.mustCtl("policy", "apply", policy)
            try sandbox.sh("mkdir -p '\(sandbox.directory)/etc/ssh/sshd_config.d'")
            try sandbox.sh("printf '\(sshd)\\n' >'\(sandbox.directory)/etc/ssh/sshd_config'")
            let common = "--bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)'"
            let script = """
                for file in /etc/*; do
                    [ "$file" = /etc/ssh ] || cp -a "$file" '\(sandbox.directory)/etc/'
                done
                mount --bind '\(sandbox.directory)/etc' /etc
                exec '\(Build.controller.path)' \(common) check
                """
            try sandbox.sh("cat >'\(sandbox.directory)/check.sh' <<'END'\n\(script)\nEND")
            let facts = try sandbox.sh("unshare -m sh '\(sandbox.directory)/check.sh' || true")
            #expect(facts.contains("localhost:10") == isNoticed, "\(facts)")
            #expect(facts.contains("displays") == isNoticed && facts.contains("blockers"), "the whole check ran")
        }
    }

    /// Programs of a session on the real wildcard: one that is not listed, and one of a user without privileges that
    /// is, and listens without `bind`.
    @Test func blockersInSessions() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            _ = try sandbox.openSession("attached/ben", id: 8)
            #expect(try check(sandbox, "blockers").map(\.fact) == ["no process holds a wildcard port"])

            let app = try sandbox.probe("app", in: "attached/ann/below")
            for command in [
                "socket a tcp", "bind a 0.0.0.0 9001", "listen a", "socket b tcp 6", "setsockopt b v6only 1",
                "bind b :: 9001", "listen b", "socket u udp", "bind u 0.0.0.0 5300",
            ] { try app.must(command) }
            let path = "\(sandbox.directory)/bin/redis-server"
            try sandbox.sh("install -m 755 '\(Build.probe.path)' '\(path)'")
            let mallory = try Probe(
                sandbox.start(
                    ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--", path],
                    in: "attached/ben"))
            // Only the second one takes a port from others. Clients' UDP ports are not named.
            for command in [
                "socket v tcp", "bind v 0.0.0.0 9002", "listen v", "socket l tcp", "listen l", "socket u udp",
                "sendto u 198.51.100.2 9 hello",
            ] { try mallory.must(command) }
            let port = try #require(mallory.kernelView("l")?.local.split(separator: ":").last)

            let facts = try check(sandbox, "blockers")
            let told = facts.map(\.fact).sorted()
            #expect(
                told
                    == [
                        "app (PID \(app.pid)), of session 7, holds TCP port 9001 on every address",
                        "app (PID \(app.pid)), of session 7, holds UDP port 5300 on every address",
                        "redis-server (PID \(mallory.pid)), of session 8, holds TCP port \(port) on every address",
                    ].sorted())
            #expect(facts.allSatisfy { $0.verdict == "warning" && $0.fix?.contains("virtual IP") == true }, "\(facts)")

            // These ports are taken from every session.
            for (transport, port) in [("tcp", 9001), ("udp", 5300)] {
                try mallory.must("socket w \(transport)")
                #expect(try mallory("bind w 0.0.0.0 \(port)").errno == "EADDRINUSE")
                try mallory.must("close w")
            }

            // A policy without virtual IP changes nothing about that.
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile("virtualIP: {enabled: false}\n", named: "off"))
            #expect(try check(sandbox, "blockers").map(\.fact).sorted() == told)

            // A user cannot fill the page.
            for index in 0..<10 {
                try app.must("socket n\(index) tcp")
                try app.must("listen n\(index)")
            }
            let many = try check(sandbox, "blockers").map(\.fact)
            #expect(many.count { $0.contains("of session 7, holds ") } == 8, "\(many)")
            #expect(many.contains("programs of session 7 hold 4 more ports on every address"), "\(many)")

            for program in [app, mallory] {
                program.program.closeInput()
                try program.program.wait()
            }
            #expect(try check(sandbox, "blockers").map(\.verdict) == ["good"])
        }
    }

    /// A listener that was made in a session, and is another's now, is reported as that one's.
    @Test func aBlockerThatWasPassedOn() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            let maker = try sandbox.probe("maker", in: "attached/ann")
            let heir = try sandbox.probe("heir", in: "outside")
            let mailbox = "\(sandbox.directory)/mailbox"
            try heir.must("mailbox \(mailbox)")
            for command in ["socket l tcp", "listen l", "pass l \(mailbox)"] { try maker.must(command) }
            try heir.must("take l")
            func told() throws -> [String] { try check(sandbox, "blockers").map(\.fact) }
            var facts = try told()
            #expect(
                facts.count == 1 && facts[0].hasPrefix("maker (PID \(maker.pid)), of session 7, holds "), "\(facts)")
            try maker.must("close l")
            facts = try told()
            #expect(facts.count == 1 && facts[0].hasPrefix("heir (PID \(heir.pid)) in /"), "\(facts)")
        }
    }

    /// A user who may write to cgroup.procs above a session leaves it; to own the directory there is not enough.
    @Test func usersWhoCanLeaveTheirSession() throws {
        try attached { sandbox in
            let mallory = "setpriv --reuid 64201 --regid 64201 --clear-groups"
            let above = try sandbox.cgroup("attached/above")
            func open() throws -> String {
                let path = try sandbox.cgroup("attached/above/session")
                let result = try sandbox.ctl(["session", "open", "--cgroup", path, "--id", "7"])
                #expect(result.status == 0, "\(result)")
                return result.stderr
            }
            /// Where mallory's process is after it has tried to leave session 7.
            func leave() throws -> String {
                let move = "echo $$ 2>/dev/null >'\(above)/free/cgroup.procs'; sed -n s/^0:://p /proc/self/cgroup"
                let program = try sandbox.start(
                    ["/bin/sh", "-c", "exec \(mallory) sh -c \"$0\"", move], in: "attached/above/session",
                    errorOutput: true)
                program.closeInput()
                _ = try program.wait()
                return program.outputText
            }
            try sandbox.sh("chown 64201 '\(above)'; \(mallory) mkdir '\(above)/free'")
            #expect(try open() == "")
            #expect(try leave().hasSuffix("/above/session\n"))
            #expect(try check(sandbox, "session cgroups").map(\.verdict) == ["good"])
            try sandbox.mustCtl("session", "close", "7")

            let file = "\(above)/cgroup.procs"
            let remedy = "chown root \(file) && chmod go-w \(file)"
            try sandbox.sh("chown 64201 '\(file)'")
            let message = "user 64201 can move processes out of session 7: \(file) belongs to them"
            #expect(try open().contains("\(message); \(remedy)"))
            #expect(try leave().hasSuffix("/above/free\n"))
            let facts = try check(sandbox, "session cgroups")
            #expect(
                facts.map(\.verdict) == ["warning"] && facts[0].fact == message && facts[0].fix == remedy, "\(facts)")

            try sandbox.sh("chown root '\(file)'; chmod 666 '\(file)'")
            let anybody = try check(sandbox, "session cgroups")
            #expect(anybody.count == 1 && anybody[0].fact.contains("other users than root can move"), "\(anybody)")
            try sandbox.sh("sh -c '\(remedy)'")
            #expect(try check(sandbox, "session cgroups").map(\.verdict) == ["good"])
        }
    }

    @Test func copiesOfListedPrograms() throws {
        try Sandbox.with { sandbox in
            let listed = "\(sandbox.directory)/bin/listed"
            let yaml =
                "virtualIP: {enabled: true, programs: ['\(listed)', redis-server], addresses: {interface: eth0}}\n"
            try sandbox.sh("install -m 755 '\(Build.probe.path)' '\(listed)'")
            try sandbox.mustCtl("attach", "cgroup", sandbox.attached, "--policy", sandbox.policyFile(yaml))
            _ = try sandbox.openSession("attached/ann", id: 7)
            let original = try sandbox.probe("listed", in: "attached/ann")
            let outside = try sandbox.probe("outside", in: "outside")
            #expect(try check(sandbox, "copies").map(\.verdict) == ["good"])

            let copy = try sandbox.probe("another", in: "attached/ann/below")
            try sandbox.sh("ln '\(listed)' '\(sandbox.directory)/bin/hardlink'")
            let link = try sandbox.probe("hardlink", in: "attached/ann")
            let loader = try sandbox.sh(
                "realpath /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1 2>/dev/null || true"
            )
            .split(separator: "\n").map(String.init)
            let loaded = try Probe(sandbox.start([try #require(loader.first), listed], in: "attached/ann"))
            try loaded.must("socket a tcp")
            let facts = try check(sandbox, "copies").filter { $0.verdict == "warning" }
            #expect(facts.count == 3, "\(facts)")
            for (program, how) in [
                (copy, "is a copy of"), (link, "is a copy of"), (loaded, "runs, by the dynamic loader,"),
            ] {
                let text = "(PID \(program.pid)) in session 7 \(how) \(listed), which is listed"
                #expect(facts.contains { $0.fact.contains(text) }, "\(text): \(facts)")
            }
            for program in [original, outside] {
                #expect(!facts.contains { $0.fact.contains("PID \(program.pid))") }, "\(facts)")
            }
        }
    }

    /// Programs outside sessions leave from a session's address where the host has none beside it.
    @Test(arguments: [
        ("198.51.100.1/24", "198.51.100.0/24", "198.51.100.2", "IPv4"),
        ("2001:db8:51::1/64", "2001:db8:51::/64", "2001:db8:51::2", "IPv6"),
    ])
    func aHostWithoutAddressesOfItsOwn(own: String, network: String, other: String, family: String) throws {
        let onInterface = Self.policy.replacing("interface: eth0", with: "placement: address, interface: eth0")
        try attached(onInterface) { sandbox in
            let session = try sandbox.openSession("attached/a", id: 7)
            let source = try #require(session.virtualIps.first { $0.contains(":") == other.contains(":") })
            func leaves() throws -> Bool { try sandbox.sh("ip route get \(other)").contains("src \(source) ") }
            #expect(try check(sandbox, "addresses").map(\.verdict) == ["good"])
            #expect(try !leaves())
            try sandbox.sh("ip addr del \(own) dev eth0; ip route add \(network) dev eth0")
            #expect(try leaves())
            let facts = try check(sandbox, "addresses")
            #expect(
                facts.map(\.verdict) == ["warning"]
                    && facts[0].fact.hasPrefix("the host has no \(family) address of its own on eth0: "), "\(facts)")
            let flags = family == "IPv6" ? "nodad" : ""
            try sandbox.sh("ip route del \(network) dev eth0; ip addr add \(own) dev eth0 \(flags)")
            #expect(try check(sandbox, "addresses").map(\.verdict) == ["good"])
            #expect(try !leaves())
        }
    }

    @Test func daemonAndLogind() throws {
        try attached { sandbox in
            let nobody = ["DBUS_SYSTEM_BUS_ADDRESS": "unix:path=\(sandbox.directory)/bus"]
            #expect(try check(sandbox, "logind", environment: nobody).map(\.verdict) == ["warning"])
            #expect(try check(sandbox, "daemon").map(\.verdict) == ["warning"])
            let host = try DaemonHost(sandbox)
            #expect(try check(sandbox, "logind", environment: nobody).map(\.verdict) == ["good"])
            try host.start()
            let daemon = try check(sandbox, "daemon")
            #expect(daemon.map(\.verdict) == ["good"], "\(daemon)")
        }
    }

    /// Without privileges, it reports what it can, and that they are missing.
    @Test func withoutPrivileges() throws {
        try attached { sandbox in
            let program = try sandbox.start(
                ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", Build.controller.path, "check"],
                in: "control", environment: sandbox.controlEnvironment, errorOutput: true)
            program.closeInput()
            #expect(try program.wait() == 77)
            #expect(program.outputText.contains("CAP_BPF missing"), "\(program.outputText)")
        }
    }

    // MARK: The self-test

    /// The state that a self-test must not change, except for the history.
    private func state(_ sandbox: Sandbox) throws -> [String] {
        [
            try sandbox.mustCtl("session", "list", "--json").stdout,
            // Link-local addresses are tentative for a second, so they are left out.
            try sandbox.sh("ip -o addr show scope global; ip -4 route show table local"),
            try sandbox.sh("find '\(sandbox.attached)' -type d | sort"),
            try sandbox.mustCtl("map", "dump", "sessions", "--json").stdout,
            try sandbox.mustCtl("map", "dump", "addresses", "--json").stdout,
        ]
    }

    @Test func selfTest() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/a", id: 7)
            let before = try state(sandbox)
            let facts = try check(sandbox, nil, ["--self-test"])
            #expect(try state(sandbox) == before)
            #expect(facts.allSatisfy { $0.subject == "self-test" && $0.verdict != "bad" }, "\(facts)")
            #expect(facts.first?.fact.contains("a program called redis-server in each") == true, "\(facts)")
            let proved = facts.filter { $0.verdict == "good" }.map(\.fact)
            for asked in ["0.0.0.0", "127.0.0.1", "::", "::1"] {
                for transport in ["TCP", "UDP"] {
                    #expect(proved.contains { $0.hasPrefix("\(transport) \(asked) port") }, "\(asked): \(facts)")
                }
            }
            #expect(proved.contains { $0.hasPrefix("TCP :: (dual-stack) port") }, "\(facts)")
            // Both virtual IPs and both loopbacks of the other session, TCP and UDP.
            #expect(proved.count { $0.contains("the other session's: ") } == 8, "\(facts)")
            // The policy is for the program, which so gets its own virtual IP; the loopback it does not get.
            #expect(proved.count { $0.contains("the other session's: bind gives ") } == 4, "\(facts)")
            #expect(proved.count { $0.contains("the other session's: cannot be bound; connect is refused") } == 2)
        }
    }

    /// Under these policies, there is less to test.
    @Test func selfTestOfOtherPolicies() throws {
        try attached { sandbox in
            func facts(_ yaml: String) throws -> [Fact] {
                try sandbox.mustCtl("policy", "apply", sandbox.policyFile(yaml))
                let facts = try check(sandbox, nil, ["--self-test"])
                #expect(!facts.contains { $0.verdict == "bad" }, "\(facts)")
                return facts
            }
            let loopbackAlone = try facts("virtualLoopback: {enabled: true, programs: ['*'], excludedPorts: [53]}\n")
            #expect(loopbackAlone.contains { $0.fact.hasPrefix("TCP 127.0.0.1 port") }, "\(loopbackAlone)")
            #expect(!loopbackAlone.contains { $0.fact.hasPrefix("TCP 0.0.0.0") }, "\(loopbackAlone)")
            let noPool = try facts("virtualIP: {enabled: true, mode: perSession}\n")
            #expect(noPool.contains { $0.verdict == "warning" && $0.fact.contains("EADDRNOTAVAIL") }, "\(noPool)")
            let byPath = try facts("virtualIP: {enabled: true, programs: [/bin/true]}\n")
            #expect(byPath.contains { $0.fact.contains("nothing was tested") }, "\(byPath)")
            let perSession = try facts(
                "virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, pool: [198.51.100.16/28]}}\n"
                    + "wildcardName: asRequested\n")
            #expect(
                perSession.contains { $0.fact.hasPrefix("UDP 0.0.0.0 port") && $0.verdict == "good" }, "\(perSession)")
        }
    }

    /// The self-test fails if the virtual IPs are only in the maps.
    @Test func selfTestFinds() throws {
        try attached { sandbox in
            // Its programs cannot bind, or their packets are dropped.
            try sandbox.sh("ip link set lo down")
            let facts = try check(sandbox, status: 1, ["--self-test"])
            #expect(facts.contains { $0.verdict == "bad" && $0.fact.contains("127.0.0.1") }, "\(facts)")
            try sandbox.sh("ip link set lo up")
        }
    }

    @Test func selfTestWithoutAnAttachedCgroup() throws {
        try Sandbox.with { sandbox in
            let result = try sandbox.ctl("check", "--self-test")
            #expect(result.status == 1 && result.stderr.contains("no cgroup is attached"), "\(result)")
        }
    }

    /// After an interrupt, it removes everything; after a kill, the next command does.
    @Test(arguments: [SIGINT, SIGKILL]) func selfTestThatIsEnded(by signal: Int32) throws {
        try attached { sandbox in
            let before = try state(sandbox)
            let program = try sandbox.start(
                [Build.controller.path, "check", "--self-test"], in: "control",
                environment: sandbox.controlEnvironment, errorOutput: true)
            program.closeInput()
            // Wait until both sessions exist, which is before the first call.
            try wait(for: "the self-test") {
                try sandbox.sh("ls '\(sandbox.attached)'/run-*/*/cgroup.procs 2>/dev/null | wc -l") == "2\n"
            }
            program.signal(signal)
            let code = try program.wait()
            #expect(code == 128 + signal, "\(code): \(program.errorText)")
            if signal == SIGKILL { _ = try sandbox.ctl("program", "add", "x", "--for", "virtual-ip") }
            let after = try state(sandbox)
            #expect(after == before, "\(program.errorText)")
        }
    }
}
