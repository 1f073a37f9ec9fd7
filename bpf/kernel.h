/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The few fields of the kernel's own structures that the hooks read. Only the names matter: CO-RE finds the place of
 * each field in the running kernel's BTF at load time, so one object fits every kernel. On the host (Sources/CVipHooks)
 * these are plain structs.
 */
#ifndef VIP_BPF_KERNEL_H
#define VIP_BPF_KERNEL_H

#include "helpers.h"

#ifdef __bpf__
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#endif

struct super_block {
	__u32 s_dev; /* kernel dev_t: major << 20 | minor */
};

struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
};

struct qstr {
	/* Two loads, not one of hash_len: 6.1's verifier refuses 8 bytes that begin at a member of 4. */
	__u32 hash;
	__u32 len;
	const unsigned char *name;
};

struct dentry {
	struct qstr d_name;
};

struct path {
	struct dentry *dentry;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
};

struct mm_struct {
	struct file *exe_file;
};

struct task_struct {
	struct mm_struct *mm;
	__s32 tgid;
	struct task_struct *group_leader;
	char comm[16];
};

/* What every socket begins with: a struct sock, tcp6_sock and udp6_sock too. */
struct sock_common {
	unsigned char skc_reuseport : 1;
	unsigned char skc_ipv6only : 1;
};

typedef struct {
	__u32 val;
} kuid_t;

struct kernfs_node {
	__u64 id; /* of a cgroup's directory: the cgroup ID */
};

struct cgroup {
	struct kernfs_node *kn;
	int level;		    /* 0 is the root */
	struct cgroup *ancestors[]; /* by level, itself included; Linux 6.1 and later */
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct sock {
	struct sock_common __sk_common;
	struct sock_cgroup_data sk_cgrp_data; /* of the task that made it */
	kuid_t sk_uid;			      /* the user who made it */
};

struct inet_sock {
	__be32 mc_addr; /* IP_MULTICAST_IF: the source of what goes to groups, if the socket has none */
};

struct tcp_sock {
	__u8 is_mptcp; /* bool: a subflow of MPTCP. It does not exist with CONFIG_MPTCP=n */
};

#ifdef __bpf__
#pragma clang attribute pop
#endif

/* <sys/socket.h> does not compile for BPF. Values of the user-space ABI: include/linux/socket.h, net.h. */
enum { AF_INET = 2, AF_INET6 = 10 };
enum { SOCK_STREAM = 1, SOCK_DGRAM = 2 };
enum {
	IPPROTO_TCP = 6,
	IPPROTO_DCCP = 33,
	IPPROTO_SCTP = 132,
	IPPROTO_UDPLITE = 136,
	IPPROTO_MPTCP = 262
};
enum { SOL_IP = 0, SOL_SOCKET = 1, SO_REUSEPORT = 15 };
enum { SO_BINDTODEVICE = 25, SO_BINDTOIFINDEX = 62 }; /* include/uapi/asm-generic/socket.h */
enum { IP_LOCAL_PORT_RANGE = 51 }; /* include/uapi/linux/in.h, Linux 6.3 and later */
enum { LOOPBACK_IFINDEX = 1 };	   /* include/net/flow.h: lo, in every network namespace */

#endif
