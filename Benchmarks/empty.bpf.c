/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs that do nothing, on the hooks that ours are on: what calling a program costs by itself. */
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
EMPTY(bind6)
EMPTY(connect6)
EMPTY(sendmsg6)
EMPTY(recvmsg6)
EMPTY(getsockname6)
EMPTY(getpeername6)

SEC("cgroup/sock_create")
int empty_sock_create(struct bpf_sock *ctx __attribute__((unused)))
{
	return 1;
}

SEC("cgroup/setsockopt")
int empty_setsockopt(struct bpf_sockopt *ctx __attribute__((unused)))
{
	return 1;
}

SEC("sockops")
int empty_sock_ops(struct bpf_sock_ops *ctx __attribute__((unused)))
{
	return 1;
}

SEC("sk_lookup")
int empty_sk_lookup(struct bpf_sk_lookup *ctx __attribute__((unused)))
{
	return SK_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
