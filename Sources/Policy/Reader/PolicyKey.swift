// SPDX-License-Identifier: Apache-2.0

/// A key of the policy file.
///
/// ``all`` is the only list of keys: the reader refuses other keys, and docs/policy.md has a row for each of these.
public struct PolicyKey: Hashable, Sendable {
    /// The path, with `[]` for each entry of a list: `overrides[].match.users`.
    public let path: String
    /// The type: `section`, `boolean`, `virtual | asRequested`, `list of programs`, …
    public let type: String
    /// The default as it is written in the file; `nil` if there is none: the key is required, is a section, or takes
    /// its value from another key.
    public let defaultValue: String?
    public let meaning: String

    private init(_ path: String, _ type: String, default defaultValue: String? = nil, _ meaning: String) {
        self.path = path
        self.type = type
        self.defaultValue = defaultValue
        self.meaning = meaning
    }

    /// In the order of the file and of messages. The sections of an override have the keys of the base policy's
    /// sections of the same name.
    public static let all: [PolicyKey] = [
        PolicyKey("virtualIP", "section", "which programs use the session's own address"),
        PolicyKey("virtualIP.enabled", "boolean", default: "false", "whether sessions have virtual IPs"),
        PolicyKey(
            "virtualIP.mode", words(Policy.VirtualIP.Mode.self), default: "perProgram",
            "whether it applies to all programs of a session or to those listed"),
        PolicyKey("virtualIP.programs", "list of programs", default: "[]", "to which programs it applies"),
        PolicyKey(
            "virtualIP.whenUnavailable", words(Policy.VirtualIP.WhenUnavailable.self), default: "deny",
            "what programs get in a session without an address"),
        PolicyKey(
            "virtualIP.withoutSession", words(Policy.VirtualIP.WithoutSession.self), default: "allow",
            "what programs of no session get where sessions are made"),
        PolicyKey(
            "virtualIP.dualStackServers", "0 to \(Policy.VirtualIP.dualStackServerLimit)",
            default: "\(Policy.VirtualIP.defaultDualStackServers)",
            "how many servers on :: of a session are reached by IPv6"),
        PolicyKey(
            "virtualIP.excludedPorts", "list of ports", default: "[]",
            "ports on which a bind to the wildcard stays as it is, to hear groups and broadcasts"),
        PolicyKey("virtualIP.addresses", "section", "where the addresses come from, and where they are placed"),
        PolicyKey(
            "virtualIP.addresses.source", words(Policy.Addresses.Source.self), default: "pool",
            "from the pool, or IPv4 addresses from a DHCP server"),
        PolicyKey(
            "virtualIP.addresses.placement", words(Policy.Addresses.Placement.self),
            default: Policy.Addresses.defaultPlacement.rawValue,
            "each address by a route or on an interface, or the pool's prefixes local as a whole"),
        PolicyKey(
            "virtualIP.addresses.interface", "text", "on which the addresses are placed; else the default route's"),
        PolicyKey("virtualIP.addresses.pool", "list of ranges", default: "[]", "the addresses, used in this order"),
        PolicyKey(
            "virtualIP.addresses.restSeconds", "0 to \(Policy.Addresses.restLimit)",
            default: "\(Policy.Addresses.defaultRestSeconds)",
            "how long an address rests after use before another user gets it"),
        PolicyKey(
            "virtualIP.addresses.probeSeconds", "0 to \(Policy.Addresses.probeLimit)",
            default: "\(Policy.Addresses.defaultProbeSeconds)",
            "how long to ask on the link whether another host has an address"),
        PolicyKey(
            "virtualIP.addresses.reservations", "list of sections", default: "[]",
            "addresses of the pool that are for one user"),
        PolicyKey("virtualIP.addresses.reservations[].user", "text", "the user's name"),
        PolicyKey(
            "virtualIP.addresses.reservations[].addresses", "list of addresses",
            "in the order in which the user's sessions get them"),

        PolicyKey("virtualLoopback", "section", "which programs use the session's own loopback"),
        PolicyKey("virtualLoopback.enabled", "boolean", default: "false", "whether sessions have virtual loopbacks"),
        PolicyKey("virtualLoopback.programs", "list of programs", default: "[]", "to which programs it applies"),
        PolicyKey(
            "virtualLoopback.excludedPorts", "list of ports", default: "[]", "ports on which 127.0.0.1 is the host's"),
        PolicyKey(
            "virtualLoopback.fallback", words(Policy.VirtualLoopback.Fallback.self), default: "none",
            "where a connection goes if nothing of the session listens on the port"),
        PolicyKey(
            "virtualLoopback.prefix", "IPv6 prefix", default: LoopbackPrefix.default.description,
            "of the sessions' IPv6 loopbacks, for the whole host"),
        PolicyKey(
            "virtualLoopback.placement", words(Policy.VirtualLoopback.Placement.self), default: "address",
            "each IPv6 loopback on lo, or their prefix local as a whole"),
        PolicyKey(
            "virtualLoopback.hostAddresses", "list of ranges", default: "[]",
            "addresses of 127/8 that the host's services use, and no session"),

        PolicyKey("preferLoopback", "section", "which programs use the session's loopback in place of its address"),
        PolicyKey("preferLoopback.enabled", "boolean", default: "false", "whether the loopback is preferred"),
        PolicyKey("preferLoopback.programs", "list of programs", default: "[]", "to which programs it applies"),

        PolicyKey(
            "wildcardName", words(Policy.WildcardName.self), default: "virtual",
            "what getsockname(2) returns for a socket that is bound to the wildcard"),
        PolicyKey("isolation", "boolean", default: "true", "whether one session's addresses are refused to another's"),
        PolicyKey("sessions", "section", "which cgroups become sessions when users log in"),
        PolicyKey(
            "sessions.unit", words(Policy.SessionsSection.Unit.self), default: "userSlice",
            "one session for each user or for each login"),
        PolicyKey("history", "section", "what is kept of past sessions"),
        PolicyKey(
            "history.retentionDays", "0 to \(Policy.History.retentionLimit)",
            default: "\(Policy.History.defaultRetentionDays)", "for how many days after its end a session is kept"),

        PolicyKey("overrides", "list of sections", default: "[]", "other rules for some sessions"),
        PolicyKey("overrides[].name", "text", "its name, which no other override has"),
        PolicyKey("overrides[].match", "section", "the sessions that it is for"),
        PolicyKey("overrides[].match.users", "list of texts", default: "[]", "names of users"),
        PolicyKey("overrides[].match.groups", "list of texts", default: "[]", "names of groups"),
        PolicyKey("overrides[].match.units", "list of texts", default: "[]", "patterns of unit names, fnmatch(3)"),
        PolicyKey(
            "overrides[].virtualIP", "section",
            "in place of the base policy's; withoutSession is the base policy's alone"),
        PolicyKey(
            "overrides[].virtualLoopback", "section",
            "in place of the base policy's; prefix, placement and hostAddresses are the base policy's alone"),
        PolicyKey("overrides[].preferLoopback", "section", "in place of the base policy's"),
        PolicyKey("overrides[].wildcardName", words(Policy.WildcardName.self), "in place of the base policy's"),
        PolicyKey("overrides[].isolation", "boolean", "in place of the base policy's"),
    ]

    private static func words<Choice: RawRepresentable<String> & CaseIterable>(_: Choice.Type) -> String {
        Choice.allCases.map(\.rawValue).joined(separator: " | ")
    }

    /// The names of the keys in a section, by the section's path. The path of the file as a whole is empty.
    static let namesInSection: [String: [String]] = {
        var names: [String: [String]] = [:]
        for key in all {
            let parts = key.path.split(separator: ".")
            let section = parts.dropLast().joined(separator: ".")
            names[section, default: []].append(String(parts[parts.count - 1]))
        }
        return names
    }()
}
