// SPDX-License-Identifier: Apache-2.0

import CNetlink
import Glibc
public import Host
import SystemPackage

/// The sockets of this network namespace, by NETLINK_SOCK_DIAG: sock_diag(7), linux/inet_diag.h.
///
/// This file parses the attributes itself: libnl-idiag knows neither IPV6_V6ONLY nor cgroups.
public enum SocketDump {
    /// The TCP, MPTCP and UDP sockets of both families in the network namespace of the calling thread.
    ///
    /// The kernel walks its tables while sockets are created and closed, so one of those may be missing. An MPTCP
    /// listener is in the table of TCP as well, and is listed once.
    ///
    /// - Parameter connections: `false` leaves out connected sockets, of which a busy server has very many.
    /// - Throws: ``Failure`` if the kernel does not list them.
    public static func sockets(connections: Bool = true) throws(Failure) -> [InternetSocket] {
        do throws(Failure) {
            return try diagnosed(connections ? ~0 : waiting)
        } catch {
            // A container or a small initrd may lack the kernel modules. Every kernel has /proc/net, with fewer facts.
            guard error.code == .unavailable, let found = ProcNetTables.sockets(connections: connections) else {
                throw error
            }
            return found
        }
    }

    /// The sockets with one of these local addresses, in every state except TIME_WAIT, in which no process has the
    /// socket.
    ///
    /// TCP sockets that are bound and neither listen nor are connected are included since Linux 6.8.
    ///
    /// - Parameter addresses: the addresses. An IPv4 address also selects IPv6 sockets on its mapped form.
    /// - Throws: ``Failure`` as ``sockets(connections:)``.
    public static func sockets(on addresses: Set<IPAddress>) throws(Failure) -> [InternetSocket] {
        guard !addresses.isEmpty else { return [] }
        do throws(Failure) {
            return try diagnosed(living, on: addresses)
        } catch {
            guard error.code == .unavailable, let found = ProcNetTables.sockets(connections: true) else { throw error }
            return found.filter { addresses.contains($0.local.address) && $0.state != .timeWait }
        }
    }

    /// The states of idiag_states, a bit for each.
    private static let waiting = [InternetSocket.State.listening, .closed, .boundInactive].reduce(UInt32(0)) {
        $0 | 1 << UInt32($1.rawValue)
    }
    static let living = ~(UInt32(1) << UInt32(InternetSocket.State.timeWait.rawValue))

    private static func diagnosed(
        _ states: UInt32, on addresses: Set<IPAddress>? = nil
    ) throws(Failure) -> [InternetSocket] {
        var found: [InternetSocket] = []
        // TCP first: an MPTCP listener that is opened during the dump is then still found as MPTCP.
        for transport in [InternetSocket.Transport.tcp, .udp, .mptcp] {
            for family in IPAddress.Family.allCases {
                do throws(Failure) {
                    found += try entries(transport, family, states, on: addresses).map(\.socket)
                } catch {
                    // Kernels before 5.11 lack MPTCP or its diagnostics.
                    if transport != .mptcp { throw error }
                }
            }
        }
        struct Place: Hashable {
            var local: InternetSocket.Endpoint
            var remote: InternetSocket.Endpoint
        }
        let multipath = Set(found.filter { $0.transport == .mptcp }.map { Place(local: $0.local, remote: $0.remote) })
        guard !multipath.isEmpty else { return found }
        return found.filter {
            $0.transport != .tcp || !multipath.contains(Place(local: $0.local, remote: $0.remote))
        }
    }

    /// A socket, and its ID for requests to the kernel.
    struct Entry {
        var socket: InternetSocket
        var id: inet_diag_sockid
    }

    /// Makes one dump: the sockets of a transport and family that are in one of the states.
    ///
    /// - Parameter addresses: the local addresses; `nil` for all.
    static func entries(
        _ transport: InternetSocket.Transport, _ family: IPAddress.Family, _ states: UInt32,
        on addresses: Set<IPAddress>? = nil
    ) throws(Failure) -> [Entry] {
        // An IPv4 socket has no IPv6 address; an IPv6 socket may have a mapped one.
        if let addresses, family == .v4, !addresses.contains(where: { $0.family == .v4 }) { return [] }
        let what = "list the \(transport.rawValue) sockets"
        guard let socket = nl_socket_alloc() else { throw Failure(.failed, what, "out of memory") }
        defer { nl_socket_free(socket) }
        var error = nl_connect(socket, NETLINK_SOCK_DIAG)
        guard error == 0 else { throw failure(what, error) }
        // The kernel fills at most 32 KiB at a time (NLMSG_GOODSIZE, netlink_dump()), so the size need not be asked for
        // first.
        nl_socket_disable_msg_peek(socket)
        nl_socket_set_msg_buf_size(socket, 64 << 10)

        var request = inet_diag_req_v2()
        request.sdiag_family = UInt8(family == .v4 ? AF_INET : AF_INET6)
        request.sdiag_protocol = UInt8(transport == .udp ? IPPROTO_UDP : IPPROTO_TCP)
        request.idiag_states = states

        guard let message = nlmsg_alloc_simple(CInt(SOCK_DIAG_BY_FAMILY), CInt(NLM_F_DUMP)) else {
            throw Failure(.failed, what, "out of memory")
        }
        defer { nlmsg_free(message) }
        error = nlmsg_append(message, &request, MemoryLayout.size(ofValue: request), CInt(NLMSG_ALIGNTO))
        if error == 0, transport == .mptcp {
            // IPPROTO_MPTCP does not fit the 8 bits of sdiag_protocol.
            error = nla_put_u32(message, CInt(INET_DIAG_REQ_PROTOCOL), 262)
        }
        if error == 0, let addresses, addresses.count <= AddressFilter.limit {
            let code = AddressFilter.code(for: addresses)
            error = nla_put(message, CInt(INET_DIAG_REQ_BYTECODE), CInt(code.count), code)
        }
        if error == 0 { error = nl_send_auto(socket, message) }
        guard error >= 0 else { throw failure(what, error) }

        let collection = Collection(transport, on: addresses)
        guard let own = nl_socket_get_cb(socket), let callbacks = nl_cb_clone(own) else {
            throw Failure(.failed, what, "out of memory")
        }
        defer {
            nl_cb_put(callbacks)
            nl_cb_put(own)
        }
        nl_cb_set(
            callbacks, NL_CB_VALID, NL_CB_CUSTOM,
            { message, context in
                guard let context, let header = nlmsg_hdr(message) else { return CInt(NL_SKIP.rawValue) }
                Unmanaged<Collection>.fromOpaque(context).takeUnretainedValue().take(header)
                return CInt(NL_OK.rawValue)
            }, Unmanaged.passUnretained(collection).toOpaque())
        error = withExtendedLifetime(collection) { nl_recvmsgs(socket, callbacks) }
        guard error >= 0 else { throw failure(what, error) }
        return collection.entries
    }

    static func failure(_ what: String, _ error: CInt) -> Failure {
        switch -error {
        case NLE_OBJ_NOTFOUND, NLE_PROTO_MISMATCH, NLE_OPNOTSUPP, NLE_AF_NOSUPPORT:
            return Failure(
                .unavailable, what, "this kernel has no socket diagnostics",
                hint: "modprobe tcp_diag udp_diag (CONFIG_INET_DIAG)")
        default:
            let text = nl_geterror(error).map { String(cString: $0) } ?? "libnl error \(error)"
            return Failure(.failed, what, text.prefix(1).lowercased() + text.dropFirst(), hint: "try again")
        }
    }

    private final class Collection {
        private let transport: InternetSocket.Transport
        private let addresses: Set<IPAddress>?
        private(set) var entries: [Entry] = []

        init(_ transport: InternetSocket.Transport, on addresses: Set<IPAddress>?) {
            self.transport = transport
            self.addresses = addresses
        }

        func take(_ header: UnsafeMutablePointer<nlmsghdr>) {
            let length = MemoryLayout<inet_diag_msg>.size
            guard nlmsg_datalen(header) >= CInt(length), let data = nlmsg_data(header) else { return }
            let row = data.loadUnaligned(as: inet_diag_msg.self)
            let family: IPAddress.Family = CInt(row.idiag_family) == AF_INET ? .v4 : .v6
            let local = Self.endpoint(row.id.idiag_src, row.id.idiag_sport, family)
            if let addresses, !addresses.contains(local.address) { return }
            var socket = InternetSocket(
                transport, family, InternetSocket.State(rawValue: row.idiag_state), local: local,
                remote: Self.endpoint(row.id.idiag_dst, row.id.idiag_dport, family),
                user: row.idiag_uid, inode: UInt64(row.idiag_inode), interface: row.id.idiag_if)
            if let attribute = nlmsg_find_attr(header, CInt(length), CInt(INET_DIAG_SKV6ONLY)) {
                socket.isV6Only = nla_get_u8(attribute) != 0
            }
            if let attribute = nlmsg_find_attr(header, CInt(length), CInt(INET_DIAG_CGROUP_ID)) {
                socket.cgroupID = nla_get_u64(attribute)
            }
            entries.append(Entry(socket: socket, id: row.id))
        }

        /// Reads an address, which is four words in network order (IPv4 uses the first), and a port in network order.
        private static func endpoint(
            _ words: (UInt32, UInt32, UInt32, UInt32), _ port: UInt16, _ family: IPAddress.Family
        ) -> InternetSocket.Endpoint {
            let port = UInt16(bigEndian: port)
            if family == .v4 { return .init(IPAddress(v4: UInt32(bigEndian: words.0)), port) }
            let value = [words.0, words.1, words.2, words.3].reduce(UInt128(0)) {
                $0 << 32 | UInt128(UInt32(bigEndian: $1))
            }
            let address = IPAddress(.v6, value: value)
            return .init(address.isMapped ? IPAddress(v4: UInt32(truncatingIfNeeded: value)) : address, port)
        }
    }
}
