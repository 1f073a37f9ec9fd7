// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Host
import Network
import SystemPackage

/// What is kept of one lease over a restart: `CLIENT-IDENTIFIER.json`.
struct LeaseFile: Codable {
    var holder: LeaseHolder
    var client: String
    var interface: String
    /// The last one; where it is not held any more, what to ask for next time.
    var address: IPAddress?
    var server: IPAddress?
    var seconds: UInt32 = 0
    /// When the server last granted it: by the wall clock, and within a boot by what cannot jump.
    var obtained: Date?
    /// /proc/uptime, in seconds.
    var stamp: Double = 0
    var bootID: String
    /// The udhcpc that keeps it, in that boot.
    var pid: Int32?
    var startTime: UInt64?
    /// Whether it is to be held: acquired, and not released.
    var isHeld = false

    /// What is in the file; `nil` where it does not exist, or is not a lease file.
    static func read(_ path: FilePath) -> LeaseFile? {
        guard let bytes = try? readWholeFile(path) else { return nil }
        return try? JSONDecoder().decode(LeaseFile.self, from: Data(bytes))
    }

    /// All of it or nothing: a reader sees the old one or the new one.
    func write(_ path: FilePath) throws(Failure) {
        guard let data = try? JSONEncoder().encode(self) else {
            throw Failure(.failed, "write \(path)", "it cannot be encoded")
        }
        try replaceFile(path, with: Array(data), mode: 0o600)
    }
}
