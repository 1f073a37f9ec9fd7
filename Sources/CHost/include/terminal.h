/* SPDX-License-Identifier: Apache-2.0 */
/* What ncurses does not do: restore the terminal however the process ends, and measure the width of text. */
#pragma once

#include <sys/types.h>

/* The size of a terminal (TIOCGWINSZ, tty_ioctl(4)), 0 if it is not known; -1 if `fd` is not a terminal. */
int vip_terminal_size(int fd, int *lines, int *columns);

/*
 * Whether this process may read from the terminal and set its modes: it is in the foreground, or the terminal is not
 * its controlling terminal.
 */
int vip_terminal_is_ours(int fd);

/* How many cells a character takes in the locale: wcwidth(3). -1 for one that cannot be shown. */
int vip_cell_width(unsigned character);

/* Stops the process as ^Z does, though SIGTSTP is blocked or handled; returns when it goes on. */
void vip_stop(void);

/*
 * From now on the terminal `fd` gets its present modes back when this process crashes
 * (SIGSEGV, SIGABRT and the like) or dies of SIGQUIT, after `leave` was written to it. Call it before
 * the modes are changed, and again when `leave` is known.
 *
 * leave: the bytes that restore the terminal, "" for none; at most 256 bytes.
 */
void vip_terminal_guard(int fd, const char *leave);

/* Does at once what the guard does, and ends it. Never waits, even if the terminal accepts no output. */
void vip_terminal_restore(void);

/* Ends the guard. */
void vip_terminal_unguard(void);

/*
 * Puts a terminal into raw mode, under the guard: each byte goes to the reader as it was typed. Returns 0 or -errno.
 */
int vip_terminal_raw(int fd);

/*
 * Makes a pseudo-terminal, pts(4), with the size of the terminal `like`, and with its modes if this process is in the
 * foreground there: a shell that reads a line has modes of its own. It belongs to `owner`.
 *
 * Returns the master, nonblocking, and in *slave the other end; or -errno. Both are close-on-exec.
 */
int vip_pty_open(int like, uid_t owner, int *slave);

/* Gives one terminal the size of another, if it has another one. */
void vip_terminal_copy_size(int from, int to);

/*
 * Opens again the terminal that a descriptor refers to: O_NONBLOCK on the descriptor itself would also affect the shell
 * that it came from. Close-on-exec. -errno on failure.
 */
int vip_terminal_reopen(int fd, int flags);
