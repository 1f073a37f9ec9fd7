/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What becomes of a call is counted, and told to those who listen. */
#ifndef VIP_BPF_WATCH_H
#define VIP_BPF_WATCH_H

#include "kernel.h"
#include "session.h"
#include "socket.h"

static __always_inline void vip_count(enum vip_hook hook, enum vip_outcome outcome)
{
	__u32 key = hook;
	struct vip_counters *row = bpf_map_lookup_elem(&counters, &key);
	__u32 which = outcome;

	if (!row) /* the verifier does not know that the key is in range */
		return;
	/* One CPU's own row; a preempted increment may be lost, which a counter can bear. */
	/* clang would leave out a mask that it knows to change nothing, and the verifier wants it. */
	asm volatile("" : "+r"(which));
	row->calls[which & (VIP_OUTCOMES_MAX - 1)]++;
}

/* What vip_tell cannot find out: it is one function for all hooks, and each may read its own fields only. */
struct vip_call {
	struct vip_address asked, got, source;
	__u64 cgroup;
	__u32 session;
	__u16 error;
	__u8 hook;
	__u8 outcome;
};

static __always_inline struct vip_watchers *vip_watchers(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&watchers, &zero);
}

/* Every byte of the record, which the ring does not clear. */
static __always_inline void vip_describe(struct vip_event *event, struct bpf_sock_addr *ctx,
					 const struct vip_call *call, __u64 now)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const __u64 *comm = (const __u64 *)task->group_leader->comm;
	struct mm_struct *mm = task->mm;
	volatile struct bpf_sock_addr *asking = ctx;
	__u64 name[2] = { comm[0], comm[1] };
	struct file *exe;

	event->time = now;
	event->cgroup = call->cgroup;
	event->session = call->session;
	event->tgid = task->tgid;
	event->uid = bpf_get_current_uid_gid();
	event->error = call->error;
	event->protocol = asking->protocol;
	event->hook = call->hook;
	event->outcome = call->outcome;
	event->family = asking->family;
	event->reserved = 0;
	event->asked_port = asking->user_port;
	event->got_port = event->asked_port; /* no hook changes it */
	event->asked = call->asked;
	event->got = call->got;
	event->source = call->source;
	__builtin_memcpy(event->comm, name, sizeof(event->comm));
	__builtin_memset(event->program, 0, sizeof(event->program));
	if (!mm) /* a kernel thread */
		return;
	exe = mm->exe_file;
	if (exe)
		bpf_probe_read_kernel_str(event->program, sizeof(event->program),
					  exe->f_path.dentry->d_name.name);
}

/* Tells those who want it. Runs only while somebody listens; a global function, so it is verified once. */
__noinline int vip_tell(struct bpf_sock_addr *ctx, const struct vip_call *call)
{
	struct vip_watchers *row = vip_watchers();
	__u64 now = bpf_ktime_get_boot_ns();

	if (!row || !call)
		return 0;
	for (__u32 slot = 0; slot < VIP_WATCHERS_MAX; slot++) {
		__u64 until = *(volatile __u64 *)&row->until[slot];
		struct vip_watcher *watcher = &row->watchers[slot];
		struct vip_event *event;
		__u32 key = slot;
		void *ring;

		if (!until)
			continue;
		if (until < now) { /* it ended without a word; unless it is back this very moment */
			__sync_val_compare_and_swap(&row->until[slot], until, 0);
			continue;
		}
		if (!(watcher->outcomes >> (call->outcome & 31) & 1) ||
		    (watcher->session && watcher->session != call->session))
			continue;
		ring = bpf_map_lookup_elem(&watcher_rings, &key);
		if (!ring)
			continue;
		event = bpf_ringbuf_reserve(ring, sizeof(*event), 0);
		if (!event) {
			__sync_fetch_and_add(&watcher->dropped, 1);
			continue;
		}
		vip_describe(event, ctx, call, now);
		bpf_ringbuf_submit(event, 0);
		__sync_fetch_and_add(&watcher->written, 1);
	}
	return 0;
}

/*
 * The end of every call of a session that came as far as a decision, after the answer is stored. `asked` is
 * the address that it named. With nobody listening the telling is four loads of one cache line.
 */
static __always_inline void vip_done(struct bpf_sock_addr *ctx, enum vip_family family,
				     enum vip_hook hook, const struct vip_caller *caller,
				     struct vip_address asked, enum vip_outcome outcome, int error)
{
	const struct vip_watchers *row = vip_watchers();
	struct vip_call call;

	vip_count(hook, outcome);
	if (!row || !(row->until[0] | row->until[1] | row->until[2] | row->until[3]))
		return;
	call.asked = asked;
	/* All four words: an answer may be in another form than the question. */
	call.got = vip_asked(ctx, family == VIP_MAPPED ? VIP_INET6 : family);
	if (hook == VIP_HOOK_SENDMSG4 || hook == VIP_HOOK_SENDMSG6) {
		call.source = vip_message_source(ctx, family);
	} else if (hook == VIP_HOOK_CONNECT4 || hook == VIP_HOOK_CONNECT6) {
		struct bpf_sock *sk = vip_socket_of(ctx);

		call.source = sk ? vip_own_end(sk, family) : vip_wildcard(family);
	} else {
		call.source = vip_wildcard(family);
	}
	call.cgroup = caller->cgroup;
	call.session = caller->id;
	call.error = error;
	call.hook = hook;
	call.outcome = outcome;
	vip_tell(ctx, &call);
}

#endif
