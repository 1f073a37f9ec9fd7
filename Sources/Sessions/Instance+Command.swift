// SPDX-License-Identifier: Apache-2.0

package import Host
package import Logging
import Network
import Policy

/// What a command does, which reports warnings to whoever called it.
extension Instance {
    /// Runs a change under the lock, and logs its warnings if it succeeds.
    package func change<T>(
        reporting logger: Logger, repairing: Bool = true, _ body: (inout Change) throws(Failure) -> T
    ) throws(Failure) -> T {
        var change = try change(logger, repairing: repairing)
        let result = try body(&change)
        for warning in change.warnings { logger.warning("\(warning)") }
        return result
    }

    /// Opens sessions, and logs the warnings if it succeeds.
    package func open(
        reporting logger: Logger, _ requests: (borrowing Change) throws(Failure) -> [SessionRequest]
    ) throws(Failure) -> Opened {
        let opened = try open(logger, requests: requests)
        EventLog.reportOfCommand(Event.opening(of: opened))
        let found = opened.conflicts.map(\.message) + opened.squatters.map(\.message)
        for warning in found + opened.warnings + risks(of: opened.records) { logger.warning("\(warning)") }
        return opened
    }

    /// What of the policy in force may keep the sessions from what they ask for. The opening itself reports that there
    /// is no pool.
    private func risks(of records: [SessionRecord]) -> [String] {
        guard !records.isEmpty, let registry = try? registry(), let policy = try? policy(registry),
            let netlink = try? Netlink(), let hazards = try? hazards(of: policy, for: records, netlink)
        else { return [] }
        let file = PolicyFile(policy, named: "the policy in force")
        return hazards.filter { $0.kind != .noPool }.map { "\(file.problem($0))" }
    }

    /// Waits until the daemon has leased the address of a new session, so that the session's first program has it.
    ///
    /// - Parameter awaiting: the IDs of sessions that wait for an address.
    /// - Returns: the session with its addresses. If it has none, that is logged.
    package func lease(
        for record: SessionRecord, _ awaiting: [UInt32], reporting logger: Logger
    ) throws(Failure) -> SessionRecord {
        guard awaiting.contains(record.id) else { return record }
        guard let now = try awaitAddress(of: record, within: Self.leasePatience) else { return record }
        if now.addresses.count == record.addresses.count {
            logger.warning(
                "session \(record.id) has no virtual IP yet: the daemon continues to ask for a lease; see its events")
        }
        return now
    }

    /// A server answers in less than a second, or in 4 s if it first checks whether the address is in use (3 s with
    /// dnsmasq). Users should not have to wait longer for a login.
    package static let leasePatience: Duration = .seconds(6)
}
