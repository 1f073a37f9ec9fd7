/* SPDX-License-Identifier: Apache-2.0 */
/* Extended attributes, xattr(7), and file handles, which Swift's Glibc module does not have. */
#pragma once

#include <stdint.h>

/*
 * Gives the file `to` the extended attributes of `from`, access control lists and security labels
 * included. Returns 0, or -1 with errno; a file system without attributes is no error.
 */
int vip_copy_attributes(int from, int to);

/*
 * The directory of the cgroup with this ID (kernel 5.5), as a descriptor; -1 and errno on failure, ESTALE if
 * it was removed. Needs CAP_DAC_READ_SEARCH.
 *
 * mount: a descriptor of a directory of cgroup v2.
 */
int vip_cgroup_open(int mount, uint64_t id);
