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

static bool is_host(uint8_t address)
{
	return address == HOST4 || address == HOST6 || address == MAPPED_HOST;
}

static bool is_group(uint8_t address)
{
	return address == GROUP4 || address == BROADCAST4 || address == GROUP6;
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

/* A port, and no address of its own: a datagram was tried (even one that failed), or it is bound to no one's. */
static bool has_port(const struct socket_state *socket)
{
	return socket->is_autobound || socket->is_bound_any ||
	       (socket->is_bound && is_group(socket->bound_address));
}

static bool connects_autobound(const struct difference *d, const struct call *call,
			       const struct socket_state *socket)
{
	(void)d;
	return socket->transport == UDP && call->kind == CONNECT && has_port(socket);
}

static bool connected_after_port(const struct difference *d)
{
	return tells_later(d->call) && earlier(d, connects_autobound);
}

/* ---- a socket that connects to itself ---- */

static bool names_own_port(const struct difference *d, const struct call *call,
			   const struct socket_state *socket)
{
	(void)d;
	return (call->kind == CONNECT || call->kind == FASTOPEN) && socket->transport != UDP && socket->is_bound &&
	       !is_localhost(socket->bound_address) && !is_host(socket->bound_address) &&
	       (call->port == socket->bound_port || call->address >= ADDRESSES);
}

static bool connects_to_itself(const struct difference *d)
{
	return earlier(d, names_own_port) || names_own_port(d, d->call, d->socket);
}

/* ---- bad input ---- */

static bool had_wrong_family(const struct difference *d, const struct call *call,
			     const struct socket_state *socket)
{
	return d->socket->id == socket->id && has_destination(call) && call->form != WHOLE;
}

static bool acted_on_wrong_family(const struct difference *d)
{
	return earlier(d, had_wrong_family);
}

/* A bind that fails must not change what is remembered of the one before. */
static bool was_bound_again(const struct difference *d, const struct call *call,
			    const struct socket_state *socket)
{
	return call->kind == BIND && socket->id == d->socket->id && socket->is_bound;
}

static bool forgot_what_was_bound(const struct difference *d)
{
	return mode == REQUESTED && d->call->kind == GETSOCKNAME && earlier(d, was_bound_again);
}

/* ---- virtual IP: what the wildcard was, is one address ---- */

/* The contract lets V-programs' wildcard be refused with another family: README, Limits. */
static bool binds_unspec(const struct difference *d)
{
	return mode != LOOPBACK && d->call->kind == BIND && d->call->form == UNSPEC &&
	       d->session->error == EAFNOSUPPORT;
}

/* A port and no source: bound to a group or the broadcast address, or has sent already. README, Limits. */
static bool cannot_be_given_source(const struct difference *d)
{
	return mode != LOOPBACK && (d->call->kind == CONNECT || d->call->kind == FASTOPEN) &&
	       d->session->error == EADDRNOTAVAIL &&
	       (d->socket->is_autobound || d->socket->was_left ||
		(d->socket->is_bound && is_group(d->socket->bound_address)));
}

/* The wildcard's port is taken on the virtual IP alone, and free on the loopback, and the other way round. */
static bool is_free_beside_wildcard(const struct difference *d)
{
	return mode != LOOPBACK && (d->call->kind == BIND || d->call->kind == LISTEN) &&
	       d->outside->error == EADDRINUSE && !d->session->error;
}

/* A socket that is on the host's address because it asked for it, and one that is there by the wildcard, are alike. */
static bool is_on_host(const struct socket_state *socket)
{
	return (socket->is_bound && is_host(socket->bound_address)) ||
	       (!socket->is_bound && socket->is_connected && !is_localhost(socket->peer_address));
}

static bool mixes_host_and_loopback(const struct difference *d, const struct call *call,
				    const struct socket_state *socket)
{
	(void)d;
	return has_destination(call) && is_on_host(socket) &&
	       (is_localhost(call->address) || call->address == REST4 || call->address >= ADDRESSES);
}

static bool is_host_and_wildcard(const struct difference *d)
{
	return mode != LOOPBACK &&
	       (earlier(d, mixes_host_and_loopback) || mixes_host_and_loopback(d, d->call, d->socket));
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
	{ forgot_what_was_bound, OPEN_DEFECT,
	  "a second bind, which fails, changes what getsockname says under asRequested" },
	{ binds_unspec, LIMIT, "bind with AF_UNSPEC is refused for V-programs" },
	{ cannot_be_given_source, LIMIT, "a socket with a port and no address cannot be given the virtual IP" },
	{ is_free_beside_wildcard, LIMIT, "the wildcard is one address, and the loopback another" },
	{ is_host_and_wildcard, LIMIT, "who asked for the host's address looks like who asked for the wildcard" },
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
