// SPDX-License-Identifier: Apache-2.0

import Host
import Logging
import Network
import Policy

// Sockets end with the address of the session that they are on: a descriptor may be anywhere by then, and the next session
// with the address must not find it.

/// A session that was closed.
public struct ClosedSession: Sendable {
    /// What it was.
    public let record: SessionRecord
    /// How many sockets on its addresses were destroyed; `nil` where none was to be, or none could be.
    public let destroyedSockets: Int?
}

extension SessionRecord {
    /// Its virtual IPs and its virtual loopbacks.
    func allAddresses(_ prefix: LoopbackPrefix?) -> [IPAddress] {
        addresses.map(\.address) + [SessionIDs.loopback(of: id), prefix?.loopback(of: id)].compactMap(\.self)
    }
}

extension Change {
    /// Destroys the sockets on the addresses of sessions that end, with one dump for all of them.
    ///
    /// No session stays open because a socket cannot be destroyed: that is logged.
    ///
    /// - Returns: how many, by session ID; nothing for sessions of an earlier boot, and where the kernel destroys none.
    func destroySockets(of records: [SessionRecord]) -> [UInt32: Int] {
        var owners: [IPAddress: UInt32] = [:]
        do throws(Failure) {
            let prefix = try registry.loopbackPrefix()
            // An address of an earlier boot's session may be the host's own by now.
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

    /// The same for one address.
    func destroySockets(on address: IPAddress) -> Int? {
        do throws(Failure) {
            return try SocketDump.destroy(on: [address]).count
        } catch {
            logger.warning("sockets on \(address) may still be used: \(error)")
            return nil
        }
    }
}
