/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Six programs that do nothing, on the hooks that ours are on: what calling a program costs by itself. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define EMPTY(hook)                                                         \
	SEC("cgroup/" #hook)                                                \
	int empty_##hook(struct bpf_sock_addr *ctx __attribute__((unused))) \
	{                                                                   \
		return 1;                                                   \
	}

EMPTY(bind4)
EMPTY(connect4)
EMPTY(sendmsg4)
EMPTY(recvmsg4)
EMPTY(getsockname4)
EMPTY(getpeername4)

char _license[] SEC("license") = "Dual BSD/GPL";
