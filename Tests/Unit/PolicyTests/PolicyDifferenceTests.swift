// SPDX-License-Identifier: Apache-2.0

import Glibc
import Policy
import Testing

@Suite struct PolicyDifferenceTests {
    private func policy(_ yaml: String) throws -> Policy { try Policy.read(yaml: yaml, file: "policy.yaml") }

    @Test func listsTheKeysThatDiffer() throws {
        let before = try policy("isolation: false\nvirtualIP: {programs: [java], addresses: {interface: eth0}}")
        let after = try policy("virtualIP: {mode: perSession}\noverrides: [{name: a, isolation: false}]")
        #expect(before.differences(to: before) == [])
        let texts = before.differences(to: after).map { "\($0.key) \($0.before ?? "-") \($0.after ?? "-")" }
        #expect(
            texts == [
                "isolation false true", "overrides [] -", "overrides[0].isolation - false",
                "overrides[0].match.groups - []", "overrides[0].match.units - []", "overrides[0].match.users - []",
                "overrides[0].name - a", "virtualIP.addresses.interface eth0 -", "virtualIP.mode perProgram perSession",
                "virtualIP.programs [java] []",
            ])
    }

    /// Policies before and after, and what changes for a session, in words.
    @Test(arguments: [
        ("", "", []),
        ("", "history: {retentionDays: 1}\nsessions: {unit: sessionScope}", []),
        ("", "virtualIP: {enabled: true}", []),
        ("", "virtualIP: {enabled: true, mode: perSession}", ["virtualIP applies to all programs"]),
        ("virtualIP: {enabled: true, programs: ['*']}", "virtualIP: {enabled: true, mode: perSession}", []),
        ("virtualIP: {enabled: true, programs: [a, b]}", "", ["virtualIP no longer applies to a, b"]),
        (
            "virtualIP: {enabled: true, programs: [a, b]}", "virtualIP: {enabled: true, programs: [b, c]}",
            ["virtualIP also applies to c", "virtualIP no longer applies to a"]
        ),
        (
            "virtualIP: {enabled: true, mode: perSession}", "virtualIP: {enabled: true, programs: [a, b, c, d, e, f]}",
            ["virtualIP applies to a, b, c, d and 2 more alone, no longer to all programs"]
        ),
        (
            "virtualIP: {enabled: true, programs: [a]}", "virtualIP: {enabled: true, mode: perSession}",
            ["virtualIP applies to all programs, not to a alone"]
        ),
        (
            "virtualIP: {enabled: true}", "virtualIP: {enabled: true, whenUnavailable: useHostAddress}",
            ["without a virtual IP, programs get the host's address"]
        ),
        (
            "virtualIP: {enabled: true, whenUnavailable: useHostAddress}", "virtualIP: {enabled: true}",
            ["without a virtual IP, programs are refused servers and connections"]
        ),
        (
            "virtualIP: {enabled: true, addresses: {interface: eth0, pool: [10.20.0.10]}}",
            "virtualIP: {enabled: true, addresses: {source: dhcp, pool: [\"2001:db8::1\"]}}",
            [
                "sessions that are opened from now on get addresses from a DHCP server and from 2001:db8::1, not from "
                    + "10.20.0.10 on eth0; open ones keep theirs"
            ]
        ),
        (
            "virtualIP: {enabled: true}",
            "virtualIP: {enabled: true, addresses: {placement: prefix, pool: [10.20.0.0/24]}}",
            [
                "sessions that are opened from now on get addresses from 10.20.0.0/24 as whole prefixes, not from no pool; open "
                    + "ones keep theirs"
            ]
        ),
        (
            "virtualIP: {enabled: true, excludedPorts: [53]}",
            "virtualIP: {enabled: true, excludedPorts: [5353, 1900], dualStackServers: 3}",
            [
                "virtualIP leaves out port 1900, 5353", "virtualIP no longer leaves out port 53",
                "at most 3 servers on :: are reached by IPv6",
            ]
        ),
        (
            "virtualLoopback: {enabled: true, programs: [a]}",
            "virtualLoopback: {enabled: true, programs: ['*'], excludedPorts: [10-20], fallback: host}",
            [
                "virtualLoopback applies to all programs, not to a alone", "virtualLoopback leaves out port 10-20",
                "connections to 127.0.0.1 for which nothing of the session listens go to the host",
            ]
        ),
        (
            "virtualLoopback: {enabled: true, programs: [a], fallback: host}",
            "virtualLoopback: {enabled: true, programs: [a]}",
            ["connections to 127.0.0.1 for which nothing of the session listens are refused"]
        ),
        (
            "virtualIP: {enabled: true}\nvirtualLoopback: {enabled: true}",
            "virtualIP: {enabled: true}\nvirtualLoopback: {enabled: true}\npreferLoopback: {enabled: true, programs: [a]}",
            ["preferLoopback applies to a"]
        ),
        (
            "", "wildcardName: asRequested\nisolation: false",
            [
                "getsockname returns the wildcard for a socket that was bound to the wildcard",
                "programs are no longer refused addresses of other sessions",
            ]
        ),
        (
            "wildcardName: asRequested\nisolation: false", "",
            [
                "getsockname returns the virtual IP for a socket that was bound to the wildcard",
                "programs are refused addresses of other sessions",
            ]
        ),
    ])
    func saysWhatChanges(before: String, after: String, changes: [String]) throws {
        #expect(try policy(before).rules(number: 0).changes(to: policy(after).rules(number: 0)) == changes)
    }
}
