// SPDX-License-Identifier: Apache-2.0

/// The hosts line of an nsswitch.conf(5), as libc reads it, and the edits that add the name service module to it and
/// remove it. The rest of the file stays as it is, byte for byte.
package struct HostsLine {
    /// A source with the actions that follow it.
    package struct Source {
        package var name: String
        /// The words in its brackets, such as `NOTFOUND=return`.
        package var actions: [String]
        /// The bytes of the source in the file, its brackets included.
        package var range: Range<Int>
    }

    /// The module's name as a source. libc derives the library's name from it.
    package static let module = "vip"
    /// The module returns TRYAGAIN if the program must not get the host's own address; see nss/module.c.
    package static let insertion = "\(module) [TRYAGAIN=return] "
    /// Whether a source resolves this host's own name. The module must come before each of these.
    package static func knowsThisHost(_ name: String) -> Bool {
        ["files", "db", "dns", "resolve", "myhostname"].contains(name) || name.hasPrefix("mdns")
    }

    /// The whole file.
    package let bytes: [UInt8]
    /// The sources in the order in which they are asked.
    package let sources: [Source]
    /// The bytes of the line, without a comment.
    private let range: Range<Int>

    /// Finds the hosts line.
    ///
    /// - Parameter what: what was tried, for the error.
    package init(in bytes: [UInt8], _ what: String) throws(Failure) {
        guard !bytes.contains(0) else { throw Failure(.failed, what, "it is not a text file") }
        var found: [(line: Range<Int>, list: Int)] = []
        var start = 0
        while start < bytes.count {
            let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) ?? bytes.count
            // libc has no quoting here: a comment starts at the first #.
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

    /// Whether the search ends when the module returns TRYAGAIN, which means that there is no address to return.
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

    /// Whether the module is enabled as `names enable` would do it.
    package var isEnabled: Bool {
        sources.filter { $0.name == Self.module }.count == 1 && before.isEmpty && endsSearch
    }

    // MARK: Edits

    /// The file with the module first on the line; unchanged if it already is.
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

    /// The file without the module. If it is the only source, it is removed as well.
    package func removing() -> [UInt8] {
        var edited = bytes
        for (index, source) in sources.enumerated().reversed() where source.name == Self.module {
            // The blanks up to the next source go with it; for the last source, the blanks before it.
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

    /// As isspace(3) in the C locale.
    private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0d).contains(byte) }

    private static func text(_ bytes: [UInt8], _ range: Range<Int>) -> String {
        let inner = bytes[range].drop(while: isBlank)
        let end = inner.lastIndex { !isBlank($0) }.map { $0 + 1 } ?? inner.startIndex
        return String(decoding: inner[..<end], as: UTF8.self)
    }

    /// Where the list of sources begins, if the line is that of this database.
    private static func list(of database: String, _ bytes: [UInt8], _ line: Range<Int>) -> Int? {
        let rest = bytes[line].drop(while: isBlank)
        guard rest.starts(with: database.utf8) else { return nil }
        let colon = rest.dropFirst(database.utf8.count).drop(while: isBlank)
        return colon.first == UInt8(ascii: ":") ? colon.startIndex + 1 : nil
    }

    /// The sources; `nil` if a bracket is not closed.
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
