/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the calling program's wildcard is.
 *
 * Outside a session a socket that is bound to 0.0.0.0 is on 0.0.0.0. In a session it is on the session's
 * virtual IP, for those programs to which one applies, and getsockname says so. So a program can be told
 * its own address without a map, a privilege or a daemon: by binding, and looking.
 */
#ifndef NSS_VIP_WILDCARD_H
#define NSS_VIP_WILDCARD_H

#include <netinet/in.h>

enum wildcard_kind {
	WILDCARD_PLAIN, /* it stays 0.0.0.0 or ::, so no virtual IP applies; or the family is not there */
	WILDCARD_ADDRESS,  /* it is `address` */
	WILDCARD_WITHHELD, /* a virtual IP applies, and the session has none of this family */
	WILDCARD_FAILED,   /* for want of descriptors or memory nobody knows */
};

struct wildcard {
	enum wildcard_kind kind;
	int error; /* of WILDCARD_FAILED: EMFILE, say */
	union {
		struct in_addr v4;
		struct in6_addr v6;
	} address;
};

/* Asks the kernel: five system calls for AF_INET, six for AF_INET6, and five more where that is ::1. */
struct wildcard wildcard_of(int family);

#endif
