// SPDX-License-Identifier: Apache-2.0

import BPFLoader
public import CVipABI
import Glibc
public import Host
import Synchronization
import SystemPackage

/// Which events a listener gets. The hooks do not write others.
public struct EventFilter: Sendable, Hashable {
    public var outcomes: Set<CallOutcome>
    /// The session whose events it gets; `nil` for all sessions.
    public var session: UInt32?

    public init(outcomes: Set<CallOutcome> = Set(CallOutcome.allCases), session: UInt32? = nil) {
        self.outcomes = outcomes
        self.session = session
    }
}

/// The events since the last call.
public struct EventBatch: Sendable {
    /// The events, in the order in which they were written.
    public var events: [vip_event] = []
    /// The number of events that were lost because the ring buffer was full.
    public var lost: UInt64 = 0
    /// The times in which no events were written, because this process was stopped for longer than its lease:
    /// CLOCK_BOOTTIME, ns.
    public var gaps: [Range<UInt64>] = []
}

/// Receives events about the calls of sessions' programs, as long as it exists.
///
///     let listener = try EventListener(instance.pins, EventFilter(outcomes: [.rewritten]))
///     while true { for event in try listener.poll(timeout: .seconds(1)).events { … } }
///
/// It takes one of ``limit`` slots of the map `watchers`, by compare-and-swap of the slot's `until`, and has its own
/// ring buffer. A thread renews `until` every second. A listener that reads slowly loses events and gets their number.
/// A killed listener costs nothing after ``lease``. Two listeners never have the same slot.
public final class EventListener: Sendable {
    /// How many listeners can exist at the same time.
    public static let limit = Int(VIP_WATCHERS_MAX)
    /// How long the hooks go on writing events after a listener last renewed its slot.
    public static let lease: Duration = .seconds(5)
    /// Room for 23,000 events, which is a quarter of a second at 100,000 a second. It is kernel memory.
    public static let defaultRingSize: UInt32 = 4 << 20

    private let slot: WatcherSlot
    private let wake: WakeUp

    /// - Parameter ringSize: in bytes: a power of two, at least a page. An event takes 176 bytes.
    public init(
        _ pins: PinDirectory, _ filter: EventFilter, ringSize: UInt32 = EventListener.defaultRingSize
    ) throws(Failure) {
        try pins.requireLoaded()
        guard try !pins.attachments().isEmpty else {
            throw Failure(
                .failed, "listen for events", "no cgroup is attached",
                hint: "attach one first: vip-bpfctl attach cgroup PATH")
        }
        wake = try WakeUp()
        slot = try WatcherSlot(pins, filter, ringSize: ringSize)
        try slot.startRenewing()
    }

    deinit {
        slot.end()
    }

    /// Stops listening now. A process that ends must call this, because its threads may still hold references.
    public func end() { slot.end() }

    /// Waits until there is an event, ``interrupt()`` is called or the time is over, and takes the events.
    ///
    /// It blocks, so call it on a thread of its own and not in a task, on one thread at a time.
    ///
    /// - Parameter limit: at most this many events; the next call takes the others.
    /// - Throws: ``Failure`` if the hooks were detached, so that there will be no more events.
    public func poll(atMost limit: Int = 512, timeout: Duration) throws(Failure) -> EventBatch {
        var batch = EventBatch(events: slot.ring.take(atMost: limit))
        if batch.events.isEmpty {
            slot.ring.wait(orFor: wake.descriptor, timeout: timeout)
            batch.events = slot.ring.take(atMost: limit)
        }
        try slot.report(into: &batch)
        return batch
    }

    /// A listener in the map `watchers`.
    public struct Listener: Sendable, Hashable {
        public let slot: Int
        public let pid: UInt32
        public let filter: EventFilter
        /// The number of events since it began to listen, including those that were lost for lack of room.
        public let written: UInt64
        public let dropped: UInt64
    }

    /// The current listeners. A killed one is among them until its lease is over.
    public static func listeners(_ pins: PinDirectory) throws(Failure) -> [Listener] {
        let map: BPFMap<UInt32, vip_watchers> = try pins.map("watchers")
        guard let row = try map.value(of: 0) else { return [] }
        let now = BootTime.now()
        return withUnsafeBytes(of: row) { bytes in
            (0..<limit).compactMap { slot in
                guard bytes.load(fromByteOffset: WatcherSlot.until(slot), as: UInt64.self) >= now else { return nil }
                let watcher = bytes.load(fromByteOffset: WatcherSlot.watcher(slot), as: vip_watcher.self)
                let outcomes = CallOutcome.allCases.filter { watcher.outcomes >> UInt32($0.rawValue) & 1 == 1 }
                return Listener(
                    slot: slot, pid: watcher.pid,
                    filter: EventFilter(
                        outcomes: Set(outcomes), session: watcher.session == 0 ? nil : watcher.session),
                    written: watcher.written, dropped: watcher.dropped)
            }
        }
    }

    /// Ends the wait of ``poll(atMost:timeout:)``, now and in all later calls.
    public func interrupt() { wake() }
}

/// The slot of one listener in the maps `watchers` and `watcher_rings`.
private final class WatcherSlot: Sendable {
    let ring: RingBuffer
    private let pins: PinDirectory
    private let filter: EventFilter
    private let row: SharedRow<vip_watchers>
    private let rings: BPFMap<UInt32, UInt32>
    private let pin: FileIdentity
    private let state: Mutex<State>

    private struct State {
        var slot = 0
        /// The value that this listener last put into the slot's `until`.
        var until: UInt64 = 0
        /// The part of the slot's `dropped` that was reported.
        var lostInSlot: UInt64 = 0
        /// The number of events lost in an earlier slot and not reported yet.
        var unreported: UInt64 = 0
        var gaps: [Range<UInt64>] = []
        var failure: Failure?
        var renewing: Worker?
    }

    init(_ pins: PinDirectory, _ filter: EventFilter, ringSize: UInt32) throws(Failure) {
        let path = pins.maps.appending("watchers")
        let row = try SharedRow<vip_watchers>(pinnedAt: path)
        let rings: BPFMap<UInt32, UInt32> = try pins.map("watcher_rings")
        let ring = try RingBuffer(name: "vip_events", bytes: ringSize)
        guard let pin = FileIdentity(path.string) else { throw Failure("read \(path)", errno: .current) }
        self.pin = pin
        self.pins = pins
        self.filter = filter
        self.row = row
        self.rings = rings
        self.ring = ring
        state = Mutex(State())
        let failure = state.withLock { state in claim(&state) }
        if let failure { throw failure }
    }

    static func until(_ slot: Int) -> Int { slot * MemoryLayout<UInt64>.stride }

    static func watcher(_ slot: Int) -> Int {
        EventListener.limit * MemoryLayout<UInt64>.stride + slot * MemoryLayout<vip_watcher>.stride
    }

    private static func dropped(_ slot: Int) -> Int {
        watcher(slot) + (MemoryLayout<vip_watcher>.offset(of: \.dropped) ?? 0)
    }

    /// The time at which a lease that starts now ends, in the hooks' clock.
    private static func lease() -> UInt64 {
        BootTime.now() + UInt64(EventListener.lease.components.seconds) * 1_000_000_000
    }

    /// Takes a slot that is free, or whose lease is over.
    private func claim(_ state: inout State) -> Failure? {
        // Another listener that cleans up a slot holds it for a moment, so try more than once.
        for _ in 0..<4 {
            do throws(Failure) {
                if try tryToClaim(&state) { return nil }
            } catch {
                return error
            }
            usleep(20_000)
        }
        let others = (0..<EventListener.limit).map { slot in
            "\(row.load(vip_watcher.self, at: Self.watcher(slot)).pid)"
        }
        return Failure(
            .failed, "listen for events",
            "\(EventListener.limit) listeners exist already, the processes \(others.joined(separator: ", "))",
            hint: "end one of them first")
    }

    /// Takes the first such slot. In the others, it removes the ring buffers that killed listeners have left, to free
    /// their memory.
    private func tryToClaim(_ state: inout State) throws(Failure) -> Bool {
        var mine: Int?
        for slot in 0..<EventListener.limit {
            let offset = Self.until(slot)
            let found = row.word(at: offset)
            guard found < BootTime.now() else { continue }
            if mine != nil, try rings.value(of: UInt32(slot)) == nil { continue }
            let until = Self.lease()
            // This fails if another listener was faster. A hook may have cleared the slot in between.
            guard row.replace(found, with: until, at: offset) || row.replace(0, with: until, at: offset) else {
                continue
            }
            do throws(Failure) {
                if mine == nil {
                    var watcher = vip_watcher()
                    watcher.outcomes = filter.outcomes.reduce(0) { $0 | 1 << UInt32($1.rawValue) }
                    watcher.session = filter.session ?? 0
                    watcher.pid = UInt32(getpid())
                    try rings.set(UInt32(slot), to: UInt32(ring.descriptor))
                    row.store(watcher, at: Self.watcher(slot))
                    (state.slot, state.until, state.lostInSlot) = (slot, until, 0)
                    mine = slot
                } else {
                    try rings.remove(UInt32(slot))
                    _ = row.replace(until, with: 0, at: offset)
                }
            } catch {
                _ = row.replace(until, with: 0, at: offset)
                throw error
            }
        }
        return mine != nil
    }

    func startRenewing() throws(Failure) {
        // Signals must go to the threads that existed before.
        var all = sigset_t()
        var before = sigset_t()
        sigfillset(&all)
        pthread_sigmask(SIG_BLOCK, &all, &before)
        defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
        do throws(Failure) {
            let worker = try Worker()
            try worker.start("lease of events") { [self] in
                while worker.sleep(for: .seconds(1)), renew() {}
            }
            state.withLock { $0.renewing = worker }
        } catch {
            end()
            throw error
        }
    }

    /// Renews the lease; `false` if there will be no more events.
    private func renew() -> Bool {
        state.withLock { state in
            guard FileIdentity(pins.maps.appending("watchers").string) == pin else {
                state.failure = Failure(
                    .failed, "listen for events", "the hooks were detached in the meantime",
                    hint: "attach a cgroup, and listen again")
                return false
            }
            let until = Self.lease()
            if row.replace(state.until, with: until, at: Self.until(state.slot)) {
                state.until = until
                return true
            }
            // The process was stopped for longer than the lease, and a hook or another listener has noticed.
            let lapsed = state.until
            if row.word(at: Self.until(state.slot)) == 0 {  // no new listener yet: the count is still this one's
                let lost = row.word(at: Self.dropped(state.slot))
                state.unreported += lost - min(state.lostInSlot, lost)
            }
            if let failure = claim(&state) {
                state.failure = failure
                return false
            }
            state.gaps.append(lapsed..<max(lapsed, BootTime.now()))
            return true
        }
    }

    func report(into batch: inout EventBatch) throws(Failure) {
        let failure: Failure? = state.withLock { state in
            // If the lease is over, the slot may be another listener's.
            if row.word(at: Self.until(state.slot)) == state.until {
                let lost = row.word(at: Self.dropped(state.slot))
                batch.lost = lost - min(state.lostInSlot, lost)
                state.lostInSlot = lost
            }
            batch.lost += state.unreported
            state.unreported = 0
            // Report a gap only after the events that were written before it.
            let last = batch.events.last?.time ?? .max
            batch.gaps = state.gaps.filter { $0.lowerBound <= last }
            state.gaps.removeAll { $0.lowerBound <= last }
            return batch.events.isEmpty ? state.failure : nil
        }
        if let failure { throw failure }
    }

    /// Frees the slot.
    func end() {
        let renewing = state.withLock { state in
            defer { state.renewing = nil }
            return state.renewing
        }
        renewing?.end()
        state.withLock { state in
            // First make sure that the slot stays this listener's until the end of this.
            let until = Self.lease()
            guard state.until != 0, row.replace(state.until, with: until, at: Self.until(state.slot)) else { return }
            _ = try? rings.remove(UInt32(state.slot))
            _ = row.replace(until, with: 0, at: Self.until(state.slot))
            state.until = 0
        }
    }
}

/// CLOCK_BOOTTIME of clock_gettime(2), the clock of events.
public enum BootTime {
    /// Nanoseconds since boot, including suspended time.
    public static func now() -> UInt64 { read(CLOCK_BOOTTIME) }

    /// The wall clock minus the boot clock. An event's time plus this is nanoseconds since 1970.
    public static func wallClockOffset() -> UInt64 { read(CLOCK_REALTIME) &- read(CLOCK_BOOTTIME) }

    private static func read(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

/// Identifies the file that a path leads to.
private struct FileIdentity: Hashable, Sendable {
    let device: dev_t
    let inode: ino_t

    /// `nil` if there is no such file.
    init?(_ path: String) {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        (device, inode) = (status.st_dev, status.st_ino)
    }
}
