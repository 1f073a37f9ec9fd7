/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "uring.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>

/* In Linux since 6.11, in liburing since 2.7. */
enum { OP_BIND = 56, OP_LISTEN = 57 };

#define ENTRIES 8
#define SQPOLL_IDLE_MS 1000
#define TIMEOUT_S 100 /* as in main.c; io_uring ignores SO_RCVTIMEO */

static struct io_uring ring;
static bool is_ring, is_op_bind;
static unsigned int flags_of_all;

int path_choose(const char *path)
{
	struct io_uring_params parameters = { .sq_thread_idle = SQPOLL_IDLE_MS };
	struct io_uring_probe *probe;
	int result;

	flags_of_all = !strcmp(path, "uring-async") ? IOSQE_ASYNC : 0;
	if (!strcmp(path, "uring-sqpoll"))
		parameters.flags = IORING_SETUP_SQPOLL;
	else if (strcmp(path, "syscall") && strcmp(path, "uring") && !flags_of_all) {
		errno = EINVAL;
		return -1;
	}
	if (is_ring)
		io_uring_queue_exit(&ring);
	is_ring = false;
	if (!strcmp(path, "syscall"))
		return 0;
	result = io_uring_queue_init_params(ENTRIES, &ring, &parameters);
	if (result) {
		errno = -result;
		return -1;
	}
	is_ring = true;
	/* Programs on an older kernel use the system call. */
	probe = io_uring_get_probe_ring(&ring);
	is_op_bind = probe && io_uring_opcode_supported(probe, OP_BIND) &&
		     io_uring_opcode_supported(probe, OP_LISTEN);
	if (probe)
		io_uring_free_probe(probe);
	return 0;
}

/* The result of the one request, whose time is limited. */
static int complete(struct io_uring_sqe *sqe)
{
	struct __kernel_timespec time = { .tv_sec = TIMEOUT_S };
	struct io_uring_cqe *cqe;
	int result;

	sqe->flags |= flags_of_all;
	io_uring_sqe_set_data64(sqe, 1);
	result = io_uring_submit(&ring);
	if (result >= 0)
		result = io_uring_wait_cqe_timeout(&ring, &cqe, &time);
	if (result == -ETIME) {
		sqe = io_uring_get_sqe(&ring);
		io_uring_prep_cancel64(sqe, 1, 0);
		io_uring_sqe_set_data64(sqe, 2);
		io_uring_submit(&ring);
		/*
		 * Two completions, that of the cancellation and that of the cancelled request, in any order.
		 */
		for (int i = 0; i < 2 && !io_uring_wait_cqe_timeout(&ring, &cqe, &time); i++)
			io_uring_cqe_seen(&ring, cqe);
		result = -EAGAIN;
	} else if (result >= 0) {
		result = cqe->res;
		io_uring_cqe_seen(&ring, cqe);
	}
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

int path_bind(int fd, const struct sockaddr *address, socklen_t length)
{
	struct io_uring_sqe *sqe;

	if (!is_ring || !is_op_bind)
		return bind(fd, address, length);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_rw(OP_BIND, sqe, fd, address, 0, length);
	return complete(sqe);
}

int path_listen(int fd, int backlog)
{
	struct io_uring_sqe *sqe;

	if (!is_ring || !is_op_bind)
		return listen(fd, backlog);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_rw(OP_LISTEN, sqe, fd, NULL, (unsigned int)backlog, 0);
	return complete(sqe);
}

int path_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	struct io_uring_sqe *sqe;

	if (!is_ring)
		return connect(fd, address, length);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_connect(sqe, fd, address, length);
	return complete(sqe);
}

int path_accept(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	struct io_uring_sqe *sqe;

	if (!is_ring)
		return accept4(fd, address, length, flags);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_accept(sqe, fd, address, length, flags);
	return complete(sqe);
}

ssize_t path_send(int fd, const void *data, size_t length, int flags)
{
	struct io_uring_sqe *sqe;

	if (!is_ring)
		return send(fd, data, length, flags);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_send(sqe, fd, data, length, flags);
	return complete(sqe);
}

ssize_t path_sendmsg(int fd, const struct msghdr *message, int flags)
{
	struct io_uring_sqe *sqe;

	if (!is_ring)
		return sendmsg(fd, message, flags);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_sendmsg(sqe, fd, message, (unsigned int)flags);
	return complete(sqe);
}

/* Waits for a connection to be established; −1 and errno if it fails. */
static int finish_connect(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLOUT };
	int error = ETIMEDOUT;
	socklen_t length = sizeof(error);

	if (poll(&wait, 1, TIMEOUT_S * 1000) > 0 &&
	    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length))
		return -1;
	errno = error;
	return error ? -1 : 0;
}

ssize_t path_sendto(int fd, const void *data, size_t length, int flags,
		    const struct sockaddr *address, socklen_t address_length)
{
	struct iovec part = { .iov_base = (void *)data, .iov_len = length };
	struct msghdr message = { .msg_name = (void *)address,
				  .msg_namelen = address_length,
				  .msg_iov = &part,
				  .msg_iovlen = 1 };

	ssize_t result;

	if (!is_ring)
		return sendto(fd, data, length, flags, address, address_length);
	result = path_sendmsg(fd, &message, flags);
	if (!(flags & MSG_FASTOPEN) || (result < 0 && errno != EINPROGRESS))
		return result;
	/*
	 * io_uring does not wait for the connection, but the system call does. Without a cookie nothing is
	 * sent.
	 */
	if (finish_connect(fd))
		return -1;
	return result < 0 ? path_send(fd, data, length, flags & ~MSG_FASTOPEN) : result;
}

/* io_uring waits even on an O_NONBLOCK descriptor, unless the request forbids it. */
static int without_waiting(int fd)
{
	return fcntl(fd, F_GETFL) & O_NONBLOCK ? MSG_DONTWAIT : 0;
}

ssize_t path_recvmsg(int fd, struct msghdr *message, int flags)
{
	struct io_uring_sqe *sqe;

	if (!is_ring)
		return recvmsg(fd, message, flags);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_recvmsg(sqe, fd, message, (unsigned int)(flags | without_waiting(fd)));
	return complete(sqe);
}

ssize_t path_recvfrom(int fd, void *data, size_t length, int flags, struct sockaddr *address,
		      socklen_t *address_length)
{
	struct iovec part = { .iov_base = data, .iov_len = length };
	struct msghdr message = { .msg_name = address,
				  .msg_namelen = address_length ? *address_length : 0,
				  .msg_iov = &part,
				  .msg_iovlen = 1 };
	struct io_uring_sqe *sqe;
	ssize_t result;

	if (!is_ring)
		return recvfrom(fd, data, length, flags, address, address_length);
	if (!address) {
		sqe = io_uring_get_sqe(&ring);
		io_uring_prep_recv(sqe, fd, data, length, flags | without_waiting(fd));
		return complete(sqe);
	}
	result = path_recvmsg(fd, &message, flags);
	*address_length = message.msg_namelen;
	return result;
}
