/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of calls and of their parts. */
#include "differential.h"

const struct kind_words kinds[KINDS] = {
	[SOCKET] = { "socket", "p" },
	[SETSOCKOPT] = { "setsockopt", "o" },
	[BIND] = { "bind", "a" },
	[LISTEN] = { "listen", "" },
	[CONNECT] = { "connect", "a" },
	[DISCONNECT] = { "disconnect", "" },
	[ACCEPT] = { "accept", "b" },
	[ACCEPT_NOADDR] = { "accept-noaddr", "b" },
	[GETSOCKNAME] = { "getsockname", "" },
	[GETPEERNAME] = { "getpeername", "" },
	[SEND] = { "send", "t" },
	[SENDTO] = { "sendto", "at" },
	[FASTOPEN] = { "fastopen", "at" },
	[SENDMSG_PKTINFO] = { "sendmsg-pktinfo", "ast" },
	[RECV] = { "recv", "" },
	[RECVFROM] = { "recvfrom", "" },
	[SHUTDOWN] = { "shutdown", "d" },
	[SO_ERROR_OF] = { "so-error", "" },
	[DUP] = { "dup", "b" },
	[CLOSE] = { "close", "" },
};

const struct option_words options[OPTIONS] = {
	[REUSEADDR] = { "reuseaddr", SOL_SOCKET, SO_REUSEADDR },
	[REUSEPORT] = { "reuseport", SOL_SOCKET, SO_REUSEPORT },
	[BROADCAST] = { "broadcast", SOL_SOCKET, SO_BROADCAST },
	[BIND_NO_PORT] = { "bind_no_port", IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT },
	[FREEBIND] = { "freebind", IPPROTO_IP, IP_FREEBIND },
	[PKTINFO] = { "pktinfo", IPPROTO_IP, IP_PKTINFO },
	[PKTINFO6] = { "pktinfo6", IPPROTO_IPV6, IPV6_RECVPKTINFO },
	[V6ONLY] = { "v6only", IPPROTO_IPV6, IPV6_V6ONLY },
};

const char *const transports[TRANSPORTS] = { "tcp", "udp", "mptcp" };

const char *const addresses[ADDRESSES] = {
	[LOCALHOST4] = "127.0.0.1",
	[ANY4] = "0.0.0.0",
	[HOST4] = "198.51.100.1",
	[FAR4] = "198.51.100.2",
	[REST4] = "127.0.0.99", /* of 127/8, left to the host by hostAddresses */
	[GROUP4] = "239.1.2.3",
	[BROADCAST4] = "198.51.100.255",
	[LOCALHOST6] = "::1",
	[ANY6] = "::",
	[HOST6] = "2001:db8:51::1",
	[FAR6] = "2001:db8:51::2",
	[GROUP6] = "ff05::1:3",
	[MAPPED_LOCALHOST] = "::ffff:127.0.0.1",
	[MAPPED_ANY] = "::ffff:0.0.0.0",
	[MAPPED_HOST] = "::ffff:198.51.100.1",
	[MAPPED_FAR] = "::ffff:198.51.100.2",
};

const char *const forms[FORMS] = { "", "short", "family", "unspec" };
const char *const directions[] = { "read", "write", "both" };

void fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fputs("differential: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	exit(70); /* EX_SOFTWARE: the test itself has failed */
}

const char *const modes[] = { "loopback", "virtual", "requested" };
enum mode mode;
struct in6_addr vip4 /* mapped */, vip6, host4 /* mapped */, host6;
bool has_vip6, families[2] = { true, true }; /* AF_INET, AF_INET6 sockets */

struct in6_addr mapped(struct in_addr v4)
{
	struct in6_addr v6 = { .s6_addr = { [10] = 0xff, [11] = 0xff } };

	memcpy(&v6.s6_addr[12], &v4, sizeof(v4));
	return v6;
}

bool is_same(const struct in6_addr *a, const struct in6_addr *b)
{
	return !memcmp(a, b, sizeof(*a));
}

/* An endpoint's address with IPv4 in its mapped form. */
struct in6_addr plain_address(const union endpoint *endpoint)
{
	return endpoint->any.sa_family == AF_INET ? mapped(endpoint->v4.sin_addr) :
						    endpoint->v6.sin6_addr;
}

bool is_any(const struct in6_addr *address)
{
	static const struct in6_addr mapped_any = { .s6_addr = { [10] = 0xff, [11] = 0xff } };

	return IN6_IS_ADDR_UNSPECIFIED(address) || is_same(address, &mapped_any);
}

void set_address(union endpoint *endpoint, const struct in6_addr *address)
{
	if (endpoint->any.sa_family == AF_INET)
		memcpy(&endpoint->v4.sin_addr, &address->s6_addr[12], 4);
	else
		endpoint->v6.sin6_addr = *address;
}
