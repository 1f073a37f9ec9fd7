// SPDX-License-Identifier: Apache-2.0

import Network

extension Policy {
    /// The text of a policy file with every section and every default.
    ///
    /// Reading it gives an equal policy, if this one was returned by `Policy.read`.
    public func yaml() -> String {
        output.lines.map { $0 + "\n" }.joined()
    }

    /// The value of each key by the key's path, defaults included: `virtualIP.mode` and `perProgram`. A list is one
    /// value, except a list of sections: `overrides[0].name`.
    public var values: [String: String] {
        Dictionary(uniqueKeysWithValues: output.values(at: ""))
    }

    private var output: Output {
        .section([
            ("virtualIP", virtualIP.output),
            ("virtualLoopback", virtualLoopback.output),
            ("preferLoopback", preferLoopback.output),
            ("wildcardName", .plain(wildcardName.rawValue)),
            ("isolation", .plain(isolation)),
            ("sessions", .section([("unit", .plain(sessions.unit.rawValue))])),
            ("history", .section([("retentionDays", .plain(history.retentionDays))])),
            ("overrides", .entries(overrides.map(\.output))),
        ])
    }
}

extension Policy.VirtualIP {
    fileprivate var output: Output {
        .section([
            ("enabled", .plain(enabled)),
            ("mode", .plain(mode.rawValue)),
            ("programs", .texts(programs.map(\.description))),
            ("whenUnavailable", .plain(whenUnavailable.rawValue)),
            ("withoutSession", withoutSession.map { .plain($0.rawValue) }),
            ("dualStackServers", dualStackServers.map(Output.plain)),
            ("excludedPorts", excludedPorts.map { .list(PortRange.covering($0).map(\.description)) }),
            ("addresses", addresses.output),
        ])
    }
}

extension Policy.Addresses {
    fileprivate var output: Output {
        .section([
            ("source", .plain(source.rawValue)),
            ("placement", placement.map { .plain($0.rawValue) }),
            ("interface", interface.map(Output.text)),
            ("pool", .texts(pool.map(\.description))),
            ("restSeconds", restSeconds.map(Output.plain)),
            ("probeSeconds", probeSeconds.map(Output.plain)),
            ("reservations", reservations.isEmpty ? nil : .entries(reservations.map(\.output))),
        ])
    }
}

extension Policy.Reservation {
    fileprivate var output: Output {
        .section([("user", .text(user)), ("addresses", .texts(addresses.map(\.description)))])
    }
}

extension Policy.VirtualLoopback {
    fileprivate var output: Output {
        .section([
            ("enabled", .plain(enabled)),
            ("programs", .texts(programs.map(\.description))),
            ("excludedPorts", .list(PortRange.covering(excludedPorts).map(\.description))),
            ("fallback", .plain(fallback.rawValue)),
            ("prefix", prefix.map(Output.plain)),
            ("placement", placement.map { .plain($0.rawValue) }),
            ("hostAddresses", hostAddresses.map { .texts($0.map(\.description)) }),
        ])
    }
}

extension Policy.PreferLoopback {
    fileprivate var output: Output {
        .section([
            ("enabled", .plain(enabled)),
            ("programs", .texts(programs.map(\.description))),
        ])
    }
}

extension Policy.Override {
    fileprivate var output: Output {
        .section([
            ("name", .text(name)),
            ("match", match.output),
            ("virtualIP", virtualIP?.output),
            ("virtualLoopback", virtualLoopback?.output),
            ("preferLoopback", preferLoopback?.output),
            ("wildcardName", wildcardName.map { .plain($0.rawValue) }),
            ("isolation", isolation.map(Output.plain)),
        ])
    }
}

extension Policy.Match {
    fileprivate var output: Output {
        .section([("users", .texts(users)), ("groups", .texts(groups)), ("units", .texts(units))])
    }
}

/// A value of the file.
private enum Output {
    case scalar(String)
    case list([String])
    /// The keys in this order; a key without a value is left out.
    case section([(key: String, value: Output?)])
    /// A list of sections.
    case entries([Output])

    /// One of the file's own words, or a number.
    static func plain(_ value: some CustomStringConvertible) -> Output { .scalar(value.description) }

    static func text(_ value: String) -> Output { .scalar(quotedIfNeeded(value)) }

    static func texts(_ values: [String]) -> Output { .list(values.map(quotedIfNeeded)) }

    /// The value on the line of its key; `nil` if it needs lines of its own.
    private var inline: String? {
        let longest = 80  // characters of a list on one line
        switch self {
        case .scalar(let text): return text
        case .list(let values):
            let length = values.reduce(0) { $0 + $1.utf8.count + 2 }
            return length <= longest ? "[\(values.joined(separator: ", "))]" : nil
        case .entries(let sections): return sections.isEmpty ? "[]" : nil
        case .section: return nil
        }
    }

    var lines: [String] {
        if let inline { return [inline] }
        switch self {
        case .scalar: return []
        case .list(let values): return values.map { "- \($0)" }
        case .entries(let sections):
            return sections.flatMap { section in
                section.lines.enumerated().map { index, line in index == 0 ? "- \(line)" : "  \(line)" }
            }
        case .section(let pairs):
            return pairs.flatMap { key, value -> [String] in
                guard let value else { return [] }
                if let inline = value.inline { return ["\(key): \(inline)"] }
                let indentation = if case .section = value { "  " } else { "" }
                return ["\(key):"] + value.lines.map { indentation + $0 }
            }
        }
    }

    func values(at path: String) -> [(String, String)] {
        switch self {
        case .scalar(let text): [(path, text)]
        case .list(let values): [(path, "[\(values.joined(separator: ", "))]")]
        case .entries(let sections):
            sections.isEmpty
                ? [(path, "[]")] : sections.enumerated().flatMap { $1.values(at: "\(path)[\($0)]") }
        case .section(let pairs):
            pairs.flatMap { key, value in value?.values(at: path.isEmpty ? key : "\(path).\(key)") ?? [] }
        }
    }
}

/// A user's text: in quotes, unless every version of YAML reads it as text.
private func quotedIfNeeded(_ value: String) -> String {
    let first = value.utf8.first ?? 0
    let startsLikeText = first == UInt8(ascii: "/") || isASCIILetter(first)
    let onlyLikeText = value.utf8.allSatisfy {
        isASCIILetter($0) || 0x30...0x39 ~= $0 || "-_./".utf8.contains($0)
    }
    // The words for booleans and null in YAML 1.1. No number starts with a letter or a slash.
    let words: Set = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"]
    return startsLikeText && onlyLikeText && !words.contains(value.lowercased()) ? value : quoted(value)
}

private func isASCIILetter(_ byte: UInt8) -> Bool {
    0x41...0x5a ~= byte || 0x61...0x7a ~= byte
}

/// The text in double quotes. Characters that YAML does not allow unescaped, or reads as a line break, are escaped
/// (YAML 1.2.2, 5.7).
private func quoted(_ value: String) -> String {
    value.unicodeScalars.reduce(into: "\"") { text, scalar in
        switch scalar {
        case "\"", "\\": text += "\\\(scalar)"
        case "\u{20}"..."\u{7e}", "\u{a0}"..."\u{2027}", "\u{202a}"..."\u{d7ff}", "\u{e000}"..."\u{fefe}",
            "\u{ff00}"..."\u{fffd}", "\u{10000}"..."\u{10ffff}":
            text.unicodeScalars.append(scalar)
        default:
            let digits = String(scalar.value, radix: 16)
            text += "\\U" + String(repeating: "0", count: 8 - digits.count) + digits
        }
    } + "\""
}
