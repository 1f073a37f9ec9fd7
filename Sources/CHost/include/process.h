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

/* What the program gets that is not to share its caller's terminal, descriptors and surroundings. */
struct vip_surroundings {
	int terminal; /* becomes its controlling terminal, in place of each of 0, 1 and 2 that is one; -1 for none */
	int no_input; /* whether its standard input is /dev/null */
	const char *
		directory; /* its working directory, or / where the user may not enter it; NULL for the caller's */
	int umask; /* -1 for the caller's */
};

/*
 * Starts argv[0], looked up in the PATH of envp, with an empty signal mask and default signal handling, but that
 * what the caller was started to ignore (nohup(1)) stays ignored; SIGPIPE apart.
 *
 * procs: an open cgroup.procs of the cgroup to start in.
 * user:  NULL to stay who the caller is; else the process gets that user's IDs and groups.
 * own:   NULL for the caller's session and all of its inheritable descriptors; else the process gets a session of its
 *        own (setsid(2)), so that it cannot type into the caller's terminal (TIOCSTI), and no descriptor but 0, 1 and 2.
 *
 * Returns the child's PID, once execve(2) has succeeded; or -errno, and in *step what failed.
 */
pid_t vip_spawn(int procs, const char *user, char *const argv[], char *const envp[],
		const struct vip_surroundings *own, enum vip_spawn_step *step);

/* Blocks the signals in the list, those that are ignored left out, and returns a signalfd(2) or -errno. */
int vip_signal_fd(const int *signals, int count);

/*
 * Reads one signal number from a signalfd(2); 0 where there is none, or -errno. *from_kernel is set
 * where the kernel itself sent it: a terminal's ^C, which goes to all of the foreground processes.
 */
int vip_read_signal(int fd, int *from_kernel);

/* pidfd_open(2), Linux 5.3; -errno on failure. */
int vip_pidfd(pid_t pid);

/*
 * Takes the exit status of a child that has ended, by its pidfd, so that no other process can be meant (waitid(2), P_PIDFD,
 * Linux 5.4). Returns the status as waitpid(2) has it, -EAGAIN while the child runs, -ECHILD where the process is no child
 * of the caller's, or its status was taken.
 */
int vip_pidfd_reap(int pidfd);

/* pidfd_send_signal(2), Linux 5.1; -errno on failure. */
int vip_pidfd_signal(int pidfd, int number);

/* posix_spawn_file_actions_addclosefrom_np(3), which Swift's view of glibc lacks. */
int vip_spawn_close_from(posix_spawn_file_actions_t *actions, int first);
