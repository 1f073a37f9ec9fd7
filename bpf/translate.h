/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which address a call gets. This file is pure: it uses no maps, no helpers and no context. It compiles for the
 * host as well, where TranslateTests covers it case by case and the fuzzer runs it.
 *
 * A hook gathers facts, asks one function here, and applies the answer. The decisions work on address classes and
 * actions instead of numbers, so that IPv4 and IPv6 share them: vip_class() classifies an address (with the maps,
 * vip_class_of() in session.h), and vip_address_of() turns an action back into an address.
 *
 *   session 7 (10.20.0.17), a program on both lists, connect(127.0.0.1:9000):
 *     vip_class          -> VIP_LOCALHOST
 *     vip_connect_plan   -> try LO4:9000, then VIP4:9000 if it is the session's; else LO4
 *     (listener.h looks, and finds the session's server on 10.20.0.17:9000: VIP_TO_ADDRESS)
 *     vip_route_of       -> to 10.20.0.17, from 127.0.0.8
 *   accept() at the server:
 *     vip_name           -> 127.0.0.8 is LO4, so the peer's name is 127.0.0.1
 *
 * The same holds for ::1 with LO6 and VIP6. Below, "the loopback" is LO4 or LO6 and "the address" is VIP4 or VIP6,
 * depending on the family of the call.
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
/* The session ID of 127.0.0.6, LOOPBACK4_IPV6 of include/net/ipv6.h. No session has it. */
#define VIP_ID_OF_IPV6_SOCKETS 5
#define VIP_LOCALHOST4 vip_swap32(VIP_NET_127 + 1)
#define VIP_MAPPED_WORD vip_swap32(0xffffu) /* the third word of ::ffff:a.b.c.d, RFC 4291 2.5.5.2 */

/* The form in which a call or an answer has its addresses. The hooks are inlined for a constant one. */
enum vip_family {
	VIP_INET4,
	VIP_INET6,
	VIP_MAPPED, /* ::ffff:a.b.c.d on an AF_INET6 socket: IPv4 in the context's IPv6 fields */
};

/* The session's own addresses of one family, IPv4 in mapped form. */
struct vip_own {
	struct vip_address address;  /* VIP4 or VIP6; 0.0.0.0 or :: if there is none */
	struct vip_address loopback; /* LO4 or LO6; ::1 if the host has no LO6 */
	__u32 has;		     /* enum vip_has */
	__u32 id;		     /* the session's ID */
	__be32 vip4;		     /* VIP4, of an IPv6 call as well; 0 if there is none */
};

enum vip_has {
	VIP_HAS_ADDRESS = 1 << 0,  /* an address of the call's own family */
	VIP_HAS_LOOPBACK = 1 << 1, /* a loopback of the call's own family */
	VIP_HAS_IPV4 = 1 << 2,	   /* IPv6 calls: the session has VIP4 */
	VIP_HAS_MAPPED = 1 << 3,   /* IPv6 calls: the socket can reach mapped addresses */
};

/* What an address is to one session. */
enum vip_addr_class {
	VIP_ELSEWHERE,	   /* an address of no session and not of this host; multicast; broadcast */
	VIP_WILDCARD,	   /* 0.0.0.0; :: */
	VIP_DUAL_WILDCARD, /* bind: :: on a socket without IPV6_V6ONLY */
	VIP_LOCALHOST,	   /* 127.0.0.1; ::1 */
	VIP_OWN_LOOPBACK,  /* its LO4; its LO6 */
	VIP_OWN_ADDRESS,   /* its VIP4; its VIP6 */
	VIP_HOST_ADDRESS,  /* an address of this host that belongs to no session */
	VIP_OTHER_LOOPBACK, /* another session's LO4 or LO6, now or to come */
	VIP_OTHER_ADDRESS,  /* another session's VIP4 or VIP6, now or to come */
	VIP_LOOPBACK_REST,  /* the host's part of 127/8; a destination in it that no session has */
	VIP_ITSELF,	    /* a destination of IPv4: 0.0.0.0 from a socket that has an address */
	VIP_NOT_LOCAL, /* bind, a source: an IPv6 unicast address that this host does not have */
	/* The number alone does not tell more. vip_class_of_owner() turns these into one of the above. */
	VIP_SOME_LOOPBACK,
	VIP_SOME_ADDRESS,
};

/* What to do with an address. */
enum vip_action {
	VIP_AS_ASKED,
	VIP_TO_LOOPBACK,       /* LO4; LO6 */
	VIP_TO_ADDRESS,	       /* VIP4; VIP6 */
	VIP_TO_LOCALHOST,      /* 127.0.0.1; ::1 */
	VIP_TO_LOCALHOST_BACK, /* the same, from the loopback: the peer is connected to the loopback */
	VIP_TO_MAPPED_LOOPBACK, /* IPv6 calls: ::ffff:LO4 */
	VIP_TO_MAPPED_ADDRESS,	/* IPv6 calls: ::ffff:VIP4 */
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

/* Where connect looks before it decides, in this order. The first place that has a listener wins. */
enum vip_probe {
	VIP_PROBE_LOCALHOST = 1 << 0, /* anything on 127.0.0.1 -> as asked */
	VIP_PROBE_LOOPBACK = 1 << 1,  /* anything that the loopback reaches -> the loopback */
	VIP_PROBE_OWN_LOOPBACK =
		1 << 2, /* something of the session on the loopback -> the loopback */
	VIP_PROBE_ANSWERED =
		1 << 3, /* UDP: a peer on the loopback that is connected to the sender */
	VIP_PROBE_OWN_ADDRESS = 1 << 4, /* something of the session on the address -> the address */
	VIP_PROBE_MAPPED = 1 << 5, /* a dual-stack socket on LO4 or VIP4 -> that, in mapped form */
	/* Anything at what was asked -> as asked. Another session's on the wildcard -> refused, if no place is left. */
	VIP_PROBE_ASKED = 1 << 6,
};

struct vip_plan {
	__u32 probes;	 /* enum vip_probe */
	__u32 otherwise; /* enum vip_action, if no probe finds anything */
};

/* What a hook has found out about a call. Each decision says which of them it reads. */
struct vip_facts {
	struct vip_own own;
	struct vip_address
		user_addr; /* what the call names; in a name hook, what the kernel does */
	struct vip_address
		local_addr;	    /* where the socket is bound; sendmsg: the datagram's source */
	enum vip_addr_class asked;  /* of user_addr */
	__u32 flags;		    /* enum vip_policy_flag */
	__u32 features;		    /* enum vip_feature */
	__u32 state;		    /* enum vip_socket_flag */
	enum vip_outcome unchanged; /* of a call that is left as it is: VIP_SEEN, VIP_UNADDRESSED */
	int is_excluded; /* the port is one of the policy's excluded ports; which, depends on the call */
	__be32 peer; /* in a name hook: the 127.x.y.z that was asked for at the peer's port; else 0 */
};

/* What to do about a call: apply.h carries it out. */
struct vip_decision {
	enum vip_outcome outcome; /* a refusal; else what to count if nothing is stored */
	struct vip_address
		address; /* whole, in its own form: a mapped one may replace an IPv6 one */
	struct vip_address source; /* of a datagram */
	__u32 forget, remember;	   /* enum vip_socket_flag */
	__be32 peer;		   /* with VIP_SOCKET_ASKED_PEER */
};

/* An outcome of a decision: the call is left as it is, and not counted. */
#define VIP_NOT_COUNTED VIP_OUTCOME_COUNT

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

/* All of the two addresses, whatever their forms. */
static __always_inline int vip_equal(struct vip_address a, struct vip_address b)
{
	return !((a.word[0] ^ b.word[0]) | (a.word[1] ^ b.word[1]) | (a.word[2] ^ b.word[2]) |
		 (a.word[3] ^ b.word[3]));
}

/* Two addresses of one family. */
static __always_inline int vip_same(enum vip_family family, struct vip_address a,
				    struct vip_address b)
{
	return family == VIP_INET6 ? vip_equal(a, b) : a.word[3] == b.word[3];
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

/* LO6. Without a prefix it is ::1: the session's loopback is then the host's. */
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

/* 224.0.0.0/4 and everything above it; ff00::/8. A socket may be bound to these and cannot send from them. */
static __always_inline int vip_is_multicast(enum vip_family family, struct vip_address address)
{
	if (family == VIP_INET6)
		return (vip_swap32(address.word[0]) >> 24) == 0xff;
	return (vip_swap32(address.word[3]) >> 28) >= 14;
}

/* The ID of the session whose LO4 or LO6 the address is. For 127.0.0.0 and PREFIX:: it is no session's ID. */
static __always_inline __u32 vip_id_of_loopback(enum vip_family family, struct vip_address address)
{
	return vip_swap32(address.word[3]) - (family == VIP_INET6 ? 0 : VIP_NET_127) - 1;
}

/* ---- address classes ---- */

/* `prefix` is the 96 bits of the IPv6 loopbacks, or zeros. */
static __always_inline struct vip_own vip_own_of(enum vip_family family, __u32 id, __be32 vip4,
						 struct vip_address vip6, const __be32 prefix[3])
{
	struct vip_own own = { .id = id, .vip4 = vip4 };

	if (family == VIP_INET6) {
		own.address = vip6;
		own.loopback = vip_loopback6(prefix, id);
		if (prefix[0])
			own.has |= VIP_HAS_LOOPBACK;
		if (vip4)
			own.has |= VIP_HAS_IPV4;
	} else {
		own.address = vip_mapped(vip4);
		own.loopback = vip_mapped(vip_loopback4(id));
		own.has = VIP_HAS_LOOPBACK;
	}
	if (!vip_is_wildcard(family, own.address))
		own.has |= VIP_HAS_ADDRESS;
	return own;
}

/* The same session's addresses in mapped form. */
static __always_inline struct vip_own vip_own_mapped(const struct vip_own *own)
{
	return vip_own_of(VIP_MAPPED, own->id, own->vip4, vip_mapped(0), 0);
}

static __always_inline enum vip_addr_class
vip_class(enum vip_family family, const struct vip_own *own, struct vip_address address)
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

/* What the maps say of an address that the number alone does not classify. */
static __always_inline enum vip_addr_class vip_class_of_owner(enum vip_addr_class class,
							      enum vip_owner owner)
{
	if (class == VIP_SOME_LOOPBACK)
		return owner == VIP_OWNER_SESSION ? VIP_OTHER_LOOPBACK : VIP_LOOPBACK_REST;
	if (class == VIP_SOME_ADDRESS)
		return owner == VIP_OWNER_SESSION ? VIP_OTHER_ADDRESS :
		       owner == VIP_OWNER_HOST	  ? VIP_HOST_ADDRESS :
						    VIP_ELSEWHERE;
	return class;
}

/* fe80::/10, RFC 4291 2.5.6 */
static __always_inline int vip_is_link_local(struct vip_address address)
{
	return (vip_swap32(address.word[0]) >> 22) == 0xfe80 >> 6;
}

/*
 * The class of an address to bind or to send from. IPv6 lets a program take an address that this host does not have
 * (IPV6_FREEBIND, ip_nonlocal_bind), and send from it; IPv4 refuses the sending.
 */
static __always_inline enum vip_addr_class
vip_class_of_local(enum vip_family family, enum vip_addr_class class, struct vip_address address)
{
	return family == VIP_INET6 && class == VIP_ELSEWHERE &&
			       !vip_is_multicast(VIP_INET6, address) &&
			       !vip_is_link_local(address) && !vip_is_mapped(address) ?
		       VIP_NOT_LOCAL :
		       class;
}

/* ---- the tables of the contract ---- */

/*
 * The features that apply to a program: those that the policy enables and whose list names the program. `listed` has
 * bit n if the program is on list n. P needs V and L. Without a virtual IP, V does not apply if the policy says
 * useHostAddress; so V without a virtual IP means that the policy says deny.
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
 * Whether the session has an address, for vip_features(). The wildcard and ::1 of IPv6 stand for IPv4 as well;
 * everything else depends on one family.
 */
static __always_inline int vip_has_address(enum vip_addr_class asked, __u32 has)
{
	if (asked == VIP_WILDCARD || asked == VIP_DUAL_WILDCARD || asked == VIP_LOCALHOST)
		return (has & (VIP_HAS_ADDRESS | VIP_HAS_IPV4)) != 0;
	return (has & VIP_HAS_ADDRESS) != 0;
}

/* Which of the policy's excluded ports matter to a bind of `asked`. */
static __always_inline enum vip_exclusion vip_exclusion_of(enum vip_addr_class asked)
{
	return asked == VIP_WILDCARD || asked == VIP_DUAL_WILDCARD ? VIP_EXCLUDED_VIRTUAL_IP :
								     VIP_EXCLUDED_LOOPBACK;
}

/* bind. `excluded`: the port is one of the policy's excluded ports, of vip_exclusion_of(asked). */
static __always_inline enum vip_action vip_bind_action(enum vip_addr_class asked, __u32 features,
						       __u32 flags, __u32 has, int excluded)
{
	int prefers_loopback = (features & VIP_P) && (has & VIP_HAS_LOOPBACK);

	switch (asked) {
	case VIP_WILDCARD:
	case VIP_DUAL_WILDCARD:
		if (!(features & VIP_V))
			return VIP_AS_ASKED;
		if (!(has & (VIP_HAS_ADDRESS | VIP_HAS_IPV4)))
			return VIP_UNAVAILABLE;
		if (excluded) /* it hears groups and broadcasts, and each datagram gets its source when it is sent */
			return VIP_AS_ASKED;
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
		/* :: of a session that only has VIP4: other sessions must not reach its server. */
		return has & VIP_HAS_LOOPBACK ? VIP_TO_LOOPBACK : VIP_UNAVAILABLE;
	case VIP_HOST_ADDRESS:
	case VIP_OTHER_ADDRESS: /* the program has it from a listing of the interface */
		if (!(features & VIP_V))
			return asked == VIP_OTHER_ADDRESS && (flags & VIP_POLICY_ISOLATION) ?
				       VIP_REFUSE_BIND :
				       VIP_AS_ASKED;
		if (!(has & VIP_HAS_ADDRESS))
			return VIP_UNAVAILABLE;
		return prefers_loopback ? VIP_TO_LOOPBACK : VIP_TO_ADDRESS;
	case VIP_LOCALHOST:
		return (features & VIP_L) && !excluded ? VIP_TO_LOOPBACK : VIP_AS_ASKED;
	case VIP_OTHER_LOOPBACK:
		return flags & VIP_POLICY_ISOLATION ? VIP_REFUSE_BIND : VIP_AS_ASKED;
	case VIP_NOT_LOCAL:
		return features & VIP_V ? VIP_REFUSE_BIND : VIP_AS_ASKED;
	default:
		return VIP_AS_ASKED;
	}
}

/* connect and sendto: where to look, and what to do if nothing listens there. */
static __always_inline struct vip_plan vip_connect_plan(enum vip_addr_class asked, __u32 features,
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
			/* Without VIP6, IPv6 servers are on the loopback: see vip_bind_action. */
			if (!(has & VIP_HAS_ADDRESS) && (has & VIP_HAS_IPV4))
				plan.probes |= VIP_PROBE_OWN_LOOPBACK;
		} else if (flags & (VIP_POLICY_VIRTUAL_IP | VIP_POLICY_LOOPBACK)) {
			/* The program is not listed, but a server of its session may be. */
			plan.probes = VIP_PROBE_LOCALHOST | VIP_PROBE_OWN_LOOPBACK | always;
		}
		return plan;
	case VIP_OTHER_LOOPBACK:
		if (flags & VIP_POLICY_ISOLATION)
			plan.otherwise = VIP_REFUSE_PEER;
		return plan;
	case VIP_LOOPBACK_REST:
		/*
		 * Outside sessions, a server on the wildcard is reached at each of these addresses. In a session it is
		 * bound to one of the session's.
		 */
		if (excluded || !(flags & VIP_POLICY_VIRTUAL_IP))
			return plan;
		if (flags & VIP_POLICY_PREFER_LOOPBACK)
			plan.probes |= VIP_PROBE_OWN_LOOPBACK;
		if (has & VIP_HAS_ADDRESS)
			plan.probes |= VIP_PROBE_OWN_ADDRESS;
		if (plan.probes)
			plan.probes |= VIP_PROBE_ASKED;
		return plan;
	case VIP_OWN_LOOPBACK:
	case VIP_OWN_ADDRESS:
		if (flags & VIP_POLICY_ISOLATION)
			plan.probes = VIP_PROBE_ASKED;
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

/* The source of a connection or datagram whose destination was `asked` and is now `to`. */
static __always_inline enum vip_action vip_source_action(enum vip_addr_class asked,
							 enum vip_action to, __u32 features)
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
	case VIP_LOOPBACK_REST: /* vip_route_of() makes it VIP_LOCALHOST if the call goes to the session */
	case VIP_ITSELF:
		return VIP_AS_ASKED;
	default:
		return features & VIP_V ? VIP_TO_ADDRESS : VIP_AS_ASKED;
	}
	/* The peer is local, on whichever of the session's addresses. */
	return (features & (VIP_V | VIP_L)) == VIP_V ? VIP_TO_LOCALHOST : VIP_TO_LOOPBACK;
}

/* The form of an action's address, for a call of `family`. */
static __always_inline enum vip_family vip_form_of(enum vip_family family, enum vip_action action)
{
	int is_mapped = action == VIP_TO_MAPPED_LOOPBACK || action == VIP_TO_MAPPED_ADDRESS;

	return family == VIP_INET6 && is_mapped ? VIP_MAPPED : family;
}

/* The address of an action, in the form vip_form_of(); `asked` if the action names none. */
static __always_inline struct vip_address vip_address_of(enum vip_family family,
							 enum vip_action action,
							 struct vip_address asked,
							 const struct vip_own *own)
{
	switch (action) {
	case VIP_TO_LOOPBACK:
		return own->loopback;
	case VIP_TO_ADDRESS:
		return own->address;
	case VIP_TO_LOCALHOST_BACK:
	case VIP_TO_LOCALHOST:
		return vip_localhost(family);
	case VIP_TO_MAPPED_LOOPBACK:
		return vip_mapped(vip_loopback4(own->id));
	case VIP_TO_MAPPED_ADDRESS:
		return vip_mapped(own->vip4);
	default:
		return asked;
	}
}

/* The outcome of an action that refuses the call; VIP_SEEN for the others. */
static __always_inline enum vip_outcome vip_refusal(enum vip_action action)
{
	switch (action) {
	case VIP_REFUSE_BIND:
		return VIP_REFUSED_ISOLATION;
	case VIP_REFUSE_PEER:
		return VIP_REFUSED_PEER;
	case VIP_UNAVAILABLE:
		return VIP_REFUSED_UNAVAILABLE;
	default:
		return VIP_SEEN;
	}
}

static __always_inline int vip_is_refused(enum vip_outcome outcome)
{
	return outcome >= VIP_REFUSED_ISOLATION && outcome < VIP_OUTCOME_COUNT;
}

/*
 * The outcome of a call that is left as it is, if V does not apply. If the only reason is that the session has no
 * address, the call goes on with the host's: VIP_UNADDRESSED.
 */
static __always_inline enum vip_outcome vip_outcome_unchanged(__u32 flags, __u32 listed,
							      enum vip_addr_class asked, __u32 has)
{
	if (vip_has_address(asked, has) || (asked != VIP_WILDCARD && asked != VIP_DUAL_WILDCARD &&
					    asked != VIP_HOST_ADDRESS && asked != VIP_ELSEWHERE))
		return VIP_SEEN;
	return vip_features(flags, listed, 1) & VIP_V ? VIP_UNADDRESSED : VIP_SEEN;
}

/* The session itself holds what is bound to one of these. */
static __always_inline int vip_is_sessions(enum vip_addr_class class)
{
	return class == VIP_OWN_ADDRESS || class == VIP_OWN_LOOPBACK || class == VIP_LOCALHOST;
}

static __always_inline int vip_is_local(enum vip_addr_class asked)
{
	return asked == VIP_WILDCARD || asked == VIP_LOCALHOST;
}

static __always_inline int vip_is_others(enum vip_addr_class class)
{
	return class == VIP_OTHER_ADDRESS || class == VIP_OTHER_LOOPBACK;
}

/* Whether nothing may be sent from an address of this class. */
static __always_inline int vip_is_refused_source(enum vip_addr_class class, __u32 features,
						 __u32 flags)
{
	return class == VIP_NOT_LOCAL ? (features & VIP_V) != 0 :
					vip_is_others(class) && (flags & VIP_POLICY_ISOLATION);
}

/* An address that a V-program takes for its own: an interface has it, and it is not this session's. */
static __always_inline int vip_is_interfaces(enum vip_addr_class asked)
{
	return asked == VIP_HOST_ADDRESS || asked == VIP_OTHER_ADDRESS;
}

/* ---- bind ---- */

/* Whether a bind's answer depends on the program. */
static __always_inline int vip_bind_needs_features(enum vip_addr_class asked)
{
	return asked == VIP_WILDCARD || asked == VIP_DUAL_WILDCARD || asked == VIP_LOCALHOST ||
	       asked == VIP_NOT_LOCAL || vip_is_interfaces(asked);
}

struct vip_bind_facts {
	int has_port; /* the call names a port */
	int is_stream, is_datagram;
};

/* What a bind is to be answered with; `clashes`, where another server of the session must not be. */
struct vip_bind_decision {
	struct vip_decision decision;
	int is_dual;	 /* a dual-stack socket is bound to a mapped address */
	int on_loopback; /* look for a listener on the loopback that clashes with this one */
	int on_address;	 /* the same for the address */
};

/* Reads own, user_addr, asked, flags, features, unchanged, is_excluded. */
static __always_inline struct vip_bind_decision
vip_decide_bind(enum vip_family family, const struct vip_facts *facts, struct vip_bind_facts call)
{
	const struct vip_own *own = &facts->own;
	enum vip_addr_class asked = facts->asked;
	struct vip_bind_decision result = {};
	struct vip_decision *decision = &result.decision;
	enum vip_action action =
		vip_bind_action(asked, facts->features, facts->flags, own->has, facts->is_excluded);

	decision->outcome = vip_refusal(action);
	decision->address = facts->user_addr;
	if (decision->outcome)
		return result;
	decision->outcome = facts->unchanged;
	/*
	 * Without a port nothing can clash, and a socket on a mapped address could send no IPv6. So the socket stays
	 * on ::, and each datagram gets its source when it is sent.
	 */
	if (asked == VIP_DUAL_WILDCARD && call.is_datagram && !call.has_port)
		action = VIP_AS_ASKED;
	decision->address = vip_address_of(family, action, facts->user_addr, own);
	result.is_dual = action == VIP_TO_MAPPED_LOOPBACK || action == VIP_TO_MAPPED_ADDRESS;

	/*
	 * A TCP server must not be where another server of its session listens, though the kernel sees two addresses:
	 * a dual-stack one is bound to ::ffff:VIP4, and by vip_sk_lookup it is on VIP6 and LO6 as well.
	 */
	if (family == VIP_INET6 && call.is_stream && call.has_port) {
		result.on_loopback =
			result.is_dual || action == VIP_TO_LOOPBACK || asked == VIP_OWN_LOOPBACK;
		result.on_address = (action == VIP_TO_MAPPED_ADDRESS || action == VIP_TO_ADDRESS ||
				     asked == VIP_OWN_ADDRESS) &&
				    (own->has & VIP_HAS_ADDRESS);
	}

	/* A later bind replaces what an earlier one, which failed, has left. */
	decision->forget = VIP_SOCKET_NAMED_ADDRESS | VIP_SOCKET_WILDCARD | VIP_SOCKET_DUAL |
			   VIP_SOCKET_NAMED_SOURCE;
	/* getsockname cannot tell these from the address alone. */
	if (asked == VIP_OWN_ADDRESS || (vip_is_interfaces(asked) && action == VIP_TO_ADDRESS))
		decision->remember = VIP_SOCKET_NAMED_ADDRESS;
	else if (asked == VIP_WILDCARD && action == VIP_TO_LOOPBACK)
		decision->remember = VIP_SOCKET_WILDCARD;
	else if (result.is_dual)
		decision->remember = VIP_SOCKET_DUAL;
	/* And connect cannot tell this of a socket that has no port yet (IP_BIND_ADDRESS_NO_PORT). */
	if (!call.has_port &&
	    (asked == VIP_LOCALHOST || asked == VIP_OWN_LOOPBACK || asked == VIP_OWN_ADDRESS ||
	     (vip_is_interfaces(asked) && action != VIP_AS_ASKED)))
		decision->remember |= VIP_SOCKET_NAMED_SOURCE;
	return result;
}

/* ---- connect and sendto ---- */

/*
 * The class of a destination, given the socket's or datagram's source. IPv4 takes 0.0.0.0 for the socket's own address
 * if it has one (ip_route_output_key_hash). But bind may have given it the virtual IP for the wildcard, and then the
 * program knows of no address; and on the loopback, both mean the same.
 */
static __always_inline enum vip_addr_class vip_destination(enum vip_family family,
							   const struct vip_own *own,
							   enum vip_addr_class class,
							   struct vip_address local_addr)
{
	if (class != VIP_WILDCARD || family == VIP_INET6 || vip_is_wildcard(family, local_addr) ||
	    vip_same(family, local_addr, own->address) ||
	    vip_same(family, local_addr, own->loopback) || vip_is_localhost(family, local_addr))
		return class;
	return VIP_ITSELF;
}

/* Whether a mapped address may stand in for the destination: connect6 asks then whether the socket reaches one. */
static __always_inline int vip_may_be_mapped(enum vip_family family, enum vip_addr_class asked)
{
	return family == VIP_INET6 && vip_is_local(asked);
}

/* Reads own, asked, flags, features, is_excluded. */
static __always_inline struct vip_plan vip_plan_of(const struct vip_facts *facts)
{
	return vip_connect_plan(facts->asked, facts->features, facts->flags, facts->own.has,
				facts->is_excluded);
}

/* Where a call goes and from where. If a mapped address stands in for ::1, everything in it is of that form. */
struct vip_route {
	enum vip_family form;
	struct vip_own own;
	enum vip_addr_class asked; /* VIP_LOCALHOST for all that stands for 127.0.0.1 or ::1 */
	enum vip_action to;
	enum vip_action source;
	struct vip_address address; /* the destination */
	struct vip_address
		source_addr; /* what `source` means; the wildcard if the kernel chooses */
	__u32 remember;	     /* VIP_SOCKET_MAPPED_PEER, VIP_SOCKET_ASKED_PEER or nothing */
	__be32 peer;	     /* with VIP_SOCKET_ASKED_PEER */
};

/*
 * `to` is no refusal, and `form` is vip_form_of() it; the caller may know it as a constant. Reads own, user_addr,
 * asked, features.
 */
static __always_inline struct vip_route vip_route_of(enum vip_family family, enum vip_family form,
						     const struct vip_facts *facts,
						     enum vip_action to)
{
	struct vip_route route = {
		.form = form, .own = facts->own, .asked = facts->asked, .to = to
	};

	if (form == VIP_MAPPED && family == VIP_INET6) {
		/* From here on it is a connection to 127.0.0.1. */
		route.own = vip_own_mapped(&facts->own);
		route.asked = VIP_LOCALHOST;
		route.to = to == VIP_TO_MAPPED_LOOPBACK ? VIP_TO_LOOPBACK : VIP_TO_ADDRESS;
		route.remember = VIP_SOCKET_MAPPED_PEER;
	} else if (family != VIP_INET6 && facts->asked == VIP_LOOPBACK_REST && to != VIP_AS_ASKED) {
		route.asked = VIP_LOCALHOST;
		route.remember = VIP_SOCKET_ASKED_PEER;
		route.peer = facts->user_addr.word[3];
	}
	route.address = vip_address_of(form, route.to, facts->user_addr, &route.own);
	route.source = vip_source_action(route.asked, route.to, facts->features);
	route.source_addr = vip_address_of(form, route.source, vip_wildcard(form), &route.own);
	return route;
}

/* The socket goes from its loopback to the virtual IP, which was asked for by its own or a host address. */
static __always_inline int vip_is_named_peer(enum vip_addr_class asked, enum vip_action to,
					     enum vip_addr_class source)
{
	return (asked == VIP_OWN_ADDRESS || (asked == VIP_HOST_ADDRESS && to == VIP_TO_ADDRESS)) &&
	       (source == VIP_LOCALHOST || source == VIP_OWN_LOOPBACK ||
		source == VIP_SOME_LOOPBACK || source == VIP_OTHER_LOOPBACK ||
		source == VIP_LOOPBACK_REST);
}

/* ---- the source of a connection ---- */

/* The local address of a socket that is about to connect. */
struct vip_bound {
	struct vip_address address;
	int is_other_form; /* it is mapped and the route is not, or the other way round */
	int has_port;
	enum vip_addr_class class; /* resolved by the maps if vip_source_needs_owner() */
	enum vip_owner owner;	   /* the same */
	int is_named; /* VIP_SOCKET_NAMED_SOURCE, looked up if vip_source_needs_state() */
};

enum vip_source_decision {
	VIP_SOURCE_KEEP,    /* leave it as it is */
	VIP_SOURCE_BIND,    /* bind it to the route's source_addr */
	VIP_SOURCE_MISSING, /* it would leave from the host's address */
	VIP_SOURCE_OTHERS,  /* it would leave from another session's */
};

/* Whether the address of a socket is no address of the session. */
static __always_inline int vip_source_needs_owner(enum vip_family form,
						  const struct vip_bound *bound)
{
	return !bound->is_other_form && !vip_is_sessions(bound->class) &&
	       bound->class != VIP_WILDCARD && !vip_is_multicast(form, bound->address);
}

static __always_inline int vip_source_needs_state(const struct vip_bound *bound)
{
	return !bound->has_port && vip_is_sessions(bound->class);
}

/* What an absent source means: only V-programs must not leave from the host's address. */
static __always_inline enum vip_source_decision vip_no_source(enum vip_action source)
{
	return source == VIP_TO_ADDRESS ? VIP_SOURCE_MISSING : VIP_SOURCE_KEEP;
}

/* Gives a socket that is about to connect its source, as the kernel's own autobind would later. */
static __always_inline enum vip_source_decision vip_decide_source(const struct vip_route *route,
								  const struct vip_bound *bound,
								  __u32 features, __u32 flags)
{
	/* The kernel refuses these: EAFNOSUPPORT, ENETUNREACH. */
	if (bound->is_other_form && (bound->has_port || route->form != VIP_INET6))
		return VIP_SOURCE_KEEP;
	/* A socket that has a port keeps what the program bound; the kernel gives us no way to bind it again. */
	if (bound->has_port) {
		if (vip_is_sessions(bound->class))
			return VIP_SOURCE_KEEP;
		/*
		 * But if it has no source, it would now take the host's address: a datagram was sent from it, or it is
		 * bound to a group or a broadcast address, or it comes from outside the session.
		 */
		if (bound->class == VIP_WILDCARD || bound->owner == VIP_OWNER_BROADCAST ||
		    vip_is_multicast(route->form, bound->address))
			return vip_no_source(route->source);
		/* A socket that was bound in another session must not bring that session's address here. */
		return vip_is_refused_source(bound->class, features, flags) ? VIP_SOURCE_OTHERS :
									      VIP_SOURCE_KEEP;
	}
	if (vip_is_refused_source(bound->class, features, flags))
		return VIP_SOURCE_OTHERS;
	/*
	 * An address without a port: the program keeps what it bound with IP_BIND_ADDRESS_NO_PORT. What bind gave for
	 * the wildcard, or what an earlier connect has left that failed or was undone, is replaced, if need be with
	 * the wildcard.
	 */
	if (bound->class == VIP_WILDCARD ? route->source == VIP_AS_ASKED :
					   !vip_is_sessions(bound->class) || bound->is_named)
		return VIP_SOURCE_KEEP;
	return vip_same(route->form, route->source_addr, bound->address) ? VIP_SOURCE_KEEP :
									   VIP_SOURCE_BIND;
}

/* After a bind that failed. A V6ONLY socket reaches no mapped address: the kernel says ENETUNREACH. */
static __always_inline enum vip_source_decision vip_source_failed(const struct vip_route *route,
								  int is_v6only)
{
	return route->form == VIP_MAPPED && is_v6only ? VIP_SOURCE_KEEP :
							vip_no_source(route->source);
}

/* Reads user_addr, flags, unchanged. */
static __always_inline enum vip_outcome vip_connect_outcome(const struct vip_facts *facts,
							    const struct vip_route *route,
							    enum vip_source_decision source)
{
	if (source == VIP_SOURCE_OTHERS)
		return VIP_REFUSED_ISOLATION;
	if (source == VIP_SOURCE_MISSING)
		return facts->flags & VIP_POLICY_USE_HOST_ADDRESS ? VIP_UNADDRESSED :
								    VIP_REFUSED_UNAVAILABLE;
	if (route->source != VIP_AS_ASKED || !vip_equal(route->address, facts->user_addr))
		return VIP_REWRITTEN;
	return facts->unchanged;
}

/*
 * What the two ends of the connected socket do not tell. A source on the loopback looks as if 127.0.0.1 had been asked
 * for, and VIP4 to VIP4 as if it had not; these are the cases in which it is the other way round. `source` is the class
 * of the local address by its number alone.
 */
static __always_inline __u32 vip_peer_state(const struct vip_route *route,
					    enum vip_addr_class source)
{
	if (vip_is_named_peer(route->asked, route->to, source))
		return route->remember | VIP_SOCKET_NAMED_PEER;
	if (route->to == VIP_TO_ADDRESS && route->asked != VIP_HOST_ADDRESS &&
	    (source == VIP_OWN_ADDRESS || source == VIP_SOME_LOOPBACK || source == VIP_WILDCARD))
		return route->remember | VIP_SOCKET_LOCAL_PEER;
	return route->remember;
}

/* ---- the source of a datagram ---- */

/* Whether it matters that the peer is connected to the session's address. */
static __always_inline int vip_datagram_needs_peer(enum vip_addr_class asked,
						   enum vip_addr_class source)
{
	return source == VIP_OWN_ADDRESS && vip_is_local(asked);
}

/*
 * Reads user_addr, local_addr, flags, features, unchanged. `source` is the class of local_addr, which is the socket's
 * own address or that of IP_PKTINFO; the wildcard means that there is none, and so does a mapped address of an IPv6
 * datagram.
 */
static __always_inline struct vip_decision vip_decide_datagram(enum vip_family family,
							       const struct vip_facts *facts,
							       const struct vip_route *route,
							       enum vip_addr_class source,
							       int is_peer_connected)
{
	struct vip_decision decision = { .outcome = facts->unchanged,
					 .address = route->address,
					 .source = facts->local_addr };

	switch (source) {
	case VIP_WILDCARD:
		decision.source = route->source_addr;
		break;
	case VIP_OWN_ADDRESS:
		/*
		 * Outside a session, a socket on the wildcard sends to 127.0.0.1 from 127.0.0.1. So must this one, or
		 * its peer would see VIP4; unless the peer is connected to VIP4, without knowing it.
		 */
		if (vip_is_local(route->asked) && !is_peer_connected)
			decision.source = route->source == VIP_AS_ASKED ? vip_localhost(family) :
									  route->source_addr;
		break;
	case VIP_LOCALHOST:
		if (route->source == VIP_TO_LOOPBACK)
			decision.source = route->source_addr;
		break;
	case VIP_OWN_LOOPBACK:
		/*
		 * An earlier connect has left it, or P applies. Nothing leaves the host from the loopback; what is
		 * local is reached from there.
		 */
		if (facts->asked == VIP_ELSEWHERE)
			decision.source = route->source_addr;
		break;
	case VIP_HOST_ADDRESS:
		if (route->source == VIP_TO_ADDRESS)
			decision.source = route->source_addr;
		break;
	default:
		if (vip_is_refused_source(source, facts->features, facts->flags))
			decision.outcome = VIP_REFUSED_ISOLATION;
	}
	return decision;
}

/*
 * A datagram to the peer of a connected socket, whose source differs from the socket's local address `end`: of
 * IP_PKTINFO. It is treated as the socket's own bind or connect was. Reads own, user_addr, local_addr, flags,
 * features.
 */
static __always_inline struct vip_decision
vip_decide_connected_datagram(enum vip_family family, const struct vip_facts *facts,
			      struct vip_address end, enum vip_addr_class source)
{
	struct vip_decision decision = { .outcome = VIP_NOT_COUNTED,
					 .address = facts->user_addr,
					 .source = facts->local_addr };

	if (vip_is_refused_source(source, facts->features, facts->flags))
		decision.outcome = VIP_REFUSED_ISOLATION;
	else if (source == VIP_WILDCARD || source == VIP_LOCALHOST ||
		 (source == VIP_HOST_ADDRESS && vip_same(family, end, facts->own.address)))
		decision.source = end;
	return decision;
}

/* ---- names ---- */

/* Whether an IPv6 address may be a session's loopback: their prefix is one of fc00::/7, RFC 4193. */
static __always_inline int vip_is_unique_local(struct vip_address address)
{
	return (vip_swap32(address.word[0]) >> 25) == 0xfc >> 1;
}

/*
 * Whether a name needs no translation back. Only two kinds may need it: a loopback other than 127.0.0.1 and ::1, and an
 * end of a local connection, whose other end is on the loopback or is the same address. Everything else leaves the hook
 * here, before any look-up.
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
 * The name of one end of a socket, given the other end. The loopback is named 127.0.0.1 or ::1; and so is the address
 * if the other end is on the loopback, because only a connection that asked for 127.0.0.1 or ::1 has two such ends
 * (vip_source_action). It is computed from the two addresses, so it holds for accepted sockets and for MPTCP.
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

/* Whether the socket's own name depends on what is remembered of the socket. */
static __always_inline int vip_own_name_needs_state(enum vip_family family,
						    const struct vip_facts *facts, int as_requested)
{
	return family == VIP_MAPPED || as_requested ||
	       vip_same(family, facts->user_addr, facts->own.address);
}

/* The same of the peer's name. */
static __always_inline int vip_peer_name_needs_state(enum vip_family family,
						     const struct vip_facts *facts)
{
	return vip_own_name_needs_state(family, facts, 0) ||
	       (family == VIP_INET4 && vip_same(family, facts->user_addr, facts->own.loopback));
}

/* The answer of a name hook: `shown`, in its own form. */
static __always_inline struct vip_decision vip_show(struct vip_address shown)
{
	struct vip_decision decision = { .outcome = VIP_SEEN, .address = shown };

	return decision;
}

/*
 * The peer's name: getpeername, accept with an address, recvmsg with an address. `peer` is where the socket is
 * connected to. Reads own, user_addr, local_addr, state, peer.
 */
static __always_inline struct vip_decision
vip_decide_peer_name(enum vip_family family, const struct vip_facts *facts, struct vip_address peer)
{
	struct vip_address name = facts->user_addr;
	struct vip_address localhost = vip_localhost(family), shown;

	if (family == VIP_MAPPED && (facts->state & VIP_SOCKET_MAPPED_PEER))
		return vip_show(vip_localhost(VIP_INET6));
	if (family != VIP_INET6 && facts->peer)
		localhost = vip_mapped(facts->peer);
	/* The two ends do not tell everything about the virtual IP. */
	if (vip_same(family, name, facts->own.address)) {
		if (facts->state & VIP_SOCKET_NAMED_PEER)
			return vip_show(name);
		if ((facts->state & VIP_SOCKET_LOCAL_PEER) && vip_same(family, peer, name))
			return vip_show(localhost);
	}
	shown = vip_name(family, &facts->own, name, facts->local_addr);
	return vip_show(vip_same(family, shown, name) ? name : localhost);
}

/* Whether bind asked for the wildcard, as far as is known. Reads own, user_addr, state. */
static __always_inline int vip_was_wildcard(enum vip_family family, const struct vip_facts *facts)
{
	const struct vip_own *own = &facts->own;

	if (family == VIP_MAPPED && (facts->state & VIP_SOCKET_DUAL))
		return vip_same(family, facts->user_addr, own->address) ||
		       vip_same(family, facts->user_addr, own->loopback);
	if ((own->has & VIP_HAS_ADDRESS) && vip_same(family, facts->user_addr, own->address))
		return !(facts->state & VIP_SOCKET_NAMED_ADDRESS);
	return (facts->state & VIP_SOCKET_WILDCARD) &&
	       vip_same(family, facts->user_addr, own->loopback);
}

/*
 * The socket's own name: getsockname. `peer` is the remote address, or the wildcard. `as_requested`: the policy wants
 * the wildcard shown that was asked for. Reads own, user_addr, state.
 */
static __always_inline struct vip_decision vip_decide_own_name(enum vip_family family,
							       const struct vip_facts *facts,
							       struct vip_address peer,
							       int as_requested)
{
	struct vip_address name = facts->user_addr;

	if (family == VIP_MAPPED && (facts->state & VIP_SOCKET_MAPPED_PEER))
		return vip_show(vip_localhost(VIP_INET6));
	if (as_requested && vip_was_wildcard(family, facts))
		return vip_show(vip_wildcard(
			family == VIP_MAPPED && (facts->state & VIP_SOCKET_DUAL) ? VIP_INET6 :
										   family));
	if (vip_same(family, name, facts->own.address)) {
		if (facts->state & VIP_SOCKET_NAMED_ADDRESS)
			return vip_show(name);
		if ((facts->state & VIP_SOCKET_LOCAL_PEER) && vip_same(family, peer, name))
			return vip_show(vip_localhost(family));
	}
	return vip_show(vip_name(family, &facts->own, name, peer));
}

/* ---- dual-stack listeners ---- */

/* Whether an address has the prefix of the IPv6 loopbacks. */
static __always_inline int vip_is_loopback6(const __be32 prefix[3], struct vip_address address)
{
	return prefix[0] && address.word[0] == prefix[0] && address.word[1] == prefix[1] &&
	       address.word[2] == prefix[2];
}

#endif
