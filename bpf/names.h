/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The names of a socket's two ends. Both hooks leave before any look-up if the name needs no translation. */
#ifndef VIP_BPF_NAMES_H
#define VIP_BPF_NAMES_H

#include "apply.h"

/* Whether the socket at the other end asked for 127.0.0.1 or ::1; it is connected to `port` (network order). */
static __always_inline __u32 vip_far_state(struct bpf_sock *found, __be16 port)
{
	return found->dst_port == port ? vip_sock_state(found) & VIP_SOCKET_LOCAL_PEER : 0;
}

/*
 * The same of the TCP connection of the calling socket, both ends of which are on `address`: VIP_SOCKET_LOCAL_PEER or
 * 0. A socket that its program has closed may be found no longer. Global functions, so that the verifier goes through
 * each once.
 */
__noinline int vip_ask_far_end4(struct bpf_sock_addr *ctx, __be32 address)
{
	struct bpf_sock *found, *sk = vip_socket_of(ctx);
	struct bpf_sock_tuple tuple = {};
	int state;

	if (!sk)
		return 0;
	tuple.ipv4.saddr = tuple.ipv4.daddr = address;
	tuple.ipv4.sport = bpf_htons((__u16)sk->src_port);
	tuple.ipv4.dport = sk->dst_port;
	found = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return 0;
	state = vip_far_state(found, tuple.ipv4.sport);
	bpf_sk_release(found);
	return state;
}

__noinline int vip_ask_far_end6(struct bpf_sock_addr *ctx, const struct vip_address *address)
{
	struct bpf_sock *found, *sk = vip_socket_of(ctx);
	struct bpf_sock_tuple tuple = {};
	int state;

	if (!sk || !address)
		return 0;
	__builtin_memcpy(tuple.ipv6.saddr, address, sizeof(*address));
	__builtin_memcpy(tuple.ipv6.daddr, address, sizeof(*address));
	tuple.ipv6.sport = bpf_htons((__u16)sk->src_port);
	tuple.ipv6.dport = sk->dst_port;
	found = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return 0;
	state = vip_far_state(found, tuple.ipv6.sport);
	bpf_sk_release(found);
	return state;
}

/*
 * A connection from the session's address to itself: its two ends do not tell what was asked for, and only the end that
 * connected remembers it. `other` is the address of the other end.
 */
static __always_inline void vip_ask_far_end(struct bpf_sock_addr *ctx, enum vip_family family,
					    struct vip_facts *facts, struct vip_address other)
{
	const struct vip_address *address = &facts->own.address;

	if (ctx->type != SOCK_STREAM || !vip_same(family, facts->user_addr, *address) ||
	    !vip_same(family, other, *address) ||
	    (facts->state & (VIP_SOCKET_LOCAL_PEER | VIP_SOCKET_NAMED_PEER)))
		return;
	facts->state |= family == VIP_INET6 ? vip_ask_far_end6(ctx, address) :
					      vip_ask_far_end4(ctx, address->word[3]);
}

/* The peer's name: getpeername, accept with an address, recvmsg with an address. */
static __always_inline int vip_on_peer_name(struct bpf_sock_addr *ctx, enum vip_family family,
					    enum vip_hook hook)
{
	struct vip_call call = { .family = family };
	struct bpf_sock *sk = vip_socket_of(ctx);
	struct vip_facts *facts = &call.facts;
	struct vip_decision decision;
	struct vip_caller caller;
	struct vip_socket *row;

	if (!sk)
		return VIP_PROCEED;
	facts->user_addr = vip_user_addr(ctx, family);
	facts->local_addr = vip_local_addr(sk, family);
	if (vip_name_is_plain(family, facts->user_addr, facts->local_addr) ||
	    !vip_find_session(ctx, &call, &caller))
		return VIP_PROCEED;
	if (vip_peer_name_needs_state(family, facts)) {
		row = vip_sock_row(sk);
		if (row) {
			facts->state = row->flags;
			facts->peer = vip_sock_peer(row, ctx->user_port);
		}
		vip_ask_far_end(ctx, family, facts, facts->local_addr);
	}
	decision = vip_decide_peer_name(family, facts, vip_remote_addr(sk, family));
	return vip_apply(ctx, &call, hook, family, &decision);
}

/* Whether any policy in force has wildcardName: asRequested. */
static __always_inline int vip_any_as_requested(void)
{
	const struct vip_config *in_force = vip_config();

	return in_force && (in_force->flags & VIP_CONFIG_AS_REQUESTED);
}

/* Whether the session's policy has it. */
static __always_inline int vip_is_as_requested(struct vip_call *call, struct vip_caller *caller)
{
	return vip_find_policy(call, caller) && (call->facts.flags & VIP_POLICY_AS_REQUESTED);
}

/* The socket's own name: getsockname. */
static __always_inline int vip_on_own_name(struct bpf_sock_addr *ctx, enum vip_family family,
					   enum vip_hook hook)
{
	struct vip_call call = { .family = family };
	struct bpf_sock *sk = vip_socket_of(ctx);
	struct vip_facts *facts = &call.facts;
	struct vip_decision decision;
	struct vip_caller caller;
	struct vip_address peer;
	int as_requested = 0;

	facts->user_addr = vip_user_addr(ctx, family);
	if (!sk || vip_is_wildcard(family, facts->user_addr))
		return VIP_PROCEED;
	/* A socket that was connected and no longer is may have kept the address, but not the port. */
	peer = sk->state == BPF_TCP_CLOSE && !sk->dst_port && ctx->type == SOCK_STREAM ?
		       vip_wildcard(family) :
		       vip_remote_addr(sk, family);
	/*
	 * Only a socket without a peer may show the wildcard. One that has no port yet (IP_BIND_ADDRESS_NO_PORT) shows
	 * its address: nss/ asks by one.
	 */
	if (sk->src_port && vip_is_wildcard(family, peer))
		as_requested = vip_any_as_requested();
	if (!as_requested && vip_name_is_plain(family, facts->user_addr, peer))
		return VIP_PROCEED;
	if (!vip_find_session(ctx, &call, &caller))
		return VIP_PROCEED;
	if (as_requested)
		as_requested = vip_is_as_requested(&call, &caller);
	if (vip_own_name_needs_state(family, facts, as_requested))
		facts->state = vip_sock_state(sk);
	vip_ask_far_end(ctx, family, facts, peer);
	/* The storage of an MPTCP socket cannot be read. Assume ::, which is far more common than ::ffff:0.0.0.0. */
	if (family == VIP_MAPPED && sk->protocol == IPPROTO_MPTCP &&
	    vip_same(family, facts->user_addr, facts->own.address))
		facts->state |= VIP_SOCKET_DUAL;
	decision = vip_decide_own_name(family, facts, peer, as_requested);
	return vip_apply(ctx, &call, hook, family, &decision);
}

#endif
