/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is known to differ between a session and outside of one, and why. A sequence is compared no further
 * than the first call that such a row explains: what follows may be its consequence.
 */

static const struct {
	bool (*explains)(const struct difference *difference);
	const char *why;
} known[] = {
	{ NULL, "nothing yet" },
};

/* The row that explains the difference; −1: none does. */
static int excuse_of(const struct difference *difference)
{
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (known[i].explains && known[i].explains(difference))
			return (int)i;
	}
	return -1;
}
