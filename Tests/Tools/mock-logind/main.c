/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mock of logind: org.freedesktop.login1 on the bus named in the first argument, with the two lists and
 * the four signals that the daemon uses. It answers each command on standard input with "ok":
 *
 *   user UID NAME        adds a user; "-UID" removes one
 *   login ID UID NAME    adds a login; "-ID" removes one
 *   quiet / loud         stops / starts sending signals
 *   leave / come         releases the name on the bus / takes it again
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#define NAME "org.freedesktop.login1"
#define PATH "/org/freedesktop/login1"
#define MANAGER "org.freedesktop.login1.Manager"
enum { MOST = 1024 };

struct entry {
	char id[80];
	unsigned int uid;
	char name[512];
};

static struct entry users[MOST], logins[MOST];
static int user_count, login_count, quiet;

/* Begins the answer to a call, with a list of rows. */
static int begin_list(sd_bus_message *call, sd_bus_message **reply, const char *row)
{
	int result = sd_bus_message_new_method_return(call, reply);

	return result < 0 ? result : sd_bus_message_open_container(*reply, 'a', row);
}

/* Sends the answer, unless an earlier step has failed. */
static int end_list(sd_bus_message *reply, int result)
{
	if (result >= 0)
		result = sd_bus_message_close_container(reply);
	if (result >= 0)
		result = sd_bus_send(NULL, reply, NULL);
	sd_bus_message_unref(reply);
	return result;
}

static int list_users(sd_bus_message *call, void *data, sd_bus_error *error)
{
	sd_bus_message *reply = NULL;
	int result = begin_list(call, &reply, "(uso)");

	(void)data;
	(void)error;
	for (int i = 0; result >= 0 && i < user_count; i++)
		result = sd_bus_message_append(reply, "(uso)", users[i].uid, users[i].name,
					       PATH "/user/_1");
	return end_list(reply, result);
}

static int list_sessions(sd_bus_message *call, void *data, sd_bus_error *error)
{
	sd_bus_message *reply = NULL;
	int result = begin_list(call, &reply, "(susso)");

	(void)data;
	(void)error;
	for (int i = 0; result >= 0 && i < login_count; i++)
		result = sd_bus_message_append(reply, "(susso)", logins[i].id, logins[i].uid,
					       logins[i].name, "", PATH "/session/_1");
	return end_list(reply, result);
}

static const sd_bus_vtable manager[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD("ListUsers", "", "a(uso)", list_users, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD("ListSessions", "", "a(susso)", list_sessions, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_SIGNAL("UserNew", "uo", 0),
	SD_BUS_SIGNAL("UserRemoved", "uo", 0),
	SD_BUS_SIGNAL("SessionNew", "so", 0),
	SD_BUS_SIGNAL("SessionRemoved", "so", 0),
	SD_BUS_VTABLE_END
};

static void removed(struct entry *list, int *count, const char *id)
{
	for (int i = 0; i < *count; i++)
		if (!strcmp(list[i].id, id))
			list[i--] = list[--*count];
}

/* The rest of the line is the name, with its blanks; "\n" in it stands for a line feed. */
static void take_name(char *to, const char *from)
{
	while (*from && *from != '\n') {
		if (from[0] == '\\' && from[1] == 'n') {
			*to++ = '\n';
			from += 2;
		} else {
			*to++ = *from++;
		}
	}
	*to = 0;
}

static int obey(sd_bus *bus, const char *line)
{
	struct entry entry = { 0 };
	int at = 0;

	if (sscanf(line, "user -%79s", entry.id) == 1) {
		removed(users, &user_count, entry.id);
		return quiet ? 0 :
			       sd_bus_emit_signal(bus, PATH, MANAGER, "UserRemoved", "uo",
						  (unsigned int)strtoul(entry.id, NULL, 10),
						  PATH "/user/_1");
	}
	if (sscanf(line, "login -%79s", entry.id) == 1) {
		removed(logins, &login_count, entry.id);
		return quiet ? 0 :
			       sd_bus_emit_signal(bus, PATH, MANAGER, "SessionRemoved", "so",
						  entry.id, PATH "/session/_1");
	}
	if (sscanf(line, "user %u %n", &entry.uid, &at) == 1 && at && user_count < MOST) {
		snprintf(entry.id, sizeof(entry.id), "%u", entry.uid);
		take_name(entry.name, line + at);
		users[user_count++] = entry;
		return quiet ? 0 :
			       sd_bus_emit_signal(bus, PATH, MANAGER, "UserNew", "uo", entry.uid,
						  PATH "/user/_1");
	}
	if (sscanf(line, "login %79s %u %n", entry.id, &entry.uid, &at) == 2 && at &&
	    login_count < MOST) {
		take_name(entry.name, line + at);
		logins[login_count++] = entry;
		return quiet ? 0 :
			       sd_bus_emit_signal(bus, PATH, MANAGER, "SessionNew", "so", entry.id,
						  PATH "/session/_1");
	}
	if (!strcmp(line, "quiet\n") || !strcmp(line, "loud\n")) {
		quiet = line[0] == 'q';
		return 0;
	}
	if (!strcmp(line, "leave\n"))
		return sd_bus_release_name(bus, NAME);
	if (!strcmp(line, "come\n"))
		return sd_bus_request_name(bus, NAME, 0);
	return -EINVAL;
}

static int check(int result, const char *what)
{
	if (result >= 0)
		return result;
	fprintf(stderr, "vip-mock-logind: %s: %s\n", what, strerror(-result));
	exit(1);
}

int main(int count, char **arguments)
{
	sd_bus *bus = NULL;
	char line[1024];

	if (count != 2)
		check(-EINVAL, "usage: vip-mock-logind BUS-ADDRESS");
	check(sd_bus_new(&bus), "make a bus");
	check(sd_bus_set_address(bus, arguments[1]), arguments[1]);
	check(sd_bus_set_bus_client(bus, 1), "be a client");
	check(sd_bus_start(bus), arguments[1]);
	check(sd_bus_add_object_vtable(bus, NULL, PATH, MANAGER, manager, NULL),
	      "offer the methods");
	check(sd_bus_request_name(bus, NAME, 0), "take the name " NAME);
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct pollfd ready[] = { { 0, POLLIN, 0 }, { sd_bus_get_fd(bus), 0, 0 } };
		uint64_t until;

		while (check(sd_bus_process(bus, NULL), "process") > 0)
			;
		ready[1].events = (short)check(sd_bus_get_events(bus), "events");
		/* Only the library itself waits for a time. */
		check(sd_bus_get_timeout(bus, &until), "timeout");
		if (poll(ready, 2, until == UINT64_MAX ? -1 : 10) < 0 && errno != EINTR)
			check(-errno, "wait");
		if (!ready[0].revents)
			continue;
		/* Commands arrive one at a time, because each waits for the previous answer. */
		if (!fgets(line, sizeof(line), stdin))
			break;
		check(obey(bus, line), line);
		check(sd_bus_flush(bus), "flush");
		puts("ok");
		fflush(stdout);
	}
	sd_bus_flush_close_unref(bus);
	return 0;
}
