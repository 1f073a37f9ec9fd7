// SPDX-License-Identifier: Apache-2.0

public import Host
import Network
import Yams

extension Policy {
    /// The text of a policy file that says the same, with every section and every default.
    ///
    /// A policy that `Policy.read` returned reads back equal.
    ///
    /// - Throws: `Failure` where the YAML library cannot write it (no memory).
    public func yaml() throws(Failure) -> String {
        do {
            return try Yams.serialize(node: node, indent: 2, width: -1, allowUnicode: true)
        } catch {
            throw Failure(.failed, "write the policy", "\(error)")
        }
    }

    private var node: Node {
        section([
            ("virtualIP", virtualIP.node),
            ("virtualLoopback", virtualLoopback.node),
            ("preferLoopback", preferLoopback.node),
            ("wildcardName", plain(wildcardName.rawValue)),
            ("isolation", plain(isolation)),
            ("sessions", section([("unit", plain(sessions.unit.rawValue))])),
            ("history", section([("retentionDays", plain(history.retentionDays))])),
            ("overrides", Node(overrides.map(\.node), .implicit, overrides.isEmpty ? .flow : .block)),
        ])
    }
}

extension Policy.VirtualIP {
    fileprivate var node: Node {
        section([
            ("enabled", plain(enabled)),
            ("mode", plain(mode.rawValue)),
            ("programs", list(programs.map(\.description))),
            ("whenUnavailable", plain(whenUnavailable.rawValue)),
            ("addresses", addresses.node),
        ])
    }
}

extension Policy.Addresses {
    fileprivate var node: Node {
        section([
            ("source", plain(source.rawValue)),
            ("placement", placement.map { plain($0.rawValue) }),
            ("interface", interface.map(text)),
            ("pool", list(pool.map(\.description))),
            ("restSeconds", restSeconds.map(plain)),
            ("probeSeconds", probeSeconds.map(plain)),
            (
                "reservations",
                reservations.isEmpty
                    ? nil
                    : Node(
                        reservations.map { reservation in
                            section([
                                ("user", text(reservation.user)),
                                ("addresses", list(reservation.addresses.map(\.description))),
                            ])
                        }, .implicit, .block)
            ),
        ])
    }
}

extension Policy.VirtualLoopback {
    fileprivate var node: Node {
        section([
            ("enabled", plain(enabled)),
            ("programs", list(programs.map(\.description))),
            ("excludedPorts", list(nodes: excludedPorts.sorted().map(plain))),
            ("fallback", plain(fallback.rawValue)),
            ("prefix", prefix.map { plain($0) }),
        ])
    }
}

extension Policy.PreferLoopback {
    fileprivate var node: Node {
        section([
            ("enabled", plain(enabled)),
            ("programs", list(programs.map(\.description))),
        ])
    }
}

extension Policy.Override {
    fileprivate var node: Node {
        section([
            ("name", text(name)),
            (
                "match",
                section([
                    ("users", list(match.users)),
                    ("groups", list(match.groups)),
                    ("units", list(match.units)),
                ])
            ),
            ("virtualIP", virtualIP?.node),
            ("virtualLoopback", virtualLoopback?.node),
            ("preferLoopback", preferLoopback?.node),
            ("wildcardName", wildcardName.map { plain($0.rawValue) }),
            ("isolation", isolation.map(plain)),
        ])
    }
}

/// The keys that have a value, in the order given.
private func section(_ pairs: [(String, Node?)]) -> Node {
    Node(pairs.compactMap { key, value in value.map { (Node(key), $0) } }, .implicit, .block)
}

/// One of the file's own words, or a number.
private func plain(_ value: some CustomStringConvertible) -> Node {
    Node(value.description, .implicit, .plain)
}

/// A text of the user's: in quotes, unless no version of YAML could take it for anything but a text.
private func text(_ value: String) -> Node {
    let first = value.utf8.first ?? 0
    let startsLikeText = first == UInt8(ascii: "/") || isASCIILetter(first)
    let onlyLikeText = value.utf8.allSatisfy {
        isASCIILetter($0) || 0x30...0x39 ~= $0 || "-_./".utf8.contains($0)
    }
    // YAML 1.1's words for booleans and null; the numbers that start with a letter or slash are none.
    let words: Set = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"]
    return startsLikeText && onlyLikeText && !words.contains(value.lowercased())
        ? plain(value) : Node(value, Tag(.str), .doubleQuoted)
}

private func isASCIILetter(_ byte: UInt8) -> Bool {
    0x41...0x5a ~= byte || 0x61...0x7a ~= byte
}

private func list(_ values: [String]) -> Node {
    list(nodes: values.map(text))
}

/// On one line while it is short, else a line an entry.
private func list(nodes: [Node]) -> Node {
    let length = nodes.reduce(0) { $0 + ($1.scalar?.string.utf8.count ?? 0) + 2 }
    return Node(nodes, .implicit, length <= 80 ? .flow : .block)
}

// MARK: - As JSON, with the file's keys

extension Policy.VirtualLoopback: Encodable {
    private enum Key: String, CodingKey {
        case enabled, programs, excludedPorts, fallback, prefix
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(enabled, forKey: .enabled)
        try container.encode(programs, forKey: .programs)
        try container.encode(excludedPorts.sorted(), forKey: .excludedPorts)
        try container.encode(fallback, forKey: .fallback)
        try container.encodeIfPresent(prefix?.description, forKey: .prefix)
    }
}
