/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite, and SQLITE_TRANSIENT, which makes SQLite copy its argument. It is a cast, which Swift does not import. */
#pragma once

#include <sqlite3.h>

static inline int vip_sqlite_bind_text(sqlite3_stmt *statement, int index, const char *text,
				       int length)
{
	return sqlite3_bind_text(statement, index, text, length, SQLITE_TRANSIENT);
}

static inline int vip_sqlite_bind_blob(sqlite3_stmt *statement, int index, const void *bytes,
				       int length)
{
	return sqlite3_bind_blob(statement, index, bytes, length, SQLITE_TRANSIENT);
}
