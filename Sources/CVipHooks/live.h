/* SPDX-License-Identifier: Apache-2.0 */
/* Look-ups in the live maps. Apart from hooks.c, whose helpers are called like libbpf's functions. */
#pragma once

#include "vip_hooks.h"

struct live_maps {
	int descriptors[VIP_HOST_MAPS];
	int error; /* errno of the first look-up that failed */
};

/* `context` is a struct live_maps. */
int live_look_up(void *context, enum vip_host_map map, const void *key, void *row);
