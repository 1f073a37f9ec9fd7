// SPDX-License-Identifier: Apache-2.0

/// How long to wait before the next attempt: the delay doubles each time, up to a limit.
struct Backoff {
    private let first: Duration
    private let limit: Duration
    private var current: Duration

    init(from first: Duration = .seconds(1), to limit: Duration = .seconds(60)) {
        self.first = first
        self.limit = limit
        current = first
    }

    mutating func next() -> Duration {
        defer { current = min(current * 2, limit) }
        return current
    }

    mutating func reset() { current = first }
}
