/* SPDX-License-Identifier: Apache-2.0 */
#include "arguments.h"

static int count;
static char **vector;

/* glibc passes main()'s parameters to constructors. */
__attribute__((constructor)) static void keep_arguments(int argc, char **argv)
{
	count = argc;
	vector = argv;
}

int vip_argument_count(void)
{
	return count;
}

char **vip_arguments(void)
{
	return vector;
}
