// SPDX-License-Identifier: Apache-2.0

package import Host
import Network
package import Policy

/// The policy with which what was found clashes no longer: the one in force, and the entries that it lacks.
package struct PolicySuggestion {
    package struct Addition {
        package var entry: ProgramEntry
        package var need: Verdict.Need
        package var reason: String
    }

    package private(set) var policy: Policy
    /// What was added, in order of the programs.
    package private(set) var additions: [Addition] = []
    /// What an administrator has to know or do besides, a sentence each.
    package private(set) var remarks: [String] = []

    /// - Parameters:
    ///   - found: Programs with the verdicts on them.
    ///   - inForce: The policy that the sessions have now.
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

    /// By name where that is enough; by path where another program that was seen has the name, too.
    ///
    /// - Returns: `nil` where neither can stand in a policy.
    package static func entry(for program: ObservedProgram, among all: [ObservedProgram]) -> ProgramEntry? {
        if let script = program.script { return entry(script) }
        let isAmbiguous =
            all.count { $0.name == program.name && $0.script == nil } > 1
            || all.contains { $0.script.map { $0 == Array(program.name.prefix(15)) } ?? false }
        if isAmbiguous, let entry = program.path.flatMap(entry) { return entry }
        // 63 bytes may be the beginning of a longer name.
        if program.path != nil || program.name.count < 63, let entry = entry(program.name) { return entry }
        return program.path.flatMap(entry)
    }

    private static func entry(_ bytes: [UInt8]) -> ProgramEntry? {
        let text = String(decoding: bytes, as: UTF8.self)
        guard Array(text.utf8) == bytes else { return nil }
        guard let entry = try? ProgramEntry(text), entry != .everyProgram else { return nil }
        return entry
    }

    /// The policy file, each addition with its reason above it all.
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
