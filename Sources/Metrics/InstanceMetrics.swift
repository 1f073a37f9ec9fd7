// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
import FoundationEssentials
public import Host
import Network
import Policy
import PolicyMaps
public import Sessions
public import SystemPackage

extension MetricsPage {
    /// What an instance's maps and registry hold now, and the daemon's own counters as it last wrote them.
    ///
    /// Takes a few milliseconds, whatever the number of calls, and takes no lock.
    ///
    /// - Parameter runtime: the daemon's directory, if it is not the instance's.
    /// - Throws: ``Failure`` if the registry or the maps cannot be read; (not permitted) for the maps, without root.
    public static func page(of instance: Instance, runtime: FilePath? = nil) throws(Failure) -> MetricsPage {
        var page = MetricsPage()
        page.add(
            "vip_bpf_page_timestamp_seconds", .gauge, "When this page was made, Unix time.",
            Date().timeIntervalSince1970.rounded())
        try page.addHooks(instance)
        let registry = try instance.registry()
        try page.addSessions(instance, registry)
        page.add(
            "vip_bpf_daemon_up", .gauge, "Whether the daemon of this instance runs.", instance.state.hasDaemon ? 1 : 0)
        if let status = DaemonStatus.read(runtime ?? instance.state.runtime) { page.add(status) }
        return page
    }

    private mutating func addHooks(_ instance: Instance) throws(Failure) {
        let isLoaded = instance.pins.isLoaded
        if !isLoaded { try instance.pins.requireReadable() }
        add("vip_bpf_loaded", .gauge, "Whether the programs are in the kernel.", isLoaded ? 1 : 0)
        guard isLoaded else { return }
        let config = try PolicyMapSet(instance.pins).configuration()
        add(
            "vip_bpf_programs_current", .gauge, "Whether the programs in the kernel are those of this vip-bpfctl.",
            config.objectID == BPFObject.embeddedID ? 1 : 0)
        add(
            "vip_bpf_policy_generation", .gauge, "Rises by one with each policy that is applied.",
            Double(config.generation))
        let attached = try instance.pins.attachments()
        add(
            "vip_bpf_attached_cgroups", .gauge, "Cgroups to which every hook is attached.",
            Double(attached.values.count { links in Hook.ofCgroups.allSatisfy { links[$0.name]?.cgroupID ?? 0 != 0 } }))
        add(
            "vip_bpf_incomplete_cgroups", .gauge, "Attached cgroups that were removed, or on which a hook is missing.",
            Double(attached.values.count { links in Hook.ofCgroups.contains { links[$0.name]?.cgroupID ?? 0 == 0 } }))
        let counters = try HookCounters.read(instance.pins)
        add(
            "vip_bpf_calls_total", .counter,
            "Socket calls of sessions' programs, by hook and outcome.",
            counters.flatMap { counter in
                CallOutcome.allCases.map { outcome in
                    (
                        labels: [
                            ("hook", counter.hook.name), ("outcome", outcome.verdict), ("reason", outcome.reason ?? ""),
                        ],
                        value: Double(counter[outcome])
                    )
                }
            })
        let servers = try PolicyMapSet(instance.pins).listenerCounts.rows().map { max(0, $0.value) }
        add(
            "vip_bpf_dual_stack_servers", .gauge,
            "TCP servers on :: that are reached at their session's IPv6 addresses.",
            Double(servers.reduce(0) { $0 + Int($1) }))
        add(
            "vip_bpf_dual_stack_servers_max", .gauge, "Those of the session that has the most of them.",
            Double(servers.max() ?? 0))
        let listeners = try EventListener.listeners(instance.pins)
        add("vip_bpf_event_listeners", .gauge, "Listeners to events: watch and top.", Double(listeners.count))
        add(
            "vip_bpf_listener_events_written", .gauge, "Events that a listener got since it began to listen.",
            listeners.map { ([("pid", "\($0.pid)")], Double($0.written)) })
        add(
            "vip_bpf_listener_events_lost", .gauge,
            "Events that a listener lost by being too slow, since it began to listen.",
            listeners.map { ([("pid", "\($0.pid)")], Double($0.dropped)) })
    }

    private mutating func addSessions(_ instance: Instance, _ registry: Registry) throws(Failure) {
        let records = try registry.sessions()
        add(
            "vip_bpf_sessions", .gauge, "Sessions, by their state.",
            SessionRecord.State.allCases.map { state in
                ([("state", state.rawValue)], Double(records.count { $0.state == state }))
            })
        let families = IPAddress.Family.allCases
        add(
            "vip_bpf_session_addresses", .gauge, "Virtual IPs that sessions have.",
            families.map { family in
                (
                    [("family", family.rawValue)],
                    Double(records.lazy.flatMap(\.addresses).count { $0.address.family == family })
                )
            })
        add(
            "vip_bpf_leased_addresses", .gauge, "Virtual IPs that are leased by DHCP.",
            Double(records.lazy.flatMap(\.addresses).count { $0.leaseSlot != nil }))
        let policy = try instance.policy(registry)
        // The policy's `whenUnavailable` applies to these sessions.
        add(
            "vip_bpf_sessions_without_address", .gauge,
            "Open sessions without the virtual IP that the policy gives them.",
            Double(try instance.withoutAddress(records, under: policy)))
        try addPools(
            policy, used: Set(try registry.usedAddresses().keys),
            held: try registry.conflictingAddresses(bootID: try BootID.current()))
    }

    private mutating func addPools(_ policy: Policy, used: Set<IPAddress>, held: Set<IPAddress>) throws(Failure) {
        let pools =
            [("", policy.virtualIP.addresses.pool)]
            + policy.overrides.map { ($0.name, $0.virtualIP?.addresses.pool ?? []) }
        var sizes: [(labels: [(String, String)], value: Double)] = []
        var inUse = sizes
        var others = sizes
        for (name, ranges) in pools where !ranges.isEmpty {
            let pool = try AddressPool(ranges.map { $0.first...$0.last })
            for family in IPAddress.Family.allCases where pool.has(family) {
                let labels = [("pool", name), ("family", family.rawValue)]
                sizes.append((labels, Double(pool.count(family))))
                inUse.append((labels, Double(used.count { $0.family == family && pool.contains($0) })))
                others.append((labels, Double(held.count { $0.family == family && pool.contains($0) })))
            }
        }
        add(
            "vip_bpf_pool_addresses", .gauge,
            "Addresses in a pool, free or not; the base policy's pool has an empty name.", sizes)
        add("vip_bpf_pool_addresses_used", .gauge, "Addresses of a pool that sessions have.", inUse)
        add("vip_bpf_pool_addresses_elsewhere", .gauge, "Addresses of a pool that other hosts have.", others)
    }
}
