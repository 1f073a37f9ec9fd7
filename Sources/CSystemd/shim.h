/* SPDX-License-Identifier: Apache-2.0 */
/* libsystemd: logind by sd-bus, the event loop by sd-event, the service manager by sd-daemon, the journal by sd-journal. */
#pragma once

/* The place in the source is no field that a reader of events wants; without it sd_journal_sendv() is no macro. */
#define SD_JOURNAL_SUPPRESS_LOCATION

#include <systemd/sd-bus.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>
#include <systemd/sd-journal.h>
