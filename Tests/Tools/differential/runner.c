/* SPDX-License-Identifier: Apache-2.0 */
/* The processes that make the calls: in a session, outside, and in a neighbouring session. */
#include "differential.h"
#include "../control_message.h"

struct request {
	uint32_t port_base; /* the port that 9001 stands for */
	uint32_t is_slow;
	uint32_t is_held;	     /* keep its sockets open until another byte arrives */
	uint8_t expected[CALLS_MAX]; /* slow: something arrived for this call before */
	struct sequence sequence;
};

static struct {
	int fd;
	uint8_t v6;
	union endpoint peer; /* the last one returned */
	socklen_t peer_length;
	uint8_t file; /* the same for all copies that dup made */
} slots[SLOTS];
static bool is_bound_any[CALLS_MAX +
			 1]; /* by file: and the session says that it is on the virtual IP */
static uint8_t files;
static bool is_session, is_slow, is_expected;
static uint16_t port_base;

static void settle(int fd, short events, int milliseconds)
{
	struct pollfd wait = { .fd = fd, .events = events };

	if (is_slow)
		poll(&wait, 1, milliseconds);
}

static bool is_datagram_socket(int fd)
{
	int value = 0;
	socklen_t length = sizeof(value);

	getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length);
	return value == SOCK_DGRAM;
}

static bool is_v6only(int fd)
{
	int value = 0;
	socklen_t length = sizeof(value);

	getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, &length);
	return value;
}

static socklen_t make_endpoint(const struct call *call, union endpoint *endpoint)
{
	socklen_t length = sizeof(*endpoint);
	in_port_t port = 0, other_port = 0;

	memset(endpoint, 0, sizeof(*endpoint));
	if (call->address == NAME_OF) {
		getsockname(slots[call->other].fd, &endpoint->any, &length);
		if (endpoint->any.sa_family == AF_UNSPEC)
			endpoint->any.sa_family = AF_INET;
		/*
		 * In the session such a name is the virtual IP, so here it must be the address that corresponds
		 * to it.
		 */
		if (mode == VIRTUAL && !is_session && is_bound_any[slots[call->other].file]) {
			struct in6_addr name = plain_address(endpoint);

			if (endpoint->any.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&name))
				set_address(endpoint,
					    is_v6only(slots[call->other].fd) ? &host6 : &host4);
			else if (is_any(&name))
				set_address(endpoint, &host4);
		}
	} else if (call->address == PEER_OF) {
		*endpoint = slots[call->other].peer;
		if (endpoint->any.sa_family == AF_UNSPEC)
			endpoint->any.sa_family = AF_INET;
	} else if (call->address < LOCALHOST6) {
		endpoint->any.sa_family = AF_INET;
		inet_pton(AF_INET, addresses[call->address], &endpoint->v4.sin_addr);
	} else if (call->address < ADDRESSES) {
		endpoint->any.sa_family = AF_INET6;
		inet_pton(AF_INET6, addresses[call->address], &endpoint->v6.sin6_addr);
	}
	other_port = endpoint->v4.sin_port; /* at the same offset in both */
	if (call->port == PORT_OF_OTHER)
		port = other_port;
	else if (call->port)
		port = htons((uint16_t)(port_base + call->port - 1));
	endpoint->v4.sin_port = port;
	length = endpoint->any.sa_family == AF_INET ? sizeof(endpoint->v4) : sizeof(endpoint->v6);
	switch (call->form) {
	case SHORT:
		return 6;
	case WRONG_FAMILY:
		endpoint->any.sa_family = AF_UNIX;
		break;
	case UNSPEC:
		endpoint->any.sa_family = AF_UNSPEC;
		break;
	}
	return length;
}

static void call_connect(int fd, const union endpoint *peer, socklen_t length,
			 struct result *result)
{
	struct pollfd wait = { .fd = fd, .events = POLLOUT };
	socklen_t size = sizeof(int);
	int error = 0;

	result->value = connect(fd, &peer->any, length);
	if (!result->value || errno != EINPROGRESS)
		return;
	/* The result that connect(2) of a blocking socket would return, if it is known at once. */
	if (poll(&wait, 1, is_slow ? is_expected ? ARRIVAL_MS : SETTLE_MS : 0) == 1 &&
	    !getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size)) {
		result->value = error ? -1 : 0;
		errno = error;
	} else {
		errno = EINPROGRESS;
	}
}

static int call_socket(const struct call *call)
{
	return socket(call->v6 ? AF_INET6 : AF_INET,
		      (call->transport == UDP ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK |
			      SOCK_CLOEXEC,
		      call->transport == MPTCP ? IPPROTO_MPTCP : 0);
}

static ssize_t call_send(int fd, const struct call *call, const union endpoint *to,
			 socklen_t length)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	} control = {};
	char text[DATA_MAX];
	int size = snprintf(text, sizeof(text), "m%u", call->text);
	struct iovec part = { .iov_base = text, .iov_len = (size_t)size };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (to) {
		message.msg_name = (void *)to;
		message.msg_namelen = length;
	}
	if (call->kind == SENDMSG_PKTINFO) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		if (call->source < LOCALHOST6) {
			struct in_pktinfo info = {};

			inet_pton(AF_INET, addresses[call->source], &info.ipi_spec_dst);
			set_control(&message, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
		} else {
			struct in6_pktinfo info = {};

			inet_pton(AF_INET6, addresses[call->source], &info.ipi6_addr);
			set_control(&message, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
		}
	}
	return sendmsg(fd, &message, MSG_NOSIGNAL | (call->kind == FASTOPEN ? MSG_FASTOPEN : 0));
}

static void keep(uint8_t slot, int fd, uint8_t v6)
{
	if (fd < 0)
		return;
	if (slots[slot].fd >= 0)
		close(slots[slot].fd);
	memset(&slots[slot], 0, sizeof(slots[slot]));
	slots[slot].fd = fd;
	slots[slot].v6 = v6;
	slots[slot].file = ++files;
	is_bound_any[files] = false;
}

static void make_call(const struct call *call, struct result *result)
{
	int fd = slots[call->slot].fd, on = call->value, error = 0;
	bool with_address = false;
	union endpoint endpoint;
	socklen_t length = sizeof(endpoint);
	char data[64];

	memset(result, 0, sizeof(*result));
	memset(&endpoint, 0, sizeof(endpoint));
	errno = 0;
	switch (call->kind) {
	case SOCKET:
		result->value = call_socket(call);
		keep(call->slot, result->value, call->v6);
		break;
	case SETSOCKOPT:
		result->value = setsockopt(fd, options[call->option].level,
					   options[call->option].option, &on, sizeof(on));
		break;
	case BIND:
		length = make_endpoint(call, &endpoint);
		result->asked = endpoint;
		errno = 0;
		result->value = bind(fd, &endpoint.any, length);
		if (!result->value) {
			struct in6_addr bound = plain_address(&endpoint);

			/* The contract leaves a dual-stack UDP socket without a port on ::. */
			is_bound_any[slots[call->slot].file] =
				is_any(&bound) &&
				!(endpoint.any.sa_family == AF_INET6 && !endpoint.v6.sin6_port &&
				  IN6_IS_ADDR_UNSPECIFIED(&bound) && is_datagram_socket(fd) &&
				  !is_v6only(fd));
		} else if (errno == EADDRINUSE) {
			is_bound_any[slots[call->slot].file] = false;
		}
		break;
	case LISTEN:
		result->value = listen(fd, 8);
		break;
	case CONNECT:
		length = make_endpoint(call, &endpoint);
		result->asked = endpoint;
		errno = 0;
		call_connect(fd, &endpoint, length, result);
		break;
	case DISCONNECT:
		result->value = connect(fd, &endpoint.any, sizeof(endpoint.v4));
		break;
	case ACCEPT:
	case ACCEPT_NOADDR:
		settle(fd, POLLIN, is_expected ? ARRIVAL_MS : SETTLE_MS);
		with_address = call->kind == ACCEPT;
		result->value =
			accept4(fd, with_address ? &endpoint.any : NULL,
				with_address ? &length : NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		keep(call->other, result->value, slots[call->slot].v6);
		if (with_address && result->value >= 0) {
			slots[call->other].peer = endpoint;
			slots[call->other].peer_length = length;
		}
		break;
	case GETSOCKNAME:
		result->value = getsockname(fd, &endpoint.any, &length);
		with_address = true;
		break;
	case GETPEERNAME:
		result->value = getpeername(fd, &endpoint.any, &length);
		with_address = true;
		break;
	case SEND:
		result->value = (int)call_send(fd, call, NULL, 0);
		break;
	case SENDTO:
	case FASTOPEN:
	case SENDMSG_PKTINFO:
		length = make_endpoint(call, &endpoint);
		result->asked = endpoint;
		errno = 0;
		result->value =
			(int)call_send(fd, call, call->address == NONE ? NULL : &endpoint, length);
		break;
	case RECV:
	case RECVFROM:
		settle(fd, POLLIN, is_expected ? ARRIVAL_MS : SETTLE_MS);
		with_address = call->kind == RECVFROM;
		result->value = (int)recvfrom(fd, data, sizeof(data), 0,
					      with_address ? &endpoint.any : NULL,
					      with_address ? &length : NULL);
		if (result->value > 0) {
			result->data_length =
				result->value < DATA_MAX ? (uint32_t)result->value : DATA_MAX;
			memcpy(result->data, data, result->data_length);
		}
		break;
	case SHUTDOWN:
		result->value = shutdown(fd, call->value);
		break;
	case SO_ERROR_OF:
		length = sizeof(error);
		result->value = getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
		if (!result->value && error) {
			result->value = -1;
			errno = error;
		}
		break;
	case DUP:
		result->value = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		keep(call->other, result->value, slots[call->slot].v6);
		slots[call->other].file = slots[call->slot].file;
		break;
	case CLOSE:
		result->value = close(fd);
		slots[call->slot].fd = -1;
		slots[call->slot].file = 0;
		break;
	}
	if (result->value < 0) {
		result->error = errno;
		result->value = -1;
	} else if (call->kind == SOCKET || call->kind == ACCEPT || call->kind == ACCEPT_NOADDR ||
		   call->kind == DUP) {
		result->value = 0; /* not the number of the descriptor */
	}
	if (with_address && !result->error) {
		result->address = endpoint;
		result->address_length = length;
		if (call->kind != GETSOCKNAME && call->kind != ACCEPT && length) {
			slots[call->slot].peer = endpoint;
			slots[call->slot].peer_length = length;
		}
	}
	if (call->kind != GETSOCKNAME && call->kind != GETPEERNAME && call->kind != SETSOCKOPT &&
	    call->kind != SOCKET)
		settle(-1, 0, SETTLE_MS);
}

static bool transfer(int fd, void *bytes, size_t size, ssize_t (*function)(int, void *, size_t))
{
	for (size_t done = 0; done < size;) {
		ssize_t count = function(fd, (char *)bytes + done, size - done);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return false;
		done += (size_t)count;
	}
	return true;
}

static ssize_t write_some(int fd, void *bytes, size_t size)
{
	return write(fd, bytes, size);
}

static void serve(int channel)
{
	static struct result results[CALLS_MAX];
	const struct linger at_once = { .l_onoff = 1 };
	struct request request;
	char go_on;

	for (int i = 0; i < SLOTS; i++)
		slots[i].fd = -1;
	while (transfer(channel, &request, sizeof(request), read)) {
		port_base = (uint16_t)request.port_base;
		is_slow = request.is_slow;
		files = 0;
		for (uint32_t i = 0; i < request.sequence.count; i++) {
			is_expected = request.expected[i];
			make_call(&request.sequence.calls[i], &results[i]);
		}
		if (!transfer(channel, results, request.sequence.count * sizeof(results[0]),
			      write_some) ||
		    (request.is_held && !transfer(channel, &go_on, 1, read)))
			break;
		for (int i = 0; i < SLOTS; i++) {
			if (slots[i].fd < 0)
				continue;
			/* Reset it, so that nothing of this sequence remains for the next one. */
			setsockopt(slots[i].fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
			close(slots[i].fd);
			memset(&slots[i], 0, sizeof(slots[i]));
			slots[i].fd = -1;
		}
	}
	_exit(0);
}

static void enter(const char *path, int type)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || setns(fd, type))
		fail("enter %s: %s", path, strerror(errno));
	close(fd);
}

static const char *const sides[PROCESSES] = { "outside", "in the session", "in the other session" };
int channels[PROCESSES] = { -1, -1, -1 };

int start_side(bool in_session, const char *cgroup, const char *netns)
{
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		fail("socketpair: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (pid) {
		close(pair[1]);
		return pair[0];
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(pair[0]);
	for (int i = 0; i < PROCESSES; i++) {
		if (channels[i] >= 0)
			close(channels[i]);
	}
	if (cgroup) {
		FILE *file = fopen(cgroup, "w");

		if (!file || fprintf(file, "%d", getpid()) < 0 || fclose(file))
			fail("%s: %s", cgroup, strerror(errno));
	}
	enter(netns, CLONE_NEWNET);
	is_session = in_session;
	serve(pair[1]);
	return -1; /* not reached */
}

static uint32_t port_block;

/* Replaces the real ports, which differ in each run. */
static void show_port(union endpoint *endpoint, uint32_t base)
{
	uint32_t port = ntohs(endpoint->v4.sin_port);

	if (port >= base && port < base + 3)
		endpoint->v4.sin_port = htons((in_port_t)(PORT_SHOWN + port - base));
}

/*
 * The calls that the other session makes: all except those that cannot be made twice on one host.
 * Without virtual IP, these are calls with wildcards; with it, those with addresses that are not
 * replaced: groups, and the rest of 127/8.
 */
static bool for_neighbour(const struct sequence *sequence, struct sequence *neighbours)
{
	neighbours->count = 0;
	for (uint32_t i = 0; i < sequence->count; i++) {
		const struct call *call = &sequence->calls[i];
		bool is_any = call->address == ANY4 || call->address == ANY6 ||
			      call->address == MAPPED_ANY;
		bool is_localhost = call->address == LOCALHOST4 || call->address == LOCALHOST6 ||
				    call->address == MAPPED_LOCALHOST;
		bool is_host = call->address == HOST4 || call->address == HOST6 ||
			       call->address == MAPPED_HOST;

		if (call->kind == BIND) {
			if (mode == LOOPBACK &&
			    (call->form == UNSPEC || is_any || call->address >= ADDRESSES))
				return false;
			if (call->form != WHOLE ||
			    !(is_localhost || (mode != LOOPBACK && (is_any || is_host))))
				continue;
		}
		neighbours->calls[neighbours->count++] = *call;
	}
	return true;
}

void perform(const struct sequence *sequence, bool slow, struct outcome *outcome)
{
	static struct request neighbours = { .is_held = true };
	char go_on = 0;
	struct request request = { .port_base = PORT_FIRST + port_block * 3,
				   .is_slow = slow,
				   .sequence = *sequence };

	for (uint32_t i = 0; slow && i < sequence->count; i++) {
		for (int side = 0; side < SIDES; side++) {
			int error = outcome->results[side][i].error;

			request.expected[i] |= error != EAGAIN && error != EINPROGRESS;
		}
	}
	bool has_neighbour =
		channels[NEIGHBOUR] >= 0 && for_neighbour(sequence, &neighbours.sequence);

	port_block = (port_block + 1) % PORT_BLOCKS;
	if (has_neighbour) {
		neighbours.port_base = request.port_base;
		if (!transfer(channels[NEIGHBOUR], &neighbours, sizeof(neighbours), write_some) ||
		    !transfer(channels[NEIGHBOUR], outcome->results[SESSION],
			      neighbours.sequence.count * sizeof(struct result), read))
			fail("the process %s is gone", sides[NEIGHBOUR]);
	}
	for (int side = 0; side < SIDES; side++) {
		if (!transfer(channels[side], &request, sizeof(request), write_some))
			fail("the process %s is gone", sides[side]);
	}
	for (int side = 0; side < SIDES; side++) {
		if (!transfer(channels[side], outcome->results[side],
			      sequence->count * sizeof(struct result), read))
			fail("the process %s is gone", sides[side]);
		for (uint32_t i = 0; i < sequence->count; i++) {
			struct result *result = &outcome->results[side][i];

			show_port(&result->address, request.port_base);
			show_port(&result->asked, request.port_base);
		}
	}
	if (has_neighbour && !transfer(channels[NEIGHBOUR], &go_on, 1, write_some))
		fail("the process %s is gone", sides[NEIGHBOUR]);
}
