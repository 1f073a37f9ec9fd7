/* SPDX-License-Identifier: Apache-2.0 */
/* What ncurses has not got: a terminal that is put right whatever ends the process, and how wide text is. */
#pragma once

/* The size of a terminal (TIOCGWINSZ, tty_ioctl(4)), 0 where it is not known; -1 where it is no terminal. */
int vip_terminal_size(int fd, int *lines, int *columns);

/* Whether this process may write to its terminal and set its modes: it is in the foreground. */
int vip_terminal_is_ours(int fd);

/* How many cells a character takes, in the locale's terms: wcwidth(3). -1 for one that cannot be shown. */
int vip_cell_width(unsigned character);

/* Stops the process as ^Z does, though SIGTSTP is blocked or handled; returns when it goes on. */
void vip_stop(void);

/*
 * From now on the terminal `fd` gets its present modes back when this process dies of a defect
 * (SIGSEGV, SIGABRT and their like) or of SIGQUIT, after `leave` was written to it. To be called before
 * the modes are changed, and again when `leave` is known.
 *
 * leave: what puts the terminal right, "" for nothing; at most 256 bytes.
 */
void vip_terminal_guard(int fd, const char *leave);

/* Does what the guard does, at once, and ends it. Waits for nothing, even where the terminal takes nothing. */
void vip_terminal_restore(void);

/* Ends the guard. */
void vip_terminal_unguard(void);
