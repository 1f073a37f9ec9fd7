/* SPDX-License-Identifier: Apache-2.0 */
#include "file.h"

#include <errno.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

int vip_copy_attributes(int from, int to)
{
	char *names = malloc(XATTR_LIST_MAX + XATTR_SIZE_MAX), *value = names + XATTR_LIST_MAX;
	ssize_t length;
	int result = 0;

	if (!names)
		return -1;
	length = flistxattr(from, names, XATTR_LIST_MAX);
	if (length < 0 && errno != ENOTSUP)
		result = -1;
	for (char *name = names; !result && name < names + length; name += strlen(name) + 1) {
		ssize_t size = fgetxattr(from, name, value, XATTR_SIZE_MAX);

		if (size < 0 || fsetxattr(to, name, value, (size_t)size, 0))
			result = -1;
	}
	free(names);
	return result;
}
