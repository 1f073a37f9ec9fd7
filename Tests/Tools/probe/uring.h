/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

/*
 * Socket calls in the way that `path_choose` set: by system calls, the default, or by io_uring.
 * They return and set errno like the system calls.
 */

/*
 * `syscall`, or io_uring: `uring` in the calling thread, `uring-async` in a worker of the kernel
 * (IOSQE_ASYNC), `uring-sqpoll` in the kernel thread that polls the queue (IORING_SETUP_SQPOLL).
 * Any other word returns −1 and EINVAL.
 */
int path_choose(const char *path);

int path_bind(int fd, const struct sockaddr *address, socklen_t length);
int path_listen(int fd, int backlog);
int path_connect(int fd, const struct sockaddr *address, socklen_t length);
int path_accept(int fd, struct sockaddr *address, socklen_t *length, int flags);
ssize_t path_send(int fd, const void *data, size_t length, int flags);
ssize_t path_sendto(int fd, const void *data, size_t length, int flags,
		    const struct sockaddr *address, socklen_t address_length);
ssize_t path_sendmsg(int fd, const struct msghdr *message, int flags);
/* With an address buffer or, if `address` is NULL, without one. */
ssize_t path_recvfrom(int fd, void *data, size_t length, int flags, struct sockaddr *address,
		      socklen_t *address_length);
ssize_t path_recvmsg(int fd, struct msghdr *message, int flags);
