// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// Which addresses sessions get and which are refused, and that they are on the interface as long as the session is
/// open.
@Suite(.serialized, .requiresRoot)
struct PoolTests: CommandHost {
    @Test("refuses addresses that are taken, the host's, special or outside its networks")
    func refusesAddresses() throws {
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
                    (open + ["203.0.113.1"], 1, ["neither in the pool", "198.51.100.1/24"]),
                    (open + ["2001:db8:1::17"], 1, ["session 8"]),
                    (open + ["2001:db8:1::1"], 1, ["host's own", "eth0"]),
                    (open + ["2001:db8:1::"], 1, ["subnet-router anycast"]),
                    (open + ["2001:db8:2::1"], 1, ["neither in the pool", "2001:db8:1::1/64"]),
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

    @Test("refuses to open a session when the pool is exhausted")
    func refusesAnExhaustedPool() throws {
        try attached(Self.twoAddresses) { sandbox in
            _ = try sandbox.openSession("attached/a", id: 7)
            _ = try sandbox.openSession("attached/b", id: 8)
            let third = try sandbox.cgroup("attached/c")
            try refuses(sandbox, ["session", "open", "--cgroup", third], code: 1, "2 of 2")
            // All sessions are opened or none: the pool has an address for the first one of the batch.
            try sandbox.mustCtl("session", "close", "7")
            let batch = "--cgroup \(third)\n--cgroup \(try sandbox.cgroup("attached/d"))\n"
            try refuses(sandbox, ["session", "open", "--batch", "-"], input: batch, code: 1, "2 of 2")
            try sandbox.mustCtl("session", "open", "--cgroup", third)
        }
    }

    /// Only one family is exhausted: the other one has addresses left.
    @Test("refuses to open a session when the pool has no IPv6 address left")
    func refusesAnExhaustedIPv6Pool() throws {
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

    /// Both addresses are on the interface and usable at once, and are removed with the session.
    @Test("gives a session an address of each family, and removes both when it closes")
    func givesAnAddressOfEachFamily() throws {
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
            // The first address of the pool is the subnet-router anycast address, which is left out.
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
            // Removed by another program, and restored.
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

    @Test("gives a user the address of last time, or the reserved one")
    func givesAUserTheSameAddressAgain() throws {
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

    /// An address that another program removed from the interface is restored by the next policy apply.
    @Test("puts an address back that something else removed, with the next policy apply")
    func restoresRemovedAddresses() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/ann", id: 7)
            try sandbox.sh("ip route del local \(session.virtualIps[0]) dev eth0 table local")
            let check = try sandbox.ctl("check")
            #expect(check.status == 1)
            #expect(check.stdout.contains("\(session.virtualIps[0]) is not on eth0"), "\(check)")
            let apply = try sandbox.mustCtl("policy", "apply", sandbox.policyFile(Self.policy))
            #expect(apply.stderr.contains("is back"))
            #expect(try sandbox.ctl("check").status == 0)
            try expectAgreement(sandbox)
        }
    }

    private static let routed = """
        virtualIP: {enabled: true, mode: perSession,
            addresses: {placement: prefix, pool: [203.0.113.0/24, '2001:db8:9::/64']}}
        """

    /// The prefixes of local routes, without loopbacks.
    private func routedPrefixes(_ sandbox: Sandbox) throws -> [String] {
        try sandbox.sh(
            """
            { ip -4 route show table local; ip -6 route show table local; } \
                | sed -n 's,^local \\([^ ]*/[^ ]*\\) dev .*,\\1,p'
            """
        ).split(separator: "\n").map(String.init).filter { !$0.hasPrefix("127.") && !$0.hasPrefix("fdd2:") }
    }

    @Test("makes a routed prefix local as a whole, as long as a session may have its addresses")
    func makesARoutedPrefixLocal() throws {
        let both = ["203.0.113.0/24", "2001:db8:9::/64"]
        try attached(Self.routed) { sandbox in
            #expect(try routedPrefixes(sandbox) == both)
            try sandbox.sh("ip -6 route add 2001:db8:9::/64 via \(Sandbox.hostAddress6)", at: .outside)
            let before = try sandbox.sh("ip -br addr show dev eth0")
            let ann = try sandbox.openSession("attached/ann", id: 7)
            let ben = try sandbox.openSession("attached/ben", id: 8)
            #expect(ann.virtualIps == ["203.0.113.1", "2001:db8:9::1"])
            #expect(ben.virtualIps == ["203.0.113.2", "2001:db8:9::2"])
            #expect(try sandbox.sh("ip -br addr show dev eth0") == before, "no address is placed")

            let client = try sandbox.probe("client", in: "outside", at: .outside)
            for (index, wildcard, kind, far) in [
                (0, "0.0.0.0", "", Sandbox.outsideAddress), (1, "::", " 6", Sandbox.outsideAddress6),
            ] {
                let port = 8000 + index  // the previous port may still be in TIME_WAIT
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

            // Removed by another program, and restored.
            #expect(try sandbox.ctl("check").stdout.contains("4 of them by the route of a prefix"))
            try sandbox.sh("ip route del local 203.0.113.0/24 table local")
            #expect(try sandbox.ctl("check").stdout.contains("203.0.113.1 is not local"))
            let eve = try sandbox.mustCtl("session", "open", "--cgroup", sandbox.cgroup("attached/eve"), "--id", "9")
            #expect(eve.stderr.contains("203.0.113.0/24 was missing and is back"), "\(eve)")
            #expect(try routedPrefixes(sandbox) == both)
            try sandbox.mustCtl("session", "close", "9")

            // With another policy, the prefix stays local as long as sessions have addresses of it.
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

    @Test("refuses to make a prefix local that belongs to others")
    func refusesAPrefixOfOthers() throws {
        try attached { sandbox in
            func file(_ pool: String) throws -> String {
                try sandbox.policyFile(
                    "virtualIP: {enabled: true, addresses: {placement: prefix, pool: ['\(pool)']}}",
                    named: "routed.yaml"
                )
            }
            for pool in ["198.51.100.128/25", "198.51.0.0/16", "2001:db8:51:0:8000::/65"] {
                try refuses(
                    sandbox, ["policy", "apply", file(pool)], code: 1, "is the network of eth0", "routed to this host")
            }
            try sandbox.sh("ip route add 203.0.113.128/25 via 198.51.100.2")
            try refuses(sandbox, ["policy", "apply", file("203.0.113.0/24")], code: 1, "a route 203.0.113.128/25")
            #expect(try routedPrefixes(sandbox).isEmpty)
            // Wider routes, and those that lead nowhere, are no conflict. A route equal to this one stays its owner's.
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
}
