// SPDX-License-Identifier: Apache-2.0

import Foundation
import Host
import Policy
import SystemPackage
import Testing

@Suite struct ProgramEntryTests {
    @Test(
        arguments: [
            ("*", .everyProgram),
            ("java", .name("java")),
            ("**", .name("**")),
            ("...", .name("...")),
            ("my program", .name("my program")),
            ("größe", .name("größe")),
            (String(repeating: "n", count: 63), .name(String(repeating: "n", count: 63))),
            ("/opt/crm/bin/crm", .path("/opt/crm/bin/crm")),
            ("/opt/.hidden/..x", .path("/opt/.hidden/..x")),
            ("/*", .path("/*")),
            ("/" + String(repeating: "p", count: 4094), .path(FilePath("/" + String(repeating: "p", count: 4094)))),
        ] as [(String, ProgramEntry)])
    func reads(text: String, expected: ProgramEntry) throws {
        let entry = try ProgramEntry(text)
        #expect(entry == expected)
        #expect(entry.description == text)
        let json = try JSONEncoder().encode([entry])
        #expect(try JSONDecoder().decode([String].self, from: json) == [text])
        #expect(try JSONDecoder().decode([ProgramEntry].self, from: json) == [entry])
    }

    @Test(arguments: [
        ("", "it is empty"),
        (".", "it names a directory"),
        ("..", "it names a directory"),
        (String(repeating: "n", count: 64), "a name has at most 63 bytes, this one has 64"),
        (String(repeating: "ö", count: 32), "a name has at most 63 bytes, this one has 64"),
        ("bin/java", "it is a relative path"),
        ("./java", "it is a relative path"),
        ("java/", "it is a relative path"),
        ("/", "it ends in a slash as a directory does"),
        ("/opt/crm/", "it ends in a slash as a directory does"),
        ("/opt/../crm", "it has . or .. in it"),
        ("/opt/./crm", "it has . or .. in it"),
        ("/opt/..", "it has . or .. in it"),
        ("/" + String(repeating: "p", count: 4095), "a path has at most 4095 bytes, this one has 4096"),
        ("ja\u{0}va", "it has the character U+0000 in it"),
        ("/opt/\u{0}", "it has the character U+0000 in it"),
        ("java\n", "it has the character U+000A in it"),
        ("\u{feff}java", "it has the character U+FEFF in it"),
        ("\u{9b}31m", "it has the character U+009B in it"),
    ])
    func refuses(text: String, why: String) throws {
        let failure = try #require(throws: Failure.self) { try ProgramEntry(text) }
        #expect(failure.reason == why)
        #expect(failure.code == .usage)
        #expect(!failure.description.contains { $0.isNewline })
        let json = try JSONEncoder().encode([text])
        #expect(throws: DecodingError.self) { try JSONDecoder().decode([ProgramEntry].self, from: json) }
    }

    @Test func takesRepeatedSlashesAsOne() throws {
        let repeated = try ProgramEntry("//opt///crm")
        #expect(repeated == .path("/opt/crm"))
        #expect(repeated.description == "/opt/crm")
    }

    @Test(arguments: [
        ("run.sh", "run.sh"),
        ("exactly-15-byte", "exactly-15-byte"),
        ("exactly-16-bytes", "exactly-16-byte"),
    ])
    func cutsTheProcessName(name: String, expected: String) throws {
        #expect(try ProgramEntry(name).processName == Array(expected.utf8))
    }

    @Test func cutsTheProcessNameBetweenBytesNotCharacters() throws {
        #expect(try ProgramEntry("vierzehnbytes-ö").processName == Array("vierzehnbytes-".utf8) + [0xc3])
    }

    @Test func hasNoProcessNameForPathsAndAll() throws {
        #expect(try ProgramEntry("*").processName == nil)
        #expect(try ProgramEntry("/opt/crm").processName == nil)
    }

    /// Compares with the kernel's own name of a script's process, so that the 15 bytes are the kernel's.
    @Test func agreesWithTheKernel() throws {
        let directory = FileManager.default.temporaryDirectory.appending(path: "vip-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        let name = "a-script-with-a-long-name.sh"
        let script = directory.appending(path: name)
        try Data("#!/bin/cat /proc/self/comm\n".utf8).write(to: script)
        try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: script.path)
        let process = Process()
        let output = Pipe()
        process.executableURL = script
        process.standardOutput = output
        try process.run()
        let said = try #require(try output.fileHandleForReading.readToEnd())
        process.waitUntilExit()
        // cat prints its own name, then the script, which is its argument.
        let expected = try ProgramEntry(name).processName
        #expect(Array(said.prefix { $0 != 0x0a }) == expected)
    }
}
