// SPDX-License-Identifier: Apache-2.0

public import BPFLoader
import CVipABI

/// A hook: a place in the kernel at which one of the programs runs, by attach type.
///
/// To add a hook, add a row to ``Hook/all``, a number to `enum vip_hook` (bpf/abi.h) and a function to bpf/vip.bpf.c.
public struct Hook: Sendable, Hashable {
    /// What the hook's program is attached to.
    public enum Place: Sendable {
        /// Each attached cgroup, with all below it.
        case cgroup
        /// The network namespace of the sessions' addresses, once for all cgroups.
        case network
        /// The guarded cgroup, with all below it: for programs of no session.
        case guarded
    }

    /// The kernel's name of the hook, and the name of the pins of its link and its program: `connect4`.
    public let name: String
    public let attachType: AttachType
    /// Its row in the `counters` map: `enum vip_hook` of bpf/abi.h.
    public let number: UInt32
    /// The first kernel version that has it, for messages.
    public let since: String
    public let place: Place

    /// The name of the C function in bpf/vip.bpf.c.
    public var programName: String { "vip_\(name)" }

    public init(name: String, attachType: AttachType, number: UInt32, since: String, place: Place = .cgroup) {
        self.name = name
        self.attachType = attachType
        self.number = number
        self.since = since
        self.place = place
    }

    /// Every hook of the embedded object, in the order of their numbers.
    public static let all: [Hook] = [
        hook("bind4", .bind4, VIP_HOOK_BIND4, "4.17"),
        hook("connect4", .connect4, VIP_HOOK_CONNECT4, "4.17"),
        hook("sendmsg4", .sendmsg4, VIP_HOOK_SENDMSG4, "4.18"),
        hook("recvmsg4", .recvmsg4, VIP_HOOK_RECVMSG4, "5.2"),
        hook("getsockname4", .getsockname4, VIP_HOOK_GETSOCKNAME4, "5.8"),
        hook("getpeername4", .getpeername4, VIP_HOOK_GETPEERNAME4, "5.8"),
        hook("bind6", .bind6, VIP_HOOK_BIND6, "4.17"),
        hook("connect6", .connect6, VIP_HOOK_CONNECT6, "4.17"),
        hook("sendmsg6", .sendmsg6, VIP_HOOK_SENDMSG6, "4.18"),
        hook("recvmsg6", .recvmsg6, VIP_HOOK_RECVMSG6, "5.2"),
        hook("getsockname6", .getsockname6, VIP_HOOK_GETSOCKNAME6, "5.8"),
        hook("getpeername6", .getpeername6, VIP_HOOK_GETPEERNAME6, "5.8"),
        // The hook itself is older. Since 5.3, its program may use a socket's storage.
        hook("sock_ops", .sockOps, VIP_HOOK_SOCK_OPS, "5.3"),
        hook("sk_lookup", .skLookup, VIP_HOOK_SK_LOOKUP, "5.9", place: .network),
        // The hooks are older; their programs may ask for the network namespace since then.
        hook("setsockopt", .setsockopt, VIP_HOOK_SETSOCKOPT, "5.15"),
        hook("sock_create", .sockCreate, VIP_HOOK_SOCK_CREATE, "5.7"),
        hook("guard_bind4", .bind4, VIP_HOOK_GUARD_BIND4, "5.7", place: .guarded),
        hook("guard_connect4", .connect4, VIP_HOOK_GUARD_CONNECT4, "5.7", place: .guarded),
        hook("guard_sendmsg4", .sendmsg4, VIP_HOOK_GUARD_SENDMSG4, "5.7", place: .guarded),
        hook("guard_bind6", .bind6, VIP_HOOK_GUARD_BIND6, "5.7", place: .guarded),
        hook("guard_connect6", .connect6, VIP_HOOK_GUARD_CONNECT6, "5.7", place: .guarded),
        hook("guard_sendmsg6", .sendmsg6, VIP_HOOK_GUARD_SENDMSG6, "5.7", place: .guarded),
    ]

    /// The hooks for which every attached cgroup has a link.
    public static let ofCgroups: [Hook] = all.filter { $0.place == .cgroup }
    /// The hooks for which there is one link, to a network namespace.
    public static let ofNetwork: [Hook] = all.filter { $0.place == .network }
    /// The hooks of the guarded cgroup.
    public static let ofGuard: [Hook] = all.filter { $0.place == .guarded }

    /// The order in which the hooks of a cgroup and of the network namespace are attached. Detaching uses the reverse
    /// order.
    ///
    /// The hooks that note servers and translate names back come before those that rewrite addresses, so that no
    /// program gets an untranslated loopback address of its session.
    public static let attachOrder: [Hook] = all.filter { $0.place != .guarded }.reversed()

    private static func hook(
        _ name: String, _ type: AttachType, _ number: vip_hook, _ since: String, place: Place = .cgroup
    ) -> Hook {
        Hook(name: name, attachType: type, number: number.rawValue, since: since, place: place)
    }
}
