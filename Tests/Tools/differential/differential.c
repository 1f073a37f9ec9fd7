/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vip-differential: does a program in a session see what it would see outside of one?
 *
 * Makes random sequences of socket calls, runs each of them in a session and in a network namespace with
 * nothing attached, and compares what every call gave back: result, errno, address, data. What the contract
 * renames is renamed first, and ephemeral ports are numbered as they appear. A sequence that differs is run
 * again, slowly, so that what only came late is not taken for a difference; then it is shrunk to the fewest
 * and plainest calls that still differ, and printed as a script that --replay takes, in the words of vip-probe.
 *
 *   socket a tcp 4                      bind a 127.0.0.1 9001
 *   listen a                            getsockname a
 *
 * An address may also be @a, what getsockname says of socket a, or ^a, the peer that accept, recvfrom or
 * getpeername last told a; then a port of @ or ^ is that one's. Ports 9001 to 9003 stand for three that nobody has. After
 * ADDRESS PORT may come `short` (a sockaddr that is cut off), `family` (of the wrong family), `unspec` (AF_UNSPEC).
 *
 * scripts/differential makes the two places; this program is told where they are.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262 /* include/uapi/linux/in.h, since Linux 5.6; not in every libc's header */
#endif

#define SLOTS 8	      /* sockets of one sequence: a to h */
#define CALLS_MAX 48  /* calls of one sequence */
#define RANDOM_MAX 26 /* of them, those that are drawn; then every socket is asked what it knows */
#define DATA_MAX 8    /* bytes of a datagram that are looked at; what we send is shorter */
#define SETTLE_MS \
	3 /* slow runs: between two calls, for what the kernel does on its own (MPTCP's worker) */
#define ARRIVAL_MS 30	/* slow runs: the longest that something on its way is waited for */
#define FOUND_MAX 64	/* differences of one run that are told apart */
#define PORT_SHOWN 9001 /* to 9003: what a script calls the three ports */
#define PORT_FIRST \
	2000 /* the real ones move with each sequence: what closes slowly is in nobody's way */
#define PORT_BLOCKS 9000 /* of three; below ip_local_port_range as scripts/differential sets it */

/* ---- calls ---- */

enum kind {
	SOCKET,
	SETSOCKOPT,
	BIND,
	LISTEN,
	CONNECT,
	DISCONNECT,
	ACCEPT,
	ACCEPT_NOADDR,
	GETSOCKNAME,
	GETPEERNAME,
	SEND,
	SENDTO,
	FASTOPEN,
	SENDMSG_PKTINFO,
	RECV,
	RECVFROM,
	SHUTDOWN,
	SO_ERROR_OF,
	DUP,
	CLOSE,
	KINDS
};

/* What follows the socket's name: o option, a address and port, s source, b another socket's name, t text, d direction. */
static const struct {
	const char *name, *arguments;
} kinds[KINDS] = {
	[SOCKET] = { "socket", "p" },
	[SETSOCKOPT] = { "setsockopt", "o" },
	[BIND] = { "bind", "a" },
	[LISTEN] = { "listen", "" },
	[CONNECT] = { "connect", "a" },
	[DISCONNECT] = { "disconnect", "" },
	[ACCEPT] = { "accept", "b" },
	[ACCEPT_NOADDR] = { "accept-noaddr", "b" },
	[GETSOCKNAME] = { "getsockname", "" },
	[GETPEERNAME] = { "getpeername", "" },
	[SEND] = { "send", "t" },
	[SENDTO] = { "sendto", "at" },
	[FASTOPEN] = { "fastopen", "at" },
	[SENDMSG_PKTINFO] = { "sendmsg-pktinfo", "ast" },
	[RECV] = { "recv", "" },
	[RECVFROM] = { "recvfrom", "" },
	[SHUTDOWN] = { "shutdown", "d" },
	[SO_ERROR_OF] = { "so-error", "" },
	[DUP] = { "dup", "b" },
	[CLOSE] = { "close", "" },
};

enum transport { TCP, UDP, MPTCP, TRANSPORTS };
static const char *const transports[TRANSPORTS] = { "tcp", "udp", "mptcp" };

enum option {
	REUSEADDR,
	REUSEPORT,
	BROADCAST,
	BIND_NO_PORT,
	FREEBIND,
	PKTINFO,
	PKTINFO6,
	V6ONLY,
	OPTIONS
};
static const struct {
	const char *name;
	int level, option;
} options[OPTIONS] = {
	[REUSEADDR] = { "reuseaddr", SOL_SOCKET, SO_REUSEADDR },
	[REUSEPORT] = { "reuseport", SOL_SOCKET, SO_REUSEPORT },
	[BROADCAST] = { "broadcast", SOL_SOCKET, SO_BROADCAST },
	[BIND_NO_PORT] = { "bind_no_port", IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT },
	[FREEBIND] = { "freebind", IPPROTO_IP, IP_FREEBIND },
	[PKTINFO] = { "pktinfo", IPPROTO_IP, IP_PKTINFO },
	[PKTINFO6] = { "pktinfo6", IPPROTO_IPV6, IPV6_RECVPKTINFO },
	[V6ONLY] = { "v6only", IPPROTO_IPV6, IPV6_V6ONLY },
};

/* The interesting addresses. The first of each family is the plainest one, to which others shrink. */
enum address {
	LOCALHOST4,
	ANY4,
	HOST4,
	FAR4,
	REST4,
	GROUP4,
	BROADCAST4,
	LOCALHOST6,
	ANY6,
	HOST6,
	FAR6,
	GROUP6,
	MAPPED_LOCALHOST,
	MAPPED_ANY,
	MAPPED_HOST,
	MAPPED_FAR,
	ADDRESSES,
	NAME_OF, /* what getsockname says of call.other */
	PEER_OF, /* what call.other was last told of a peer */
	NONE,	 /* of sendmsg-pktinfo: to where the socket is connected */
};
static const char *const addresses[ADDRESSES] = {
	[LOCALHOST4] = "127.0.0.1",
	[ANY4] = "0.0.0.0",
	[HOST4] = "198.51.100.1",
	[FAR4] = "198.51.100.2",
	[REST4] = "127.0.0.99", /* of 127/8, and no session's */
	[GROUP4] = "239.1.2.3",
	[BROADCAST4] = "198.51.100.255",
	[LOCALHOST6] = "::1",
	[ANY6] = "::",
	[HOST6] = "2001:db8:51::1",
	[FAR6] = "2001:db8:51::2",
	[GROUP6] = "ff05::1:3",
	[MAPPED_LOCALHOST] = "::ffff:127.0.0.1",
	[MAPPED_ANY] = "::ffff:0.0.0.0",
	[MAPPED_HOST] = "::ffff:198.51.100.1",
	[MAPPED_FAR] = "::ffff:198.51.100.2",
};

enum form { WHOLE, SHORT, WRONG_FAMILY, UNSPEC, FORMS };
static const char *const forms[FORMS] = { "", "short", "family", "unspec" };
static const char *const directions[] = { "read", "write", "both" };

enum { PORT_ANY = 0, PORT_OF_OTHER = 4 }; /* 1 to 3: the fixed ones */

struct call {
	uint8_t kind, slot;
	uint8_t other;	       /* a socket: that accept or dup makes, or whose address is meant */
	uint8_t transport, v6; /* socket */
	uint8_t address, port, form;
	uint8_t source;	       /* sendmsg-pktinfo */
	uint8_t option, value; /* setsockopt; shutdown's direction is a value, too */
	uint8_t text;	       /* send: "m" and this number */
};

struct sequence {
	uint32_t count;
	struct call calls[CALLS_MAX];
};

union endpoint {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* What came back of one call. */
struct result {
	int32_t value, error;
	uint32_t address_length, data_length;
	union endpoint address, asked; /* told, and what the call was given */
	char data[DATA_MAX];
};

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fputs("differential: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	exit(70); /* EX_SOFTWARE: the test itself, not what it tests */
}

/* ---- the contract's renaming, and what is known to differ ---- */

enum mode { LOOPBACK, VIRTUAL, REQUESTED };
static const char *const modes[] = { "loopback", "virtual", "requested" };
static enum mode mode;
static struct in6_addr vip4 /* mapped */, vip6, host4 /* mapped */, host6;
static bool has_vip6, families[2] = { true, true }; /* AF_INET, AF_INET6 sockets */

static struct in6_addr mapped(struct in_addr v4)
{
	struct in6_addr v6 = { .s6_addr = { [10] = 0xff, [11] = 0xff } };

	memcpy(&v6.s6_addr[12], &v4, sizeof(v4));
	return v6;
}

static bool is_same(const struct in6_addr *a, const struct in6_addr *b)
{
	return !memcmp(a, b, sizeof(*a));
}

/* An endpoint's address with IPv4 in its mapped form. */
static struct in6_addr plain_address(const union endpoint *endpoint)
{
	return endpoint->any.sa_family == AF_INET ? mapped(endpoint->v4.sin_addr) :
						    endpoint->v6.sin6_addr;
}

static bool is_any(const struct in6_addr *address)
{
	static const struct in6_addr mapped_any = { .s6_addr = { [10] = 0xff, [11] = 0xff } };

	return IN6_IS_ADDR_UNSPECIFIED(address) || is_same(address, &mapped_any);
}

static void set_address(union endpoint *endpoint, const struct in6_addr *address)
{
	if (endpoint->any.sa_family == AF_INET)
		memcpy(&endpoint->v4.sin_addr, &address->s6_addr[12], 4);
	else
		endpoint->v6.sin6_addr = *address;
}

/* ---- one side: a process that makes the calls ---- */

struct request {
	uint32_t port_base; /* what 9001 stands for */
	uint32_t is_slow;
	uint32_t is_held;	     /* until a byte more comes, its sockets stay open */
	uint8_t expected[CALLS_MAX]; /* slow: something came of this call on either side before */
	struct sequence sequence;
};

static struct {
	int fd;
	uint8_t v6;
	union endpoint peer; /* last told */
	socklen_t peer_length;
	uint8_t file; /* the same for those that dup made of one */
} slots[SLOTS];
static bool is_bound_any[CALLS_MAX +
			 1]; /* by file: and the session says that it is on the virtual IP */
static uint8_t files;
static bool is_session, is_slow, is_expected;
static uint16_t port_base;

static void settle(int fd, short events, int milliseconds)
{
	struct pollfd wait = { .fd = fd, .events = events };

	if (is_slow)
		poll(&wait, 1, milliseconds);
}

static bool is_datagram_socket(int fd)
{
	int value = 0;
	socklen_t length = sizeof(value);

	getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length);
	return value == SOCK_DGRAM;
}

static bool is_v6only(int fd)
{
	int value = 0;
	socklen_t length = sizeof(value);

	getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, &length);
	return value;
}

static socklen_t make_endpoint(const struct call *call, union endpoint *endpoint)
{
	socklen_t length = sizeof(*endpoint);
	in_port_t port = 0, other_port = 0;

	memset(endpoint, 0, sizeof(*endpoint));
	if (call->address == NAME_OF) {
		getsockname(slots[call->other].fd, &endpoint->any, &length);
		if (endpoint->any.sa_family == AF_UNSPEC)
			endpoint->any.sa_family = AF_INET;
		/* In the session such a name is the virtual IP, so here it must be what stands for that. */
		if (mode == VIRTUAL && !is_session && is_bound_any[slots[call->other].file]) {
			struct in6_addr name = plain_address(endpoint);

			if (endpoint->any.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&name))
				set_address(endpoint,
					    is_v6only(slots[call->other].fd) ? &host6 : &host4);
			else if (is_any(&name))
				set_address(endpoint, &host4);
		}
	} else if (call->address == PEER_OF) {
		*endpoint = slots[call->other].peer;
		if (endpoint->any.sa_family == AF_UNSPEC)
			endpoint->any.sa_family = AF_INET;
	} else if (call->address < LOCALHOST6) {
		endpoint->any.sa_family = AF_INET;
		inet_pton(AF_INET, addresses[call->address], &endpoint->v4.sin_addr);
	} else if (call->address < ADDRESSES) {
		endpoint->any.sa_family = AF_INET6;
		inet_pton(AF_INET6, addresses[call->address], &endpoint->v6.sin6_addr);
	}
	other_port = endpoint->v4.sin_port; /* at the same place in both */
	if (call->port == PORT_OF_OTHER)
		port = other_port;
	else if (call->port)
		port = htons((uint16_t)(port_base + call->port - 1));
	endpoint->v4.sin_port = port;
	length = endpoint->any.sa_family == AF_INET ? sizeof(endpoint->v4) : sizeof(endpoint->v6);
	switch (call->form) {
	case SHORT:
		return 6;
	case WRONG_FAMILY:
		endpoint->any.sa_family = AF_UNIX;
		break;
	case UNSPEC:
		endpoint->any.sa_family = AF_UNSPEC;
		break;
	}
	return length;
}

static void call_connect(int fd, const union endpoint *peer, socklen_t length,
			 struct result *result)
{
	struct pollfd wait = { .fd = fd, .events = POLLOUT };
	socklen_t size = sizeof(int);
	int error = 0;

	result->value = connect(fd, &peer->any, length);
	if (!result->value || errno != EINPROGRESS)
		return;
	/* As connect(2) of a blocking socket would say it, where it is said at once. */
	if (poll(&wait, 1, is_slow ? is_expected ? ARRIVAL_MS : SETTLE_MS : 0) == 1 &&
	    !getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size)) {
		result->value = error ? -1 : 0;
		errno = error;
	} else {
		errno = EINPROGRESS;
	}
}

static int call_socket(const struct call *call)
{
	return socket(call->v6 ? AF_INET6 : AF_INET,
		      (call->transport == UDP ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK |
			      SOCK_CLOEXEC,
		      call->transport == MPTCP ? IPPROTO_MPTCP : 0);
}

static ssize_t call_send(int fd, const struct call *call, const union endpoint *to,
			 socklen_t length)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	} control = {};
	char text[DATA_MAX];
	int size = snprintf(text, sizeof(text), "m%u", call->text);
	struct iovec part = { .iov_base = text, .iov_len = (size_t)size };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	struct cmsghdr *header;

	if (to) {
		message.msg_name = (void *)to;
		message.msg_namelen = length;
	}
	if (call->kind == SENDMSG_PKTINFO) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		header = CMSG_FIRSTHDR(&message);
		if (call->source < LOCALHOST6) {
			struct in_pktinfo info = {};

			inet_pton(AF_INET, addresses[call->source], &info.ipi_spec_dst);
			header->cmsg_level = IPPROTO_IP;
			header->cmsg_type = IP_PKTINFO;
			header->cmsg_len = CMSG_LEN(sizeof(info));
			memcpy(CMSG_DATA(header), &info, sizeof(info));
			message.msg_controllen = CMSG_SPACE(sizeof(info));
		} else {
			struct in6_pktinfo info = {};

			inet_pton(AF_INET6, addresses[call->source], &info.ipi6_addr);
			header->cmsg_level = IPPROTO_IPV6;
			header->cmsg_type = IPV6_PKTINFO;
			header->cmsg_len = CMSG_LEN(sizeof(info));
			memcpy(CMSG_DATA(header), &info, sizeof(info));
			message.msg_controllen = CMSG_SPACE(sizeof(info));
		}
	}
	return sendmsg(fd, &message, MSG_NOSIGNAL | (call->kind == FASTOPEN ? MSG_FASTOPEN : 0));
}

static void keep(uint8_t slot, int fd, uint8_t v6)
{
	if (fd < 0)
		return;
	if (slots[slot].fd >= 0)
		close(slots[slot].fd);
	memset(&slots[slot], 0, sizeof(slots[slot]));
	slots[slot].fd = fd;
	slots[slot].v6 = v6;
	slots[slot].file = ++files;
	is_bound_any[files] = false;
}

static void make_call(const struct call *call, struct result *result)
{
	int fd = slots[call->slot].fd, on = call->value, error = 0;
	bool with_address = false;
	union endpoint endpoint;
	socklen_t length = sizeof(endpoint);
	char data[64];

	memset(result, 0, sizeof(*result));
	memset(&endpoint, 0, sizeof(endpoint));
	errno = 0;
	switch (call->kind) {
	case SOCKET:
		result->value = call_socket(call);
		keep(call->slot, result->value, call->v6);
		break;
	case SETSOCKOPT:
		result->value = setsockopt(fd, options[call->option].level,
					   options[call->option].option, &on, sizeof(on));
		break;
	case BIND:
		length = make_endpoint(call, &endpoint);
		result->asked = endpoint;
		errno = 0;
		result->value = bind(fd, &endpoint.any, length);
		if (!result->value) {
			struct in6_addr bound = plain_address(&endpoint);

			/* The contract leaves a dual-stack UDP socket on :: where it asked for no port. */
			is_bound_any[slots[call->slot].file] =
				is_any(&bound) &&
				!(endpoint.any.sa_family == AF_INET6 && !endpoint.v6.sin6_port &&
				  IN6_IS_ADDR_UNSPECIFIED(&bound) && is_datagram_socket(fd) &&
				  !is_v6only(fd));
		} else if (errno == EADDRINUSE) {
			is_bound_any[slots[call->slot].file] = false;
		}
		break;
	case LISTEN:
		result->value = listen(fd, 8);
		break;
	case CONNECT:
		length = make_endpoint(call, &endpoint);
		result->asked = endpoint;
		errno = 0;
		call_connect(fd, &endpoint, length, result);
		break;
	case DISCONNECT:
		result->value = connect(fd, &endpoint.any, sizeof(endpoint.v4));
		break;
	case ACCEPT:
	case ACCEPT_NOADDR:
		settle(fd, POLLIN, is_expected ? ARRIVAL_MS : SETTLE_MS);
		with_address = call->kind == ACCEPT;
		result->value =
			accept4(fd, with_address ? &endpoint.any : NULL,
				with_address ? &length : NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		keep(call->other, result->value, slots[call->slot].v6);
		if (with_address && result->value >= 0) {
			slots[call->other].peer = endpoint;
			slots[call->other].peer_length = length;
		}
		break;
	case GETSOCKNAME:
		result->value = getsockname(fd, &endpoint.any, &length);
		with_address = true;
		break;
	case GETPEERNAME:
		result->value = getpeername(fd, &endpoint.any, &length);
		with_address = true;
		break;
	case SEND:
		result->value = (int)call_send(fd, call, NULL, 0);
		break;
	case SENDTO:
	case FASTOPEN:
	case SENDMSG_PKTINFO:
		length = make_endpoint(call, &endpoint);
		result->asked = endpoint;
		errno = 0;
		result->value =
			(int)call_send(fd, call, call->address == NONE ? NULL : &endpoint, length);
		break;
	case RECV:
	case RECVFROM:
		settle(fd, POLLIN, is_expected ? ARRIVAL_MS : SETTLE_MS);
		with_address = call->kind == RECVFROM;
		result->value = (int)recvfrom(fd, data, sizeof(data), 0,
					      with_address ? &endpoint.any : NULL,
					      with_address ? &length : NULL);
		if (result->value > 0) {
			result->data_length =
				result->value < DATA_MAX ? (uint32_t)result->value : DATA_MAX;
			memcpy(result->data, data, result->data_length);
		}
		break;
	case SHUTDOWN:
		result->value = shutdown(fd, call->value);
		break;
	case SO_ERROR_OF:
		length = sizeof(error);
		result->value = getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
		if (!result->value && error) {
			result->value = -1;
			errno = error;
		}
		break;
	case DUP:
		result->value = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		keep(call->other, result->value, slots[call->slot].v6);
		slots[call->other].file = slots[call->slot].file;
		break;
	case CLOSE:
		result->value = close(fd);
		slots[call->slot].fd = -1;
		slots[call->slot].file = 0;
		break;
	}
	if (result->value < 0) {
		result->error = errno;
		result->value = -1;
	} else if (call->kind == SOCKET || call->kind == ACCEPT || call->kind == ACCEPT_NOADDR ||
		   call->kind == DUP) {
		result->value = 0; /* not which descriptor it is */
	}
	if (with_address && !result->error) {
		result->address = endpoint;
		result->address_length = length;
		if (call->kind != GETSOCKNAME && call->kind != ACCEPT && length) {
			slots[call->slot].peer = endpoint;
			slots[call->slot].peer_length = length;
		}
	}
	if (call->kind != GETSOCKNAME && call->kind != GETPEERNAME && call->kind != SETSOCKOPT &&
	    call->kind != SOCKET)
		settle(-1, 0, SETTLE_MS);
}

static bool transfer(int fd, void *bytes, size_t size, ssize_t (*function)(int, void *, size_t))
{
	for (size_t done = 0; done < size;) {
		ssize_t count = function(fd, (char *)bytes + done, size - done);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return false;
		done += (size_t)count;
	}
	return true;
}

static ssize_t write_some(int fd, void *bytes, size_t size)
{
	return write(fd, bytes, size);
}

static void serve(int channel)
{
	static struct result results[CALLS_MAX];
	const struct linger at_once = { .l_onoff = 1 };
	struct request request;
	char go_on;

	for (int i = 0; i < SLOTS; i++)
		slots[i].fd = -1;
	while (transfer(channel, &request, sizeof(request), read)) {
		port_base = (uint16_t)request.port_base;
		is_slow = request.is_slow;
		files = 0;
		for (uint32_t i = 0; i < request.sequence.count; i++) {
			is_expected = request.expected[i];
			make_call(&request.sequence.calls[i], &results[i]);
		}
		if (!transfer(channel, results, request.sequence.count * sizeof(results[0]),
			      write_some) ||
		    (request.is_held && !transfer(channel, &go_on, 1, read)))
			break;
		for (int i = 0; i < SLOTS; i++) {
			if (slots[i].fd < 0)
				continue;
			/* Reset, so that nothing of this sequence lingers into the next. */
			setsockopt(slots[i].fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
			close(slots[i].fd);
			memset(&slots[i], 0, sizeof(slots[i]));
			slots[i].fd = -1;
		}
	}
	_exit(0);
}

static void enter(const char *path, int type)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || setns(fd, type))
		fail("enter %s: %s", path, strerror(errno));
	close(fd);
}

/* The neighbour is another session, which does the same just before, and keeps what it has. */
enum { OUTSIDE, SESSION, SIDES, NEIGHBOUR = SIDES, PROCESSES };
static const char *const sides[PROCESSES] = { "outside", "in the session", "in the other session" };
static int channels[PROCESSES] = { -1, -1, -1 };

static int start_side(bool in_session, const char *cgroup, const char *netns)
{
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		fail("socketpair: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (pid) {
		close(pair[1]);
		return pair[0];
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(pair[0]);
	for (int i = 0; i < PROCESSES; i++) {
		if (channels[i] >= 0)
			close(channels[i]);
	}
	if (cgroup) {
		FILE *file = fopen(cgroup, "w");

		if (!file || fprintf(file, "%d", getpid()) < 0 || fclose(file))
			fail("%s: %s", cgroup, strerror(errno));
	}
	enter(netns, CLONE_NEWNET);
	is_session = in_session;
	serve(pair[1]);
	return -1; /* not reached */
}

/* ---- the two sides together ---- */

static uint32_t port_block;

struct outcome {
	struct result results[SIDES][CALLS_MAX];
	char shown[SIDES][CALLS_MAX][96];
	int differs; /* the first call that does and is not excused; −1: none */
	int excuse;  /* −1, or the row of `known` by which the comparison ended */
	uint32_t compared;
};

/* The real ports are of this run alone. */
static void show_port(union endpoint *endpoint, uint32_t base)
{
	uint32_t port = ntohs(endpoint->v4.sin_port);

	if (port >= base && port < base + 3)
		endpoint->v4.sin_port = htons((in_port_t)(PORT_SHOWN + port - base));
}

/*
 * What the other session does: all but what both cannot do on one host. Without virtual IP that is any
 * wildcard, with it what stays as asked: groups, the rest of 127/8.
 */
static bool for_neighbour(const struct sequence *sequence, struct sequence *neighbours)
{
	neighbours->count = 0;
	for (uint32_t i = 0; i < sequence->count; i++) {
		const struct call *call = &sequence->calls[i];
		bool is_any = call->address == ANY4 || call->address == ANY6 ||
			      call->address == MAPPED_ANY;
		bool is_localhost = call->address == LOCALHOST4 || call->address == LOCALHOST6 ||
				    call->address == MAPPED_LOCALHOST;
		bool is_host = call->address == HOST4 || call->address == HOST6 ||
			       call->address == MAPPED_HOST;

		if (call->kind == BIND) {
			if (mode == LOOPBACK &&
			    (call->form == UNSPEC || is_any || call->address >= ADDRESSES))
				return false;
			if (call->form != WHOLE ||
			    !(is_localhost || (mode != LOOPBACK && (is_any || is_host))))
				continue;
		}
		neighbours->calls[neighbours->count++] = *call;
	}
	return true;
}

static void perform(const struct sequence *sequence, bool slow, struct outcome *outcome)
{
	static struct request neighbours = { .is_held = true };
	char go_on = 0;
	struct request request = { .port_base = PORT_FIRST + port_block * 3,
				   .is_slow = slow,
				   .sequence = *sequence };

	for (uint32_t i = 0; slow && i < sequence->count; i++) {
		for (int side = 0; side < SIDES; side++) {
			int error = outcome->results[side][i].error;

			request.expected[i] |= error != EAGAIN && error != EINPROGRESS;
		}
	}
	bool has_neighbour =
		channels[NEIGHBOUR] >= 0 && for_neighbour(sequence, &neighbours.sequence);

	port_block = (port_block + 1) % PORT_BLOCKS;
	if (has_neighbour) {
		neighbours.port_base = request.port_base;
		if (!transfer(channels[NEIGHBOUR], &neighbours, sizeof(neighbours), write_some) ||
		    !transfer(channels[NEIGHBOUR], outcome->results[SESSION],
			      neighbours.sequence.count * sizeof(struct result), read))
			fail("the process %s is gone", sides[NEIGHBOUR]);
	}
	for (int side = 0; side < SIDES; side++) {
		if (!transfer(channels[side], &request, sizeof(request), write_some))
			fail("the process %s is gone", sides[side]);
	}
	for (int side = 0; side < SIDES; side++) {
		if (!transfer(channels[side], outcome->results[side],
			      sequence->count * sizeof(struct result), read))
			fail("the process %s is gone", sides[side]);
		for (uint32_t i = 0; i < sequence->count; i++) {
			struct result *result = &outcome->results[side][i];

			show_port(&result->address, request.port_base);
			show_port(&result->asked, request.port_base);
		}
	}
	if (has_neighbour && !transfer(channels[NEIGHBOUR], &go_on, 1, write_some))
		fail("the process %s is gone", sides[NEIGHBOUR]);
}

/* What is known of a socket from how the calls came out outside of the session. */
struct socket_state {
	uint8_t id; /* 0: none */
	bool is_connected, is_listening, is_accepted;
	bool is_bound;	       /* by bind */
	bool is_bound_any;     /* by bind, to a wildcard */
	bool is_autobound;     /* UDP: has a port because it has sent, or has been connected */
	bool was_undone;       /* connect with AF_UNSPEC */
	bool has_failed_again; /* is connected, and its last connect failed */
	bool was_left;	       /* not bound by bind, and a connect of it failed or was undone */
	bool is_left_on_any; /* a dual-stack UDP socket that is bound to :: and asked for no port */
	uint8_t transport, v6;
	uint8_t bound_address, bound_port;
	uint8_t peer_address, peer_port; /* of the last connect */
	uint8_t connects;		 /* how many */
	uint8_t peer_ports;		 /* all of them: 1 << port */
	bool was_given_source6; /* a connect of it was to an IPv6 address that has us bind its source */
	uint8_t set;		/* options that are on: 1 << enum option */
};

struct world {
	struct socket_state
		sockets[CALLS_MAX + 1]; /* the last is that of a slot with nothing in it */
	struct socket_state *of[SLOTS]; /* two names, after dup, may mean one socket */
	uint32_t count;
	/* A call was given the name of a socket that was left, or of an MPTCP socket. */
	bool uses_left_name, uses_mptcp_name;
	bool has_other_server; /* a UDP server came, or went, after a client of its port was connected */
};

static void begin(struct world *world)
{
	memset(world, 0, sizeof(*world));
	for (int i = 0; i < SLOTS; i++)
		world->of[i] = &world->sockets[CALLS_MAX];
}

static bool is_any_address(uint8_t address)
{
	return address == ANY4 || address == ANY6 || address == MAPPED_ANY;
}

static bool is_localhost(uint8_t address)
{
	return address == LOCALHOST4 || address == LOCALHOST6 || address == MAPPED_LOCALHOST;
}

/* The call with what its references came to: address and port are in the words of the tables, or NONE. */
static struct call resolved(const struct call *call, const struct result *result)
{
	struct call plain = *call;
	union endpoint endpoint = result->asked;
	struct in6_addr asked, address;
	struct in_addr address4;
	unsigned int port;

	/* IPv4 takes AF_UNSPEC for AF_INET, and finds zeroes where IPv6 has its flow label. */
	if (call->form == UNSPEC)
		endpoint.any.sa_family = AF_INET;
	asked = plain_address(&endpoint);
	if (!strchr(kinds[call->kind].arguments, 'a') ||
	    (call->address < ADDRESSES && call->form != UNSPEC) || call->address == NONE)
		return plain;
	plain.address = NONE;
	for (uint8_t i = 0; i < ADDRESSES; i++) {
		if ((endpoint.any.sa_family == AF_INET6) != (i >= LOCALHOST6))
			continue;
		if (i < LOCALHOST6) {
			inet_pton(AF_INET, addresses[i], &address4);
			address = mapped(address4);
		} else {
			inet_pton(AF_INET6, addresses[i], &address);
		}
		if (is_same(&address, &asked))
			plain.address = i;
	}
	port = ntohs(result->asked.v4.sin_port);
	plain.port = port >= PORT_SHOWN && port < PORT_SHOWN + 3 ?
			     (uint8_t)(port - PORT_SHOWN + 1) :
		     port ? PORT_OF_OTHER :
			    PORT_ANY;
	return plain;
}

/* A server that comes or goes. */
static void note_server(struct world *world, const struct socket_state *server, uint8_t port)
{
	for (uint32_t i = 0; i < world->count; i++)
		world->has_other_server |= world->sockets[i].transport == UDP &&
					   server->transport == UDP &&
					   (world->sockets[i].peer_ports >> port & 1);
}

static void follow(struct world *world, const struct call *literal, const struct result *result)
{
	struct socket_state *s = world->of[literal->slot], *made;
	struct call plain = resolved(literal, result), *call = &plain;

	if (literal->address == NAME_OF && strchr(kinds[call->kind].arguments, 'a') &&
	    (world->of[literal->other]->was_left || world->of[literal->other]->was_undone))
		world->uses_left_name = true;
	if (literal->address == NAME_OF && world->of[literal->other]->transport == MPTCP)
		world->uses_mptcp_name = true;
	if (call->kind == CONNECT && call->form == UNSPEC)
		plain.kind = DISCONNECT; /* by another name */
	if (call->kind == CONNECT || call->kind == FASTOPEN) {
		s->connects++;
		s->was_given_source6 |= call->address == LOCALHOST6 || call->address == ANY6 ||
					(mode != LOOPBACK && call->address > LOCALHOST6 &&
					 call->address < MAPPED_LOCALHOST);
		s->peer_address = call->address;
		s->peer_port = call->port;
		s->peer_ports |= (uint8_t)(1u << call->port);
		if (result->error && !s->is_bound)
			s->was_left = true;
		s->has_failed_again = result->error && s->is_connected;
	}
	if (call->kind == SEND || call->kind == SENDTO || call->kind == SENDMSG_PKTINFO)
		s->is_autobound |= !s->is_bound && !s->is_connected; /* by one that fails, too */
	/* The kernel takes the address away from one that had no port (IP_BIND_ADDRESS_NO_PORT). */
	if (call->kind == BIND && result->error == EADDRINUSE)
		s->is_bound = s->is_bound_any = s->is_left_on_any = false;
	if (result->error)
		return;
	switch (call->kind) {
	case SOCKET:
		s = world->of[call->slot] = &world->sockets[world->count++];
		s->id = (uint8_t)world->count;
		s->transport = call->transport;
		s->v6 = call->v6;
		break;
	case SETSOCKOPT:
		s->set = (uint8_t)((s->set & ~(1u << call->option)) | (unsigned int)!!call->value
									      << call->option);
		break;
	case BIND:
		note_server(world, s, call->port);
		s->is_bound = true;
		s->bound_address = call->address;
		s->bound_port = call->port;
		s->is_bound_any = is_any_address(call->address);
		s->is_left_on_any = call->address == ANY6 && !call->port && s->transport == UDP &&
				    !(s->set >> V6ONLY & 1);
		break;
	case LISTEN:
		s->is_listening = true;
		break;
	case CONNECT:
	case FASTOPEN:
		s->is_connected = true;
		break;
	case DISCONNECT:
		s->was_undone = true;
		s->was_left |= !s->is_bound;
		s->is_connected = false;
		break;
	case ACCEPT:
	case ACCEPT_NOADDR:
		made = world->of[call->other] = &world->sockets[world->count++];
		*made = *s;
		made->id = (uint8_t)world->count;
		made->is_accepted = made->is_connected = true;
		made->is_listening = false;
		break;
	case DUP:
		world->of[call->other] = s;
		break;
	case CLOSE:
		if (s->is_bound)
			note_server(world, s, s->bound_port);
		world->of[call->slot] = &world->sockets[CALLS_MAX];
		break;
	}
}

struct difference {
	const struct sequence *sequence;
	uint32_t at;				   /* the call that differs */
	const struct call *call;		   /* resolved */
	const struct world *before;		   /* the call */
	const struct socket_state *socket, *other; /* of the call */
	const struct result *outside, *session;
	const struct outcome *outcome;
};

#include "known.h"

/* The ports that appeared, in order, of one side. */
struct ports {
	unsigned int seen[CALLS_MAX], count;
};

static void show(char *text, size_t size, const struct result *result,
		 const union endpoint *address, struct ports *ports)
{
	char name[INET6_ADDRSTRLEN] = "";
	unsigned int port, i;
	int length;

	if (result->error) {
		snprintf(text, size, "%s", strerrorname_np(result->error) ?: "?");
		return;
	}
	length = snprintf(text, size, "%d", result->value);
	if (result->address_length) {
		inet_ntop(address->any.sa_family,
			  address->any.sa_family == AF_INET ? (void *)&address->v4.sin_addr :
							      (void *)&address->v6.sin6_addr,
			  name, sizeof(name));
		port = ntohs(address->v4.sin_port);
		if (port && (port < PORT_SHOWN || port > PORT_SHOWN + 2)) {
			for (i = 0; i < ports->count && ports->seen[i] != port; i++)
				;
			if (i == ports->count && i < CALLS_MAX)
				ports->seen[ports->count++] = port;
			length += snprintf(text + length, size - (size_t)length, " %s port#%u",
					   name, i + 1);
		} else {
			length += snprintf(text + length, size - (size_t)length, " %s %u", name,
					   port);
		}
	}
	if (result->data_length)
		snprintf(text + length, size - (size_t)length, " '%.*s'", (int)result->data_length,
			 result->data);
}

/* The session's address by the name that it has outside. */
static union endpoint renamed(const struct call *call, const struct socket_state *state,
			      const struct result *outside, const struct result *session)
{
	union endpoint address = session->address;
	struct in6_addr shown, expected;

	if (mode == LOOPBACK || !session->address_length)
		return address;
	shown = plain_address(&address);
	/* getsockname of the wildcard names the virtual IP under `wildcardName: virtual`. */
	if (mode == VIRTUAL && call->kind == GETSOCKNAME && !outside->error &&
	    state->is_bound_any && !state->is_left_on_any) {
		expected = plain_address(&outside->address);
		if (is_any(&expected)) {
			if (is_same(&shown, &vip4) ||
			    (has_vip6 && state->v6 && is_same(&shown, &vip6)))
				set_address(&address, &expected);
			else
				address.any.sa_family =
					AF_UNSPEC; /* must have been the virtual IP */
			return address;
		}
	}
	if (is_same(&shown, &vip4))
		set_address(&address, &host4);
	else if (has_vip6 && is_same(&shown, &vip6))
		set_address(&address, &host6);
	return address;
}

static void compare(const struct sequence *sequence, struct outcome *outcome)
{
	struct world world;
	struct ports ports[SIDES] = {};

	begin(&world);
	outcome->differs = outcome->excuse = -1;
	outcome->compared = sequence->count;
	for (uint32_t i = 0; i < sequence->count; i++) {
		const struct call *call = &sequence->calls[i];
		struct result *outside = &outcome->results[OUTSIDE][i],
			      *session = &outcome->results[SESSION][i];
		union endpoint name = renamed(call, world.of[call->slot], outside, session);

		show(outcome->shown[OUTSIDE][i], sizeof(outcome->shown[0][0]), outside,
		     &outside->address, &ports[OUTSIDE]);
		if (session->address_length && name.any.sa_family == AF_UNSPEC &&
		    session->address.any.sa_family != AF_UNSPEC)
			snprintf(outcome->shown[SESSION][i], sizeof(outcome->shown[0][0]),
				 "not the virtual IP");
		else
			show(outcome->shown[SESSION][i], sizeof(outcome->shown[0][0]), session,
			     &name, &ports[SESSION]);
		if (outcome->differs < 0 && outcome->excuse < 0 &&
		    (strcmp(outcome->shown[OUTSIDE][i], outcome->shown[SESSION][i]) ||
		     outside->address_length != session->address_length)) {
			struct call plain = resolved(call, outside);
			struct difference difference = {
				.sequence = sequence,
				.at = i,
				.call = &plain,
				.before = &world,
				.socket = world.of[call->slot],
				.other = world.of[call->other],
				.outside = outside,
				.session = session,
				.outcome = outcome,
			};

			outcome->excuse = excuse_of(&difference);
			outcome->compared = i;
			if (outcome->excuse < 0)
				outcome->differs = (int)i;
		}
		follow(&world, call, outside);
	}
}

static bool differs(const struct sequence *sequence, bool slow, struct outcome *outcome)
{
	perform(sequence, slow, outcome);
	compare(sequence, outcome);
	return outcome->differs >= 0;
}

/* ---- the generator ---- */

static uint64_t random_state;

/* splitmix64: every seed is as good as any other */
static uint64_t next_random(void)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static unsigned int below(unsigned int n)
{
	return (unsigned int)(next_random() >> 33) % n;
}

static bool chance(unsigned int percent)
{
	return below(100) < percent;
}

/* What the generator believes of a socket; it need not be right, only make the calls worth making. */
struct draft {
	bool is_open, is_bound, is_listening, is_connected;
	uint8_t transport, v6, port;
};

static uint8_t draw_address(bool v6)
{
	static const uint8_t for_v4[] = { LOCALHOST4, LOCALHOST4, LOCALHOST4, ANY4,
					  ANY4,	      ANY4,	  HOST4,      HOST4,
					  FAR4,	      REST4,	  GROUP4,     BROADCAST4 };
	static const uint8_t for_v6[] = { LOCALHOST6,
					  LOCALHOST6,
					  LOCALHOST6,
					  ANY6,
					  ANY6,
					  ANY6,
					  HOST6,
					  HOST6,
					  FAR6,
					  GROUP6,
					  MAPPED_ANY,
					  MAPPED_LOCALHOST,
					  MAPPED_LOCALHOST,
					  MAPPED_HOST,
					  MAPPED_FAR,
					  MAPPED_ANY };

	if (chance(3))
		v6 = !v6 && families[1];
	return v6 ? for_v6[below(sizeof(for_v6))] : for_v4[below(sizeof(for_v4))];
}

static uint8_t draw_port(void)
{
	static const uint8_t ports[] = { 1, 1, 1, 1, 2, 2, 3, PORT_ANY };

	return ports[below(sizeof(ports))];
}

static uint8_t draw_slot(const struct draft *sockets, bool (*wanted)(const struct draft *))
{
	uint8_t found[SLOTS], count = 0;

	for (uint8_t i = 0; i < SLOTS; i++) {
		if (sockets[i].is_open && (!wanted || wanted(&sockets[i])))
			found[count++] = i;
	}
	return count ? found[below(count)] : SLOTS;
}

static uint8_t free_slot(const struct draft *sockets)
{
	for (uint8_t i = 0; i < SLOTS; i++) {
		if (!sockets[i].is_open)
			return i;
	}
	return SLOTS;
}

static bool is_listener(const struct draft *s)
{
	return s->is_listening;
}

static bool is_datagram(const struct draft *s)
{
	return s->transport == UDP;
}

static bool is_stream(const struct draft *s)
{
	return s->transport != UDP;
}

static bool is_joined(const struct draft *s)
{
	return s->is_connected;
}

static void draw_destination(struct call *call, const struct draft *sockets)
{
	uint8_t other;

	call->address = draw_address(sockets[call->slot].v6);
	call->port = draw_port();
	if (chance(25) && (other = draw_slot(sockets, NULL)) < SLOTS) {
		call->other = other;
		call->address = chance(50) ? NAME_OF : PEER_OF;
		call->port = PORT_OF_OTHER;
	}
	call->form = (uint8_t)(chance(96) ? WHOLE : 1 + below(FORMS - 1));
}

static void add(struct sequence *sequence, struct call call)
{
	if (sequence->count < RANDOM_MAX)
		sequence->calls[sequence->count++] = call;
}

/* Where a server may be, and where its client may look for it; of both families. */
static uint8_t draw_meeting(bool v6)
{
	static const uint8_t for_v4[] = { LOCALHOST4, ANY4, HOST4 };
	static const uint8_t for_v6[] = { LOCALHOST6,	    ANY6,	 HOST6,
					  MAPPED_LOCALHOST, MAPPED_HOST, MAPPED_ANY };

	return v6 ? for_v6[below(chance(70) ? 3 : sizeof(for_v6))] : for_v4[below(sizeof(for_v4))];
}

static bool draw_family(void)
{
	return families[0] && families[1] ? below(2) : families[1];
}

/* A server and its client, which do what most programs do: a is the server, b the client, c what a accepts. */
static void generate_meeting(struct sequence *sequence, struct draft *sockets)
{
	uint8_t transport = (uint8_t)(chance(8) ? MPTCP : chance(50) ? UDP : TCP);
	uint8_t server6 = draw_family(), client6 = draw_family(), port = chance(80) ? 1 : PORT_ANY;
	bool is_connected = transport != UDP || chance(50);
	struct call to = { .slot = 1,
			   .address = port && chance(85) ? draw_meeting(client6) : NAME_OF,
			   .port = port ? port : PORT_OF_OTHER };
	struct draft server = {
		.is_open = true, .is_bound = true, .transport = transport, .v6 = server6
	};

	add(sequence, (struct call){ .kind = SOCKET, .transport = transport, .v6 = server6 });
	if (server6 && chance(25))
		add(sequence, (struct call){ .kind = SETSOCKOPT, .option = V6ONLY, .value = 1 });
	add(sequence,
	    (struct call){ .kind = BIND, .address = draw_meeting(server6), .port = port });
	if (transport != UDP)
		add(sequence, (struct call){ .kind = LISTEN });
	add(sequence,
	    (struct call){ .kind = SOCKET, .slot = 1, .transport = transport, .v6 = client6 });
	if (chance(15))
		add(sequence, (struct call){ .kind = BIND,
					     .slot = 1,
					     .address = draw_meeting(client6),
					     .port = chance(50) ? 2 : PORT_ANY });
	to.kind = is_connected ? CONNECT : SENDTO;
	add(sequence, to);
	if (is_connected)
		add(sequence, (struct call){ .kind = SEND, .slot = 1, .text = 201 });
	if (transport != UDP)
		add(sequence,
		    (struct call){ .kind = chance(80) ? ACCEPT : ACCEPT_NOADDR, .other = 2 });
	add(sequence, (struct call){ .kind = RECVFROM, .slot = transport == UDP ? 0 : 2 });
	add(sequence, (struct call){ .kind = GETSOCKNAME, .slot = transport == UDP ? 0 : 2 });
	if (transport == UDP)
		add(sequence, (struct call){ .kind = SENDTO,
					     .address = PEER_OF,
					     .port = PORT_OF_OTHER,
					     .text = 202 });
	else
		add(sequence, (struct call){ .kind = SEND, .slot = 2, .text = 202 });
	add(sequence, (struct call){ .kind = RECVFROM, .slot = 1 });
	sockets[0] = sockets[1] = server;
	sockets[0].is_listening = transport != UDP;
	sockets[1].v6 = client6;
	sockets[1].is_connected = is_connected;
	if (transport != UDP) {
		sockets[2] = server;
		sockets[2].is_connected = true;
	}
}

static void generate(struct sequence *sequence)
{
	static const uint8_t weights[KINDS] = {
		[SOCKET] = 16,	   [SETSOCKOPT] = 9,	  [BIND] = 18,	[LISTEN] = 9,
		[CONNECT] = 14,	   [DISCONNECT] = 2,	  [ACCEPT] = 7, [ACCEPT_NOADDR] = 2,
		[GETSOCKNAME] = 6, [GETPEERNAME] = 4,	  [SEND] = 6,	[SENDTO] = 13,
		[FASTOPEN] = 1,	   [SENDMSG_PKTINFO] = 3, [RECV] = 3,	[RECVFROM] = 9,
		[SHUTDOWN] = 1,	   [SO_ERROR_OF] = 2,	  [DUP] = 1,	[CLOSE] = 3,
	};
	struct draft sockets[SLOTS] = {};
	unsigned int total = 0, calls = 4 + below(RANDOM_MAX - 3);
	uint8_t text = 0;

	for (int i = 0; i < KINDS; i++)
		total += weights[i];
	sequence->count = 0;
	if (chance(40))
		generate_meeting(sequence, sockets);
	while (sequence->count < calls) {
		struct call call = {};
		unsigned int draw = below(total);
		struct draft *s;

		while (draw >= weights[call.kind])
			draw -= weights[call.kind++];
		if (sequence->count < 2)
			call.kind = SOCKET;
		switch (call.kind) {
		case SOCKET:
			call.slot = free_slot(sockets);
			break;
		case LISTEN:
			call.slot = draw_slot(sockets, chance(95) ? is_stream : NULL);
			break;
		case ACCEPT:
		case ACCEPT_NOADDR:
			call.slot = draw_slot(sockets, chance(97) ? is_listener : NULL);
			break;
		case SENDTO:
		case SENDMSG_PKTINFO:
			call.slot = draw_slot(sockets, chance(92) ? is_datagram : NULL);
			break;
		case FASTOPEN:
			call.slot = draw_slot(sockets, is_stream);
			break;
		case SEND:
		case SHUTDOWN:
		case DISCONNECT:
			call.slot = draw_slot(sockets, chance(80) ? is_joined : NULL);
			break;
		default:
			call.slot = draw_slot(sockets, NULL);
			break;
		}
		if (call.slot >= SLOTS)
			continue;
		s = &sockets[call.slot];
		switch (call.kind) {
		case SOCKET:
			memset(s, 0, sizeof(*s));
			s->is_open = true;
			s->v6 = call.v6 =
				families[0] && families[1] ? (uint8_t)below(2) : families[1];
			s->transport = call.transport = (uint8_t)(chance(8)  ? MPTCP :
								  chance(50) ? UDP :
									       TCP);
			break;
		case SETSOCKOPT:
			call.option = (uint8_t)below(s->v6 ? OPTIONS : PKTINFO6);
			if (s->v6 && chance(40))
				call.option = V6ONLY;
			call.value = chance(85);
			break;
		case BIND:
			call.address = draw_address(s->v6);
			call.port = draw_port();
			if (chance(8)) {
				call.other = draw_slot(sockets, NULL);
				call.address = NAME_OF;
				call.port = chance(50) ? PORT_OF_OTHER : PORT_ANY;
			}
			call.form = (uint8_t)(chance(96) ? WHOLE : 1 + below(FORMS - 1));
			s->is_bound = true;
			break;
		case LISTEN:
			s->is_listening = true;
			break;
		case CONNECT:
		case FASTOPEN:
			draw_destination(&call, sockets);
			s->is_connected = true;
			break;
		case SENDTO:
		case SENDMSG_PKTINFO:
			draw_destination(&call, sockets);
			call.source = draw_address(s->v6);
			if (call.kind == SENDMSG_PKTINFO && s->is_connected && chance(50))
				call.address = NONE, call.port = 0, call.form = WHOLE;
			break;
		case ACCEPT:
		case ACCEPT_NOADDR:
		case DUP:
			call.other = free_slot(sockets);
			if (call.other >= SLOTS)
				continue;
			sockets[call.other] = *s;
			if (call.kind != DUP) {
				sockets[call.other].is_listening = false;
				sockets[call.other].is_connected = true;
			}
			break;
		case SHUTDOWN:
			call.value = (uint8_t)below(3);
			break;
		case CLOSE:
			s->is_open = false;
			break;
		}
		if (strchr(kinds[call.kind].arguments, 't'))
			call.text = text++;
		sequence->calls[sequence->count++] = call;
	}
	/* What everyone knows at the end. */
	for (uint8_t i = 0; i < SLOTS; i++) {
		static const uint8_t last[] = { GETSOCKNAME, GETPEERNAME, RECVFROM };

		for (size_t k = 0; sockets[i].is_open && k < sizeof(last); k++) {
			if (sequence->count < CALLS_MAX)
				sequence->calls[sequence->count++] =
					(struct call){ .kind = last[k], .slot = i };
		}
	}
}

/* ---- shrinking ---- */

/* Two differences are the same where the same kind of call came out the same on both sides. */
struct signature {
	uint8_t kind;
	char shown[SIDES][96];
};

/* Results without what shrinking changes: ports and texts. */
static void sign(const struct sequence *sequence, const struct outcome *outcome,
		 struct signature *signature)
{
	memset(signature, 0, sizeof(*signature));
	signature->kind = sequence->calls[outcome->differs].kind;
	for (int side = 0; side < SIDES; side++) {
		const struct result *result = &outcome->results[side][outcome->differs];
		char *to = signature->shown[side];

		if (result->error)
			snprintf(to, 96, "%s", strerrorname_np(result->error) ?: "?");
		else
			snprintf(to, 96, "%s%s", result->address_length ? "address" : "done",
				 result->data_length ? " data" : "");
	}
}

static bool still_differs(const struct sequence *sequence, const struct signature *wanted)
{
	static struct outcome outcome;
	struct signature signature;

	/* Twice: on a busy machine once may be chance. */
	for (int i = 0; i < 2; i++) {
		if (!sequence->count || !differs(sequence, false, &outcome))
			return false;
		sign(sequence, &outcome, &signature);
		if (memcmp(&signature, wanted, sizeof(signature)))
			return false;
	}
	return true;
}

static bool try_instead(struct sequence *sequence, const struct sequence *candidate,
			const struct signature *wanted)
{
	if (!still_differs(candidate, wanted))
		return false;
	*sequence = *candidate;
	return true;
}

static bool drop_calls(struct sequence *sequence, const struct signature *wanted)
{
	bool changed = false;

	for (uint32_t size = sequence->count / 2; size >= 1; size /= 2) {
		for (uint32_t from = 0; from < sequence->count;) {
			struct sequence candidate = *sequence;
			uint32_t end =
				from + size < candidate.count ? from + size : candidate.count;

			memmove(&candidate.calls[from], &candidate.calls[end],
				(candidate.count - end) * sizeof(struct call));
			candidate.count -= end - from;
			if (try_instead(sequence, &candidate, wanted))
				changed = true;
			else
				from += size;
		}
	}
	return changed;
}

/* Of all calls at once: one port for another, one socket for another. */
static bool simplify_all(struct sequence *sequence, const struct signature *wanted)
{
	bool changed = false;

	for (uint8_t from = 2; from <= 3; from++) {
		for (uint8_t to = 1; to < from; to++) {
			struct sequence candidate = *sequence;

			for (uint32_t i = 0; i < candidate.count; i++) {
				if (candidate.calls[i].port == from)
					candidate.calls[i].port = to;
			}
			if (memcmp(&candidate, sequence, sizeof(candidate)))
				changed |= try_instead(sequence, &candidate, wanted);
		}
	}
	for (uint8_t from = 0; from < SLOTS; from++) {
		for (uint8_t to = 0; to < SLOTS; to++) {
			struct sequence candidate = *sequence;
			uint32_t kept = 0;

			for (uint32_t i = 0; i < candidate.count && from != to; i++) {
				struct call call = candidate.calls[i];

				if (call.kind == DUP && call.other == from)
					continue;
				if (call.slot == from)
					call.slot = to;
				if (call.other == from)
					call.other = to;
				candidate.calls[kept++] = call;
			}
			if (kept && kept < candidate.count) {
				candidate.count = kept;
				changed |= try_instead(sequence, &candidate, wanted);
			}
		}
	}
	return changed;
}

/* One argument after the other to the plainest value that still shows the difference. */
static bool simplify_calls(struct sequence *sequence, const struct signature *wanted)
{
	bool changed = false, v6[SLOTS] = {};

	for (uint32_t i = 0; i < sequence->count; i++) {
		struct call plain = sequence->calls[i], before;
		uint8_t own;

		if (plain.kind == SOCKET)
			v6[plain.slot] = plain.v6;
		own = plain.address < LOCALHOST6 ||
				      (plain.address >= ADDRESSES && !v6[plain.slot]) ?
			      LOCALHOST4 :
			      LOCALHOST6;
		for (int step = 0; step < 14; step++) {
			struct sequence candidate = *sequence;
			struct call *call = &candidate.calls[i];

			before = *call;
			switch (step) {
			case 0: /* AF_INET6 is the less plain: all of it at once */
				for (uint32_t k = 0; k < candidate.count; k++) {
					struct call *c = &candidate.calls[k];

					c->v6 = 0;
					if (c->address >= LOCALHOST6 && c->address < GROUP6)
						c->address = (uint8_t)(c->address - LOCALHOST6);
					if (c->address >= MAPPED_LOCALHOST &&
					    c->address < ADDRESSES)
						c->address =
							(uint8_t)(c->address - MAPPED_LOCALHOST);
				}
				break;
			case 1:
				if (call->kind == SOCKET && call->transport == MPTCP)
					call->transport = TCP;
				break;
			case 2:
				if (call->kind == SENDMSG_PKTINFO && call->address != NONE)
					call->kind = SENDTO;
				break;
			case 3:
				if (call->kind == ACCEPT_NOADDR)
					call->kind = ACCEPT;
				break;
			case 4:
				call->form = WHOLE;
				break;
			case 5:
			case 6:
			case 7:
				if (call->address > own && call->address != NONE &&
				    (call->address < ADDRESSES ? call->address > own + step - 5 :
								 true)) {
					call->address = (uint8_t)(own + step - 5);
					if (call->port == PORT_OF_OTHER)
						call->port = 1;
				}
				break;
			case 8:
				if (call->port > 1 && call->address < ADDRESSES)
					call->port = 1;
				break;
			case 9:
				if (call->port == PORT_ANY &&
				    strchr(kinds[call->kind].arguments, 'a') &&
				    call->address < ADDRESSES)
					call->port = 1;
				break;
			case 10:
				call->text = 0;
				break;
			case 11:
				if (call->source && call->source != LOCALHOST6)
					call->source =
						call->source < LOCALHOST6 ? LOCALHOST4 : LOCALHOST6;
				break;
			case 12:
				if (call->kind == SETSOCKOPT)
					call->value = 1;
				break;
			case 13:
				if (call->kind == SETSOCKOPT && call->option)
					call->option = REUSEADDR;
				break;
			}
			if (step ? !memcmp(call, &before, sizeof(before)) :
				   !memcmp(&candidate, sequence, sizeof(candidate)))
				continue;
			if (try_instead(sequence, &candidate, wanted))
				changed = true;
		}
	}
	return changed;
}

/* Sockets by the names a, b, c … in the order of their appearance. */
static void rename_sockets(struct sequence *sequence)
{
	uint8_t names[SLOTS], count = 0;

	memset(names, 0xff, sizeof(names));
	for (uint32_t i = 0; i < sequence->count; i++) {
		struct call *call = &sequence->calls[i];
		bool uses_other = strchr(kinds[call->kind].arguments, 'b') ||
				  call->address == NAME_OF || call->address == PEER_OF;

		if (names[call->slot] == 0xff)
			names[call->slot] = count++;
		call->slot = names[call->slot];
		if (!uses_other) {
			call->other = 0;
			continue;
		}
		if (names[call->other] == 0xff)
			names[call->other] = count++;
		call->other = names[call->other];
	}
}

static void shrink(struct sequence *sequence, const struct signature *wanted)
{
	for (int round = 0; round < 8; round++) {
		bool changed = drop_calls(sequence, wanted);

		changed |= simplify_calls(sequence, wanted);
		changed |= simplify_all(sequence, wanted);
		if (!changed)
			break;
	}
	rename_sockets(sequence);
}

/* ---- scripts ---- */

static int print_call(char *text, size_t size, const struct call *call)
{
	int length = snprintf(text, size, "%s %c", kinds[call->kind].name, 'a' + call->slot);

#define MORE(...) (length += snprintf(text + length, size - (size_t)length, __VA_ARGS__))
	for (const char *argument = kinds[call->kind].arguments; *argument; argument++) {
		switch (*argument) {
		case 'p':
			MORE(" %s %c", transports[call->transport], call->v6 ? '6' : '4');
			break;
		case 'o':
			MORE(" %s %u", options[call->option].name, call->value);
			break;
		case 'b':
			MORE(" %c", 'a' + call->other);
			break;
		case 'd':
			MORE(" %s", directions[call->value]);
			break;
		case 's':
			MORE(" %s", addresses[call->source]);
			break;
		case 't':
			MORE(" m%u", call->text);
			break;
		case 'a':
			if (call->address == NONE)
				MORE(" -");
			else if (call->address == NAME_OF || call->address == PEER_OF)
				MORE(" %c%c", call->address == NAME_OF ? '@' : '^',
				     'a' + call->other);
			else
				MORE(" %s", addresses[call->address]);
			if (call->port == PORT_OF_OTHER)
				MORE(" %c", call->address == PEER_OF ? '^' : '@');
			else
				MORE(" %d", call->port ? PORT_SHOWN + call->port - 1 : 0);
			break;
		}
	}
	if (call->form)
		MORE(" %s", forms[call->form]);
#undef MORE
	return length;
}

static int index_of(const char *word, const char *const *table, int count)
{
	for (int i = 0; word && i < count; i++) {
		if (table[i] && !strcmp(word, table[i]))
			return i;
	}
	return -1;
}

static bool parse_call(char *line, struct call *call)
{
	char *words[12] = {}, *place = NULL;
	int count = 0, at = 2, found;

	memset(call, 0, sizeof(*call));
	for (char *word = strtok_r(line, " \t\n", &place); word && count < 11;
	     word = strtok_r(NULL, " \t\n", &place))
		words[count++] = word;
	for (found = 0; found < KINDS && strcmp(words[0], kinds[found].name); found++)
		;
	if (found == KINDS || count < 2 || words[1][0] < 'a' || words[1][0] >= 'a' + SLOTS)
		return false;
	call->kind = (uint8_t)found;
	call->slot = (uint8_t)(words[1][0] - 'a');
	for (const char *argument = kinds[call->kind].arguments; *argument; argument++) {
		const char *word = words[at++];

		if (!word)
			return false;
		switch (*argument) {
		case 'p':
			if ((found = index_of(word, transports, TRANSPORTS)) < 0)
				return false;
			call->transport = (uint8_t)found;
			call->v6 = words[at] && !strcmp(words[at], "6");
			at++;
			break;
		case 'o':
			for (found = 0; found < OPTIONS && strcmp(word, options[found].name);
			     found++)
				;
			if (found == OPTIONS || !words[at])
				return false;
			call->option = (uint8_t)found;
			call->value = (uint8_t)atoi(words[at++]);
			break;
		case 'b':
			call->other = (uint8_t)((word[0] - 'a') % SLOTS);
			break;
		case 'd':
			if ((found = index_of(word, directions, 3)) < 0)
				return false;
			call->value = (uint8_t)found;
			break;
		case 's':
			if ((found = index_of(word, addresses, ADDRESSES)) < 0)
				return false;
			call->source = (uint8_t)found;
			break;
		case 't':
			call->text = (uint8_t)atoi(word + 1);
			break;
		case 'a':
			if (!strcmp(word, "-")) {
				call->address = NONE;
			} else if (word[0] == '@' || word[0] == '^') {
				call->address = word[0] == '@' ? NAME_OF : PEER_OF;
				call->other = (uint8_t)((word[1] - 'a') % SLOTS);
			} else if ((found = index_of(word, addresses, ADDRESSES)) >= 0) {
				call->address = (uint8_t)found;
			} else {
				return false;
			}
			if (!(word = words[at++]))
				return false;
			if (word[0] == '@' || word[0] == '^')
				call->port = PORT_OF_OTHER;
			else if (atoi(word) >= PORT_SHOWN && atoi(word) <= PORT_SHOWN + 2)
				call->port = (uint8_t)(atoi(word) - PORT_SHOWN + 1);
			else if (strcmp(word, "0"))
				return false;
			break;
		}
	}
	if (words[at] && (found = index_of(words[at], forms, FORMS)) > 0)
		call->form = (uint8_t)found;
	return true;
}

static void print_script(const struct sequence *sequence, const struct outcome *outcome, bool all)
{
	char text[128];

	for (uint32_t i = 0; i < sequence->count; i++) {
		print_call(text, sizeof(text), &sequence->calls[i]);
		if ((int)i == outcome->differs)
			printf("  %-44s # outside: %s; session: %s   <--\n", text,
			       outcome->shown[OUTSIDE][i], outcome->shown[SESSION][i]);
		else if (strcmp(outcome->shown[OUTSIDE][i], outcome->shown[SESSION][i]) &&
			 (all || (int)i < outcome->differs))
			printf("  %-44s # outside: %s; session: %s\n", text,
			       outcome->shown[OUTSIDE][i], outcome->shown[SESSION][i]);
		else
			printf("  %-44s # %s\n", text, outcome->shown[OUTSIDE][i]);
	}
	fflush(stdout);
}

static int replay(const char *path)
{
	static struct outcome outcome;
	struct sequence sequence = {};
	FILE *file = strcmp(path, "-") ? fopen(path, "r") : stdin;
	char line[256];

	if (!file)
		fail("%s: %s", path, strerror(errno));
	for (int number = 1; fgets(line, sizeof(line), file); number++) {
		char *comment = strchr(line, '#');

		if (comment)
			*comment = 0;
		if (strspn(line, " \t\n") == strlen(line))
			continue;
		if (sequence.count == CALLS_MAX ||
		    !parse_call(line, &sequence.calls[sequence.count++]))
			fail("%s:%d: no such call, or more than %d", path, number, CALLS_MAX);
	}
	if (file != stdin)
		fclose(file);
	differs(&sequence, false, &outcome);
	differs(&sequence, true, &outcome);
	print_script(&sequence, &outcome, true);
	if (outcome.excuse >= 0)
		printf("%s: %s\n", known[outcome.excuse].is_open ? "an open defect" : "a limit",
		       known[outcome.excuse].why);
	else if (outcome.differs < 0)
		puts("no difference");
	return outcome.differs >= 0;
}

/* ---- a run ---- */

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* The shrunk sequences of this run, so that each is told once. */
static struct {
	struct sequence sequence;
	unsigned int times;
} found[FOUND_MAX];
static unsigned int found_count;

static bool is_new(const struct sequence *sequence)
{
	for (unsigned int i = 0; i < found_count; i++) {
		if (found[i].sequence.count == sequence->count &&
		    !memcmp(found[i].sequence.calls, sequence->calls,
			    sequence->count * sizeof(struct call))) {
			found[i].times++;
			return false;
		}
	}
	if (found_count < FOUND_MAX) {
		found[found_count].sequence = *sequence;
		found[found_count++].times = 1;
	}
	return true;
}

static int run(uint64_t seed, double seconds, unsigned int most)
{
	static struct outcome outcome;
	struct sequence sequence;
	unsigned long sequences = 0, calls = 0, compared = 0, late = 0,
		      cut[sizeof(known) / sizeof(known[0])] = {};
	double end = now() + seconds, begin = now();

	printf("mode %s, seed %llu, %.0f s\n", modes[mode], (unsigned long long)seed, seconds);
	fflush(stdout);
	for (uint64_t number = 0; now() < end && found_count < most; number++) {
		struct signature signature;
		struct sequence whole;

		random_state = seed * 0x9e3779b97f4a7c15 ^ number;
		next_random();
		generate(&sequence);
		sequences++;
		calls += sequence.count;
		if (differs(&sequence, false, &outcome)) {
			sign(&sequence, &outcome, &signature);
			if (!still_differs(&sequence, &signature) ||
			    !differs(&sequence, true, &outcome)) {
				late++;
				continue;
			}
			whole = sequence;
			shrink(&sequence, &signature);
			if (!differs(&sequence, false, &outcome) ||
			    !differs(&sequence, true, &outcome)) {
				/* What is left shows only fast; all of it shows slowly, too. */
				sequence = whole;
				differs(&sequence, false, &outcome);
				if (!differs(&sequence, true, &outcome)) {
					late++;
					continue;
				}
			}
			if (is_new(&sequence)) {
				printf("difference %u, mode %s, seed %llu, sequence %llu, in %u "
				       "calls:\n",
				       found_count, modes[mode], (unsigned long long)seed,
				       (unsigned long long)number, sequence.count);
				print_script(&sequence, &outcome, false);
			}
			continue;
		}
		compared += outcome.compared;
		if (outcome.excuse >= 0)
			cut[outcome.excuse]++;
	}
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (cut[i])
			printf("%8lu  ended at %s: %s\n", cut[i],
			       known[i].is_open ? "an open defect" : "a limit", known[i].why);
	}
	for (unsigned int i = 0; i < found_count; i++) {
		if (found[i].times > 1)
			printf("difference %u came %u times\n", i + 1, found[i].times);
	}
	printf("mode %s, seed %llu: %lu sequences, %lu calls (%lu compared) in %.1f s; %lu came "
	       "late; %u differences\n",
	       modes[mode], (unsigned long long)seed, sequences, calls, compared, now() - begin,
	       late, found_count);
	return found_count != 0;
}

static void usage(void)
{
	fputs("usage: vip-differential --mode loopback|virtual|requested --cgroup PROCS --session "
	      "NETNS --outside NETNS\n"
	      "           [--vip4 ADDRESS] [--vip6 ADDRESS] [--families 4|6|46] [--seed N] "
	      "[--seconds N] [--most N]\n"
	      "           [--replay FILE|-]\n",
	      stderr);
	exit(64);
}

int main(int argc, char **argv)
{
	const char *cgroup = NULL, *neighbour = NULL, *netns[SIDES] = {}, *script = NULL;
	struct in_addr address4;
	double seconds = 10;
	unsigned int most = 1;
	uint64_t seed = 0;

	for (int i = 1; i < argc; i += 2) {
		const char *name = argv[i], *value = argv[i + 1];

		if (!value)
			usage();
		if (!strcmp(name, "--mode")) {
			int found_mode = index_of(value, modes, 3);

			if (found_mode < 0)
				usage();
			mode = (enum mode)found_mode;
		} else if (!strcmp(name, "--cgroup")) {
			cgroup = value;
		} else if (!strcmp(name, "--neighbour")) {
			neighbour = value;
		} else if (!strcmp(name, "--session")) {
			netns[SESSION] = value;
		} else if (!strcmp(name, "--outside")) {
			netns[OUTSIDE] = value;
		} else if (!strcmp(name, "--vip4") && inet_pton(AF_INET, value, &address4) == 1) {
			vip4 = mapped(address4);
		} else if (!strcmp(name, "--vip6") && inet_pton(AF_INET6, value, &vip6) == 1) {
			has_vip6 = true;
		} else if (!strcmp(name, "--families")) {
			families[0] = strchr(value, '4');
			families[1] = strchr(value, '6');
		} else if (!strcmp(name, "--seed")) {
			seed = strtoull(value, NULL, 10);
		} else if (!strcmp(name, "--seconds")) {
			seconds = atof(value);
		} else if (!strcmp(name, "--most")) {
			most = (unsigned int)atoi(value);
		} else if (!strcmp(name, "--replay")) {
			script = value;
		} else {
			usage();
		}
	}
	if (!cgroup || !netns[SESSION] || !netns[OUTSIDE])
		usage();
	inet_pton(AF_INET, addresses[HOST4], &address4);
	host4 = mapped(address4);
	inet_pton(AF_INET6, addresses[HOST6], &host6);
	signal(SIGPIPE, SIG_IGN);
	channels[OUTSIDE] = start_side(false, NULL, netns[OUTSIDE]);
	channels[SESSION] = start_side(true, cgroup, netns[SESSION]);
	if (neighbour)
		channels[NEIGHBOUR] = start_side(true, neighbour, netns[SESSION]);
	return script ? replay(script) : run(seed, seconds, most < FOUND_MAX ? most : FOUND_MAX);
}
