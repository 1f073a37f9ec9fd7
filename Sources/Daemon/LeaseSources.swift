// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Leases
import Network
import Sessions
import SystemPackage

/// The sources of leases, one for each interface on which a session has a lease.
final class LeaseSources {
    private let instance: Instance
    private let runtime: FilePath
    private let log: EventLog
    private let handle: @Sendable (_ interface: String, LeaseEvent) -> Void
    private(set) var all: [String: any LeaseSource] = [:]
    /// Interfaces without a source: why, and when to try again.
    private var broken: [String: (failure: Failure, until: ContinuousClock.Instant)] = [:]

    /// About the time for an interface to be created again.
    private static let retryAfter: Duration = .seconds(5)

    /// - Parameters:
    ///   - runtime: the directory for files that outlive the daemon, but not a boot.
    ///   - handle: called for each event, on a thread of the source.
    init(
        _ instance: Instance, runtime: FilePath, _ log: EventLog,
        handle: @escaping @Sendable (_ interface: String, LeaseEvent) -> Void
    ) {
        self.instance = instance
        self.runtime = runtime
        self.log = log
        self.handle = handle
    }

    private var directory: FilePath { instance.state.path.appending("leases") }

    /// The source of an interface. It is opened if it is not open yet.
    ///
    /// - Throws: ``Failure`` if it cannot be opened. The next attempt is made only after some time: ``retry(_:)``.
    func source(_ interface: String) throws(Failure) -> any LeaseSource {
        if let source = all[interface] { return source }
        if let (failure, until) = broken[interface], until > .now { throw failure }
        do throws(Failure) {
            let source = try open(interface)
            all[interface] = source
            broken[interface] = nil
            return source
        } catch {
            broken[interface] = (error, .now + Self.retryAfter)
            throw error
        }
    }

    /// The one place that knows of which kind the sources are.
    private func open(_ interface: String) throws(Failure) -> any LeaseSource {
        var options = UDHCPCLeases.Options(
            interface: interface, state: directory.appending(interface), runtime: runtime.appending(interface),
            host: try ClientIdentifier.hostIdentifier())
        options.interfaceRemedy = "set virtualIP.addresses.interface; ip link lists the interfaces"
        options.sharingRemedy += ", or use source: pool"
        options.check.owner = { [instance] address, holder in Self.owner(of: address, besides: holder, instance) }
        return try UDHCPCLeases(options) { [handle] event in handle(interface, event) }
    }

    /// When opening the source of an interface may be tried again.
    func retry(_ interface: String) -> ContinuousClock.Instant? { broken[interface]?.until }

    /// Opens the sources of an earlier daemon, because their leases may have to be released.
    func openKnown() {
        for entry in (try? Directory.entries(of: directory)) ?? [] where if_nametoindex(entry.name) != 0 {
            _ = try? source(entry.name)
        }
    }

    /// Ends the supervision. The clients keep the leases for the next daemon.
    func close() { for source in all.values { source.close() } }

    /// Moves the leases of renamed interfaces to the new names, with new clients.
    ///
    /// - Parameter names: from old to new names, all together, because an interface may have the old name of another
    ///   one.
    /// - Returns: the old names of those that have a source.
    func rename(_ names: [String: String]) -> [String] {
        let known = names.filter { all[$0.key] != nil }
        for old in known.keys { all.removeValue(forKey: old)?.close() }
        for new in known.values { broken[new] = nil }
        // Use temporary names first, because names may be exchanged. If a new name is still in use, leases are
        // requested again.
        for parent in [directory, runtime] {
            for (old, new) in known { move(parent.appending(old), to: parent.appending(".\(new)"), new) }
            for new in known.values { move(parent.appending(".\(new)"), to: parent.appending(new), new) }
        }
        return Array(known.keys)
    }

    private func move(_ old: FilePath, to new: FilePath, _ interface: String) {
        guard Glibc.rename(old.string, new.string) != 0, errno != ENOENT else { return }
        let failure = Failure("rename \(old)", errno: .current)
        log.report(Event(.warning, "\(failure)", priority: .warning, interface: interface, reason: failure.reason))
    }

    /// The session that already has an address. Called on a source's thread.
    private static func owner(of address: IPAddress, besides holder: LeaseHolder, _ instance: Instance) -> String? {
        do throws(Failure) {
            guard let record = try instance.registry().session(address: address) else { return nil }
            let slot = record.addresses.first { $0.address == address }?.leaseSlot
            return record.user ?? "" == holder.user && slot == holder.slot ? nil : "session \(record.id)"
        } catch {
            // It is not known whether the address is free, so it must not be used.
            return "unknown owner (\(error))"
        }
    }
}
