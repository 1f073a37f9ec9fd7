// SPDX-License-Identifier: Apache-2.0

import Host
import Logging
import Network
import Policy

// Sockets on a session's addresses end with the session. Other processes may have their descriptors by then, and the
// next session with the addresses must not find them.

/// A session that was closed.
public struct ClosedSession: Sendable {
    /// The last record of the session.
    public let record: SessionRecord
    /// How many sockets on its addresses were destroyed; `nil` if they were kept, or the kernel destroys none.
    public let destroyedSockets: Int?
}

extension SessionRecord {
    /// The virtual IPs and virtual loopbacks of the session.
    func allAddresses(_ prefix: LoopbackPrefix?) -> [IPAddress] {
        addresses.map(\.address) + [SessionIDs.loopback(of: id), prefix?.loopback(of: id)].compactMap(\.self)
    }
}

extension Change {
    /// Destroys the sockets on the addresses of sessions that end, with one dump for all of them.
    ///
    /// If they cannot be destroyed, that is logged, and the sessions are closed all the same.
    ///
    /// - Returns: how many, by session ID; nothing for sessions of an earlier boot, or if the kernel destroys none.
    func destroySockets(of records: [SessionRecord]) -> [UInt32: Int] {
        var owners: [IPAddress: UInt32] = [:]
        do throws(Failure) {
            let prefix = try registry.loopbackPrefix()
            // The address of a session of an earlier boot may be the host's own now.
            let ours = records.filter { $0.bootID == bootID }
            for record in ours {
                for address in record.allAddresses(prefix) { owners[address] = record.id }
            }
            var counts = Dictionary(ours.map { ($0.id, 0) }) { first, _ in first }
            for socket in try SocketDump.destroy(on: Set(owners.keys)) {
                if let id = owners[socket.local.address] { counts[id, default: 0] += 1 }
            }
            return counts
        } catch {
            logger.warning("sockets on the addresses of closed sessions may still be used: \(error)")
            return [:]
        }
    }

    /// Destroys the sockets on one address. Returns their number, or `nil` on an error.
    func destroySockets(on address: IPAddress) -> Int? {
        do throws(Failure) {
            return try SocketDump.destroy(on: [address]).count
        } catch {
            logger.warning("sockets on \(address) may still be used: \(error)")
            return nil
        }
    }
}

// MARK: Before an address is given

extension Change {
    /// The result of looking for sockets on the addresses of planned sessions.
    private struct Look {
        /// What is left on them.
        var occupants: [InternetSocket] = []
        var removed: [InternetSocket] = []
    }

    /// A plan on whose addresses no other program has a socket. If one has, another plan is made.
    ///
    /// The maps do not keep others off the addresses yet. When they do, ``requireFree(_:_:)`` has to look again.
    mutating func planFree(
        _ requests: [SessionRequest], policy: Policy, placed: [PlacedAddress]
    ) throws(Failure) -> [SessionRecord] {
        var rounds = 4
        let before = (warnings, unaddressed, awaitingLease)
        while true {
            let records = try plan(requests, policy: policy, placed: placed)
            rounds -= 1
            do throws(Failure) {
                try requireFree(records, requests)
                return records
            } catch {
                guard error.code == .occupied, rounds > 0 else { throw error }
                (warnings, unaddressed, awaitingLease) = before
            }
        }
    }

    /// Destroys other programs' sockets on the virtual IPs of sessions, and fails if some are left, or are on a
    /// loopback.
    ///
    /// - Throws: ``Failure`` (occupied) if another ID or address can be given; the next plan passes over all that are
    ///   occupied now. ``Failure`` (failed) if the ID or address was asked for.
    mutating func requireFree(_ records: [SessionRecord], _ requests: [SessionRequest]) throws(Failure) {
        let prefix = try registry.loopbackPrefix()
        var owners: [IPAddress: Int] = [:]
        for (index, record) in records.enumerated() {
            for address in record.allAddresses(prefix) { owners[address] = index }
        }
        let virtual = Set(records.flatMap(\.addresses).map(\.address))
        let cgroups = owners.mapValues { requests[$0].cgroup.id }
        let look = self.look(at: cgroups, clearing: virtual)
        note(Squatter.all(look.removed, isRemoved: true))
        guard !look.occupants.isEmpty else { return }

        for squatter in Squatter.all(look.occupants, isRemoved: false) {
            guard let index = owners[squatter.address] else { continue }
            let (record, request) = (records[index], requests[index])
            let what = "open session \(record.id) on \(record.cgroupPath)"
            if virtual.contains(squatter.address) {
                if request.addresses.contains(squatter.address) {
                    throw Failure(
                        .failed, what,
                        "\(squatter.holding) of \(squatter.address), and the kernel does not destroy its socket",
                        hint: "end the program, or give another address")
                }
            } else if request.id == record.id, !request.prefersID {
                throw Failure(
                    .failed, what, "\(squatter.holding) of its loopback \(squatter.address)",
                    hint: "end the program, or choose another ID")
            }
            note([squatter])
        }
        // All occupied addresses at once: one program may have sockets on very many.
        let own = Set(requests.map(\.cgroup.id))
        var ancestry = Ancestry()
        for socket in (try? SocketDump.sockets()) ?? [] where socket.inode != 0 && socket.state != .timeWait {
            if !ancestry.isMade(socket, in: own) { occupied.insert(socket.local.address) }
        }
        for socket in look.occupants { occupied.insert(socket.local.address) }
        throw Failure(
            .occupied, "open sessions", "programs have sockets on the addresses that they would get",
            hint: "see ss -lntup, and try again")
    }

    /// The same for an address that an open session gets.
    ///
    /// - Throws: ``Failure`` (occupied) that names the program.
    mutating func requireFree(_ address: IPAddress, for record: SessionRecord) throws(Failure) {
        let look = self.look(at: [address: record.cgroupID], clearing: [address])
        note(Squatter.all(look.removed, isRemoved: true))
        guard let squatter = Squatter.all(look.occupants, isRemoved: false).first else { return }
        note([squatter])
        throw Failure(
            .occupied, "give \(address) to session \(record.id)",
            "\(squatter.holding) of it, and the kernel does not destroy its socket", hint: "end the program")
    }

    private mutating func note(_ new: [Squatter]) {
        for squatter in new where !squatters.contains(squatter) { squatters.append(squatter) }
    }

    /// Finds sockets on addresses, but for those that were made in the cgroup of the session that gets the address: its
    /// programs may be there already. Destroys those on some.
    ///
    /// If the kernel does not tell, that is a warning, and the sessions are opened.
    ///
    /// - Parameter cgroups: IDs of the sessions' cgroups, by address.
    private mutating func look(at cgroups: [IPAddress: UInt64], clearing virtual: Set<IPAddress>) -> Look {
        var ancestry = Ancestry()
        func others() throws(Failure) -> [InternetSocket] {
            try SocketDump.sockets(on: Set(cgroups.keys)).filter { socket in
                // Without an inode, no process has it: the connection is being closed, or not accepted yet.
                guard socket.inode != 0, let cgroup = cgroups[socket.local.address] else { return false }
                return !ancestry.isMade(socket, in: [cgroup])
            }
        }
        var result = Look()
        do throws(Failure) {
            result.occupants = try others()
            let removable = result.occupants.filter { virtual.contains($0.local.address) }
            guard !removable.isEmpty else { return result }
            let inodes = Set(removable.map(\.inode))
            _ = try SocketDump.destroy(on: Set(removable.map(\.local.address))) { inodes.contains($0.inode) }
            result.occupants = try others()
            let left = Set(result.occupants.map(\.local.address))
            result.removed = removable.filter { !left.contains($0.local.address) }
        } catch {
            warnings.append("other programs' sockets may be on the addresses of sessions: \(error)")
        }
        return result
    }
}

/// In which cgroups sockets were made.
private struct Ancestry {
    private lazy var tree = try? CgroupTree()

    mutating func isMade(_ socket: InternetSocket, in cgroups: Set<UInt64>) -> Bool {
        guard let id = socket.cgroupID else { return false }
        return cgroups.contains(id) || tree?.contains(id, in: cgroups) == true
    }
}
