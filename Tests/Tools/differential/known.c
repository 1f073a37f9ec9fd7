/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The known differences between a session and outside, with their reasons. A sequence is compared
 * up to the first call that such a row explains, because later differences may follow from it.
 *
 * A row tests the call, the history of its sockets and both results. It is as narrow as possible,
 * because whatever it accepts is no longer tested. The row of an open defect must be removed with
 * the defect.
 */

#include "differential.h"

/* ---- words for the rows ---- */

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

/* Whether the kernel treats the destination as the loopback. */
static bool is_local(uint8_t address)
{
	return is_localhost(address) || is_any_address(address);
}

/* Whether it is an IPv6 address and not a mapped one. */
static bool is_6(uint8_t address)
{
	return address >= LOCALHOST6 && address < MAPPED_LOCALHOST;
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

static bool is_name(const struct call *call)
{
	return call->kind == GETSOCKNAME || call->kind == GETPEERNAME;
}

static bool is_connect(const struct call *call)
{
	return call->kind == CONNECT || call->kind == FASTOPEN;
}

/* Whether the call may return an error or data that an earlier datagram caused. */
static bool tells_later(const struct call *call)
{
	return is_receive(call) || is_send(call) || call->kind == SO_ERROR_OF ||
	       call->kind == CONNECT;
}

static bool has_destination(const struct call *call)
{
	return (is_connect(call) || call->kind == SENDTO || call->kind == SENDMSG_PKTINFO) &&
	       !(call->kind == SENDMSG_PKTINFO && call->address == NONE);
}

typedef bool fact(const struct difference *d, const struct call *call,
		  const struct socket_state *socket);

/* Whether this holds for any call up to this one, on any socket. */
static bool happened(const struct difference *d, fact *holds)
{
	struct world world;

	begin(&world);
	for (uint32_t i = 0; i <= d->at; i++) {
		struct call call =
			resolved(&d->sequence->calls[i], &d->outcome->results[OUTSIDE][i]);

		if (holds(d, &call, world.of[call.slot]))
			return true;
		follow(&world, &d->sequence->calls[i], &d->outcome->results[OUTSIDE][i]);
	}
	return false;
}

/* Whether it has a port and no address. */
static bool has_port_alone(const struct socket_state *socket)
{
	return socket->is_autobound || socket->is_bound_any ||
	       (socket->is_bound && is_group(socket->bound_address));
}

/* ---- what remains after a connect ---- */

/*
 * bpf_bind acts like a bind of the program: the kernel does not undo it if the connect fails or is
 * undone.
 */
static bool connects_left(const struct difference *d, const struct call *call,
			  const struct socket_state *socket)
{
	(void)d;
	/* From a mapped source, :: is ::ffff:127.0.0.1. */
	if (has_destination(call) && (call->address == ANY6 || is_host(call->address)) &&
	    socket->was_left)
		return socket->transport == UDP;
	return is_connect(call) && socket->was_left && socket->is_autobound;
}

static bool keeps_source(const struct difference *d)
{
	if (d->before->uses_left_name)
		return true;
	if (tells_later(d->call) && happened(d, connects_left))
		return true;
	if (!d->socket->was_left)
		return false;
	if (is_connect(d->call) && d->socket->is_autobound) /* and now it cannot be replaced */
		return true;
	return d->call->kind == GETSOCKNAME && (is_any_name(d->outside) || d->socket->connects > 1);
}

/* The hooks' note of the peer remains as well. */
static bool forgets_peer(const struct difference *d)
{
	return d->socket->transport == UDP &&
	       ((is_name(d->call) && d->socket->has_failed_again) ||
		(mode != LOOPBACK && d->call->kind == RECVFROM && d->socket->connects > 1));
}

/* bpf_bind of an IPv6 address makes the socket V6ONLY, as bind of one does. */
static bool is_v6only_now(const struct difference *d)
{
	/* Then it does not conflict on IPv4. */
	if ((d->call->kind == BIND || d->call->kind == LISTEN) && d->outside->error == EADDRINUSE) {
		for (uint32_t i = 0; i < d->before->count; i++) {
			if (d->before->sockets[i].was_given_source6)
				return true;
		}
	}
	return d->socket->was_given_source6 &&
	       (d->call->kind == BIND || has_destination(d->call)) &&
	       (d->call->address >= MAPPED_LOCALHOST || d->call->address < LOCALHOST6) &&
	       (d->session->error == EINVAL || d->session->error == ENETUNREACH ||
		d->session->error == EAFNOSUPPORT);
}

/*
 * It is not known what its listener asked for, and an address without a port looks like a source
 * that was left.
 */
static bool is_accepted_undone(const struct difference *d)
{
	return d->socket->is_accepted && d->socket->was_undone &&
	       (d->call->kind == GETSOCKNAME || is_connect(d->call));
}

static bool gives_left_name(const struct difference *d)
{
	const struct call *literal = &d->sequence->calls[d->at];

	return strchr(kinds[literal->kind].arguments, 'a') && literal->address == NAME_OF &&
	       (d->other->was_left || d->other->was_undone);
}

/* ---- datagrams from the loopback ---- */

/*
 * Nothing leaves the host from 127.0.0.1. A session's loopback may remain from an earlier connect,
 * so such a datagram gets another source.
 */
static bool leaves_loopback(const struct difference *d)
{
	return d->socket->transport == UDP && is_send(d->call) && d->outside->error == EINVAL &&
	       !is_local(d->call->address) &&
	       (d->socket->is_bound ? is_localhost(d->socket->bound_address) :
				      d->socket->connects || d->call->kind == SENDMSG_PKTINFO);
}

/* IP_PKTINFO with 127.0.0.1 on a socket that is connected, but not to the loopback. */
static bool answers_from_elsewhere(const struct difference *d, const struct call *call,
				   const struct socket_state *socket)
{
	(void)d;
	return call->kind == SENDMSG_PKTINFO && socket->is_connected &&
	       (is_localhost(call->source) || (is_any_address(call->source) && socket->is_bound &&
					       is_group(socket->bound_address)));
}

static bool answers_from_connected(const struct difference *d)
{
	return tells_later(d->call) && happened(d, answers_from_elsewhere);
}

/* 0.0.0.0 there means the address of the socket; outside, it means that of the route. */
static bool answers_from_any(const struct difference *d, const struct call *call,
			     const struct socket_state *socket)
{
	(void)d;
	return call->kind == SENDMSG_PKTINFO && socket->is_connected &&
	       is_any_address(call->source);
}

static bool is_answer_from_any(const struct difference *d)
{
	return tells_later(d->call) && happened(d, answers_from_any);
}

/* IP_PKTINFO with 127.0.0.1, or to 0.0.0.0 with another, on a socket that is not connected. */
static bool answers_from_localhost(const struct difference *d, const struct call *call,
				   const struct socket_state *socket)
{
	(void)d;
	(void)socket;
	if (call->kind != SENDMSG_PKTINFO)
		return false;
	return is_local(call->source) || (mode != LOOPBACK && is_any_address(call->address));
}

static bool is_answer_from_localhost(const struct difference *d)
{
	return is_receive(d->call) && happened(d, answers_from_localhost);
}

/* ---- sockets that have a port, and no address that could be replaced ---- */

/* Its source is 127.0.0.1, but its peer is on the session's loopback. */
static bool connects_with_port(const struct difference *d, const struct call *call,
			       const struct socket_state *socket)
{
	(void)d;
	if (is_connect(call) && call->address == REST4 && !socket->is_bound)
		return true; /* as outside, but in the session it is the session's loopback */
	return is_connect(call) && (is_local(call->address) || call->address == REST4) &&
	       (has_port_alone(socket) ||
		(socket->connects && (socket->peer_address == REST4 || socket->was_left)));
}

/*
 * Under asRequested, an address without a port may be a source that a hook has set, so it is
 * returned as it is.
 */
static bool is_any_without_port(const struct difference *d)
{
	return mode == REQUESTED && d->call->kind == GETSOCKNAME && is_any_name(d->outside) &&
	       (d->socket->is_listening ||
		(d->socket->connects && d->socket->bound_port == PORT_ANY) ||
		(!d->outside->address.v4.sin_port && !d->session->address.v4.sin_port));
}

static bool is_on_other_loopback(const struct difference *d)
{
	return happened(d, connects_with_port);
}

/* ---- a mapped address on an AF_INET6 socket ---- */

static bool sends_v6_from_mapped(const struct difference *d)
{
	if (!d->socket->v6 || d->socket->transport != UDP || !is_send(d->call))
		return false;
	if (d->call->kind == SENDMSG_PKTINFO && d->call->source >= MAPPED_LOCALHOST)
		return d->outside->error == EINVAL || d->outside->error == EAFNOSUPPORT;
	return d->outside->error == EAFNOSUPPORT;
}

/*
 * Programs can bind LO6 only with net.ipv6.ip_nonlocal_bind, which lets all programs bind addresses
 * of other hosts.
 */
static bool binds_what_is_not_local(const struct difference *d)
{
	if (d->call->kind == BIND)
		return d->call->address == FAR6 && d->outside->error == EADDRNOTAVAIL;
	return d->call->kind == SENDMSG_PKTINFO &&
	       (d->call->source == FAR6 || d->call->source == GROUP6) &&
	       d->outside->error == EINVAL;
}

/* With IP_FREEBIND, a program outside may take such an address, and send from it. */
static bool may_not_be_there(const struct difference *d)
{
	bool is_far = d->call->kind == BIND ?
			      d->call->address == FAR6 :
			      d->call->kind == SENDMSG_PKTINFO && d->call->source == FAR6;

	return is_far && d->session->error == EADDRNOTAVAIL && !d->outside->error;
}

/* From ::1, the kernel sends to an address of another interface, and drops the packet there. */
static bool goes_from_localhost6(const struct difference *d, const struct call *call,
				 const struct socket_state *socket)
{
	(void)d;
	if (!has_destination(call))
		return false;
	if (call->address == LOCALHOST6 || call->address == ANY6) /* and in the other direction */
		return socket->is_bound && socket->bound_address == HOST6;
	return call->address == HOST6 &&
	       ((socket->is_bound && socket->bound_address == LOCALHOST6) ||
		(!socket->is_bound && socket->was_given_source6) ||
		(call->kind == SENDMSG_PKTINFO && call->source == LOCALHOST6));
}

static bool is_dropped_from_localhost6(const struct difference *d)
{
	return happened(d, goes_from_localhost6);
}

/* ---- from the loopback to the host's address ---- */

static bool is_host_from_loopback(const struct difference *d, const struct call *call,
				  const struct socket_state *socket)
{
	(void)d;
	return has_destination(call) && is_host(call->address) &&
	       (socket->is_bound ? is_localhost(socket->bound_address) :
				   socket->connects && is_local(socket->peer_address));
}

static bool names_localhost_for_host(const struct difference *d)
{
	return mode != LOOPBACK && is_name(d->call) &&
	       (d->socket->is_accepted || d->socket->transport == MPTCP) &&
	       happened(d, is_host_from_loopback);
}

/* ---- connected to port 0 ---- */

/* ---- virtual IP: the wildcard becomes one address ---- */

static bool binds_unspec(const struct difference *d)
{
	return mode != LOOPBACK && d->call->kind == BIND && d->call->form == UNSPEC &&
	       d->session->error == EAFNOSUPPORT;
}

/* It is bound to a group or the broadcast address, or has sent already: docs/limits.md. */
static bool cannot_be_given_source(const struct difference *d)
{
	return mode != LOOPBACK && is_connect(d->call) && d->session->error == EADDRNOTAVAIL &&
	       (d->socket->is_autobound || d->socket->was_left ||
		(d->socket->is_bound && is_group(d->socket->bound_address)));
}

static bool is_free_beside_wildcard(const struct difference *d)
{
	return mode != LOOPBACK && (d->call->kind == BIND || d->call->kind == LISTEN) &&
	       d->outside->error == EADDRINUSE && !d->session->error;
}

/* On the host's address because it asked for that, or on the wildcard. */
static bool is_on_host(const struct socket_state *socket)
{
	return (socket->is_bound && is_host(socket->bound_address)) ||
	       (!socket->is_bound && socket->is_connected && !is_localhost(socket->peer_address));
}

static bool mixes_host_and_loopback(const struct difference *d, const struct call *call,
				    const struct socket_state *socket)
{
	/* In the session, the name of a server there is not the host's address. */
	if (call->kind == SENDTO && is_host(call->address) && socket->is_connected &&
	    is_host(socket->peer_address))
		return true;
	if (!has_destination(call) || !(is_local(call->address) || call->address == REST4))
		return false;
	if (is_on_host(socket))
		return true;
	/* To a port for which some socket has asked for the host's address. */
	for (uint32_t i = 0; i < d->before->count; i++) {
		const struct socket_state *other = &d->before->sockets[i];

		if (other->is_bound && is_host(other->bound_address) &&
		    other->bound_port == call->port)
			return true;
	}
	return false;
}

static bool is_host_and_wildcard(const struct difference *d)
{
	return mode != LOOPBACK && happened(d, mixes_host_and_loopback);
}

static bool is_on_rest(const struct socket_state *socket)
{
	return socket->is_bound && socket->bound_address == REST4;
}

static bool goes_to_rest(const struct difference *d, const struct call *call,
			 const struct socket_state *socket)
{
	(void)d;
	return has_destination(call) &&
	       (call->address == REST4 || (is_any_address(call->address) && is_on_rest(socket)));
}

static bool is_rest_of_loopback(const struct difference *d)
{
	return mode != LOOPBACK && happened(d, goes_to_rest);
}

static bool goes_to_own_host_port(const struct difference *d, const struct call *call,
				  const struct socket_state *socket)
{
	(void)d;
	return is_connect(call) && socket->transport != UDP && socket->is_bound &&
	       !is_localhost(socket->bound_address) && is_host(call->address) &&
	       call->port == socket->bound_port;
}

static bool names_own_host_port(const struct difference *d)
{
	return mode != LOOPBACK && happened(d, goes_to_own_host_port);
}

static bool broadcasts(const struct difference *d, const struct call *call,
		       const struct socket_state *socket)
{
	(void)d;
	return socket->transport == UDP && (is_send(call) || is_connect(call)) &&
	       is_group(call->address);
}

static bool hears_no_broadcast(const struct difference *d)
{
	return mode != LOOPBACK && is_receive(d->call) && !d->outside->error &&
	       d->session->error == EAGAIN && happened(d, broadcasts);
}

/* Where a UDP connect leads is decided once, even if its server is created or closed later. */
static bool was_connected_before_server(const struct difference *d)
{
	return mode != LOOPBACK && tells_later(d->call) && d->before->has_other_server;
}

/* Its subflow keeps the address of bpf_bind or of the listener. */
static bool is_mptcp_undone(const struct difference *d)
{
	return d->socket->transport == MPTCP && is_connect(d->call) &&
	       (d->socket->was_left || d->socket->is_listening) &&
	       d->session->error == EHOSTUNREACH;
}

/* The kernel itself keeps a part of the first peer's family. */
static bool changes_family(const struct difference *d, const struct call *call,
			   const struct socket_state *socket)
{
	(void)d;
	return is_connect(call) && socket->v6 && socket->transport == UDP && socket->connects &&
	       is_6(socket->peer_address) != is_6(call->address);
}

static bool was_of_other_family(const struct difference *d)
{
	return tells_later(d->call) && happened(d, changes_family);
}

/* A socket that is connected to port 0, or a server that connects, is not found by its clients. */
static bool hides_from_look_up(const struct difference *d, const struct call *call,
			       const struct socket_state *socket)
{
	(void)d;
	return call->kind == CONNECT && socket->transport == UDP &&
	       (call->port == PORT_ANY || socket->is_bound);
}

static bool is_hidden_from_look_up(const struct difference *d)
{
	return mode != LOOPBACK && tells_later(d->call) && happened(d, hides_from_look_up);
}

static bool is_mptcp_named(const struct difference *d)
{
	const struct call *literal = &d->sequence->calls[d->at];

	if (mode == REQUESTED && (d->before->uses_mptcp_name ||
				  (strchr(kinds[literal->kind].arguments, 'a') &&
				   literal->address == NAME_OF && d->other->transport == MPTCP)))
		return true;
	return mode == REQUESTED && d->call->kind == GETSOCKNAME && d->socket->transport == MPTCP &&
	       is_any_name(d->session);
}

/* ---- dual-stack sockets on the virtual IP, ::ffff:VIP4 ---- */

static bool is_dual_on_address(const struct socket_state *socket)
{
	return socket->v6 && socket->is_bound && socket->bound_address == ANY6 &&
	       !(socket->set >> V6ONLY & 1) && !socket->is_left_on_any;
}

static bool is_v6_of_dual(const struct difference *d, const struct call *call,
			  const struct socket_state *socket)
{
	(void)d;
	return has_destination(call) && is_dual_on_address(socket) && call->address >= LOCALHOST6 &&
	       call->address < MAPPED_LOCALHOST;
}

static bool sends_no_v6(const struct difference *d)
{
	return mode != LOOPBACK && happened(d, is_v6_of_dual);
}

static bool goes_to_dual_by_v6(const struct difference *d, const struct call *call,
			       const struct socket_state *socket)
{
	if (!has_destination(call) || socket->transport != UDP || call->address < LOCALHOST6 ||
	    call->address >= MAPPED_LOCALHOST)
		return false;
	for (uint32_t i = 0; i < d->before->count; i++) {
		const struct socket_state *other = &d->before->sockets[i];

		if (is_dual_on_address(other) && other->transport == UDP &&
		    other->bound_port == call->port)
			return true;
	}
	return false;
}

static bool is_not_reached_by_v6(const struct difference *d)
{
	return mode != LOOPBACK && happened(d, goes_to_dual_by_v6);
}

/*
 * When the kernel undoes the connect of an AF_INET6 socket, it keeps a mapped source; the hook
 * returns what was bound.
 */
static bool is_undone_on_mapped_any(const struct difference *d)
{
	return mode == REQUESTED && d->call->kind == GETSOCKNAME && d->socket->v6 &&
	       d->socket->is_bound_any && d->socket->connects &&
	       (!d->socket->is_connected || d->outside->error || d->socket->connects > 1);
}

/* A listener in a socket map has the recvmsg of that map. */
static bool receives_on_listener(const struct difference *d)
{
	return mode != LOOPBACK && is_receive(d->call) && d->socket->is_listening &&
	       d->socket->v6 && d->outside->error == ENOTCONN && d->session->error == EAGAIN;
}

/* A subflow cannot be in a socket map, so sk_lookup does not find an MPTCP listener. */
static bool goes_to_mptcp_by_v6(const struct difference *d, const struct call *call,
				const struct socket_state *socket)
{
	if (!is_connect(call) || !socket->v6 || call->address >= MAPPED_LOCALHOST)
		return false;
	for (uint32_t i = 0; i < d->before->count; i++) {
		const struct socket_state *other = &d->before->sockets[i];

		if (other->transport == MPTCP && is_dual_on_address(other))
			return true;
	}
	return false;
}

static bool is_mptcp_by_v6(const struct difference *d)
{
	return mode != LOOPBACK && happened(d, goes_to_mptcp_by_v6);
}

static bool connects_to_no_port(const struct difference *d, const struct call *call,
				const struct socket_state *socket)
{
	return is_connect(call) && call->port == PORT_ANY && socket->id == d->socket->id;
}

/* A TCP socket has no peer port if its connect failed, or if it connects to port 0. */
static bool is_refused_at_no_port(const struct difference *d)
{
	return mode == REQUESTED && d->call->kind == GETSOCKNAME && d->socket->transport != UDP &&
	       is_any_name(d->session) && happened(d, connects_to_no_port);
}

const struct known known[] = {
	{ answers_from_connected, LIMIT,
	  "a connected socket's IP_PKTINFO with 127.0.0.1 is taken for the address that it has" },
	{ leaves_loopback, LIMIT,
	  "a datagram from a socket on 127.0.0.1 to another host is sent, not refused" },
	{ is_answer_from_any, LIMIT,
	  "IP_PKTINFO with 0.0.0.0 is the address that a connected socket has" },
	{ is_answer_from_localhost, LIMIT,
	  "an answer from 127.0.0.1 by IP_PKTINFO is not heard by a client that is connected to "
	  "another address" },
	{ is_refused_at_no_port, LIMIT,
	  "getsockname of a TCP socket that was refused at port 0 says the wildcard" },
	{ is_any_without_port, LIMIT, "a wildcard without a port is told as the virtual IP" },
	{ sends_v6_from_mapped, LIMIT,
	  "a UDP socket on a mapped address sends to IPv6: a source that a connect has left looks "
	  "the same" },
	{ binds_what_is_not_local, LIMIT,
	  "an IPv6 address that the host does not have can be bound: net.ipv6.ip_nonlocal_bind, "
	  "which LO6 needs" },
	{ may_not_be_there, LIMIT,
	  "a program with a virtual IP takes no IPv6 address that is neither its own nor the "
	  "host's" },
	{ names_localhost_for_host, LIMIT,
	  "an accepted socket whose peer came from 127.0.0.1 to the host's address says that it "
	  "is on 127.0.0.1" },
	{ is_dropped_from_localhost6, LIMIT,
	  "what goes from ::1 to the host's address arrives, as it does not outside" },
	{ keeps_source, LIMIT, "a connect that failed or was undone leaves its source behind" },
	{ forgets_peer, LIMIT,
	  "a second connect of a UDP socket changes the name of the first one's peer" },
	{ is_v6only_now, LIMIT,
	  "an AF_INET6 socket that a connect has led to the loopback is V6ONLY from then on" },
	{ is_accepted_undone, LIMIT,
	  "an accepted socket that is undone is on no address that a program asked for" },
	{ gives_left_name, LIMIT,
	  "a connect that failed or was undone leaves its source behind, and its name" },
	{ is_on_other_loopback, LIMIT,
	  "a socket with a port and no address that connects to 127.0.0.1 stays on 127.0.0.1 "
	  "itself" },
	{ binds_unspec, LIMIT, "bind with AF_UNSPEC is refused for V-programs" },
	{ cannot_be_given_source, LIMIT,
	  "a socket with a port and no address cannot be given the virtual IP" },
	{ is_free_beside_wildcard, LIMIT, "the wildcard is one address, and the loopback another" },
	{ is_rest_of_loopback, LIMIT,
	  "a server on the wildcard is not on the rest of 127.0.0.0/8" },
	{ names_own_host_port, LIMIT, "a socket on the host's address cannot connect to itself" },
	{ hears_no_broadcast, LIMIT, "a server on the wildcard hears no broadcast" },
	{ is_host_and_wildcard, LIMIT,
	  "who asked for the host's address looks like who asked for the wildcard" },
	{ was_connected_before_server, LIMIT,
	  "a UDP client is connected to where its server was when it connected" },
	{ sends_no_v6, LIMIT,
	  "a dual-stack socket that is bound to :: cannot go to an IPv6 address" },
	{ is_not_reached_by_v6, LIMIT,
	  "a dual-stack UDP server that is bound to :: is not reached by IPv6" },
	{ is_undone_on_mapped_any, LIMIT,
	  "getsockname of an AF_INET6 socket after connect and disconnect" },
	{ is_mptcp_by_v6, LIMIT,
	  "a dual-stack MPTCP listener that is bound to :: is not reached by IPv6" },
	{ receives_on_listener, LIMIT, "recv on a dual-stack listener says EAGAIN, not ENOTCONN" },
	{ is_mptcp_undone, LIMIT, "an MPTCP socket that was undone connects with another errno" },
	{ was_of_other_family, LIMIT,
	  "an AF_INET6 UDP socket that is connected to one family after the other" },
	{ is_hidden_from_look_up, LIMIT,
	  "a UDP server that is connected itself is not found by a look-up for others" },
	{ is_mptcp_named, LIMIT, "what an MPTCP socket asked for is not remembered" },
};
const unsigned int known_count = sizeof(known) / sizeof(known[0]);

/* The index of the row that explains the difference; −1 if none does. */
int excuse_of(const struct difference *difference)
{
	for (unsigned int i = 0; i < known_count; i++) {
		if (known[i].explains(difference))
			return (int)i;
	}
	return -1;
}
