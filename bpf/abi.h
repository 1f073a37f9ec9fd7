/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the in-kernel programs and vip-bpfctl agree on: keys, values, flags and limits of every map.
 * It compiles as BPF, as host C and as a Swift module. No padding is left to the compiler; every
 * size is asserted below and once more in Swift (PolicyMaps/MapRow.swift).
 *
 * Byte order: an address is kept as it stands in a sockaddr (network order); all else is the host's.
 *
 * The maps, and a worked example: cgroup 8121 is session 7, user "ann", virtual IP 10.20.0.17.
 *
 *   config      [0]                    -> { abi 5, generation 6, one level: 4, attached: user.slice, ... }
 *   sessions    [8121]                 -> { vip4 10.20.0.17, id 7, policy { 0, 2 }, netns 1 }
 *   ids         [7]                    -> 8121
 *   addresses   [::ffff:10.20.0.17]    -> { VIP_OWNER_SESSION, 7 }
 *   addresses   [::ffff:192.0.2.1]     -> { VIP_OWNER_HOST, 0 }
 *   governed    [::ffff:10.20.0.0/120] -> VIP_OWNER_SESSION: of a pool, so some session's or for one to come
 *   policies    [bank * 32 + number]   -> { flags, excluded ports }
 *   program_names   ["java"]           -> lists[bank][list], bit n = "on that list of policy n"
 *   program_scripts ["run.sh"]         -> the same, by the process's name (15 bytes)
 *   program_files   [{ inode, device, name }] -> the same, by file
 *   verdicts    [which program this is] -> the result of the three look-ups above, for a generation
 *   sockets     (on the socket)        -> what cannot be computed from its addresses
 *   listeners   [{ 8121, port 9000 }]  -> the session's dual-stack TCP server on that port
 *   listener_counts [8121]             -> 1: how many of these the session has
 *   counters    [hook]                 -> how many calls had which outcome, on each CPU
 *   watchers    [0]                    -> who watches events: until when, and which
 *   watcher_rings [slot]               -> the ring buffer of struct vip_event that a watcher reads
 *
 * The virtual loopbacks are in no map: they are 127.0.0.0 + (id + 1), so 127.0.0.8 here, and
 * PREFIX::(id + 1) with the prefix in config, so PREFIX::8; the way back is a subtraction. `ids` says
 * only whether a session has that ID now, and which cgroup it is.
 *
 * Generation and bank: a policy is applied by writing it into the bank not in force, then storing
 * generation + 1. The low bit of the generation is the bank in force, so one store of four bytes
 * moves every session, program list and policy at once, and makes every cached verdict stale.
 */
#ifndef VIP_BPF_ABI_H
#define VIP_BPF_ABI_H

#include <linux/types.h>

/* Raised by any change of a key, a value or the meaning of either. Pinned in config. */
#define VIP_ABI_VERSION 5

#define VIP_BANKS 2
#define VIP_POLICIES_PER_BANK \
	32 /* the base policy is number 0, overrides are 1…31: bits of a __u32 */
#define VIP_HOST_ADDRESSES_MAX \
	8 /* of a family that config holds itself; a host with more looks in the map */
#define VIP_LEVELS_MAX 8   /* how many different depths of the cgroup tree sessions may be at */
#define VIP_ATTACHED_MAX 8 /* attached cgroups that config holds */
#define VIP_LEVEL_NONE 0xffffffff /* as an int -1: bpf_get_current_ancestor_cgroup_id says 0 */
#define VIP_LISTENER_SLOTS 4	  /* of servers that share a port, how many are noted */
#define VIP_NAME_MAX 64	     /* an executable's name with its NUL; longer ones match by path only */
#define VIP_COMM_MAX 16	     /* TASK_COMM_LEN, include/linux/sched.h: 15 bytes and a NUL */
#define VIP_OBJECT_ID_MAX 32 /* SHA-256 */
#define VIP_WATCHERS_MAX 4   /* how many may listen to events at once */

#define VIP_ID_LAST 16777213 /* ID + 1 = 127.255.255.254; .255 is 127/8's broadcast address */

enum vip_hook {
	VIP_HOOK_BIND4,
	VIP_HOOK_CONNECT4,
	VIP_HOOK_SENDMSG4,
	VIP_HOOK_RECVMSG4,
	VIP_HOOK_GETSOCKNAME4,
	VIP_HOOK_GETPEERNAME4,
	VIP_HOOK_BIND6,
	VIP_HOOK_CONNECT6,
	VIP_HOOK_SENDMSG6,
	VIP_HOOK_RECVMSG6,
	VIP_HOOK_GETSOCKNAME6,
	VIP_HOOK_GETPEERNAME6,
	VIP_HOOK_SOCK_OPS,  /* notes dual-stack listeners; "seen" is how many */
	VIP_HOOK_SK_LOOKUP, /* finds them again; of the network namespace, not of a cgroup */
	VIP_HOOK_SETSOCKOPT,
	VIP_HOOK_SOCK_CREATE,
	/* Of programs of no session, below the guarded cgroup. */
	VIP_HOOK_GUARD_BIND4,
	VIP_HOOK_GUARD_CONNECT4,
	VIP_HOOK_GUARD_SENDMSG4,
	VIP_HOOK_GUARD_BIND6,
	VIP_HOOK_GUARD_CONNECT6,
	VIP_HOOK_GUARD_SENDMSG6,
	VIP_HOOK_COUNT,
};

/* An address of either family as 16 bytes: IPv4 in mapped form. */
struct vip_address {
	__be32 word[4];
};

/* An attached cgroup: sessions are made below it. */
struct vip_attached {
	__u64 cgroup;
	__u32 level; /* its depth below the cgroup root */
	__u32 reserved;
};

/* config: ARRAY of one. */
struct vip_config {
	__u32 abi;	  /* VIP_ABI_VERSION. First, so that any version can read it of any other */
	__u32 generation; /* of the policy in force; its low bit is the bank */
	__u32 flags;	  /* enum vip_config_flag */
	__u32 level_count; /* up to the last slot of levels that is in use */
	/*
	 * Depths below the cgroup root at which sessions are. A depth keeps its slot as long as a session
	 * is at it, so that a hook that is reading meanwhile misses none; a free slot is VIP_LEVEL_NONE.
	 */
	__u32 levels[VIP_LEVELS_MAX];
	__u32 host4_count; /* entries of host4 in use; more than there are: look in addresses */
	__u32 host6_count; /* the same of host6 */
	__be32 host4[VIP_HOST_ADDRESSES_MAX]; /* the host's own IPv4 addresses, for connect */
	struct vip_address
		host6[VIP_HOST_ADDRESSES_MAX]; /* its IPv6 addresses, link-local ones too */
	__be32 loopback6[3];  /* the 96 bits before each session's ID + 1; 0: there is no LO6 */
	__u32 attached_count; /* entries of attached in use */
	__u64 netns;	      /* SO_NETNS_COOKIE of the network namespace of the sessions */
	struct vip_attached attached[VIP_ATTACHED_MAX];
	__u8 object_id[VIP_OBJECT_ID_MAX]; /* SHA-256 of the object the pinned programs are from */
};

enum vip_config_flag {
	VIP_CONFIG_AS_REQUESTED = 1 << 0, /* some policy in force has wildcardName: asRequested */
	VIP_CONFIG_DENY_OUTSIDE = 1 << 1, /* the base policy has withoutSession: deny */
};

/* sessions: HASH by cgroup ID (__u64), the inode number of the cgroup's directory. */
struct vip_session {
	__be32 vip4;		 /* 0: the session has no IPv4 virtual IP */
	__u32 id;		 /* 2…VIP_ID_LAST; 1 if it was asked for */
	struct vip_address vip6; /* ::  the session has no IPv6 virtual IP */
	__u8 policy[VIP_BANKS];	 /* number of the session's policy in each bank */
	__u8 reserved[6];
	__u64 netns; /* SO_NETNS_COOKIE: a socket of another network namespace is left alone */
};

/* ids: HASH by session ID (__u32) -> cgroup ID (__u64). */

/* addresses: HASH by struct vip_address. Whose an address of this host is. */

enum vip_owner {
	VIP_OWNER_NOBODY, /* not in the map */
	VIP_OWNER_HOST,
	VIP_OWNER_SESSION,
	VIP_OWNER_BROADCAST, /* a broadcast address of one of the host's networks: it can be bound, and is no source */
};

struct vip_address_owner {
	__u32 owner; /* enum vip_owner */
	__u32 id;    /* of the session; 0 for the host */
};

/*
 * governed: LPM_TRIE by struct vip_prefix -> __u32 enum vip_owner. Addresses that belong to sessions though no session
 * has them now: 127/8 and the pools. The host's exceptions within them are longer prefixes. `addresses` and `ids` come
 * first.
 */
struct vip_prefix {
	__u32 length;		    /* bits; an IPv4 prefix has 96 more */
	struct vip_address address; /* the bits behind the prefix are 0 */
};

/* Which feature leaves a port alone. */
enum vip_exclusion {
	VIP_EXCLUDED_LOOPBACK, /* virtualLoopback.excludedPorts: 127.0.0.1 and ::1 stay what they are */
	VIP_EXCLUDED_VIRTUAL_IP, /* virtualIP.excludedPorts: the wildcard stays what it is at bind */
	VIP_EXCLUSION_COUNT,
};

struct vip_ports {
	__u64 bits[1024]; /* one a port, host order: port p is bit p % 64 of word p / 64 */
};

/* policies: ARRAY of VIP_BANKS * VIP_POLICIES_PER_BANK. */
struct vip_policy {
	__u32 flags;	      /* enum vip_policy_flag */
	__u32 listener_limit; /* how many dual-stack TCP servers of a session are noted */
	struct vip_ports excluded_ports[VIP_EXCLUSION_COUNT]; /* by enum vip_exclusion */
};

enum vip_policy_flag {
	VIP_POLICY_VIRTUAL_IP = 1 << 0,	    /* enabled */
	VIP_POLICY_VIRTUAL_IP_ALL = 1 << 1, /* … for every program: perSession, or * on the list */
	VIP_POLICY_LOOPBACK = 1 << 2,
	VIP_POLICY_LOOPBACK_ALL = 1 << 3,
	VIP_POLICY_PREFER_LOOPBACK = 1 << 4,
	VIP_POLICY_PREFER_LOOPBACK_ALL = 1 << 5,
	VIP_POLICY_USE_HOST_ADDRESS = 1 << 6, /* whenUnavailable: useHostAddress; else deny */
	VIP_POLICY_FALLBACK_HOST = 1 << 7,    /* virtualLoopback.fallback: host; else none */
	VIP_POLICY_ISOLATION = 1 << 8,
	VIP_POLICY_AS_REQUESTED = 1 << 9,    /* wildcardName: asRequested; else virtual */
	VIP_POLICY_EXCLUDED_PORTS = 1 << 10, /* excluded_ports has a bit set, of either kind */
	VIP_POLICY_LISTS = 1 << 11,	   /* some list that is in use names programs one by one */
	VIP_POLICY_DENY_OUTSIDE = 1 << 12, /* withoutSession: deny. Of the base policy only */
};

/*
 * The policy of a program in no session under withoutSession: deny. It is treated like a program of a session without
 * addresses.
 */
#define VIP_POLICY_OUTSIDE \
	(VIP_POLICY_VIRTUAL_IP | VIP_POLICY_VIRTUAL_IP_ALL | VIP_POLICY_ISOLATION)

enum vip_list {
	VIP_LIST_VIRTUAL_IP,
	VIP_LIST_LOOPBACK,
	VIP_LIST_PREFER_LOOPBACK,
	VIP_LIST_COUNT,
};

/* program_names: HASH by the executable's file name, NUL-padded. */
struct vip_program_name {
	char name[VIP_NAME_MAX];
};

/* program_scripts: HASH by the name of the thread-group leader, NUL-padded. */
struct vip_program_script {
	char comm[VIP_COMM_MAX];
};

/*
 * program_files: HASH by the file behind /proc/PID/exe. With its name, NUL-padded and cut to 63 bytes:
 * file systems give a deleted file's inode number to the next new file.
 */
struct vip_program_file {
	__u64 inode;
	__u32 device; /* the kernel's own dev_t: major << 20 | minor (include/linux/kdev_t.h) */
	__u32 reserved;
	char name[VIP_NAME_MAX];
};

/* The value of all three. */
struct vip_listing {
	__u32 lists[VIP_BANKS][VIP_LIST_COUNT]; /* bit n: on this list of policy number n */
};

/* verdicts: LRU_HASH by everything that the look-ups in the three maps depend on. */
struct vip_program {
	__u64 inode;
	__u32 name_hash; /* qstr.hash of the executable's directory entry: renaming changes it */
	__u32 device;
	char comm[VIP_COMM_MAX];
};

struct vip_verdict {
	__u32 generation; /* for which it holds */
	__u32 lists[VIP_LIST_COUNT];
};

/* sockets: SK_STORAGE. Most sockets never have one. */
struct vip_socket {
	__u32 flags;	  /* enum vip_socket_flag */
	__be32 peer;	  /* VIP_SOCKET_ASKED_PEER: the address that was asked for … */
	__be16 peer_port; /* … at this port */
	__u16 reserved[3];
	__u64 cgroup; /* of the session in which it was bound */
};

/* Written for IPv4; for an IPv6 socket, read VIP6, LO6 and ::1. */
enum vip_socket_flag {
	/* It is on VIP4 because bind named that, or a host address. */
	VIP_SOCKET_NAMED_ADDRESS = 1 << 0,
	/* It is on the loopback because bind asked for the wildcard. */
	VIP_SOCKET_WILDCARD = 1 << 1,
	/* It is on the loopback, and its peer is VIP4 by that name. */
	VIP_SOCKET_NAMED_PEER = 1 << 2,
	/* It is on VIP4, and its peer is VIP4 in place of 127.0.0.1. */
	VIP_SOCKET_LOCAL_PEER = 1 << 3,
	/* It is on ::ffff:VIP4 or ::ffff:LO4 because bind asked for ::, without V6ONLY. */
	VIP_SOCKET_DUAL = 1 << 4,
	/* The mapped address of its peer stands for ::1, and so does its own. */
	VIP_SOCKET_MAPPED_PEER = 1 << 5,
	/* It has the address that bind named, and no port yet. */
	VIP_SOCKET_NAMED_SOURCE = 1 << 6,
	/* It is in `listeners`, and counted in `listener_counts`. */
	VIP_SOCKET_NOTED = 1 << 7,
	/* The session's address that it went to stands for an address of 127/8 that is not 127.0.0.1. */
	VIP_SOCKET_ASKED_PEER = 1 << 8,
};

/*
 * listeners: SOCKHASH. TCP servers that asked for :: without V6ONLY: they are bound to an IPv4 address of
 * the session, and an sk_lookup program leads to them what comes in for its VIP6 and LO6.
 */
struct vip_listener {
	__u64 cgroup; /* of the session */
	__u32 port;   /* host order */
	__u32 slot;   /* 0…VIP_LISTENER_SLOTS - 1: with SO_REUSEPORT there may be several */
};

/*
 * listener_counts: HASH by cgroup ID (__u64) -> __s32. How many dual-stack listeners a session has in `listeners`. The
 * limit keeps one session from filling the map. If a listener of an earlier session of the cgroup ends, the count is
 * one too low.
 */

/* What became of a call. The first three let it go on; the errno of the others is beside each. */
enum vip_outcome {
	VIP_SEEN,	 /* left as it is */
	VIP_REWRITTEN,	 /* another address, or another source */
	VIP_UNADDRESSED, /* left as it is: no virtual IP, and whenUnavailable: useHostAddress */
	VIP_REFUSED_ISOLATION,	 /* EADDRNOTAVAIL: the address is another session's */
	VIP_REFUSED_UNAVAILABLE, /* EADDRNOTAVAIL: no virtual IP, and the policy says deny */
	VIP_REFUSED_PEER,	 /* ECONNREFUSED: the peer is another session's loopback */
	VIP_REFUSED_IN_USE, /* EADDRINUSE; of sock_ops: a listener is not noted, its session has too many */
	VIP_REFUSED_UNSUPPORTED, /* ENOPROTOOPT, EPROTONOSUPPORT: it would go around the other hooks */
	VIP_OUTCOME_COUNT,
	VIP_OUTCOMES_MAX = 8,
};

/*
 * counters: PERCPU_ARRAY by enum vip_hook. Calls of sessions that were decided, by outcome. The size is a power of
 * two and one cache line, so counting is one increment without a branch.
 */
struct vip_counters {
	__u64 calls[VIP_OUTCOMES_MAX]; /* by enum vip_outcome */
};

/* Of one slot of watchers. */
struct vip_watcher {
	__u32 outcomes; /* which it wants: bit 1 << enum vip_outcome */
	__u32 session;	/* whose events it wants; 0, which is no session's ID: all */
	__u32 pid;	/* of the watching process, for the reader of a dump */
	__u32 reserved;
	__u64 written; /* events put into its ring since it began to listen */
	__u64 dropped; /* those for which the ring had no room */
};

/*
 * watchers: ARRAY of one, which user space maps into its memory. A slot belongs to the process that has changed its
 * `until` by compare-and-swap from 0, or from a time that has passed. A watcher that was killed costs nothing after
 * that time: the first call after it stores 0.
 */
struct vip_watchers {
	__u64 until
		[VIP_WATCHERS_MAX]; /* CLOCK_BOOTTIME, ns; 0: the slot is free. In one cache line */
	struct vip_watcher watchers[VIP_WATCHERS_MAX];
};

/* watcher_rings: ARRAY_OF_MAPS by slot; each is the RINGBUF of one watcher, of these records: */
struct vip_event {
	__u64 time;	/* CLOCK_BOOTTIME, ns */
	__u64 cgroup;	/* of the session; the task's own if it is in none */
	__u32 session;	/* its ID; 0 if it is in none */
	__u32 tgid;	/* the process, in the initial PID namespace */
	__u32 uid;	/* its real user, in the initial user namespace */
	__u16 error;	/* errno of a call that was refused, else 0 */
	__u16 protocol; /* of the socket: IPPROTO_TCP, IPPROTO_UDP, IPPROTO_MPTCP (262) */
	__u8 hook;	/* enum vip_hook */
	__u8 outcome;	/* enum vip_outcome */
	__u8 family;	/* of the socket: AF_INET 2, AF_INET6 10 */
	__u8 reserved;
	__be16 asked_port;
	__be16 got_port;
	struct vip_address asked; /* what the call named; in a name hook, what the kernel did */
	struct vip_address got;	  /* what it is now */
	struct vip_address
		source; /* connect and sendmsg: its source; the wildcard if the kernel chooses it */
	char comm[VIP_COMM_MAX];    /* the process's name: its thread-group leader's */
	char program[VIP_NAME_MAX]; /* its executable's file name, cut to 63 bytes */
};

#define VIP_ASSERT_SIZE(type, size) \
	_Static_assert(sizeof(type) == (size), #type " changed its size")
VIP_ASSERT_SIZE(struct vip_attached, 16);
VIP_ASSERT_SIZE(struct vip_config, 400);
VIP_ASSERT_SIZE(struct vip_session, 40);
VIP_ASSERT_SIZE(struct vip_address, 16);
VIP_ASSERT_SIZE(struct vip_address_owner, 8);
VIP_ASSERT_SIZE(struct vip_prefix, 20);
VIP_ASSERT_SIZE(struct vip_ports, 8192);
VIP_ASSERT_SIZE(struct vip_policy, 16392);
VIP_ASSERT_SIZE(struct vip_program_name, 64);
VIP_ASSERT_SIZE(struct vip_program_script, 16);
VIP_ASSERT_SIZE(struct vip_program_file, 80);
VIP_ASSERT_SIZE(struct vip_listing, 24);
VIP_ASSERT_SIZE(struct vip_program, 32);
VIP_ASSERT_SIZE(struct vip_verdict, 16);
VIP_ASSERT_SIZE(struct vip_socket, 24);
VIP_ASSERT_SIZE(struct vip_listener, 16);
VIP_ASSERT_SIZE(struct vip_counters, 64);
VIP_ASSERT_SIZE(struct vip_watcher, 32);
VIP_ASSERT_SIZE(struct vip_watchers, 160);
VIP_ASSERT_SIZE(struct vip_event, 168);

#endif
