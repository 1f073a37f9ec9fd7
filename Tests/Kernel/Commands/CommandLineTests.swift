// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import Foundation
import Glibc
import Host
import PolicyMaps
import TestSupport
import Testing
import VipCommands

/// The commands on a host of their own: what they do, what they refuse, what a killed one leaves to the next.
@Suite(.serialized, .requiresRoot)
struct CommandLineTests {
    static let policy = """
        virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, probeSeconds: 0, pool: [198.51.100.16-198.51.100.23]}}
        virtualLoopback: {enabled: true, programs: ["*"]}
        """

    /// A sandbox with the hooks attached to `attached` and the policy in force.
    private func attached(_ policy: String = policy, _ body: (Sandbox) throws -> Void) throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            try sandbox.mustCtl("attach", "cgroup", path, "--policy", sandbox.policyFile(policy))
            try body(sandbox)
            try sandbox.mustCtl("detach", "--all")
        }
    }

    // MARK: Bad input

    /// Everything that a refused command must leave as it was: links, maps, registry, interface, cgroups.
    private func snapshot(_ sandbox: Sandbox) throws -> [String] {
        let status = try sandbox.ctl("status", "--json")
        let isLoaded = status.stdout.contains("\"is_loaded\" : true")
        return [
            status.stdout, isLoaded ? try sandbox.mustCtl("map", "dump", "--json").stdout : "",
            try sandbox.ctl("session", "list", "--json").stdout,
            try sandbox.sh("ip -br addr; find '\(sandbox.cgroup)' -type d | sort"), try loopbackState(sandbox),
        ]
    }

    /// What an attach does for the IPv6 loopbacks: the local routes of unique local prefixes, and the sysctl's value.
    private func loopbackState(_ sandbox: Sandbox) throws -> String {
        try sandbox.sh(
            """
            ip -6 route show table local | sed -n 's/^local \\(f[cd][^ ]*\\) dev lo .*/\\1/p'
            cat /proc/sys/net/ipv6/ip_nonlocal_bind
            """)
    }

    /// Commands that must each fail in one line and change nothing.
    private func refuses(
        _ sandbox: Sandbox, _ commands: [(arguments: [String], code: Int32, fragments: [String])], input: String = "",
        location: SourceLocation = #_sourceLocation
    ) throws {
        let before = try snapshot(sandbox)
        for command in commands {
            let result = try sandbox.ctl(command.arguments, input: input)
            #expect(result.status == command.code, "\(result)", sourceLocation: location)
            #expect(result.stdout.isEmpty, "\(result)", sourceLocation: location)
            #expect(result.stderr.split(separator: "\n").count == 1, "\(result)", sourceLocation: location)
            #expect(result.stderr.hasPrefix("vip-bpfctl: "), "\(result)", sourceLocation: location)
            for fragment in command.fragments {
                #expect(result.stderr.contains(fragment), "no '\(fragment)' in \(result)", sourceLocation: location)
            }
        }
        #expect(try snapshot(sandbox) == before, "one of \(commands) changed something", sourceLocation: location)
    }

    private func refuses(
        _ sandbox: Sandbox, _ arguments: [String], input: String = "", code: Int32, _ fragments: String...,
        location: SourceLocation = #_sourceLocation
    ) throws {
        try refuses(sandbox, [(arguments, code, fragments)], input: input, location: location)
    }

    @Test func pathsThatAreNoCgroup() throws {
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

    @Test func cgroupsThatAreInTheWay() throws {
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

    @Test func idsThatCannotBe() throws {
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

    @Test func addressesThatCannotBe() throws {
        try attached { sandbox in
            try sandbox.sh("ip addr add 2001:db8:1::1/64 dev eth0 nodad")
            _ = try sandbox.openSession("attached/ann", id: 7, ips: ["198.51.100.17"])
            _ = try sandbox.openSession("attached/eve", id: 8, ips: ["2001:db8:1::17"])
            let open = ["session", "open", "--cgroup", try sandbox.cgroup("attached/bob"), "--ip"]
            try refuses(
                sandbox,
                [
                    (open + ["198.51.100.17"], 1, ["session 7"]),
                    (open + ["198.51.100.1"], 1, ["host's own", "eth0"]),
                    (open + ["198.51.100.0"], 1, ["network's"]), (open + ["198.51.100.255"], 1, ["broadcast"]),
                    (open + ["203.0.113.1"], 1, ["not ours", "198.51.100.1/24"]),
                    (open + ["2001:db8:1::17"], 1, ["session 8"]),
                    (open + ["2001:db8:1::1"], 1, ["host's own", "eth0"]),
                    (open + ["2001:db8:1::"], 1, ["subnet-router anycast"]),
                    (open + ["2001:db8:2::1"], 1, ["not ours", "2001:db8:1::1/64"]),
                    (open + ["fe80::17"], 64, ["link-local"]), (open + ["::ffff:198.51.100.18"], 64, ["IPv6 form"]),
                    (open + ["fdd2:9088:43af::17"], 64, ["IPv6 loopback"]),
                    (open + ["2001:db8:1::18", "--ip", "2001:db8:1::19"], 64, ["both IPv6"]),
                    (open + ["198.51.100.18", "--ip", "198.51.100.19"], 64, ["both IPv4"]),
                ]
                    + ["127.0.0.9", "224.0.0.1", "0.0.0.0", "255.255.255.255", "::1", "::", "ff02::1"].map {
                        (open + [$0], 64, [$0])
                    }
                    + ["198.51.100", "198.51.100.18/32", "2001:db8:1::18/128", "fe80::1%eth0", "x", ""].map {
                        (open + [$0], 64, [])
                    })
        }
    }

    @Test func aPoolThatIsUsedUp() throws {
        try attached(
            "virtualIP: {enabled: true, mode: perSession, addresses: {probeSeconds: 0, pool: [198.51.100.16-198.51.100.17]}}"
        ) {
            sandbox in
            _ = try sandbox.openSession("attached/a", id: 7)
            _ = try sandbox.openSession("attached/b", id: 8)
            let third = try sandbox.cgroup("attached/c")
            try refuses(sandbox, ["session", "open", "--cgroup", third], code: 1, "2 of 2")
            // All or none: the first of the batch would have an address.
            try sandbox.mustCtl("session", "close", "7")
            let batch = "--cgroup \(third)\n--cgroup \(try sandbox.cgroup("attached/d"))\n"
            try refuses(sandbox, ["session", "open", "--batch", "-"], input: batch, code: 1, "2 of 2")
            try sandbox.mustCtl("session", "open", "--cgroup", third)
        }
    }

    /// Of one family alone: the other one has addresses left.
    @Test func anIPv6PoolThatIsUsedUp() throws {
        let pool = "[198.51.100.16-198.51.100.23, 2001:db8:1::10-2001:db8:1::11]"
        try attached(
            "virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, probeSeconds: 0, pool: \(pool)}}"
        ) {
            sandbox in
            _ = try sandbox.openSession("attached/a", id: 7)
            _ = try sandbox.openSession("attached/b", id: 8)
            let third = try sandbox.cgroup("attached/c")
            try refuses(sandbox, ["session", "open", "--cgroup", third], code: 1, "IPv6", "2 of 2")
            try sandbox.mustCtl("session", "close", "7")
            try sandbox.mustCtl("session", "open", "--cgroup", third)
        }
    }

    /// Two addresses, really on the interface and usable at once; both gone with the session.
    @Test func aSessionHasAnAddressOfEachFamily() throws {
        let pool = "[198.51.100.16-198.51.100.23, 2001:db8:1::/64]"
        try attached(
            "virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, probeSeconds: 0, pool: \(pool)}}"
        ) {
            sandbox in
            func placed() throws -> [String] {
                // The host's own address is in another network.
                try sandbox.sh("ip -o -6 addr show dev eth0 to 2001:db8:1::/64").split(separator: "\n").map(String.init)
            }
            let first = try sandbox.openSession("attached/a", id: 7)
            // The first of the pool is the subnet-router anycast address, and left out.
            #expect(first.virtualIps == ["198.51.100.16", "2001:db8:1::1"])
            let asked = try sandbox.mustCtl(
                "session", "open", "--cgroup", sandbox.cgroup("attached/b"), "--id", "8", "--ip", "2001:db8:1::99")
            #expect(asked.stdout == "8 198.51.100.17,2001:db8:1::99 127.0.0.9 fdd2:9088:43af::9\n")
            for address in ["2001:db8:1::1", "2001:db8:1::99"] {
                let line = try #require(try placed().first { $0.contains(" \(address)/128 ") })
                #expect(line.contains("noprefixroute") && !line.contains("tentative"), "\(line)")
            }
            #expect(try sandbox.mustCtl("map", "dump", "sessions").stdout.contains("vip6 2001:db8:1::99"))
            for output in [["session", "show", "8"], ["session", "list"], ["session", "show", "8", "--json"]] {
                let text = try sandbox.ctl(output).stdout
                for part in ["198.51.100.17", "2001:db8:1::99", "127.0.0.9", "fdd2:9088:43af::9"] {
                    #expect(text.contains(part), "no \(part) in \(text)")
                }
            }
            let batch = "--cgroup \(try sandbox.cgroup("attached/c")) --ip 198.51.100.20 --ip 2001:db8:1::20\n"
            let opened = try sandbox.ctl(["session", "open", "--batch", "-"], input: batch)
            #expect(opened.stdout.contains(" 198.51.100.20,2001:db8:1::20 "), "\(opened)")
            let run = try sandbox.ctl(
                "run", "--id", "10", "--ip", "2001:db8:1::30", "--", "ip", "-o", "addr", "show", "dev", "eth0")
            #expect(run.status == 0 && run.stdout.contains(" 2001:db8:1::30/128 "), "\(run)")
            // Taken off behind our back, and put back.
            try sandbox.sh("ip addr del 2001:db8:1::99/128 dev eth0")
            #expect(try sandbox.ctl("check").stdout.contains("2001:db8:1::99 is not on eth0"))
            try sandbox.mustCtl("program", "add", "java", "--for", "virtual-ip")
            #expect(try placed().contains { $0.contains(" 2001:db8:1::99/128 ") })
            for session in try sandbox.mustCtl("session", "list", "--json").decode(SessionIDList.self).sessions {
                try sandbox.mustCtl("session", "close", "\(session.id)")
            }
            #expect(try placed().isEmpty)
        }
    }

    private struct SessionIDList: Decodable {
        struct Session: Decodable { var id: UInt32 }
        var sessions: [Session]
    }

    // MARK: IPv6 loopbacks

    @Test func thePrefixIsLocalAsLongAsACgroupIsAttached() throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            let second = try sandbox.cgroup("second")
            for former in ["0", "1"] {
                try sandbox.sh("sysctl -qw net.ipv6.ip_nonlocal_bind=\(former)")
                try sandbox.mustCtl("attach", "cgroup", path)
                #expect(try loopbackState(sandbox) == "fdd2:9088:43af::/96\n1\n")
                #expect(try sandbox.mustCtl("status").stdout.contains("fdd2:9088:43af::/96"))
                #expect(
                    try sandbox.mustCtl("map", "dump", "config").stdout.contains("loopback_prefix fdd2:9088:43af::/96"))
                try sandbox.mustCtl("attach", "cgroup", path)
                try sandbox.mustCtl("attach", "cgroup", second)
                try sandbox.mustCtl("detach", "cgroup", path)
                #expect(try loopbackState(sandbox) == "fdd2:9088:43af::/96\n1\n")
                try sandbox.mustCtl("detach", "cgroup", second)
                #expect(try loopbackState(sandbox) == "\(former)\n")
                #expect(try sandbox.mustCtl("map", "dump", "config").stdout.contains("loopback_prefix -"))
                try sandbox.mustCtl("attach", "cgroup", path)
                #expect(try loopbackState(sandbox) == "fdd2:9088:43af::/96\n1\n")
                try sandbox.mustCtl("detach", "--all")
                #expect(try loopbackState(sandbox) == "\(former)\n")
            }
        }
    }

    @Test func aPolicyMovesThePrefix() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/ann", id: 7)
            #expect(session.virtualLoopback6 == "fdd2:9088:43af::8")
            let moved = try sandbox.policyFile("virtualLoopback: {prefix: 'fd00:1::/64'}", named: "moved.yaml")
            // Its programs would go on saying things to addresses that are no longer this host's.
            try refuses(sandbox, ["policy", "apply", moved], code: 1, "fdd2:9088:43af::/96", "1 open session", "close")
            try sandbox.mustCtl("session", "close", "7")
            try sandbox.mustCtl("policy", "apply", moved)
            #expect(try loopbackState(sandbox) == "fd00:1::/96\n1\n")
            #expect(try sandbox.openSession("attached/ann", id: 7).virtualLoopback6 == "fd00:1::8")
            #expect(try sandbox.mustCtl("policy", "show").stdout.contains("prefix: fd00:1::/64"))

            // Somebody else's network: refused before anything is changed.
            try sandbox.mustCtl("session", "close", "7")
            try sandbox.sh("ip -6 route add fd00:2::/48 dev eth0")
            let taken = try sandbox.policyFile("virtualLoopback: {prefix: 'fd00:2::/96'}", named: "taken.yaml")
            try refuses(sandbox, ["policy", "apply", taken], code: 1, "fd00:2::/48", "virtualLoopback.prefix")
            try refuses(
                sandbox, ["attach", "cgroup", sandbox.cgroup("second"), "--policy", taken], code: 1, "fd00:2::/48")
        }
    }

    @Test func aPrefixOfSomebodyElseIsNotTaken() throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            try sandbox.sh("ip -6 route add fdd2:9088:43af::/64 dev eth0")
            try refuses(sandbox, ["attach", "cgroup", path], code: 1, "fdd2:9088:43af::/64", "virtualLoopback.prefix")
            #expect(try sandbox.sh("ls -d '\(sandbox.bpffs)' 2>/dev/null || true").isEmpty)
        }
    }

    @Test func openingASessionPutsThePrefixBack() throws {
        try attached { sandbox in
            try sandbox.sh("ip -6 route del local fdd2:9088:43af::/96 dev lo table local")
            #expect(try sandbox.ctl("check").stdout.contains("fdd2:9088:43af::/96 is not local"))
            _ = try sandbox.openSession("attached/a", id: 7)
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::/96\n1\n")
            try sandbox.sh("sysctl -qw net.ipv6.ip_nonlocal_bind=0")
            #expect(try sandbox.ctl("check").stdout.contains("ip_nonlocal_bind is not 1"))
            _ = try sandbox.openSession("attached/b", id: 8)
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::/96\n1\n")
            #expect(try sandbox.ctl("check").status == 0)
        }
    }

    @Test func withoutIPv6ThereIsNoLoopbackOfIt() throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            try sandbox.sh("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1")
            let attach = try sandbox.mustCtl("attach", "cgroup", path)
            #expect(attach.stderr.split(separator: "\n").count == 1, "\(attach)")
            #expect(attach.stderr.contains("sysctl net.ipv6.conf.lo.disable_ipv6=0"), "\(attach)")
            #expect(try loopbackState(sandbox) == "0\n")
            #expect(try sandbox.mustCtl("map", "dump", "config").stdout.contains("loopback_prefix -"))
            #expect(try sandbox.openSession("attached/a", id: 7).virtualLoopback6 == nil)
            let check = try sandbox.ctl("check")
            #expect(check.status == 0 && check.stdout.contains("IPv6 is disabled on lo"), "\(check)")
            // What the warning says, works.
            try sandbox.sh("sysctl -qw net.ipv6.conf.lo.disable_ipv6=0")
            try sandbox.mustCtl("attach", "cgroup", path)
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::/96\n1\n")
            try sandbox.mustCtl("detach", "--all")
            #expect(try loopbackState(sandbox) == "0\n")
        }
    }

    /// Killed at every call that says something to the kernel's routes, or writes the sysctl.
    @Test(arguments: ["attach", "detach"])
    func killedAtTheLoopback(command: String) throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            let arguments = command == "attach" ? "attach cgroup '\(path)'" : "detach cgroup '\(path)'"
            let common = "--bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)'"
            var step = 1
            var isKilled = true
            while isKilled {
                if command == "detach" { try sandbox.mustCtl("attach", "cgroup", path) }
                let calls = "sendmsg,write,pwrite64"
                let script = """
                    strace -f -o /dev/null -e trace=\(calls) -e inject=\(calls):signal=KILL:when=\(step) \
                    '\(Build.controller.path)' \(common) \(arguments) >/dev/null 2>&1 && echo done || echo killed
                    """
                isKilled = try sandbox.sh(script).contains("killed")
                try sandbox.mustCtl("attach", "cgroup", path)
                #expect(
                    try loopbackState(sandbox) == "fdd2:9088:43af::/96\n1\n", "\(command) killed at step \(step)")
                try sandbox.mustCtl("detach", "--all")
                #expect(try loopbackState(sandbox) == "0\n", "\(command) killed at step \(step)")
                step += 5
            }
            #expect(step > 20, "no step was met")
        }
    }

    // MARK: The network namespace

    /// The sk_lookup link follows: one that has gone with its namespace, or is of another one, is made anew.
    @Test func theNetworkNamespaceHasOneLink() throws {
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
            // That namespace has gone with its only process.
            #expect(try link().state == "gone")
            #expect(try sandbox.ctl("check").stdout.contains("sk_lookup is attached to another one"))
            try sandbox.mustCtl("attach", "cgroup", "\(sandbox.cgroup)/attached")
            #expect(try link().state == "attached")
            try sandbox.mustCtl("detach", "cgroup", "\(sandbox.cgroup)/attached")
            #expect(try link().state == "attached")
            try sandbox.mustCtl("detach", "cgroup", "\(sandbox.cgroup)/second")
            #expect(try link().state == "none")
        }
    }

    @Test func policiesThatAreBroken() throws {
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
            // Edits that make an impossible policy.
            try refuses(sandbox, ["program", "add", "a/b", "--for", "loopback"], code: 64, "a/b")
            try refuses(sandbox, ["program", "add", "java", "--for", "everything"], code: 64, "everything")
            try refuses(sandbox, ["program", "remove", "java", "--for", "loopback"], code: 1, "java")
            try refuses(sandbox, ["program", "add", "*", "--for", "loopback"], code: 1, "*")
            try refuses(
                sandbox, ["session", "open", "--cgroup", sandbox.cgroup("attached/a"), "--policy", "none"], code: 1,
                "no override named none")
        }
    }

    /// All problems of a file, a line each or a document, and nothing is applied.
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
            "message":"there is no such key"}],"verdict":"bad"}

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

    @Test func usageThatIsWrong() throws {
        try attached { sandbox in
            let wrong = [
                ["frobnicate"], ["session", "open", "--frobnicate"], ["session", "close"], ["detach"],
                ["detach", "cgroup"], ["run"], ["run", "--"], ["map", "dump", "nonsense"], ["session", "close", "x"],
                ["attach", "cgroup"], ["--bpffs", "relative", "status"],
                ["attach", "cgroup", "\(sandbox.cgroup)/attached", "--max-sessions", "0"],
            ]
            try refuses(sandbox, wrong.map { ($0, 64, []) })
        }
    }

    @Test func nothingIsAttached() throws {
        try Sandbox.with { sandbox in
            let cgroup = try sandbox.cgroup("attached/a")
            try refuses(sandbox, ["session", "open", "--cgroup", cgroup], code: 1, "attach")
            try refuses(sandbox, ["policy", "apply", sandbox.policyFile(Self.policy)], code: 1, "attach")
            try refuses(sandbox, ["run", "--", "true"], code: 1, "attach")
            try refuses(sandbox, ["map", "list"], code: 1, "attach")
            #expect(try sandbox.mustCtl("status").stdout.contains("nothing is attached"))
        }
    }

    @Test func noBPFFileSystem() throws {
        try Sandbox.with { sandbox in
            let cgroup = try sandbox.cgroup("attached")
            for arguments in [
                ["attach", "cgroup", cgroup], ["session", "open", "--cgroup", cgroup], ["status"], ["map", "list"],
            ] {
                let result = try sandbox.ctl(arguments + ["--bpffs", "\(sandbox.directory)/nobpf/vip"])
                #expect(result.status == 69, "\(result)")
                #expect(result.stderr.contains("mount -t bpf"), "\(result)")
                #expect(result.stderr.split(separator: "\n").count == 1, "\(result)")
            }
            #expect(!FileManager.default.fileExists(atPath: "\(sandbox.directory)/nobpf"))
        }
    }

    /// Root by name, with none of the capabilities: what a user without privilege meets in the kernel.
    @Test func noPrivilege() throws {
        try Sandbox.with { sandbox in
            let cgroup = try sandbox.cgroup("attached")
            let powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", Build.controller.path]
            let own = sandbox.controlEnvironment
            func run(_ arguments: [String]) throws -> (status: Int32, error: String) {
                let program = try sandbox.start(
                    powerless + arguments, in: "control", environment: own, errorOutput: true)
                program.closeInput()
                return (try program.wait(), program.errorText)
            }
            let attach = try run(["attach", "cgroup", cgroup])
            #expect(attach.status == 77, "\(attach.error)")
            #expect(attach.error.contains("CAP_BPF"), "\(attach.error)")
            #expect(attach.error.split(separator: "\n").count == 1, "\(attach.error)")
            #expect(!FileManager.default.fileExists(atPath: sandbox.bpffs))

            try sandbox.mustCtl("attach", "cgroup", cgroup, "--policy", sandbox.policyFile(Self.policy))
            let session = try sandbox.cgroup("attached/a")
            let before = try snapshot(sandbox)
            let open = try run(["session", "open", "--cgroup", session])
            #expect(open.status == 77, "\(open.error)")
            #expect(open.error.split(separator: "\n").count == 1, "\(open.error)")
            #expect(try snapshot(sandbox) == before)
        }
    }

    @Test func aKernelWithoutAHook() throws {
        // An attach type that no kernel has stands for one that this kernel does not have yet.
        let unknown = Hook(name: "bind4", attachType: 9999, number: 0, since: "99.0")
        let support = HookSupport.probe(hooks: [unknown])
        let failure = try #require(support.first?.failure)
        #expect(failure.code == .unavailable)
        #expect(failure.operation.contains("bind4"))
        #expect(!"\(failure)".contains("\n"))
        #expect(failure.detail?.isEmpty == false)
        #expect(HookSupport.probe().allSatisfy { $0.failure == nil })
    }

    // MARK: Programs and layouts of other builds

    /// Changes the only row of the `config` map behind the controller's back.
    private func editConfig(_ sandbox: Sandbox, _ edit: (inout [UInt8]) -> Void) throws {
        let pin = "\(sandbox.bpffs)/maps/config"
        let row = try sandbox.sh("bpftool -j map lookup pinned '\(pin)' key 0 0 0 0")
        let document = try JSONSerialization.jsonObject(with: Data(row.utf8)) as? [String: Any]
        let value = try #require(document?["value"] as? [String])
        var bytes = value.compactMap { UInt8($0.dropFirst(2), radix: 16) }
        try #require(bytes.count == 264)
        edit(&bytes)
        let hex = bytes.map { String(format: "%02x", $0) }.joined(separator: " ")
        try sandbox.sh("bpftool map update pinned '\(pin)' key hex 00 00 00 00 value hex \(hex)")
    }

    /// An upgrade: the pinned programs are of another build. They are replaced in every attached cgroup, under a program
    /// that binds all the while, with no bind that is not rewritten.
    @Test func programsAreUpdatedInPlace() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/ann", id: 7)
            try sandbox.mustCtl("attach", "cgroup", sandbox.cgroup("second"))
            let before = try sandbox.mustCtl("status", "--json").stdout
            // Another object's ID, in the last 32 bytes of the row.
            try editConfig(sandbox) { $0.replaceSubrange(232..<264, with: [UInt8](repeating: 7, count: 32)) }
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
                isUpdating = kill(update.pid, 0) == 0 && !Self.isZombie(update.pid)
            }
            #expect(try update.wait() == 0, "\(update.errorText)")
            #expect(update.outputText.contains("\"updated\""), "\(update.outputText)")
            let after = try sandbox.mustCtl("status", "--json").stdout
            // The links are the same, the programs are not: in both cgroups.
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

    @Test func aLayoutOfAnotherVersionIsNotTouched() throws {
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
            #expect(try !sandbox.sh("ip -br addr show eth0").contains("198.51.100.16"))
            try sandbox.mustCtl("attach", "cgroup", "\(sandbox.cgroup)/attached")
        }
    }

    // MARK: What is done is done once, and goes

    @Test func attachingAgainChangesNothing() throws {
        try attached { sandbox in
            let path = "\(sandbox.cgroup)/attached"
            let before = try sandbox.mustCtl("status", "--json").stdout
            let again = try sandbox.mustCtl("attach", "cgroup", path, "--json").stdout
            #expect(!again.contains("\"attached\""))
            #expect(try sandbox.mustCtl("status", "--json").stdout == before)
        }
    }

    @Test func aCgroupMadeAnewIsAttachedAnew() throws {
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

    @Test func detachAllLeavesNothing() throws {
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
            try sandbox.mustCtl("detach", "--all")  // nothing there any more: fine
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

    @Test func anyUserLearnsOfTheirOwnSession() throws {
        let pool = "[198.51.100.16-198.51.100.23, 2001:db8:1::/64]"
        func policy(_ mode: String) -> String {
            "virtualIP: {enabled: true, mode: \(mode), addresses: {interface: eth0, probeSeconds: 0, pool: \(pool)}}"
        }
        try attached(policy("perSession")) { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            let bob = try sandbox.openSession("attached/bob", id: 8)
            _ = try sandbox.cgroup("attached/bob/below")
            for mode in ["perSession", "perProgram"] {
                try sandbox.mustCtl("policy", "apply", sandbox.policyFile(policy(mode)))
                for cgroup in ["attached/bob", "attached/bob/below"] {
                    let own = try whoami(sandbox, in: cgroup)
                    #expect(own.status == 0 && own.error.isEmpty, "\(own)")
                    #expect(own.document["id"] as? Int == 8)
                    #expect(own.document["virtual_ips"] as? [String] == bob.virtualIps)
                    #expect(own.document["virtual_loopback"] as? String == "127.0.0.9")
                    #expect(own.document["virtual_loopback6"] as? String == "fdd2:9088:43af::9")
                    #expect(own.document["cgroup"] as? String == bob.cgroup)
                }
                let none = try whoami(sandbox, in: "attached/eve")
                #expect(none.status == 1 && none.error.contains("this process is in none"), "\(none)")
            }

            // Without the registry: what the kernel says, and nothing where it says nothing.
            try sandbox.sh("chmod 700 '\(sandbox.stateDirectory)'")
            let unknown = try whoami(sandbox, in: "attached/bob")
            #expect(unknown.status == 77 && unknown.error.contains("permission denied"), "\(unknown)")
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(policy("perSession")))
            let asked = try whoami(sandbox, in: "attached/bob")
            #expect(asked.status == 0 && asked.error.contains("the session ID is not known"), "\(asked)")
            #expect(asked.document["virtual_ips"] as? [String] == bob.virtualIps)
            #expect(asked.document["id"] is NSNull && asked.document["virtual_loopback"] is NSNull)
            try sandbox.sh("chmod 755 '\(sandbox.stateDirectory)'")

            // Another instance's registry: its sessions are not these.
            try sandbox.sh("mkdir -m 755 '\(sandbox.directory)/other'")
            let other = try whoami(sandbox, in: "attached/bob", ["--json", "--state", "\(sandbox.directory)/other"])
            #expect(other.document["virtual_ips"] as? [String] == bob.virtualIps, "\(other)")
            #expect(other.document["id"] is NSNull && other.error.contains("not known"), "\(other)")
        }
    }

    /// Denied the wildcard is in a session, whatever the registry says.
    @Test func aSessionWithoutAVirtualIPKnowsItself() throws {
        try attached("virtualIP: {enabled: true, mode: perSession, addresses: {probeSeconds: 0}}") { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            #expect(try whoami(sandbox, in: "attached/ann").document["virtual_ips"] as? [String] == [])
            let plain = try whoami(sandbox, in: "attached/ann", [])
            #expect(plain.status == 0, "\(plain)")
            try sandbox.sh("chmod 700 '\(sandbox.stateDirectory)'")
            let asked = try whoami(sandbox, in: "attached/ann")
            #expect(asked.status == 0 && asked.error.contains("the session ID is not known"), "\(asked)")
        }
    }

    @Test func theOwnCgroupIsTheDefault() throws {
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

    @Test func aBatchIsOneChange() throws {
        try attached("virtualLoopback: {enabled: true, programs: [\"*\"]}") { sandbox in
            let lines = try (0..<500).map { "--cgroup \(try sandbox.cgroup("attached/s\($0)")) --user u\($0)" }
            let result = try sandbox.ctl(["session", "open", "--batch", "-"], input: lines.joined(separator: "\n"))
            #expect(result.status == 0, "\(result.stderr)")
            let ids = result.stdout.split(separator: "\n").compactMap { UInt32($0.split(separator: " ")[0]) }
            #expect(ids.count == 500)
            #expect(Set(ids).isDisjoint(with: [0, 1, 52, 53, 256]))
            let again = try sandbox.ctl(["session", "open", "--batch", "-"], input: lines[7])
            #expect(again.status == 1, "\(again)")
        }
    }

    @Test func aSessionWhoseCgroupWentIsInNobodysWay() throws {
        try attached(
            "virtualIP: {enabled: true, mode: perSession, addresses: {probeSeconds: 0, pool: [198.51.100.16-198.51.100.17]}}"
        ) {
            sandbox in
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

    @Test func whatCannotBePrintedIsNotDone() throws {
        try attached { sandbox in
            let path = try sandbox.cgroup("attached/a")
            let before = try snapshot(sandbox)
            let open =
                "'\(Build.controller.path)' --bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)' session open"
            let full = try sandbox.sh("\(open) --cgroup '\(path)' 2>&1 >/dev/full || echo code $?")
            #expect(full.contains("write standard output: no space left on device"), "\(full)")
            #expect(full.hasSuffix("code 1\n"), "\(full)")
            #expect(try snapshot(sandbox) == before)
        }
    }

    @Test func aStateDirectoryBelongsToItsPins() throws {
        try attached { sandbox in
            try refuses(
                sandbox,
                [(["detach", "--all", "--bpffs", "\(sandbox.directory)/bpf/other"], 1, ["belongs to the pins"])])
            let nowhere = try sandbox.ctl("detach", "--all", "--bpffs", "\(sandbox.directory)/nobpf/vip")
            #expect(nowhere.status != 0)
        }
    }

    @Test func aLostRegistryIsNoticed() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/a", id: 7)
            try sandbox.sh("mv '\(sandbox.stateDirectory)/registry.sqlite' '\(sandbox.directory)/kept'")
            let apply = try sandbox.ctl("policy", "apply", sandbox.policyFile(Self.policy))
            #expect(apply.status == 1, "\(apply)")
            #expect(apply.stderr.contains("does not know"), "\(apply)")
            try sandbox.sh("mv '\(sandbox.directory)/kept' '\(sandbox.stateDirectory)/registry.sqlite'")
            try expectAgreement(sandbox)
        }
    }

    /// What a damaged registry's error says to do, works.
    @Test func aDamagedRegistryIsClearedAway() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/a", id: 7)
            try sandbox.sh("head -c 5000 /dev/urandom >'\(sandbox.stateDirectory)/registry.sqlite'")
            let list = try sandbox.ctl("session", "list")
            #expect(list.status == 1, "\(list)")
            #expect(list.stderr.contains("detach --all"), "\(list)")
            try sandbox.mustCtl("detach", "--all")
            #expect(try !sandbox.sh("ip -br addr").contains(session.virtualIps[0]))
            #expect(try sandbox.sh("bpftool cgroup show '\(sandbox.cgroup)/attached'").isEmpty)
            try sandbox.mustCtl("attach", "cgroup", "\(sandbox.cgroup)/attached")
            _ = try sandbox.openSession("attached/a", id: 7)
        }
    }

    /// Every command that can print a document prints one that is JSON, and nothing else.
    @Test func everyDocumentIsJSON() throws {
        try attached { sandbox in
            let session = try sandbox.cgroup("attached/a")
            let policy = try sandbox.policyFile(Self.policy)
            for arguments in [
                ["attach", "cgroup", "\(sandbox.cgroup)/attached"],
                ["session", "open", "--cgroup", session, "--id", "7"],
                ["session", "show", "7"], ["session", "list"], ["session", "list", "--all"], ["who", "127.0.0.8"],
                ["policy", "apply", policy],
                ["policy", "check", policy],
                ["policy", "show"], ["program", "add", "java", "--for", "virtual-ip"], ["program", "list"],
                ["program", "remove", "java", "--for", "virtual-ip"], ["map", "list"], ["map", "dump"], ["status"],
                ["check"], ["explain", "\(getpid())"], ["explain", "--exe", "/bin/sh", "--session", "7"],
                ["session", "close", "7"], ["detach", "cgroup", "\(sandbox.cgroup)/attached"],
                ["detach", "--all"],
            ] {
                let result = try sandbox.ctl(arguments + ["--json"])
                #expect(result.status == 0, "\(result)")
                #expect(result.json is [String: Any], "\(result)")
            }
        }
    }

    @Test func aUserHasTheSameAddressAgain() throws {
        let pool = "[198.51.100.16-198.51.100.18, 2001:db8:1::/64]"
        let reserved = "reservations: [{user: root, addresses: [198.51.100.17]}]"
        let policy =
            "virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, probeSeconds: 0, pool: \(pool), \(reserved)}}"
        try attached(policy) { sandbox in
            func open(_ user: String) throws -> ControlResult {
                let path = try sandbox.cgroup("attached/\(user)")
                return try sandbox.ctl("session", "open", "--cgroup", path, "--user", user, "--json")
            }
            func login(_ user: String) throws -> OpenSession {
                let result = try open(user)
                guard result.status == 0 else { throw HarnessError("\(result)") }
                return try result.decode()
            }
            let ann = try login("ann")
            let ben = try login("ben")
            #expect(ann.virtualIps == ["198.51.100.16", "2001:db8:1::1"])
            #expect(ben.virtualIps == ["198.51.100.18", "2001:db8:1::2"])
            for session in [ann, ben] { try sandbox.mustCtl("session", "close", "\(session.id)") }
            #expect(try login("ben").virtualIps == ben.virtualIps)
            // One address is ben's, one reserved, and ann's rests.
            let eve = try open("eve")
            #expect(eve.status == 1, "\(eve)")
            for part in ["no IPv4 address of the pool is free", "1 of 3 in use", "1 resting", "1 reserved"] {
                #expect(eve.stderr.contains(part), "\(eve)")
            }
            #expect(try login("ann").virtualIps == ann.virtualIps)
            #expect(try login("root").virtualIps == ["198.51.100.17", "2001:db8:1::3"])
        }
    }

    // MARK: Prefixes that are local as a whole

    private static let routed = """
        virtualIP: {enabled: true, mode: perSession,
            addresses: {placement: route, pool: [203.0.113.0/24, '2001:db8:9::/64']}}
        """

    /// The prefixes that local routes lead to, but for loopbacks.
    private func routedPrefixes(_ sandbox: Sandbox) throws -> [String] {
        try sandbox.sh(
            """
            { ip -4 route show table local; ip -6 route show table local; } \
                | sed -n 's,^local \\([^ ]*/[^ ]*\\) dev lo .*,\\1,p'
            """
        ).split(separator: "\n").map(String.init).filter { !$0.hasPrefix("127.") && !$0.hasPrefix("fdd2:") }
    }

    @Test func aRoutedPrefixIsLocalAsAWhole() throws {
        let both = ["203.0.113.0/24", "2001:db8:9::/64"]
        try attached(Self.routed) { sandbox in
            #expect(try routedPrefixes(sandbox) == both)
            try sandbox.sh("ip -6 route add 2001:db8:9::/64 via \(Sandbox.hostAddress6)", at: .outside)
            let before = try sandbox.sh("ip -br addr")
            let ann = try sandbox.openSession("attached/ann", id: 7)
            let ben = try sandbox.openSession("attached/ben", id: 8)
            #expect(ann.virtualIps == ["203.0.113.1", "2001:db8:9::1"])
            #expect(ben.virtualIps == ["203.0.113.2", "2001:db8:9::2"])
            #expect(try sandbox.sh("ip -br addr") == before, "no address is placed")

            let client = try sandbox.probe("client", in: "outside", at: .outside)
            for (index, wildcard, kind, far) in [
                (0, "0.0.0.0", "", Sandbox.outsideAddress), (1, "::", " 6", Sandbox.outsideAddress6),
            ] {
                let port = 8000 + index  // what was closed a moment ago still has the other
                for command in ["socket l tcp\(kind)", "bind l \(wildcard) \(port)", "listen l"] {
                    try client.must(command)
                }
                for command in ["socket d udp\(kind)", "bind d \(wildcard) \(port)"] { try client.must(command) }
                for session in [ann, ben] {
                    let own = session.virtualIps[index]
                    let server = try sandbox.probe("server", in: "attached/\(session.id == 7 ? "ann" : "ben")")
                    try server.must("socket s tcp\(kind)")
                    if index == 1 { try server.must("setsockopt s v6only 1") }
                    for command in ["bind s \(wildcard) 9000", "listen s"] { try server.must(command) }
                    #expect(try server.must("getsockname s").address == own)
                    for command in ["socket c tcp\(kind)", "connect c \(own) 9000"] { try client.must(command) }
                    try server.must("accept s a")
                    try client.must("close c")
                    for command in ["socket t tcp\(kind)", "connect t \(far) \(port)"] { try server.must(command) }
                    #expect(try client.must("accept l c").address == own, "the source of a connection")
                    for command in ["socket u udp\(kind)", "sendto u \(far) \(port) hello"] { try server.must(command) }
                    #expect(try client.must("recvfrom d").address == own, "the source of a datagram")
                    try client.must("close c")
                }
                for socket in ["l", "d"] { try client.must("close \(socket)") }
            }

            // Taken away behind our back, and back again.
            #expect(try sandbox.ctl("check").stdout.contains("4 of them by a route"))
            try sandbox.sh("ip route del local 203.0.113.0/24 dev lo table local")
            #expect(try sandbox.ctl("check").stdout.contains("203.0.113.1 is not local"))
            let eve = try sandbox.mustCtl("session", "open", "--cgroup", sandbox.cgroup("attached/eve"), "--id", "9")
            #expect(eve.stderr.contains("203.0.113.0/24 was missing and is back"), "\(eve)")
            #expect(try routedPrefixes(sandbox) == both)
            try sandbox.mustCtl("session", "close", "9")

            // Another policy: as long as sessions have addresses of it, the prefix stays.
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy, named: "other.yaml"))
            #expect(try routedPrefixes(sandbox) == both)
            try sandbox.mustCtl("session", "close", "7")
            #expect(try routedPrefixes(sandbox) == both)
            try sandbox.mustCtl("session", "close", "8")
            #expect(try routedPrefixes(sandbox).isEmpty)

            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.routed))
            #expect(try routedPrefixes(sandbox) == both)
            try sandbox.mustCtl("detach", "cgroup", "\(sandbox.cgroup)/attached")
            #expect(try routedPrefixes(sandbox).isEmpty)
            try sandbox.mustCtl("attach", "cgroup", "\(sandbox.cgroup)/attached")
            #expect(try routedPrefixes(sandbox) == both)
            _ = try sandbox.openSession("attached/ann", id: 7)
            try sandbox.mustCtl("detach", "--all")
            #expect(try routedPrefixes(sandbox).isEmpty)
        }
    }

    @Test func aPrefixOfOthersIsNotMadeLocal() throws {
        try attached { sandbox in
            func file(_ pool: String) throws -> String {
                try sandbox.policyFile(
                    "virtualIP: {enabled: true, addresses: {placement: route, pool: ['\(pool)']}}", named: "routed.yaml"
                )
            }
            for pool in ["198.51.100.128/25", "198.51.0.0/16", "2001:db8:51:0:8000::/65"] {
                try refuses(
                    sandbox, ["policy", "apply", file(pool)], code: 1, "is the network of eth0", "routed to this host")
            }
            try sandbox.sh("ip route add 203.0.113.128/25 via 198.51.100.2")
            try refuses(sandbox, ["policy", "apply", file("203.0.113.0/24")], code: 1, "a route 203.0.113.128/25")
            #expect(try routedPrefixes(sandbox).isEmpty)
            // What is wider, or no way to anywhere, is in nobody's way; a route just like ours is left to its owner.
            try sandbox.sh(
                """
                ip route del 203.0.113.128/25 via 198.51.100.2; ip route add 203.0.0.0/16 via 198.51.100.2
                ip route add blackhole 203.0.113.0/24; ip route add local 203.0.113.0/24 dev lo
                """)
            try sandbox.mustCtl("policy", "apply", file("203.0.113.0/24"))
            try sandbox.mustCtl("detach", "--all")
            #expect(try routedPrefixes(sandbox) == ["203.0.113.0/24"])
        }
    }

    // MARK: The past

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

    /// However a session ends, the record says so, and who had the address.
    @Test func everyEndingIsNoted() throws {
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

    @Test func whoHasAnAddressAndWhoHadIt() throws {
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
            // Within the second both had it; before, nobody.
            let first = try #require(try past(sandbox).first)
            let then = try who("198.51.100.16", at: first.openedAt)
            #expect(
                then.first?.user == "ann" && then.first?.ending == "closed" && then.first?.endedAt == first.closedAt)
            #expect(try who("198.51.100.16", at: "2001-01-01T00:00:00Z").isEmpty)
            let none = try sandbox.ctl("who", "198.51.100.16", "--at", "2001-01-01T00:00:00Z")
            #expect(none.stderr.contains("the history begins with \(first.openedAt)"), "\(none)")
            for wrong in [["who"], ["who", "x"], ["who", "10.0.0.1", "--at", "yesterday"], ["who", "10.0.0.0/8"]] {
                #expect(try sandbox.ctl(wrong).status == 64, "\(wrong)")
            }

            // The clock was set back by an hour while bob had it: an end before its start.
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

    @Test func thePastIsKeptAsLongAsThePolicySays() throws {
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

    /// Neither a full disk nor one that cannot be written loses or half-does anything.
    @Test(arguments: ["full", "read-only"])
    func aDiskThatTakesNothing(disk: String) throws {
        try attached { sandbox in
            for name in ["ann", "bob"] { _ = try sandbox.cgroup("attached/\(name)") }
            _ = try sandbox.openSession("attached/ann", id: 7)
            // In a mount namespace of its own, where the state is on a small disk; it goes with the shell.
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

    // MARK: policy and programs

    @Test func aPolicyThatDoesNotFitChangesNothing() throws {
        try attached { sandbox in
            let names = (0..<20_000).map { "p\($0)" }.joined(separator: ",")
            let file = try sandbox.policyFile(
                "virtualIP: {enabled: true, programs: [\(names)]}", named: "large.yaml")
            try refuses(sandbox, ["policy", "apply", file], code: 1, "do not fit map", "16384")
        }
    }

    @Test func aHostWithManyAddresses() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/ann", id: 7)
            for number in 101...110 { try sandbox.sh("ip addr add 198.51.100.\(number)/24 dev eth0") }
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy))
            #expect(try sandbox.mustCtl("map", "dump", "config").stdout.contains("too many"))
            let server = try sandbox.probe("server", in: "attached/ann")
            for command in ["socket a tcp", "bind a 0.0.0.0 9000", "listen a"] { try server.must(command) }
            // Whichever of the host's addresses is asked for, the session's own server answers.
            let client = try sandbox.probe("client", in: "attached/ann")
            for number in [1, 101, 110] {
                try client.must("socket c tcp")
                try client.must("connect c 198.51.100.\(number) 9000")
                #expect(try client.kernelView("c")?.remote == "\(session.virtualIps[0]):9000")
                try client.must("close c")
            }
        }
    }

    @Test func thePolicyInForceIsWhatIsShown() throws {
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

    /// While policies change, every bind gets what one of them gives, never what neither does.
    @Test func noProgramIsUnprotectedWhileThePolicyChanges() throws {
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
            // The changes run beside the binds, and tell by ending that they are through.
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
                isChanging = kill(changes.pid, 0) == 0 && !Self.isZombie(changes.pid)
            }
            #expect(try changes.wait() == 0, "\(changes.errorText)")
            #expect(binds >= 50)
        }
    }

    private static func isZombie(_ pid: pid_t) -> Bool {
        ((try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8)) ?? ") Z").contains(") Z")
    }

    // MARK: run

    @Test func runGivesTheCommandASession() throws {
        try attached { sandbox in
            let script = "cat /proc/self/cgroup; exit 7"
            let result = try sandbox.ctl("run", "--id", "9", "--ip", "198.51.100.20", "--", "sh", "-c", script)
            #expect(result.status == 7, "\(result)")
            #expect(result.stdout.contains("/attached/run-"))
            #expect(try sandbox.mustCtl("session", "list").stdout.split(separator: "\n").count == 1)
            #expect(try !sandbox.sh("ip -br addr").contains("198.51.100.20"))
            #expect(try sandbox.sh("ls -d '\(sandbox.cgroup)'/attached/*/ 2>/dev/null || true").isEmpty)
            #expect(try sandbox.ctl("run", "--", "sh", "-c", "kill -TERM $$").status == 128 + SIGTERM)
            let missing = try sandbox.ctl("run", "--", "no-such-command-at-all")
            #expect(missing.status == 1, "\(missing)")
            #expect(missing.stderr.contains("no-such-command-at-all"))
            #expect(try sandbox.sh("ls -d '\(sandbox.cgroup)'/attached/*/ 2>/dev/null || true").isEmpty)
        }
    }

    @Test func runBecomesTheUser() throws {
        try attached { sandbox in
            let result = try sandbox.ctl("run", "--user", "nobody", "--", "sh", "-c", "id -un; echo $HOME $USER")
            #expect(result.status == 0, "\(result)")
            #expect(result.stdout.hasPrefix("nobody\n"))
            #expect(result.stdout.contains(" nobody\n"))
            let unknown = try sandbox.ctl("run", "--user", "no-such-user", "--", "true")
            #expect(unknown.status == 64, "\(unknown)")
            #expect(unknown.stderr.contains("no-such-user"))
        }
    }

    @Test func runTakesItsCgroupAwayThoughTheSessionWasClosed() throws {
        try attached { sandbox in
            let run = try sandbox.start(
                [Build.controller.path, "run", "--id", "9", "--", "sh", "-c", "echo up; read line"], in: "control",
                environment: sandbox.controlEnvironment,
                errorOutput: true)
            #expect(try run.readLine() == "up")
            try sandbox.mustCtl("session", "close", "9")
            try run.write("\n")
            #expect(try run.wait() == 0, "\(run.errorText)")
            #expect(try sandbox.sh("ls -d '\(sandbox.cgroup)'/attached/*/ 2>/dev/null || true").isEmpty)
        }
    }

    /// A daemon that the command leaves behind keeps the session; a signal reaches it.
    @Test func runWaitsForTheLastProcess() throws {
        try attached { sandbox in
            let run = try sandbox.start(
                [Build.controller.path, "run", "--id", "9", "--", "sh", "-c", "sleep 1000 & echo left $!"],
                in: "control",
                environment: sandbox.controlEnvironment,
                errorOutput: true)
            #expect(try run.readLine().hasPrefix("left "))
            #expect(try sandbox.mustCtl("session", "show", "9").stdout.contains("open"))
            run.signal(SIGTERM)
            #expect(try run.wait() == 0, "\(run.errorText)")
            #expect(try sandbox.ctl("session", "show", "9").status == 1)
        }
    }

    // MARK: Kills

    /// Registry, interface and maps agree: as many sessions as rows, every virtual IP on the interface, none besides.
    private func expectAgreement(_ sandbox: Sandbox, location: SourceLocation = #_sourceLocation) throws {
        struct List: Decodable { var sessions: [OpenSession] }
        let sessions: [OpenSession] = try sandbox.mustCtl("session", "list", "--json").decode(List.self).sessions
        let rows = try sandbox.mustCtl("map", "dump", "sessions").stdout.split(separator: "\n").count
        let ids = try sandbox.mustCtl("map", "dump", "ids").stdout.split(separator: "\n").count
        let owned = try sandbox.mustCtl("map", "dump", "addresses").stdout.split(separator: "\n")
            .count { $0.contains("owner session") }
        let placed = Set(
            try sandbox.sh("ip -o -4 addr show dev eth0").matches(of: /inet (198\.51\.100\.[0-9]+)\/32/).map {
                String($0.1)
            })
        #expect(rows == sessions.count, sourceLocation: location)
        #expect(ids == sessions.count, sourceLocation: location)
        #expect(owned == sessions.count, sourceLocation: location)
        #expect(placed == Set(sessions.flatMap(\.virtualIps)), sourceLocation: location)
    }

    /// Killed at whatever moment, the next command finds its trace and mends it.
    @Test func killedCommandsAreMended() throws {
        let policy =
            "virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, probeSeconds: 0, pool: [198.51.100.16/28]}}"
        try attached(policy) { sandbox in
            let file = try sandbox.policyFile(policy, named: "again.yaml")
            for name in ["a", "b", "c", "d"] { _ = try sandbox.cgroup("attached/\(name)") }
            let batch = ["a", "b", "c", "d"].map { "--cgroup \(sandbox.cgroup)/attached/\($0)" }.joined(separator: "\n")
            try batch.write(toFile: "\(sandbox.directory)/batch", atomically: true, encoding: .utf8)
            var killed = 0
            for round in 0..<24 {
                // Later in each round; opening four takes a few hundredths of a second.
                let delay = String(format: "%.3f", 0.004 * Double(round + 1))
                let script = """
                    timeout -s KILL \(delay) "$0" session open --batch '\(sandbox.directory)/batch' >/dev/null 2>&1 \
                    && echo done || echo killed
                    for id in $("$0" session list | awk 'NR > 1 {print $1}'); do
                        timeout -s KILL \(delay) "$0" session close $id 2>/dev/null || true
                    done
                    """
                let run = try sandbox.start(
                    ["/bin/sh", "-c", script, Build.controller.path], in: "control",
                    environment: sandbox.controlEnvironment)
                run.closeInput()
                #expect(try run.wait() == 0)
                if run.outputText.contains("killed") { killed += 1 }
                try sandbox.mustCtl("policy", "apply", file)
                try expectAgreement(sandbox)
            }
            #expect(killed > 0, "no command was killed in time: the delays are too long")
        }
    }

    /// Killed at every few of its calls of bpf(2), by number: whatever an attach, an apply or a detach leaves, a plain
    /// attach makes whole again, and a program's bind is what the policy says.
    @Test(arguments: ["attach", "attach after a boot", "apply", "detach"])
    func killedAtAnyStep(command: String) throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            let ann = try sandbox.cgroup("attached/ann")
            let file = try sandbox.policyFile(Self.policy)
            let arguments =
                switch command {
                case "attach after a boot": "attach cgroup '\(path)'"
                case "attach": "attach cgroup '\(path)' --policy '\(file)'"
                case "apply": "policy apply '\(file)'"
                default: "detach --all"
                }
            let common = "--bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)'"
            var step = 1
            var isKilled = true
            while isKilled {
                if command != "attach" {
                    try sandbox.mustCtl("attach", "cgroup", path, "--policy", file)
                    try sandbox.mustCtl("session", "open", "--cgroup", ann, "--id", "7")
                }
                // What a boot takes away: pins, links, maps. The registry still has the policy.
                if command == "attach after a boot" { try sandbox.sh("rm -r '\(sandbox.bpffs)'") }
                let script = """
                    strace -f -o /dev/null -e trace=bpf,rename,unlink -e inject=bpf,rename,unlink:signal=KILL:when=\(step) \
                    '\(Build.controller.path)' \(common) \(arguments) >/dev/null 2>&1 && echo done || echo killed
                    """
                isKilled = try sandbox.sh(script).contains("killed")
                if command == "attach after a boot" {
                    try sandbox.mustCtl("attach", "cgroup", path)
                } else {
                    try sandbox.mustCtl("attach", "cgroup", path, "--policy", file)
                }
                if try sandbox.ctl("session", "show", "7").status != 0 {
                    try sandbox.mustCtl("session", "open", "--cgroup", ann, "--id", "7")
                }
                let probe = try sandbox.probe("server", in: "attached/ann")
                for call in ["socket a tcp", "bind a 0.0.0.0 9000"] { try probe.must(call) }
                #expect(
                    try probe.must("getsockname a").address == "198.51.100.16", "\(command) killed at step \(step)")
                try expectAgreement(sandbox)
                try sandbox.mustCtl("detach", "--all")
                #expect(try sandbox.sh("ls -d '\(sandbox.bpffs)' 2>/dev/null || true").isEmpty)
                #expect(try loopbackState(sandbox) == "0\n", "\(command) killed at step \(step)")
                try probe.send("quit")
                step += command.hasPrefix("attach") ? 9 : 7  // primes to the groups of calls: each kind of step is met
            }
            #expect(step > 10, "no step was met")
        }
    }

    /// A run that is killed before its session is open leaves a cgroup, for the next command.
    @Test func aKilledRunLeavesNoCgroup() throws {
        try attached { sandbox in
            let common = "--bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)'"
            for step in [1, 4, 8] {
                try sandbox.sh(
                    "! strace -f -o /dev/null -e trace=pwrite64 -e inject=pwrite64:signal=KILL:when=\(step) "
                        + "'\(Build.controller.path)' \(common) run -- true 2>/dev/null")
                try sandbox.mustCtl("program", "add", "p\(step)", "--for", "virtual-ip")
                #expect(try sandbox.sh("ls -d '\(sandbox.cgroup)'/attached/*/ 2>/dev/null || true").isEmpty, "\(step)")
                try expectAgreement(sandbox)
            }
        }
    }

    /// Opening and closing a session at another depth must not take another session's protection away for a moment.
    @Test func depthsComeAndGo() throws {
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
                isChanging = kill(changes.pid, 0) == 0 && !Self.isZombie(changes.pid)
            }
            #expect(try changes.wait() == 0, "\(changes.errorText)")
        }
    }

    /// A new file that got the inode of a listed one is another program.
    @Test func anInodeUsedAgainIsAnotherProgram() throws {
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
            // The same inode under another name, as after an unlink and a create: here by renaming.
            let other = "\(listed)-other"
            try FileManager.default.moveItem(atPath: listed, toPath: other)
            defer { try? FileManager.default.removeItem(atPath: other) }
            #expect(try bound(other) == "0.0.0.0")
        }
    }

    /// Two commands at once wait for each other; none is lost.
    @Test func commandsAtOnce() throws {
        try attached { sandbox in
            for number in 0..<8 { _ = try sandbox.cgroup("attached/s\(number)") }
            let script = """
                for i in 0 1 2 3 4 5 6 7; do "$0" session open --cgroup "$1/attached/s$i" >/dev/null & pids="$pids $!"; done
                for pid in $pids; do wait $pid; done
                """
            let run = try sandbox.start(
                ["/bin/sh", "-ec", script, Build.controller.path, sandbox.cgroup], in: "control",
                environment: sandbox.controlEnvironment,
                errorOutput: true)
            run.closeInput()
            #expect(try run.wait() == 0, "\(run.errorText)")
            try expectAgreement(sandbox)
        }
    }

    /// What something else took off the interface comes back with the next policy apply.
    @Test func addressesThatWereTakenAwayComeBack() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/ann", id: 7)
            try sandbox.sh("ip addr del \(session.virtualIps[0])/32 dev eth0")
            let check = try sandbox.ctl("check")
            #expect(check.status == 1)
            #expect(check.stdout.contains("\(session.virtualIps[0]) is not on eth0"), "\(check)")
            let apply = try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy))
            #expect(apply.stderr.contains("is back"))
            #expect(try sandbox.ctl("check").status == 0)
            try expectAgreement(sandbox)
        }
    }

    @Test func blockersAreNamed() throws {
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
