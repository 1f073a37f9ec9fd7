// SPDX-License-Identifier: Apache-2.0

import BPFLoader
internal import CLibBPF
public import CVipABI
internal import CVipObject
import Glibc
public import Host
import SystemPackage

/// Programs that add up what the programs of some cgroups bind and connect to, and change nothing: bpf/discover.bpf.c.
///
/// Neither programs nor links nor maps are pinned: the kernel takes all of it away when this value or its process ends,
/// by SIGKILL as well.
public struct CallObserver: ~Copyable {
    /// When the observing programs run among others of the same cgroup and of those above and below.
    public enum Order: Sendable, Hashable {
        /// Before all others (BPF_F_PREORDER): they see what the program has asked for.
        case first
        /// In the order of attaching: what was attached earlier has rewritten the address already.
        case asAttached
    }

    private static let hooks: [(program: String, type: bpf_attach_type)] = [
        ("vip_see_bind4", BPF_CGROUP_INET4_BIND), ("vip_see_bind6", BPF_CGROUP_INET6_BIND),
        ("vip_see_connect4", BPF_CGROUP_INET4_CONNECT), ("vip_see_connect6", BPF_CGROUP_INET6_CONNECT),
        ("vip_see_sendmsg4", BPF_CGROUP_UDP4_SENDMSG), ("vip_see_sendmsg6", BPF_CGROUP_UDP6_SENDMSG),
    ]

    private let object: OpaquePointer
    private var links: [CInt] = []
    private let events: Events
    private let ring: OpaquePointer

    /// Has the kernel verify the programs and make the maps; attaches nothing yet.
    ///
    /// - Throws: ``Failure``: unavailable where the verifier refuses them, and not permitted.
    public init() throws(Failure) {
        let what = "load the observing programs"
        var size = 0
        let bytes = vip_discover_object_bytes(&size)
        var error: CInt = 0
        let (opened, openLog) = LibBPFLog.capturing { vip_object_open(bytes, size, "discover", &error) }
        guard let opened else {
            throw Failure(what, errno: Errno(rawValue: -error), needs: Capability.bpfPrograms, detail: openLog)
        }
        let (failed, log) = LibBPFLog.capturing { bpf_object__load(opened) }
        guard failed == 0 else {
            bpf_object__close(opened)
            if -failed == EPERM {
                throw Failure(
                    what, errno: .notPermitted, needs: Capability.bpfPrograms, hint: "run vip-bpfctl check", detail: log
                )
            }
            throw Failure(
                .unavailable, what, tellingLine(ofVerifierLog: log) ?? Errno(rawValue: -failed).text,
                hint: "run vip-bpfctl check", detail: log)
        }
        let events = Events()
        let map = bpf_map__fd(bpf_object__find_map_by_name(opened, "seen_events"))
        let made = ring_buffer__new(
            map,
            { context, data, size in
                guard let context, let data, size >= MemoryLayout<vip_seen_event>.size else { return 0 }
                let events = Unmanaged<Events>.fromOpaque(context).takeUnretainedValue()
                events.rows.append(data.loadUnaligned(as: vip_seen_event.self))
                // Less than 0 ends the round; what is left makes the descriptor readable at once.
                return events.rows.count < Events.limit ? 0 : -1
            }, Unmanaged.passUnretained(events).toOpaque(), nil)
        guard let made else {
            let error = Errno.current
            bpf_object__close(opened)
            throw Failure("open the ring of observed processes", errno: error, needs: Capability.bpfPrograms)
        }
        object = opened
        ring = made
        self.events = events
    }

    deinit {
        for link in links { close(link) }
        ring_buffer__free(ring)
        bpf_object__close(object)
    }

    /// Observes a cgroup and all below it from now on, for as long as this value lives.
    ///
    /// - Returns: when the programs run: ``Order/first`` where the kernel can (seen: 6.18 can, 6.1 cannot).
    @discardableResult
    public mutating func attach(to cgroup: Cgroup) throws(Failure) -> Order {
        let what = "observe cgroup \(cgroup.path)"
        let rawTarget = cgroup.path.withPlatformString { open($0, O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
        guard rawTarget >= 0 else { throw Failure(what, errno: .current, needs: Capability.bpfPrograms) }
        let target = Descriptor(owning: rawTarget)
        var order = Order.first
        for hook in Self.hooks {
            let program = bpf_program__fd(bpf_object__find_program_by_name(object, hook.program))
            var link = CInt(-1)
            if order == .first {
                link = vip_link_create(program, target.raw, hook.type, UInt32(VIP_LINK_PREORDER))
                if link == -EINVAL { order = .asAttached }
            }
            if order == .asAttached { link = vip_link_create(program, target.raw, hook.type, 0) }
            guard link >= 0 else {
                throw Failure(
                    what, errno: Errno(rawValue: -link), needs: Capability.bpfPrograms,
                    hint: "see whether a program without BPF_F_ALLOW_MULTI is there: bpftool cgroup tree")
            }
            links.append(link)
        }
        return order
    }

    // MARK: What was seen

    /// Becomes readable when a process was seen for the first time: for poll(2).
    public var eventDescriptor: CInt { ring_buffer__epoll_fd(ring) }

    /// Processes that were seen for the first time since the last call; does not wait.
    public func newProcesses() -> [vip_seen_event] {
        _ = ring_buffer__consume(ring)
        defer { events.rows.removeAll(keepingCapacity: true) }
        return events.rows
    }

    /// Tells which addresses this host has: what goes elsewhere is not kept. Besides 127/8, ::1 and the wildcards.
    public func setLocal(_ addresses: [vip_address]) throws(Failure) {
        let map: BPFMap<vip_address, UInt32> = try map("local_addresses")
        try map.set(addresses.map { (key: $0, value: 1) })
    }

    public func programs() throws(Failure) -> [(key: vip_seen_program, value: vip_seen_name)] {
        try map("seen_programs").rows()
    }

    public func processes() throws(Failure) -> [(key: vip_seen_process, value: vip_seen_owner)] {
        try map("seen_processes").rows()
    }

    public func endpoints() throws(Failure) -> [(key: vip_seen_endpoint, value: vip_seen_calls)] {
        try map("seen_endpoints").rows()
    }

    /// What found no room.
    public func lost() throws(Failure) -> vip_seen_lost {
        let map: BPFMap<UInt32, vip_seen_lost> = try map("seen_lost")
        return try map.valuesPerCPU(of: 0).reduce(into: vip_seen_lost()) { sum, row in
            sum.programs += row.programs
            sum.processes += row.processes
            sum.endpoints += row.endpoints
            sum.events += row.events
        }
    }

    private func map<Key, Value>(_ name: String) throws(Failure) -> BPFMap<Key, Value> {
        try BPFMap(name: name, duplicating: bpf_map__fd(bpf_object__find_map_by_name(object, name)))
    }

    /// What the ring's callback fills: of one thread, the caller of ``newProcesses()``.
    private final class Events {
        var rows: [vip_seen_event] = []
        /// Of one round, while processes come faster than they are taken: a full ring holds no more.
        static let limit = 8192
    }
}
