// SPDX-License-Identifier: Apache-2.0

import CVipABI
package import Host
package import Policy
import PolicyMaps
import SystemPackage

/// Whether a feature applies to a program of a session, by which list entry, or why not.
package struct FeatureFinding {
    package var list: ProgramList
    /// Whether it applies for at least one address family.
    package var applies: Bool
    /// The entry of the policy in force that matched, `*` for all programs; `nil` if none did or the policy is not
    /// known.
    package var entry: String?
    package var way: ExplainedProgram.Way?
    package var reason: String

    /// - Parameters:
    ///   - host: with the session's task and the program set.
    ///   - rules: the session's rules in the registry; `nil` if it cannot be read.
    package static func all(
        _ program: ExplainedProgram, _ session: LiveSession, _ host: HookHost, rules: Policy.Rules?
    ) throws(Failure) -> [FeatureFinding] {
        let features = try host.features()
        // A match by path comes before one by name, because it is more specific.
        var lists: [(way: ExplainedProgram.Way, bits: UInt32)] = []
        for way in [ExplainedProgram.Way.file, .executableName, .processName] {
            lists.append((way, try host.lists(by: way)))
        }
        let mounts = try MountTable.current()
        return ProgramList.allCases.enumerated().map { number, list in
            Facts(
                list: list, program: program, session: session, rules: rules,
                way: lists.first { $0.bits >> UInt32(number) & 1 == 1 }?.way,
                applies: features >> UInt32(number) & 1 == 1, hasAddress: !session.virtualIPs.isEmpty, mounts: mounts
            ).finding
        }
    }
}

/// The facts about one list.
private struct Facts {
    let list: ProgramList
    let program: ExplainedProgram
    let session: LiveSession
    let rules: Policy.Rules?
    let way: ExplainedProgram.Way?
    let applies: Bool
    let hasAddress: Bool
    let mounts: MountTable

    private var flags: (enabled: vip_policy_flag, all: vip_policy_flag) {
        switch list {
        case .virtualIP: (VIP_POLICY_VIRTUAL_IP, VIP_POLICY_VIRTUAL_IP_ALL)
        case .loopback: (VIP_POLICY_LOOPBACK, VIP_POLICY_LOOPBACK_ALL)
        case .preferLoopback: (VIP_POLICY_PREFER_LOOPBACK, VIP_POLICY_PREFER_LOOPBACK_ALL)
        }
    }

    private func has(_ flag: vip_policy_flag) -> Bool { session.flags & flag.rawValue != 0 }

    private var entries: [ProgramEntry]? {
        guard let rules else { return nil }
        switch list {
        case .virtualIP: return rules.virtualIP.programs
        case .loopback: return rules.virtualLoopback.programs
        case .preferLoopback: return rules.preferLoopback.programs
        }
    }

    private var isPerSession: Bool { list == .virtualIP && rules?.virtualIP.mode == .perSession }

    private static func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

    var finding: FeatureFinding {
        var finding = FeatureFinding(list: list, applies: applies, reason: "")
        guard has(flags.enabled) else {
            finding.reason = "the policy has it disabled"
            return finding
        }
        let match: String
        if has(flags.all) {
            if !isPerSession { finding.entry = "*" }
            match = isPerSession ? "mode perSession: it is for every program" : "entry '*': it is for every program"
        } else if let way {
            finding.way = way
            finding.entry = entry(by: way)?.description
            let named = finding.entry.map { "entry '\($0)'" } ?? "an entry"
            switch way {
            case .file: match = "\(named) is its file"
            case .executableName: match = "\(named) is its executable's name"
            case .processName: match = "\(named) is its process name"
            }
        } else {
            finding.reason = whyNone
            return finding
        }
        finding.reason = match + afterMatch
        return finding
    }

    /// What prevents or limits the feature in spite of the match.
    private var afterMatch: String {
        guard applies else {
            return list == .preferLoopback
                ? ", but it needs virtual IP and virtual loopback to apply as well"
                : ", but the session has no virtual IP, and the policy says whenUnavailable: useHostAddress"
        }
        if list == .virtualIP, !hasAddress {
            return "; the session has no virtual IP, and the policy says whenUnavailable: deny"
        }
        return ""
    }

    private func entry(by way: ExplainedProgram.Way) -> ProgramEntry? {
        entries?.first { entry in
            switch (way, entry) {
            case (.file, .path(let path)): (try? ProgramFile.identity(of: path, mounts: mounts)) == program.identity
            case (.executableName, .name(let name)): Array(name.utf8) == program.name
            case (.processName, .name): entry.processName == program.processName
            default: false
            }
        } ?? (way == .file ? entries?.first { isNamesake($0) } : nil)
    }

    /// Whether a listed path is the program's, or that of a file with the same name.
    private func isNamesake(_ entry: ProgramEntry) -> Bool {
        guard case .path(let path) = entry else { return false }
        return Array(path.string.utf8) == program.path
            || path.lastComponent.map { Array($0.string.utf8) } == program.name
    }

    /// The entry that is closest, and why it does not match.
    private var whyNone: String {
        let plain =
            "no entry is its executable's name '\(Self.text(program.name))', its process name "
            + "'\(Self.text(program.processName))' or its file"
        guard let entries else { return plain }
        if entries.isEmpty { return "its list is empty" }
        for entry in entries {
            switch entry {
            case .everyProgram: break
            case .path(let path):
                if let why = whyNot(path) { return why }
            case .name(let name):
                if let startedAs = program.startedAs, Array(name.utf8) == startedAs {
                    return "entry '\(name)' is what it was started as, but its executable is "
                        + "'\(Self.text(program.name))' and its process name '\(Self.text(program.processName))'; "
                        + "list one of those"
                }
            }
        }
        return plain
    }

    private func whyNot(_ path: FilePath) -> String? {
        let listed = try? ProgramFile.identity(of: path, mounts: mounts)
        if let listed, listed == program.identity {
            return "entry '\(path)' is its file now, but was not when the policy was applied; apply it again: "
                + "vip-bpfctl policy apply FILE"
        }
        let isSamePath = Array(path.string.utf8) == program.path
        if isSamePath, program.isDeleted {
            return "entry '\(path)' is a newer file than the one that this process runs; "
                + "start the program again"
        }
        guard isSamePath || path.lastComponent.map({ Array($0.string.utf8) }) == program.name else { return nil }
        guard let listed else { return "entry '\(path)': there is no such file" }
        return "entry '\(path)' is another file (inode \(listed.inode)) than this one (inode \(program.identity.inode))"
    }
}
