/* SPDX-License-Identifier: Apache-2.0
 * load_client.c - connections, TLS, timeouts. */
#include "cmd/load_client.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"

typedef struct load_conn {
    load_client *client;
    struct bufferevent *bev;
    load_call *call; /* NULL: idle */
    load_http http;
    uint64_t n_answers;
    bool is_open;                  /* connected, TLS agreed on */
    struct load_conn *prev, *next; /* of all */
    struct load_conn *next_idle;
} load_conn;

struct load_client {
    struct event_base *base;
    const load_client_config *config;
    struct addrinfo *addresses, *address;
    SSL_CTX *tls;
    load_conn *all, *idle;
    size_t n_conns, max_conns;
    load_call *queue, *queue_last; /* waiting for a connection */
};

/* ---- making and ending ---- */

static qn_status tls_new(load_client *c, qn_err *err)
{
    c->tls = SSL_CTX_new(TLS_client_method());
    if (!c->tls)
        return qn_fail_nomem(err, 1);
    if (SSL_CTX_set_min_proto_version(c->tls, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_default_verify_paths(c->tls) != 1)
        return qn_fail(err, QN_E_IO, "TLS: cannot be set up");
    SSL_CTX_set_verify(c->tls, c->config->is_insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    return QN_OK;
}

/* Files that may be open are the limit of connections; some are not ours to take. */
static size_t connections_allowed(void)
{
    struct rlimit r;
    const rlim_t spare = 64, most = 60000; /* ports of one address */
    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return 256;
    if (r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &r) != 0)
            (void)getrlimit(RLIMIT_NOFILE, &r);
    }
    rlim_t n = r.rlim_cur > spare + 1 ? r.rlim_cur - spare : 1;
    return (size_t)QN_MIN(n, most);
}

qn_status load_client_new(load_client **out, struct event_base *base,
                          const load_client_config *config, qn_err *err)
{
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    *out = NULL;
    load_client *c = qn_calloc(1, sizeof *c, QN_MEM_MISC);
    if (!c)
        return qn_fail_nomem(err, sizeof *c);
    c->base = base;
    c->config = config;
    c->max_conns = connections_allowed();
    qn_status s = config->url->is_tls ? tls_new(c, err) : QN_OK;
    (void)snprintf(port, sizeof(port), "%d", config->url->port);
    int rc = s == QN_OK ? getaddrinfo(config->url->host, port, &hints, &c->addresses) : 0;
    if (rc != 0)
        s = qn_fail(err, QN_E_NOT_FOUND, "%s: %s", config->url->host, gai_strerror(rc));
    c->address = c->addresses;
    if (s != QN_OK) {
        load_client_free(c);
        return s;
    }
    *out = c;
    return QN_OK;
}

bool load_client_next_address(load_client *c)
{
    if (!c->address->ai_next)
        return false;
    c->address = c->address->ai_next;
    return true;
}

static void conn_free(load_conn *n)
{
    load_client *c = n->client;
    for (load_conn **p = &c->idle; *p; p = &(*p)->next_idle)
        if (*p == n) {
            *p = n->next_idle;
            break;
        }
    if (n->prev)
        n->prev->next = n->next;
    else
        c->all = n->next;
    if (n->next)
        n->next->prev = n->prev;
    c->n_conns--;
    bufferevent_free(n->bev);
    load_http_fini(&n->http);
    qn_free(n);
}

void load_client_free(load_client *c)
{
    if (!c)
        return;
    while (c->all) {
        if (c->all->call)
            load_client_cancel(c, c->all->call);
        else
            conn_free(c->all);
    }
    while (c->queue)
        load_client_cancel(c, c->queue);
    if (c->addresses)
        freeaddrinfo(c->addresses);
    SSL_CTX_free(c->tls);
    qn_free(c);
}

/* ---- calls ---- */

static void stop_timer(load_call *call)
{
    if (call->has_timer)
        (void)event_del(&call->timer);
    call->has_timer = false;
}

static void leave_queue(load_client *c, load_call *call)
{
    load_call *before = NULL;
    for (load_call *q = c->queue; q; before = q, q = q->next) {
        if (q != call)
            continue;
        *(before ? &before->next : &c->queue) = q->next;
        if (c->queue_last == q)
            c->queue_last = before;
        return;
    }
}

static void serve_queue(load_client *c);

void load_client_cancel(load_client *c, load_call *call)
{
    stop_timer(call);
    if (call->conn)
        conn_free(call->conn);
    else
        leave_queue(c, call);
    call->conn = NULL;
}

/* The connection is kept or closed before the caller hears of it: it may start its next call at once. */
static void call_end(load_call *call, load_trouble why, const qn_err *err)
{
    load_conn *n = call->conn;
    load_client *c = n->client;
    load_http http = n->http;
    bool is_kept = why == LOAD_NO_TROUBLE && http.keeps_alive &&
                   evbuffer_get_length(bufferevent_get_input(n->bev)) == 0 &&
                   evbuffer_get_length(bufferevent_get_output(n->bev)) == 0;
    stop_timer(call);
    call->conn = NULL;
    n->call = NULL;
    n->n_answers++;
    if (is_kept) {
        n->next_idle = c->idle;
        c->idle = n;
    } else {
        conn_free(n);
    }
    http.line = (qn_str){0};
    call->end(call, why, &http, err);
    serve_queue(c);
}

/* Ends a call that has no connection. */
static void refuse(load_call *call, load_trouble why, const qn_err *err)
{
    const load_http none = {.retry_after_s = -1};
    stop_timer(call);
    call->conn = NULL;
    call->end(call, why, &none, err);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
    load_call *call = arg;
    qn_err err = {0};
    (void)fd;
    (void)what;
    call->has_timer = false;
    (void)qn_fail(&err, QN_E_TIMEOUT, "no whole answer within %.0f s",
                  (double)call->timeout_ns * 1e-9);
    if (call->conn) {
        call_end(call, LOAD_TIMED_OUT, &err);
        return;
    }
    leave_queue(call->client, call);
    refuse(call, LOAD_TIMED_OUT, &err);
}

static qn_status on_body(void *arg, const char *p, size_t n, qn_err *err)
{
    load_call *call = arg;
    return call->body(call->arg, p, n, err);
}

static void send_call(load_conn *n, load_call *call)
{
    const load_client_config *o = n->client->config;
    struct evbuffer *out = bufferevent_get_output(n->bev);
    n->call = call;
    call->conn = n;
    load_http_init(&n->http, on_body, call);
    call->http = &n->http;
    /* evbuffer_add_printf fails only for want of memory; the server then sees a request cut short */
    (void)evbuffer_add_printf(out,
                              "%s %s%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: quern-load/" QN_VERSION
                              "\r\nAccept: text/event-stream, application/json\r\n",
                              call->method, o->url->base, call->path, o->url->authority);
    if (o->api_key)
        (void)evbuffer_add_printf(out, "Authorization: Bearer %s\r\n", o->api_key);
    if (call->class_name)
        (void)evbuffer_add_printf(out, "x-priority: %s\r\n", call->class_name);
    if (call->text.n)
        (void)evbuffer_add_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                                  call->text.n);
    (void)evbuffer_add(out, "\r\n", 2);
    if (call->text.n)
        (void)evbuffer_add(out, call->text.p, call->text.n);
    call->sent_ns = qn_now_ns();
}

/* ---- what happens on a connection ---- */

static void conn_new(load_client *c, load_call *call);

/* A kept connection that the server closed just as it was used: not the server's failure. */
static bool retry(load_conn *n)
{
    load_call *call = n->call;
    if (n->n_answers == 0 || n->http.is_begun || call->is_retried)
        return false;
    load_client *c = n->client;
    call->is_retried = true;
    call->conn = NULL;
    n->call = NULL;
    conn_free(n);
    conn_new(c, call);
    return true;
}

static void on_read(struct bufferevent *bev, void *arg)
{
    load_conn *n = arg;
    struct evbuffer *in = bufferevent_get_input(bev);
    load_call *call = n->call;
    struct evbuffer_iovec v;
    qn_err err = {0};
    if (!call) { /* an answer to nothing */
        conn_free(n);
        return;
    }
    call->read_ns = qn_now_ns();
    while (!load_http_is_whole(&n->http) && evbuffer_peek(in, -1, NULL, &v, 1) >= 1) {
        size_t used = 0;
        qn_status s = load_http_feed(&n->http, v.iov_base, v.iov_len, &used, &err);
        (void)evbuffer_drain(in, used);
        if (s != QN_OK) {
            call_end(call, LOAD_BAD, &err);
            return;
        }
    }
    if (load_http_is_whole(&n->http))
        call_end(call, LOAD_NO_TROUBLE, &err);
}

/* What OpenSSL or the system says. */
static void describe(load_conn *n, int error, qn_err *err)
{
    SSL *ssl = bufferevent_openssl_get_ssl(n->bev);
    unsigned long code = bufferevent_get_openssl_error(n->bev);
    long verified = ssl ? SSL_get_verify_result(ssl) : X509_V_OK;
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    if (verified != X509_V_OK && !n->client->config->is_insecure)
        (void)qn_fail(err, QN_E_PEER, "TLS: certificate: %s; --insecure takes any",
                      X509_verify_cert_error_string(verified));
    else if (reason)
        (void)qn_fail(err, QN_E_PEER, "TLS: %s", reason);
    else
        (void)qn_fail(err, QN_E_PEER, "%s", error ? strerror(error) : "connection closed");
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    load_conn *n = arg;
    load_call *call = n->call;
    int error = EVUTIL_SOCKET_ERROR();
    qn_err err = {0};
    (void)bev;
    if (what & BEV_EVENT_CONNECTED) {
        n->is_open = true;
        return;
    }
    if (!call) {
        conn_free(n);
        return;
    }
    call->read_ns = qn_now_ns();
    if (retry(n))
        return;
    if ((what & BEV_EVENT_EOF) && n->is_open) {
        qn_status s = load_http_close(&n->http, &err);
        n->http.keeps_alive = false;
        call_end(call, s == QN_OK ? LOAD_NO_TROUBLE : LOAD_CUT, &err);
        return;
    }
    describe(n, error, &err);
    call_end(call, n->is_open ? LOAD_CUT : LOAD_NO_CONNECTION, &err);
}

/* ---- connecting ---- */

static struct bufferevent *tls_bufferevent(load_client *c, evutil_socket_t fd)
{
    const load_client_config *o = c->config;
    SSL *ssl = SSL_new(c->tls);
    if (!ssl)
        return NULL;
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    bool good = true;
    if (X509_VERIFY_PARAM_set1_ip_asc(param, o->url->host) != 1) /* it is a name */
        good = SSL_set1_host(ssl, o->url->host) == 1 &&
               SSL_set_tlsext_host_name(ssl, o->url->host) == 1;
    if (!good) {
        SSL_free(ssl);
        return NULL;
    }
    /* frees ssl where it fails */
    struct bufferevent *bev =
        bufferevent_openssl_socket_new(c->base, fd, ssl, BUFFEREVENT_SSL_CONNECTING,
                                       BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS);
    if (bev)
        bufferevent_openssl_set_allow_dirty_shutdown(bev, 1);
    return bev;
}

static int socket_new(const load_client *c)
{
    int one = 1, fd = socket(c->address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void conn_new(load_client *c, load_call *call)
{
    qn_err err = {0};
    load_conn *n = qn_calloc(1, sizeof *n, QN_MEM_MISC);
    int fd = n ? socket_new(c) : -1;
    if (!n)
        (void)qn_fail_nomem(&err, sizeof *n);
    else if (fd < 0)
        (void)qn_fail(&err, QN_E_IO, "%s", strerror(errno));
    else if (c->tls)
        n->bev = tls_bufferevent(c, fd);
    else
        n->bev =
            bufferevent_socket_new(c->base, fd, BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS);
    if (!n || !n->bev) {
        if (fd >= 0) {
            (void)close(fd);
            (void)qn_fail_nomem(&err, sizeof *n);
        }
        qn_free(n);
        refuse(call, LOAD_NO_CONNECTION, &err);
        return;
    }
    n->client = c;
    n->next = c->all;
    if (c->all)
        c->all->prev = n;
    c->all = n;
    c->n_conns++;
    bufferevent_setcb(n->bev, on_read, NULL, on_event, n);
    send_call(n, call);
    (void)bufferevent_enable(n->bev, EV_READ | EV_WRITE);
    /* a failure is told by on_event, later */
    (void)bufferevent_socket_connect(n->bev, c->address->ai_addr, (int)c->address->ai_addrlen);
}

/* On an idle connection, or a new one. */
static void place(load_client *c, load_call *call)
{
    load_conn *n = c->idle;
    if (!n) {
        conn_new(c, call);
        return;
    }
    c->idle = n->next_idle;
    n->next_idle = NULL;
    send_call(n, call);
}

/* ---- starting ---- */

static void serve_queue(load_client *c)
{
    while (c->queue && (c->idle || c->n_conns < c->max_conns)) {
        load_call *call = c->queue;
        leave_queue(c, call);
        place(c, call);
    }
}

void load_client_start(load_client *c, load_call *call)
{
    call->client = c;
    call->conn = NULL;
    call->next = NULL;
    call->sent_ns = call->read_ns = 0;
    call->is_retried = call->has_timer = false;
    if (call->timeout_ns) {
        struct timeval t = {.tv_sec = (time_t)(call->timeout_ns / 1000000000u),
                            .tv_usec = (suseconds_t)(call->timeout_ns / 1000u % 1000000u)};
        call->has_timer = event_assign(&call->timer, c->base, -1, 0, on_timeout, call) == 0 &&
                          event_add(&call->timer, &t) == 0;
    }
    if (c->idle || c->n_conns < c->max_conns) {
        place(c, call);
        return;
    }
    if (c->queue_last)
        c->queue_last->next = call;
    else
        c->queue = call;
    c->queue_last = call;
}
