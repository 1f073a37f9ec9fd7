// SPDX-License-Identifier: Apache-2.0

internal import CLibBPF
import Glibc
public import Host
public import SystemPackage

/// A link: it keeps a program attached as long as a descriptor or a pin holds it. Compare link.Link of cilium/ebpf.
public struct BPFLink: ~Copyable, Sendable {
    private let descriptor: Descriptor

    /// What a program is attached to: a cgroup's directory or a network namespace's file.
    public enum Target: Sendable {
        case cgroup(FilePath)
        case networkNamespace(FilePath)
    }

    /// When a program runs among others of the same cgroup and of those above and below.
    public enum Order: Sendable, Hashable {
        /// Before all others (BPF_F_PREORDER; seen: 6.18 can, 6.1 cannot).
        case first
        /// In the order in which they were attached.
        case asAttached
    }

    /// What the kernel reports about a link: `struct bpf_link_info`.
    public struct Info: Sendable, Hashable {
        public let id: UInt32
        public let programID: UInt32
        public let attachType: AttachType
        /// The ID of the cgroup, for a cgroup's link; 0 if the link is defunct because its cgroup was removed.
        public let cgroupID: UInt64
        /// The inode of the namespace's file, for a network namespace's link; 0 if the link is defunct.
        public let namespace: UInt64
    }

    /// Attaches a program: `bpf_link_create(2)`.
    ///
    /// - Parameters:
    ///   - what: the operation, for the error.
    ///   - hint: what to do if the error is not a missing privilege.
    public init(
        attaching program: borrowing BPFProgram, to target: Target, _ type: AttachType, order: Order = .asAttached,
        _ what: String, hint: String? = nil
    ) throws(Failure) {
        let (path, flags) =
            switch target {
            case .cgroup(let path): (path, O_DIRECTORY)
            case .networkNamespace(let path): (path, 0)
            }
        let rawTarget = path.withPlatformString { open($0, O_RDONLY | O_CLOEXEC | flags) }
        guard rawTarget >= 0 else { throw Failure(what, errno: .current) }
        let target = Descriptor(owning: rawTarget)
        let flag = order == .first ? UInt32(VIP_LINK_PREORDER) : 0
        let raw = vip_link_create(program.raw, target.raw, type.raw, flag)
        guard raw >= 0 else {
            throw Failure(what, errno: Errno(rawValue: -raw), needs: Capability.bpfPrograms, hint: hint)
        }
        descriptor = Descriptor(owning: raw)
    }

    /// Opens a pinned link (`bpf_obj_get(2)`).
    ///
    /// - Throws: ``Failure``; its errno is ENOENT where no link is pinned there.
    public init(pinnedAt path: FilePath) throws(Failure) {
        let raw = path.withPlatformString { bpf_obj_get($0) }
        guard raw >= 0 else { throw Failure("open link \(path)", errno: .current, needs: Capability.bpfPrograms) }
        descriptor = Descriptor(owning: raw)
    }

    /// The description of a pinned link; `nil` if no link is pinned there.
    public static func info(pinnedAt path: FilePath) throws(Failure) -> Info? {
        do throws(Failure) {
            return try BPFLink(pinnedAt: path).info()
        } catch {
            if error.errno == .noSuchFileOrDirectory { return nil }
            throw error
        }
    }

    /// `BPF_OBJ_GET_INFO_BY_FD`.
    public func info() throws(Failure) -> Info {
        var info = bpf_link_info()
        var length = UInt32(MemoryLayout<bpf_link_info>.size)
        guard bpf_obj_get_info_by_fd(descriptor.raw, &info, &length) == 0 else {
            throw Failure("read the description of a link", errno: .current, needs: Capability.bpfPrograms)
        }
        let isNamespace = info.type == BPF_LINK_TYPE_NETNS.rawValue
        return Info(
            id: info.id, programID: info.prog_id,
            attachType: AttachType(rawValue: isNamespace ? info.netns.attach_type : info.cgroup.attach_type),
            cgroupID: isNamespace ? 0 : info.cgroup.cgroup_id,
            namespace: isNamespace ? UInt64(info.netns.netns_ino) : 0)
    }

    /// Replaces the link's program. One of the two runs at every moment (`bpf_link_update(2)`).
    public func update(to program: borrowing BPFProgram, _ what: String) throws(Failure) {
        guard bpf_link_update(descriptor.raw, program.raw, nil) == 0 else {
            throw Failure(what, errno: .current, needs: Capability.bpfPrograms)
        }
    }

    /// Detaches the program at once (`BPF_LINK_DETACH`, Linux 5.9). The link itself stays, defunct.
    ///
    /// Without it, the program of a link whose last pin was removed runs for a moment longer: the kernel releases the
    /// link after a grace period.
    public func detach(_ what: String) throws(Failure) {
        guard bpf_link_detach(descriptor.raw) == 0 else {
            throw Failure(what, errno: .current, needs: Capability.bpfPrograms)
        }
    }

    /// Pins the link at `path`, where nothing is pinned yet.
    public func pin(at path: FilePath, _ what: String) throws(Failure) {
        guard path.withPlatformString({ bpf_obj_pin(descriptor.raw, $0) }) == 0 else {
            throw Failure("\(what): pin its link at \(path)", errno: .current, needs: Capability.bpfPrograms)
        }
    }

    /// Pins the link at `path` and replaces what is pinned there, in one step. `path`_new exists for a moment.
    public func pin(replacing path: FilePath, _ what: String) throws(Failure) {
        try Pin.replace(path, "\(what): pin its link at \(path)") { bpf_obj_pin(descriptor.raw, $0) }
    }
}
