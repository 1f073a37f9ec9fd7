/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the hooks take from libbpf's headers, for the host: macros, and declarations of the helpers that hooks.c
 * answers. A macro is as <bpf/bpf_helpers.h> or <bpf/bpf_core_read.h> has it, less what is for the kernel's loader.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>

#define SEC(name) __attribute__((visibility("hidden")))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define __array(name, value) typeof(value) *name[]
#define __noinline __attribute__((noinline))
#define BPF_CORE_READ_BITFIELD(pointer, field) ((pointer)->field)
#define bpf_core_field_exists(field) 1

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define bpf_htons(x) ((__u16)__builtin_bswap16((__u16)(x)))
#define bpf_htonl(x) __builtin_bswap32(x)
#else
#define bpf_htons(x) ((__u16)(x))
#define bpf_htonl(x) (x)
#endif
#define bpf_ntohs(x) bpf_htons(x)

struct task_struct;

static void *bpf_map_lookup_elem(void *map, const void *key);
static long bpf_map_update_elem(void *map, const void *key, const void *value, __u64 flags);
static __u64 bpf_get_current_ancestor_cgroup_id(int level);
static struct task_struct *bpf_get_current_task_btf(void);
static long bpf_probe_read_kernel_str(void *to, __u32 size, const void *from);
static void *bpf_sk_storage_get(void *map, void *sk, void *value, __u64 flags);
static struct bpf_sock *bpf_sk_lookup_tcp(void *ctx, struct bpf_sock_tuple *tuple, __u32 size,
					  __u64 netns, __u64 flags);
static struct bpf_sock *bpf_sk_lookup_udp(void *ctx, struct bpf_sock_tuple *tuple, __u32 size,
					  __u64 netns, __u64 flags);
static long bpf_sk_release(void *sk);
static long bpf_getsockopt(void *ctx, int level, int name, void *value, int size);
static __u64 bpf_get_current_uid_gid(void);
static __u64 bpf_get_current_cgroup_id(void);
static int bpf_sock_ops_cb_flags_set(struct bpf_sock_ops *ctx, int flags);
static long bpf_bind(struct bpf_sock_addr *ctx, void *address, int size);
static int bpf_set_retval(int value);
static void *bpf_skc_to_tcp6_sock(void *sk);
static void *bpf_skc_to_udp6_sock(void *sk);
static void *bpf_skc_to_tcp_sock(void *sk);
static long bpf_sock_hash_update(struct bpf_sock_ops *ctx, void *map, void *key, __u64 flags);
static long bpf_sk_assign(void *ctx, void *sk, __u64 flags);
static __u64 bpf_get_netns_cookie(void *ctx);
static __u64 bpf_ktime_get_boot_ns(void);
static void *bpf_ringbuf_reserve(void *map, __u64 size, __u64 flags);
static void bpf_ringbuf_submit(void *data, __u64 flags);
