/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * libFuzzer over translate.h, with any session, policy, program and address, in each of the three
 * families. It tests what must hold for all of them. scripts/fuzz builds it with
 * -fsanitize=fuzzer,undefined and runs it for a limited time.
 */
#include <stdint.h>
#include <string.h>

#include "../../../bpf/translate.h"
#include "require.h"

/* A shorter input is filled with zeros. */
struct input {
	__u8 address_is, other_is; /* enum special */
	__u8 owner, excluded, found, answered, is_v6only, reserved;
	__u32 id, flags, listed;
	__be32 vip4;
	struct vip_address vip6, address, other;
	__be32 prefix[3];
};

/* Half of the inputs use an address with a meaning. */
enum special {
	ANY,
	OWN_ADDRESS,
	OWN_LOOPBACK,
	LOCALHOST,
	WILDCARD,
	NEXT_TO_ADDRESS,
	NEXT_TO_LOOPBACK,
	MAPPED_OWN_ADDRESS, /* of IPv6: an end of a dual-stack socket */
	SPECIALS = 16,
};

struct session {
	enum vip_family family;
	struct vip_own own;
	enum vip_owner owner; /* of the requested address, if it has no other meaning */
};

static struct vip_address special(const struct session *session, const struct input *in, __u8 which,
				  struct vip_address any)
{
	struct vip_address near;

	switch (which % SPECIALS) {
	case OWN_ADDRESS:
		return session->own.address;
	case OWN_LOOPBACK:
		return session->own.loopback;
	case LOCALHOST:
		return vip_localhost(session->family);
	case WILDCARD:
		return vip_wildcard(session->family);
	case NEXT_TO_ADDRESS:
	case NEXT_TO_LOOPBACK:
		near = which % SPECIALS == NEXT_TO_ADDRESS ? session->own.address :
							     session->own.loopback;
		near.word[session->family == VIP_INET6 ? any.word[0] % 4 : 3] ^= any.word[1];
		return near;
	case MAPPED_OWN_ADDRESS:
		return vip_mapped(in->vip4);
	default:
		return session->family == VIP_INET6 ? any : vip_mapped(any.word[3]);
	}
}

static enum vip_addr_class place_of(const struct session *session, struct vip_address address)
{
	return vip_class_of_owner(vip_class(session->family, &session->own, address),
				  session->owner);
}

static int same(const struct session *session, struct vip_address a, struct vip_address b)
{
	int words = session->family == VIP_INET6 ? 4 : 1;

	return !memcmp(&a.word[4 - words], &b.word[4 - words], words * sizeof(__be32));
}

static int is_own(const struct session *session, struct vip_address address)
{
	return same(session, address, session->own.loopback) ||
	       ((session->own.has & VIP_HAS_ADDRESS) &&
		same(session, address, session->own.address));
}

static int is_another_form(enum vip_action answer)
{
	return answer == VIP_TO_MAPPED_LOOPBACK || answer == VIP_TO_MAPPED_ADDRESS;
}

static struct vip_facts facts_of(const struct session *session, const struct input *in,
				 enum vip_addr_class asked, __u32 features)
{
	return (struct vip_facts){ .own = session->own,
				   .user_addr = in->address,
				   .local_addr = in->other,
				   .asked = asked,
				   .flags = in->flags,
				   .features = features,
				   .state = in->reserved,
				   .is_excluded = in->excluded };
}

/* As in the hook, which knows whether there is a VIP4. */
static enum vip_action carry_out(struct vip_plan plan, __u32 has, __u8 found, __u8 answered)
{
	__u32 hit = plan.probes & found;

	if (hit & VIP_PROBE_LOCALHOST)
		return VIP_AS_ASKED;
	if (hit & VIP_PROBE_ASKED && answered & 4)
		return VIP_AS_ASKED;
	if (hit & (VIP_PROBE_LOOPBACK | VIP_PROBE_OWN_LOOPBACK))
		return VIP_TO_LOOPBACK;
	if (hit & VIP_PROBE_ANSWERED)
		return answered & 1 ? VIP_TO_LOOPBACK : VIP_TO_LOCALHOST;
	if (hit & VIP_PROBE_OWN_ADDRESS)
		return VIP_TO_ADDRESS;
	if (hit & VIP_PROBE_MAPPED)
		return (has & VIP_HAS_IPV4) && (answered & 2) ? VIP_TO_MAPPED_ADDRESS :
								VIP_TO_MAPPED_LOOPBACK;
	/* Another session's, on the wildcard. */
	return hit & VIP_PROBE_ASKED ? VIP_REFUSE_PEER : plan.otherwise;
}

static void check_numbers(const struct session *session, const struct input *in)
{
	enum vip_family family = session->family;
	const struct vip_own *own = &session->own;

	if (own->has & VIP_HAS_LOOPBACK) {
		REQUIRE(vip_id_of_loopback(family, own->loopback) == in->id);
		REQUIRE(!vip_is_wildcard(family, own->loopback));
		REQUIRE(!vip_is_localhost(family, own->loopback));
		REQUIRE(!vip_is_multicast(family, own->loopback));
		REQUIRE(family == VIP_INET6 ? vip_is_unique_local(own->loopback) :
					      vip_is_127(own->loopback.word[3]));
	} else {
		REQUIRE(vip_is_localhost(family, own->loopback));
	}
	REQUIRE(vip_same(family, in->address, in->other) == same(session, in->address, in->other));
	REQUIRE(vip_is_mapped(vip_mapped(in->vip4)));
	REQUIRE(vip_is_mapped(vip_wildcard(family)) == (family != VIP_INET6));
}

static void check_place(const struct session *session, const struct input *in,
			enum vip_addr_class place)
{
	enum vip_family family = session->family;
	const struct vip_own *own = &session->own;
	int is_others = place == VIP_OTHER_LOOPBACK || place == VIP_OTHER_ADDRESS;

	REQUIRE(place < VIP_SOME_LOOPBACK && place != VIP_DUAL_WILDCARD);
	REQUIRE((place == VIP_WILDCARD) == vip_is_wildcard(family, in->address));
	REQUIRE((place == VIP_LOCALHOST) == same(session, in->address, vip_localhost(family)));
	REQUIRE(place != VIP_OWN_ADDRESS ||
		((own->has & VIP_HAS_ADDRESS) && same(session, in->address, own->address)));
	REQUIRE(place != VIP_OWN_LOOPBACK ||
		((own->has & VIP_HAS_LOOPBACK) && same(session, in->address, own->loopback)));
	REQUIRE(!is_others ||
		(session->owner == VIP_OWNER_SESSION && !is_own(session, in->address)));
	REQUIRE(place != VIP_HOST_ADDRESS || session->owner == VIP_OWNER_HOST);
	if (place == VIP_OTHER_LOOPBACK || place == VIP_LOOPBACK_REST)
		REQUIRE(family == VIP_INET6 ? (own->has & VIP_HAS_LOOPBACK) != 0 :
					      vip_is_127(in->address.word[3]));
}

static void check_bind(const struct session *session, const struct input *in,
		       enum vip_addr_class asked, __u32 features)
{
	const struct vip_own *own = &session->own;
	struct vip_address granted;
	enum vip_action answer =
		vip_bind_action(asked, features, in->flags, own->has, in->excluded);
	int is_wildcard = asked == VIP_WILDCARD || asked == VIP_DUAL_WILDCARD;

	struct vip_facts facts = facts_of(session, in, asked, features);
	struct vip_bind_facts call = { .has_port = in->found & 1, .is_stream = in->found & 2 };
	struct vip_bind_decision bind;

	call.is_datagram = !call.is_stream;
	bind = vip_decide_bind(session->family, &facts, call);
	REQUIRE(vip_is_refused(bind.decision.outcome) ==
		(answer == VIP_REFUSE_BIND || answer == VIP_UNAVAILABLE));
	if (vip_is_refused(bind.decision.outcome)) {
		REQUIRE(vip_equal(bind.decision.address, in->address));
		REQUIRE(!(bind.decision.remember | bind.on_loopback | bind.on_address));
	}
	/* An address in another form is noted, and only for a dual-stack socket. */
	if (vip_is_mapped(bind.decision.address) && !vip_is_mapped(in->address))
		REQUIRE(asked == VIP_DUAL_WILDCARD && bind.is_dual &&
			(bind.decision.remember & VIP_SOCKET_DUAL));
	REQUIRE(!(bind.on_loopback | bind.on_address) || (call.is_stream && call.has_port));
	REQUIRE(!bind.on_address || (own->has & VIP_HAS_ADDRESS));
	REQUIRE(answer != VIP_REFUSE_PEER && answer != VIP_TO_LOCALHOST);
	REQUIRE(answer != VIP_UNAVAILABLE || (features & VIP_V));
	REQUIRE(answer != VIP_TO_ADDRESS || (own->has & VIP_HAS_ADDRESS));
	REQUIRE(!is_another_form(answer) || asked == VIP_DUAL_WILDCARD);
	REQUIRE(answer != VIP_TO_MAPPED_ADDRESS || (own->has & VIP_HAS_IPV4));
	REQUIRE(answer != VIP_TO_MAPPED_LOOPBACK || (features & VIP_P));
	if (answer == VIP_TO_LOOPBACK && asked != VIP_LOCALHOST)
		REQUIRE(own->has & VIP_HAS_LOOPBACK);
	if (answer == VIP_REFUSE_BIND || answer == VIP_UNAVAILABLE)
		return;
	/* After bind, a V-program has neither the wildcard, but on an excluded port, nor a host address. */
	if ((features & VIP_V) && ((is_wildcard && !in->excluded) || asked == VIP_HOST_ADDRESS))
		REQUIRE(answer != VIP_AS_ASKED);
	if (!(features & (VIP_V | VIP_L)))
		REQUIRE(answer == VIP_AS_ASKED);
	if (in->flags & VIP_POLICY_ISOLATION)
		REQUIRE(asked != VIP_OTHER_LOOPBACK &&
			(asked != VIP_OTHER_ADDRESS || (features & VIP_V)));
	if (is_another_form(answer))
		return;
	granted = vip_address_of(session->family, answer, in->address, own);
	REQUIRE(same(session, granted, in->address) || is_own(session, granted));
	if (features & VIP_V)
		REQUIRE((!vip_is_wildcard(session->family, granted) || in->excluded) &&
			(asked != VIP_HOST_ADDRESS || is_own(session, granted)));
	/* Binding the granted address gives the same again: nothing is translated twice. */
	asked = place_of(session, granted);
	answer = vip_bind_action(asked, features, in->flags, own->has, in->excluded);
	REQUIRE(answer == VIP_AS_ASKED ||
		same(session, vip_address_of(session->family, answer, granted, own), granted) ||
		same(session, granted, in->address));
}

/* Both ends of a connection to localhost have the name localhost. */
static void check_local_names(const struct session *session, enum vip_addr_class asked,
			      enum vip_action to, __u32 features)
{
	struct vip_address none = vip_wildcard(session->family), peer, source;
	enum vip_family family = session->family;
	const struct vip_own *own = &session->own;

	peer = vip_address_of(family, to, none, own);
	source = vip_address_of(family, vip_source_action(asked, to, features), none, own);
	REQUIRE(vip_is_localhost(family, vip_name(family, own, peer, source)));
	REQUIRE(vip_is_localhost(family, vip_name(family, own, source, peer)));
	if (family == VIP_MAPPED) /* which the hook may have to translate to ::1 */
		REQUIRE(!vip_name_is_plain(family, peer, source) &&
			!vip_name_is_plain(family, source, peer));
}

/*
 * Whatever is known about a socket, a connection of a V-program never leaves from the host's
 * address unnoticed.
 */
static void check_route(const struct session *session, const struct input *in,
			enum vip_addr_class asked, __u32 features, enum vip_action to)
{
	struct vip_facts facts = facts_of(session, in, asked, features);
	enum vip_family form = vip_form_of(session->family, to);
	struct vip_route route = vip_route_of(session->family, form, &facts, to);
	struct vip_bound bound = { .address = in->other,
				   .has_port = in->answered & 1,
				   .is_named = (in->answered >> 1) & 1,
				   .owner = session->owner };
	enum vip_source_decision source;
	enum vip_outcome outcome;
	struct vip_decision datagram;

	REQUIRE(form == session->family || form == VIP_MAPPED);
	REQUIRE(form == session->family || vip_is_mapped(route.address));
	REQUIRE(!(route.remember & VIP_SOCKET_MAPPED_PEER) == (form == session->family));
	REQUIRE(!(route.remember & VIP_SOCKET_ASKED_PEER) ==
		(asked != VIP_LOOPBACK_REST || to == VIP_AS_ASKED));
	REQUIRE(!route.peer == !(route.remember & VIP_SOCKET_ASKED_PEER));
	bound.class = vip_class_of_owner(vip_class(form, &route.own, bound.address), bound.owner);
	bound.class = vip_class_of_local(form, bound.class, bound.address);
	source = vip_decide_source(&route, &bound, features, in->flags);
	if (source == VIP_SOURCE_BIND)
		REQUIRE(!bound.has_port && !vip_same(form, route.source_addr, bound.address));
	if (source == VIP_SOURCE_KEEP && route.source == VIP_TO_ADDRESS)
		REQUIRE(bound.class != VIP_WILDCARD);
	outcome = vip_connect_outcome(&facts, &route, source);
	if (source == VIP_SOURCE_MISSING)
		REQUIRE(vip_is_refused(outcome) || (in->flags & VIP_POLICY_USE_HOST_ADDRESS));
	REQUIRE(!(vip_peer_state(&route, bound.class) &
		  ~(VIP_SOCKET_NAMED_PEER | VIP_SOCKET_LOCAL_PEER | VIP_SOCKET_MAPPED_PEER |
		    VIP_SOCKET_ASKED_PEER)));

	if (form != session->family)
		return;
	datagram = vip_decide_datagram(form, &facts, &route, bound.class, in->answered & 1);
	REQUIRE(vip_equal(datagram.address, route.address));
	if (datagram.outcome == VIP_REFUSED_ISOLATION)
		REQUIRE(vip_is_refused_source(bound.class, features, in->flags));
	REQUIRE(vip_equal(datagram.source, in->other) || vip_is_wildcard(form, datagram.source) ||
		vip_is_localhost(form, datagram.source) || is_own(session, datagram.source));
	/*
	 * A V-program's datagram to other hosts leaves from its address, unless it has set another one.
	 */
	if (asked == VIP_ELSEWHERE && (features & VIP_V) && bound.class == VIP_WILDCARD)
		REQUIRE(same(session, datagram.source, session->own.address));
	datagram = vip_decide_connected_datagram(form, &facts, in->address, bound.class);
	REQUIRE(vip_equal(datagram.source, in->other) || vip_equal(datagram.source, in->address));
}

static void check_connect(const struct session *session, const struct session *mapped,
			  const struct input *in, enum vip_addr_class asked, __u32 features)
{
	int is_local = asked == VIP_WILDCARD || asked == VIP_LOCALHOST;
	int is_on_host = is_local || asked == VIP_OWN_LOOPBACK || asked == VIP_OTHER_LOOPBACK ||
			 asked == VIP_LOOPBACK_REST;
	int is_sessions = asked == VIP_OWN_LOOPBACK || asked == VIP_OWN_ADDRESS;
	int is_rest = asked == VIP_LOOPBACK_REST;
	__u32 has = session->own.has;
	struct vip_plan plan;
	enum vip_action answer, from;

	/* As in the hook: if it matters, and the socket is not V6ONLY. */
	if (session->family == VIP_INET6 && is_local && !in->is_v6only)
		has |= VIP_HAS_MAPPED;
	plan = vip_connect_plan(asked, features, in->flags, has, in->excluded);
	REQUIRE(!(plan.probes & VIP_PROBE_MAPPED) || (has & VIP_HAS_MAPPED));
	REQUIRE(!(plan.probes & VIP_PROBE_OWN_ADDRESS) || (has & VIP_HAS_ADDRESS));
	REQUIRE(!(plan.probes & VIP_PROBE_ASKED) || is_rest ||
		(is_sessions && plan.probes == VIP_PROBE_ASKED &&
		 (in->flags & VIP_POLICY_ISOLATION)));
	REQUIRE(!plan.probes || is_local || asked == VIP_HOST_ADDRESS || is_sessions || is_rest);
	REQUIRE(!plan.probes || !(is_local || is_rest) || !in->excluded);
	answer = carry_out(plan, has, in->found, in->answered);

	/* No result of connect is an address that the session does not have. */
	REQUIRE(answer != VIP_REFUSE_BIND);
	REQUIRE(answer != VIP_TO_ADDRESS || (has & VIP_HAS_ADDRESS));
	REQUIRE(answer != VIP_UNAVAILABLE || ((features & VIP_V) && !(has & VIP_HAS_ADDRESS)));
	if (!is_rest)
		REQUIRE((answer == VIP_REFUSE_PEER) ==
			((asked == VIP_OTHER_LOOPBACK ||
			  (is_sessions && (in->found & VIP_PROBE_ASKED) && !(in->answered & 4))) &&
			 (in->flags & VIP_POLICY_ISOLATION)));
	if (!is_local && !is_rest && asked != VIP_HOST_ADDRESS)
		REQUIRE(answer == VIP_AS_ASKED || answer == VIP_REFUSE_PEER ||
			answer == VIP_UNAVAILABLE);
	REQUIRE(!is_local || answer != VIP_UNAVAILABLE);

	/* Never the host's address: a V-program uses its own, or fails. */
	if (!is_on_host && (features & VIP_V) && !(has & VIP_HAS_ADDRESS))
		REQUIRE(answer == VIP_UNAVAILABLE);
	if (answer == VIP_REFUSE_PEER || answer == VIP_UNAVAILABLE)
		return;
	check_route(session, in, asked, features, answer);
	if (is_another_form(answer)) {
		check_local_names(mapped, VIP_LOCALHOST,
				  answer == VIP_TO_MAPPED_LOOPBACK ? VIP_TO_LOOPBACK :
								     VIP_TO_ADDRESS,
				  features);
		return;
	}
	from = vip_source_action(asked, answer, features);
	REQUIRE(!is_another_form(from) && from < VIP_REFUSE_BIND);
	REQUIRE(from != VIP_TO_ADDRESS || (has & VIP_HAS_ADDRESS));
	if (!is_on_host)
		REQUIRE((from == VIP_TO_ADDRESS) == ((features & VIP_V) != 0));
	else
		REQUIRE(from != VIP_TO_ADDRESS);
	if (is_local && (answer == VIP_TO_LOOPBACK || answer == VIP_TO_ADDRESS))
		check_local_names(session, asked, answer, features);
}

/*
 * Whatever is noted, a name is the address itself, localhost or the wildcard, and only for the
 * session's own addresses.
 */
static void check_decided_names(const struct session *session, const struct input *in)
{
	struct vip_facts facts = facts_of(session, in, VIP_ELSEWHERE, 0);
	enum vip_family family = session->family;
	struct vip_decision own = vip_decide_own_name(family, &facts, in->other, in->answered & 1),
			    peer;
	struct vip_address shown[2];

	facts.peer = in->answered & 8 && family != VIP_INET6 ? in->vip4 : 0;
	peer = vip_decide_peer_name(family, &facts, in->other);
	shown[0] = own.address;
	shown[1] = peer.address;

	if (vip_is_wildcard(family, in->address)) /* which is not the name of an end */
		return;
	for (int i = 0; i < 2; i++) {
		int is_one = family == VIP_MAPPED && (facts.state & VIP_SOCKET_MAPPED_PEER);

		REQUIRE(vip_equal(shown[i], in->address) || is_one || is_own(session, in->address));
		REQUIRE(vip_equal(shown[i], in->address) || vip_is_localhost(family, shown[i]) ||
			vip_is_localhost(VIP_INET6, shown[i]) ||
			(i == 1 && facts.peer && vip_equal(shown[i], vip_mapped(facts.peer))) ||
			(i == 0 && (in->answered & 1) &&
			 (vip_is_wildcard(family, shown[i]) ||
			  vip_is_wildcard(VIP_INET6, shown[i]))));
	}
	REQUIRE(own.outcome == VIP_SEEN && peer.outcome == VIP_SEEN);
}

/*
 * A name is the address itself or localhost. Other addresses are never localhost, and plain ones do
 * not change.
 */
static void check_names(const struct session *session, const struct input *in)
{
	enum vip_family family = session->family;
	const struct vip_own *own = &session->own;
	struct vip_address name = vip_name(family, own, in->address, in->other);
	int is_kept = same(session, name, in->address);

	REQUIRE(is_kept || vip_is_localhost(family, name));
	REQUIRE(is_kept || is_own(session, in->address));
	if (vip_name_is_plain(family, in->address, in->other))
		REQUIRE(is_kept);
	REQUIRE(same(session, vip_name(family, own, name, in->other), name));
	REQUIRE(vip_is_localhost(family, vip_name(family, own, own->loopback, in->other)));
	check_decided_names(session, in);
	/* The address is shown as it is, except to a local peer. */
	if (is_kept && (own->has & VIP_HAS_ADDRESS) && same(session, in->address, own->address))
		REQUIRE(!same(session, in->other, own->loopback) &&
			!vip_is_localhost(family, in->other));
}

static void check(const struct session *session, const struct session *mapped, struct input in)
{
	__u32 features;
	enum vip_addr_class place;

	in.address = special(session, &in, in.address_is, in.address);
	in.other = special(session, &in, in.other_is, in.other);
	check_numbers(session, &in);
	place = place_of(session, in.address);
	check_place(session, &in, place);

	features = vip_features(in.flags, in.listed, vip_has_address(place, session->own.has));
	REQUIRE(!(features & VIP_P) || (features & (VIP_V | VIP_L)) == (VIP_V | VIP_L));
	if ((features & VIP_V) && !(session->own.has & (VIP_HAS_ADDRESS | VIP_HAS_IPV4)))
		REQUIRE(!(in.flags & VIP_POLICY_USE_HOST_ADDRESS));

	/* All of the IPv6 loopbacks' prefix is for sessions: see vip_class_of_destination. */
	check_connect(session, mapped, &in,
		      session->family == VIP_INET6 && place == VIP_LOOPBACK_REST ?
			      VIP_OTHER_LOOPBACK :
			      place,
		      features);
	if (session->family == VIP_INET6 && place == VIP_WILDCARD && !in.is_v6only)
		place = VIP_DUAL_WILDCARD;
	check_bind(session, &in, place, features);
	check_names(session, &in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct session session4 = { .family = VIP_INET4 }, mapped,
		       session6 = { .family = VIP_INET6 };
	struct input in = {};

	memcpy(&in, data, size < sizeof(in) ? size : sizeof(in));
	in.id = 1 + in.id % VIP_ID_LAST; /* 0 would be 127.0.0.1 itself, and is no session's */
	in.excluded &= 1;
	in.is_v6only &= 1;
	/* In fc00::/7, or none. */
	if (in.prefix[0])
		in.prefix[0] = vip_swap32((vip_swap32(in.prefix[0]) >> 7) | 0xfc000000u);
	else
		memset(in.prefix, 0, sizeof(in.prefix));
	/*
	 * `session open` refuses these: loopbacks, and an IPv6 address that is mapped or in the prefix.
	 */
	if (vip_is_127(in.vip4))
		in.vip4 = 0;
	if (vip_is_mapped(in.vip6) || vip_is_localhost(VIP_INET6, in.vip6) ||
	    !memcmp(&in.vip6, in.prefix, sizeof(in.prefix)))
		in.vip6 = vip_wildcard(VIP_INET6);

	session4.owner = session6.owner = in.owner % 4;
	session4.own = vip_own_of(VIP_INET4, in.id, in.vip4, in.vip6, in.prefix);
	mapped = session4;
	mapped.family = VIP_MAPPED;
	session6.own = vip_own_of(VIP_INET6, in.id, in.vip4, in.vip6, in.prefix);

	check(&session4, &mapped, in);
	check(&mapped, &mapped, in);
	check(&session6, &mapped, in);
	return 0;
}
