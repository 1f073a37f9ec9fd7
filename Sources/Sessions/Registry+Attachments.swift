// SPDX-License-Identifier: Apache-2.0

public import Host
public import SystemPackage

extension Registry.Setting {
    /// The path of the guarded cgroup.
    public static let guarded = Registry.Setting(rawValue: "guarded")
}

extension Registry {
    /// The attached cgroups by path, each with the ID that it had when it was attached.
    public func attachments() throws(Failure) -> [(path: FilePath, cgroupID: UInt64)] {
        try read { db in
            try db.rows("SELECT path, cgroup_id FROM attachments ORDER BY path") { row in
                (try row.get(0, as: FilePath.self), try row.get(1, as: UInt64.self))
            }
        }
    }

    /// Notes an attached cgroup. It replaces one with the same path.
    public func addAttachment(_ cgroup: Cgroup) throws(Failure) {
        try write("note that \(cgroup.path) is attached") { db in
            try db.run(
                "INSERT OR REPLACE INTO attachments (path, cgroup_id) VALUES (?, ?)",
                [cgroup.path, cgroup.id])
        }
    }

    /// Removes an attached cgroup. It is no error if it is not noted.
    public func removeAttachment(_ path: FilePath) throws(Failure) {
        try write("note that \(path) is detached") { db in
            try db.run("DELETE FROM attachments WHERE path = ?", [path])
        }
    }
}
