/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compares the results of the calls on both sides, after the renaming that docs/behaviour.md
 * describes.
 */
#include "differential.h"

void begin(struct world *world)
{
	memset(world, 0, sizeof(*world));
	for (int i = 0; i < SLOTS; i++)
		world->of[i] = &world->sockets[CALLS_MAX];
}

bool is_any_address(uint8_t address)
{
	return address == ANY4 || address == ANY6 || address == MAPPED_ANY;
}

bool is_localhost(uint8_t address)
{
	return address == LOCALHOST4 || address == LOCALHOST6 || address == MAPPED_LOCALHOST;
}

/* The call with its references resolved: address and port are those of the tables, or NONE. */
struct call resolved(const struct call *call, const struct result *result)
{
	struct call plain = *call;
	union endpoint endpoint = result->asked;
	struct in6_addr asked, address;
	struct in_addr address4;
	unsigned int port;

	/* IPv4 accepts AF_UNSPEC for AF_INET, and finds zeroes where IPv6 has its flow label. */
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

/* Notes a server that is created or closed. */
static void note_server(struct world *world, const struct socket_state *server, uint8_t port)
{
	for (uint32_t i = 0; i < world->count; i++)
		world->has_other_server |= world->sockets[i].transport == UDP &&
					   server->transport == UDP &&
					   (world->sockets[i].peer_ports >> port & 1);
}

void follow(struct world *world, const struct call *literal, const struct result *result)
{
	struct socket_state *s = world->of[literal->slot], *made;
	struct call plain = resolved(literal, result), *call = &plain;

	if (literal->address == NAME_OF && strchr(kinds[call->kind].arguments, 'a') &&
	    (world->of[literal->other]->was_left || world->of[literal->other]->was_undone))
		world->uses_left_name = true;
	if (literal->address == NAME_OF && world->of[literal->other]->transport == MPTCP)
		world->uses_mptcp_name = true;
	if (call->kind == CONNECT && call->form == UNSPEC)
		plain.kind = DISCONNECT; /* another name for it */
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
		s->is_autobound |= !s->is_bound && !s->is_connected; /* also by a call that fails */
	/*
	 * The kernel removes the address from a socket that had no port (IP_BIND_ADDRESS_NO_PORT).
	 */
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

/* The ports of one side in the order of their appearance. */
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

/* The session's address under the name that it has outside. */
static union endpoint renamed(const struct call *call, const struct socket_state *state,
			      const struct result *outside, const struct result *session)
{
	union endpoint address = session->address;
	struct in6_addr shown, expected;

	if (mode == LOOPBACK || !session->address_length)
		return address;
	shown = plain_address(&address);
	/* Under `wildcardName: virtual`, getsockname of the wildcard is the virtual IP. */
	if (mode == VIRTUAL && call->kind == GETSOCKNAME && !outside->error &&
	    state->is_bound_any && !state->is_left_on_any) {
		expected = plain_address(&outside->address);
		if (is_any(&expected)) {
			if (is_same(&shown, &vip4) ||
			    (has_vip6 && state->v6 && is_same(&shown, &vip6)))
				set_address(&address, &expected);
			else
				address.any.sa_family = AF_UNSPEC; /* must be the virtual IP */
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

bool differs(const struct sequence *sequence, bool slow, struct outcome *outcome)
{
	perform(sequence, slow, outcome);
	compare(sequence, outcome);
	return outcome->differs >= 0;
}
