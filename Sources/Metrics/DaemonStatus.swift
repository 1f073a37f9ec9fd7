// SPDX-License-Identifier: Apache-2.0

public import FoundationEssentials
import Glibc
public import Host
public import SystemPackage

/// What a daemon reports about itself in RUNTIME/daemon.json. The file remains when the daemon dies.
public struct DaemonStatus: Codable, Sendable, Hashable {
    public var started: Date
    /// When the daemon's loop last ran. While the daemon runs, this is at most a minute ago.
    public var lastTurn: Date
    /// Whether logind answers.
    public var isFollowingLogind = false
    /// The number of failures that were reported and still exist.
    public var troubles = 0
    /// Events by kind, since the start.
    public var events: [String: UInt64] = [:]

    public init(started: Date) {
        self.started = started
        lastTurn = started
    }

    private static func file(_ runtime: FilePath) -> FilePath { runtime.appending("daemon.json") }

    /// The status of the daemon that runs now, or of the last one in this boot; `nil` if there was none.
    public static func read(_ runtime: FilePath) -> DaemonStatus? {
        guard let bytes = try? readWholeFile(file(runtime)) else { return nil }
        return try? JSONDecoder().decode(DaemonStatus.self, from: Data(bytes))
    }

    /// Replaces the file in one step.
    public func write(_ runtime: FilePath) throws(Failure) {
        guard let data = try? JSONEncoder().encode(self) else { return }
        try replaceFile(Self.file(runtime), with: Array(data))
    }
}

extension MetricsPage {
    mutating func add(_ status: DaemonStatus) {
        add(
            "vip_bpf_daemon_start_time_seconds", .gauge, "When the daemon was last started, Unix time.",
            status.started.timeIntervalSince1970.rounded())
        add(
            "vip_bpf_daemon_last_turn_timestamp_seconds", .gauge,
            "When the daemon's loop last did something, Unix time: at most a minute ago while it runs.",
            status.lastTurn.timeIntervalSince1970.rounded())
        add(
            "vip_bpf_daemon_logind_up", .gauge, "Whether logind answers the daemon.", status.isFollowingLogind ? 1 : 0)
        add(
            "vip_bpf_daemon_troubles", .gauge, "Failures that the daemon has reported and that still exist.",
            Double(status.troubles))
        add(
            "vip_bpf_daemon_events_total", .counter, "Events, by kind: as in the journal's field VIP_EVENT.",
            status.events.sorted { $0.key < $1.key }.map { ([("event", $0.key)], Double($0.value)) })
    }
}
