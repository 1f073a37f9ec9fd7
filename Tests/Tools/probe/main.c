/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vip-probe: makes the socket calls that it is told to, and prints their results.
 *
 * It knows nothing of sessions, cgroups or BPF: it is the unmodified program of the tests. It reads commands
 * from standard input, one on each line, or from the arguments, separated by commas. The result of each is one
 * JSON object on a line of its own, which is flushed, so that a test can use several probes without sleeping:
 *
 *   $ vip-probe socket a tcp , bind a 127.0.0.1 9000 , getsockname a
 *   {"cmd":"socket","ok":true,"errno":null,"inode":20911}
 *   {"cmd":"bind","ok":true,"errno":null}
 *   {"cmd":"getsockname","ok":true,"errno":null,"address":"127.0.0.1","port":9000}
 *
 * A call that fails gives {"ok":false,"errno":"EADDRNOTAVAIL"}. A command that was not understood also has
 * an "error", and the exit code is then 64 (EX_USAGE), otherwise 0.
 *
 * The caller chooses the names of sockets. No call waits forever: every socket has send and receive timeouts,
 * after which connect returns EINPROGRESS and every other call EAGAIN.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "uring.h"
#include "../control_message.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262 /* include/uapi/linux/in.h, since Linux 5.6; not in every libc's header */
#endif

#define SOCKETS_MAX 64
#define WORDS_MAX 16
#define MESSAGES_MAX 64
#define TIMEOUT_MS \
	100000 /* only a failing test waits as long: what should arrive does so in microseconds */
#define DATA_MAX 65536

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_storage storage;
};

struct named_socket {
	char name[32];
	int fd;
};

static struct named_socket sockets[SOCKETS_MAX];
static int mailbox = -1;
static int exit_code;
static const char *command_name;

/* ---- results ---- */

static void print_string(const char *text, size_t length)
{
	putchar('"');
	for (size_t i = 0; i < length; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20 || c > 0x7e)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void answer_begin(int error)
{
	printf("{\"cmd\":");
	print_string(command_name, strlen(command_name));
	printf(",\"ok\":%s,\"errno\":", error ? "false" : "true");
	if (error) {
		const char *name = strerrorname_np(error);

		printf("\"%s\"", name ? name : "?");
	} else {
		printf("null");
	}
}

static void answer_end(void)
{
	puts("}");
	fflush(stdout);
}

/* For calls that return only success or failure. */
static void answer(int result)
{
	answer_begin(result < 0 ? errno : 0);
	answer_end();
}

static void print_address(const char *prefix, const union address *address, socklen_t length)
{
	char text[INET6_ADDRSTRLEN];

	/*
	 * For a connected TCP socket, recvfrom does not change the address; the kernel then returns length
	 * 0.
	 */
	if (length < sizeof(sa_family_t) || address->any.sa_family == AF_UNSPEC)
		return;
	if (address->any.sa_family == AF_INET) {
		inet_ntop(AF_INET, &address->v4.sin_addr, text, sizeof(text));
		printf(",\"%saddress\":\"%s\",\"%sport\":%u", prefix, text, prefix,
		       ntohs(address->v4.sin_port));
	} else if (address->any.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &address->v6.sin6_addr, text, sizeof(text));
		printf(",\"%saddress\":\"%s\",\"%sport\":%u", prefix, text, prefix,
		       ntohs(address->v6.sin6_port));
	}
}

__attribute__((format(printf, 1, 2))) static void misunderstood(const char *format, ...)
{
	char text[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	printf("{\"cmd\":");
	print_string(command_name, strlen(command_name));
	printf(",\"ok\":false,\"errno\":null,\"error\":");
	print_string(text, strlen(text));
	answer_end();
	exit_code = 64;
}

/* ---- arguments ---- */

static struct named_socket *find(const char *name)
{
	for (size_t i = 0; i < SOCKETS_MAX; i++) {
		if (sockets[i].name[0] && !strcmp(sockets[i].name, name))
			return &sockets[i];
	}
	return NULL;
}

/* The descriptor of a socket that must exist; if it does not, −1, after a result with an error. */
static int descriptor(const char *name)
{
	struct named_socket *found = find(name);

	if (found)
		return found->fd;
	misunderstood("there is no socket named %s", name);
	return -1;
}

static bool keep(const char *name, int fd)
{
	if (strlen(name) >= sizeof(sockets[0].name) || find(name)) {
		misunderstood("%s is too long a name, or taken", name);
		close(fd);
		return false;
	}
	for (size_t i = 0; i < SOCKETS_MAX; i++) {
		if (!sockets[i].name[0]) {
			strcpy(sockets[i].name, name);
			sockets[i].fd = fd;
			return true;
		}
	}
	misunderstood("more than %d sockets", SOCKETS_MAX);
	close(fd);
	return false;
}

static bool number(const char *text, long least, long most, long *value)
{
	char *end;

	errno = 0;
	*value = strtol(text, &end, 10);
	if (!errno && end != text && !*end && *value >= least && *value <= most)
		return true;
	misunderstood("%s is no number from %ld to %ld", text, least, most);
	return false;
}

/* The family is that of the text: 127.0.0.1 on an AF_INET6 socket is a sockaddr_in. */
static bool parse_address(const char *text, const char *port_text, union address *address,
			  socklen_t *length)
{
	long port;

	if (!number(port_text, 0, UINT16_MAX, &port))
		return false;
	memset(address, 0, sizeof(*address));
	if (inet_pton(AF_INET, text, &address->v4.sin_addr) == 1) {
		address->v4.sin_family = AF_INET;
		address->v4.sin_port = htons((uint16_t)port);
		*length = sizeof(address->v4);
		return true;
	}
	if (inet_pton(AF_INET6, text, &address->v6.sin6_addr) == 1) {
		address->v6.sin6_family = AF_INET6;
		address->v6.sin6_port = htons((uint16_t)port);
		*length = sizeof(address->v6);
		return true;
	}
	misunderstood("%s is no address", text);
	return false;
}

static int set_timeout(int fd, long milliseconds)
{
	struct timeval time = { .tv_sec = milliseconds / 1000,
				.tv_usec = milliseconds % 1000 * 1000 };

	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time)))
		return -1;
	return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
}

/* ---- commands; words[0] is the command's name ---- */

/*
 * The result for a new descriptor has its inode, by which a test finds it in /proc/PID/net/tcp and
 * udp.
 */
static void answer_new(int fd, const char *name, const union address *peer, socklen_t length)
{
	struct stat status;

	if (fd < 0) {
		answer(-1);
		return;
	}
	/* Neither can fail on a new socket, and a failing test is better than a hanging one. */
	if (set_timeout(fd, TIMEOUT_MS) || fstat(fd, &status)) {
		answer(-1);
		close(fd);
		return;
	}
	if (!keep(name, fd))
		return;
	answer_begin(0);
	printf(",\"inode\":%llu", (unsigned long long)status.st_ino);
	if (peer)
		print_address("", peer, length);
	answer_end();
}

static void do_socket(char **words, int count)
{
	int family = count > 3 && !strcmp(words[3], "6") ? AF_INET6 : AF_INET;
	int type = SOCK_STREAM, protocol = 0;

	if (!strcmp(words[2], "udp")) {
		type = SOCK_DGRAM;
	} else if (!strcmp(words[2], "mptcp")) {
		protocol = IPPROTO_MPTCP;
	} else if (!strcmp(words[2], "udplite")) {
		type = SOCK_DGRAM;
		protocol = IPPROTO_UDPLITE;
	} else if (strcmp(words[2], "tcp")) {
		misunderstood("%s is none of tcp, udp, udplite, mptcp", words[2]);
		return;
	}
	answer_new(socket(family, type | SOCK_CLOEXEC, protocol), words[1], NULL, 0);
}

/* The socket and the address that a command begins with: NAME ADDRESS PORT. */
struct target {
	int fd; /* -1 if a word was misunderstood */
	union address address;
	socklen_t length;
};

static struct target target_of(char **words)
{
	struct target to = { .fd = descriptor(words[1]) };

	if (to.fd >= 0 && !parse_address(words[2], words[3], &to.address, &to.length))
		to.fd = -1;
	return to;
}

static void do_bind(char **words, int count)
{
	struct target to = target_of(words);

	(void)count;
	if (to.fd < 0)
		return;
	/*
	 * bind(2) accepts AF_UNSPEC for AF_INET if the address is 0.0.0.0, and refuses it for others.
	 */
	if (!strcmp(words[0], "bind-unspec"))
		to.address.any.sa_family = AF_UNSPEC;
	answer(path_bind(to.fd, &to.address.any, to.length));
}

static void do_listen(char **words, int count)
{
	long backlog = 16;
	int fd = descriptor(words[1]);

	if (fd < 0 || (count > 2 && !number(words[2], 0, INT_MAX, &backlog)))
		return;
	answer(path_listen(fd, (int)backlog));
}

static void do_connect(char **words, int count)
{
	struct target to = target_of(words);

	(void)count;
	if (to.fd >= 0)
		answer(path_connect(to.fd, &to.address.any, to.length));
}

static void do_disconnect(char **words, int count)
{
	union address address = { .any.sa_family = AF_UNSPEC };
	int fd = descriptor(words[1]);

	(void)count;
	if (fd >= 0)
		answer(path_connect(fd, &address.any, sizeof(address.v4)));
}

static void do_accept(char **words, int count)
{
	union address peer;
	socklen_t length = sizeof(peer);
	int fd = descriptor(words[1]);
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	(void)count;
	if (fd < 0)
		return;
	memset(&peer, 0, sizeof(peer));
	/*
	 * SO_RCVTIMEO does not suffice: for accept on an MPTCP listener, that of its hidden subflow
	 * counts.
	 */
	if (poll(&wait, 1, fcntl(fd, F_GETFL) & O_NONBLOCK ? 0 : TIMEOUT_MS) == 0) {
		errno = EAGAIN;
		answer(-1);
		return;
	}
	if (!strcmp(words[0], "accept-noaddr"))
		answer_new(path_accept(fd, NULL, NULL, SOCK_CLOEXEC), words[2], NULL, 0);
	else
		answer_new(path_accept(fd, &peer.any, &length, SOCK_CLOEXEC), words[2], &peer,
			   length);
}

static void do_name(char **words, int count)
{
	union address address;
	socklen_t length = sizeof(address);
	int fd = descriptor(words[1]), result;

	(void)count;
	if (fd < 0)
		return;
	memset(&address, 0, sizeof(address));
	result = !strcmp(words[0], "getsockname") ? getsockname(fd, &address.any, &length) :
						    getpeername(fd, &address.any, &length);
	if (result) {
		answer(result);
		return;
	}
	answer_begin(0);
	print_address("", &address, length);
	answer_end();
}

static void answer_sent(ssize_t sent)
{
	if (sent < 0) {
		answer(-1);
		return;
	}
	answer_begin(0);
	printf(",\"count\":%zd", sent);
	answer_end();
}

static void do_send(char **words, int count)
{
	int fd = descriptor(words[1]);

	(void)count;
	if (fd >= 0)
		answer_sent(path_send(fd, words[2], strlen(words[2]), MSG_NOSIGNAL));
}

/* sendto, and fastopen: the same with MSG_FASTOPEN, which connects and sends. */
static void do_sendto(char **words, int count)
{
	int flags = MSG_NOSIGNAL | (!strcmp(words[0], "fastopen") ? MSG_FASTOPEN : 0);
	struct target to = target_of(words);

	(void)count;
	if (to.fd >= 0)
		answer_sent(path_sendto(to.fd, words[4], strlen(words[4]), flags, &to.address.any,
					to.length));
}

/* Binds again and again, as fast as possible, and reports how often that failed. */
static void do_burst(char **words, int count)
{
	union address address;
	socklen_t length;
	long copies, failed = 0;
	int fd = descriptor(words[1]);

	(void)count;
	if (fd < 0 || !number(words[2], 1, 10000000, &copies) ||
	    !parse_address(words[3], words[4], &address, &length))
		return;
	for (long i = 0; i < copies; i++)
		failed += bind(fd, &address.any, length) != 0;
	answer_sent(failed);
}

/* sendmsg with an address, or to the connected peer if there is only a text. */
static void do_sendmsg(char **words, int count)
{
	union address address;
	socklen_t length;
	struct iovec part;
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	int fd = descriptor(words[1]);

	if (fd < 0)
		return;
	if (count == 4) {
		misunderstood("usage: sendmsg NAME [ADDRESS PORT] TEXT");
		return;
	}
	if (count > 4) {
		if (!parse_address(words[2], words[3], &address, &length))
			return;
		message.msg_name = &address;
		message.msg_namelen = length;
	}
	part.iov_base = words[count - 1];
	part.iov_len = strlen(words[count - 1]);
	answer_sent(path_sendmsg(fd, &message, MSG_NOSIGNAL));
}

static void do_sendmsg_pktinfo(char **words, int count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	} control;
	union address address, source;
	socklen_t length, source_length;
	struct iovec part = { .iov_base = words[5], .iov_len = strlen(words[5]) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	int fd = descriptor(words[1]), is_connected = !strcmp(words[2], "-");

	(void)count;
	if (fd < 0 || (!is_connected && !parse_address(words[2], words[3], &address, &length)) ||
	    !parse_address(words[4], "0", &source, &source_length))
		return;
	memset(&control, 0, sizeof(control));
	if (!is_connected) {
		message.msg_name = &address;
		message.msg_namelen = length;
	}
	message.msg_control = &control;
	message.msg_controllen = sizeof(control);
	if (source.any.sa_family == AF_INET) {
		struct in_pktinfo info = { .ipi_spec_dst = source.v4.sin_addr };

		set_control(&message, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
	} else {
		struct in6_pktinfo info = { .ipi6_addr = source.v6.sin6_addr };

		set_control(&message, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
	}
	answer_sent(path_sendmsg(fd, &message, MSG_NOSIGNAL));
}

/*
 * Sends this many copies of one text to one address; "count" is the number that the kernel
 * accepted.
 */
static void do_sendmmsg(char **words, int count)
{
	struct mmsghdr messages[MESSAGES_MAX];
	struct iovec part = { .iov_base = words[5], .iov_len = strlen(words[5]) };
	union address address;
	socklen_t length;
	long copies;
	int fd = descriptor(words[1]);

	(void)count;
	if (fd < 0 || !number(words[2], 1, MESSAGES_MAX, &copies) ||
	    !parse_address(words[3], words[4], &address, &length))
		return;
	memset(messages, 0, sizeof(messages));
	for (long i = 0; i < copies; i++) {
		messages[i].msg_hdr.msg_name = &address;
		messages[i].msg_hdr.msg_namelen = length;
		messages[i].msg_hdr.msg_iov = &part;
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	answer_sent(sendmmsg(fd, messages, (unsigned int)copies, MSG_NOSIGNAL));
}

static void print_data(const char *data, ssize_t length)
{
	printf(",\"count\":%zd,\"data\":", length);
	print_string(data, (size_t)length);
}

/* recv, and recvfrom: the same with an address buffer. */
static void do_recv(char **words, int count)
{
	static char data[DATA_MAX];
	union address peer;
	socklen_t length = sizeof(peer);
	bool address_wanted = !strcmp(words[0], "recvfrom");
	ssize_t received;
	int fd = descriptor(words[1]);

	(void)count;
	if (fd < 0)
		return;
	memset(&peer, 0, sizeof(peer));
	received = path_recvfrom(fd, data, sizeof(data), 0, address_wanted ? &peer.any : NULL,
				 address_wanted ? &length : NULL);
	if (received < 0) {
		answer(-1);
		return;
	}
	answer_begin(0);
	if (address_wanted)
		print_address("", &peer, length);
	print_data(data, received);
	answer_end();
}

/*
 * With an address buffer, and the contents of IP_PKTINFO if it is enabled: "destination_" is the
 * datagram's destination, "local_" the address from which an answer would be sent (ip(7)).
 */
static void do_recvmsg(char **words, int count)
{
	static char data[DATA_MAX];
	union {
		struct cmsghdr header;
		char bytes[512];
	} control;
	union address peer, destination, local;
	struct iovec part = { .iov_base = data, .iov_len = sizeof(data) };
	struct msghdr message = { .msg_name = &peer,
				  .msg_namelen = sizeof(peer),
				  .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	ssize_t received;
	int fd = descriptor(words[1]);

	(void)count;
	if (fd < 0)
		return;
	memset(&peer, 0, sizeof(peer));
	received = path_recvmsg(fd, &message, 0);
	if (received < 0) {
		answer(-1);
		return;
	}
	answer_begin(0);
	print_address("", &peer, message.msg_namelen);
	for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header;
	     header = CMSG_NXTHDR(&message, header)) {
		memset(&destination, 0, sizeof(destination));
		memset(&local, 0, sizeof(local));
		if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo info;

			memcpy(&info, CMSG_DATA(header), sizeof(info));
			destination.v4.sin_family = local.v4.sin_family = AF_INET;
			destination.v4.sin_addr = info.ipi_addr;
			local.v4.sin_addr = info.ipi_spec_dst;
			print_address("destination_", &destination, sizeof(destination.v4));
			print_address("local_", &local, sizeof(local.v4));
		} else if (header->cmsg_level == IPPROTO_IPV6 &&
			   header->cmsg_type == IPV6_PKTINFO) {
			struct in6_pktinfo info;

			memcpy(&info, CMSG_DATA(header), sizeof(info));
			destination.v6.sin6_family = AF_INET6;
			destination.v6.sin6_addr = info.ipi6_addr;
			print_address("destination_", &destination, sizeof(destination.v6));
		}
	}
	print_data(data, received);
	answer_end();
}

/* Receives up to this many datagrams within the timeout; returns all addresses in order. */
static void do_recvmmsg(char **words, int count)
{
	static char data[MESSAGES_MAX][2048];
	struct mmsghdr messages[MESSAGES_MAX];
	struct iovec parts[MESSAGES_MAX];
	union address peers[MESSAGES_MAX];
	char text[INET6_ADDRSTRLEN];
	long wanted;
	int fd = descriptor(words[1]), received;

	(void)count;
	if (fd < 0 || !number(words[2], 1, MESSAGES_MAX, &wanted))
		return;
	memset(messages, 0, sizeof(messages));
	memset(peers, 0, sizeof(peers));
	for (long i = 0; i < wanted; i++) {
		parts[i] = (struct iovec){ .iov_base = data[i], .iov_len = sizeof(data[i]) };
		messages[i].msg_hdr.msg_name = &peers[i];
		messages[i].msg_hdr.msg_namelen = sizeof(peers[i]);
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	received = recvmmsg(fd, messages, (unsigned int)wanted, 0, NULL);
	if (received < 0) {
		answer(-1);
		return;
	}
	answer_begin(0);
	printf(",\"count\":%d,\"addresses\":[", received);
	for (int i = 0; i < received; i++) {
		bool v6 = peers[i].any.sa_family == AF_INET6;

		inet_ntop(peers[i].any.sa_family,
			  v6 ? (void *)&peers[i].v6.sin6_addr : (void *)&peers[i].v4.sin_addr, text,
			  sizeof(text));
		printf("%s\"%s\"", i ? "," : "", text);
	}
	putchar(']');
	answer_end();
}

static void do_setsockopt(char **words, int count)
{
	static const struct {
		const char *name;
		int level, option;
	} options[] = {
		{ "reuseaddr", SOL_SOCKET, SO_REUSEADDR },
		{ "reuseport", SOL_SOCKET, SO_REUSEPORT },
		{ "broadcast", SOL_SOCKET, SO_BROADCAST },
		{ "bind_no_port", IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT },
		{ "freebind", IPPROTO_IP, IP_FREEBIND },
		{ "freebind6", IPPROTO_IPV6, 78 /* IPV6_FREEBIND, linux/in6.h */ },
		/* linux/in.h, since Linux 6.3; the value is HIGHEST << 16 | LOWEST */
		{ "bindtodevice", SOL_SOCKET, SO_BINDTODEVICE }, /* of a name that is a number */
		{ "bindtoifindex", SOL_SOCKET, SO_BINDTOIFINDEX },
		{ "local_port_range", IPPROTO_IP, 51 /* IP_LOCAL_PORT_RANGE */ },
		{ "transparent", IPPROTO_IP, IP_TRANSPARENT },
		{ "pktinfo", IPPROTO_IP, IP_PKTINFO },
		{ "pktinfo6", IPPROTO_IPV6, IPV6_RECVPKTINFO },
		{ "v6only", IPPROTO_IPV6, IPV6_V6ONLY },
		{ "fastopen", IPPROTO_TCP, TCP_FASTOPEN },
		{ "fastopen_connect", IPPROTO_TCP, TCP_FASTOPEN_CONNECT },
		{ "multicast_if", IPPROTO_IP,
		  IP_MULTICAST_IF }, /* the address, as it is in memory */
		{ "multicast_if6", IPPROTO_IPV6, IPV6_MULTICAST_IF },
	};
	long value;
	int fd = descriptor(words[1]), number_value;

	(void)count;
	if (fd < 0 || !number(words[3], INT_MIN, INT_MAX, &value))
		return;
	if (!strcmp(words[2], "timeout")) { /* milliseconds, for sending and receiving */
		answer(set_timeout(fd, value));
		return;
	}
	if (!strcmp(words[2], "nonblock")) {
		answer(fcntl(fd, F_SETFL, value ? O_NONBLOCK : 0));
		return;
	}
	number_value = (int)value;
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		if (!strcmp(words[2], options[i].name)) {
			answer(setsockopt(fd, options[i].level, options[i].option, &number_value,
					  sizeof(number_value)));
			return;
		}
	}
	misunderstood("%s is no socket option that is known here", words[2]);
}

/*
 * Waits until a socket is writable ("out": a nonblocking connect has finished) or readable ("in").
 */
static void do_poll(char **words, int count)
{
	int fd = descriptor(words[1]), result, error = 0;
	struct pollfd wait = { .fd = fd, .events = !strcmp(words[2], "out") ? POLLOUT : POLLIN };
	socklen_t length = sizeof(error);

	(void)count;
	if (fd < 0)
		return;
	result = poll(&wait, 1, TIMEOUT_MS);
	if (!result) {
		errno = ETIMEDOUT;
		result = -1;
	} else if (result > 0 && !getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) && error) {
		errno = error;
		result = -1;
	}
	answer(result);
}

static void do_close(char **words, int count)
{
	struct named_socket *found = find(words[1]);

	(void)count;
	if (!found) {
		misunderstood("there is no socket named %s", words[1]);
		return;
	}
	answer(close(found->fd));
	/* close-fd: the name then stands for a closed descriptor. */
	if (strcmp(words[0], "close-fd") != 0)
		found->name[0] = 0;
}

/* ---- a socket handed to another process (SCM_RIGHTS, unix(7)) ---- */

static bool unix_address(const char *path, struct sockaddr_un *address)
{
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(address->sun_path)) {
		misunderstood("%s is too long for a Unix socket", path);
		return false;
	}
	strcpy(address->sun_path, path);
	return true;
}

/* The receiver opens its mailbox first, so neither side has to wait for the other. */
static void do_mailbox(char **words, int count)
{
	struct sockaddr_un address;

	(void)count;
	if (!unix_address(words[1], &address))
		return;
	if (mailbox < 0) {
		mailbox = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (mailbox < 0 || set_timeout(mailbox, TIMEOUT_MS)) {
			answer(-1);
			return;
		}
	}
	answer(bind(mailbox, (struct sockaddr *)&address, sizeof(address)));
}

static void do_pass(char **words, int count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .header = { .cmsg_len = CMSG_LEN(sizeof(int)),
				  .cmsg_level = SOL_SOCKET,
				  .cmsg_type = SCM_RIGHTS } };
	struct sockaddr_un address;
	struct iovec part = { .iov_base = "s", .iov_len = 1 };
	struct msghdr message = { .msg_name = &address,
				  .msg_namelen = sizeof(address),
				  .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	int fd = descriptor(words[1]), carrier;

	(void)count;
	if (fd < 0 || !unix_address(words[2], &address))
		return;
	carrier = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (carrier < 0) {
		answer(-1);
		return;
	}
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	answer(sendmsg(carrier, &message, MSG_NOSIGNAL) < 0 ? -1 : 0);
	close(carrier);
}

static void do_take(char **words, int count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *header;
	int fd;

	(void)count;
	memset(&control, 0, sizeof(control));
	if (recvmsg(mailbox, &message, MSG_CMSG_CLOEXEC) < 0) {
		answer(-1);
		return;
	}
	header = CMSG_FIRSTHDR(&message);
	if (!header || header->cmsg_type != SCM_RIGHTS) {
		misunderstood("a message without a socket in it");
		return;
	}
	memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	answer_new(fd, words[1], NULL, 0);
}

/* ---- the process itself ---- */

/* Sets the calling thread's name. In the first thread, /proc/PID/comm shows it. */
static void do_rename(char **words, int count)
{
	(void)count;
	answer(prctl(PR_SET_NAME, words[1], 0, 0, 0));
}

static void do_pid(char **words, int count)
{
	char name[16] = ""; /* TASK_COMM_LEN */

	(void)words;
	(void)count;
	prctl(PR_GET_NAME, name, 0, 0, 0);
	answer_begin(0);
	printf(",\"pid\":%d,\"tid\":%ld,\"name\":", getpid(), (long)syscall(SYS_gettid));
	print_string(name, strlen(name));
	answer_end();
}

/*
 * Types a line into the terminal of a standard descriptor, as if it came from the keyboard:
 * tty_ioctl(4).
 */
static void do_type(char **words, int count)
{
	const char newline = '\n';
	int result = -1;

	(void)count;
	for (int fd = 0; fd <= 2 && result < 0; fd++) {
		for (const char *next = words[1]; *next; next++) {
			result = ioctl(fd, TIOCSTI, next);
			if (result < 0)
				break;
		}
		if (!result)
			result = ioctl(fd, TIOCSTI, &newline);
	}
	answer(result);
}

/*
 * Waits until no process is in a cgroup or below it. The kernel reports that by POLLPRI on
 * cgroup.events (Documentation/admin-guide/cgroup-v2.rst, "[Un]populated Notification").
 */
static void do_await_empty(char **words, int count)
{
	char path[PATH_MAX], text[256];
	struct pollfd wait = { .events = POLLPRI };
	ssize_t length;
	int result;

	(void)count;
	snprintf(path, sizeof(path), "%s/cgroup.events", words[1]);
	wait.fd = open(path, O_RDONLY | O_CLOEXEC);
	if (wait.fd < 0) {
		answer(-1);
		return;
	}
	do {
		length = pread(wait.fd, text, sizeof(text) - 1, 0);
		if (length < 0) {
			answer(-1);
			close(wait.fd);
			return;
		}
		text[length] = 0;
		if (strstr(text, "populated 0")) {
			answer(0);
			close(wait.fd);
			return;
		}
		result = poll(&wait, 1, TIMEOUT_MS);
	} while (result > 0);
	if (!result)
		errno = ETIMEDOUT;
	answer(-1);
	close(wait.fd);
}

/* Sets in which way the next calls are made: path_choose, uring.h. */
static void do_path(char **words, int count)
{
	(void)count;
	answer(path_choose(words[1]));
}

/* ---- malformed calls ---- */

/* The call with a family and a length of the address that may be wrong. */
static void do_crooked(char **words, int count)
{
	union address address;
	socklen_t length;
	long family, crooked;
	int fd = descriptor(words[2]);

	(void)count;
	if (fd < 0 || !parse_address(words[3], words[4], &address, &length) ||
	    !number(words[5], 0, UINT16_MAX, &family) ||
	    !number(words[6], INT_MIN, sizeof(address), &crooked))
		return;
	address.any.sa_family = (sa_family_t)family;
	length = (socklen_t)crooked;
	if (!strcmp(words[1], "bind"))
		answer(path_bind(fd, &address.any, length));
	else if (!strcmp(words[1], "connect"))
		answer(path_connect(fd, &address.any, length));
	else if (!strcmp(words[1], "sendto"))
		answer_sent(path_sendto(fd, "x", 1, MSG_NOSIGNAL, &address.any, length));
	else if (!strcmp(words[1], "fastopen"))
		answer_sent(
			path_sendto(fd, "x", 1, MSG_NOSIGNAL | MSG_FASTOPEN, &address.any, length));
	else
		misunderstood("%s is none of bind, connect, sendto, fastopen", words[1]);
}

/*
 * A name in a buffer of this many bytes; "count" is the length that the kernel returns, "data" the
 * bytes.
 */
static void do_short_name(char **words, int count)
{
	unsigned char bytes[sizeof(union address)] = "";
	char text[2 * sizeof(bytes) + 1];
	socklen_t length;
	long size;
	int fd = descriptor(words[2]), result;

	(void)count;
	if (fd < 0 || !number(words[3], INT_MIN, sizeof(bytes), &size))
		return;
	length = (socklen_t)size;
	if (!strcmp(words[1], "getsockname"))
		result = getsockname(fd, (struct sockaddr *)bytes, &length);
	else
		result = getpeername(fd, (struct sockaddr *)bytes, &length);
	if (result) {
		answer(result);
		return;
	}
	for (long i = 0; i < size; i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	answer_begin(0);
	printf(",\"count\":%u,\"data\":", length);
	print_string(text, (size_t)(2 * size));
	answer_end();
}

/* ---- groups ---- */

/* Joins a multicast group on the interface. */
static void do_join(char **words, int count)
{
	union address group;
	socklen_t length;
	unsigned int interface = if_nametoindex(words[3]);
	int fd = descriptor(words[1]);

	(void)count;
	if (fd < 0 || !parse_address(words[2], "0", &group, &length))
		return;
	if (group.any.sa_family == AF_INET) {
		struct ip_mreqn request = { .imr_multiaddr = group.v4.sin_addr,
					    .imr_ifindex = (int)interface };

		answer(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof(request)));
	} else {
		struct ipv6_mreq request = { .ipv6mr_multiaddr = group.v6.sin6_addr,
					     .ipv6mr_interface = interface };

		answer(setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &request,
				  sizeof(request)));
	}
}

/* ---- inherited sockets ---- */

/*
 * All later commands run in a child, which has all sockets. This process waits for its end and
 * exits likewise.
 */
static void do_fork(char **words, int count)
{
	pid_t child;
	int status;

	(void)words;
	(void)count;
	child = fork();
	if (child <= 0) {
		answer(child);
		return;
	}
	if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
		_exit(1);
	_exit(WEXITSTATUS(status));
}

#define INHERITED "VIP_PROBE_SOCKETS" /* NAME=DESCRIPTOR,… */

/*
 * Executes another program, which is a probe as well and keeps all sockets: its main prints the
 * result.
 */
static void do_exec(char **words, int count)
{
	char text[SOCKETS_MAX * (sizeof(sockets[0].name) + 12)] = "";
	size_t length = 0;

	(void)count;
	for (size_t i = 0; i < SOCKETS_MAX; i++) {
		if (!sockets[i].name[0])
			continue;
		if (fcntl(sockets[i].fd, F_SETFD, 0)) {
			answer(-1);
			return;
		}
		length += (size_t)snprintf(text + length, sizeof(text) - length, "%s=%d,",
					   sockets[i].name, sockets[i].fd);
	}
	setenv(INHERITED, text, 1);
	execl(words[1], words[1], (char *)NULL);
	answer(-1);
}

static void inherit(void)
{
	char *rest = getenv(INHERITED), *pair, *fd;

	if (!rest)
		return;
	command_name = "exec";
	while ((pair = strsep(&rest, ","))) {
		fd = strchr(pair, '=');
		if (!fd)
			continue;
		*fd++ = 0;
		if (!keep(pair, atoi(fd)))
			return;
	}
	unsetenv(INHERITED);
	answer(0);
}

/* ---- reading commands ---- */

static void *worker(void *name);

/* All later commands run in a new thread, until `quit` or the end of the commands. */
static bool do_thread(char **words, int count)
{
	pthread_t thread;
	int error;

	error = pthread_create(&thread, NULL, worker, count > 1 ? strdup(words[1]) : NULL);
	if (error) {
		errno = error;
		answer(-1);
		return true;
	}
	pthread_join(thread, NULL);
	return false;
}

static const struct command {
	const char *name, *usage;
	int least, most; /* words, including the command's own */
	void (*run)(char **words, int count);
} commands[] = {
	{ "socket", "NAME tcp|udp|udplite|mptcp [4|6]", 3, 4, do_socket },
	{ "bind", "NAME ADDRESS PORT", 4, 4, do_bind },
	{ "bind-unspec", "NAME ADDRESS PORT", 4, 4, do_bind },
	{ "burst", "NAME COUNT ADDRESS PORT", 5, 5, do_burst },
	{ "listen", "NAME [BACKLOG]", 2, 3, do_listen },
	{ "connect", "NAME ADDRESS PORT", 4, 4, do_connect },
	{ "disconnect", "NAME", 2, 2, do_disconnect },
	{ "accept", "LISTENER NAME", 3, 3, do_accept },
	{ "accept-noaddr", "LISTENER NAME", 3, 3, do_accept },
	{ "getsockname", "NAME", 2, 2, do_name },
	{ "getpeername", "NAME", 2, 2, do_name },
	{ "send", "NAME TEXT", 3, 3, do_send },
	{ "sendto", "NAME ADDRESS PORT TEXT", 5, 5, do_sendto },
	{ "fastopen", "NAME ADDRESS PORT TEXT", 5, 5, do_sendto },
	{ "sendmsg", "NAME [ADDRESS PORT] TEXT", 3, 5, do_sendmsg },
	{ "sendmsg-pktinfo", "NAME ADDRESS|- PORT SOURCE TEXT", 6, 6, do_sendmsg_pktinfo },
	{ "sendmmsg", "NAME COUNT ADDRESS PORT TEXT", 6, 6, do_sendmmsg },
	{ "recv", "NAME", 2, 2, do_recv },
	{ "recvfrom", "NAME", 2, 2, do_recv },
	{ "recvmsg", "NAME", 2, 2, do_recvmsg },
	{ "recvmmsg", "NAME COUNT", 3, 3, do_recvmmsg },
	{ "setsockopt", "NAME OPTION VALUE", 4, 4, do_setsockopt },
	{ "poll", "NAME in|out", 3, 3, do_poll },
	{ "close", "NAME", 2, 2, do_close },
	{ "mailbox", "PATH", 2, 2, do_mailbox },
	{ "pass", "NAME PATH", 3, 3, do_pass },
	{ "take", "NAME", 2, 2, do_take },
	{ "rename", "THREAD-NAME", 2, 2, do_rename },
	{ "pid", "", 1, 1, do_pid },
	{ "type", "WORD", 2, 2, do_type },
	{ "await-empty", "CGROUP", 2, 2, do_await_empty },
	{ "path", "syscall|uring|uring-async|uring-sqpoll", 2, 2, do_path },
	{ "crooked", "CALL NAME ADDRESS PORT FAMILY LENGTH", 7, 7, do_crooked },
	{ "short-name", "getsockname|getpeername NAME LENGTH", 4, 4, do_short_name },
	{ "close-fd", "NAME", 2, 2, do_close },
	{ "join", "NAME GROUP INTERFACE", 4, 4, do_join },
	{ "fork", "", 1, 1, do_fork },
	{ "exec", "PATH", 2, 2, do_exec },
};

/* Runs one command; false if it is the last one. */
static bool run(char *line)
{
	char *words[WORDS_MAX], *rest = line, *word;
	int count = 0;

	while ((word = strsep(&rest, " \t\r\n"))) {
		if (*word && count < WORDS_MAX)
			words[count++] = word;
	}
	if (!count)
		return true;
	command_name = words[0];
	if (!strcmp(words[0], "quit")) {
		answer(0);
		return false;
	}
	if (!strcmp(words[0], "thread"))
		return do_thread(words, count);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		const struct command *command = &commands[i];

		if (strcmp(words[0], command->name))
			continue;
		if (count < command->least || count > command->most)
			misunderstood("usage: %s %s", command->name, command->usage);
		else
			command->run(words, count);
		return true;
	}
	misunderstood("no such command");
	return true;
}

/* The commands of the argument list, joined by main; NULL to read them from standard input. */
static char *script;

static bool next(char **line, size_t *size)
{
	char *command;

	if (!script)
		return getline(line, size, stdin) > 0;
	command = strsep(&script, ",");
	/* After the last comma this is an empty string, because NULL would mean standard input. */
	if (!script)
		script = "";
	if (!*command)
		return false;
	free(*line);
	*line = strdup(command);
	return *line != NULL;
}

static void serve(void)
{
	char *line = NULL;
	size_t size = 0;

	while (next(&line, &size) && run(line))
		;
	free(line);
}

/*
 * The new thread of `thread`, with its name or NULL. The thread that started it waits for its end.
 */
static void *worker(void *name)
{
	int result = name ? prctl(PR_SET_NAME, name, 0, 0, 0) : 0;

	answer(result);
	free(name);
	serve();
	return NULL;
}

int main(int argc, char **argv)
{
	size_t length = 1;

	inherit();
	if (argc > 1) {
		for (int i = 1; i < argc; i++)
			length += strlen(argv[i]) + 1;
		script = calloc(length, 1);
		if (!script)
			return 1;
		for (int i = 1; i < argc; i++) {
			strcat(script, argv[i]);
			strcat(script, " ");
		}
	}
	serve();
	return exit_code;
}
