/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * libFuzzer over the hooks, compiled for the host: sequences of socket calls of any program in any
 * session, with any policy, addresses and listeners. It tests what must hold for all of them.
 */
#include "../../../Sources/CVipHooks/hooks.c"
#include "../../../Sources/CVipHooks/live.c"

#include <stdint.h>

#include "require.h"

#define CGROUP 8121
#define VIP_OUTCOME_BITS ((1 << VIP_OUTCOME_COUNT) - 1)

/* A shorter input is filled with zeros. */
struct input {
	__u32 id, flags;
	__be32 vip4;
	struct vip_address vip6;
	__be32 prefix[3];
	__u8 lists, config_flags, socket, owner, bind_fails, is_many_hosts;
	__u16 excluded, watched;
	struct vip_address any;
	struct {
		__u8 call, address, source, port;
		__u8 found[4];
	} calls[6];
};

static struct input in;

static int look_up_input(void *context, enum vip_host_map map, const void *key, void *row)
{
	struct vip_address_owner *owner = row;
	struct vip_listing *listing = row;
	struct vip_session *session = row;
	struct vip_policy *policy = row;
	struct vip_config *maps = row;
	struct vip_address address;

	(void)context;
	switch (map) {
	case VIP_HOST_MAP_CONFIG:
		memset(maps, 0, sizeof(*maps));
		maps->flags = in.config_flags;
		maps->level_count = 1;
		memcpy(maps->loopback6, in.prefix, sizeof(in.prefix));
		maps->host4_count = in.is_many_hosts ? 9 : 1;
		maps->host6_count = maps->host4_count;
		maps->host4[0] = vip_swap32(0xc0000201u);
		maps->host6[0].word[0] = vip_swap32(0x20010db8u);
		return 1;
	case VIP_HOST_MAP_SESSIONS:
		memset(session, 0, sizeof(*session));
		session->id = in.id;
		session->vip4 = in.vip4;
		session->vip6 = in.vip6;
		return *(const __u64 *)key == CGROUP;
	case VIP_HOST_MAP_IDS:
		*(__u64 *)row = CGROUP;
		return *(const __u32 *)key == in.id || (in.owner & 4);
	case VIP_HOST_MAP_ADDRESSES:
		memcpy(&address, key, sizeof(address));
		owner->owner = in.owner % 4;
		owner->id = in.id + 1;
		if (vip_equal(address, in.vip6) || vip_equal(address, vip_mapped(in.vip4))) {
			owner->owner = VIP_OWNER_SESSION;
			owner->id = in.id;
		}
		return owner->owner != VIP_OWNER_NOBODY;
	case VIP_HOST_MAP_GOVERNED:
		*(__u32 *)row = in.owner & 4 ? VIP_OWNER_HOST : VIP_OWNER_SESSION;
		return (in.owner & 8) != 0;
	case VIP_HOST_MAP_POLICIES:
		memset(policy, 0, sizeof(*policy));
		policy->flags = in.flags;
		policy->excluded_ports[in.excluded & 1].bits[in.excluded / 64] =
			1ull << (in.excluded % 64);
		return 1;
	default:
		memset(listing, 0, sizeof(*listing));
		for (int list = 0; list < VIP_LIST_COUNT; list++)
			listing->lists[0][list] = (in.lists >> list) & 1;
		return map == VIP_HOST_MAP_PROGRAM_NAMES;
	}
}

static struct vip_address pick(const struct vip_own *own4, const struct vip_own *own6, int is_ipv6,
			       __u8 which)
{
	const struct vip_own *own = is_ipv6 ? own6 : own4;
	enum vip_family family = is_ipv6 ? VIP_INET6 : VIP_INET4;
	struct vip_address near;

	switch (which % 12) {
	case 0:
		return vip_wildcard(family);
	case 1:
		return vip_localhost(family);
	case 2:
		return own->loopback;
	case 3:
		return own->address;
	case 4:
		return own4->address;
	case 5:
		return own4->loopback;
	case 6:
		near = own->loopback;
		near.word[3] ^= vip_swap32(3);
		return near;
	case 7:
		return vip_mapped(vip_swap32(0xc0000201u));
	case 8:
		return vip_localhost(VIP_INET4);
	default:
		return is_ipv6 ? in.any : vip_mapped(in.any.word[3]);
	}
}

/* The form in which the kernel keeps an address in a socket of this family. */
static struct vip_address kept(const struct vip_host_socket *socket, struct vip_address address)
{
	return socket->is_inet6 || vip_is_mapped(address) ? address : vip_wildcard(VIP_INET4);
}

/* A call that is counted gives the listener an event, if the listener wants its outcome; and no other call does. */
static void require_event(struct vip_host *made, const struct vip_host_answer *answer,
			  enum vip_hook hook, const struct vip_host_session *session)
{
	const struct vip_event *event = vip_host_event(made);
	int is_wanted =
		answer->is_counted && (in.watched & VIP_OUTCOME_BITS & (1 << answer->outcome));

	if (made->is_ring_full) {
		REQUIRE(!event);
		return;
	}
	REQUIRE(!event == !is_wanted);
	if (!event)
		return;
	REQUIRE(event->hook == hook && event->outcome == answer->outcome);
	REQUIRE(event->session == session->row.id && event->cgroup == CGROUP);
	REQUIRE(event->error == answer->error && !event->reserved);
	REQUIRE(!strcmp(event->program, "program") && !event->comm[VIP_COMM_MAX - 1]);
	REQUIRE(answer->error || vip_equal(event->got, answer->address));
}

static void run_calls(struct vip_host *made, const struct vip_host_session *session)
{
	struct vip_host_socket socket = { .is_inet6 = in.socket & 1,
					  .is_stream = (in.socket >> 1) & 1,
					  .is_v6only = (in.socket >> 2) & 1 };
	int is_isolated = session->policy.flags & VIP_POLICY_ISOLATION;
	__u32 features = vip_host_features(made);

	socket.local = socket.remote = vip_wildcard(socket.is_inet6 ? VIP_INET6 : VIP_INET4);
	for (unsigned int i = 0; i < sizeof(in.calls) / sizeof(in.calls[0]); i++) {
		static const enum vip_hook hooks4[] = {
			VIP_HOOK_BIND4,	       VIP_HOOK_CONNECT4,     VIP_HOOK_SENDMSG4,
			VIP_HOOK_GETSOCKNAME4, VIP_HOOK_GETPEERNAME4, VIP_HOOK_RECVMSG4
		};
		int call = in.calls[i].call % 6, is_ipv6 = socket.is_inet6;
		struct vip_address asked, source;
		struct vip_host_answer answer;
		enum vip_hook hook = hooks4[call];
		__u16 port = in.calls[i].port ? 9000 : 0;

		if (call == 2 && socket.is_stream)
			continue;
		if (call == 1)
			port = 9000;
		asked = kept(&socket,
			     pick(&session->own4, &session->own6, is_ipv6, in.calls[i].address));
		if (call == 3)
			asked = socket.local;
		if (call == 4)
			asked = socket.remote;
		/* The kernel passes datagrams to mapped destinations to sendmsg4. */
		if (is_ipv6 && !(call == 2 && vip_is_mapped(asked)))
			hook += VIP_HOOK_BIND6 - VIP_HOOK_BIND4;
		source = in.calls[i].source & 1 ?
				 pick(&session->own4, &session->own6, hook >= VIP_HOOK_BIND6,
				      in.calls[i].source >> 1) :
				 socket.local;
		for (__u32 number = 0; number < VIP_HOST_QUESTIONS_MAX; number++)
			vip_host_set_listener(made, number, in.calls[i].found[number % 4] % 8);
		answer = vip_host_call(made, &socket, hook, asked, port, &source);

		REQUIRE(vip_host_question_count(made) <= 8);
		require_event(made, &answer, hook, session);
		REQUIRE(!answer.error || answer.error == EADDRNOTAVAIL ||
			answer.error == ECONNREFUSED || answer.error == EADDRINUSE);
		REQUIRE(!answer.error == !(answer.is_counted && vip_is_refused(answer.outcome)));
		if (answer.error) {
			REQUIRE(call < 3);
			/* connect may have stored the meaning of ::, which is no result. */
			REQUIRE(vip_equal(answer.address, asked) ||
				(call == 1 && vip_is_wildcard(VIP_INET6, asked)));
			continue;
		}
		if (!answer.is_counted && call != 1)
			REQUIRE(vip_equal(answer.address, asked));
		/* No hook stores an address that a socket of this family cannot have. */
		if (!socket.is_inet6)
			REQUIRE(vip_is_mapped(answer.address));
		if (call == 0 && !socket.local_port) {
			/*
			 * After bind, a V-program has neither the wildcard nor a host address; see vip_decide_bind for
			 * exceptions.
			 */
			if ((features & VIP_V) && vip_equal(asked, vip_wildcard(VIP_INET4)) &&
			    answer.is_counted && (session->own4.has & VIP_HAS_ADDRESS))
				REQUIRE(!vip_is_wildcard(VIP_INET4, answer.address));
			socket.local = answer.address;
			socket.local_port = port;
			if (socket.is_stream && port) {
				vip_host_listen(made, &socket);
				REQUIRE(!made->is_noted ||
					(socket.is_inet6 && vip_is_mapped(socket.local)));
			}
		} else if (call == 1) {
			/* The loopback of another session is not reached. */
			if (is_isolated && (session->own6.has & VIP_HAS_LOOPBACK) &&
			    socket.is_inet6 &&
			    vip_is_loopback6(session->config.loopback6, answer.address))
				REQUIRE(vip_equal(answer.address, session->own6.loopback));
			socket.remote = answer.address;
			socket.remote_port = port;
			if (!socket.local_port)
				socket.local_port = 40000;
		}
	}
	(void)vip_host_packet(made, in.any, 9000, in.owner & 1, in.owner & 8 ? 2 : 1);
	(void)vip_host_packet(made, session->own6.loopback, 9000, 1, 1);
}

/*
 * The same calls by a program of no session, below the guarded cgroup: none gets another address, and what is a
 * session's is kept from it.
 */
static void run_guards(struct vip_host *made, const struct vip_host_session *session)
{
	static const enum vip_hook hooks[][3] = {
		{ VIP_HOOK_GUARD_BIND4, VIP_HOOK_GUARD_CONNECT4, VIP_HOOK_GUARD_SENDMSG4 },
		{ VIP_HOOK_GUARD_BIND6, VIP_HOOK_GUARD_CONNECT6, VIP_HOOK_GUARD_SENDMSG6 },
	};
	int is_ipv6 = in.socket & 1;
	struct vip_host_socket socket = { .is_inet6 = is_ipv6 };
	int is_isolated = session->policy.flags & VIP_POLICY_ISOLATION;

	socket.local = socket.remote = vip_wildcard(is_ipv6 ? VIP_INET6 : VIP_INET4);
	vip_host_set_cgroup(made, CGROUP + 1);
	vip_host_set_user(made, in.owner & 16 ? 0 : 1000);
	for (unsigned int i = 0; i < sizeof(in.calls) / sizeof(in.calls[0]); i++) {
		enum vip_hook hook = hooks[is_ipv6][in.calls[i].call % 3];
		struct vip_address asked =
			pick(&session->own4, &session->own6, is_ipv6, in.calls[i].address);
		struct vip_address source =
			pick(&session->own4, &session->own6, is_ipv6, in.calls[i].source);
		struct vip_host_answer answer =
			vip_host_call(made, &socket, hook, asked, 9000, &source);

		REQUIRE(vip_equal(answer.address, asked) && vip_equal(answer.source, source));
		REQUIRE(!answer.error || (is_isolated && !(in.owner & 16)));
		REQUIRE(!answer.error || answer.error == EADDRNOTAVAIL ||
			answer.error == ECONNREFUSED);
		REQUIRE(vip_host_question_count(made) == 0);
		if (hook == VIP_HOOK_GUARD_BIND4 && is_isolated && !(in.owner & 16) && in.vip4 &&
		    vip_equal(asked, vip_mapped(in.vip4)))
			REQUIRE(answer.error == EADDRNOTAVAIL);
	}
	vip_host_set_cgroup(made, CGROUP);
	vip_host_set_user(made, 0);
}

/* socket and setsockopt: only what would go around the other hooks is refused, and only under isolation. */
static void run_socket(struct vip_host *made, const struct vip_host_session *session)
{
	static const __u32 protocols[] = { IPPROTO_TCP, 17, IPPROTO_UDPLITE, IPPROTO_SCTP,
					   IPPROTO_DCCP };
	static const int options[][2] = { { SOL_IP, IP_LOCAL_PORT_RANGE },
					  { SOL_SOCKET, SO_BINDTODEVICE },
					  { SOL_SOCKET, SO_BINDTOIFINDEX },
					  { SOL_SOCKET, SO_REUSEPORT },
					  { SOL_IP, SO_BINDTODEVICE } };
	int is_isolated = (session->policy.flags & VIP_POLICY_ISOLATION) != 0;
	__u8 number = in.calls[0].call % 5, is_root = in.owner & 16;

	REQUIRE(vip_host_make_socket(made, protocols[number]) ==
		(is_isolated && number >= 2 ? EPROTONOSUPPORT : 0));
	vip_host_set_user(made, is_root ? 0 : 1000);
	REQUIRE(vip_host_set_option(made, options[number][0], options[number][1]) ==
		(!is_isolated || number > 2 ? 0 :
		 number == 0		    ? ENOPROTOOPT :
		 is_root		    ? 0 :
					      EPERM));
	vip_host_set_user(made, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vip_host *made;
	struct vip_host_session session;

	memset(&in, 0, sizeof(in));
	memcpy(&in, data, size < sizeof(in) ? size : sizeof(in));
	in.id = 1 + in.id % VIP_ID_LAST;
	/* In fc00::/7, or none. */
	if (in.prefix[0])
		in.prefix[0] = vip_swap32((vip_swap32(in.prefix[0]) >> 7) | 0xfc000000u);
	else
		memset(in.prefix, 0, sizeof(in.prefix));
	/* `session open` refuses these. */
	if (vip_is_127(in.vip4) || vip_is_multicast(VIP_INET4, vip_mapped(in.vip4)))
		in.vip4 = 0;
	if (vip_is_mapped(in.vip6) || vip_is_localhost(VIP_INET6, in.vip6) ||
	    !memcmp(&in.vip6, in.prefix, sizeof(in.prefix)))
		in.vip6 = vip_wildcard(VIP_INET6);

	if (!made) {
		made = vip_host_make(look_up_input, 0);
		vip_host_set_cgroup(made, CGROUP);
		vip_host_set_program(made, 7, 8, (const __u8 *)"program", 7,
				     (const __u8 *)"a name of more than 15 bytes", 28);
	}
	vip_host_set_bind_error(made, in.bind_fails & 1 ? EADDRNOTAVAIL : 0);
	vip_host_share_port(made, (in.socket >> 3) & 1);
	vip_host_watch(made, in.watched & VIP_OUTCOME_BITS, in.socket & 16 ? in.id : 0,
		       (in.socket >> 5) & 1);
	made->is_noted = 0;
	REQUIRE(vip_host_find_session(made, &session));
	REQUIRE(session.cgroup == CGROUP && session.row.id == in.id);
	REQUIRE(!(vip_host_features(made) & ~(VIP_V | VIP_L | VIP_P)));
	run_calls(made, &session);
	run_socket(made, &session);
	run_guards(made, &session);
	return 0;
}
