/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Does something listen there? TCP listeners and bound UDP sockets, in the caller's own network
 * namespace. bpf_sk_lookup_* find what an incoming packet would find, wildcard sockets included.
 */
#ifndef VIP_BPF_LISTENER_H
#define VIP_BPF_LISTENER_H

#include "kernel.h"
#include "session.h"

enum vip_whose {
	VIP_ANYONE, /* whoever a packet to that address would reach */
	VIP_BOUND, /* bound to that very address: a session's own, because nobody else may (isolation) */
	VIP_CONNECTED, /* UDP: connected back to the address that the packet comes from */
};

/*
 * `from` is what the peer would see as the source. It matters for UDP alone: a connected UDP socket
 * takes packets only from its peer, and the lookup knows that. A TCP listener has no peer.
 */
static __always_inline int vip_listens4(struct bpf_sock_addr *ctx, __be32 from, __be32 to,
					enum vip_whose whose)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *found, *own = vip_socket_of(ctx);
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
	yes = whose == VIP_ANYONE || (whose == VIP_BOUND && found->src_ip4 == to) ||
	      (whose == VIP_CONNECTED && found->dst_ip4 == from);
	bpf_sk_release(found);
	return yes;
}

/* Carries out a plan. `from` is the source that the socket has already, 0 for none. */
static __always_inline enum vip_answer vip_look4(struct bpf_sock_addr *ctx,
						 const struct vip_caller *caller,
						 struct vip_plan plan, __be32 from)
{
	__be32 vip4 = caller->vip4;
	__be32 loopback = vip_loopback4(caller->id);

	if ((plan.probes & VIP_PROBE_LOCALHOST) &&
	    vip_listens4(ctx, VIP_LOCALHOST4, VIP_LOCALHOST4, VIP_ANYONE))
		return VIP_AS_ASKED;
	if (plan.probes & (VIP_PROBE_LOOPBACK | VIP_PROBE_OWN_LOOPBACK)) {
		enum vip_whose whose = plan.probes & VIP_PROBE_LOOPBACK ? VIP_ANYONE : VIP_BOUND;

		if (vip_listens4(ctx, loopback, loopback, whose))
			return VIP_TO_LOOPBACK;
	}
	/*
	 * A UDP server's answer: its client may have got LO4 or 127.0.0.1, and if it is connected it hears
	 * nobody but this very socket, so one that is found so is the one that is meant.
	 */
	if ((plan.probes & VIP_PROBE_ANSWERED) && from && ctx->type == SOCK_DGRAM) {
		if (vip_listens4(ctx, from, loopback, VIP_CONNECTED))
			return VIP_TO_LOOPBACK;
		if (vip_listens4(ctx, from, VIP_LOCALHOST4, VIP_CONNECTED))
			return VIP_TO_LOCALHOST;
	}
	if ((plan.probes & VIP_PROBE_OWN_ADDRESS) && vip_listens4(ctx, loopback, vip4, VIP_BOUND))
		return VIP_TO_ADDRESS;
	return plan.otherwise;
}

#endif
