// SPDX-License-Identifier: Apache-2.0

import CVipABI
import CVipHooks
import Glibc
import Testing

/// The hooks, compiled for the host, over simulated maps: the order of their look-ups, and how they use the results.
@Suite struct HookTests {
    /// Session 7, which has 10.20.0.17, 2001:db8::17 and the prefix fdd2:9088:43af::; the host has 192.0.2.1.
    private final class World {
        var flags: UInt32 = 0
        /// The lists, bit 1 << `enum vip_list`, by the map in which the program is found.
        var lists: [vip_host_map: UInt32] = [:]
        private(set) var host: OpaquePointer?

        static let cgroup: UInt64 = 8121

        init(_ flags: [vip_policy_flag]) throws {
            self.flags = flags.reduce(0) { $0 | $1.rawValue }
            host = vip_host_make(Self.lookup, Unmanaged.passUnretained(self).toOpaque())
            _ = try #require(host)
            // The root, a slice that is no session, the session, a scope in it.
            #expect(vip_host_set_cgroups(host, [1, 20, Self.cgroup, 9000], 4) == 1)
            let name = Array("server".utf8)
            #expect(vip_host_set_program(host, 42, 0x800001, name, UInt32(name.count), name, UInt32(name.count)) == 1)
        }

        deinit { vip_host_free(host) }

        private static let lookup: vip_host_lookup = { context, map, key, row in
            guard let context, let key, let row else { return 0 }
            let world = Unmanaged<World>.fromOpaque(context).takeUnretainedValue()
            return world.row(of: map, key, row) ? 1 : 0
        }

        private func row(of map: vip_host_map, _ key: UnsafeRawPointer, _ row: UnsafeMutableRawPointer) -> Bool {
            func store<Row>(_ value: Row) -> Bool {
                row.storeBytes(of: value, as: Row.self)
                return true
            }
            switch map {
            case VIP_HOST_MAP_CONFIG:
                var config = vip_config()
                config.level_count = 2
                (config.levels.0, config.levels.1) = (VIP_LEVEL_NONE, 2)
                config.host4_count = 1
                config.host4.0 = address("192.0.2.1").word.3
                let prefix = address("fdd2:9088:43af::").word
                config.loopback6 = (prefix.0, prefix.1, prefix.2)
                return store(config)
            case VIP_HOST_MAP_SESSIONS:
                guard key.load(as: UInt64.self) == Self.cgroup else { return false }
                var session = vip_session()
                session.id = 7
                session.vip4 = address("10.20.0.17").word.3
                session.vip6 = address("2001:db8::17")
                return store(session)
            case VIP_HOST_MAP_IDS:
                let id = key.load(as: UInt32.self)
                return (id == 7 || id == 8) && store(id == 7 ? Self.cgroup : Self.cgroup + 1)
            case VIP_HOST_MAP_ADDRESSES:
                let text = text(key.load(as: vip_address.self))
                let owners: [String: (vip_owner, UInt32)] = [
                    "192.0.2.1": (VIP_OWNER_HOST, 0), "10.20.0.18": (VIP_OWNER_SESSION, 8),
                    "2001:db8::17": (VIP_OWNER_SESSION, 7),
                ]
                guard let owner = owners[text] else { return false }
                return store(vip_address_owner(owner: owner.0.rawValue, id: owner.1))
            case VIP_HOST_MAP_GOVERNED:
                return store(VIP_OWNER_SESSION.rawValue)
            case VIP_HOST_MAP_POLICIES:
                var policy = vip_policy()
                policy.listener_limit = 1
                policy.flags = flags
                withUnsafeMutableBytes(of: &policy.excluded_ports.0) { $0[631 / 8] = 1 << (631 % 8) }
                return store(policy)
            default:
                guard let lists = lists[map] else { return false }
                var listing = vip_listing()
                listing.lists.0 = (lists & 1, lists >> 1 & 1, lists >> 2 & 1)
                return store(listing)
            }
        }

        func socket(_ asked: String, isStream: Bool = false) -> vip_host_socket {
            var socket = vip_host_socket()
            socket.is_inet6 = asked.contains(":") ? 1 : 0
            socket.is_stream = isStream ? 1 : 0
            socket.local = address(asked.contains(":") ? "::" : "0.0.0.0")
            socket.remote = socket.local
            return socket
        }

        var questions: [String] {
            (0..<vip_host_question_count(host)).map { text(vip_host_question(host, $0).to) }
        }
    }

    private static let ip = [VIP_POLICY_VIRTUAL_IP, VIP_POLICY_VIRTUAL_IP_ALL]
    private static let loopback = [VIP_POLICY_LOOPBACK, VIP_POLICY_LOOPBACK_ALL]
    private static let excluded = [VIP_POLICY_EXCLUDED_PORTS]
    private static let lo6 = "fdd2:9088:43af::8"

    /// Which look-ups connect makes, in which order, if there is no listener; and the resulting address and source.
    @Test(
        arguments: [
            (
                ip + loopback, false, "127.0.0.1", 9000, ["127.0.0.8", "127.0.0.1", "10.20.0.17"], "127.0.0.8",
                "127.0.0.8"
            ),
            (ip + loopback, true, "127.0.0.1", 9000, ["127.0.0.8", "10.20.0.17"], "127.0.0.8", "127.0.0.8"),
            (ip, false, "127.0.0.1", 9000, ["127.0.0.1", "10.20.0.17"], "127.0.0.1", "0.0.0.0"),
            (ip, true, "0.0.0.0", 9000, ["10.20.0.17"], "0.0.0.0", "0.0.0.0"),
            // A program on no list, in a session that has servers.
            (
                [VIP_POLICY_VIRTUAL_IP], false, "127.0.0.1", 9000,
                ["127.0.0.1", "127.0.0.8", "127.0.0.1", "10.20.0.17"], "127.0.0.1", "0.0.0.0"
            ),
            (ip + loopback, false, "192.0.2.1", 9000, ["10.20.0.17"], "192.0.2.1", "10.20.0.17"),
            (ip + loopback, false, "203.0.113.1", 9000, [], "203.0.113.1", "10.20.0.17"),
            (loopback, false, "203.0.113.1", 9000, [], "203.0.113.1", "0.0.0.0"),
            (ip + loopback + excluded, false, "127.0.0.1", 631, [], "127.0.0.1", "0.0.0.0"),
            (
                ip + loopback, false, "::1", 9000, [lo6, "::1", "2001:db8::17", "127.0.0.8", "10.20.0.17"], lo6, lo6
            ),
            (ip + loopback, true, "::1", 9000, [lo6, "2001:db8::17", "127.0.0.8", "10.20.0.17"], lo6, lo6),
            (ip + loopback, false, "2001:db8:113::1", 9000, [], "2001:db8:113::1", "2001:db8::17"),
        ] as [([vip_policy_flag], Bool, String, UInt16, [String], String, String)])
    func whereConnectLooks(
        policy: [vip_policy_flag], isStream: Bool, asked: String, port: UInt16, questions: [String], to: String,
        from: String
    ) throws {
        let world = try World(policy)
        var socket = world.socket(asked, isStream: isStream)
        let hook = asked.contains(":") ? VIP_HOOK_CONNECT6 : VIP_HOOK_CONNECT4
        let answer = vip_host_call(world.host, &socket, hook, address(asked), port, nil)
        #expect(answer.error == 0 && world.questions == questions)
        #expect(text(answer.address) == to)
        #expect(text(socket.local) == (asked.contains(":") && from == "0.0.0.0" ? "::" : from))
    }

    /// What each look-up must find so that connect goes there: only this kind of socket, and the later ones.
    @Test(
        arguments: [
            ("127.0.0.1", 0, [VIP_HOST_ON_WILDCARD, VIP_HOST_ON_ADDRESS], "127.0.0.8"),
            ("127.0.0.1", 1, [VIP_HOST_CONNECTED], "127.0.0.1"),
            ("127.0.0.1", 2, [VIP_HOST_ON_ADDRESS, VIP_HOST_CONNECTED], "10.20.0.17"),
            ("::1", 2, [VIP_HOST_ON_ADDRESS], "2001:db8::17"),
            ("::1", 3, [VIP_HOST_DUAL_STACK], "127.0.0.8"), ("::1", 4, [VIP_HOST_DUAL_STACK], "10.20.0.17"),
        ] as [(String, UInt32, [vip_host_listener], String)])
    func whatCountsAsAListener(asked: String, number: UInt32, listeners: [vip_host_listener], to: String) throws {
        let world = try World(Self.ip + Self.loopback)
        let hook = asked.contains(":") ? VIP_HOOK_CONNECT6 : VIP_HOOK_CONNECT4
        for listener in [VIP_HOST_ON_WILDCARD, VIP_HOST_ON_ADDRESS, VIP_HOST_CONNECTED, VIP_HOST_DUAL_STACK] {
            vip_host_set_listener(world.host, number, listener)
            var socket = world.socket(asked)
            let answer = vip_host_call(world.host, &socket, hook, address(asked), 9000, nil)
            guard listeners.contains(listener) else { continue }
            #expect(world.questions.count == number + 1 && text(answer.address) == to, "\(listener)")
            #expect(answer.is_counted == 1 && answer.outcome == VIP_REWRITTEN)
        }
        vip_host_set_listener(world.host, number, VIP_HOST_ON_WILDCARD)
        var socket = world.socket(asked)
        _ = vip_host_call(world.host, &socket, hook, address(asked), 9000, nil)
        #expect((world.questions.count == number + 1 && number == 0) == listeners.contains(VIP_HOST_ON_WILDCARD))
    }

    /// A server that asks for ::, from bind through getsockname and listen to its clients.
    @Test func dualStackServer() throws {
        let world = try World(Self.ip + Self.loopback + [VIP_POLICY_ISOLATION])
        var server = world.socket("::", isStream: true)
        let bound = vip_host_call(world.host, &server, VIP_HOOK_BIND6, address("::"), 9000, nil)
        #expect(vip_is_mapped(bound.address) != 0 && text(bound.address) == "10.20.0.17")
        // The hook looks for other servers of the session.
        #expect(world.questions == [Self.lo6, "2001:db8::17"])
        server.local = bound.address
        server.local_port = 9000
        let name = vip_host_call(world.host, &server, VIP_HOOK_GETSOCKNAME6, bound.address, 9000, nil)
        #expect(vip_equal(name.address, bound.address) != 0)
        vip_host_listen(world.host, &server)
        for (to, port, isTCP, leads) in [
            (Self.lo6, 9000, true, true), ("2001:db8::17", 9000, true, true), (Self.lo6, 9001, true, false),
            (Self.lo6, 9000, false, false), ("2001:db8::18", 9000, true, false),
        ] as [(String, UInt16, Bool, Bool)] {
            #expect((vip_host_packet(world.host, address(to), port, isTCP ? 1 : 0, 1) == 2) == leads, "\(to) \(port)")
        }
        // Packets from outside for the loopbacks are dropped: SK_DROP.
        #expect(vip_host_packet(world.host, address(Self.lo6), 9000, 1, 2) == 0)
        // Another server of the session already exists.
        vip_host_set_listener(world.host, 0, VIP_HOST_ON_ADDRESS)
        var second = world.socket("::", isStream: true)
        #expect(vip_host_call(world.host, &second, VIP_HOOK_BIND6, address("::"), 9000, nil).error == EADDRINUSE)
    }

    /// Both ends of a connection are on the virtual IP. What the end that connected has asked for is asked of it, once.
    @Test(
        arguments: [
            ("10.20.0.17", VIP_HOST_FAR_END, true, "127.0.0.1", 1),
            ("10.20.0.17", VIP_HOST_NOTHING, true, "10.20.0.17", 1),
            // Another socket of that port.
            ("10.20.0.17", VIP_HOST_ON_ADDRESS, true, "10.20.0.17", 1),
            // A datagram socket has no such end.
            ("10.20.0.17", VIP_HOST_FAR_END, false, "10.20.0.17", 0),
            ("2001:db8::17", VIP_HOST_FAR_END, true, "::1", 1),
            ("2001:db8::17", VIP_HOST_NOTHING, true, "2001:db8::17", 1),
            ("198.51.100.1", VIP_HOST_FAR_END, true, "198.51.100.1", 0),
        ] as [(String, vip_host_listener, Bool, String, UInt32)])
    func theOtherEndIsAsked(
        both: String, found: vip_host_listener, isStream: Bool, shown: String, questions: UInt32
    ) throws {
        let world = try World(Self.ip + Self.loopback)
        vip_host_set_listener(world.host, 0, found)
        var server = world.socket(both, isStream: isStream)
        (server.local, server.remote, server.local_port, server.remote_port) = (address(both), address(both), 80, 4000)
        let hooks =
            both.contains(":")
            ? [VIP_HOOK_GETPEERNAME6, VIP_HOOK_GETSOCKNAME6] : [VIP_HOOK_GETPEERNAME4, VIP_HOOK_GETSOCKNAME4]
        for hook in hooks {
            let answer = vip_host_call(world.host, &server, hook, address(both), 4000, nil)
            #expect(text(answer.address) == shown && world.questions.count == questions)
            #expect(world.questions.allSatisfy { $0 == both })
        }
        // The end that connected knows itself.
        server.has_row = 1
        server.row.flags = VIP_SOCKET_LOCAL_PEER.rawValue
        let answer = vip_host_call(world.host, &server, hooks[0], address(both), 4000, nil)
        #expect(world.questions.isEmpty && (both == "198.51.100.1") == (text(answer.address) == both))
    }

    @Test(
        arguments: [
            (VIP_HOOK_BIND4, "10.20.0.18", EADDRNOTAVAIL, VIP_REFUSED_ISOLATION),
            (VIP_HOOK_BIND4, "10.20.0.99", EADDRNOTAVAIL, VIP_REFUSED_ISOLATION),  // governed
            (VIP_HOOK_BIND4, "127.0.0.9", EADDRNOTAVAIL, VIP_REFUSED_ISOLATION),
            (VIP_HOOK_BIND4, "127.0.0.99", EADDRNOTAVAIL, VIP_REFUSED_ISOLATION),  // governed
            (VIP_HOOK_BIND4, "127.0.0.6", EADDRNOTAVAIL, VIP_REFUSED_ISOLATION),
            (VIP_HOOK_CONNECT4, "127.0.0.6", ECONNREFUSED, VIP_REFUSED_PEER),
            (VIP_HOOK_SENDMSG4, "127.0.0.6", ECONNREFUSED, VIP_REFUSED_PEER),
            (VIP_HOOK_CONNECT4, "127.0.0.9", ECONNREFUSED, VIP_REFUSED_PEER),
            (VIP_HOOK_SENDMSG4, "127.0.0.9", ECONNREFUSED, VIP_REFUSED_PEER),
        ] as [(vip_hook, String, CInt, vip_outcome)])
    func refuses(hook: vip_hook, asked: String, error: CInt, outcome: vip_outcome) throws {
        // To a V-program, another session's virtual IP is one of the host's.
        let world = try World([VIP_POLICY_ISOLATION])
        var socket = world.socket(asked)
        let answer = vip_host_call(world.host, &socket, hook, address(asked), 9000, nil)
        #expect(answer.error == error && answer.outcome == outcome && text(answer.address) == asked)
    }

    /// What a program of no session is refused below the guarded cgroup. A datagram goes to the address, or is sent
    /// from it to an address elsewhere.
    @Test(
        arguments: [
            ("0.0.0.0", nil, nil, nil), ("127.0.0.1", nil, nil, nil), ("192.0.2.1", nil, nil, nil),
            ("10.20.0.18", EADDRNOTAVAIL, nil, EADDRNOTAVAIL), ("10.20.0.99", EADDRNOTAVAIL, nil, EADDRNOTAVAIL),
            ("127.0.0.9", EADDRNOTAVAIL, ECONNREFUSED, EADDRNOTAVAIL),
            ("127.0.0.6", EADDRNOTAVAIL, ECONNREFUSED, EADDRNOTAVAIL),
            // No session has it yet, so nobody listens there.
            ("127.0.0.99", EADDRNOTAVAIL, nil, EADDRNOTAVAIL),
            ("::", nil, nil, nil), ("::1", nil, nil, nil),
            ("2001:db8::17", EADDRNOTAVAIL, nil, EADDRNOTAVAIL), ("2001:db8::99", EADDRNOTAVAIL, nil, EADDRNOTAVAIL),
            ("fdd2:9088:43af::63", EADDRNOTAVAIL, ECONNREFUSED, EADDRNOTAVAIL),
            ("::ffff:127.0.0.9", EADDRNOTAVAIL, ECONNREFUSED, nil), ("::ffff:127.0.0.1", nil, nil, nil),
            ("::ffff:10.20.0.18", EADDRNOTAVAIL, nil, nil),
        ] as [(String, CInt?, CInt?, CInt?)])
    func guards(address named: String, bind: CInt?, connect: CInt?, from: CInt?) throws {
        let isIPv6 = named.contains(":")
        let isMapped = named.hasPrefix("::ffff:")
        /// The error of each call, in the order of the arguments. The kernel asks no IPv6 hook about a mapped source.
        func errors(_ world: World) -> [CInt?] {
            let hooks =
                isIPv6
                ? [VIP_HOOK_GUARD_BIND6, VIP_HOOK_GUARD_CONNECT6, VIP_HOOK_GUARD_SENDMSG6]
                : [VIP_HOOK_GUARD_BIND4, VIP_HOOK_GUARD_CONNECT4, VIP_HOOK_GUARD_SENDMSG4]
            return hooks.enumerated().map { number, hook in
                if number == 2, isMapped { return nil }
                var socket = world.socket(named)
                var source = address(named)
                let asked = number == 2 ? address(isIPv6 ? "2001:db8:113::1" : "203.0.113.1") : source
                let answer = withUnsafePointer(to: &source) {
                    vip_host_call(world.host, &socket, hook, asked, 9000, number == 2 ? $0 : nil)
                }
                #expect(vip_equal(answer.address, asked) != 0, "a guard changes no address")
                return answer.error == 0 ? nil : answer.error
            }
        }
        let world = try World([VIP_POLICY_ISOLATION])
        #expect(vip_host_set_cgroups(world.host, [1, 20, 30], 3) == 1)
        #expect(errors(world) == [nil, nil, nil], "root is left alone")
        vip_host_set_user(world.host, 1000)
        #expect(errors(world) == [bind, connect, from])
        #expect(vip_host_set_cgroups(world.host, [1, 20, World.cgroup], 3) == 1)
        #expect(errors(world) == [nil, nil, nil], "a session is the other hooks' matter")
        let open = try World([])
        #expect(vip_host_set_cgroups(open.host, [1, 20, 30], 3) == 1)
        vip_host_set_user(open.host, 1000)
        #expect(errors(open) == [nil, nil, nil], "isolation is off")
    }

    @Test(
        "takes IP_MULTICAST_IF for the source of what goes to a group, and of nothing else",
        arguments: [
            ("239.1.2.3", "10.20.0.18", true), ("224.0.0.1", "10.20.0.99", true), ("239.1.2.3", "192.0.2.1", false),
            ("239.1.2.3", "10.20.0.17", false), ("255.255.255.255", "10.20.0.18", false),
            ("203.0.113.1", "10.20.0.18", false),
        ])
    func groupSource(to: String, source: String, isRefused: Bool) throws {
        let world = try World([VIP_POLICY_ISOLATION])
        func expect(_ hooks: [vip_hook]) {
            for hook in hooks {
                var socket = world.socket(to)
                socket.group_source = address(source).word.3
                let answer = vip_host_call(world.host, &socket, hook, address(to), 9000, nil)
                #expect(answer.error == (isRefused ? EADDRNOTAVAIL : 0), "\(hook)")
                if to == "255.255.255.255", hook == VIP_HOOK_SENDMSG4 {
                    #expect(text(answer.source) == "0.0.0.0", "the kernel does not look at it")
                }
            }
        }
        expect([VIP_HOOK_SENDMSG4, VIP_HOOK_CONNECT4])
        // Outside every session, below the guarded cgroup. 10.20.0.17 is a session's own there, and nobody has it in
        // this world's `addresses`: it is governed.
        guard source != "10.20.0.17" else { return }
        #expect(vip_host_set_cgroups(world.host, [1, 20, 30], 3) == 1)
        vip_host_set_user(world.host, 1000)
        expect([VIP_HOOK_GUARD_SENDMSG4, VIP_HOOK_GUARD_CONNECT4])
    }

    /// The source cannot be bound: under deny, the connect fails, and never leaves from the host's address.
    @Test func sourceThatIsGone() throws {
        for (flags, error, outcome) in [
            ([], EADDRNOTAVAIL, VIP_REFUSED_UNAVAILABLE), ([VIP_POLICY_USE_HOST_ADDRESS], 0, VIP_UNADDRESSED),
        ] as [([vip_policy_flag], CInt, vip_outcome)] {
            let world = try World(Self.ip + flags)
            vip_host_set_bind_error(world.host, EADDRNOTAVAIL)
            var socket = world.socket("203.0.113.1")
            let answer = vip_host_call(world.host, &socket, VIP_HOOK_CONNECT4, address("203.0.113.1"), 9000, nil)
            #expect(answer.error == error && answer.outcome == outcome)
        }
    }

    /// A program is found in three ways, and each can be tested alone.
    @Test func programLists() throws {
        let world = try World([VIP_POLICY_VIRTUAL_IP, VIP_POLICY_LOOPBACK, VIP_POLICY_LISTS])
        #expect(vip_host_features(world.host) == 0)
        world.lists = [VIP_HOST_MAP_PROGRAM_NAMES: VIP_V.rawValue, VIP_HOST_MAP_PROGRAM_FILES: VIP_L.rawValue]
        #expect(vip_host_features(world.host) == VIP_V.rawValue | VIP_L.rawValue)
        vip_host_show_map(world.host, VIP_HOST_MAP_PROGRAM_FILES, 0)
        #expect(vip_host_program_lists(world.host) == VIP_V.rawValue)
    }

    @Test func whichSessionCalls() throws {
        let world = try World(Self.ip)
        var session = vip_host_session()
        #expect(vip_host_find_session(world.host, &session) == 1)
        #expect(session.cgroup == World.cgroup && session.row.id == 7 && text(session.own6.loopback) == Self.lo6)
        // At a smaller depth than the sessions', and at the same depth in another cgroup.
        for cgroups: [UInt64] in [[1, 20], [1, 20, 30, 40], []] {
            #expect(vip_host_set_cgroups(world.host, cgroups, UInt32(cgroups.count)) == 1)
            #expect(vip_host_find_session(world.host, &session) == 0)
            var socket = world.socket("0.0.0.0")
            let answer = vip_host_call(world.host, &socket, VIP_HOOK_BIND4, address("0.0.0.0"), 9000, nil)
            #expect(answer.is_counted == 0 && text(answer.address) == "0.0.0.0")
        }
    }
}
