// SPDX-License-Identifier: Apache-2.0

package import Glibc
package import Host
package import Network
import SystemPackage

/// A listening TCP socket or bound UDP socket on a wildcard address, and who holds it. Its port is in use on every
/// session's addresses too.
package struct WildcardListener: Sendable {
    package struct Process: Sendable {
        package var pid: pid_t
        package var name: String
        /// The path of its cgroup v2, as in /proc/PID/cgroup.
        package var cgroup: String
    }

    package let socket: InternetSocket
    /// `nil` if it is not known, as for the daemon, which has no CAP_SYS_PTRACE.
    package private(set) var process: Process?
    /// The session of the process; without a known process, the one in which the socket was made.
    package private(set) var session: SessionRecord?
    /// The path of the cgroup in which the socket was made, if it is a session's and no process is known.
    private var origin: String?

    /// Of one session, at most this many are named at once: a program can hold thousands of ports.
    package static let namedLimit = 8

    package var transport: String { socket.transport == .udp ? "UDP" : "TCP" }
    package var port: UInt16 { socket.local.port }

    /// `nc (PID 4711)`, or what is known instead.
    package var holder: String {
        process.map { "\($0.name) (PID \($0.pid))" } ?? origin.map { "a program in cgroup \($0)" }
            ?? "an unknown process"
    }

    /// `nc (PID 4711), of session 7, holds TCP port 4444 on every address`
    package var message: String {
        "\(holder)\(session.map { ", of session \($0.id)," } ?? "") \(holding)"
    }

    /// `holds TCP port 4444 on every address`
    package var holding: String { "holds \(transport) port \(port) on every address" }

    /// `programs of session 7 hold 12 more ports on every address`
    package static func summary(ofOthers count: Int, session: UInt32) -> String {
        "programs of session \(session) hold \(count) more \(count == 1 ? "port" : "ports") on every address"
    }

    /// The sockets of the caller's network namespace, and who holds them, by port. A process of a session that has
    /// several sockets on a port is there once.
    ///
    /// - Parameter sessions: those that ``session`` can be.
    package static func all(_ sessions: [SessionRecord]) throws(Failure) -> [WildcardListener] {
        struct Holding: Hashable {
            var session: UInt32
            var pid: pid_t?
            var transport: String
            var port: UInt16
        }
        var seen: Set<Holding> = []
        return try holders(of: sockets(), sessions).filter { one in
            guard let session = one.session else { return true }
            return seen.insert(
                Holding(session: session.id, pid: one.process?.pid, transport: one.transport, port: one.port)
            ).inserted
        }
    }

    /// The sockets alone, by one dump.
    ///
    /// TCP listeners are included, and UDP sockets below the ephemeral range. The ephemeral ports of UDP clients are
    /// left out, because they block no server.
    package static func sockets() throws(Failure) -> Set<InternetSocket> {
        let ephemeral = EphemeralPorts.current()
        return Set(
            try SocketDump.sockets(connections: false).filter { socket in
                socket.isServing && socket.local.address.isUnspecified
                    && (socket.transport != .udp || !ephemeral.contains(socket.local.port))
            })
    }

    /// Who holds these sockets. It reads the descriptors of all processes, and all cgroups if a socket has no known
    /// process.
    ///
    /// - Returns: one for each socket, by port.
    package static func holders(
        of sockets: Set<InternetSocket>, _ sessions: [SessionRecord]
    ) throws(Failure) -> [WildcardListener] {
        guard !sockets.isEmpty else { return [] }
        let root = try MountTable.current().cgroup2Mount().mountPoint
        let owners = SocketOwners(of: Set(sockets.map(\.inode)))
        let sessionsByCgroup = Dictionary(sessions.map { ($0.cgroupID, $0) }) { first, _ in first }
        let cgroups = Set(sessionsByCgroup.keys)
        lazy var tree = try? CgroupTree()
        var found: [WildcardListener] = []
        for socket in sockets {
            var listener = WildcardListener(socket: socket)
            for pid in owners.processes[socket.inode] ?? [] {
                let facts = ProcessFacts(pid)
                let cgroup = facts.cgroup
                listener.process = Process(
                    pid: pid, name: facts.name.map { String(decoding: $0, as: UTF8.self) } ?? "?",
                    cgroup: cgroup?.string ?? "?")
                guard let path = cgroup.map({ root.appending($0.components) }) else { continue }
                listener.session = sessions.first { path.starts(with: $0.cgroupPath) }
                if listener.session != nil { break }
            }
            if listener.process == nil, !cgroups.isEmpty, let id = socket.cgroupID,
                let session = tree?.nearest(to: id, in: cgroups)
            {
                listener.session = sessionsByCgroup[session]
                listener.origin = tree?.name(of: id)
            }
            found.append(listener)
        }
        return found.sorted {
            ($0.port, $0.transport, $0.socket.inode) < ($1.port, $1.transport, $1.socket.inode)
        }
    }

    private init(socket: InternetSocket) { self.socket = socket }
}
