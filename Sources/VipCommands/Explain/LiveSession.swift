// SPDX-License-Identifier: Apache-2.0

import CVipABI
import CVipHooks
import Host
import Network
import Policy
import PolicyMaps

/// A session as the in-kernel programs read it from the live maps.
struct LiveSession {
    private let found: vip_host_session

    init(_ found: vip_host_session) { self.found = found }

    var id: UInt32 { found.row.id }
    var cgroupID: UInt64 { found.cgroup }
    var generation: UInt32 { found.config.generation }
    /// Of its policy in the bank in force.
    var number: Int { Int(found.number) }
    /// `enum vip_policy_flag`
    var flags: UInt32 { found.policy.flags }
    /// The ports that virtual loopbacks leave alone.
    var excludedPorts: [UInt16] { found.policy.excludedPorts }
    /// The host's own addresses of a family; `nil` where the map of addresses has them.
    func hostAddresses(_ family: IPAddress.Family) -> [IPAddress]? {
        family == .v4 ? found.config.hostAddresses : found.config.hostIPv6Addresses
    }
    var loopbackPrefix: LoopbackPrefix? { found.config.loopbackPrefix }

    var virtualIPs: [IPAddress] { IPAddress.Family.allCases.compactMap(virtualIP) }
    var loopbacks: [IPAddress] { IPAddress.Family.allCases.compactMap(loopback) }

    func virtualIP(_ family: IPAddress.Family) -> IPAddress? {
        own(family).has & VIP_HAS_ADDRESS.rawValue == 0 ? nil : own(family).address.address
    }

    func loopback(_ family: IPAddress.Family) -> IPAddress? {
        own(family).has & VIP_HAS_LOOPBACK.rawValue == 0 ? nil : own(family).loopback.address
    }

    private func own(_ family: IPAddress.Family) -> vip_own { family == .v4 ? found.own4 : found.own6 }
}
