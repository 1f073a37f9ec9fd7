// SPDX-License-Identifier: Apache-2.0

package import Host
import Network
package import Policy

/// The policy that prevents the clashes that were found: the policy in force with the entries that it lacks.
package struct PolicySuggestion {
    package struct Addition {
        package var entry: ProgramEntry
        package var need: Verdict.Need
        package var reason: String
    }

    package private(set) var policy: Policy
    /// The added entries, in the order of the programs.
    package private(set) var additions: [Addition] = []
    /// What else an administrator must know or do, one sentence each.
    package private(set) var remarks: [String] = []

    /// - Parameters:
    ///   - found: the programs with their verdicts.
    ///   - inForce: the policy that the sessions have now.
    package init(for found: [(program: ObservedProgram, verdict: Verdict)], inForce: Policy) {
        policy = inForce
        for (program, verdict) in found where verdict.need != .neither {
            let shown = program.label.printableLine
            guard let entry = Self.entry(for: program, among: found.map(\.program)) else {
                remarks.append("\(shown) cannot be named in a policy: its name is not valid UTF-8")
                continue
            }
            let before = policy
            if verdict.need.virtualIP { require(entry, of: program, on: .virtualIP) }
            if verdict.need.loopback { require(entry, of: program, on: .loopback) }
            guard policy != before else { continue }
            additions.append(Addition(entry: entry, need: verdict.need, reason: verdict.reason))
        }
        if policy.virtualIP.enabled, policy.virtualIP.addresses.pool.isEmpty {
            remarks.append(
                "there is no pool of addresses yet: write virtualIP.addresses, or give each session one with --ip")
        }
        for override in policy.overrides where override.virtualIP != nil || override.virtualLoopback != nil {
            remarks.append(
                "override \(override.name) has its own lists, which are unchanged")
        }
    }

    private mutating func require(_ entry: ProgramEntry, of program: ObservedProgram, on list: ProgramList) {
        switch list {
        case .virtualIP:
            if policy.virtualIP.enabled, policy.virtualIP.mode == .perSession { return }
            policy.virtualIP.enabled = true
            policy.virtualIP.mode = .perProgram
        case .loopback: policy.virtualLoopback.enabled = true
        case .preferLoopback: return
        }
        guard !program.isListed(in: policy[list]) else { return }
        policy[list].append(entry)
    }

    /// The entry for a program: its name, or its path if another observed program has the same name.
    ///
    /// - Returns: `nil` if a policy can contain neither.
    package static func entry(for program: ObservedProgram, among all: [ObservedProgram]) -> ProgramEntry? {
        if let script = program.script { return entry(script) }
        let isAmbiguous =
            all.count { $0.name == program.name && $0.script == nil } > 1
            || all.contains { $0.script.map { $0 == Array(program.name.prefix(15)) } ?? false }
        if isAmbiguous, let entry = program.path.flatMap(entry) { return entry }
        // A name of 63 bytes may be the start of a longer one.
        if program.path != nil || program.name.count < 63, let entry = entry(program.name) { return entry }
        return program.path.flatMap(entry)
    }

    private static func entry(_ bytes: [UInt8]) -> ProgramEntry? {
        let text = String(decoding: bytes, as: UTF8.self)
        guard Array(text.utf8) == bytes else { return nil }
        guard let entry = try? ProgramEntry(text), entry != .everyProgram else { return nil }
        return entry
    }

    /// The text of the policy file, after a comment that gives the reason for each addition.
    package func text() throws(Failure) -> String {
        var lines = additions.map { addition in
            "# \(addition.entry.description.printableLine): \(addition.need.label): \(addition.reason.printableLine)"
        }
        if additions.isEmpty { lines.append("# There is nothing to add.") }
        lines += remarks.map { "# Note: \($0.printableLine)" }
        let yaml = policy.yaml()
        _ = try Policy.read(yaml: yaml, file: "the suggested policy")
        return (lines + [yaml]).joined(separator: "\n")
    }
}
