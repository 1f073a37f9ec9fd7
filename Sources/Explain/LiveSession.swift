// SPDX-License-Identifier: Apache-2.0

import CVipABI
package import CVipHooks
import Host
package import Network
package import Policy
import PolicyMaps

/// A session as the hooks read it from the live maps.
package struct LiveSession {
    private let found: vip_host_session

    package init(_ found: vip_host_session) { self.found = found }

    package var id: UInt32 { found.row.id }
    package var cgroupID: UInt64 { found.cgroup }
    package var generation: UInt32 { found.config.generation }
    /// The number of its policy in the bank in force.
    package var number: Int { Int(found.number) }
    /// The bits of `enum vip_policy_flag`.
    package var flags: UInt32 { found.policy.flags }
    /// The ports to which virtual loopback does not apply, and those on which a bind to the wildcard stays as it is.
    package var loopbackExclusions: [UInt16] { found.policy.excludedPorts(VIP_EXCLUDED_LOOPBACK) }
    package var virtualIPExclusions: [UInt16] { found.policy.excludedPorts(VIP_EXCLUDED_VIRTUAL_IP) }
    /// Both.
    package var excludedPorts: Set<UInt16> { Set(loopbackExclusions + virtualIPExclusions) }
    /// The host's own addresses of a family; `nil` if they did not fit and are in the `addresses` map.
    package func hostAddresses(_ family: IPAddress.Family) -> [IPAddress]? {
        family == .v4 ? found.config.hostAddresses : found.config.hostIPv6Addresses
    }
    package var loopbackPrefix: LoopbackPrefix? { found.config.loopbackPrefix }

    package var virtualIPs: [IPAddress] { IPAddress.Family.allCases.compactMap(virtualIP) }
    package var loopbacks: [IPAddress] { IPAddress.Family.allCases.compactMap(loopback) }

    package func virtualIP(_ family: IPAddress.Family) -> IPAddress? {
        own(family).has & VIP_HAS_ADDRESS.rawValue == 0 ? nil : own(family).address.address
    }

    package func loopback(_ family: IPAddress.Family) -> IPAddress? {
        own(family).has & VIP_HAS_LOOPBACK.rawValue == 0 ? nil : own(family).loopback.address
    }

    private func own(_ family: IPAddress.Family) -> vip_own { family == .v4 ? found.own4 : found.own6 }
}
