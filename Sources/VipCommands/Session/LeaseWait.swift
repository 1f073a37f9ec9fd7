// SPDX-License-Identifier: Apache-2.0

import Host
import Logging
import Sessions

/// Waits for the address of a session that the daemon leases, so that the session's first program has it.
enum LeaseWait {
    /// A server answers in less than a second, or in 4 s where it sees first whether somebody has the address (3 s with
    /// dnsmasq). Longer than that nobody should wait to log in.
    static let patience: Duration = .seconds(6)

    /// - Parameter awaiting: the IDs of sessions whose address is to come.
    /// - Returns: the session with its address, or without where it has not come: which is said.
    static func wait(
        for record: SessionRecord, _ awaiting: [UInt32], _ options: InstanceOptions
    ) throws(Failure) -> SessionRecord {
        guard awaiting.contains(record.id) else { return record }
        guard let now = try options.instance.awaitAddress(of: record, within: patience) else { return record }
        if now.addresses.count == record.addresses.count {
            options.logger.warning(
                "session \(record.id) has no virtual IP yet: the daemon continues to ask for a lease; see its events")
        }
        return now
    }
}
