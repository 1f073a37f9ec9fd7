// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
import Glibc
import PolicyMaps

/// What a program of a session gets for its calls: the questions, and what the hooks would answer.
///
/// The decisions are those of bpf/translate.h, compiled for the host; what they are about is read from the live maps, as
/// bpf/session.h does. What is not looked at is what listens where: each answer that depends on that says so.
struct CallTable {
    enum Call: String { case bind, connect }

    /// One thing that a call may come to.
    struct Outcome: Hashable {
        /// On what it depends; `nil` where it is what happens if none of those above holds.
        var when: String?
        /// The address that the call is for in the end; `nil` where it is refused.
        var address: IPAddress?
        /// ADDRESS is the one that was asked for.
        var isAsAsked = false
        /// `EADDRNOTAVAIL`, `ECONNREFUSED`.
        var error: String?
        /// connect: the source that the hook gives a socket which has none; `nil` leaves it to the kernel.
        var source: IPAddress?
        /// bind: what getsockname says then.
        var name: IPAddress?
        /// Addresses beside ADDRESS at which a TCP server can be reached (`::` without V6ONLY).
        var besides: [IPAddress] = []
    }

    struct Row {
        var call: Call
        var asked: IPAddress
        /// What the address is to the session.
        var role: String
        /// A socket with IPV6_V6ONLY.
        var isV6Only = false
        var outcomes: [Outcome]
    }

    let session: LiveSession
    /// Bit 1 << `enum vip_list`.
    let listed: UInt32
    /// In host byte order; `nil` for one that no list of excluded ports has.
    let port: UInt16?

    // MARK: The questions

    func rows(_ maps: borrowing PolicyMapSet) throws(Failure) -> [Row] {
        var rows: [Row] = []
        for family in IPAddress.Family.allCases {
            let asked = try addresses(family, maps)
            for call in [Call.bind, .connect] {
                for (address, role) in asked where call == .connect || role != Self.elsewhere {
                    rows.append(try row(call, address, role, isV6Only: false, maps))
                    // The wildcard alone means less on such a socket.
                    if family == .v6, address.isUnspecified {
                        rows.append(try row(call, address, role, isV6Only: true, maps))
                    }
                }
            }
        }
        return rows
    }

    private static let elsewhere = "another host's"

    /// One address for each thing that an address can be to the session.
    private func addresses(
        _ family: IPAddress.Family, _ maps: borrowing PolicyMapSet
    ) throws(Failure) -> [(IPAddress, String)] {
        let isIPv4 = family == .v4
        var asked = [
            (IPAddress(family, value: 0), "the wildcard"),
            (isIPv4 ? IPAddress(v4: INADDR_LOOPBACK) : IPAddress(.v6, value: 1), "the loopback"),
        ]
        let owners = try maps.addresses.rows()
        let known = isIPv4 ? session.config.hostAddresses : session.config.hostIPv6Addresses
        let hosts =
            known ?? owners.filter { $0.value.owner == VIP_OWNER_HOST.rawValue }.map(\.key.address).sorted()
        if let host = hosts.first(where: { $0.family == family && !$0.isIPv6LinkLocal }) {
            asked.append((host, "the host's"))
        }
        let own = session.own(isIPv4 ? VIP_INET4 : VIP_INET6)
        if own.has & VIP_HAS_ADDRESS.rawValue != 0 { asked.append((own.address.address, "its own virtual IP")) }
        if own.has & VIP_HAS_LOOPBACK.rawValue != 0 {
            asked.append((own.loopback.address, "its own virtual loopback"))
        }
        if let other = owners.filter({ row in
            row.value.owner == VIP_OWNER_SESSION.rawValue && row.value.id != session.id
                && row.key.address.family == family
        }).map(\.key.address).min() {
            asked.append((other, "another session's virtual IP"))
        }
        if let other = try maps.ids.rows().map(\.key).filter({ $0 != session.id }).min() {
            let loopback =
                isIPv4
                ? vip_mapped(vip_loopback4(other)).address : session.config.loopbackPrefix?.loopback(of: other)
            if let loopback { asked.append((loopback, "another session's virtual loopback")) }
        }
        // Of networks for documentation, RFC 5737 and RFC 3849: nobody's.
        if let address = IPAddress(isIPv4 ? "192.0.2.1" : "2001:db8::1") { asked.append((address, Self.elsewhere)) }
        return asked
    }

    private func row(
        _ call: Call, _ asked: IPAddress, _ role: String, isV6Only: Bool, _ maps: borrowing PolicyMapSet
    ) throws(Failure) -> Row {
        let family = asked.family == .v4 ? VIP_INET4 : VIP_INET6
        let address = vip_address(asked)
        let outcomes =
            switch call {
            case .bind: [try bind(family, address, isV6Only: isV6Only, maps)]
            case .connect: try connect(family, address, isV6Only: isV6Only, maps)
            }
        return Row(call: call, asked: asked, role: role, isV6Only: isV6Only, outcomes: outcomes)
    }

    // MARK: The answers

    /// `vip_place_of()`.
    private func place(
        _ family: vip_family, _ address: vip_address, _ maps: borrowing PolicyMapSet
    ) throws(Failure) -> vip_addr_class {
        var own = session.own(family)
        let place = vip_class(family, &own, address)
        var owner = VIP_OWNER_NOBODY
        if place == VIP_SOME_LOOPBACK {
            // The whole prefix of LO6 is for sessions, be they open or to come.
            let holder = try maps.ids.value(of: vip_id_of_loopback(family, address))
            if family == VIP_INET6 || holder != nil { owner = VIP_OWNER_SESSION }
        } else if place == VIP_SOME_ADDRESS {
            owner = vip_owner(try maps.addresses.value(of: address)?.owner ?? VIP_OWNER_NOBODY.rawValue)
        }
        return vip_class_of_owner(place, owner)
    }

    /// `vip_destination_of()`.
    private func destination(
        _ family: vip_family, _ address: vip_address, _ maps: borrowing PolicyMapSet
    ) throws(Failure) -> vip_addr_class {
        var own = session.own(family)
        guard vip_class(family, &own, address) == VIP_SOME_ADDRESS else { return try place(family, address, maps) }
        let hosts = family == VIP_INET6 ? session.config.hostIPv6Addresses : session.config.hostAddresses
        if let hosts { return hosts.contains(address.address) ? VIP_HOST_ADDRESS : VIP_ELSEWHERE }
        let owner = try maps.addresses.value(of: address)?.owner
        return owner == VIP_OWNER_HOST.rawValue ? VIP_HOST_ADDRESS : VIP_ELSEWHERE
    }

    /// `vip_features_of()`.
    private func features(_ asked: vip_addr_class, _ has: UInt32) -> UInt32 {
        vip_features(session.flags, listed, vip_has_address(asked, has))
    }

    /// `vip_on_bind()`, of a port other than 0.
    private func bind(
        _ family: vip_family, _ address: vip_address, isV6Only: Bool, _ maps: borrowing PolicyMapSet
    ) throws(Failure) -> Outcome {
        var own = session.own(family)
        var asked = try place(family, address, maps)
        if family == VIP_INET6, asked == VIP_WILDCARD, !isV6Only { asked = VIP_DUAL_WILDCARD }
        let answer = vip_bind_action(
            asked, features(asked, own.has), session.flags, own.has, session.excludes(port) ? 1 : 0)
        if answer == VIP_REFUSE_BIND || answer == VIP_UNAVAILABLE { return Outcome(error: "EADDRNOTAVAIL") }
        if answer == VIP_TO_MAPPED_LOOPBACK || answer == VIP_TO_MAPPED_ADDRESS {
            let own4 = session.own(VIP_MAPPED)
            let granted = answer == VIP_TO_MAPPED_ADDRESS ? own4.address : own4.loopback
            var outcome = Outcome(address: Self.text(VIP_INET6, granted))
            outcome.name = name(VIP_MAPPED, granted, isNamed: false, isWildcard: true)
            if answer == VIP_TO_MAPPED_ADDRESS, own.has & VIP_HAS_ADDRESS.rawValue != 0 {
                outcome.besides.append(own.address.address)
            }
            if own.has & VIP_HAS_LOOPBACK.rawValue != 0 { outcome.besides.append(own.loopback.address) }
            return outcome
        }
        let granted = vip_address_of(family, answer, address, &own)
        let isNamed = asked == VIP_OWN_ADDRESS || asked == VIP_HOST_ADDRESS && answer == VIP_TO_ADDRESS
        return Outcome(
            address: Self.text(family, granted), isAsAsked: granted == address,
            name: name(family, granted, isNamed: isNamed, isWildcard: asked == VIP_WILDCARD))
    }

    /// getsockname of a socket without a peer: `vip_on_own_name()`.
    private func name(
        _ family: vip_family, _ granted: vip_address, isNamed: Bool, isWildcard: Bool
    ) -> IPAddress {
        var own = session.own(family)
        let isOwnAddress = own.has & VIP_HAS_ADDRESS.rawValue != 0 && granted == own.address
        var shown = vip_name(family, &own, granted, vip_wildcard(family))
        if isOwnAddress, isNamed { shown = granted }
        let isAsRequested =
            session.flags & VIP_POLICY_AS_REQUESTED.rawValue != 0
            && session.config.flags & VIP_CONFIG_AS_REQUESTED.rawValue != 0
        if isAsRequested, isOwnAddress && !isNamed || isWildcard && granted == own.loopback {
            shown = family == VIP_MAPPED ? vip_wildcard(VIP_INET6) : vip_wildcard(family)
            return Self.text(family == VIP_MAPPED ? VIP_INET6 : family, shown)
        }
        return Self.text(family == VIP_INET4 ? VIP_INET4 : VIP_INET6, shown)
    }

    /// `vip_on_connect()` of a socket that is bound to nothing: each place that `vip_look()` looks at, and what is left.
    private func connect(
        _ family: vip_family, _ address: vip_address, isV6Only: Bool, _ maps: borrowing PolicyMapSet
    ) throws(Failure) -> [Outcome] {
        var own = session.own(family)
        let asked = try destination(family, address, maps)
        if family == VIP_INET6, asked == VIP_LOCALHOST || asked == VIP_WILDCARD, !isV6Only {
            own.has |= VIP_HAS_MAPPED.rawValue
        }
        let features = features(asked, own.has)
        let plan = vip_connect_plan(asked, features, session.flags, own.has, session.excludes(port) ? 1 : 0)
        func looksAt(_ probe: vip_probe) -> Bool { plan.probes & probe.rawValue != 0 }
        func shown(_ address: vip_address) -> String { "\(Self.text(family, address))" }
        let localhost = shown(vip_localhost(family))

        var outcomes: [Outcome] = []
        func add(_ answer: vip_action, when condition: String?) {
            outcomes.append(connected(family, address, own, asked, answer, features, when: condition))
        }
        if looksAt(VIP_PROBE_LOCALHOST) { add(VIP_AS_ASKED, when: "something listens on \(localhost)") }
        if looksAt(VIP_PROBE_LOOPBACK) {
            add(VIP_TO_LOOPBACK, when: "something listens on \(shown(own.loopback))")
        } else if looksAt(VIP_PROBE_OWN_LOOPBACK) {
            add(VIP_TO_LOOPBACK, when: "a program of the session listens on \(shown(own.loopback))")
        }
        if looksAt(VIP_PROBE_ANSWERED) {
            add(
                VIP_TO_LOCALHOST_BACK,
                when: "it is UDP and a socket on \(localhost) is connected to this one's port on \(shown(own.loopback))"
            )
        }
        if looksAt(VIP_PROBE_OWN_ADDRESS) {
            add(VIP_TO_ADDRESS, when: "a program of the session listens on \(shown(own.address))")
        }
        if looksAt(VIP_PROBE_MAPPED) {
            let own4 = session.own(VIP_MAPPED)
            func dual(_ address: vip_address) -> String {
                "it is UDP or MPTCP and a program of the session that asked for :: is on \(Self.text(VIP_MAPPED, address))"
            }
            func addMapped(_ answer: vip_action, _ address: vip_address) {
                outcomes.append(
                    connected(
                        VIP_MAPPED, vip_localhost(VIP_MAPPED), own4, VIP_LOCALHOST, answer, features,
                        when: dual(address)))
            }
            addMapped(VIP_TO_LOOPBACK, own4.loopback)
            if own4.has & VIP_HAS_ADDRESS.rawValue != 0 { addMapped(VIP_TO_ADDRESS, own4.address) }
        }
        add(vip_action(plan.otherwise), when: nil)
        return outcomes
    }

    /// `vip_go()` of a socket without a source.
    private func connected(
        _ family: vip_family, _ address: vip_address, _ own: vip_own, _ asked: vip_addr_class, _ to: vip_action,
        _ features: UInt32, when condition: String?
    ) -> Outcome {
        if to == VIP_REFUSE_PEER { return Outcome(when: condition, error: "ECONNREFUSED") }
        if to == VIP_UNAVAILABLE { return Outcome(when: condition, error: "EADDRNOTAVAIL") }
        var own = own
        let granted = vip_address_of(family, to, address, &own)
        let source = vip_source_action(asked, to, features)
        let from = vip_address_of(family, source, vip_wildcard(family), &own)
        return Outcome(
            when: condition, address: Self.text(family, granted), isAsAsked: granted == address,
            source: vip_is_wildcard(family, from) == 0 ? Self.text(family, from) : nil)
    }

    /// A mapped address stays one where the call is an IPv6 socket's.
    private static func text(_ family: vip_family, _ address: vip_address) -> IPAddress {
        guard family != VIP_INET4 else { return address.address }
        return IPAddress(bytes: withUnsafeBytes(of: address) { Array($0) }) ?? address.address
    }
}
