/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bind. */
#ifndef VIP_BPF_BIND_H
#define VIP_BPF_BIND_H

#include "apply.h"
#include "listener.h"
#include "program.h"

/*
 * Whether another server of the session listens where this one would be. If the two are bound before either listens,
 * this does not see it; connections go to the dual-stack one then.
 */
static __always_inline int vip_bind_clashes(struct bpf_sock_addr *ctx, const struct vip_own *own,
					    const struct vip_bind_decision *bind)
{
	enum vip_listener_match match = bind->is_dual ? VIP_MATCH_CLASH_DUAL : VIP_MATCH_CLASH;

	return (bind->on_loopback &&
		vip_listens(ctx, VIP_INET6, &own->loopback, &own->loopback, match)) ||
	       (bind->on_address &&
		vip_listens(ctx, VIP_INET6, &own->loopback, &own->address, match));
}

static __always_inline int vip_on_bind(struct bpf_sock_addr *ctx, enum vip_family family,
				       enum vip_hook hook)
{
	struct vip_call call = { .family = family };
	struct bpf_sock *sk = vip_socket_of(ctx);
	struct vip_facts *facts = &call.facts;
	struct vip_bind_decision bind;
	struct vip_caller caller;

	/* A socket that has a port cannot be bound again; the kernel refuses that itself. */
	if (vip_is_foreign(ctx, family) || (sk && sk->src_port) ||
	    !vip_find_caller(ctx, &call, &caller))
		return VIP_PROCEED;
	facts->user_addr = vip_user_addr(ctx, family);
	facts->asked = vip_class_of(family, &facts->own, facts->user_addr);
	if (family == VIP_INET6 && facts->asked == VIP_WILDCARD && !vip_is_v6only(ctx))
		facts->asked = VIP_DUAL_WILDCARD;
	if (vip_bind_needs_features(facts->asked))
		vip_find_features(&call, &caller);
	facts->is_excluded = vip_is_excluded(&caller, facts->flags, ctx->user_port,
					     vip_exclusion_of(facts->asked));
	bind = vip_decide_bind(family, facts,
			       (struct vip_bind_facts){ .has_port = ctx->user_port != 0,
							.is_stream = ctx->type == SOCK_STREAM,
							.is_datagram = ctx->type == SOCK_DGRAM });
	if (family == VIP_INET6 && vip_bind_clashes(ctx, &facts->own, &bind))
		bind.decision.outcome = VIP_REFUSED_IN_USE;
	return vip_apply(ctx, &call, hook, family, &bind.decision);
}

#endif
