// SPDX-License-Identifier: Apache-2.0

public import BPFLoader
public import CVipABI
internal import CVipObject
public import Host
import SystemPackage

/// Observes what the programs of some cgroups bind and connect to, by BPF programs that change nothing:
/// bpf/discover.bpf.c.
///
/// Its programs, links and maps are not pinned. The kernel removes them when this value or its process ends, also by
/// SIGKILL.
public struct CallObserver: ~Copyable {
    /// When the observing programs run. Before all others, they see the address that the program passed. Otherwise,
    /// programs that were attached earlier have already rewritten it.
    public typealias Order = BPFLink.Order

    private static let hooks: [(program: String, type: AttachType)] = [
        ("vip_see_bind4", .bind4), ("vip_see_bind6", .bind6), ("vip_see_connect4", .connect4),
        ("vip_see_connect6", .connect6), ("vip_see_sendmsg4", .sendmsg4), ("vip_see_sendmsg6", .sendmsg6),
    ]

    private let object: BPFObject
    private let events: RingBuffer
    private var links: [Held] = []

    /// An array cannot hold noncopyable values.
    private final class Held {
        let link: BPFLink

        init(_ link: consuming BPFLink) { self.link = link }
    }

    /// How many events are taken at a time, while more arrive: a full ring holds no more.
    private static let eventLimit = 8192

    /// Loads the programs and creates the maps. It attaches nothing yet.
    ///
    /// - Throws: ``Failure``: unavailable if the verifier refuses the programs, and not permitted.
    public init() throws(Failure) {
        var size = 0
        let bytes = vip_discover_object_bytes(&size)
        let object = try BPFObject(
            UnsafeRawBufferPointer(start: bytes, count: size), name: "discover", subject: "the observing programs")
        try object.load()
        events = try object.ringBuffer("seen_events")
        self.object = object
    }

    /// Observes a cgroup and all below it from now on, as long as this value exists.
    ///
    /// - Returns: when the programs run: first, if the kernel supports that (seen: 6.18 does, 6.1 does not).
    @discardableResult
    public mutating func attach(to cgroup: Cgroup) throws(Failure) -> Order {
        let what = "observe cgroup \(cgroup.path)"
        var order = Order.first
        for hook in Self.hooks {
            let program = try object.program(hook.program)
            if order == .first {
                do throws(Failure) {
                    try attach(program, to: cgroup, hook.type, order, what)
                    continue
                } catch {
                    guard error.errno == .invalidArgument else { throw error }
                    order = .asAttached
                }
            }
            try attach(program, to: cgroup, hook.type, order, what)
        }
        return order
    }

    private mutating func attach(
        _ program: borrowing BPFProgram, to cgroup: Cgroup, _ type: AttachType, _ order: Order, _ what: String
    ) throws(Failure) {
        let link = try BPFLink(
            attaching: program, to: .cgroup(cgroup.path), type, order: order, what,
            hint: "see whether a program without BPF_F_ALLOW_MULTI is there: bpftool cgroup tree")
        links.append(Held(link))
    }

    // MARK: Results

    /// A descriptor for poll(2), readable when a process was seen for the first time.
    public var eventDescriptor: CInt { events.pollDescriptor }

    /// The processes that were seen for the first time since the last call. Does not wait.
    public func newProcesses() -> [vip_seen_event] { events.take(atMost: Self.eventLimit) }

    /// Sets which addresses this host has, besides 127/8, ::1 and the wildcards. Connections to others are not kept.
    public func setLocal(_ addresses: [vip_address]) throws(Failure) {
        let map: BPFMap<vip_address, UInt32> = try object.map("local_addresses")
        try map.set(addresses.map { (key: $0, value: 1) })
    }

    public func programs() throws(Failure) -> [(key: vip_seen_program, value: vip_seen_name)] {
        try object.map("seen_programs").rows()
    }

    public func processes() throws(Failure) -> [(key: vip_seen_process, value: vip_seen_owner)] {
        try object.map("seen_processes").rows()
    }

    public func endpoints() throws(Failure) -> [(key: vip_seen_endpoint, value: vip_seen_calls)] {
        try object.map("seen_endpoints").rows()
    }

    /// The number of events and entries for which there was no room.
    public func lost() throws(Failure) -> vip_seen_lost {
        let map: BPFMap<UInt32, vip_seen_lost> = try object.map("seen_lost")
        return try map.valuesPerCPU(of: 0).reduce(into: vip_seen_lost()) { sum, row in
            sum.programs += row.programs
            sum.processes += row.processes
            sum.endpoints += row.endpoints
            sum.events += row.events
        }
    }
}
