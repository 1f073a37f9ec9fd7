/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The helpers, as libbpf declares them. On the host, Sources/CVipHooks/shim.h stands in for them. */
#ifndef VIP_BPF_HELPERS_H
#define VIP_BPF_HELPERS_H

#include <linux/bpf.h>

#ifdef __bpf__
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#endif

#endif
