/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The hooks. Each finds the session, asks translate.h, and stores the answer. To add one: a function
 * here, its number in enum vip_hook (abi.h), its row in Hook.swift; CONTRIBUTING.md has the rest.
 *
 * They run on every call below the cgroups that they are attached to, so they leave at the first sign
 * that nothing is to be done: the name hooks before any look-up, the others where the task has no session.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "listener.h"
#include "maps.h"
#include "program.h"
#include "session.h"
#include "translate.h"

enum { VIP_REFUSE = 0, VIP_PROCEED = 1 }; /* what a sock_addr program returns */

enum vip_count { VIP_SEEN, VIP_REWRITTEN, VIP_REFUSED };

static __always_inline void vip_count(enum vip_hook hook, enum vip_count what)
{
	__u32 key = hook;
	struct vip_counters *row = bpf_map_lookup_elem(&counters, &key);

	if (!row) /* the verifier does not know that the key is in range */
		return;
	/* One CPU's own row; a preempted increment may be lost, which a counter can bear. */
	row->seen++;
	if (what == VIP_REWRITTEN)
		row->rewritten++;
	else if (what == VIP_REFUSED)
		row->refused++;
}

static __always_inline int vip_refuse(enum vip_hook hook, int error)
{
	vip_count(hook, VIP_REFUSED);
	bpf_set_retval(-error);
	return VIP_REFUSE;
}

static __always_inline void vip_remember(struct bpf_sock_addr *ctx, __u32 asked)
{
	struct bpf_sock *sk = vip_socket_of(ctx);
	struct vip_socket *row;

	if (!sk)
		return;
	row = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (row)
		row->asked |= asked;
}

static __always_inline void vip_forget(struct bpf_sock *sk, __u32 asked)
{
	struct vip_socket *row = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : 0;

	if (row)
		row->asked &= ~asked;
}

static __always_inline __u32 vip_remembered(struct bpf_sock *sk)
{
	struct vip_socket *row = bpf_sk_storage_get(&sockets, sk, 0, 0);

	return row ? row->asked : 0;
}

SEC("cgroup/bind4")
int vip_bind4(struct bpf_sock_addr *ctx)
{
	__be32 address = ctx->user_ip4, granted;
	struct vip_caller caller = {};
	enum vip_answer answer;
	enum vip_place asked;
	__u32 features = 0, flags, remember = 0;
	int has_address;

	if (!vip_find_session(&caller) || !vip_find_policy(&caller))
		return VIP_PROCEED;
	flags = caller.policy->flags;
	has_address = caller.vip4 != 0;
	asked = vip_place_of4(&caller, address);
	if (asked == VIP_WILDCARD || asked == VIP_LOCALHOST || asked == VIP_HOST_ADDRESS)
		features = vip_features_of(&caller);
	answer = vip_bind(asked, features, flags, has_address,
			  vip_is_excluded(&caller, ctx->user_port));
	if (answer == VIP_REFUSE_BIND || answer == VIP_UNAVAILABLE)
		return vip_refuse(VIP_HOOK_BIND4, EADDRNOTAVAIL);

	/* What getsockname could not tell from the address alone; of this bind, not of one that failed. */
	if (asked == VIP_OWN_ADDRESS || (asked == VIP_HOST_ADDRESS && answer == VIP_TO_ADDRESS))
		remember = VIP_SOCKET_NAMED_ADDRESS;
	else if (asked == VIP_WILDCARD && answer == VIP_TO_LOOPBACK)
		remember = VIP_SOCKET_WILDCARD;
	vip_forget(vip_socket_of(ctx), VIP_SOCKET_NAMED_ADDRESS | VIP_SOCKET_WILDCARD);
	if (remember)
		vip_remember(ctx, remember);

	granted = vip_address4(answer, address, caller.vip4, caller.id);
	if (granted == address) {
		vip_count(VIP_HOOK_BIND4, VIP_SEEN);
		return VIP_PROCEED;
	}
	ctx->user_ip4 = granted;
	vip_count(VIP_HOOK_BIND4, VIP_REWRITTEN);
	return VIP_PROCEED;
}

/*
 * Gives a socket that is about to connect its source, as the kernel's own autobind would later.
 * VIP_AS_ASKED: it may go on. VIP_UNAVAILABLE: it would leave from the host's address. VIP_REFUSE_BIND:
 * it would leave from another session's.
 */
static __always_inline enum vip_answer
vip_bind_source4(struct bpf_sock_addr *ctx, const struct vip_caller *caller, enum vip_answer source)
{
	__be32 vip4 = caller->vip4, loopback = vip_loopback4(caller->id);
	struct sockaddr_in {
		__u16 sin_family;
		__be16 sin_port;
		__be32 sin_addr;
		__u8 zero[8];
	} address = { .sin_family = AF_INET };
	struct bpf_sock *sk = vip_socket_of(ctx);
	enum vip_answer without = source == VIP_TO_ADDRESS ? VIP_UNAVAILABLE : VIP_AS_ASKED;
	enum vip_place place;
	__be32 bound;

	if (!sk)
		return VIP_AS_ASKED;
	bound = sk->src_ip4;
	if (sk->src_port) {
		/*
		 * The program keeps what it bound. But a socket that has a port and no source (a datagram was
		 * sent from it, or it is bound to a group or a broadcast address, or came from outside the
		 * session) would now take the host's address, and the kernel gives us no way to bind it. Nor
		 * does a socket that was bound in another session bring that one's address here.
		 */
		if (bound == vip4 || bound == loopback || bound == VIP_LOCALHOST4)
			return VIP_AS_ASKED;
		if (!bound || vip_is_multicast4(bound))
			return without;
		place = vip_place_of4(caller, bound);
		if (place == VIP_OTHER_ADDRESS || place == VIP_OTHER_LOOPBACK)
			return caller->policy->flags & VIP_POLICY_ISOLATION ? VIP_REFUSE_BIND :
									      VIP_AS_ASKED;
		if (place == VIP_ELSEWHERE && vip_owner_of4(bound) == VIP_OWNER_BROADCAST)
			return without;
		return VIP_AS_ASKED;
	}
	/*
	 * An address and no port: IP_BIND_ADDRESS_NO_PORT, or what an earlier connect (which failed, or was
	 * undone) got from us. Ours to replace, with the wildcard if need be; anybody else's stays.
	 */
	if (bound && bound != loopback && bound != vip4 && bound != VIP_LOCALHOST4)
		return VIP_AS_ASKED;
	if (source == VIP_AS_ASKED && !bound)
		return VIP_AS_ASKED;
	address.sin_addr = vip_address4(source, 0, vip4, caller->id);
	if (address.sin_addr == bound)
		return VIP_AS_ASKED;
	return bpf_bind(ctx, (void *)&address, sizeof(address)) ? without : VIP_AS_ASKED;
}

/*
 * What the two ends of the socket will not tell. A source on the loopback looks as if 127.0.0.1 had
 * been asked for, and VIP4 to VIP4 as if it had not; here it is the other way round.
 */
static __always_inline void vip_note_peer4(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
					   const struct vip_caller *caller, enum vip_place asked,
					   enum vip_answer to)
{
	__be32 source = sk->src_ip4;

	if (!source) /* autobound: the source is the one that goes with the peer */
		return;
	/* Of an earlier peer: a UDP socket may have many, one after the other. */
	vip_forget(sk, VIP_SOCKET_NAMED_PEER | VIP_SOCKET_LOCAL_PEER);
	if (asked == VIP_OWN_ADDRESS && vip_is_127(source))
		vip_remember(ctx, VIP_SOCKET_NAMED_PEER);
	else if (to == VIP_TO_ADDRESS && asked != VIP_HOST_ADDRESS && source == caller->vip4)
		vip_remember(ctx, VIP_SOCKET_LOCAL_PEER);
}

SEC("cgroup/connect4")
int vip_connect4(struct bpf_sock_addr *ctx)
{
	__be32 address = ctx->user_ip4, granted;
	struct vip_caller caller = {};
	enum vip_answer to, source, answer;
	struct vip_plan plan;
	enum vip_place asked;
	struct bpf_sock *sk;
	__u32 features = 0, flags;

	if (!vip_find_session(&caller) || !vip_find_policy(&caller))
		return VIP_PROCEED;
	flags = caller.policy->flags;
	features = vip_features_of(&caller);
	asked = vip_destination_of4(&caller, address);
	plan = vip_connect(asked, features, flags, caller.vip4 != 0,
			   vip_is_excluded(&caller, ctx->user_port));
	sk = vip_socket_of(ctx);
	to = plan.probes ? vip_look4(ctx, &caller, plan, sk ? sk->src_ip4 : 0) : plan.otherwise;
	if (to == VIP_REFUSE_PEER)
		return vip_refuse(VIP_HOOK_CONNECT4, ECONNREFUSED);
	if (to == VIP_UNAVAILABLE)
		return vip_refuse(VIP_HOOK_CONNECT4, EADDRNOTAVAIL);

	source = vip_source(asked, to, features);
	answer = vip_bind_source4(ctx, &caller, source);
	if (answer == VIP_REFUSE_BIND ||
	    (answer == VIP_UNAVAILABLE && !(flags & VIP_POLICY_USE_HOST_ADDRESS)))
		return vip_refuse(VIP_HOOK_CONNECT4, EADDRNOTAVAIL);
	if (sk)
		vip_note_peer4(ctx, sk, &caller, asked, to);

	granted = vip_address4(to, address, caller.vip4, caller.id);
	if (granted != address)
		ctx->user_ip4 = granted;
	vip_count(VIP_HOOK_CONNECT4,
		  granted != address || source != VIP_AS_ASKED ? VIP_REWRITTEN : VIP_SEEN);
	return VIP_PROCEED;
}

/* Of a datagram that may not be sent: another session's address by IP_PKTINFO, under isolation. */
#define VIP_NO_SOURCE4 0xffffffff /* 255.255.255.255, which the kernel lets nobody send from */

/*
 * The source of one datagram, where the socket's own is `bound` (0: none; with IP_PKTINFO, that one).
 * `asked` and `to` are the destination's.
 */
static __always_inline __be32 vip_datagram_source4(struct bpf_sock_addr *ctx,
						   const struct vip_caller *caller,
						   enum vip_place asked, enum vip_answer to,
						   __be32 destination, __be32 bound, __u32 features)
{
	__be32 vip4 = caller->vip4, loopback = vip_loopback4(caller->id);
	enum vip_answer source = vip_source(asked, to, features);
	int is_local = asked == VIP_WILDCARD || asked == VIP_LOCALHOST;

	if (!bound)
		return vip_address4(source, 0, vip4, caller->id);
	if (bound == vip4 && is_local) {
		/*
		 * Outside a session a socket on the wildcard sends to 127.0.0.1 from 127.0.0.1, so this one
		 * must, or its peer would see VIP4; unless the peer is connected to VIP4, not knowing it.
		 */
		if (vip_listens4(ctx, vip4, destination, VIP_CONNECTED))
			return bound;
		return source == VIP_AS_ASKED ? VIP_LOCALHOST4 :
						vip_address4(source, bound, vip4, caller->id);
	}
	if (bound == VIP_LOCALHOST4)
		return source == VIP_TO_LOOPBACK ? loopback : bound;
	if (bound == loopback) {
		/* Left over from an earlier connect, or P: from the loopback nothing leaves the host. */
		if (is_local || asked == VIP_OWN_ADDRESS || asked == VIP_OWN_LOOPBACK ||
		    asked == VIP_OTHER_LOOPBACK || asked == VIP_LOOPBACK_REST)
			return bound;
		return vip_address4(source, 0, vip4, caller->id);
	}
	if (bound == vip4)
		return bound;
	switch (vip_place_of4(caller, bound)) {
	case VIP_HOST_ADDRESS:
		return source == VIP_TO_ADDRESS ? vip4 : bound;
	case VIP_OTHER_ADDRESS:
	case VIP_OTHER_LOOPBACK:
		return caller->policy->flags & VIP_POLICY_ISOLATION ? VIP_NO_SOURCE4 : bound;
	default:
		return bound;
	}
}

/*
 * A connected socket's datagram with control messages comes to the hook with no destination at all: it
 * goes where the socket is connected to, from where it is, unless IP_PKTINFO says otherwise.
 */
static __always_inline int vip_sendmsg_connected4(struct bpf_sock_addr *ctx,
						  const struct vip_caller *caller, __be32 own)
{
	__be32 bound = ctx->msg_src_ip4;
	enum vip_place place;

	if (bound == own)
		return VIP_PROCEED;
	place = bound ? vip_place_of4(caller, bound) : VIP_WILDCARD;
	switch (place) {
	case VIP_HOST_ADDRESS:
		if (own != caller->vip4)
			return VIP_PROCEED;
		break;
	case VIP_WILDCARD:
	case VIP_LOCALHOST:
		break;
	case VIP_OTHER_ADDRESS:
	case VIP_OTHER_LOOPBACK:
		if (caller->policy->flags & VIP_POLICY_ISOLATION)
			return vip_refuse(VIP_HOOK_SENDMSG4, EADDRNOTAVAIL);
		return VIP_PROCEED;
	default:
		return VIP_PROCEED;
	}
	/* As the socket's own bind or connect was answered. */
	ctx->msg_src_ip4 = own;
	vip_count(VIP_HOOK_SENDMSG4, VIP_REWRITTEN);
	return VIP_PROCEED;
}

SEC("cgroup/sendmsg4")
int vip_sendmsg4(struct bpf_sock_addr *ctx)
{
	__be32 address = ctx->user_ip4, bound = ctx->msg_src_ip4, granted, from;
	struct vip_caller caller = {};
	struct vip_plan plan;
	enum vip_place asked;
	enum vip_answer to;
	__u32 features;

	if (!vip_find_session(&caller) || !vip_find_policy(&caller))
		return VIP_PROCEED;
	if (!ctx->user_family && !ctx->user_port) {
		struct bpf_sock *sk = vip_socket_of(ctx);

		return sk ? vip_sendmsg_connected4(ctx, &caller, sk->src_ip4) : VIP_PROCEED;
	}
	features = vip_features_of(&caller);
	asked = vip_destination_of4(&caller, address);
	plan = vip_connect(asked, features, caller.policy->flags, caller.vip4 != 0,
			   vip_is_excluded(&caller, ctx->user_port));
	to = plan.probes ? vip_look4(ctx, &caller, plan, bound) : plan.otherwise;
	if (to == VIP_REFUSE_PEER)
		return vip_refuse(VIP_HOOK_SENDMSG4, ECONNREFUSED);
	if (to == VIP_UNAVAILABLE)
		return vip_refuse(VIP_HOOK_SENDMSG4, EADDRNOTAVAIL);

	if (asked == VIP_OWN_ADDRESS && vip_is_127(bound)) /* as in connect */
		vip_remember(ctx, VIP_SOCKET_NAMED_PEER);
	granted = vip_address4(to, address, caller.vip4, caller.id);
	from = vip_datagram_source4(ctx, &caller, asked, to, granted, bound, features);
	if (from == VIP_NO_SOURCE4)
		return vip_refuse(VIP_HOOK_SENDMSG4, EADDRNOTAVAIL);
	if (granted != address)
		ctx->user_ip4 = granted;
	if (from != bound)
		ctx->msg_src_ip4 = from;
	vip_count(VIP_HOOK_SENDMSG4,
		  granted != address || from != bound ? VIP_REWRITTEN : VIP_SEEN);
	return VIP_PROCEED;
}

/* The peer's name, where the socket's own end is `own`. */
static __always_inline int vip_peer_name4(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
					  enum vip_hook hook)
{
	__be32 peer = ctx->user_ip4, own = sk->src_ip4, shown;
	struct vip_caller caller = {};

	if (vip_name_is_plain4(peer, own) || !vip_find_session(&caller))
		return VIP_PROCEED;
	shown = vip_name4(peer, own, caller.vip4, caller.id);
	/* The exceptions are all of VIP4. */
	if (peer == caller.vip4) {
		__u32 asked = vip_remembered(sk);

		if (asked & VIP_SOCKET_NAMED_PEER)
			shown = peer;
		else if ((asked & VIP_SOCKET_LOCAL_PEER) && sk->dst_ip4 == peer)
			shown = VIP_LOCALHOST4;
	}
	if (shown == peer) {
		vip_count(hook, VIP_SEEN);
		return VIP_PROCEED;
	}
	ctx->user_ip4 = shown;
	vip_count(hook, VIP_REWRITTEN);
	return VIP_PROCEED;
}

SEC("cgroup/recvmsg4")
int vip_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = vip_socket_of(ctx);

	return sk ? vip_peer_name4(ctx, sk, VIP_HOOK_RECVMSG4) : VIP_PROCEED;
}

/* getpeername, and accept with an address. */
SEC("cgroup/getpeername4")
int vip_getpeername4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = vip_socket_of(ctx);

	return sk ? vip_peer_name4(ctx, sk, VIP_HOOK_GETPEERNAME4) : VIP_PROCEED;
}

/* 0.0.0.0, where bind asked for that and the policy wants names as they were asked for. */
static __always_inline __be32 vip_name_as_requested4(struct vip_caller *caller, struct bpf_sock *sk,
						     __be32 name, __be32 shown)
{
	__be32 vip4 = caller->vip4;

	if (sk->dst_ip4 || !vip_find_policy(caller) ||
	    !(caller->policy->flags & VIP_POLICY_AS_REQUESTED))
		return shown;
	if (vip4 && name == vip4)
		return vip_remembered(sk) & VIP_SOCKET_NAMED_ADDRESS ? shown : 0;
	if (name == vip_loopback4(caller->id) && (vip_remembered(sk) & VIP_SOCKET_WILDCARD))
		return 0;
	return shown;
}

SEC("cgroup/getsockname4")
int vip_getsockname4(struct bpf_sock_addr *ctx)
{
	__be32 name = ctx->user_ip4, peer, shown;
	const struct vip_config *in_force;
	struct vip_caller caller = {};
	struct bpf_sock *sk = vip_socket_of(ctx);
	int as_requested;

	if (!sk || !name)
		return VIP_PROCEED;
	peer = sk->dst_ip4;
	in_force = vip_config();
	as_requested = in_force && (in_force->flags & VIP_CONFIG_AS_REQUESTED) && !peer;
	if (!as_requested && vip_name_is_plain4(name, peer))
		return VIP_PROCEED;
	if (!vip_find_session(&caller))
		return VIP_PROCEED;
	shown = vip_name4(name, peer, caller.vip4, caller.id);
	if (as_requested)
		shown = vip_name_as_requested4(&caller, sk, name, shown);
	if (shown != name)
		ctx->user_ip4 = shown;
	vip_count(VIP_HOOK_GETSOCKNAME4, shown != name ? VIP_REWRITTEN : VIP_SEEN);
	return VIP_PROCEED;
}

char _license[] SEC("license") = "Dual BSD/GPL";
