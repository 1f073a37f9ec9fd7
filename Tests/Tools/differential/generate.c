/* SPDX-License-Identifier: Apache-2.0 */
/* Draws random sequences of calls, the same from the same seed. */
#include "differential.h"

uint64_t random_state;

/* splitmix64: every seed is equally good */
uint64_t next_random(void)
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

/*
 * What the generator assumes about a socket. It need not be right, but makes useful calls likely.
 */
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

/* Addresses where a server may be, and where its client may look for it, of both families. */
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

/*
 * A server and its client, which make the calls of most programs: a is the server, b the client, c
 * the accepted socket.
 */
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

void generate(struct sequence *sequence)
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
	/* Finally, every socket is queried. */
	for (uint8_t i = 0; i < SLOTS; i++) {
		static const uint8_t last[] = { GETSOCKNAME, GETPEERNAME, RECVFROM };

		for (size_t k = 0; sockets[i].is_open && k < sizeof(last); k++) {
			if (sequence->count < CALLS_MAX)
				sequence->calls[sequence->count++] =
					(struct call){ .kind = last[k], .slot = i };
		}
	}
}
