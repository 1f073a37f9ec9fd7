// SPDX-License-Identifier: Apache-2.0

import CNetlink
import Glibc
public import Host
import SystemPackage

/// The addresses of this network namespace's interfaces, by rtnetlink(7) through libnl-route.
///
/// A socket belongs to the network namespace in which it was opened: all calls apply to that namespace. Use it on one
/// thread at a time.
public final class Netlink {
    let socket: OpaquePointer

    /// How many requests are sent before their answers are read. An answer takes about 1 KiB of the socket's receive
    /// buffer, and Linux gives it at most 416 KiB without privilege (net.core.rmem_max). No answer may be lost, because
    /// each has the result for one address.
    private static let window = 128
    private static let receiveBuffer: CInt = 208 << 10  // bytes; the kernel doubles it for its own bookkeeping

    /// Opens a netlink socket.
    ///
    /// - Throws: ``Failure`` if the kernel does not open one.
    public init() throws(Failure) {
        guard let socket = nl_socket_alloc() else { throw Failure(.failed, "open a netlink socket", "out of memory") }
        var error = nl_connect(socket, NETLINK_ROUTE)
        if error == 0 { error = nl_socket_set_buffer_size(socket, Self.receiveBuffer, Self.receiveBuffer) }
        guard error == 0 else {
            nl_socket_free(socket)
            throw Self.failure("open a netlink socket", error)
        }
        // Answers are at most 32 KiB long (NLMSG_GOODSIZE, netlink_dump()), so the size need not be asked for first.
        nl_socket_disable_msg_peek(socket)
        nl_socket_set_msg_buf_size(socket, 64 << 10)
        self.socket = socket
    }

    deinit {
        nl_socket_free(socket)
    }

    // MARK: Listing

    /// Every address of this host, of both families: those of interfaces, and those that have a route of their own
    /// (``AddressPlace/Form/route``).
    public func hostAddresses() throws(Failure) -> [PlacedAddress] {
        let what = "list the host's addresses"
        var cache: OpaquePointer?
        var error = rtnl_addr_alloc_cache(socket, &cache)
        guard error == 0, let cache else { throw Self.failure(what, error) }
        defer { nl_cache_free(cache) }
        var links: OpaquePointer?
        error = rtnl_link_alloc_cache(socket, AF_UNSPEC, &links)
        guard error == 0, let links else { throw Self.failure(what, error) }
        defer { nl_cache_free(links) }

        var names: [CInt: String] = [:]
        var next = nl_cache_get_first(links)
        while let link = next {
            names[rtnl_link_get_ifindex(link)] = rtnl_link_get_name(link).map { String(cString: $0) }
            next = nl_cache_get_next(link)
        }
        var addresses: [PlacedAddress] = []
        addresses.reserveCapacity(Int(nl_cache_nitems(cache)))
        next = nl_cache_get_first(cache)
        while let entry = next {
            defer { next = nl_cache_get_next(entry) }
            guard let local = rtnl_addr_get_local(entry), let bytes = nl_addr_get_binary_addr(local),
                // An interface may appear or disappear between the two lists; its addresses are left out.
                let interface = names[rtnl_addr_get_ifindex(entry)]
            else { continue }
            let buffer = UnsafeRawBufferPointer(start: bytes, count: Int(nl_addr_get_len(local)))
            guard let address = IPAddress(bytes: buffer) else { continue }
            addresses.append(
                PlacedAddress(
                    address, interface: interface, prefixLength: Int(rtnl_addr_get_prefixlen(entry)),
                    flags: rtnl_addr_get_flags(entry)))
        }
        for route in try addressRoutes(what) {
            guard let interface = names[route.interface] else { continue }
            addresses.append(PlacedAddress(route.address, interface: interface, form: .route, prefixLength: 32))
        }
        return addresses
    }

    /// The IPv4 addresses with a route as ``add(_:at:)`` makes it. The kernel makes such a route for each address of an
    /// interface as well, but with that address as its source.
    private func addressRoutes(_ what: String) throws(Failure) -> [(address: IPAddress, interface: CInt)] {
        var request = rtmsg()
        request.rtm_family = UInt8(AF_INET)
        request.rtm_table = UInt8(RT_TABLE_LOCAL.rawValue)
        request.rtm_protocol = UInt8(RTPROT_KERNEL)
        request.rtm_type = UInt8(RTN_LOCAL)
        let found = try dump(request, what, into: FoundRoutes.init) { found, route in
            guard rtnl_route_get_table(route) == UInt32(RT_TABLE_LOCAL.rawValue),
                rtnl_route_get_type(route) == UInt8(RTN_LOCAL), rtnl_route_get_pref_src(route) == nil,
                let target = rtnl_route_get_dst(route), nl_addr_get_prefixlen(target) == 32,
                let bytes = nl_addr_get_binary_addr(target), let hop = rtnl_route_nexthop_n(route, 0),
                let address = IPAddress(bytes: UnsafeRawBufferPointer(start: bytes, count: 4))
            else { return }
            found.routes.append((address, rtnl_route_nh_get_ifindex(hop)))
        }
        return found.routes
    }

    private final class FoundRoutes {
        var routes: [(address: IPAddress, interface: CInt)] = []
    }

    /// Asks for the routes that match a request's family, table and, where they are set, protocol and type, and calls
    /// `see` with each. It begins anew, with another result, if the routes change meanwhile.
    private func dump<Result: AnyObject>(
        _ request: rtmsg, _ what: String, into make: () -> Result, _ see: @escaping (Result, OpaquePointer) -> Void
    ) throws(Failure) -> Result {
        // The kernel honours the request only with strict checking (4.20). Without it, it sends every route. libnl's
        // own requests do not pass a strict check, so it is switched off again.
        try setStrict(true, what)
        defer { try? setStrict(false, what) }
        let tries = 10  // one is interrupted only by a change of routes within the milliseconds that it takes
        for attempt in 1...tries {
            let result = make()
            let error = try dumpOnce(request, what) { see(result, $0) }
            if error >= 0 { return result }
            guard error == -NLE_DUMP_INTR, attempt < tries else { throw Self.failure(what, error) }
        }
        preconditionFailure("the loop returns or throws")
    }

    /// - Returns: 0 or more, or the negative error of libnl. NLE_DUMP_INTR comes after the last message.
    private func dumpOnce(
        _ request: rtmsg, _ what: String, _ see: @escaping (OpaquePointer) -> Void
    ) throws(Failure) -> CInt {
        var request = request
        let sent = nl_send_simple(
            socket, CInt(RTM_GETROUTE), NLM_F_DUMP, &request, MemoryLayout.size(ofValue: request))
        guard sent >= 0 else { throw Self.failure(what, sent) }
        let visitor = RouteVisitor(see)
        let callbacks = try callbacks(what)
        defer { nl_cb_put(callbacks) }
        nl_cb_set(
            callbacks, NL_CB_VALID, NL_CB_CUSTOM,
            { message, context in
                var route: OpaquePointer?
                guard let context, rtnl_route_parse(nlmsg_hdr(message), &route) == 0, let route else {
                    return CInt(NL_SKIP.rawValue)  // a kind of route that libnl does not know
                }
                Unmanaged<RouteVisitor>.fromOpaque(context).takeUnretainedValue().see(route)
                rtnl_route_put(route)
                return CInt(NL_OK.rawValue)
            }, Unmanaged.passUnretained(visitor).toOpaque())
        return withExtendedLifetime(visitor) { nl_recvmsgs(socket, callbacks) }
    }

    private final class RouteVisitor {
        let see: (OpaquePointer) -> Void
        init(_ see: @escaping (OpaquePointer) -> Void) { self.see = see }
    }

    /// The interfaces, by index.
    public func interfaces() throws(Failure) -> [CInt: Interface] {
        var links: OpaquePointer?
        let error = rtnl_link_alloc_cache(socket, AF_UNSPEC, &links)
        guard error == 0, let links else { throw Self.failure("list the interfaces", error) }
        defer { nl_cache_free(links) }
        var interfaces: [CInt: Interface] = [:]
        var next = nl_cache_get_first(links)
        while let link = next {
            defer { next = nl_cache_get_next(link) }
            guard let name = rtnl_link_get_name(link) else { continue }
            let flags = rtnl_link_get_flags(link)
            let running = UInt32(IFF_UP | IFF_RUNNING)
            let alone = UInt32(IFF_LOOPBACK | IFF_NOARP | IFF_POINTOPOINT)
            interfaces[rtnl_link_get_ifindex(link)] = Interface(
                name: String(cString: name), isUp: flags & UInt32(IFF_UP) != 0,
                hasNeighbours: flags & running == running && flags & alone == 0,
                hardwareAddress: Self.hardwareAddress(of: link))
        }
        return interfaces
    }

    /// An interface's link-layer address (6 bytes for Ethernet), empty if the link has none: rtnl_link_get_addr().
    ///
    /// - Throws: ``Failure`` if the interface does not exist.
    public func hardwareAddress(of interface: String) throws(Failure) -> [UInt8] {
        var link: OpaquePointer?
        let error = rtnl_link_get_kernel(socket, 0, interface, &link)
        guard error == 0, let link else { throw Self.failure("look up interface \(interface)", error) }
        defer { rtnl_link_put(link) }
        guard let address = rtnl_link_get_addr(link), let bytes = nl_addr_get_binary_addr(address) else { return [] }
        return Array(UnsafeRawBufferPointer(start: bytes, count: Int(nl_addr_get_len(address))))
    }

    private static func hardwareAddress(of link: OpaquePointer) -> HardwareAddress? {
        guard rtnl_link_get_arptype(link) == 1,  // ARPHRD_ETHER, net/if_arp.h
            let address = rtnl_link_get_addr(link),
            let bytes = nl_addr_get_binary_addr(address)
        else { return nil }
        return HardwareAddress(
            bytes: UnsafeRawBufferPointer(start: bytes, count: Int(nl_addr_get_len(address))))
    }

    /// The interface of a family's default route with the lowest metric in the main table; `nil` if there is none.
    public func defaultRouteInterface(_ family: IPAddress.Family) throws(Failure) -> String? {
        let what = "find the \(family.rawValue) default route"
        var request = rtmsg()
        request.rtm_family = UInt8(family == .v4 ? AF_INET : AF_INET6)
        request.rtm_table = UInt8(RT_TABLE_MAIN.rawValue)
        let routes = try dump(request, what, into: DefaultRoutes.init) { $0.see($1) }
        guard let best = routes.best else { return nil }
        var link: OpaquePointer?
        guard rtnl_link_get_kernel(socket, best.interface, nil, &link) == 0, let link else { return nil }
        defer { rtnl_link_put(link) }
        return rtnl_link_get_name(link).map { String(cString: $0) }
    }

    /// A family's routes in the main and the local table.
    public func routes(_ family: IPAddress.Family) throws(Failure) -> [HostRoute] {
        let what = "list the \(family.rawValue) routes"
        var cache: OpaquePointer?
        let error = rtnl_route_alloc_cache(socket, family == .v4 ? AF_INET : AF_INET6, 0, &cache)
        guard error == 0, let cache else { throw Self.failure(what, error) }
        defer { nl_cache_free(cache) }
        var routes: [HostRoute] = []
        var next = nl_cache_get_first(cache)
        while let entry = next {
            defer { next = nl_cache_get_next(entry) }
            let table = rtnl_route_get_table(entry)
            guard table == UInt32(RT_TABLE_MAIN.rawValue) || table == UInt32(RT_TABLE_LOCAL.rawValue),
                let target = rtnl_route_get_dst(entry)
            else { continue }
            // The destination of a default route has no bytes.
            var bytes = [UInt8](repeating: 0, count: family.bits / 8)
            if let first = nl_addr_get_binary_addr(target) {
                let some = UnsafeRawBufferPointer(start: first, count: min(Int(nl_addr_get_len(target)), bytes.count))
                bytes.replaceSubrange(..<some.count, with: some)
            }
            guard let network = IPAddress(bytes: bytes) else { continue }
            let interface = rtnl_route_nexthop_n(entry, 0).map { rtnl_route_nh_get_ifindex($0) }
            routes.append(
                HostRoute(
                    network: network, length: Int(nl_addr_get_prefixlen(target)),
                    isLocal: table == UInt32(RT_TABLE_LOCAL.rawValue)
                        && rtnl_route_get_type(entry) == UInt8(RTN_LOCAL),
                    isMain: table == UInt32(RT_TABLE_MAIN.rawValue),
                    isUnicast: rtnl_route_get_type(entry) == UInt8(RTN_UNICAST), interface: interface,
                    hasSource: rtnl_route_get_pref_src(entry) != nil))
        }
        return routes
    }

    private func setStrict(_ isStrict: Bool, _ what: String) throws(Failure) {
        var value: CInt = isStrict ? 1 : 0
        guard
            setsockopt(
                nl_socket_get_fd(socket), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &value,
                socklen_t(MemoryLayout.size(ofValue: value))) == 0
        else { throw Failure(what, errno: Errno(rawValue: errno)) }
    }

    // MARK: Changing it

    /// Places addresses: as /32 or /128 of the interface and without a route of their prefix, or as a local route each.
    ///
    /// - Returns: for each address, in order, its result. One that fails does not stop the others.
    /// - Throws: ``Failure`` if the interface does not exist, or if the kernel does not answer. In the second case it
    ///   is not known which addresses were placed.
    public func add(_ addresses: [IPAddress], at place: AddressPlace) throws(Failure) -> [Result<Addition, Failure>] {
        guard let first = addresses.first else { return [] }
        let interface = place.interface
        let what = "place \(addresses.count == 1 ? "\(first)" : "\(addresses.count) addresses") on \(interface)"
        guard let index = try index(of: interface, what) else {
            throw Failure(.failed, what, "there is no interface \(interface)", hint: "see ip link")
        }
        let answers = try exchange(addresses, what) { address throws(Failure) in
            switch place.form {
            case .address:
                try request(address, index, what) { rtnl_addr_build_add_request($0, NLM_F_CREATE | NLM_F_EXCL, $1) }
            case .route:
                try request(routeTo: address, index, what) {
                    rtnl_route_build_add_request($0, NLM_F_CREATE | NLM_F_EXCL, $1)
                }
            }
        }
        return zip(addresses, answers).map { address, error in
            switch error {
            case 0: return .success(.added)
            case EEXIST: return .success(.alreadyThere)
            default: return .failure(Self.failure(placing: address, interface, Errno(rawValue: error)))
            }
        }
    }

    /// Removes addresses, but only those that ``add(_:at:)`` placed: the host's own address, with its prefix, stays.
    ///
    /// - Returns: for each address, in order, its result. If the interface no longer exists, each is
    ///   ``Removal/alreadyGone``.
    /// - Throws: ``Failure`` if the kernel does not answer.
    public func remove(
        _ addresses: [IPAddress], at place: AddressPlace
    ) throws(Failure) -> [Result<Removal, Failure>] {
        guard let first = addresses.first else { return [] }
        let interface = place.interface
        let what = "remove \(addresses.count == 1 ? "\(first)" : "\(addresses.count) addresses") from \(interface)"
        guard let index = try index(of: interface, what) else { return addresses.map { _ in .success(.alreadyGone) } }
        let answers = try exchange(addresses, what) { address throws(Failure) in
            switch place.form {
            case .address: try request(address, index, what) { rtnl_addr_build_delete_request($0, 0, $1) }
            case .route: try request(routeTo: address, index, what) { rtnl_route_build_del_request($0, 0, $1) }
            }
        }
        return zip(addresses, answers).map { address, error in
            switch error {
            case 0: return .success(.removed)
            case EADDRNOTAVAIL, ENODEV, ESRCH: return .success(.alreadyGone)
            default:
                return .failure(
                    Failure("remove \(address) from \(interface)", errno: Errno(rawValue: error), needs: [.netAdmin]))
            }
        }
    }

    /// Makes every address of a prefix a local address of this host: `ip route add local PREFIX dev INTERFACE`.
    ///
    /// - Parameter source: the source address of connections there that have chosen none.
    /// - Returns: `false` if the route already exists.
    @discardableResult
    public func addLocalRoute(
        _ prefix: AddressPrefix, on interface: String = "lo", source: IPAddress? = nil
    ) throws(Failure) -> Bool {
        let what = "make \(prefix) local"
        guard let index = try index(of: interface, what) else {
            throw Failure(.failed, what, "there is no interface \(interface)", hint: "see ip link")
        }
        let route = try localRoute(prefix, source, on: index, what)
        defer { rtnl_route_put(route) }
        let error = rtnl_route_add(socket, route, NLM_F_CREATE | NLM_F_EXCL)
        guard error == 0 || error == -NLE_EXIST else { throw Self.failure(what, error) }
        return error == 0
    }

    /// Removes the route of ``addLocalRoute(_:on:source:)``; it is no error if it does not exist.
    public func removeLocalRoute(_ prefix: AddressPrefix) throws(Failure) {
        let what = "remove the local route of \(prefix)"
        let route = try localRoute(prefix, nil, on: nil, what)
        defer { rtnl_route_put(route) }
        let error = rtnl_route_delete(socket, route, 0)
        // IPv4 reports ESRCH if the route does not exist.
        guard [0, -NLE_OBJ_NOTFOUND, -NLE_NODEV].contains(error) else { throw Self.failure(what, error) }
    }

    /// A route that makes a prefix local.
    ///
    /// Its protocol is `kernel`, like that of the routes of interfaces' addresses: systemd-networkd removes routes of
    /// other protocols that it does not know (`ManageForeignRoutes=`).
    ///
    /// - Parameter interface: `nil` for a request that removes it from any interface, whatever its protocol is.
    private func localRoute(
        _ prefix: AddressPrefix, _ source: IPAddress?, on interface: CInt?, _ what: String
    ) throws(Failure) -> OpaquePointer {
        let family = prefix.family == .v4 ? AF_INET : AF_INET6
        let bytes = prefix.network.bytes
        guard let target = nl_addr_build(family, bytes, bytes.count) else { throw Self.failure(what, -NLE_NOMEM) }
        defer { nl_addr_put(target) }
        nl_addr_set_prefixlen(target, CInt(prefix.length))
        guard let route = rtnl_route_alloc() else { throw Self.failure(what, -NLE_NOMEM) }
        if let interface {
            guard let hop = rtnl_route_nh_alloc() else {
                rtnl_route_put(route)
                throw Self.failure(what, -NLE_NOMEM)
            }
            rtnl_route_nh_set_ifindex(hop, interface)
            rtnl_route_add_nexthop(route, hop)
        }
        rtnl_route_set_family(route, UInt8(family))
        rtnl_route_set_table(route, UInt32(RT_TABLE_LOCAL.rawValue))
        rtnl_route_set_type(route, UInt8(RTN_LOCAL))
        // IPv4 requires host scope for a local route; IPv6 routes have no scope.
        let scope = prefix.family == .v4 ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE
        rtnl_route_set_scope(route, UInt8(scope.rawValue))
        rtnl_route_set_protocol(route, UInt8(interface == nil ? RTPROT_UNSPEC : RTPROT_KERNEL))
        // IP6_RT_PRIO_USER of net/ip6_route.h, the default.
        if prefix.family == .v6 { rtnl_route_set_priority(route, 1024) }
        var errors = [rtnl_route_set_dst(route, target)]
        if let source {
            let bytes = source.bytes
            guard let preferred = nl_addr_build(family, bytes, bytes.count) else {
                rtnl_route_put(route)
                throw Self.failure(what, -NLE_NOMEM)
            }
            defer { nl_addr_put(preferred) }
            errors.append(rtnl_route_set_pref_src(route, preferred))
        }
        if let error = errors.first(where: { $0 != 0 }) {
            rtnl_route_put(route)
            throw Self.failure(what, error)
        }
        return route
    }

    /// The index of an interface in the socket's network namespace; `nil` if there is none of that name.
    func index(of interface: String, _ what: String) throws(Failure) -> CInt? {
        // Names have at most 15 bytes (IFNAMSIZ - 1, linux/if.h). For a longer one, the kernel would return ERANGE.
        guard (1...15).contains(interface.utf8.count) else { return nil }
        var link: OpaquePointer?
        let error = rtnl_link_get_kernel(socket, 0, interface, &link)
        guard error == 0, let link else {
            if error == -NLE_NODEV || error == -NLE_OBJ_NOTFOUND { return nil }
            throw Self.failure(what, error)
        }
        defer { rtnl_link_put(link) }
        return rtnl_link_get_ifindex(link)
    }

    /// Sends one request for each address, in windows, and reads an answer to each.
    ///
    /// - Parameter request: makes the message, which is freed here.
    /// - Returns: for each address, in order, 0 or the errno of its answer.
    private func exchange(
        _ addresses: [IPAddress], _ what: String, request: (IPAddress) throws(Failure) -> OpaquePointer
    ) throws(Failure) -> [CInt] {
        let callbacks = try callbacks(what)
        defer { nl_cb_put(callbacks) }
        let answers = Answers()
        let context = Unmanaged.passUnretained(answers).toOpaque()
        nl_cb_set(
            callbacks, NL_CB_ACK, NL_CB_CUSTOM,
            { message, context in
                guard let context, let header = nlmsg_hdr(message) else { return CInt(NL_SKIP.rawValue) }
                Unmanaged<Answers>.fromOpaque(context).takeUnretainedValue().take(header.pointee.nlmsg_seq, 0)
                return CInt(NL_OK.rawValue)
            }, context)
        nl_cb_err(
            callbacks, NL_CB_CUSTOM,
            { _, answer, context in
                guard let context, let answer else { return CInt(NL_SKIP.rawValue) }
                Unmanaged<Answers>.fromOpaque(context).takeUnretainedValue()
                    .take(answer.pointee.msg.nlmsg_seq, -answer.pointee.error)
                return CInt(NL_SKIP.rawValue)
            }, context)
        // This class assigns the sequence numbers and matches the answers by them, so libnl must not check them.
        nl_cb_set(callbacks, NL_CB_SEQ_CHECK, NL_CB_CUSTOM, { _, _ in CInt(NL_OK.rawValue) }, nil)

        return try withExtendedLifetime(answers) { () throws(Failure) in
            var results: [CInt] = []
            results.reserveCapacity(addresses.count)
            var requests: [UInt8] = []
            while results.count < addresses.count {
                let batch = addresses[results.count...].prefix(Self.window)
                requests.removeAll(keepingCapacity: true)
                var numbers: [UInt32] = []
                for address in batch {
                    numbers.append(try append(request(address), to: &requests, what))
                }
                answers.expect(numbers)
                let sent = nl_sendto(socket, &requests, requests.count)
                guard sent >= 0 else { throw Self.failure(what, sent) }
                while answers.missing > 0 {
                    let error = nl_recvmsgs(socket, callbacks)
                    guard error >= 0 else { throw Self.failure(what, error) }
                }
                results += answers.errors
            }
            return results
        }
    }

    /// Completes a message, appends it to others, and frees it.
    ///
    /// - Returns: its sequence number.
    private func append(
        _ message: OpaquePointer, to requests: inout [UInt8], _ what: String
    ) throws(Failure) -> UInt32 {
        defer { nlmsg_free(message) }
        nl_complete_msg(socket, message)
        guard let header = nlmsg_hdr(message) else { throw Self.failure(what, -NLE_NOMEM) }
        header.pointee.nlmsg_flags |= UInt16(NLM_F_ACK)
        requests += UnsafeRawBufferPointer(start: header, count: Int(header.pointee.nlmsg_len))
        // The next request begins on a boundary of NLMSG_ALIGNTO bytes.
        let padding = -requests.count & (Int(NLMSG_ALIGNTO) - 1)
        requests += repeatElement(0, count: padding)
        return header.pointee.nlmsg_seq
    }

    /// The request for an address of an interface.
    private func request(
        _ address: IPAddress, _ interface: CInt, _ what: String,
        build: (OpaquePointer, UnsafeMutablePointer<OpaquePointer?>) -> CInt
    ) throws(Failure) -> OpaquePointer {
        let family = address.family == .v4 ? AF_INET : AF_INET6
        let bytes = address.bytes
        guard let local = nl_addr_build(family, bytes, bytes.count) else { throw Self.failure(what, -NLE_NOMEM) }
        defer { nl_addr_put(local) }
        nl_addr_set_prefixlen(local, CInt(address.family.bits))
        guard let entry = rtnl_addr_alloc() else { throw Self.failure(what, -NLE_NOMEM) }
        defer { rtnl_addr_put(entry) }
        var error = rtnl_addr_set_local(entry, local)
        guard error == 0 else { throw Self.failure(what, error) }
        rtnl_addr_set_ifindex(entry, interface)
        rtnl_addr_set_scope(entry, CInt(RT_SCOPE_UNIVERSE.rawValue))
        if address.family == .v6 {
            // The address is deprecated from the start, so that the kernel does not choose it as a source address by
            // itself (RFC 6724, section 5, rule 3). For IPv4, the kernel prefers the first address of the network,
            // which is the host's.
            rtnl_addr_set_valid_lifetime(entry, UInt32.max)  // INFINITY_LIFE_TIME, net/addrconf.h
            rtnl_addr_set_preferred_lifetime(entry, 0)
        }
        // No other host has an IPv6 address of the pool, so duplicate address detection (RFC 4862) is not needed.
        rtnl_addr_set_flags(
            entry, UInt32(IFA_F_NOPREFIXROUTE) | (address.family == .v6 ? UInt32(IFA_F_NODAD) : 0))
        var message: OpaquePointer?
        error = build(entry, &message)
        guard error == 0, let message else { throw Self.failure(what, error) }
        return message
    }

    /// The request for a local route to an address, `ip route add local ADDRESS dev INTERFACE table local proto
    /// kernel`.
    private func request(
        routeTo address: IPAddress, _ interface: CInt, _ what: String,
        build: (OpaquePointer, UnsafeMutablePointer<OpaquePointer?>) -> CInt
    ) throws(Failure) -> OpaquePointer {
        let prefix = AddressPrefix(of: address, length: address.family.bits)
        let route = try localRoute(prefix, nil, on: interface, what)
        defer { rtnl_route_put(route) }
        var message: OpaquePointer?
        let error = build(route, &message)
        guard error == 0, let message else { throw Self.failure(what, error) }
        return message
    }

    // MARK: Errors

    private func callbacks(_ what: String) throws(Failure) -> OpaquePointer {
        guard let own = nl_socket_get_cb(socket) else { throw Self.failure(what, -NLE_NOMEM) }
        defer { nl_cb_put(own) }
        guard let copy = nl_cb_clone(own) else { throw Self.failure(what, -NLE_NOMEM) }
        return copy
    }

    private static func failure(placing address: IPAddress, _ interface: String, _ error: Errno) -> Failure {
        let what = "place \(address) on \(interface)"
        switch error {
        case .permissionDenied where address.family == .v6:
            // inet6_rtm_newaddr() returns EACCES if IPv6 is disabled; a missing capability is EPERM.
            return Failure(
                .failed, what, "IPv6 is disabled on the interface",
                hint: "sysctl net.ipv6.conf.\(interface).disable_ipv6=0, or leave IPv6 out of the pool")
        case _ where error.rawValue == ENODEV:
            return Failure(.failed, what, "interface \(interface) no longer exists", hint: "see ip link")
        case .invalidArgument, .addressNotAvailable:
            return Failure(
                .failed, what, "the kernel refuses the address",
                hint: "choose a unicast address of this host's network")
        case .noBufferSpace:
            return Failure(
                .failed, what, "the kernel has no room for another address", hint: "see the kernel's log: dmesg")
        default:
            return Failure(what, errno: error, needs: [.netAdmin])
        }
    }

    /// A failure of libnl, which has its own error numbers: netlink/errno.h.
    static func failure(_ what: String, _ error: CInt) -> Failure {
        switch -error {
        case NLE_PERM: return Failure(what, errno: .notPermitted, needs: [.netAdmin])
        case NLE_NOMEM: return Failure(.failed, what, "out of memory, or answers were lost", hint: "try again")
        default:
            let text = nl_geterror(error).map { String(cString: $0) } ?? "libnl error \(error)"
            return Failure(.failed, what, text.prefix(1).lowercased() + text.dropFirst())
        }
    }

    /// The answers to one window of requests.
    private final class Answers {
        private var places: [UInt32: Int] = [:]
        private(set) var errors: [CInt] = []
        private(set) var missing = 0

        func expect(_ numbers: [UInt32]) {
            places = Dictionary(uniqueKeysWithValues: zip(numbers, numbers.indices))
            errors = [CInt](repeating: 0, count: numbers.count)
            missing = numbers.count
        }

        func take(_ number: UInt32, _ error: CInt) {
            guard let place = places.removeValue(forKey: number) else { return }
            errors[place] = error
            missing -= 1
        }
    }

    /// Receives the default routes as they are listed, and keeps the one that the kernel would use.
    private final class DefaultRoutes {
        private(set) var best: (metric: UInt32, interface: CInt)?

        func see(_ route: OpaquePointer) {
            guard rtnl_route_get_table(route) == UInt32(RT_TABLE_MAIN.rawValue),
                rtnl_route_get_type(route) == UInt8(RTN_UNICAST), let target = rtnl_route_get_dst(route),
                nl_addr_get_prefixlen(target) == 0, let hop = rtnl_route_nexthop_n(route, 0)
            else { return }
            let isDead = rtnl_route_nh_get_flags(hop) & UInt32(RTNH_F_DEAD) != 0
            let metric = rtnl_route_get_priority(route)
            guard !isDead, best.map({ metric < $0.metric }) ?? true else { return }
            best = (metric, rtnl_route_nh_get_ifindex(hop))
        }
    }
}
