/* SPDX-License-Identifier: Apache-2.0 */
/* The definition of the maps' contents, as a module for Swift. The BPF programs include the same file. */
#pragma once

#include "../../../bpf/abi.h"
#include "../../../bpf/discover.h"
#include "../../../bpf/translate.h"
