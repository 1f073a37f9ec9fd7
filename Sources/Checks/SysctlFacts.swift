// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Network
import Policy
import Sessions
import SystemPackage

/// Network settings that prevent sessions' addresses from working: docs/kernel.md has the measurements.
///
/// `rp_filter` on lo, `arp_announce`, `arp_filter` and `ip_nonlocal_bind` of IPv4 do no harm and are not checked.
package struct SysctlFacts: CheckedSubject {
    private static let subject = "sysctl"

    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: subject) { () throws(Failure) in
            let netlink = try Netlink()
            let interfaces = try netlink.interfaces().values
            var facts: [CheckedFact] = []
            if let lo = interfaces.first(where: { $0.name == "lo" }), !lo.isUp {
                facts.append(
                    .bad(subject, "the interface lo is down, and virtual loopbacks with it", fix: "ip link set lo up"))
            }
            let settings = SysctlFacts(
                interfaces: interfaces.map(\.name).sorted(), placed: try placed(host.instance),
                routed: try routed(host.instance),
                hostAddresses: try netlink.hostAddresses(),
                defaultInterface: try netlink.defaultRouteInterface(.v4))
            facts += settings.all()
            return facts.isEmpty ? [.good(subject, "no setting is in the way")] : facts
        }
    }

    private let interfaces: [String]
    /// The virtual IPs that are on an interface now, or will be with the next session, by family.
    private let placed: [IPAddress.Family: [String: [IPAddress]]]
    /// The interfaces to which virtual IPs have routes, or will have.
    private let routed: Set<String>
    private let hostAddresses: [PlacedAddress]
    /// The interface of the IPv4 default route.
    private let defaultInterface: String?

    /// The sessions' addresses by interface. The interface that the policy names for further ones is included.
    private static func placed(
        _ instance: Instance
    ) throws(Failure) -> [IPAddress.Family: [String: [IPAddress]]] {
        var placed: [IPAddress.Family: [String: [IPAddress]]] = [:]
        let registry = try instance.registry()
        for address in try registry.sessions().flatMap(\.addresses) where address.placed {
            placed[address.address.family, default: [:]][address.interface, default: []].append(address.address)
        }
        let policy = try instance.policy(registry)
        for addresses in ([policy.virtualIP] + policy.overrides.compactMap(\.virtualIP)).map(\.addresses) {
            guard let interface = addresses.interface, addresses.placement != .prefix else { continue }
            for family in IPAddress.Family.allCases
            where addresses.pool.contains(where: { $0.first.family == family }) {
                placed[family, default: [:]][interface, default: []] += []
            }
        }
        return placed
    }

    private static func routed(_ instance: Instance) throws(Failure) -> Set<String> {
        let registry = try instance.registry()
        let addresses = try registry.sessions().flatMap(\.addresses)
        var routed = Set(addresses.filter { $0.placed && $0.form == .route }.map(\.interface))
        let policy = try instance.policy(registry)
        for rules in [policy.virtualIP] + policy.overrides.compactMap(\.virtualIP) {
            guard let interface = rules.addresses.interface, rules.addresses.placesRoutes else { continue }
            routed.insert(interface)
        }
        return routed.subtracting(["lo"])
    }

    private static func value(_ name: String) -> Int? {
        let text = try? String(contentsOf: FilePath("/proc/sys/net/\(name)"))
        return text.flatMap { Int($0.prefix { $0 != "\n" }) }
    }

    /// The larger of the values for `all` and for the interface. The kernel uses that for rp_filter and arp_ignore
    /// (ip-sysctl.rst). For route_localnet, either of them is enough.
    private static func larger(_ name: String, _ interface: String) -> Int {
        max(value("ipv4/conf/all/\(name)") ?? 0, value("ipv4/conf/\(interface)/\(name)") ?? 0)
    }

    private func all() -> [CheckedFact] {
        disabledIPv6() + fullIPv6() + strictReversePath() + silentARP() + openLoopback()
    }

    /// Interfaces that refuse IPv6 addresses.
    private func disabledIPv6() -> [CheckedFact] {
        (placed[.v6] ?? [:]).keys.sorted().filter { Self.value("ipv6/conf/\($0)/disable_ipv6") == 1 }.map { interface in
            .bad(
                Self.subject,
                "net.ipv6.conf.\(interface).disable_ipv6 is 1: \(interface) cannot have IPv6 virtual IPs",
                fix: "sysctl net.ipv6.conf.\(interface).disable_ipv6=0, then vip-bpfctl policy apply FILE")
        }
    }

    /// Interfaces that take no address from router advertisements any more: virtual IPs count, and the link-local
    /// address.
    private func fullIPv6() -> [CheckedFact] {
        (placed[.v6] ?? [:]).sorted { $0.key < $1.key }.compactMap { interface, addresses in
            let directory = "ipv6/conf/\(interface)"
            guard let limit = Self.value("\(directory)/max_addresses"), limit > 0, addresses.count + 1 >= limit,
                Self.value("\(directory)/accept_ra") ?? 0 > 0, Self.value("\(directory)/autoconf") == 1
            else { return nil }
            return .warning(
                Self.subject,
                "\(interface) has \(addresses.count) IPv6 virtual IPs, and net.ipv6.conf.\(interface).max_addresses is "
                    + "\(limit): the kernel takes no address of the host's own from router advertisements",
                fix: "sysctl net.ipv6.conf.\(interface).max_addresses=0")
        }
    }

    /// rp_filter 1 drops packets for a virtual IP that arrive on an interface without a route back to the sender.
    private func strictReversePath() -> [CheckedFact] {
        guard let defaultInterface else { return [] }
        return (placed[.v4] ?? [:]).keys.sorted().filter { interface in
            interface != "lo" && interface != defaultInterface && Self.larger("rp_filter", interface) == 1
        }.map { interface in
            .warning(
                Self.subject,
                "rp_filter is 1 on \(interface), which has virtual IPs, and the default route leads over "
                    + "\(defaultInterface): packets that come in on \(interface) from outside its own network are dropped",
                fix: "sysctl net.ipv4.conf.\(interface).rp_filter=2, and conf.all likewise if it is 1")
        }
    }

    /// Virtual IPs for which the host does not answer ARP.
    private func silentARP() -> [CheckedFact] {
        var facts: [CheckedFact] = []
        for (interface, addresses) in (placed[.v4] ?? [:]).sorted(by: { $0.key < $1.key }) {
            if interface != "lo" {
                let value = Self.larger("arp_ignore", interface)
                if routed.contains(interface), [1, 2, 3].contains(value) {
                    facts.append(
                        .warning(
                            Self.subject,
                            "arp_ignore is \(value) on \(interface): no host on its network can find virtual IPs that a "
                                + "route makes local",
                            fix: "set virtualIP.addresses.placement: address, or arp_ignore to 0"))
                }
                guard value == 8 else { continue }
                facts.append(
                    .warning(
                        Self.subject,
                        "arp_ignore is 8 on \(interface): no host on its network can find its virtual IPs",
                        fix: "sysctl net.ipv4.conf.\(interface).arp_ignore=0, and conf.all likewise if it is 8")
                )
                continue
            }
            // On lo, and of the network of another interface: that interface answers for it only with arp_ignore 0 or
            // 3.
            let networks = hostAddresses.filter { network in
                network.interface != "lo" && network.prefixLength < network.address.family.bits
                    && addresses.contains {
                        AddressPrefix(of: network.address, length: network.prefixLength).contains($0)
                    }
            }
            for network in Set(networks.map(\.interface)).sorted()
            where [1, 2, 8].contains(Self.larger("arp_ignore", network)) {
                facts.append(
                    .warning(
                        Self.subject,
                        "arp_ignore is \(Self.larger("arp_ignore", network)) on \(network): no host on its network "
                            + "can find those virtual IPs of that network that are on lo",
                        fix: "place them on \(network) (virtualIP.addresses.interface), or set arp_ignore to 0"))
            }
        }
        return facts
    }

    /// Networks from which 127/8 can be reached, and with it the sessions' virtual loopbacks.
    private func openLoopback() -> [CheckedFact] {
        let open = interfaces.filter { $0 != "lo" && Self.larger("route_localnet", $0) == 1 }
        guard !open.isEmpty else { return [] }
        return [
            .warning(
                Self.subject,
                "route_localnet is 1 on \(open.joined(separator: ", ")): hosts on that network can reach 127/8 of this "
                    + "host, and so sessions' virtual loopbacks",
                fix: "set it to 0, or drop incoming packets to 127.0.0.0/8")
        ]
    }
}
