/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which program is calling, and which of V, L and P apply to it. */
#ifndef VIP_BPF_PROGRAM_H
#define VIP_BPF_PROGRAM_H

#include "session.h"
#include "task.h"

static __always_inline void vip_join(struct vip_verdict *verdict, const struct vip_listing *listing,
				     __u32 bank)
{
	if (!listing)
		return;
	for (int i = 0; i < VIP_LIST_COUNT; i++)
		verdict->lists[i] |= listing->lists[bank][i];
}

/*
 * The three look-ups of a program that has no verdict yet, or one of an older generation: by the process's name (a
 * script has no other), by its file, by its executable's name. It is not inlined: it runs once for each program and
 * generation, and must not make the calls after it slower.
 */
static __noinline int vip_evaluate_program(const struct vip_program *program,
					   const unsigned char *name, __u32 name_length,
					   __u32 generation, struct vip_verdict *verdict)
{
	struct vip_program_file file = { .inode = program->inode, .device = program->device };
	__u32 bank = generation & 1;

	verdict->generation = generation;
	vip_join(verdict, bpf_map_lookup_elem(&program_scripts, program->comm), bank);
	if (bpf_probe_read_kernel_str(file.name, sizeof(file.name), name) > 0) {
		vip_join(verdict, bpf_map_lookup_elem(&program_files, &file), bank);
		/* A longer name would match one that agrees in its first 63 bytes. */
		if (name_length < VIP_NAME_MAX)
			vip_join(verdict, bpf_map_lookup_elem(&program_names, file.name), bank);
	}
	bpf_map_update_elem(&verdicts, program, verdict, BPF_ANY);
	return 0;
}

/*
 * The lists of policy `number` that the calling program is on: bit 1 << enum vip_list. A global function, so that the
 * verifier goes through it once.
 */
__noinline __u32 vip_program_lists(__u32 generation, __u32 number)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct vip_executable executable;
	struct vip_verdict fresh = {};
	const struct vip_verdict *verdict;
	struct vip_program program = {};
	__u32 listed = 0;

	if (!vip_find_executable(task, &executable))
		return 0;
	program.inode = executable.inode;
	program.device = executable.device;
	program.name_hash = executable.dentry->d_name.hash;
	vip_read_process_name(task, program.comm);

	verdict = bpf_map_lookup_elem(&verdicts, &program);
	if (!verdict || verdict->generation != generation) {
		vip_evaluate_program(&program, executable.dentry->d_name.name,
				     executable.dentry->d_name.len, generation, &fresh);
		verdict = &fresh;
	}
	for (int i = 0; i < VIP_LIST_COUNT; i++)
		listed |= ((verdict->lists[i] >> number) & 1) << i;
	return listed;
}

/* A global function, so that its result is just a number to the verifier, and does not double the paths after it. */
__noinline int vip_unchanged(__u32 flags, __u32 listed, enum vip_addr_class asked, __u32 has)
{
	return vip_outcome_unchanged(flags, listed, asked, has);
}

/* Which features apply to the calling program, in a call that asks for facts.asked. */
static __always_inline void vip_find_features(struct vip_call *call,
					      const struct vip_caller *caller)
{
	struct vip_facts *facts = &call->facts;
	__u32 listed = 0;

	if (facts->flags & VIP_POLICY_LISTS)
		listed = vip_program_lists(caller->generation, caller->number);
	facts->features =
		vip_features(facts->flags, listed, vip_has_address(facts->asked, facts->own.has));
	if ((facts->flags & VIP_POLICY_USE_HOST_ADDRESS) && !(facts->features & VIP_V))
		facts->unchanged =
			vip_unchanged(facts->flags, listed, facts->asked, facts->own.has);
}

#endif
