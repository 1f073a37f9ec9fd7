/* SPDX-License-Identifier: Apache-2.0 */
#include "live.h"

#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int live_look_up(void *context, enum vip_host_map map, const void *key, void *row)
{
	struct live_maps *maps = context;
	union bpf_attr attributes;

	memset(&attributes, 0, sizeof(attributes));
	attributes.map_fd = maps->descriptors[map];
	attributes.key = (unsigned long)key;
	attributes.value = (unsigned long)row;
	if (!syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &attributes, sizeof(attributes)))
		return 1;
	if (errno != ENOENT && !maps->error)
		maps->error = errno;
	return 0;
}
