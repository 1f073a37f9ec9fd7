/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which address a call gets. Pure: no maps, no helpers, no context, so that it compiles for the host
 * too, where TranslateTests walks all of it and the fuzzer goes through it.
 *
 * The decisions speak of places and answers, not of numbers, so that IPv4 and IPv6 share them: a hook
 * finds out which place its address is (vip_place4 and the maps), asks one function here, and turns the
 * answer back into an address (vip_address4).
 *
 *   session 7 (10.20.0.17), a program on both lists, connect(127.0.0.1:9000):
 *     vip_place4      -> VIP_LOCALHOST
 *     vip_connect     -> try LO4:9000, then VIP4:9000 if it is the session's; else LO4
 *     (the hook looks, and finds the session's server on 10.20.0.17:9000)
 *     vip_source      -> VIP_TO_LOOPBACK: the connection comes from 127.0.0.8
 *   accept() at the server:
 *     vip_name4       -> 127.0.0.8 is LO4, so the peer's name is 127.0.0.1
 */
#ifndef VIP_BPF_TRANSLATE_H
#define VIP_BPF_TRANSLATE_H

#include "abi.h"

#ifdef __bpf__
#include <bpf/bpf_endian.h>
#define vip_swap32(x) bpf_htonl(x)
#else
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define vip_swap32(x) __builtin_bswap32(x)
#else
#define vip_swap32(x) (x)
#endif
#endif

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#define VIP_NET_127 0x7f000000u /* 127.0.0.0, host order */
#define VIP_LOCALHOST4 vip_swap32(VIP_NET_127 + 1)

/* What an address is to one session. */
enum vip_place {
	VIP_ELSEWHERE,	  /* an address of no session and not of this host; multicast; broadcast */
	VIP_WILDCARD,	  /* 0.0.0.0 */
	VIP_LOCALHOST,	  /* 127.0.0.1 */
	VIP_OWN_LOOPBACK, /* its LO4 */
	VIP_OWN_ADDRESS,  /* its VIP4 */
	VIP_HOST_ADDRESS, /* an address of this host that is no session's */
	VIP_OTHER_LOOPBACK, /* another session's LO4 */
	VIP_OTHER_ADDRESS,  /* another session's VIP4 */
	VIP_LOOPBACK_REST,  /* the rest of 127/8: 127.0.0.53 … */
	/* What the number alone does not tell. vip_place_of_owner() makes one of the above of them. */
	VIP_SOME_LOOPBACK,
	VIP_SOME_ADDRESS,
};

/* What to do with an address. */
enum vip_answer {
	VIP_AS_ASKED,
	VIP_TO_LOOPBACK,  /* LO4 */
	VIP_TO_ADDRESS,	  /* VIP4 */
	VIP_TO_LOCALHOST, /* 127.0.0.1 */
	VIP_REFUSE_BIND,  /* EADDRNOTAVAIL: the address is another session's */
	VIP_REFUSE_PEER,  /* ECONNREFUSED: the peer is another session's loopback */
	VIP_UNAVAILABLE, /* EADDRNOTAVAIL: the session has no virtual IP, and the policy says deny */
};

/* Which of V, L and P apply to the calling program. The bit is 1 << enum vip_list. */
enum vip_feature {
	VIP_V = 1 << VIP_LIST_VIRTUAL_IP,
	VIP_L = 1 << VIP_LIST_LOOPBACK,
	VIP_P = 1 << VIP_LIST_PREFER_LOOPBACK,
};

/* Where connect looks before it decides, in this order. The first that has a listener wins. */
enum vip_probe {
	VIP_PROBE_LOCALHOST = 1 << 0,	 /* anyone on 127.0.0.1 -> as asked */
	VIP_PROBE_LOOPBACK = 1 << 1,	 /* anyone whom LO4 reaches -> LO4 */
	VIP_PROBE_OWN_LOOPBACK = 1 << 2, /* something bound to LO4 itself -> LO4 */
	VIP_PROBE_ANSWERED =
		1 << 3, /* UDP: a peer on the loopback that is connected to the sender */
	VIP_PROBE_OWN_ADDRESS = 1 << 4, /* something bound to VIP4 itself -> VIP4 */
};

struct vip_plan {
	__u32 probes;	 /* enum vip_probe */
	__u32 otherwise; /* enum vip_answer, where no probe finds anything */
};

static __always_inline __be32 vip_loopback4(__u32 id)
{
	return vip_swap32(VIP_NET_127 + id + 1);
}

static __always_inline int vip_is_127(__be32 address)
{
	return (vip_swap32(address) >> 24) == 127;
}

/* 224.0.0.0/4, and all above it: what a socket may be bound to and cannot send from. */
static __always_inline int vip_is_multicast4(__be32 address)
{
	return (vip_swap32(address) >> 28) >= 14;
}

/* The session ID whose LO4 the address would be; of 127.0.0.0, an ID that no session has. */
static __always_inline __u32 vip_id_of_loopback4(__be32 address)
{
	return vip_swap32(address) - VIP_NET_127 - 1;
}

static __always_inline enum vip_place vip_place4(__be32 vip4, __u32 id, __be32 address)
{
	if (!address)
		return VIP_WILDCARD;
	if (vip_is_127(address)) {
		if (address == VIP_LOCALHOST4)
			return VIP_LOCALHOST;
		return address == vip_loopback4(id) ? VIP_OWN_LOOPBACK : VIP_SOME_LOOPBACK;
	}
	return address == vip4 ? VIP_OWN_ADDRESS : VIP_SOME_ADDRESS;
}

static __always_inline enum vip_place vip_place_of_owner(enum vip_place place, enum vip_owner owner)
{
	if (place == VIP_SOME_LOOPBACK)
		return owner == VIP_OWNER_SESSION ? VIP_OTHER_LOOPBACK : VIP_LOOPBACK_REST;
	if (place == VIP_SOME_ADDRESS)
		return owner == VIP_OWNER_SESSION ? VIP_OTHER_ADDRESS :
		       owner == VIP_OWNER_HOST	  ? VIP_HOST_ADDRESS :
						    VIP_ELSEWHERE;
	return place;
}

/*
 * The features that hold for a program: those that the policy has on and whose list it is on.
 * `listed` has bit n where the program is on list n; P needs V and L. Without a virtual IP, and where
 * the policy says useHostAddress, V is off; with V and no virtual IP the policy says deny.
 */
static __always_inline __u32 vip_features(__u32 flags, __u32 listed, int has_address)
{
	__u32 on = 0;

	if ((flags & VIP_POLICY_VIRTUAL_IP) &&
	    ((flags & VIP_POLICY_VIRTUAL_IP_ALL) || (listed & VIP_V)) &&
	    (has_address || !(flags & VIP_POLICY_USE_HOST_ADDRESS)))
		on |= VIP_V;
	if ((flags & VIP_POLICY_LOOPBACK) &&
	    ((flags & VIP_POLICY_LOOPBACK_ALL) || (listed & VIP_L)))
		on |= VIP_L;
	if ((flags & VIP_POLICY_PREFER_LOOPBACK) && on == (VIP_V | VIP_L) &&
	    ((flags & VIP_POLICY_PREFER_LOOPBACK_ALL) || (listed & VIP_P)))
		on |= VIP_P;
	return on;
}

/* bind: `excluded` says that the port is on the policy's list of excluded ports. */
static __always_inline enum vip_answer vip_bind(enum vip_place asked, __u32 features, __u32 flags,
						int has_address, int excluded)
{
	switch (asked) {
	case VIP_WILDCARD:
	case VIP_HOST_ADDRESS:
		if (!(features & VIP_V))
			return VIP_AS_ASKED;
		if (!has_address)
			return VIP_UNAVAILABLE;
		return features & VIP_P ? VIP_TO_LOOPBACK : VIP_TO_ADDRESS;
	case VIP_LOCALHOST:
		return (features & VIP_L) && !excluded ? VIP_TO_LOOPBACK : VIP_AS_ASKED;
	case VIP_OTHER_LOOPBACK:
	case VIP_OTHER_ADDRESS:
		return flags & VIP_POLICY_ISOLATION ? VIP_REFUSE_BIND : VIP_AS_ASKED;
	default:
		return VIP_AS_ASKED;
	}
}

/* connect and sendto: where to look, and what to do if nothing listens there. */
static __always_inline struct vip_plan vip_connect(enum vip_place asked, __u32 features,
						   __u32 flags, int has_address, int excluded)
{
	__u32 always = VIP_PROBE_ANSWERED | (has_address ? VIP_PROBE_OWN_ADDRESS : 0);
	struct vip_plan plan = { 0, VIP_AS_ASKED };

	switch (asked) {
	case VIP_WILDCARD: /* the kernel connects 0.0.0.0 to 127.0.0.1 */
	case VIP_LOCALHOST:
		if (excluded)
			return plan;
		if (features & VIP_L) {
			plan.probes = VIP_PROBE_LOOPBACK | always;
			plan.otherwise = flags & VIP_POLICY_FALLBACK_HOST ? VIP_TO_LOCALHOST :
									    VIP_TO_LOOPBACK;
		} else if (features & VIP_V) {
			plan.probes = always;
		} else if (flags & (VIP_POLICY_VIRTUAL_IP | VIP_POLICY_LOOPBACK)) {
			/* Not listed itself, but a server of its session may be. */
			plan.probes = VIP_PROBE_LOCALHOST | VIP_PROBE_OWN_LOOPBACK | always;
		}
		return plan;
	case VIP_OTHER_LOOPBACK:
		if (flags & VIP_POLICY_ISOLATION)
			plan.otherwise = VIP_REFUSE_PEER;
		return plan;
	case VIP_HOST_ADDRESS:
	case VIP_OTHER_ADDRESS:
	case VIP_ELSEWHERE:
		if (!(features & VIP_V))
			return plan;
		if (!has_address)
			plan.otherwise = VIP_UNAVAILABLE;
		else if (asked == VIP_HOST_ADDRESS)
			plan.probes = VIP_PROBE_OWN_ADDRESS;
		return plan;
	default:
		return plan;
	}
}

/* Where a connection or datagram comes from that was asked to go to `asked` and goes `to`. */
static __always_inline enum vip_answer vip_source(enum vip_place asked, enum vip_answer to,
						  __u32 features)
{
	switch (asked) {
	case VIP_WILDCARD:
	case VIP_LOCALHOST:
		if (to != VIP_TO_LOOPBACK && to != VIP_TO_ADDRESS)
			return VIP_AS_ASKED;
		break;
	case VIP_OWN_LOOPBACK:
		break;
	case VIP_OTHER_LOOPBACK:
	case VIP_LOOPBACK_REST:
		return VIP_AS_ASKED;
	default:
		return features & VIP_V ? VIP_TO_ADDRESS : VIP_AS_ASKED;
	}
	/* A local peer, whichever of its addresses the server is on. */
	return (features & (VIP_V | VIP_L)) == VIP_V ? VIP_TO_LOCALHOST : VIP_TO_LOOPBACK;
}

/* The address of an answer; `asked` for those that name none. */
static __always_inline __be32 vip_address4(enum vip_answer answer, __be32 asked, __be32 vip4,
					   __u32 id)
{
	switch (answer) {
	case VIP_TO_LOOPBACK:
		return vip_loopback4(id);
	case VIP_TO_ADDRESS:
		return vip4;
	case VIP_TO_LOCALHOST:
		return VIP_LOCALHOST4;
	default:
		return asked;
	}
}

/*
 * Could a name need translation back? Only an address of 127/8 beside 127.0.0.1, or an end of a local
 * connection: one whose other end is on the loopback, or is the same address. Everything else leaves
 * the hook here, before any look-up.
 */
static __always_inline int vip_name_is_plain4(__be32 name, __be32 other)
{
	return name == VIP_LOCALHOST4 || !(vip_is_127(name) || vip_is_127(other) || name == other);
}

/*
 * One end's name of a socket, given the other end: LO4 is 127.0.0.1, and so is VIP4 where the other
 * end is on the loopback, because only a connection that asked for 127.0.0.1 has two such ends
 * (vip_source). Computed from the two addresses, so it holds for accepted sockets and for MPTCP.
 */
static __always_inline __be32 vip_name4(__be32 name, __be32 other, __be32 vip4, __u32 id)
{
	__be32 loopback = vip_loopback4(id);

	if (name == loopback)
		return VIP_LOCALHOST4;
	if (vip4 && name == vip4 && (other == loopback || other == VIP_LOCALHOST4))
		return VIP_LOCALHOST4;
	return name;
}

#endif
