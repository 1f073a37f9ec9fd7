/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The observing programs of `vip-bpfctl discover`: each counts what a program asks for and lets the call go on as it
 * is. They are attached as long as that command runs, by links that are not pinned.
 */
#include <linux/errno.h>

#include "context.h"
#include "discover.h"
#include "task.h"

enum { IPPROTO_UDP = 17, SO_REUSEADDR = 2 };

/* Beside what kernel.h has: CO-RE ignores the suffix. */
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

/* Notes the calling process. Returns its program's row, or NULL if there is no room for it. */
static __always_inline struct vip_seen_name *vip_see_process(struct vip_seen_process *process)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct vip_seen_program *program = &process->program;
	struct vip_seen_lost *lost = vip_lost();
	struct vip_seen_owner owner = {};
	struct vip_seen_event *event;
	struct vip_executable executable;
	struct vip_seen_name *row;
	long error;

	if (!lost || !vip_find_executable(task, &executable))
		return 0;
	program->inode = executable.inode;
	program->device = executable.device;
	vip_read_process_name(task, program->comm);
	process->start = ((struct task_struct___start *)task->group_leader)->start_time;
	process->pid = bpf_get_current_pid_tgid() >> 32;

	row = bpf_map_lookup_elem(&seen_programs, program);
	if (!row) {
		struct vip_seen_name fresh = {};

		bpf_probe_read_kernel_str(fresh.name, sizeof(fresh.name),
					  executable.dentry->d_name.name);
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
	/* Record at least that the program made such a call. */
	endpoint->address = vip_mapped(0);
	endpoint->port = 0;
	endpoint->flags = VIP_SEEN_MANY;
	calls = bpf_map_lookup_elem(&seen_endpoints, endpoint);
	if (calls)
		__sync_fetch_and_add(&calls->count, 1);
	else
		bpf_map_update_elem(&seen_endpoints, endpoint, &one, BPF_NOEXIST);
}

static __always_inline __u32 vip_bind_flags(struct bpf_sock_addr *ctx, enum vip_family family)
{
	struct sock_common *common;
	__u32 flags = 0;
	int value = 0;

	if (!bpf_getsockopt(ctx, SOL_SOCKET, SO_REUSEPORT, &value, sizeof(value)) && value)
		flags |= VIP_SEEN_REUSEPORT;
	value = 0;
	if (!bpf_getsockopt(ctx, SOL_SOCKET, SO_REUSEADDR, &value, sizeof(value)) && value)
		flags |= VIP_SEEN_REUSEADDR;
	if (family == VIP_INET4)
		return flags;
	common = vip_common6(ctx);
	if (common && BPF_CORE_READ_BITFIELD(common, skc_ipv6only))
		flags |= VIP_SEEN_V6ONLY;
	return flags;
}

/* The wildcard or localhost of either family, or another address of 127/8. */
static __always_inline int vip_is_this_host(struct vip_address address)
{
	if (vip_is_mapped(address))
		return !address.word[3] || vip_is_127(address.word[3]);
	return vip_is_wildcard(VIP_INET6, address) || vip_is_localhost(VIP_INET6, address);
}

/* A constant `family` and `call`: VIP_INET4 for the hooks of sockaddr_in, VIP_INET6 for the others. */
static __always_inline int vip_see(struct bpf_sock_addr *ctx, enum vip_family family,
				   enum vip_seen_call what)
{
	struct vip_address address;
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
	address = vip_user_addr(ctx, family);
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
	else if (!vip_is_this_host(address) && !bpf_map_lookup_elem(&local_addresses, &address)) {
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
