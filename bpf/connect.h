/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* connect, and TCP fast open. */
#ifndef VIP_BPF_CONNECT_H
#define VIP_BPF_CONNECT_H

#include "apply.h"
#include "listener.h"
#include "program.h"

/* bpf_bind() to an address and no port. `is_inet4`: the socket is AF_INET. */
static __always_inline int vip_bind_to(struct bpf_sock_addr *ctx, int is_inet4,
				       struct vip_address address)
{
	struct {
		__u16 family;
		__be16 port;
		__be32 address;
		__u8 zero[8];
	} in = { .family = AF_INET }; /* struct sockaddr_in */
	struct {
		__u16 family;
		__be16 port;
		__be32 flow;
		struct vip_address address;
		__u32 scope;
	} in6 = { .family = AF_INET6 }; /* struct sockaddr_in6 */

	if (is_inet4) {
		in.address = address.word[3];
		return bpf_bind(ctx, (void *)&in, sizeof(in));
	}
	/* The wildcard is :: for a mapped call, too. */
	if (address.word[3] || !vip_is_mapped(address))
		in6.address = address;
	return bpf_bind(ctx, (void *)&in6, sizeof(in6));
}

/* What the route's source is to replace. `is_inet4`: the socket is AF_INET. */
static __always_inline struct vip_bound vip_find_bound(struct bpf_sock *sk, int is_inet4,
						       const struct vip_route *route)
{
	struct vip_bound bound = { .address = vip_local_addr(sk, route->form),
				   .has_port = sk->src_port != 0 };

	if (route->form == VIP_INET6) {
		bound.is_other_form = vip_is_mapped(bound.address);
	} else if (!is_inet4) { /* an AF_INET6 socket may connect by a sockaddr_in, too */
		bound.is_other_form = sk->src_ip4 && !vip_is_mapped(vip_local_addr(sk, VIP_INET6));
	}
	if (bound.is_other_form && route->form == VIP_INET6) {
		struct vip_own mapped = vip_own_mapped(&route->own);

		bound.class = vip_class(VIP_MAPPED, &mapped, bound.address);
		if (bound.class ==
		    VIP_WILDCARD) /* bound to ::ffff:0.0.0.0, which is no IPv6 wildcard */
			bound.class = VIP_ELSEWHERE;
	} else {
		bound.class = vip_class(route->form, &route->own, bound.address);
	}
	if (vip_source_needs_owner(route->form, &bound)) {
		bound.owner = vip_find_owner(route->form, bound.class, bound.address);
		bound.class = vip_class_of_local(
			route->form, vip_class_of_owner(bound.class, bound.owner), bound.address);
	}
	if (vip_source_needs_state(&bound))
		bound.is_named = (vip_sock_state(sk) & VIP_SOCKET_NAMED_SOURCE) != 0;
	return bound;
}

/* Binds the socket to its source for a destination `to`, if it needs that. */
static __always_inline enum vip_source_decision vip_bind_source(struct bpf_sock_addr *ctx,
								const struct vip_call *call,
								enum vip_family form,
								enum vip_action to)
{
	int is_inet4 = form == VIP_INET4 && ctx->family == AF_INET;
	struct bpf_sock *sk = vip_socket_of(ctx);
	enum vip_source_decision source;
	struct vip_bound bound;
	struct vip_route route;

	if (!call || !sk)
		return VIP_SOURCE_KEEP;
	route = vip_route_of(call->family, form, &call->facts, to);
	bound = vip_find_bound(sk, is_inet4, &route);
	if (bound.class == VIP_WILDCARD && form != VIP_INET6) {
		struct vip_address group = vip_group_source(sk, form, route.address);

		if (!vip_is_wildcard(form, group) &&
		    vip_is_refused_source(vip_class_of(form, &route.own, group),
					  call->facts.features, call->facts.flags))
			return VIP_SOURCE_OTHERS;
	}
	source = vip_decide_source(&route, &bound, call->facts.features, call->facts.flags);
	if (source != VIP_SOURCE_BIND || !vip_bind_to(ctx, is_inet4, route.source_addr))
		return source;
	return vip_source_failed(&route, form == VIP_MAPPED && vip_is_v6only(ctx));
}

/* What connect does when it knows where it goes, and the socket has its source. */
static __always_inline int vip_finish_connect(struct bpf_sock_addr *ctx,
					      const struct vip_call *call, enum vip_family form,
					      enum vip_action to, enum vip_source_decision source)
{
	enum vip_hook hook = form == VIP_INET4 ? VIP_HOOK_CONNECT4 : VIP_HOOK_CONNECT6;
	struct vip_decision decision = { .outcome = vip_refusal(to) };
	struct bpf_sock *sk = vip_socket_of(ctx);
	enum vip_addr_class bound;
	struct vip_route route;

	if (!call)
		return VIP_PROCEED;
	if (decision.outcome)
		return vip_apply(ctx, call, hook, form, &decision);
	route = vip_route_of(call->family, form, &call->facts, to);
	decision.outcome = vip_connect_outcome(&call->facts, &route, source);
	decision.address = route.address;
	if (sk) {
		bound = vip_class(form, &route.own, vip_local_addr(sk, form));
		decision.remember = vip_peer_state(&route, bound);
		decision.peer = route.peer;
		/* A UDP socket may have many peers, one after the other: what is remembered is of an earlier one. */
		if (decision.remember || bound != VIP_WILDCARD)
			decision.forget = VIP_SOCKET_NAMED_PEER | VIP_SOCKET_LOCAL_PEER |
					  VIP_SOCKET_MAPPED_PEER | VIP_SOCKET_ASKED_PEER;
	}
	return vip_apply(ctx, call, hook, form, &decision);
}

/* The same for each form, as global functions: the verifier goes through each once. */
__noinline int vip_bind_source4(struct bpf_sock_addr *ctx, const struct vip_call *call,
				enum vip_action to)
{
	return vip_bind_source(ctx, call, VIP_INET4, to);
}

__noinline int vip_bind_source6(struct bpf_sock_addr *ctx, const struct vip_call *call,
				enum vip_action to)
{
	return vip_bind_source(ctx, call, VIP_INET6, to);
}

__noinline int vip_bind_source_mapped(struct bpf_sock_addr *ctx, const struct vip_call *call,
				      enum vip_action to)
{
	return vip_bind_source(ctx, call, VIP_MAPPED, to);
}

__noinline int vip_finish_connect4(struct bpf_sock_addr *ctx, const struct vip_call *call,
				   enum vip_action to, enum vip_source_decision source)
{
	return vip_finish_connect(ctx, call, VIP_INET4, to, source);
}

__noinline int vip_finish_connect6(struct bpf_sock_addr *ctx, const struct vip_call *call,
				   enum vip_action to, enum vip_source_decision source)
{
	return vip_finish_connect(ctx, call, VIP_INET6, to, source);
}

__noinline int vip_finish_connect_mapped(struct bpf_sock_addr *ctx, const struct vip_call *call,
					 enum vip_action to, enum vip_source_decision source)
{
	return vip_finish_connect(ctx, call, VIP_MAPPED, to, source);
}

/*
 * Binds and finishes in the form of the answer. `family` is the call's, as a constant: connect6 must not refer to the
 * functions of connect4, which 6.1's verifier goes through even if nothing calls them.
 */
static __always_inline int vip_connect_to(struct bpf_sock_addr *ctx, const struct vip_call *call,
					  enum vip_family family, enum vip_action to)
{
	enum vip_family form = vip_form_of(family, to);
	int source = VIP_SOURCE_KEEP, result;

	if (!vip_refusal(to))
		source = form == VIP_INET4 ? vip_bind_source4(ctx, call, to) :
			 form == VIP_INET6 ? vip_bind_source6(ctx, call, to) :
					     vip_bind_source_mapped(ctx, call, to);
	result = form == VIP_INET4 ? vip_finish_connect4(ctx, call, to, source) :
		 form == VIP_INET6 ? vip_finish_connect6(ctx, call, to, source) :
				     vip_finish_connect_mapped(ctx, call, to, source);
	/* To the verifier the result is any number; clang knows better, and would leave the mask out. */
	asm volatile("" : "+r"(result));
	return result & VIP_PROCEED;
}

static __always_inline int vip_on_connect(struct bpf_sock_addr *ctx, enum vip_family family)
{
	struct vip_call call = { .family = family };
	struct bpf_sock *sk = vip_socket_of(ctx);
	struct vip_facts *facts = &call.facts;
	struct vip_caller caller;
	enum vip_action to;

	if (vip_is_foreign(ctx, family) || !vip_find_caller(ctx, &call, &caller))
		return VIP_PROCEED;
	facts->user_addr = vip_user_addr(ctx, family);
	facts->local_addr = sk ? vip_local_addr(sk, family) : vip_wildcard(family);
	facts->asked = vip_destination(
		family, &facts->own,
		vip_class_of_destination(family, &caller, &facts->own, facts->user_addr),
		facts->local_addr);
	if (vip_may_be_mapped(family, facts->asked) && !vip_is_v6only(ctx))
		facts->own.has |= VIP_HAS_MAPPED;
	vip_find_features(&call, &caller);
	facts->is_excluded =
		vip_is_excluded(&caller, facts->flags, ctx->user_port, VIP_EXCLUDED_LOOPBACK);
	to = vip_probe_listeners(ctx, &call);
	return vip_connect_to(ctx, &call, family, to);
}

/* From a mapped address, :: means ::ffff:127.0.0.1 (tcp_v6_connect, __ip6_datagram_connect). */
static __always_inline void vip_resolve_wildcard6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = vip_socket_of(ctx);

	if (sk && vip_is_mapped(vip_local_addr(sk, VIP_INET6)) &&
	    vip_is_wildcard(VIP_INET6, vip_user_addr(ctx, VIP_INET6)))
		vip_store_user_addr(ctx, VIP_INET6, vip_localhost(VIP_MAPPED));
}

#endif
