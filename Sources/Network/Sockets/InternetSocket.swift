// SPDX-License-Identifier: Apache-2.0

/// A TCP, MPTCP or UDP socket of a network namespace, as the kernel's socket diagnostics describe it: sock_diag(7).
public struct InternetSocket: Sendable, Hashable {
    public enum Transport: String, Sendable, Hashable, CaseIterable {
        case tcp, mptcp, udp
    }

    /// A state of include/net/tcp_states.h. A UDP socket is ``established`` if it is connected, else ``closed``.
    public struct State: RawRepresentable, Sendable, Hashable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }

        public static let established = State(rawValue: 1)
        public static let timeWait = State(rawValue: 6)
        public static let closed = State(rawValue: 7)
        public static let listening = State(rawValue: 10)
        /// Bound, neither listening nor connected. Linux reports these TCP sockets since 6.8.
        public static let boundInactive = State(rawValue: 13)
    }

    public struct Endpoint: Sendable, Hashable, CustomStringConvertible {
        /// The address. A mapped IPv4 address of an IPv6 socket is given as the IPv4 address.
        public var address: IPAddress
        public var port: UInt16

        public init(_ address: IPAddress, _ port: UInt16) {
            self.address = address
            self.port = port
        }

        public var description: String { address.family == .v4 ? "\(address):\(port)" : "[\(address)]:\(port)" }
    }

    public var transport: Transport
    /// The socket's family, whatever its addresses are: IPv6 for one with a mapped address.
    public var family: IPAddress.Family
    public var state: State
    public var local: Endpoint
    /// The remote end; address and port are 0 if there is none.
    public var remote: Endpoint
    /// IPV6_V6ONLY of an IPv6 socket that is not connected; `nil` if the kernel does not report it.
    public var isV6Only: Bool?
    /// The user that created it.
    public var user: UInt32
    /// The inode as in /proc/PID/fd; 0 if no process holds the socket.
    public var inode: UInt64
    /// The ID of the cgroup in which it was created, ``Cgroup/id``; `nil` if the kernel does not report it (before
    /// 5.9).
    public var cgroupID: UInt64?
    /// The index of the interface that it is bound to; 0 if it is bound to none.
    public var interface: UInt32

    public init(
        _ transport: Transport, _ family: IPAddress.Family, _ state: State, local: Endpoint, remote: Endpoint,
        isV6Only: Bool? = nil, user: UInt32 = 0, inode: UInt64 = 0, cgroupID: UInt64? = nil, interface: UInt32 = 0
    ) {
        self.transport = transport
        self.family = family
        self.state = state
        self.local = local
        self.remote = remote
        self.isV6Only = isV6Only
        self.user = user
        self.inode = inode
        self.cgroupID = cgroupID
        self.interface = interface
    }

    /// Whether peers that it has not chosen can reach it: a TCP listener, or a UDP socket that is not connected.
    public var isServing: Bool {
        transport == .udp ? state == .closed && local.port != 0 : state == .listening
    }

    /// Whether it is bound to `::` and accepts IPv4 as well.
    public var isDualStack: Bool { family == .v6 && local.address == IPAddress(.v6, value: 0) && isV6Only == false }
}
