/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "file.h"

#include <fcntl.h>
#include <string.h>

int vip_cgroup_open(int mount, uint64_t id)
{
	/* The handle of a kernfs file is its ID, of a type that no header has: FILEID_KERNFS, fs/kernfs/mount.c. */
	union {
		struct file_handle handle;
		char bytes[sizeof(struct file_handle) + sizeof(id)];
	} name = { .handle = { .handle_bytes = sizeof(id), .handle_type = 0xfe } };

	memcpy(name.handle.f_handle, &id, sizeof(id));
	return open_by_handle_at(mount, &name.handle, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}
