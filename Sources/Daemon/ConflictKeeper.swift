// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Sessions
import SystemPackage

/// Reports other hosts that use the addresses of open sessions: RFC 5227, section 2.4.
///
/// The address stays the session's, because a forged packet must not take it away.
final class ConflictKeeper {
    private let context: KeeperContext
    private let watch: ConflictWatch
    private var source: EventLoop.Source?
    /// The session that has each address.
    private var records: [AddressProbe.Question: SessionRecord] = [:]

    init(_ context: KeeperContext) throws(Failure) {
        self.context = context
        watch = try ConflictWatch()
        source = try context.loop.watch(watch.descriptor) { [unowned self] in report(watch.drain()) }
    }

    /// Watches the addresses that these sessions have on interfaces. Call it after sessions or interfaces have changed.
    func follow(_ sessions: [SessionRecord]) {
        records = [:]
        for record in sessions {
            for address in record.addresses where address.placed {
                records[AddressProbe.Question(address.address, on: address.interface)] = record
            }
        }
        let failures = watch.watch(Array(records.keys))
        if failures.isEmpty { context.troubles.clear(.conflictWatch) }
        // Report one for all: with alternating texts, each would be reported every time.
        if let failure = failures.first { context.troubles.report(.conflictWatch, failure) }
    }

    private func report(_ conflicts: [ConflictWatch.Conflict]) {
        for conflict in conflicts {
            guard let record = records[conflict.question] else { continue }
            let (address, interface) = (conflict.question.address, conflict.question.interface)
            context.log.report(
                Event(
                    .addressConflict,
                    "\(conflict.hardwareAddress) on \(interface) uses \(address), which session \(record.id) has",
                    priority: .error, session: record.id, user: record.user, cgroup: record.cgroupPath.string,
                    address: address.description, interface: interface, reason: "\(conflict.hardwareAddress) uses it"))
        }
    }
}
