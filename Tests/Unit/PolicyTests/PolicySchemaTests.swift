// SPDX-License-Identifier: Apache-2.0

import Foundation
import Network
import Testing

@testable import Policy

/// Compares the schema with the reader. `scripts/test-schema` compares them over whole policies.
@Suite struct PolicySchemaTests {
    private func schema() throws -> [String: Any] {
        try #require(JSONSerialization.jsonObject(with: Data(PolicySchema.text.utf8)) as? [String: Any])
    }

    /// The paths of all keys below a schema, as ``PolicyKey`` writes them.
    private func paths(_ schema: [String: Any], below path: String = "") -> [String] {
        let properties = schema["properties"] as? [String: [String: Any]] ?? [:]
        return properties.flatMap { name, schema in
            let full = path.isEmpty ? name : "\(path).\(name)"
            let items = (schema["items"] as? [String: Any]).map { paths($0, below: full + "[]") } ?? []
            return [full] + paths(schema, below: full) + items
        }
    }

    @Test func hasTheKeysOfTheReader() throws {
        let all = try paths(schema())
        let sections = ["virtualIP", "virtualLoopback", "preferLoopback"]
        // Those of the sections of an override are the base policy's.
        let own = all.filter { path in !sections.contains { path.hasPrefix("overrides[].\($0).") } }
        #expect(own.sorted() == PolicyKey.all.map(\.path).sorted())
        let ofOverrides = all.filter { !own.contains($0) }.map { String($0.dropFirst("overrides[].".count)) }
        let ofBase = own.filter { path in sections.contains { path.hasPrefix("\($0).") } }
        #expect(ofOverrides.sorted() == ofBase.filter { !PolicySchema.ofBaseAlone.contains($0) }.sorted())
    }

    @Test func knowsEachType() {
        #expect(PolicySchema.unknownKeys.map(\.type).isEmpty)
    }

    /// Whether the reader reports a problem of the file whose message has these words.
    private func reports(_ text: String, _ word: String) -> Bool {
        switch Policy.check(yaml: text, file: "policy.yaml") {
        case .success: false
        case .failure(let problems): problems.all.contains { $0.message.contains(word) }
        }
    }

    @Test func agreesOnKeysThatOverridesDoNotHave() {
        for key in PolicyKey.all {
            let parts = key.path.split(separator: ".")
            guard parts.count == 2, !key.path.contains("[]"), ["virtualIP", "virtualLoopback"].contains(parts[0])
            else { continue }
            let text = "overrides: [{name: a, \(parts[0]): {\(parts[1]): }}]"
            let isRefused = reports(text, "some sessions")
            #expect(isRefused == PolicySchema.ofBaseAlone.contains(key.path), "\(key.path)")
        }
    }

    @Test func agreesOnRequiredKeys() {
        #expect(reports("overrides: [{isolation: true}]", "it has no name"))
        for entry in ["{user: ann}", "{addresses: [10.0.0.1]}"] {
            #expect(
                reports(
                    "virtualIP: {addresses: {pool: [10.0.0.1], reservations: [\(entry)]}}", "a user and addresses"))
        }
    }
}
