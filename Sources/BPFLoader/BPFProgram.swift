// SPDX-License-Identifier: Apache-2.0

internal import CLibBPF
import Glibc
public import Host
public import SystemPackage

/// A program in the kernel, held by a descriptor.
public struct BPFProgram: ~Copyable, Sendable {
    private let descriptor: Descriptor
    var raw: CInt { descriptor.raw }

    /// Opens a pinned program (`bpf_obj_get(2)`).
    public init(pinnedAt path: FilePath) throws(Failure) {
        let raw = path.withPlatformString { bpf_obj_get($0) }
        guard raw >= 0 else {
            throw Failure("open program \(path)", errno: .current, needs: Capability.bpfPrograms)
        }
        descriptor = Descriptor(owning: raw)
    }

    /// Opens a program by the kernel's ID (`BPF_PROG_GET_FD_BY_ID`, which needs CAP_SYS_ADMIN).
    public init(id: UInt32) throws(Failure) {
        let raw = bpf_prog_get_fd_by_id(id)
        guard raw >= 0 else { throw Failure("open program \(id)", errno: .current, needs: [.sysAdmin]) }
        descriptor = Descriptor(owning: raw)
    }

    init(duplicating raw: CInt, _ name: String) throws(Failure) {
        let copy = fcntl(raw, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { throw Failure("open program \(name)", errno: .current) }
        descriptor = Descriptor(owning: copy)
    }

    /// The kernel's ID.
    public func id() throws(Failure) -> UInt32 { try info().id }

    /// The program's name, at most 15 bytes; empty if it has none.
    public func name() throws(Failure) -> String {
        withUnsafeBytes(of: try info().name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    private func info() throws(Failure) -> bpf_prog_info {
        var info = bpf_prog_info()
        var length = UInt32(MemoryLayout<bpf_prog_info>.size)
        guard bpf_obj_get_info_by_fd(raw, &info, &length) == 0 else {
            throw Failure("read the description of a program", errno: .current, needs: Capability.bpfPrograms)
        }
        return info
    }

    /// Pins the program at `path`, on a BPF file system, and replaces what is pinned there, in one step:
    /// `path`_new exists for a moment.
    public func pin(replacing path: FilePath) throws(Failure) {
        try Pin.replace(path, "pin program \(path)") { bpf_obj_pin(raw, $0) }
    }
}

/// Pins: names in a BPF file system.
public enum Pin {
    /// Whether a path is on a BPF file system: statfs(2).
    public static func isOnBPFFileSystem(_ path: FilePath) -> Bool {
        path.withPlatformString { vip_file_system_type($0) } == UInt(BPF_FS_MAGIC)
    }

    /// The name under which a pin is made before it replaces another: bpffs allows no dot in a name.
    static let freshSuffix = "_new"

    /// Whether a name is the temporary name of a pin that a killed process left behind.
    public static func isLeftover(_ name: String) -> Bool { name.hasSuffix(freshSuffix) }

    static func replace(
        _ path: FilePath, _ what: String, _ pin: (UnsafePointer<CChar>) -> CInt
    ) throws(Failure) {
        let fresh = FilePath("\(path)\(freshSuffix)")
        _ = fresh.withPlatformString { unlink($0) }  // left by a process that was killed here
        guard fresh.withPlatformString(pin) == 0 else {
            throw Failure(what, errno: .current, needs: Capability.bpfPrograms)
        }
        let renamed = fresh.withPlatformString { old in path.withPlatformString { new in rename(old, new) } }
        guard renamed == 0 else {
            let failure = Failure(what, errno: .current, needs: Capability.bpfPrograms)
            _ = fresh.withPlatformString { unlink($0) }
            throw failure
        }
    }
}
