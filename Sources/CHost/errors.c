/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "errors.h"

#include <string.h>

const char *vip_errno_name(int error)
{
	return strerrorname_np(error);
}
