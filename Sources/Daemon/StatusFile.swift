// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Host
import Metrics
import SystemPackage

/// Keeps the daemon's own counters in a file, for ``DaemonStatus/read(_:)``: pages of metrics are made by another process,
/// which tells what the daemon counted also when that hangs or has ended.
final class StatusFile {
    private let directory: FilePath
    private var written: DaemonStatus
    private var writtenAt: ContinuousClock.Instant?

    /// Turns of the loop alone are written once a second.
    private static let interval: Duration = .seconds(1)

    init(_ runtime: FilePath) {
        directory = runtime
        written = DaemonStatus(started: Date())
    }

    /// After a turn of the loop.
    func update(isFollowing: Bool, troubles: Int, events: [String: UInt64]) {
        var new = written
        new.isFollowingLogind = isFollowing
        new.troubles = troubles
        new.events = events
        if new == written, let writtenAt, writtenAt.duration(to: .now) < Self.interval { return }
        new.lastTurn = Date()
        // A full or missing /run takes nothing but these counters; the page shows that they are old.
        do throws(Failure) {
            try OwnedDirectory(directory).create()
            try new.write(directory)
        } catch { return }
        written = new
        writtenAt = .now
    }
}
