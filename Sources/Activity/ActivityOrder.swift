// SPDX-License-Identifier: Apache-2.0

import Sessions

/// The value by which sessions are sorted.
package enum ActivityKey: String, CaseIterable, Sendable {
    case session, user, rate, sockets, programs
}

/// The order of the rows: names and IDs ascending and counts descending, or reversed.
package struct ActivityOrder: Sendable, Equatable {
    package var key: ActivityKey
    package var isReversed: Bool

    package init(key: ActivityKey = .session, isReversed: Bool = false) {
        self.key = key
        self.isReversed = isReversed
    }

    package func sort(_ rows: inout [SessionActivity.Row]) {
        rows.sort { a, b in
            let isBefore = compare(a, b)
            // Equal rows are sorted by ascending ID in either direction.
            guard let isBefore else { return a.record.id < b.record.id }
            return isBefore != isReversed
        }
    }

    /// Whether `a` comes first; `nil` if they are equal. Unknown values count as the least.
    private func compare(_ a: SessionActivity.Row, _ b: SessionActivity.Row) -> Bool? {
        func falling<T: Comparable>(_ a: T, _ b: T) -> Bool? { a == b ? nil : a > b }
        switch key {
        case .session: return a.record.id < b.record.id
        case .user:
            let (first, second) = (a.record.user, b.record.user)
            if first == second { return nil }
            guard let first, let second else { return first != nil }
            return first < second
        case .rate:
            return falling(a.rates?.rewritten ?? -1, b.rates?.rewritten ?? -1)
                ?? falling(a.rates?.refused ?? -1, b.rates?.refused ?? -1)
        case .sockets: return falling(a.sockets ?? -1, b.sockets ?? -1)
        case .programs: return falling(a.programs?.processes ?? -1, b.programs?.processes ?? -1)
        }
    }
}
