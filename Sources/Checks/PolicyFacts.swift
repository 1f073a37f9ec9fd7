// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
import Host
import Network
package import Policy
import PolicyMaps
import Sessions
import SystemPackage

/// Compares the policy in force with the file, and the maps with the policy in force.
package enum PolicyFacts: CheckedSubject {
    private static let subject = "policy"

    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: subject) { () throws(Failure) in
            let path = host.policyFile ?? Instance.defaultPolicyFile
            let isThere = FileStatus.exists(path)
            let file = isThere || host.policyFile != nil ? try Policy.read(contentsOf: path) : nil
            try host.instance.pins.requireReadable()
            guard host.instance.pins.isLoaded else {
                return file.map { _ in [.good(subject, "\(path) is well-formed; nothing is attached")] } ?? []
            }
            let registry = try host.instance.registry()
            let inForce = try host.instance.policy(registry)
            let risks = try host.instance.risksInForce(registry, Netlink())
            return [against(file, path, inForce)] + (try inMaps(host.instance, inForce)) + risks.map(fact)
        }
    }

    /// What of the policy in force leaves sessions without an address, or refuses all that they do.
    private static func fact(_ risk: PolicyImpact.Risk) -> CheckedFact {
        let hazard = risk.hazard
        let note = risk.sessions.isEmpty ? "" : " (\(risk.sessions.count.openSessions): \(risk.sessions.few))"
        return .warning(subject, "\(hazard.key): \(hazard.message)\(note)", fix: hazard.hint)
    }

    private static func against(_ file: Policy?, _ path: FilePath, _ inForce: Policy) -> CheckedFact {
        guard let file else { return .good(subject, "in force as it was applied; \(path) does not exist") }
        let differences = differences(inForce, file)
        guard !differences.isEmpty else { return .good(subject, "the policy in force is that of \(path)") }
        let few = 4  // keeps the line readable
        let rest = differences.count > few ? " and \(differences.count - few) more" : ""
        return .warning(
            subject,
            "the policy in force differs from \(path): \(differences.prefix(few).joined(separator: ", "))\(rest)",
            fix: "put the file in force: vip-bpfctl policy apply \(path)")
    }

    /// `virtualIP.enabled is true, false in the file`, for each key whose values differ.
    package static func differences(_ inForce: Policy, _ file: Policy) -> [String] {
        inForce.differences(to: file).map {
            "\($0.key) is \($0.before ?? "not given"), \($0.after ?? "not given") in the file"
        }
    }

    /// Compares the maps, which the hooks read, with the policy that the registry has in force.
    private static func inMaps(_ instance: Instance, _ policy: Policy) throws(Failure) -> [CheckedFact] {
        let maps = try PolicyMapSet(instance.pins)
        let config = try maps.configuration()
        let mounts = try MountTable.current()
        let desired = try DesiredRows(policy: policy, sessions: [], hostAddresses: []) { path throws(Failure) in
            try ProgramFile.identity(of: path, mounts: mounts)
        }
        let fix = "apply it again: vip-bpfctl policy apply FILE"
        for (number, row) in desired.policies.enumerated() {
            let key = UInt32(config.bank * Int(VIP_POLICIES_PER_BANK) + number)
            if try maps.policies.value(of: key) != row {
                return [.bad(subject, "BPF maps and registry disagree", fix: fix)]
            }
        }
        var facts = desired.warnings.map { CheckedFact.warning(subject, $0) }
        if try !maps.knowsExactly(Set(desired.files.keys)) {
            facts.append(
                .warning(
                    subject, "a listed program's file changed after the policy was applied", fix: fix))
        }
        return facts
    }
}
