// SPDX-License-Identifier: Apache-2.0

public import Host
public import SystemPackage

/// DHCP leases on one interface. A separate busybox udhcpc, with its own client identifier, keeps each lease.
///
/// All clients use the interface's hardware address, so acquisitions and renewals are made one at a time. dnsmasq
/// offers one address to parallel clients with the same hardware address, and then refuses it. The answers to renewals
/// are unicast to port 68, which several clients have open, and the kernel gives each datagram to only one of them.
/// Only the address of an answer is used; masks, routes, name servers and the link do not change.
///
/// The clients outlive this process. The next process finds them by their files, and takes over those that are
/// verifiably the same (PID, start time, client identifier). For the other leases it starts new clients, which ask for
/// the old address.
public final class UDHCPCLeases: LeaseSource {
    public struct Options: Sendable {
        /// The interface: Ethernet or similar, and up.
        public var interface: String
        /// The directory for files that outlive a reboot and for the clients' script: one for each interface, on a file
        /// system that is not mounted noexec. If the interface is renamed, both directories may be renamed as well.
        public var state: FilePath
        /// The directory for files that outlive this process. Use one in memory (/run), so that a full disk does not
        /// prevent renewals.
        public var runtime: FilePath
        /// What to do if the interface does not exist.
        public var interfaceRemedy = "ip link lists the interfaces"
        /// What to do if the server gives two holders one address.
        public var sharingRemedy = "set the server to use the client identifier (option 61)"
        /// From ``ClientIdentifier/hostIdentifier(machineID:)``.
        public var host: [UInt8]
        public var check = AddressCheck()
        /// The executable and its first arguments; `nil` for the installed udhcpc or busybox.
        public var client: [String]?
        /// How often a server is asked before it counts as silent, and the interval in seconds.
        public var tries = 3
        public var interval = 2
        /// The part of its time after which a lease is renewed. The client renews at half of the time by itself; the
        /// difference is for renewing one at a time.
        public var renewalPoint = 0.4

        public init(interface: String, state: FilePath, runtime: FilePath, host: [UInt8]) {
            self.interface = interface
            self.state = state
            self.runtime = runtime
            self.host = host
        }
    }

    /// The program of the clients and its first arguments, if one is installed.
    public static var installedClient: [String]? { Client.find() }

    private let requests: LeaseRequests
    private let worker: Worker

    /// Takes over the leases of an earlier process: see ``held``. Acquire those that are still needed, which returns at
    /// once, and release the others.
    ///
    /// It uses the network namespace of the calling thread.
    ///
    /// - Parameter events: called for each event, in order, on the source's own thread, which waits for it.
    /// - Throws: ``Failure`` if the directories cannot be used, another process uses them, or there is no such
    ///   interface.
    public init(_ options: Options, events: @escaping @Sendable (LeaseEvent) -> Void) throws(Failure) {
        let requests = try LeaseRequests()
        let supervisor = try Supervisor(options, requests, events)
        worker = try Worker("leases") { _ in
            let clients = supervisor.run()
            // They are children of this process. Reap them in a thread that nothing waits for.
            if !clients.isEmpty { try? Worker.detach("leases ending") { Client.reapAll(clients) } }
        }
        self.requests = requests
    }

    deinit { close() }

    /// Ends the supervision. The clients go on running and keep their leases.
    public func close() {
        guard requests.stop() else { return }
        worker.end()
    }

    public var held: [Lease] { requests.held }

    public func acquire(
        _ holder: LeaseHolder, timeout: Duration, then: @escaping @Sendable (Result<Lease, Failure>) -> Void
    ) {
        let seconds = timeout / .seconds(1)
        let deadline = LeaseClock.now + seconds
        requests.send(.acquire(holder, Waiter(deadline: deadline, seconds: seconds, then: then)))
    }

    public func release(_ holder: LeaseHolder, then: @escaping @Sendable () -> Void) {
        requests.send(.release(holder, then))
    }
}
