// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
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

    /// What is in the file; `nil` where there is none, or none of ours.
    static func read(_ path: FilePath) -> LeaseFile? {
        guard let bytes = try? readWholeFile(path) else { return nil }
        return try? JSONDecoder().decode(LeaseFile.self, from: Data(bytes))
    }

    /// All of it or nothing: a reader sees the old one or the new one.
    func write(_ path: FilePath) throws(Failure) {
        let what = "write \(path)"
        guard let data = try? JSONEncoder().encode(self) else { throw Failure(.failed, what, "it cannot be encoded") }
        let new = FilePath("\(path).new")
        try SmallFile.write(Array(data), to: new, mode: 0o600)
        guard rename(new.string, path.string) == 0 else { throw Failure(what, errno: .current) }
    }
}

enum SmallFile {
    /// Creates or replaces it.
    static func write(_ bytes: [UInt8], to path: FilePath, mode: mode_t) throws(Failure) {
        let file: CInt
        do throws(Errno) {
            file = try openFile(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode: mode)
        } catch {
            throw Failure("write \(path)", errno: error)
        }
        defer { close(file) }
        let written = Glibc.write(file, bytes, bytes.count)
        guard written == bytes.count else {
            throw written < 0
                ? Failure("write \(path)", errno: .current)
                : Failure(.failed, "write \(path)", "the file system is full")
        }
    }
}
