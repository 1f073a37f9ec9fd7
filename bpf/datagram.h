/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* sendto and sendmsg of UDP. */
#ifndef VIP_BPF_DATAGRAM_H
#define VIP_BPF_DATAGRAM_H

#include "apply.h"
#include "listener.h"
#include "program.h"

/*
 * The class of a datagram's source. A mapped source does not count for an IPv6 datagram: a dual-stack bind or an
 * earlier connect gave it.
 */
static __always_inline enum vip_addr_class
vip_class_of_source(enum vip_family family, const struct vip_own *own, struct vip_address source)
{
	if (family == VIP_INET6 && vip_is_mapped(source))
		return VIP_WILDCARD;
	return vip_class_of(family, own, source);
}

/*
 * For a datagram to the peer of a connected socket, the hook runs in two cases: with control messages (the context has
 * no destination), and on an AF_INET6 socket with a mapped peer (the destination is the peer).
 */
static __always_inline int vip_is_to_peer(struct bpf_sock_addr *ctx, enum vip_family family,
					  struct bpf_sock *sk, struct vip_address destination)
{
	if (!ctx->user_family && !ctx->user_port)
		return 1;
	return family == VIP_INET4 && ctx->family == AF_INET6 && sk &&
	       vip_is_mapped(vip_remote_addr(sk, VIP_INET6)) &&
	       sk->dst_ip4 == destination.word[3] && sk->dst_port == (__u16)ctx->user_port;
}

static __always_inline int vip_on_sendmsg(struct bpf_sock_addr *ctx, enum vip_family family,
					  enum vip_hook hook)
{
	struct vip_call call = { .family = family };
	struct bpf_sock *sk = vip_socket_of(ctx);
	struct vip_facts *facts = &call.facts;
	struct vip_decision decision = {};
	enum vip_addr_class source;
	struct vip_address end;
	struct vip_caller caller;
	struct vip_address peer;
	struct vip_route route;
	enum vip_action to;
	int is_to_peer;

	facts->user_addr = vip_user_addr(ctx, family);
	facts->local_addr = vip_message_source(ctx, family);
	if (vip_is_wildcard(family, facts->local_addr))
		facts->local_addr = vip_group_source(sk, family, facts->user_addr);
	is_to_peer = vip_is_to_peer(ctx, family, sk, facts->user_addr);
	if (is_to_peer) {
		if (!sk)
			return VIP_PROCEED;
		end = vip_local_addr(sk, family);
		if (vip_same(family, end, facts->local_addr))
			return VIP_PROCEED;
	}
	if (!vip_find_caller(ctx, &call, &caller))
		return VIP_PROCEED;
	if (is_to_peer) {
		source = vip_class_of(family, &facts->own, facts->local_addr);
		if (source == VIP_NOT_LOCAL)
			vip_find_features(&call, &caller);
		decision = vip_decide_connected_datagram(family, facts, end, source);
		return vip_apply(ctx, &call, hook, family, &decision);
	}
	facts->asked = vip_destination(
		family, &facts->own,
		vip_class_of_destination(family, &caller, &facts->own, facts->user_addr),
		facts->local_addr);
	vip_find_features(&call, &caller);
	facts->is_excluded =
		vip_is_excluded(&caller, facts->flags, ctx->user_port, VIP_EXCLUDED_LOOPBACK);
	to = vip_probe_listeners(ctx, &call);
	decision.outcome = vip_refusal(to);
	if (decision.outcome)
		return vip_apply(ctx, &call, hook, family, &decision);

	source = vip_class_of_source(family, &facts->own, facts->local_addr);
	route = vip_route_of(family, family, facts, to);
	peer = route.address; /* a copy: the whole route would be on the stack */
	decision = vip_decide_datagram(
		family, facts, &route, source,
		vip_datagram_needs_peer(route.asked, source) &&
			vip_listens(ctx, family, &facts->own.address, &peer, VIP_MATCH_CONNECTED));
	/* The peer of a connected socket is another one than this datagram's. */
	if (sk && !sk->dst_port) {
		decision.remember = route.remember;
		decision.peer = route.peer;
		if (vip_is_named_peer(facts->asked, to, source))
			decision.remember |= VIP_SOCKET_NAMED_PEER;
	}
	return vip_apply(ctx, &call, hook, family, &decision);
}

#endif
