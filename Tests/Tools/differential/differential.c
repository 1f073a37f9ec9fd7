/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vip-differential: tests whether a program in a session sees what it would see outside of one.
 *
 * It makes random sequences of socket calls, runs each of them in a session and in a network namespace
 * with nothing attached, and compares the results of every call: value, errno, address, data. Addresses
 * are renamed first as the contract describes, and ephemeral ports are numbered in the order of their
 * appearance. A sequence that differs is run again, slowly, because a late result is no difference. Then
 * it is shrunk to the fewest and simplest calls that still differ, and printed as a script for --replay,
 * with the commands of vip-probe.
 *
 *   socket a tcp 4                      bind a 127.0.0.1 9001
 *   listen a                            getsockname a
 *
 * An address may also be @a, the result of getsockname for socket a, or ^a, the peer that accept, recvfrom
 * or getpeername last returned for a. A port of @ or ^ is that of the same result. Ports 9001 to 9003 stand
 * for three free ones. ADDRESS PORT may be followed by `short` (a sockaddr that is cut off), `family` (of the
 * wrong family) or `unspec` (AF_UNSPEC).
 *
 * scripts/differential makes the session and the namespace, and passes their names to this program.
 */
#include "differential.h"

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* The shrunk sequences of this run, so that each is reported once. */
static struct {
	struct sequence sequence;
	unsigned int times;
} found[FOUND_MAX];
static unsigned int found_count;

static bool is_new(const struct sequence *sequence)
{
	for (unsigned int i = 0; i < found_count; i++) {
		if (found[i].sequence.count == sequence->count &&
		    !memcmp(found[i].sequence.calls, sequence->calls,
			    sequence->count * sizeof(struct call))) {
			found[i].times++;
			return false;
		}
	}
	if (found_count < FOUND_MAX) {
		found[found_count].sequence = *sequence;
		found[found_count++].times = 1;
	}
	return true;
}

static int run(uint64_t seed, double seconds, unsigned int most)
{
	static struct outcome outcome;
	struct sequence sequence;
	unsigned long sequences = 0, calls = 0, compared = 0, late = 0,
		      *cut = calloc(known_count, sizeof(*cut));
	double end = now() + seconds, begin = now();

	if (!cut)
		fail("calloc: %s", strerror(errno));
	printf("mode %s, seed %llu, %.0f s\n", modes[mode], (unsigned long long)seed, seconds);
	fflush(stdout);
	for (uint64_t number = 0; now() < end && found_count < most; number++) {
		struct signature signature;
		struct sequence whole;

		random_state = seed * 0x9e3779b97f4a7c15 ^ number;
		next_random();
		generate(&sequence);
		sequences++;
		calls += sequence.count;
		if (differs(&sequence, false, &outcome)) {
			sign(&sequence, &outcome, &signature);
			if (!still_differs(&sequence, &signature) ||
			    !differs(&sequence, true, &outcome)) {
				late++;
				continue;
			}
			whole = sequence;
			shrink(&sequence, &signature);
			if (!differs(&sequence, false, &outcome) ||
			    !differs(&sequence, true, &outcome)) {
				/*
				 * The rest differs only in fast runs; the whole sequence differs in slow runs as well.
				 */
				sequence = whole;
				differs(&sequence, false, &outcome);
				if (!differs(&sequence, true, &outcome)) {
					late++;
					continue;
				}
			}
			if (is_new(&sequence)) {
				printf("difference %u, mode %s, seed %llu, sequence %llu, in %u "
				       "calls:\n",
				       found_count, modes[mode], (unsigned long long)seed,
				       (unsigned long long)number, sequence.count);
				print_script(&sequence, &outcome, false);
			}
			continue;
		}
		compared += outcome.compared;
		if (outcome.excuse >= 0)
			cut[outcome.excuse]++;
	}
	for (unsigned int i = 0; i < known_count; i++) {
		if (cut[i])
			printf("%8lu  ended at %s: %s\n", cut[i],
			       known[i].is_open ? "an open defect" : "a limit", known[i].why);
	}
	for (unsigned int i = 0; i < found_count; i++) {
		if (found[i].times > 1)
			printf("difference %u came %u times\n", i + 1, found[i].times);
	}
	printf("mode %s, seed %llu: %lu sequences, %lu calls (%lu compared) in %.1f s; %lu came "
	       "late; %u differences\n",
	       modes[mode], (unsigned long long)seed, sequences, calls, compared, now() - begin,
	       late, found_count);
	free(cut);
	return found_count != 0;
}

static void usage(void)
{
	fputs("usage: vip-differential --mode loopback|virtual|requested --cgroup PROCS --session "
	      "NETNS --outside NETNS\n"
	      "           [--vip4 ADDRESS] [--vip6 ADDRESS] [--families 4|6|46] [--seed N] "
	      "[--seconds N] [--most N]\n"
	      "           [--replay FILE|-]\n",
	      stderr);
	exit(64);
}

int main(int argc, char **argv)
{
	const char *cgroup = NULL, *neighbour = NULL, *netns[SIDES] = {}, *script = NULL;
	struct in_addr address4;
	double seconds = 10;
	unsigned int most = 1;
	uint64_t seed = 0;

	for (int i = 1; i < argc; i += 2) {
		const char *name = argv[i], *value = argv[i + 1];

		if (!value)
			usage();
		if (!strcmp(name, "--mode")) {
			int found_mode = index_of(value, modes, 3);

			if (found_mode < 0)
				usage();
			mode = (enum mode)found_mode;
		} else if (!strcmp(name, "--cgroup")) {
			cgroup = value;
		} else if (!strcmp(name, "--neighbour")) {
			neighbour = value;
		} else if (!strcmp(name, "--session")) {
			netns[SESSION] = value;
		} else if (!strcmp(name, "--outside")) {
			netns[OUTSIDE] = value;
		} else if (!strcmp(name, "--vip4") && inet_pton(AF_INET, value, &address4) == 1) {
			vip4 = mapped(address4);
		} else if (!strcmp(name, "--vip6") && inet_pton(AF_INET6, value, &vip6) == 1) {
			has_vip6 = true;
		} else if (!strcmp(name, "--families")) {
			families[0] = strchr(value, '4');
			families[1] = strchr(value, '6');
		} else if (!strcmp(name, "--seed")) {
			seed = strtoull(value, NULL, 10);
		} else if (!strcmp(name, "--seconds")) {
			seconds = atof(value);
		} else if (!strcmp(name, "--most")) {
			most = (unsigned int)atoi(value);
		} else if (!strcmp(name, "--replay")) {
			script = value;
		} else {
			usage();
		}
	}
	if (!cgroup || !netns[SESSION] || !netns[OUTSIDE])
		usage();
	inet_pton(AF_INET, addresses[HOST4], &address4);
	host4 = mapped(address4);
	inet_pton(AF_INET6, addresses[HOST6], &host6);
	signal(SIGPIPE, SIG_IGN);
	channels[OUTSIDE] = start_side(false, NULL, netns[OUTSIDE]);
	channels[SESSION] = start_side(true, cgroup, netns[SESSION]);
	if (neighbour)
		channels[NEIGHBOUR] = start_side(true, neighbour, netns[SESSION]);
	return script ? replay(script) : run(seed, seconds, most < FOUND_MAX ? most : FOUND_MAX);
}
