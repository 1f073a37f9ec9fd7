// SPDX-License-Identifier: Apache-2.0

import CHost
import CNcurses
import FoundationEssentials
import Glibc
import Host

/// The terminal on standard output, taken by ncurses(3X) until this goes out of scope. One thread's alone.
///
/// The terminal is put right again when it ends, and also when the process dies of a defect; whoever ends the process
/// otherwise, with this still there, calls ``restoreAtOnce()``.
struct Screen: ~Copyable {
    struct Line {
        enum Style { case plain, bold, reverse }

        var text: String
        var style = Style.plain
    }

    enum Key: Equatable {
        case character(Character)
        case up, down, pageUp, pageDown, home, end
    }

    /// Where keys come from, to be waited for.
    let input: CInt
    private(set) var height = 24
    private(set) var width = 80
    /// The terminal is another process's just now.
    private var isSuspended = false
    private let isUTF8: Bool

    /// More cells than any terminal has; a window size is only what somebody says.
    private static let limit = (height: 1000, width: 2000)

    /// - Throws: ``Failure`` where the terminal is not known, or cannot do what a table needs.
    init() throws(Failure) {
        setlocale(LC_CTYPE, "")
        let keys = isatty(STDIN_FILENO) == 1 ? nil : fopen("/dev/tty", "re")
        vip_terminal_guard(STDOUT_FILENO, "")
        // Its size is asked for below, within limits.
        use_env(false)
        use_tioctl(false)
        guard vip_screen_open(keys) != nil else {
            vip_terminal_unguard()
            let name = (ProcessInfo.processInfo.environment["TERM"] ?? "").printableLine
            throw Failure(
                .failed, "show a live table on the terminal",
                name.isEmpty
                    ? "TERM is not set" : "TERM is '\(name)', which ncurses does not support",
                hint: "set TERM, or use --once")
        }
        isUTF8 = vip_locale_is_utf8() != 0
        input = keys.map { fileno($0) } ?? STDIN_FILENO
        vip_screen_prepare()
        let leave = ["sgr0", "cnorm", "rmkx", "rmcup"].map(Self.capability).joined()
        vip_terminal_guard(STDOUT_FILENO, leave)
        fit()
    }

    deinit {
        if !isSuspended { endwin() }
        vip_terminal_unguard()
    }

    /// Puts the terminal right from any thread, though another one is stuck writing to it.
    static func restoreAtOnce() { vip_terminal_restore() }

    /// What terminfo(5) has, without the delays that printing terminals needed.
    private static func capability(_ name: String) -> String {
        // (char *)-1 for one that is not a string's name.
        guard let text = tigetstr(name), Int(bitPattern: text) != -1 else { return "" }
        return String(cString: text).replacing(/\$<[0-9.*\/]*>/, with: "")
    }

    // MARK: The terminal

    /// Takes over the terminal's size, as it is now.
    mutating func fit() {
        var lines: CInt = 0
        var columns: CInt = 0
        guard vip_terminal_size(STDOUT_FILENO, &lines, &columns) == 0 else { return }
        let height = lines > 0 ? min(Int(lines), Self.limit.height) : 24
        let width = columns > 0 ? min(Int(columns), Self.limit.width) : 80
        resizeterm(CInt(height), CInt(width))
        self.height = Int(vip_screen_lines())
        self.width = Int(vip_screen_columns())
    }

    /// Puts the terminal right and stops the process, as ^Z is expected to. Returns when it goes on.
    mutating func suspend() {
        if !isSuspended { endwin() }
        isSuspended = true
        vip_stop()
    }

    /// The process goes on: takes the terminal again where it is ours. `bg` leaves it to the shell.
    mutating func resume() {
        guard vip_terminal_is_ours(STDOUT_FILENO) != 0 else {
            isSuspended = true
            return
        }
        // SIGSTOP came without warning: whatever has been on the screen since, and whichever modes it has.
        if !isSuspended { endwin() }
        isSuspended = false
        fit()
        vip_screen_distrust()
    }

    var isShown: Bool { !isSuspended }

    /// A key that was pressed, `nil` where none was.
    func key() -> Key? {
        while isShown {
            let code = getch()
            switch code {
            case KEY_UP: return .up
            case KEY_DOWN: return .down
            case KEY_PPAGE: return .pageUp
            case KEY_NPAGE: return .pageDown
            case KEY_HOME: return .home
            case KEY_END: return .end
            case 0x20..<0x7f: return .character(Character(UnicodeScalar(UInt8(code))))
            case ERR: return nil
            default: continue
            }
        }
        return nil
    }

    // MARK: What is on it

    /// Shows these lines from the top, cut to the width, and nothing below them.
    func draw(_ lines: [Line]) {
        guard isShown else { return }
        erase()
        for (row, line) in lines.prefix(height).enumerated() {
            vip_screen_style(line.style == .bold ? 1 : 0, line.style == .reverse ? 1 : 0)
            let text = fitted(line.text, width)
            move(CInt(row), 0)
            addstr(line.style == .reverse ? padded(text, width) : text)
        }
        vip_screen_style(0, 0)
        refresh()
    }

    /// The text in at most so many cells; `+` in the last one says that there was more.
    func fitted(_ text: String, _ width: Int) -> String {
        var result = ""
        var used = 0
        var shorter = (text: "", used: 0)
        for scalar in text.unicodeScalars {
            let cells = Int(vip_cell_width(scalar.value))
            let isShown = cells >= 0 && (isUTF8 || scalar.isASCII)
            used += isShown ? cells : 1
            if used > width { return width < 1 ? "" : padded(shorter.text, width - 1, shorter.used) + "+" }
            if isShown { result.unicodeScalars.append(scalar) } else { result.append("?") }
            if used < width { shorter = (result, used) }
        }
        return result
    }

    /// With blanks behind, so that it takes so many cells.
    func padded(_ text: String, _ width: Int) -> String {
        padded(text, width, text.unicodeScalars.reduce(0) { $0 + max(0, Int(vip_cell_width($1.value))) })
    }

    private func padded(_ text: String, _ width: Int, _ used: Int) -> String {
        text + String(repeating: " ", count: max(0, width - used))
    }

    /// How many cells a text takes.
    func cells(_ text: String) -> Int {
        text.unicodeScalars.reduce(0) { sum, scalar in
            let cells = Int(vip_cell_width(scalar.value))
            return sum + (cells >= 0 && (isUTF8 || scalar.isASCII) ? cells : 1)
        }
    }
}
