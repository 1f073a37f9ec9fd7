/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The declarations that the parts of vip-differential share; differential.c describes the program.
 */
#ifndef DIFFERENTIAL_H
#define DIFFERENTIAL_H

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
#define RANDOM_MAX 26 /* those among them that are random; afterwards all sockets are queried */
#define DATA_MAX 8    /* bytes of a datagram that are compared; the sent ones are shorter */
#define SETTLE_MS \
	20 /* slow runs: between two calls, for what the kernel does on its own (MPTCP's worker) */
#define ARRIVAL_MS 300	/* slow runs: the longest wait for something that is under way */
#define FOUND_MAX 64	/* different differences of one run */
#define PORT_SHOWN 9001 /* to 9003: the names of the three ports in scripts */
#define PORT_FIRST \
	2000 /* the real ones change with each sequence, so ports that close slowly do not matter */
#define PORT_BLOCKS 9000 /* of three; below ip_local_port_range as scripts/differential sets it */

/* ---- calls.c: a call as text, as numbers, and its result ---- */

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

/*
 * The words after the socket's name: o option, a address and port, s source, b another socket's
 * name, t text, d direction.
 */
struct kind_words {
	const char *name, *arguments;
};
extern const struct kind_words kinds[KINDS];

enum transport { TCP, UDP, MPTCP, TRANSPORTS };
extern const char *const transports[TRANSPORTS];

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
struct option_words {
	const char *name;
	int level, option;
};
extern const struct option_words options[OPTIONS];

/*
 * The interesting addresses. The first of each family is the simplest one, to which others shrink.
 */
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
	NAME_OF, /* the result of getsockname of call.other */
	PEER_OF, /* the peer that a call of call.other last returned */
	NONE,	 /* for sendmsg-pktinfo: the peer of the connected socket */
};
extern const char *const addresses[ADDRESSES];

enum form { WHOLE, SHORT, WRONG_FAMILY, UNSPEC, FORMS };
extern const char *const forms[FORMS];
extern const char *const directions[3];

enum { PORT_ANY = 0, PORT_OF_OTHER = 4 }; /* 1 to 3: the fixed ones */

struct call {
	uint8_t kind, slot;
	uint8_t other;	       /* the socket that accept or dup makes, or whose address is used */
	uint8_t transport, v6; /* socket */
	uint8_t address, port, form;
	uint8_t source;	       /* sendmsg-pktinfo */
	uint8_t option, value; /* setsockopt; shutdown's direction is a value as well */
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

/* The result of one call. */
struct result {
	int32_t value, error;
	uint32_t address_length, data_length;
	union endpoint address, asked; /* the returned address, and that of the call */
	char data[DATA_MAX];
};

void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

enum mode { LOOPBACK, VIRTUAL, REQUESTED };
extern const char *const modes[3];
extern enum mode mode;
extern struct in6_addr vip4 /* mapped */, vip6, host4 /* mapped */, host6;
extern bool has_vip6, families[2]; /* AF_INET, AF_INET6 sockets */

struct in6_addr mapped(struct in_addr v4);
bool is_same(const struct in6_addr *a, const struct in6_addr *b);
struct in6_addr plain_address(const union endpoint *endpoint);
bool is_any(const struct in6_addr *address);
void set_address(union endpoint *endpoint, const struct in6_addr *address);

/* ---- runner.c: the processes that make the calls, one in a session and one outside ---- */

/*
 * The neighbour is another session, which makes the same calls just before, and keeps its sockets.
 */
enum { OUTSIDE, SESSION, SIDES, NEIGHBOUR = SIDES, PROCESSES };
extern int channels[PROCESSES];

struct outcome {
	struct result results[SIDES][CALLS_MAX];
	char shown[SIDES][CALLS_MAX][96];
	int differs; /* the first call that differs without an excuse; −1: none */
	int excuse;  /* −1, or the row of `known` that ended the comparison */
	uint32_t compared;
};

int start_side(bool in_session, const char *cgroup, const char *netns);
void perform(const struct sequence *sequence, bool slow, struct outcome *outcome);

/* ---- compare.c: the results, after the contract's renaming ---- */

/* What is known about a socket, from the results outside of the session. */
struct socket_state {
	uint8_t id; /* 0: none */
	bool is_connected, is_listening, is_accepted;
	bool is_bound;	       /* by bind */
	bool is_bound_any;     /* by bind, to a wildcard */
	bool is_autobound;     /* UDP: has a port because it has sent or was connected */
	bool was_undone;       /* connect with AF_UNSPEC */
	bool has_failed_again; /* is connected, and its last connect has failed */
	bool was_left;	       /* not bound by bind, and a connect has failed or was undone */
	bool is_left_on_any;   /* a dual-stack UDP socket that is bound to :: without a port */
	uint8_t transport, v6;
	uint8_t bound_address, bound_port;
	uint8_t peer_address, peer_port; /* of the last connect */
	uint8_t connects;		 /* the number of connects */
	uint8_t peer_ports;		 /* of all connects: 1 << port */
	bool was_given_source6; /* a connect to an IPv6 address made the hook bind its source */
	uint8_t set;		/* the options that are on: 1 << enum option */
};

struct world {
	struct socket_state sockets[CALLS_MAX + 1]; /* the last one is for empty slots */
	struct socket_state *of[SLOTS];		    /* after dup, two names may mean one socket */
	uint32_t count;
	/* A call used the name of a socket that was left, or of an MPTCP socket. */
	bool uses_left_name, uses_mptcp_name;
	bool has_other_server; /* a UDP server changed after its client was connected */
};

struct difference {
	const struct sequence *sequence;
	uint32_t at;				   /* the call that differs */
	const struct call *call;		   /* resolved */
	const struct world *before;		   /* the state before the call */
	const struct socket_state *socket, *other; /* of the call */
	const struct result *outside, *session;
	const struct outcome *outcome;
};

bool is_any_address(uint8_t address);
bool is_localhost(uint8_t address);
struct call resolved(const struct call *call, const struct result *result);
void begin(struct world *world);
void follow(struct world *world, const struct call *literal, const struct result *result);
bool differs(const struct sequence *sequence, bool slow, struct outcome *outcome);

/* ---- known.c: known differences ---- */

enum { LIMIT, OPEN_DEFECT };

struct known {
	bool (*explains)(const struct difference *difference);
	int is_open;
	const char *why;
};
extern const struct known known[];
extern const unsigned int known_count;

int excuse_of(const struct difference *difference);

/* ---- generate.c: random sequences ---- */

extern uint64_t random_state;
uint64_t next_random(void);
void generate(struct sequence *sequence);

/* ---- shrink.c: the fewest and simplest calls that still differ ---- */

/* Two differences are the same if the same kind of call has the same results on both sides. */
struct signature {
	uint8_t kind;
	char shown[SIDES][96];
};

void sign(const struct sequence *sequence, const struct outcome *outcome,
	  struct signature *signature);
bool still_differs(const struct sequence *sequence, const struct signature *wanted);
void shrink(struct sequence *sequence, const struct signature *wanted);

/* ---- script.c: sequences as text ---- */

int index_of(const char *word, const char *const *table, int count);
void print_script(const struct sequence *sequence, const struct outcome *outcome, bool all);
int replay(const char *path);

#endif
