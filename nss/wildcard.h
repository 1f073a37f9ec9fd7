/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The address that a bind to the wildcard gives the calling program.
 *
 * Outside a session, a socket that is bound to 0.0.0.0 is on 0.0.0.0. In a session, for programs to
 * which a virtual IP applies, it is on the virtual IP, and getsockname returns that. So the module
 * finds the program's own address without a map, a privilege or a daemon: it binds a socket and
 * reads its name.
 */
#ifndef NSS_VIP_WILDCARD_H
#define NSS_VIP_WILDCARD_H

#include <netinet/in.h>

enum wildcard_kind {
	WILDCARD_PLAIN, /* it stays 0.0.0.0 or ::, so no virtual IP applies; or there is no such family */
	WILDCARD_ADDRESS,  /* it is `address` */
	WILDCARD_WITHHELD, /* a virtual IP applies, and the session has none of this family */
	WILDCARD_FAILED,   /* unknown, because descriptors or memory are missing */
};

struct wildcard {
	enum wildcard_kind kind;
	int error; /* with WILDCARD_FAILED, the errno: EMFILE, for example */
	union {
		struct in_addr v4;
		struct in6_addr v6;
	} address;
};

/*
 * Asks the kernel. It takes five system calls for AF_INET, six for AF_INET6, and five more if the
 * result is ::1.
 */
struct wildcard wildcard_of(int family);

#endif
