/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which program is calling, and which of V, L and P apply to it. */
#ifndef VIP_BPF_PROGRAM_H
#define VIP_BPF_PROGRAM_H

#include "kernel.h"
#include "session.h"

static __always_inline void vip_join(struct vip_verdict *verdict, const struct vip_listing *listing,
				     __u32 bank)
{
	if (!listing)
		return;
	for (int i = 0; i < VIP_LIST_COUNT; i++)
		verdict->lists[i] |= listing->lists[bank][i];
}

/*
 * The three look-ups of a program that has no verdict yet, or one of an older generation: by its
 * thread-group leader's name (a script is known by no other), by its file, by its executable's name. Not
 * inlined: it runs once for a program and generation, and must not weigh on the calls after it.
 */
static __noinline int vip_judge(const struct vip_program *program, const unsigned char *name,
				__u32 name_length, __u32 generation, struct vip_verdict *verdict)
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
 * The lists of a session's policy that the calling program is on: bit 1 << enum vip_list. A global function,
 * so that the verifier goes through it once.
 */
__noinline __u32 vip_listed(__u32 generation, __u32 number)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct vip_verdict fresh = {};
	const struct vip_verdict *verdict;
	struct vip_program program = {};
	struct dentry *dentry;
	struct inode *inode;
	struct mm_struct *mm;
	struct file *exe;
	const __u64 *comm;
	__u64 name[2];
	__u32 listed = 0;

	mm = task->mm;
	if (!mm) /* a kernel thread */
		return 0;
	exe = mm->exe_file;
	if (!exe)
		return 0;
	inode = exe->f_inode;
	dentry = exe->f_path.dentry;
	program.inode = inode->i_ino;
	program.device = inode->i_sb->s_dev;
	program.name_hash = dentry->d_name.hash;
	/*
	 * The 16 bytes in two loads and no helper. A program that renames itself meanwhile may be seen
	 * with half of each name, for this call.
	 */
	comm = (const __u64 *)task->group_leader->comm;
	name[0] = comm[0];
	name[1] = comm[1];
	__builtin_memcpy(program.comm, name, sizeof(program.comm));

	verdict = bpf_map_lookup_elem(&verdicts, &program);
	if (!verdict || verdict->generation != generation) {
		vip_judge(&program, dentry->d_name.name, dentry->d_name.len, generation, &fresh);
		verdict = &fresh;
	}
	for (int i = 0; i < VIP_LIST_COUNT; i++)
		listed |= ((verdict->lists[i] >> number) & 1) << i;
	return listed;
}

/*
 * The outcome of a call that is left as it is, where V is off and the policy says useHostAddress. If it is off
 * for want of an address alone, the world sees the host's. A global function, so that what it comes to is
 * just a number to the verifier, and does not double the paths after it.
 */
__noinline int vip_without_address(__u32 flags, __u32 listed, enum vip_place asked, __u32 has)
{
	if (vip_has_address(asked, has) || (asked != VIP_WILDCARD && asked != VIP_DUAL_WILDCARD &&
					    asked != VIP_HOST_ADDRESS && asked != VIP_ELSEWHERE))
		return VIP_SEEN;
	return vip_features(flags, listed, 1) & VIP_V ? VIP_UNADDRESSED : VIP_SEEN;
}

/* What holds for the calling program, in a call that asks for `asked`. */
static __always_inline __u32 vip_features_of(struct vip_caller *caller, const struct vip_own *own,
					     enum vip_place asked)
{
	__u32 flags = caller->policy->flags, listed, features;

	listed = flags & VIP_POLICY_LISTS ? vip_listed(caller->generation, caller->number) : 0;
	features = vip_features(flags, listed, vip_has_address(asked, own->has));
	if ((flags & VIP_POLICY_USE_HOST_ADDRESS) && !(features & VIP_V))
		caller->unchanged = vip_without_address(flags, listed, asked, own->has);
	return features;
}

#endif
