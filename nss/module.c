/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libnss_vip.so.2, the source `vip` of the hosts line in nsswitch.conf(5): in a session, the host's own
 * name is the session's virtual IP, and nothing else of this host.
 *
 *   SUCCESS   the host's name, and this program's wildcard is the session's address: that one. For a
 *             program that prefers the loopback it is 127.0.0.1 and ::1.
 *   NOTFOUND  any other name; or no virtual IP applies. The next source is asked.
 *   TRYAGAIN  the host's name, and a virtual IP applies, but the session has none (of that family).
 *             With [TRYAGAIN=return] behind `vip`, which `vip-bpfctl names enable` writes, no other source
 *             is asked, so that the program is not told the host's address instead.
 *
 * A name service module is a guest in every process of the host: no locks, no memory of its own, no
 * descriptor that stays open, no thread that is cancelled in here, errno as it was.
 */
#include <errno.h>
#include <netdb.h>
#include <nss.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "host.h"
#include "wildcard.h"

/* The functions that libc calls are the only exported symbols: see module.map. */
#define EXPORT __attribute__((visibility("default")))

/* glibc's own types, so that a wrong signature does not compile. */
EXPORT nss_gethostbyname_r _nss_vip_gethostbyname_r;
EXPORT nss_gethostbyname2_r _nss_vip_gethostbyname2_r;
EXPORT nss_gethostbyname3_r _nss_vip_gethostbyname3_r;
EXPORT nss_gethostbyname4_r _nss_vip_gethostbyname4_r;
EXPORT nss_gethostbyaddr_r _nss_vip_gethostbyaddr_r;
EXPORT nss_gethostbyaddr2_r _nss_vip_gethostbyaddr2_r;

/* ---- the caller's state, which is kept ---- */

struct guest {
	int error;
	int cancel_state, cancel_type;
};

static struct guest enter(void)
{
	struct guest guest;

	/*
	 * Disable cancellation first: open, read and close are cancellation points, and a cancelled call
	 * would leave a descriptor open.
	 */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &guest.cancel_state);
	/* That alone is not enough: glibc, on an asynchronous cancel, looks only at the type. */
	pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &guest.cancel_type);
	guest.error = errno;
	return guest;
}

/*
 * What is returned to the caller: a status, and for some of them an errno and a name service error.
 */
struct outcome {
	enum nss_status status;
	int error; /* 0: errno does not change */
	int h_error;
};

static enum nss_status leave(struct guest guest, struct outcome outcome, int *errnop, int *h_errnop)
{
	errno = guest.error;
	/* Most callers pass the address of errno. */
	if (outcome.error)
		*errnop = outcome.error;
	*h_errnop = outcome.h_error;
	pthread_setcanceltype(guest.cancel_type, NULL);
	pthread_setcancelstate(guest.cancel_state, NULL);
	return outcome.status;
}

static const struct outcome success = { NSS_STATUS_SUCCESS, 0, NETDB_SUCCESS };
static const struct outcome not_found = { NSS_STATUS_NOTFOUND, 0, HOST_NOT_FOUND };
static const struct outcome withheld = { NSS_STATUS_TRYAGAIN, EAGAIN, NO_DATA };
static const struct outcome too_small = { NSS_STATUS_TRYAGAIN, ERANGE, NETDB_INTERNAL };
static const struct outcome bad_family = { NSS_STATUS_UNAVAIL, EAFNOSUPPORT, NO_DATA };

/* ---- answers ---- */

struct answer {
	struct host host;
	struct wildcard v4, v6; /* of the requested families; else WILDCARD_PLAIN */
};

/* `family`: AF_INET, AF_INET6, or AF_UNSPEC for both. */
static struct outcome look_up(const char *name, int family, struct answer *answer)
{
	const struct wildcard *v4 = &answer->v4, *v6 = &answer->v6;

	memset(answer, 0, sizeof(*answer));
	if (!host_may_be(name) || !host_load(&answer->host) || !host_is(&answer->host, name))
		return not_found;
	if (family != AF_INET6)
		answer->v4 = wildcard_of(AF_INET);
	if (family != AF_INET)
		answer->v6 = wildcard_of(AF_INET6);
	if (v4->kind == WILDCARD_ADDRESS || v6->kind == WILDCARD_ADDRESS) {
		host_complete(&answer->host);
		return success;
	}
	if (v4->kind == WILDCARD_WITHHELD || v6->kind == WILDCARD_WITHHELD)
		return withheld;
	if (v4->kind == WILDCARD_FAILED || v6->kind == WILDCARD_FAILED)
		return (struct outcome){ NSS_STATUS_TRYAGAIN, v4->error ? v4->error : v6->error,
					 TRY_AGAIN };
	return not_found;
}

/* ---- the caller's buffer ---- */

struct room {
	char *next;
	size_t left;
};

/* Returns NULL if there is not enough room; every later call then fails as well. */
static void *take(struct room *room, size_t size, size_t alignment)
{
	size_t gap = -(uintptr_t)room->next & (alignment - 1);
	char *taken;

	if (!room->next || room->left < gap || room->left - gap < size) {
		room->left = 0;
		return NULL;
	}
	taken = room->next + gap;
	room->next = taken + size;
	room->left -= gap + size;
	return taken;
}

static char *take_text(struct room *room, const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = take(room, size, 1);

	return copy ? memcpy(copy, text, size) : NULL;
}

/* Fills in one name, its alias if it has one, and one address. */
static struct outcome fill(const struct host *host, int family, const void *address,
			   struct hostent *result, struct room room)
{
	const size_t length = family == AF_INET ? sizeof(struct in_addr) : sizeof(struct in6_addr);
	const char *alias = strcmp(host->canonical, host->label) ? host->label : NULL;
	char **pointers = take(&room, 4 * sizeof(char *), _Alignof(char *));
	char *copy = take(&room, length, _Alignof(struct in6_addr));
	char *name = take_text(&room, host->canonical);
	char *other = alias ? take_text(&room, alias) : NULL;

	if (!pointers || !copy || !name || (alias && !other))
		return too_small;
	memcpy(copy, address, length);
	pointers[0] = copy;
	pointers[1] = NULL;
	pointers[2] = other;
	pointers[3] = NULL;
	result->h_name = name;
	result->h_aliases = pointers + 2;
	result->h_addrtype = family;
	result->h_length = (int)length;
	result->h_addr_list = pointers;
	return success;
}

static struct outcome fill_tuples(const struct answer *answer, struct gaih_addrtuple **list,
				  struct room room)
{
	struct gaih_addrtuple *first = NULL, **next = &first;
	char *name;

	for (int i = 0; i < 2; i++) {
		const struct wildcard *wildcard = i ? &answer->v6 : &answer->v4;
		struct gaih_addrtuple *tuple;

		if (wildcard->kind != WILDCARD_ADDRESS)
			continue;
		tuple = take(&room, sizeof(*tuple), _Alignof(struct gaih_addrtuple));
		if (!tuple)
			return too_small;
		memset(tuple, 0, sizeof(*tuple));
		tuple->family = i ? AF_INET6 : AF_INET;
		memcpy(tuple->addr, &wildcard->address,
		       i ? sizeof(wildcard->address.v6) : sizeof(wildcard->address.v4));
		*next = tuple;
		next = &tuple->next;
	}
	name = take_text(&room, answer->host.canonical);
	if (!name)
		return too_small;
	first->name = name;
	/* The caller may provide the first tuple. */
	if (*list)
		**list = *first;
	else
		*list = first;
	return success;
}

/* ---- names ---- */

enum nss_status _nss_vip_gethostbyname4_r(const char *name, struct gaih_addrtuple **list,
					  char *buffer, size_t size, int *errnop, int *h_errnop,
					  int32_t *ttl)
{
	struct guest guest = enter();
	struct answer answer;
	struct outcome outcome = look_up(name, AF_UNSPEC, &answer);

	if (outcome.status == NSS_STATUS_SUCCESS)
		outcome = fill_tuples(&answer, list, (struct room){ buffer, size });
	if (outcome.status == NSS_STATUS_SUCCESS && ttl)
		*ttl = 0; /* not to be cached: the answer is for this process alone */
	return leave(guest, outcome, errnop, h_errnop);
}

enum nss_status _nss_vip_gethostbyname3_r(const char *name, int family, struct hostent *result,
					  char *buffer, size_t size, int *errnop, int *h_errnop,
					  int32_t *ttl, char **canonical)
{
	struct guest guest = enter();
	struct outcome outcome = bad_family;
	struct answer answer;

	if (family == AF_UNSPEC)
		family = AF_INET;
	if (family == AF_INET || family == AF_INET6)
		outcome = look_up(name, family, &answer);
	if (outcome.status == NSS_STATUS_SUCCESS)
		outcome = fill(&answer.host, family,
			       family == AF_INET ? (void *)&answer.v4.address.v4 :
						   (void *)&answer.v6.address.v6,
			       result, (struct room){ buffer, size });
	if (outcome.status == NSS_STATUS_SUCCESS && ttl)
		*ttl = 0;
	if (outcome.status == NSS_STATUS_SUCCESS && canonical)
		*canonical = result->h_name;
	return leave(guest, outcome, errnop, h_errnop);
}

enum nss_status _nss_vip_gethostbyname2_r(const char *name, int family, struct hostent *result,
					  char *buffer, size_t size, int *errnop, int *h_errnop)
{
	return _nss_vip_gethostbyname3_r(name, family, result, buffer, size, errnop, h_errnop, NULL,
					 NULL);
}

enum nss_status _nss_vip_gethostbyname_r(const char *name, struct hostent *result, char *buffer,
					 size_t size, int *errnop, int *h_errnop)
{
	return _nss_vip_gethostbyname3_r(name, AF_INET, result, buffer, size, errnop, h_errnop,
					 NULL, NULL);
}

/* ---- addresses ---- */

/*
 * Whether an address cannot be a session's, so that the kernel need not be asked. `address` need
 * not be aligned.
 */
static bool is_nobodys(int family, const void *address)
{
	struct in6_addr v6;
	uint32_t v4;

	if (family == AF_INET6) {
		memcpy(&v6, address, sizeof(v6));
		return IN6_IS_ADDR_UNSPECIFIED(&v6) || IN6_IS_ADDR_LOOPBACK(&v6) ||
		       IN6_IS_ADDR_V4MAPPED(&v6) || IN6_IS_ADDR_MULTICAST(&v6) ||
		       IN6_IS_ADDR_LINKLOCAL(&v6);
	}
	memcpy(&v4, address, sizeof(v4));
	v4 = ntohl(v4);
	return v4 == INADDR_ANY || v4 >> IN_CLASSA_NSHIFT == IN_LOOPBACKNET || IN_MULTICAST(v4);
}

static struct outcome look_up_address(int family, const void *address, size_t length,
				      struct host *host)
{
	struct wildcard own;

	if (is_nobodys(family, address))
		return not_found;
	own = wildcard_of(family);
	if (own.kind != WILDCARD_ADDRESS || memcmp(&own.address, address, length) ||
	    !host_load(host))
		return not_found;
	host_complete(host);
	return success;
}

enum nss_status _nss_vip_gethostbyaddr2_r(const void *address, socklen_t length, int family,
					  struct hostent *result, char *buffer, size_t size,
					  int *errnop, int *h_errnop, int32_t *ttl)
{
	struct guest guest = enter();
	struct outcome outcome = bad_family;
	struct host host;

	if ((family == AF_INET && length == sizeof(struct in_addr)) ||
	    (family == AF_INET6 && length == sizeof(struct in6_addr)))
		outcome = look_up_address(family, address, length, &host);
	if (outcome.status == NSS_STATUS_SUCCESS)
		outcome = fill(&host, family, address, result, (struct room){ buffer, size });
	if (outcome.status == NSS_STATUS_SUCCESS && ttl)
		*ttl = 0;
	return leave(guest, outcome, errnop, h_errnop);
}

enum nss_status _nss_vip_gethostbyaddr_r(const void *address, socklen_t length, int family,
					 struct hostent *result, char *buffer, size_t size,
					 int *errnop, int *h_errnop)
{
	return _nss_vip_gethostbyaddr2_r(address, length, family, result, buffer, size, errnop,
					 h_errnop, NULL);
}
