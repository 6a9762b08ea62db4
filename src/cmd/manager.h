/* SPDX-License-Identifier: Apache-2.0
 * manager.h - the service manager that started us, if one did: what systemd's sd_notify(3), sd_listen_fds(3) and
 * sd_watchdog_enabled(3) describe, without its library.
 *
 * What it wants to hear goes to a socket that is opened at once: later, none may be. Threads: any may tell. */
#ifndef QN_CMD_MANAGER_H
#define QN_CMD_MANAGER_H

#include "base/str.h"

typedef struct cmd_manager {
    int fd;          /* to tell it something; -1: it does not listen */
    int listen_fd;   /* a socket that it listens on for us; 0: none */
    int watchdog_ms; /* it wants to hear WATCHDOG=1 so often; 0: not */
    qn_str host;     /* of listen_fd: the address, or unix:PATH */
    int port;
} cmd_manager;

QN_MUST_USE qn_status cmd_manager_open(cmd_manager *m, qn_err *err);
void cmd_manager_tell(const cmd_manager *m, const char *state); /* never waits */
void cmd_manager_close(cmd_manager *m);

#endif
