// SPDX-License-Identifier: Apache-2.0

import FoundationEssentials
public import Host
import Policy
import Synchronization

extension Registry {
    /// The keys of the settings. They are extensible.
    public struct Setting: RawRepresentable, Sendable, Hashable {
        public let rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }

        /// The policy in force, as JSON.
        public static let policy = Setting(rawValue: "policy")
        /// The policy that is being applied: a ``PendingPolicy`` as JSON.
        static let pendingPolicy = Setting(rawValue: "pending_policy")
    }

    /// A policy that is being applied.
    struct PendingPolicy: Codable {
        /// The generation that the maps have once it is in force.
        let generation: UInt32
        let policy: Policy
        /// For the history; `nil` if an earlier version has written it.
        var action: PolicyAction?
        var author: PolicyAuthor?
    }

    /// The value of a setting; `nil` if it has none.
    public func value(of setting: Setting) throws(Failure) -> String? {
        try read { db in try db.value(String.self, "SELECT value FROM settings WHERE key = ?", [setting.rawValue]) }
    }

    /// Sets the value of a setting; `nil` removes it.
    public func set(_ setting: Setting, to value: String?) throws(Failure) {
        try write("register the \(setting.rawValue)") { db in try Self.set(setting, to: value, db) }
    }

    private static func set(_ setting: Setting, to value: String?, _ db: Database) throws {
        if let value {
            try db.run("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", [setting.rawValue, value])
        } else {
            try db.run("DELETE FROM settings WHERE key = ?", [setting.rawValue])
        }
    }

    // MARK: Policies

    /// The policy in force; `nil` if none was applied. It is decoded once, and again when the text has changed.
    func policy() throws(Failure) -> Policy? {
        guard let text = try value(of: .policy) else { return nil }
        if let known = decodedPolicy.withLock({ $0?.text == text ? $0?.policy : nil }) { return known }
        let policy: Policy = try decode(text, "the policy in force")
        decodedPolicy.withLock { $0 = (text, policy) }
        return policy
    }

    /// The policy that a command was applying; `nil` if there is none.
    func pendingPolicy() throws(Failure) -> PendingPolicy? {
        guard let text = try value(of: .pendingPolicy) else { return nil }
        return try decode(text, "the policy that was being applied")
    }

    /// Records the policy that is being applied; `nil` for none.
    ///
    /// - Parameter trial: the note of its trial; `nil` leaves the present one.
    func set(pending: PendingPolicy?, trial: PolicyTrial? = nil) throws(Failure) {
        try write("register the pending policy") { db in
            try Self.set(.pendingPolicy, to: pending.map(Self.json), db)
            if let trial { try Self.set(.policyTrial, to: Self.json(trial), db) }
        }
    }

    /// Records the policy in force, its place in the history, and the settings that the registry itself uses.
    func set(
        _ policy: Policy, at now: Moment, as action: PolicyAction = .apply, by author: PolicyAuthor = .current()
    ) throws(Failure) {
        let inForce = try? self.policy()
        let history = try Self.history(
            policyHistory(), inForce: inForce, adding: policy, at: now.date, action, by: author)
        try write("register the policy") { db in
            try Self.set(.policy, to: Self.json(policy), db)
            try Self.set(.policyHistory, to: Self.json(history), db)
            try Self.set(.historyDays, to: "\(policy.history.retentionDays)", db)
            // Without a limit: an administrator who keeps a shorter history wants the rest removed.
            try Self.prune(db, at: now, limit: .max)
        }
    }

    static func json(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }

    private func decode<T: Decodable>(_ text: String, _ name: String) throws(Failure) -> T {
        do {
            return try JSONDecoder().decode(T.self, from: Data(text.utf8))
        } catch {
            throw Failure(
                .failed, "read registry \(file)", "\(name) cannot be read",
                hint: "apply the policy file again: vip-bpfctl policy apply FILE", detail: "\(error)")
        }
    }
}
