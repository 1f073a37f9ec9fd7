/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * libFuzzer over translate.h: any session, policy, program and address; what must hold for all of them.
 * scripts/fuzz builds it with -fsanitize=fuzzer,undefined and runs it for a bounded time.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../bpf/translate.h"

#define REQUIRE(condition)                                                  \
	do {                                                                \
		if (!(condition)) {                                         \
			fprintf(stderr, "does not hold: %s\n", #condition); \
			abort();                                            \
		}                                                           \
	} while (0)

struct input {
	__be32 vip4, address, other;
	__u32 id, flags, listed;
	__u8 owner, excluded, found;
};

static enum vip_answer carry_out(struct vip_plan plan, __u8 found)
{
	if (plan.probes & found & VIP_PROBE_LOCALHOST)
		return VIP_AS_ASKED;
	if (plan.probes & found & (VIP_PROBE_LOOPBACK | VIP_PROBE_OWN_LOOPBACK))
		return VIP_TO_LOOPBACK;
	if (plan.probes & found & VIP_PROBE_OWN_ADDRESS)
		return VIP_TO_ADDRESS;
	return plan.otherwise;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in;
	__u32 features;
	__be32 loopback, granted, source, name;
	enum vip_place place;
	enum vip_answer answer;
	struct vip_plan plan;
	int has_address, is_deny, is_local;

	if (size < sizeof(in))
		return 0;
	memcpy(&in, data, sizeof(in));
	in.id = 1 + in.id % VIP_ID_LAST; /* 0 would be 127.0.0.1 itself, and is nobody's */
	in.excluded &= 1;
	/* Half the time an address that matters. */
	switch (in.found >> 4) {
	case 1:
		in.address = in.vip4;
		break;
	case 2:
		in.address = vip_loopback4(in.id);
		break;
	case 3:
		in.address = VIP_LOCALHOST4;
		break;
	case 4:
		in.address = 0;
		break;
	case 5:
		in.other = in.vip4;
		break;
	case 6:
		in.other = vip_loopback4(in.id);
		break;
	case 7:
		in.other = VIP_LOCALHOST4;
		break;
	}
	if (vip_is_127(in.vip4)) /* refused at session open */
		in.vip4 = 0;
	has_address = in.vip4 != 0;
	loopback = vip_loopback4(in.id);
	REQUIRE(vip_is_127(loopback) && vip_id_of_loopback4(loopback) == in.id);

	features = vip_features(in.flags, in.listed, has_address);
	REQUIRE(!(features & VIP_P) || (features & (VIP_V | VIP_L)) == (VIP_V | VIP_L));
	is_deny = (features & VIP_V) && !has_address;
	REQUIRE(!is_deny || !(in.flags & VIP_POLICY_USE_HOST_ADDRESS));

	place = vip_place_of_owner(vip_place4(in.vip4, in.id, in.address), in.owner % 3);
	REQUIRE(place < VIP_SOME_LOOPBACK);
	is_local = place == VIP_WILDCARD || place == VIP_LOCALHOST;

	/* A V-program holds neither the wildcard nor a host address after bind. */
	answer = vip_bind(place, features, in.flags, has_address, in.excluded);
	granted = vip_address4(answer, in.address, in.vip4, in.id);
	if (answer < VIP_REFUSE_BIND) {
		REQUIRE(granted == in.address || granted == loopback || granted == in.vip4);
		if (features & VIP_V)
			REQUIRE(granted != 0 && (place != VIP_HOST_ADDRESS ||
						 granted != in.address || granted == in.vip4));
		if (in.flags & VIP_POLICY_ISOLATION)
			REQUIRE(place != VIP_OTHER_LOOPBACK && place != VIP_OTHER_ADDRESS);
		/* Binding what one got gives the same again: nothing is translated twice. */
		if (granted)
			REQUIRE(vip_bind(vip_place_of_owner(vip_place4(in.vip4, in.id, granted),
							    in.owner % 3),
					 features, in.flags, has_address,
					 in.excluded) == VIP_AS_ASKED ||
				granted == in.address);
	}

	/* No answer to connect names an address that the session does not have. */
	plan = vip_connect(place, features, in.flags, has_address, in.excluded);
	answer = carry_out(plan, in.found);
	REQUIRE(answer != VIP_REFUSE_BIND);
	REQUIRE(answer != VIP_TO_ADDRESS || has_address);
	if (!is_local && place != VIP_HOST_ADDRESS)
		REQUIRE(answer == VIP_AS_ASKED || answer == VIP_REFUSE_PEER ||
			answer == VIP_UNAVAILABLE);
	if (is_deny && !is_local && !vip_is_127(in.address))
		REQUIRE(answer == VIP_UNAVAILABLE || place == VIP_OWN_ADDRESS);

	/* Where 127.0.0.1 was asked for and something stands in, both ends are 127.0.0.1 by name. */
	if (answer < VIP_REFUSE_BIND) {
		enum vip_answer from = vip_source(place, answer, features);

		granted = vip_address4(answer, in.address, in.vip4, in.id);
		REQUIRE(from != VIP_TO_ADDRESS || has_address);
		source = vip_address4(from, VIP_LOCALHOST4, in.vip4, in.id);
		if (is_local && (answer == VIP_TO_LOOPBACK || answer == VIP_TO_ADDRESS)) {
			REQUIRE(vip_name4(granted, source, in.vip4, in.id) == VIP_LOCALHOST4);
			REQUIRE(vip_name4(source, granted, in.vip4, in.id) == VIP_LOCALHOST4);
		}
	}

	/* A name is itself or 127.0.0.1; 127.0.0.1 for nobody else's; and plain ones are left alone. */
	name = vip_name4(in.address, in.other, in.vip4, in.id);
	REQUIRE(name == in.address || name == VIP_LOCALHOST4);
	REQUIRE(name == in.address || in.address == loopback || in.address == in.vip4);
	if (vip_name_is_plain4(in.address, in.other))
		REQUIRE(name == in.address);
	REQUIRE(vip_name4(name, in.other, in.vip4, in.id) == name);
	return 0;
}
