/* SPDX-License-Identifier: Apache-2.0 */
/* Prints and reads sequences as scripts. */
#include "differential.h"

static int print_call(char *text, size_t size, const struct call *call)
{
	int length = snprintf(text, size, "%s %c", kinds[call->kind].name, 'a' + call->slot);

#define MORE(...) (length += snprintf(text + length, size - (size_t)length, __VA_ARGS__))
	for (const char *argument = kinds[call->kind].arguments; *argument; argument++) {
		switch (*argument) {
		case 'p':
			MORE(" %s %c", transports[call->transport], call->v6 ? '6' : '4');
			break;
		case 'o':
			MORE(" %s %u", options[call->option].name, call->value);
			break;
		case 'b':
			MORE(" %c", 'a' + call->other);
			break;
		case 'd':
			MORE(" %s", directions[call->value]);
			break;
		case 's':
			MORE(" %s", addresses[call->source]);
			break;
		case 't':
			MORE(" m%u", call->text);
			break;
		case 'a':
			if (call->address == NONE)
				MORE(" -");
			else if (call->address == NAME_OF || call->address == PEER_OF)
				MORE(" %c%c", call->address == NAME_OF ? '@' : '^',
				     'a' + call->other);
			else
				MORE(" %s", addresses[call->address]);
			if (call->port == PORT_OF_OTHER)
				MORE(" %c", call->address == PEER_OF ? '^' : '@');
			else
				MORE(" %d", call->port ? PORT_SHOWN + call->port - 1 : 0);
			break;
		}
	}
	if (call->form)
		MORE(" %s", forms[call->form]);
#undef MORE
	return length;
}

int index_of(const char *word, const char *const *table, int count)
{
	for (int i = 0; word && i < count; i++) {
		if (table[i] && !strcmp(word, table[i]))
			return i;
	}
	return -1;
}

static bool parse_call(char *line, struct call *call)
{
	char *words[12] = {}, *place = NULL;
	int count = 0, at = 2, found;

	memset(call, 0, sizeof(*call));
	for (char *word = strtok_r(line, " \t\n", &place); word && count < 11;
	     word = strtok_r(NULL, " \t\n", &place))
		words[count++] = word;
	for (found = 0; found < KINDS && strcmp(words[0], kinds[found].name); found++)
		;
	if (found == KINDS || count < 2 || words[1][0] < 'a' || words[1][0] >= 'a' + SLOTS)
		return false;
	call->kind = (uint8_t)found;
	call->slot = (uint8_t)(words[1][0] - 'a');
	for (const char *argument = kinds[call->kind].arguments; *argument; argument++) {
		const char *word = words[at++];

		if (!word)
			return false;
		switch (*argument) {
		case 'p':
			if ((found = index_of(word, transports, TRANSPORTS)) < 0)
				return false;
			call->transport = (uint8_t)found;
			call->v6 = words[at] && !strcmp(words[at], "6");
			at++;
			break;
		case 'o':
			for (found = 0; found < OPTIONS && strcmp(word, options[found].name);
			     found++)
				;
			if (found == OPTIONS || !words[at])
				return false;
			call->option = (uint8_t)found;
			call->value = (uint8_t)atoi(words[at++]);
			break;
		case 'b':
			call->other = (uint8_t)((word[0] - 'a') % SLOTS);
			break;
		case 'd':
			if ((found = index_of(word, directions, 3)) < 0)
				return false;
			call->value = (uint8_t)found;
			break;
		case 's':
			if ((found = index_of(word, addresses, ADDRESSES)) < 0)
				return false;
			call->source = (uint8_t)found;
			break;
		case 't':
			call->text = (uint8_t)atoi(word + 1);
			break;
		case 'a':
			if (!strcmp(word, "-")) {
				call->address = NONE;
			} else if (word[0] == '@' || word[0] == '^') {
				call->address = word[0] == '@' ? NAME_OF : PEER_OF;
				call->other = (uint8_t)((word[1] - 'a') % SLOTS);
			} else if ((found = index_of(word, addresses, ADDRESSES)) >= 0) {
				call->address = (uint8_t)found;
			} else {
				return false;
			}
			if (!(word = words[at++]))
				return false;
			if (word[0] == '@' || word[0] == '^')
				call->port = PORT_OF_OTHER;
			else if (atoi(word) >= PORT_SHOWN && atoi(word) <= PORT_SHOWN + 2)
				call->port = (uint8_t)(atoi(word) - PORT_SHOWN + 1);
			else if (strcmp(word, "0"))
				return false;
			break;
		}
	}
	if (words[at] && (found = index_of(words[at], forms, FORMS)) > 0)
		call->form = (uint8_t)found;
	return true;
}

void print_script(const struct sequence *sequence, const struct outcome *outcome, bool all)
{
	char text[128];

	for (uint32_t i = 0; i < sequence->count; i++) {
		print_call(text, sizeof(text), &sequence->calls[i]);
		if ((int)i == outcome->differs)
			printf("  %-44s # outside: %s; session: %s   <--\n", text,
			       outcome->shown[OUTSIDE][i], outcome->shown[SESSION][i]);
		else if (strcmp(outcome->shown[OUTSIDE][i], outcome->shown[SESSION][i]) &&
			 (all || (int)i < outcome->differs))
			printf("  %-44s # outside: %s; session: %s\n", text,
			       outcome->shown[OUTSIDE][i], outcome->shown[SESSION][i]);
		else
			printf("  %-44s # %s\n", text, outcome->shown[OUTSIDE][i]);
	}
	fflush(stdout);
}

int replay(const char *path)
{
	static struct outcome outcome;
	struct sequence sequence = {};
	FILE *file = strcmp(path, "-") ? fopen(path, "r") : stdin;
	char line[256];

	if (!file)
		fail("%s: %s", path, strerror(errno));
	for (int number = 1; fgets(line, sizeof(line), file); number++) {
		char *comment = strchr(line, '#');

		if (comment)
			*comment = 0;
		if (strspn(line, " \t\n") == strlen(line))
			continue;
		if (sequence.count == CALLS_MAX ||
		    !parse_call(line, &sequence.calls[sequence.count++]))
			fail("%s:%d: no such call, or more than %d", path, number, CALLS_MAX);
	}
	if (file != stdin)
		fclose(file);
	differs(&sequence, false, &outcome);
	differs(&sequence, true, &outcome);
	print_script(&sequence, &outcome, true);
	if (outcome.excuse >= 0)
		printf("%s: %s\n", known[outcome.excuse].is_open ? "an open defect" : "a limit",
		       known[outcome.excuse].why);
	else if (outcome.differs < 0)
		puts("no difference");
	return outcome.differs >= 0;
}
