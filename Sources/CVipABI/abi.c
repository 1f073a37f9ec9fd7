/* SPDX-License-Identifier: Apache-2.0 */
/* Nothing but its header: SwiftPM wants one source file a C target. */
#include "vip_abi.h"
