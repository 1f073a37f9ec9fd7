// SPDX-License-Identifier: Apache-2.0

package import Host
package import Network
package import Policy

extension OwnSession {
    /// What was found out about the caller's session.
    package struct Found {
        /// `nil` if the registry cannot be read, or is that of another instance.
        package var record: SessionRecord?
        /// Why there is no record.
        package var obstacle: Failure?
        package var prefix: LoopbackPrefix?
        /// The virtual IPs that the kernel gives this program.
        package var virtualIPs: [IPAddress]
        /// The virtual loopbacks that it gives it, if there is no record.
        package var loopbacks: [IPAddress]
    }

    /// Finds the session that the caller is in: by the kernel's answers, and by the registry if it can be read.
    ///
    /// - Throws: ``Failure`` if the caller is in none, or nothing of it applies to this program.
    package static func find(_ instance: Instance) throws(Failure) -> Found {
        let what = "find the session of this process"
        var answers: [Answer] = []
        for family in IPAddress.Family.allCases { answers.append(try ask(family)) }
        var record: SessionRecord?
        var prefix: LoopbackPrefix?
        var obstacle: Failure?
        do throws(Failure) {
            let registry = try instance.registry()
            record = try Self.record(registry)
            prefix = try registry.loopbackPrefix()
        } catch {
            obstacle = error
        }
        let virtualIPs = answers.compactMap { if case .virtualIP(let address) = $0 { address } else { nil } }
        if let found = record, !virtualIPs.allSatisfy({ address in found.addresses.contains { $0.address == address } })
        {
            // There are two instances on the host, and this registry is not that of the hooks.
            record = nil
            obstacle = Failure(
                .failed, "use \(instance.state.registry)",
                "the registry does not know the addresses that the kernel returns",
                hint: "name the right one with --state")
        }
        var loopbacks: [IPAddress] = []
        if record == nil {
            for family in IPAddress.Family.allCases {
                if let loopback = try Self.loopback(family) { loopbacks.append(loopback) }
            }
        }
        guard record != nil || answers.contains(where: \.isOfSession) || !loopbacks.isEmpty else {
            guard let obstacle else {
                throw Failure(
                    .failed, what, "this process is in no session",
                    hint: "run it in a session; vip-bpfctl session list shows them")
            }
            throw Failure(
                .failed, what, "this process is in no session, or no address of its session applies to this program",
                hint: obstacle.code == .notPermitted ? "run as root to know which" : "\(obstacle)",
                detail: obstacle.detail)
        }
        return Found(
            record: record, obstacle: obstacle, prefix: prefix, virtualIPs: virtualIPs, loopbacks: loopbacks)
    }
}
