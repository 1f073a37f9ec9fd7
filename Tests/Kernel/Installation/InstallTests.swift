// SPDX-License-Identifier: Apache-2.0

import Foundation
import Policy
import TestSupport
import Testing

/// `make install` into a directory of its own, and the installed files. Needs no root.
@Suite struct InstallTests {
    /// Runs a command to its end.
    @discardableResult
    private func run(_ command: [String]) throws -> String {
        let program = try Program(command, errorOutput: true)
        program.closeInput()
        let code = try program.wait()
        guard code == 0 else {
            throw HarnessError("\(command): exit code \(code): \(program.outputText)\(program.errorText)")
        }
        return program.outputText + program.errorText
    }

    private func install(
        _ variables: [String], _ directory: String, target: String = "install", umask: String = "022"
    ) throws {
        // A stand-in: what is in the name service module does not matter here.
        let module = "\(directory).module/libnss_vip.so.2"
        defer { try? FileManager.default.removeItem(atPath: "\(directory).module") }
        try run(["install", "-D", "-m", "755", "/dev/null", module])
        try run(
            ["sh", "-c", "umask \(umask) && exec \"$@\"", "sh"]
                + ["make", "-C", SourceTree.url("").path, "--no-print-directory", target, "NO_DEPS=1"]
                + ["CONTROLLER=\(Build.controller.path)", "MODULE=\(module)"] + variables)
    }

    private func inDirectory(_ body: (String) throws -> Void) throws {
        let directory = "/tmp/vip-install-\(getpid())-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        try body(directory)
    }

    @Test(arguments: [("/usr", "vendor-completions"), ("/usr/local", "site-functions")])
    func everythingIsWhereDebianWantsIt(prefix: String, zsh: String) throws {
        try inDirectory { directory in
            try install(["DESTDIR=\(directory)", "PREFIX=\(prefix)", "LIBDIR=\(prefix)/lib/cpu"], directory)
            let installed = try run(["find", directory, "-type", "f", "-printf", "%m %P\n"]).split(separator: "\n")
            let pages = "\(prefix.dropFirst())/share/man/"
            let files = installed.filter { !$0.contains(pages) && !$0.contains("/doc/vip-bpf/docs/") }
            let below = prefix.dropFirst()
            let expected = [
                "644 etc/vip-bpf/policy.yaml", "644 \(below)/lib/cpu/libnss_vip.so.2",
                "644 \(below)/lib/systemd/system/vip-bpf-metrics.socket",
                "644 \(below)/lib/systemd/system/vip-bpf-metrics@.service",
                "644 \(below)/lib/systemd/system/vip-bpf-page.service",
                "644 \(below)/lib/systemd/system/vip-bpf-page.timer",
                "644 \(below)/lib/systemd/system/vip-bpf.service",
                "644 \(below)/lib/systemd/system/vip-bpfd.service", "755 \(below)/sbin/vip-bpfctl",
                "644 \(below)/share/bash-completion/completions/vip-bpfctl",
                "644 \(below)/share/doc/vip-bpf/CHANGELOG.md", "644 \(below)/share/doc/vip-bpf/README.md",
                "644 \(below)/share/doc/vip-bpf/examples/pam-snippet",
                "644 \(below)/share/fish/vendor_completions.d/vip-bpfctl.fish",
                "644 \(below)/share/pam-configs/vip-bpf",
                "644 \(below)/share/vip-bpf/installed", "644 \(below)/share/vip-bpf/policy.schema.json",
                "644 \(below)/share/vip-bpf/vip-bpf.json", "644 \(below)/share/vip-bpf/vip-bpf.rules.yaml",
                "644 \(below)/share/zsh/\(zsh)/_vip-bpfctl",
            ]
            #expect(files.map(String.init).sorted() == expected.sorted())
            for page in ["man5/vip-bpf-policy.5", "man7/vip-bpf.7", "man8/vip-bpfctl.8", "man8/libnss_vip.8"] {
                #expect(installed.contains("644 \(pages)\(page)"), "\(page)")
            }
            #expect(installed.contains { $0.hasSuffix("/doc/vip-bpf/docs/policy.md") })
            // Users look for programs only in bin.
            #expect(
                try FileManager.default.destinationOfSymbolicLink(atPath: "\(directory)\(prefix)/bin/vip-bpfctl")
                    == "../sbin/vip-bpfctl")
            // DESTDIR is where the files are now; their paths contain it nowhere.
            let text = try run([
                "grep", "-rIh", "vip-bpfctl \\|policy.yaml", "\(directory)\(prefix)/lib",
                "\(directory)\(prefix)/share/pam-configs",
            ])
            #expect(!text.contains(directory) && !text.contains("@"))
            #expect(text.contains("ExecStart=\(prefix)/sbin/vip-bpfctl daemon --policy /etc/vip-bpf/policy.yaml"))
            #expect(
                text.contains(
                    "pam_exec.so seteuid quiet type=open_session \(prefix)/sbin/vip-bpfctl session open --pam"))

            try run([
                "\(directory)\(prefix)/sbin/vip-bpfctl", "policy", "check", "\(directory)/etc/vip-bpf/policy.yaml",
            ])
            let policy = try String(contentsOfFile: "\(directory)/etc/vip-bpf/policy.yaml", encoding: .utf8)
            #expect(
                policy.hasPrefix("# yaml-language-server: $schema=\(prefix)/share/vip-bpf/policy.schema.json\n"))
            // The commented parts are a valid policy, too.
            let all = policy.split(separator: "\n").filter { !$0.hasPrefix("# ") && $0 != "#" }
                .map { $0.hasPrefix("#") ? $0.dropFirst() : $0 }
            try all.joined(separator: "\n").write(toFile: "\(directory)/all.yaml", atomically: true, encoding: .utf8)
            try run(["\(directory)\(prefix)/sbin/vip-bpfctl", "policy", "check", "\(directory)/all.yaml"])
            #expect(all.contains { $0.hasPrefix("virtualLoopback:") })
        }
    }

    @Test func anAdministratorsPolicyIsKept() throws {
        try inDirectory { directory in
            let file = "\(directory)/etc/vip-bpf/policy.yaml"
            try run(["install", "-D", "-m", "600", "/dev/null", file])
            try "isolation: true".write(toFile: file, atomically: false, encoding: .utf8)
            try install(["DESTDIR=\(directory)"], directory)
            #expect(try String(contentsOfFile: file, encoding: .utf8) == "isolation: true")
        }
    }

    /// What is below a directory: types, modes, paths, targets of links, and contents.
    private func tree(_ directory: String) throws -> [Substring] {
        try run([
            "sh", "-c",
            """
            cd "$1" && find . -printf '%y %m %p %l\\n' && find . -type f -exec sha256sum {} +
            """, "sh", directory,
        ]).split(separator: "\n").sorted()
    }

    @Test(arguments: [("/usr", false), ("/usr/local", false), ("/usr/local", true)])
    func uninstallRemovesWhatInstallPutThereAndNothingElse(prefix: String, again: Bool) throws {
        try inDirectory { directory in
            // Files and directories of others, empty ones among them.
            let share = "\(directory)\(prefix)/share"
            try run(["mkdir", "-p", "\(share)/zsh/site-functions", "\(share)/man/man8", "\(directory)/etc/other"])
            try "other".write(toFile: "\(share)/man/man8/vip-bpfctl-other.8", atomically: false, encoding: .utf8)
            let before = try tree(directory)
            let variables = ["DESTDIR=\(directory)", "PREFIX=\(prefix)", "LIBDIR=\(prefix)/lib/cpu"]
            for _ in 0...(again ? 1 : 0) { try install(variables, directory) }
            #expect(try tree(directory) != before)
            try install(variables, directory, target: "uninstall")
            #expect(try tree(directory) == before)
        }
    }

    @Test(arguments: [true, false])
    func uninstallKeepsAnAdministratorsPolicy(wasThere: Bool) throws {
        try inDirectory { directory in
            let file = "\(directory)/etc/vip-bpf/policy.yaml"
            func edit() throws { try "isolation: true".write(toFile: file, atomically: false, encoding: .utf8) }
            if wasThere {
                try run(["install", "-D", "-m", "600", "/dev/null", file])
                try edit()
            }
            let variables = ["DESTDIR=\(directory)"]
            try install(variables, directory)
            if !wasThere { try edit() }
            try install(variables, directory, target: "uninstall")
            let left = try run(["find", "\(directory)", "-type", "f"]).split(separator: "\n")
            #expect(left == [Substring(file)])
            #expect(try String(contentsOfFile: file, encoding: .utf8) == "isolation: true")
        }
    }

    @Test func anUpgradeRemovesFilesThatAreGone() throws {
        try inDirectory { directory in
            let variables = ["DESTDIR=\(directory)", "PREFIX=/usr"]
            try install(variables, directory)
            let former = "\(directory)/usr/share/vip-bpf/former"
            try "".write(toFile: former, atomically: false, encoding: .utf8)
            try run([
                "sh", "-c", "echo 'f /usr/share/vip-bpf/former' >>\(directory)/usr/share/vip-bpf/installed",
            ])
            try install(variables, directory)
            #expect(!FileManager.default.fileExists(atPath: former))
        }
    }

    /// groff's and mandoc's warnings are errors here.
    @Test func manualPagesHaveNoWarnings() throws {
        try inDirectory { directory in
            try install(["DESTDIR=\(directory)", "PREFIX=/usr"], directory)
            let pages = try run(["find", "\(directory)/usr/share/man", "-type", "f"]).split(separator: "\n")
                .map(String.init).sorted()
            #expect(pages.count > 20)
            for page in pages {
                #expect(try run(["mandoc", "-Tlint", page]).isEmpty)
                #expect(try run(["sh", "-c", "exec man --warnings -l \"$1\" 2>&1 >/dev/null", "sh", page]).isEmpty)
            }
            // Each command has a page or is on one, and each page is named by the others.
            let names = Set(pages.map { URL(filePath: $0).lastPathComponent })
            let command = try run(["mandoc", "-Tascii", "\(directory)/usr/share/man/man8/vip-bpfctl.8"])
                .replacing(/.\u{8}/, with: "")
            for name in names where name.hasPrefix("vip-bpfctl-") {
                #expect(command.contains(name.replacing(".8", with: "(8)")), "\(name)")
            }
            let policy = try run([
                "mandoc", "-Tascii", "-Owidth=200", "\(directory)/usr/share/man/man5/vip-bpf-policy.5",
            ]).replacing(/.\u{8}/, with: "")
            for key in PolicyKey.all { #expect(policy.contains("  \(key.path)\n"), "\(key.path)") }
        }
    }

    @Test("installs with the same modes, whatever the umask is", arguments: ["0077", "0002", "0"])
    func modesDoNotDependOnTheUmask(umask: String) throws {
        try inDirectory { directory in
            try install(["DESTDIR=\(directory)", "PREFIX=/usr", "LIBDIR=/usr/lib/cpu"], directory, umask: umask)
            let modes = try run(["find", directory, "-mindepth", "1", "-printf", "%y %m\\n"]).split(separator: "\n")
            #expect(Set(modes) == ["d 755", "f 644", "f 755", "l 777"])
        }
    }

    @Test func systemdTakesTheUnits() throws {
        try inDirectory { directory in
            // The files are at the paths in the units; with a DESTDIR, so that this host's libraries do not change.
            try install(["DESTDIR=/", "PREFIX=\(directory)/usr", "SYSCONFDIR=\(directory)/etc"], directory)
            let names = [
                "vip-bpf.service", "vip-bpfd.service", "vip-bpf-page.timer", "vip-bpf-page.service",
                "vip-bpf-metrics.socket", "vip-bpf-metrics@.service",
            ]
            let units = names.map { "\(directory)/usr/lib/systemd/system/\($0)" }
            #expect(try run(["systemd-analyze", "--man=no", "verify"] + units).isEmpty)
            // In tenths of systemd's exposure level, whose "OK" ends at 4.0.
            for (unit, exposure) in [(0, 35), (1, 35), (3, 30), (5, 10)] {
                try run([
                    "systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=\(exposure)",
                    units[unit],
                ])
            }
        }
    }
}
