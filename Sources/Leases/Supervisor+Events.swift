// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Network

/// Handles what the clients report, and decides which answers of a server are accepted.
extension Supervisor {
    /// Shorter leases, in seconds, cannot be kept: there would be no time for a second attempt.
    private static let shortestLease: UInt32 = 5

    func readEvents(of entry: LeaseEntry) {
        for event in entry.events.read() { handle(event, of: entry) }
    }

    func handle(_ event: ClientEvent, of entry: LeaseEntry) {
        guard let client = entry.state.client, event.pid == client.identity.pid else { return }
        switch event.kind {
        case "bound", "renew": handle(answer: event, client, of: entry)
        case "leasefail":
            if entry.state.isAcquiring {
                giveUp(
                    entry, "no DHCP server answered \(options.tries) times in \(options.tries * options.interval) s")
            }
        case "nak":
            if !entry.state.isAcquiring { lose(entry, .refusedByServer) }
        case "deconfig":
            // It is also the first event of a client, and follows a refusal. Otherwise the client has given up early.
            guard !entry.state.isAcquiring, let grant = entry.grant else { break }
            emit(.troubled(entry.holder, grant.address, why: "the DHCP server does not answer"))
            requeue(entry)
        default: break
        }
    }

    /// Takes the address that a server gave, if it can be a session's.
    private func handle(answer event: ClientEvent, _ client: Client, of entry: LeaseEntry) {
        guard let address = event.address, let server = event.server, let seconds = event.seconds else {
            let missing =
                event.address == nil ? "address" : event.server == nil ? "server identifier" : "lease time"
            return refuse(event.addressText, for: entry, why: "the answer has no \(missing)")
        }
        if let other = entries.values.first(where: { $0 !== entry && $0.grant?.address == address }) {
            return refuse(
                event.addressText, for: entry,
                why: "\(other.holder) has it: the server does not tell clients apart by their identifiers",
                hint: options.sharingRemedy)
        }
        if server == address {
            return refuse(event.addressText, for: entry, why: "it is the server's own")
        }
        if let why = options.check.refusal(
            of: address, for: entry.holder, interface: options.interface, held: entry.grant?.address,
            before: entry.grant?.address ?? entry.hint)
        {
            return refuse(event.addressText, for: entry, why: why)
        }
        guard seconds >= Self.shortestLease else {
            return refuse(event.addressText, for: entry, why: "its lease time is \(seconds) s")
        }
        take(
            Grant(
                address: address, server: server, seconds: seconds,
                obtained: LeaseClock.now - max(0, LeaseClock.uptime - event.uptime), stamp: event.uptime),
            client, of: entry)
    }

    private func take(_ grant: Grant, _ client: Client, of entry: LeaseEntry) {
        let before = entry.grant?.address
        entry.grant = grant
        entry.hint = grant.address
        entry.isKept = true
        entry.state = .held(client, renewal: renewal(of: grant))
        save(entry)
        cutLog(of: entry)
        guard let lease = entry.lease else { return }
        if let before, before != grant.address {
            emit(.changed(lease, from: before))
        } else {
            emit(before == nil ? .bound(lease) : .renewed(lease))
        }
        answer(entry, .success(lease))
    }

    /// When a client is told to renew.
    func renewal(of grant: Grant) -> Double { grant.obtained + Double(grant.seconds) * options.renewalPoint }

    /// Refuses an address. It is not released, because another host may have it and the server would give it to others.
    private func refuse(_ address: String, for entry: LeaseEntry, why: String, hint: String? = nil) {
        emit(.refused(entry.holder, address, why: why))
        giveUp(
            entry,
            Failure(
                .failed, what(entry), "the server gave \(address): \(why)",
                hint: hint ?? "see which server it is (\(log(entry)) has its answers)"))
    }
}
