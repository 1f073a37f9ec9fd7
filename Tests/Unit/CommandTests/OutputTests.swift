// SPDX-License-Identifier: Apache-2.0

import Foundation
import Host
import Network
import Policy
import Sessions
import SystemPackage
import Testing

@testable import VipCommands

@Suite struct TableTests {
    @Test func columnsAreAlignedAndLinesEndWithoutBlanks() {
        let table = Table(headings: ["ID", "USER", "CGROUP"], rows: [["7", "ann", "/a"], ["12345", "-", "/b"]])
        #expect(
            table.rendered(bold: false)
                == """
                ID     USER  CGROUP
                7      ann   /a
                12345  -     /b

                """)
    }

    @Test func controlCharactersAreShownNotSent() {
        let table = Table(rows: [["a\u{1b}[31mb\nc", "d"]])
        #expect(table.rendered(bold: false) == "a\\u{1b}[31mb\\u{a}c  d\n")
    }

    @Test func headingsAreBoldOnlyWhereAsked() {
        let table = Table(headings: ["A"], rows: [["b"]])
        #expect(table.rendered(bold: true).hasPrefix("\u{1b}[1mA\u{1b}[0m\n"))
        #expect(!table.rendered(bold: false).contains("\u{1b}"))
    }

    @Test func notesStandApart() {
        #expect(Table(rows: [["a"]], notes: ["b"]).rendered(bold: false) == "a\n\nb\n")
    }
}

@Suite struct SessionPayloadTests {
    private func record(user: String? = nil, address: String? = nil) -> SessionRecord {
        SessionRecord(
            id: 7, cgroupPath: "/sys/fs/cgroup/a", cgroupID: 8121, cgroupLevel: 1, user: user, bootID: "b",
            openedAt: Date(timeIntervalSince1970: 1_700_000_000), state: .open,
            addresses: address.flatMap { IPAddress($0) }.map {
                [.init($0, interface: "eth0", placed: true, fromPool: true)]
            } ?? [])
    }

    @Test func theDocumentHasEveryKey() throws {
        let text = try OutputOptions.json(SessionPayload(record(), prefix: nil))
        let document = try #require(
            try JSONSerialization.jsonObject(with: Data(text.utf8), options: []) as? [String: Any])
        #expect(
            Set(document.keys) == [
                "id", "user", "cgroup", "cgroup_id", "virtual_ips", "virtual_loopback", "virtual_loopback6", "policy",
                "state", "opened_at",
            ])
        #expect(document["user"] is NSNull)
        #expect(document["virtual_loopback"] as? String == "127.0.0.8")
        #expect(document["opened_at"] as? String == "2023-11-14T22:13:20Z")
        #expect(document["cgroup"] as? String == "/sys/fs/cgroup/a")
    }

    @Test func theLineIsForAShellsRead() {
        #expect(SessionPayload(record(), prefix: nil).line == "7 - 127.0.0.8 -")
        #expect(
            SessionPayload(record(address: "10.20.0.17"), prefix: .default).line
                == "7 10.20.0.17 127.0.0.8 fdd2:9088:43af::8")
    }

    @Test func aSessionWhoseCgroupWentIsGone() {
        #expect(SessionPayload(record(), prefix: nil, isCgroupThere: false).state == "gone")
        #expect(SessionPayload(record(), prefix: nil).state == "open")
    }
}

@Suite struct BatchTests {
    private let what = "read sessions from standard input"

    private func parse(_ text: String) throws(Failure) -> [SessionRequest] {
        try SessionBatch.parse(Array(text.utf8), what, mounts: MountTable.current())
    }

    @Test func emptyLinesAndCommentsArePassedOver() throws {
        #expect(try parse("\n  \n# a comment\r\n\t# another\n").isEmpty)
    }

    @Test(arguments: [
        ("--id 7", "line 1", "--cgroup is missing"),
        ("\n--cgroup", "line 2", "a value is missing"),
        ("--cgroup /nowhere/at/all", "line 1", "/nowhere/at/all"),
        ("--id x", "line 1", "'x' is not a session ID"),
        ("--id -1", "line 1", "'-1' is not a session ID"),
        ("--id 4294967296", "line 1", "is not a session ID"),
        ("--id 1 --id 2", "line 1", "twice"),
        ("--ip 10.20.0", "line 1", "'10.20.0' is not an IP address"),
        ("--user ", "line 1", "a value is missing"),
        ("--frobnicate 1", "line 1", "there is no such option"),
        ("cgroup /a", "line 1", "there is no such option"),
    ])
    func badLinesAreNamed(text: String, line: String, reason: String) {
        let failure = #expect(throws: Failure.self) { try parse(text) }
        #expect(failure?.operation == what)
        #expect(failure?.reason.contains(line) == true, "\(failure?.reason ?? "")")
        #expect(failure?.reason.contains(reason) == true, "\(failure?.reason ?? "")")
    }

    @Test func bytesThatAreNoTextAreRefused() throws {
        let mounts = try MountTable.current()
        let failure = #expect(throws: Failure.self) {
            try SessionBatch.parse(Array("--user a\u{0}".utf8.dropLast()) + [0xff], what, mounts: mounts)
        }
        #expect(failure?.reason.contains("not UTF-8") == true)
    }

    @Test(arguments: ["", "a\u{7}b", "a\nb", String(repeating: "x", count: 256)])
    func userNamesOfMoreThanOneLineAreRefused(name: String) {
        #expect(throws: Failure.self) { try SessionBatch.check(user: name) }
    }

    @Test(arguments: ["ann", "DOMAIN\\ann", "ann@example.org", "Änne"])
    func userNamesOfDirectoriesAreFine(name: String) throws {
        try SessionBatch.check(user: name)
    }
}

@Suite struct ErrorLineTests {
    @Test func anErrorIsOneLine() {
        let failure = Failure(.failed, "open session 7\non /a", "it is\r\ntaken", hint: "close it")
        #expect("\(failure)" == #"open session 7\u{a}on /a: it is\u{d}\u{a}taken; close it"#)
    }

    @Test func exitCodesAreThoseOfTheContract() {
        #expect(Failure.Code.failed.exitCode == 1)
        #expect(Failure.Code.usage.exitCode == 64)
        #expect(Failure.Code.unavailable.exitCode == 69)
        #expect(Failure.Code.notPermitted.exitCode == 77)
    }
}

@Suite struct CommonOptionTests {
    @Test(arguments: [
        (["status"], ["status"]),
        (
            ["--bpffs", "/b", "--state=/s", "-v", "session", "list"],
            ["session", "list", "--bpffs", "/b", "--state=/s", "-v"]
        ),
        (["--json", "run", "--id", "7", "--", "a", "-v"], ["run", "--json", "--id", "7", "--", "a", "-v"]),
        (["-v", "run", "git", "log", "--", "a"], ["run", "-v", "git", "log", "--", "a"]),
        (["--bpffs"], ["--bpffs"]), (["--help"], ["--help"]), ([], []),
    ])
    func theyMayStandBeforeTheCommand(given: [String], expected: [String]) {
        #expect(VipBPFCtl.commonOptionsLast(given) == expected)
    }
}

@Suite struct PointInTimeTests {
    @Test(arguments: [
        ("2023-11-14T22:13:20Z", 1_700_000_000.0), ("2023-11-14t22:13:20z", 1_700_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000), ("2023-11-14T17:43:20-04:30", 1_700_000_000),
        ("2023-11-14T22:13:20.5Z", 1_700_000_000.5), ("2023-11-14T23:13:20.250+01:00", 1_700_000_000.25),
    ])
    func read(text: String, seconds: Double) throws {
        let time = try #require(PointInTime(argument: text))
        #expect(abs(time.date.timeIntervalSince1970 - seconds) < 0.001)
    }

    @Test(arguments: [
        "", "now", "1700000000", "2023-11-14", "22:13:20", "2023-11-14T22:13:20", "2023-11-14T22:13Z",
        "2023-13-14T22:13:20Z", "2023-11-14T22:13:20Zulu", "2023-11-14T22:13:20Z\n", "2023-11-14 22:13:20 UTC",
        "2023-11-31T22:13:20Z", "2023-11-14T25:13:20Z", "2023-11-14T22:61:20Z",
        String(repeating: "9", count: 100) + "-11-14T22:13:20Z",
    ])
    func refused(text: String) {
        #expect(PointInTime(argument: text) == nil)
    }
}
