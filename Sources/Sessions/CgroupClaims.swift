// SPDX-License-Identifier: Apache-2.0

public import Host
public import SystemPackage

/// Which cgroups are sessions. No cgroup belongs to two sessions, and no session's cgroup is above or below another's.
///
/// A query takes as many steps as the path has components, whatever the number of sessions.
public struct CgroupClaims: Sendable {
    /// The session of each cgroup's path. As text, bytes that are not UTF-8 become U+FFFD; two such paths could be
    /// taken for one.
    private var owners: [String: UInt32] = [:]
    /// The number of claimed cgroups below each directory.
    private var below: [String: Int] = [:]

    public init() {}

    /// Claims a cgroup's path for a session.
    ///
    /// - Parameter path: as ``Cgroup/path`` has it.
    /// - Throws: ``Failure`` that names the session that already has this cgroup, one above or one below.
    public mutating func claim(_ path: FilePath, session: UInt32) throws(Failure) {
        let path = path.string
        let what = "open session \(session) on cgroup \(path)"
        if let owner = owners[path] {
            throw Failure(.failed, what, "it is session \(owner) already", hint: "close session \(owner) first")
        }
        let ancestors = Self.ancestors(of: path)
        for ancestor in ancestors {
            if let owner = owners[ancestor] {
                throw Failure(
                    .failed, what, "it is below \(ancestor), which is session \(owner)",
                    hint: "close session \(owner) first")
            }
        }
        if below[path] != nil,
            let inside = owners.filter({ Self.ancestors(of: $0.key).contains(path) }).min(by: { $0.value < $1.value })
        {
            throw Failure(
                .failed, what, "\(inside.key) below it is session \(inside.value)",
                hint: "close session \(inside.value) first")
        }
        owners[path] = session
        for ancestor in ancestors { below[ancestor, default: 0] += 1 }
    }

    /// Releases a path; it is no error if it was not claimed.
    public mutating func release(_ path: FilePath) {
        guard owners.removeValue(forKey: path.string) != nil else { return }
        for ancestor in Self.ancestors(of: path.string) {
            below[ancestor, default: 1] -= 1
            if below[ancestor] == 0 { below[ancestor] = nil }
        }
    }

    /// All directories above, nearest first: for `/a/b`, `/a` and `/`.
    private static func ancestors(of path: String) -> [String] {
        var ancestors: [String] = []
        var rest = path.utf8[...]
        while let slash = rest.lastIndex(of: UInt8(ascii: "/")), rest.count > 1 {
            rest = rest[..<slash]
            ancestors.append(rest.isEmpty ? "/" : String(Substring(rest)))
        }
        return ancestors
    }
}
