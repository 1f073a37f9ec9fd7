// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
import Network
public import SystemPackage
import Yams

// The file is read as YAML 1.2's core schema (chapter 10.3): true and false alone are booleans, and yes, no, on
// and off are texts. It is walked node by node, so that every error can name the line and the key's path:
// `overrides[0].match.units[2]`, list entries counted from 0 as in jq(1).

extension Policy {
    /// The largest policy file in bytes: room for 50,000 program names, and read in well under a second.
    public static let sizeLimit = 1 << 20

    /// Reads a policy file.
    ///
    /// - Throws: `Failure` for a file that is missing or cannot be read (exit code 77 where that is a matter of
    ///   permission), and as `read(yaml:file:)` does.
    public static func read(contentsOf path: FilePath) throws(Failure) -> Policy {
        let file = path.string
        let bytes: [UInt8]
        do {
            bytes = try readBytes(path, limit: sizeLimit + 1)
        } catch {
            let what = "read policy \(file)"
            switch error {
            case .noSuchFileOrDirectory: throw Failure(.failed, what, "there is no such file")
            case .isDirectory: throw Failure(.failed, what, "it is a directory", hint: "name the file in it")
            default: throw Failure(what, errno: error)
            }
        }
        // Before the encoding, for the cut may go through a character.
        guard bytes.count <= sizeLimit else { throw tooLarge(file) }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw refusal(file, line: lineOfInvalidUTF8(bytes), "it is not UTF-8", hint: "save it as UTF-8")
        }
        return try read(yaml: text, file: file)
    }

    /// Reads the text of a policy file.
    ///
    /// - Parameters:
    ///   - yaml: One YAML document, or nothing at all, which means the defaults. At most `sizeLimit` bytes.
    ///   - file: Its name, for the error.
    /// - Throws: `Failure` for the first thing that is wrong: `read policy FILE: line 4, virtualIP.mode: …`.
    public static func read(yaml: String, file: String) throws(Failure) -> Policy {
        guard yaml.utf8.count <= sizeLimit else { throw tooLarge(file) }
        try checkForAliases(yaml, file: file)
        let (root, duplicate) = try compose(yaml, file: file)
        guard let root else { return Policy() }
        var policy = Policy()
        var ranges: [PlacedRange] = []
        let section = try Value(node: root, path: "", file: file).section(Policy.keys)
        try policy.read(section, &ranges)
        try checkDisjoint(ranges)
        try checkApart(ranges, from: policy.loopbackPrefix)
        try policy.checkPreferLoopback(section)
        if let duplicate { throw duplicate }
        return policy
    }

    private static func tooLarge(_ file: String) -> Failure {
        refusal(file, line: nil, "it is larger than 1 MiB")
    }
}

private func refusal(
    _ file: String, line: Int?, path: String = "", _ why: String, hint remedy: String? = nil
) -> Failure {
    let place = [line.map { "line \($0)" }, path.isEmpty ? nil : path].compactMap(\.self).joined(separator: ", ")
    return Failure(.failed, "read policy \(file)", place.isEmpty ? why : "\(place): \(why)", hint: remedy)
}

private func readBytes(_ path: FilePath, limit: Int) throws(Errno) -> [UInt8] {
    do {
        let file = try FileDescriptor.open(path, .readOnly, options: .closeOnExec)
        return try file.closeAfter {
            var bytes = [UInt8](repeating: 0, count: limit)
            var count = 0
            while count < limit {
                let more = try bytes.withUnsafeMutableBytes {
                    try file.read(into: UnsafeMutableRawBufferPointer(rebasing: $0[count...]))
                }
                if more == 0 { break }
                count += more
            }
            return Array(bytes[..<count])
        }
    } catch let error as Errno {
        throw error
    } catch {
        // swift-system throws nothing else; its closures are untyped.
        throw .ioError
    }
}

// MARK: - From text to nodes

private func lineOfInvalidUTF8(_ bytes: [UInt8]) -> Int {
    var codec = UTF8()
    var rest = bytes.makeIterator()
    var line = 1
    while case .scalarValue(let scalar) = codec.decode(&rest) {
        if scalar == "\n" { line += 1 }
    }
    return line
}

/// Refuses a document with aliases (`*name`).
///
/// Yams replaces an alias by what it stands for, and hashes keys with all that is in them, so that ten lines
/// can keep it busy for ever: they have to be found before it reads them.
private func checkForAliases(_ yaml: String, file: String) throws(Failure) {
    guard let disarmed = disarmingAliases(yaml) else { return }
    // Whatever was an alias is now a plain scalar that begins with the stand-in. The same signs in a comment, in quotes
    // or within a plain scalar are not.
    var nodes = [try compose(disarmed, file: file).root].compactMap(\.self)
    var line: Int?
    while let node = nodes.popLast() {
        switch node {
        case .scalar(let scalar) where scalar.style == .plain && scalar.string.unicodeScalars.first == starStandIn:
            line = [line, scalar.mark?.line].compactMap(\.self).min()
        case .scalar, .alias: break
        case .sequence(let sequence): nodes += sequence
        case .mapping(let mapping): nodes += mapping.flatMap { [$0.key, $0.value] }
        }
    }
    guard let line else { return }
    throw refusal(file, line: line, "YAML aliases (*name) are not supported", hint: "write the entries out")
}

/// The first private character: no sign of YAML's, and in nobody's names.
private let starStandIn: Unicode.Scalar = "\u{e000}"

/// The text with another character for the `*` of all that looks like an alias where YAML could see one,
/// or `nil` where there are no aliases: where nothing does, or nothing looks like an anchor (`&name`).
///
/// Both begin a token, so they follow white space or one of YAML's own signs.
private func disarmingAliases(_ yaml: String) -> String? {
    func isNameByte(_ byte: UInt8?) -> Bool {
        guard let byte else { return false }
        return switch byte {
        case 0x30...0x39, 0x41...0x5a, 0x61...0x7a, UInt8(ascii: "_"), UInt8(ascii: "-"): true
        default: false
        }
    }
    func canPrecede(_ byte: UInt8) -> Bool {
        // Non-ASCII: a byte order mark, and the line breaks that only YAML 1.1 has.
        byte <= 0x20 || byte >= 0x80 || "[]{},:?".utf8.contains(byte)
    }
    var disarmed: [UInt8] = []
    disarmed.reserveCapacity(yaml.utf8.count)
    var hasAnchor = false
    var hasAlias = false
    var previous = UInt8(ascii: "\n")
    var rest = yaml.utf8.makeIterator()
    var next = rest.next()
    while let byte = next {
        next = rest.next()
        let beginsName = canPrecede(previous) && isNameByte(next)
        if beginsName, byte == UInt8(ascii: "&") { hasAnchor = true }
        if beginsName, byte == UInt8(ascii: "*") {
            hasAlias = true
            disarmed += UTF8.encode(starStandIn) ?? .init()
        } else {
            disarmed.append(byte)
        }
        previous = byte
    }
    return hasAnchor && hasAlias ? String(decoding: disarmed, as: UTF8.self) : nil
}

/// The document's root, or `nil` where there is none.
///
/// Yams refuses a mapping with a key twice, but does not say where: the first of the two gets a tag of its own, which
/// makes it another key to Yams, and the section in which they are refuses them itself. What Yams had said
/// is returned as well, in case that they are nowhere in a section.
private func compose(_ yaml: String, file: String) throws(Failure) -> (root: Node?, duplicate: Failure?) {
    var text = yaml
    var duplicate: Failure?
    let attempts = 16  // more keys than that written twice are reported without their path
    for attempt in 1...attempts {
        do {
            // The encoding is given, for its default depends on the environment.
            return (try Parser(yaml: text, encoding: .utf8).singleRoot(), duplicate)
        } catch YamlError.duplicatedKeysInMapping(let keys, let context) {
            let key = keys.first ?? ""
            duplicate =
                duplicate
                ?? refusal(file, line: context.mark.line, path: key.asPathPart, "the key is there twice")
            guard attempt < attempts, let tagged = text.inserting("!\(attempt) ", at: context.mark) else { break }
            text = tagged
        } catch {
            throw duplicate ?? syntaxFailure(error, text: text, file: file)
        }
    }
    throw duplicate ?? refusal(file, line: nil, "it cannot be read")
}

private func syntaxFailure(_ error: any Error, text: String, file: String) -> Failure {
    switch error {
    case YamlError.composer(_, "but found another document", let mark, _):
        return refusal(file, line: mark.line, "a second YAML document begins", hint: "keep one document a file")
    case YamlError.parser(_, let problem, let mark, _) where problem.hasPrefix("Maximum nesting level"):
        return refusal(file, line: mark.line, "lists and mappings are nested too deeply")
    case YamlError.scanner(let context, let problem, let mark, _),
        YamlError.parser(let context, let problem, let mark, _),
        YamlError.composer(let context, let problem, let mark, _):
        var why = "this is not YAML: \(problem)"
        if let context {
            why += " \(context.text)"
            if context.mark.line != mark.line { why += " that begins on line \(context.mark.line)" }
        }
        let remedy: String? =
            switch (context?.text, problem) {
            case ("while scanning an alias", _), (_, "found undefined alias"):
                "put a text that begins with * in quotes"
            case ("while scanning an anchor", _): "put a text that begins with & in quotes"
            case (_, "found character that cannot start any token"):
                "indent with spaces, and put a text with signs in it in quotes"
            default: nil
            }
        return refusal(file, line: mark.line, why, hint: remedy)
    case YamlError.reader(let problem, let offset, let value, _):
        let line = offset.map { text.prefix($0).count(where: \.isNewline) + 1 }
        return refusal(
            file, line: line, "this is not YAML: \(problem)\(value > 0 ? " (U+\(String(value, radix: 16)))" : "")")
    default:
        return refusal(file, line: nil, "\(error)")
    }
}

extension String {
    /// The text with something put in at a mark, whose lines and columns are libyaml's: columns count
    /// Unicode scalars, and lines end as in YAML 1.1 (5.4).
    fileprivate func inserting(_ insertion: String, at mark: Mark) -> String? {
        let scalars = unicodeScalars
        var index = scalars.startIndex
        var line = 1
        while line < mark.line, index < scalars.endIndex {
            let scalar = scalars[index]
            index = scalars.index(after: index)
            switch scalar {
            case "\r" where index < scalars.endIndex && scalars[index] == "\n": break
            case "\r", "\n", "\u{85}", "\u{2028}", "\u{2029}": line += 1
            default: break
            }
        }
        guard let place = scalars.index(index, offsetBy: mark.column - 1, limitedBy: scalars.endIndex) else {
            return nil
        }
        return String(scalars[..<place]) + insertion + String(scalars[place...])
    }

    /// As a part of a key's path: as it is where it looks like a key of ours, else in quotes.
    fileprivate var asPathPart: String {
        !isEmpty && count <= 32 && allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber) } ? self : quotedForMessage
    }
}

// MARK: - Nodes of a known type

/// A node with its place.
private struct Value {
    enum Content {
        case null
        case boolean(Bool)
        case number(String)
        case text(String)
        case list([Node])
        case mapping([(key: Node, value: Node)])
    }

    let node: Node
    let path: String
    let file: String

    func refused(_ why: String, hint remedy: String? = nil) -> Failure {
        refusal(file, line: node.mark?.line, path: path, why, hint: remedy)
    }

    /// What the node is, by the core schema.
    func content() throws(Failure) -> Content {
        // A scalar's tag is read as it stands: `Node.tag` would resolve it by YAML 1.1.
        switch node {
        case .scalar(let scalar):
            switch scalar.tag.description {
            case "" where scalar.style == .plain: return Self.content(ofPlain: scalar.string)
            case "", "!", Tag.Name.str.rawValue: return .text(scalar.string)
            default: throw refusedTag(scalar.tag)
            }
        case .sequence(let sequence):
            guard ["", "!", Tag.Name.seq.rawValue].contains(sequence.tag.description) else {
                throw refusedTag(sequence.tag)
            }
            return .list(Array(sequence))
        case .mapping(let mapping):
            guard ["", "!", Tag.Name.map.rawValue].contains(mapping.tag.description) else {
                throw refusedTag(mapping.tag)
            }
            return .mapping(mapping.map { (key: $0.key, value: $0.value) })
        case .alias:
            throw refused("YAML aliases (*name) are not supported", hint: "write the entries out")
        }
    }

    private func refusedTag(_ tag: Tag) -> Failure {
        refused("the YAML tag \(tag.description.quotedForMessage) is not supported", hint: "leave it out")
    }

    /// YAML 1.2.2, 10.3.2. The forms of a number that it has and one only hopes for are texts here as there.
    private static func content(ofPlain string: String) -> Content {
        switch string {
        case "", "~", "null", "Null", "NULL": return .null
        case "true", "True", "TRUE": return .boolean(true)
        case "false", "False", "FALSE": return .boolean(false)
        default: return isNumber(string) ? .number(string) : .text(string)
        }
    }

    private static func isNumber(_ string: String) -> Bool {
        let digits = string.utf8.dropFirst(2)
        if string.hasPrefix("0o") { return !digits.isEmpty && digits.allSatisfy { 0x30...0x37 ~= $0 } }
        if string.hasPrefix("0x") { return !digits.isEmpty && digits.allSatisfy { isxdigit(Int32($0)) != 0 } }
        let infinities = [".inf", ".Inf", ".INF"]
        if [".nan", ".NaN", ".NAN"].contains(string) || infinities.contains(string) { return true }
        if let sign = string.first, "+-".contains(sign), infinities.contains(String(string.dropFirst())) { return true }
        // With no more than these signs, what Swift reads as a number is what YAML does.
        return string.utf8.allSatisfy { 0x30...0x39 ~= $0 || "+-.eE".utf8.contains($0) } && Double(string) != nil
    }

    private func wrongType(expected: String, found content: Content, hint remedy: String? = nil) -> Failure {
        let found =
            switch content {
            case .null: "nothing"
            case .boolean(let value): "the boolean \(value)"
            case .number(let digits): "the number \(digits.quotedForMessage)"
            case .text(let text): "the text \(text.quotedForMessage)"
            case .list: "a list"
            case .mapping: "a mapping"
            }
        return refused("expected \(expected), found \(found)", hint: remedy)
    }

    func boolean() throws(Failure) -> Bool {
        let content = try content()
        switch content {
        case .boolean(let value): return value
        case .text(let text) where ["yes", "no", "on", "off"].contains(text.lowercased()):
            let meant = ["yes", "on"].contains(text.lowercased())
            throw wrongType(expected: "true or false", found: content, hint: "write \(meant)")
        default: throw wrongType(expected: "true or false", found: content)
        }
    }

    /// A text without control characters, at least one character long.
    func text() throws(Failure) -> String {
        let content = try content()
        switch content {
        case .text(let text):
            guard !text.isEmpty else { throw refused("it is empty") }
            if let character = text.firstForbiddenCharacter {
                throw refused("\(text.quotedForMessage) has the character \(character) in it")
            }
            return text
        case .boolean, .number: throw wrongType(expected: "a text", found: content, hint: "put it in quotes")
        case .null, .list, .mapping: throw wrongType(expected: "a text", found: content)
        }
    }

    func choice<Choice>(of type: Choice.Type = Choice.self) throws(Failure) -> Choice
    where Choice: RawRepresentable<String> & CaseIterable {
        let words = Choice.allCases.map(\.rawValue)
        let content = try content()
        guard case .text(let text) = content else {
            throw wrongType(expected: "one of \(words.joined(separator: ", "))", found: content)
        }
        guard let choice = Choice(rawValue: text) else {
            throw refused(
                "\(text.quotedForMessage) is not one of \(words.joined(separator: ", "))",
                hint: text.nearest(of: words).map { "did you mean '\($0)'?" })
        }
        return choice
    }

    /// 1…65535 in decimal digits: the numbers that YAML 1.1 and 1.2 read differently begin with 0.
    func port() throws(Failure) -> UInt16 {
        let content = try content()
        guard case .number(let digits) = content else {
            let quoted = if case .text(let text) = content { UInt16(text) != nil } else { false }
            throw wrongType(
                expected: "a port, 1 to 65535", found: content, hint: quoted ? "write it without quotes" : nil)
        }
        guard digits.utf8.allSatisfy({ 0x30...0x39 ~= $0 }), digits.utf8.first != 0x30,
            let port = UInt16(digits)
        else {
            throw refused("\(digits.quotedForMessage) is not a port, 1 to 65535")
        }
        return port
    }

    /// 0…`limit` in decimal digits, as ``port()``.
    func count(_ expected: String, limit: Int) throws(Failure) -> Int {
        let content = try content()
        guard case .number(let digits) = content else {
            let quoted = if case .text(let text) = content { Int(text) != nil } else { false }
            throw wrongType(
                expected: "\(expected), 0 to \(limit)", found: content, hint: quoted ? "write it without quotes" : nil)
        }
        guard digits.utf8.allSatisfy({ 0x30...0x39 ~= $0 }), digits == "0" || digits.utf8.first != 0x30,
            let number = Int(digits), number <= limit
        else {
            throw refused("\(digits.quotedForMessage) is not \(expected), 0 to \(limit)")
        }
        return number
    }

    /// The entries of a list, no two of which are equal.
    func list<Element: Hashable>(
        of read: (Value) throws(Failure) -> Element
    ) throws(Failure) -> [Element] {
        var seen: [Element: Int] = [:]
        return try values().map { value throws(Failure) in
            let element = try read(value)
            if let line = seen[element] {
                throw value.refused(
                    "\("\(element)".quotedForMessage) is on the list already, on line \(line)", hint: "leave one out")
            }
            seen[element] = value.node.mark?.line ?? 0
            return element
        }
    }

    /// The entries of a list with their places.
    func values(orNothing: Bool = false) throws(Failure) -> [Value] {
        let content = try content()
        switch content {
        case .list(let nodes):
            return nodes.enumerated().map { Value(node: $1, path: "\(path)[\($0)]", file: file) }
        case .null where orNothing: return []
        case .null: throw wrongType(expected: "a list", found: content, hint: "write [] for an empty one")
        case .text, .number, .boolean:
            throw wrongType(expected: "a list", found: content, hint: "put it in brackets: [ ]")
        case .mapping: throw wrongType(expected: "a list", found: content)
        }
    }

    /// What a mapping with none but these keys holds; nothing at all is an empty one.
    func section(_ keys: [String]) throws(Failure) -> Section {
        let content = try content()
        let pairs: [(key: Node, value: Node)]
        switch content {
        case .mapping(let all): pairs = all
        case .null: pairs = []
        default:
            throw wrongType(expected: "a mapping with the keys \(keys.joined(separator: ", "))", found: content)
        }
        var values: [String: Value] = [:]
        var lines: [String: Int] = [:]
        for (keyNode, node) in pairs {
            guard case .scalar(let scalar) = keyNode else {
                throw Value(node: keyNode, path: path, file: file).refused("a key is a list or a mapping")
            }
            let key = scalar.string
            let keyPath = path.isEmpty ? key.asPathPart : "\(path).\(key.asPathPart)"
            let keyValue = Value(node: keyNode, path: keyPath, file: file)
            guard keys.contains(key) else {
                throw keyValue.refused(
                    "there is no such key",
                    hint: key.nearest(of: keys).map { "did you mean '\($0)'?" }
                        ?? "the keys here are \(keys.joined(separator: ", "))")
            }
            if let line = lines[key] {
                throw keyValue.refused("the key is there twice, first on line \(line)", hint: "leave one out")
            }
            lines[key] = scalar.mark?.line ?? 0
            values[key] = Value(node: node, path: keyPath, file: file)
        }
        return Section(value: self, values: values)
    }
}

/// A mapping whose keys are known.
private struct Section {
    let value: Value
    let values: [String: Value]

    subscript(key: String) -> Value? { values[key] }
}

extension String {
    /// The word that this one is a slip of the keyboard away from, if any.
    fileprivate func nearest(of words: [String]) -> String? {
        guard utf8.count <= 64 else { return nil }
        let distances = words.map { (word: $0, distance: lowercased().editDistance(to: $0.lowercased())) }
        return distances.min { $0.distance < $1.distance }
            .flatMap { $0.distance <= max(1, $0.word.count / 3) ? $0.word : nil }
    }

    /// Levenshtein's distance.
    private func editDistance(to other: String) -> Int {
        let other = Array(other)
        var row = Array(0...other.count)
        for (i, character) in enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for (j, otherCharacter) in other.enumerated() {
                let replaced = diagonal + (character == otherCharacter ? 0 : 1)
                diagonal = row[j + 1]
                row[j + 1] = Swift.min(replaced, row[j] + 1, diagonal + 1)
            }
        }
        return row[other.count]
    }
}

// MARK: - The sections

/// A pool's range with its place.
private struct PlacedRange {
    let range: AddressRange
    let value: Value
    /// Its place among all ranges of the file.
    let index: Int
}

private func readProgram(_ value: Value) throws(Failure) -> ProgramEntry {
    let text = try value.text()
    do {
        return try ProgramEntry(text)
    } catch {
        throw value.refused("program \(text.quotedForMessage): \(error.reason)", hint: error.hint)
    }
}

private func readRange(_ value: Value) throws(Failure) -> AddressRange {
    let text = try value.text()
    let range: AddressRange
    do {
        range = try AddressRange(text)
    } catch {
        throw value.refused("\(text.quotedForMessage): \(error.reason)", hint: error.hint)
    }
    if let why = range.whyNotAssignable {
        throw value.refused("\(text.quotedForMessage): \(why)", hint: "leave them to the host")
    }
    return range
}

private func readPrefix(_ value: Value) throws(Failure) -> LoopbackPrefix {
    let text = try value.text()
    do {
        return try LoopbackPrefix(text)
    } catch {
        throw value.refused("\(text.quotedForMessage): \(error.reason)", hint: error.hint)
    }
}

/// An interface's name, by the rules of dev_valid_name (net/core/dev.c).
private func readInterface(_ value: Value) throws(Failure) -> String {
    let name = try value.text()
    let limit = Int(IFNAMSIZ) - 1
    guard name.utf8.count <= limit else {
        throw value.refused("\(name.quotedForMessage) is no interface: a name has at most \(limit) bytes")
    }
    // Scalars, for a slash and a combining accent are one character, which is not "/".
    guard name != ".", name != "..",
        !name.unicodeScalars.contains(where: { "/:".unicodeScalars.contains($0) || $0.properties.isWhitespace })
    else {
        throw value.refused("\(name.quotedForMessage) is no interface: a name has no slash, colon or space")
    }
    return name
}

extension Policy {
    fileprivate static let keys = [
        "virtualIP", "virtualLoopback", "preferLoopback", "wildcardName", "isolation", "sessions", "history",
        "overrides",
    ]
    fileprivate static let preferLoopbackKeys = ["enabled", "programs"]

    fileprivate mutating func read(_ section: Section, _ ranges: inout [PlacedRange]) throws(Failure) {
        if let value = section["virtualIP"] {
            virtualIP = try VirtualIP(value, &ranges)
            virtualIP.addresses.restSeconds = virtualIP.addresses.restSeconds ?? Addresses.defaultRestSeconds
            virtualIP.addresses.probeSeconds = virtualIP.addresses.probeSeconds ?? Addresses.defaultProbeSeconds
        }
        if let value = section["virtualLoopback"] {
            virtualLoopback = try VirtualLoopback(value)
            virtualLoopback.prefix = virtualLoopback.prefix ?? .default
        }
        if let value = section["preferLoopback"] { preferLoopback = try PreferLoopback(value) }
        if let value = section["wildcardName"] { wildcardName = try value.choice() }
        if let value = section["isolation"] { isolation = try value.boolean() }
        if let value = section["sessions"] {
            if let unit = try value.section(["unit"])["unit"] { sessions.unit = try unit.choice() }
        }
        if let days = try section["history"]?.section(["retentionDays"])["retentionDays"] {
            history.retentionDays = try days.count("a number of days", limit: History.retentionLimit)
        }
        guard let list = try section["overrides"]?.values(orNothing: true) else { return }
        var lines: [String: Int] = [:]
        for value in list {
            guard overrides.count < Self.overrideLimit else {
                throw value.refused("there are \(list.count) overrides, at most \(Self.overrideLimit) are possible")
            }
            let override = try Override(value, &ranges)
            if let line = lines[override.name] {
                throw value.refused(
                    "the override on line \(line) has the name \(override.name.quotedForMessage) as well",
                    hint: "give each its own")
            }
            lines[override.name] = value.node.mark?.line ?? 0
            overrides.append(override)
        }
    }

    /// Preferred loopback needs both the others, in the base policy and in whatever an override makes of it.
    fileprivate func checkPreferLoopback(_ section: Section) throws(Failure) {
        try checkPreferLoopback(rules(for: nil), section, suffix: "")
        guard let list = try section["overrides"]?.values(orNothing: true) else { return }
        for (override, value) in zip(overrides, list) {
            try checkPreferLoopback(
                rules(for: override), value.section(Override.keys),
                suffix: " under the override \(override.name.quotedForMessage)")
        }
    }

    private func checkPreferLoopback(_ rules: Rules, _ section: Section, suffix: String) throws(Failure) {
        guard rules.preferLoopback.enabled else { return }
        let off = [
            rules.virtualIP.enabled ? nil : "virtualIP", rules.virtualLoopback.enabled ? nil : "virtualLoopback",
        ].compactMap(\.self)
        guard let first = off.first else { return }
        // An override may have switched on the one or switched off the other: its own line is the place.
        let enabling = try section["preferLoopback"]?.section(Self.preferLoopbackKeys)["enabled"]
        let place = enabling ?? off.lazy.compactMap { section[$0] }.first ?? section.value
        throw place.refused(
            "preferLoopback is enabled while \(off.joined(separator: " and ")) \(off.count > 1 ? "are" : "is") off\(suffix)",
            hint: "enable \(off.count > 1 ? "both" : first), or disable preferLoopback")
    }

    fileprivate static func checkApart(_ ranges: [PlacedRange], from prefix: LoopbackPrefix) throws(Failure) {
        let loopbacks = prefix.network.value...prefix.network.value + UInt128(UInt32.max)
        for placed in ranges where placed.range.family == .v6 {
            guard loopbacks.overlaps(placed.range.first.value...placed.range.last.value) else { continue }
            throw placed.value.refused(
                "\(placed.range) overlaps \(prefix), the prefix of the IPv6 loopbacks",
                hint: "choose another virtualLoopback.prefix, or other addresses")
        }
    }

    fileprivate static func checkDisjoint(_ ranges: [PlacedRange]) throws(Failure) {
        // In the order of their first addresses, the first to overlap any before it overlaps the one just before it.
        var previous: PlacedRange?
        for placed in ranges.sorted(by: { $0.range.first < $1.range.first }) {
            if let previous, previous.range.overlaps(placed.range) {
                let (earlier, later) = previous.index < placed.index ? (previous, placed) : (placed, previous)
                throw later.value.refused(
                    "\(later.range) overlaps \(earlier.range) (line \(earlier.value.node.mark?.line ?? 0), \(earlier.value.path))",
                    hint: "give each address to one range")
            }
            previous = placed
        }
    }
}

extension Policy.VirtualIP {
    fileprivate init(_ value: Value, _ ranges: inout [PlacedRange]) throws(Failure) {
        let section = try value.section(["enabled", "mode", "programs", "whenUnavailable", "addresses"])
        self.init()
        if let value = section["enabled"] { enabled = try value.boolean() }
        if let value = section["mode"] { mode = try value.choice() }
        if let value = section["programs"] { programs = try value.list(of: readProgram) }
        if let value = section["whenUnavailable"] { whenUnavailable = try value.choice() }
        if let value = section["addresses"] { addresses = try Policy.Addresses(value, &ranges) }
    }
}

extension Policy.Addresses {
    fileprivate init(_ value: Value, _ ranges: inout [PlacedRange]) throws(Failure) {
        let section = try value.section([
            "source", "placement", "interface", "pool", "restSeconds", "probeSeconds", "reservations",
        ])
        self.init()
        if let value = section["source"] { source = try value.choice() }
        if let value = section["interface"] {
            interface = try readInterface(value)
            if source == .dhcp, interface == "lo" {
                throw value.refused("no DHCP server is on lo", hint: "name the interface of the server's network")
            }
        }
        if let values = try section["pool"]?.values() {
            for value in values {
                let range = try readRange(value)
                if source == .dhcp, range.family == .v4 {
                    throw value.refused(
                        "with source: dhcp, IPv4 addresses come from the server, and the pool is for IPv6 alone",
                        hint: "leave \(range) out, or use source: pool")
                }
                pool.append(range)
                ranges.append(PlacedRange(range: range, value: value, index: ranges.count))
            }
        }
        if let value = section["placement"] {
            placement = try value.choice()
            try checkPlacement(value, interface: section["interface"], pool: section["pool"])
        }
        if let value = section["restSeconds"] {
            restSeconds = try value.count("a number of seconds", limit: Self.restLimit)
        }
        if let value = section["probeSeconds"] {
            probeSeconds = try value.count("a number of seconds", limit: Self.probeLimit)
        }
        if let values = try section["reservations"]?.values(orNothing: true) { try readReservations(values) }
    }

    private func checkPlacement(_ value: Value, interface: Value?, pool values: Value?) throws(Failure) {
        guard !pool.isEmpty else {
            throw value.refused("it belongs to a pool, and there is none beside it", hint: "write it where the pool is")
        }
        guard placement == .route else { return }
        if source == .dhcp {
            throw value.refused("with source: dhcp, each address is on an interface", hint: "leave it out")
        }
        if let interface {
            throw interface.refused("with placement: route, no address is on an interface", hint: "leave it out")
        }
        for (range, value) in zip(pool, try values?.values() ?? []) where range.prefix == nil {
            throw value.refused(
                "\(range) is no prefix, and with placement: route each is local as a whole",
                hint: "write prefixes, like 10.20.0.0/24")
        }
    }

    private mutating func readReservations(_ values: [Value]) throws(Failure) {
        var lines: (users: [String: Int], addresses: [IPAddress: Int]) = ([:], [:])
        for value in values {
            let section = try value.section(["user", "addresses"])
            guard let user = section["user"], let addresses = section["addresses"] else {
                throw value.refused("a reservation has a user and addresses", hint: "write both")
            }
            var reservation = Policy.Reservation(user: try user.text(), addresses: [])
            if let line = lines.users[reservation.user] {
                throw user.refused(
                    "\(reservation.user.quotedForMessage) has a reservation already, on line \(line)",
                    hint: "write all addresses there")
            }
            lines.users[reservation.user] = user.node.mark?.line ?? 0
            for place in try addresses.values() {
                let text = try place.text()
                guard let address = IPAddress(text) else {
                    throw place.refused("\(text.quotedForMessage) is not an IP address")
                }
                guard pool.contains(where: { $0.contains(address) }) else {
                    throw place.refused(
                        "\(address) is not in the pool beside it"
                            + (pool.contains { $0.family == address.family }
                                ? "" : ", which has no \(address.family.rawValue) range"),
                        hint: "reserve addresses of that pool alone")
                }
                if let line = lines.addresses[address] {
                    throw place.refused("\(address) is reserved already, on line \(line)", hint: "leave one out")
                }
                lines.addresses[address] = place.node.mark?.line ?? 0
                reservation.addresses.append(address)
            }
            reservations.append(reservation)
        }
    }
}

extension Policy.VirtualLoopback {
    /// - Parameter isBase: Whether it is the base policy's, not an override's.
    fileprivate init(_ value: Value, isBase: Bool = true) throws(Failure) {
        let section = try value.section(["enabled", "programs", "excludedPorts", "fallback", "prefix"])
        self.init()
        if let value = section["enabled"] { enabled = try value.boolean() }
        if let value = section["programs"] { programs = try value.list(of: readProgram) }
        if let value = section["excludedPorts"] {
            excludedPorts = Set(try value.list { value throws(Failure) in try value.port() })
        }
        if let value = section["fallback"] { fallback = try value.choice() }
        if let value = section["prefix"] {
            guard isBase else {
                throw value.refused(
                    "the prefix is for the whole host, not for some sessions",
                    hint: "write it in the base policy's virtualLoopback")
            }
            prefix = try readPrefix(value)
        }
    }
}

extension Policy.PreferLoopback {
    fileprivate init(_ value: Value) throws(Failure) {
        let section = try value.section(Policy.preferLoopbackKeys)
        self.init()
        if let value = section["enabled"] { enabled = try value.boolean() }
        if let value = section["programs"] { programs = try value.list(of: readProgram) }
    }
}

extension Policy.Override {
    fileprivate static let keys = [
        "name", "match", "virtualIP", "virtualLoopback", "preferLoopback", "wildcardName", "isolation",
    ]

    fileprivate init(_ value: Value, _ ranges: inout [PlacedRange]) throws(Failure) {
        let section = try value.section(Self.keys)
        guard let name = section["name"] else {
            throw value.refused("it has no name", hint: "give it one that no other override has")
        }
        self.init(name: try name.text())
        if let value = section["match"] { match = try Policy.Match(value) }
        if let value = section["virtualIP"] { virtualIP = try Policy.VirtualIP(value, &ranges) }
        if let value = section["virtualLoopback"] {
            virtualLoopback = try Policy.VirtualLoopback(value, isBase: false)
        }
        if let value = section["preferLoopback"] { preferLoopback = try Policy.PreferLoopback(value) }
        if let value = section["wildcardName"] { wildcardName = try value.choice() }
        if let value = section["isolation"] { isolation = try value.boolean() }
    }
}

extension Policy.Match {
    fileprivate init(_ value: Value) throws(Failure) {
        let section = try value.section(["users", "groups", "units"])
        self.init()
        let readText: (Value) throws(Failure) -> String = { value throws(Failure) in try value.text() }
        if let value = section["users"] { users = try value.list(of: readText) }
        if let value = section["groups"] { groups = try value.list(of: readText) }
        if let value = section["units"] { units = try value.list(of: readText) }
    }
}
