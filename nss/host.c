/* SPDX-License-Identifier: Apache-2.0 */
#include "host.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- names ---- */

/* Names are compared as ASCII (RFC 4343); tolower(3) depends on the locale. */
static unsigned char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (unsigned char)(c - 'A' + 'a') : (unsigned char)c;
}

static bool same(const char *a, size_t a_length, const char *b, size_t b_length)
{
	if (a_length != b_length)
		return false;
	for (size_t i = 0; i < a_length; i++)
		if (lower(a[i]) != lower(b[i]))
			return false;
	return true;
}

static bool is(const char *a, size_t length, const char *b)
{
	return same(a, length, b, strlen(b));
}

/* The length without the final dot of an absolute name. */
static size_t length_of(const char *name)
{
	size_t length = strlen(name);

	return length > 1 && name[length - 1] == '.' ? length - 1 : length;
}

static size_t label_length(const char *name)
{
	return strcspn(name, ".");
}

static bool is_localhost(const char *name, size_t length)
{
	static const char suffix[] = ".localhost"; /* all below it, too: RFC 6761 6.3 */
	const size_t tail = sizeof(suffix) - 1;

	return is(name, label_length(name), "localhost") ||
	       (length >= tail && is(name + length - tail, tail, suffix));
}

/* ---- a quick check ---- */

/* FNV-1a. If another name's label has the same hash, the look-up only costs one more uname(2). */
static uint32_t hash_of_label(const char *name)
{
	uint32_t hash = 2166136261u;

	for (; *name && *name != '.'; name++)
		hash = (hash ^ lower(*name)) * 16777619u;
	return hash;
}

bool host_may_be(const char *name)
{
	/*
	 * The second in which the host's label was read, and the label's hash. Both are in one word, so
	 * that threads share it without a lock, which a fork or a cancelled thread might leave locked.
	 */
	static _Atomic uint64_t remembered;
	const uint32_t hash = hash_of_label(name);
	uint64_t last = atomic_load_explicit(&remembered, memory_order_relaxed);
	struct timespec now = {};
	struct utsname host;
	uint64_t second;

	if (is(name, label_length(name), "localhost"))
		return false;
	/* This clock is in the vDSO and takes no system call. */
	if (clock_gettime(CLOCK_MONOTONIC_COARSE, &now))
		return true;
	second = (uint64_t)(uint32_t)(now.tv_sec + 1) << 32; /* never 0: nothing was read yet */
	if ((last & 0xffffffff00000000u) == second)
		return (uint32_t)last == hash;
	if (uname(&host))
		return true;
	last = second | hash_of_label(host.nodename);
	atomic_store_explicit(&remembered, last, memory_order_relaxed);
	return (uint32_t)last == hash;
}

/* ---- the fully qualified name ---- */

struct line {
	struct host *host;
	char word[HOST_NAME_SIZE];
	size_t length;	    /* of the word; at HOST_NAME_SIZE the word is too long for a name */
	unsigned int words; /* before it; the first is the address */
	bool is_comment;    /* whether the rest of the line is a comment */
	bool has_node;	    /* whether one of the words is the node name */
	char full[HOST_NAME_SIZE]; /* a word that is the node name and a domain */
};

static void end_word(struct line *line)
{
	const struct host *host = line->host;
	size_t label = strlen(host->label), length = line->length;

	line->length = 0;
	if (!length)
		return;
	if (!line->words++ || length >= HOST_NAME_SIZE)
		return;
	line->word[length] = '\0';
	length = length_of(line->word);
	line->word[length] = '\0';
	if (is(line->word, length, host->node)) {
		line->has_node = true;
	} else if (!line->full[0] && length > label + 1 && line->word[label] == '.' &&
		   same(line->word, label, host->label, label) &&
		   !is_localhost(line->word, length)) {
		memcpy(line->full, line->word, length + 1);
	}
}

/* Ends a line. Returns whether it gives the host its full name. */
static bool end_line(struct line *line, bool *is_listed)
{
	bool found;

	end_word(line);
	found = line->has_node && line->full[0];
	if (line->has_node)
		*is_listed = true;
	if (found)
		memcpy(line->host->full, line->full, sizeof(line->full));
	line->words = 0;
	line->is_comment = line->has_node = false;
	line->full[0] = '\0';
	return found;
}

/*
 * Reads byte by byte, so a line may be of any length. Returns whether the node name is in the file.
 */
static bool read_hosts(struct host *host)
{
	struct line line = { .host = host };
	bool is_listed = false, found = false;
	char buffer[4096];
	ssize_t count;
	int fd = open(_PATH_HOSTS, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	while (!found && (count = read(fd, buffer, sizeof(buffer))) > 0) {
		for (ssize_t i = 0; i < count && !found; i++) {
			char c = buffer[i];

			if (c == '\n') {
				found = end_line(&line, &is_listed);
			} else if (line.is_comment) {
				continue;
			} else if (c == '#') {
				end_word(&line);
				line.is_comment = true;
			} else if (c == ' ' || (c >= '\t' && c <= '\r')) {
				end_word(&line);
			} else if (line.length < HOST_NAME_SIZE) {
				line.word[line.length++] = c;
			}
		}
	}
	close(fd);
	if (!found)
		end_line(&line, &is_listed);
	return is_listed;
}

/*
 * The local domain is the first search domain of the resolver (resolv.conf(5)). libc has read that
 * file before it calls the module; if it has not, there is no domain.
 */
static void add_domain(struct host *host)
{
	size_t node = strlen(host->node), length;
	const char *domain;

	if (!(_res.options & RES_INIT) || !_res.dnsrch[0])
		return;
	domain = _res.dnsrch[0];
	if (*domain == '.')
		domain++;
	length = length_of(domain);
	if (!length || node + 1 + length >= sizeof(host->full))
		return;
	memcpy(host->full, host->node, node);
	host->full[node] = '.';
	memcpy(host->full + node + 1, domain, length);
	host->full[node + 1 + length] = '\0';
	if (is_localhost(host->full, node + 1 + length))
		host->full[0] = '\0';
}

/* ---- the host ---- */

bool host_load(struct host *host)
{
	struct utsname name;
	size_t length;

	memset(host, 0, sizeof(*host));
	if (uname(&name))
		return false;
	length = length_of(name.nodename);
	memcpy(host->node, name.nodename, length);
	length = label_length(host->node);
	memcpy(host->label, host->node, length);
	return length && !is_localhost(host->node, strlen(host->node));
}

void host_complete(struct host *host)
{
	bool is_listed;

	if (host->is_complete)
		return;
	host->is_complete = true;
	host->canonical = host->node;
	if (strchr(host->node, '.')) {
		memcpy(host->full, host->node, sizeof(host->node));
		return;
	}
	is_listed = read_hosts(host);
	if (host->full[0]) {
		host->canonical = host->full;
		return;
	}
	add_domain(host);
	/*
	 * If the file has the host's short name alone, the host has no full name. Otherwise DNS would give
	 * it one.
	 */
	if (host->full[0] && !is_listed)
		host->canonical = host->full;
}

bool host_is(struct host *host, const char *name)
{
	size_t length = length_of(name), label = label_length(name);

	if (!is(name, label, host->label) || is_localhost(name, length))
		return false;
	if (length == label || is(name, length, host->node))
		return true;
	if (strchr(host->node, '.'))
		return false;
	host_complete(host);
	return is(name, length, host->full);
}
