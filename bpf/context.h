/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a call's context and its socket say. No maps, so every object can include it. */
#ifndef VIP_BPF_CONTEXT_H
#define VIP_BPF_CONTEXT_H

#include "kernel.h"
#include "translate.h"

enum { VIP_REFUSE = 0, VIP_PROCEED = 1 }; /* what a sock_addr program returns */

/*
 * One field of a context or a socket. Each access is one instruction in assembly. Otherwise clang may merge
 * neighbouring fields, or keep a field's address in a register and access through that, which the verifier refuses
 * ("dereference of modified ctx ptr").
 */
#ifdef __bpf__
#define VIP_GET(type, object, field)                                                    \
	({                                                                              \
		typeof((object)->field) got_;                                           \
                                                                                        \
		asm volatile("%[got] = *(" #type " *)(%[from] + %[offset])"             \
			     : [got] "=r"(got_)                                         \
			     : [from] "r"(object), [offset] "i"(__builtin_offsetof(     \
							   typeof(*(object)), field))); \
		got_;                                                                   \
	})
#define VIP_SET(type, object, field, value)                                                     \
	asm volatile(                                                                           \
		"*(" #type " *)(%[to] + %[offset]) = %[new]"                                    \
		:                                                                               \
		: [to] "r"(object), [offset] "i"(__builtin_offsetof(typeof(*(object)), field)), \
		  [new] "r"(value)                                                              \
		: "memory")
#else
#define VIP_GET(type, object, field) ((object)->field)
#define VIP_SET(type, object, field, value) ((object)->field = (value))
#endif

/* The address in the field `ip4`, or in the four words of the field `ip6`. */
#define VIP_LOAD(is_ip4, object, ip4, ip6)                              \
	({                                                              \
		struct vip_address loaded_ = vip_mapped(0);             \
                                                                        \
		if (is_ip4) {                                           \
			loaded_.word[3] = VIP_GET(u32, object, ip4);    \
		} else {                                                \
			loaded_.word[0] = VIP_GET(u32, object, ip6[0]); \
			loaded_.word[1] = VIP_GET(u32, object, ip6[1]); \
			loaded_.word[2] = VIP_GET(u32, object, ip6[2]); \
			loaded_.word[3] = VIP_GET(u32, object, ip6[3]); \
		}                                                       \
		loaded_;                                                \
	})

#define VIP_STORE(is_ip4, object, ip4, ip6, address)                     \
	do {                                                             \
		if (is_ip4) {                                            \
			VIP_SET(u32, object, ip4, (address).word[3]);    \
		} else {                                                 \
			VIP_SET(u32, object, ip6[0], (address).word[0]); \
			VIP_SET(u32, object, ip6[1], (address).word[1]); \
			VIP_SET(u32, object, ip6[2], (address).word[2]); \
			VIP_SET(u32, object, ip6[3], (address).word[3]); \
		}                                                        \
	} while (0)

static __always_inline struct bpf_sock *vip_socket_of(struct bpf_sock_addr *ctx)
{
	return VIP_GET(u64, ctx, sk);
}

/* What the call names. A mapped address is in the IPv6 fields. */
static __always_inline struct vip_address vip_user_addr(struct bpf_sock_addr *ctx,
							enum vip_family family)
{
	if (family == VIP_MAPPED)
		return vip_mapped(VIP_GET(u32, ctx, user_ip6[3]));
	return VIP_LOAD(family == VIP_INET4, ctx, user_ip4, user_ip6);
}

static __always_inline void vip_store_user_addr(struct bpf_sock_addr *ctx, enum vip_family family,
						struct vip_address address)
{
	VIP_STORE(family == VIP_INET4, ctx, user_ip4, user_ip6, address);
}

/* The source that a datagram has before the hook: that of IP_PKTINFO, else the socket's own. */
static __always_inline struct vip_address vip_message_source(struct bpf_sock_addr *ctx,
							     enum vip_family family)
{
	return VIP_LOAD(family == VIP_INET4, ctx, msg_src_ip4, msg_src_ip6);
}

static __always_inline void vip_store_message_source(struct bpf_sock_addr *ctx,
						     enum vip_family family,
						     struct vip_address address)
{
	VIP_STORE(family == VIP_INET4, ctx, msg_src_ip4, msg_src_ip6, address);
}

/* The address that a socket is bound to: inet_rcv_saddr, sk_v6_rcv_saddr. */
static __always_inline struct vip_address vip_local_addr(struct bpf_sock *sk,
							 enum vip_family family)
{
	return VIP_LOAD(family != VIP_INET6, sk, src_ip4, src_ip6);
}

/* The address that a socket is connected to. */
static __always_inline struct vip_address vip_remote_addr(struct bpf_sock *sk,
							  enum vip_family family)
{
	return VIP_LOAD(family != VIP_INET6, sk, dst_ip4, dst_ip6);
}

/* The family of a call of an AF_INET6 socket. */
static __always_inline enum vip_family vip_family6(struct bpf_sock_addr *ctx)
{
	return vip_is_mapped(vip_user_addr(ctx, VIP_INET6)) ? VIP_MAPPED : VIP_INET6;
}

#ifdef __bpf__
/*
 * The cgroup in which a socket was made. The caller holds a reference to the socket. The verifier lets no program
 * follow a pointer of a socket that was found, so the socket's address is read from the stack, as a number.
 */
static __always_inline struct cgroup *vip_cgroup_of(struct bpf_sock *sk)
{
	struct sock *kernel = 0;

	bpf_probe_read_kernel(&kernel, sizeof(kernel), &sk);
	return BPF_CORE_READ(kernel, sk_cgrp_data.cgroup);
}

/* The user who made a socket, as a number of the initial user namespace. In the same way. */
static __always_inline __u32 vip_user_of(struct bpf_sock *sk)
{
	struct sock *kernel = 0;

	bpf_probe_read_kernel(&kernel, sizeof(kernel), &sk);
	return BPF_CORE_READ(kernel, sk_uid.val);
}

/*
 * The IPv4 address that IP_MULTICAST_IF has given a socket, or 0: udp_sendmsg() and ip4_datagram_connect() take it for the
 * source of what goes to a group, if the socket is bound to none.
 */
static __always_inline __be32 vip_group_source_of(struct bpf_sock *sk)
{
	struct inet_sock *kernel = 0;

	bpf_probe_read_kernel(&kernel, sizeof(kernel), &sk);
	return BPF_CORE_READ(kernel, mc_addr);
}

/* The ID of a cgroup's ancestor at `level`, itself included; 0 if it is not that deep. */
static __always_inline __u64 vip_ancestor_of(struct cgroup *cgroup, int level)
{
	struct cgroup *ancestor = 0;

	if (level < 0 || level > BPF_CORE_READ(cgroup, level))
		return 0;
	bpf_probe_read_kernel(&ancestor, sizeof(ancestor),
			      (const char *)cgroup + bpf_core_field_offset(cgroup->ancestors) +
				      level * sizeof(ancestor));
	return BPF_CORE_READ(ancestor, kn, id);
}
#endif

/*
 * Whether the address is of a wrong family. The kernel looks at that only after the hooks of bind and connect, and
 * refuses it there. IPv4's bind takes AF_UNSPEC for AF_INET.
 */
static __always_inline int vip_is_foreign(struct bpf_sock_addr *ctx, enum vip_family family)
{
	if (family == VIP_INET4)
		return ctx->user_family != AF_INET && ctx->user_family;
	return ctx->user_family != AF_INET6;
}

/*
 * The source that IP_MULTICAST_IF gives what goes to `to`, or the wildcard. The kernel looks at that for groups alone,
 * 224.0.0.0/4 (ipv4_is_multicast()), and not for broadcasts.
 */
static __always_inline struct vip_address
vip_group_source(struct bpf_sock *sk, enum vip_family family, struct vip_address to)
{
	__be32 source = 0;

	if (family != VIP_INET6 && (vip_swap32(to.word[3]) >> 28) == 14 && sk)
		source = vip_group_source_of(sk);
	return source ? vip_mapped(source) : vip_wildcard(family);
}

/* The flags of a TCP or UDP socket of AF_INET6; NULL for others, MPTCP among them. */
static __always_inline struct sock_common *vip_common6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = vip_socket_of(ctx);

	if (!sk)
		return 0;
	if (ctx->type == SOCK_STREAM)
		return (struct sock_common *)bpf_skc_to_tcp6_sock(sk);
	return (struct sock_common *)bpf_skc_to_udp6_sock(sk);
}

/* Whether an AF_INET6 socket has IPV6_V6ONLY. Binding it to an IPv6 address sets that as well. */
static __always_inline int vip_is_v6only(struct bpf_sock_addr *ctx)
{
	struct sock_common *common = vip_common6(ctx);

	return !common || BPF_CORE_READ_BITFIELD(common, skc_ipv6only);
}

#endif
