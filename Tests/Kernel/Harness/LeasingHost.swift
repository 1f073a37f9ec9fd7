// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// DHCP servers on the host outside, which lease addresses to the daemon's sessions.
extension DaemonHost {
    static let leasePolicy = """
        virtualIP: {enabled: true, mode: perSession, addresses: {source: dhcp, interface: eth0}}
        virtualLoopback: {enabled: true, programs: []}
        """

    /// A host with the hooks attached and a policy that leases. The daemon is not started yet.
    static func withLeases(_ policy: String = leasePolicy, _ body: (DaemonHost) throws -> Void) throws {
        try attached(policy, body)
    }

    /// Leases 198.51.100.100 and up for 120 s, dnsmasq's shortest time.
    func dnsmasq(_ more: String..., to last: Int = 150) throws -> Program {
        let server = try serve(
            DHCPServer.dnsmasq(
                in: sandbox.directory, from: "198.51.100.100", to: "198.51.100.\(last)", mask: "255.255.255.0", more))
        try waitFor("dnsmasq") { text("server.log").contains("DHCP, IP range") }
        return server
    }

    func kea(
        seconds: Int, pool: String = "198.51.100.100 - 198.51.100.150", subnet: String = "198.51.100.0/24"
    ) throws -> Program {
        let server = try serve(
            DHCPServer.kea(in: sandbox.directory, seconds: seconds, pool: pool, subnet: subnet))
        try waitFor("kea") { text("kea.log").contains("DHCP4_STARTED") }
        return server
    }

    /// The hostile server of the lease tests, which follows commands: `Tests/System/dhcp/hostile.py`.
    func hostile(_ behaviour: String) throws -> Program {
        let server = try serve(["python3", SourceTree.url("Tests/System/dhcp/hostile.py").path], logsOutput: false)
        guard try server.readLine() == "ready" else { throw HarnessError("hostile.py: \(text("server.log"))") }
        try tell(server, #"{"server": "198.51.100.2"}"#)
        try tell(server, behaviour)
        return server
    }

    /// - Returns: the messages that the server got before it changed its behaviour.
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

    func waitFor(_ what: String, within patience: Duration = hang, _ condition: () throws -> Bool) throws {
        try wait(
            for: "\(what); \(seen.suffix(8)); \(text("server.log").suffix(2000))", within: patience, until: condition)
    }

    /// The clients that run in the sandbox.
    func clients() throws -> Set<pid_t> {
        let all = try KernelFile.read("\(sandbox.cgroup)/control/cgroup.procs")
        return Set(
            all.split(separator: "\n").compactMap { pid_t($0) }.filter {
                ((try? KernelFile.read("/proc/\($0)/comm")) ?? "").hasPrefix("udhcpc")
            })
    }

    /// Logs a user in. Returns the address that the session gets, from its event.
    func login(_ uid: Int, _ name: String, within patience: Duration = hang) throws -> (
        shell: Program, session: UInt32, address: String
    ) {
        let shell = try process(in: Self.slice(uid))
        try logind("user \(uid) \(name)")
        let opened = try event("session_opened") { $0.user == name }
        let given = try event("address_given", within: patience) { $0.user == name }
        return (shell, try #require(opened.session), try #require(given.address))
    }

    /// The virtual IPs on eth0.
    func placed() throws -> Set<String> { try sandbox.virtualIPs() }

    /// Why each use of an address ended, from the history; `nil` if it has not ended.
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
