/* SPDX-License-Identifier: Apache-2.0
 * manager.c - the protocol of a service manager: variables, one socket for states, one that listens. */
#include "cmd/manager.h"

#include "base/file.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_FD 3 /* SD_LISTEN_FDS_START */

/* 0 where it is not set or no number. */
static uint64_t number_of(const char *variable)
{
    const char *text = qn_env(variable);
    uint64_t n = 0;
    return text && qn_parse_u64(text, strlen(text), UINT64_MAX, &n) ? n : 0;
}

/* A variable that names a process may be inherited from one that it was meant for. */
static bool is_ours(const char *variable)
{
    return number_of(variable) == (uint64_t)getpid();
}

static int open_notify(void)
{
    const char *path = qn_env("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t n = path ? strlen(path) : 0;
    if (n < 2 || n >= sizeof to.sun_path)
        return -1;
    memcpy(to.sun_path, path, n);
    if (path[0] == '@') /* a name without a file */
        to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t n_to = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&to, n_to) == 0)
        return fd;
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

static qn_status name_socket(cmd_manager *m, qn_err *err)
{
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a;
    char text[INET6_ADDRSTRLEN] = "";
    if (getsockname(m->listen_fd, (struct sockaddr *)&a, &n) != 0)
        return qn_fail(err, QN_E_IO, "LISTEN_FDS: descriptor %d: %s", m->listen_fd,
                       strerror(errno));
    if (a.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&a;
        (void)inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
        m->port = ntohs(in->sin_port);
    } else if (a.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)&a;
        (void)inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof text);
        m->port = ntohs(in->sin6_port);
    } else if (a.ss_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)&a;
        qn_str_addf(&m->host, "unix:%.*s", (int)sizeof un->sun_path, un->sun_path);
    } else {
        return qn_fail(err, QN_E_ARG, "LISTEN_FDS: found a socket of family %d, want TCP or unix",
                       a.ss_family);
    }
    qn_str_adds(&m->host, text);
    return m->host.failed ? qn_fail_nomem(err, sizeof text) : QN_OK;
}

qn_status cmd_manager_open(cmd_manager *m, qn_err *err)
{
    uint64_t n_fds = is_ours("LISTEN_PID") ? number_of("LISTEN_FDS") : 0;
    uint64_t us = number_of("WATCHDOG_USEC");
    *m = (cmd_manager){.fd = open_notify()};
    if (m->fd >= 0 && us && (!qn_env("WATCHDOG_PID") || is_ours("WATCHDOG_PID")))
        m->watchdog_ms = (int)QN_MIN(QN_MAX(us / 1000, (uint64_t)1), (uint64_t)86400000);
    if (n_fds > 1)
        return qn_fail(err, QN_E_ARG, "LISTEN_FDS: found %llu sockets, want 1",
                       (unsigned long long)n_fds);
    if (!n_fds)
        return QN_OK;
    m->listen_fd = FIRST_FD;
    return name_socket(m, err);
}

void cmd_manager_tell(const cmd_manager *m, const char *state)
{
    if (m->fd >= 0)
        (void)send(m->fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void cmd_manager_close(cmd_manager *m)
{
    if (m->fd >= 0)
        (void)close(m->fd);
    m->fd = -1;
    qn_str_fini(&m->host);
}
