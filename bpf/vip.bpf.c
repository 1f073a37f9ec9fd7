/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The hooks: one short program for each. Each gathers facts about the call, asks translate.h, and applies the answer.
 * To add one: a function here, its number in enum vip_hook (abi.h), its row in Hook.swift; CONTRIBUTING.md has the
 * rest.
 *
 * The guard hooks are of the guarded cgroup, and for programs of no session; all others are of each attached cgroup.
 *
 * They run on every call below the cgroups that they are attached to, so they leave as soon as nothing is to be done:
 * the name hooks before any look-up, the others if the task has no session.
 *
 * One body serves both families. It is inlined for each constant enum vip_family, so three times in all, because a call
 * of an AF_INET6 socket may name a mapped IPv4 address.
 */
#include "bind.h"
#include "connect.h"
#include "datagram.h"
#include "dual_stack.h"
#include "guard.h"
#include "names.h"
#include "socket.h"

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

SEC("cgroup/connect4")
int vip_connect4(struct bpf_sock_addr *ctx)
{
	return vip_on_connect(ctx, VIP_INET4);
}

SEC("cgroup/connect6")
int vip_connect6(struct bpf_sock_addr *ctx)
{
	vip_resolve_wildcard6(ctx);
	if (vip_family6(ctx) == VIP_MAPPED)
		return vip_on_connect(ctx, VIP_MAPPED);
	return vip_on_connect(ctx, VIP_INET6);
}

SEC("cgroup/sendmsg4")
int vip_sendmsg4(struct bpf_sock_addr *ctx)
{
	return vip_on_sendmsg(ctx, VIP_INET4, VIP_HOOK_SENDMSG4);
}

/* No mapped address comes here: the kernel hands those to sendmsg4, and refuses one that a hook stores here. */
SEC("cgroup/sendmsg6")
int vip_sendmsg6(struct bpf_sock_addr *ctx)
{
	return vip_on_sendmsg(ctx, VIP_INET6, VIP_HOOK_SENDMSG6);
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

SEC("cgroup/sock_create")
int vip_sock_create(struct bpf_sock *sk)
{
	return vip_on_sock_create(sk);
}

SEC("cgroup/setsockopt")
int vip_setsockopt(struct bpf_sockopt *ctx)
{
	return vip_on_setsockopt(ctx);
}

SEC("cgroup/bind4")
int vip_guard_bind4(struct bpf_sock_addr *ctx)
{
	return vip_guard_bind(ctx, VIP_INET4, VIP_HOOK_GUARD_BIND4);
}

SEC("cgroup/bind6")
int vip_guard_bind6(struct bpf_sock_addr *ctx)
{
	if (vip_family6(ctx) == VIP_MAPPED)
		return vip_guard_bind(ctx, VIP_MAPPED, VIP_HOOK_GUARD_BIND6);
	return vip_guard_bind(ctx, VIP_INET6, VIP_HOOK_GUARD_BIND6);
}

SEC("cgroup/connect4")
int vip_guard_connect4(struct bpf_sock_addr *ctx)
{
	return vip_guard_connect(ctx, VIP_INET4, VIP_HOOK_GUARD_CONNECT4);
}

SEC("cgroup/connect6")
int vip_guard_connect6(struct bpf_sock_addr *ctx)
{
	if (vip_family6(ctx) == VIP_MAPPED)
		return vip_guard_connect(ctx, VIP_MAPPED, VIP_HOOK_GUARD_CONNECT6);
	return vip_guard_connect(ctx, VIP_INET6, VIP_HOOK_GUARD_CONNECT6);
}

SEC("cgroup/sendmsg4")
int vip_guard_sendmsg4(struct bpf_sock_addr *ctx)
{
	return vip_guard_sendmsg(ctx, VIP_INET4, VIP_HOOK_GUARD_SENDMSG4);
}

SEC("cgroup/sendmsg6")
int vip_guard_sendmsg6(struct bpf_sock_addr *ctx)
{
	return vip_guard_sendmsg(ctx, VIP_INET6, VIP_HOOK_GUARD_SENDMSG6);
}

SEC("sockops")
int vip_sock_ops(struct bpf_sock_ops *ctx)
{
	return vip_on_sock_ops(ctx);
}

SEC("sk_lookup")
int vip_sk_lookup(struct bpf_sk_lookup *ctx)
{
	return vip_on_sk_lookup(ctx);
}

char _license[] SEC("license") = "Dual BSD/GPL";
