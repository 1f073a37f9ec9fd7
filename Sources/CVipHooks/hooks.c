/* SPDX-License-Identifier: Apache-2.0 */
#include "shim.h"
#include "vip_hooks.h"

struct bpf_sock;
struct cgroup;

/* For those of bpf/context.h, which read the kernel's memory. */
static struct cgroup *vip_cgroup_of(struct bpf_sock *sk);
static __u64 vip_user_of(struct bpf_sock *sk);
static __be32 vip_group_source_of(struct bpf_sock *sk);
static __u64 vip_ancestor_of(struct cgroup *cgroup, int level);

#include "../../bpf/vip.bpf.c"

#include "live.h"

#include <stdlib.h>
#include <string.h>

/* ::ffff:192.0.2.1, of a network for documentation: where a dual-stack socket is that is found at an IPv6 address. */
#define SOMEWHERE4 vip_swap32(0xc0000201u)

struct vip_host {
	vip_host_lookup lookup;
	void *context;
	struct live_maps live;
	int is_hidden[VIP_HOST_MAPS];

	/* The task. */
	__u64 cgroup;
	__u64 *cgroups;
	__u32 cgroup_count, user;
	__u64 netns;
	struct task_struct task, leader;
	struct mm_struct mm;
	struct file exe;
	struct inode inode;
	struct super_block device;
	struct dentry dentry;
	char *name;

	/* The call. */
	struct vip_host_socket *socket;
	struct bpf_sock sk, found;
	struct sock kernel_sk, kernel_found;
	struct tcp_sock tcp;
	int error, bind_error, is_assigned;
	__u64 other, found_in; /* cgroups: of another session, of the socket that was found */
	__u64 found_user;
	struct vip_counters counters;
	int shares_port; /* SO_REUSEPORT */
	struct vip_watchers watchers;
	int is_watched, is_ring_full;
	struct vip_event event; /* the last one */
	__u32 event_count;
	enum vip_host_listener listeners[VIP_HOST_QUESTIONS_MAX];
	struct vip_host_question questions[VIP_HOST_QUESTIONS_MAX];
	__u32 question_count;
	struct vip_socket found_row;

	/* The dual-stack listener that sock_ops has noted. */
	int is_noted;
	struct vip_listener noted_key;
	struct bpf_sock noted;
	__s32 noted_count;

	/* The rows that were looked up last. */
	struct vip_config config;
	struct vip_session session;
	__u64 id;
	struct vip_address_owner owner;
	__u32 governor;
	struct vip_policy policy;
	struct vip_listing listings[3];
};

/* The host whose hook runs. */
static __thread struct vip_host *host;

/* ---- helpers ---- */

static void *look_up(enum vip_host_map map, const void *key, void *row)
{
	return !host->is_hidden[map] && host->lookup(host->context, map, key, row) ? row : 0;
}

static void *bpf_map_lookup_elem(void *map, const void *key)
{
	void *row;

	if (map == &config) {
		row = look_up(VIP_HOST_MAP_CONFIG, key, &host->config);
		if (row)
			host->netns = host->config.netns;
		return row;
	}
	if (map == &sessions) {
		row = look_up(VIP_HOST_MAP_SESSIONS, key, &host->session);
		if (row)
			host->netns = host->session.netns;
		return row;
	}
	if (map == &ids)
		return look_up(VIP_HOST_MAP_IDS, key, &host->id);
	if (map == &addresses)
		return look_up(VIP_HOST_MAP_ADDRESSES, key, &host->owner);
	if (map == &governed)
		return look_up(VIP_HOST_MAP_GOVERNED, key, &host->governor);
	if (map == &policies)
		return look_up(VIP_HOST_MAP_POLICIES, key, &host->policy);
	if (map == &program_names)
		return look_up(VIP_HOST_MAP_PROGRAM_NAMES, key, &host->listings[0]);
	if (map == &program_scripts)
		return look_up(VIP_HOST_MAP_PROGRAM_SCRIPTS, key, &host->listings[1]);
	if (map == &program_files)
		return look_up(VIP_HOST_MAP_PROGRAM_FILES, key, &host->listings[2]);
	if (map == &counters)
		return &host->counters;
	if (map == &listener_counts)
		return &host->noted_count;
	if (map == &listeners && host->is_noted &&
	    !memcmp(key, &host->noted_key, sizeof(host->noted_key)))
		return &host->noted;
	if (map == &watchers && host->is_watched)
		return &host->watchers;
	if (map == &watcher_rings && *(const __u32 *)key == 0)
		return &host->event;
	return 0; /* nothing is cached in verdicts */
}

static long bpf_map_update_elem(void *map, const void *key, const void *value, __u64 flags)
{
	(void)map, (void)key, (void)value, (void)flags;
	return 0;
}

static __u64 bpf_get_current_ancestor_cgroup_id(int level)
{
	if (level < 0)
		return 0;
	if (host->cgroup)
		return host->cgroup;
	return (__u32)level < host->cgroup_count ? host->cgroups[level] : 0;
}

/* The task is in its session's network namespace; without a session, in that of all sessions. */
static __u64 bpf_get_netns_cookie(void *ctx)
{
	(void)ctx;
	return host->netns;
}

static __u64 bpf_get_current_cgroup_id(void)
{
	return host->cgroup_count ? host->cgroups[host->cgroup_count - 1] : host->cgroup;
}

static struct cgroup *vip_cgroup_of(struct bpf_sock *sk)
{
	(void)sk;
	return 0;
}

static __u64 vip_user_of(struct bpf_sock *sk)
{
	(void)sk;
	return host->found_user;
}

static __be32 vip_group_source_of(struct bpf_sock *sk)
{
	(void)sk;
	return host->socket->group_source;
}

static __u64 vip_ancestor_of(struct cgroup *cgroup, int level)
{
	(void)cgroup;
	return level < 0 ? 0 : host->found_in;
}

static struct task_struct *bpf_get_current_task_btf(void)
{
	return &host->task;
}

static long bpf_probe_read_kernel_str(void *to, __u32 size, const void *from)
{
	size_t length = strnlen(from, size - 1);

	memcpy(to, from, length);
	((char *)to)[length] = 0;
	return length + 1;
}

static void *bpf_sk_storage_get(void *map, void *sk, void *value, __u64 flags)
{
	(void)map, (void)value;
	if (sk == &host->found)
		return &host->found_row;
	if (!host->socket->has_row && !(flags & BPF_SK_STORAGE_GET_F_CREATE))
		return 0;
	host->socket->has_row = 1;
	return &host->socket->row;
}

static void put_address(__be32 *ip4, __be32 ip6[4], int is_inet6, struct vip_address address)
{
	/* LOOPBACK4_IPV6 of the kernel: what the IPv4 field is of a socket with an IPv6 address. */
	__be32 stand_in = vip_is_wildcard(VIP_INET6, address) ? 0 : vip_swap32(0x7f000006u);

	*ip4 = vip_is_mapped(address) ? address.word[3] : stand_in;
	if (is_inet6)
		memcpy(ip6, &address, sizeof(address));
}

static struct bpf_sock *find_socket(struct vip_address from, struct vip_address to, int is_inet6)
{
	enum vip_host_listener listener;
	struct bpf_sock *found = &host->found;
	__u32 number = host->question_count;

	if (number >= VIP_HOST_QUESTIONS_MAX)
		return 0;
	host->question_count++;
	host->questions[number] = (struct vip_host_question){ from, to };
	listener = host->listeners[number];
	if (listener == VIP_HOST_NOTHING)
		return 0;
	host->found_in = listener == VIP_HOST_OF_OTHER_SESSION ? host->other : 0;
	host->found_user = listener == VIP_HOST_LEFT_OVER ? 1000 : 0;
	memset(found, 0, sizeof(*found));
	host->kernel_found.__sk_common.skc_reuseport = host->shares_port;
	host->kernel_found.sk_uid.val = host->user;
	memset(&host->found_row, 0, sizeof(host->found_row));
	if (listener == VIP_HOST_DUAL_STACK) {
		host->found_row.flags = VIP_SOCKET_DUAL;
		put_address(&found->src_ip4, found->src_ip6, 1,
			    is_inet6 ? vip_mapped(SOMEWHERE4) : to);
	} else if (listener != VIP_HOST_ON_WILDCARD && listener != VIP_HOST_OF_OTHER_SESSION) {
		put_address(&found->src_ip4, found->src_ip6, is_inet6, to);
	}
	if (listener == VIP_HOST_FAR_END) {
		host->found_row.flags = VIP_SOCKET_LOCAL_PEER;
		found->dst_port = bpf_htons(host->socket->local_port);
	}
	if (listener == VIP_HOST_CONNECTED)
		put_address(&found->dst_ip4, found->dst_ip6, is_inet6, from);
	return found;
}

static struct bpf_sock *find_socket_by(struct bpf_sock_tuple *tuple, __u32 size)
{
	struct vip_address from, to;

	if (size == sizeof(tuple->ipv4))
		return find_socket(vip_mapped(tuple->ipv4.saddr), vip_mapped(tuple->ipv4.daddr), 0);
	memcpy(&from, tuple->ipv6.saddr, sizeof(from));
	memcpy(&to, tuple->ipv6.daddr, sizeof(to));
	return find_socket(from, to, 1);
}

static struct bpf_sock *bpf_sk_lookup_tcp(void *ctx, struct bpf_sock_tuple *tuple, __u32 size,
					  __u64 netns, __u64 flags)
{
	(void)ctx, (void)netns, (void)flags;
	return find_socket_by(tuple, size);
}

static struct bpf_sock *bpf_sk_lookup_udp(void *ctx, struct bpf_sock_tuple *tuple, __u32 size,
					  __u64 netns, __u64 flags)
{
	(void)ctx, (void)netns, (void)flags;
	return find_socket_by(tuple, size);
}

static long bpf_sk_release(void *sk)
{
	(void)sk;
	return 0;
}

/* SO_REUSEPORT. */
static long bpf_getsockopt(void *ctx, int level, int name, void *value, int size)
{
	(void)ctx, (void)level, (void)name;
	memset(value, 0, size);
	memcpy(value, &host->shares_port, sizeof(host->shares_port));
	return 0;
}

static __u64 bpf_get_current_uid_gid(void)
{
	return host->user;
}

static int bpf_sock_ops_cb_flags_set(struct bpf_sock_ops *ctx, int flags)
{
	(void)ctx, (void)flags;
	return 0;
}

static long bpf_bind(struct bpf_sock_addr *ctx, void *address, int size)
{
	struct vip_address to = vip_mapped(0);
	int is_inet6 = *(__u16 *)address == AF_INET6;

	(void)ctx;
	if (host->bind_error)
		return -host->bind_error;
	/* Behind family and port of a sockaddr_in; behind the flow label, too, of a sockaddr_in6. */
	if (is_inet6)
		memcpy(&to, (char *)address + 8, sizeof(to));
	else
		memcpy(&to.word[3], (char *)address + 4, sizeof(to.word[3]));
	(void)size;
	host->socket->local = to;
	if (is_inet6 && !vip_is_mapped(to) && !vip_is_wildcard(VIP_INET6, to))
		host->socket->is_v6only = host->kernel_sk.__sk_common.skc_ipv6only = 1;
	put_address(&host->sk.src_ip4, host->sk.src_ip6, is_inet6, to);
	return 0;
}

static int bpf_set_retval(int value)
{
	host->error = -value;
	return 0;
}

static void *bpf_skc_to_tcp6_sock(void *sk)
{
	return sk == &host->found ? &host->kernel_found : &host->kernel_sk;
}

static void *bpf_skc_to_udp6_sock(void *sk)
{
	return bpf_skc_to_tcp6_sock(sk);
}

static void *bpf_skc_to_tcp_sock(void *sk)
{
	(void)sk;
	return &host->tcp;
}

static long bpf_sock_hash_update(struct bpf_sock_ops *ctx, void *map, void *key, __u64 flags)
{
	(void)ctx, (void)map, (void)flags;
	if (host->is_noted)
		return -1;
	host->is_noted = 1;
	memcpy(&host->noted_key, key, sizeof(host->noted_key));
	host->noted = host->sk;
	return 0;
}

static long bpf_sk_assign(void *ctx, void *sk, __u64 flags)
{
	(void)ctx, (void)sk, (void)flags;
	host->is_assigned = 1;
	return 0;
}

static __u64 bpf_ktime_get_boot_ns(void)
{
	return 0;
}

static void *bpf_ringbuf_reserve(void *map, __u64 size, __u64 flags)
{
	(void)map, (void)size, (void)flags;
	if (host->is_ring_full)
		return 0;
	/* The kernel does not clear it. */
	memset(&host->event, 0xff, sizeof(host->event));
	return &host->event;
}

static void bpf_ringbuf_submit(void *data, __u64 flags)
{
	(void)data, (void)flags;
	host->event_count++;
}

/* ---- the host ---- */

struct vip_host *vip_host_make(vip_host_lookup lookup, void *context)
{
	struct vip_host *made = calloc(1, sizeof(*made));

	if (!made)
		return 0;
	made->lookup = lookup;
	made->context = context;
	made->task.mm = &made->mm;
	made->task.group_leader = &made->leader;
	made->exe.f_inode = &made->inode;
	made->inode.i_sb = &made->device;
	made->exe.f_path.dentry = &made->dentry;
	return made;
}

struct vip_host *vip_host_open(const int descriptors[VIP_HOST_MAPS])
{
	struct vip_host *made = vip_host_make(live_look_up, 0);

	if (!made)
		return 0;
	made->context = &made->live;
	memcpy(made->live.descriptors, descriptors, sizeof(made->live.descriptors));
	return made;
}

void vip_host_free(struct vip_host *given)
{
	free(given->cgroups);
	free(given->name);
	free(given);
}

void vip_host_show_map(struct vip_host *given, enum vip_host_map map, int is_shown)
{
	given->is_hidden[map] = !is_shown;
}

int vip_host_error(const struct vip_host *given)
{
	return given->live.error;
}

int vip_host_set_cgroups(struct vip_host *given, const __u64 *list, __u32 count)
{
	__u64 *copy = calloc(count + 1, sizeof(*copy));

	if (!copy)
		return 0;
	memcpy(copy, list, count * sizeof(*copy));
	free(given->cgroups);
	given->cgroups = copy;
	given->cgroup_count = count;
	given->cgroup = 0;
	return 1;
}

void vip_host_set_cgroup(struct vip_host *given, __u64 id)
{
	given->cgroup = id;
}

void vip_host_set_user(struct vip_host *given, __u32 user)
{
	given->user = user;
}

int vip_host_set_program(struct vip_host *given, __u64 inode, __u32 device, const __u8 *name,
			 __u32 name_length, const __u8 *comm, __u32 comm_length)
{
	char *copy = calloc(1, name_length + 1);

	if (!copy)
		return 0;
	memcpy(copy, name, name_length);
	free(given->name);
	given->name = copy;
	given->mm.exe_file = &given->exe;
	given->inode.i_ino = inode;
	given->device.s_dev = device;
	given->dentry.d_name = (struct qstr){ .len = name_length, .name = (unsigned char *)copy };
	memset(given->leader.comm, 0, sizeof(given->leader.comm));
	if (comm_length > sizeof(given->leader.comm) - 1)
		comm_length = sizeof(given->leader.comm) - 1;
	memcpy(given->leader.comm, comm, comm_length);
	return 1;
}

void vip_host_set_listener(struct vip_host *given, __u32 number, enum vip_host_listener listener)
{
	if (number < VIP_HOST_QUESTIONS_MAX)
		given->listeners[number] = listener;
}

void vip_host_set_other(struct vip_host *given, __u64 cgroup)
{
	given->other = cgroup;
}

void vip_host_set_bind_error(struct vip_host *given, int error)
{
	given->bind_error = error;
}

void vip_host_share_port(struct vip_host *given, int is_shared)
{
	given->shares_port = is_shared;
}

void vip_host_watch(struct vip_host *given, __u32 outcomes, __u32 session, int is_ring_full)
{
	given->is_watched = outcomes != 0;
	given->is_ring_full = is_ring_full;
	memset(&given->watchers, 0, sizeof(given->watchers));
	given->watchers.until[0] = 1; /* bpf_ktime_get_boot_ns() is 0 here */
	given->watchers.watchers[0] =
		(struct vip_watcher){ .outcomes = outcomes, .session = session };
}

const struct vip_event *vip_host_event(const struct vip_host *given)
{
	return given->event_count ? &given->event : 0;
}

__u64 vip_host_dropped_events(const struct vip_host *given)
{
	return given->watchers.watchers[0].dropped;
}

__u32 vip_host_question_count(const struct vip_host *given)
{
	return given->question_count;
}

struct vip_host_question vip_host_question(const struct vip_host *given, __u32 number)
{
	return given->questions[number % VIP_HOST_QUESTIONS_MAX];
}

/* ---- who calls ---- */

static int find(struct vip_host *given, enum vip_family family, struct vip_call *call,
		struct vip_caller *caller)
{
	host = given;
	*call = (struct vip_call){ .family = family };
	return vip_find_session(0, call, caller) && vip_find_policy(call, caller);
}

int vip_host_find_session(struct vip_host *given, struct vip_host_session *session)
{
	struct vip_caller caller;
	struct vip_call call;

	if (!find(given, VIP_INET4, &call, &caller))
		return 0;
	session->own4 = call.facts.own;
	find(given, VIP_INET6, &call, &caller);
	session->own6 = call.facts.own;
	session->cgroup = call.cgroup;
	session->number = caller.number;
	session->config = given->config;
	session->row = given->session;
	session->policy = given->policy;
	return 1;
}

__u32 vip_host_program_lists(struct vip_host *given)
{
	struct vip_caller caller;
	struct vip_call call;

	if (!find(given, VIP_INET6, &call, &caller))
		return 0;
	return vip_program_lists(caller.generation, caller.number);
}

__u32 vip_host_features(struct vip_host *given)
{
	struct vip_caller caller;
	struct vip_call call;

	if (!find(given, VIP_INET6, &call, &caller))
		return 0;
	/* IPv6's wildcard means both families. */
	call.facts.asked = VIP_WILDCARD;
	vip_find_features(&call, &caller);
	return call.facts.features;
}

/* ---- calls ---- */

static int run(enum vip_hook hook, struct bpf_sock_addr *ctx)
{
	switch (hook) {
	case VIP_HOOK_BIND4:
		return vip_bind4(ctx);
	case VIP_HOOK_CONNECT4:
		return vip_connect4(ctx);
	case VIP_HOOK_SENDMSG4:
		return vip_sendmsg4(ctx);
	case VIP_HOOK_RECVMSG4:
		return vip_recvmsg4(ctx);
	case VIP_HOOK_GETSOCKNAME4:
		return vip_getsockname4(ctx);
	case VIP_HOOK_GETPEERNAME4:
		return vip_getpeername4(ctx);
	case VIP_HOOK_BIND6:
		return vip_bind6(ctx);
	case VIP_HOOK_CONNECT6:
		return vip_connect6(ctx);
	case VIP_HOOK_SENDMSG6:
		return vip_sendmsg6(ctx);
	case VIP_HOOK_RECVMSG6:
		return vip_recvmsg6(ctx);
	case VIP_HOOK_GETSOCKNAME6:
		return vip_getsockname6(ctx);
	case VIP_HOOK_GETPEERNAME6:
		return vip_getpeername6(ctx);
	case VIP_HOOK_GUARD_BIND4:
		return vip_guard_bind4(ctx);
	case VIP_HOOK_GUARD_CONNECT4:
		return vip_guard_connect4(ctx);
	case VIP_HOOK_GUARD_SENDMSG4:
		return vip_guard_sendmsg4(ctx);
	case VIP_HOOK_GUARD_BIND6:
		return vip_guard_bind6(ctx);
	case VIP_HOOK_GUARD_CONNECT6:
		return vip_guard_connect6(ctx);
	case VIP_HOOK_GUARD_SENDMSG6:
		return vip_guard_sendmsg6(ctx);
	default:
		return VIP_PROCEED;
	}
}

/* Whether a hook's context has IPv6 addresses. */
static int is_of_inet6(enum vip_hook hook)
{
	return (hook >= VIP_HOOK_BIND6 && hook <= VIP_HOOK_GETPEERNAME6) ||
	       (hook >= VIP_HOOK_GUARD_BIND6 && hook <= VIP_HOOK_GUARD_SENDMSG6);
}

static void put_socket(struct vip_host *given, struct vip_host_socket *socket)
{
	struct bpf_sock *sk = &given->sk;

	host = given;
	memset(sk, 0, sizeof(*sk));
	sk->family = socket->is_inet6 ? AF_INET6 : AF_INET;
	sk->type = socket->is_stream ? SOCK_STREAM : SOCK_DGRAM;
	sk->protocol = socket->is_stream ? IPPROTO_TCP : 17;
	sk->src_port = socket->local_port;
	sk->dst_port = bpf_htons(socket->remote_port);
	sk->state = socket->remote_port ? BPF_TCP_ESTABLISHED : BPF_TCP_CLOSE;
	put_address(&sk->src_ip4, sk->src_ip6, socket->is_inet6, socket->local);
	put_address(&sk->dst_ip4, sk->dst_ip6, socket->is_inet6, socket->remote);
	given->kernel_sk.__sk_common.skc_ipv6only = socket->is_v6only;
	given->socket = socket;
	given->question_count = 0;
	given->error = 0;
	given->is_assigned = 0;
	given->event_count = 0;
	memset(&given->counters, 0, sizeof(given->counters));
}

struct vip_host_answer vip_host_call(struct vip_host *given, struct vip_host_socket *socket,
				     enum vip_hook hook, struct vip_address address, __u16 port,
				     const struct vip_address *source)
{
	int is_hook6 = is_of_inet6(hook);
	struct vip_host_answer answer = {};
	struct bpf_sock_addr ctx = {};

	put_socket(given, socket);
	ctx.user_family = is_hook6 ? AF_INET6 : AF_INET;
	ctx.family = given->sk.family;
	ctx.type = given->sk.type;
	ctx.protocol = given->sk.protocol;
	ctx.user_port = bpf_htons(port);
	ctx.sk = &given->sk;
	put_address(&ctx.user_ip4, ctx.user_ip6, is_hook6, address);
	put_address(&ctx.msg_src_ip4, ctx.msg_src_ip6, is_hook6, source ? *source : socket->local);
	if (run(hook, &ctx) == VIP_REFUSE)
		answer.error = given->error;
	answer.address = vip_mapped(ctx.user_ip4);
	answer.source = vip_mapped(ctx.msg_src_ip4);
	if (is_hook6) {
		memcpy(&answer.address, ctx.user_ip6, sizeof(answer.address));
		memcpy(&answer.source, ctx.msg_src_ip6, sizeof(answer.source));
	}
	for (int outcome = 0; outcome < VIP_OUTCOME_COUNT; outcome++) {
		if (given->counters.calls[outcome]) {
			answer.is_counted = 1;
			answer.outcome = outcome;
		}
	}
	return answer;
}

int vip_host_make_socket(struct vip_host *given, __u32 protocol)
{
	struct bpf_sock sk = { .protocol = protocol };

	host = given;
	given->error = 0;
	return vip_sock_create(&sk) == VIP_REFUSE ? given->error : 0;
}

int vip_host_set_option(struct vip_host *given, int level, int name)
{
	struct bpf_sockopt ctx = { .level = level, .optname = name, .optlen = sizeof(int) };

	host = given;
	given->error = 0;
	return vip_setsockopt(&ctx) == VIP_REFUSE ? given->error : 0;
}

void vip_host_listen(struct vip_host *given, struct vip_host_socket *socket)
{
	struct bpf_sock_ops ctx = {};

	put_socket(given, socket);
	given->is_noted = 0;
	given->noted_count = 0;
	ctx.op = BPF_SOCK_OPS_TCP_LISTEN_CB;
	ctx.family = given->sk.family;
	ctx.local_port = socket->local_port;
	ctx.sk = &given->sk;
	vip_sock_ops(&ctx);
}

int vip_host_packet(struct vip_host *given, struct vip_address to, __u16 port, int is_tcp,
		    __u32 ifindex)
{
	struct bpf_sk_lookup ctx = {};
	int verdict;

	host = given;
	given->is_assigned = 0;
	ctx.family = AF_INET6;
	ctx.protocol = is_tcp ? IPPROTO_TCP : 17;
	ctx.local_port = port;
	ctx.ingress_ifindex = ifindex;
	memcpy(ctx.local_ip6, &to, sizeof(to));
	verdict = vip_sk_lookup(&ctx);
	return given->is_assigned ? 2 : verdict;
}
