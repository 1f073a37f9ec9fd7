// SPDX-License-Identifier: Apache-2.0

public import Host
public import SystemPackage

/// Leases by DHCP on one interface. Each is held by a separate busybox udhcpc with its own client identifier.
///
/// All of them share the interface's hardware address, which decides how they are scheduled. Acquisitions come one at a
/// time: dnsmasq offers one address to parallel clients of one hardware address, and then refuses. Renewals, too: their
/// answers are unicast to port 68, which several clients have open at once, and the kernel gives each datagram to one of
/// them. Only the address is taken from an answer; masks, routes, name servers and the link itself are left as they are.
///
/// The clients outlive this process. The next one finds them by their files, and takes them over where they are verifiably the
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

    private let requests: LeaseRequests
    private let worker: Worker

    /// Takes over what an earlier process has left, see ``held``. Acquire what is still needed, which returns at once, and
    /// release the rest.
    ///
    /// The network namespace is that of the calling thread.
    ///
    /// - Parameter events: called for each event, in order, on a thread that everything else waits for.
    /// - Throws: ``Failure`` where the directories cannot be used, another process uses them, or there is no such interface.
    public init(_ options: Options, events: @escaping @Sendable (LeaseEvent) -> Void) throws(Failure) {
        let requests = try LeaseRequests()
        let supervisor = try Supervisor(options, requests, events)
        worker = try Worker("leases") { _ in
            let clients = supervisor.run()
            // Children of this process; it need not wait for their end.
            if !clients.isEmpty { try? Worker.detach("leases ending") { Client.reapAll(clients) } }
        }
        self.requests = requests
    }

    deinit { close() }

    /// Ends the supervision. The clients run on and hold their leases.
    public func close() {
        guard requests.stop() else { return }
        worker.end()
    }

    public var held: [Lease] { requests.held }

    public func acquire(
        _ holder: LeaseHolder, timeout: Duration, then: @escaping @Sendable (Result<Lease, Failure>) -> Void
    ) {
        let seconds = Double(timeout.components.seconds) + Double(timeout.components.attoseconds) / 1e18
        let deadline = LeaseClock.now + seconds
        requests.send(.acquire(holder, Waiter(deadline: deadline, seconds: seconds, then: then)))
    }

    public func release(_ holder: LeaseHolder, then: @escaping @Sendable () -> Void) {
        requests.send(.release(holder, then))
    }
}
