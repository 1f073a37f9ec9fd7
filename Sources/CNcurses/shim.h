/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ncurses, the wide-character build: curs_initscr(3X). Beside it what Swift cannot call itself: macros
 * over bit fields, and global variables, of which Swift 6 does not know whose thread they are.
 */
#pragma once

/* Functions in place of the macros over stdscr. */
#define NCURSES_NOMACROS 1
#include <curses.h>
#include <langinfo.h>
#include <stdio.h>

/* A screen on standard output with keys from `input`; NULL where TERM names no terminal that will do. */
static inline SCREEN *vip_screen_open(FILE *input)
{
	return newterm(NULL, stdout, input ? input : stdin);
}

/* Keys as KEY_UP and so on, without waiting for one, and without echo; ^C and ^Z stay signals. */
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

/* All of it is sent again at the next refresh(3X): something else has written to the terminal. */
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
