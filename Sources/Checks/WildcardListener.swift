// SPDX-License-Identifier: Apache-2.0

package import Glibc
package import Host
import Network
package import SystemPackage

/// A listening TCP socket or bound UDP socket on a wildcard address, and the process that holds it.
package struct WildcardListener {
    package struct Process {
        package var pid: pid_t
        package var name: String
        /// The path of its cgroup v2, as in /proc/PID/cgroup.
        package var cgroup: String
    }

    package var transport: String
    package var port: UInt16
    package var inode: UInt64
    package var process: Process?

    /// The sockets of the caller's network namespace that no process of a session holds, by port.
    ///
    /// TCP listeners are included, and UDP sockets below the ephemeral range. The ephemeral ports of UDP clients are
    /// left out, because they block no server.
    package static func all(outside sessions: [FilePath]) throws(Failure) -> [WildcardListener] {
        let ephemeral = EphemeralPorts.current()
        var found: [UInt64: WildcardListener] = [:]
        for socket in try SocketDump.sockets(connections: false)
        where socket.isServing && socket.local.address.isUnspecified {
            if socket.transport == .udp, ephemeral.contains(socket.local.port) { continue }
            found[socket.inode] = WildcardListener(
                transport: socket.transport == .udp ? "UDP" : "TCP", port: socket.local.port, inode: socket.inode)
        }
        guard !found.isEmpty else { return [] }
        let root = try MountTable.current().cgroup2Mount().mountPoint
        var inSession: Set<UInt64> = []
        for (inode, holders) in SocketOwners(of: Set(found.keys)).processes {
            for pid in holders {
                let process = ProcessFacts(pid)
                let cgroup = process.cgroup
                if let cgroup, sessions.contains(where: { root.appending(cgroup.components).starts(with: $0) }) {
                    inSession.insert(inode)
                } else {
                    found[inode]?.process = Process(
                        pid: pid, name: process.name.map { String(decoding: $0, as: UTF8.self) } ?? "?",
                        cgroup: cgroup?.string ?? "?")
                }
            }
        }
        return found.values.filter { !inSession.contains($0.inode) }
            .sorted { ($0.port, $0.transport, $0.inode) < ($1.port, $1.transport, $1.inode) }
    }
}
