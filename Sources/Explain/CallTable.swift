// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
import CVipHooks
import Glibc
package import Host
package import Network
import Policy
package import PolicyMaps
import SystemPackage

/// The results of a program's calls in a session. This type chooses the calls, and the hooks themselves give the
/// results, in ``HookHost``. It does not look which servers are listening: a result that depends on a server says so.
package struct CallTable {
    package enum Call: String { case bind, connect }

    /// One possible result of a call.
    package struct Outcome: Hashable {
        /// The condition of this result; `nil` if it is the result when none of the conditions above it holds.
        package var when: String?
        /// The address that the call finally uses; `nil` if the call is refused.
        package var address: IPAddress?
        /// Whether ``address`` is the requested one.
        package var isAsAsked = false
        /// The name of the errno: `EADDRNOTAVAIL`, `ECONNREFUSED`.
        package var error: String?
        /// connect: the source address that the hook sets on a socket without one; `nil` if the kernel chooses it.
        package var source: IPAddress?
        /// bind: the address that getsockname then returns.
        package var name: IPAddress?
        /// Other addresses at which a TCP server can be reached (`::` without V6ONLY).
        package var besides: [IPAddress] = []
    }

    package struct Row {
        package var call: Call
        package var asked: IPAddress
        /// The kind of address for the session.
        package var role: String
        /// Whether the socket has IPV6_V6ONLY.
        package var isV6Only = false
        package var outcomes: [Outcome]
    }

    package let session: LiveSession
    /// The host, with the session's task and the program set.
    package let host: HookHost
    /// The port in host byte order; `nil` to use one that the policy does not exclude.
    package let port: UInt16?

    package init(session: LiveSession, host: HookHost, port: UInt16?) {
        self.session = session
        self.host = host
        self.port = port
    }

    // MARK: The calls

    package func rows(_ maps: borrowing PolicyMapSet) throws(Failure) -> [Row] {
        var rows: [Row] = []
        for family in IPAddress.Family.allCases {
            let asked = try addresses(family, maps)
            for call in [Call.bind, .connect] {
                for (address, role) in asked where call == .connect || role != Self.elsewhere {
                    rows.append(try row(call, address, role, isV6Only: false))
                    // IPV6_V6ONLY makes a difference only for the wildcard.
                    if family == .v6, address.isUnspecified {
                        rows.append(try row(call, address, role, isV6Only: true))
                    }
                }
            }
        }
        return rows
    }

    private static let elsewhere = "another host's"

    /// One address of each kind that an address can have for the session.
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
        // An address of the networks for documentation (RFC 5737 and RFC 3849), which no host has.
        if let address = IPAddress(isIPv4 ? "192.0.2.1" : "2001:db8::1") { asked.append((address, Self.elsewhere)) }
        return asked
    }

    /// What a TCP server gets that binds an address.
    package func outcome(ofBinding asked: IPAddress) throws(Failure) -> Outcome { try bind(asked, isV6Only: false) }

    private func row(_ call: Call, _ asked: IPAddress, _ role: String, isV6Only: Bool) throws(Failure) -> Row {
        let outcomes =
            switch call {
            case .bind: [try bind(asked, isV6Only: isV6Only)]
            case .connect: try connect(asked, isV6Only: isV6Only)
            }
        return Row(call: call, asked: asked, role: role, isV6Only: isV6Only, outcomes: outcomes)
    }

    // MARK: The results

    /// The port of the calls.
    private var askedPort: UInt16 {
        if let port { return port }
        let excluded = session.excludedPorts
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

    /// bind and getsockname of a TCP server, and the other addresses at which it can be reached.
    private func bind(_ asked: IPAddress, isV6Only: Bool) throws(Failure) -> Outcome {
        let isIPv4 = asked.family == .v4
        let hook = (
            bind: isIPv4 ? VIP_HOOK_BIND4 : VIP_HOOK_BIND6, name: isIPv4 ? VIP_HOOK_GETSOCKNAME4 : VIP_HOOK_GETSOCKNAME6
        )
        var server = socket(asked.family, isStream: true, isV6Only: isV6Only)
        let answer = try host.call(hook.bind, &server, vip_address(asked), port: askedPort)
        guard answer.error == 0 else { return Outcome(error: Errno(rawValue: answer.error).name) }
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

    /// connect of an unbound UDP socket. For each socket look-up of the hook, in order, the result if that look-up
    /// finds a socket; last, the result if none does.
    private func connect(_ asked: IPAddress, isV6Only: Bool) throws(Failure) -> [Outcome] {
        func connected(_ listener: (Int, vip_host_listener)?) throws(Failure) -> (Outcome, [vip_host_question]) {
            var client = socket(asked.family, isStream: false, isV6Only: isV6Only)
            let before = client.local
            let hook = asked.family == .v4 ? VIP_HOOK_CONNECT4 : VIP_HOOK_CONNECT6
            let answer = try host.call(hook, &client, vip_address(asked), port: askedPort, listener: listener)
            guard answer.error == 0 else {
                return (Outcome(error: Errno(rawValue: answer.error).name), host.questions)
            }
            var outcome = Outcome(address: Self.text(asked.family, answer.address))
            outcome.isAsAsked = outcome.address == asked
            if client.local != before { outcome.source = Self.text(asked.family, client.local) }
            return (outcome, host.questions)
        }
        let (last, questions) = try connected(nil)
        var outcomes: [Outcome] = []
        for (number, question) in questions.enumerated() {
            // The first kind of socket that ends the search at this look-up. If the search passes over a socket, the
            // next look-up follows, or the result without any socket.
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

    /// The condition under which a look-up finds a socket.
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

    /// On an IPv6 socket, a mapped address stays in mapped form.
    private static func text(_ family: IPAddress.Family, _ address: vip_address) -> IPAddress {
        guard family == .v6 else { return address.address }
        return IPAddress(bytes: withUnsafeBytes(of: address) { Array($0) }) ?? address.address
    }
}
