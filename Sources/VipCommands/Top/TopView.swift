// SPDX-License-Identifier: Apache-2.0

import Activity
import Glibc
import Host

/// The visible part of the table, and the effect of keys on it.
struct TopView {
    var order: ActivityOrder
    /// The first row shown.
    private(set) var top = 0
    private(set) var isPaused = false
    private var hasHelp = false

    init(_ order: ActivityOrder) {
        self.order = order
    }

    static let help =
        "q quit  sort by: s session u user r rewrites k sockets p programs (again or R: reverse)  space pause  "
        + "arrows PgUp PgDn Home End scroll  h help  rates are per second, of the last interval"

    /// What a key requires besides changing this view.
    enum Wish { case quit, sort, nothing }

    mutating func press(_ key: Screen.Key, rows: Int) -> Wish {
        switch key {
        case .up: top -= 1
        case .down: top += 1
        case .pageUp: top -= max(1, rows)
        case .pageDown: top += max(1, rows)
        case .home: top = 0
        case .end: top = .max / 2
        case .character("q"), .character("Q"): return .quit
        case .character("h"), .character("?"): hasHelp.toggle()
        case .character(" "): isPaused.toggle()
        case .character("R"):
            order.isReversed.toggle()
            return .sort
        case .character(let letter):
            guard let key = ActivityKey.allCases.first(where: { $0.letter == letter }) else { return .nothing }
            order = ActivityOrder(key: key, isReversed: order.key == key ? !order.isReversed : false)
            top = 0
            return .sort
        }
        return .nothing
    }

    // MARK: Layout

    /// The lines from the top: totals, notes, headings, rows, help. On a low terminal, rows have priority.
    private struct Layout {
        var hasTitle, hasHeadings, hasHelp: Bool
        var notes, rows: Int

        init(height: Int, notes: Int, hasHelp: Bool) {
            hasTitle = height >= 3
            hasHeadings = height >= 2
            self.hasHelp = hasHelp && height >= 4
            self.notes = min(notes, max(0, height - 5))
            rows = max(0, height - (hasTitle ? 1 : 0) - self.notes - (hasHeadings ? 1 : 0) - (self.hasHelp ? 1 : 0))
        }
    }

    private func layout(_ snapshot: SessionActivity.Snapshot, _ notes: [String], height: Int) -> Layout {
        Layout(height: height, notes: notes.count, hasHelp: hasHelp)
    }

    /// The rows that are visible. It first moves the top row so that there are any.
    mutating func visibleRows(_ snapshot: SessionActivity.Snapshot, notes: [String], height: Int) -> Range<Int> {
        let room = layout(snapshot, notes, height: height).rows
        top = max(0, min(top, snapshot.rows.count - room))
        return top..<min(snapshot.rows.count, top + room)
    }

    func lines(
        _ snapshot: SessionActivity.Snapshot, rows: Range<Int>, notes: [String], interval: Duration,
        on screen: borrowing Screen
    ) -> [Screen.Line] {
        let layout = layout(snapshot, notes, height: screen.height)
        var lines: [Screen.Line] = []
        if layout.hasTitle { lines.append(.init(text: title(snapshot, rows: rows, interval: interval), style: .bold)) }
        lines += notes.prefix(layout.notes).map { .init(text: ($0).printableLine) }
        let cells = snapshot.rows[rows].map { row in
            TopText.cells(row, isLowerBound: snapshot.isLowerBound).map(\.printableLine)
        }
        var widths = TopText.headings.map { $0.utf8.count }
        for row in cells {
            for (column, cell) in row.enumerated() {
                widths[column] = max(widths[column], min(screen.cells(cell), Self.widest))
            }
        }
        func line(_ row: [String], _ style: Screen.Line.Style) -> Screen.Line {
            let parts = row.enumerated().map { column, cell in
                column == row.count - 1
                    ? cell : screen.padded(screen.fitted(cell, widths[column]), widths[column])
            }
            return .init(text: parts.joined(separator: "  "), style: style)
        }
        if layout.hasHeadings { lines.append(line(TopText.headings, .reverse)) }
        lines += cells.map { line($0, .plain) }
        if layout.hasHelp {
            let missing = layout.rows - cells.count
            lines += (0..<max(0, missing)).map { _ in .init(text: "") }
            lines.append(.init(text: Self.help, style: .bold))
        }
        return lines
    }

    /// The widest column except the last: an IPv4 and an IPv6 address fit. A longer cell is cut.
    private static let widest = 56

    private func title(_ snapshot: SessionActivity.Snapshot, rows: Range<Int>, interval: Duration) -> String {
        let count = snapshot.rows.count
        var parts = [
            rows.count == count
                ? "\(count) \(count == 1 ? "session" : "sessions")"
                : "sessions \(rows.isEmpty ? 0 : rows.lowerBound + 1)-\(rows.upperBound) of \(count)"
        ]
        if isPaused { parts.append("PAUSED") }
        if snapshot.measured != nil {
            let rewritten = snapshot.rows.reduce(0) { $0 + ($1.rates?.rewritten ?? 0) }
            let refused = snapshot.rows.reduce(0) { $0 + ($1.rates?.refused ?? 0) }
            parts.append("\(TopText.rate(rewritten, snapshot.isLowerBound)) rewrites/s")
            parts.append("\(TopText.rate(refused, snapshot.isLowerBound)) refusals/s")
        }
        parts.append("by \(order.key)\(order.isReversed ? ", reversed" : "")")
        let seconds = ((interval / .seconds(1)) * 10).rounded() / 10
        parts.append("every \(seconds == seconds.rounded() ? "\(Int(seconds))" : "\(seconds)") s")
        parts.append("h: help")
        return parts.joined(separator: "  ")
    }
}
