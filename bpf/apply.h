/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The end of every call: the decision is carried out, and counted. */
#ifndef VIP_BPF_APPLY_H
#define VIP_BPF_APPLY_H

#include <linux/errno.h>

#include "memory.h"
#include "watch.h"

/* What a refused call fails with. */
static __always_inline int vip_error_of(enum vip_outcome outcome)
{
	return outcome == VIP_REFUSED_PEER   ? ECONNREFUSED :
	       outcome == VIP_REFUSED_IN_USE ? EADDRINUSE :
					       EADDRNOTAVAIL;
}

/*
 * Refuses the call, or stores what the decision changes of it: what is remembered of the socket, the address, the
 * source of a datagram. `form` is that of the answer; only connect's may differ from the call's. Returns what the
 * program returns.
 */
static __always_inline int vip_apply(struct bpf_sock_addr *ctx, const struct vip_call *call,
				     enum vip_hook hook, enum vip_family form,
				     const struct vip_decision *decision)
{
	enum vip_outcome outcome = decision->outcome;
	struct bpf_sock *sk;

	if (vip_is_refused(outcome)) {
		int error = vip_error_of(outcome);

		vip_account(ctx, call, hook, form, outcome, error);
		bpf_set_retval(-error);
		return VIP_REFUSE;
	}
	if (decision->forget | decision->remember) {
		sk = vip_socket_of(ctx);
		if (sk)
			vip_sock_update(sk, decision, ctx->user_port,
					vip_is_bind(hook) ? call->cgroup : 0);
	}
	if (!vip_equal(decision->address, call->facts.user_addr)) {
		vip_store_user_addr(ctx, form, decision->address);
		/* connect's outcome depends on its source too, which is bound by now. */
		if (!vip_is_connect(hook))
			outcome = VIP_REWRITTEN;
	}
	if (vip_is_sendmsg(hook) && !vip_equal(decision->source, call->facts.local_addr)) {
		vip_store_message_source(ctx, form, decision->source);
		outcome = VIP_REWRITTEN;
	}
	if (outcome != VIP_NOT_COUNTED)
		vip_account(ctx, call, hook, form, outcome, 0);
	return VIP_PROCEED;
}

#endif
