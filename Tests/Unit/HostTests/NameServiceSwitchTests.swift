// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import SystemPackage
import Testing

@testable import Host

/// The hosts line of nsswitch.conf: how it is read, and the two edits.
@Suite struct HostsLineTests {
    private static func line(_ text: String) throws(Failure) -> HostsLine {
        try HostsLine(in: Array(text.utf8), "read the file")
    }

    /// The line before, and after `names enable`.
    static let edits: [(before: String, after: String)] = [
        ("hosts: files dns", "hosts: vip [TRYAGAIN=return] files dns"),
        ("hosts:          files dns", "hosts:          vip [TRYAGAIN=return] files dns"),
        ("hosts:\tfiles\tdns \t", "hosts:\tvip [TRYAGAIN=return] files\tdns \t"),
        ("hosts:files", "hosts:vip [TRYAGAIN=return] files"),
        (" hosts : files", " hosts : vip [TRYAGAIN=return] files"),
        ("hosts: files dns\r", "hosts: vip [TRYAGAIN=return] files dns\r"),
        ("hosts: files # dns vip", "hosts: vip [TRYAGAIN=return] files # dns vip"),
        (
            "hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns",
            "hosts: vip [TRYAGAIN=return] mymachines resolve [!UNAVAIL=return] files myhostname dns"
        ),
        (
            "hosts: files mdns4_minimal [NOTFOUND=return SUCCESS=return] dns",
            "hosts: vip [TRYAGAIN=return] files mdns4_minimal [NOTFOUND=return SUCCESS=return] dns"
        ),
        ("hosts: files[ NOTFOUND=return ]dns", "hosts: vip [TRYAGAIN=return] files[ NOTFOUND=return ]dns"),
    ]
    static let surroundings: [(String, String)] = [
        ("", ""), ("", "\n"), ("# hosts: nothing\n\npasswd: files vip\n", "\nnetworks: files\n\n# the end"),
        ("hostsx: files\r\n#hosts: x\r\n", "\nxhosts: files\nhosts\n: files\n"),
    ]

    @Test(arguments: edits) func editsAreInverse(before: String, after: String) throws {
        for (head, tail) in Self.surroundings {
            let line = try Self.line(head + before + tail)
            #expect(!line.isEnabled)
            #expect(!line.hasModule)
            #expect(String(decoding: line.enabling(), as: UTF8.self) == head + after + tail)
            #expect(line.removing() == line.bytes)
            let enabled = try Self.line(head + after + tail)
            #expect(enabled.isEnabled)
            #expect(enabled.enabling() == enabled.bytes)
            #expect(enabled.removing() == line.bytes)
            #expect(line.enabledText == enabled.text)
        }
    }

    /// Lines that were edited by hand, and the results.
    static let byHand: [(before: String, after: String, removed: String)] = [
        ("hosts: vip files", "hosts: vip [TRYAGAIN=return] files", "hosts: files"),
        ("hosts: files vip", "hosts: vip [TRYAGAIN=return] files", "hosts: files"),
        ("hosts: files vip [SUCCESS=return] dns", "hosts: vip [TRYAGAIN=return] files dns", "hosts: files dns"),
        ("hosts: vip vip files", "hosts: vip [TRYAGAIN=return] files", "hosts: files"),
        ("hosts: vip [TRYAGAIN=continue] files", "hosts: vip [TRYAGAIN=return] files", "hosts: files"),
        ("hosts: vip [!TRYAGAIN=return] files", "hosts: vip [TRYAGAIN=return] files", "hosts: files"),
    ]

    @Test(arguments: byHand) func linesEditedByHand(before: String, after: String, removed: String) throws {
        let line = try Self.line(before + "\n")
        #expect(!line.isEnabled)
        #expect(String(decoding: line.enabling(), as: UTF8.self) == after + "\n")
        #expect(String(decoding: line.removing(), as: UTF8.self) == removed + "\n")
    }

    @Test(arguments: [
        "hosts: vip [TRYAGAIN=return] files", "hosts: vip [tryagain=RETURN] files",
        "hosts: mymachines vip [!SUCCESS=return] files", "hosts: vip [NOTFOUND=continue] [TRYAGAIN=return] files",
        "hosts: vip [TRYAGAIN=return]",
    ])
    func linesThatAreAsTheyMustBe(_ text: String) throws {
        let line = try Self.line(text)
        #expect(line.isEnabled)
        #expect(line.enabling() == line.bytes)
    }

    @Test(arguments: [
        ("", "no hosts line"), ("#hosts: files\n", "no hosts line"), ("host: files", "no hosts line"),
        ("hosts files", "no hosts line"), ("hosts: files\nhosts: dns\n", "2 hosts lines"),
        ("hosts:\n", "names no source"), ("hosts: # files\n", "names no source"),
        ("hosts: [X=return]", "open bracket"),
        ("hosts: files [NOTFOUND=return", "open bracket"), ("hosts: files\0", "not a text file"),
    ])
    func filesThatAreRefused(text: String, fragment: String) throws {
        let failure = #expect(throws: Failure.self) { _ = try Self.line(text) }
        #expect(failure?.reason.contains(fragment) == true, "\(failure?.description ?? "")")
    }
}

/// `names enable` and `names disable` on files of their own.
@Suite final class NameServiceSwitchTests {
    private let directory = FileManager.default.temporaryDirectory.appending(path: "vip-names-\(UUID().uuidString)")
        .path
    private var file: String { "\(directory)/nsswitch.conf" }
    private var subject: NameServiceSwitch { NameServiceSwitch(path: FilePath(file)) }
    private static let plain = "# names\nhosts: files [NOTFOUND=return] dns # all\n"
    private static let enabled = "# names\nhosts: vip [TRYAGAIN=return] files [NOTFOUND=return] dns # all\n"

    init() throws {
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
    }

    deinit {
        try? FileManager.default.removeItem(atPath: directory)
    }

    private func write(_ text: String) throws { try Data(text.utf8).write(to: URL(filePath: file)) }
    private func text(_ path: String) throws -> String {
        String(decoding: try Data(contentsOf: URL(filePath: path)), as: UTF8.self)
    }
    private var names: [String] {
        get throws { try FileManager.default.contentsOfDirectory(atPath: directory).sorted() }
    }

    @Test func thereAndBack() throws {
        try write(Self.plain)
        #expect(try subject.enable().isChanged)
        #expect(try text(file) == Self.enabled)
        #expect(try text(file + ".vip-bpf") == Self.plain)
        #expect(try !subject.enable().isChanged)
        #expect(try names == ["nsswitch.conf", "nsswitch.conf.vip-bpf"])
        #expect(try subject.disable().isChanged)
        #expect(try text(file) == Self.plain)
        #expect(try !subject.disable().isChanged)
        #expect(try names == ["nsswitch.conf"])
    }

    /// Edits after `enable` stay, and then the backup stays as well.
    @Test func laterEditsStay() throws {
        try write(Self.plain)
        _ = try subject.enable()
        try write(Self.enabled + "networks: files\n")
        #expect(try subject.disable().backup != nil)
        #expect(try text(file) == Self.plain + "networks: files\n")
        #expect(try text(file + ".vip-bpf") == Self.plain)
    }

    /// A line that contained the module before is restored as it was.
    @Test func backOfALineByHand() throws {
        let byHand = "hosts: files vip dns\n"
        try write(byHand)
        _ = try subject.enable()
        #expect(try text(file) == "hosts: vip [TRYAGAIN=return] files dns\n")
        _ = try subject.disable()
        #expect(try text(file) == byHand)
    }

    @Test func ownerModeAndAttributesStay() throws {
        try write(Self.plain)
        let asRoot = geteuid() == 0
        if asRoot { #expect(chown(file, 1234, 2345) == 0) }
        #expect(chmod(file, 0o640) == 0)
        let tool = Process()
        tool.executableURL = URL(filePath: "/usr/bin/env")
        tool.arguments = ["python3", "-c", "import os, sys; os.setxattr(sys.argv[1], 'user.note', b'kept')", file]
        try tool.run()
        tool.waitUntilExit()
        // A file system may not support attributes.
        let hasAttributes = tool.terminationStatus == 0
        _ = try subject.enable()
        for path in [file, file + ".vip-bpf"] {
            var status = stat()
            #expect(stat(path, &status) == 0)
            #expect(status.st_mode & 0o7777 == 0o640)
            if asRoot { #expect(status.st_uid == 1234 && status.st_gid == 2345) }
            guard hasAttributes else { continue }
            let reader = Process()
            reader.executableURL = URL(filePath: "/usr/bin/env")
            reader.arguments = [
                "python3", "-c", "import os, sys; sys.exit(os.getxattr(sys.argv[1], 'user.note') != b'kept')", path,
            ]
            try reader.run()
            reader.waitUntilExit()
            #expect(reader.terminationStatus == 0, "\(path) has lost its attribute")
        }
    }

    /// Each must fail, and leave everything as it was.
    private func refuses(_ fragment: String, location: SourceLocation = #_sourceLocation) throws {
        let before = try names
        let content = try? text(file)
        for change in [subject.enable, subject.disable] as [() throws(Failure) -> NameServiceSwitch.Outcome] {
            let failure = #expect(throws: Failure.self, sourceLocation: location) { _ = try change() }
            #expect(
                failure?.reason.contains(fragment) == true, "\(failure?.description ?? "")", sourceLocation: location)
        }
        #expect(try names == before, sourceLocation: location)
        #expect((try? text(file)) == content, sourceLocation: location)
    }

    @Test func oddFiles() throws {
        try refuses("no such file")
        try write("passwd: files\n")
        try refuses("no hosts line")
        try write("hosts: files\nhosts: dns\n")
        try refuses("2 hosts lines")
        try FileManager.default.removeItem(atPath: file)
        try FileManager.default.createDirectory(atPath: file, withIntermediateDirectories: false)
        try refuses("not a regular file")
        try FileManager.default.removeItem(atPath: file)
        try Self.plain.write(toFile: "\(directory)/target", atomically: false, encoding: .utf8)
        try FileManager.default.createSymbolicLink(atPath: file, withDestinationPath: "target")
        try refuses("symbolic link")
        #expect(try text("\(directory)/target") == Self.plain)
    }

    /// If its only source is the module, the line is removed with it: libc would otherwise use a default line.
    @Test func nothingElseOnTheLine() throws {
        try write("hosts: vip [TRYAGAIN=return]\n")
        let failure = #expect(throws: Failure.self) { _ = try subject.disable() }
        #expect(failure?.reason.contains("no source would be left") == true)
        #expect(try names == ["nsswitch.conf"])
    }

    /// Root may write anywhere; NameTests tests what prevents a write.
    @Test func unwritable() throws {
        guard geteuid() != 0 else { return }
        try write(Self.plain)
        chmod(directory, 0o500)
        defer { chmod(directory, 0o700) }
        let failure = #expect(throws: Failure.self) { _ = try subject.enable() }
        #expect(failure?.code == .notPermitted)
        #expect(try names == ["nsswitch.conf"])
    }
}
