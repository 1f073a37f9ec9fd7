// SPDX-License-Identifier: Apache-2.0

public import Host
public import SystemPackage

/// Which cgroups are taken by sessions: no cgroup has two, and none has one above or below another's.
///
/// A question takes as many steps as the path has components, however many sessions there are.
public struct CgroupClaims: Sendable {
    /// Session by its cgroup's path. As text: what is no UTF-8 becomes U+FFFD, and could at worst be taken for another of that kind.
    private var owners: [String: UInt32] = [:]
    /// How many claimed cgroups are below a directory.
    private var below: [String: Int] = [:]

    public init() {}

    /// Takes a cgroup's path for a session.
    ///
    /// - Parameter path: as ``Cgroup/path`` has it.
    /// - Throws: ``Failure`` that names the session in whose way it is: the same cgroup, one above, one below.
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

    /// Gives a path back; one that nobody has is fine.
    public mutating func release(_ path: FilePath) {
        guard owners.removeValue(forKey: path.string) != nil else { return }
        for ancestor in Self.ancestors(of: path.string) {
            below[ancestor, default: 1] -= 1
            if below[ancestor] == 0 { below[ancestor] = nil }
        }
    }

    /// Every directory above, nearest first: of `/a/b`, `/a` and `/`.
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
