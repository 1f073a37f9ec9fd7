/* SPDX-License-Identifier: Apache-2.0 */
/* Extended attributes, xattr(7): Swift's Glibc module has not got them. */
#pragma once

/*
 * Gives the file `to` the extended attributes of `from`, access control lists and security labels among
 * them. Returns 0, or -1 with errno; a file system that has none is fine.
 */
int vip_copy_attributes(int from, int to);
