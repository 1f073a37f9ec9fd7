// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// The sessions' IPv6 loopbacks: addresses of lo, or a prefix that is local as a whole.
@Suite(.serialized, .requiresRoot)
struct LoopbackTests: CommandHost {
    private static let byRoute = "virtualLoopback: {enabled: true, programs: ['*'], placement: route}"

    @Test("puts each session's loopback on lo, as long as the session is open, and changes no setting of the host")
    func putsLoopbacksOnLo() throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            let policy = try sandbox.policyFile("virtualLoopback: {enabled: true, programs: ['*']}")
            try sandbox.mustCtl("attach", "cgroup", path, "--policy", policy)
            #expect(try loopbackState(sandbox) == "0\n")
            _ = try sandbox.openSession("attached/ann", id: 7)
            _ = try sandbox.openSession("attached/ben", id: 8)
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::8\nfdd2:9088:43af::9\n0\n")
            let shown = try sandbox.sh("ip -6 -o address show dev lo to fdd2:9088:43af::8")
            #expect(shown.contains(" deprecated noprefixroute "), "no program is to take it for a source")
            #expect(
                try !sandbox.mustCtl("map", "dump", "addresses").stdout.contains("fdd2:"), "none is the host's own")
            #expect(try sandbox.mustCtl("status").stdout.contains("fdd2:9088:43af::/96"))
            // With what the kernel does by itself, a program cannot bind what the host does not have.
            let server = try sandbox.probe("server", in: "attached/ann")
            for command in ["socket s tcp 6", "bind s ::1 9000", "listen s"] { try server.must(command) }
            #expect(try server.kernelView("s")?.local == "fdd2:9088:43af::8:9000")
            try server.must("socket u tcp 6")
            #expect(try server("bind u \(Sandbox.outsideAddress6) 9000").errno == "EADDRNOTAVAIL")

            try sandbox.mustCtl("session", "close", "8")
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::8\n0\n")
            // As a virtual IP, it is the session's also while nothing is attached.
            try sandbox.mustCtl("detach", "cgroup", path)
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::8\n0\n")
            try sandbox.mustCtl("session", "close", "7")
            #expect(try loopbackState(sandbox) == "0\n")
            try sandbox.mustCtl("attach", "cgroup", path)
            _ = try sandbox.openSession("attached/ann", id: 7)
            try sandbox.mustCtl("detach", "--all")
            #expect(try loopbackState(sandbox) == "0\n")
        }
    }

    @Test("puts loopbacks back that another program took off lo")
    func putsLoopbacksBack() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/a", id: 7)
            #expect(try sandbox.ctl("check").status == 0)
            try sandbox.sh("ip address del fdd2:9088:43af::8/128 dev lo")
            let check = try sandbox.ctl("check")
            #expect(
                check.status == 1 && check.stdout.contains("fdd2:9088:43af::8 of session 7 is not on lo"), "\(check)")
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy))
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::8\n0\n")
            #expect(try sandbox.ctl("check").status == 0)
        }
    }

    @Test("placement: route makes the prefix local as long as a cgroup is attached, and says what it sets")
    func makesThePrefixLocal() throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            let second = try sandbox.cgroup("second")
            let policy = try sandbox.policyFile(Self.byRoute)
            for former in ["0", "1"] {
                try sandbox.sh("sysctl -qw net.ipv6.ip_nonlocal_bind=\(former)")
                let attach = try sandbox.mustCtl("attach", "cgroup", path, "--policy", policy)
                #expect(
                    attach.stderr.contains("net.ipv6.ip_nonlocal_bind was 0 and is now 1") == (former == "0"),
                    "\(attach)")
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

    @Test("changes between the placements under open sessions")
    func changesPlacement() throws {
        let byRoute = Self.policy.replacing(#"programs: ["*"]}"#, with: #"programs: ["*"], placement: route}"#)
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            let server = try sandbox.probe("server", in: "attached/ann")
            for command in ["socket s tcp 6", "bind s ::1 9000", "listen s"] { try server.must(command) }
            func reaches() throws {
                let client = try sandbox.probe("client", in: "attached/ann")
                for command in ["socket c tcp 6", "connect c ::1 9000"] { try client.must(command) }
                #expect(try server.must("accept s a").address == "::1")
                try server.must("close a")
            }
            try reaches()
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(byRoute, named: "route.yaml"))
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::/96\n1\n")
            try reaches()
            _ = try sandbox.openSession("attached/ben", id: 8)
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::/96\n1\n")
            try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy))
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::8\nfdd2:9088:43af::9\n0\n")
            try reaches()
        }
    }

    /// Up to map layout 5, the prefix was local as a whole under every policy.
    @Test("an upgrade undoes the route and the sysctl that an earlier version has set, under open sessions")
    func undoesWhatAnEarlierVersionSet() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/ann", id: 7)
            try sandbox.sh(
                """
                ip address del fdd2:9088:43af::8/128 dev lo
                ip -6 route add local fdd2:9088:43af::/96 dev lo table local src ::1
                sysctl -qw net.ipv6.ip_nonlocal_bind=1
                python3 -c 'import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1])
                boot = open("/proc/sys/kernel/random/boot_id").read().strip()
                namespace = os.stat("/proc/self/ns/net").st_ino
                note = f"{boot} {namespace} 0 fdd2:9088:43af::/96"
                (network,) = db.execute("SELECT value FROM settings WHERE key = ?", ("network",)).fetchone()
                assert note.startswith(network), (note, network)
                db.execute("INSERT INTO settings VALUES (?, ?)", ("loopback_note", note)); db.commit()
                ' '\(sandbox.stateDirectory)/registry.sqlite'
                """)
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::/96\n1\n")
            try sandbox.mustCtl("attach", "cgroup", "\(sandbox.cgroup)/attached")
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::8\n0\n")
            try sandbox.mustCtl("detach", "--all")
            #expect(try loopbackState(sandbox) == "0\n")
        }
    }

    @Test("moves the prefix with the policy, but not under open sessions")
    func movesThePrefix() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/ann", id: 7)
            #expect(session.virtualLoopback6 == "fdd2:9088:43af::8")
            let moved = try sandbox.policyFile("virtualLoopback: {prefix: 'fd00:1::/64'}", named: "moved.yaml")
            // Its programs would go on sending to addresses that are no longer this host's.
            try refuses(sandbox, ["policy", "apply", moved], code: 1, "fdd2:9088:43af::/96", "1 open session", "close")
            try sandbox.mustCtl("session", "close", "7")
            try sandbox.mustCtl("policy", "apply", moved)
            #expect(try sandbox.openSession("attached/ann", id: 7).virtualLoopback6 == "fd00:1::8")
            #expect(try loopbackState(sandbox) == "fd00:1::8\n0\n")
            #expect(try sandbox.mustCtl("policy", "show").stdout.contains("prefix: fd00:1::/64"))

            // The network of another site: it is refused before anything is changed.
            try sandbox.mustCtl("session", "close", "7")
            try sandbox.sh("ip -6 route add fd00:2::/48 dev eth0")
            let taken = try sandbox.policyFile("virtualLoopback: {prefix: 'fd00:2::/96'}", named: "taken.yaml")
            try refuses(sandbox, ["policy", "apply", taken], code: 1, "fd00:2::/48", "virtualLoopback.prefix")
            try refuses(
                sandbox, ["attach", "cgroup", sandbox.cgroup("second"), "--policy", taken], code: 1, "fd00:2::/48")
        }
    }

    @Test("refuses a prefix that a route of the host leads to")
    func refusesAPrefixInUse() throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            try sandbox.sh("ip -6 route add fdd2:9088:43af::/64 dev eth0")
            try refuses(sandbox, ["attach", "cgroup", path], code: 1, "fdd2:9088:43af::/64", "virtualLoopback.prefix")
            #expect(try sandbox.sh("ls -d '\(sandbox.bpffs)' 2>/dev/null || true").isEmpty)
        }
    }

    @Test("puts the route and the sysctl back when a session opens")
    func restoresThePrefix() throws {
        try attached(Self.byRoute) { sandbox in
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

    @Test("warns and gives no IPv6 loopback where lo has no IPv6")
    func warnsWithoutIPv6() throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            try sandbox.sh("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1")
            let attach = try sandbox.mustCtl("attach", "cgroup", path)
            #expect(attach.stderr.split(separator: "\n").count == 1, "\(attach)")
            #expect(attach.stderr.contains("sysctl net.ipv6.conf.lo.disable_ipv6=0"), "\(attach)")
            #expect(try loopbackState(sandbox) == "0\n")
            #expect(try sandbox.mustCtl("map", "dump", "config").stdout.contains("loopback_prefix -"))
            #expect(try sandbox.openSession("attached/a", id: 7).virtualLoopback6 == nil)
            #expect(try loopbackState(sandbox) == "0\n")
            let check = try sandbox.ctl("check")
            #expect(check.status == 0 && check.stdout.contains("IPv6 is disabled on lo"), "\(check)")
            // The fix in the warning works.
            try sandbox.sh("sysctl -qw net.ipv6.conf.lo.disable_ipv6=0")
            try sandbox.mustCtl("attach", "cgroup", path)
            #expect(try loopbackState(sandbox) == "fdd2:9088:43af::8\n0\n")
            try sandbox.mustCtl("detach", "--all")
            #expect(try loopbackState(sandbox) == "0\n")
        }
    }

    /// The command is killed at each call that changes the kernel's routes or writes the sysctl.
    @Test("restores route and sysctl after a kill at any step", arguments: ["attach", "detach"])
    func restoresAfterAKill(command: String) throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            let policy = try sandbox.policyFile(Self.byRoute)
            let arguments =
                command == "attach" ? "attach cgroup '\(path)' --policy '\(policy)'" : "detach cgroup '\(path)'"
            let common = "--bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)'"
            var step = 1
            var isKilled = true
            while isKilled {
                if command == "detach" { try sandbox.mustCtl("attach", "cgroup", path, "--policy", policy) }
                let calls = "sendmsg,write,pwrite64"
                let script = """
                    strace -f -o /dev/null -e trace=\(calls) -e inject=\(calls):signal=KILL:when=\(step) \
                    '\(Build.controller.path)' \(common) \(arguments) >/dev/null 2>&1 && echo done || echo killed
                    """
                isKilled = try sandbox.sh(script).contains("killed")
                try sandbox.mustCtl("attach", "cgroup", path, "--policy", policy)
                #expect(
                    try loopbackState(sandbox) == "fdd2:9088:43af::/96\n1\n", "\(command) killed at step \(step)")
                try sandbox.mustCtl("detach", "--all")
                #expect(try loopbackState(sandbox) == "0\n", "\(command) killed at step \(step)")
                step += 5
            }
            #expect(step > 20, "no step was met")
        }
    }
}
