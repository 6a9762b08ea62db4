/* SPDX-License-Identifier: Apache-2.0
 * conn.c - one connection: requests read one after the other, answers written, time limits kept.
 *
 *   READING --head, body--> BUSY --answer--> READING ...        a refused head: answered at once; a short body is still read,
 *      |                      |                                 after a long one the connection ends
 *      +--- is_closing ------>+--> FLUSHING --all written, FIN--> LINGERING --EOF or time--> closed
 *
 * Bytes are written to the socket at once while nothing waits in the buffer: an event of a stream is one write, and costs no turn
 * of the loop. What the socket does not take waits in the bufferevent.
 *
 * A client that closes only its sending half (EOF) may still read; one that has gone looks the same. Only a write tells: something
 * that means nothing is sent (a comment of an event stream, or "100 Continue"), and whoever is gone resets the connection. The reset
 * would be hidden behind the EOF, so a copy of the descriptor is watched for edges. */
#include "server/core.h"
#include "server/loop_memory.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define SHORT_BODY  65536 /* of a refused request: read, to keep the connection */
#define PER_TURN    16    /* requests of one connection, then others have their turn */
#define NO_DEADLINE UINT64_MAX

static void read_input(qn_conn *c);

/* ---- whose ---- */

/* Bytes have come into the buffer, or left it. */
static void on_output(struct evbuffer *b, const struct evbuffer_cb_info *info, void *arg)
{
    qn_conn *c = arg;
    (void)b;
    if (info->n_added > info->n_deleted)
        qn_caller_count(c->caller, QN_POOL_ANSWERS, info->n_added - info->n_deleted);
    else if (info->n_added < info->n_deleted)
        qn_caller_give(c->caller, QN_POOL_ANSWERS, info->n_deleted - info->n_added);
    c->n_output += info->n_added - info->n_deleted;
}

bool qn_conn_set_caller(qn_conn *c, const char *name, bool may_take_all)
{
    qn_caller *to = qn_callers_enter(c->server->callers, name, may_take_all);
    if (!to)
        return false;
    if (c->n_output) {
        qn_caller_give(c->caller, QN_POOL_ANSWERS, c->n_output);
        qn_caller_count(to, QN_POOL_ANSWERS, c->n_output);
    }
    qn_callers_leave(c->caller);
    c->caller = to;
    return true;
}

/* By its address alone, where that says anything. */
static bool set_address(qn_conn *c)
{
    const qn_server *s = c->server;
    bool is_one = s->is_local || s->is_loopback;
    char name[48] = "";
    int n = is_one ? 0 : snprintf(name, sizeof name, "address ");
    for (size_t i = 0; i < sizeof c->address && !is_one; i++)
        n += snprintf(name + n, sizeof name - (size_t)n, "%02x", c->address[i]);
    return qn_conn_set_caller(c, name, is_one && s->keys->n == 0);
}

/* ---- opening and closing ---- */

static void close_reset(qn_conn *c)
{
    if (!c->reset)
        return;
    event_free(c->reset);
    (void)close(c->reset_fd);
    c->reset = NULL;
}

void qn_conn_close(qn_conn *c)
{
    qn_server *s = c->server;
    if (c->is_turning) { /* read_input will */
        c->is_closed = true;
        return;
    }
    if (c->x)
        qn_x_abandon(c->x);
    if (c->prev)
        c->prev->next = c->next;
    else
        s->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
    s->n_conns--;
    close_reset(c);
    if (c->timer)
        event_free(c->timer);
    if (c->bev) {
        (void)evbuffer_remove_cb(bufferevent_get_output(c->bev), on_output, c);
        bufferevent_free(c->bev);
    }
    if (c->n_output)
        qn_caller_give(c->caller, QN_POOL_ANSWERS, c->n_output);
    qn_callers_leave(c->caller);
    qn_free(c);
    qn_server_check_drained(s);
}

/* Whoever has sent much ahead is not read further. libevent's watermark would do the same, but for 2.1 it takes memory and does not
 * look whether it got any. */
static void pace_reading(qn_conn *c)
{
    bool is_full = evbuffer_get_length(bufferevent_get_input(c->bev)) >= QN_LIMIT_HTTP_AHEAD;
    if (is_full == c->is_full)
        return;
    c->is_full = is_full;
    if ((is_full ? bufferevent_disable : bufferevent_enable)(c->bev, EV_READ) != 0)
        c->is_broken = true;
}

static void on_read(struct bufferevent *bev, void *arg)
{
    qn_conn *c = arg;
    if (c->state == QN_CONN_LINGERING || c->state == QN_CONN_FLUSHING) {
        struct evbuffer *in = bufferevent_get_input(bev);
        (void)evbuffer_drain(in, evbuffer_get_length(in));
        return;
    }
    read_input(c);
}

static void on_written(struct bufferevent *bev, void *arg);
static void on_event(struct bufferevent *bev, short what, void *arg);
static void on_timer(evutil_socket_t fd, short what, void *arg);

static struct bufferevent *new_bufferevent(qn_server *s, int fd)
{
    if (!s->tls)
        return bufferevent_socket_new(s->base, fd, BEV_OPT_CLOSE_ON_FREE);
    /* libevent would make the BIO too, but for 2.1 does not look whether there is one */
    SSL *ssl = SSL_new(s->tls);
    BIO *bio = BIO_new_socket(fd, BIO_NOCLOSE);
    if (!ssl || !bio || !qn_loop_reserve()) {
        SSL_free(ssl);
        (void)BIO_free(bio);
        return NULL;
    }
    SSL_set_bio(ssl, bio, bio);
    /* frees ssl where it fails */
    struct bufferevent *bev = bufferevent_openssl_socket_new(
        s->base, fd, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    qn_loop_release();
    if (bev)
        bufferevent_openssl_set_allow_dirty_shutdown(bev, 1);
    return bev;
}

void qn_conn_open(qn_server *s, int fd, const struct sockaddr *from)
{
    qn_conn *c = qn_calloc(1, sizeof *c, QN_MEM_REQUEST);
    if (!c) {
        (void)close(fd);
        return;
    }
    *c = (qn_conn){.server = s, .fd = fd, .is_tls = s->tls != NULL, .is_local = s->is_local};
    if (!s->is_local)
        qn_listener_address(c->address, from);
    c->next = s->conns;
    if (c->next)
        c->next->prev = c;
    s->conns = c;
    s->n_conns++;
    c->since_ns = c->last_ns = qn_now_ns();
    c->bev = new_bufferevent(s, fd);
    c->timer = evtimer_new(s->base, on_timer, c);
    if (!c->bev || !c->timer || !set_address(c) ||
        !evbuffer_add_cb(bufferevent_get_output(c->bev), on_output, c)) {
        if (!c->bev)
            (void)close(fd);
        qn_conn_close(c);
        return;
    }
    struct timeval t = qn_time_of(s->times.stall_ns);
    bufferevent_setcb(c->bev, on_read, on_written, on_event, c);
    bufferevent_set_timeouts(c->bev, NULL, &t);
    bufferevent_setwatermark(c->bev, EV_WRITE, QN_LIMIT_HTTP_OUTPUT / 2, 0);
    (void)bufferevent_set_max_single_read(c->bev, QN_LIMIT_HTTP_AHEAD);
    if (bufferevent_enable(c->bev, EV_READ | EV_WRITE) != 0)
        qn_conn_close(c);
    else
        qn_conn_watch(c);
}

/* ---- time limits ---- */

static uint64_t deadline_of(const qn_conn *c)
{
    const qn_server_times *t = &c->server->times;
    const qn_exchange *x = c->x;
    switch (c->state) {
    case QN_CONN_READING:
        if (!x)
            return c->since_ns + (c->is_old ? t->idle_ns : t->header_ns);
        if (x->http.state <= QN_HTTP_IN_HEADERS)
            return c->since_ns + t->header_ns;
        return QN_MIN(c->last_ns + t->body_gap_ns, c->since_ns + t->body_ns);
    case QN_CONN_BUSY:
        return x && (x->is_begun || c->is_half) ? x->wrote_ns + t->silence_ns : NO_DEADLINE;
    case QN_CONN_LINGERING:
        return c->since_ns + t->linger_ns;
    default:
        return NO_DEADLINE; /* the write time limit of the bufferevent */
    }
}

void qn_conn_watch(qn_conn *c)
{
    uint64_t at = deadline_of(c), now = qn_now_ns();
    if (at == NO_DEADLINE || (c->armed_ns && c->armed_ns <= at))
        return; /* a timer that fires too early arms itself again */
    struct timeval t = qn_time_until(at, now);
    c->armed_ns = event_add(c->timer, &t) == 0 ? at : 0;
}

static void probe(qn_conn *c);
static void refuse(qn_conn *c, int status, const char *why);

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    qn_conn *c = arg;
    (void)fd;
    (void)what;
    c->armed_ns = 0;
    if (deadline_of(c) > qn_now_ns()) {
        qn_conn_watch(c);
        return;
    }
    if (c->state == QN_CONN_BUSY) {
        if (c->x->is_begun)
            qn_x_silence(c->x);
        else
            probe(c);
        if (c->is_broken)
            qn_conn_close(c);
        else if (c->x->is_ended)
            qn_x_settle(c->x);
        else
            qn_conn_watch(c);
    } else if (c->state == QN_CONN_READING && c->x && c->x->stage == QN_X_READING) {
        refuse(c, 408, "the request did not come in time");
    } else {
        qn_conn_close(c);
    }
}

/* ---- writing ---- */

size_t qn_conn_backlog(const qn_conn *c)
{
    return evbuffer_get_length(bufferevent_get_output(c->bev));
}

bool qn_conn_has_room(const qn_conn *c)
{
    size_t n = qn_conn_backlog(c);
    if (n <= QN_LIMIT_HTTP_AHEAD || n > QN_LIMIT_HTTP_OUTPUT)
        return n <= QN_LIMIT_HTTP_AHEAD;
    return qn_caller_room(c->caller, QN_POOL_ANSWERS, QN_LIMIT_HTTP_OUTPUT) == QN_ROOM;
}

bool qn_conn_is_idle(const qn_conn *c)
{
    int n_unread = 0;
    (void)ioctl(c->fd, FIONREAD, &n_unread);
    return c->state == QN_CONN_READING && !c->x && qn_conn_backlog(c) == 0 && n_unread == 0 &&
           evbuffer_get_length(bufferevent_get_input(c->bev)) == 0;
}

/* What the socket takes of it now: bytes. */
static size_t send_now(qn_conn *c, const struct iovec *v, int n_v)
{
    if (c->is_broken || c->is_tls || qn_conn_backlog(c))
        return 0;
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)v, .msg_iovlen = (size_t)n_v};
    ssize_t k = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    c->is_broken = k < 0 && errno != EAGAIN && errno != EINTR && errno != ENOBUFS;
    return k > 0 ? (size_t)k : 0;
}

void qn_conn_write(qn_conn *c, const struct iovec *v, int n_v)
{
    struct evbuffer *out = bufferevent_get_output(c->bev);
    size_t sent = send_now(c, v, n_v);
    if (c->is_broken)
        return;
    for (int i = 0; i < n_v; i++) {
        size_t skip = QN_MIN(sent, v[i].iov_len);
        sent -= skip;
        if (v[i].iov_len > skip &&
            evbuffer_add(out, (const char *)v[i].iov_base + skip, v[i].iov_len - skip) != 0)
            c->is_broken = true; /* out of memory: half an answer is none */
    }
}

static void write_text(qn_conn *c, const char *text)
{
    struct iovec v = {(void *)(uintptr_t)text, strlen(text)};
    qn_conn_write(c, &v, 1);
}

/* "Sun, 06 Nov 1994 08:49:37 GMT" */
static void add_date(qn_str *s)
{
    time_t now = time(NULL);
    struct tm tm;
    char text[64];
    if (gmtime_r(&now, &tm) && strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &tm))
        qn_str_addf(s, "Date: %s\r\n", text);
}

static void add_head(qn_str *s, qn_conn *c, const qn_exchange *x)
{
    bool is_kept = !c->is_closing;
    qn_str_addf(s, "HTTP/1.1 %d %s\r\n", x->status, qn_http_phrase(x->status));
    add_date(s);
    if (x->type[0])
        qn_str_addf(s, "Content-Type: %s\r\nX-Content-Type-Options: nosniff\r\n", x->type);
    if (x->id[0])
        qn_str_addf(s, "x-request-id: %s\r\n", x->id);
    if (!is_kept)
        qn_str_adds(s, "Connection: close\r\n");
    else if (x->http.minor == 0)
        qn_str_adds(s, "Connection: keep-alive\r\n");
    qn_str_add(s, x->headers.p, x->headers.n);
}

/* Whether the connection ends with this answer. */
static void decide_closing(qn_conn *c, const qn_exchange *x)
{
    bool has_more = evbuffer_get_length(bufferevent_get_input(c->bev)) > 0;
    c->is_closing |=
        !x->http.is_kept || (c->is_half && !has_more) || c->server->phase != QN_SERVER_RUNNING;
}

void qn_conn_send_head(qn_conn *c, qn_exchange *x)
{
    qn_str s = {0};
    decide_closing(c, x);
    c->is_closing |= !x->is_chunked;
    add_head(&s, c, x);
    qn_str_adds(&s, x->is_chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n");
    if (s.failed || x->headers.failed) /* half a header would swallow the next */
        c->is_broken = true;
    else
        write_text(c, s.p);
    qn_str_fini(&s);
}

static void free_sent(const void *p, size_t n, void *arg)
{
    (void)p;
    (void)n;
    qn_free(arg);
}

/* A head, and behind it a body, which is taken over. */
static void write_answer(qn_conn *c, const qn_str *head, qn_str *body)
{
    struct iovec v[] = {{head->p, head->n}, {body->p, body->n}};
    size_t sent = send_now(c, v, 2);
    struct evbuffer *out = bufferevent_get_output(c->bev);
    size_t in_head = QN_MIN(sent, head->n), in_body = sent - in_head;
    if (c->is_broken || in_body == body->n)
        return;
    bool ok = in_head == head->n || evbuffer_add(out, head->p + in_head, head->n - in_head) == 0;
    if (ok &&
        evbuffer_add_reference(out, body->p + in_body, body->n - in_body, free_sent, body->p) == 0)
        *body = (qn_str){0};
    else
        c->is_broken = true;
}

/* Small ones are sent in any case: who asks how the server is gets an answer. */
static void check_room(qn_exchange *x)
{
    if (!x->caller || x->out.n <= QN_LIMIT_HTTP_AHEAD)
        return;
    qn_str out = x->out;
    x->out = (qn_str){0};
    if (!qn_x_take(x, QN_POOL_ANSWERS, out.n)) {
        qn_str_fini(&out);
        return;
    }
    qn_caller_give(x->caller, QN_POOL_ANSWERS, out.n); /* what waits is counted when it does */
    x->out = out;
}

void qn_conn_send_answer(qn_conn *c, qn_exchange *x)
{
    qn_str s = {0};
    bool has_body = x->status >= 200 && x->status != 204 && x->status != 304;
    if (x->out.failed || x->headers.failed) {
        qn_str_fini(&x->out);
        qn_str_fini(&x->headers);
        x->status = 503;
    }
    check_room(x);
    decide_closing(c, x);
    add_head(&s, c, x);
    if (has_body)
        qn_str_addf(&s, "Content-Length: %zu\r\n", x->out.n);
    qn_str_adds(&s, "\r\n");
    if (s.failed) {
        c->is_broken = true;
    } else {
        bool is_sent = has_body && !x->is_head && x->out.n;
        x->n_sent = is_sent ? x->out.n : 0;
        if (is_sent)
            write_answer(c, &s, &x->out);
        else
            write_text(c, s.p);
    }
    qn_str_fini(&s);
    qn_str_fini(&x->out);
}

/* ---- the end ---- */

/* All is written: tell the client, and throw away what it still sends, or else our answer might be lost by a reset. */
static void linger(qn_conn *c)
{
    struct evbuffer *in = bufferevent_get_input(c->bev);
    if (c->is_half || c->is_broken || c->server->phase == QN_SERVER_ENDING) {
        qn_conn_close(c);
        return;
    }
    c->state = QN_CONN_LINGERING;
    c->since_ns = qn_now_ns();
    if (c->is_tls)
        (void)SSL_shutdown(bufferevent_openssl_get_ssl(c->bev));
    (void)shutdown(c->fd, SHUT_WR);
    (void)evbuffer_drain(in, evbuffer_get_length(in));
    pace_reading(c);
    qn_conn_watch(c);
}

static void flush(qn_conn *c)
{
    c->state = QN_CONN_FLUSHING;
    if (c->is_broken)
        qn_conn_close(c);
    else if (qn_conn_backlog(c) == 0)
        linger(c);
}

void qn_conn_next(qn_conn *c)
{
    if (c->is_discarding && !c->is_closing && !c->is_broken)
        return; /* the rest of the refused request comes first */
    qn_x_free(c->x);
    c->x = NULL;
    c->is_discarding = false;
    c->is_old = true;
    c->since_ns = qn_now_ns();
    if (c->is_closing || c->is_broken || c->server->phase != QN_SERVER_RUNNING) {
        qn_server *s = c->server;
        flush(c);
        qn_server_check_drained(s);
        return;
    }
    c->state = QN_CONN_READING;
    qn_conn_watch(c);
    read_input(c);
}

static void on_written(struct bufferevent *bev, void *arg)
{
    qn_conn *c = arg;
    (void)bev;
    if (c->state == QN_CONN_FLUSHING && qn_conn_backlog(c) == 0) {
        linger(c);
    } else if (c->state == QN_CONN_BUSY && c->x && c->x->is_held) {
        qn_x_poll(c->x);
        qn_x_settle(c->x);
    } else if (c->state == QN_CONN_READING && !c->x) {
        read_input(c); /* requests that waited until the answers before them were read */
    }
}

/* ---- clients that go away ---- */

static void on_reset(evutil_socket_t fd, short what, void *arg)
{
    qn_conn *c = arg;
    struct pollfd p = {.fd = fd};
    (void)what;
    if (poll(&p, 1, 0) > 0 && (p.revents & (POLLERR | POLLHUP | POLLNVAL)))
        qn_conn_close(c);
}

/* Writes what means nothing, if there is such a thing now. */
static void probe(qn_conn *c)
{
    qn_exchange *x = c->x;
    if (x->is_event_stream && !x->is_head)
        qn_x_write_comment(x);
    else if (!x->is_begun && x->http.minor == 1)
        write_text(c, "HTTP/1.1 100 Continue\r\n\r\n");
    x->wrote_ns = qn_now_ns();
}

/* The client will send no more while its answer is being made: gone, or only done with sending? */
static void on_half_close(qn_conn *c)
{
    c->is_half = true;
    if (c->is_tls) {
        qn_conn_close(c);
        return;
    }
    c->reset_fd = dup(c->fd);
    if (c->reset_fd >= 0)
        c->reset =
            event_new(c->server->base, c->reset_fd, EV_READ | EV_ET | EV_PERSIST, on_reset, c);
    if (c->reset)
        (void)event_add(c->reset, NULL);
    else if (c->reset_fd >= 0)
        (void)close(c->reset_fd);
    probe(c);
    if (c->is_broken)
        qn_conn_close(c);
    else
        qn_conn_watch(c);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    qn_conn *c = arg;
    (void)bev;
    if (what & BEV_EVENT_CONNECTED)
        return;
    bool is_end = (what & BEV_EVENT_EOF) && !(what & BEV_EVENT_ERROR);
    if (is_end && c->state == QN_CONN_BUSY) {
        on_half_close(c);
    } else if (is_end && c->state == QN_CONN_FLUSHING) {
        c->is_half = true;
    } else if (is_end && c->state == QN_CONN_READING && !c->is_tls) {
        c->is_half = true; /* answers, or requests before it, may still be on their way */
        read_input(c);
    } else {
        qn_conn_close(c);
    }
}

/* ---- reading ---- */

static bool is_id(qn_slice s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
              strchr("-_.:", c)))
            return false;
    }
    return s.n > 0 && s.n <= QN_LIMIT_HTTP_REQUEST_ID;
}

static void set_id(qn_exchange *x)
{
    qn_server *s = x->server;
    qn_slice given = qn_http_header(&x->http, "x-request-id");
    if (is_id(given))
        (void)snprintf(x->id, sizeof x->id, "%.*s", (int)given.n, given.p);
    else
        (void)snprintf(x->id, sizeof x->id, "req-%016llx%08llx", (unsigned long long)s->id_prefix,
                       (unsigned long long)++s->n_ids);
}

static void read_head(qn_conn *c, size_t n_ahead)
{
    qn_exchange *x = c->x;
    const qn_http *h = &x->http;
    set_id(x);
    x->is_head = qn_slice_is(h->method, "HEAD");
    qn_slice class_name = qn_http_header(h, "x-priority");
    if (class_name.n)
        x->class_name = qn_arena_strndup(&x->arena, class_name.p, class_name.n);
    if (class_name.n && !x->class_name)
        qn_x_error(x, 503, NULL, NULL, "out of memory");
    c->since_ns = c->last_ns = qn_now_ns();
    if (!x->status && qn_access_check(x)) {
        if (h->wants_continue && n_ahead == 0)
            write_text(c, "HTTP/1.1 100 Continue\r\n\r\n");
        qn_conn_watch(c);
        return;
    }
    bool has_body = h->is_chunked || h->n_length > 0;
    bool is_short = !h->is_chunked && h->n_length <= SHORT_BODY && !h->wants_continue;
    c->is_closing |= has_body && !is_short;
    c->is_discarding = true;
    qn_x_settle(x);
}

static void read_piece(qn_conn *c)
{
    qn_exchange *x = c->x;
    qn_slice piece = x->http.piece;
    c->last_ns = qn_now_ns();
    if (c->is_discarding)
        return;
    bool ok = qn_x_take(x, QN_POOL_BODIES, piece.n);
    if (ok) {
        x->n_body += piece.n;
        ok = qn_grow(&x->body, &x->cap_body, x->n_body, 1, QN_MEM_REQUEST);
        if (!ok)
            qn_x_error(x, 503, NULL, NULL, "out of memory");
    }
    if (!ok) {
        c->is_closing = true;
        qn_x_settle(x);
        return;
    }
    memcpy(x->body + x->n_body - piece.n, piece.p, piece.n);
}

static void read_end(qn_conn *c)
{
    qn_exchange *x = c->x;
    if (c->is_discarding) {
        c->is_discarding = false;
        qn_conn_next(c);
        return;
    }
    c->state = QN_CONN_BUSY;
    x->wrote_ns = qn_now_ns();
    if (x->route->is_quick) {
        x->stage = QN_X_ANSWERING;
        x->route->handle(x);
        qn_x_poll(x);
        qn_x_settle(x);
        return;
    }
    if (qn_x_hand_over(x, QN_X_HANDLE))
        return;
    x->stage = QN_X_ANSWERING;
    qn_x_settle(x);
}

/* What was read, or not read in time, is no request: nothing after it can be either. */
static void refuse(qn_conn *c, int status, const char *why)
{
    qn_exchange *x = c->x;
    c->is_closing = true;
    if (c->is_discarding) { /* answered already */
        qn_conn_next(c);
        return;
    }
    if (!x->id[0])
        set_id(x);
    qn_x_because(x, why);
    qn_x_error(x, status, NULL, NULL, "%s", why);
    qn_x_settle(x);
}

/* The next event of the parser; false: nothing more can be done now. */
static bool read_step(qn_conn *c)
{
    struct evbuffer *in = bufferevent_get_input(c->bev);
    struct evbuffer_iovec v = {0};
    size_t n_all = evbuffer_get_length(in), used;
    if (!c->x) {
        /* whoever does not read its answers gets no more of them */
        if (n_all == 0 || qn_conn_backlog(c) > QN_LIMIT_HTTP_AHEAD)
            return false;
        c->x = qn_x_new(c);
        if (!c->x) {
            qn_conn_close(c);
            return false;
        }
        if (c->is_old) /* of a new connection the time runs from the beginning */
            c->since_ns = qn_now_ns();
        qn_conn_watch(c);
    }
    if (n_all)
        (void)evbuffer_peek(in, -1, NULL, &v, 1);
    qn_http_event e = qn_http_take(&c->x->http, v.iov_base, v.iov_len, &used);
    if (e == QN_HTTP_BODY)
        read_piece(c); /* before its bytes are gone */
    (void)evbuffer_drain(in, used);
    if (e == QN_HTTP_HEAD)
        read_head(c, n_all - used);
    else if (e == QN_HTTP_END)
        read_end(c);
    else if (e == QN_HTTP_BAD)
        refuse(c, c->x->http.status, c->x->http.reason);
    return e != QN_HTTP_MORE || n_all > used;
}

static void read_input(qn_conn *c)
{
    if (c->is_turning)
        return;
    c->is_turning = true; /* and not freed meanwhile */
    int n_steps = 0;
    while (c->state == QN_CONN_READING && !c->is_closed && n_steps < PER_TURN && read_step(c))
        n_steps += !c->x;
    c->is_turning = false;
    pace_reading(c);
    bool is_cut = c->state == QN_CONN_READING && c->is_half && c->x; /* the rest will not come */
    if (c->is_closed || c->is_broken || (is_cut && n_steps < PER_TURN))
        qn_conn_close(c);
    else if (n_steps == PER_TURN)
        bufferevent_trigger(c->bev, EV_READ, BEV_TRIG_DEFER_CALLBACKS | BEV_TRIG_IGNORE_WATERMARKS);
    else if (c->state == QN_CONN_READING && c->is_half &&
             evbuffer_get_length(bufferevent_get_input(c->bev)) == 0)
        flush(c);
}
