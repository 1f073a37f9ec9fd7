// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Host
import Network
import SystemPackage

/// The part of a lease that is kept over a restart: `CLIENT-IDENTIFIER.json`.
struct LeaseFile: Codable {
    var holder: LeaseHolder
    var client: String
    var interface: String
    /// The last address. If it is no longer held, the address to ask for next time.
    var address: IPAddress?
    var server: IPAddress?
    var seconds: UInt32 = 0
    /// When the server last granted it, by the wall clock. ``stamp`` is the same within a boot, by a clock that is
    /// never set.
    var obtained: Date?
    /// The time in seconds of /proc/uptime.
    var stamp: Double = 0
    var bootID: String
    /// The udhcpc that keeps the lease in that boot.
    var pid: Int32?
    var startTime: UInt64?
    /// Whether the lease is to be kept: it was acquired and not released.
    var isHeld = false

    /// The contents of the file; `nil` if it does not exist or is not a lease file.
    static func read(_ path: FilePath) -> LeaseFile? {
        guard let bytes = try? readWholeFile(path) else { return nil }
        return try? JSONDecoder().decode(LeaseFile.self, from: Data(bytes))
    }

    /// Replaces the file in one step: a reader gets the old one or the new one.
    func write(_ path: FilePath) throws(Failure) {
        guard let data = try? JSONEncoder().encode(self) else {
            throw Failure(.failed, "write \(path)", "it cannot be encoded")
        }
        try replaceFile(path, with: Array(data), mode: 0o600)
    }
}
