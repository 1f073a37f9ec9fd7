/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct report {
	int step;
	int error;
};

static int is_ignored(int number)
{
	struct sigaction action;

	return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

static void fail(int fd, enum vip_spawn_step step)
{
	struct report report = { step, errno };

	/* If the parent has exited, the error cannot be reported. */
	if (write(fd, &report, sizeof(report)) < 0)
		_exit(126);
	_exit(step == VIP_SPAWN_EXEC ? 127 : 126);
}

static int leave_terminal(const struct vip_surroundings *own)
{
	int fd = own->terminal;

	if (setsid() < 0)
		return -1;
	if (fd >= 0) {
		if (ioctl(fd, TIOCSCTTY, 0) < 0)
			return -1;
		for (int standard = 0; standard <= 2; standard++)
			if (isatty(standard) && dup2(fd, standard) < 0)
				return -1;
	}
	if (own->no_input) {
		fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (fd < 0 || dup2(fd, 0) < 0)
			return -1;
	}
	return 0;
}

/*
 * Closes all descriptors from 3 on except the one for reports; returns its new number. Not CLOSE_RANGE_CLOEXEC, which
 * came two releases after close_range(2) itself, in Linux 5.11.
 */
static int close_others(int report)
{
	int kept = report == 3 ? 3 : dup3(report, 3, O_CLOEXEC);

	if (kept < 0 || syscall(__NR_close_range, 4U, ~0U, 0U) < 0)
		fail(report, VIP_SPAWN_DESCRIPTORS);
	return kept;
}

pid_t vip_spawn(int procs, const char *user, char *const argv[], char *const envp[],
		const struct vip_surroundings *own, enum vip_spawn_step *step)
{
	struct passwd *account = NULL;
	struct report report = { 0, 0 };
	gid_t groups[256]; /* more groups than accounts have in practice; more is an error */
	int group_count = sizeof(groups) / sizeof(groups[0]);
	sigset_t none;
	ssize_t length;
	int pipe_fds[2];
	pid_t child;

	if (user) {
		/* Before fork: these read files and allocate. */
		errno = 0;
		account = getpwnam(user);
		*step = VIP_SPAWN_USER;
		if (!account)
			return errno ? -errno : -ENOENT;
		if (getgrouplist(user, account->pw_gid, groups, &group_count) < 0)
			return -E2BIG;
	}
	*step = VIP_SPAWN_FORK;
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	child = fork();
	if (child < 0) {
		int error = errno;

		close(pipe_fds[0]);
		close(pipe_fds[1]);
		return -error;
	}
	if (child == 0) {
		for (int number = 1; number < NSIG; number++)
			if (number == SIGPIPE || !is_ignored(number))
				signal(number, SIG_DFL);
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		if (write(procs, "0", 1) != 1)
			fail(pipe_fds[1], VIP_SPAWN_JOIN);
		if (own && leave_terminal(own) < 0)
			fail(pipe_fds[1], VIP_SPAWN_TERMINAL);
		if (own)
			pipe_fds[1] = close_others(pipe_fds[1]);
		if (account && (setgroups((size_t)group_count, groups) || setgid(account->pw_gid) ||
				setuid(account->pw_uid)))
			fail(pipe_fds[1], VIP_SPAWN_USER);
		/* As the user, because root may be refused a home on NFS that the user may enter. */
		if (own && own->directory && chdir(own->directory) < 0 && chdir("/") < 0)
			fail(pipe_fds[1], VIP_SPAWN_USER);
		if (own && own->umask >= 0)
			umask((mode_t)own->umask);
		/* Not execvpe(3): it searches the PATH of the caller. */
		environ = (char **)envp;
		execvp(argv[0], argv);
		fail(pipe_fds[1], VIP_SPAWN_EXEC);
	}
	close(pipe_fds[1]);
	do
		length = read(pipe_fds[0], &report, sizeof(report));
	while (length < 0 && errno == EINTR);
	close(pipe_fds[0]);
	if (length == 0) /* closed by execve */
		return child;
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	*step = length == sizeof(report) ? (enum vip_spawn_step)report.step : VIP_SPAWN_FORK;
	return length == sizeof(report) ? -report.error : -EIO;
}

int vip_signal_fd(const int *signals, int count)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	for (int i = 0; i < count; i++)
		if (!is_ignored(signals[i])) /* if blocked, it would be queued nevertheless */
			sigaddset(&set, signals[i]);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

int vip_read_signal(int fd, int *from_kernel)
{
	struct signalfd_siginfo info;
	ssize_t length = read(fd, &info, sizeof(info));

	if (length < 0)
		return errno == EAGAIN ? 0 : -errno;
	if (length != sizeof(info))
		return 0;
	*from_kernel = info.ssi_code == SI_KERNEL;
	return (int)info.ssi_signo;
}

int vip_pidfd(pid_t pid)
{
	long fd = syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 ? -errno : (int)fd;
}

int vip_pidfd_reap(int pidfd)
{
	siginfo_t info = { 0 };

	/* P_PIDFD, which Debian 11's headers lack. */
	if (waitid((idtype_t)3, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0)
		return -errno;
	if (info.si_pid == 0)
		return -EAGAIN;
	return info.si_code == CLD_EXITED ? (info.si_status & 0xff) << 8 : info.si_status & 0x7f;
}

int vip_pidfd_signal(int pidfd, int number)
{
	return syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) < 0 ? -errno : 0;
}

int vip_spawn_close_from(posix_spawn_file_actions_t *actions, int first)
{
	return posix_spawn_file_actions_addclosefrom_np(actions, first);
}
