/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Does something listen there? TCP listeners and bound UDP sockets, in the caller's own network
 * namespace. bpf_sk_lookup_* find what an incoming packet would find, wildcard sockets included, and
 * dual-stack listeners by way of vip_sk_lookup.
 */
#ifndef VIP_BPF_LISTENER_H
#define VIP_BPF_LISTENER_H

#include "session.h"
#include "socket.h"

enum vip_whose {
	VIP_ANYONE, /* whoever a packet to that address would reach */
	VIP_BOUND, /* not on the wildcard, so the session's own: no other session may bind there (isolation) */
	VIP_DUAL,      /* a dual-stack socket that we have bound there */
	VIP_TAKEN,     /* TCP: one that a bind of the calling program would clash with */
	VIP_CONNECTED, /* UDP: connected back to the address that the packet comes from */
};

/*
 * May the calling socket not share the listener's port? As the kernel has it (inet_csk_get_port): only with
 * SO_REUSEPORT on both, and of one user.
 */
static __always_inline int vip_is_taken_by(struct bpf_sock_addr *ctx, struct bpf_sock *found)
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

static __always_inline int vip_is_it(struct bpf_sock_addr *ctx, enum vip_family family,
				     struct bpf_sock *found, struct vip_address from,
				     enum vip_whose whose)
{
	switch (whose) {
	case VIP_BOUND:
		/* On ::ffff:VIP4 as well, where vip_sk_lookup has found it. */
		return !vip_is_wildcard(family, vip_own_end(found, family));
	case VIP_DUAL:
		return (vip_remembered(found) & VIP_SOCKET_DUAL) != 0;
	case VIP_TAKEN:
		return !vip_is_wildcard(family, vip_own_end(found, family)) &&
		       vip_is_taken_by(ctx, found);
	case VIP_CONNECTED:
		return vip_same(family, vip_peer_end(found, family), from);
	default:
		return 1;
	}
}

/*
 * `from` is what the peer would see as the source. It matters for UDP alone: a connected UDP socket
 * takes packets only from its peer, and the lookup knows that. A TCP listener has no peer.
 *
 * Global functions: the verifier goes through each once, and not for each path to each of the calls.
 */
__noinline int vip_listens4(struct bpf_sock_addr *ctx, __be32 from, __be32 to, enum vip_whose whose)
{
	struct bpf_sock *found, *own = vip_socket_of(ctx);
	struct bpf_sock_tuple tuple = {};
	int yes;

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
	yes = vip_is_it(ctx, VIP_INET4, found, vip_mapped(from), whose);
	bpf_sk_release(found);
	return yes;
}

__noinline int vip_listens6(struct bpf_sock_addr *ctx, const struct vip_address *from,
			    const struct vip_address *to, enum vip_whose whose)
{
	struct bpf_sock *found, *own = vip_socket_of(ctx);
	struct bpf_sock_tuple tuple = {};
	int yes;

	if (!from || !to) /* the verifier knows no better */
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
	yes = vip_is_it(ctx, VIP_INET6, found, *from, whose);
	bpf_sk_release(found);
	return yes;
}

static __always_inline int vip_listens(struct bpf_sock_addr *ctx, enum vip_family family,
				       struct vip_address from, struct vip_address to,
				       enum vip_whose whose)
{
	if (family == VIP_INET6)
		return vip_listens6(ctx, &from, &to, whose);
	return vip_listens4(ctx, from.word[3], to.word[3], whose);
}

/* What vip_look needs to know. */
struct vip_search {
	struct vip_plan plan;
	struct vip_own own;
	struct vip_address from; /* the source that the socket has already, the wildcard for none */
	__be32 vip4;
	__u32 id;
};

/* Carries out a plan. */
static __always_inline enum vip_answer vip_look(struct bpf_sock_addr *ctx, enum vip_family family,
						const struct vip_search *search)
{
	struct vip_address localhost = vip_localhost(family), loopback = search->own.loopback;
	struct vip_address from = search->from;
	struct vip_plan plan = search->plan;

	if ((plan.probes & VIP_PROBE_LOCALHOST) &&
	    vip_listens(ctx, family, localhost, localhost, VIP_ANYONE))
		return VIP_AS_ASKED;
	if (plan.probes & (VIP_PROBE_LOOPBACK | VIP_PROBE_OWN_LOOPBACK)) {
		enum vip_whose whose = plan.probes & VIP_PROBE_LOOPBACK ? VIP_ANYONE : VIP_BOUND;

		if (vip_listens(ctx, family, loopback, loopback, whose))
			return VIP_TO_LOOPBACK;
	}
	/*
	 * A UDP server's answer: its client may have got the loopback or 127.0.0.1, and if it is connected it
	 * hears nobody but this very socket, so one that is found so is the one that is meant. A server on the
	 * wildcard was asked at the loopback.
	 */
	if ((plan.probes & VIP_PROBE_ANSWERED) && ctx->type == SOCK_DGRAM) {
		int is_bound = !vip_is_wildcard(family, from);
		struct vip_address asked = is_bound ? from : loopback;

		if (is_bound && vip_listens(ctx, family, asked, loopback, VIP_CONNECTED))
			return VIP_TO_LOOPBACK;
		if (vip_listens(ctx, family, asked, localhost, VIP_CONNECTED))
			return is_bound ? VIP_TO_LOCALHOST : VIP_TO_LOCALHOST_BACK;
	}
	if ((plan.probes & VIP_PROBE_OWN_ADDRESS) &&
	    vip_listens(ctx, family, loopback, search->own.address, VIP_BOUND))
		return VIP_TO_ADDRESS;
	/* What vip_sk_lookup cannot find: UDP, and MPTCP. */
	if (family == VIP_INET6 && (plan.probes & VIP_PROBE_MAPPED)) {
		struct vip_address loopback4 = vip_mapped(vip_loopback4(search->id));

		if (vip_listens(ctx, VIP_MAPPED, loopback4, loopback4, VIP_DUAL))
			return VIP_TO_MAPPED_LOOPBACK;
		if (search->vip4 &&
		    vip_listens(ctx, VIP_MAPPED, loopback4, vip_mapped(search->vip4), VIP_DUAL))
			return VIP_TO_MAPPED_ADDRESS;
	}
	return plan.otherwise;
}

__noinline int vip_look4(struct bpf_sock_addr *ctx, const struct vip_search *search)
{
	return search ? vip_look(ctx, VIP_INET4, search) : VIP_AS_ASKED;
}

__noinline int vip_look6(struct bpf_sock_addr *ctx, const struct vip_search *search)
{
	return search ? vip_look(ctx, VIP_INET6, search) : VIP_AS_ASKED;
}

/* Looks where the plan says, if it says so at all. */
static __always_inline enum vip_answer vip_find(struct bpf_sock_addr *ctx, enum vip_family family,
						const struct vip_caller *caller,
						const struct vip_own *own, struct vip_plan plan,
						struct vip_address from)
{
	struct vip_search search = { plan, *own, from, caller->vip4, caller->id };

	if (!plan.probes)
		return plan.otherwise;
	return family == VIP_INET6 ? vip_look6(ctx, &search) : vip_look4(ctx, &search);
}

#endif
