/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which address a call gets. Pure: no maps, no helpers, no context, so that it compiles for the host
 * too, where TranslateTests walks all of it and the fuzzer goes through it.
 *
 * The decisions speak of places and answers, not of numbers, so that IPv4 and IPv6 share them: a hook
 * finds out which place its address is (vip_place and the maps), asks one function here, and turns the
 * answer back into an address (vip_address_of).
 *
 *   session 7 (10.20.0.17), a program on both lists, connect(127.0.0.1:9000):
 *     vip_place       -> VIP_LOCALHOST
 *     vip_connect     -> try LO4:9000, then VIP4:9000 if it is the session's; else LO4
 *     (the hook looks, and finds the session's server on 10.20.0.17:9000)
 *     vip_source      -> VIP_TO_LOOPBACK: the connection comes from 127.0.0.8
 *   accept() at the server:
 *     vip_name        -> 127.0.0.8 is LO4, so the peer's name is 127.0.0.1
 *
 * With ::1 in place of 127.0.0.1 it is the same, but for LO6 and VIP6. Below, "the loopback" is LO4 or
 * LO6 and "the address" VIP4 or VIP6, whichever the call is about.
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
#define VIP_MAPPED_WORD vip_swap32(0xffffu) /* the third word of ::ffff:a.b.c.d, RFC 4291 2.5.5.2 */

/* How a call names its addresses. Every function takes it as a constant and is inlined for it. */
enum vip_family {
	VIP_INET4,
	VIP_INET6,
	VIP_MAPPED, /* ::ffff:a.b.c.d on an AF_INET6 socket: IPv4 but for how it is fetched and stored */
};

/* The session's own addresses of one family, IPv4 in mapped form. */
struct vip_own {
	struct vip_address address;  /* VIP4 or VIP6; 0.0.0.0 or ::, none */
	struct vip_address loopback; /* LO4 or LO6; ::1 where the host has no LO6 */
	__u32 has;		     /* enum vip_has */
};

enum vip_has {
	VIP_HAS_ADDRESS = 1 << 0,  /* an address of the call's own family */
	VIP_HAS_LOOPBACK = 1 << 1, /* a loopback of it */
	VIP_HAS_IPV4 = 1 << 2,	   /* of an IPv6 call: the session has VIP4 */
	VIP_HAS_MAPPED = 1 << 3,   /* of an IPv6 call: the socket can reach mapped addresses */
};

/* What an address is to one session. */
enum vip_place {
	VIP_ELSEWHERE,	   /* an address of no session and not of this host; multicast; broadcast */
	VIP_WILDCARD,	   /* 0.0.0.0; :: */
	VIP_DUAL_WILDCARD, /* bind: :: on a socket without IPV6_V6ONLY */
	VIP_LOCALHOST,	   /* 127.0.0.1; ::1 */
	VIP_OWN_LOOPBACK,  /* its LO4; its LO6 */
	VIP_OWN_ADDRESS,   /* its VIP4; its VIP6 */
	VIP_HOST_ADDRESS,  /* an address of this host that is no session's */
	VIP_OTHER_LOOPBACK, /* another session's LO4 or LO6 */
	VIP_OTHER_ADDRESS,  /* another session's VIP4 or VIP6 */
	VIP_LOOPBACK_REST,  /* the rest of 127/8: 127.0.0.53 …; of LO6's prefix */
	/* What the number alone does not tell. vip_place_of_owner() makes one of the above of them. */
	VIP_SOME_LOOPBACK,
	VIP_SOME_ADDRESS,
};

/* What to do with an address. */
enum vip_answer {
	VIP_AS_ASKED,
	VIP_TO_LOOPBACK,	/* LO4; LO6 */
	VIP_TO_ADDRESS,		/* VIP4; VIP6 */
	VIP_TO_LOCALHOST,	/* 127.0.0.1; ::1 */
	VIP_TO_LOCALHOST_BACK,	/* the same, from the loopback: to one that is connected there */
	VIP_TO_MAPPED_LOOPBACK, /* of an IPv6 call: ::ffff:LO4 */
	VIP_TO_MAPPED_ADDRESS,	/* of an IPv6 call: ::ffff:VIP4 */
	VIP_REFUSE_BIND,	/* EADDRNOTAVAIL: the address is another session's */
	VIP_REFUSE_PEER,	/* ECONNREFUSED: the peer is another session's loopback */
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
	VIP_PROBE_LOCALHOST = 1 << 0, /* anyone on 127.0.0.1 -> as asked */
	VIP_PROBE_LOOPBACK = 1 << 1,  /* anyone whom the loopback reaches -> the loopback */
	VIP_PROBE_OWN_LOOPBACK =
		1 << 2, /* something of the session on the loopback -> the loopback */
	VIP_PROBE_ANSWERED =
		1 << 3, /* UDP: a peer on the loopback that is connected to the sender */
	VIP_PROBE_OWN_ADDRESS = 1 << 4, /* something of the session on the address -> the address */
	VIP_PROBE_MAPPED = 1 << 5, /* a dual-stack socket on LO4 or VIP4 -> that, in mapped form */
};

struct vip_plan {
	__u32 probes;	 /* enum vip_probe */
	__u32 otherwise; /* enum vip_answer, where no probe finds anything */
};

/* ---- numbers ---- */

static __always_inline struct vip_address vip_mapped(__be32 address)
{
	struct vip_address mapped = { { 0, 0, VIP_MAPPED_WORD, address } };

	return mapped;
}

static __always_inline int vip_is_mapped(struct vip_address address)
{
	return !address.word[0] && !address.word[1] && address.word[2] == VIP_MAPPED_WORD;
}

static __always_inline int vip_same(enum vip_family family, struct vip_address a,
				    struct vip_address b)
{
	if (family != VIP_INET6)
		return a.word[3] == b.word[3];
	return !((a.word[0] ^ b.word[0]) | (a.word[1] ^ b.word[1]) | (a.word[2] ^ b.word[2]) |
		 (a.word[3] ^ b.word[3]));
}

/* 0.0.0.0 or :: */
static __always_inline struct vip_address vip_wildcard(enum vip_family family)
{
	struct vip_address any = {};

	return family == VIP_INET6 ? any : vip_mapped(0);
}

static __always_inline int vip_is_wildcard(enum vip_family family, struct vip_address address)
{
	if (family != VIP_INET6)
		return !address.word[3];
	return !(address.word[0] | address.word[1] | address.word[2] | address.word[3]);
}

/* 127.0.0.1 or ::1 */
static __always_inline struct vip_address vip_localhost(enum vip_family family)
{
	struct vip_address one = { { 0, 0, 0, vip_swap32(1) } };

	return family == VIP_INET6 ? one : vip_mapped(VIP_LOCALHOST4);
}

static __always_inline int vip_is_localhost(enum vip_family family, struct vip_address address)
{
	return vip_same(family, address, vip_localhost(family));
}

static __always_inline __be32 vip_loopback4(__u32 id)
{
	return vip_swap32(VIP_NET_127 + id + 1);
}

/* LO6, and ::1 where there is no prefix: a session's loopback then is the host's. */
static __always_inline struct vip_address vip_loopback6(const __be32 prefix[3], __u32 id)
{
	struct vip_address loopback = { { prefix[0], prefix[1], prefix[2],
					  vip_swap32(prefix[0] ? id + 1 : 1) } };

	return loopback;
}

static __always_inline int vip_is_127(__be32 address)
{
	return (vip_swap32(address) >> 24) == 127;
}

/*
 * 224.0.0.0/4, and all above it; ff00::/8: what a socket may be bound to and cannot send from.
 */
static __always_inline int vip_is_multicast(enum vip_family family, struct vip_address address)
{
	if (family == VIP_INET6)
		return (vip_swap32(address.word[0]) >> 24) == 0xff;
	return (vip_swap32(address.word[3]) >> 28) >= 14;
}

/*
 * The session ID whose LO4 or LO6 the address would be; of 127.0.0.0 and PREFIX::, an ID that no
 * session has.
 */
static __always_inline __u32 vip_id_of_loopback(enum vip_family family, struct vip_address address)
{
	return vip_swap32(address.word[3]) - (family == VIP_INET6 ? 0 : VIP_NET_127) - 1;
}

/* ---- places ---- */

static __always_inline enum vip_place vip_place(enum vip_family family, const struct vip_own *own,
						struct vip_address address)
{
	int is_loopback;

	if (vip_is_wildcard(family, address))
		return VIP_WILDCARD;
	if (vip_is_localhost(family, address))
		return VIP_LOCALHOST;
	if (family == VIP_INET6)
		is_loopback = (own->has & VIP_HAS_LOOPBACK) &&
			      !((address.word[0] ^ own->loopback.word[0]) |
				(address.word[1] ^ own->loopback.word[1]) |
				(address.word[2] ^ own->loopback.word[2]));
	else
		is_loopback = vip_is_127(address.word[3]);
	if (is_loopback)
		return address.word[3] == own->loopback.word[3] ? VIP_OWN_LOOPBACK :
								  VIP_SOME_LOOPBACK;
	return vip_same(family, address, own->address) ? VIP_OWN_ADDRESS : VIP_SOME_ADDRESS;
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

/* ---- decisions ---- */

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

/*
 * Does the session have an address, as far as vip_features() is concerned? The wildcard and ::1 of IPv6
 * mean IPv4 as well; everything else is a question of one family.
 */
static __always_inline int vip_has_address(enum vip_place asked, __u32 has)
{
	if (asked == VIP_WILDCARD || asked == VIP_DUAL_WILDCARD || asked == VIP_LOCALHOST)
		return (has & (VIP_HAS_ADDRESS | VIP_HAS_IPV4)) != 0;
	return (has & VIP_HAS_ADDRESS) != 0;
}

/* bind: `excluded` says that the port is on the policy's list of excluded ports. */
static __always_inline enum vip_answer vip_bind(enum vip_place asked, __u32 features, __u32 flags,
						__u32 has, int excluded)
{
	int prefers_loopback = (features & VIP_P) && (has & VIP_HAS_LOOPBACK);

	switch (asked) {
	case VIP_WILDCARD:
	case VIP_DUAL_WILDCARD:
		if (!(features & VIP_V))
			return VIP_AS_ASKED;
		if (!(has & (VIP_HAS_ADDRESS | VIP_HAS_IPV4)))
			return VIP_UNAVAILABLE;
		if (asked == VIP_DUAL_WILDCARD) {
			if (features & VIP_P)
				return VIP_TO_MAPPED_LOOPBACK;
			if (has & VIP_HAS_IPV4)
				return VIP_TO_MAPPED_ADDRESS;
		}
		if (prefers_loopback)
			return VIP_TO_LOOPBACK;
		if (has & VIP_HAS_ADDRESS)
			return VIP_TO_ADDRESS;
		/* :: of a session that has VIP4 alone: its server stays its own. */
		return has & VIP_HAS_LOOPBACK ? VIP_TO_LOOPBACK : VIP_UNAVAILABLE;
	case VIP_HOST_ADDRESS:
		if (!(features & VIP_V))
			return VIP_AS_ASKED;
		if (!(has & VIP_HAS_ADDRESS))
			return VIP_UNAVAILABLE;
		return prefers_loopback ? VIP_TO_LOOPBACK : VIP_TO_ADDRESS;
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
						   __u32 flags, __u32 has, int excluded)
{
	__u32 always = VIP_PROBE_ANSWERED | (has & VIP_HAS_ADDRESS ? VIP_PROBE_OWN_ADDRESS : 0) |
		       (has & VIP_HAS_MAPPED ? VIP_PROBE_MAPPED : 0);
	struct vip_plan plan = { 0, VIP_AS_ASKED };

	switch (asked) {
	case VIP_WILDCARD: /* the kernel connects 0.0.0.0 to 127.0.0.1, and :: to ::1 */
	case VIP_LOCALHOST:
		if (excluded)
			return plan;
		if (features & VIP_L) {
			plan.probes = VIP_PROBE_LOOPBACK | always;
			plan.otherwise = flags & VIP_POLICY_FALLBACK_HOST ? VIP_TO_LOCALHOST :
									    VIP_TO_LOOPBACK;
		} else if (features & VIP_V) {
			plan.probes = always;
			/* Where an IPv6 server is that could not have VIP6, see vip_bind. */
			if (!(has & VIP_HAS_ADDRESS) && (has & VIP_HAS_IPV4))
				plan.probes |= VIP_PROBE_OWN_LOOPBACK;
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
		if (!(has & VIP_HAS_ADDRESS))
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
		if (to == VIP_TO_LOCALHOST_BACK)
			return VIP_TO_LOOPBACK;
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

/* The address of an answer; `asked` for those that name none in this family. */
static __always_inline struct vip_address vip_address_of(enum vip_family family,
							 enum vip_answer answer,
							 struct vip_address asked,
							 const struct vip_own *own)
{
	switch (answer) {
	case VIP_TO_LOOPBACK:
		return own->loopback;
	case VIP_TO_ADDRESS:
		return own->address;
	case VIP_TO_LOCALHOST_BACK:
	case VIP_TO_LOCALHOST:
		return vip_localhost(family);
	default:
		return asked;
	}
}

/* ---- names ---- */

/* May an IPv6 address be of a session's loopback? All those prefixes are of fc00::/7, RFC 4193. */
static __always_inline int vip_is_unique_local(struct vip_address address)
{
	return (vip_swap32(address.word[0]) >> 25) == 0xfc >> 1;
}

/*
 * Could a name need translation back? Only a loopback beside 127.0.0.1 and ::1, or an end of a local
 * connection: one whose other end is on the loopback, or is the same address. Everything else leaves
 * the hook here, before any look-up.
 */
static __always_inline int vip_name_is_plain(enum vip_family family, struct vip_address name,
					     struct vip_address other)
{
	if (family == VIP_INET6)
		return vip_is_localhost(family, name) ||
		       !(vip_is_unique_local(name) || vip_is_unique_local(other) ||
			 vip_is_localhost(family, other) || vip_same(family, name, other));
	/* ::ffff:127.0.0.1 may stand for ::1. */
	if (family == VIP_INET4 && name.word[3] == VIP_LOCALHOST4)
		return 1;
	return !(vip_is_127(name.word[3]) || vip_is_127(other.word[3]) ||
		 vip_same(family, name, other));
}

/*
 * One end's name of a socket, given the other end: the loopback is 127.0.0.1 or ::1, and so is the
 * address where the other end is on the loopback, because only a connection that asked for 127.0.0.1
 * or ::1 has two such ends (vip_source). Computed from the two addresses, so it holds for accepted
 * sockets and for MPTCP.
 */
static __always_inline struct vip_address vip_name(enum vip_family family,
						   const struct vip_own *own,
						   struct vip_address name,
						   struct vip_address other)
{
	if (vip_same(family, name, own->loopback))
		return vip_localhost(family);
	if ((own->has & VIP_HAS_ADDRESS) && vip_same(family, name, own->address) &&
	    (vip_same(family, other, own->loopback) || vip_is_localhost(family, other)))
		return vip_localhost(family);
	return name;
}

#endif
