// SPDX-License-Identifier: Apache-2.0

import CLibBPF

/// The kind of hook to which a program is attached: `enum bpf_attach_type` of linux/bpf.h.
public struct AttachType: RawRepresentable, Sendable, Hashable, ExpressibleByIntegerLiteral {
    public let rawValue: UInt32

    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public init(integerLiteral value: UInt32) { self.init(rawValue: value) }

    private init(_ type: bpf_attach_type) { self.init(rawValue: type.rawValue) }

    public static let bind4 = AttachType(BPF_CGROUP_INET4_BIND)
    public static let bind6 = AttachType(BPF_CGROUP_INET6_BIND)
    public static let connect4 = AttachType(BPF_CGROUP_INET4_CONNECT)
    public static let connect6 = AttachType(BPF_CGROUP_INET6_CONNECT)
    public static let sendmsg4 = AttachType(BPF_CGROUP_UDP4_SENDMSG)
    public static let sendmsg6 = AttachType(BPF_CGROUP_UDP6_SENDMSG)
    public static let recvmsg4 = AttachType(BPF_CGROUP_UDP4_RECVMSG)
    public static let recvmsg6 = AttachType(BPF_CGROUP_UDP6_RECVMSG)
    public static let getsockname4 = AttachType(BPF_CGROUP_INET4_GETSOCKNAME)
    public static let getsockname6 = AttachType(BPF_CGROUP_INET6_GETSOCKNAME)
    public static let getpeername4 = AttachType(BPF_CGROUP_INET4_GETPEERNAME)
    public static let getpeername6 = AttachType(BPF_CGROUP_INET6_GETPEERNAME)
    public static let setsockopt = AttachType(BPF_CGROUP_SETSOCKOPT)
    public static let sockCreate = AttachType(BPF_CGROUP_INET_SOCK_CREATE)
    public static let sockOps = AttachType(BPF_CGROUP_SOCK_OPS)
    public static let skLookup = AttachType(BPF_SK_LOOKUP)

    var raw: bpf_attach_type { bpf_attach_type(rawValue: rawValue) }
}
