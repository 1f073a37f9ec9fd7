/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What discover.bpf.c and vip-bpfctl share: which programs bind and connect where. Nothing here is pinned, and
 * vip.bpf.c knows nothing of it: the maps belong to one run of vip-bpfctl discover, and end with it.
 *
 * Everything is added up in the kernel, so a program that repeats a call costs no more memory. All sizes are fixed;
 * what does not fit is counted in `seen_lost`.
 *
 *   seen_programs  [{ inode, device, comm }]         -> { name "redis-server", 2 endpoints, 1 process }
 *   seen_processes [{ program, start, PID }]         -> { cgroup, user }
 *   seen_endpoints [{ program, 0.0.0.0, 6379, ... }] -> { 1 call }
 *   seen_events    (ring)                            -> a new row of seen_processes, while it lives
 *   local_addresses [::ffff:192.0.2.1]               -> written by vip-bpfctl: this host's own
 */
#ifndef VIP_BPF_DISCOVER_H
#define VIP_BPF_DISCOVER_H

#include "abi.h"

#define VIP_SEEN_PROGRAMS_MAX 8192
#define VIP_SEEN_PROCESSES_MAX 65536
#define VIP_SEEN_ENDPOINTS_MAX 65536
/* What one program may take of these, so that one that goes through all ports hides no other. */
#define VIP_SEEN_PROCESSES_EACH 4096
#define VIP_SEEN_ENDPOINTS_EACH 1024
#define VIP_SEEN_RING_BYTES (1 << 20)
#define VIP_SEEN_LOCAL_MAX 262144

/* An executable, and by what name its process goes: an interpreter is another program for each script. */
struct vip_seen_program {
	__u64 inode;
	__u32 device; /* of the superblock, kernel dev_t */
	__u32 padding;
	char comm[VIP_COMM_MAX]; /* of the thread-group leader */
};

struct vip_seen_name {
	char name[VIP_NAME_MAX]; /* of the executable's directory entry; a longer one is cut */
	__u32 endpoints;	 /* rows of it, up to VIP_SEEN_ENDPOINTS_EACH */
	__u32 processes;	 /* likewise */
};

struct vip_seen_process {
	struct vip_seen_program program;
	__u64 start; /* nanoseconds since boot: the next process of that PID is another */
	__u32 pid;   /* of the thread group, in the initial PID namespace */
	__u32 padding;
};

struct vip_seen_owner {
	__u64 cgroup;
	__u32 user; /* in the initial user namespace */
	__u32 padding;
};

enum vip_seen_call { VIP_SEEN_BIND, VIP_SEEN_CONNECT, VIP_SEEN_SEND };

enum vip_seen_flag {
	VIP_SEEN_INET6 = 1 << 0,  /* an AF_INET6 socket; the address may be mapped all the same */
	VIP_SEEN_V6ONLY = 1 << 1, /* IPV6_V6ONLY, in force when it was bound */
	VIP_SEEN_REUSEPORT = 1 << 2, /* SO_REUSEPORT, of a bind */
	VIP_SEEN_REUSEADDR = 1 << 3, /* SO_REUSEADDR, of a bind */
	VIP_SEEN_ELSEWHERE = 1 << 4, /* not of this host; neither address nor port is kept */
	VIP_SEEN_MANY = 1 << 5,	     /* the program has had its share of rows: address and port 0 */
};

struct vip_seen_endpoint {
	struct vip_seen_program program;
	struct vip_address address; /* as asked for, IPv4 in mapped form */
	__u16 port;		    /* host order */
	__u8 call;		    /* enum vip_seen_call */
	__u8 protocol;		    /* IPPROTO_TCP (MPTCP, too) or IPPROTO_UDP */
	__u32 flags;		    /* enum vip_seen_flag */
};

struct vip_seen_calls {
	__u64 count;
};

struct vip_seen_event {
	struct vip_seen_process process;
	struct vip_seen_owner owner;
	char name[VIP_NAME_MAX];
};

/* seen_lost: PERCPU_ARRAY of one. */
struct vip_seen_lost {
	__u64 programs;	 /* calls of programs that found no room */
	__u64 processes; /* calls of processes that found none; a process makes many */
	__u64 endpoints; /* calls whose address and port are not kept */
	__u64 events;	 /* processes that are known by the kernel's name for the file alone */
};

VIP_ASSERT_SIZE(struct vip_seen_program, 32);
VIP_ASSERT_SIZE(struct vip_seen_name, 72);
VIP_ASSERT_SIZE(struct vip_seen_process, 48);
VIP_ASSERT_SIZE(struct vip_seen_owner, 16);
VIP_ASSERT_SIZE(struct vip_seen_endpoint, 56);
VIP_ASSERT_SIZE(struct vip_seen_event, 128);
VIP_ASSERT_SIZE(struct vip_seen_lost, 32);

#endif
