// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import FoundationEssentials
import Glibc
import Host
import Logging
import SystemPackage

/// Writes to standard output, which is for data only.
enum StandardOutput {
    /// Writes the whole text: write(2). Throws if it cannot, also if the reader has closed its end (EPIPE).
    static func text(_ text: String) throws(Failure) {
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            let count = bytes.withUnsafeBytes { write(STDOUT_FILENO, $0.baseAddress, $0.count) }
            if count < 0 {
                let error = Errno.current
                if error == .interrupted { continue }
                throw Failure("write standard output", errno: error, hint: "check where standard output goes")
            }
            bytes = bytes.dropFirst(count)
        }
    }

    static func line(_ line: String) throws(Failure) { try text(line + "\n") }

    static var isTerminal: Bool { isatty(STDOUT_FILENO) == 1 }
}

/// Writes to standard error: everything that is not data.
enum StandardError {
    static func line(_ line: String) {
        let text = line + "\n"
        _ = text.withCString { write(STDERR_FILENO, $0, strlen($0)) }
    }
}

/// The output of a command: a table for people, or a document with --json.
///
/// The document's keys are in snake_case and sorted. Addresses are text, times are RFC 3339, and unknown values are
/// null.
protocol Payload: Encodable {
    var table: Table { get }
}

/// Rows of cells under headings, aligned as `ip` and `systemctl` do.
struct Table {
    /// The headings; empty for a list of facts.
    var headings: [String] = []
    var rows: [[String]] = []
    /// Notes that are printed below the rows, after an empty line.
    var notes: [String] = []

    func rendered(bold: Bool) -> String {
        let all = (headings.isEmpty ? [] : [headings]) + rows.map { $0.map(\.printableLine) }
        var widths: [Int] = []
        for row in all {
            for (column, cell) in row.enumerated() {
                if column == widths.count { widths.append(0) }
                widths[column] = max(widths[column], cell.count)
            }
        }
        var lines = all.enumerated().map { index, row in
            let line = row.enumerated().map { column, cell in
                column == row.count - 1 ? cell : cell + String(repeating: " ", count: widths[column] - cell.count)
            }.joined(separator: "  ")
            return bold && index == 0 && !headings.isEmpty ? "\u{1b}[1m\(line)\u{1b}[0m" : line
        }
        if !notes.isEmpty { lines += (lines.isEmpty ? [] : [""]) + notes }
        return lines.map { $0 + "\n" }.joined()
    }
}

struct OutputOptions: ParsableArguments {
    @Flag(help: "Print a JSON document instead of a table.")
    var json = false

    func print(_ payload: some Payload) throws(Failure) {
        if json {
            try StandardOutput.text(Self.json(payload) + "\n")
        } else {
            let isBold = StandardOutput.isTerminal && ProcessInfo.processInfo.environment["NO_COLOR"] == nil
            try StandardOutput.text(payload.table.rendered(bold: isBold))
        }
    }

    /// - Parameter keys: whether the keys are converted. A policy keeps its keys, because it has the form of the policy
    ///   file.
    static func json(
        _ payload: some Encodable, keys: JSONEncoder.KeyEncodingStrategy = .convertToSnakeCase
    ) throws(Failure) -> String {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = keys
        encoder.dateEncodingStrategy = .iso8601
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        do {
            return String(decoding: try encoder.encode(payload), as: UTF8.self)
        } catch {
            throw Failure(.failed, "print as JSON", "\(error)")
        }
    }
}

/// Writes log lines to standard error, in the form of error lines: `vip-bpfctl: warning: …`.
struct StandardErrorLog: LogHandler {
    var metadata: Logger.Metadata = [:]
    var logLevel: Logger.Level

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        StandardError.line("vip-bpfctl: \(event.level): \(event.message)")
    }
}
