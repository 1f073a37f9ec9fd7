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
 * Binds a socket to the wildcard without a port, and asks for its name.
 *
 * With IP_BIND_ADDRESS_NO_PORT it takes no port, so it cannot collide with other sockets and cannot
 * receive anything, and the hooks return its true address whatever the policy's wildcardName is.
 * IPV6_V6ONLY is needed because the hooks leave a dual-stack socket without a port on ::. Returns 0
 * or an errno.
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
		/*
		 * A bind to the wildcard fails so only if the session should have an address and has none.
		 */
		wildcard.kind = WILDCARD_WITHHELD;
	} else if (is_shortage(error)) {
		wildcard.kind = WILDCARD_FAILED;
		wildcard.error = error;
	} else if (error) {
		/* This process may not open such sockets. */
	} else if (family == AF_INET) {
		wildcard.address.v4 = name.v4.sin_addr;
		if (name.v4.sin_addr.s_addr != htonl(INADDR_ANY))
			wildcard.kind = WILDCARD_ADDRESS;
	} else if (!IN6_IS_ADDR_UNSPECIFIED(&name.v6.sin6_addr)) {
		wildcard.address.v6 = name.v6.sin6_addr;
		wildcard.kind = WILDCARD_ADDRESS;
		/*
		 * The wildcard is ::1 in a session that has no IPv6 address, and for a program that prefers the
		 * loopback. Only for the latter, the IPv4 wildcard is 127.0.0.1.
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
