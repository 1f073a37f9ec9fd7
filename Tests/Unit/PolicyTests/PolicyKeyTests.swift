// SPDX-License-Identifier: Apache-2.0

import Foundation
import Policy
import Testing

/// Compares the reader's table of keys with the writer and with the reference for users.
@Suite struct PolicyKeyTests {
    @Test func namesEachKeyOnce() {
        #expect(Set(PolicyKey.all.map(\.path)).count == PolicyKey.all.count)
        for key in PolicyKey.all {
            #expect(!key.type.isEmpty && !key.meaning.isEmpty, "\(key.path)")
            let section = key.path.split(separator: ".").dropLast().joined(separator: ".").replacing("[]", with: "")
            #expect(
                section.isEmpty || PolicyKey.all.contains { $0.path.replacing("[]", with: "") == section },
                "\(key.path)")
        }
    }

    @Test func hasTheKeysThatAreWritten() {
        let override = Policy.Override(name: "a")
        let written = Policy(overrides: [override]).values
        for (path, value) in written {
            let key = PolicyKey.all.first { $0.path == path.replacing("[0]", with: "[]") }
            if !path.hasPrefix("overrides[0].name") { #expect(key?.defaultValue == value, "\(path)") }
            #expect(key != nil, "\(path)")
        }
        let values = Policy().values
        for key in PolicyKey.all where key.defaultValue != nil && !key.path.hasPrefix("overrides[]") {
            // While there are none.
            let isLeftOut = [
                "virtualIP.addresses.placement", "virtualIP.addresses.reservations", "virtualIP.excludedPorts",
                "virtualLoopback.hostAddresses", "virtualLoopback.placement",
            ].contains(key.path)
            #expect(values[key.path] == key.defaultValue || isLeftOut, "\(key.path)")
        }
    }

    /// docs/policy.md has a row for each key: the key's path, its type, its default. The type may have an addition:
    /// `list of ports, 1 to 65535`.
    @Test func isInTheReference() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../../docs/policy.md")
        let text = try String(contentsOf: file, encoding: .utf8)
        var rows: [String: [String]] = [:]
        var isOfKeys = false
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            let cells = line.split(separator: "|", omittingEmptySubsequences: false).dropFirst()
                .map { $0.trimmingCharacters(in: .whitespaces) }
            guard line.hasPrefix("|"), let first = cells.first else {
                isOfKeys = false
                continue
            }
            if first == "key" || first == "section" { isOfKeys = true }
            guard isOfKeys, first.hasPrefix("`"), first.hasSuffix("`") else { continue }
            let path = String(first.dropFirst().dropLast())
            #expect(rows.updateValue(cells, forKey: path) == nil, "\(path) has two rows in docs/policy.md")
        }
        for key in PolicyKey.all {
            guard let cells = rows.removeValue(forKey: key.path) else {
                Issue.record("docs/policy.md has no row for \(key.path)")
                continue
            }
            // The table of sections has no columns for them.
            guard cells.count > 3 else { continue }
            let type = cells[1].replacing("`", with: "").replacing(/\[([^\]]*)\]\([^)]*\)/) { $0.1 }
            #expect(
                type.hasPrefix(key.type.replacing(" | ", with: ", ")), "docs/policy.md has another type for \(key.path)"
            )
            guard let value = key.defaultValue else { continue }
            #expect(cells[2].contains("`\(value)`"), "docs/policy.md has another default for \(key.path): \(cells[2])")
        }
        #expect(rows.isEmpty, "docs/policy.md has rows for keys that do not exist: \(rows.keys.sorted())")
    }
}
