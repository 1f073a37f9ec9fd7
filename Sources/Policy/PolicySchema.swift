// SPDX-License-Identifier: Apache-2.0

/// The policy file as a JSON Schema (draft 7), for editors. It is made from ``PolicyKey/all``.
///
/// A schema knows types, names and patterns. It does not know what compares two parts of the file, such as ranges that
/// overlap: the reader refuses more than the schema does, and everything that the schema refuses.
public enum PolicySchema {
    /// The document, with the keys in the order of the file.
    public static var text: String {
        var schema: [(String, JSONText)] = [
            ("$schema", .text("http://json-schema.org/draft-07/schema#")),
            ("title", .text("The policy file of vip-bpf")),
        ]
        schema += section("")
        return JSONText.object(schema).written + "\n"
    }

    /// The keys whose type has no schema. None has, unless a new type was added to ``PolicyKey/all`` and not here.
    static var unknownKeys: [PolicyKey] { PolicyKey.all.filter { value($0, at: $0.path) == nil } }

    /// The keys that an entry of a list needs.
    static let required: Set<String> = [
        "virtualIP.addresses.reservations[].user", "virtualIP.addresses.reservations[].addresses", "overrides[].name",
    ]
    /// The keys that a section has in the base policy alone, and not in an override.
    static let ofBaseAlone: Set<String> = [
        "virtualIP.withoutSession", "virtualLoopback.prefix", "virtualLoopback.placement",
        "virtualLoopback.hostAddresses",
    ]

    /// A mapping, or nothing.
    ///
    /// - Parameter isOverride: whether it is in an override.
    private static func section(_ path: String, isOverride: Bool = false) -> [(String, JSONText)] {
        // The sections of an override have the keys of the base policy's.
        let source =
            path.hasPrefix("overrides[].") && PolicyKey.namesInSection[path] == nil
            ? String(path.dropFirst("overrides[].".count)) : path
        var properties: [(String, JSONText)] = []
        var needed: [JSONText] = []
        for name in PolicyKey.namesInSection[source] ?? [] {
            let full = source.isEmpty ? name : "\(source).\(name)"
            if isOverride, ofBaseAlone.contains(full) { continue }
            guard let key = PolicyKey.all.first(where: { $0.path == full }) else { continue }
            var schema = value(key, at: full, isOverride: isOverride || source != path) ?? []
            schema.append(("description", .text(key.meaning)))
            if let value = key.defaultValue { schema.append(("default", JSONText(default: value))) }
            properties.append((name, .object(schema)))
            if required.contains(full) { needed.append(.text(name)) }
        }
        var schema: [(String, JSONText)] = [
            // An entry of a list that needs keys is never nothing.
            ("type", needed.isEmpty ? .list([.text("object"), .text("null")]) : .text("object")),
            ("additionalProperties", .word("false")),
            ("properties", .object(properties)),
        ]
        if !needed.isEmpty { schema.append(("required", .list(needed))) }
        return schema
    }

    private static func value(_ key: PolicyKey, at path: String, isOverride: Bool = false) -> [(String, JSONText)]? {
        switch key.type {
        case "section": return section(path, isOverride: isOverride || path.hasPrefix("overrides[]."))
        case "list of sections":
            var schema: [(String, JSONText)] = [
                ("type", .list([.text("array"), .text("null")])),
                ("items", .object(section(path + "[]", isOverride: isOverride))),
            ]
            if path == "overrides" { schema.append(("maxItems", .word("\(Policy.overrideLimit)"))) }
            return schema
        case "boolean": return [("type", .text("boolean"))]
        case "text" where path == "virtualIP.addresses.interface":
            return string(#"^(?!\.{1,2}$)[^/:\s]{1,15}$"#)
        case "text": return string(anyText)
        case "IPv6 prefix": return string("^[fF][cCdD][0-9a-fA-F:]*/[1-9][0-9]$")
        case "list of texts": return list(string(anyText))
        // `*`, a file name, or an absolute path without `.` and `..`.
        case "list of programs":
            return list(
                string(#"^(?!\.{1,2}$)([^/\u0000-\u001f]{1,63}|/(?!(.*/)?\.{1,2}(/|$))[^\u0000-\u001f]*[^/])$"#))
        case "list of addresses": return list(string("^[0-9a-fA-F:.]+$"))
        case "list of ranges": return list(string("^[0-9a-fA-F:.]+( *- *[0-9a-fA-F:.]+|/[0-9]{1,3})?$"))
        case "list of ports":
            let range = string("^[1-9][0-9]{0,4}-[1-9][0-9]{0,4}$")
            return list([("anyOf", .list([.object(number(1, 65535)), .object(range)]))])
        default:
            if key.type.contains(" | ") {
                return [("enum", .list(key.type.split(separator: " | ").map { .text(String($0)) }))]
            }
            guard let bounds = key.type.wholeMatch(of: /([0-9]+) to ([0-9]+)/), let first = Int(bounds.1),
                let last = Int(bounds.2)
            else { return nil }
            return number(first, last)
        }
    }

    /// At least one character, and no control characters.
    private static let anyText = #"^[^\u0000-\u001f]+$"#

    private static func string(_ pattern: String) -> [(String, JSONText)] {
        [("type", .text("string")), ("pattern", .text(pattern))]
    }

    private static func number(_ first: Int, _ last: Int) -> [(String, JSONText)] {
        [("type", .text("integer")), ("minimum", .word("\(first)")), ("maximum", .word("\(last)"))]
    }

    private static func list(_ items: [(String, JSONText)]) -> [(String, JSONText)] {
        [("type", .text("array")), ("items", .object(items)), ("uniqueItems", .word("true"))]
    }
}

/// A JSON document whose keys keep their order, which an encoder's do not.
private indirect enum JSONText {
    case object([(String, JSONText)])
    case list([JSONText])
    case text(String)
    /// A number, a boolean or null as it is written.
    case word(String)

    /// A default as the policy file has it.
    init(default value: String) {
        switch value {
        case "true", "false", "[]": self = .word(value)
        default: self = Int(value) == nil ? .text(value) : .word(value)
        }
    }

    var written: String { written(indent: "") }

    private func written(indent: String) -> String {
        let inner = indent + "  "
        switch self {
        case .word(let word): return word
        case .text(let text): return Self.quoted(text)
        case .list(let values): return "[" + values.map { $0.written(indent: inner) }.joined(separator: ", ") + "]"
        case .object(let pairs):
            guard !pairs.isEmpty else { return "{}" }
            let lines = pairs.map { "\(inner)\(Self.quoted($0)): \($1.written(indent: inner))" }
            return "{\n" + lines.joined(separator: ",\n") + "\n\(indent)}"
        }
    }

    private static func quoted(_ text: String) -> String {
        let escaped = text.unicodeScalars.map { scalar in
            switch scalar {
            case "\"": "\\\""
            case "\\": "\\\\"
            default: String(scalar)
            }
        }
        return "\"\(escaped.joined())\""
    }
}
