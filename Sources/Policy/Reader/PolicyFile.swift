// SPDX-License-Identifier: Apache-2.0

public import Host
public import SystemPackage

/// A policy with the places of its keys in the file that it was read from.
public struct PolicyFile: Sendable {
    public let policy: Policy
    /// The file's name, for messages.
    public let name: String
    /// Where each value is, by the path of its key.
    private let values: [String: YAMLNode.Mark]
    /// Where each key itself is.
    private let keys: [String: YAMLNode.Mark]

    /// The path that stands for standard input.
    public static let standardInput = FilePath("-")

    init(
        _ policy: Policy, _ name: String, _ values: [String: YAMLNode.Mark] = [:],
        _ keys: [String: YAMLNode.Mark] = [:]
    ) {
        self.policy = policy
        self.name = name
        self.values = values
        self.keys = keys
    }

    /// A policy that has no file.
    ///
    /// - Parameter name: what it is, for messages: `the policy in force`.
    public init(_ policy: Policy, named name: String) { self.init(policy, name) }

    /// Reads a policy file, as ``Policy/read(contentsOf:)``.
    public static func read(contentsOf path: FilePath) throws(Failure) -> PolicyFile {
        switch try check(contentsOf: path) {
        case .success(let file): return file
        case .failure(let problems): throw problems.failure
        }
    }

    /// A hazard as a problem of this file. Its place is that of the key, or of the innermost section that it would be
    /// in.
    public func problem(_ hazard: PolicyHazard) -> PolicyProblem {
        let mark = mark(of: hazard.key)
        return PolicyProblem(
            file: name, line: mark?.line, column: mark?.column, key: hazard.key, message: hazard.message,
            hint: hazard.hint)
    }

    private func mark(of key: String) -> YAMLNode.Mark? {
        if let mark = values[key] { return mark }
        var key = Substring(key)
        while let end = key.lastIndex(where: { $0 == "." || $0 == "[" }) {
            key = key[..<end]
            if let mark = keys[String(key)] ?? values[String(key)] { return mark }
        }
        return nil
    }
}
