// SPDX-License-Identifier: Apache-2.0

/// The hosts line of an nsswitch.conf(5), as libc reads it, and the edits that put the name service module into it
/// and take it out. All else of the file stays as it is, byte for byte.
package struct HostsLine {
    /// A source and the actions that stand behind it.
    package struct Source {
        package var name: String
        /// The words in its brackets: `NOTFOUND=return`.
        package var actions: [String]
        /// From its first byte to behind its last, its brackets included.
        package var range: Range<Int>
    }

    /// The source's name, after which libc names the library.
    package static let module = "vip"
    /// The module answers TRYAGAIN where the program may not be told the host's own address; see nss/module.c.
    package static let insertion = "\(module) [TRYAGAIN=return] "
    /// Sources that know this host by its name, each in its own way: none may be asked before the module.
    package static func knowsThisHost(_ name: String) -> Bool {
        ["files", "db", "dns", "resolve", "myhostname"].contains(name) || name.hasPrefix("mdns")
    }

    /// The whole file.
    package let bytes: [UInt8]
    /// In the order in which they are asked.
    package let sources: [Source]
    /// Of the line, without a comment.
    private let range: Range<Int>

    /// Finds the line.
    ///
    /// - Parameter what: What was tried, for the error line.
    package init(in bytes: [UInt8], _ what: String) throws(Failure) {
        guard !bytes.contains(0) else { throw Failure(.failed, what, "it is not a text file") }
        var found: [(line: Range<Int>, list: Int)] = []
        var start = 0
        while start < bytes.count {
            let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) ?? bytes.count
            // libc knows no quoting: from the first # on it is a comment.
            let text = start..<(bytes[start..<end].firstIndex(of: UInt8(ascii: "#")) ?? end)
            if let list = Self.list(of: "hosts", bytes, text) { found.append((text, list)) }
            start = end + 1
        }
        guard let line = found.first else {
            throw Failure(.failed, what, "it has no hosts line", hint: "give it one: hosts: files dns")
        }
        guard found.count == 1 else {
            throw Failure(
                .failed, what, "it has \(found.count) hosts lines, of which libc takes the last", hint: "keep one")
        }
        guard let sources = Self.sources(bytes, line.list..<line.line.upperBound) else {
            throw Failure(
                .failed, what, "its hosts line has an open bracket", hint: "see nsswitch.conf(5)")
        }
        guard !sources.isEmpty else {
            throw Failure(.failed, what, "its hosts line names no source", hint: "make it one: hosts: files dns")
        }
        self.bytes = bytes
        self.sources = sources
        range = line.line
    }

    /// The line itself, without a comment or blanks around it.
    package var text: String { Self.text(bytes, range) }

    // MARK: Contents

    private var index: Int? { sources.firstIndex { $0.name == Self.module } }
    /// Whether the module is on it.
    package var hasModule: Bool { index != nil }

    /// The sources that would answer for this host before the module is asked.
    package var before: [String] {
        sources[..<(index ?? sources.count)].map(\.name).filter(Self.knowsThisHost)
    }

    /// Whether the search ends if the module answers that there is no address to return.
    package var endsSearch: Bool {
        guard let index else { return false }
        var ends = false
        for word in sources[index].actions.map({ $0.uppercased() }) {
            let parts = word.split(separator: "=", omittingEmptySubsequences: false)
            guard parts.count == 2 else { continue }
            let isNegated = parts[0].hasPrefix("!")
            if (parts[0].drop { $0 == "!" } == "TRYAGAIN") != isNegated { ends = parts[1] == "RETURN" }
        }
        return ends
    }

    /// Whether it is as it must be.
    package var isEnabled: Bool {
        sources.filter { $0.name == Self.module }.count == 1 && before.isEmpty && endsSearch
    }

    // MARK: Edits

    /// The file with the module first on the line; as it is where that is so already.
    package func enabling() -> [UInt8] {
        if isEnabled { return bytes }
        var edited = removing()
        edited.insert(contentsOf: Array(Self.insertion.utf8), at: sources[0].range.lowerBound)
        return edited
    }

    /// The line that ``enabling()`` makes.
    package var enabledText: String {
        let edited = enabling()
        return Self.text(edited, range.lowerBound..<(range.upperBound + edited.count - bytes.count))
    }

    /// The file without the module. Its only source is taken away, too.
    package func removing() -> [UInt8] {
        var edited = bytes
        for (index, source) in sources.enumerated().reversed() where source.name == Self.module {
            // With the blanks to the next source; of the last, with those from the one before.
            if index + 1 < sources.count {
                edited.removeSubrange(source.range.lowerBound..<sources[index + 1].range.lowerBound)
            } else if index > 0 {
                edited.removeSubrange(sources[index - 1].range.upperBound..<source.range.upperBound)
            } else {
                edited.removeSubrange(source.range)
            }
        }
        return edited
    }

    // MARK: Reading

    /// As isspace(3) has it in the C locale.
    private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0d).contains(byte) }

    private static func text(_ bytes: [UInt8], _ range: Range<Int>) -> String {
        let inner = bytes[range].drop(while: isBlank)
        let end = inner.lastIndex { !isBlank($0) }.map { $0 + 1 } ?? inner.startIndex
        return String(decoding: inner[..<end], as: UTF8.self)
    }

    /// Where the list begins, if the line is that of this database.
    private static func list(of database: String, _ bytes: [UInt8], _ line: Range<Int>) -> Int? {
        let rest = bytes[line].drop(while: isBlank)
        guard rest.starts(with: database.utf8) else { return nil }
        let colon = rest.dropFirst(database.utf8.count).drop(while: isBlank)
        return colon.first == UInt8(ascii: ":") ? colon.startIndex + 1 : nil
    }

    /// `nil` where a bracket is open.
    private static func sources(_ bytes: [UInt8], _ list: Range<Int>) -> [Source]? {
        var sources: [Source] = []
        var rest = bytes[list].drop(while: isBlank)
        while let first = rest.first {
            if first == UInt8(ascii: "[") {
                guard let end = rest.firstIndex(of: UInt8(ascii: "]")), !sources.isEmpty else { return nil }
                let words = rest[rest.startIndex + 1..<end].split(whereSeparator: isBlank)
                sources[sources.count - 1].actions += words.map { String(decoding: $0, as: UTF8.self) }
                sources[sources.count - 1].range = sources[sources.count - 1].range.lowerBound..<(end + 1)
                rest = rest[(end + 1)...].drop(while: isBlank)
            } else {
                let name = rest.prefix { !isBlank($0) && $0 != UInt8(ascii: "[") }
                sources.append(
                    Source(
                        name: String(decoding: name, as: UTF8.self), actions: [],
                        range: name.startIndex..<name.endIndex))
                rest = rest[name.endIndex...].drop(while: isBlank)
            }
        }
        return sources
    }
}
