/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is remembered of a socket: the rows of the map `sockets`. */
#ifndef VIP_BPF_MEMORY_H
#define VIP_BPF_MEMORY_H

#include "maps.h"
#include "translate.h"

static __always_inline struct vip_socket *vip_sock_row(struct bpf_sock *sk)
{
	return bpf_sk_storage_get(&sockets, sk, 0, 0);
}

/* enum vip_socket_flag */
static __always_inline __u32 vip_sock_state(struct bpf_sock *sk)
{
	struct vip_socket *row = vip_sock_row(sk);

	return row ? row->flags : 0;
}

/* The 127.x.y.z that the program asked for where it reached `port`; 0 if it was 127.0.0.1. */
static __always_inline __be32 vip_sock_peer(const struct vip_socket *row, __u32 port)
{
	return (row->flags & VIP_SOCKET_ASKED_PEER) && row->peer_port == (__u16)port ? row->peer :
										       0;
}

/*
 * Takes the flags `forget` out and puts `remember` in. `port` is the peer's, if one is remembered. `cgroup`, if not 0:
 * the session to which the socket belongs.
 */
static __always_inline void
vip_sock_update(struct bpf_sock *sk, const struct vip_decision *decision, __u32 port, __u64 cgroup)
{
	struct vip_socket *row = vip_sock_row(sk);

	if (!row) {
		if (!decision->remember)
			return;
		row = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!row)
			return;
	}
	row->flags = (row->flags & ~decision->forget) | decision->remember;
	if (decision->remember & VIP_SOCKET_ASKED_PEER) {
		row->peer = decision->peer;
		row->peer_port = port;
	}
	if (cgroup)
		row->cgroup = cgroup;
}

#endif
