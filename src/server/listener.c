/* SPDX-License-Identifier: Apache-2.0
 * listener.c - the address that is listened on, and who is let in.
 *
 * A connection over a limit gets its 503 from the accept itself: it costs no memory. When descriptors run out, accepting
 * pauses; the kernel keeps the others waiting. */
#include "server/core.h"

#include "base/file.h"
#include <arpa/inet.h>
#include <errno.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG  1024
#define PAUSE_MS 100
#define FRESH_NS 1000000000u

/* ---- binding ---- */

static qn_status fail_at(qn_err *err, const qn_server_config *cfg, const char *what)
{
    int e = errno;
    char why[128];
    return qn_fail(err, QN_E_IO, "%s port %d: %s: %s%s", cfg->host ? cfg->host : "127.0.0.1",
                   cfg->port, what, strerror_r(e, why, sizeof why),
                   e == EADDRINUSE ? "; take another with --port N (0: any free one)" : "");
}

/* A socket file that nobody listens on any more may be replaced; anything else may not. */
static qn_status remove_stale(const struct sockaddr_un *a, qn_err *err)
{
    struct stat st;
    if (lstat(a->sun_path, &st) != 0)
        return QN_OK;
    if (!S_ISSOCK(st.st_mode))
        return qn_fail(err, QN_E_IO, "%s: exists and is not a socket", a->sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool is_used = fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof *a) == 0;
    if (fd >= 0)
        (void)close(fd);
    if (is_used)
        return qn_fail(err, QN_E_IO, "%s: another server listens there", a->sun_path);
    (void)unlink(a->sun_path);
    return QN_OK;
}

static qn_status bind_local(qn_server *s, const char *path, int *out, qn_err *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof a.sun_path)
        return qn_fail(err, QN_E_ARG, "unix:%s: found a path of %zu bytes, want 1 to %zu", path,
                       strlen(path), sizeof a.sun_path - 1);
    memcpy(a.sun_path, path, strlen(path) + 1);
    QN_TRY(remove_stale(&a, err));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail_at(err, s->cfg, "socket");
    /* nobody can connect between bind and listen */
    int mode = s->cfg->socket_mode;
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 ||
        (mode && chmod(path, (mode_t)mode) != 0) || listen(fd, BACKLOG) != 0) {
        qn_status st = fail_at(err, s->cfg, "bind");
        (void)close(fd);
        return st;
    }
    s->is_local = true;
    s->socket_path = qn_strdup(path, QN_MEM_MISC);
    *out = fd;
    return s->socket_path ? QN_OK : qn_fail_nomem(err, strlen(path));
}

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
    return a->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

static int bind_one(const struct addrinfo *a)
{
    int one = 1;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int e = errno;
    (void)close(fd);
    errno = e;
    return -1;
}

static qn_status bind_net(qn_server *s, const char *host, int *out, qn_err *err)
{
    struct addrinfo want = {.ai_socktype = SOCK_STREAM,
                            .ai_flags = AI_PASSIVE | AI_NUMERICSERV | AI_ADDRCONFIG},
                    *found = NULL;
    char port[12];
    if (s->cfg->port < 0 || s->cfg->port > 65535)
        return qn_fail(err, QN_E_ARG, "port: found %d, want 0 to 65535", s->cfg->port);
    (void)snprintf(port, sizeof port, "%d", s->cfg->port);
    int e = getaddrinfo(host, port, &want, &found);
    if (e == EAI_MEMORY)
        return qn_fail_nomem(err, sizeof *found);
    if (e != 0) {
        bool is_of_system = e == EAI_SYSTEM || e == EAI_AGAIN || e == EAI_FAIL;
        return qn_fail(err, is_of_system ? QN_E_IO : QN_E_ARG, "%s: %s", host, gai_strerror(e));
    }
    int fd = -1;
    for (const struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = bind_one(a);
        s->is_loopback = is_loopback(a->ai_addr);
    }
    qn_status st = fd < 0 ? fail_at(err, s->cfg, "cannot listen") : QN_OK;
    freeaddrinfo(found);
    *out = fd;
    return st;
}

/* A socket that the service manager holds open for us. */
static qn_status adopt(qn_server *s, int fd, qn_err *err)
{
    struct sockaddr_storage a = {0};
    int is_listening = 0, type = 0;
    socklen_t n_a = sizeof a, n_listening = sizeof is_listening, n_type = sizeof type;
    if (getsockname(fd, (struct sockaddr *)&a, &n_a) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &n_listening) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n_type) != 0 || !is_listening ||
        type != SOCK_STREAM)
        return qn_fail(err, QN_E_ARG, "descriptor %d: want a stream socket that listens", fd);
    s->is_local = a.ss_family == AF_UNIX;
    s->is_loopback = !s->is_local && is_loopback((struct sockaddr *)&a);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || evutil_make_socket_nonblocking(fd) != 0)
        return qn_fail(err, QN_E_IO, "descriptor %d: %s", fd, strerror(errno));
    return QN_OK;
}

/* 0: it has none, it is local; -1: errno. */
static int port_of(int fd)
{
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0)
        return -1;
    if (a.ss_family == AF_INET)
        return ntohs(((struct sockaddr_in *)&a)->sin_port);
    return a.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&a)->sin6_port) : 0;
}

/* ---- accepting ---- */

void qn_listener_address(uint8_t out[16], const struct sockaddr *from)
{
    memset(out, 0, 16);
    if (from->sa_family == AF_INET)
        memcpy(out, &((const struct sockaddr_in *)(const void *)from)->sin_addr, 4);
    else if (from->sa_family == AF_INET6)
        memcpy(out, &((const struct sockaddr_in6 *)(const void *)from)->sin6_addr, 8);
}

/* One between requests; a new one has FRESH_NS for its first. */
static bool may_go(const qn_conn *c, uint64_t now)
{
    return (c->is_old || now - c->since_ns > FRESH_NS) && qn_conn_is_idle(c);
}

/* A place for one more: it may be that of the connection that has been idle for longest, as in nginx; so who only sits there
 * keeps nobody out. False: all are at work. */
static bool make_place(qn_server *s, const struct sockaddr *from)
{
    uint8_t address[16] = {0};
    uint64_t now = qn_now_ns();
    int n = 0;
    if (!s->is_local)
        qn_listener_address(address, from);
    for (const qn_conn *c = s->conns; c && !s->is_local; c = c->next)
        n += memcmp(c->address, address, sizeof address) == 0;
    bool is_mine = n >= s->max_per_address;
    if (!is_mine && s->n_conns < (size_t)s->max_connections)
        return true;
    qn_conn *longest = NULL;
    for (qn_conn *c = s->conns; c; c = c->next)
        if ((!is_mine || memcmp(c->address, address, sizeof address) == 0) &&
            (!longest || c->since_ns < longest->since_ns) && may_go(c, now))
            longest = c;
    if (longest)
        qn_conn_close(longest);
    return longest;
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *from, int n,
                      void *arg)
{
    static const char full[] = "HTTP/1.1 503 Service Unavailable\r\n"
                               "Content-Type: application/json\r\nRetry-After: 5\r\n"
                               "Connection: close\r\n\r\n{\"error\":{\"message\":"
                               "\"too many connections\",\"type\":\"unavailable_error\","
                               "\"param\":null,\"code\":null}}";
    qn_server *s = arg;
    int one = 1, idle_s = 30, every_s = 10, times = 3;
    (void)l;
    (void)n;
    if (!make_place(s, from)) {
        if (!s->tls)
            (void)send(fd, full, sizeof full - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)close(fd);
        return;
    }
    if (!s->is_local) {
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        /* a client whose machine or network is gone says nothing at all */
        (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
    }
    qn_conn_open(s, fd, from);
}

static void on_accept_error(struct evconnlistener *l, void *arg)
{
    qn_server *s = arg;
    struct timeval pause = {0, PAUSE_MS * 1000L};
    if (event_add(s->resume, &pause) == 0)
        (void)evconnlistener_disable(l);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
    qn_server *s = arg;
    struct timeval pause = {0, PAUSE_MS * 1000L};
    (void)fd;
    (void)what;
    if (s->listener && evconnlistener_enable(s->listener) != 0)
        (void)event_add(s->resume, &pause);
}

qn_status qn_listener_open(qn_server *s, qn_err *err)
{
    const char *host = s->cfg->host && *s->cfg->host ? s->cfg->host : "127.0.0.1";
    int fd = s->cfg->listen_fd ? s->cfg->listen_fd : -1;
    QN_TRY(s->cfg->listen_fd               ? adopt(s, fd, err)
           : qn_starts_with(host, "unix:") ? bind_local(s, host + 5, &fd, err)
                                           : bind_net(s, host, &fd, err));
    s->port = port_of(fd);
    if (s->port < 0) {
        qn_status st = fail_at(err, s->cfg, "cannot tell the port");
        (void)close(fd);
        return st;
    }
    s->resume = evtimer_new(s->base, on_resume, s);
    s->listener =
        evconnlistener_new(s->base, on_accept, s,
                           LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_DISABLED, 0, fd);
    if (!s->listener)
        (void)close(fd);
    /* enabled by itself it would not say that it could not */
    if (!s->listener || !s->resume || evconnlistener_enable(s->listener) != 0)
        return qn_fail_nomem(err, sizeof *s);
    evconnlistener_set_error_cb(s->listener, on_accept_error);
    return QN_OK;
}

void qn_listener_close(qn_server *s)
{
    if (s->listener)
        evconnlistener_free(s->listener);
    s->listener = NULL;
    if (s->socket_path)
        (void)unlink(s->socket_path);
    qn_free(s->socket_path);
    s->socket_path = NULL;
}
