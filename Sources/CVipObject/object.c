/* SPDX-License-Identifier: Apache-2.0 */
#include "vip_object.h"

#pragma clang diagnostic ignored \
	"-Wc23-extensions" /* #embed, which SwiftPM has no language standard for */

_Alignas(8) static const unsigned char bytes[] = {
#embed "../../bpf/vip.bpf.o"
};

static const char id[] = {
#embed "../../bpf/vip.bpf.o.sha256" limit(64)
	, 0
};

const unsigned char *vip_object_bytes(size_t *size)
{
	*size = sizeof(bytes);
	return bytes;
}

const char *vip_object_id(void)
{
	return id;
}
