// SPDX-License-Identifier: Apache-2.0

internal import CLibBPF
import Glibc
public import Host
public import SystemPackage

/// What runs at a hook, whoever attached it.
public enum AttachedPrograms {
    /// The kernel's IDs of the programs that run for a cgroup at a hook, in the order in which they run
    /// (`BPF_PROG_QUERY` with `BPF_F_QUERY_EFFECTIVE`): those of the cgroup itself, then those of each cgroup above it.
    ///
    /// - Throws: ``Failure``, (not permitted) without CAP_NET_ADMIN.
    public static func effective(on cgroup: FilePath, _ hook: Hook) throws(Failure) -> [UInt32] {
        try query(cgroup, O_DIRECTORY, hook, UInt32(BPF_F_QUERY_EFFECTIVE))
    }

    /// Those that are attached to the cgroup itself, or of a hook of the network namespace to the caller's.
    ///
    /// - Throws: ``Failure`` as ``effective(on:_:)``.
    public static func own(of cgroup: FilePath, _ hook: Hook) throws(Failure) -> [UInt32] {
        switch hook.place {
        case .cgroup: try query(cgroup, O_DIRECTORY, hook, 0)
        case .network: try query("/proc/self/ns/net", 0, hook, 0)
        }
    }

    /// A program's name, at most 15 bytes; `nil` where it has none, has gone, or may not be asked for: that takes
    /// CAP_SYS_ADMIN.
    public static func name(ofProgram id: UInt32) -> String? {
        let raw = bpf_prog_get_fd_by_id(id)
        guard raw >= 0 else { return nil }
        let program = Descriptor(owning: raw)
        var info = bpf_prog_info()
        var length = UInt32(MemoryLayout<bpf_prog_info>.size)
        guard bpf_obj_get_info_by_fd(program.raw, &info, &length) == 0 else { return nil }
        let name = withUnsafeBytes(of: info.name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        return name.isEmpty ? nil : name
    }

    private static func query(
        _ target: FilePath, _ flags: CInt, _ hook: Hook, _ queryFlags: UInt32
    ) throws(Failure) -> [UInt32] {
        let what = "ask what runs at \(hook.name) of \(target)"
        let raw = target.withPlatformString { open($0, O_RDONLY | O_CLOEXEC | flags) }
        guard raw >= 0 else { throw Failure(what, errno: .current, needs: Capability.bpfPrograms) }
        let file = Descriptor(owning: raw)
        var attachFlags: UInt32 = 0
        var room = 64  // BPF_CGROUP_MAX_PROGS of one cgroup; those above may have more
        while true {
            var ids = [UInt32](repeating: 0, count: room)
            var count = UInt32(room)
            if bpf_prog_query(
                file.raw, bpf_attach_type(rawValue: hook.attachType), queryFlags, &attachFlags, &ids, &count) == 0
            {
                return Array(ids.prefix(Int(count)))
            }
            let error = Errno.current
            guard error == .noSpace, room < 1 << 16 else {
                throw Failure(what, errno: error, needs: Capability.bpfPrograms)
            }
            room *= 4
        }
    }
}
