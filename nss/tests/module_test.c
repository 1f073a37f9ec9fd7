/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tests nss/ on a simulated host: the linker's --wrap (scripts/test-nss has the list) redirects the
 * functions of libc that the module calls, and `world` has their results. Every session, host and
 * shortage can be tested in this way.
 *
 * The module's own code is unchanged. The exit code is 0 if every check held.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <nss.h>
#include <pthread.h>
#include <resolv.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

NSS_DECLARE_MODULE_FUNCTIONS(vip)

/* ---- the world ---- */

static struct {
	const char *node, *hosts, *domain; /* NULL: there is no file, or no domain */
	const char *v4, *v6;		   /* what a bind to the wildcard gives */
	int socket_error, bind_error4, bind_error6;
	time_t second;
} world;

static atomic_uint unames, opens, sockets, closes, names;

int __real_close(int fd);
int __real_socket(int family, int type, int protocol);

int __wrap_uname(struct utsname *name)
{
	unames++;
	memset(name, 0, sizeof(*name));
	strncpy(name->nodename, world.node, sizeof(name->nodename) - 1);
	return 0;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	(void)clock;
	now->tv_sec = world.second;
	now->tv_nsec = 0;
	return 0;
}

int __wrap_open(const char *path, int flags, ...)
{
	int fd;

	opens++;
	if (strcmp(path, "/etc/hosts") || !(flags & O_CLOEXEC))
		abort();
	if (!world.hosts) {
		errno = ENOENT;
		return -1;
	}
	fd = memfd_create("hosts", MFD_CLOEXEC);
	if (fd < 0 || write(fd, world.hosts, strlen(world.hosts)) < 0 || lseek(fd, 0, SEEK_SET))
		abort();
	return fd;
}

int __wrap_socket(int family, int type, int protocol)
{
	sockets++;
	if (!(type & SOCK_CLOEXEC))
		abort();
	if (world.socket_error) {
		errno = world.socket_error;
		return -1;
	}
	return __real_socket(family, type, protocol);
}

int __wrap_close(int fd)
{
	int result = __real_close(fd);

	closes++;
	errno = EIO; /* whatever the errno is, it must not reach the caller */
	return result;
}

int __wrap_bind(int fd, const struct sockaddr *address, socklen_t length)
{
	int error = address->sa_family == AF_INET ? world.bind_error4 : world.bind_error6;
	int value = 0;
	socklen_t size = sizeof(value);

	if (getsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &value, &size) || !value)
		abort();
	if (address->sa_family == AF_INET6 &&
	    (getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, &size) || !value))
		abort();
	if (length != (address->sa_family == AF_INET ? sizeof(struct sockaddr_in) :
						       sizeof(struct sockaddr_in6)))
		abort();
	errno = error;
	return error ? -1 : 0;
}

int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
	(void)fd;
	(void)length;
	names++;
	if (address->sa_family == AF_INET)
		inet_pton(AF_INET, world.v4, &((struct sockaddr_in *)address)->sin_addr);
	else
		inet_pton(AF_INET6, world.v6, &((struct sockaddr_in6 *)address)->sin6_addr);
	return 0;
}

struct __res_state *__wrap___res_state(void)
{
	static _Thread_local struct __res_state state;

	state.options = world.domain ? RES_INIT : 0;
	state.dnsrch[0] = (char *)(uintptr_t)world.domain;
	return &state;
}

/* A host with the name vm.example.com, and a session on it with a virtual IP of each family. */
static void make_world(void)
{
	static time_t second = 100;

	memset(&world, 0, sizeof(world));
	world.node = "vm";
	world.hosts = "127.0.0.1 localhost\n192.0.2.1\tvm.example.com vm www\n";
	world.v4 = "10.20.0.17";
	world.v6 = "2001:db8:20::17";
	world.second = second += 10; /* so that nothing is cached from the previous one */
}

static void out_of_session(void)
{
	world.v4 = "0.0.0.0";
	world.v6 = "::";
}

/* ---- checks ---- */

static atomic_int failures;

static void fail(int line, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fprintf(stderr, "%s:%d: ", __FILE__, line);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	failures++;
}

#define CHECK(what, ...)                             \
	do {                                         \
		if (!(what))                         \
			fail(__LINE__, __VA_ARGS__); \
	} while (0)

static unsigned int open_descriptors(void)
{
	unsigned int count = 0;
	DIR *directory = opendir("/proc/self/fd");

	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

/* ---- one look-up ---- */

enum { MINE = 4711 }; /* an errno of the caller's own */

struct result {
	enum nss_status status;
	int error, h_error;
	char text[1024]; /* CANONICAL[,ALIAS] ADDRESS… */
};

static void add_address(struct result *result, int family, const void *address)
{
	size_t length = strlen(result->text);

	result->text[length++] = ' ';
	inet_ntop(family, address, result->text + length,
		  (socklen_t)(sizeof(result->text) - length));
}

static void describe(struct result *result, const struct hostent *host)
{
	snprintf(result->text, sizeof(result->text), "%s%s%s", host->h_name,
		 host->h_aliases[0] ? "," : "", host->h_aliases[0] ? host->h_aliases[0] : "");
	for (char **address = host->h_addr_list; *address; address++)
		add_address(result, host->h_addrtype, *address);
}

static void describe_tuples(struct result *result, const struct gaih_addrtuple *tuple)
{
	snprintf(result->text, sizeof(result->text), "%s", tuple->name);
	for (; tuple; tuple = tuple->next)
		add_address(result, tuple->family, tuple->addr);
}

static struct result by_name_into(const char *name, int family, char *buffer, size_t size)
{
	struct result result = { .error = MINE, .h_error = MINE };
	struct hostent host;

	errno = MINE;
	if (family == AF_UNSPEC) {
		struct gaih_addrtuple *list = NULL;

		result.status = _nss_vip_gethostbyname4_r(name, &list, buffer, size, &result.error,
							  &result.h_error, NULL);
		if (result.status == NSS_STATUS_SUCCESS)
			describe_tuples(&result, list);
	} else {
		result.status = _nss_vip_gethostbyname2_r(name, family, &host, buffer, size,
							  &result.error, &result.h_error);
		if (result.status == NSS_STATUS_SUCCESS)
			describe(&result, &host);
	}
	CHECK(errno == MINE, "%s: errno became %d", name, errno);
	return result;
}

static struct result by_name(const char *name, int family)
{
	char buffer[2048];

	return by_name_into(name, family, buffer, sizeof(buffer));
}

static struct result by_address_into(const char *text, char *buffer, size_t size)
{
	int family = strchr(text, ':') ? AF_INET6 : AF_INET;
	struct result result = { .error = MINE, .h_error = MINE };
	char address[17] = {};
	struct hostent host;

	/* At an odd address: a caller's buffer need not be aligned. */
	inet_pton(family, text, address + 1);
	errno = MINE;
	result.status =
		_nss_vip_gethostbyaddr_r(address + 1, family == AF_INET ? 4 : 16, family, &host,
					 buffer, size, &result.error, &result.h_error);
	if (result.status == NSS_STATUS_SUCCESS)
		describe(&result, &host);
	CHECK(errno == MINE, "%s: errno became %d", text, errno);
	return result;
}

static struct result by_address(const char *text)
{
	char buffer[2048];

	return by_address_into(text, buffer, sizeof(buffer));
}

/* `text` NULL: it is not the host's name. */
static void expect(int line, struct result result, const char *text)
{
	bool held;

	if (text)
		held = result.status == NSS_STATUS_SUCCESS && !strcmp(result.text, text) &&
		       result.error == MINE && result.h_error == NETDB_SUCCESS;
	else
		held = result.status == NSS_STATUS_NOTFOUND && result.error == MINE &&
		       result.h_error == HOST_NOT_FOUND;
	if (!held)
		fail(line, "status %d, error %d, h_errno %d, '%s', not '%s'", result.status,
		     result.error, result.h_error, result.text, text ? text : "NOTFOUND");
}

static void expect_again(int line, struct result result, int error, int h_error)
{
	if (result.status != NSS_STATUS_TRYAGAIN || result.error != error ||
	    result.h_error != h_error)
		fail(line, "status %d, error %d, h_errno %d, '%s', not TRYAGAIN %d %d",
		     result.status, result.error, result.h_error, result.text, error, h_error);
}

#define EXPECT(result, text) expect(__LINE__, result, text)
#define EXPECT_AGAIN(result, error, h_error) expect_again(__LINE__, result, error, h_error)

/* ---- names ---- */

static void test_names(void)
{
	static const struct {
		int line;
		const char *node, *hosts, *domain, *asked, *answer;
	} rows[] = {
#define ROW __LINE__
		/* The short and the full name, in any case, with a dot at the end. */
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, "vm", "vm.example.com,vm" },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, "VM", "vm.example.com,vm" },
		{ ROW, "Vm", "192.0.2.1 vm.example.com vm", NULL, "vM.", "vm.example.com,Vm" },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, "vm.example.com",
		  "vm.example.com,vm" },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, "VM.Example.COM.",
		  "vm.example.com,vm" },
		{ ROW, "vm", "192.0.2.1 vm vm.example.com", NULL, "vm.example.com",
		  "vm.example.com,vm" },
		/* Names of other hosts. */
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, "vm..", NULL },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, "", NULL },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, ".", NULL },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, ".vm", NULL },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, "vmx", NULL },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, "v", NULL },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, "vm.example.org", NULL },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, "vm.example.com.org", NULL },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", NULL, "www.vm.example.com", NULL },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm www", NULL, "www", NULL },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm", "corp.example", "vm.corp.example",
		  NULL },
		/* Another machine with the same first label. */
		{ ROW, "vm", "192.0.2.9 vm.other.example\n", NULL, "vm.other.example", NULL },
		{ ROW, "vm", "192.0.2.9 vm.other.example\n192.0.2.1 vm", NULL, "vm.other.example",
		  NULL },
		/* Forms of a hosts file. */
		{ ROW, "vm", "# 192.0.2.1 vm.example.com vm\n", NULL, "vm.example.com", NULL },
		{ ROW, "vm", "192.0.2.1 vm.example.com # vm\n", NULL, "vm.example.com", NULL },
		{ ROW, "vm", "192.0.2.1 vm.example.com vm#\n", NULL, "vm", "vm.example.com,vm" },
		{ ROW, "vm", "192.0.2.1\t vm.example.com.  vm \r\n", NULL, "vm",
		  "vm.example.com,vm" },
		{ ROW, "vm", "127.0.1.1 vm\n192.0.2.1 vm.example.com vm\n", NULL, "vm",
		  "vm.example.com,vm" },
		{ ROW, "vm", "127.0.0.1 localhost vm\n", NULL, "vm", "vm" },
		{ ROW, "vm", "127.0.0.1 vm.localhost vm\n", NULL, "vm", "vm" },
		{ ROW, "vm", "127.0.0.1 vm.localhost vm\n", NULL, "vm.localhost", NULL },
		{ ROW, "vm", "vm vm.example.com\n", NULL, "vm.example.com", NULL },
		{ ROW, "vm", "", NULL, "vm", "vm" },
		{ ROW, "vm", "\n\n", NULL, "vm", "vm" },
		{ ROW, "vm", NULL, NULL, "vm", "vm" },
		{ ROW, "vm", NULL, NULL, "vm.example.com", NULL },
		/* The resolver's domain. */
		{ ROW, "vm", NULL, "corp.example", "vm", "vm.corp.example,vm" },
		{ ROW, "vm", NULL, "corp.example", "vm.corp.example", "vm.corp.example,vm" },
		{ ROW, "vm", "127.0.1.1 vm", "corp.example.", "vm.corp.example", "vm" },
		{ ROW, "vm", NULL, ".corp.example", "vm.corp.example", "vm.corp.example,vm" },
		{ ROW, "vm", NULL, "", "vm", "vm" },
		{ ROW, "vm", NULL, ".", "vm", "vm" },
		{ ROW, "vm", NULL, "localhost", "vm.localhost", NULL },
		/* A node name that is fully qualified. */
		{ ROW, "vm.a.org", "192.0.2.1 vm.example.com vm.a.org", "b.org", "vm",
		  "vm.a.org,vm" },
		{ ROW, "vm.a.org", "192.0.2.1 vm.example.com vm.a.org", "b.org", "vm.a.org",
		  "vm.a.org,vm" },
		{ ROW, "vm.a.org", "192.0.2.1 vm.example.com vm.a.org", "b.org", "vm.example.com",
		  NULL },
		{ ROW, "vm.a.org", NULL, "b.org", "vm.b.org", NULL },
		{ ROW, "vm.a.org.", NULL, NULL, "vm.a.org", "vm.a.org,vm" },
		/* localhost is never answered. */
		{ ROW, "vm", NULL, NULL, "localhost", NULL },
		{ ROW, "localhost", NULL, NULL, "localhost", NULL },
		{ ROW, "LocalHost", NULL, "example.com", "LOCALHOST.", NULL },
		{ ROW, "localhost.localdomain", NULL, NULL, "localhost.localdomain", NULL },
		{ ROW, "localhost.localdomain", NULL, NULL, "localhost", NULL },
		{ ROW, "vm.localhost", NULL, NULL, "vm", NULL },
		/* An empty name. */
		{ ROW, "", NULL, NULL, "", NULL },
		{ ROW, ".", NULL, NULL, ".", NULL },
		{ ROW, "(none)", NULL, NULL, "vm", NULL },
#undef ROW
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char whole[512];

		make_world();
		world.node = rows[i].node;
		world.hosts = rows[i].hosts;
		world.domain = rows[i].domain;
		if (rows[i].answer)
			snprintf(whole, sizeof(whole), "%s 10.20.0.17", rows[i].answer);
		expect(rows[i].line, by_name(rows[i].asked, AF_INET),
		       rows[i].answer ? whole : NULL);
	}
}

/* A line of any length, words that are no names, and a name at the end of each buffer of the reader. */
static void test_long_hosts(void)
{
	for (size_t length = 0; length < 9000; length += length < 4000 ? 997 : 1) {
		static char hosts[16384];

		make_world();
		memset(hosts, 'x', length);
		for (size_t i = 300; i < length; i += 301)
			hosts[i] = ' ';
		strcpy(hosts + length, " vm.example.com vm\n");
		if (!length)
			hosts[0] = '1';
		world.hosts = hosts;
		if (length) /* otherwise no address precedes them */
			EXPECT(by_name("vm.example.com", AF_INET), "vm.example.com,vm 10.20.0.17");
		if (length > 4200)
			break;
	}
}

/* xorshift, with the same numbers on every run. */
static uint64_t next_random(void)
{
	static uint64_t state = 88172645463325252u;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void test_random_hosts(void)
{
	static const char *const words[] = {
		"vm",  "vm.example.com", ".",	     "\n", "#", " ", "\t", "\r",
		"vm.", "192.0.2.1",	 "localhost"
	};

	for (int round = 0; round < 3000; round++) {
		char hosts[512] = "";

		make_world();
		while (strlen(hosts) < 400) {
			uint64_t random = next_random();

			strcat(hosts, words[random % (sizeof(words) / sizeof(words[0]))]);
			if (random >> 60 == 0)
				strcat(hosts, (char[]){ (char)(random >> 32 | 1), 0 });
			if (random >> 58 == 1)
				break;
		}
		world.hosts = hosts;
		CHECK(by_name("vm", AF_UNSPEC).status == NSS_STATUS_SUCCESS, "'%s'", hosts);
	}
}

/* ---- families ---- */

static void test_families(void)
{
	make_world();
	EXPECT(by_name("vm", AF_INET), "vm.example.com,vm 10.20.0.17");
	EXPECT(by_name("vm", AF_INET6), "vm.example.com,vm 2001:db8:20::17");
	EXPECT(by_name("vm", AF_UNSPEC), "vm.example.com 10.20.0.17 2001:db8:20::17");

	/* No virtual IP applies. */
	make_world();
	out_of_session();
	EXPECT(by_name("vm", AF_INET), NULL);
	EXPECT(by_name("vm", AF_INET6), NULL);
	EXPECT(by_name("vm", AF_UNSPEC), NULL);

	/* IPv4 alone: the IPv6 wildcard is on LO6. */
	make_world();
	world.v6 = "::1";
	EXPECT(by_name("vm", AF_INET), "vm.example.com,vm 10.20.0.17");
	EXPECT(by_name("vm", AF_UNSPEC), "vm.example.com 10.20.0.17");
	EXPECT_AGAIN(by_name("vm", AF_INET6), EAGAIN, NO_DATA);

	/* The same without an LO6. */
	make_world();
	world.bind_error6 = EADDRNOTAVAIL;
	EXPECT(by_name("vm", AF_UNSPEC), "vm.example.com 10.20.0.17");
	EXPECT_AGAIN(by_name("vm", AF_INET6), EAGAIN, NO_DATA);

	/* IPv6 alone, under deny, then under useHostAddress. */
	make_world();
	world.bind_error4 = EADDRNOTAVAIL;
	EXPECT(by_name("vm", AF_UNSPEC), "vm.example.com 2001:db8:20::17");
	EXPECT_AGAIN(by_name("vm", AF_INET), EAGAIN, NO_DATA);
	make_world();
	world.v4 = "0.0.0.0";
	EXPECT(by_name("vm", AF_UNSPEC), "vm.example.com 2001:db8:20::17");
	EXPECT(by_name("vm", AF_INET), NULL);

	/* None at all, under deny. */
	make_world();
	world.bind_error4 = world.bind_error6 = EADDRNOTAVAIL;
	EXPECT_AGAIN(by_name("vm", AF_UNSPEC), EAGAIN, NO_DATA);
	EXPECT_AGAIN(by_name("vm", AF_INET), EAGAIN, NO_DATA);
	EXPECT_AGAIN(by_name("vm", AF_INET6), EAGAIN, NO_DATA);
	EXPECT(by_name("www", AF_INET), NULL);
	EXPECT(by_address("192.0.2.1"), NULL);

	/* A program that prefers the loopback gets it. */
	make_world();
	world.v4 = "127.0.0.1";
	world.v6 = "::1";
	EXPECT(by_name("vm", AF_INET), "vm.example.com,vm 127.0.0.1");
	EXPECT(by_name("vm", AF_INET6), "vm.example.com,vm ::1");
	EXPECT(by_name("vm", AF_UNSPEC), "vm.example.com 127.0.0.1 ::1");

	/* A program that may not open sockets. */
	for (int i = 0; i < 3; i++) {
		make_world();
		world.socket_error = (int[]){ EAFNOSUPPORT, EPERM, EACCES }[i];
		EXPECT(by_name("vm", AF_UNSPEC), NULL);
		EXPECT(by_name("vm", AF_INET6), NULL);
	}

	/* A program without descriptors or memory does not get the host's address. */
	for (int i = 0; i < 4; i++) {
		make_world();
		world.socket_error = (int[]){ EMFILE, ENFILE, ENOMEM, ENOBUFS }[i];
		EXPECT_AGAIN(by_name("vm", AF_UNSPEC), world.socket_error, TRY_AGAIN);
		EXPECT_AGAIN(by_name("vm", AF_INET), world.socket_error, TRY_AGAIN);
		EXPECT_AGAIN(by_name("vm", AF_INET6), world.socket_error, TRY_AGAIN);
		EXPECT(by_name("www", AF_UNSPEC), NULL);
	}
}

/* What only the longer forms return. */
static void test_forms(void)
{
	struct gaih_addrtuple own = { .scopeid = 7 }, *list = &own;
	int32_t ttl = MINE;
	struct hostent host;
	char buffer[512];
	char *canonical = NULL;
	int error = MINE, h_error;

	make_world();
	CHECK(_nss_vip_gethostbyname4_r("vm", &list, buffer, sizeof(buffer), &error, &h_error,
					&ttl) == NSS_STATUS_SUCCESS,
	      "gethostbyname4_r");
	CHECK(list == &own && own.family == AF_INET && !own.scopeid && own.next &&
		      own.next->family == AF_INET6 && !own.next->next &&
		      !strcmp(own.name, "vm.example.com"),
	      "a tuple of the caller's is not filled");
	CHECK(!ttl, "a time to live of %d", ttl);
	ttl = MINE;
	CHECK(_nss_vip_gethostbyname3_r("vm", AF_UNSPEC, &host, buffer, sizeof(buffer), &error,
					&h_error, &ttl, &canonical) == NSS_STATUS_SUCCESS,
	      "gethostbyname3_r");
	CHECK(!ttl && canonical && !strcmp(canonical, "vm.example.com") &&
		      host.h_addrtype == AF_INET,
	      "gethostbyname3_r's");
	CHECK(_nss_vip_gethostbyname_r("vm", &host, buffer, sizeof(buffer), &error, &h_error) ==
			      NSS_STATUS_SUCCESS &&
		      host.h_addrtype == AF_INET && host.h_length == 4,
	      "gethostbyname_r");
	ttl = MINE;
	CHECK(_nss_vip_gethostbyaddr2_r((unsigned char[]){ 10, 20, 0, 17 }, 4, AF_INET, &host,
					buffer, sizeof(buffer), &error, &h_error,
					&ttl) == NSS_STATUS_SUCCESS &&
		      !ttl,
	      "gethostbyaddr2_r");
	CHECK(error == MINE, "an error of %d", error);
	/* Bad input. */
	CHECK(_nss_vip_gethostbyname2_r("vm", AF_UNIX, &host, buffer, sizeof(buffer), &error,
					&h_error) == NSS_STATUS_UNAVAIL &&
		      error == EAFNOSUPPORT,
	      "AF_UNIX");
	for (socklen_t length = 0; length < 20; length++)
		for (int family = 0; family < 12; family++)
			if (!(family == AF_INET && length == 4) &&
			    !(family == AF_INET6 && length == 16))
				CHECK(_nss_vip_gethostbyaddr_r("01234567890123456789", length,
							       family, &host, buffer,
							       sizeof(buffer), &error,
							       &h_error) == NSS_STATUS_UNAVAIL,
				      "family %d, %u bytes", family, length);
}

static void test_addresses(void)
{
	static const char *const others[] = {
		"192.0.2.1",	    "10.20.0.18", "0.0.0.0", "127.0.0.1",	"127.0.0.8",
		"224.0.0.1",	    "::",	  "::1",     "2001:db8:20::18", "fe80::1",
		"::ffff:10.20.0.17"
	};
	static const char *const nobodys[] = { "0.0.0.0", "127.0.0.1", "127.0.0.8", "239.0.0.1",
					       "::",	  "::1",       "ff02::1",   "fe80::1" };

	make_world();
	EXPECT(by_address("10.20.0.17"), "vm.example.com,vm 10.20.0.17");
	EXPECT(by_address("2001:db8:20::17"), "vm.example.com,vm 2001:db8:20::17");
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		EXPECT(by_address(others[i]), NULL);

	make_world();
	out_of_session();
	EXPECT(by_address("10.20.0.17"), NULL);
	EXPECT(by_address("0.0.0.0"), NULL);
	EXPECT(by_address("::"), NULL);

	/* The name of the loopback is localhost, also for programs that prefer the loopback. */
	make_world();
	world.v4 = "127.0.0.1";
	world.v6 = "::1";
	EXPECT(by_address("127.0.0.1"), NULL);
	EXPECT(by_address("::1"), NULL);

	make_world();
	world.node = "localhost";
	EXPECT(by_address("10.20.0.17"), NULL);

	/* For these addresses the kernel is not asked. */
	make_world();
	sockets = 0;
	for (size_t i = 0; i < sizeof(nobodys) / sizeof(nobodys[0]); i++)
		EXPECT(by_address(nobodys[i]), NULL);
	CHECK(!sockets, "%u sockets for addresses that are nobody's", sockets);
}

/* ---- buffers ---- */

static char page[4096] __attribute__((aligned(16)));

static bool is_inside(const void *pointer, size_t length, const char *buffer, size_t size)
{
	const char *start = pointer;

	return start >= buffer && start + length <= buffer + size;
}

/* Each size at each alignment: the right answer, or ERANGE and no byte beyond the buffer. */
static void sweep(const char *what, struct result (*look_up)(char *buffer, size_t size),
		  const char *answer)
{
	for (size_t offset = 0; offset < 16; offset++) {
		bool fitted = false;

		for (size_t size = 0; size < 400; size++) {
			char *buffer = page + 64 + offset;
			struct result result;

			memset(page, 0x5a, sizeof(page));
			result = look_up(buffer, size);
			if (result.status == NSS_STATUS_SUCCESS) {
				EXPECT(result, answer);
				fitted = true;
			} else {
				EXPECT_AGAIN(result, ERANGE, NETDB_INTERNAL);
				CHECK(!fitted, "%s fits into less than %zu bytes", what, size);
			}
			for (size_t i = 0; i < sizeof(page); i++)
				if (!is_inside(page + i, 1, buffer, size) && page[i] != 0x5a) {
					fail(__LINE__, "%s wrote at %zd of %zu bytes", what,
					     page + i - buffer, size);
					return;
				}
		}
		CHECK(fitted, "%s fits into nothing", what);
	}
}

static struct result sweep4(char *buffer, size_t size)
{
	return by_name_into("vm", AF_UNSPEC, buffer, size);
}

static struct result sweep_v4(char *buffer, size_t size)
{
	return by_name_into("vm", AF_INET, buffer, size);
}

static struct result sweep_v6(char *buffer, size_t size)
{
	return by_name_into("vm", AF_INET6, buffer, size);
}

static struct result sweep_address(char *buffer, size_t size)
{
	return by_address_into("10.20.0.17", buffer, size);
}

static void test_buffers(void)
{
	struct result result;

	make_world();
	sweep("gethostbyname4_r", sweep4, "vm.example.com 10.20.0.17 2001:db8:20::17");
	sweep("gethostbyname2_r AF_INET", sweep_v4, "vm.example.com,vm 10.20.0.17");
	sweep("gethostbyname2_r AF_INET6", sweep_v6, "vm.example.com,vm 2001:db8:20::17");
	sweep("gethostbyaddr_r", sweep_address, "vm.example.com,vm 10.20.0.17");

	result = by_name_into("vm", AF_UNSPEC, NULL, 0);
	EXPECT_AGAIN(result, ERANGE, NETDB_INTERNAL);
	/* Nothing is written, so no room is needed. */
	EXPECT(by_name_into("www", AF_UNSPEC, NULL, 0), NULL);
	/* A size of the whole address space. */
	EXPECT(by_name_into("vm", AF_INET, page, SIZE_MAX), "vm.example.com,vm 10.20.0.17");
}

/* ---- system calls, and what stays behind ---- */

static void test_calls(void)
{
	static char name[64];

	/* Another host's name: one uname(2) in that second, and nothing more. */
	make_world();
	unames = opens = sockets = closes = names = 0;
	for (int i = 0; i < 10000; i++) {
		snprintf(name, sizeof(name), "host%d.example.com", i);
		EXPECT(by_name(name, AF_UNSPEC), NULL);
		EXPECT(by_name("localhost", AF_INET), NULL);
	}
	CHECK(unames == 1, "%u unames", unames);
	CHECK(!opens && !sockets && !closes && !names, "%u %u %u %u", opens, sockets, closes,
	      names);

	/* The host's own name. */
	make_world();
	by_name("elsewhere", AF_INET);
	unames = opens = sockets = closes = names = 0;
	EXPECT(by_name("vm", AF_UNSPEC), "vm.example.com 10.20.0.17 2001:db8:20::17");
	CHECK(unames == 1 && opens == 1 && sockets == 2 && closes == 3 && names == 2,
	      "%u %u %u %u %u", unames, opens, sockets, closes, names);

	/*
	 * A host that gets another name: it is noticed in the next second, and nothing of the old name
	 * remains.
	 */
	make_world();
	EXPECT(by_name("vm", AF_INET), "vm.example.com,vm 10.20.0.17");
	world.node = "crm";
	world.second++;
	EXPECT(by_name("vm", AF_INET), NULL);
	EXPECT(by_name("crm", AF_INET), "crm 10.20.0.17");
}

static void test_descriptors(void)
{
	unsigned int before = open_descriptors();

	for (int what = 0; what < 6; what++) {
		make_world();
		switch (what) {
		case 1:
			world.bind_error4 = world.bind_error6 = EADDRNOTAVAIL;
			break;
		case 2:
			world.bind_error4 = world.bind_error6 = EPERM;
			break;
		case 3:
			world.v6 = "::1";
			break;
		case 4:
			out_of_session();
			break;
		case 5:
			world.hosts = NULL;
			break;
		}
		for (int i = 0; i < 20; i++) {
			by_name("vm", AF_UNSPEC);
			by_name("vm.example.com", AF_INET6);
			by_address("10.20.0.17");
		}
		CHECK(open_descriptors() == before, "%u descriptors, not %u (%d)",
		      open_descriptors(), before, what);
	}
}

/* ---- threads ---- */

static void *look_up_often(void *argument)
{
	(void)argument;
	for (int i = 0; i < 400; i++) {
		EXPECT(by_name("vm", AF_UNSPEC), "vm.example.com 10.20.0.17 2001:db8:20::17");
		EXPECT(by_name("elsewhere", AF_INET), NULL);
		EXPECT(by_address("10.20.0.17"), "vm.example.com,vm 10.20.0.17");
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[8];

	make_world();
	for (size_t i = 0; i < 8; i++)
		pthread_create(&threads[i], NULL, look_up_often, NULL);
	for (size_t i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
}

static atomic_int came_back;

static void *look_up_cancelled(void *is_asynchronous)
{
	struct result result;

	if (is_asynchronous) {
		/*
		 * The cancel must arrive during the look-up: the thread that waits for this flag sends it.
		 */
		pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
		came_back++;
		for (;;) {
			char buffer[512];
			struct hostent host;
			int error, h_error;

			_nss_vip_gethostbyname_r("vm", &host, buffer, sizeof(buffer), &error,
						 &h_error);
		}
	}
	pthread_cancel(pthread_self());
	result = by_name("vm", AF_UNSPEC);
	EXPECT(result, "vm.example.com 10.20.0.17 2001:db8:20::17");
	came_back++;
	pthread_testcancel();
	fail(__LINE__, "the thread can no longer be cancelled");
	return NULL;
}

__attribute__((unused)) static void test_cancel(void)
{
	unsigned int before = open_descriptors();
	pthread_t thread;
	void *end;

	for (int i = 0; i < 20; i++) {
		make_world();
		came_back = 0;
		pthread_create(&thread, NULL, look_up_cancelled, NULL);
		pthread_join(thread, &end);
		CHECK(end == PTHREAD_CANCELED, "the thread was not cancelled");
		CHECK(came_back == 1, "the look-up was cut short");
	}
#ifndef __SANITIZE_THREAD__ /* it does not support cancellation at any point of the code */
	for (int i = 0; i < 500; i++) {
		struct timespec pause = { .tv_nsec = (long)(next_random() % 100000) };

		make_world();
		came_back = 0;
		pthread_create(&thread, NULL, look_up_cancelled, &came_back);
		while (!came_back)
			sched_yield();
		nanosleep(&pause, NULL); /* any point in the loop will do */
		pthread_cancel(thread);
		pthread_join(thread, &end);
		CHECK(end == PTHREAD_CANCELED, "the thread was not cancelled");
	}
#endif
	CHECK(open_descriptors() == before, "%u descriptors, not %u", open_descriptors(), before);
}

int main(void)
{
	test_names();
	test_long_hosts();
	test_random_hosts();
	test_families();
	test_forms();
	test_addresses();
	test_buffers();
	test_calls();
	test_descriptors();
	test_threads();
#ifndef __SANITIZE_ADDRESS__ /* it mistakes the frames of a cancelled thread for live ones */
	test_cancel();
#endif
	if (failures)
		fprintf(stderr, "%d checks failed\n", failures);
	return failures ? 1 : 0;
}
