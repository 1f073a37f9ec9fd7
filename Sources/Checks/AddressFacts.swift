// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Sessions

/// Whether every session's virtual IPs are as the registry has them: on their interface, or local by a route. Also
/// whether the host has addresses of its own beside them.
package enum AddressFacts: CheckedSubject {
    private static let subject = "addresses"

    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: subject) { () throws(Failure) in
            let registry = try host.instance.registry()
            let records = try registry.sessions()
            let wanted = records.flatMap { record in
                record.addresses.map { (record.id, $0) }
            }
            let netlink = try Netlink()
            let present = Set(
                try netlink.hostAddresses().map { Place(address: $0.address, at: AddressPlace($0.interface, $0.form)) })
            let routed = wanted.filter { !$0.1.placed }
            var routes: [HostRoute] = []
            for family in IPAddress.Family.allCases where routed.contains(where: { $0.1.address.family == family }) {
                routes += try netlink.routes(family).filter(\.isLocal)
            }
            var wrong: [CheckedFact] = []
            for (id, address) in wanted {
                let what = "session \(id)'s \(address.address)"
                if !address.placed {
                    guard !routes.contains(where: { $0.prefix.contains(address.address) }) else { continue }
                    wrong.append(
                        .bad(
                            subject, "\(what) is not local",
                            fix: "put its prefix back: vip-bpfctl policy apply FILE"))
                } else if !present.contains(Place(address: address.address, at: address.place)) {
                    let elsewhere = present.first {
                        $0.address == address.address && $0.at.interface != address.interface
                    }
                    wrong.append(
                        .bad(
                            subject,
                            "\(what) is not on \(address.interface)\(elsewhere.map { ", but on \($0.at.interface)" } ?? "")",
                            fix: "put it back: vip-bpfctl policy apply FILE"))
                }
            }
            wrong += try BorrowedSource.all(of: records, registry.loopbackPrefix(), netlink).map {
                .warning(subject, $0.message, fix: $0.remedy)
            }
            guard wrong.isEmpty else { return wrong }
            return [
                .good(
                    subject,
                    "all \(wanted.count) virtual IPs are on their interfaces"
                        + (routed.isEmpty ? "" : ", \(routed.count) of them by the route of a prefix"))
            ]
        }
    }

    private struct Place: Hashable {
        var address: IPAddress
        var at: AddressPlace
    }
}
