// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Host
import Metrics
import SystemPackage

/// Writes the daemon's own counters to a file, for ``DaemonStatus/read(_:)``. Another process makes the page of metrics
/// from it, also when the daemon hangs or has ended.
final class StatusFile {
    private let directory: FilePath
    private var written: DaemonStatus
    private var writtenAt: ContinuousClock.Instant?

    /// If only the loop's turn is new, the file is written at most once a second.
    private static let interval: Duration = .seconds(1)

    init(_ runtime: FilePath) {
        directory = runtime
        written = DaemonStatus(started: Date())
    }

    /// Called after each turn of the loop.
    func update(isFollowing: Bool, troubles: Int, events: [String: UInt64]) {
        var new = written
        new.isFollowingLogind = isFollowing
        new.troubles = troubles
        new.events = events
        if new == written, let writtenAt, writtenAt.duration(to: .now) < Self.interval { return }
        new.lastTurn = Date()
        // If /run is full or missing, only these counters are lost; the page shows how old they are.
        do throws(Failure) {
            try OwnedDirectory(directory).create()
            try new.write(directory)
        } catch { return }
        written = new
        writtenAt = .now
    }
}
