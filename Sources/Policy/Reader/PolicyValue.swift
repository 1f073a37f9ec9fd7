// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host

// Scalars follow YAML 1.2's core schema (chapter 10.3): only true and false are booleans; yes, no, on and off are
// texts.

/// Collects the problems of one file, and the places of its values.
final class FoundProblems {
    private let file: String
    private(set) var all: [PolicyProblem] = []
    /// Where each value is, by the path of its key.
    fileprivate(set) var places: [String: YAMLNode.Mark] = [:]
    /// Where each key itself is, by its path.
    fileprivate(set) var keyPlaces: [String: YAMLNode.Mark] = [:]

    init(file: String) {
        self.file = file
    }

    /// Beyond the limit, `message` and `hint` are not evaluated: a hint may compare a word with each known word.
    func report(
        _ message: @autoclosure () -> String, at mark: YAMLNode.Mark?, key: String = "",
        hint: @autoclosure () -> String? = nil
    ) {
        guard all.count < PolicyProblems.limit else { return }
        all.append(
            PolicyProblem(
                file: file, line: mark?.line, column: mark?.column, key: key.isEmpty ? nil : key, message: message(),
                hint: hint()))
    }

    /// The problems in the order of the text.
    var sorted: [PolicyProblem] {
        all.enumerated().sorted { one, other in
            (one.element.line ?? 0, one.element.column ?? 0, one.offset)
                < (other.element.line ?? 0, other.element.column ?? 0, other.offset)
        }.map(\.element)
    }
}

/// A node and its key. If it cannot be read as the requested type, that is reported and the result is `nil`.
struct PolicyValue {
    enum Content {
        case null
        case boolean(Bool)
        case number(String)
        case text(String)
        case list([YAMLNode])
        case mapping([(key: YAMLNode, value: YAMLNode)])
    }

    let node: YAMLNode
    /// The path for messages: `overrides[0].virtualIP.programs`.
    let path: String
    /// The path in ``PolicyKey/all``: `virtualIP.programs`.
    let key: String
    let problems: FoundProblems

    /// The root of the document.
    init(root node: YAMLNode, _ problems: FoundProblems) {
        self.init(node: node, path: "", key: "", problems: problems)
    }

    private init(node: YAMLNode, path: String, key: String, problems: FoundProblems) {
        self.node = node
        self.path = path
        self.key = key
        self.problems = problems
        problems.places[path] = node.mark
    }

    var line: Int { node.mark.line }

    func refuse(_ message: @autoclosure () -> String, hint: @autoclosure () -> String? = nil) {
        problems.report(message(), at: node.mark, key: path, hint: hint())
    }

    /// The node's content by the core schema.
    private func content() -> Content? {
        switch node.content {
        case .scalar(let text, let isPlain):
            switch node.tag {
            case "" where isPlain: return Self.content(ofPlain: text)
            case "", "!", "tag:yaml.org,2002:str": return .text(text)
            default: break
            }
        case .sequence(let nodes):
            if ["", "!", "tag:yaml.org,2002:seq"].contains(node.tag) { return .list(nodes) }
        case .mapping(let pairs):
            if ["", "!", "tag:yaml.org,2002:map"].contains(node.tag) { return .mapping(pairs) }
        case .alias(let isKnown):
            refuse(
                "YAML aliases (*name) are not supported",
                hint: isKnown ? "write the entries out" : "put a text that begins with * in quotes")
            return nil
        }
        refuse("the YAML tag \(node.tag.quotedForMessage) is not supported", hint: "leave it out")
        return nil
    }

    /// Reads a plain scalar: YAML 1.2.2, 10.3.2. A text that only resembles a number is a text.
    private static func content(ofPlain string: String) -> Content {
        switch string {
        case "", "~", "null", "Null", "NULL": .null
        case "true", "True", "TRUE": .boolean(true)
        case "false", "False", "FALSE": .boolean(false)
        default: isNumber(string) ? .number(string) : .text(string)
        }
    }

    private static func isNumber(_ string: String) -> Bool {
        let digits = string.utf8.dropFirst(2)
        if string.hasPrefix("0o") { return !digits.isEmpty && digits.allSatisfy { 0x30...0x37 ~= $0 } }
        if string.hasPrefix("0x") { return !digits.isEmpty && digits.allSatisfy { isxdigit(Int32($0)) != 0 } }
        let infinities = [".inf", ".Inf", ".INF"]
        if [".nan", ".NaN", ".NAN"].contains(string) || infinities.contains(string) { return true }
        if let sign = string.first, "+-".contains(sign), infinities.contains(String(string.dropFirst())) { return true }
        // With only these characters, Swift and YAML agree on what a number is.
        return string.utf8.allSatisfy { 0x30...0x39 ~= $0 || "+-.eE".utf8.contains($0) } && Double(string) != nil
    }

    private func refuse(expected: String, found content: Content, hint: String? = nil) {
        let found =
            switch content {
            case .null: "nothing"
            case .boolean(let value): "the boolean \(value)"
            case .number(let digits): "the number \(digits.quotedForMessage)"
            case .text(let text): "the text \(text.quotedForMessage)"
            case .list: "a list"
            case .mapping: "a mapping"
            }
        refuse("expected \(expected), found \(found)", hint: hint)
    }

    func boolean() -> Bool? {
        guard let content = content() else { return nil }
        switch content {
        case .boolean(let value): return value
        case .text(let text) where ["yes", "no", "on", "off"].contains(text.lowercased()):
            let meant = ["yes", "on"].contains(text.lowercased())
            refuse(expected: "true or false", found: content, hint: "write \(meant)")
        default: refuse(expected: "true or false", found: content)
        }
        return nil
    }

    /// A text of at least one character, without control characters.
    func text() -> String? {
        guard let content = content() else { return nil }
        switch content {
        case .text(let text):
            if text.isEmpty {
                refuse("it is empty")
            } else if let character = text.firstForbiddenCharacter {
                refuse("\(text.quotedForMessage) has the character \(character) in it")
            } else {
                return text
            }
        case .boolean, .number: refuse(expected: "a text", found: content, hint: "put it in quotes")
        case .null, .list, .mapping: refuse(expected: "a text", found: content)
        }
        return nil
    }

    func choice<Choice>(of type: Choice.Type = Choice.self) -> Choice?
    where Choice: RawRepresentable<String> & CaseIterable {
        let words = Choice.allCases.map(\.rawValue)
        guard let content = content() else { return nil }
        guard case .text(let text) = content else {
            refuse(expected: "one of \(words.joined(separator: ", "))", found: content)
            return nil
        }
        guard let choice = Choice(rawValue: text) else {
            refuse(
                "\(text.quotedForMessage) is not one of \(words.joined(separator: ", "))",
                hint: text.nearest(of: words).map { "did you mean '\($0)'?" })
            return nil
        }
        return choice
    }

    /// A whole number in decimal digits without a leading zero: YAML 1.1 and 1.2 read numbers with one differently.
    ///
    /// - Parameter expected: for the message: `a number of seconds`.
    func number(_ expected: String, _ range: ClosedRange<Int>) -> Int? {
        content().flatMap { number(expected, range, $0) }
    }

    /// A port, or a range of ports: `6010-6063`.
    func ports() -> PortRange? {
        let all = 1...Int(UInt16.max)
        guard let content = content() else { return nil }
        guard case .text(let text) = content, text.wholeMatch(of: /[0-9]+ *-.*/) != nil else {
            return number("a port", all, content).map { PortRange(first: UInt16($0), last: UInt16($0)) }
        }
        guard let range = PortRange(text) else {
            refuse("\(text.quotedForMessage) is not a range of ports, FIRST-LAST from 1 to 65535")
            return nil
        }
        return range
    }

    private func number(_ expected: String, _ range: ClosedRange<Int>, _ content: Content) -> Int? {
        let expected = "\(expected), \(range.lowerBound) to \(range.upperBound)"
        guard case .number(let digits) = content else {
            let isQuoted = if case .text(let text) = content { Int(text) != nil } else { false }
            refuse(expected: expected, found: content, hint: isQuoted ? "write it without quotes" : nil)
            return nil
        }
        guard digits.utf8.allSatisfy({ 0x30...0x39 ~= $0 }), digits == "0" || digits.utf8.first != 0x30,
            let number = Int(digits), range.contains(number)
        else {
            refuse("\(digits.quotedForMessage) is not \(expected)")
            return nil
        }
        return number
    }

    /// The entries of a list that can be read. An entry that equals an earlier one is reported.
    func list<Element: Hashable>(of read: (PolicyValue) -> Element?) -> [Element]? {
        var seen: [Element: Int] = [:]
        return values()?.compactMap { value in
            guard let element = read(value) else { return nil }
            if let line = seen[element] {
                value.refuse(
                    "\("\(element)".quotedForMessage) is on the list already, on line \(line)", hint: "leave one out")
                return nil
            }
            seen[element] = value.line
            return element
        }
    }

    /// The entries of a list.
    func values(orNothing: Bool = false) -> [PolicyValue]? {
        guard let content = content() else { return nil }
        switch content {
        case .list(let nodes):
            return nodes.enumerated().map {
                PolicyValue(node: $1, path: "\(path)[\($0)]", key: key + "[]", problems: problems)
            }
        case .null where orNothing: return []
        case .null: refuse(expected: "a list", found: content, hint: "write [] for an empty one")
        case .text, .number, .boolean: refuse(expected: "a list", found: content, hint: "put it in brackets: [ ]")
        case .mapping: refuse(expected: "a list", found: content)
        }
        return nil
    }

    /// The values of a mapping by the names of their keys; an empty mapping if there is no value.
    ///
    /// - Parameter name: the path of the section whose keys it has, if it is not its own.
    func section(as name: String? = nil) -> [String: PolicyValue]? {
        let key = name ?? self.key
        let names = PolicyKey.namesInSection[key] ?? []
        guard let content = content() else { return nil }
        let pairs: [(key: YAMLNode, value: YAMLNode)]
        switch content {
        case .mapping(let all): pairs = all
        case .null: pairs = []
        default:
            refuse(expected: "a mapping with the keys \(names.joined(separator: ", "))", found: content)
            return nil
        }
        var values: [String: PolicyValue] = [:]
        var lines: [String: Int] = [:]
        for (keyNode, node) in pairs {
            guard case .scalar(let name, _) = keyNode.content else {
                problems.report(
                    "a key is a list, a mapping or an alias", at: keyNode.mark, key: path, hint: "write its name")
                continue
            }
            let path = path.isEmpty ? name.asPathPart : "\(path).\(name.asPathPart)"
            guard names.contains(name) else {
                problems.report(
                    "there is no such key", at: keyNode.mark, key: path,
                    hint: (name.nearest(of: names).map { "did you mean '\($0)'? " } ?? "")
                        + "the keys here are \(names.joined(separator: ", "))")
                continue
            }
            if let line = lines[name] {
                problems.report(
                    "the key is given twice, first on line \(line)", at: keyNode.mark, key: path,
                    hint: "leave one out")
                continue
            }
            lines[name] = keyNode.mark.line
            problems.keyPlaces[path] = keyNode.mark
            values[name] = PolicyValue(
                node: node, path: path, key: key.isEmpty ? name : "\(key).\(name)", problems: problems)
        }
        return values
    }
}

extension String {
    /// The text as a part of a key's path: in quotes, unless it looks like a key of the policy file.
    fileprivate var asPathPart: String {
        !isEmpty && count <= 32 && allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber) } ? self : quotedForMessage
    }

    /// The word that this one is probably a misspelling of, if any.
    fileprivate func nearest(of words: [String]) -> String? {
        guard utf8.count <= 64 else { return nil }
        let distances = words.map { (word: $0, distance: lowercased().editDistance(to: $0.lowercased())) }
        return distances.min { $0.distance < $1.distance }
            .flatMap { $0.distance <= max(1, $0.word.count / 3) ? $0.word : nil }
    }

    /// The Levenshtein distance.
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
