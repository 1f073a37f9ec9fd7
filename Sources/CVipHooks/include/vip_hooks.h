/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The in-kernel programs of bpf/, compiled for the host and run on a call that is made up. `explain` and the self-test
 * ask them what a call gets, and the fuzzer runs them. The maps are the live ones, or what a look-up function answers.
 * The user of this header sets which program calls, with which socket, and what listens.
 *
 * One thread at a time may use a host.
 */
#pragma once

#include "vip_abi.h"

/* The maps that the hooks read. */
enum vip_host_map {
	VIP_HOST_MAP_CONFIG,
	VIP_HOST_MAP_SESSIONS,
	VIP_HOST_MAP_IDS,
	VIP_HOST_MAP_ADDRESSES,
	VIP_HOST_MAP_GOVERNED,
	VIP_HOST_MAP_POLICIES,
	VIP_HOST_MAP_PROGRAM_NAMES,
	VIP_HOST_MAP_PROGRAM_SCRIPTS,
	VIP_HOST_MAP_PROGRAM_FILES,
	VIP_HOST_MAPS,
};

/* What a look-up of sockets finds. */
enum vip_host_listener {
	VIP_HOST_NOTHING,
	VIP_HOST_ON_WILDCARD,	   /* a socket on the wildcard, of no session */
	VIP_HOST_OF_OTHER_SESSION, /* the same, of another session: vip_host_set_other() */
	VIP_HOST_ON_ADDRESS,	   /* a socket that is bound to the address */
	VIP_HOST_CONNECTED,  /* the same, and connected back to the source of the look-up; UDP */
	VIP_HOST_DUAL_STACK, /* a socket of the session that asked for ::, not V6ONLY */
	VIP_HOST_LEFT_OVER, /* a socket that is bound to the address, of an ordinary user and no session */
	VIP_HOST_FAR_END, /* the other end of the socket's connection, which asked for 127.0.0.1 or ::1 */
};

/* A look-up of sockets that a hook has made. */
struct vip_host_question {
	struct vip_address from; /* of UDP; else the wildcard. IPv4 is in mapped form */
	struct vip_address to;
};

#define VIP_HOST_QUESTIONS_MAX 16

/* The socket that a call is about. */
struct vip_host_socket {
	int is_inet6;
	int is_stream;	  /* TCP, else UDP */
	int is_v6only;	  /* IPV6_V6ONLY */
	__u16 local_port; /* host order */
	__u16 remote_port;
	struct vip_address
		local; /* IPv4 in mapped form; the wildcard of the socket's family if there is none */
	struct vip_address remote;
	__be32 group_source;   /* IP_MULTICAST_IF; 0 if it is not set */
	struct vip_socket row; /* what the hooks remember of it */
	int has_row;
};

struct vip_host_answer {
	int error; /* errno of a refusal, else 0 */
	struct vip_address address;
	struct vip_address source; /* sendmsg */
	int is_counted;
	enum vip_outcome outcome; /* if it is counted */
};

/* The calling program's session, as the hooks read it. */
struct vip_host_session {
	__u64 cgroup;
	__u32 number; /* of its policy, in the bank in force */
	struct vip_config config;
	struct vip_session row;
	struct vip_policy policy;
	struct vip_own own4, own6;
};

struct vip_host;

/* Returns 1 and the row, or 0. */
typedef int (*vip_host_lookup)(void *context, enum vip_host_map map, const void *key, void *row);

/* A host whose maps are what `lookup` says. NULL if there is no memory. */
struct vip_host *vip_host_make(vip_host_lookup lookup, void *context);
/* A host whose maps are the given descriptors, by enum vip_host_map. They are not closed. */
struct vip_host *vip_host_open(const int descriptors[VIP_HOST_MAPS]);
void vip_host_free(struct vip_host *host);

/* Whether the hooks see a map; they see all unless told otherwise. A hidden one is empty to them. */
void vip_host_show_map(struct vip_host *host, enum vip_host_map map, int is_shown);
/* errno of the first look-up in a map that failed, else 0. */
int vip_host_error(const struct vip_host *host);

/* The cgroups of the calling task by depth, the root's first. */
int vip_host_set_cgroups(struct vip_host *host, const __u64 *ids, __u32 count);
/* The calling task's cgroup at whatever depth the hooks look for it. */
void vip_host_set_cgroup(struct vip_host *host, __u64 id);
/* The calling task's real user, in the initial user namespace; root unless told otherwise. */
void vip_host_set_user(struct vip_host *host, __u32 user);
/* The calling program. `name` is its executable's, without a NUL; `comm` is cut to 15 bytes. */
int vip_host_set_program(struct vip_host *host, __u64 inode, __u32 device, const __u8 *name,
			 __u32 name_length, const __u8 *comm, __u32 comm_length);

/* What look-up number `number` of sockets finds in the calls from now on; nothing unless told otherwise. */
void vip_host_set_listener(struct vip_host *host, __u32 number, enum vip_host_listener listener);
/* The cgroup of the session whose sockets VIP_HOST_OF_OTHER_SESSION finds. It needs a row in `sessions`. */
void vip_host_set_other(struct vip_host *host, __u64 cgroup);
/* errno with which bpf_bind() fails in the calls from now on, or 0. */
void vip_host_set_bind_error(struct vip_host *host, int error);
/* Whether the calling socket and what is found have SO_REUSEPORT and one user; not unless told otherwise. */
void vip_host_share_port(struct vip_host *host, int is_shared);

/*
 * Lets a listener wait for events: with these outcomes (1 << enum vip_outcome), of that session or of all (0). With no
 * outcome, nobody listens.
 */
void vip_host_watch(struct vip_host *host, __u32 outcomes, __u32 session, int is_ring_full);
/* The event of the last call; NULL if there was none. */
const struct vip_event *vip_host_event(const struct vip_host *host);
/* How many events found no room since vip_host_watch(). */
__u64 vip_host_dropped_events(const struct vip_host *host);

/* How many look-ups of sockets the last call made. */
__u32 vip_host_question_count(const struct vip_host *host);
struct vip_host_question vip_host_question(const struct vip_host *host, __u32 number);

/* Zero if the task is in no session. */
int vip_host_find_session(struct vip_host *host, struct vip_host_session *session);
/* The lists of the session's policy that the program is on: bit 1 << enum vip_list. */
__u32 vip_host_program_lists(struct vip_host *host);
/* The features that apply to the program, of at least one address family: enum vip_feature. */
__u32 vip_host_features(struct vip_host *host);

/*
 * Runs the hook of a call that names `address` and `port` (host order). A connect hook may bind the socket; after a
 * bind, the user of this function stores the answer's address in the socket. `source` is that of a datagram; NULL
 * stands for the socket's own.
 */
struct vip_host_answer vip_host_call(struct vip_host *host, struct vip_host_socket *socket,
				     enum vip_hook hook, struct vip_address address, __u16 port,
				     const struct vip_address *source);
/* Runs the hook of socket(2) for this protocol. Returns the errno of a refusal, else 0. */
int vip_host_make_socket(struct vip_host *host, __u32 protocol);
/* Runs the hook of setsockopt(2). Returns the errno of a refusal, else 0. */
int vip_host_set_option(struct vip_host *host, int level, int name);
/* Runs sock_ops of a socket that begins to listen. */
void vip_host_listen(struct vip_host *host, struct vip_host_socket *socket);
/*
 * Runs sk_lookup of a packet that comes by the interface `ifindex`: SK_PASS 1, SK_DROP 0; 2 if it leads to the
 * listener.
 */
int vip_host_packet(struct vip_host *host, struct vip_address to, __u16 port, int is_tcp,
		    __u32 ifindex);
