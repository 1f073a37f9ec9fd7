/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which session is calling, what its policy says, and what an address is to it. */
#ifndef VIP_BPF_SESSION_H
#define VIP_BPF_SESSION_H

#include "context.h"
#include "maps.h"

/* The caller's rows. */
struct vip_caller {
	const struct vip_config *config;
	const struct vip_policy *policy;
	__u32 generation; /* read once, and first: a policy that is applied meanwhile does not mix with it */
	__u32 number; /* of its policy in the bank in force */
};

/*
 * A call on its way through a hook. It has no pointers, so a global function can take it: the verifier goes through
 * such a function once, and not once for each path that leads to it.
 */
struct vip_call {
	enum vip_family family; /* a constant in the hooks, which are inlined for each */
	__u64 cgroup;		/* of the session */
	struct vip_facts facts;
};

static __always_inline const struct vip_config *vip_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

/*
 * The row of the calling task's session; NULL if it is in none. The session is the one whose cgroup is the task's or
 * above it. Sessions do not nest, and nearly always they are all at one depth, so this is one helper and one look-up
 * however deep the task is. The task counts, not the socket: a socket that was passed to another session's process is
 * that session's.
 */
static __always_inline const struct vip_session *
vip_session_of_task(const struct vip_config *in_force, __u64 *cgroup)
{
	__u32 count = in_force->level_count;

	for (__u32 i = 0; i < VIP_LEVELS_MAX; i++) {
		const struct vip_session *session;

		if (i >= count)
			break;
		*cgroup = bpf_get_current_ancestor_cgroup_id(in_force->levels[i]);
		if (!*cgroup) /* the task is not that deep, or the slot is free */
			continue;
		session = bpf_map_lookup_elem(&sessions, cgroup);
		if (session)
			return session;
	}
	return 0;
}

/*
 * Finds the calling task's session. A socket of another network namespace, so of a container in the session, is left
 * alone. `ctx` is the program's context.
 */
static __always_inline int vip_find_session(void *ctx, struct vip_call *call,
					    struct vip_caller *caller)
{
	const struct vip_session *session;

	caller->config = vip_config();
	if (!caller->config)
		return 0;
	caller->generation = *(const volatile __u32 *)&caller->config->generation;
	session = vip_session_of_task(caller->config, &call->cgroup);
	if (!session || session->netns != bpf_get_netns_cookie(ctx))
		return 0;
	/* It is copied: a row that is replaced may be another session's before this program ends. */
	call->facts.own = vip_own_of(call->family, session->id, session->vip4, session->vip6,
				     caller->config->loopback6);
	caller->number = session->policy[caller->generation & 1];
	return 1;
}

static __always_inline int vip_find_policy(struct vip_call *call, struct vip_caller *caller)
{
	__u32 key;

	caller->number &= VIP_POLICIES_PER_BANK - 1;
	key = (caller->generation & 1) * VIP_POLICIES_PER_BANK + caller->number;
	caller->policy = bpf_map_lookup_elem(&policies, &key);
	if (!caller->policy)
		return 0;
	call->facts.flags = caller->policy->flags;
	return 1;
}

/* Whether the calling task is root of the initial user namespace. */
static __always_inline int vip_is_root(void)
{
	return !(__u32)bpf_get_current_uid_gid();
}

/*
 * Whether the calling task is where sessions are made: below an attached cgroup, not in it. A global function, so that
 * the verifier goes through it once.
 */
__noinline int vip_is_below_attached(void)
{
	const struct vip_config *in_force = vip_config();

	if (!in_force)
		return 0;
	for (__u32 i = 0; i < VIP_ATTACHED_MAX; i++) {
		const struct vip_attached *attached = &in_force->attached[i];

		if (i >= in_force->attached_count)
			break;
		if (bpf_get_current_ancestor_cgroup_id(attached->level) == attached->cgroup)
			return bpf_get_current_ancestor_cgroup_id(attached->level + 1) != 0;
	}
	return 0;
}

/* Whether withoutSession: deny holds for the calling task, which is in no session. */
static __always_inline int vip_is_denied_outside(void *ctx, const struct vip_caller *caller)
{
	const struct vip_config *in_force = caller->config;

	return in_force && (in_force->flags & VIP_CONFIG_DENY_OUTSIDE) &&
	       in_force->netns == bpf_get_netns_cookie(ctx) && !vip_is_root() &&
	       vip_is_below_attached();
}

/*
 * The caller's session and its policy. Under withoutSession: deny, a program of no session is treated like a
 * program of a session with ID 0 and no addresses.
 */
static __always_inline int vip_find_caller(void *ctx, struct vip_call *call,
					   struct vip_caller *caller)
{
	const struct vip_address none = {};
	int is_outside = 0;

	if (!vip_find_session(ctx, call, caller)) {
		is_outside = vip_is_denied_outside(ctx, caller);
		if (!is_outside)
			return 0;
		call->facts.own = vip_own_of(call->family, 0, 0, none, caller->config->loopback6);
		call->cgroup = 0;
		caller->number = 0;
	}
	if (!vip_find_policy(call, caller))
		return 0;
	if (!is_outside)
		return 1;
	if (!(call->facts.flags & VIP_POLICY_DENY_OUTSIDE)) /* config's flag came first */
		return 0;
	call->facts.flags = VIP_POLICY_OUTSIDE;
	return 1;
}

/* `port` is as in the sockaddr. */
static __always_inline int vip_is_excluded(const struct vip_caller *caller, __u32 flags, __u32 port,
					   enum vip_exclusion from)
{
	__u32 number = bpf_ntohs(port) & 0xffff;

	if (!(flags & VIP_POLICY_EXCLUDED_PORTS))
		return 0;
	return (caller->policy->excluded_ports[from].bits[number / 64] >> (number % 64)) & 1;
}

static __always_inline enum vip_owner vip_owner_of(const struct vip_address *address)
{
	const struct vip_address_owner *row = bpf_map_lookup_elem(&addresses, address);

	return row ? row->owner : VIP_OWNER_NOBODY;
}

/* The owner of an address that no session and no interface has. */
static __always_inline enum vip_owner vip_governor_of(struct vip_address address)
{
	struct vip_prefix key = { .length = 128, .address = address };
	const __u32 *owner = bpf_map_lookup_elem(&governed, &key);

	return owner ? *owner : VIP_OWNER_NOBODY;
}

/*
 * Whether the loopback address is an open session's. The whole prefix of LO6 is for sessions, open or not. 127.0.0.6
 * belongs to no session and is treated like another session's: the kernel finds all sockets there that have an IPv6
 * address and are not V6ONLY.
 */
static __always_inline int vip_is_open_loopback(enum vip_family family, struct vip_address address)
{
	__u32 id = vip_id_of_loopback(family, address);

	return family == VIP_INET6 || id == VIP_ID_OF_IPV6_SOCKETS ||
	       bpf_map_lookup_elem(&ids, &id);
}

/*
 * Whose an address of class VIP_SOME_LOOPBACK or VIP_SOME_ADDRESS is, to a program that binds it or sends from it. An
 * address of a session to come is a session's. A global function, so that the verifier goes through it once, and its
 * keys are not on the hook's stack.
 */
__noinline int vip_owner_of_class(enum vip_family family, enum vip_addr_class class,
				  const struct vip_address *address)
{
	struct vip_address key; /* on the stack: 6.1 takes no key from the caller's memory */
	enum vip_owner owner;

	if (!address)
		return VIP_OWNER_NOBODY;
	key = *address;
	if (class == VIP_SOME_LOOPBACK)
		return vip_is_open_loopback(family, key) ? VIP_OWNER_SESSION : vip_governor_of(key);
	owner = vip_owner_of(&key);
	return owner == VIP_OWNER_NOBODY ? vip_governor_of(key) : owner;
}

/* The same of any class. There is no look-up for the common ones. */
static __always_inline enum vip_owner
vip_find_owner(enum vip_family family, enum vip_addr_class class, struct vip_address address)
{
	if (class != VIP_SOME_LOOPBACK && class != VIP_SOME_ADDRESS)
		return VIP_OWNER_NOBODY;
	return vip_owner_of_class(family, class, &address);
}

/* What an address is to a session that binds it or sends from it. */
static __always_inline enum vip_addr_class
vip_class_of(enum vip_family family, const struct vip_own *own, struct vip_address address)
{
	enum vip_addr_class class = vip_class(family, own, address);

	class = vip_class_of_owner(class, vip_find_owner(family, class, address));
	return vip_class_of_local(family, class, address);
}

/*
 * The same for a destination. A loopback address that no session has is the host's: a service may listen there. Whether
 * another address is another session's does not matter: the call connects to it as to any other host. So for nearly
 * every host this is a compare or two in config, which is in the cache already, and no look-up.
 */
static __always_inline enum vip_addr_class vip_class_of_destination(enum vip_family family,
								    const struct vip_caller *caller,
								    const struct vip_own *own,
								    struct vip_address address)
{
	const struct vip_config *in_force = caller->config;
	enum vip_addr_class class = vip_class(family, own, address);
	__u32 count = family == VIP_INET6 ? in_force->host6_count : in_force->host4_count;

	if (class == VIP_SOME_LOOPBACK)
		return vip_is_open_loopback(family, address) ? VIP_OTHER_LOOPBACK :
							       VIP_LOOPBACK_REST;
	if (class != VIP_SOME_ADDRESS)
		return class;
	if (count > VIP_HOST_ADDRESSES_MAX)
		return vip_owner_of(&address) == VIP_OWNER_HOST ? VIP_HOST_ADDRESS : VIP_ELSEWHERE;
	for (__u32 i = 0; i < VIP_HOST_ADDRESSES_MAX; i++) {
		if (i >= count)
			break;
		if (family == VIP_INET6 ? vip_same(family, in_force->host6[i], address) :
					  in_force->host4[i] == address.word[3])
			return VIP_HOST_ADDRESS;
	}
	return VIP_ELSEWHERE;
}

#endif
