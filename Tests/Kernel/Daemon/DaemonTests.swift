// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// The daemon on a host of its own, with a mock of logind: sessions, addresses, policies, and failures.
@Suite(.serialized, .requiresRoot)
struct DaemonTests {
    static func policy(
        pool: String = "[198.51.100.16-198.51.100.23, \"2001:db8:51::100/124\"]", unit: String = "userSlice",
        programs: String = "[]", probeSeconds: Int = 0
    ) -> String {
        """
        virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, probeSeconds: \(probeSeconds), pool: \(pool)}}
        virtualLoopback: {enabled: true, programs: \(programs)}
        sessions: {unit: \(unit)}
        """
    }

    private func host(_ policy: String = policy(), _ body: (DaemonHost) throws -> Void) throws {
        try DaemonHost.attached(policy, body)
    }

    // MARK: Logins

    @Test func aUserHasASessionUntilTheLastProcessEnds() throws {
        try host { host in
            try host.start()
            try host.event("logind_followed")
            let shell = try host.process(in: "\(DaemonHost.slice(1001))/session-3.scope")
            try host.logind("user 1001 ann")
            let opened = try host.event("session_opened")
            #expect(opened.user == "ann" && opened.cgroup == "\(host.sandbox.attached)/user-1001.slice")
            #expect(try host.event("address_given").address == "198.51.100.16")
            #expect(try host.event("address_given").address == "2001:db8:51::101")
            let session = try #require(try host.sessions().first)
            #expect(session.id == 2 && session.user == "ann" && session.virtualIps.first == "198.51.100.16")

            // Another login of the user is in it. The user's programs may continue after the last login has ended.
            let second = try host.process(in: "\(DaemonHost.slice(1001))/session-4.scope")
            try host.logind("login 4 1001 ann")
            try host.end(shell)
            try host.logind("user -1001")
            let other = try host.process(in: DaemonHost.slice(1002))
            try host.logind("user 1002 ben")
            #expect(try host.event("session_opened").user == "ben")
            #expect(try host.sessions().map(\.user) == ["ann", "ben"])

            try host.end(second)
            #expect(try host.event("address_taken").address == "198.51.100.16")
            let closed = try host.event("session_closed")
            #expect(closed.session == 2 && closed.reason?.contains("last process") == true)
            #expect(try host.sessions().map(\.user) == ["ben"])
            #expect(try !host.sandbox.sh("ip -br addr").contains("198.51.100.16/"))
            try host.end(other)
            try host.event("session_closed")
        }
    }

    /// A user's slice that empties and fills within milliseconds: each program is in the session from its first call
    /// on.
    @Test func noProgramBeginsOutside() throws {
        try host { host in
            try host.start()
            try host.event("logind_followed")
            let shell = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            #expect(try host.event("address_given").address == "198.51.100.16")
            let rounds = """
                import os, socket, sys
                procs = open(sys.argv[1] + "/cgroup.procs", "w", buffering=1)
                print("ready", flush=True)
                sys.stdin.readline()
                others = []
                for round in range(1000):
                    child = os.fork()
                    if not child:
                        procs.write(str(os.getpid()))
                        procs.flush()
                        s = socket.socket()
                        s.bind(("0.0.0.0", 0))
                        os._exit(s.getsockname()[0] != "198.51.100.16")
                    if os.waitpid(child, 0)[1]: others.append(round)
                print(others, flush=True)
                """
            let filler = try host.sandbox.start(
                ["python3", "-c", rounds, "\(host.sandbox.cgroup)/\(DaemonHost.slice(1001))"], in: "outside")
            #expect(try filler.readLine() == "ready")
            try host.end(shell)
            try filler.write("go\n")
            #expect(try filler.readLine() == "[]")
            try host.event("session_closed")
        }
    }

    /// Stops the daemon while it closes a session whose cgroup it has frozen.
    private func stopWhileClosing(_ host: DaemonHost, _ body: (Int32) throws -> Void) throws {
        let slice = "\(host.sandbox.cgroup)/\(DaemonHost.slice(1001))"
        // The cgroup is frozen for some milliseconds, so it is not always seen.
        for _ in 0..<50 {
            let shell = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            try host.event("session_opened")
            try host.logind("user -1001")
            let daemon = try #require(host.daemon).pid
            try host.end(shell)
            // A wait would take longer than the daemon does.
            let end = ContinuousClock.now + .seconds(1)
            while try KernelFile.read("\(slice)/cgroup.freeze") != "1\n", ContinuousClock.now < end {}
            kill(daemon, SIGSTOP)
            if try KernelFile.read("\(slice)/cgroup.freeze") == "1\n" { return try body(daemon) }
            kill(daemon, SIGCONT)
            try host.event("session_closed")
        }
        Issue.record("the cgroup was never seen frozen")
    }

    @Test func aProgramThatComesWhileTheSessionCloses() throws {
        try host { host in
            try host.start()
            try host.event("logind_followed")
            try stopWhileClosing(host) { daemon in
                let slice = DaemonHost.slice(1001)
                let program = try host.sandbox.start([Build.probe.path], in: slice)
                try wait(for: "\(program.pid) to be in \(slice)") {
                    try KernelFile.read("\(host.sandbox.cgroup)/\(slice)/cgroup.procs").contains("\(program.pid)\n")
                }
                kill(daemon, SIGCONT)
                try wait(for: "the session to be open") { try host.sessions().map(\.state) == ["open"] }
                let probe = Probe(program)
                try probe.must("socket s tcp")
                try probe.must("bind s 0.0.0.0 5999")
                #expect(try probe.must("getsockname s").endpoint == "198.51.100.16:5999")
                #expect(try KernelFile.read("\(host.sandbox.cgroup)/\(slice)/cgroup.freeze") == "0\n")
                try host.end(program)
                try wait(for: "the session to be closed") { try host.sessions().isEmpty }
            }
        }
    }

    @Test func aKillWhileTheSessionCloses() throws {
        try host { host in
            try host.start()
            try host.event("logind_followed")
            try stopWhileClosing(host) { _ in
                let freeze = "\(host.sandbox.cgroup)/\(DaemonHost.slice(1001))/cgroup.freeze"
                try host.stop(SIGKILL)
                #expect(try KernelFile.read(freeze) == "1\n")
                // The next change of whatever kind.
                try host.sandbox.mustCtl("policy", "apply", host.sandbox.policyFile(Self.policy()))
                #expect(try KernelFile.read(freeze) == "0\n")
                // It may have been killed before it began to close.
                try host.start()
                try wait(for: "the session to be closed") { try host.sessions().isEmpty }
            }
        }
    }

    /// The user's last program has passed a listener to another process before it ended.
    @Test func socketsEndWithTheSession() throws {
        try host(Self.policy(programs: "[\"*\"]")) { host in
            try host.start()
            try host.event("logind_followed")
            let slice = DaemonHost.slice(1001)
            let server = try host.sandbox.probe("server", in: slice)
            try host.logind("user 1001 ann")
            let opened = try host.event("session_opened")
            for command in ["socket l tcp", "bind l 127.0.0.1 5999", "listen l"] { try server.must(command) }
            let thief = try host.sandbox.probe("thief", in: "outside")
            let path = "\(host.sandbox.directory)/mailbox"
            try thief.must("mailbox \(path)")
            try server.must("pass l \(path)")
            try thief.must("take s")
            try host.logind("user -1001")
            try host.end(server.program)
            let closed = try host.event("session_closed")
            #expect(closed.session == opened.session && closed.sockets == 1)
            #expect(closed.message.hasSuffix("(1 socket destroyed)"), "\(closed)")
            #expect(try thief("accept s c").errno == "EINVAL")
        }
    }

    /// A program of no session waits on the next loopback and the next address, with UDP sockets, which cannot be taken
    /// from it. With a second of probing, the session is open before it gets its address.
    @Test(arguments: [0, 1]) func aProgramOnTheNextAddresses(probeSeconds: Int) throws {
        try host(Self.policy(pool: "[198.51.100.16-198.51.100.23]", probeSeconds: probeSeconds)) { host in
            let squatter = try host.sandbox.probe("squatter", in: "outside")
            let outside = "/\(host.sandbox.name)/outside"
            for command in [
                "socket l udp", "bind l 127.0.0.3 53", "socket v udp", "setsockopt v freebind 1",
                "bind v 198.51.100.16 53",
            ] { try squatter.must(command) }
            try host.start()
            try host.event("logind_followed")
            let shell = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            // Those of the loopback and of the address come in the order in which they are found.
            var found: [String] = []
            for _ in 0..<2 {
                let occupied = try host.event("address_occupied")
                found += [occupied.address].compactMap(\.self)
                // The daemon has no privilege to see whose descriptors the sockets are.
                #expect(
                    occupied.reason?.contains("in cgroup \(outside) of user root") == true, "\(occupied.reason ?? "")")
                #expect(occupied.user == "root" && occupied.reason?.hasSuffix("UDP port 53") == true)
            }
            #expect(found.sorted() == ["127.0.0.3", "198.51.100.16"])
            try wait(for: "the session to have an address") {
                try host.sessions().first?.virtualIps == ["198.51.100.17"]
            }
            #expect(try host.sessions().map(\.id) == [3])
            try host.end(shell)
            try host.event("session_closed")
        }
    }

    @Test func aHostWithoutAnAddressOfItsOwn() throws {
        try host { host in
            try host.start()
            let shell = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            try host.event("address_given") { $0.address?.contains(":") == true }
            try host.sandbox.sh("ip route add 2001:db8:51::/64 dev eth0 metric 4000")
            func change(_ command: String) throws {
                try host.sandbox.sh("ip addr \(command) dev eth0")
                try host.event("host_addresses")
            }
            let text = "the host has no IPv6 address of its own on eth0"
            for _ in 0..<2 {
                try change("del 2001:db8:51::1/64")
                let warning = try #require(host.seen.last { $0.event == "warning" && $0.message.hasPrefix(text) })
                #expect(warning.interface == "eth0")
                // Once, until it is over.
                let count = host.seen.count
                try change("add 198.51.100.9/24")
                try change("del 198.51.100.9/24")
                #expect(!host.seen[count...].contains { $0.message.hasPrefix(text) })
                try change("add 2001:db8:51::1/64 nodad")
            }
            #expect(host.seen.count { $0.message.hasPrefix(text) } == 2)
            try host.end(shell)
        }
    }

    @Test func theOrderDoesNotMatter() throws {
        try host { host in
            // This login exists before the daemon starts, so it is in logind's list.
            let first = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            try host.start()
            #expect(try host.event("session_opened").user == "ann")

            // This login is listed before its cgroup exists, and before that has a process.
            try host.logind("user 1002 ben")
            _ = try host.sandbox.cgroup(DaemonHost.slice(1002))
            let second = try host.process(in: DaemonHost.slice(1002))
            #expect(try host.event("session_opened").user == "ben")

            // A cgroup that is removed, with all below it.
            try host.end(second)
            try host.sandbox.sh("rmdir '\(host.sandbox.cgroup)/\(DaemonHost.slice(1002))'")
            #expect(try host.event("session_closed").user == "ben")

            // The user starts a process again, and is still in logind's list.
            let third = try host.process(in: DaemonHost.slice(1002))
            #expect(try host.event("session_opened").user == "ben")
            for program in [first, third] {
                try host.end(program)
                try host.event("session_closed")
            }
        }
    }

    @Test func aRestartLosesNothing() throws {
        try host { host in
            try host.start()
            let ann = try host.process(in: DaemonHost.slice(1001))
            let ben = try host.process(in: DaemonHost.slice(1002))
            for user in ["1001 ann", "1002 ben"] {
                try host.logind("user \(user)")
                try host.event("session_opened")
            }
            #expect(try host.stop(SIGKILL) == 128 + SIGKILL)
            try host.end(ann)
            let eve = try host.process(in: DaemonHost.slice(1003))
            try host.logind("user 1003 eve")
            try host.start()
            #expect(try host.event("session_closed").user == "ann")
            #expect(try host.event("session_opened").user == "eve")
            #expect(try host.sessions().map(\.user).sorted { $0 ?? "" < $1 ?? "" } == ["ben", "eve"])
            #expect(!host.seen.contains { $0.event == "session_opened" && $0.user == "ben" && $0.session != 3 })

            // A clean end leaves the sessions open, too.
            #expect(try host.stop() == 0)
            #expect(try host.sessions().count == 2)
            try host.start()
            for program in [ben, eve] {
                try host.end(program)
                try host.event("session_closed")
            }
        }
    }

    @Test func everyLoginIsASession() throws {
        try host(Self.policy(unit: "sessionScope")) { host in
            try host.start()
            // logind's number, if it is allowed and free; otherwise the lowest free ID.
            var programs: [Program] = []
            for (login, id) in [("7", 7), ("c3", 2), ("53", 3), ("0", 4), ("07", 6), ("99999999", 8), ("5", 9)]
                as [(String, UInt32)]
            {
                programs.append(try host.process(in: "\(DaemonHost.slice(1001))/session-\(login).scope"))
                try host.logind("login \(login) 1001 ann")
                let opened = try host.event("session_opened")
                #expect(opened.session == id, "\(login)")
                #expect(opened.cgroup?.hasSuffix("/user-1001.slice/session-\(login).scope") == true)
            }
            // ID 2 belongs to c3.
            programs.append(try host.process(in: "\(DaemonHost.slice(1002))/session-2.scope"))
            try host.logind("login 2 1002 ben")
            #expect(try host.event("session_opened").session == 10)
            for program in programs {
                try host.end(program)
                try host.event("session_closed")
            }
        }
    }

    @Test func aSessionThatIsThereIsLeft() throws {
        try host { host in
            let ann = try host.process(in: DaemonHost.slice(1001))
            let byHand = try host.sandbox.openSession(DaemonHost.slice(1001), id: 9)
            let below = try host.process(in: "\(DaemonHost.slice(1002))/mine")
            _ = try host.sandbox.openSession("\(DaemonHost.slice(1002))/mine", id: 10)
            try host.logind("user 1001 ann")
            try host.logind("user 1002 ben")
            try host.start()
            #expect(try host.event("session_refused").user == "ben")
            #expect(try host.sessions().map(\.id) == [9, 10])
            // The session was opened by hand, so it continues in an empty cgroup, until that is removed.
            try host.end(ann)
            let eve = try host.process(in: DaemonHost.slice(1003))
            try host.logind("user 1003 eve")
            try host.event("session_opened")
            #expect(try host.sessions().contains { $0.id == 9 })
            try host.sandbox.sh("rmdir '\(byHand.cgroup)'")
            #expect(try host.event("session_closed").session == 9)
            for program in [below, eve] { try host.end(program) }
            try host.event("session_closed")
        }
    }

    @Test func logindMayGoAway() throws {
        try host { host in
            try host.endBus()
            try host.start()
            try host.event("logind_lost")
            try host.startBus()
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            #expect(try host.event("session_opened").user == "ann")

            // Only logind leaves: logins that it forgets do not end, and later ones are followed.
            try host.logind("leave")
            try host.event("logind_lost")
            try host.logind("quiet")
            try host.logind("user -1001")
            let ben = try host.process(in: DaemonHost.slice(1002))
            try host.logind("user 1002 ben")
            try host.logind("come")
            #expect(try host.event("session_opened").user == "ben")
            #expect(try host.sessions().map(\.user) == ["ann", "ben"])

            // The bus ends; cgroups are still followed.
            try host.endBus()
            try host.event("logind_lost")
            try host.end(ann)
            #expect(try host.event("session_closed").user == "ann")
            #expect(host.seen.count { $0.event == "logind_lost" } == 3, "\(host.seen)")
            try host.end(ben)
            try host.event("session_closed")
        }
    }

    @Test func theThirdOfTwoAddressesIsDeniedAndNotLeaked() throws {
        try host(Self.policy(pool: "[198.51.100.16-198.51.100.17]")) { host in
            try host.start()
            var programs: [Program] = []
            for uid in 1001...1003 {
                programs.append(try host.process(in: DaemonHost.slice(uid)))
                try host.logind("user \(uid) user\(uid)")
                try host.event("session_opened") { $0.user == "user\(uid)" }
            }
            #expect(try host.sessions().map(\.virtualIps.count) == [1, 1, 0])
            let refused = try host.event("address_refused")
            #expect(refused.user == "user1003" && refused.reason?.contains("2 of 2") == true, "\(refused)")
            let probe = try host.sandbox.probe(in: DaemonHost.slice(1003))
            try probe.must("socket a tcp")
            #expect(try probe("connect a 198.51.100.2 9").errno == "EADDRNOTAVAIL")
            for program in programs { try host.end(program) }
            try host.event("session_closed") { $0.user == "user1002" }
        }
    }

    @Test func hostileNames() throws {
        try host(Self.policy(unit: "sessionScope")) { host in
            try host.start()
            // Names that would lead elsewhere are no logins, and a session keeps no invalid name.
            var programs = [try host.process(in: "elsewhere")]
            try host.logind("login x.scope/../../../elsewhere 1001 ann")
            try host.logind("login ../elsewhere 1001 ann")
            let long = String(repeating: "n", count: 300)
            for (number, name, shown) in [
                (11, "a\\nb VIP_USER=root", "1001"), (12, long, "1001"), (13, "--help", "--help"),
                (14, "a/../b", "a/../b"),
            ] {
                programs.append(try host.process(in: "\(DaemonHost.slice(1001))/session-\(number).scope"))
                try host.logind("login \(number) 1001 \(name)")
                let opened = try host.event("session_opened")
                #expect(opened.session == UInt32(number) && opened.user == shown)
            }
            #expect(try host.sessions().map(\.id) == [11, 12, 13, 14])
            for program in programs { try host.end(program) }
        }
    }

    // MARK: Addresses

    @Test func addressesStay() throws {
        try host { host in
            try host.start()
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            try host.event("session_opened")
            let sandbox = host.sandbox
            func places() throws -> Set<String> {
                let addresses = try sandbox.sh("ip -6 -o addr show dev eth0; ip -6 -o addr show dev lo")
                return try sandbox.virtualIPs().union(
                    addresses.matches(of: /inet6 (2001:db8:51::101|fdd2:\S+)\/128/).map { String($0.1) })
            }
            #expect(try places() == ["198.51.100.16", "2001:db8:51::101", "fdd2:9088:43af::3"])
            for (address, removal) in [
                ("198.51.100.16", "ip route del local 198.51.100.16 dev eth0 table local"),
                ("2001:db8:51::101", "ip addr del 2001:db8:51::101/128 dev eth0"),
            ] {
                try sandbox.sh(removal)
                let restored = try host.event("address_restored")
                #expect(restored.address == address && restored.session == 2)
                #expect(try places().contains(address))
            }
            try sandbox.sh("ip addr del fdd2:9088:43af::3/128 dev lo")
            try wait(for: "the loopback") { try places().contains("fdd2:9088:43af::3") }

            // With the host's last IPv4 address, the kernel removes all IPv4 routes of the interface.
            try sandbox.sh("ip -4 addr flush dev eth0; ip addr add \(Sandbox.hostAddress)/24 dev eth0")
            try wait(for: "the virtual IP") { try places().contains("198.51.100.16") }

            // When the interface is down, the kernel removes IPv6 addresses; when it is up, they are restored.
            try sandbox.sh("ip link set eth0 down")
            try host.event("interface_down")
            try sandbox.sh("ip link set eth0 up")
            try host.event("interface_up")
            try wait(for: "the daemon's change") {
                try sandbox.sh("ip -o addr show dev eth0").contains(" 2001:db8:51::101/128 ")
            }

            // The new name is recorded, and the addresses are finally removed from the right interface.
            try sandbox.sh("ip link set eth0 down; ip link set eth0 name lan0; ip link set lan0 up")
            #expect(try host.event("interface_renamed").interface == "lan0")
            try sandbox.sh("ip route del local 198.51.100.16 dev lan0 table local")
            try host.event("address_restored") { $0.address == "198.51.100.16" && $0.interface == "lan0" }

            // After the interface is removed and created again, restoring is tried until it succeeds.
            try sandbox.sh("ip link del lan0")
            try host.event("interface_removed")
            #expect(try host.event("address_missing").priority == 3)
            try sandbox.sh("ip link add lan0 type veth peer name lan1; ip link set lan0 up; ip link set lan1 up")
            try host.event("interface_added")
            try host.event("address_restored") { $0.address == "198.51.100.16" }
            try host.end(ann)
            try host.event("session_closed")
            #expect(try !sandbox.sh("ip -o addr").contains("198.51.100.16"))
        }
    }

    @Test func theHooksKnowTheHostsAddresses() throws {
        try host { host in
            try host.start()
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            try host.event("session_opened")
            let probe = try host.sandbox.probe(in: DaemonHost.slice(1001))
            try probe.must("socket a tcp")
            // An address that is not the host's is left to the kernel.
            #expect(try probe("bind a 198.51.100.9 9000").errno == "EADDRNOTAVAIL")
            try host.sandbox.sh("ip addr add 198.51.100.9/24 dev eth0; ip addr add 2001:db8:51::9/64 dev eth0 nodad")
            try wait(for: "the daemon's change") {
                let rows = try host.sandbox.mustCtl("map", "dump", "addresses", "--json").stdout
                return rows.contains("\"198.51.100.9\"") && rows.contains("\"2001:db8:51::9\"")
            }
            try host.event("host_addresses")
            try probe.must("bind a 198.51.100.9 9000")
            #expect(try probe("getsockname a").endpoint == "198.51.100.16:9000")
            try host.sandbox.sh("ip addr del 198.51.100.9/24 dev eth0")
            try wait(for: "the daemon's change") {
                try !host.sandbox.mustCtl("map", "dump", "addresses", "--json").stdout.contains("\"198.51.100.9\"")
            }
            try host.end(ann)
        }
    }

    // MARK: Wildcard ports

    /// A program that is not listed, and one that listens without `bind`. With SIGHUP, the daemon looks at once.
    @Test func wildcardPortsInSessions() throws {
        let policy =
            Self.policy(pool: "[198.51.100.16-198.51.100.23]").replacing("mode: perSession", with: "programs: [listed]")
            + "\noverrides: [{name: plain, match: {users: [ben]}, virtualIP: {enabled: false}}]\n"
        try host(policy) { host in
            let sandbox = host.sandbox
            try host.start(["--policy", try sandbox.policyFile(policy)])
            try host.event("logind_followed")
            let path = "\(sandbox.directory)/bin/listed"
            try sandbox.sh("install -m 755 '\(Build.probe.path)' '\(path)'")
            let mallory = try Probe(
                sandbox.start(
                    ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--", path],
                    in: "\(DaemonHost.slice(1001))/session-3.scope"))
            let ben = try sandbox.probe("listed", in: DaemonHost.slice(1002))
            var ids: [String: UInt32] = [:]
            for user in ["1001 ann", "1002 ben"] {
                try host.logind("user \(user)")
                let opened = try host.event("session_opened")
                ids[opened.user ?? ""] = opened.session
            }
            let outside = try sandbox.probe("outside", in: "outside")
            func serve(_ probe: Probe, _ port: Int, _ name: String) throws {
                for command in ["socket \(name) tcp", "bind \(name) 0.0.0.0 \(port)", "listen \(name)"] {
                    try probe.must(command)
                }
            }
            func look(expecting port: Int) throws {
                host.daemon?.signal(SIGHUP)
                try host.event("wildcard_port") { $0.reason?.hasPrefix("TCP port \(port): ") == true }
            }
            func told(_ port: Int) -> Int {
                host.seen.count { $0.event == "wildcard_port" && $0.reason?.hasPrefix("TCP port \(port): ") == true }
            }
            // To the listed program, the virtual IP applies. To ben, and outside, the policy gives the host's
            // addresses.
            try serve(mallory, 9000, "v")
            try serve(ben, 9001, "b")
            try serve(outside, 9002, "o")
            for command in ["socket l tcp 6", "listen l"] { try mallory.must(command) }
            let view = try #require(mallory.kernelView("l")?.local)
            let port = try #require(view.split(separator: ":").last.flatMap { Int($0) })
            host.daemon?.signal(SIGHUP)
            let first = try host.event("wildcard_port")
            #expect(first.priority == 4 && first.session == ids["ann"] && first.user == "ann", "\(first)")
            #expect(first.cgroup == "\(sandbox.attached)/user-1001.slice" && first.address == nil)
            // The daemon has no privilege to see whose descriptors the sockets are.
            let who = "a program in cgroup /\(sandbox.name)/\(DaemonHost.slice(1001))/session-3.scope"
            #expect(first.reason == "TCP port \(port): \(who)", "\(first.reason ?? "")")
            let session = try #require(ids["ann"])
            #expect(first.message == "\(who), of session \(session), holds TCP port \(port) on every address")

            // Each is reported once, also if it is opened anew between two looks, and again after it was gone.
            let app = try sandbox.probe("app", in: DaemonHost.slice(1001))
            try serve(app, 9003, "a")
            try serve(app, 9003 + 1, "once")
            try look(expecting: 9003)
            try app.must("close a")
            try serve(app, 9003, "again")
            try serve(app, 9005, "c")
            try look(expecting: 9005)
            #expect([port, 9003, 9004, 9005].map(told) == [1, 1, 1, 1], "\(host.seen)")
            try app.must("close again")
            try serve(app, 9006, "d")
            try look(expecting: 9006)
            try serve(app, 9003, "more")
            try look(expecting: 9003)
            #expect([port, 9003, 9004].map(told) == [1, 2, 1], "\(host.seen)")
            #expect([9000, 9001, 9002].map(told) == [0, 0, 0], "\(host.seen)")

            // A user cannot fill the journal.
            let count = host.seen.count { $0.event == "wildcard_port" }
            for index in 0..<20 {
                for command in ["socket n\(index) tcp", "listen n\(index)"] { try app.must(command) }
            }
            host.daemon?.signal(SIGHUP)
            let rest = try host.event("wildcard_port") { $0.reason == "12 more ports" }
            #expect(rest.message == "programs of session \(session) hold 12 more ports on every address")
            #expect(host.seen.count { $0.event == "wildcard_port" } == count + 9, "\(host.seen)")

            // What another policy makes of ben's server is reported then.
            try Self.policy(pool: "[198.51.100.16-198.51.100.23]").write(
                toFile: "\(sandbox.directory)/policy.yaml", atomically: true, encoding: .utf8)
            try look(expecting: 9001)
            #expect(host.seen.last?.user == "ben")
            #expect([port, 9004, 9002].map(told) == [1, 1, 0], "\(host.seen)")
            for probe in [mallory, app, ben] { try host.end(probe.program) }
        }
    }

    // MARK: Policy and programs

    @Test func anUpgradedProgramMatchesAgain() throws {
        try Sandbox.with { sandbox in
            let crm = "\(sandbox.directory)/bin/crm"
            try sandbox.sh("install -m 755 '\(Build.probe.path)' '\(crm)'; ln -s '\(crm)' '\(sandbox.directory)/link'")
            let policy = Self.policy(programs: "[\(sandbox.directory)/link]")
            try sandbox.mustCtl("attach", "cgroup", sandbox.cgroup("attached"), "--policy", sandbox.policyFile(policy))
            let host = try DaemonHost(sandbox)
            try host.start()
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            try host.event("session_opened")
            // As dpkg does it: a new file replaces the old one.
            try sandbox.sh("install -m 755 '\(Build.probe.path)' '\(crm).new'; mv '\(crm).new' '\(crm)'")
            try host.event("programs_refreshed")
            let probe = try sandbox.probe(crm, in: DaemonHost.slice(1001))
            for call in ["socket a tcp", "bind a 127.0.0.1 9000", "listen a"] { try probe.must(call) }
            #expect(try probe.kernelView("a")?.local == "127.0.0.3:9000")
            try host.end(ann)
            #expect(try host.stop() == 0)
            try sandbox.mustCtl("detach", "--all")
        }
    }

    @Test func reloadAppliesThePolicyFile() throws {
        try host { host in
            let file = try host.sandbox.policyFile(Self.policy(), named: "new.yaml")
            try host.start(["--policy", file])
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            try host.event("session_opened")

            try "virtualIP: {enabled: maybe}".write(toFile: file, atomically: true, encoding: .utf8)
            host.daemon?.signal(SIGHUP)
            let refused = try host.event("error")
            #expect(
                refused.message.hasPrefix("policy unchanged: ") && refused.message.contains("virtualIP.enabled"),
                "\(refused)")
            #expect(try host.sandbox.mustCtl("policy", "show").stdout.contains("perSession"))

            try Self.policy(unit: "sessionScope").write(toFile: file, atomically: true, encoding: .utf8)
            host.daemon?.signal(SIGHUP)
            try host.event("policy_reloaded")
            #expect(try host.sandbox.mustCtl("policy", "show").stdout.contains("sessionScope"))
            // The user's session stays until it ends; from then on, each login is one.
            let login = try host.process(in: "\(DaemonHost.slice(1001))/session-6.scope")
            try host.logind("login 6 1001 ann")
            try host.event("session_refused")
            #expect(try host.sessions().map(\.cgroup) == ["\(host.sandbox.attached)/user-1001.slice"])
            try host.end(ann)
            try host.end(login)
            try host.event("session_closed")
            let next = try host.process(in: "\(DaemonHost.slice(1001))/session-6.scope")
            #expect(try host.event("session_opened").session == 6)
            try host.end(next)
            try host.event("session_closed")
        }
    }

    /// A file that would harm open sessions is not applied, unless an administrator has forced it.
    @Test func reloadRefusesAHarmfulPolicy() throws {
        try host { host in
            let sandbox = host.sandbox
            let harmful = Self.policy(pool: "[203.0.113.16/28]")
            let file = try sandbox.policyFile(Self.policy(), named: "new.yaml")
            try host.start(["--policy", file])
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            let session = try #require(try host.event("session_opened").session)

            try harmful.write(toFile: file, atomically: true, encoding: .utf8)
            host.daemon?.signal(SIGHUP)
            let refused = try host.event("policy_refused")
            #expect(refused.message.hasPrefix("policy unchanged: apply policy \(file):"), "\(refused)")
            #expect(refused.message.contains("(1 open session: \(session))"), "\(refused)")
            #expect(try !sandbox.mustCtl("policy", "show").stdout.contains("203.0.113"))

            try sandbox.mustCtl("policy", "apply", "--force", file)
            let hazard = try host.event("policy_hazard")
            #expect(hazard.message.contains("in no network of eth0"), "\(hazard)")
            host.daemon?.signal(SIGHUP)
            try host.event("policy_reloaded")
            #expect(try sandbox.mustCtl("policy", "show").stdout.contains("203.0.113"))
            try host.end(ann)
            try host.event("session_closed")
        }
    }

    /// The daemon puts the former policy in force again, also if the process that waits for that was killed.
    @Test func endsTheTrialOfAPolicy() throws {
        try host { host in
            let sandbox = host.sandbox
            try host.start()
            let other = try sandbox.policyFile(Self.policy(unit: "sessionScope"), named: "other.yaml")
            try sandbox.mustCtl("policy", "apply", "--confirm", "2", other)
            try sandbox.sh(
                "for pid in $(cat '\(sandbox.cgroup)/control/cgroup.procs'); do "
                    + "! grep -qs 'await-confirmatio[n]' /proc/$pid/cmdline || kill -9 $pid; done")
            let event = try host.event("warning") { $0.message.contains("not confirmed in time") }
            #expect(event.priority == 4, "\(event)")
            #expect(try sandbox.mustCtl("policy", "show").stdout.contains("userSlice"))
        }
    }

    // MARK: Being a daemon

    @Test func theSecondDaemonSaysSoAndEnds() throws {
        try host { host in
            try host.start()
            let pid = try #require(host.daemon?.pid)
            let second = try host.sandbox.ctl("daemon", "--bus", "unix:path=/nonexistent")
            #expect(
                second.status == 1 && second.stderr.contains("process \(pid) (vip-bpfctl) is already running"),
                "\(second)")
            #expect(second.stderr.split(separator: "\n").count == 1, "\(second)")
        }
    }

    @Test func itSleepsWhenThereIsNothingToDo() throws {
        try host { host in
            try host.start()
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            try host.event("address_given") { $0.address?.contains(":") == true }
            let pid = try #require(host.daemon?.pid)
            func wakeUps() throws -> Int {
                let status = try KernelFile.read("/proc/\(pid)/status")
                let line = status.split(separator: "\n").first { $0.hasPrefix("voluntary_ctxt_switches:") }
                return try #require(line.flatMap { Int($0.split(separator: "\t").last ?? "") })
            }
            // Wait until the work that its own change caused is done: look for a second and a half without work, which
            // on a busy machine may be the third one.
            try wait(for: "the daemon to sleep") {
                let before = try wakeUps()
                usleep(1_500_000)
                return try wakeUps() - before <= 2
            }
            try host.end(ann)
        }
    }

    @Test func theClockMayJump() throws {
        try host { host in
            // libfaketime takes the wall clock from a file; the monotonic clock is the kernel's.
            let clock = "\(host.sandbox.directory)/clock"
            try "+0".write(toFile: clock, atomically: true, encoding: .utf8)
            try host.start(environment: try host.fakeClock(from: clock))
            try host.event("logind_followed")
            for (uid, offset) in [(1001, "-3650d"), (1002, "+3650d"), (1003, "+0")] {
                try offset.write(toFile: clock, atomically: true, encoding: .utf8)
                let program = try host.process(in: DaemonHost.slice(uid))
                try host.logind("user \(uid) user\(uid)")
                let opened = try host.event("session_opened")
                #expect(opened.user == "user\(uid)")
                let year = try #require(opened.time.split(separator: "-").first.flatMap { Int($0) })
                let now = Calendar.current.component(.year, from: Date())
                #expect(
                    abs(year - now - (offset == "+0" ? 0 : offset.hasPrefix("-") ? -10 : 10)) <= 1, "it was not fooled")
                try host.end(program)
                try host.event("session_closed")
            }
        }
    }

    @Test func aStateDirectoryThatCannotBeWritten() throws {
        try host { host in
            let state = host.sandbox.stateDirectory
            let inner = ["unshare", "--mount", "/bin/sh", "-c"]
            let bind = "mount --bind '\(state)' '\(state)' && mount -o remount,bind,ro '\(state)' && exec \"$@\""
            try host.start(wrapper: inner + [bind, "sh"], waiting: false)
            let line = try #require(try host.daemon?.readLine())
            #expect(line.hasPrefix("vip-bpfctl: lock \(state)/daemon.lock: read-only file system"), "\(line)")
            #expect(try host.stop(0) == 1)

            // The state changes: it is reported once, and afterwards nothing is lost.
            try host.start(wrapper: inner + ["exec \"$@\"", "sh"])
            try host.event("logind_followed")
            let pid = try #require(host.daemon?.pid)
            try host.sandbox.sh(
                "nsenter --target \(pid) --mount /bin/sh -ec '\(bind.replacing(" && exec \"$@\"", with: "").replacing("'", with: ""))'"
            )
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            let refused = try host.event("session_refused")
            #expect(refused.message.contains("read-only file system"), "\(refused)")
            try host.sandbox.sh("nsenter --target \(pid) --mount umount --lazy '\(state)'")
            #expect(try host.event("session_opened").user == "ann")
            #expect(host.seen.count { $0.event == "session_refused" } == 1, "\(host.seen)")
            try host.end(ann)
            try host.event("session_closed")
        }
    }

    @Test func eventsAreFieldsOfTheJournal() throws {
        try host { host in
            // A journal that prints the fields of each entry in the form in which the daemon prints events without a
            // journal.
            let journal = """
                import json, socket
                s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                s.bind("/run/systemd/journal/socket")
                while True:
                    fields = dict(line.split("=", 1) for line in s.recv(65536).decode().splitlines())
                    assert fields.pop("SYSLOG_IDENTIFIER") == "vip-bpfctl"
                    fields["TIME"] = ""
                    event = {name.removeprefix("VIP_").lower(): value for name, value in fields.items()}
                    for name in ("priority", "session", "sockets"):
                        if name in event: event[name] = int(event[name])
                    print(json.dumps(event), flush=True)
                    if event["event"] == "stopped": break
                """
            try journal.write(toFile: "\(host.sandbox.directory)/journal.py", atomically: true, encoding: .utf8)
            let start = """
                mount -t tmpfs none /run && mkdir -p /run/systemd/journal
                python3 '\(host.sandbox.directory)/journal.py' &
                for try in $(seq 6000); do [ -S /run/systemd/journal/socket ] && break; sleep 0.05; done
                exec "$@"
                """
            try host.start(wrapper: ["unshare", "--mount", "/bin/sh", "-c", start, "sh"], events: [])
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            let opened = try host.event("session_opened")
            #expect(opened.session == 2 && opened.user == "ann" && opened.priority == 5)
            #expect(opened.cgroup == "\(host.sandbox.attached)/user-1001.slice")
            let given = try host.event("address_given")
            #expect(given.address == "198.51.100.16" && given.interface == "eth0" && given.session == 2)
            try host.end(ann)
            #expect(try host.event("session_closed").reason == "the last process has left its cgroup")
        }
    }

    @Test func itTellsTheServiceManager() throws {
        try host { host in
            let path = "\(host.sandbox.directory)/notify"
            let listen = """
                import socket, sys
                s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                s.bind(sys.argv[1])
                print("ready", flush=True)
                while True:
                    print(s.recv(4096).decode().replace("\\n", " "), flush=True)
                """
            let manager = try host.sandbox.start(["python3", "-c", listen, path], in: "outside")
            #expect(try manager.readLine() == "ready")
            func told(_ what: String) throws -> String {
                while true {
                    let line = try manager.readLine()
                    if line.hasPrefix(what) { return line }
                }
            }
            let file = try host.sandbox.policyFile(Self.policy(), named: "new.yaml")
            try host.start(["--policy", file], environment: ["NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"])
            _ = try told("STATUS=0 sessions; following logind")
            _ = try told("READY=1")
            for _ in 0..<3 { _ = try told("WATCHDOG=1") }
            host.daemon?.signal(SIGHUP)
            #expect(try told("RELOADING=1").contains(" MONOTONIC_USEC="))
            _ = try told("READY=1")
            #expect(try host.stop() == 0)
            _ = try told("STOPPING=1")
        }
    }
}
