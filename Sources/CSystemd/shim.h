/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libsystemd: logind by sd-bus, the event loop by sd-event, the service manager by sd-daemon, the journal by
 * sd-journal.
 */
#pragma once

/* Events do not need the source location. Without it, sd_journal_sendv() is a function and not a macro. */
#define SD_JOURNAL_SUPPRESS_LOCATION

#include <systemd/sd-bus.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>
#include <systemd/sd-journal.h>
