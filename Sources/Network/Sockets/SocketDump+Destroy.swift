// SPDX-License-Identifier: Apache-2.0

import CNetlink
import Glibc
public import Host
import SystemPackage

extension SocketDump {
    /// Destroys the TCP, MPTCP and UDP sockets on local addresses, whichever processes have them: SOCK_DESTROY of
    /// sock_diag(7), as `ss -K` does. Their next call gets ECONNABORTED.
    ///
    /// TCP connections end for good, MPTCP connections by their subflows. TCP listeners and UDP sockets stay bound, and
    /// the program can use them again. MPTCP listeners and TCP sockets that are only bound are not destroyed. So a
    /// caller that needs the addresses free must ask for ``sockets(on:)`` afterwards. Of very many sockets with the
    /// same address and port (SO_REUSEPORT), some are left.
    ///
    /// Needs CAP_NET_ADMIN, and CONFIG_INET_DIAG_DESTROY in the kernel.
    ///
    /// - Parameters:
    ///   - addresses: sockets on exactly these. Those on the wildcard are left alone.
    ///   - isMeant: which of them.
    /// - Returns: those that were destroyed.
    /// - Throws: ``Failure`` if the kernel destroys none.
    public static func destroy(
        on addresses: Set<IPAddress>, where isMeant: (InternetSocket) -> Bool = { _ in true }
    ) throws(Failure) -> [InternetSocket] {
        guard !addresses.isEmpty else { return [] }
        var pending: [Entry] = []
        // MPTCP sockets cannot be destroyed themselves; their subflows are sockets of TCP.
        for transport in [InternetSocket.Transport.tcp, .udp] {
            for family in IPAddress.Family.allCases {
                pending += try entries(transport, family, living, on: addresses).filter { isMeant($0.socket) }
            }
        }
        guard !pending.isEmpty else { return [] }
        let what = "destroy sockets"
        guard let socket = nl_socket_alloc() else { throw Failure(.failed, what, "out of memory") }
        defer { nl_socket_free(socket) }
        let error = nl_connect(socket, NETLINK_SOCK_DIAG)
        guard error == 0 else { throw failure(what, error) }

        var destroyed: [InternetSocket] = []
        var refusal: CInt?
        // The kernel looks a socket up by addresses and ports, and then compares the cookie. Of several sockets with
        // the same ones (SO_REUSEPORT) it may find another one, until that is gone.
        var triesLeft = 4 * pending.count + 4096
        while true {
            let count = destroyed.count
            var missed: [Entry] = []
            for entry in pending where triesLeft > 0 {
                triesLeft -= 1
                switch -(try destroy(entry, by: socket, what)) {
                case 0: destroyed.append(entry.socket)
                case NLE_OBJ_NOTFOUND: missed.append(entry)
                case let error: refusal = refusal ?? error
                }
            }
            pending = missed
            guard destroyed.count > count, !pending.isEmpty else { break }
        }
        // MPTCP listeners are refused by every kernel.
        if destroyed.isEmpty, let refusal {
            switch refusal {
            case NLE_PERM: throw Failure(what, errno: .notPermitted, needs: [.netAdmin])
            case NLE_OPNOTSUPP where try !isMultipath(addresses):
                throw Failure(
                    .unavailable, what, "this kernel cannot do it", hint: "build it with CONFIG_INET_DIAG_DESTROY")
            default: break
            }
        }
        return destroyed
    }

    private static func isMultipath(_ addresses: Set<IPAddress>) throws(Failure) -> Bool {
        try sockets(on: addresses).contains { $0.transport == .mptcp }
    }

    /// - Returns: 0, or an error of libnl.
    private static func destroy(_ entry: Entry, by socket: OpaquePointer, _ what: String) throws(Failure) -> CInt {
        var request = inet_diag_req_v2()
        request.sdiag_family = UInt8(entry.socket.family == .v4 ? AF_INET : AF_INET6)
        request.sdiag_protocol = UInt8(entry.socket.transport == .udp ? IPPROTO_UDP : IPPROTO_TCP)
        request.id = entry.id
        guard let message = nlmsg_alloc_simple(CInt(SOCK_DESTROY), CInt(NLM_F_ACK)) else {
            throw Failure(.failed, what, "out of memory")
        }
        let error = nlmsg_append(message, &request, MemoryLayout.size(ofValue: request), CInt(NLMSG_ALIGNTO))
        guard error == 0 else {
            nlmsg_free(message)
            return error
        }
        return nl_send_sync(socket, message)  // frees the message
    }
}
