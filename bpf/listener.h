/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether something listens at an address: TCP listeners and bound UDP sockets, in the caller's own network namespace.
 * bpf_sk_lookup_* find what an incoming packet would find: sockets on the wildcard as well, and dual-stack listeners by
 * way of vip_sk_lookup.
 */
#ifndef VIP_BPF_LISTENER_H
#define VIP_BPF_LISTENER_H

#include "memory.h"
#include "session.h"

/* What a look-up finds. */
enum vip_found {
	VIP_FOUND_NOTHING,
	VIP_FOUND, /* a socket that counts */
	/*
	 * A socket of another session on the wildcard: `listen` without `bind`, or UDP without it. Or one that was made
	 * elsewhere on an address of this session: the end of a session leaves the address to sockets that were
	 * destroyed, and their programs can listen again.
	 */
	VIP_FOUND_OTHERS,
};

/* Which of the sockets that are found count. */
enum vip_listener_match {
	VIP_MATCH_ANYONE, /* whatever a packet to that address would reach */
	VIP_MATCH_OWN,	  /* the same at an address of the session */
	/* Bound to an address, so the session's own: with isolation, no other session may bind there. */
	VIP_MATCH_BOUND,
	VIP_MATCH_DUAL,	 /* a dual-stack socket that bind6 has put there */
	VIP_MATCH_CLASH, /* TCP: a dual-stack listener, with which a bind to this address clashes */
	VIP_MATCH_CLASH_DUAL, /* TCP: a listener on this very address, with which a dual-stack bind clashes */
	VIP_MATCH_CONNECTED, /* UDP: connected back to the address that the packet comes from */
};

/*
 * Whether the calling socket may not share the listener's port. The kernel's rule is the same (inet_csk_get_port): only
 * with SO_REUSEPORT on both, and of one user.
 */
static __always_inline int vip_clashes(struct bpf_sock_addr *ctx, struct bpf_sock *found)
{
	struct sock *listener = (struct sock *)bpf_skc_to_tcp6_sock(found);
	int shares = 0;

	if (!listener)
		return 1;
	if (bpf_getsockopt(ctx, SOL_SOCKET, SO_REUSEPORT, &shares, sizeof(shares)) || !shares)
		return 1;
	return !BPF_CORE_READ_BITFIELD(&listener->__sk_common, skc_reuseport) ||
	       listener->sk_uid.val != (__u32)bpf_get_current_uid_gid();
}

static __always_inline int vip_matches(struct bpf_sock_addr *ctx, enum vip_family family,
				       struct bpf_sock *found, struct vip_address from,
				       enum vip_listener_match match)
{
	switch (match) {
	case VIP_MATCH_BOUND:
		/* vip_sk_lookup may have found it, so it may be on ::ffff:VIP4. */
		return !vip_is_wildcard(family, vip_local_addr(found, family));
	case VIP_MATCH_DUAL:
		return (vip_sock_state(found) & VIP_SOCKET_DUAL) != 0;
	case VIP_MATCH_CLASH:
	case VIP_MATCH_CLASH_DUAL:
		/* If both are of one kind and on one address, the kernel sees the clash. */
		return !vip_is_wildcard(family, vip_local_addr(found, family)) &&
		       vip_is_mapped(vip_local_addr(found, family)) == (match == VIP_MATCH_CLASH) &&
		       vip_clashes(ctx, found);
	case VIP_MATCH_CONNECTED:
		return vip_same(family, vip_remote_addr(found, family), from);
	default:
		return 1;
	}
}

/*
 * Whether a socket that was found was made in another session than that of `cgroup`. One on the session's own address
 * (`is_on_address`) is the session's, or root's.
 */
static __always_inline int vip_is_of_other_session(struct bpf_sock *found, int is_on_address,
						   __u64 cgroup)
{
	const struct vip_config *in_force = vip_config();
	struct cgroup *made_in = vip_cgroup_of(found);

	if (!in_force)
		return 0;
	for (__u32 i = 0; i < VIP_LEVELS_MAX; i++) {
		__u64 ancestor;

		if (i >= in_force->level_count)
			break;
		ancestor = vip_ancestor_of(made_in, in_force->levels[i]);
		if (ancestor == cgroup)
			return 0;
		if (ancestor && bpf_map_lookup_elem(&sessions, &ancestor))
			return 1;
	}
	return is_on_address && vip_user_of(found) != 0;
}

/* Whether what was found counts. `cgroup` is the session whose own sockets count alone; 0: all sockets count. */
static __always_inline enum vip_found vip_judge(struct bpf_sock_addr *ctx, enum vip_family family,
						struct bpf_sock *found, struct vip_address from,
						enum vip_listener_match match, __u64 cgroup)
{
	if (!vip_matches(ctx, family, found, from, match))
		return VIP_FOUND_NOTHING;
	if (cgroup) {
		int is_on_address = !vip_is_wildcard(family, vip_local_addr(found, family));

		if ((match != VIP_MATCH_ANYONE || !is_on_address) &&
		    vip_is_of_other_session(found, is_on_address, cgroup))
			return VIP_FOUND_OTHERS;
	}
	return VIP_FOUND;
}

/*
 * `from` is what the peer would see as the source. It matters for UDP only: a connected UDP socket takes packets from
 * its peer alone, and the look-up respects that. A TCP listener has no peer.
 *
 * These are global functions, so the verifier goes through each once, and not once for each path to each call.
 */
__noinline int vip_listens4(struct bpf_sock_addr *ctx, __be32 from, __be32 to,
			    enum vip_listener_match match, __u64 cgroup)
{
	struct bpf_sock *found, *own = vip_socket_of(ctx);
	struct bpf_sock_tuple tuple = {};
	enum vip_found result;

	tuple.ipv4.daddr = to;
	tuple.ipv4.dport = (__u16)ctx->user_port;
	if (ctx->type == SOCK_STREAM) {
		found = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		tuple.ipv4.saddr = from;
		tuple.ipv4.sport = own ? bpf_htons((__u16)own->src_port) : 0;
		found = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	if (!found)
		return 0;
	result = vip_judge(ctx, VIP_INET4, found, vip_mapped(from), match, cgroup);
	bpf_sk_release(found);
	return result;
}

__noinline int vip_listens6(struct bpf_sock_addr *ctx, const struct vip_address *from,
			    const struct vip_address *to, enum vip_listener_match match,
			    __u64 cgroup)
{
	struct bpf_sock *found, *own = vip_socket_of(ctx);
	struct bpf_sock_tuple tuple = {};
	enum vip_found result;

	if (!from || !to) /* the verifier takes them for nullable */
		return 0;
	__builtin_memcpy(tuple.ipv6.daddr, to, sizeof(*to));
	tuple.ipv6.dport = (__u16)ctx->user_port;
	if (ctx->type == SOCK_STREAM) {
		found = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, from, sizeof(*from));
		tuple.ipv6.sport = own ? bpf_htons((__u16)own->src_port) : 0;
		found = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!found)
		return 0;
	result = vip_judge(ctx, VIP_INET6, found, *from, match, cgroup);
	bpf_sk_release(found);
	return result;
}

static __always_inline enum vip_found
vip_find_listener(struct bpf_sock_addr *ctx, enum vip_family family, const struct vip_address *from,
		  const struct vip_address *to, enum vip_listener_match match, __u64 cgroup)
{
	if (family == VIP_INET6)
		return vip_listens6(ctx, from, to, match, cgroup);
	return vip_listens4(ctx, from->word[3], to->word[3], match, cgroup);
}

static __always_inline int vip_listens(struct bpf_sock_addr *ctx, enum vip_family family,
				       const struct vip_address *from, const struct vip_address *to,
				       enum vip_listener_match match)
{
	return vip_find_listener(ctx, family, from, to, match, 0) == VIP_FOUND;
}

/* Looks where the plan says. */
static __always_inline enum vip_action vip_search(struct bpf_sock_addr *ctx, enum vip_family family,
						  const struct vip_call *call)
{
	const struct vip_facts *facts = &call->facts;
	/* With isolation, no session finds what another has on the wildcard. */
	__u64 cgroup = facts->flags & VIP_POLICY_ISOLATION ? call->cgroup : 0;
	enum vip_found found = VIP_FOUND_NOTHING;
	const struct vip_address *loopback = &facts->own.loopback, *from = &facts->local_addr;
	enum vip_found on_loopback;
	struct vip_address localhost = vip_localhost(family);
	struct vip_plan plan = vip_plan_of(facts);

	if ((plan.probes & VIP_PROBE_LOCALHOST) &&
	    vip_listens(ctx, family, &localhost, &localhost, VIP_MATCH_ANYONE))
		return VIP_AS_ASKED;
	if (plan.probes & VIP_PROBE_ASKED) {
		enum vip_listener_match match =
			vip_is_sessions(facts->asked) ? VIP_MATCH_OWN : VIP_MATCH_ANYONE;

		found = vip_find_listener(ctx, family, &facts->user_addr, &facts->user_addr, match,
					  cgroup);
		if (found == VIP_FOUND)
			return VIP_AS_ASKED;
	}
	if (plan.probes & (VIP_PROBE_LOOPBACK | VIP_PROBE_OWN_LOOPBACK)) {
		enum vip_listener_match match =
			plan.probes & VIP_PROBE_LOOPBACK ? VIP_MATCH_OWN : VIP_MATCH_BOUND;

		on_loopback = vip_find_listener(ctx, family, loopback, loopback, match, cgroup);
		if (on_loopback == VIP_FOUND)
			return VIP_TO_LOOPBACK;
		/*
		 * If nothing else is found, the call goes to the loopback, where the kernel would reach this socket of
		 * another session. With VIP_MATCH_BOUND it goes to 127.0.0.1, which is no session's.
		 */
		if (on_loopback == VIP_FOUND_OTHERS && match == VIP_MATCH_OWN)
			found = on_loopback;
	}
	/*
	 * This may be a UDP server's answer to a client on the loopback or on 127.0.0.1. A connected client receives
	 * only from the socket it is connected to, so a client connected to this sender is the right one. A server on
	 * the wildcard was asked at the loopback.
	 */
	if ((plan.probes & VIP_PROBE_ANSWERED) && ctx->type == SOCK_DGRAM) {
		int is_bound = !vip_is_wildcard(family, *from);
		const struct vip_address *asked = is_bound ? from : loopback;

		if (is_bound && vip_listens(ctx, family, asked, loopback, VIP_MATCH_CONNECTED))
			return VIP_TO_LOOPBACK;
		if (vip_listens(ctx, family, asked, &localhost, VIP_MATCH_CONNECTED))
			return is_bound ? VIP_TO_LOCALHOST : VIP_TO_LOCALHOST_BACK;
	}
	if ((plan.probes & VIP_PROBE_OWN_ADDRESS) &&
	    vip_find_listener(ctx, family, loopback, &facts->own.address, VIP_MATCH_BOUND,
			      cgroup) == VIP_FOUND)
		return VIP_TO_ADDRESS;
	/* vip_sk_lookup cannot find these: UDP and MPTCP. */
	if (family == VIP_INET6 && (plan.probes & VIP_PROBE_MAPPED)) {
		struct vip_own mapped = vip_own_mapped(&facts->own);

		if (vip_listens(ctx, VIP_MAPPED, &mapped.loopback, &mapped.loopback,
				VIP_MATCH_DUAL))
			return VIP_TO_MAPPED_LOOPBACK;
		if ((mapped.has & VIP_HAS_ADDRESS) &&
		    vip_listens(ctx, VIP_MAPPED, &mapped.loopback, &mapped.address, VIP_MATCH_DUAL))
			return VIP_TO_MAPPED_ADDRESS;
	}
	/* Otherwise the call would reach that socket: the kernel finds the wildcard at every address. */
	return found == VIP_FOUND_OTHERS ? VIP_REFUSE_PEER : plan.otherwise;
}

__noinline int vip_search4(struct bpf_sock_addr *ctx, const struct vip_call *call)
{
	return call ? vip_search(ctx, VIP_INET4, call) : VIP_AS_ASKED;
}

__noinline int vip_search6(struct bpf_sock_addr *ctx, const struct vip_call *call)
{
	return call ? vip_search(ctx, VIP_INET6, call) : VIP_AS_ASKED;
}

/* Where the call goes: what the search finds, if the plan asks for one. */
static __always_inline enum vip_action vip_probe_listeners(struct bpf_sock_addr *ctx,
							   const struct vip_call *call)
{
	struct vip_plan plan = vip_plan_of(&call->facts);

	if (!plan.probes)
		return plan.otherwise;
	return call->family == VIP_INET6 ? vip_search6(ctx, call) : vip_search4(ctx, call);
}

#endif
