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
	VIP_BOUND, /* not on the wildcard: a session's own, because nobody else may bind there (isolation) */
	VIP_DUAL,      /* a dual-stack socket that we have bound there */
	VIP_CONNECTED, /* UDP: connected back to the address that the packet comes from */
};

static __always_inline int vip_is_it(enum vip_family family, struct bpf_sock *found,
				     struct vip_address from, enum vip_whose whose)
{
	switch (whose) {
	case VIP_BOUND:
		/* On ::ffff:VIP4 as well, where vip_sk_lookup has found it. */
		return !vip_is_wildcard(family, vip_own_end(found, family));
	case VIP_DUAL:
		return (vip_remembered(found) & VIP_SOCKET_DUAL) != 0;
	case VIP_CONNECTED:
		return vip_same(family, vip_peer_end(found, family), from);
	default:
		return 1;
	}
}

/*
 * `from` is what the peer would see as the source. It matters for UDP alone: a connected UDP socket
 * takes packets only from its peer, and the lookup knows that. A TCP listener has no peer.
 */
static __always_inline int vip_listens(struct bpf_sock_addr *ctx, enum vip_family family,
				       struct vip_address from, struct vip_address to,
				       enum vip_whose whose)
{
	struct bpf_sock *found, *own = vip_socket_of(ctx);
	int is_stream = ctx->type == SOCK_STREAM, yes;
	struct bpf_sock_tuple tuple = {};
	__be16 port = (__u16)ctx->user_port;
	__u32 size;

	if (family == VIP_INET6) {
		size = sizeof(tuple.ipv6);
		__builtin_memcpy(tuple.ipv6.daddr, &to, sizeof(to));
		tuple.ipv6.dport = port;
		if (!is_stream) {
			__builtin_memcpy(tuple.ipv6.saddr, &from, sizeof(from));
			tuple.ipv6.sport = own ? bpf_htons((__u16)own->src_port) : 0;
		}
	} else {
		size = sizeof(tuple.ipv4);
		tuple.ipv4.daddr = to.word[3];
		tuple.ipv4.dport = port;
		if (!is_stream) {
			tuple.ipv4.saddr = from.word[3];
			tuple.ipv4.sport = own ? bpf_htons((__u16)own->src_port) : 0;
		}
	}
	if (is_stream)
		found = bpf_sk_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		found = bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return 0;
	yes = vip_is_it(family, found, from, whose);
	bpf_sk_release(found);
	return yes;
}

/* Carries out a plan. `from` is the source that the socket has already, the wildcard for none. */
static __always_inline enum vip_answer vip_look(struct bpf_sock_addr *ctx, enum vip_family family,
						const struct vip_caller *caller,
						const struct vip_own *own, struct vip_plan plan,
						struct vip_address from)
{
	struct vip_address localhost = vip_localhost(family), loopback = own->loopback;

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
	    vip_listens(ctx, family, loopback, own->address, VIP_BOUND))
		return VIP_TO_ADDRESS;
	/* What vip_sk_lookup cannot find: UDP, and MPTCP. */
	if (family == VIP_INET6 && (plan.probes & VIP_PROBE_MAPPED)) {
		struct vip_address loopback4 = vip_mapped(vip_loopback4(caller->id));

		if (vip_listens(ctx, VIP_MAPPED, loopback4, loopback4, VIP_DUAL))
			return VIP_TO_MAPPED_LOOPBACK;
		if (caller->vip4 &&
		    vip_listens(ctx, VIP_MAPPED, loopback4, vip_mapped(caller->vip4), VIP_DUAL))
			return VIP_TO_MAPPED_ADDRESS;
	}
	return plan.otherwise;
}

#endif
