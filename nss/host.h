/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The names of this host: its node name (uname -n), the first label of that, and the fully qualified one.
 *
 *   node name  /etc/hosts                      resolver's domain    fully qualified
 *   vm         192.0.2.1 vm.example.com vm     any                  vm.example.com
 *   vm         127.0.1.1 vm, or nothing        corp.example         vm.corp.example
 *   vm.a.org   any                             any                  vm.a.org
 *
 * All of them begin with the same label, by which nearly every name that is looked up is known at once
 * to be another's.
 */
#ifndef NSS_VIP_HOST_H
#define NSS_VIP_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/utsname.h>

#define HOST_NAME_SIZE 256 /* of a domain name, 255 bytes (RFC 1035 2.3.4), and its NUL */

struct host {
	char node[sizeof(((struct utsname *)0)->nodename)];
	char label[sizeof(((struct utsname *)0)->nodename)];
	char full[HOST_NAME_SIZE]; /* empty where none is known */
	bool is_complete;	   /* `full` has been looked for */
	const char *canonical;	   /* once it is complete: what `hostname -f` prints */
};

/*
 * Whether the name begins as this host's do. Not localhost, ever. It takes no system call, but for one
 * uname(2) where the last is of another second: how else would a new name of the host be seen?
 */
bool host_may_be(const char *name);

/* Asks for the node name; false where it is no name, or localhost. */
bool host_load(struct host *host);

/* Looks for the fully qualified name: reads /etc/hosts where the node name is not one. */
void host_complete(struct host *host);

/* Whether `name`, in any case and with or without a dot at its end, is one of the host's. */
bool host_is(struct host *host, const char *name);

#endif
