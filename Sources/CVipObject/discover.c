/* SPDX-License-Identifier: Apache-2.0 */
#include "vip_object.h"

#pragma clang diagnostic ignored \
	"-Wc23-extensions" /* #embed, which SwiftPM has no language standard for */

_Alignas(8) static const unsigned char bytes[] = {
#embed "../../bpf/discover.bpf.o"
};

const unsigned char *vip_discover_object_bytes(size_t *size)
{
	*size = sizeof(bytes);
	return bytes;
}
