/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors that only wake somebody: their flags are of types that Swift cannot combine. */
#pragma once

#include <sys/eventfd.h>

/* eventfd(2) that does not block; -1 and errno on failure. Its flags are of a type of their own. */
static inline int vip_eventfd(void)
{
	return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}
