// SPDX-License-Identifier: Apache-2.0

import Foundation
import Metrics
import Sessions
import Synchronization

/// What the daemon's loop says of itself, for the thread that serves metrics.
final class DaemonHealth: Sendable {
    struct State: Sendable {
        var turn = Date()
        var isFollowing = false
        var troubles = 0
    }

    private let state = Mutex(State())
    let started = Date()

    /// - Parameters:
    ///   - isFollowing: whether logind is there.
    ///   - troubles: failures that were reported and are not over.
    func turn(isFollowing: Bool, troubles: Int) {
        state.withLock { $0 = State(turn: Date(), isFollowing: isFollowing, troubles: troubles) }
    }

    var now: State { state.withLock { $0 } }
}

extension MetricsPage {
    mutating func add(_ health: DaemonHealth, _ counts: EventCounts) {
        let now = health.now
        add(
            "vip_bpf_daemon_start_time_seconds", .gauge, "When the daemon was started, Unix time.",
            health.started.timeIntervalSince1970.rounded())
        add(
            "vip_bpf_daemon_last_turn_timestamp_seconds", .gauge,
            "When the daemon's loop was last awake, Unix time: at most a minute ago.",
            now.turn.timeIntervalSince1970.rounded())
        add("vip_bpf_daemon_logind_up", .gauge, "Whether logind answers.", now.isFollowing ? 1 : 0)
        add(
            "vip_bpf_daemon_troubles", .gauge, "Failures that the daemon has reported and that are not over.",
            Double(now.troubles))
        add(
            "vip_bpf_daemon_events_total", .counter, "Events, by kind: as in the journal's field VIP_EVENT.",
            counts.all.sorted { $0.key < $1.key }.map { ([("event", $0.key)], Double($0.value)) })
    }
}
