/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The socket of a call: what it asked for, the addresses in it, and what is remembered of it. */
#ifndef VIP_BPF_SOCKET_H
#define VIP_BPF_SOCKET_H

#include "kernel.h"
#include "maps.h"
#include "translate.h"

/*
 * ctx->sk. In assembly, because clang may otherwise keep the field's address in a register and load
 * through that, which the verifier refuses ("dereference of modified ctx ptr").
 */
static __always_inline struct bpf_sock *vip_socket_of(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk;

	asm volatile("%[sk] = *(u64 *)(%[ctx] + %[offset])"
		     : [sk] "=r"(sk)
		     : [ctx] "r"(ctx), [offset] "i"(__builtin_offsetof(struct bpf_sock_addr, sk)));
	return sk;
}

/* ---- addresses ---- */

/*
 * The context's IPv6 words are read and written through volatile: clang would merge neighbouring ones
 * into an access that the verifier refuses ("dereference of modified ctx ptr").
 */
static __always_inline struct vip_address vip_asked(struct bpf_sock_addr *ctx,
						    enum vip_family family)
{
	volatile struct bpf_sock_addr *call = ctx;
	struct vip_address address = vip_mapped(0);

	if (family == VIP_INET4) {
		address.word[3] = call->user_ip4;
		return address;
	}
	address.word[0] = call->user_ip6[0];
	address.word[1] = call->user_ip6[1];
	address.word[2] = call->user_ip6[2];
	address.word[3] = call->user_ip6[3];
	return address;
}

static __always_inline void vip_store(struct bpf_sock_addr *ctx, enum vip_family family,
				      struct vip_address address)
{
	volatile struct bpf_sock_addr *call = ctx;

	if (family == VIP_INET4) {
		call->user_ip4 = address.word[3];
		return;
	}
	if (family == VIP_INET6) {
		call->user_ip6[0] = address.word[0];
		call->user_ip6[1] = address.word[1];
		call->user_ip6[2] = address.word[2];
	}
	call->user_ip6[3] = address.word[3];
}

/* An answer in the other form than was asked: :: and ::1 by a mapped address, and back. */
static __always_inline void vip_store_whole(struct bpf_sock_addr *ctx, struct vip_address address)
{
	vip_store(ctx, VIP_INET6, address);
}

/* The source that a datagram has before the hook: of IP_PKTINFO, else the socket's own. */
static __always_inline struct vip_address vip_message_source(struct bpf_sock_addr *ctx,
							     enum vip_family family)
{
	volatile struct bpf_sock_addr *call = ctx;
	struct vip_address address = vip_mapped(0);

	if (family == VIP_INET4) {
		address.word[3] = call->msg_src_ip4;
		return address;
	}
	address.word[0] = call->msg_src_ip6[0];
	address.word[1] = call->msg_src_ip6[1];
	address.word[2] = call->msg_src_ip6[2];
	address.word[3] = call->msg_src_ip6[3];
	return address;
}

static __always_inline void vip_store_message_source(struct bpf_sock_addr *ctx,
						     enum vip_family family,
						     struct vip_address address)
{
	volatile struct bpf_sock_addr *call = ctx;

	if (family == VIP_INET4) {
		call->msg_src_ip4 = address.word[3];
		return;
	}
	call->msg_src_ip6[0] = address.word[0];
	call->msg_src_ip6[1] = address.word[1];
	call->msg_src_ip6[2] = address.word[2];
	call->msg_src_ip6[3] = address.word[3];
}

/* The address that a socket is bound to: inet_rcv_saddr, sk_v6_rcv_saddr. */
static __always_inline struct vip_address vip_own_end(struct bpf_sock *sk, enum vip_family family)
{
	struct vip_address address = vip_mapped(0);

	if (family != VIP_INET6) {
		address.word[3] = sk->src_ip4;
		return address;
	}
	address.word[0] = sk->src_ip6[0];
	address.word[1] = sk->src_ip6[1];
	address.word[2] = sk->src_ip6[2];
	address.word[3] = sk->src_ip6[3];
	return address;
}

static __always_inline struct vip_address vip_peer_end(struct bpf_sock *sk, enum vip_family family)
{
	struct vip_address address = vip_mapped(0);

	if (family != VIP_INET6) {
		address.word[3] = sk->dst_ip4;
		return address;
	}
	address.word[0] = sk->dst_ip6[0];
	address.word[1] = sk->dst_ip6[1];
	address.word[2] = sk->dst_ip6[2];
	address.word[3] = sk->dst_ip6[3];
	return address;
}

/* Whether an AF_INET6 socket has IPV6_V6ONLY, which binding it to an IPv6 address sets as well. */
static __always_inline int vip_is_v6only(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = vip_socket_of(ctx);
	struct sock_common *common;

	if (!sk)
		return 1;
	if (ctx->type == SOCK_STREAM)
		common = (struct sock_common *)bpf_skc_to_tcp6_sock(sk);
	else
		common = (struct sock_common *)bpf_skc_to_udp6_sock(sk);
	return !common || BPF_CORE_READ_BITFIELD(common, skc_ipv6only);
}

/* ---- what is remembered of a socket ---- */

static __always_inline struct vip_socket *vip_memory(struct bpf_sock *sk)
{
	return bpf_sk_storage_get(&sockets, sk, 0, 0);
}

/* Takes `forget` out and puts `asked` in; with it, the session that the socket belongs to. */
static __always_inline void vip_remember(struct bpf_sock *sk, __u32 forget, __u32 asked,
					 __u64 cgroup)
{
	struct vip_socket *row = vip_memory(sk);

	if (!row) {
		if (!asked)
			return;
		row = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!row)
			return;
	}
	row->asked = (row->asked & ~forget) | asked;
	if (cgroup)
		row->cgroup = cgroup;
}

static __always_inline __u32 vip_remembered(struct bpf_sock *sk)
{
	struct vip_socket *row = vip_memory(sk);

	return row ? row->asked : 0;
}

#endif
