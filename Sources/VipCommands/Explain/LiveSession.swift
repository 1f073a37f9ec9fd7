// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
import Host
import Network
import Policy
import PolicyMaps

/// A session as the in-kernel programs read it: the live rows of the maps, and `vip_find_session()`, `vip_find_policy()` and
/// `vip_own_of()` of bpf/session.h over them.
struct LiveSession {
    let cgroupID: UInt64
    let config: vip_config
    let row: vip_session
    /// Of its policy in the bank in force.
    let number: Int
    let policy: vip_policy

    var id: UInt32 { row.id }
    var flags: UInt32 { policy.flags }

    /// - Returns: `nil` where the cgroup is no session.
    init?(cgroupID: UInt64, _ maps: borrowing PolicyMapSet) throws(Failure) {
        let config = try maps.configuration()
        guard let row = try maps.sessions.value(of: cgroupID) else { return nil }
        self.cgroupID = cgroupID
        self.config = config
        self.row = row
        number = Int(row[policyInBank: config.bank]) % Int(VIP_POLICIES_PER_BANK)
        policy =
            try maps.policies.value(of: UInt32(config.bank * Int(VIP_POLICIES_PER_BANK) + number)) ?? vip_policy()
    }

    /// The session that a process in a cgroup is of: that cgroup's, or that of one above it.
    ///
    /// - Parameter ancestors: the IDs of the cgroup and those above it, by their depth: the root's first.
    static func ofProcess(in ancestors: [UInt64], _ maps: borrowing PolicyMapSet) throws(Failure) -> LiveSession? {
        for level in try maps.configuration().levelsInUse where Int(level) < ancestors.count {
            if let session = try LiveSession(cgroupID: ancestors[Int(level)], maps) { return session }
        }
        return nil
    }

    /// The session's own addresses of a family: `vip_own_of()`.
    func own(_ family: vip_family) -> vip_own {
        var own = vip_own()
        if family == VIP_INET6 {
            own.address = row.vip6
            let prefix = [config.loopback6.0, config.loopback6.1, config.loopback6.2]
            own.loopback = vip_loopback6(prefix, row.id)
            if prefix[0] != 0 { own.has |= VIP_HAS_LOOPBACK.rawValue }
            if row.vip4 != 0 { own.has |= VIP_HAS_IPV4.rawValue }
        } else {
            own.address = vip_mapped(row.vip4)
            own.loopback = vip_mapped(vip_loopback4(row.id))
            own.has = VIP_HAS_LOOPBACK.rawValue
        }
        if vip_is_wildcard(family, own.address) == 0 { own.has |= VIP_HAS_ADDRESS.rawValue }
        return own
    }

    /// Whether virtual loopbacks leave the port alone: `vip_is_excluded()`.
    func excludes(_ port: UInt16?) -> Bool { port.map { policy.excludedPorts.contains($0) } ?? false }

    var virtualIPs: [IPAddress] { [row.virtualIPv4, row.virtualIPv6].compactMap(\.self) }

    var loopbacks: [IPAddress] {
        [vip_mapped(vip_loopback4(row.id)).address] + (config.loopbackPrefix.map { [$0.loopback(of: row.id)] } ?? [])
    }
}
