/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process's arguments, as main() gets them. Swift reads them from /proc/self/cmdline, and finds none where /proc is
 * not mounted.
 */
#pragma once

int vip_argument_count(void);

/* NULL-terminated. */
char **vip_arguments(void);
