/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is known to differ between a session and outside of one, and why. A sequence is compared no further
 * than the first call that such a row explains: what follows may be its consequence.
 *
 * A row looks at the call, at its sockets' history and at both results, and is as narrow as it can be:
 * what it lets pass is no longer tested. An open defect is a row that goes when the defect does.
 */

static bool is_any_name(const struct result *result)
{
	struct in6_addr address = plain_address(&result->address);

	return !result->error && result->address_length && is_any(&address);
}

static bool is_send(const struct call *call)
{
	return call->kind == SEND || call->kind == SENDTO || call->kind == FASTOPEN ||
	       call->kind == SENDMSG_PKTINFO;
}

static bool is_receive(const struct call *call)
{
	return call->kind == RECV || call->kind == RECVFROM;
}

/* A call that tells of an error, or of data, that an earlier datagram was the cause of. */
static bool tells_later(const struct call *call)
{
	return is_receive(call) || is_send(call) || call->kind == SO_ERROR_OF ||
	       call->kind == CONNECT;
}

static bool has_destination(const struct call *call)
{
	return call->kind == CONNECT || call->kind == SENDTO || call->kind == FASTOPEN ||
	       call->kind == SENDMSG_PKTINFO;
}

/* Was there an earlier call (of any socket) of which this holds? */
static bool earlier(const struct difference *d,
		    bool (*holds)(const struct difference *now, const struct call *call,
				  const struct socket_state *socket))
{
	struct world world;

	begin(&world);
	for (uint32_t i = 0; i < d->at; i++) {
		const struct call *call = &d->sequence->calls[i];

		if (holds(d, call, world.of[call->slot]))
			return true;
		follow(&world, call, &d->outcome->results[OUTSIDE][i]);
	}
	return false;
}

/* ---- a source that a connect left behind ---- */

/* bpf_bind is a bind like the program's own: the kernel undoes neither when the connect fails or is undone. */
static bool keeps_source(const struct difference *d)
{
	if (d->call->kind == GETSOCKNAME && d->socket->was_left && is_any_name(d->outside))
		return true;
	return (d->call->kind == BIND || has_destination(d->call)) && d->call->address == NAME_OF &&
	       d->other->was_left;
}

/* ---- 0.0.0.0 as a destination ---- */

static bool goes_to_any_with_source(const struct difference *d, const struct call *call,
				    const struct socket_state *socket)
{
	(void)d;
	return has_destination(call) &&
	       (is_any_address(call->address) || call->address == PEER_OF || call->address == NAME_OF) &&
	       ((socket->is_bound && !socket->is_bound_any) || socket->is_connected);
}

static bool any_is_own_address(const struct difference *d)
{
	return earlier(d, goes_to_any_with_source) ||
	       goes_to_any_with_source(d, d->call, d->socket);
}

/* ---- datagrams from the loopback ---- */

static bool sends_beyond_loopback(const struct difference *d, const struct call *call,
				  const struct socket_state *socket)
{
	(void)d;
	return socket->transport == UDP && is_send(call) && call->kind != SEND &&
	       !is_localhost(call->address) && !is_any_address(call->address) &&
	       ((socket->is_bound && is_localhost(socket->bound_address)) || socket->is_connected ||
		socket->was_left);
}

static bool leaves_loopback(const struct difference *d)
{
	return earlier(d, sends_beyond_loopback) || sends_beyond_loopback(d, d->call, d->socket);
}

static bool connects_autobound(const struct difference *d, const struct call *call,
			       const struct socket_state *socket)
{
	(void)d;
	return socket->transport == UDP && call->kind == CONNECT &&
	       (socket->is_autobound || socket->is_bound_any);
}

static bool connected_after_port(const struct difference *d)
{
	return tells_later(d->call) && earlier(d, connects_autobound);
}

/* ---- a socket that connects to itself ---- */

static bool connects_to_itself(const struct difference *d)
{
	return d->call->kind == CONNECT && d->socket->is_bound_any && d->call->port == d->socket->bound_port;
}

/* ---- bad input ---- */

static bool had_wrong_family(const struct difference *d, const struct call *call,
			     const struct socket_state *socket)
{
	(void)socket;
	return d->call->slot == call->slot && call->kind == CONNECT && call->form != WHOLE;
}

static bool acted_on_wrong_family(const struct difference *d)
{
	return d->call->kind == GETSOCKNAME && earlier(d, had_wrong_family);
}

enum { LIMIT, OPEN_DEFECT };

static const struct {
	bool (*explains)(const struct difference *difference);
	int is_open;
	const char *why;
} known[] = {
	{ keeps_source, LIMIT, "a connect that failed or was undone leaves its source behind" },
	{ any_is_own_address, OPEN_DEFECT,
	  "0.0.0.0 as a destination of a socket that has an address is that address, not 127.0.0.1" },
	{ leaves_loopback, OPEN_DEFECT,
	  "a datagram from a socket on 127.0.0.1 to another address loses its source" },
	{ connected_after_port, OPEN_DEFECT,
	  "a UDP socket with a port and no address hears no answer once it is connected to 127.0.0.1" },
	{ connects_to_itself, OPEN_DEFECT, "a socket on the wildcard cannot connect to itself" },
	{ acted_on_wrong_family, OPEN_DEFECT, "connect with another family binds a source" },
};

/* The row that explains the difference; −1: none does. */
static int excuse_of(const struct difference *difference)
{
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (known[i].explains(difference))
			return (int)i;
	}
	return -1;
}
