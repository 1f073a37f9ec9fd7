/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Dual-stack TCP servers: they are bound to ::ffff:VIP4 or ::ffff:LO4, and are to be reached at VIP6 and LO6 as well.
 * sock_ops notes such a server as it begins to listen, and sk_lookup leads connections to it.
 */
#ifndef VIP_BPF_DUAL_STACK_H
#define VIP_BPF_DUAL_STACK_H

#include "memory.h"
#include "session.h"
#include "watch.h"

/* Counts a server of the session, and says whether the session may have one more. */
static __always_inline int vip_count_listener(__u64 cgroup)
{
	const struct vip_session *session = bpf_map_lookup_elem(&sessions, &cgroup);
	const struct vip_config *in_force = vip_config();
	const struct vip_policy *policy;
	__s32 *count, none = 0;
	__u32 bank, key;

	if (!session || !in_force)
		return 0;
	bank = in_force->generation & 1;
	key = bank * VIP_POLICIES_PER_BANK + (session->policy[bank] & (VIP_POLICIES_PER_BANK - 1));
	policy = bpf_map_lookup_elem(&policies, &key);
	count = bpf_map_lookup_elem(&listener_counts, &cgroup);
	if (!count) {
		bpf_map_update_elem(&listener_counts, &cgroup, &none, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&listener_counts, &cgroup);
	}
	if (!policy || !count)
		return 0;
	if (__sync_fetch_and_add(count, 1) < (__s32)policy->listener_limit)
		return 1;
	__sync_fetch_and_add(count, -1);
	return 0;
}

static __always_inline void vip_uncount_listener(__u64 cgroup)
{
	__s32 *count = bpf_map_lookup_elem(&listener_counts, &cgroup);

	if (count)
		__sync_fetch_and_add(count, -1);
}

/* Notes a TCP server that asked for ::. */
static __always_inline void vip_note_listener(struct bpf_sock_ops *ctx, struct vip_socket *row)
{
	struct vip_listener key = { .cgroup = row->cgroup, .port = ctx->local_port };

	if (!vip_count_listener(key.cgroup)) {
		vip_count(VIP_HOOK_SOCK_OPS, VIP_REFUSED_IN_USE);
		return;
	}
	/*
	 * Several servers may share the port by SO_REUSEPORT. The kernel chooses among all of them when it is led to
	 * one; a few are noted, so that the end of one does not hide the others.
	 */
#pragma unroll
	for (__u32 slot = 0; slot < VIP_LISTENER_SLOTS; slot++) {
		key.slot = slot;
		if (!bpf_sock_hash_update(ctx, &listeners, &key, BPF_NOEXIST)) {
			row->flags |= VIP_SOCKET_NOTED;
			/* For the end of the listener. Its connections have the flag too. */
			bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags |
							       BPF_SOCK_OPS_STATE_CB_FLAG);
			vip_count(VIP_HOOK_SOCK_OPS, VIP_SEEN);
			return;
		}
	}
	vip_uncount_listener(key.cgroup);
	vip_count(VIP_HOOK_SOCK_OPS, VIP_REFUSED_IN_USE);
}

/*
 * Sees a TCP server that asked for :: begin to listen, and end. It runs some nine times in the life of every TCP
 * connection below the attached cgroups (connect, established, and where the kernel asks for initial values), so
 * everything else leaves at the first compare.
 */
static __always_inline int vip_on_sock_ops(struct bpf_sock_ops *ctx)
{
	int begins = ctx->op == BPF_SOCK_OPS_TCP_LISTEN_CB;
	struct vip_socket *row;
	struct tcp_sock *tcp;
	struct bpf_sock *sk;

	if ((!begins && ctx->op != BPF_SOCK_OPS_STATE_CB) || ctx->family != AF_INET6)
		return 1;
	if (!begins && ctx->args[0] != BPF_TCP_LISTEN)
		return 1;
	sk = ctx->sk;
	if (!sk)
		return 1;
	row = vip_sock_row(sk);
	if (!row || !(row->flags & VIP_SOCKET_DUAL))
		return 1;
	if (!begins) {
		if (row->flags & VIP_SOCKET_NOTED) {
			row->flags &= ~VIP_SOCKET_NOTED;
			vip_uncount_listener(row->cgroup);
		}
		return 1;
	}
	/* In a socket map, a subflow of MPTCP breaks (on kernels before the one that refuses it). */
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp || (bpf_core_field_exists(tcp->is_mptcp) && tcp->is_mptcp))
		return 1;
	vip_note_listener(ctx, row);
	return 1;
}

/*
 * The dual-stack listener at `local` that was noted: with a reference, or NULL. Those at other addresses are of servers
 * that prefer the loopback, or are left from other addresses that the cgroup had.
 */
static __always_inline struct bpf_sock *vip_find_noted(struct vip_listener *key, __be32 local)
{
	struct bpf_sock *sk;

#pragma unroll
	for (__u32 slot = 0; slot < VIP_LISTENER_SLOTS; slot++) {
		key->slot = slot;
		sk = bpf_map_lookup_elem(&listeners, key);
		if (!sk)
			continue;
		if (sk->src_ip4 == local)
			return sk;
		bpf_sk_release(sk);
	}
	return 0;
}

/*
 * Leads an IPv6 connection for a session's VIP6 or LO6 to its dual-stack listener on that port. And it drops what comes
 * from outside to the prefix of the loopbacks, as the kernel does with 127/8 and ::1. It runs where the kernel looks
 * for a listener or an unconnected UDP socket, in the whole network namespace.
 */
static __always_inline int vip_on_sk_lookup(struct bpf_sk_lookup *ctx)
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
	is_loopback = vip_is_loopback6(in_force->loopback6, to);
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
	session = bpf_map_lookup_elem(&sessions, &key.cgroup);
	if (!session)
		return SK_PASS;
	if (is_loopback)
		sk = vip_find_noted(&key, vip_loopback4(id));
	if (!sk && session->vip4)
		sk = vip_find_noted(&key, session->vip4);
	if (!sk)
		return SK_PASS;
	if (!bpf_sk_assign(ctx, sk, 0))
		vip_count(VIP_HOOK_SK_LOOKUP, VIP_REWRITTEN);
	bpf_sk_release(sk);
	return SK_PASS;
}

#endif
