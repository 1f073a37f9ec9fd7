// SPDX-License-Identifier: Apache-2.0

internal import CLibBPF
import Glibc
public import Host
public import SystemPackage

/// The programs that run at a hook, whichever process attached them.
public enum AttachedPrograms {
    /// The kernel's IDs of the programs that run for a cgroup, in the order in which they run
    /// (`BPF_PROG_QUERY` with `BPF_F_QUERY_EFFECTIVE`): those of the cgroup itself, then those of each cgroup above it.
    ///
    /// - Throws: ``Failure``, (not permitted) without CAP_NET_ADMIN.
    public static func effective(on cgroup: FilePath, _ type: AttachType) throws(Failure) -> [UInt32] {
        try query(.cgroup(cgroup), type, UInt32(BPF_F_QUERY_EFFECTIVE))
    }

    /// The programs that are attached to the cgroup or the network namespace itself.
    ///
    /// - Throws: ``Failure`` as ``effective(on:_:)``.
    public static func own(of target: BPFLink.Target, _ type: AttachType) throws(Failure) -> [UInt32] {
        try query(target, type, 0)
    }

    private static func query(
        _ target: BPFLink.Target, _ type: AttachType, _ queryFlags: UInt32
    ) throws(Failure) -> [UInt32] {
        let (path, flags) =
            switch target {
            case .cgroup(let path): (path, O_DIRECTORY)
            case .networkNamespace(let path): (path, 0)
            }
        let what = "list the programs attached to \(path)"
        let raw = path.withPlatformString { open($0, O_RDONLY | O_CLOEXEC | flags) }
        guard raw >= 0 else { throw Failure(what, errno: .current) }
        let file = Descriptor(owning: raw)
        var attachFlags: UInt32 = 0
        var room = 64  // BPF_CGROUP_MAX_PROGS of one cgroup; those above may have more
        while true {
            var ids = [UInt32](repeating: 0, count: room)
            var count = UInt32(room)
            if bpf_prog_query(file.raw, type.raw, queryFlags, &attachFlags, &ids, &count) == 0 {
                return Array(ids.prefix(Int(count)))
            }
            let error = Errno.current
            guard error == .noSpace, room < 1 << 16 else { throw Failure(what, errno: error, needs: [.netAdmin]) }
            room *= 4
        }
    }
}
