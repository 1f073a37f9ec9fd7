/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>

/* bpf/vip.bpf.o, aligned to 8 bytes for libelf. A function, because an unbounded array does not import. */
const unsigned char *vip_object_bytes(size_t *size);

/* SHA-256 of those bytes in hexadecimal, 64 characters, as the Makefile computed it. */
const char *vip_object_id(void);

/* bpf/discover.bpf.o, as vip_object_bytes(). */
const unsigned char *vip_discover_object_bytes(size_t *size);
