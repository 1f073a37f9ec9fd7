/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The hooks. Each finds the session, asks translate.h, and stores the answer. To add one: a function
 * here, its number in enum vip_hook (abi.h), its row in Hook.swift; CONTRIBUTING.md has the rest.
 *
 * They run on every call below the cgroups that they are attached to, so they leave at the first sign
 * that nothing is to be done: the name hooks before any look-up, the others where the task has no session.
 *
 * One body serves both families: it is inlined with a constant enum vip_family, three times in all, since
 * an AF_INET6 socket's call may name a mapped IPv4 address.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "listener.h"
#include "maps.h"
#include "program.h"
#include "session.h"
#include "socket.h"
#include "translate.h"
#include "watch.h"

enum { VIP_REFUSE = 0, VIP_PROCEED = 1 }; /* what a sock_addr program returns */

static __always_inline int vip_refuse(struct bpf_sock_addr *ctx, enum vip_family family,
				      enum vip_hook hook, const struct vip_caller *caller,
				      struct vip_address asked, enum vip_outcome why)
{
	int error = why == VIP_REFUSED_PEER   ? ECONNREFUSED :
		    why == VIP_REFUSED_IN_USE ? EADDRINUSE :
						EADDRNOTAVAIL;

	vip_done(ctx, family, hook, caller, asked, why, error);
	bpf_set_retval(-error);
	return VIP_REFUSE;
}

/* The family of a call of an AF_INET6 socket. */
static __always_inline enum vip_family vip_family6(struct bpf_sock_addr *ctx)
{
	return vip_is_mapped(vip_asked(ctx, VIP_INET6)) ? VIP_MAPPED : VIP_INET6;
}

/*
 * The kernel looks at an address's family only after the hooks of bind and connect. One of the wrong
 * family is refused there, and is none of ours; but IPv4's bind takes AF_UNSPEC for AF_INET.
 */
static __always_inline int vip_is_foreign(struct bpf_sock_addr *ctx, enum vip_family family)
{
	if (family == VIP_INET4)
		return ctx->user_family != AF_INET && ctx->user_family;
	return ctx->user_family != AF_INET6;
}

/* ---- bind ---- */

/*
 * Would a TCP server be where another of its session listens already, though the kernel sees two addresses?
 * A dual-stack one is on ::ffff:VIP4, and by vip_sk_lookup on VIP6 and LO6 as well. (Where the two are bound
 * before either listens, nobody notices; the dual-stack one is found then.)
 */
static __always_inline int vip_is_taken(struct bpf_sock_addr *ctx, const struct vip_own *own,
					enum vip_place asked, enum vip_answer answer)
{
	int is_dual = answer == VIP_TO_MAPPED_ADDRESS || answer == VIP_TO_MAPPED_LOOPBACK;
	enum vip_whose whose = is_dual ? VIP_TAKEN_BY_DUAL : VIP_TAKEN;

	if (ctx->type != SOCK_STREAM || !ctx->user_port)
		return 0;
	if ((is_dual || answer == VIP_TO_LOOPBACK || asked == VIP_OWN_LOOPBACK) &&
	    vip_listens(ctx, VIP_INET6, own->loopback, own->loopback, whose))
		return 1;
	return (answer == VIP_TO_MAPPED_ADDRESS || answer == VIP_TO_ADDRESS ||
		asked == VIP_OWN_ADDRESS) &&
	       (own->has & VIP_HAS_ADDRESS) &&
	       vip_listens(ctx, VIP_INET6, own->loopback, own->address, whose);
}

static __always_inline int vip_on_bind(struct bpf_sock_addr *ctx, enum vip_family family,
				       enum vip_hook hook)
{
	struct vip_address address = vip_asked(ctx, family), granted;
	struct bpf_sock *sk = vip_socket_of(ctx);
	struct vip_caller caller = {};
	__u32 features = 0, remember = 0;
	enum vip_answer answer;
	enum vip_place asked;
	struct vip_own own;

	/* One that has a port cannot be bound again, and the kernel will say so. */
	if (vip_is_foreign(ctx, family) || (sk && sk->src_port) ||
	    !vip_find_session(family, &caller) || !vip_find_policy(&caller))
		return VIP_PROCEED;
	own = vip_own_of(family, &caller);
	asked = vip_place_of(family, &own, address);
	if (family == VIP_INET6 && asked == VIP_WILDCARD && !vip_is_v6only(ctx))
		asked = VIP_DUAL_WILDCARD;
	if (asked == VIP_WILDCARD || asked == VIP_DUAL_WILDCARD || asked == VIP_LOCALHOST ||
	    asked == VIP_HOST_ADDRESS)
		features = vip_features_of(&caller, &own, asked);
	answer = vip_bind(asked, features, caller.policy->flags, own.has,
			  vip_is_excluded(&caller, ctx->user_port));
	if (answer == VIP_REFUSE_BIND || answer == VIP_UNAVAILABLE)
		return vip_refuse(ctx, family, hook, &caller, address,
				  answer == VIP_UNAVAILABLE ? VIP_REFUSED_UNAVAILABLE :
							      VIP_REFUSED_ISOLATION);
	/*
	 * No port to clash on, and a socket on a mapped address could send no IPv6: left on ::, and each
	 * datagram gets its source when it is sent.
	 */
	if (asked == VIP_DUAL_WILDCARD && ctx->type == SOCK_DGRAM && !ctx->user_port)
		answer = VIP_AS_ASKED;

	if (family == VIP_INET6 && vip_is_taken(ctx, &own, asked, answer))
		return vip_refuse(ctx, family, hook, &caller, address, VIP_REFUSED_IN_USE);

	/* What getsockname could not tell from the address alone; of this bind, not of one that failed. */
	if (asked == VIP_OWN_ADDRESS || (asked == VIP_HOST_ADDRESS && answer == VIP_TO_ADDRESS))
		remember = VIP_SOCKET_NAMED_ADDRESS;
	else if (asked == VIP_WILDCARD && answer == VIP_TO_LOOPBACK)
		remember = VIP_SOCKET_WILDCARD;
	else if (answer == VIP_TO_MAPPED_LOOPBACK || answer == VIP_TO_MAPPED_ADDRESS)
		remember = VIP_SOCKET_DUAL;
	/* And what connect could not, of a socket that has no port yet: IP_BIND_ADDRESS_NO_PORT. */
	if (!ctx->user_port &&
	    (asked == VIP_LOCALHOST || asked == VIP_OWN_LOOPBACK || asked == VIP_OWN_ADDRESS ||
	     (asked == VIP_HOST_ADDRESS && answer != VIP_AS_ASKED)))
		remember |= VIP_SOCKET_NAMED_SOURCE;
	if (sk)
		vip_remember(sk,
			     VIP_SOCKET_NAMED_ADDRESS | VIP_SOCKET_WILDCARD | VIP_SOCKET_DUAL |
				     VIP_SOCKET_NAMED_SOURCE,
			     remember, caller.cgroup);

	if (remember & VIP_SOCKET_DUAL) {
		vip_store_whole(ctx, vip_mapped(answer == VIP_TO_MAPPED_ADDRESS ?
							caller.vip4 :
							vip_loopback4(caller.id)));
		vip_done(ctx, family, hook, &caller, address, VIP_REWRITTEN, 0);
		return VIP_PROCEED;
	}
	granted = vip_address_of(family, answer, address, &own);
	if (vip_same(family, granted, address)) {
		vip_done(ctx, family, hook, &caller, address, caller.unchanged, 0);
		return VIP_PROCEED;
	}
	vip_store(ctx, family, granted);
	vip_done(ctx, family, hook, &caller, address, VIP_REWRITTEN, 0);
	return VIP_PROCEED;
}

SEC("cgroup/bind4")
int vip_bind4(struct bpf_sock_addr *ctx)
{
	return vip_on_bind(ctx, VIP_INET4, VIP_HOOK_BIND4);
}

SEC("cgroup/bind6")
int vip_bind6(struct bpf_sock_addr *ctx)
{
	if (vip_family6(ctx) == VIP_MAPPED)
		return vip_on_bind(ctx, VIP_MAPPED, VIP_HOOK_BIND6);
	return vip_on_bind(ctx, VIP_INET6, VIP_HOOK_BIND6);
}

/* ---- connect ---- */

/* bpf_bind() to `address` and no port. */
static __always_inline int vip_bind_to(struct bpf_sock_addr *ctx, enum vip_family family,
				       struct vip_address address)
{
	struct {
		__u16 family;
		__be16 port;
		__be32 address;
		__u8 zero[8];
	} in = { .family = AF_INET }; /* struct sockaddr_in */
	struct {
		__u16 family;
		__be16 port;
		__be32 flow;
		struct vip_address address;
		__u32 scope;
	} in6 = { .family = AF_INET6 }; /* struct sockaddr_in6 */

	/* An AF_INET6 socket may connect by a sockaddr_in, too. */
	if (family == VIP_INET4 && ctx->family == AF_INET) {
		in.address = address.word[3];
		return bpf_bind(ctx, (void *)&in, sizeof(in));
	}
	if (family == VIP_INET6 || address.word[3])
		in6.address = address;
	return bpf_bind(ctx, (void *)&in6, sizeof(in6));
}

/*
 * Gives a socket that is about to connect its source, as the kernel's own autobind would later.
 * VIP_AS_ASKED: it may go on. VIP_UNAVAILABLE: it would leave from the host's address. VIP_REFUSE_BIND:
 * it would leave from another session's.
 */
static __always_inline enum vip_answer
vip_give_source(struct bpf_sock_addr *ctx, enum vip_family family, const struct vip_caller *caller,
		const struct vip_own *own, enum vip_answer source)
{
	enum vip_answer without = source == VIP_TO_ADDRESS ? VIP_UNAVAILABLE : VIP_AS_ASKED;
	struct vip_address bound, address, none = vip_wildcard(family);
	struct bpf_sock *sk = vip_socket_of(ctx);
	enum vip_place place;
	int is_ours;

	if (!sk)
		return VIP_AS_ASKED;
	bound = vip_own_end(sk, family);
	if (family == VIP_INET6 && vip_is_mapped(bound)) {
		/* With a port, it is a dual-stack socket's, and the kernel says EAFNOSUPPORT. */
		if (sk->src_port)
			return VIP_AS_ASKED;
		is_ours = (caller->vip4 && bound.word[3] == caller->vip4) ||
			  bound.word[3] == VIP_LOCALHOST4 ||
			  bound.word[3] == vip_loopback4(caller->id);
		place = VIP_ELSEWHERE;
	} else if (family != VIP_INET6 && ctx->family == AF_INET6 && sk->src_ip4 &&
		   sk->src_ip6[2] != VIP_MAPPED_WORD) {
		return VIP_AS_ASKED; /* on an IPv6 address: the kernel says ENETUNREACH */
	} else {
		place = vip_place(family, own, bound);
		is_ours = place == VIP_OWN_ADDRESS || place == VIP_OWN_LOOPBACK ||
			  place == VIP_LOCALHOST;
	}
	if (sk->src_port) {
		/*
		 * The program keeps what it bound. But a socket that has a port and no source (a datagram was
		 * sent from it, or it is bound to a group or a broadcast address, or came from outside the
		 * session) would now take the host's address, and the kernel gives us no way to bind it. Nor
		 * does a socket that was bound in another session bring that one's address here.
		 */
		if (is_ours)
			return VIP_AS_ASKED;
		if (place == VIP_WILDCARD || vip_is_multicast(family, bound))
			return without;
		place = vip_place_of(family, own, bound);
		if (place == VIP_OTHER_ADDRESS || place == VIP_OTHER_LOOPBACK)
			return caller->policy->flags & VIP_POLICY_ISOLATION ? VIP_REFUSE_BIND :
									      VIP_AS_ASKED;
		if (family != VIP_INET6 && place == VIP_ELSEWHERE &&
		    vip_owner_of(&bound) == VIP_OWNER_BROADCAST)
			return without;
		return VIP_AS_ASKED;
	}
	/*
	 * An address and no port: what the program bound with IP_BIND_ADDRESS_NO_PORT, and keeps; or what bind
	 * gave it for the wildcard, or an earlier connect, which failed or was undone. Those are ours to
	 * replace, with the wildcard if need be.
	 */
	if (place != VIP_WILDCARD && (!is_ours || (vip_remembered(sk) & VIP_SOCKET_NAMED_SOURCE)))
		return VIP_AS_ASKED;
	if (source == VIP_AS_ASKED && place == VIP_WILDCARD)
		return VIP_AS_ASKED;
	address = vip_address_of(family, source, none, own);
	if (vip_same(family, address, bound))
		return VIP_AS_ASKED;
	if (!vip_bind_to(ctx, family, address))
		return VIP_AS_ASKED;
	/* A V6ONLY socket reaches no mapped address: the kernel says ENETUNREACH. */
	return family == VIP_MAPPED && vip_is_v6only(ctx) ? VIP_AS_ASKED : without;
}

/* From the loopback to the virtual IP because that was asked for, or the host's address in its place. */
static __always_inline int vip_is_named_peer(enum vip_place asked, enum vip_answer to,
					     enum vip_place source)
{
	return (asked == VIP_OWN_ADDRESS || (asked == VIP_HOST_ADDRESS && to == VIP_TO_ADDRESS)) &&
	       (source == VIP_LOCALHOST || source == VIP_OWN_LOOPBACK ||
		source == VIP_SOME_LOOPBACK);
}

/*
 * What the two ends of the socket will not tell. A source on the loopback looks as if 127.0.0.1 had
 * been asked for, and VIP4 to VIP4 as if it had not; here it is the other way round.
 */
static __always_inline void vip_note_peer(struct bpf_sock *sk, enum vip_family family,
					  const struct vip_own *own, enum vip_place asked,
					  enum vip_answer to, __u32 stands_for)
{
	enum vip_place source = vip_place(family, own, vip_own_end(sk, family));
	__u32 remember = stands_for;

	if (vip_is_named_peer(asked, to, source))
		remember |= VIP_SOCKET_NAMED_PEER;
	else if (to == VIP_TO_ADDRESS && asked != VIP_HOST_ADDRESS &&
		 (source == VIP_OWN_ADDRESS || source == VIP_SOME_LOOPBACK ||
		  source == VIP_WILDCARD))
		remember |= VIP_SOCKET_LOCAL_PEER;
	/* The others are of an earlier peer: a UDP socket may have many, one after the other. */
	if (remember || source != VIP_WILDCARD)
		vip_remember(sk,
			     VIP_SOCKET_NAMED_PEER | VIP_SOCKET_LOCAL_PEER | VIP_SOCKET_MAPPED_PEER,
			     remember, 0);
}

/* Connects to an answer that is not a refusal. `stands_for`: VIP_SOCKET_MAPPED_PEER or none. */
static __always_inline int vip_go(struct bpf_sock_addr *ctx, enum vip_family family,
				  enum vip_hook hook, const struct vip_caller *caller,
				  const struct vip_own *own, enum vip_place asked,
				  enum vip_answer to, __u32 features, __u32 stands_for)
{
	struct vip_address address = vip_asked(ctx, family), granted;
	enum vip_answer source = vip_source(asked, to, features), answer;
	struct bpf_sock *sk = vip_socket_of(ctx);

	answer = vip_give_source(ctx, family, caller, own, source);
	if (answer == VIP_REFUSE_BIND ||
	    (answer == VIP_UNAVAILABLE && !(caller->policy->flags & VIP_POLICY_USE_HOST_ADDRESS)))
		return vip_refuse(ctx, family, hook, caller, address,
				  answer == VIP_UNAVAILABLE ? VIP_REFUSED_UNAVAILABLE :
							      VIP_REFUSED_ISOLATION);
	if (sk)
		vip_note_peer(sk, family, own, asked, to, stands_for);

	granted = vip_address_of(family, to, address, own);
	if (stands_for) {
		vip_store_whole(ctx, granted);
	} else if (!vip_same(family, granted, address)) {
		vip_store(ctx, family, granted);
	} else if (source == VIP_AS_ASKED) {
		vip_done(ctx, family, hook, caller, address, caller->unchanged, 0);
		return VIP_PROCEED;
	}
	vip_done(ctx, family, hook, caller, address,
		 answer == VIP_UNAVAILABLE ? VIP_UNADDRESSED : VIP_REWRITTEN, 0);
	return VIP_PROCEED;
}

/*
 * To 0.0.0.0, from `end`: IPv4 takes that for the socket's own address where it has one
 * (ip_route_output_key_hash). The virtual IP may be what bind gave for the wildcard, and then it has none;
 * from the loopback it comes to the same.
 */
static __always_inline int vip_is_itself(enum vip_family family, const struct vip_own *own,
					 struct vip_address end)
{
	return family != VIP_INET6 && !vip_is_wildcard(family, end) &&
	       !vip_same(family, end, own->address) && !vip_same(family, end, own->loopback) &&
	       !vip_is_localhost(family, end);
}

static __always_inline int vip_on_connect(struct bpf_sock_addr *ctx, enum vip_family family,
					  enum vip_hook hook)
{
	struct vip_address address = vip_asked(ctx, family), end;
	struct vip_caller caller = {};
	struct vip_plan plan;
	enum vip_place asked;
	enum vip_answer to;
	struct bpf_sock *sk;
	struct vip_own own;
	__u32 features;

	if (vip_is_foreign(ctx, family) || !vip_find_session(family, &caller) ||
	    !vip_find_policy(&caller))
		return VIP_PROCEED;
	own = vip_own_of(family, &caller);
	sk = vip_socket_of(ctx);
	end = sk ? vip_own_end(sk, family) : vip_wildcard(family);
	asked = vip_destination_of(family, &caller, &own, address);
	if (asked == VIP_WILDCARD && vip_is_itself(family, &own, end))
		asked = VIP_LOOPBACK_REST;
	if (family == VIP_INET6 && (asked == VIP_LOCALHOST || asked == VIP_WILDCARD) &&
	    !vip_is_v6only(ctx))
		own.has |= VIP_HAS_MAPPED;
	features = vip_features_of(&caller, &own, asked);
	plan = vip_connect(asked, features, caller.policy->flags, own.has,
			   vip_is_excluded(&caller, ctx->user_port));
	to = vip_find(ctx, family, &caller, &own, plan, end);
	if (to == VIP_REFUSE_PEER)
		return vip_refuse(ctx, family, hook, &caller, address, VIP_REFUSED_PEER);
	if (to == VIP_UNAVAILABLE)
		return vip_refuse(ctx, family, hook, &caller, address, VIP_REFUSED_UNAVAILABLE);
	if (family == VIP_INET6 && (to == VIP_TO_MAPPED_LOOPBACK || to == VIP_TO_MAPPED_ADDRESS)) {
		struct vip_own own4 = vip_own_of(VIP_MAPPED, &caller);

		return vip_go(ctx, VIP_MAPPED, hook, &caller, &own4, VIP_LOCALHOST,
			      to == VIP_TO_MAPPED_LOOPBACK ? VIP_TO_LOOPBACK : VIP_TO_ADDRESS,
			      features, VIP_SOCKET_MAPPED_PEER);
	}
	return vip_go(ctx, family, hook, &caller, &own, asked, to, features, 0);
}

SEC("cgroup/connect4")
int vip_connect4(struct bpf_sock_addr *ctx)
{
	return vip_on_connect(ctx, VIP_INET4, VIP_HOOK_CONNECT4);
}

SEC("cgroup/connect6")
int vip_connect6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = vip_socket_of(ctx);

	/* From a mapped address, :: is ::ffff:127.0.0.1 (tcp_v6_connect, __ip6_datagram_connect). */
	if (sk && vip_is_mapped(vip_own_end(sk, VIP_INET6)) &&
	    vip_is_wildcard(VIP_INET6, vip_asked(ctx, VIP_INET6)))
		vip_store_whole(ctx, vip_localhost(VIP_MAPPED));
	if (vip_family6(ctx) == VIP_MAPPED)
		return vip_on_connect(ctx, VIP_MAPPED, VIP_HOOK_CONNECT6);
	return vip_on_connect(ctx, VIP_INET6, VIP_HOOK_CONNECT6);
}

/* ---- datagrams ---- */

/*
 * The source of one datagram, where the socket's own is `bound` (the wildcard: none; with IP_PKTINFO,
 * that one). `asked` is the destination's place, `source` what vip_source says of it. Zero: it may not
 * be sent from there, which is another session's address.
 */
static __always_inline int vip_datagram_source(struct bpf_sock_addr *ctx, enum vip_family family,
					       const struct vip_caller *caller,
					       const struct vip_own *own, enum vip_place asked,
					       enum vip_answer source,
					       struct vip_address destination,
					       struct vip_address *bound)
{
	int is_local = asked == VIP_WILDCARD || asked == VIP_LOCALHOST;
	enum vip_place place = vip_place(family, own, *bound);

	/* No source of IPv6: what a dual-stack bind was given, or an earlier connect. */
	if (family == VIP_INET6 && vip_is_mapped(*bound))
		place = VIP_WILDCARD;
	switch (place) {
	case VIP_WILDCARD:
		break;
	case VIP_OWN_ADDRESS:
		/*
		 * Outside a session a socket on the wildcard sends to 127.0.0.1 from 127.0.0.1, so this one
		 * must, or its peer would see VIP4; unless the peer is connected to VIP4, not knowing it.
		 */
		if (!is_local || vip_listens(ctx, family, own->address, destination, VIP_CONNECTED))
			return 1;
		*bound = source == VIP_AS_ASKED ? vip_localhost(family) :
						  vip_address_of(family, source, *bound, own);
		return 1;
	case VIP_LOCALHOST:
		if (source == VIP_TO_LOOPBACK)
			*bound = own->loopback;
		return 1;
	case VIP_OWN_LOOPBACK:
		/* Left over from an earlier connect, or P: from the loopback nothing leaves the host. */
		if (asked != VIP_ELSEWHERE)
			return 1; /* what is local is reached from there */
		break;
	default:
		switch (vip_place_of(family, own, *bound)) {
		case VIP_HOST_ADDRESS:
			if (source == VIP_TO_ADDRESS)
				*bound = own->address;
			return 1;
		case VIP_OTHER_ADDRESS:
		case VIP_OTHER_LOOPBACK:
			return !(caller->policy->flags & VIP_POLICY_ISOLATION);
		default:
			return 1;
		}
	}
	*bound = vip_address_of(family, source, vip_wildcard(family), own);
	return 1;
}

/*
 * A connected socket's datagram with control messages comes to the hook with no destination at all: it
 * goes where the socket is connected to, from where it is, unless IP_PKTINFO says otherwise.
 */
static __always_inline int vip_on_connected_sendmsg(struct bpf_sock_addr *ctx,
						    enum vip_family family, enum vip_hook hook,
						    const struct vip_caller *caller)
{
	struct vip_address bound = vip_message_source(ctx, family), end;
	struct vip_own own = vip_own_of(family, caller);
	struct bpf_sock *sk = vip_socket_of(ctx);

	if (!sk)
		return VIP_PROCEED;
	end = vip_own_end(sk, family);
	if (vip_same(family, bound, end))
		return VIP_PROCEED;
	switch (vip_place_of(family, &own, bound)) {
	case VIP_HOST_ADDRESS:
		if (!vip_same(family, end, own.address))
			return VIP_PROCEED;
		break;
	case VIP_WILDCARD:
	case VIP_LOCALHOST:
		break;
	case VIP_OTHER_ADDRESS:
	case VIP_OTHER_LOOPBACK:
		if (caller->policy->flags & VIP_POLICY_ISOLATION)
			return vip_refuse(ctx, family, hook, caller, vip_asked(ctx, family),
					  VIP_REFUSED_ISOLATION);
		return VIP_PROCEED;
	default:
		return VIP_PROCEED;
	}
	/* As the socket's own bind or connect was answered. */
	vip_store_message_source(ctx, family, end);
	vip_done(ctx, family, hook, caller, vip_asked(ctx, family), VIP_REWRITTEN, 0);
	return VIP_PROCEED;
}

static __always_inline int vip_on_sendmsg(struct bpf_sock_addr *ctx, enum vip_family family,
					  enum vip_hook hook)
{
	struct vip_address address = vip_asked(ctx, family), granted, bound, from;
	struct vip_caller caller = {};
	struct vip_plan plan;
	enum vip_place asked;
	enum vip_answer to;
	struct vip_own own;
	int is_connected;
	__u32 features;

	bound = vip_message_source(ctx, family);
	/*
	 * What goes where the socket is connected to comes here as well: with control messages, and then it
	 * names no destination; and from an AF_INET6 socket with a mapped peer, and then it names that.
	 */
	is_connected = !ctx->user_family && !ctx->user_port;
	if (family == VIP_INET4 && ctx->family == AF_INET6) {
		struct bpf_sock *sk = vip_socket_of(ctx);

		is_connected = is_connected || (sk && sk->dst_ip6[2] == VIP_MAPPED_WORD &&
						sk->dst_ip4 == address.word[3] &&
						sk->dst_port == (__u16)ctx->user_port);
		if (is_connected && sk && sk->src_ip4 == bound.word[3])
			return VIP_PROCEED;
	}
	if (!vip_find_session(family, &caller) || !vip_find_policy(&caller))
		return VIP_PROCEED;
	if (is_connected)
		return vip_on_connected_sendmsg(ctx, family, hook, &caller);
	own = vip_own_of(family, &caller);
	asked = vip_destination_of(family, &caller, &own, address);
	if (asked == VIP_WILDCARD && vip_is_itself(family, &own, bound))
		asked = VIP_LOOPBACK_REST;
	features = vip_features_of(&caller, &own, asked);
	plan = vip_connect(asked, features, caller.policy->flags, own.has,
			   vip_is_excluded(&caller, ctx->user_port));
	to = vip_find(ctx, family, &caller, &own, plan, bound);
	if (to == VIP_REFUSE_PEER)
		return vip_refuse(ctx, family, hook, &caller, address, VIP_REFUSED_PEER);
	if (to == VIP_UNAVAILABLE)
		return vip_refuse(ctx, family, hook, &caller, address, VIP_REFUSED_UNAVAILABLE);

	if (vip_is_named_peer(asked, to, vip_place(family, &own, bound))) {
		struct bpf_sock *sk = vip_socket_of(ctx);

		if (sk && !sk->dst_port) /* a connected one's peer is another */
			vip_remember(sk, 0, VIP_SOCKET_NAMED_PEER, 0);
	}
	granted = vip_address_of(family, to, address, &own);
	from = bound;
	if (!vip_datagram_source(ctx, family, &caller, &own, asked, vip_source(asked, to, features),
				 granted, &from))
		return vip_refuse(ctx, family, hook, &caller, address, VIP_REFUSED_ISOLATION);
	if (vip_same(family, granted, address) && vip_same(family, from, bound)) {
		vip_done(ctx, family, hook, &caller, address, caller.unchanged, 0);
		return VIP_PROCEED;
	}
	if (!vip_same(family, granted, address))
		vip_store(ctx, family, granted);
	if (!vip_same(family, from, bound))
		vip_store_message_source(ctx, family, from);
	vip_done(ctx, family, hook, &caller, address, VIP_REWRITTEN, 0);
	return VIP_PROCEED;
}

SEC("cgroup/sendmsg4")
int vip_sendmsg4(struct bpf_sock_addr *ctx)
{
	return vip_on_sendmsg(ctx, VIP_INET4, VIP_HOOK_SENDMSG4);
}

/* Never of a mapped address: the kernel hands those to sendmsg4, and refuses one that a hook put here. */
SEC("cgroup/sendmsg6")
int vip_sendmsg6(struct bpf_sock_addr *ctx)
{
	return vip_on_sendmsg(ctx, VIP_INET6, VIP_HOOK_SENDMSG6);
}

/* ---- names ---- */

/* The peer's name: getpeername, accept with an address, recvmsg with one. */
static __always_inline int vip_on_peer_name(struct bpf_sock_addr *ctx, enum vip_family family,
					    enum vip_hook hook)
{
	struct vip_address peer = vip_asked(ctx, family), end, shown;
	struct bpf_sock *sk = vip_socket_of(ctx);
	struct vip_caller caller = {};
	struct vip_own own;
	__u32 asked = 0;

	if (!sk)
		return VIP_PROCEED;
	end = vip_own_end(sk, family);
	if (vip_name_is_plain(family, peer, end) || !vip_find_session(family, &caller))
		return VIP_PROCEED;
	own = vip_own_of(family, &caller);
	shown = vip_name(family, &own, peer, end);
	if (family == VIP_MAPPED || vip_same(family, peer, own.address))
		asked = vip_remembered(sk);
	/* The exceptions are all of the virtual IP, */
	if (vip_same(family, peer, own.address)) {
		if (asked & VIP_SOCKET_NAMED_PEER)
			shown = peer;
		else if ((asked & VIP_SOCKET_LOCAL_PEER) &&
			 vip_same(family, vip_peer_end(sk, family), peer))
			shown = vip_localhost(family);
	}
	/* but for this one. */
	if (family == VIP_MAPPED && (asked & VIP_SOCKET_MAPPED_PEER)) {
		vip_store_whole(ctx, vip_localhost(VIP_INET6));
		vip_done(ctx, family, hook, &caller, peer, VIP_REWRITTEN, 0);
		return VIP_PROCEED;
	}
	if (vip_same(family, shown, peer)) {
		vip_done(ctx, family, hook, &caller, peer, VIP_SEEN, 0);
		return VIP_PROCEED;
	}
	vip_store(ctx, family, shown);
	vip_done(ctx, family, hook, &caller, peer, VIP_REWRITTEN, 0);
	return VIP_PROCEED;
}

SEC("cgroup/recvmsg4")
int vip_recvmsg4(struct bpf_sock_addr *ctx)
{
	return vip_on_peer_name(ctx, VIP_INET4, VIP_HOOK_RECVMSG4);
}

SEC("cgroup/recvmsg6")
int vip_recvmsg6(struct bpf_sock_addr *ctx)
{
	if (vip_family6(ctx) == VIP_MAPPED)
		return vip_on_peer_name(ctx, VIP_MAPPED, VIP_HOOK_RECVMSG6);
	return vip_on_peer_name(ctx, VIP_INET6, VIP_HOOK_RECVMSG6);
}

SEC("cgroup/getpeername4")
int vip_getpeername4(struct bpf_sock_addr *ctx)
{
	return vip_on_peer_name(ctx, VIP_INET4, VIP_HOOK_GETPEERNAME4);
}

SEC("cgroup/getpeername6")
int vip_getpeername6(struct bpf_sock_addr *ctx)
{
	if (vip_family6(ctx) == VIP_MAPPED)
		return vip_on_peer_name(ctx, VIP_MAPPED, VIP_HOOK_GETPEERNAME6);
	return vip_on_peer_name(ctx, VIP_INET6, VIP_HOOK_GETPEERNAME6);
}

/* Whether bind asked for the wildcard, and the policy wants names as they were asked for. */
static __always_inline int vip_was_wildcard(struct vip_caller *caller, enum vip_family family,
					    const struct vip_own *own, struct vip_address name,
					    __u32 asked)
{
	if (!vip_find_policy(caller) || !(caller->policy->flags & VIP_POLICY_AS_REQUESTED))
		return 0;
	if ((asked & VIP_SOCKET_DUAL) && family == VIP_MAPPED)
		return vip_same(family, name, own->address) ||
		       vip_same(family, name, own->loopback);
	if ((own->has & VIP_HAS_ADDRESS) && vip_same(family, name, own->address))
		return !(asked & VIP_SOCKET_NAMED_ADDRESS);
	return vip_same(family, name, own->loopback) && (asked & VIP_SOCKET_WILDCARD);
}

static __always_inline int vip_on_own_name(struct bpf_sock_addr *ctx, enum vip_family family,
					   enum vip_hook hook)
{
	struct vip_address name = vip_asked(ctx, family), peer, shown;
	struct bpf_sock *sk = vip_socket_of(ctx);
	struct vip_caller caller = {};
	struct vip_own own;
	int as_requested = 0;
	__u32 asked = 0;

	if (!sk || vip_is_wildcard(family, name))
		return VIP_PROCEED;
	/* One that was connected and is no more may have kept the address, not the port. */
	peer = sk->state == BPF_TCP_CLOSE && !sk->dst_port && ctx->type == SOCK_STREAM ?
		       vip_wildcard(family) :
		       vip_peer_end(sk, family);
	/*
	 * A name may have to be as it was asked for where the socket has no peer. One with no port yet
	 * (IP_BIND_ADDRESS_NO_PORT) tells the truth: nss/ asks by one.
	 */
	if (sk->src_port && vip_is_wildcard(family, peer)) {
		const struct vip_config *in_force = vip_config();

		as_requested = in_force && (in_force->flags & VIP_CONFIG_AS_REQUESTED);
	}
	if (!as_requested && vip_name_is_plain(family, name, peer))
		return VIP_PROCEED;
	if (!vip_find_session(family, &caller))
		return VIP_PROCEED;
	own = vip_own_of(family, &caller);
	shown = vip_name(family, &own, name, peer);
	if (family == VIP_MAPPED || as_requested || vip_same(family, name, own.address))
		asked = vip_remembered(sk);
	/* What the two ends do not tell of the virtual IP. */
	if (vip_same(family, name, own.address)) {
		if (asked & VIP_SOCKET_NAMED_ADDRESS)
			shown = name;
		else if ((asked & VIP_SOCKET_LOCAL_PEER) && vip_same(family, peer, name))
			shown = vip_localhost(family);
	}
	/* Out of reach there, and :: is by far the likelier of the two wildcards. */
	if (family == VIP_MAPPED && sk->protocol == IPPROTO_MPTCP &&
	    vip_same(family, name, own.address))
		asked |= VIP_SOCKET_DUAL;
	if (family == VIP_MAPPED && (asked & VIP_SOCKET_MAPPED_PEER)) {
		vip_store_whole(ctx, vip_localhost(VIP_INET6));
		vip_done(ctx, family, hook, &caller, name, VIP_REWRITTEN, 0);
		return VIP_PROCEED;
	}
	if (as_requested && vip_was_wildcard(&caller, family, &own, name, asked)) {
		if (family == VIP_MAPPED && (asked & VIP_SOCKET_DUAL)) {
			vip_store_whole(ctx, vip_wildcard(VIP_INET6));
			vip_done(ctx, family, hook, &caller, name, VIP_REWRITTEN, 0);
			return VIP_PROCEED;
		}
		shown = vip_wildcard(family);
	}
	if (vip_same(family, shown, name)) {
		vip_done(ctx, family, hook, &caller, name, VIP_SEEN, 0);
		return VIP_PROCEED;
	}
	vip_store(ctx, family, shown);
	vip_done(ctx, family, hook, &caller, name, VIP_REWRITTEN, 0);
	return VIP_PROCEED;
}

SEC("cgroup/getsockname4")
int vip_getsockname4(struct bpf_sock_addr *ctx)
{
	return vip_on_own_name(ctx, VIP_INET4, VIP_HOOK_GETSOCKNAME4);
}

SEC("cgroup/getsockname6")
int vip_getsockname6(struct bpf_sock_addr *ctx)
{
	if (vip_family6(ctx) == VIP_MAPPED)
		return vip_on_own_name(ctx, VIP_MAPPED, VIP_HOOK_GETSOCKNAME6);
	return vip_on_own_name(ctx, VIP_INET6, VIP_HOOK_GETSOCKNAME6);
}

/* ---- dual-stack listeners ---- */

/*
 * Notes a TCP server that asked for :: as it begins to listen. Runs some nine times in the life of every TCP
 * connection below the attached cgroups (connect, established, and what asks for initial values), so all
 * else leaves at the first compare.
 */
SEC("sockops")
int vip_sock_ops(struct bpf_sock_ops *ctx)
{
	struct vip_listener key = {};
	struct vip_socket *memory;
	struct tcp_sock *tcp;
	struct bpf_sock *sk;

	if (ctx->op != BPF_SOCK_OPS_TCP_LISTEN_CB || ctx->family != AF_INET6)
		return 1;
	sk = ctx->sk;
	if (!sk)
		return 1;
	memory = vip_memory(sk);
	if (!memory || !(memory->asked & VIP_SOCKET_DUAL))
		return 1;
	/* A subflow of MPTCP in a socket map breaks it (kernels before the one that forbids it). */
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp || (bpf_core_field_exists(tcp->is_mptcp) && tcp->is_mptcp))
		return 1;
	key.cgroup = memory->cgroup;
	key.port = ctx->local_port;
	/*
	 * Several may share the port by SO_REUSEPORT. The kernel chooses among all of them once it is led to
	 * one; a few are noted, so that the end of one does not hide the others.
	 */
#pragma unroll
	for (__u32 slot = 0; slot < VIP_LISTENER_SLOTS; slot++) {
		key.slot = slot;
		if (!bpf_sock_hash_update(ctx, &listeners, &key, BPF_NOEXIST)) {
			vip_count(VIP_HOOK_SOCK_OPS, VIP_SEEN);
			return 1;
		}
	}
	vip_count(VIP_HOOK_SOCK_OPS, VIP_REFUSED_IN_USE);
	return 1;
}

static __always_inline int vip_is_loopback6(const struct vip_config *in_force,
					    struct vip_address address)
{
	return in_force->loopback6[0] && address.word[0] == in_force->loopback6[0] &&
	       address.word[1] == in_force->loopback6[1] &&
	       address.word[2] == in_force->loopback6[2];
}

/*
 * Leads an IPv6 connection for a session's VIP6 or LO6 to its dual-stack listener on that port, which is
 * bound to ::ffff:VIP4; and lets nothing in from outside that goes to the prefix of the loopbacks, as the
 * kernel does with 127/8 and ::1. Runs where the kernel looks for a listener or an unconnected UDP socket,
 * in the whole network namespace.
 */
SEC("sk_lookup")
int vip_sk_lookup(struct bpf_sk_lookup *ctx)
{
	volatile struct bpf_sk_lookup *packet = ctx;
	const struct vip_config *in_force;
	const struct vip_session *session;
	struct vip_listener key = {};
	struct vip_address to;
	struct bpf_sock *sk = 0;
	const __u64 *cgroup;
	int is_loopback;
	__u32 id;

	if (packet->family != AF_INET6)
		return SK_PASS;
	in_force = vip_config();
	if (!in_force)
		return SK_PASS;
	to.word[0] = packet->local_ip6[0];
	to.word[1] = packet->local_ip6[1];
	to.word[2] = packet->local_ip6[2];
	to.word[3] = packet->local_ip6[3];
	is_loopback = vip_is_loopback6(in_force, to);
	if (is_loopback && packet->ingress_ifindex > LOOPBACK_IFINDEX)
		return SK_DROP;
	if (is_loopback) {
		id = vip_id_of_loopback(VIP_INET6, to);
	} else if (packet->protocol == IPPROTO_TCP) {
		const struct vip_address_owner *row = bpf_map_lookup_elem(&addresses, &to);

		if (!row || row->owner != VIP_OWNER_SESSION)
			return SK_PASS;
		id = row->id;
	} else {
		return SK_PASS;
	}
	if (packet->protocol != IPPROTO_TCP)
		return SK_PASS;
	cgroup = bpf_map_lookup_elem(&ids, &id);
	if (!cgroup)
		return SK_PASS;
	key.cgroup = *cgroup;
	key.port = packet->local_port;
#pragma unroll
	for (__u32 slot = 0; slot < VIP_LISTENER_SLOTS; slot++) {
		key.slot = slot;
		sk = bpf_map_lookup_elem(&listeners, &key);
		if (sk)
			break;
	}
	if (!sk)
		return SK_PASS;
	/*
	 * It must be where the session is now: its cgroup may have had other addresses when it began to
	 * listen. One that prefers the loopback is on LO4, and not to be found at VIP6.
	 */
	session = bpf_map_lookup_elem(&sessions, &key.cgroup);
	if (session &&
	    (is_loopback ? sk->src_ip4 == session->vip4 || sk->src_ip4 == vip_loopback4(id) :
			   sk->src_ip4 == session->vip4) &&
	    !bpf_sk_assign(ctx, sk, 0))
		vip_count(VIP_HOOK_SK_LOOKUP, VIP_REWRITTEN);
	bpf_sk_release(sk);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
