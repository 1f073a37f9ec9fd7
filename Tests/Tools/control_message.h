/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <string.h>
#include <sys/socket.h>

/* Fills in one control message, for which the caller has provided room. */
static inline void set_control(struct msghdr *message, int level, int type, const void *data,
			       size_t size)
{
	struct cmsghdr *header = CMSG_FIRSTHDR(message);

	header->cmsg_level = level;
	header->cmsg_type = type;
	header->cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(header), data, size);
	message->msg_controllen = CMSG_SPACE(size);
}
