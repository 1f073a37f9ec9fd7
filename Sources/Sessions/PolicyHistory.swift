// SPDX-License-Identifier: Apache-2.0

public import FoundationEssentials
import Glibc
public import Host
public import Policy
import SystemPackage

/// Who put a policy in force.
public struct PolicyAuthor: Codable, Hashable, Sendable {
    /// The user of the process.
    public let uid: UInt32
    /// The user's name; `nil` if the host does not know it.
    public let user: String?
    /// The name, or else the number, of the user who logged in: proc_pid_loginuid(5). sudo and su keep it. `nil` if the
    /// process belongs to no login.
    public let login: String?

    public init(uid: UInt32, user: String?, login: String?) {
        self.uid = uid
        self.user = user
        self.login = login
    }

    /// Who runs this process.
    static func current() -> PolicyAuthor {
        func name(_ uid: uid_t) -> String? { try? SystemUsers.name(of: uid) }
        let noLogin = UInt32.max  // (uid_t)-1
        let text = try? readWholeFile(FilePath("/proc/self/loginuid"))
        let login = text.flatMap { UInt32(String(decoding: $0, as: UTF8.self).filter { !$0.isWhitespace }) }
        return PolicyAuthor(
            uid: geteuid(), user: name(geteuid()),
            login: login.flatMap { $0 == noLogin ? nil : name($0) ?? "\($0)" })
    }

    /// `ann (as root)`, or `root`.
    public var text: String {
        let own = user ?? "\(uid)"
        return login.map { $0 == own ? own : "\($0) (as \(own))" } ?? own
    }
}

/// What put a policy in force. It is extensible: readers must accept values that they do not know.
public struct PolicyAction: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String
    public init(rawValue: String) { self.rawValue = rawValue }

    /// `policy apply`.
    public static let apply = PolicyAction(rawValue: "apply")
    /// `policy apply --confirm`.
    public static let trial = PolicyAction(rawValue: "apply-confirm")
    /// `program add`, `program remove`.
    public static let edit = PolicyAction(rawValue: "program")
    /// `attach cgroup`.
    public static let attach = PolicyAction(rawValue: "attach")
    /// The daemon applied its policy file.
    public static let reload = PolicyAction(rawValue: "reload")
    /// `policy rollback`.
    public static let rollback = PolicyAction(rawValue: "rollback")
    /// The policy before was not confirmed in time.
    public static let notConfirmed = PolicyAction(rawValue: "not-confirmed")
    /// It was in force when the history began.
    public static let unknown = PolicyAction(rawValue: "unknown")
}

/// A policy that is in force, or was.
public struct PastPolicy: Codable, Hashable, Sendable {
    /// It rises with each policy.
    public let number: Int
    /// When it was applied; `nil` if that was not noted.
    public let appliedAt: Date?
    public let author: PolicyAuthor?
    public let action: PolicyAction
    public let policy: Policy
}

extension Registry.Setting {
    /// The last policies, as JSON: ``PastPolicy`` values, the one in force last.
    static let policyHistory = Registry.Setting(rawValue: "policy_history")
}

extension Registry {
    /// How many policies are kept, with the one in force.
    public static let policyHistoryLimit = 10

    /// The last policies in the order in which they were applied; the last one is in force. Empty if none was applied
    /// since the history is kept.
    public func policyHistory() throws(Failure) -> [PastPolicy] {
        guard let text = try value(of: .policyHistory) else { return [] }
        // A history that cannot be read is no reason to fail: it begins anew.
        return Self.decodedHistory(text)
    }

    static func decodedHistory(_ text: String?) -> [PastPolicy] {
        guard let text else { return [] }
        return (try? JSONDecoder().decode([PastPolicy].self, from: Data(text.utf8))) ?? []
    }

    /// The history with another policy at its end. If the same one is in force, it stays as it is.
    ///
    /// - Parameter inForce: the policy in force; `nil` if there is none.
    static func history(
        _ history: [PastPolicy], inForce: Policy?, adding policy: Policy, at date: Date, _ action: PolicyAction,
        by author: PolicyAuthor
    ) -> [PastPolicy] {
        var history = history
        if let inForce, history.last?.policy != inForce {
            // It was applied by a version that keeps no history.
            history.append(
                PastPolicy(
                    number: (history.last?.number ?? 0) + 1, appliedAt: nil, author: nil, action: .unknown,
                    policy: inForce))
        }
        if history.last?.policy != policy {
            history.append(
                PastPolicy(
                    number: (history.last?.number ?? 0) + 1, appliedAt: date, author: author, action: action,
                    policy: policy))
        }
        return history.suffix(policyHistoryLimit)
    }
}

extension Instance {
    /// The policy that `policy rollback` puts in force.
    ///
    /// - Parameter number: its number in the history; `nil` for the one before that in force.
    /// - Throws: ``Failure`` if there is none.
    public func formerPolicy(_ number: Int?, _ registry: Registry) throws(Failure) -> PastPolicy {
        let history = try registry.policyHistory()
        guard let number else {
            guard let former = history.dropLast().last else {
                throw Failure(
                    .failed, "go back to an earlier policy", "the history has none",
                    hint: "see vip-bpfctl policy history")
            }
            return former
        }
        guard let former = history.first(where: { $0.number == number }) else {
            throw Failure(
                .failed, "go back to policy \(number)",
                history.isEmpty
                    ? "the history is empty"
                    : "the history has \(history[0].number) to \(history[history.count - 1].number)",
                hint: "see vip-bpfctl policy history")
        }
        return former
    }
}
