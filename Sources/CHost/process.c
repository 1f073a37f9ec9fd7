/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
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

	/* Where the parent has gone there is nobody to tell. */
	if (write(fd, &report, sizeof(report)) < 0)
		_exit(126);
	_exit(step == VIP_SPAWN_EXEC ? 127 : 126);
}

pid_t vip_spawn(int procs, const char *user, char *const argv[], char *const envp[],
		enum vip_spawn_step *step)
{
	struct passwd *account = NULL;
	struct report report = { 0, 0 };
	gid_t groups
		[256]; /* more than any account has that systems of today hand out; the rest is an error */
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
		if (account && (setgroups((size_t)group_count, groups) || setgid(account->pw_gid) ||
				setuid(account->pw_uid)))
			fail(pipe_fds[1], VIP_SPAWN_USER);
		execvpe(argv[0], argv, envp);
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
		if (!is_ignored(signals[i])) /* blocked ones would be queued all the same */
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
