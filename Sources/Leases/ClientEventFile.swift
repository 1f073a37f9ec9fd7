// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Network
import SystemPackage

/// A line of a client's script: ``Client/script``.
struct ClientEvent {
    let pid: pid_t
    /// When it was written, by ``LeaseClock/uptime``.
    let uptime: Double
    /// udhcpc's name of the event: `bound`, `renew`, `nak`, `leasefail`, `deconfig`.
    let kind: String
    let address: IPAddress?
    let addressText: String
    let server: IPAddress?
    let seconds: UInt32?

    init?(_ line: some Collection<UInt8>) {
        let fields = line.split(separator: UInt8(ascii: " ")).map { String(decoding: $0, as: UTF8.self) }
        guard fields.count == 6, let pid = pid_t(fields[0]), let uptime = Double(fields[1]) else { return nil }
        self.pid = pid
        self.uptime = uptime
        kind = fields[2]
        addressText = fields[3]
        address = IPAddress(fields[3])
        server = IPAddress(fields[4])
        seconds = UInt32(fields[5])
    }
}

/// The file that a client's script appends events to.
final class ClientEventFile {
    let path: FilePath
    /// The offset up to which it was read.
    private var position: off_t = 0
    /// The previous file, which a script may still be writing to, and the offset up to which it was read.
    private var older: (file: CInt, position: off_t)?

    private static let longest: off_t = 64 << 10

    init(_ path: FilePath) { self.path = path }

    deinit { closeOlder() }

    /// Creates the file, empty, for a new client.
    func begin() throws(Failure) {
        unlink(path.string)
        position = 0
        closeOlder()
        try create()
    }

    /// The events since the last call. An incomplete line is left for the next call.
    func read() -> [ClientEvent] {
        var events: [ClientEvent] = []
        if var older {
            events += Self.lines(older.file, from: &older.position)
            self.older = older
        }
        guard let file = try? openFile(path, O_RDONLY | O_NOFOLLOW) else { return events }
        events += Self.lines(file, from: &position)
        // Rename the file instead of truncating it: a script that has it open still writes where it is read.
        guard position > Self.longest, rename(path.string, "\(path).old") == 0 else {
            close(file)
            return events
        }
        closeOlder()
        older = (file, position)
        position = 0
        try? create()
        return events
    }

    private func create() throws(Failure) {
        do throws(Errno) {
            close(try openFile(path, O_WRONLY | O_CREAT | O_NOFOLLOW, mode: 0o600))
        } catch {
            throw Failure("write \(path)", errno: error)
        }
    }

    private func closeOlder() {
        if let older { close(older.file) }
        older = nil
    }

    private static func lines(_ file: CInt, from start: inout off_t) -> [ClientEvent] {
        guard lseek(file, start, SEEK_SET) == start, let bytes = try? readWholeFile(file),
            let end = bytes.lastIndex(of: UInt8(ascii: "\n"))
        else { return [] }
        start += off_t(end + 1)
        return bytes[...end].split(separator: UInt8(ascii: "\n")).compactMap { ClientEvent($0) }
    }
}
