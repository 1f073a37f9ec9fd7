// SPDX-License-Identifier: Apache-2.0

import Host
import SystemPackage
import TestSupport
import Testing

@Suite struct MountTableTests {
    static let root = "23 1 254:0 / / rw,relatime - ext4 /dev/root rw"

    struct Case: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let lines: [String]
        let cgroup2: [FilePath]
        let bpffs: [FilePath]

        init(_ name: String, _ lines: [String], cgroup2: [FilePath], bpffs: [FilePath] = []) {
            (testDescription, self.lines, self.cgroup2, self.bpffs) = (name, lines, cgroup2, bpffs)
        }
    }

    @Test(arguments: [
        Case(
            "unified", [root, "31 23 0:28 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate"],
            cgroup2: ["/sys/fs/cgroup"]),
        Case(
            "beside v1",
            [
                root, "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755",
                "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
                "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
            ], cgroup2: ["/sys/fs/cgroup/unified"]),
        Case(
            "elsewhere, with bpffs",
            [root, "50 23 0:28 / /mnt/cg rw - cgroup2 none rw", "51 23 0:30 / /run/bpf rw - bpf b rw"],
            cgroup2: ["/mnt/cg"], bpffs: ["/run/bpf"]),
        Case(
            "a part before the whole",
            [
                root, "50 23 0:28 /app /mnt/part rw - cgroup2 none rw", "51 23 0:28 / /a rw - cgroup2 none rw",
                "52 23 0:28 / /b rw - cgroup2 none rw",
            ], cgroup2: ["/a", "/b", "/mnt/part"]),
        Case(
            "covered on the same point",
            [root, "50 23 0:28 / /cg rw - cgroup2 none rw", "51 50 0:31 / /cg rw - tmpfs none rw"], cgroup2: []),
        Case(
            "covered further up",
            [
                root, "50 23 0:28 / /mnt/cg rw - cgroup2 none rw", "51 23 0:31 / /mnt rw - tmpfs none rw",
                "52 51 0:28 / /mnt/x rw - cgroup2 none rw",
            ], cgroup2: ["/mnt/x"]),
        Case(
            "no optional fields, many optional fields",
            [root, "50 23 0:28 / /cg rw shared:1 master:2 propagate_from:3 unbindable - cgroup2 none rw"],
            cgroup2: ["/cg"]),
        Case(
            "spaces, a tab, a backslash and a newline",
            [root, #"50 23 0:28 / /mnt/a\040b\011c\134d\012e rw - cgroup2 none rw"#], cgroup2: ["/mnt/a b\tc\\d\ne"]),
        Case("neither", [root], cgroup2: []),
    ])
    func finds(_ example: Case) throws {
        let table = try MountTable(text: example.lines.map { $0 + "\n" }.joined())
        #expect(table.cgroup2.map(\.mountPoint) == example.cgroup2)
        #expect(table.bpffs.map(\.mountPoint) == example.bpffs)
    }

    @Test func fields() throws {
        let table = try MountTable(text: #"36 35 8:17 /sub\040dir /mnt rw master:1 - ext3 /dev/sdb1 rw"#)
        let mount = try #require(table.mounts.first)
        #expect(mount.id == 36 && mount.parent == 35)
        #expect(mount.device == 8 << 20 | 17)
        #expect(mount.root == "/sub dir" && mount.mountPoint == "/mnt" && mount.fsType == "ext3")
    }

    @Test(
        arguments: [
            ("/", 23), ("/etc/passwd", 23), ("/mnt", 50), ("/mnt/x", 50), ("/mntx", 23), ("/mnt/deep/y", 51),
            ("/mnt/twice", 53), ("/mnt/twice/z", 53),
        ] as [(FilePath, UInt32)])
    func containing(path: FilePath, id: UInt32) throws {
        let table = try MountTable(
            text: """
                \(Self.root)
                50 23 0:28 / /mnt rw - tmpfs a rw
                51 50 0:29 / /mnt/deep rw - tmpfs b rw
                52 50 0:30 / /mnt/twice rw - tmpfs c rw
                53 52 0:31 / /mnt/twice rw - tmpfs d rw
                """)
        #expect(table.mount(containing: path)?.id == id)
    }

    @Test func nothingContainsARelativePath() throws {
        #expect(try MountTable(text: Self.root).mount(containing: "etc/passwd") == nil)
    }

    @Test("names what is not mounted")
    func missing() throws {
        let table = try MountTable(text: Self.root)
        let cgroup = try failure { _ = try table.cgroup2Mount() }
        #expect(cgroup.code == .unavailable)
        #expect(cgroup.description.contains("mount -t cgroup2"))
        let bpffs = try failure { _ = try table.bpffsMount() }
        #expect(bpffs.code == .unavailable)
        #expect(bpffs.description.contains("mount -t bpf"))
    }

    @Test(
        "refuses a text that is no mountinfo",
        arguments: [
            "x", "36 35 98:0 / /mnt", "36 35 98:0 / /mnt rw", "36 35 98:0 / /mnt rw -", "36 35 98 / /mnt rw - a b c",
            "a 35 98:0 / /mnt rw - ext4 x rw", #"36 35 98:0 / /m\9 rw - ext4 x rw"#,
        ])
    func notMountinfo(line: String) throws {
        let error = try failure { _ = try MountTable(text: "\(Self.root)\n\(line)\n") }
        #expect(error.description.contains("line 2"))
    }

    /// The results of stat(1) for this host's own paths.
    @Test("finds the mounts of this host as stat(1) does", arguments: ["/", "/proc", "/sys"])
    func thisHost(path: FilePath) throws {
        let mount = try #require(try MountTable.current().mount(containing: path))
        let stat = try Child("stat", "--format=%Hd:%Ld", path.string)
        #expect(try stat.line() == "\(mount.device >> 20):\(mount.device & 0xf_ffff)")
    }
}
