/* SPDX-License-Identifier: Apache-2.0 */
/* Names of errors: Swift's Glibc module does not have them (glibc 2.32). */
#pragma once

/* The name of an errno, such as "EADDRINUSE"; NULL if it has none. See strerrorname_np(3). */
const char *vip_errno_name(int error);
