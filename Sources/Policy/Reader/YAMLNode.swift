// SPDX-License-Identifier: Apache-2.0

import CYAML

/// A node of a YAML document as it is written: aliases are not resolved, and a mapping may have a key twice.
struct YAMLNode {
    /// A place in the text, counted from 1; columns count Unicode scalars.
    struct Mark: Comparable, Sendable {
        let line: Int
        let column: Int

        static func < (one: Mark, other: Mark) -> Bool { (one.line, one.column) < (other.line, other.column) }
    }

    enum Content {
        case scalar(String, isPlain: Bool)
        case sequence([YAMLNode])
        case mapping([(key: YAMLNode, value: YAMLNode)])
        /// An alias `*name`. `isKnown` says whether an anchor `&name` precedes it.
        case alias(isKnown: Bool)
    }

    let mark: Mark
    /// The tag; empty if none is written.
    let tag: String
    let content: Content
}

/// Why a text is not a document.
struct YAMLError: Error {
    /// The place; `nil` if the error has none.
    let mark: YAMLNode.Mark?
    let message: String
    var hint: String?
}

extension YAMLNode {
    /// How deep lists and mappings may be nested.
    private static let depthLimit = 1000

    /// The root of a text's only document; `nil` where the text has no document.
    init?(document text: String) throws(YAMLError) {
        let result = Array(text.utf8).withUnsafeBufferPointer { bytes in
            Result<YAMLNode?, YAMLError> { () throws(YAMLError) in try Self.read(bytes) }
        }
        guard let root = try result.get() else { return nil }
        self = root
    }

    private static func read(_ bytes: UnsafeBufferPointer<UInt8>) throws(YAMLError) -> YAMLNode? {
        // libyaml keeps pointers into the parser, so it must not move.
        let parser = UnsafeMutablePointer<yaml_parser_t>.allocate(capacity: 1)
        defer { parser.deallocate() }
        guard yaml_parser_initialize(parser) == 1 else { throw YAMLError(mark: nil, message: "out of memory") }
        defer { yaml_parser_delete(parser) }
        yaml_parser_set_input_string(parser, bytes.baseAddress, bytes.count)
        yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING)

        /// A list or mapping whose end was not read yet. In a mapping, keys and values alternate.
        struct Open {
            let mark: Mark
            let tag: String
            let isMapping: Bool
            var children: [YAMLNode] = []

            var node: YAMLNode {
                guard isMapping else { return YAMLNode(mark: mark, tag: tag, content: .sequence(children)) }
                let pairs = stride(from: 0, to: children.count - 1, by: 2).map { (children[$0], children[$0 + 1]) }
                return YAMLNode(mark: mark, tag: tag, content: .mapping(pairs))
            }
        }
        var open: [Open] = []
        var anchors: Set<String> = []
        var root: YAMLNode?
        var hasDocument = false
        var event = yaml_event_t()
        while true {
            guard yaml_parser_parse(parser, &event) == 1 else { throw YAMLError(of: parser.pointee, bytes) }
            defer { yaml_event_delete(&event) }
            let mark = Mark(event.start_mark)
            var complete: YAMLNode?
            switch event.type {
            case YAML_STREAM_END_EVENT:
                return root
            case YAML_DOCUMENT_START_EVENT:
                if hasDocument {
                    throw YAMLError(
                        mark: mark, message: "a second YAML document begins", hint: "keep one document in a file")
                }
                hasDocument = true
            case YAML_SCALAR_EVENT:
                let scalar = event.data.scalar
                string(scalar.anchor).map { _ = anchors.insert($0) }
                complete = YAMLNode(
                    mark: mark, tag: string(scalar.tag) ?? "",
                    content: .scalar(
                        String(decoding: UnsafeBufferPointer(start: scalar.value, count: scalar.length), as: UTF8.self),
                        isPlain: scalar.style == YAML_PLAIN_SCALAR_STYLE))
            case YAML_ALIAS_EVENT:
                let isKnown = string(event.data.alias.anchor).map(anchors.contains) ?? false
                complete = YAMLNode(mark: mark, tag: "", content: .alias(isKnown: isKnown))
            case YAML_SEQUENCE_START_EVENT:
                let start = event.data.sequence_start
                string(start.anchor).map { _ = anchors.insert($0) }
                open.append(Open(mark: mark, tag: string(start.tag) ?? "", isMapping: false))
            case YAML_MAPPING_START_EVENT:
                let start = event.data.mapping_start
                string(start.anchor).map { _ = anchors.insert($0) }
                open.append(Open(mark: mark, tag: string(start.tag) ?? "", isMapping: true))
            case YAML_SEQUENCE_END_EVENT, YAML_MAPPING_END_EVENT:
                complete = open.popLast()?.node
            default: break  // the start of the stream, the end of the document
            }
            guard open.count <= depthLimit else {
                throw YAMLError(mark: mark, message: "lists and mappings are nested too deeply")
            }
            guard let complete else { continue }
            if open.isEmpty { root = complete } else { open[open.count - 1].children.append(complete) }
        }
    }

    private static func string(_ bytes: UnsafePointer<yaml_char_t>?) -> String? {
        bytes.map { String(decodingCString: $0, as: UTF8.self) }
    }
}

extension YAMLNode.Mark {
    fileprivate init(_ mark: yaml_mark_t) {
        self.init(line: mark.line + 1, column: mark.column + 1)
    }

    /// The place of a byte of a text. The text need not be UTF-8 from there on.
    init(offset: Int, in bytes: some Collection<UInt8>) {
        let before = bytes.prefix(offset)
        let line = before.count { $0 == UInt8(ascii: "\n") } + 1
        let lineBytes = before.reversed().prefix { $0 != UInt8(ascii: "\n") }
        // Each scalar has exactly one byte that is not a continuation byte.
        self.init(line: line, column: lineBytes.count { $0 & 0xc0 != 0x80 } + 1)
    }
}

extension YAMLError {
    fileprivate init(of parser: yaml_parser_t, _ bytes: UnsafeBufferPointer<UInt8>) {
        let problem = parser.problem.map { String(cString: $0) } ?? "it cannot be read"
        switch parser.error {
        case YAML_MEMORY_ERROR:
            self.init(mark: nil, message: "out of memory")
        case YAML_READER_ERROR:
            let value = parser.problem_value > 0 ? " (U+\(String(parser.problem_value, radix: 16)))" : ""
            self.init(
                mark: YAMLNode.Mark(offset: parser.problem_offset, in: bytes),
                message: "this is not YAML: \(problem)\(value)")
        default:
            let mark = YAMLNode.Mark(parser.problem_mark)
            let context = parser.context.map { String(cString: $0) }
            let begin = YAMLNode.Mark(parser.context_mark)
            var message = "this is not YAML: \(problem)"
            if let context {
                message += " \(context)"
                if begin.line != mark.line { message += " that begins on line \(begin.line)" }
            }
            let hint: String? =
                switch (context, problem) {
                case ("while scanning an alias", _): "put a text that begins with * in quotes"
                case ("while scanning an anchor", _): "put a text that begins with & in quotes"
                case (_, "found character that cannot start any token"):
                    "indent with spaces, and put a text with special characters in quotes"
                default: nil
                }
            self.init(mark: mark, message: message, hint: hint)
        }
    }
}
