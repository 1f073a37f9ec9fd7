// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// What leases addresses to the daemon's sessions: DHCP servers on the host outside.
extension DaemonHost {
    static let leasePolicy = """
        virtualIP: {enabled: true, mode: perSession, addresses: {source: dhcp, interface: eth0}}
        virtualLoopback: {enabled: true, programs: []}
        """

    /// A host with the hooks attached and a policy that leases; the daemon is to be started.
    static func withLeases(_ policy: String = leasePolicy, _ body: (DaemonHost) throws -> Void) throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            try sandbox.mustCtl("attach", "cgroup", path, "--policy", sandbox.policyFile(policy))
            let host = try DaemonHost(sandbox)
            try body(host)
            #expect(try host.stop() == 0, "\(host.seen.suffix(12))")
            try sandbox.mustCtl("detach", "--all")
        }
    }

    /// Lends 198.51.100.100 and up, for 120 s: dnsmasq does not for less.
    func dnsmasq(_ more: String..., to last: Int = 150) throws -> Program {
        let server = try serve(
            [
                "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces",
                "--user=root", "--pid-file=", "--no-ping", "--dhcp-authoritative", "--log-dhcp",
                "--dhcp-leasefile=\(sandbox.directory)/dnsmasq.leases",
                "--dhcp-range=198.51.100.100,198.51.100.\(last),255.255.255.0,120",
            ] + more)
        try waitFor("dnsmasq") { text("server.log").contains("DHCP, IP range") }
        return server
    }

    func kea(
        seconds: Int, pool: String = "198.51.100.100 - 198.51.100.150", subnet: String = "198.51.100.0/24"
    ) throws -> Program {
        let directory = sandbox.directory
        let configuration = """
            { "Dhcp4": {
                "interfaces-config": { "interfaces": ["eth0"], "dhcp-socket-type": "raw" },
                "lease-database": { "type": "memfile", "persist": true, "name": "\(directory)/kea.csv", "lfc-interval": 0 },
                "valid-lifetime": \(seconds), "authoritative": true,
                "subnet4": [{ "id": 1, "subnet": "\(subnet)", "pools": [{ "pool": "\(pool)" }] }],
                "loggers": [{ "name": "kea-dhcp4", "severity": "INFO",
                    "output_options": [{ "output": "\(directory)/kea.log" }] }]
            } }
            """
        try configuration.write(toFile: "\(directory)/kea.json", atomically: true, encoding: .utf8)
        let server = try serve([
            "env", "KEA_PIDFILE_DIR=\(directory)", "KEA_LOCKFILE_DIR=none", "kea-dhcp4", "-c", "\(directory)/kea.json",
        ])
        try waitFor("kea") { text("kea.log").contains("DHCP4_STARTED") }
        return server
    }

    /// The server of the tests of leases that does as it is told: `Tests/System/dhcp/hostile.py`.
    func hostile(_ behaviour: String) throws -> Program {
        let server = try serve(["python3", SourceTree.url("Tests/System/dhcp/hostile.py").path], logsOutput: false)
        guard try server.readLine() == "ready" else { throw HarnessError("hostile.py: \(text("server.log"))") }
        try tell(server, #"{"server": "198.51.100.2"}"#)
        try tell(server, behaviour)
        return server
    }

    /// - Returns: what came at the server before it changed its behaviour.
    @discardableResult
    func tell(_ server: Program, _ behaviour: String) throws -> [String] {
        try server.write(behaviour + "\n")
        var lines: [String] = []
        while true {
            let line = try server.readLine()
            if line == "done" { return lines }
            lines.append(line)
        }
    }

    private func serve(_ command: [String], logsOutput: Bool = true) throws -> Program {
        let log = "'\(sandbox.directory)/server.log'"
        return try sandbox.start(
            ["/bin/sh", "-c", "exec \"$@\" 2>>\(log) \(logsOutput ? ">>\(log)" : "")", "sh"] + command, in: "outside",
            at: .outside)
    }

    func text(_ name: String) -> String {
        (try? String(contentsOfFile: "\(sandbox.directory)/\(name)", encoding: .utf8)) ?? ""
    }

    /// Looks every 20 ms: for what cannot be waited for.
    func waitFor(_ what: String, within patience: Duration = Program.patience, _ condition: () throws -> Bool) throws {
        let deadline = ContinuousClock.now + patience
        while try !condition() {
            guard ContinuousClock.now < deadline else {
                throw HarnessError("\(what) in vain; \(seen.suffix(8)); \(text("server.log").suffix(2000))")
            }
            usleep(20_000)
        }
    }

    /// The clients that run in the sandbox.
    func clients() throws -> Set<pid_t> {
        let all = try KernelFile.read("\(sandbox.cgroup)/control/cgroup.procs")
        return Set(
            all.split(separator: "\n").compactMap { pid_t($0) }.filter {
                ((try? KernelFile.read("/proc/\($0)/comm")) ?? "").hasPrefix("udhcpc")
            })
    }

    /// A user logs in; the address that the session gets, by its event.
    func login(_ uid: Int, _ name: String, within patience: Duration = Program.patience) throws -> (
        shell: Program, session: UInt32, address: String
    ) {
        let shell = try process(in: Self.slice(uid))
        try logind("user \(uid) \(name)")
        let opened = try event("session_opened") { $0.user == name }
        let given = try event("address_given", within: patience) { $0.user == name }
        return (shell, try #require(opened.session), try #require(given.address))
    }

    /// The virtual IPs on eth0.
    func placed() throws -> Set<String> {
        Set(
            try sandbox.sh("ip -4 -o address show dev eth0").split(separator: "\n").compactMap { line in
                line.split(separator: " ").first { $0.hasSuffix("/32") }.map { String($0.dropLast(3)) }
            })
    }

    /// Why each holding of an address ended, by the history: `nil` where it has not.
    func endings(of address: String) throws -> [String?] {
        try sandbox.sh(
            """
            python3 -c 'import sqlite3, sys; db = sqlite3.connect(sys.argv[1])
            for row in db.execute("SELECT ending FROM address_history WHERE address = ? ORDER BY rowid", sys.argv[2:]):
                print(row[0])' '\(sandbox.stateDirectory)/registry.sqlite' \(address)
            """
        ).split(separator: "\n").map { $0 == "None" ? nil : String($0) }
    }
}
