// SPDX-License-Identifier: Apache-2.0

import Host
import Logging
import Sessions

/// Waits until the daemon has leased the address of a new session, so that the session's first program has it.
enum LeaseWait {
    /// A server answers in less than a second, or in 4 s if it first checks whether the address is in use (3 s with
    /// dnsmasq). Users should not have to wait longer for a login.
    static let patience: Duration = .seconds(6)

    /// - Parameter awaiting: the IDs of sessions that wait for an address.
    /// - Returns: the sessions with their addresses. A session without one is reported.
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
