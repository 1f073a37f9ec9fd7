/* SPDX-License-Identifier: Apache-2.0 */
/* This file has only its header: SwiftPM requires a source file in each C target. */
#include "vip_abi.h"
