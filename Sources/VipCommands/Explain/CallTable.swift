// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
import CVipHooks
import Glibc
import Host
import Network
import Policy
import PolicyMaps

/// What a program of a session gets for its calls. The questions are chosen here; the hooks themselves answer them, in
/// ``HookHost``. What listens where is not looked at: each answer that depends on it says so.
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
    /// With the session's task and the program set.
    let host: HookHost
    /// In host byte order; `nil` for one that the policy does not exclude.
    let port: UInt16?

    // MARK: The questions

    func rows(_ maps: borrowing PolicyMapSet) throws(Failure) -> [Row] {
        var rows: [Row] = []
        for family in IPAddress.Family.allCases {
            let asked = try addresses(family, maps)
            for call in [Call.bind, .connect] {
                for (address, role) in asked where call == .connect || role != Self.elsewhere {
                    rows.append(try row(call, address, role, isV6Only: false))
                    // The wildcard alone means less on such a socket.
                    if family == .v6, address.isUnspecified {
                        rows.append(try row(call, address, role, isV6Only: true))
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
        let hosts =
            session.hostAddresses(family)
            ?? owners.filter { $0.value.owner == VIP_OWNER_HOST.rawValue }.map(\.key.address).sorted()
        if let host = hosts.first(where: { $0.family == family && !$0.isIPv6LinkLocal }) {
            asked.append((host, "the host's"))
        }
        if let own = session.virtualIP(family) { asked.append((own, "its own virtual IP")) }
        if let own = session.loopback(family) { asked.append((own, "its own virtual loopback")) }
        if let other = owners.filter({ row in
            row.value.owner == VIP_OWNER_SESSION.rawValue && row.value.id != session.id
                && row.key.address.family == family
        }).map(\.key.address).min() {
            asked.append((other, "another session's virtual IP"))
        }
        if let other = try maps.ids.rows().map(\.key).filter({ $0 != session.id }).min() {
            let loopback =
                isIPv4
                ? vip_mapped(vip_loopback4(other)).address : session.loopbackPrefix?.loopback(of: other)
            if let loopback { asked.append((loopback, "another session's virtual loopback")) }
        }
        // Of networks for documentation, RFC 5737 and RFC 3849: nobody's.
        if let address = IPAddress(isIPv4 ? "192.0.2.1" : "2001:db8::1") { asked.append((address, Self.elsewhere)) }
        return asked
    }

    private func row(_ call: Call, _ asked: IPAddress, _ role: String, isV6Only: Bool) throws(Failure) -> Row {
        let outcomes =
            switch call {
            case .bind: [try bind(asked, isV6Only: isV6Only)]
            case .connect: try connect(asked, isV6Only: isV6Only)
            }
        return Row(call: call, asked: asked, role: role, isV6Only: isV6Only, outcomes: outcomes)
    }

    // MARK: The answers

    /// The port that is asked for.
    private var askedPort: UInt16 {
        if let port { return port }
        let excluded = Set(session.excludedPorts)
        return (1...UInt16.max).first { !excluded.contains($0) } ?? 1
    }

    private func socket(_ family: IPAddress.Family, isStream: Bool, isV6Only: Bool) -> vip_host_socket {
        var socket = vip_host_socket()
        socket.is_inet6 = family == .v6 ? 1 : 0
        socket.is_stream = isStream ? 1 : 0
        socket.is_v6only = isV6Only ? 1 : 0
        socket.local = vip_address(IPAddress(family, value: 0))
        socket.remote = socket.local
        return socket
    }

    /// bind and getsockname of a TCP server, and where else it can be reached.
    private func bind(_ asked: IPAddress, isV6Only: Bool) throws(Failure) -> Outcome {
        let isIPv4 = asked.family == .v4
        let hook = (
            bind: isIPv4 ? VIP_HOOK_BIND4 : VIP_HOOK_BIND6, name: isIPv4 ? VIP_HOOK_GETSOCKNAME4 : VIP_HOOK_GETSOCKNAME6
        )
        var server = socket(asked.family, isStream: true, isV6Only: isV6Only)
        let answer = try host.call(hook.bind, &server, vip_address(asked), port: askedPort)
        guard answer.error == 0 else { return Outcome(error: Self.name(ofError: answer.error)) }
        server.local = answer.address
        server.local_port = askedPort
        let name = try host.call(hook.name, &server, answer.address, port: askedPort)
        var outcome = Outcome(
            address: Self.text(asked.family, answer.address), name: Self.text(asked.family, name.address))
        outcome.isAsAsked = outcome.address == asked
        for address in [session.virtualIP(.v6), session.loopback(.v6)].compactMap(\.self)
        where try host.leads(to: server, from: vip_address(address)) {
            outcome.besides.append(address)
        }
        return outcome
    }

    /// connect of a UDP socket that is not bound: the outcome if a look-up finds something, for each look-up in order, and
    /// the outcome if none does.
    private func connect(_ asked: IPAddress, isV6Only: Bool) throws(Failure) -> [Outcome] {
        func connected(_ listener: (Int, vip_host_listener)?) throws(Failure) -> (Outcome, [vip_host_question]) {
            var client = socket(asked.family, isStream: false, isV6Only: isV6Only)
            let before = client.local
            let hook = asked.family == .v4 ? VIP_HOOK_CONNECT4 : VIP_HOOK_CONNECT6
            let answer = try host.call(hook, &client, vip_address(asked), port: askedPort, listener: listener)
            guard answer.error == 0 else {
                return (Outcome(error: Self.name(ofError: answer.error)), host.questions)
            }
            var outcome = Outcome(address: Self.text(asked.family, answer.address))
            outcome.isAsAsked = outcome.address == asked
            if client.local != before { outcome.source = Self.text(asked.family, client.local) }
            return (outcome, host.questions)
        }
        let (last, questions) = try connected(nil)
        var outcomes: [Outcome] = []
        for (number, question) in questions.enumerated() {
            // The least that ends the search there. One that the search passes over is followed by the next question,
            // or by what happens where nothing listens at all.
            for listener in [VIP_HOST_ON_WILDCARD, VIP_HOST_ON_ADDRESS, VIP_HOST_CONNECTED, VIP_HOST_DUAL_STACK] {
                var (outcome, made) = try connected((number, listener))
                guard made.count == number + 1, made.count < questions.count || outcome != last else { continue }
                outcome.when = condition(listener, question, asked.family)
                outcomes.append(outcome)
                break
            }
        }
        return outcomes + [last]
    }

    /// What listens, so that a look-up finds it.
    private func condition(_ listener: vip_host_listener, _ question: vip_host_question, _ family: IPAddress.Family)
        -> String
    {
        let place = "\(Self.text(family, question.to))"
        return switch listener {
        case VIP_HOST_ON_WILDCARD: "something listens on \(place)"
        case VIP_HOST_CONNECTED:
            "it is UDP and a socket on \(place) is connected to this one's port on \(Self.text(family, question.from))"
        case VIP_HOST_DUAL_STACK: "it is UDP or MPTCP and a program of the session that asked for :: is on \(place)"
        default: "a program of the session listens on \(place)"
        }
    }

    private static func name(ofError error: Int32) -> String {
        switch error {
        case ECONNREFUSED: "ECONNREFUSED"
        case EADDRINUSE: "EADDRINUSE"
        case EADDRNOTAVAIL: "EADDRNOTAVAIL"
        default: "errno \(error)"
        }
    }

    /// A mapped address stays one where the call is an IPv6 socket's.
    private static func text(_ family: IPAddress.Family, _ address: vip_address) -> IPAddress {
        guard family == .v6 else { return address.address }
        return IPAddress(bytes: withUnsafeBytes(of: address) { Array($0) }) ?? address.address
    }
}
