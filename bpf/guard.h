/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The hooks of the guarded cgroup. A program in no session that is not root's may not bind or send from an address that
 * a session has or may get, nor reach a session's loopback. Its other calls are unchanged.
 *
 * These hooks run on calls of all programs of the host, so a call that names no such address returns after a compare or
 * two, before the caller is looked up.
 */
#ifndef VIP_BPF_GUARD_H
#define VIP_BPF_GUARD_H

#include "apply.h"
#include "session.h"

/*
 * Whether the calling task is kept off sessions' addresses. The base policy says whether sessions are isolated.
 */
static __always_inline int vip_is_guarded(void *ctx, const struct vip_config *in_force)
{
	__u32 base = (in_force->generation & 1) * VIP_POLICIES_PER_BANK;
	const struct vip_policy *policy = bpf_map_lookup_elem(&policies, &base);
	__u64 cgroup;

	return policy && (policy->flags & VIP_POLICY_ISOLATION) && !vip_is_root() &&
	       in_force->netns == bpf_get_netns_cookie(ctx) &&
	       !vip_session_of_task(in_force, &cgroup);
}

static __always_inline int vip_guard(struct bpf_sock_addr *ctx, enum vip_family family,
				     enum vip_hook hook, struct vip_decision *decision)
{
	struct vip_call call = { .family = family };
	const struct vip_config *in_force = vip_config();

	if (!in_force || !vip_is_guarded(ctx, in_force))
		return VIP_PROCEED;
	call.facts.user_addr = vip_user_addr(ctx, family);
	return vip_apply(ctx, &call, hook, family, decision);
}

/*
 * Whether an address is a session's, now or to come. A program of no session has none of its own: ID 0 is no session's.
 */
static __always_inline int vip_is_sessions_own(enum vip_family family, struct vip_address address)
{
	const struct vip_config *in_force = vip_config();
	const struct vip_address none = {};
	struct vip_own own;

	if (!in_force)
		return 0;
	own = vip_own_of(family, 0, 0, none, in_force->loopback6);
	return vip_find_owner(family, vip_class(family, &own, address), address) ==
	       VIP_OWNER_SESSION;
}

static __always_inline int vip_is_sessions_loopback(enum vip_family family,
						    struct vip_address address)
{
	const struct vip_config *in_force;

	if (family != VIP_INET6) /* nearly every call leaves at the first of these */
		return vip_is_127(address.word[3]) && !vip_is_localhost(family, address) &&
		       vip_is_open_loopback(family, address);
	in_force = vip_config();
	return in_force && vip_is_loopback6(in_force->loopback6, address);
}

static __always_inline int vip_guard_bind(struct bpf_sock_addr *ctx, enum vip_family family,
					  enum vip_hook hook)
{
	struct vip_decision refusal = { .outcome = VIP_REFUSED_ISOLATION };
	struct vip_address address = vip_user_addr(ctx, family);

	if (vip_is_foreign(ctx, family) || vip_is_wildcard(family, address) ||
	    vip_is_localhost(family, address) || !vip_is_sessions_own(family, address))
		return VIP_PROCEED;
	return vip_guard(ctx, family, hook, &refusal);
}

/* Whether a session's address would be the source, by IP_MULTICAST_IF. */
static __always_inline int vip_is_sessions_group_source(struct bpf_sock_addr *ctx,
							enum vip_family family,
							struct vip_address to)
{
	struct vip_address source = vip_group_source(vip_socket_of(ctx), family, to);

	return !vip_is_wildcard(family, source) && vip_is_sessions_own(family, source);
}

static __always_inline int vip_guard_connect(struct bpf_sock_addr *ctx, enum vip_family family,
					     enum vip_hook hook)
{
	struct vip_decision refusal = { .outcome = VIP_REFUSED_PEER };
	struct vip_address address = vip_user_addr(ctx, family);

	if (vip_is_sessions_group_source(ctx, family, address))
		refusal.outcome = VIP_REFUSED_ISOLATION;
	else if (!vip_is_sessions_loopback(family, address))
		return VIP_PROCEED;
	return vip_guard(ctx, family, hook, &refusal);
}

static __always_inline int vip_guard_sendmsg(struct bpf_sock_addr *ctx, enum vip_family family,
					     enum vip_hook hook)
{
	struct vip_decision refusal = { .outcome = VIP_REFUSED_ISOLATION };
	struct vip_address source = vip_message_source(ctx, family);

	if (!vip_is_wildcard(family, source) && !vip_is_localhost(family, source) &&
	    vip_is_sessions_own(family, source))
		return vip_guard(ctx, family, hook, &refusal);
	return vip_guard_connect(ctx, family, hook);
}

#endif
