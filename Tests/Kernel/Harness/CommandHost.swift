// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// A suite of tests of commands: each on a `Sandbox` of its own with the hooks attached.
protocol CommandHost {}

extension CommandHost {
    /// A pool of eight addresses on eth0, and loopbacks for all programs.
    static var policy: String {
        """
        virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, probeSeconds: 0, pool: [198.51.100.16-198.51.100.23]}}
        virtualLoopback: {enabled: true, programs: ["*"]}
        """
    }

    static var twoAddresses: String {
        "virtualIP: {enabled: true, mode: perSession, addresses: {probeSeconds: 0, pool: [198.51.100.16-198.51.100.17]}}"
    }

    /// A sandbox with the hooks attached to `attached` and the policy in force.
    func attached(_ policy: String = Self.policy, _ body: (Sandbox) throws -> Void) throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            try sandbox.mustCtl("attach", "cgroup", path, "--policy", sandbox.policyFile(policy))
            try body(sandbox)
            try sandbox.mustCtl("detach", "--all")
        }
    }

    /// The state that a refused command must not change: links, maps, registry, interface, cgroups.
    func snapshot(_ sandbox: Sandbox) throws -> [String] {
        let status = try sandbox.ctl("status", "--json")
        let isLoaded = status.stdout.contains("\"is_loaded\" : true")
        return [
            status.stdout, isLoaded ? try sandbox.mustCtl("map", "dump", "--json").stdout : "",
            try sandbox.ctl("session", "list", "--json").stdout,
            try sandbox.sh("ip -br addr; ip -4 route show table local; find '\(sandbox.cgroup)' -type d | sort"),
            try loopbackState(sandbox),
        ]
    }

    /// The state of the IPv6 loopbacks: the local routes of unique local prefixes and addresses, and the value of the
    /// sysctl.
    func loopbackState(_ sandbox: Sandbox) throws -> String {
        try sandbox.sh(
            """
            ip -6 route show table local | sed -n 's/^local \\(f[cd][^ ]*\\) dev lo .*/\\1/p'
            cat /proc/sys/net/ipv6/ip_nonlocal_bind
            """)
    }

    /// Commands that must each fail with one line and change nothing.
    func refuses(
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

    func refuses(
        _ sandbox: Sandbox, _ arguments: [String], input: String = "", code: Int32, _ fragments: String...,
        location: SourceLocation = #_sourceLocation
    ) throws {
        try refuses(sandbox, [(arguments, code, fragments)], input: input, location: location)
    }

    /// Checks that registry, interface and maps agree: as many sessions as rows, and exactly the virtual IPs on the
    /// interface.
    func expectAgreement(_ sandbox: Sandbox, location: SourceLocation = #_sourceLocation) throws {
        let sessions: [OpenSession] = try sandbox.mustCtl("session", "list", "--json").decode(OpenSessionList.self)
            .sessions
        let rows = try sandbox.mustCtl("map", "dump", "sessions").stdout.split(separator: "\n").count
        let ids = try sandbox.mustCtl("map", "dump", "ids").stdout.split(separator: "\n").count
        let owned = try sandbox.mustCtl("map", "dump", "addresses").stdout.split(separator: "\n")
            .count { $0.contains("owner session") }
        let placed = try sandbox.virtualIPs()
        #expect(rows == sessions.count, sourceLocation: location)
        #expect(ids == sessions.count, sourceLocation: location)
        #expect(owned == sessions.count, sourceLocation: location)
        #expect(placed == Set(sessions.flatMap(\.virtualIps)), sourceLocation: location)
    }
}

private struct OpenSessionList: Decodable {
    let sessions: [OpenSession]
}
