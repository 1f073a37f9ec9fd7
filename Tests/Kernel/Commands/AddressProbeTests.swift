// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// Addresses that another host on the link has: a host asks before it uses one, and announces it afterwards (RFC 5227).
@Suite(.requiresRoot)
struct AddressProbeTests: CommandHost {
    private func policy(_ pool: String, seconds: Int = 1) -> String {
        "virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, probeSeconds: \(seconds), pool: [\(pool)]}}"
    }

    /// The link address of eth0, from ip(8), because /sys may be of another network namespace.
    private func linkAddress(_ sandbox: Sandbox, at place: Sandbox.Place) throws -> String {
        try sandbox.sh("ip -o link show dev eth0 | sed -n 's/.* link.ether \\([0-9a-f:]*\\) .*/\\1/p'", at: place)
            .trimmingCharacters(in: .whitespacesAndNewlines)
    }

    private func open(_ sandbox: Sandbox, _ name: String, _ more: String...) throws -> ControlResult {
        try sandbox.ctl(["session", "open", "--json", "--cgroup", sandbox.cgroup("attached/\(name)")] + more)
    }

    /// Addresses of another host are skipped and reported with that host's link address, and not asked about at every
    /// login.
    @Test("passes over addresses that another host has")
    func othersAddressesArePassedOver() throws {
        try attached(policy("198.51.100.16-198.51.100.30, '2001:db8:51::10-2001:db8:51::1f'")) { sandbox in
            try sandbox.sh(
                """
                ip addr add 198.51.100.16/32 dev eth0
                ip addr add 2001:db8:51::10/128 dev eth0 nodad
                """, at: .outside)
            let other = try linkAddress(sandbox, at: .outside)
            try sandbox.waitForLinkLocal()
            let first = try open(sandbox, "ann")
            #expect(try first.decode(OpenSession.self).virtualIps == ["198.51.100.17", "2001:db8:51::11"], "\(first)")
            for address in ["198.51.100.16", "2001:db8:51::10"] {
                #expect(first.stderr.contains("\(address) belongs to another host (\(other)) on eth0"), "\(first)")
            }
            let second = try open(sandbox, "ben")
            #expect(
                try second.decode(OpenSession.self).virtualIps == ["198.51.100.18", "2001:db8:51::12"], "\(second)")
            #expect(second.stderr.isEmpty, "\(second)")
            // The questions leave no entries in the host's own table.
            #expect(try sandbox.sh("ip neigh show dev eth0 | grep -E '198.51.100.1[67]|::1[01]' || true").isEmpty)
        }
    }

    /// An address that was requested by --ip is refused, and nothing changes.
    @Test("refuses an address that another host has", arguments: ["198.51.100.16", "2001:db8:51::10"])
    func othersAddressIsRefused(address: String) throws {
        try attached(policy("198.51.100.32/28")) { sandbox in
            try sandbox.sh(
                "ip addr add \(address) dev eth0 nodad 2>/dev/null || ip addr add \(address) dev eth0", at: .outside)
            try sandbox.waitForLinkLocal()
            let before = try sandbox.sh("ip -br addr") + sandbox.mustCtl("session", "list", "--json").stdout
            let result = try open(sandbox, "ann", "--ip", address)
            #expect(result.status == 1, "\(result)")
            #expect(result.stderr.contains("\(address) belongs to another host"), "\(result)")
            #expect(result.stderr.split(separator: "\n").count == 1, "\(result)")
            #expect(try sandbox.sh("ip -br addr") + sandbox.mustCtl("session", "list", "--json").stdout == before)
        }
    }

    /// A neighbour whose table has another host for the address updates it, without having asked.
    @Test("announces a new address to neighbours that have another host for it")
    func neighboursAreTold() throws {
        try attached(policy("198.51.100.16-198.51.100.30, '2001:db8:51::10-2001:db8:51::1f'")) { sandbox in
            let own = try linkAddress(sandbox, at: .inside)
            try sandbox.sh(
                """
                for address in 198.51.100.16 2001:db8:51::10; do
                    ip neigh replace $address lladdr 02:00:00:00:00:99 nud stale dev eth0
                done
                """, at: .outside)
            let result = try open(sandbox, "ann")
            #expect(
                try result.decode(OpenSession.self).virtualIps == ["198.51.100.16", "2001:db8:51::10"], "\(result)")
            try sandbox.sh(
                """
                for address in 198.51.100.16 2001:db8:51::10; do
                    for try in $(seq 3000); do
                        ! ip neigh show $address dev eth0 | grep -q '\(own)' || continue 2
                        sleep 0.1
                    done
                    ip neigh show dev eth0 >&2
                    exit 1
                done
                """, at: .outside)
        }
    }

    /// A systemd unit that opens a session must not be left with a process in its cgroup.
    @Test("leaves no process in the cgroup of the command that opens a session")
    func noProcessIsLeftBehind() throws {
        try attached(policy("198.51.100.16-198.51.100.30")) { sandbox in
            let opening = try sandbox.start(
                [
                    Build.controller.path, "session", "open", "--cgroup", sandbox.cgroup("attached/ann"),
                ], in: "unit", environment: sandbox.controlEnvironment, errorOutput: true)
            #expect(try opening.wait() == 0, "\(opening.errorText)")
            #expect(try KernelFile.read("\(sandbox.cgroup)/unit/cgroup.procs") == "")
        }
    }

    /// The lock is free while other hosts are asked. Two commands that ask at the same time get two addresses, and one
    /// that is killed leaves nothing.
    @Test("lets other commands change things while it asks the link")
    func askingBlocksNoCommand() throws {
        try attached(policy("198.51.100.16-198.51.100.30", seconds: 9)) { sandbox in
            let environment = sandbox.controlEnvironment
            let neighbour = try sandbox.start(
                ["python3", SourceTree.url("Tests/Tools/neighbour/neighbour.py").path, "eth0"], in: "outside",
                at: .outside)
            #expect(try neighbour.readLine() == "ready")
            let asking = try ["ann", "ben"].map { name in
                try sandbox.start(
                    [
                        Build.controller.path, "session", "open", "--cgroup", sandbox.cgroup("attached/\(name)"),
                        "--json",
                    ],
                    in: "control", environment: environment, errorOutput: true)
            }
            // Both commands are running once other hosts are asked about two addresses.
            var missing: Set = [" 0.0.0.0 198.51.100.16", " 0.0.0.0 198.51.100.17"]
            while !missing.isEmpty {
                let line = try neighbour.readLine()
                missing = missing.filter { !line.hasSuffix($0) }
            }
            // While they are stopped, they keep asking, for as long as the change takes.
            for program in asking { program.signal(SIGSTOP) }
            try sandbox.mustCtl("program", "add", "redis-server", "--for", "virtual-ip")
            #expect(asking.allSatisfy { $0.isRunning })
            asking[0].signal(SIGKILL)
            asking[1].signal(SIGCONT)
            _ = try asking[0].wait()
            #expect(try asking[1].wait() == 0, "\(asking[1].errorText)")
            let second = try JSONDecoder.snake.decode(OpenSession.self, from: Data(asking[1].outputText.utf8))
            let third = try open(sandbox, "ann").decode(OpenSession.self)
            #expect(Set(second.virtualIps + third.virtualIps) == ["198.51.100.16", "198.51.100.17"])
        }
    }

    /// A pool whose addresses other hosts have is exhausted. The error names these hosts.
    @Test("refuses to open a session when other hosts have the whole pool")
    func othersHaveThemAll() throws {
        try attached(policy("198.51.100.16-198.51.100.17")) { sandbox in
            try sandbox.sh("for n in 16 17; do ip addr add 198.51.100.$n/32 dev eth0; done", at: .outside)
            let result = try open(sandbox, "ann")
            #expect(result.status == 1, "\(result)")
            #expect(result.stderr.contains("2 used by other hosts"), "\(result)")
        }
    }

    /// A login becomes a session at once. The daemon gives it the address once other hosts were asked, and does other
    /// work in the meantime.
    @Test("opens a session at once, and gives it the address when the link was asked")
    func theDaemonAsks() throws {
        try attached(policy("198.51.100.16-198.51.100.30", seconds: 9)) { sandbox in
            try sandbox.sh("ip addr add 198.51.100.16/32 dev eth0", at: .outside)
            let host = try DaemonHost(sandbox)
            try host.start()
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            try host.event("session_opened")
            let conflict = try host.event("address_conflict")
            #expect(conflict.address == "198.51.100.16" && conflict.interface == "eth0", "\(conflict)")

            // While other hosts are asked about the next address.
            #expect(try host.sessions().map(\.virtualIps) == [[]])
            let ben = try host.process(in: DaemonHost.slice(1002))
            try host.logind("user 1002 ben")
            try host.event("session_opened")
            #expect(try host.sessions().map(\.virtualIps) == [[], []])
            let given = try (0..<2).map { _ in try host.event("address_given") }
            #expect(given.map(\.address) == ["198.51.100.17", "198.51.100.18"])
            #expect(given.map(\.user) == ["ann", "ben"])
            for program in [ann, ben] {
                try host.end(program)
                try host.event("session_closed")
            }
            #expect(try host.stop() == 0, "\(host.seen.suffix(12))")
        }
    }

    /// Another host that later uses a session's address is reported, with the session's user. The session keeps the
    /// address.
    @Test func laterConflictsAreReported() throws {
        try attached(policy("198.51.100.16-198.51.100.30")) { sandbox in
            let host = try DaemonHost(sandbox)
            try host.start()
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            let address = try #require(host.event("address_given").address)
            // For at most a minute: the daemon may not be watching yet.
            let neighbour = try sandbox.start(
                [
                    "sh", "-c",
                    """
                    for _ in $(seq 600); do
                        echo "arp 1 02:00:00:00:00:99 \(address) \(address)"
                        sleep 0.1
                    done | python3 \(SourceTree.url("Tests/Tools/neighbour/neighbour.py").path) eth0 >/dev/null
                    """,
                ], in: "outside", at: .outside)
            let conflict = try host.event("address_conflict")
            #expect(
                conflict.address == address && conflict.interface == "eth0" && conflict.user == "ann", "\(conflict)")
            #expect(conflict.message.hasPrefix("02:00:00:00:00:99 on eth0 uses \(address)"), "\(conflict)")
            #expect(try host.sessions().map(\.virtualIps) == [[address]])
            #expect(try sandbox.virtualIPs().contains(address))
            try host.end(ann)
            neighbour.signal(SIGKILL)
            _ = try neighbour.wait()
            #expect(try host.stop() == 0, "\(host.seen.suffix(12))")
        }
    }

    /// Without the capability, no host is asked, and this is reported.
    @Test("asks no host without the capability, and reports it")
    func notPermittedToAsk() throws {
        try attached(policy("198.51.100.16-198.51.100.30")) { sandbox in
            let program = try sandbox.start(
                [
                    "setpriv", "--bounding-set", "-net_raw", Build.controller.path, "session", "open", "--cgroup",
                    sandbox.cgroup("attached/ann"),
                ], in: "control", environment: sandbox.controlEnvironment, errorOutput: true)
            #expect(try program.wait() == 0, "\(program.errorText)")
            #expect(
                program.errorText.contains(
                    "ask on eth0 who has 198.51.100.16: operation not permitted; grant CAP_NET_RAW"),
                "\(program.errorText)")
        }
    }
}

extension Sandbox {
    /// Waits until eth0 has a link-local address, from which the kernel can ask. It first checks that address itself.
    fileprivate func waitForLinkLocal() throws {
        try sh(
            """
            for try in $(seq 3000); do
                ! ip -6 addr show dev eth0 scope link -tentative | grep -q fe80 || exit 0
                sleep 0.1
            done
            exit 1
            """)
    }
}
