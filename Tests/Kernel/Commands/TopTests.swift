// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// A document of `vip-bpfctl top --json`.
private struct TopDocument: Decodable {
    struct Session: Decodable {
        struct Program: Decodable, Equatable {
            let name: String
            let processes: Int
        }

        let id: UInt32
        let user: String?
        let virtualIps: [String]
        let virtualLoopback: String
        let rewrittenPerSecond: Double?
        let refusedPerSecond: Double?
        let sockets: Int?
        let processes: Int
        let programs: [Program]
    }

    let measuredSeconds: Double?
    let eventsLost: UInt64
    let ratesAreLowerBounds: Bool
    let notes: [String]
    let sessions: [Session]
}

/// The rows of the table on a terminal, as far as they are visible.
private struct Rows: Equatable {
    var cells: [[String]] = []

    var count: Int { cells.count }
    var ids: [String] { cells.map { $0[0] } }
    subscript(row: Int, column: Int) -> String {
        row < cells.count && column < cells[row].count ? cells[row][column] : ""
    }
}

/// A terminal with a shell in it: tmux(1), with a server of its own that ends with the sandbox.
private final class Terminal {
    private let sandbox: Sandbox

    init(_ sandbox: Sandbox, width: Int = 110, height: Int = 12) throws {
        self.sandbox = sandbox
        try tmux(
            "-f", "/dev/null", "new-session", "-d", "-x", "\(width)", "-y", "\(height)",
            "exec env PS1='$ ' bash --norc -i")
        try wait("a prompt") { $0.contains("$") }
    }

    /// The server's socket is in the sandbox's directory, and the server in its cgroup, so both end with the sandbox.
    @discardableResult
    func tmux(_ arguments: String...) throws -> String {
        var environment = sandbox.controlEnvironment
        for (name, value) in ["TMUX_TMPDIR": sandbox.directory, "TMUX": "", "LC_ALL": "C.UTF-8", "SHELL": "/bin/sh"] {
            environment[name] = value
        }
        let program = try sandbox.start(
            ["tmux", "-u", "-L", "top"] + arguments, in: "control", environment: environment, errorOutput: true)
        program.closeInput()
        let code = try program.wait()
        guard code == 0 else { throw HarnessError("tmux \(arguments): \(program.errorText)") }
        return program.outputText
    }

    /// Presses keys, by tmux's names for them; other text is typed.
    func press(_ keys: String...) throws { for key in keys { try tmux("send-keys", key) } }

    func type(_ line: String) throws {
        try tmux("send-keys", "-l", line)
        try press("Enter")
    }

    var lines: [String] {
        get throws {
            var lines = try tmux("capture-pane", "-p").split(separator: "\n", omittingEmptySubsequences: false)
            while lines.last?.isEmpty == true { lines.removeLast() }
            return lines.map(String.init)
        }
    }

    func fact(_ format: String) throws -> String {
        try tmux("display-message", "-p", "#{\(format)}").trimmingCharacters(in: .newlines)
    }

    /// Waits until the screen satisfies a condition, and returns it.
    @discardableResult
    func wait(_ what: String, _ isSo: (String) -> Bool) throws -> [String] {
        let deadline = ContinuousClock.now + hang
        while true {
            let lines = try lines
            if isSo(lines.joined(separator: "\n")) { return lines }
            guard ContinuousClock.now < deadline else {
                throw HarnessError("the terminal does not show \(what):\n\(lines.joined(separator: "\n"))")
            }
        }
    }

    /// Waits until the rows of the table satisfy a condition.
    @discardableResult
    func rows(_ what: String, _ isSo: (Rows) -> Bool) throws -> Rows {
        var found = Rows()
        try wait(what) { text in
            found.cells = text.split(separator: "\n").map { line in
                line.split(separator: "  ").map { $0.trimmingCharacters(in: .whitespaces) }
            }.filter { UInt32($0.first ?? "") != nil }
            return isSo(found)
        }
        return found
    }
}

@Suite(.serialized, .requiresRoot)
struct TopTests {
    static let rules = """
        virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0}}
        virtualLoopback: {enabled: true, programs: ["*"]}
        """

    /// A sandbox with zoe (7), who has 2 processes and 2 sockets, and ann (300), who has 1 and 3, in a nested cgroup.
    private func sessions(_ body: (Sandbox, [Probe]) throws -> Void) throws {
        try Sandbox.with { sandbox in
            try sandbox.mustCtl(
                "attach", "cgroup", try sandbox.cgroup("attached"), "--policy", sandbox.policyFile(Self.rules))
            for (user, id, ip) in [("zoe", "7", "198.51.100.17"), ("ann", "300", "198.51.100.18")] {
                try sandbox.mustCtl(
                    "session", "open", "--cgroup", sandbox.cgroup("attached/\(user)"), "--id", id, "--ip", ip, "--user",
                    user)
            }
            let probes = [
                try sandbox.probe("server", in: "attached/zoe"), try sandbox.probe("worker", in: "attached/zoe"),
                try sandbox.probe("server", in: "attached/ann/nested/deeper"),
                try sandbox.probe("server", in: "outside"),
            ]
            for call in ["socket s tcp", "bind s 0.0.0.0 9000", "listen s", "socket u udp", "bind u 127.0.0.1 9001"] {
                for probe in [probes[0], probes[2]] { try probe.must(call) }
            }
            for call in ["socket s tcp", "bind s 127.0.0.1 9000", "listen s"] { try probes[3].must(call) }
            for call in ["socket c tcp", "connect c 198.51.100.2 9", "socket t udp 6", "bind t ::1 9002"] {
                _ = try probes[2](call)
            }
            try body(sandbox, probes)
            _ = try sandbox.ctl("detach", "--all")
        }
    }

    /// Waits until there are this many listeners.
    private func wait(forListeners count: Int, in sandbox: Sandbox) throws {
        func listening() throws -> Int {
            let map = try sandbox.mustCtl("map", "dump", "watchers", "--json").stdout
            return map.matches(of: /"pid" : [1-9]/).count
        }
        try TestSupport.wait(for: "\(count) listeners") { try listening() == count }
    }

    private func start(_ sandbox: Sandbox, _ arguments: String...) throws -> Program {
        try sandbox.start(
            [Build.controller.path, "top"] + arguments, in: "control", environment: sandbox.controlEnvironment,
            errorOutput: true)
    }

    // MARK: Without a terminal

    @Test func snapshot() throws {
        try sessions { sandbox, probes in
            let document = try start(sandbox, "--json", "--interval", "2")
            try wait(forListeners: 1, in: sandbox)
            try probes[0].must("socket v udp")
            for _ in 0..<20 { try probes[0].must("sendmmsg v 5 127.0.0.1 9001 x") }
            try probes[0].must("close v")
            try probes[2].must("socket r tcp")
            try probes[2]("burst r 2000 127.0.0.8 9000")
            #expect(try document.wait() == 0 && document.errorText.isEmpty)
            let found = try JSONDecoder.snake.decode(TopDocument.self, from: Data(document.outputText.utf8))
            let seconds = try #require(found.measuredSeconds)
            #expect(seconds >= 2 && found.eventsLost == 0 && !found.ratesAreLowerBounds && found.notes.isEmpty)
            #expect(found.sessions.map(\.id) == [7, 300])
            let (zoe, ann) = (found.sessions[0], found.sessions[1])
            #expect(zoe.user == "zoe" && zoe.virtualIps == ["198.51.100.17"] && zoe.virtualLoopback == "127.0.0.8")
            // Rates have six digits after the point.
            func calls(_ rate: Double?) -> Int { Int(((rate ?? -1) * seconds).rounded()) }
            #expect(calls(zoe.rewrittenPerSecond) == 100 && calls(zoe.refusedPerSecond) == 0, "\(zoe)")
            #expect(calls(ann.rewrittenPerSecond) == 0 && calls(ann.refusedPerSecond) == 2000, "\(ann)")
            #expect(zoe.sockets == 2 && ann.sockets == 3)
            #expect(zoe.processes == 2 && zoe.programs.map(\.name) == ["server", "worker"])
            #expect(ann.processes == 1 && ann.programs == [.init(name: "server", processes: 1)])
            try wait(forListeners: 0, in: sandbox)

            let table = try sandbox.mustCtl("top", "--interval", "0.1", "--sort", "sockets")
            let lines = table.stdout.split(separator: "\n").map(String.init)
            #expect(lines.count == 3 && !table.stdout.contains("\u{1b}"), "\(table)")
            #expect(lines[0].hasPrefix("SESSION  USER  REWRITES  REFUSALS  SOCKETS  PROCS  VIRTUAL IP"))
            #expect(lines[1] == "300      ann   0         0         3        1      198.51.100.18  127.0.1.45  server")
            #expect(
                lines[2]
                    == "7        zoe   0         0         2        2      198.51.100.17  127.0.0.8   server, worker"
            )
            let reversed = try sandbox.mustCtl("top", "--interval", "0.1", "--sort", "user", "--reverse", "--json")
            #expect(try reversed.decode(TopDocument.self).sessions.map(\.id) == [7, 300])
        }
    }

    /// Lost events are reported, and the rates become lower bounds.
    @Test("marks rates as lower bounds when events were lost")
    func lowerBounds() throws {
        try sessions { sandbox, probes in
            let document = try start(sandbox, "--json", "--interval", "2")
            let table = try start(sandbox, "--interval", "2")
            try probes[0].must("socket r tcp")
            try wait(forListeners: 2, in: sandbox)
            for program in [document, table] { program.signal(SIGSTOP) }
            try probes[0]("burst r 60000 127.0.1.45 9000")  // the ring has room for some 23,000
            for program in [document, table] { program.signal(SIGCONT) }
            #expect(try document.wait() == 0)
            let found = try JSONDecoder.snake.decode(TopDocument.self, from: Data(document.outputText.utf8))
            #expect(found.ratesAreLowerBounds && found.eventsLost > 30_000 && found.notes.count == 1)
            let seen = try #require(found.sessions[0].refusedPerSecond) * (found.measuredSeconds ?? 0)
            #expect(UInt64(seen.rounded()) + found.eventsLost == 60_000, "\(seen) \(found.eventsLost)")
            #expect(try table.wait() == 0)
            #expect(table.outputText.contains("7        zoe   >0        >"), "\(table.outputText)")
            #expect(table.outputText.contains("events were lost"), "\(table.outputText)")
        }
    }

    @Test("shows no rates while all places to listen are taken")
    func noPlaceToListen() throws {
        try sessions { sandbox, _ in
            let others = try (0..<4).map { _ in
                try sandbox.start(
                    [Build.controller.path, "watch"], in: "control", environment: sandbox.controlEnvironment)
            }
            try wait(forListeners: 4, in: sandbox)
            let result = try sandbox.mustCtl("top", "--json", "--interval", "0.1")
            let found = try result.decode(TopDocument.self)
            #expect(found.measuredSeconds == nil && found.sessions.allSatisfy { $0.rewrittenPerSecond == nil })
            #expect(found.notes.count == 1 && found.notes[0].contains("\(others[0].pid)"), "\(found.notes)")
            #expect(found.sessions.map(\.sockets) == [2, 3])
            // On the terminal, the rates appear once a slot is free.
            let terminal = try Terminal(sandbox)
            try terminal.type("\(Build.controller.path) top --interval 0.2")
            try terminal.wait("a note") { $0.contains("no rates: 4 listen") }
            try terminal.rows("no rate") { $0[0, 2] == "-" && $0[0, 4] == "2" }
            others[0].signal(SIGTERM)
            try terminal.rows("a rate") { $0[0, 2] == "0" }
        }
    }

    @Test func refused() throws {
        try Sandbox.with { sandbox in
            let nothing = try sandbox.ctl("top")
            #expect(nothing.status == 1 && nothing.stderr.contains("attach cgroup"), "\(nothing)")
            for arguments in [["--interval", "0"], ["--interval", "nan"], ["--sort", "no"], ["--interval", "1e9"]] {
                let result = try sandbox.ctl(["top"] + arguments)
                #expect(result.status == 64 && result.stderr.split(separator: "\n").count == 1, "\(result)")
            }
            try sandbox.mustCtl(
                "attach", "cgroup", try sandbox.cgroup("attached"), "--policy", sandbox.policyFile(Self.rules))
            // Root without capabilities.
            let powerless = try sandbox.start(
                ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", Build.controller.path, "top"],
                in: "control", environment: sandbox.controlEnvironment, errorOutput: true)
            #expect(try powerless.wait() == 77, "\(powerless.errorText)")
            #expect(powerless.errorText.split(separator: "\n").count == 1, "\(powerless.errorText)")
            let empty = try sandbox.mustCtl("top", "--interval", "0.1")
            #expect(empty.stdout.split(separator: "\n").count == 1)
            try sandbox.mustCtl("detach", "--all")
        }
    }

    // MARK: On a terminal

    @Test("follows sessions, sorts and filters by keys")
    func live() throws {
        try sessions { sandbox, probes in
            let terminal = try Terminal(sandbox)
            try terminal.type("\(Build.controller.path) top --interval 0.2")
            try terminal.wait("rates") { $0.contains("2 sessions  0 rewrites/s") }
            #expect(try terminal.fact("alternate_on") == "1")
            let rows = try terminal.rows("both sessions") { $0.count == 2 }
            #expect(rows.cells[0] == ["7", "zoe", "0", "0", "2", "2", "198.51.100.17", "127.0.0.8", "server, worker"])
            #expect(rows.cells[1] == ["300", "ann", "0", "0", "3", "1", "198.51.100.18", "127.0.1.45", "server"])

            for (key, ids) in [
                ("u", ["300", "7"]), ("u", ["7", "300"]), ("k", ["300", "7"]), ("k", ["7", "300"]),
                ("s", ["7", "300"]),
                ("R", ["300", "7"]), ("p", ["7", "300"]), ("p", ["300", "7"]), ("s", ["7", "300"]),
            ] {
                try terminal.press(key)
                try terminal.rows("the order after \(key)") { $0.ids == ids }
            }
            // Sockets and processes are created and end.
            try probes[0].must("socket v tcp")
            try probes[0].must("bind v 0.0.0.0 9005")
            try probes[0].must("listen v")
            probes[1].program.closeInput()
            try probes[1].program.wait()
            try terminal.rows("three sockets, one process") {
                $0[0, 4] == "3" && $0[0, 5] == "1" && $0[0, 8] == "server"
            }

            // Rates rise with the calls, and the busiest comes first.
            try probes[2].must("socket r tcp")
            try probes[2].send("burst r 10000000 127.0.0.8 9000")
            try terminal.press("r")
            try terminal.rows("refusals of ann's first") { rows in
                rows.count == 2 && rows[0, 0] == "300" && rows[0, 3] != "0" && rows[1, 3].hasSuffix("0")
            }
            probes[2].program.signal(SIGKILL)
            try terminal.rows("no refusals any more") { $0.count == 2 && $0[0, 3] == "0" && $0[1, 3] == "0" }

            try terminal.press("h")
            try terminal.wait("help") { $0.contains("q quit") }
            try terminal.press("Space")
            try terminal.wait("a pause") { $0.contains("PAUSED") }
            try terminal.press("Space", "h")
            try terminal.wait("no pause, no help") { !$0.contains("PAUSED") && !$0.contains("q quit") }
            try terminal.press("q")
            try terminal.wait("the shell") { $0.hasSuffix("$") }
            #expect(try terminal.fact("alternate_on") == "0")
        }
    }

    @Test("fits the table into terminals of any size")
    func sizes() throws {
        try sessions { sandbox, _ in
            for number in 0..<20 {
                try sandbox.mustCtl(
                    "session", "open", "--cgroup", sandbox.cgroup("attached/more\(number)"), "--id", "\(1000 + number)",
                    "--user", "名前\(number)")
            }
            let terminal = try Terminal(sandbox)
            try terminal.type("\(Build.controller.path) top --interval 0.2")
            try terminal.rows("ten of the sessions") { $0.count == 10 }
            try terminal.wait("which") { $0.hasPrefix("sessions 1-10 of 22") }
            try terminal.press("PageDown", "Down", "Up")
            try terminal.rows("the next ones") {
                $0[0, 0] == "1008" && $0[0, 1] == "名前8"
            }
            try terminal.press("End")
            try terminal.rows("the last ones") { $0.ids.last == "1019" && $0.count == 10 }
            try terminal.tmux("resize-window", "-x", "60", "-y", "40")
            try terminal.rows("all of them") { $0.count == 22 }
            for (width, height) in [(20, 3), (20, 12), (7, 2), (300, 4), (3, 1), (1, 1), (100, 12)] {
                try expect(terminal, toFit: width, height)
            }
            #expect(try terminal.fact("alternate_on") == "1")
            try terminal.press("Home", "q")
            try terminal.wait("the shell") { $0.contains("$") }
            #expect(try terminal.fact("alternate_on") == "0")
        }
    }

    private func expect(_ terminal: Terminal, toFit width: Int, _ height: Int) throws {
        try terminal.tmux("resize-window", "-x", "\(width)", "-y", "\(height)")
        let lines = try terminal.wait("\(width) columns and \(height) lines") { text in
            let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
            // One line is for a row; on a terminal of one cell there is nothing to read.
            if height == 1 { return lines.count <= 1 }
            guard lines.count == height else { return false }
            let headings = lines[height == 2 ? 0 : 1]
            // The program has cut the line, and not the terminal.
            return headings.hasPrefix("SESSION".prefix(width - 1))
                && (width < 80 ? headings.count == width && headings.hasSuffix("+") : headings.hasSuffix("PROGRAMS"))
        }
        #expect(lines.allSatisfy { $0.count <= width }, "\(lines)")
    }

    /// The terminal is restored however the program ends.
    @Test("restores the terminal however it ends")
    func restored() throws {
        try sessions { sandbox, _ in
            let terminal = try Terminal(sandbox)
            let directory = sandbox.directory
            let (before, after, pidFile) = ("\(directory)/before", "\(directory)/after", "\(directory)/pid")
            func kill(_ signal: Int32) throws { Glibc.kill(try pid(), signal) }
            func pid() throws -> Int32 {
                try #require(Int32(KernelFile.read(pidFile).trimmingCharacters(in: .whitespacesAndNewlines)))
            }
            let ways: [(name: String, status: Int, () throws -> Void)] = [
                ("q", 0, { try terminal.press("q") }), ("C-c", 0, { try terminal.press("C-c") }),
                ("TERM", 0, { try kill(SIGTERM) }), ("HUP", 0, { try kill(SIGHUP) }), ("INT", 0, { try kill(SIGINT) }),
                ("C-\\", 131, { try terminal.press("C-\\") }), ("ABRT", 134, { try kill(SIGABRT) }),
                ("SEGV", 139, { try kill(SIGSEGV) }), ("detach", 1, { try sandbox.mustCtl("detach", "--all") }),
            ]
            for (name, status, leave) in ways {
                try terminal.type("clear; stty -a >\(before)")
                try terminal.type(
                    "(ulimit -c 0; echo $BASHPID >\(pidFile); exec \(Build.controller.path) top --interval 0.2); "
                        + "code=$?; stty -a >\(after); echo ended:$code:")
                try terminal.wait("the table") { $0.contains("SESSION  USER") }
                #expect(try terminal.fact("alternate_on") == "1" && terminal.fact("cursor_flag") == "0", "\(name)")
                try leave()
                let text = try terminal.wait("the end by \(name)") { $0.contains(/ended:[0-9]+:/) }.joined(
                    separator: "\n")
                #expect(text.contains("ended:\(status):"), "\(name): \(text)")
                #expect(!text.contains("SESSION  USER"), "\(name): \(text)")
                #expect(try terminal.fact("alternate_on") == "0" && terminal.fact("cursor_flag") == "1", "\(name)")
                #expect(try terminal.fact("keypad_cursor_flag") == "0", "\(name)")
                #expect(try KernelFile.read(before) == KernelFile.read(after), "\(name)")
                if name == "detach" { #expect(text.contains("detached in the meantime"), "\(text)") }
            }
        }
    }

    /// ^Z, SIGSTOP, `bg` and `fg`; then the terminal is closed.
    @Test("gives the terminal back when it is stopped, and ends with it")
    func stoppedAndClosed() throws {
        try sessions { sandbox, _ in
            let terminal = try Terminal(sandbox)
            let directory = sandbox.directory
            let (before, after, pidFile) = ("\(directory)/before", "\(directory)/after", "\(directory)/pid")
            try terminal.type("stty -a >\(before)")
            try terminal.type("(echo $BASHPID >\(pidFile); exec \(Build.controller.path) top --interval 0.2)")
            for round in 0..<2 {
                try terminal.wait("the table") { $0.contains("2 sessions  0 rewrites/s") }
                try terminal.press("C-z")
                try terminal.wait("that it was stopped") { $0.contains("Stopped") && !$0.contains("VIRTUAL IP") }
                #expect(try terminal.fact("alternate_on") == "0" && terminal.fact("cursor_flag") == "1")
                try terminal.type("clear; stty -a >\(after); echo compared")
                try terminal.wait("the shell") { $0.contains("compared\n$") }
                #expect(try KernelFile.read(before) == KernelFile.read(after))
                if round == 1 {
                    // In the background, it does not use the terminal.
                    try terminal.type("clear; bg")
                    try terminal.wait("that it runs") { $0.contains("&") }
                    try terminal.type("for i in 1 2 3 4 5; do sleep 0.2; done; jobs")
                    try terminal.wait("that it still does") { $0.contains("Running") && !$0.contains("VIRTUAL IP") }
                }
                try terminal.type("clear; fg")
            }
            try terminal.wait("the table") { $0.contains("2 sessions  0 rewrites/s") }
            // The kernel stops it without its cooperation. After it continues, the table is shown again.
            let pid = try #require(
                Int32(KernelFile.read(pidFile).trimmingCharacters(in: .whitespacesAndNewlines)))
            Glibc.kill(pid, SIGSTOP)
            try terminal.wait("that it was stopped") { $0.contains("Stopped") }
            try terminal.type("fg")
            try terminal.wait("nothing but the table") { text in
                text.hasPrefix("2 sessions") && !text.contains("Stopped") && text.split(separator: "\n").count == 4
            }
            try terminal.tmux("kill-server")
            try TestSupport.wait(for: "it to end with its terminal") { Glibc.kill(pid, 0) != 0 }
            try wait(forListeners: 0, in: sandbox)
        }
    }

    @Test("refuses terminals that cannot show it")
    func terminalsThatWillNotDo() throws {
        try sessions { sandbox, _ in
            let terminal = try Terminal(sandbox)
            for name in ["", "no-such-terminal"] {
                try terminal.type("clear; TERM=\(name) \(Build.controller.path) top; echo ended:$?:")
                let text = try terminal.wait("an error") { $0.contains("ended:1:") }.joined(separator: " ")
                #expect(text.contains("--once"), "\(text)")
            }
            try terminal.type("clear; \(Build.controller.path) top --once --interval 0.1 </dev/null; echo ended:$?:")
            try terminal.wait("one table") { $0.contains("ended:0:") && $0.contains("server, worker") }
            // Keys are read from the terminal, although standard input is another file.
            try terminal.type("clear; \(Build.controller.path) top --interval 0.2 </dev/null; echo ended:$?:")
            try terminal.wait("the table") { $0.contains("2 sessions  0 rewrites/s") }
            try terminal.press("q")
            try terminal.wait("the end") { $0.contains("ended:0:") }
        }
    }
}
