// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import SystemPackage

/// The client processes.
extension Supervisor {
    /// Starts a client that asks for an address.
    func start(_ entry: LeaseEntry) {
        do throws(Failure) {
            guard let program = options.client ?? Client.find() else { throw Client.missing(what(entry)) }
            var command =
                program + [
                    "-f", "-C", "-o", "-i", options.interface, "-x", "0x3d:\(entry.client)",
                    "-s", options.state.appending("event").string,
                    "-t", "\(options.tries)", "-T", "\(options.interval)", "-A", "3600",
                ]
            if let hint = entry.grant?.address ?? entry.hint { command += ["-r", "\(hint)"] }
            // Write the file before the process starts: the next supervisor finds clients by their files.
            try write(entry)
            try entry.events.begin()
            let client = try Client.start(command, events: entry.events.path, log: log(entry))
            // The time for offers and requests, and the 3 s that udhcpc waits after a refusal.
            let until = LeaseClock.now + Double(2 * options.tries * options.interval) + 4
            run(client, for: entry, .acquiring(client, until: until, failures: entry.state.failures))
            try write(entry)
        } catch {
            let failure =
                error.code == .unavailable
                ? Failure(.unavailable, what(entry), error.reason, hint: error.hint) : error
            giveUp(entry, failure)
        }
    }

    /// Puts an entry into a state in which a client runs for it.
    func run(_ client: Client, for entry: LeaseEntry, _ state: LeaseState) {
        entry.state = state
        // If the descriptor cannot be watched, the client counts as stuck after some time.
        entry.clientEnd = try? loop.watch(client.descriptor) { [unowned self, unowned entry] in
            clientEnded(client, entry)
        }
    }

    private func clientEnded(_ client: Client, _ entry: LeaseEntry) {
        entry.clientEnd = nil
        // Handle what it reported before its end.
        readEvents(of: entry)
        guard entry.state.client?.descriptor == client.descriptor else { return }
        let how = client.reap()
        let state = entry.state
        entry.state = .queued(from: LeaseClock.now)
        if case .acquiring(_, _, let failures) = state {
            entry.state = .failed(failures, retry: LeaseClock.now)
            let last = lastLogLine(of: entry) ?? how
            giveUp(entry, "udhcpc ended\(last.map { ": \($0)" } ?? "")")
        } else if let grant = entry.grant {
            emit(.troubled(entry.holder, grant.address, why: "its udhcpc ended\(how.map { ": \($0)" } ?? "")"))
        }
    }

    func kill(_ client: Client) {
        guard !client.end() else { return }
        // The kernel delays its end: reap it later.
        let source = try? loop.watch(client.descriptor) { [unowned self] in
            ending[client.descriptor] = nil
            _ = client.reap()
        }
        ending[client.descriptor] = (client, source)
    }
}
