/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The observing programs of `vip-bpfctl discover`: each adds up what a program asks for and lets the call
 * go on as it is. They are attached for as long as that command runs, by links that nobody pins.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "discover.h"
#include "kernel.h"
#include "translate.h"

enum { VIP_PROCEED = 1 }; /* what a sock_addr program returns */
enum { IPPROTO_UDP = 17, SO_REUSEADDR = 2 };

/* Beside what kernel.h has: CO-RE leaves the suffix out of account. */
struct task_struct___start {
	__u64 start_time;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, VIP_SEEN_PROGRAMS_MAX);
	__type(key, struct vip_seen_program);
	__type(value, struct vip_seen_name);
} seen_programs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, VIP_SEEN_PROCESSES_MAX);
	__type(key, struct vip_seen_process);
	__type(value, struct vip_seen_owner);
} seen_processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, VIP_SEEN_ENDPOINTS_MAX);
	__type(key, struct vip_seen_endpoint);
	__type(value, struct vip_seen_calls);
} seen_endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, VIP_SEEN_RING_BYTES);
} seen_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vip_seen_lost);
} seen_lost SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, VIP_SEEN_LOCAL_MAX);
	__type(key, struct vip_address);
	__type(value, __u32);
} local_addresses SEC(".maps");

static __always_inline struct vip_seen_lost *vip_lost(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&seen_lost, &zero);
}

/* Notes the calling process. Returns its program's row; NULL where even that finds no room. */
static __always_inline struct vip_seen_name *vip_see_process(struct vip_seen_process *process)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct vip_seen_program *program = &process->program;
	struct vip_seen_lost *lost = vip_lost();
	struct vip_seen_owner owner = {};
	struct vip_seen_event *event;
	struct vip_seen_name *row;
	struct task_struct *leader;
	struct dentry *dentry;
	struct inode *inode;
	struct mm_struct *mm;
	struct file *exe;
	const __u64 *comm;
	__u64 name[2];
	long error;

	mm = task->mm;
	if (!lost || !mm) /* a kernel thread */
		return 0;
	exe = mm->exe_file;
	if (!exe)
		return 0;
	inode = exe->f_inode;
	dentry = exe->f_path.dentry;
	program->inode = inode->i_ino;
	program->device = inode->i_sb->s_dev;
	leader = task->group_leader;
	comm = (const __u64 *)leader->comm;
	name[0] = comm[0];
	name[1] = comm[1];
	__builtin_memcpy(program->comm, name, sizeof(program->comm));
	process->start = ((struct task_struct___start *)leader)->start_time;
	process->pid = bpf_get_current_pid_tgid() >> 32;

	row = bpf_map_lookup_elem(&seen_programs, program);
	if (!row) {
		struct vip_seen_name fresh = {};

		bpf_probe_read_kernel_str(fresh.name, sizeof(fresh.name), dentry->d_name.name);
		bpf_map_update_elem(&seen_programs, program, &fresh, BPF_NOEXIST);
		row = bpf_map_lookup_elem(&seen_programs, program);
		if (!row) {
			lost->programs++;
			return 0;
		}
	}
	if (bpf_map_lookup_elem(&seen_processes, process))
		return row;
	owner.cgroup = bpf_get_current_cgroup_id();
	owner.user = (__u32)bpf_get_current_uid_gid();
	if (row->processes >= VIP_SEEN_PROCESSES_EACH) {
		lost->processes++;
		return row;
	}
	error = bpf_map_update_elem(&seen_processes, process, &owner, BPF_NOEXIST);
	if (error) {
		if (error != -EEXIST) /* another thread of it was quicker */
			lost->processes++;
		return row;
	}
	__sync_fetch_and_add(&row->processes, 1);
	event = bpf_ringbuf_reserve(&seen_events, sizeof(*event), 0);
	if (!event) {
		lost->events++;
		return row;
	}
	event->process = *process;
	event->owner = owner;
	__builtin_memcpy(event->name, row->name, sizeof(event->name));
	bpf_ringbuf_submit(event, 0);
	return row;
}

static __always_inline void vip_add(struct vip_seen_endpoint *endpoint, struct vip_seen_name *row)
{
	struct vip_seen_lost *lost = vip_lost();
	struct vip_seen_calls *calls, one = { 1 };

	calls = bpf_map_lookup_elem(&seen_endpoints, endpoint);
	if (calls) {
		__sync_fetch_and_add(&calls->count, 1);
		return;
	}
	if (row->endpoints < VIP_SEEN_ENDPOINTS_EACH) {
		long error = bpf_map_update_elem(&seen_endpoints, endpoint, &one, BPF_NOEXIST);

		if (!error)
			__sync_fetch_and_add(&row->endpoints, 1);
		/* Another thread may have been quicker: one call more or less. */
		if (!error || error == -EEXIST)
			return;
	}
	if (lost)
		lost->endpoints++;
	/* At least that it was done at all. */
	endpoint->address = vip_mapped(0);
	endpoint->port = 0;
	endpoint->flags = VIP_SEEN_MANY;
	calls = bpf_map_lookup_elem(&seen_endpoints, endpoint);
	if (calls)
		__sync_fetch_and_add(&calls->count, 1);
	else
		bpf_map_update_elem(&seen_endpoints, endpoint, &one, BPF_NOEXIST);
}

/* ctx->sk in one load: see vip_socket_of in socket.h, which comes with the maps of the other object. */
static __always_inline struct bpf_sock *vip_seen_socket(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk;

	asm volatile("%[sk] = *(u64 *)(%[ctx] + %[offset])"
		     : [sk] "=r"(sk)
		     : [ctx] "r"(ctx), [offset] "i"(__builtin_offsetof(struct bpf_sock_addr, sk)));
	return sk;
}

static __always_inline __u32 vip_bind_flags(struct bpf_sock_addr *ctx, enum vip_family family)
{
	struct bpf_sock *sk = vip_seen_socket(ctx);
	struct sock_common *common = 0;
	__u32 flags = 0;
	int value = 0;

	if (!bpf_getsockopt(ctx, SOL_SOCKET, SO_REUSEPORT, &value, sizeof(value)) && value)
		flags |= VIP_SEEN_REUSEPORT;
	value = 0;
	if (!bpf_getsockopt(ctx, SOL_SOCKET, SO_REUSEADDR, &value, sizeof(value)) && value)
		flags |= VIP_SEEN_REUSEADDR;
	if (family == VIP_INET4 || !sk)
		return flags;
	if (ctx->type == SOCK_STREAM)
		common = (struct sock_common *)bpf_skc_to_tcp6_sock(sk);
	else
		common = (struct sock_common *)bpf_skc_to_udp6_sock(sk);
	if (common && BPF_CORE_READ_BITFIELD(common, skc_ipv6only))
		flags |= VIP_SEEN_V6ONLY;
	return flags;
}

static __always_inline int vip_is_wide(struct vip_address address)
{
	return !address.word[0] && !address.word[1] && !address.word[3] &&
	       (!address.word[2] || address.word[2] == VIP_MAPPED_WORD);
}

static __always_inline int vip_is_loopback(struct vip_address address)
{
	if (address.word[0] || address.word[1])
		return 0;
	if (address.word[2] == VIP_MAPPED_WORD)
		return (address.word[3] & bpf_htonl(0xff000000)) == bpf_htonl(VIP_NET_127);
	return !address.word[2] && address.word[3] == bpf_htonl(1);
}

/* A constant `family` and `call`: VIP_INET4 for the hooks of sockaddr_in, VIP_INET6 for the others. */
static __always_inline int vip_see(struct bpf_sock_addr *ctx, enum vip_family family,
				   enum vip_seen_call what)
{
	volatile struct bpf_sock_addr *call = ctx; /* see vip_asked in socket.h */
	struct vip_address address = vip_mapped(0);
	struct vip_seen_endpoint endpoint = {};
	struct vip_seen_process process = {};
	struct vip_seen_name *row;
	__u32 type = ctx->type;

	if (type != SOCK_STREAM && type != SOCK_DGRAM)
		return VIP_PROCEED;
	/* IPv4's bind takes AF_UNSPEC for AF_INET; a datagram of a connected socket has no address. */
	if (family == VIP_INET4 ?
		    ctx->user_family != AF_INET && (what != VIP_SEEN_BIND || ctx->user_family) :
		    ctx->user_family != AF_INET6)
		return VIP_PROCEED;
	if (family == VIP_INET4) {
		address.word[3] = call->user_ip4;
	} else {
		address.word[0] = call->user_ip6[0];
		address.word[1] = call->user_ip6[1];
		address.word[2] = call->user_ip6[2];
		address.word[3] = call->user_ip6[3];
	}
	row = vip_see_process(&process);
	if (!row)
		return VIP_PROCEED;
	endpoint.program = process.program;
	endpoint.address = address;
	endpoint.port = bpf_ntohs(ctx->user_port);
	endpoint.call = what;
	endpoint.protocol = type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
	if (family == VIP_INET6)
		endpoint.flags = VIP_SEEN_INET6;
	if (what == VIP_SEEN_BIND)
		endpoint.flags |= vip_bind_flags(ctx, family);
	else if (!vip_is_wide(address) && !vip_is_loopback(address) &&
		 !bpf_map_lookup_elem(&local_addresses, &address)) {
		endpoint.address = vip_mapped(0);
		endpoint.port = 0;
		endpoint.flags |= VIP_SEEN_ELSEWHERE;
	}
	vip_add(&endpoint, row);
	return VIP_PROCEED;
}

SEC("cgroup/bind4")
int vip_see_bind4(struct bpf_sock_addr *ctx)
{
	return vip_see(ctx, VIP_INET4, VIP_SEEN_BIND);
}

SEC("cgroup/bind6")
int vip_see_bind6(struct bpf_sock_addr *ctx)
{
	return vip_see(ctx, VIP_INET6, VIP_SEEN_BIND);
}

SEC("cgroup/connect4")
int vip_see_connect4(struct bpf_sock_addr *ctx)
{
	return vip_see(ctx, VIP_INET4, VIP_SEEN_CONNECT);
}

SEC("cgroup/connect6")
int vip_see_connect6(struct bpf_sock_addr *ctx)
{
	return vip_see(ctx, VIP_INET6, VIP_SEEN_CONNECT);
}

SEC("cgroup/sendmsg4")
int vip_see_sendmsg4(struct bpf_sock_addr *ctx)
{
	return vip_see(ctx, VIP_INET4, VIP_SEEN_SEND);
}

SEC("cgroup/sendmsg6")
int vip_see_sendmsg6(struct bpf_sock_addr *ctx)
{
	return vip_see(ctx, VIP_INET6, VIP_SEEN_SEND);
}

char _license[] SEC("license") = "Dual BSD/GPL";
