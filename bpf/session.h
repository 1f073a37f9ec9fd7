/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which session is calling, and what its policy says. */
#ifndef VIP_BPF_SESSION_H
#define VIP_BPF_SESSION_H

#include "maps.h"
#include "translate.h"

struct vip_caller {
	const struct vip_config *config;
	__u32 generation; /* read once, and first: a policy applied meanwhile does not mix with it */
	/*
	 * Of the session's row, copied at once: a row that is replaced may be used again for another
	 * session before this program ends.
	 */
	__be32 vip4;
	struct vip_address vip6; /* for an IPv6 call only */
	__u32 id;
	__u64 cgroup;
	__u32 number; /* of its policy in the bank in force */
	/* Set by vip_find_policy(). */
	const struct vip_policy *policy;
	/* Set by vip_features_of(). */
	enum vip_outcome unchanged; /* of a call that is left as it is */
};

static __always_inline const struct vip_config *vip_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

/*
 * The calling task's session: the one whose cgroup is the task's or above it. Sessions do not nest, and
 * nearly always they are all at one depth, so this is one helper and one look-up however deep the task.
 * It goes by the task, not by the socket: a socket passed to another session's process is that one's.
 */
static __always_inline int vip_find_session(enum vip_family family, struct vip_caller *caller)
{
	const struct vip_config *in_force = vip_config();
	__u32 count;

	if (!in_force)
		return 0;
	caller->config = in_force;
	caller->generation = *(const volatile __u32 *)&in_force->generation;
	count = in_force->level_count;
	for (__u32 i = 0; i < VIP_LEVELS_MAX; i++) {
		const struct vip_session *session;
		__u64 cgroup;

		if (i >= count)
			break;
		cgroup = bpf_get_current_ancestor_cgroup_id(in_force->levels[i]);
		if (!cgroup) /* the task is not that deep, or the slot is free */
			continue;
		session = bpf_map_lookup_elem(&sessions, &cgroup);
		if (session) {
			caller->vip4 = session->vip4;
			if (family == VIP_INET6)
				caller->vip6 = session->vip6;
			caller->cgroup = cgroup;
			caller->id = session->id;
			caller->number = session->policy[caller->generation & 1];
			return 1;
		}
	}
	return 0;
}

static __always_inline int vip_find_policy(struct vip_caller *caller)
{
	__u32 key;

	caller->number &= VIP_POLICIES_PER_BANK - 1;
	key = (caller->generation & 1) * VIP_POLICIES_PER_BANK + caller->number;
	caller->policy = bpf_map_lookup_elem(&policies, &key);
	return caller->policy != 0;
}

/* `port` as it stands in the sockaddr. */
static __always_inline int vip_is_excluded(const struct vip_caller *caller, __u32 port)
{
	__u32 number = bpf_ntohs(port) & 0xffff;

	if (!(caller->policy->flags & VIP_POLICY_EXCLUDED_PORTS))
		return 0;
	return (caller->policy->excluded_ports[number / 64] >> (number % 64)) & 1;
}

static __always_inline struct vip_own vip_own_of(enum vip_family family,
						 const struct vip_caller *caller)
{
	struct vip_own own = {};

	if (family == VIP_INET6) {
		own.address = caller->vip6;
		own.loopback = vip_loopback6(caller->config->loopback6, caller->id);
		if (caller->config->loopback6[0])
			own.has |= VIP_HAS_LOOPBACK;
		if (caller->vip4)
			own.has |= VIP_HAS_IPV4;
	} else {
		own.address = vip_mapped(caller->vip4);
		own.loopback = vip_mapped(vip_loopback4(caller->id));
		own.has = VIP_HAS_LOOPBACK;
	}
	if (!vip_is_wildcard(family, own.address))
		own.has |= VIP_HAS_ADDRESS;
	return own;
}

static __always_inline enum vip_owner vip_owner_of(const struct vip_address *address)
{
	const struct vip_address_owner *row = bpf_map_lookup_elem(&addresses, address);

	return row ? row->owner : VIP_OWNER_NOBODY;
}

/* What an address is to the session. At most one look-up, and none for the common loopback ones. */
static __always_inline enum vip_place
vip_place_of(enum vip_family family, const struct vip_own *own, struct vip_address address)
{
	enum vip_place place = vip_place(family, own, address);
	enum vip_owner owner = VIP_OWNER_NOBODY;

	if (place == VIP_SOME_LOOPBACK) {
		__u32 id = vip_id_of_loopback(family, address);

		/* The whole prefix of LO6 is for sessions, be they open or to come. */
		if (family == VIP_INET6 || bpf_map_lookup_elem(&ids, &id))
			owner = VIP_OWNER_SESSION;
	} else if (place == VIP_SOME_ADDRESS) {
		owner = vip_owner_of(&address);
	}
	return vip_place_of_owner(place, owner);
}

/*
 * The same for a destination, which need not know whose another session's address is: like any other
 * host's, it is just connected to. So for nearly every host this is a compare or two in config, which
 * is in the cache already, and no look-up.
 */
static __always_inline enum vip_place vip_destination_of(enum vip_family family,
							 const struct vip_caller *caller,
							 const struct vip_own *own,
							 struct vip_address address)
{
	const struct vip_config *in_force = caller->config;
	enum vip_place place = vip_place(family, own, address);
	__u32 count = family == VIP_INET6 ? in_force->host6_count : in_force->host4_count;

	if (place != VIP_SOME_ADDRESS)
		return vip_place_of(family, own, address);
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
