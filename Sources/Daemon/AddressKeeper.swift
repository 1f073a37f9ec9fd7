// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Sessions

/// Restores sessions' addresses that another program removed, updates the host's own addresses in the maps, and follows
/// interfaces that are renamed.
final class AddressKeeper {
    /// Called when interfaces were renamed, with a dictionary from old to new names.
    var interfacesRenamed: ([String: String]) -> Void = { _ in }

    /// Called with the sessions after the interfaces were read.
    var interfacesFollowed: ([SessionRecord]) -> Void = { _ in }

    private let context: KeeperContext
    private var troubles: Troubles { context.troubles }
    private let watch: NetlinkWatch
    private var source: EventLoop.Source?
    private var reconciler: Reconciler?
    /// The interfaces by index, as they were last read.
    private var interfaces: [CInt: Interface]

    init(_ context: KeeperContext) throws(Failure) {
        self.context = context
        watch = try NetlinkWatch()
        interfaces = try context.netlink.interfaces()
        reconciler = try Reconciler(context.loop, context.troubles, .addresses) { [unowned self] () throws(Failure) in
            try reconcile()
        }
        source = try context.loop.watch(watch.descriptor) { [unowned self] in
            if watch.drain() { reconciler?.runSoon() }
        }
    }

    func runNow() { reconciler?.runNow() }

    private func reconcile() throws(Failure) -> Bool {
        let registry = try context.instance.registry()
        let records = try followInterfaces(try context.sessions(registry))
        interfacesFollowed(records)
        try reportBorrowedSources(records)
        guard try context.instance.needsUpkeep(records, context.netlink.hostAddresses()) else {
            troubles.clear { if case .missing = $0 { true } else { false } }
            return true
        }
        let upkeep = try context.change { change throws(Failure) in try change.keepAddresses() }
        for kept in upkeep.restored {
            troubles.clear(.missing(kept.address.address))
            context.log.report(
                Event(
                    .addressRestored, "restored virtual IP \(kept.address.address) on \(kept.address.interface)",
                    priority: .notice, of: kept.record, address: kept.address))
        }
        for (kept, failure) in upkeep.missing {
            troubles.report(
                .missing(kept.address.address),
                Event(
                    .addressMissing, "virtual IP \(kept.address.address) is missing: \(failure)", priority: .error,
                    of: kept.record, address: kept.address, reason: failure.reason))
        }
        if upkeep.hasHostChanged {
            context.log.report(Event(.hostAddresses, "host addresses changed; maps updated"))
        }
        return upkeep.missing.isEmpty
    }

    /// Reports, once while it is so, where the host has no address of its own beside sessions'.
    private func reportBorrowedSources(_ records: [SessionRecord]) throws(Failure) {
        let borrowed = Set(
            try BorrowedSource.all(
                of: records, context.instance.registry().loopbackPrefix(), context.netlink))
        troubles.clear { if case .borrowedSource(let source) = $0 { !borrowed.contains(source) } else { false } }
        for source in borrowed {
            troubles.report(
                .borrowedSource(source),
                Event(
                    .warning, "\(source.message); \(source.remedy)", priority: .warning, interface: source.interface,
                    reason: "no \(source.family.rawValue) address of the host's own"))
        }
    }

    // MARK: Interfaces

    /// Reports changes of interfaces with virtual IPs, and records their new names.
    ///
    /// - Returns: the records, with the present names.
    private func followInterfaces(_ records: [SessionRecord]) throws(Failure) -> [SessionRecord] {
        let now = try context.netlink.interfaces()
        let before = interfaces
        interfaces = now
        var used = Set(records.flatMap(\.addresses).map(\.interface))
        // Rename all together: an interface may have the old name of another one.
        var renamed: [String: String] = [:]
        for (index, old) in before {
            if let new = now[index], new.name != old.name { renamed[old.name] = new.name }
        }
        if !renamed.isEmpty { interfacesRenamed(renamed) }
        var counts: [String: Int] = [:]
        if renamed.keys.contains(where: used.contains) {
            let names = renamed
            counts = try context.change { change throws(Failure) in try change.renameInterfaces(names) }
        }
        for (index, old) in before.sorted(by: { $0.key < $1.key }) {
            guard let new = now[index] else {
                if used.contains(old.name) {
                    report(
                        .interfaceRemoved,
                        "interface \(old.name) was removed; its virtual IPs are restored when it is back", old.name,
                        .warning)
                }
                continue
            }
            if let count = counts[new.name], new.name != old.name {
                used.insert(new.name)
                report(
                    .interfaceRenamed, "interface \(old.name) was renamed to \(new.name), with \(count) virtual IPs",
                    new.name, .notice)
            }
            guard new.isUp != old.isUp, used.contains(new.name) else { continue }
            if new.isUp {
                report(.interfaceUp, "interface \(new.name) is up", new.name, .notice)
            } else {
                report(.interfaceDown, "interface \(new.name) is down", new.name, .warning)
            }
        }
        for (index, new) in now where before[index] == nil && used.contains(new.name) {
            report(.interfaceAdded, "interface \(new.name) appeared", new.name, .notice)
        }
        return counts.isEmpty ? records : try context.sessions(context.instance.registry())
    }

    private func report(_ kind: Event.Kind, _ message: String, _ interface: String, _ priority: Event.Priority) {
        context.log.report(Event(kind, message, priority: priority, interface: interface))
    }
}
