/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What becomes of a call: the counters, and the events for those who watch. */
#ifndef VIP_BPF_WATCH_H
#define VIP_BPF_WATCH_H

#include "session.h"
#include "task.h"

static __always_inline int vip_is_sendmsg(enum vip_hook hook)
{
	return hook == VIP_HOOK_SENDMSG4 || hook == VIP_HOOK_SENDMSG6 ||
	       hook == VIP_HOOK_GUARD_SENDMSG4 || hook == VIP_HOOK_GUARD_SENDMSG6;
}

static __always_inline int vip_is_bind(enum vip_hook hook)
{
	return hook == VIP_HOOK_BIND4 || hook == VIP_HOOK_BIND6;
}

static __always_inline int vip_is_connect(enum vip_hook hook)
{
	return hook == VIP_HOOK_CONNECT4 || hook == VIP_HOOK_CONNECT6 ||
	       hook == VIP_HOOK_GUARD_CONNECT4 || hook == VIP_HOOK_GUARD_CONNECT6;
}

static __always_inline void vip_count(enum vip_hook hook, enum vip_outcome outcome)
{
	__u32 key = hook;
	struct vip_counters *row = bpf_map_lookup_elem(&counters, &key);
	__u32 which = outcome;

	if (!row) /* the verifier does not know that the key is in range */
		return;
	/* The verifier wants the mask below, and clang would leave it out where it knows that it changes nothing. */
	asm volatile("" : "+r"(which));
	/* The row is this CPU's own. A preempted increment may be lost, which a counter can bear. */
	row->calls[which & (VIP_OUTCOMES_MAX - 1)]++;
}

/*
 * What vip_emit_event() cannot find out itself: it is one function for all hooks, and each of them may read only the
 * context's fields of its own attach type.
 */
struct vip_record {
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

/* It writes every byte of the event: the ring buffer does not clear it. */
static __always_inline void vip_fill_event(struct vip_event *event, struct bpf_sock_addr *ctx,
					   const struct vip_record *record, __u64 now)
{
	struct task_struct *task = bpf_get_current_task_btf();
	volatile struct bpf_sock_addr *fields = ctx;
	struct vip_executable executable;

	event->time = now;
	event->cgroup = record->cgroup;
	event->session = record->session;
	event->tgid = task->tgid;
	event->uid = bpf_get_current_uid_gid();
	event->error = record->error;
	event->protocol = fields->protocol;
	event->hook = record->hook;
	event->outcome = record->outcome;
	event->family = fields->family;
	event->reserved = 0;
	event->asked_port = fields->user_port;
	event->got_port = event->asked_port; /* no hook changes it */
	event->asked = record->asked;
	event->got = record->got;
	event->source = record->source;
	vip_read_process_name(task, event->comm);
	__builtin_memset(event->program, 0, sizeof(event->program));
	if (vip_find_executable(task, &executable))
		bpf_probe_read_kernel_str(event->program, sizeof(event->program),
					  executable.dentry->d_name.name);
}

/*
 * Writes an event for each watcher that wants it. It runs only while there is a watcher; it is a global function, so it
 * is verified once.
 */
__noinline int vip_emit_event(struct bpf_sock_addr *ctx, const struct vip_record *record)
{
	struct vip_watchers *row = vip_watchers();
	__u64 now = bpf_ktime_get_boot_ns();

	if (!row || !record)
		return 0;
	for (__u32 slot = 0; slot < VIP_WATCHERS_MAX; slot++) {
		__u64 until = *(volatile __u64 *)&row->until[slot];
		struct vip_watcher *watcher = &row->watchers[slot];
		struct vip_event *event;
		__u32 key = slot;
		void *ring;

		if (!until)
			continue;
		if (until <
		    now) { /* the watcher was killed; if it renews the slot right now, it keeps it */
			__sync_val_compare_and_swap(&row->until[slot], until, 0);
			continue;
		}
		if (!(watcher->outcomes >> (record->outcome & 31) & 1) ||
		    (watcher->session && watcher->session != record->session))
			continue;
		ring = bpf_map_lookup_elem(&watcher_rings, &key);
		if (!ring)
			continue;
		event = bpf_ringbuf_reserve(ring, sizeof(*event), 0);
		if (!event) {
			__sync_fetch_and_add(&watcher->dropped, 1);
			continue;
		}
		vip_fill_event(event, ctx, record, now);
		bpf_ringbuf_submit(event, 0);
		__sync_fetch_and_add(&watcher->written, 1);
	}
	return 0;
}

/*
 * Counts a decided call of a session, after the answer is stored. If nobody watches, the event costs four loads from
 * one cache line. `form` is that of the answer.
 */
static __always_inline void vip_account(struct bpf_sock_addr *ctx, const struct vip_call *call,
					enum vip_hook hook, enum vip_family form,
					enum vip_outcome outcome, int error)
{
	const struct vip_watchers *row = vip_watchers();
	struct vip_record record;

	vip_count(hook, outcome);
	if (!row || !(row->until[0] | row->until[1] | row->until[2] | row->until[3]))
		return;
	record.asked = call->facts.user_addr;
	record.got = vip_user_addr(ctx, form == VIP_INET4 ? VIP_INET4 : VIP_INET6);
	record.source = vip_wildcard(form);
	if (vip_is_sendmsg(hook)) {
		record.source = vip_message_source(ctx, form);
	} else if (vip_is_connect(hook)) {
		struct bpf_sock *sk = vip_socket_of(ctx);

		if (sk)
			record.source = vip_local_addr(sk, form);
	}
	record.cgroup = call->cgroup ? call->cgroup : bpf_get_current_cgroup_id();
	record.session = call->facts.own.id;
	record.error = error;
	record.hook = hook;
	record.outcome = outcome;
	vip_emit_event(ctx, &record);
}

#endif
