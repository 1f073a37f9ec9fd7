/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a program inside a cgroup. In C, because what runs between fork(2) and execve(2) must not
 * touch the Swift runtime, and posix_spawn(3) knows no cgroups before glibc 2.38.
 */
#pragma once

#include <spawn.h>
#include <sys/types.h>

enum vip_spawn_step {
	VIP_SPAWN_FORK,
	VIP_SPAWN_JOIN,	       /* writing to cgroup.procs */
	VIP_SPAWN_TERMINAL,    /* setsid, TIOCSCTTY, /dev/null */
	VIP_SPAWN_DESCRIPTORS, /* close_range */
	VIP_SPAWN_USER,	       /* setgid, initgroups, setuid */
	VIP_SPAWN_EXEC,
};

/* What a program gets if it does not share its caller's terminal, descriptors and environment. */
struct vip_surroundings {
	int terminal; /* its controlling terminal, which replaces each of 0, 1 and 2 that is a terminal; -1 for none */
	int no_input; /* whether its standard input is /dev/null */
	const char *
		directory; /* its working directory, or / if the user may not enter it; NULL for the caller's */
	int umask; /* -1 for the caller's */
};

/*
 * Starts argv[0], looked up in the PATH of envp, with an empty signal mask and default signal handling. Signals
 * that were ignored when the caller started (nohup(1)) stay ignored, except SIGPIPE.
 *
 * procs: an open cgroup.procs of the cgroup to start in.
 * user:  NULL to keep the caller's user; else the process gets that user's IDs and groups.
 * own:   NULL for the caller's session and all of its inheritable descriptors; else the process gets a session of its
 *        own (setsid(2)), so that it cannot type into the caller's terminal (TIOCSTI), and only 0, 1 and 2.
 *
 * Returns the child's PID once execve(2) has succeeded; or -errno, and the step that failed in *step.
 */
pid_t vip_spawn(int procs, const char *user, char *const argv[], char *const envp[],
		const struct vip_surroundings *own, enum vip_spawn_step *step);

/* Blocks the signals in the list, except those that are ignored, and returns a signalfd(2) or -errno. */
int vip_signal_fd(const int *signals, int count);

/*
 * Reads one signal number from a signalfd(2); 0 if there is none, or -errno. *from_kernel is set
 * if the kernel itself sent it: a terminal's ^C, which goes to all foreground processes.
 */
int vip_read_signal(int fd, int *from_kernel);

/* pidfd_open(2), Linux 5.3; -errno on failure. */
int vip_pidfd(pid_t pid);

/*
 * Reaps a child that has ended, by its pidfd, so that it cannot be another process (waitid(2), P_PIDFD,
 * Linux 5.4). Returns the status as waitpid(2) does, -EAGAIN while the child runs, -ECHILD if the process is not the
 * caller's child or was reaped before.
 */
int vip_pidfd_reap(int pidfd);

/* pidfd_send_signal(2), Linux 5.1; -errno on failure. */
int vip_pidfd_signal(int pidfd, int number);

/* posix_spawn_file_actions_addclosefrom_np(3), which Swift's Glibc module lacks. */
int vip_spawn_close_from(posix_spawn_file_actions_t *actions, int first);
