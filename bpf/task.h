/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The calling process: its executable and its name. */
#ifndef VIP_BPF_TASK_H
#define VIP_BPF_TASK_H

#include "abi.h"
#include "kernel.h"

struct vip_executable {
	__u64 inode;
	__u32 device;	       /* of the superblock, kernel dev_t */
	struct dentry *dentry; /* under which it was started; renaming it changes its name */
};

/* Zero for a kernel thread, which has no executable. */
static __always_inline int vip_find_executable(struct task_struct *task,
					       struct vip_executable *executable)
{
	struct mm_struct *mm = task->mm;
	struct file *file;
	struct inode *inode;

	if (!mm)
		return 0;
	file = mm->exe_file;
	if (!file)
		return 0;
	inode = file->f_inode;
	executable->inode = inode->i_ino;
	executable->device = inode->i_sb->s_dev;
	executable->dentry = file->f_path.dentry;
	return 1;
}

/*
 * The name of the process, which is its thread-group leader's. It is read in two loads, without a helper: for a program
 * that renames itself meanwhile, this call may see half of each name.
 */
static __always_inline void vip_read_process_name(struct task_struct *task, char name[VIP_COMM_MAX])
{
	const __u64 *comm = (const __u64 *)task->group_leader->comm;
	__u64 words[2] = { comm[0], comm[1] };

	__builtin_memcpy(name, words, sizeof(words));
}

#endif
