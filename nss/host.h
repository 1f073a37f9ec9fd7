/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The names of this host: its node name (uname -n), the first label of that, and the fully qualified one.
 *
 *   node name  /etc/hosts                      resolver's domain    fully qualified
 *   vm         192.0.2.1 vm.example.com vm     any                  vm.example.com
 *   vm         127.0.1.1 vm, or nothing        corp.example         vm.corp.example
 *   vm.a.org   any                             any                  vm.a.org
 *
 * They all begin with the same label. By it, nearly every other name is recognised at once.
 */
#ifndef NSS_VIP_HOST_H
#define NSS_VIP_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/utsname.h>

#define HOST_NAME_SIZE 256 /* bytes: a domain name has at most 255 (RFC 1035 2.3.4), and a NUL */

struct host {
	char node[sizeof(((struct utsname *)0)->nodename)];
	char label[sizeof(((struct utsname *)0)->nodename)];
	char full[HOST_NAME_SIZE]; /* empty if none is known */
	bool is_complete;	   /* whether `full` has been looked for */
	const char *canonical;	   /* what `hostname -f` prints; set once it is complete */
};

/*
 * Whether the name begins like this host's names. Never true for localhost. It takes no system
 * call, except for one uname(2) in each second, by which it notices a new name of the host.
 */
bool host_may_be(const char *name);

/* Reads the node name; false if it is not a valid name, or is localhost. */
bool host_load(struct host *host);

/* Finds the fully qualified name. It reads /etc/hosts if the node name is not fully qualified. */
void host_complete(struct host *host);

/* Whether `name`, in any case and with or without a final dot, is one of the host's names. */
bool host_is(struct host *host, const char *name);

#endif
