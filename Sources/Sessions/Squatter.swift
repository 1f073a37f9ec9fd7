// SPDX-License-Identifier: Apache-2.0

public import Glibc
import Host
public import Network
import SystemPackage

/// A program that has a socket on an address that a session was to get, and is not in that session.
public struct Squatter: Sendable, Hashable {
    public let address: IPAddress
    /// Whether its sockets there were destroyed. If not, the session gets another address.
    public let isRemoved: Bool
    /// `nil` if /proc shows no process that has the socket.
    public let pid: pid_t?
    /// The user of the process, or else of the socket: the name, or the number of a user without one.
    public let user: String
    /// `process 4711 (python3) of user mallory has TCP port 5432`
    public let holding: String

    public var message: String {
        isRemoved
            ? "destroyed sockets on \(address) before a session gets it: \(holding)"
            : "passed over \(address), which is not free: \(holding)"
    }

    /// - Parameters:
    ///   - owners: of the sockets.
    ///   - tree: to name the cgroup in which the socket was made, if its process is not known.
    init(_ socket: InternetSocket, isRemoved: Bool, _ owners: SocketOwners, _ tree: CgroupTree?) {
        address = socket.local.address
        self.isRemoved = isRemoved
        pid = owners.processes[socket.inode]?.first
        let process = pid.map { ProcessFacts($0) }
        let number = process?.user ?? socket.user
        user = ((try? SystemUsers.name(of: number)) ?? nil) ?? "\(number)"
        let program =
            process?.executable?.path.lastComponent?.string
            ?? process?.name.map { String(decoding: $0, as: UTF8.self) }
        // The daemon may not see which process has it (CAP_SYS_PTRACE).
        let cgroup = pid == nil ? socket.cgroupID.flatMap { tree?.name(of: $0) } : nil
        let who =
            pid.map { "process \($0) (\(program ?? "?"))" } ?? "a program\(cgroup.map { " in cgroup \($0)" } ?? "")"
        holding = "\(who) of user \(user) has \(socket.transport.rawValue.uppercased()) port \(socket.local.port)"
    }

    /// One for each address, in the order of addresses: a program may have very many sockets on it.
    static func all(_ sockets: [InternetSocket], isRemoved: Bool) -> [Squatter] {
        let first = Dictionary(sockets.map { ($0.local.address, $0) }) { first, _ in first }
        guard !first.isEmpty else { return [] }
        let owners = SocketOwners(of: Set(first.values.map(\.inode)))
        let tree = try? CgroupTree()
        return first.values.map { Squatter($0, isRemoved: isRemoved, owners, tree) }.sorted { $0.address < $1.address }
    }
}

extension Failure.Code {
    /// A program outside of the session has a socket on an address that the session was to get.
    static let occupied = Failure.Code("occupied", exitCode: 1)
}
