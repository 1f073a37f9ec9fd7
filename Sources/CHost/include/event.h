/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors that wake a waiting thread. They are in C because Swift cannot combine their flags. */
#pragma once

#include <sys/epoll.h>
#include <sys/eventfd.h>

/* A nonblocking eventfd(2); -1 and errno on failure. Its flags have their own enum type. */
static inline int vip_eventfd(void)
{
	return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

/* epoll_create1(2), close-on-exec; -1 and errno on failure. Swift's Glibc module has no epoll(7). */
static inline int vip_epoll(void)
{
	return epoll_create1(EPOLL_CLOEXEC);
}

/* Makes an epoll descriptor readable while another one is; -1 and errno on failure. */
static inline int vip_epoll_add(int epoll, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data = { .fd = fd } };

	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}
