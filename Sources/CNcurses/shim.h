/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ncurses, the wide-character build: curs_initscr(3X). The functions wrap what Swift cannot call itself: macros over
 * bit fields, and global variables, which Swift 6 does not accept because they are not thread-safe.
 */
#pragma once

/* Functions in place of the macros over stdscr. */
#define NCURSES_NOMACROS 1
#include <curses.h>
#include <langinfo.h>
#include <signal.h>
#include <stdio.h>

/* Never called: SIGTSTP is blocked. */
static inline void vip_screen_on_stop(int number)
{
	(void)number;
}

/* A screen on standard output that reads keys from `input`; NULL if ncurses cannot use the terminal of TERM. */
static inline SCREEN *vip_screen_open(FILE *input)
{
	struct sigaction before, action = { .sa_handler = vip_screen_on_stop };

	/*
	 * With the default action in force, refresh() would ignore SIGTSTP as long as it draws, and so discard a ^Z
	 * that waits to be read from a signalfd.
	 */
	if (sigaction(SIGTSTP, NULL, &before) == 0 && before.sa_handler == SIG_DFL)
		sigaction(SIGTSTP, &action, NULL);
	return newterm(NULL, stdout, input ? input : stdin);
}

/* Reads keys as KEY_UP and so on, without waiting and without echo. ^C and ^Z still send signals. */
static inline void vip_screen_prepare(void)
{
	cbreak();
	noecho();
	nonl();
	intrflush(stdscr, FALSE);
	keypad(stdscr, TRUE);
	nodelay(stdscr, TRUE);
	set_escdelay(25); /* ms after ESC in which the rest of a key's sequence must have come */
	curs_set(0);
}

static inline int vip_screen_lines(void)
{
	return getmaxy(stdscr);
}

static inline int vip_screen_columns(void)
{
	return getmaxx(stdscr);
}

/* The next refresh(3X) sends the whole screen again: use it if something else has written to the terminal. */
static inline void vip_screen_distrust(void)
{
	clearok(curscr, TRUE);
}

static inline void vip_screen_style(int bold, int reverse)
{
	attrset((bold ? A_BOLD : A_NORMAL) | (reverse ? A_REVERSE : A_NORMAL));
}

/* Whether the locale's characters are UTF-8. */
static inline int vip_locale_is_utf8(void)
{
	const char *name = nl_langinfo(CODESET);

	return name[0] == 'U' && name[1] == 'T' && name[2] == 'F' && name[3] == '-' &&
	       name[4] == '8';
}
