/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is remembered of a socket: the rows of the map `sockets`. */
#ifndef VIP_BPF_MEMORY_H
#define VIP_BPF_MEMORY_H

#include "maps.h"

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

/* Takes the flags `forget` out and puts `remember` in. `cgroup`, if not 0: the session to which the socket belongs. */
static __always_inline void vip_sock_state_update(struct bpf_sock *sk, __u32 forget, __u32 remember,
						  __u64 cgroup)
{
	struct vip_socket *row = vip_sock_row(sk);

	if (!row) {
		if (!remember)
			return;
		row = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!row)
			return;
	}
	row->flags = (row->flags & ~forget) | remember;
	if (cgroup)
		row->cgroup = cgroup;
}

#endif
