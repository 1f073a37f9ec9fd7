// SPDX-License-Identifier: Apache-2.0

import Network

/// A key whose value is another one in another policy.
public struct PolicyDifference: Hashable, Sendable {
    /// The path of the key, as in ``Policy/values``.
    public let key: String
    /// The values as they are written in a file; `nil` if the key is not given and has no default.
    public let before, after: String?
}

extension Policy {
    /// The keys whose values differ, by their paths.
    public func differences(to other: Policy) -> [PolicyDifference] {
        let (ours, theirs) = (values, other.values)
        return Set(ours.keys).union(theirs.keys).sorted().compactMap { key in
            ours[key] == theirs[key] ? nil : PolicyDifference(key: key, before: ours[key], after: theirs[key])
        }
    }
}

extension Policy.Rules {
    /// What changes for a session if other rules hold for it, in words: one sentence without a period each.
    public func changes(to other: Policy.Rules) -> [String] {
        virtualIP.changes(to: other.virtualIP) + virtualLoopback.changes(to: other.virtualLoopback)
            + Scope.changes("preferLoopback", from: preferLoopback.scope, to: other.preferLoopback.scope)
            + (wildcardName == other.wildcardName
                ? []
                : [
                    "getsockname returns the \(other.wildcardName == .virtual ? "virtual IP" : "wildcard") for a socket that was bound to the wildcard"
                ])
            + (isolation == other.isolation
                ? []
                : [
                    other.isolation
                        ? "programs are refused addresses of other sessions"
                        : "programs are no longer refused addresses of other sessions"
                ])
    }
}

/// To which programs of a session a feature applies.
private enum Scope: Equatable {
    case all
    /// None if the list is empty.
    case programs([ProgramEntry])

    init(_ isEnabled: Bool, all: Bool = false, _ programs: [ProgramEntry]) {
        self = isEnabled ? all || programs.contains(.everyProgram) ? .all : .programs(programs) : .programs([])
    }

    var isNothing: Bool { self == .programs([]) }

    private var text: String {
        switch self {
        case .all: "all programs"
        case .programs(let programs): Self.list(programs)
        }
    }

    private static func list(_ programs: [ProgramEntry]) -> String {
        let few = 4  // keeps the line readable
        return programs.prefix(few).map(\.description).joined(separator: ", ")
            + (programs.count > few ? " and \(programs.count - few) more" : "")
    }

    static func changes(_ name: String, from before: Scope, to after: Scope) -> [String] {
        if before.isNothing || after.isNothing {
            if before.isNothing && after.isNothing { return [] }
            return [
                before.isNothing ? "\(name) applies to \(after.text)" : "\(name) no longer applies to \(before.text)"
            ]
        }
        switch (before, after) {
        case (.all, .all): return []
        case (.all, .programs): return ["\(name) applies to \(after.text) alone, no longer to all programs"]
        case (.programs, .all): return ["\(name) applies to all programs, not to \(before.text) alone"]
        case (.programs(let old), .programs(let new)):
            let (added, removed) = (new.filter { !old.contains($0) }, old.filter { !new.contains($0) })
            return (added.isEmpty ? [] : ["\(name) also applies to \(list(added))"])
                + (removed.isEmpty ? [] : ["\(name) no longer applies to \(list(removed))"])
        }
    }
}

extension Policy.VirtualIP {
    fileprivate var scope: Scope { Scope(enabled, all: mode == .perSession, programs) }

    fileprivate func changes(to other: Policy.VirtualIP) -> [String] {
        var changes = Scope.changes("virtualIP", from: scope, to: other.scope)
        guard enabled, other.enabled else { return changes }
        if whenUnavailable != other.whenUnavailable {
            changes.append(
                other.whenUnavailable == .deny
                    ? "without a virtual IP, programs are refused servers and connections"
                    : "without a virtual IP, programs get the host's address")
        }
        if addresses.origin != other.addresses.origin {
            changes.append(
                "sessions that are opened from now on get addresses \(other.addresses.origin), not "
                    + "\(addresses.origin); open ones keep theirs")
        }
        changes += portChanges("virtualIP", Set(excludedPorts ?? []), Set(other.excludedPorts ?? []))
        if let limit = other.dualStackServers, limit != dualStackServers {
            changes.append("at most \(limit) servers on :: are reached by IPv6")
        }
        return changes
    }
}

extension Policy.Addresses {
    /// Where the addresses come from, as part of a sentence.
    fileprivate var origin: String {
        let few = 4  // keeps the line readable
        let pool =
            pool.isEmpty
            ? "from no pool"
            : "from \(pool.prefix(few).map(\.description).joined(separator: ", "))"
                + (pool.count > few ? " and \(pool.count - few) more" : "")
        let source = source == .dhcp ? "from a DHCP server\(self.pool.isEmpty ? "" : " and \(pool)")" : pool
        return source + (placement == .prefix ? " as whole prefixes" : interface.map { " on \($0)" } ?? "")
    }
}

extension Policy.VirtualLoopback {
    fileprivate var scope: Scope { Scope(enabled, programs) }

    fileprivate func changes(to other: Policy.VirtualLoopback) -> [String] {
        var changes = Scope.changes("virtualLoopback", from: scope, to: other.scope)
        guard enabled, other.enabled else { return changes }
        changes += portChanges("virtualLoopback", excludedPorts, other.excludedPorts)
        if fallback != other.fallback {
            changes.append(
                "connections to 127.0.0.1 for which nothing of the session listens "
                    + (other.fallback == .host ? "go to the host" : "are refused"))
        }
        return changes
    }
}

extension Policy.PreferLoopback {
    fileprivate var scope: Scope { Scope(enabled, programs) }
}

private func portChanges(_ name: String, _ before: Set<UInt16>, _ after: Set<UInt16>) -> [String] {
    func list(_ ports: Set<UInt16>) -> String { PortRange.covering(ports).map(\.description).joined(separator: ", ") }
    let (added, removed) = (after.subtracting(before), before.subtracting(after))
    return (added.isEmpty ? [] : ["\(name) leaves out port \(list(added))"])
        + (removed.isEmpty ? [] : ["\(name) no longer leaves out port \(list(removed))"])
}
