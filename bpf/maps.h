/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps. abi.h says what is in them. The sizes below are defaults, which the loader replaces
 * (BPFLoader/BPFObject.swift). Hashes are not preallocated: a host with three sessions pays for three (and for the
 * buckets of the socket hash).
 */
#ifndef VIP_BPF_MAPS_H
#define VIP_BPF_MAPS_H

#include "abi.h"
#include "helpers.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vip_config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct vip_session);
} sessions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u64);
} ids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072 + 4096); /* two virtual IPs a session, and the host's own */
	__type(key, struct vip_address);
	__type(value, struct vip_address_owner);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct vip_prefix);
	__type(value, __u32);
} governed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VIP_BANKS *VIP_POLICIES_PER_BANK);
	__type(key, __u32);
	__type(value, struct vip_policy);
} policies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct vip_program_name);
	__type(value, struct vip_listing);
} program_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct vip_program_script);
	__type(value, struct vip_listing);
} program_scripts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct vip_program_file);
	__type(value, struct vip_listing);
} program_files SEC(".maps");

/* Only a cache: if it is emptied or overrun, the next call of a program fills its row again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct vip_program);
	__type(value, struct vip_verdict);
} verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct vip_socket);
} sockets SEC(".maps");

/* The kernel removes a socket when it is closed. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 65536);
	__type(key, struct vip_listener);
	__type(value, __u64);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __s32);
} listener_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VIP_HOOK_COUNT);
	__type(key, __u32);
	__type(value, struct vip_counters);
} counters SEC(".maps");

/* User space maps it into its memory, so that a watcher renews its own field and overwrites no other. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vip_watchers);
} watchers SEC(".maps");

/* A ring buffer of any size may be put in: the kernel compares the type of an inner map, not its size. */
struct vip_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* of this pattern, which is never used */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, VIP_WATCHERS_MAX);
	__type(key, __u32);
	__array(values, struct vip_ring);
} watcher_rings SEC(".maps");

#endif
