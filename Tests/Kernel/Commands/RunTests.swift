// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// What a command of `run` gets from its caller, and what it does not get.
@Suite(.serialized, .requiresRoot)
struct RunTests: CommandHost {
    /// A user without privilege, which every Linux has.
    private static let user = "nobody"

    /// A sandbox with hooks attached, a program `bin/vip-probe` that each user can run, and one that notes that it was
    /// run.
    private func attached(_ body: (Sandbox) throws -> Void) throws {
        try Sandbox.with { sandbox in
            let policy = try sandbox.policyFile(Self.policy)
            try sandbox.mustCtl("attach", "cgroup", sandbox.attached, "--policy", policy)
            try sandbox.sh(
                """
                umask 022; cd '\(sandbox.directory)/bin'
                cp '\(Build.probe.path)' vip-probe
                printf '#!/bin/sh\\necho "$1" >>\(sandbox.directory)/typed\\n' >typed
                chmod 755 . .. vip-probe typed
                """)
            try body(sandbox)
            try sandbox.mustCtl("detach", "--all")
        }
    }

    /// A shell on a terminal of its own, where `ctl` is vip-bpfctl.
    private struct Terminal {
        let program: Program
        /// The name of its device, such as /dev/pts/3.
        private(set) var name = ""

        init(_ sandbox: Sandbox) throws {
            let environment = ["SHELL": "/bin/sh", "TERM": "dumb", "PS1": "", "ENV": ""]
            program = try sandbox.start(
                ["script", "-qfec", "/bin/sh -im", "/dev/null"], in: "control",
                environment: sandbox.controlEnvironment.merging(environment) { _, new in new })
            try type(
                """
                stty -echo rows 33 cols 77; PS1= PS2=; ctl() { '\(Build.controller.path)' "$@"; }; cd '\(sandbox.directory)'
                echo "na""me $(tty)"
                """)
            name = Self.value(in: try expect("name /dev/"))
        }

        /// Writes a line.
        func type(_ text: String) throws { try program.write(text + "\n") }

        /// Presses a key.
        func press(_ key: Character) throws { try program.write("\(key)") }

        /// Skips lines up to one that contains this.
        @discardableResult
        func expect(_ part: String) throws -> String {
            while true {
                let line = try program.readLine()
                if line.contains(part) { return line }
            }
        }

        /// The terminal's modes, from `stty -g`.
        func modes() throws -> String {
            try type("echo mo''des $(stty -g)")
            return "modes " + Self.value(in: try expect("modes "))
        }

        /// The last word of a line.
        private static func value(in line: String) -> String {
            line.split(whereSeparator: \.isWhitespace).last.map(String.init) ?? ""
        }

        /// Ends the shell.
        func exit() throws {
            try type("exit 0")
            _ = try program.wait()
        }
    }

    // MARK: The session of the command

    @Test("gives the command a session, and returns its exit code")
    func givesTheCommandASession() throws {
        try attached { sandbox in
            let script = "cat /proc/self/cgroup; exit 7"
            let result = try sandbox.ctl("run", "--id", "9", "--ip", "198.51.100.20", "--", "sh", "-c", script)
            #expect(result.status == 7, "\(result)")
            #expect(result.stdout.contains("/attached/run-"))
            #expect(try sandbox.mustCtl("session", "list").stdout.split(separator: "\n").count == 1)
            #expect(try !sandbox.sh("ip -br addr").contains("198.51.100.20"))
            #expect(try sandbox.sh("ls -d '\(sandbox.cgroup)'/attached/*/ 2>/dev/null || true").isEmpty)
            #expect(try sandbox.ctl("run", "--", "sh", "-c", "kill -TERM $$").status == 128 + SIGTERM)
            let missing = try sandbox.ctl("run", "--", "no-such-command-at-all")
            #expect(missing.status == 1, "\(missing)")
            #expect(missing.stderr.contains("no-such-command-at-all"))
            #expect(try sandbox.sh("ls -d '\(sandbox.cgroup)'/attached/*/ 2>/dev/null || true").isEmpty)
        }
    }

    @Test("runs the command as --user says")
    func becomesTheUser() throws {
        try attached { sandbox in
            let result = try sandbox.ctl("run", "--user", "nobody", "--", "sh", "-c", "id -un; echo $HOME $USER")
            #expect(result.status == 0, "\(result)")
            #expect(result.stdout.hasPrefix("nobody\n"))
            #expect(result.stdout.contains(" nobody\n"))
            let unknown = try sandbox.ctl("run", "--user", "no-such-user", "--", "true")
            #expect(unknown.status == 64, "\(unknown)")
            #expect(unknown.stderr.contains("no-such-user"))
        }
    }

    @Test("removes its cgroup although its session was closed in between")
    func removesItsCgroup() throws {
        try attached { sandbox in
            let run = try sandbox.start(
                [Build.controller.path, "run", "--id", "9", "--", "sh", "-c", "echo up; read line"], in: "control",
                environment: sandbox.controlEnvironment,
                errorOutput: true)
            #expect(try run.readLine() == "up")
            try sandbox.mustCtl("session", "close", "9")
            try run.write("\n")
            #expect(try run.wait() == 0, "\(run.errorText)")
            #expect(try sandbox.sh("ls -d '\(sandbox.cgroup)'/attached/*/ 2>/dev/null || true").isEmpty)
        }
    }

    /// A daemon that the command leaves behind keeps the session open, and a signal reaches it.
    @Test("keeps the session for what the command left running, and passes signals on")
    func waitsForTheLastProcess() throws {
        try attached { sandbox in
            let run = try sandbox.start(
                [Build.controller.path, "run", "--id", "9", "--", "sh", "-c", "sleep 1000 & echo left $!"],
                in: "control",
                environment: sandbox.controlEnvironment,
                errorOutput: true)
            #expect(try run.readLine().hasPrefix("left "))
            #expect(try sandbox.mustCtl("session", "show", "9").stdout.contains("open"))
            run.signal(SIGTERM)
            #expect(try run.wait() == 0, "\(run.errorText)")
            #expect(try sandbox.ctl("session", "show", "9").status == 1)
        }
    }

    /// A run that is killed before its session is open leaves a cgroup, which the next command removes.
    @Test("leaves no cgroup to the next command when it is killed")
    func leavesNoCgroupAfterAKill() throws {
        try attached { sandbox in
            let common = "--bpffs '\(sandbox.bpffs)' --state '\(sandbox.stateDirectory)'"
            for step in [1, 4, 8] {
                try sandbox.sh(
                    "! strace -f -o /dev/null -e trace=pwrite64 -e inject=pwrite64:signal=KILL:when=\(step) "
                        + "'\(Build.controller.path)' \(common) run -- true 2>/dev/null")
                try sandbox.mustCtl("program", "add", "p\(step)", "--for", "virtual-ip")
                #expect(try sandbox.sh("ls -d '\(sandbox.cgroup)'/attached/*/ 2>/dev/null || true").isEmpty, "\(step)")
                try expectAgreement(sandbox)
            }
        }
    }

    // MARK: The caller's terminal

    @Test(arguments: ["", "--no-pty", "| cat", "<&2 >/dev/null", "--preserve-env"])
    func nothingIsTypedIntoTheCallersTerminal(how: String) throws {
        try attached { sandbox in
            let terminal = try Terminal(sandbox)
            // This program can do it as root, so a failure would be noticed.
            try terminal.type("bin/vip-probe type bin/typed")
            try terminal.expect("\"ok\":true")
            let attack = "'\(sandbox.directory)/bin/vip-probe' type bin/typed"
            let command = how.hasPrefix("--") ? "\(how) \(attack)" : "\(attack) \(how)"
            // On one line, because input that is typed while it runs goes to the command.
            try terminal.type("ctl run --user \(Self.user) \(command); echo en''d")
            try terminal.expect("end")
            try terminal.exit()
            let typed = try String(contentsOfFile: "\(sandbox.directory)/typed", encoding: .utf8)
            #expect(typed == "\n", "typed \(typed.count) times")
        }
    }

    /// Without a terminal of its own, it has none at all, although its descriptors lead to the caller's.
    @Test func withoutATerminalOfItsOwnItHasNone() throws {
        try attached { sandbox in
            let terminal = try Terminal(sandbox)
            try terminal.type(
                "ctl run --no-pty --user \(Self.user) '\(sandbox.directory)/bin/vip-probe' type bin/typed")
            #expect(try terminal.expect("\"cmd\":\"type\"").contains("EPERM"))
            try terminal.type("ctl run --no-pty sh -c 'test -t 0 && echo is\"\"One; (: </dev/tty) 2>&1'")
            try terminal.expect("isOne")
            try terminal.expect("/dev/tty")
            try terminal.exit()
        }
    }

    @Test func aPipelineIsNoTerminal() throws {
        try attached { sandbox in
            let script = "test -t 0 || test -t 1 || echo no; (: </dev/tty) 2>/dev/null || echo none; cat"
            let result = try sandbox.ctl(["run", "sh", "-c", script], input: "a\n\u{3}\u{4}b\r\n")
            #expect(result.stdout == "no\nnone\na\n\u{3}\u{4}b\r\n", "\(result)")
            #expect(result.status == 0)
        }
    }

    // MARK: The command's own terminal

    @Test func keysSizeAndExitCodePassThroughThePseudoTerminal() throws {
        try attached { sandbox in
            let terminal = try Terminal(sandbox)
            let before = try terminal.modes()
            try terminal.type(
                #"ctl run --user \#(Self.user) sh -c 'test -O $(tty) && echo o''wner; stty size; echo a""sk; read x; echo "got $x"; exit 7'; echo co''de $?"#
            )
            try terminal.expect("owner")
            try terminal.expect("33 77")
            try terminal.expect("ask")
            try terminal.type("word")
            try terminal.expect("got word")
            try terminal.expect("code 7")
            // ^C reaches the command and not the caller; ^D is the end of the command's input.
            try terminal.type("ctl run sh -c 'echo sl''eeps; exec sleep 1000'; echo co''de $?")
            try terminal.expect("sleeps")
            try terminal.press("\u{3}")
            try terminal.expect("code 130")
            try terminal.type("ctl run sh -c 'echo st''arts; cat; echo en''ds'; echo co''de $?")
            try terminal.expect("starts")
            try terminal.press("\u{4}")
            try terminal.expect("ends")
            try terminal.expect("code 0")
            #expect(try terminal.modes() == before)
            try terminal.exit()
        }
    }

    @Test func aChangeOfSizeIsPassedOn() throws {
        try attached { sandbox in
            let terminal = try Terminal(sandbox)
            let script = "trap \"stty size; exit\" WINCH; echo wa''its; while :; do sleep 0.1; done"
            try terminal.type("ctl run sh -c '\(script)'; echo en''d")
            try terminal.expect("waits")
            try sandbox.sh("stty -F \(terminal.name) rows 44 cols 88")
            try terminal.expect("44 88")
            try terminal.expect("end")
            try terminal.exit()
        }
    }

    /// If it is started in the background, it leaves the keys to the shell, until the shell's `fg`.
    @Test func inTheBackgroundItLeavesTheTerminalAlone() throws {
        try attached { sandbox in
            let terminal = try Terminal(sandbox)
            let before = try terminal.modes()
            try terminal.type("ctl run sh -c 'echo st''arts; read x; echo \"got $x\"' &")
            try terminal.expect("starts")
            #expect(try terminal.modes() == before)
            try terminal.type("fg >/dev/null; echo co''de $?")
            try terminal.type("word")
            try terminal.expect("got word")
            try terminal.expect("code 0")
            #expect(try terminal.modes() == before)
            try terminal.exit()
        }
    }

    @Test func whatTheCommandWritesIsComplete() throws {
        try attached { sandbox in
            let terminal = try Terminal(sandbox)
            try terminal.type("ctl run sh -c 'seq 1 50000'")
            for number in 1...50000 {
                let line = try terminal.program.readLine()
                guard line == "\(number)\r\r" || line == "\(number)\r" else {
                    Issue.record("\(line.debugDescription) in place of \(number)")
                    break
                }
            }
            try terminal.exit()
        }
    }

    @Test func suspendedItGivesTheTerminalBack() throws {
        try attached { sandbox in
            let terminal = try Terminal(sandbox)
            let before = try terminal.modes()
            try terminal.type("echo pi''d $$")
            let shell = try terminal.expect("pid ").filter(\.isNumber)
            try terminal.type(
                "ctl run sh -c 'echo st''arts; while read x; do echo \"got $x\"; done'; echo co''de $?")
            try terminal.expect("starts")
            let run = try sandbox.sh("pgrep -n -P \(shell) vip-bpfctl").filter(\.isNumber)
            kill(try #require(pid_t(run)), SIGTSTP)
            try terminal.expect("code \(128 + SIGTSTP)")
            #expect(try terminal.modes() == before)
            try terminal.type("fg >/dev/null; echo co''de $?")
            try terminal.type("word")
            try terminal.expect("got word")
            try terminal.press("\u{4}")
            try terminal.expect("code 0")
            #expect(try terminal.modes() == before)
            try terminal.exit()
        }
    }

    /// The caller has the terminal again, and ^C reaches processes that the command has left.
    @Test func theTerminalIsGivenBackWhenTheCommandEnds() throws {
        try attached { sandbox in
            let terminal = try Terminal(sandbox)
            let before = try terminal.modes()
            // A shell without job control makes background commands ignore SIGINT. The command waits, for at most a
            // minute, until its daemon has left the terminal.
            let mark = "\(sandbox.directory)/left"
            try terminal.type(
                """
                ctl run --id 9 sh -c 'setsid env --default-signal=INT sh -c "touch \(mark); exec sleep 1000" & \
                for i in $(seq 600); do [ -e \(mark) ] && break; sleep 0.1; done'; echo co''de $?
                """)
            try wait(for: "the command's daemon") { access(mark, F_OK) == 0 }
            #expect(try sandbox.mustCtl("session", "show", "9").stdout.contains("open"))
            try wait(for: "the terminal's modes of before") {
                try "modes " + sandbox.sh("stty -g -F \(terminal.name)") == before + "\n"
            }
            try terminal.press("\u{3}")
            try terminal.expect("code 0")
            #expect(try sandbox.ctl("session", "show", "9").status == 1)
            try terminal.exit()
        }
    }

    @Test func whenTheTerminalGoesTheCommandIsHungUp() throws {
        try attached { sandbox in
            let terminal = try Terminal(sandbox)
            try terminal.type(
                "ctl run --id 9 sh -c 'trap \"exit\" HUP; echo st''arts; while :; do sleep 0.1; done'")
            try terminal.expect("starts")
            terminal.program.signal(SIGKILL)
            _ = try terminal.program.wait()
            try wait(for: "the end of the session") { try sandbox.ctl("session", "show", "9").status != 0 }
        }
    }

    // MARK: Descriptors and environment

    @Test(arguments: [[], ["--user", user]])
    func noDescriptorOfTheCallerReachesTheCommand(options: [String]) throws {
        try attached { sandbox in
            let list = "for fd in /proc/self/fd/*; do readlink $fd; done; ls /proc/$$/fd"
            let program = try sandbox.start(
                ["bash", "-c", #"exec 9</etc/passwd 251</etc/passwd "$@""#, "bash", Build.controller.path, "run"]
                    + options
                    + ["sh", "-c", list],
                in: "control", environment: sandbox.controlEnvironment, errorOutput: true)
            program.closeInput()
            #expect(try program.wait() == 0, "\(program.errorText)")
            #expect(!program.outputText.contains("/etc/passwd"))
            #expect(program.outputText.hasSuffix("\n0\n1\n2\n"), "\(program.outputText)")
        }
    }

    @Test func theEnvironmentOfAUserIsThatOfALogin() throws {
        try attached { sandbox in
            let environment = [
                "SECRET": "x", "PATH": "/root/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "vt100", "HOME": "/root",
            ]
            func lines(_ options: [String]) throws -> [String] {
                let script = "umask 077; exec \"$@\""
                let program = try sandbox.start(
                    ["sh", "-c", script, "sh", Build.controller.path, "run"] + options + [
                        "sh", "-c", "env; umask; pwd",
                    ],
                    in: "control",
                    environment: sandbox.controlEnvironment.merging(environment) { _, new in new }, errorOutput: true)
                program.closeInput()
                #expect(try program.wait() == 0, "\(program.errorText)")
                return program.outputText.split(separator: "\n").map(String.init)
            }
            let account = try sandbox.sh("getent passwd \(Self.user)").split(
                separator: ":", omittingEmptySubsequences: false)
            let home = String(account[5])
            let own = ["USER=\(Self.user)", "LOGNAME=\(Self.user)", "HOME=\(home)"]

            let login = try lines(["--user", Self.user])
            // Debian's has it; where there is none, the default is in LoginDefinitionsTests.
            let defined = try sandbox.sh("awk '$1 == \"ENV_PATH\" { print $2 }' /etc/login.defs")
            let path = defined.isEmpty ? "PATH=/usr/local/bin:/usr/bin:/bin" : String(defined.dropLast())
            let names = Set(login.compactMap { $0.contains("=") ? $0.prefix { $0 != "=" } : nil })
            // A shell adds some variables.
            #expect(
                names.subtracting(["PWD", "OLDPWD", "SHLVL", "_", "COLORTERM", "NO_COLOR"]) == [
                    "HOME", "SHELL", "USER", "LOGNAME", "PATH", "TERM",
                ])
            for line in own + [path, "TERM=vt100", "0022"] { #expect(login.contains(line), "no \(line) in \(login)") }
            #expect(login.last == (FileManager.default.fileExists(atPath: home) ? home : "/"))

            let preserved = try lines(["--user", Self.user, "--preserve-env"])
            let kept = [
                "SECRET=x", "PATH=\(environment["PATH"] ?? "")", "0077", FileManager.default.currentDirectoryPath,
            ]
            for line in own + kept { #expect(preserved.contains(line), "no \(line) in \(preserved)") }

            let callers = try lines([])
            for line in kept + ["HOME=/root"] { #expect(callers.contains(line), "no \(line) in \(callers)") }
        }
    }

    // MARK: Other cases

    @Test func anUnknownUserIsAnErrorBeforeAnythingIsMade() throws {
        try Sandbox.with { sandbox in
            // Nothing is attached either, but that is checked later.
            let result = try sandbox.ctl("run", "--user", "no-such-user", "--", "true")
            #expect(result.status == 64, "\(result)")
            #expect(result.stderr.contains("no-such-user"))
            #expect(try FileManager.default.contentsOfDirectory(atPath: sandbox.stateDirectory).isEmpty)
        }
    }

    @Test(arguments: [SIGTERM, SIGHUP, SIGINT, SIGQUIT])
    func signalsReachTheCommand(signal: Int32) throws {
        try attached { sandbox in
            let run = try sandbox.start(
                [
                    Build.controller.path, "run", "--user", Self.user, "sh", "-c",
                    "ulimit -c 0; echo up; exec sleep 1000",
                ],
                in: "control", environment: sandbox.controlEnvironment, errorOutput: true)
            #expect(try run.readLine() == "up")
            run.signal(signal)
            #expect(try run.wait() == 128 + signal, "\(run.errorText)")
        }
    }

    @Test(arguments: [
        (["echo", "-v", "--", "--help"], "-v -- --help\n"), (["--", "echo", "--", "a"], "-- a\n"),
        (["--id", "9", "echo", "--id", "7"], "--id 7\n"),
    ])
    func theCommandBeginsAtTheFirstWord(arguments: [String], output: String) throws {
        try attached { sandbox in
            let result = try sandbox.ctl(["run"] + arguments)
            #expect(result.status == 0 && result.stdout == output, "\(result)")
            let unknown = try sandbox.ctl("run", "--no-such-option", "echo")
            #expect(unknown.status == 64 && unknown.stderr.contains("--no-such-option"), "\(unknown)")
            #expect(try sandbox.ctl("run", "--help").stdout.contains("USAGE: vip-bpfctl run"))
        }
    }
}
