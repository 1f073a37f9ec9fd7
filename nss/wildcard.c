/* SPDX-License-Identifier: Apache-2.0 */
#include "wildcard.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union name {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/*
 * Binds a socket to the wildcard and no port, and asks for its name. IP_BIND_ADDRESS_NO_PORT: no port is
 * taken, so nothing clashes and nothing can be received, and the hooks tell such a socket its true
 * address whatever the policy's wildcardName says. IPV6_V6ONLY: a dual-stack socket without a port is left
 * on ::. Returns 0 or an errno.
 */
static int ask(int family, union name *name)
{
	socklen_t length = family == AF_INET ? sizeof(name->v4) : sizeof(name->v6);
	const int on = 1;
	int fd, error = 0;

	memset(name, 0, sizeof(*name));
	name->any.sa_family = (sa_family_t)family;
	fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno;
	if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on)) ||
	    (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on))) ||
	    bind(fd, &name->any, length) || getsockname(fd, &name->any, &length))
		error = errno;
	close(fd);
	return error;
}

static bool is_shortage(int error)
{
	return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
}

struct wildcard wildcard_of(int family)
{
	struct wildcard wildcard = { .kind = WILDCARD_PLAIN };
	union name name;
	int error = ask(family, &name);

	if (error == EADDRNOTAVAIL) {
		/* The wildcard is never "not available", but where a session should have an address. */
		wildcard.kind = WILDCARD_WITHHELD;
	} else if (is_shortage(error)) {
		wildcard.kind = WILDCARD_FAILED;
		wildcard.error = error;
	} else if (error) {
		/* This process may have no such sockets at all. */
	} else if (family == AF_INET) {
		wildcard.address.v4 = name.v4.sin_addr;
		if (name.v4.sin_addr.s_addr != htonl(INADDR_ANY))
			wildcard.kind = WILDCARD_ADDRESS;
	} else if (!IN6_IS_ADDR_UNSPECIFIED(&name.v6.sin6_addr)) {
		wildcard.address.v6 = name.v6.sin6_addr;
		wildcard.kind = WILDCARD_ADDRESS;
		/*
		 * ::1 is where the wildcard of a session is that has no IPv6 address, and it is where a program
		 * is at home that prefers the loopback. Only the latter is on 127.0.0.1 as well.
		 */
		if (IN6_IS_ADDR_LOOPBACK(&name.v6.sin6_addr)) {
			error = ask(AF_INET, &name);
			if (is_shortage(error)) {
				wildcard.kind = WILDCARD_FAILED;
				wildcard.error = error;
			} else if (error || name.v4.sin_addr.s_addr != htonl(INADDR_LOOPBACK)) {
				wildcard.kind = WILDCARD_WITHHELD;
			}
		}
	}
	return wildcard;
}
