/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

int vip_terminal_size(int fd, int *lines, int *columns)
{
	struct winsize size;

	if (ioctl(fd, TIOCGWINSZ, &size) < 0)
		return -1;
	*lines = size.ws_row;
	*columns = size.ws_col;
	return 0;
}

int vip_terminal_is_ours(int fd)
{
	pid_t group = tcgetpgrp(fd);

	return group == getpgrp() || (group < 0 && errno == ENOTTY && isatty(fd));
}

int vip_cell_width(unsigned character)
{
	return wcwidth((wchar_t)character);
}

void vip_stop(void)
{
	struct sigaction before, plain = { .sa_handler = SIG_DFL };
	sigset_t stop, mask;

	sigaction(SIGTSTP, &plain, &before);
	sigemptyset(&stop);
	sigaddset(&stop, SIGTSTP);
	raise(SIGTSTP);
	/* The process stops here, where the signal is no longer blocked. An orphaned process group does not stop. */
	pthread_sigmask(SIG_UNBLOCK, &stop, &mask);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	sigaction(SIGTSTP, &before, NULL);
}

static struct {
	volatile sig_atomic_t is_on;
	int fd;
	struct termios modes;
	char leave[256];
	size_t length;
} guard;

static const int deadly[] = { SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGABRT, SIGSYS, SIGQUIT };

/* Only what a signal handler may call: signal-safety(7). */
void vip_terminal_restore(void)
{
	struct pollfd takes = { .fd = guard.fd, .events = POLLOUT };
	int error = errno;

	if (!guard.is_on)
		return;
	guard.is_on = 0;
	/*
	 * In the background this would stop the process (SIGTTOU), and another process group has the terminal by then.
	 */
	if (!vip_terminal_is_ours(guard.fd))
		return;
	if (poll(&takes, 1, 0) > 0 && takes.revents == POLLOUT &&
	    write(guard.fd, guard.leave, guard.length) < 0)
		errno = 0; /* restore the modes nevertheless */
	tcsetattr(guard.fd, TCSANOW, &guard.modes);
	errno = error;
}

static void die(int number)
{
	vip_terminal_restore();
	/* SA_RESETHAND: this time it ends the process. */
	raise(number);
}

void vip_terminal_guard(int fd, const char *leave)
{
	struct sigaction before, action = { .sa_handler = die, .sa_flags = (int)SA_RESETHAND };

	if (!guard.is_on && tcgetattr(fd, &guard.modes) < 0)
		return;
	guard.fd = fd;
	guard.length = strnlen(leave, sizeof(guard.leave));
	memcpy(guard.leave, leave, guard.length);
	guard.is_on = 1;
	for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++)
		if (sigaction(deadly[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
			sigaction(deadly[i], &action, NULL);
}

void vip_terminal_unguard(void)
{
	guard.is_on = 0;
}

int vip_terminal_raw(int fd)
{
	struct termios modes;

	if (tcgetattr(fd, &modes) < 0)
		return -errno;
	vip_terminal_guard(fd, "");
	cfmakeraw(&modes);
	return tcsetattr(fd, TCSANOW, &modes) < 0 ? -errno : 0;
}

void vip_terminal_copy_size(int from, int to)
{
	struct winsize size;

	if (ioctl(from, TIOCGWINSZ, &size) == 0)
		ioctl(to, TIOCSWINSZ,
		      &size); /* the kernel sends SIGWINCH to those on the other end */
}

int vip_pty_open(int like, uid_t owner, int *slave)
{
	struct termios modes;
	int error, fd = -1;
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);

	if (master < 0)
		return -errno;
	if (unlockpt(master) < 0)
		goto fail;
	/* Not by name: /dev/pts may be another instance, or not mounted. Linux 4.13. */
	fd = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 || fchown(fd, owner, (gid_t)-1) < 0)
		goto fail;
	if (vip_terminal_is_ours(like) && tcgetattr(like, &modes) == 0 &&
	    tcsetattr(fd, TCSANOW, &modes) < 0)
		goto fail;
	vip_terminal_copy_size(like, master);
	*slave = fd;
	return master;

fail:
	error = errno;
	if (fd >= 0)
		close(fd);
	close(master);
	return -error;
}

int vip_terminal_reopen(int fd, int flags)
{
	char path[32];
	int opened;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	opened = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return opened < 0 ? -errno : opened;
}
