// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
import Glibc
import Host
import Network
import SystemPackage

/// Reads and writes the files that outlive the process: lease files in the state directory, events and logs of clients
/// in the runtime directory.
extension Supervisor {
    private static let longestLog: off_t = 64 << 10
    /// A file whose lease was not held for this long is removed.
    private static let forgetAfter: TimeInterval = 30 * 24 * 3600

    func path(_ entry: LeaseEntry) -> FilePath { options.state.appending("\(entry.name).json") }
    func log(_ entry: LeaseEntry) -> FilePath { options.runtime.appending("\(entry.name).log") }

    // MARK: Writing

    func write(_ entry: LeaseEntry) throws(Failure) {
        let grant = entry.grant
        let process = entry.state.client?.identity
        try LeaseFile(
            holder: entry.holder, client: entry.name, interface: options.interface,
            address: grant?.address ?? entry.hint, server: grant?.server, seconds: grant?.seconds ?? 0,
            obtained: grant.map { Date(timeIntervalSinceNow: $0.obtained - LeaseClock.now) }, stamp: grant?.stamp ?? 0,
            bootID: bootID, pid: process?.pid, startTime: process?.startTime, isHeld: entry.isKept
        ).write(path(entry))
    }

    /// Writes the lease file. If that fails, the lease is still held, and after a restart the address is asked
    /// for again.
    func save(_ entry: LeaseEntry) {
        do throws(Failure) {
            try write(entry)
        } catch {
            if let grant = entry.grant { emit(.troubled(entry.holder, grant.address, why: error.description)) }
        }
    }

    /// Removes the files of an entry that is dropped. If there is an address to ask for next time, the lease file
    /// stays.
    func forgetFiles(of entry: LeaseEntry) {
        if entry.hint == nil { unlink(path(entry).string) } else { try? write(entry) }
        for name in ["events", "events.old", "log"] {
            unlink(options.runtime.appending("\(entry.name).\(name)").string)
        }
    }

    func cutLog(of entry: LeaseEntry) {
        var status = stat()
        if stat(log(entry).string, &status) == 0, status.st_size > Self.longestLog { truncate(log(entry).string, 0) }
    }

    /// The last line that the client logged, without its name.
    func lastLogLine(of entry: LeaseEntry) -> String? {
        guard let bytes = try? readWholeFile(log(entry)) else { return nil }
        let line = bytes.split(separator: UInt8(ascii: "\n")).last.map { String(decoding: $0, as: UTF8.self) }
        return line.map { $0.hasPrefix("udhcpc: ") ? String($0.dropFirst(8)) : $0 }
    }

    // MARK: Taking over

    /// Takes over the leases and clients of an earlier process.
    func restore() {
        for entry in (try? Directory.entries(of: options.state)) ?? [] where entry.name.hasSuffix(".json") {
            restore(options.state.appending(entry.component))
        }
        // A client without a file would hold its lease forever.
        let known = Set(entries.values.compactMap { $0.state.client?.identity })
        for stray in Client.all(script: options.state.appending("event")) {
            if known.contains(stray.identity) { close(stray.descriptor) } else { kill(stray) }
        }
    }

    private func restore(_ path: FilePath) {
        guard let file = LeaseFile.read(path) else { return }
        let entry = LeaseEntry(file.holder, ClientIdentifier(host: options.host, holder: file.holder), options)
        guard path == self.path(entry), file.client == entry.name else { return }
        var client: Client?
        if file.bootID == bootID, let pid = file.pid, let startTime = file.startTime {
            client = Client.adopt(ProcessIdentity(pid: pid, startTime: startTime), client: entry.client)
        }
        guard file.isHeld, file.bootID == bootID else {
            if let client { kill(client) }  // its lease was not granted yet, or was released
            return removeIfOld(path)
        }
        entry.isKept = true
        entry.hint = file.address
        if file.obtained != nil, let address = file.address, let server = file.server {
            entry.grant = Grant(
                address: address, server: server, seconds: file.seconds,
                obtained: LeaseClock.now - max(0, LeaseClock.uptime - file.stamp), stamp: file.stamp)
        }
        entries[entry.name] = entry
        if let client {
            takeOver(client, of: entry, file)
        } else if let grant = entry.grant {
            emit(.troubled(entry.holder, grant.address, why: "its udhcpc ended while it was not supervised"))
        }
    }

    private func takeOver(_ client: Client, of entry: LeaseEntry, _ file: LeaseFile) {
        run(client, for: entry, .held(client, renewal: entry.grant.map { renewal(of: $0) }))
        // Handle what it reported in between. The lease file contains the result of earlier events.
        for event in entry.events.read() where event.uptime > file.stamp { handle(event, of: entry) }
        guard entry.state.client?.identity == client.identity else { return }
        if file.interface != options.interface {
            // The interface was renamed: the client uses the old name, and its script and files are in another
            // directory now.
            requeue(entry)
            if let grant = entry.grant {
                emit(.troubled(entry.holder, grant.address, why: "its udhcpc was on \(file.interface)"))
            }
        } else if entry.grant == nil {
            // It was about to acquire an address, and may be stuck.
            requeue(entry)
        }
    }

    private func removeIfOld(_ path: FilePath) {
        var status = stat()
        if stat(path.string, &status) == 0,
            Date().timeIntervalSince1970 - Double(status.st_mtim.tv_sec) > Self.forgetAfter
        {
            unlink(path.string)
        }
    }
}
