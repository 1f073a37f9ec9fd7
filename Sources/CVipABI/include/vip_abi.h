/* SPDX-License-Identifier: Apache-2.0 */
/* The one definition of the maps' contents that the kernel side and Swift share, as a module. */
#pragma once

#include "../../../bpf/abi.h"
#include "../../../bpf/discover.h"
#include "../../../bpf/translate.h"
