/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Socket calls, timed. One process per variant, each in its own cgroup, all on one CPU, told over
 * standard input what to run, so that rounds of the variants alternate with no process started in
 * between:
 *
 *   "CASE COUNT\n"   runs COUNT operations of the case after a warm-up; answers nanoseconds per operation
 *   "name\n"         answers what getsockname says of a socket bound to 0.0.0.0
 *
 * Every round makes its sockets and closes them, so the ports are the same in every variant and the
 * place that a socket happens to have in memory is drawn anew each time.
 *
 * Server and client are one thread: on the loopback device a packet is received before the call that
 * sent it returns, so a connection is there to accept when connect comes back, and the scheduler has
 * no say in the figures.
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

enum {
	PORT = 9000,
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

static struct sockaddr_in address_of(const char *text)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(PORT) };

	if (inet_pton(AF_INET, text, &address.sin_addr) != 1)
		die(text);
	return address;
}

static int open_socket(int type)
{
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	return fd;
}

static int open_bound(int type, const char *text)
{
	struct sockaddr_in address = address_of(text);
	int fd = open_socket(type), on = 1;

	if (type == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)))
		die("SO_REUSEADDR");
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)))
		die("bind");
	return fd;
}

struct target {
	const char *server; /* what the server binds */
	const char *peer;   /* what the client asks for */
	int with_name;	    /* accept asks for the peer's address */
};

/* A connection from socket() to the last close, both ends. */
static void tcp_cycles(int listener, const struct sockaddr_in *peer, int with_name, long count)
{
	for (long i = 0; i < count; i++) {
		struct sockaddr_in from;
		socklen_t length = sizeof(from);
		int client = open_socket(SOCK_STREAM), server;

		if (connect(client, (const struct sockaddr *)peer, sizeof(*peer)))
			die("connect");
		server = accept4(listener, with_name ? (struct sockaddr *)&from : NULL,
				 with_name ? &length : NULL, SOCK_CLOEXEC);
		if (server < 0)
			die("accept");
		close(client);
		close(server);
	}
}

static double run_tcp(const struct target *target, long count)
{
	struct sockaddr_in peer = address_of(target->peer);
	int listener = open_bound(SOCK_STREAM, target->server);
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

/* sendto alone is timed. What arrives is read between the batches, and must be all of it. */
static double run_sendto(const struct target *target, long count)
{
	static const char payload[PAYLOAD];
	struct sockaddr_in peer = address_of(target->peer);
	int sink = open_bound(SOCK_DGRAM, target->server), source = open_socket(SOCK_DGRAM);
	int size = SINK_SIZE;
	double total = 0;
	long batches = (count + BATCH - 1) / BATCH;

	if (setsockopt(sink, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		die("SO_RCVBUFFORCE");
	for (long batch = -(batches / 8 + 1); batch < batches; batch++) {
		double start = now();

		for (int i = 0; i < BATCH; i++)
			if (sendto(source, payload, sizeof(payload), 0, (struct sockaddr *)&peer,
				   sizeof(peer)) != PAYLOAD)
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
	struct sockaddr_in peer = address_of(target->peer);
	int sink = open_bound(SOCK_DGRAM, target->server), source = open_socket(SOCK_DGRAM);
	double start = 0, end;

	for (long i = -(count / 8 + 1); i < count; i++) {
		if (i == 0)
			start = now();
		if (sendto(source, payload, sizeof(payload), 0, (struct sockaddr *)&peer,
			   sizeof(peer)) != PAYLOAD)
			die("sendto");
		receive(sink);
	}
	end = now();
	close(source);
	close(sink);
	return (end - start) / count;
}

/* bind and close alone are timed: a batch of sockets is made before. */
static double run_bind(const struct target *target, long count)
{
	struct sockaddr_in address = address_of(target->server);
	double total = 0;
	long batches = (count + BATCH - 1) / BATCH;

	for (long batch = -(batches / 8 + 1); batch < batches; batch++) {
		int sockets[BATCH];
		double start;

		for (int i = 0; i < BATCH; i++)
			sockets[i] = open_socket(SOCK_STREAM);
		start = now();
		for (int i = 0; i < BATCH; i++) {
			if (bind(sockets[i], (struct sockaddr *)&address, sizeof(address)))
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
	struct sockaddr_in address = address_of(target->server);
	double start = 0;

	for (long i = -(count / 8 + 1); i < count; i++) {
		int fd;

		if (i == 0)
			start = now();
		fd = open_socket(SOCK_STREAM);
		if (bind(fd, (struct sockaddr *)&address, sizeof(address)))
			die("bind");
		close(fd);
	}
	return (now() - start) / count;
}

static double run_getsockname(const struct target *target, long count)
{
	int fd = open_bound(SOCK_STREAM, target->server);
	struct sockaddr_in name;
	double start = 0, end;

	for (long i = -(count / 8 + 1); i < count; i++) {
		socklen_t length = sizeof(name);

		if (i == 0)
			start = now();
		if (getsockname(fd, (struct sockaddr *)&name, &length))
			die("getsockname");
	}
	end = now();
	close(fd);
	return (end - start) / count;
}

/*
 * 203.0.113.1 stands for another host: a route makes it local, and no interface has it, so that it is
 * neither the host's nor a session's and yet answers in the same thread.
 */
#define ELSEWHERE "203.0.113.1"
#define LOCALHOST "127.0.0.1"
#define WILDCARD "0.0.0.0"

static const struct bench_case {
	const char *name;
	double (*run)(const struct target *target, long count);
	struct target target;
} cases[] = {
	{ "tcp", run_tcp, { ELSEWHERE, ELSEWHERE, 0 } },
	{ "sendto", run_sendto, { ELSEWHERE, ELSEWHERE, 0 } },
	{ "bind", run_bind, { WILDCARD, NULL, 0 } },
	{ "getsockname", run_getsockname, { WILDCARD, NULL, 0 } },
	{ "tcp-accept-name", run_tcp, { ELSEWHERE, ELSEWHERE, 1 } },
	{ "tcp-loopback", run_tcp, { LOCALHOST, LOCALHOST, 0 } },
	{ "tcp-loopback-accept-name", run_tcp, { LOCALHOST, LOCALHOST, 1 } },
	{ "tcp-loopback-wildcard", run_tcp, { WILDCARD, LOCALHOST, 0 } },
	{ "sendto-recv", run_sendto_recv, { ELSEWHERE, ELSEWHERE, 0 } },
	{ "sendto-loopback", run_sendto, { LOCALHOST, LOCALHOST, 0 } },
	{ "bind-loopback", run_bind, { LOCALHOST, NULL, 0 } },
	/* What binding an address costs whoever does it: as asked in a session too. */
	{ "bind-address", run_bind, { ELSEWHERE, NULL, 0 } },
	{ "socket-bind", run_socket_bind, { WILDCARD, NULL, 0 } },
	{ "getsockname-loopback", run_getsockname, { LOCALHOST, NULL, 0 } },
};

static void print_name(void)
{
	int fd = open_bound(SOCK_STREAM, WILDCARD);
	struct sockaddr_in name;
	socklen_t length = sizeof(name);

	if (getsockname(fd, (struct sockaddr *)&name, &length))
		die("getsockname");
	puts(inet_ntoa(name.sin_addr));
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

	if (argc != 2) {
		fprintf(stderr, "usage: %s CPU\n", argv[0]);
		return 64;
	}
	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[1]), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
	/* Above whatever else this host does: a round is short, and should not be cut in two. */
	if (setpriority(PRIO_PROCESS, 0, -20))
		die("setpriority");
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "name\n"))
			print_name();
		else if (sscanf(line, "%63s %ld", name, &count) == 2 && count > 0)
			run_case(name, count);
		else {
			errno = EINVAL;
			die(line);
		}
		fflush(stdout);
	}
	return 0;
}
