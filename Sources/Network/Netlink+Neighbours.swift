// SPDX-License-Identifier: Apache-2.0

import CNetlink
import Glibc
import Host

/// An entry of the kernel's table of neighbours: arp(7), RTM_NEWNEIGH of rtnetlink(7).
struct Neighbour: Hashable {
    /// The link-layer address as text, `02:00:00:00:00:01`; `nil` while no host has answered.
    let linkAddress: String?
    /// Whether an administrator added it (`ip neigh add`).
    let isPermanent: Bool
}

extension Netlink {
    /// Makes the kernel ask the link who has an IPv6 address: now, and twice more, a second apart (mcast_solicit,
    /// arp(7)). The entry that the kernel had before is deleted.
    func solicit(_ address: IPAddress, on interface: String) throws(Failure) {
        let what = "ask on \(interface) who has \(address)"
        let entry = try neighbour(address, interface, what)
        defer { rtnl_neigh_put(entry) }
        try delete(entry, what)
        rtnl_neigh_set_state(entry, NUD_NONE)
        rtnl_neigh_set_flags(entry, UInt32(NTF_USE))
        let error = rtnl_neigh_add(socket, entry, NLM_F_CREATE)
        guard error == 0 else { throw Self.failure(what, error) }
    }

    /// Deletes the entry of an address; it is no error if there is none.
    func forgetNeighbour(_ address: IPAddress, on interface: String) throws(Failure) {
        let what = "forget who has \(address) on \(interface)"
        let entry = try neighbour(address, interface, what)
        defer { rtnl_neigh_put(entry) }
        try delete(entry, what)
    }

    private func delete(_ entry: OpaquePointer, _ what: String) throws(Failure) {
        let error = rtnl_neigh_delete(socket, entry, 0)
        guard [0, -NLE_OBJ_NOTFOUND].contains(error) else { throw Self.failure(what, error) }
    }

    /// The entries of a family.
    func neighbours(_ family: IPAddress.Family) throws(Failure) -> [AddressProbe.Question: Neighbour] {
        var cache: OpaquePointer?
        let error = rtnl_neigh_alloc_cache(socket, &cache)
        guard error == 0, let cache else { throw Self.failure("list the neighbours", error) }
        defer { nl_cache_free(cache) }
        let names = try interfaces().mapValues(\.name)
        var found: [AddressProbe.Question: Neighbour] = [:]
        var next = nl_cache_get_first(cache)
        while let entry = next {
            defer { next = nl_cache_get_next(entry) }
            guard let target = rtnl_neigh_get_dst(entry), let bytes = nl_addr_get_binary_addr(target),
                let interface = names[rtnl_neigh_get_ifindex(entry)],
                let address = IPAddress(
                    bytes: UnsafeRawBufferPointer(start: bytes, count: Int(nl_addr_get_len(target)))),
                address.family == family
            else { continue }
            var other: String?
            // NUD_VALID of net/neighbour.h: the link-layer address is known.
            let valid = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY
            if rtnl_neigh_get_state(entry) & valid != 0, let link = rtnl_neigh_get_lladdr(entry) {
                var text = [CChar](repeating: 0, count: 128)
                other = nl_addr2str(link, &text, text.count).map { String(cString: $0) }
            }
            found[.init(address, on: interface)] = Neighbour(
                linkAddress: other, isPermanent: rtnl_neigh_get_state(entry) & NUD_PERMANENT != 0)
        }
        return found
    }

    private func neighbour(
        _ address: IPAddress, _ interface: String, _ what: String
    ) throws(Failure) -> OpaquePointer {
        guard let index = try index(of: interface, what) else {
            throw Failure(.failed, what, "there is no interface \(interface)", hint: "see ip link")
        }
        let bytes = address.bytes
        guard let target = nl_addr_build(address.family == .v4 ? AF_INET : AF_INET6, bytes, bytes.count) else {
            throw Self.failure(what, -NLE_NOMEM)
        }
        defer { nl_addr_put(target) }
        guard let entry = rtnl_neigh_alloc() else { throw Self.failure(what, -NLE_NOMEM) }
        rtnl_neigh_set_ifindex(entry, index)
        rtnl_neigh_set_dst(entry, target)
        return entry
    }
}
