// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// `source: dhcp`, from a login to the server's state: the daemon with the privileges of its unit, the real udhcpc, and
/// dnsmasq, Kea or a hostile server on the host outside.
@Suite(.serialized, .requiresRoot)
struct LeaseTests {
    enum Server: Sendable { case dnsmasq, kea }

    @Test(arguments: [Server.dnsmasq, .kea])
    func everyUserHasAnAddressOfTheServers(_ kind: Server) throws {
        try DaemonHost.withLeases { host in
            let server =
                switch kind {
                case .dnsmasq: try host.dnsmasq()
                case .kea: try host.kea(seconds: 60)
                }
            try host.start()
            let ann = try host.login(1001, "ann")
            let ben = try host.login(1002, "ben")
            #expect(ann.address.hasPrefix("198.51.100.1") && ann.address != ben.address)
            #expect(try host.placed() == [ann.address, ben.address])
            #expect(try host.sessions().map(\.virtualIps) == [[ann.address], [ben.address]])

            // The same server on the same port in both sessions; each can be reached from outside.
            let client = try host.sandbox.probe(in: "outside", at: .outside)
            for (uid, address) in [(1001, ann.address), (1002, ben.address)] {
                let program = try host.sandbox.probe(in: DaemonHost.slice(uid))
                try program.must("socket a tcp")
                #expect(try program.must("bind a 0.0.0.0 9000").endpoint == nil)
                try program.must("listen a")
                #expect(try program.must("getsockname a").endpoint == "\(address):9000")
                try client.must("socket c\(uid) tcp")
                try client.must("connect c\(uid) \(address) 9000")
                try host.end(program.program)
            }

            // After the logout, the server has the release. After the next login, the address is the same.
            try host.end(ann.shell)
            #expect(try host.event("address_taken").address == ann.address)
            #expect(try host.event("lease_released").address == ann.address)
            try host.waitFor("the release at the server") {
                kind == .kea
                    ? host.text("kea.log").contains("DHCP4_RELEASE ")
                    : !host.text("dnsmasq.leases").contains(" \(ann.address) ")
            }
            #expect(try host.placed() == [ben.address] && host.clients().count == 1)
            #expect(try host.endings(of: ann.address).contains("cgroup-empty"))
            let again = try host.process(in: DaemonHost.slice(1001))
            #expect(try host.event("address_given") { $0.user == "ann" }.address == ann.address)
            for shell in [again, ben.shell] {
                try host.end(shell)
                try host.event("lease_released")
            }
            #expect(try host.clients().isEmpty && host.placed().isEmpty)
            #expect(server.status == nil)
        }
    }

    @Test func aRestartLosesNoLease() throws {
        try DaemonHost.withLeases { host in
            let server = try host.dnsmasq()
            try host.start()
            let ann = try host.login(1001, "ann")
            let ben = try host.login(1002, "ben")
            let clients = try host.clients()
            #expect(clients.count == 2)
            for signal in [SIGKILL, SIGTERM] {
                _ = try host.stop(signal)
                #expect(try host.placed() == [ann.address, ben.address] && host.clients() == clients)
                let count = host.seen.count
                try host.start()
                try host.event("logind_followed")
                // A later login is handled after all earlier ones.
                let eve = try host.login(1003, "eve")
                #expect(![ann.address, ben.address].contains(eve.address))
                try host.end(eve.shell)
                try host.event("lease_released") { $0.address == eve.address }
                let after = host.seen.dropFirst(count)
                #expect(!after.contains { $0.event == "address_taken" && $0.user != "eve" }, "\(after)")
                #expect(try host.placed() == [ann.address, ben.address] && host.clients() == clients)
            }
            // The lease of a session that ends while no daemon runs is released later.
            _ = try host.stop(SIGKILL)
            try host.end(ann.shell)
            try host.start()
            #expect(try host.event("lease_released").address == ann.address)
            try host.waitFor("the release at the server") {
                !host.text("dnsmasq.leases").contains(" \(ann.address) ")
            }
            try host.end(ben.shell)
            try host.event("lease_released")
            #expect(server.status == nil)
        }
    }

    @Test func aSilentServerLeaksNothing() throws {
        try DaemonHost.withLeases { host in
            try host.start()
            let shell = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            let opened = try host.event("session_opened")
            let refused = try host.event("address_refused")
            #expect(refused.session == opened.session && refused.reason == "no DHCP server answered 3 times in 6 s")
            let program = try host.sandbox.probe(in: DaemonHost.slice(1001))
            try program.must("socket a tcp")
            #expect(try program("bind a 0.0.0.0 9000").errno == "EADDRNOTAVAIL")
            try program.must("socket b tcp")
            #expect(try program("connect b \(Sandbox.outsideAddress) 9000").errno == "EADDRNOTAVAIL")

            // The daemon tries again by itself, and reports the failure only once.
            let server = try host.dnsmasq()
            let given = try host.event("address_given")
            #expect(given.session == opened.session)
            #expect(host.seen.count { $0.event == "address_refused" } == 1)
            try program.must("bind a 0.0.0.0 9000")
            #expect(try program.must("getsockname a").address == given.address)
            try host.end(program.program)
            try host.end(shell)
            try host.event("lease_released")
            #expect(server.status == nil)
        }
    }

    @Test func oneAddressForAllIsOneSessions() throws {
        try DaemonHost.withLeases { host in
            let server = try host.dnsmasq("--dhcp-ignore-clid")
            try host.start()
            let ann = try host.login(1001, "ann")
            let shell = try host.process(in: DaemonHost.slice(1002))
            try host.logind("user 1002 ben")
            let refused = try host.event("lease_refused")
            #expect(refused.user == "ben" && refused.address == ann.address && refused.interface == "eth0")
            let without = try host.event("address_refused")
            #expect(without.user == "ben" && without.reason?.contains("does not tell clients apart") == true)
            #expect(try host.sessions().map(\.virtualIps) == [[ann.address], []])
            #expect(try host.placed() == [ann.address])
            for program in [ann.shell, shell] { try host.end(program) }
            try host.event("session_closed") { $0.user == "ben" }
            #expect(server.status == nil)
        }
    }

    /// A lease is refused at renewal, changed at renewal, or expires: the session follows the server, and so does the
    /// history.
    @Test func whatTheServerTakesIsTaken() throws {
        try DaemonHost.withLeases { host in
            let server = try host.hostile(#"{"offer": "198.51.100.101", "seconds": 15}"#)
            try host.start()
            let ann = try host.login(1001, "ann")
            #expect(ann.address == "198.51.100.101")
            let program = try host.sandbox.probe(in: DaemonHost.slice(1001))
            for command in ["socket u udp", "bind u 0.0.0.0 9100"] { try program.must(command) }

            try host.tell(server, #"{"renew": "nak", "offer": "198.51.100.102"}"#)
            #expect(try host.event("lease_lost").reason == "the server refused to renew it")
            let taken = try host.event("address_taken")
            #expect(taken.address == "198.51.100.101" && taken.reason == "the server refused to renew it")
            #expect(taken.sockets == 1)
            #expect(try program("recv u").errno == "ECONNABORTED", "the socket ended with the address")
            #expect(try host.event("address_given").address == "198.51.100.102")
            #expect(try host.placed() == ["198.51.100.102"])
            #expect(try host.endings(of: "198.51.100.101") == ["lease-lost"])

            try host.tell(server, #"{"renew": "198.51.100.103"}"#)
            let changed = try host.event("lease_changed")
            #expect(changed.session == ann.session && changed.address == "198.51.100.103")
            #expect(try host.event("address_taken").address == "198.51.100.102")
            #expect(try host.event("address_given").address == "198.51.100.103")
            #expect(try host.placed() == ["198.51.100.103"])
            #expect(try host.endings(of: "198.51.100.102") == ["lease-changed"])
            #expect(try host.sessions().map(\.virtualIps) == [["198.51.100.103"]])
            try program.must("socket a tcp")
            try program.must("bind a 0.0.0.0 9000")
            #expect(try program.must("getsockname a").address == "198.51.100.103")

            try host.tell(server, #"{"silent": true}"#)
            #expect(try host.event("lease_lost").reason == "it was not renewed in time")
            #expect(try host.event("address_taken").address == "198.51.100.103")
            #expect(try host.placed().isEmpty)
            try program.must("socket b tcp")
            #expect(try program("bind b 0.0.0.0 9001").errno == "EADDRNOTAVAIL")
            try host.tell(server, #"{"silent": false, "offer": "198.51.100.103", "renew": "ack"}"#)
            #expect(try host.event("address_given").address == "198.51.100.103")
            try program.must("bind b 0.0.0.0 9001")
            for one in [program.program, ann.shell] { try host.end(one) }
            try host.event("lease_released")
        }
    }

    @Test func hostileAnswersGiveNoAddress() throws {
        let policy = """
            virtualIP: {enabled: true, mode: perSession, addresses: {source: dhcp}}
            """
        // The interface is that of the default route.
        try DaemonHost.withLeases(policy) { host in
            let server = try host.hostile(#"{"offer": "198.51.100.101", "seconds": 60}"#)
            // One of the addresses is a session's that was opened by hand, which the source of leases does not know.
            try host.start()
            _ = try host.sandbox.openSession("attached/by-hand", id: 9, ips: ["198.51.100.105"])
            for (uid, (address, why)) in [
                ("0.0.0.0", "0.0.0.0"), ("127.0.0.8", "loopback"), ("224.0.0.1", "multicast"),
                ("10.0.0.1", "in no network"),
                (Sandbox.hostAddress, "host's own"), ("198.51.100.255", "broadcast"), ("198.51.100.105", "has it"),
            ].enumerated() {
                try host.tell(server, "{\"offer\": \"\(address)\"}")
                let shell = try host.process(in: DaemonHost.slice(2000 + uid))
                try host.logind("user \(2000 + uid) user\(uid)")
                // The previous one may have been tried again.
                let refused = try host.event("lease_refused") { $0.user == "user\(uid)" }
                #expect(refused.address == address && refused.reason?.contains(why) == true, "\(refused)")
                try host.event("address_refused") { $0.user == "user\(uid)" }
                #expect(try host.placed() == ["198.51.100.105"])
                try host.end(shell)
                try host.event("session_closed")
            }
            #expect(try host.tell(server, "{}").allSatisfy { !$0.hasPrefix("RELEASE") })
            // This does not prevent a good answer.
            try host.tell(server, #"{"offer": "198.51.100.101"}"#)
            let ann = try host.login(1001, "ann")
            #expect(ann.address == "198.51.100.101")
            try host.end(ann.shell)
            try host.event("lease_released")
        }
    }

    @Test func aLeaseLastsAsLongAsItDoesWhateverTheClockSays() throws {
        try DaemonHost.withLeases { host in
            let server = try host.hostile(#"{"offer": "198.51.100.101", "seconds": 15}"#)
            let clock = "\(host.sandbox.directory)/clock"
            try "+0".write(toFile: clock, atomically: true, encoding: .utf8)
            try host.start(environment: try host.fakeClock(from: clock))
            let ann = try host.login(1001, "ann")
            for offset in ["+3650d", "-3650d"] {
                try offset.write(toFile: clock, atomically: true, encoding: .utf8)
                try host.tell(server, "{}")
                try host.waitFor("a renewal") {
                    try host.tell(server, "{}").contains { $0.hasPrefix("REQUEST - 198.51.100.101 ") }
                }
            }
            // A daemon that starts with another clock.
            _ = try host.stop(SIGKILL)
            try host.start()
            try host.tell(server, #"{"silent": true}"#)
            // The clock that jumps gives it no years.
            try host.event("lease_lost")
            #expect(!host.seen.dropLast().contains { $0.event == "address_taken" })
            try host.event("address_taken")
            try host.end(ann.shell)
            try host.event("session_closed")
        }
    }

    @Test func byHandTheDaemonIsNeeded() throws {
        try DaemonHost.withLeases { host in
            let sandbox = host.sandbox
            let cgroup = try sandbox.cgroup("attached/mine")
            let refused = try sandbox.ctl("session", "open", "--cgroup", cgroup, "--user", "ann")
            #expect(refused.status == 1)
            #expect(
                refused.stderr.contains("its address is to be leased by DHCP, which the daemon does, and none runs;"),
                "\(refused)")
            #expect(try sandbox.ctl("run", "--", "true").status == 1)
            #expect(
                try sandbox.ctl("check").stdout.contains("the policy leases addresses, and the daemon does not run"))
            #expect(try host.sessions().isEmpty)
            // A session with an address needs no lease.
            let given = try sandbox.openSession("attached/given", id: 9, ips: ["198.51.100.90"])
            #expect(given.virtualIps == ["198.51.100.90"])

            let server = try host.dnsmasq()
            try host.start()
            let opened = try sandbox.mustCtl("session", "open", "--cgroup", cgroup, "--user", "ann", "--json")
                .decode(OpenSession.self)
            #expect(opened.virtualIps.count == 1 && opened.virtualIps[0].hasPrefix("198.51.100.1"))
            #expect(try sandbox.ctl("check").stdout.contains("addresses are leased by /"))
            // The second session of the same user gets another address, and the first program of a command already has
            // it.
            let shown = try sandbox.mustCtl("run", "--", Build.controller.path, "whoami", "--json").stdout
            #expect(shown.contains("198.51.100.1") && !shown.contains(opened.virtualIps[0]), "\(shown)")
            try host.event("lease_released")
            try sandbox.mustCtl("session", "close", "\(opened.id)")
            #expect(try host.event("lease_released").address == opened.virtualIps[0])
            #expect(try host.sessions().map(\.id) == [9])
            #expect(server.status == nil)
        }
    }

    /// Sessions, clients, interface and maps end with a boot; the user of an address is kept.
    @Test func afterABootTheSameUserAsksForTheSameAddress() throws {
        try DaemonHost.withLeases { host in
            let server = try host.hostile(#"{"offer": "198.51.100.101", "seconds": 60}"#)
            try host.start()
            let ann = try host.login(1001, "ann")
            _ = try host.stop(SIGKILL)
            for client in try host.clients() { kill(client, SIGKILL) }
            try host.waitFor("the clients' end") { try host.clients().isEmpty }
            let (sandbox, other) = (host.sandbox, "00000000-0000-0000-0000-000000000000")
            try sandbox.sh(
                """
                rm -r '\(sandbox.stateDirectory)/run'
                ip route del local 198.51.100.101 dev eth0 table local
                sed -i 's/"bootID":"[^"]*"/"bootID":"\(other)"/' '\(sandbox.stateDirectory)'/leases/eth0/*.json
                grep -q '\(other)' '\(sandbox.stateDirectory)'/leases/eth0/*.json
                python3 -c 'import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
                db.execute("UPDATE sessions SET boot_id = ?", sys.argv[2:]); db.commit()' \
                '\(sandbox.stateDirectory)/registry.sqlite' \(other)
                """)
            try host.tell(server, "{}")
            try host.start(waiting: false)
            #expect(try host.event("session_opened").user == "ann")
            #expect(try host.event("address_given").address == "198.51.100.101")
            #expect(try host.tell(server, "{}").first?.hasPrefix("DISCOVER 198.51.100.101 ") == true)
            #expect(try host.endings(of: "198.51.100.101") == ["earlier-boot", nil])
            try host.end(ann.shell)
            try host.event("lease_released")
        }
    }

    /// Two sessions of one user are two clients, also after a restart.
    @Test func oneUsersSessionsHaveAnAddressEach() throws {
        try DaemonHost.withLeases(DaemonHost.leasePolicy + "\nsessions: {unit: sessionScope}") { host in
            let server = try host.dnsmasq()
            try host.start()
            var shells: [Program] = []
            var addresses: [String] = []
            for login in ["7", "8"] {
                shells.append(try host.process(in: "\(DaemonHost.slice(1001))/session-\(login).scope"))
                try host.logind("login \(login) 1001 ann")
                addresses.append(try #require(try host.event("address_given").address))
            }
            #expect(addresses[0] != addresses[1])
            _ = try host.stop(SIGKILL)
            try host.end(shells[0])
            try host.start()
            #expect(try host.event("lease_released").address == addresses[0])
            #expect(try host.sessions().map(\.virtualIps) == [[addresses[1]]])
            // The new session gets the free slot, and with it the address.
            let third = try host.process(in: "\(DaemonHost.slice(1001))/session-9.scope")
            try host.logind("login 9 1001 ann")
            #expect(try host.event("address_given").address == addresses[0])
            #expect(try host.placed() == Set(addresses))
            for shell in [shells[1], third] {
                try host.end(shell)
                try host.event("lease_released")
            }
            #expect(server.status == nil)
        }
    }

    @Test func aRenamedInterfaceIsFollowed() throws {
        try DaemonHost.withLeases { host in
            let server = try host.dnsmasq()
            try host.start()
            let ann = try host.login(1001, "ann")
            try host.sandbox.sh("ip link set eth0 down && ip link set eth0 name lan0 && ip link set lan0 up")
            try host.event("interface_renamed")
            #expect(try host.event("lease_troubled").reason == "its udhcpc was on eth0")
            try host.waitFor("a client on lan0 that was answered") {
                try host.clients().count == 1 && host.text("server.log").components(separatedBy: "DHCPACK").count == 3
            }
            #expect(try host.sandbox.virtualIPs(on: "lan0") == [ann.address])
            #expect(!host.seen.contains { $0.event == "address_taken" })
            try host.end(ann.shell)
            try host.event("lease_released") { $0.interface == "lan0" }
            try host.waitFor("the release at the server") { host.text("dnsmasq.leases").isEmpty }
            #expect(server.status == nil)
        }
    }

    @Test func withoutAClientItSaysSo() throws {
        try DaemonHost.withLeases { host in
            let hidden = """
                for file in /usr/sbin/udhcpc /sbin/udhcpc /usr/bin/busybox /bin/busybox; do
                    [ ! -e $file ] || [ "$(readlink -f $file)" != "$(readlink -f /usr/bin/busybox)" ] || touch "$0"
                done
                mount --bind /dev/null "$(readlink -f /usr/bin/busybox)"
                [ "$(readlink -f /usr/sbin/udhcpc)" = "$(readlink -f /usr/bin/busybox)" ] ||
                    mount --bind /dev/null "$(readlink -f /usr/sbin/udhcpc)"
                exec "$@"
                """
            try host.start(wrapper: ["unshare", "--mount", "/bin/sh", "-c", hidden, "\(host.sandbox.directory)/x"])
            let shell = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            let refused = try host.event("address_refused")
            #expect(refused.message.hasSuffix("udhcpc is not installed; apt-get install udhcpc"), "\(refused)")
            #expect(try host.sessions().map(\.virtualIps) == [[]])
            try host.end(shell)
            try host.event("session_closed")
        }
    }

    // MARK: Addresses that arrive later, from any source

    static let oneAddress = """
        virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, pool: [198.51.100.16], restSeconds: 0}}
        """

    @Test func aPoolThatHasOneAgainGivesIt() throws {
        try DaemonHost.attached(Self.oneAddress) { host in
            try host.start()
            let ann = try host.login(1001, "ann")
            let ben = try host.process(in: DaemonHost.slice(1002))
            try host.logind("user 1002 ben")
            let refused = try host.event("address_refused")
            #expect(refused.user == "ben")
            let program = try host.sandbox.probe(in: DaemonHost.slice(1002))
            try program.must("socket a tcp")
            #expect(try program("bind a 0.0.0.0 9000").errno == "EADDRNOTAVAIL")
            try host.end(ann.shell)
            let given = try host.event("address_given")
            #expect(given.user == "ben" && given.address == "198.51.100.16" && given.session == refused.session)
            try program.must("bind a 0.0.0.0 9000")
            #expect(try program.must("getsockname a").address == "198.51.100.16")
            #expect(try host.placed() == ["198.51.100.16"])
            for one in [program.program, ben] { try host.end(one) }
            try host.event("session_closed")
            #expect(try host.endings(of: "198.51.100.16") == ["cgroup-empty", "cgroup-empty"])
        }
    }

    /// If a command was killed while giving an address, the next change takes the address back and gives it again.
    @Test func aKillWhileGivingIsRepaired() throws {
        try DaemonHost.attached(Self.oneAddress) { host in
            try host.start()
            let ann = try host.login(1001, "ann")
            _ = try host.stop(SIGKILL)
            try host.sandbox.sh(
                """
                python3 -c 'import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
                db.execute("INSERT INTO unsettled_addresses SELECT address FROM addresses"); db.commit()' \
                '\(host.sandbox.stateDirectory)/registry.sqlite'
                """)
            try host.start(waiting: false)
            #expect(try host.event("warning").message.contains("removing 198.51.100.16 from session \(ann.session)"))
            #expect(try host.event("address_given").address == "198.51.100.16")
            #expect(try host.placed() == ["198.51.100.16"])
            #expect(try host.endings(of: "198.51.100.16") == ["command-killed", nil])
            try host.end(ann.shell)
            try host.event("session_closed")
        }
    }
}
