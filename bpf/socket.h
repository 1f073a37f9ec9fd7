/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* socket and setsockopt: what would go around the other hooks is refused in a session under isolation. */
#ifndef VIP_BPF_SOCKET_H
#define VIP_BPF_SOCKET_H

#include <linux/errno.h>

#include "watch.h"

/* Counts a refusal if the calling task is in a session under isolation, and says whether it is. */
static __always_inline int vip_refuses_unsupported(void *ctx, enum vip_hook hook, int error)
{
	struct vip_call call = { .family = VIP_INET4 };
	struct vip_caller caller;

	if (!vip_find_session(ctx, &call, &caller) || !vip_find_policy(&call, &caller) ||
	    !(call.facts.flags & VIP_POLICY_ISOLATION))
		return 0;
	vip_count(hook, VIP_REFUSED_UNSUPPORTED);
	bpf_set_retval(-error);
	return 1;
}

/* No hook sees the calls of these protocols. */
static __always_inline int vip_on_sock_create(struct bpf_sock *sk)
{
	__u32 protocol = sk->protocol;

	if (protocol != IPPROTO_UDPLITE && protocol != IPPROTO_SCTP && protocol != IPPROTO_DCCP)
		return VIP_PROCEED;
	return vip_refuses_unsupported(sk, VIP_HOOK_SOCK_CREATE, EPROTONOSUPPORT) ? VIP_REFUSE :
										    VIP_PROCEED;
}

/*
 * IP_LOCAL_PORT_RANGE aims the kernel's own choice of a port, for which no bind hook runs (`listen` without `bind`). It
 * is refused as by kernels that do not have it. SO_BINDTODEVICE hides a socket on the wildcard from the look-ups of
 * connect: bpf_sk_lookup_* of these hooks find none that is bound to a device (__bpf_sk_lookup with interface 0). It is
 * refused to all but root as by kernels before 5.7.
 */
static __always_inline int vip_on_setsockopt(struct bpf_sockopt *ctx)
{
	int error = 0;

	if (ctx->level == SOL_IP && ctx->optname == IP_LOCAL_PORT_RANGE)
		error = ENOPROTOOPT;
	else if (ctx->level == SOL_SOCKET &&
		 (ctx->optname == SO_BINDTODEVICE || ctx->optname == SO_BINDTOIFINDEX) &&
		 !vip_is_root())
		error = EPERM;
	if (error && vip_refuses_unsupported(ctx, VIP_HOOK_SETSOCKOPT, error))
		return VIP_REFUSE;
	/* The kernel takes the program's own buffer. With a length of more than a page it would refuse the call. */
	ctx->optlen = 0;
	return VIP_PROCEED;
}

#endif
