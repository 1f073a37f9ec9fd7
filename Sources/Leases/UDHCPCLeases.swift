// SPDX-License-Identifier: Apache-2.0

import Dispatch
import Foundation
import Glibc
public import Host
import Synchronization
public import SystemPackage

/// Leases by DHCP, each held by a busybox udhcpc of its own with a client identifier of its own, on one interface.
///
/// All of them share the interface's hardware address, and that decides how they are driven. Acquisitions come one at a
/// time: dnsmasq offers one address to parallel clients of one hardware address, and then refuses. Renewals, too: their
/// answers are unicast to port 68, which several clients have open at once, and the kernel gives each datagram to one of
/// them. The address alone is taken of an answer; masks, routes, name servers and the link itself are left as they are.
///
/// The clients outlive this process. The next one finds them by its files, and goes on with them where they are verifiably the
/// same (PID, start time, client identifier); for others it starts new ones that ask for the old address.
public final class UDHCPCLeases: LeaseSource {
    public struct Options: Sendable {
        /// Ethernet or alike, up.
        public var interface: String
        /// What outlives a reboot, and the script of the clients: one directory for each interface, on a file system
        /// that programs may be executed from. Where the interface was renamed, so may both directories be.
        public var state: FilePath
        /// What outlives this process: better in memory (/run), so that a full disk stops no renewal.
        public var runtime: FilePath
        /// ``ClientIdentifier/hostIdentifier(machineID:)``.
        public var host: [UInt8]
        public var check = AddressCheck()
        /// The executable and its first arguments; `nil`: udhcpc or busybox, where they are installed.
        public var client: [String]?
        /// How often a server is asked before it counts as silent, and how many seconds apart.
        public var tries = 3
        public var interval = 2
        /// After which part of its time a lease is renewed. The client does it by itself at a half: what is left between is for
        /// doing it one by one.
        public var renewalPoint = 0.4

        public init(interface: String, state: FilePath, runtime: FilePath, host: [UInt8]) {
            self.interface = interface
            self.state = state
            self.runtime = runtime
            self.host = host
        }
    }

    /// The program of the clients and its first arguments, where one is installed.
    public static var installedClient: [String]? { Client.find() }

    private let shared: Shared
    private let ended = DispatchSemaphore(value: 0)

    /// Goes on with what an earlier process has left, see ``held``: acquire what is still wanted, which returns at once,
    /// and release the rest.
    ///
    /// The network namespace is that of the calling thread.
    ///
    /// - Parameter events: called for each event, in order, on a thread that everything else waits for.
    /// - Throws: ``Failure`` where the directories cannot be used, another process uses them, or there is no such interface.
    public init(_ options: Options, events: @escaping @Sendable (LeaseEvent) -> Void) throws(Failure) {
        let shared = try Shared()
        // Before the properties are set: or deinit would wait for a thread that never was.
        let supervisor = try Supervisor(options, shared, events)
        self.shared = shared
        let ended = self.ended
        Thread.detachNewThread {
            supervisor.run()
            ended.signal()
            supervisor.reapClients()
        }
    }

    deinit { close() }

    /// Ends the supervision. The clients run on, and hold their leases.
    public func close() {
        guard shared.stop() else { return }
        ended.wait()
    }

    public var held: [Lease] { shared.held }

    public func acquire(
        _ holder: LeaseHolder, timeout: Duration, then: @escaping @Sendable (Result<Lease, Failure>) -> Void
    ) {
        let seconds = Double(timeout.components.seconds) + Double(timeout.components.attoseconds) / 1e18
        let deadline = LeaseClock.now + seconds
        shared.send(.acquire(holder, Waiter(deadline: deadline, seconds: seconds, then: then)))
    }

    public func release(_ holder: LeaseHolder, then: @escaping @Sendable () -> Void) {
        shared.send(.release(holder, then))
    }
}

/// Somebody who waits for an address.
struct Waiter: Sendable {
    let deadline: Double
    let seconds: Double
    let then: @Sendable (Result<Lease, Failure>) -> Void
}

/// What callers and the supervisor's thread have in common.
final class Shared: Sendable {
    enum Command: Sendable {
        case acquire(LeaseHolder, Waiter)
        case release(LeaseHolder, @Sendable () -> Void)
    }

    private struct State {
        var commands: [Command] = []
        var held: [Lease] = []
        var isStopped = false
    }
    private let state = Mutex(State())
    /// A pipe, readable when there is something to look at.
    private let wakeUp: Descriptor
    private let wakeEnd: Descriptor

    init() throws(Failure) {
        do throws(Errno) {
            let ends = try FileDescriptor.pipe(options: [.closeOnExec, .nonBlocking])
            wakeUp = Descriptor(owning: ends.readEnd.rawValue)
            wakeEnd = Descriptor(owning: ends.writeEnd.rawValue)
        } catch {
            throw Failure("make a pipe", errno: error)
        }
    }

    var descriptor: CInt { wakeUp.raw }

    /// One that is full wakes just as well.
    private func wake() { _ = write(wakeEnd.raw, "w", 1) }

    var held: [Lease] {
        get { state.withLock { $0.held } }
        set {
            state.withLock { state in
                // One that is to be given back is nobody's from that moment on, not when its turn has come.
                let going = state.commands.compactMap { command -> LeaseHolder? in
                    if case .release(let holder, _) = command { holder } else { nil }
                }
                state.held = newValue.filter { !going.contains($0.holder) }
            }
        }
    }

    func send(_ command: Command) {
        let isStopped = state.withLock { state in
            if !state.isStopped {
                state.commands.append(command)
                if case .release(let holder, _) = command { state.held.removeAll { $0.holder == holder } }
            }
            return state.isStopped
        }
        if isStopped { return Self.refuse(command) }
        wake()
    }

    static func refuse(_ command: Command) {
        switch command {
        case .acquire(let holder, let waiter):
            waiter.then(.failure(Failure(.failed, "lease an address for \(holder)", "the lease source is closed")))
        case .release(_, let then): then()
        }
    }

    /// `false` where that had been asked before.
    func stop() -> Bool {
        let isFirst = state.withLock { state in
            defer { state.isStopped = true }
            return !state.isStopped
        }
        if isFirst { wake() }
        return isFirst
    }

    /// What was sent since the last call, and whether to stop after that.
    func take() -> (commands: [Command], isStopped: Bool) {
        var bytes = [UInt8](repeating: 0, count: 4096)
        while read(wakeUp.raw, &bytes, bytes.count) == bytes.count {}
        return state.withLock { state in
            defer { state.commands = [] }
            return (state.commands, state.isStopped)
        }
    }
}
