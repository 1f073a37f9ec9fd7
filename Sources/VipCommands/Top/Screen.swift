// SPDX-License-Identifier: Apache-2.0

import CHost
import CNcurses
import FoundationEssentials
import Glibc
import Host

/// The terminal on standard output, used by ncurses(3X) as long as this exists. Use it on one thread.
///
/// The terminal is restored at the end, and also if the process crashes. Code that ends the process in another way,
/// while this exists, must call ``restoreAtOnce()``.
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

    /// The descriptor to read keys from, for poll(2).
    let input: CInt
    private(set) var height = 24
    private(set) var width = 80
    /// Whether the terminal is used by another process at present.
    private var isSuspended = false
    private let isUTF8: Bool

    /// More cells than any terminal has. A window size can be set to any number.
    private static let limit = (height: 1000, width: 2000)

    /// - Throws: ``Failure`` if the terminal is unknown, or lacks a capability that a table needs.
    init() throws(Failure) {
        setlocale(LC_CTYPE, "")
        let keys = isatty(STDIN_FILENO) == 1 ? nil : fopen("/dev/tty", "re")
        vip_terminal_guard(STDOUT_FILENO, "")
        // The size is read below, and limited.
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

    /// Restores the terminal, from any thread, even if another thread is blocked while writing to it.
    static func restoreAtOnce() { vip_terminal_restore() }

    /// A string of terminfo(5), without the delays that printing terminals needed.
    private static func capability(_ name: String) -> String {
        // tigetstr() returns (char *)-1 if the name is not that of a string.
        guard let text = tigetstr(name), Int(bitPattern: text) != -1 else { return "" }
        return String(cString: text).replacing(/\$<[0-9.*\/]*>/, with: "")
    }

    // MARK: The terminal

    /// Reads the present size of the terminal.
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

    /// Restores the terminal and stops the process, as ^Z does. Returns when the process continues.
    mutating func suspend() {
        if !isSuspended { endwin() }
        isSuspended = true
        vip_stop()
    }

    /// Called when the process continues: takes the terminal if the process is in the foreground; after `bg` it is not.
    mutating func resume() {
        guard vip_terminal_is_ours(STDOUT_FILENO) != 0 else {
            isSuspended = true
            return
        }
        // After SIGSTOP, the screen may show anything, and the terminal may have any modes.
        if !isSuspended { endwin() }
        isSuspended = false
        fit()
        vip_screen_distrust()
    }

    var isShown: Bool { !isSuspended }

    /// A key that was pressed; `nil` if there was none.
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

    // MARK: Contents

    /// Shows these lines from the top, cut to the width, and clears the rest.
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

    /// The text in at most this many cells. A `+` in the last one shows that it was cut.
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

    /// The text followed by blanks, so that it takes this many cells.
    func padded(_ text: String, _ width: Int) -> String {
        padded(text, width, text.unicodeScalars.reduce(0) { $0 + max(0, Int(vip_cell_width($1.value))) })
    }

    private func padded(_ text: String, _ width: Int, _ used: Int) -> String {
        text + String(repeating: " ", count: max(0, width - used))
    }

    /// The number of cells that a text takes.
    func cells(_ text: String) -> Int {
        text.unicodeScalars.reduce(0) { sum, scalar in
            let cells = Int(vip_cell_width(scalar.value))
            return sum + (cells >= 0 && (isUTF8 || scalar.isASCII) ? cells : 1)
        }
    }
}
