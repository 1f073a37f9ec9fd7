/* SPDX-License-Identifier: Apache-2.0 */
/* Shrinks a sequence with a difference. */
#include "differential.h"

/* The results, without ports and texts, which shrinking changes. */
void sign(const struct sequence *sequence, const struct outcome *outcome,
	  struct signature *signature)
{
	memset(signature, 0, sizeof(*signature));
	signature->kind = sequence->calls[outcome->differs].kind;
	for (int side = 0; side < SIDES; side++) {
		const struct result *result = &outcome->results[side][outcome->differs];
		char *to = signature->shown[side];

		if (result->error)
			snprintf(to, 96, "%s", strerrorname_np(result->error) ?: "?");
		else
			snprintf(to, 96, "%s%s", result->address_length ? "address" : "done",
				 result->data_length ? " data" : "");
	}
}

bool still_differs(const struct sequence *sequence, const struct signature *wanted)
{
	static struct outcome outcome;
	struct signature signature;

	/* Run it twice, because on a busy machine one result may be chance. */
	for (int i = 0; i < 2; i++) {
		if (!sequence->count || !differs(sequence, false, &outcome))
			return false;
		sign(sequence, &outcome, &signature);
		if (memcmp(&signature, wanted, sizeof(signature)))
			return false;
	}
	return true;
}

static bool try_instead(struct sequence *sequence, const struct sequence *candidate,
			const struct signature *wanted)
{
	if (!still_differs(candidate, wanted))
		return false;
	*sequence = *candidate;
	return true;
}

static bool drop_calls(struct sequence *sequence, const struct signature *wanted)
{
	bool changed = false;

	for (uint32_t size = sequence->count / 2; size >= 1; size /= 2) {
		for (uint32_t from = 0; from < sequence->count;) {
			struct sequence candidate = *sequence;
			uint32_t end =
				from + size < candidate.count ? from + size : candidate.count;

			memmove(&candidate.calls[from], &candidate.calls[end],
				(candidate.count - end) * sizeof(struct call));
			candidate.count -= end - from;
			if (try_instead(sequence, &candidate, wanted))
				changed = true;
			else
				from += size;
		}
	}
	return changed;
}

/* Changes all calls at the same time: replaces one port by another, one socket by another. */
static bool simplify_all(struct sequence *sequence, const struct signature *wanted)
{
	bool changed = false;

	for (uint8_t from = 2; from <= 3; from++) {
		for (uint8_t to = 1; to < from; to++) {
			struct sequence candidate = *sequence;

			for (uint32_t i = 0; i < candidate.count; i++) {
				if (candidate.calls[i].port == from)
					candidate.calls[i].port = to;
			}
			if (memcmp(&candidate, sequence, sizeof(candidate)))
				changed |= try_instead(sequence, &candidate, wanted);
		}
	}
	for (uint8_t from = 0; from < SLOTS; from++) {
		for (uint8_t to = 0; to < SLOTS; to++) {
			struct sequence candidate = *sequence;
			uint32_t kept = 0;

			for (uint32_t i = 0; i < candidate.count && from != to; i++) {
				struct call call = candidate.calls[i];

				if (call.kind == DUP && call.other == from)
					continue;
				if (call.slot == from)
					call.slot = to;
				if (call.other == from)
					call.other = to;
				candidate.calls[kept++] = call;
			}
			if (kept && kept < candidate.count) {
				candidate.count = kept;
				changed |= try_instead(sequence, &candidate, wanted);
			}
		}
	}
	return changed;
}

/* Replaces one argument after the other by the simplest value that still shows the difference. */
static bool simplify_calls(struct sequence *sequence, const struct signature *wanted)
{
	bool changed = false, v6[SLOTS] = {};

	for (uint32_t i = 0; i < sequence->count; i++) {
		struct call plain = sequence->calls[i], before;
		uint8_t own;

		if (plain.kind == SOCKET)
			v6[plain.slot] = plain.v6;
		own = plain.address < LOCALHOST6 ||
				      (plain.address >= ADDRESSES && !v6[plain.slot]) ?
			      LOCALHOST4 :
			      LOCALHOST6;
		for (int step = 0; step < 14; step++) {
			struct sequence candidate = *sequence;
			struct call *call = &candidate.calls[i];

			before = *call;
			switch (step) {
			case 0: /* AF_INET is simpler than AF_INET6: change all at the same time */
				for (uint32_t k = 0; k < candidate.count; k++) {
					struct call *c = &candidate.calls[k];

					c->v6 = 0;
					if (c->address >= LOCALHOST6 && c->address < GROUP6)
						c->address = (uint8_t)(c->address - LOCALHOST6);
					if (c->address >= MAPPED_LOCALHOST &&
					    c->address < ADDRESSES)
						c->address =
							(uint8_t)(c->address - MAPPED_LOCALHOST);
				}
				break;
			case 1:
				if (call->kind == SOCKET && call->transport == MPTCP)
					call->transport = TCP;
				break;
			case 2:
				if (call->kind == SENDMSG_PKTINFO && call->address != NONE)
					call->kind = SENDTO;
				break;
			case 3:
				if (call->kind == ACCEPT_NOADDR)
					call->kind = ACCEPT;
				break;
			case 4:
				call->form = WHOLE;
				break;
			case 5:
			case 6:
			case 7:
				if (call->address > own && call->address != NONE &&
				    (call->address < ADDRESSES ? call->address > own + step - 5 :
								 true)) {
					call->address = (uint8_t)(own + step - 5);
					if (call->port == PORT_OF_OTHER)
						call->port = 1;
				}
				break;
			case 8:
				if (call->port > 1 && call->address < ADDRESSES)
					call->port = 1;
				break;
			case 9:
				if (call->port == PORT_ANY &&
				    strchr(kinds[call->kind].arguments, 'a') &&
				    call->address < ADDRESSES)
					call->port = 1;
				break;
			case 10:
				call->text = 0;
				break;
			case 11:
				if (call->source && call->source != LOCALHOST6)
					call->source =
						call->source < LOCALHOST6 ? LOCALHOST4 : LOCALHOST6;
				break;
			case 12:
				if (call->kind == SETSOCKOPT)
					call->value = 1;
				break;
			case 13:
				if (call->kind == SETSOCKOPT && call->option)
					call->option = REUSEADDR;
				break;
			}
			if (step ? !memcmp(call, &before, sizeof(before)) :
				   !memcmp(&candidate, sequence, sizeof(candidate)))
				continue;
			if (try_instead(sequence, &candidate, wanted))
				changed = true;
		}
	}
	return changed;
}

/* Renames the sockets to a, b, c … in the order of their appearance. */
static void rename_sockets(struct sequence *sequence)
{
	uint8_t names[SLOTS], count = 0;

	memset(names, 0xff, sizeof(names));
	for (uint32_t i = 0; i < sequence->count; i++) {
		struct call *call = &sequence->calls[i];
		bool uses_other = strchr(kinds[call->kind].arguments, 'b') ||
				  call->address == NAME_OF || call->address == PEER_OF;

		if (names[call->slot] == 0xff)
			names[call->slot] = count++;
		call->slot = names[call->slot];
		if (!uses_other) {
			call->other = 0;
			continue;
		}
		if (names[call->other] == 0xff)
			names[call->other] = count++;
		call->other = names[call->other];
	}
}

void shrink(struct sequence *sequence, const struct signature *wanted)
{
	for (int round = 0; round < 8; round++) {
		bool changed = drop_calls(sequence, wanted);

		changed |= simplify_calls(sequence, wanted);
		changed |= simplify_all(sequence, wanted);
		if (!changed)
			break;
	}
	rename_sockets(sequence);
}
