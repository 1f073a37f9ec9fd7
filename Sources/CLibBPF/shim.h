/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libbpf, and wrappers for what Swift cannot call itself: functions whose options are a structure
 * that holds its own size, and functions that return NULL and set errno.
 */
#pragma once

#include <errno.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <stdint.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/*
 * bpf_object__open_mem(3) with a name. It only parses, on any kernel. Returns NULL and sets *error
 * to -errno on failure.
 */
static inline struct bpf_object *vip_object_open(const void *bytes, size_t size, const char *name,
						 int *error)
{
	LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name);
	struct bpf_object *object = bpf_object__open_mem(bytes, size, &options);

	*error = object ? 0 : -errno;
	return object;
}

/*
 * bpf_link_create(3) with flags. Linux 6.1 accepts no flags for a cgroup (EINVAL), 6.18 does. The
 * linux/bpf.h of Debian 12 does not have this one.
 */
enum { VIP_LINK_PREORDER = 1U << 6 }; /* BPF_F_PREORDER */

static inline int vip_link_create(int program, int target, enum bpf_attach_type type, __u32 flags)
{
	LIBBPF_OPTS(bpf_link_create_opts, options, .flags = flags);

	return bpf_link_create(program, target, type, &options);
}

/* BPF_MAP_LOOKUP_BATCH (kernel 5.6) without its options, whose flags do not import. */
static inline int vip_map_lookup_batch(int map, void *in, void *out, void *keys, void *values,
				       __u32 *count)
{
	return bpf_map_lookup_batch(map, in, out, keys, values, count, NULL);
}

/* f_type of statfs(2) as one type everywhere; 0 and errno on failure. */
static inline unsigned long vip_file_system_type(const char *path)
{
	struct statfs buffer;

	return statfs(path, &buffer) ? 0 : (unsigned long)buffer.f_type;
}

/* synchronize_rcu() from user space (kernel 4.3): membarrier(2) has no wrapper in glibc. */
static inline int vip_membarrier_global(void)
{
	return (int)syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
}

/* Reads, in one piece, a word of memory that BPF programs share (BPF_F_MMAPABLE, kernel 5.5). */
static inline uint64_t vip_word(const void *word)
{
	return __atomic_load_n((const uint64_t *)word, __ATOMIC_ACQUIRE);
}

/* Replaces `from` by `to`; returns 0 if the word has another value. */
static inline int vip_word_replace(void *word, uint64_t from, uint64_t to)
{
	return __atomic_compare_exchange_n((uint64_t *)word, &from, to, 0, __ATOMIC_ACQ_REL,
					   __ATOMIC_ACQUIRE);
}
