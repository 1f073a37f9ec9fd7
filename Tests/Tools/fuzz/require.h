/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What must hold for every input. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#define REQUIRE(condition)                                                                     \
	do {                                                                                   \
		if (!(condition)) {                                                            \
			fprintf(stderr, "line %d: does not hold: %s\n", __LINE__, #condition); \
			abort();                                                               \
		}                                                                              \
	} while (0)
