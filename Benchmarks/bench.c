/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times socket calls. There is one process per variant, each in its own cgroup and all on one CPU. They
 * read commands from standard input, so that rounds of the variants alternate without starting processes:
 *
 *   "CASE COUNT\n"   runs COUNT operations of the case after a warm-up; prints nanoseconds per operation
 *   "names\n"        prints getsockname of sockets bound to 0.0.0.0 and to ::
 *
 * It prints "ready" once the servers of `elsewhere6` are open. Whoever starts it then moves it into its cgroup.
 *
 * Every round creates and closes its other sockets, so the ports are the same in every variant, and the
 * sockets' places in memory differ from round to round.
 *
 * Server and client are one thread. On the loopback device a packet is received before the call that
 * sent it returns, so a connection can be accepted when connect has returned, and the scheduler does not
 * affect the figures.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/*
 * 203.0.113.1 and 2001:db8:113::1 stand for another host: a route makes them local, and no interface has
 * them, so that they are neither the host's nor a session's and yet answer in the same thread.
 */
#define ELSEWHERE "203.0.113.1"
#define ELSEWHERE6 "2001:db8:113::1" /* of sendto6-wildcard; all others have elsewhere6 */
#define MAPPED "::ffff:203.0.113.1"
#define LOCALHOST "127.0.0.1"
#define LOCALHOST6 "::1"
#define WILDCARD "0.0.0.0"
#define WILDCARD6 "::"

enum {
	PORT = 9000,
	PORT_ELSEWHERE6, /* of the servers that stay open, apart from the wildcards that are bound meanwhile */
	BATCH = 32,   /* sockets or datagrams between two readings of the clock */
	PAYLOAD = 64, /* bytes of a datagram */
	SINK_SIZE =
		1
		<< 20, /* bytes of a receive buffer: a batch of datagrams with the kernel's overhead */
};

static void die(const char *what)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

struct address {
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	};
	socklen_t length;
};

/*
 * Another host's address, a different one in each process. In a session, IPv6 servers cannot bind what the host does
 * not have, so this process opens these servers before it is in one.
 */
static char elsewhere6[INET6_ADDRSTRLEN];
static int elsewhere6_servers[] = { [SOCK_STREAM] = -1, [SOCK_DGRAM] = -1 };

static struct address address_of(const char *text)
{
	struct address address = {};

	if (strchr(text, ':')) {
		address.in6.sin6_family = AF_INET6;
		address.in6.sin6_port = htons(text == elsewhere6 ? PORT_ELSEWHERE6 : PORT);
		address.length = sizeof(address.in6);
		if (inet_pton(AF_INET6, text, &address.in6.sin6_addr) == 1)
			return address;
	} else {
		address.in.sin_family = AF_INET;
		address.in.sin_port = htons(PORT);
		address.length = sizeof(address.in);
		if (inet_pton(AF_INET, text, &address.in.sin_addr) == 1)
			return address;
	}
	errno = EINVAL;
	die(text);
	return address;
}

static int open_socket(int family, int type)
{
	int fd = socket(family, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	return fd;
}

static void set(int fd, int level, int option, const char *name)
{
	int on = 1;

	if (setsockopt(fd, level, option, &on, sizeof(on)))
		die(name);
}

struct target {
	const char *server; /* what the server binds */
	const char *peer;   /* what the client asks for */
	int with_name;	    /* accept asks for the peer's address */
	int dual;	    /* a server on :: is one for IPv4 too */
};

/* What a socket needs before it is bound to target->server. */
static void prepare(int fd, const struct target *target)
{
	if (!strcmp(target->server, WILDCARD6) && !target->dual)
		set(fd, IPPROTO_IPV6, IPV6_V6ONLY, "IPV6_V6ONLY");
	/* For bind, a route alone does not make an IPv6 address local. */
	if (target->server == elsewhere6)
		set(fd, IPPROTO_IPV6, IPV6_FREEBIND, "IPV6_FREEBIND");
}

static int open_bound(const struct target *target, int type)
{
	struct address address = address_of(target->server);
	int fd;

	if (target->server == elsewhere6 && elsewhere6_servers[type] >= 0) {
		fd = dup(elsewhere6_servers[type]);
		if (fd < 0)
			die("dup");
		return fd;
	}
	fd = open_socket(address.any.sa_family, type);
	if (type == SOCK_STREAM)
		set(fd, SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR");
	prepare(fd, target);
	if (bind(fd, &address.any, address.length))
		die("bind");
	return fd;
}

/* A connection from socket() to the last close, both ends. */
static void tcp_cycles(int listener, const struct address *peer, int with_name, long count)
{
	for (long i = 0; i < count; i++) {
		struct address from;
		socklen_t length = sizeof(from.in6);
		int client = open_socket(peer->any.sa_family, SOCK_STREAM), server;

		if (connect(client, &peer->any, peer->length))
			die("connect");
		server = accept4(listener, with_name ? &from.any : NULL, with_name ? &length : NULL,
				 SOCK_CLOEXEC);
		if (server < 0)
			die("accept");
		close(client);
		close(server);
	}
}

static double run_tcp(const struct target *target, long count)
{
	struct address peer = address_of(target->peer);
	int listener = open_bound(target, SOCK_STREAM);
	double start, end;

	if (listen(listener, BATCH))
		die("listen");
	tcp_cycles(listener, &peer, target->with_name, count / 8 + 4);
	start = now();
	tcp_cycles(listener, &peer, target->with_name, count);
	end = now();
	close(listener);
	return (end - start) / count;
}

static void receive(int sink)
{
	char buffer[PAYLOAD];

	if (recv(sink, buffer, sizeof(buffer), MSG_DONTWAIT) != PAYLOAD)
		die("recv");
}

/* Only sendto is timed. All datagrams are read between the batches, and none may be missing. */
static double run_sendto(const struct target *target, long count)
{
	static const char payload[PAYLOAD];
	struct address peer = address_of(target->peer);
	int sink = open_bound(target, SOCK_DGRAM);
	int source = open_socket(peer.any.sa_family, SOCK_DGRAM);
	int size = SINK_SIZE;
	double total = 0;
	long batches = (count + BATCH - 1) / BATCH;

	if (setsockopt(sink, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		die("SO_RCVBUFFORCE");
	for (long batch = -(batches / 8 + 1); batch < batches; batch++) {
		double start = now();

		for (int i = 0; i < BATCH; i++)
			if (sendto(source, payload, sizeof(payload), 0, &peer.any, peer.length) !=
			    PAYLOAD)
				die("sendto");
		if (batch >= 0)
			total += now() - start;
		for (int i = 0; i < BATCH; i++)
			receive(sink);
	}
	close(source);
	close(sink);
	return total / (batches * BATCH);
}

static double run_sendto_recv(const struct target *target, long count)
{
	static const char payload[PAYLOAD];
	struct address peer = address_of(target->peer);
	int sink = open_bound(target, SOCK_DGRAM);
	int source = open_socket(peer.any.sa_family, SOCK_DGRAM);
	double start = 0, end;

	for (long i = -(count / 8 + 1); i < count; i++) {
		if (i == 0)
			start = now();
		if (sendto(source, payload, sizeof(payload), 0, &peer.any, peer.length) != PAYLOAD)
			die("sendto");
		receive(sink);
	}
	end = now();
	close(source);
	close(sink);
	return (end - start) / count;
}

/* Only bind and close are timed; the sockets of a batch are created before. */
static double run_bind(const struct target *target, long count)
{
	struct address address = address_of(target->server);
	double total = 0;
	long batches = (count + BATCH - 1) / BATCH;

	for (long batch = -(batches / 8 + 1); batch < batches; batch++) {
		int sockets[BATCH];
		double start;

		for (int i = 0; i < BATCH; i++) {
			sockets[i] = open_socket(address.any.sa_family, SOCK_STREAM);
			prepare(sockets[i], target);
		}
		start = now();
		for (int i = 0; i < BATCH; i++) {
			if (bind(sockets[i], &address.any, address.length))
				die("bind");
			close(sockets[i]);
		}
		if (batch >= 0)
			total += now() - start;
	}
	return total / (batches * BATCH);
}

static double run_socket_bind(const struct target *target, long count)
{
	struct address address = address_of(target->server);
	double start = 0;

	for (long i = -(count / 8 + 1); i < count; i++) {
		int fd;

		if (i == 0)
			start = now();
		fd = open_socket(address.any.sa_family, SOCK_STREAM);
		if (bind(fd, &address.any, address.length))
			die("bind");
		close(fd);
	}
	return (now() - start) / count;
}

static double run_getsockname(const struct target *target, long count)
{
	int fd = open_bound(target, SOCK_STREAM);
	struct address name;
	double start = 0, end;

	for (long i = -(count / 8 + 1); i < count; i++) {
		socklen_t length = sizeof(name.in6);

		if (i == 0)
			start = now();
		if (getsockname(fd, &name.any, &length))
			die("getsockname");
	}
	end = now();
	close(fd);
	return (end - start) / count;
}

static double run_setsockopt(const struct target *target, long count)
{
	int fd = open_bound(target, SOCK_STREAM), on = 1;
	double start = 0, end;

	for (long i = -(count / 8 + 1); i < count; i++) {
		if (i == 0)
			start = now();
		if (setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)))
			die("setsockopt");
	}
	end = now();
	close(fd);
	return (end - start) / count;
}

static void open_elsewhere6(void)
{
	struct target target = { elsewhere6, NULL, 0, 0 };

	snprintf(elsewhere6, sizeof(elsewhere6), "2001:db8:113:0:1::%x:%x", getpid() >> 16,
		 getpid() & 0xffff);
	for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++)
		elsewhere6_servers[type] = open_bound(&target, type);
}

/* The session's VIP6; in the other variants an address that the host has in its place. From the command line. */
static char virtual6[INET6_ADDRSTRLEN];

static const struct bench_case {
	const char *name;
	double (*run)(const struct target *target, long count);
	struct target target;
} cases[] = {
	{ "tcp", run_tcp, { ELSEWHERE, ELSEWHERE, 0, 0 } },
	{ "sendto", run_sendto, { ELSEWHERE, ELSEWHERE, 0, 0 } },
	{ "bind", run_bind, { WILDCARD, NULL, 0, 0 } },
	{ "getsockname", run_getsockname, { WILDCARD, NULL, 0, 0 } },
	{ "tcp-accept-name", run_tcp, { ELSEWHERE, ELSEWHERE, 1, 0 } },
	{ "tcp-loopback", run_tcp, { LOCALHOST, LOCALHOST, 0, 0 } },
	{ "tcp-loopback-accept-name", run_tcp, { LOCALHOST, LOCALHOST, 1, 0 } },
	{ "tcp-loopback-wildcard", run_tcp, { WILDCARD, LOCALHOST, 0, 0 } },
	{ "sendto-recv", run_sendto_recv, { ELSEWHERE, ELSEWHERE, 0, 0 } },
	{ "sendto-loopback", run_sendto, { LOCALHOST, LOCALHOST, 0, 0 } },
	{ "bind-loopback", run_bind, { LOCALHOST, NULL, 0, 0 } },
	/* The cost of binding an address that no variant rewrites. */
	{ "bind-address", run_bind, { ELSEWHERE, NULL, 0, 0 } },
	{ "socket-bind", run_socket_bind, { WILDCARD, NULL, 0, 0 } },
	{ "setsockopt", run_setsockopt, { WILDCARD, NULL, 0, 0 } },
	{ "getsockname-loopback", run_getsockname, { LOCALHOST, NULL, 0, 0 } },

	{ "tcp6", run_tcp, { elsewhere6, elsewhere6, 0, 0 } },
	{ "sendto6", run_sendto, { elsewhere6, elsewhere6, 0, 0 } },
	{ "bind6", run_bind, { WILDCARD6, NULL, 0, 0 } },
	{ "getsockname6", run_getsockname, { WILDCARD6, NULL, 0, 0 } },
	{ "tcp6-mapped", run_tcp, { MAPPED, MAPPED, 0, 0 } },
	{ "tcp6-loopback", run_tcp, { LOCALHOST6, LOCALHOST6, 0, 0 } },
	{ "sendto6-recv", run_sendto_recv, { elsewhere6, elsewhere6, 0, 0 } },
	{ "sendto6-loopback", run_sendto, { LOCALHOST6, LOCALHOST6, 0, 0 } },
	{ "bind6-loopback", run_bind, { LOCALHOST6, NULL, 0, 0 } },
	{ "bind6-address", run_bind, { virtual6, NULL, 0, 0 } },

	{ "bind-dual", run_bind, { WILDCARD6, NULL, 0, 1 } },
	{ "getsockname-dual", run_getsockname, { WILDCARD6, NULL, 0, 1 } },
	{ "tcp-dual-loopback", run_tcp, { WILDCARD6, LOCALHOST, 0, 1 } },
	{ "tcp-dual-loopback6", run_tcp, { WILDCARD6, LOCALHOST6, 0, 1 } },
	{ "tcp-dual-virtual6", run_tcp, { WILDCARD6, virtual6, 0, 1 } },

	/* Only outside sessions: there, the server receives what is sent to another host. */
	{ "sendto-wildcard", run_sendto, { WILDCARD, ELSEWHERE, 0, 0 } },
	{ "sendto6-wildcard", run_sendto, { WILDCARD6, ELSEWHERE6, 0, 0 } },
};

static void print_name(const char *wildcard, char after)
{
	struct target target = { wildcard, NULL, 0, 0 };
	int fd = open_bound(&target, SOCK_STREAM);
	char text[INET6_ADDRSTRLEN];
	struct address name;
	socklen_t length = sizeof(name.in6);

	if (getsockname(fd, &name.any, &length))
		die("getsockname");
	if (!inet_ntop(name.any.sa_family,
		       name.any.sa_family == AF_INET ? (void *)&name.in.sin_addr :
						       (void *)&name.in6.sin6_addr,
		       text, sizeof(text)))
		die("inet_ntop");
	printf("%s%c", text, after);
	close(fd);
}

static void run_case(const char *name, long count)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (!strcmp(name, cases[i].name)) {
			printf("%.2f\n", cases[i].run(&cases[i].target, count));
			return;
		}
	errno = EINVAL;
	die(name);
}

int main(int argc, char **argv)
{
	char line[128], name[64];
	cpu_set_t cpus;
	long count;

	if (argc != 3) {
		fprintf(stderr, "usage: %s CPU VIRTUAL-IPV6\n", argv[0]);
		return 64;
	}
	snprintf(virtual6, sizeof(virtual6), "%s", argv[2]);
	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[1]), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
	/* With priority over other work on this host: a round is short and should not be interrupted. */
	if (setpriority(PRIO_PROCESS, 0, -20))
		die("setpriority");
	open_elsewhere6();
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "names\n")) {
			print_name(WILDCARD, ' ');
			print_name(WILDCARD6, '\n');
		} else if (sscanf(line, "%63s %ld", name, &count) == 2 && count > 0)
			run_case(name, count);
		else {
			errno = EINVAL;
			die(line);
		}
		fflush(stdout);
	}
	return 0;
}
