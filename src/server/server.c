/* SPDX-License-Identifier: Apache-2.0
 * server.c - from listening to the end.
 *
 *   wake_fd   whoever wants the I/O thread writes there: exchanges are ready, a model is open, stop was called
 *   phases    RUNNING --stop--> DRAINING --all answered, or drain_s--> ENDING --all written, or END_MS--> run returns
 *                     \-------------------- second stop --------------/                     (second stop: at once)
 *
 * While it drains it goes on listening, and tells whoever comes to come again (503): a balancer reads /health, a client its
 * Retry-After. Only a socket that someone else holds open too is let go of: there clients wait for the next server. */
#include "server/core.h"

#include <errno.h>
#include <event2/bufferevent.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define END_MS    1000 /* for last words that are written but not yet read */
#define LOG_LINES 1024 /* that wait for the log */
#define TRIES     16   /* of what must not fail */
#define WAITS     1000 /* that may fail within a second; one that always fails does in a millisecond */

/* Every API. */
static const qn_route *const all_routes[] = {
    qn_status_routes, qn_openai_routes,    qn_tokens_routes,   qn_anthropic_routes,
    qn_ollama_routes, qn_responses_routes, qn_generate_routes, NULL};

/* ---- the ready list ---- */

void qn_server_wake(qn_server *s)
{
    uint64_t one = 1;
    int e = errno; /* a signal handler's caller must not lose it */
    for (int i = 0; i < TRIES && write(s->wake_fd, &one, sizeof one) < 0 && errno != EAGAIN; i++)
        ; /* EAGAIN: it is full, and wakes */
    errno = e;
}

void qn_server_ready(qn_exchange *x, bool back)
{
    qn_server *s = x->server;
    (void)pthread_mutex_lock(&s->ready_lock);
    bool is_first = !s->ready;
    x->is_back |= back;
    if (!x->is_listed) {
        x->is_listed = true;
        x->next_ready = NULL;
        *s->ready_end = x;
        s->ready_end = &x->next_ready;
    }
    (void)pthread_mutex_unlock(&s->ready_lock);
    if (is_first)
        qn_server_wake(s);
}

/* The first of the list; *is_back: its worker has let go of it. */
static qn_exchange *take_ready(qn_server *s, bool *is_back)
{
    (void)pthread_mutex_lock(&s->ready_lock);
    qn_exchange *x = s->ready;
    if (x) {
        s->ready = x->next_ready;
        if (!s->ready)
            s->ready_end = &s->ready;
        x->is_listed = false;
        *is_back = x->is_back;
        x->is_back = false;
    }
    (void)pthread_mutex_unlock(&s->ready_lock);
    return x;
}

void qn_server_unlist(qn_exchange *x)
{
    qn_server *s = x->server;
    (void)pthread_mutex_lock(&s->ready_lock);
    qn_exchange **at = &s->ready;
    while (x->is_listed && *at != x)
        at = &(*at)->next_ready;
    if (x->is_listed) {
        *at = x->next_ready;
        if (!*at)
            s->ready_end = at;
        x->is_listed = false;
    }
    (void)pthread_mutex_unlock(&s->ready_lock);
}

static void serve_ready(qn_server *s)
{
    bool is_back = false;
    for (qn_exchange *x; (x = take_ready(s, &is_back));) {
        if (x->stage == QN_X_WORKING) {
            if (!is_back)
                continue; /* an event came while its worker still submits: it will come back */
            s->n_working--;
            x->stage = QN_X_ANSWERING;
            qn_x_drop_body(x);
        }
        if (x->stage != QN_X_ANSWERING)
            continue;
        if (x->conn)
            qn_x_poll(x);
        qn_x_settle(x);
    }
}

/* ---- phases ---- */

/* An answer that was promised before the end began, or is still being written. */
static bool is_owed(const qn_conn *c)
{
    const qn_exchange *x = c->x;
    if (c->state == QN_CONN_BUSY || c->state == QN_CONN_FLUSHING)
        return true;
    return c->state == QN_CONN_READING && x && x->route && !x->route->is_quick && !x->status;
}

static size_t n_owed(const qn_server *s)
{
    size_t n = 0;
    for (const qn_conn *c = s->conns; c; c = c->next)
        n += is_owed(c);
    return n;
}

void qn_server_check_drained(qn_server *s)
{
    if (s->phase == QN_SERVER_RUNNING || s->n_working)
        return;
    if (s->phase == QN_SERVER_DRAINING && n_owed(s) == 0)
        event_active(s->deadline, EV_TIMEOUT,
                     0); /* from the loop: connections may be in use here */
    else if (s->phase == QN_SERVER_ENDING && s->n_conns == 0)
        (void)event_base_loopbreak(s->base);
}

/* It has its place among the timers since the beginning, so that this cannot fail. */
static void arm(struct event *e, int ms)
{
    struct timeval t = qn_time_of((uint64_t)ms * QN_NS_PER_MS);
    (void)event_add(e, &t);
}

/* Answers that are still being made, n of them, end with an error. */
static void end(qn_server *s, size_t n, const char *why)
{
    if (n)
        qn_server_notice(s, "stopping: %s%zu answer%s cut", why, n, n == 1 ? " is" : "s are");
    s->phase = QN_SERVER_ENDING;
    qn_listener_close(s);
    for (qn_conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        if (c->state == QN_CONN_BUSY && c->x->stage == QN_X_ANSWERING) {
            qn_x_cut(c->x);
            qn_x_settle(c->x);
        } else if (c->state != QN_CONN_FLUSHING) {
            qn_conn_close(c);
        }
    }
    arm(s->deadline, END_MS);
}

static void drain(qn_server *s)
{
    char refused[64] = "";
    int seconds = s->cfg->drain_s;
    size_t n = n_owed(s);
    s->phase = QN_SERVER_DRAINING;
    qn_loader_end(s);
    size_t n_refused = qn_models_refuse(s, "the server is shutting down");
    n -= QN_MIN(n_refused, n);
    serve_ready(s); /* those are answered before anything is cut */
    if (n_owed(s) == 0 || seconds <= 0) {
        end(s, n, "");
        return;
    }
    if (n_refused)
        (void)snprintf(refused, sizeof refused, ", %zu refused that waited for a model", n_refused);
    qn_server_notice(s, "draining: %zu answer%s running%s, up to %d s; again to stop at once", n,
                     n == 1 ? "" : "s", refused, seconds);
    if (s->cfg->listen_fd)
        qn_listener_close(s);
    arm(s->deadline, seconds * 1000);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    qn_server *s = arg;
    (void)fd;
    (void)what;
    if (s->phase == QN_SERVER_DRAINING)
        end(s, n_owed(s), "the time is over, ");
    else
        (void)event_base_loopbreak(s->base);
    qn_server_check_drained(s);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    qn_server *s = arg;
    uint64_t n;
    (void)what;
    (void)!read(fd, &n, sizeof n);
    qn_models_note(s);
    qn_secrets_note(s);
    serve_ready(s);
    int n_stops = atomic_load(&s->n_stops);
    if (atomic_load(&s->models.has_failed))
        n_stops = 2;
    if (n_stops >= 1 && s->phase == QN_SERVER_RUNNING)
        drain(s);
    if (n_stops >= 2) {
        if (s->phase != QN_SERVER_ENDING)
            end(s, 0, "");
        (void)event_base_loopbreak(s->base);
    }
    qn_server_check_drained(s);
}

void qn_server_stop(qn_server *s)
{
    (void)atomic_fetch_add(&s->n_stops, 1);
    qn_server_wake(s);
}

void qn_server_reload(qn_server *s)
{
    (void)atomic_fetch_add(&s->n_reloads, 1);
    qn_server_wake(s);
}

/* ---- the log ---- */

typedef struct log_line {
    qn_job job; /* first */
    void (*to)(void *arg, const char *line);
    void *arg;
    char text[];
} log_line;

static void write_log(qn_job *job)
{
    log_line *l = (log_line *)job;
    l->to(l->arg, l->text);
    qn_free(l);
}

void qn_server_notice(qn_server *s, const char *fmt, ...)
{
    enum { ROOM = 512 };
    log_line *l = s->cfg->notice ? qn_alloc(sizeof *l + ROOM, QN_MEM_MISC) : NULL;
    if (!l)
        return;
    va_list ap;
    va_start(ap, fmt);
    l->to = s->cfg->notice;
    l->arg = s->cfg->arg;
    (void)vsnprintf(l->text, ROOM, fmt, ap);
    va_end(ap);
    if (!qn_workers_put(s->log, &l->job, 0))
        qn_free(l);
}

/* By a thread of its own: a log that blocks stops nobody, but loses lines. */
void qn_server_log(qn_server *s, const char *line, size_t n)
{
    size_t room = n + 64;
    log_line *l = qn_alloc(sizeof *l + room, QN_MEM_MISC);
    if (l) {
        l->to = s->cfg->log;
        l->arg = s->cfg->arg;
        if (s->n_log_lost)
            (void)snprintf(l->text, room, "%s (%llu lines lost)", line,
                           (unsigned long long)s->n_log_lost);
        else
            memcpy(l->text, line, n + 1);
    }
    if (l && qn_workers_put(s->log, &l->job, 0)) {
        s->n_log_lost = 0;
        return;
    }
    qn_free(l);
    s->n_log_lost++;
}

/* ---- life ---- */

/* What libevent would print goes nowhere: what fails is seen by its results. */
static void say_nothing(int severity, const char *text)
{
    (void)severity;
    (void)text;
}

static uint64_t ms_or(int ms, int limit)
{
    return (uint64_t)(ms > 0 ? ms : limit) * 1000000u;
}

static void set_limits(qn_server *s)
{
    const qn_server_config *c = s->cfg;
    s->times = (qn_server_times){
        .header_ns = ms_or(c->header_ms, QN_LIMIT_HTTP_HEADER_MS),
        .body_gap_ns = ms_or(c->body_gap_ms, QN_LIMIT_HTTP_BODY_GAP_MS),
        .body_ns = ms_or(c->body_ms, QN_LIMIT_HTTP_BODY_MS),
        .idle_ns = ms_or(c->idle_ms, QN_LIMIT_HTTP_IDLE_MS),
        .stall_ns = ms_or(c->stall_ms, QN_LIMIT_HTTP_STALL_MS),
        .linger_ns = ms_or(c->linger_ms, QN_LIMIT_HTTP_LINGER_MS),
        .silence_ns = ms_or(c->silence_ms, QN_LIMIT_HTTP_SILENCE_MS),
        .model_ns = ms_or(c->model_ms, QN_LIMIT_HTTP_MODEL_MS),
    };
    s->max_connections = c->max_connections ? c->max_connections : QN_LIMIT_HTTP_CONNECTIONS;
    s->max_per_address = c->max_per_address ? c->max_per_address : QN_LIMIT_HTTP_PER_ADDRESS;
    s->routes = c->routes ? c->routes : all_routes;
}

static qn_status open_all(qn_server *s, qn_err *err)
{
    static const size_t most[QN_N_POOLS] = {[QN_POOL_BODIES] = QN_LIMIT_HTTP_BODIES,
                                            [QN_POOL_JSON] = QN_LIMIT_HTTP_JSONS,
                                            [QN_POOL_JOBS] = QN_LIMIT_HTTP_QUEUE,
                                            [QN_POOL_ANSWERS] = QN_LIMIT_HTTP_ANSWERS};
    /* callers whose long work is done side by side; each has one of a kind at a time */
    static const int n_long[QN_X_N_LONG] = {[QN_X_SCORING] = 4, [QN_X_COMPILING] = 2};
    int n_workers = s->cfg->n_workers ? s->cfg->n_workers : 2;
    if (n_workers < 1 || n_workers > QN_LIMIT_HTTP_WORKERS)
        return qn_fail(err, QN_E_ARG, "workers: found %d, want 1 to %d", n_workers,
                       QN_LIMIT_HTTP_WORKERS);
    if (OPENSSL_init_ssl(0, NULL) != 1 ||
        !OSSL_LIB_CTX_get0_global_default()) /* its functions would not look whether it came about */
        return qn_fail_nomem(err, sizeof *s);
    (void)RAND_bytes((unsigned char *)&s->id_prefix, sizeof s->id_prefix);
    QN_TRY(qn_secrets_init(s, err));
    QN_TRY(qn_metrics_new(&s->metrics, err));
    QN_TRY(qn_callers_new(&s->callers, most, err));
    event_set_log_callback(say_nothing);
    s->base = event_base_new();
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!s->base || s->wake_fd < 0)
        return qn_fail(err, QN_E_NOMEM, "cannot make the event loop: %s", strerror(errno));
    s->wake = event_new(s->base, s->wake_fd, EV_READ | EV_PERSIST, on_wake, s);
    s->deadline = evtimer_new(s->base, on_deadline, s);
    struct timeval never = {1 << 30, 0};
    if (!s->wake || !s->deadline || event_add(s->wake, NULL) != 0 ||
        event_add(s->deadline, &never) != 0)
        return qn_fail_nomem(err, sizeof *s);
    QN_TRY(qn_pulse_init(s, err));
    QN_TRY(qn_listener_open(s, err));
    if (s->cfg->confine)
        QN_TRY(s->cfg->confine(s->cfg->arg, err));
    QN_TRY(qn_workers_new(&s->workers, n_workers, SIZE_MAX, 0, qn_x_work, err));
    for (int i = 0; i < QN_X_N_LONG; i++)
        QN_TRY(qn_workers_new(&s->long_work[i], n_long[i], SIZE_MAX, 1, qn_x_work, err));
    QN_TRY(qn_workers_new(&s->log, 1, LOG_LINES, 0, write_log, err));
    return qn_secrets_start(s, err);
}

qn_status qn_server_new(qn_server **out, const qn_server_config *cfg, qn_err *err)
{
    *out = NULL;
    qn_server *s = qn_calloc(1, sizeof *s, QN_MEM_MISC);
    if (!s)
        return qn_fail_nomem(err, sizeof *s);
    s->cfg = cfg;
    s->wake_fd = -1;
    s->ready_end = &s->ready;
    (void)pthread_mutex_init(&s->ready_lock, NULL);
    (void)pthread_mutex_init(&s->fresh_lock, NULL);
    set_limits(s);
    qn_status st = qn_models_init(s, err);
    if (st == QN_OK)
        st = open_all(s, err);
    if (st != QN_OK) {
        qn_server_free(s);
        return st;
    }
    *out = s;
    return QN_OK;
}

int qn_server_port(const qn_server *s)
{
    return s->port;
}

qn_metrics *qn_server_metrics(qn_server *s)
{
    return s->metrics;
}

/* What is left when the loop has ended. */
static void close_all(qn_server *s)
{
    bool is_back;
    s->phase = QN_SERVER_ENDING;
    qn_listener_close(s);
    qn_loader_end(s); /* and with it the last use of the workers by others */
    while (s->conns)
        qn_conn_close(s->conns);
    (void)event_base_loop(s->base,
                          EVLOOP_NONBLOCK); /* sockets are closed by the loop's next turn */
    qn_workers_free(s->workers);            /* before those that it hands over to */
    s->workers = NULL;                      /* what is freed from here on is freed here */
    for (int i = 0; i < QN_X_N_LONG; i++) {
        qn_workers_free(s->long_work[i]);
        s->long_work[i] = NULL;
    }
    for (qn_exchange *x; (x = take_ready(s, &is_back));) {
        x->stage = QN_X_ANSWERING;
        qn_x_abandon(x);
    }
}

/* A wait that fails is no reason to end what is being answered, but for one that goes on failing. */
static int run_loop(qn_server *s)
{
    uint64_t begin_ns = 0;
    int rc, n = 0;
    while ((rc = event_base_dispatch(s->base)) < 0) {
        uint64_t now = qn_now_ns();
        if (now - begin_ns > 1000000000u) {
            begin_ns = now;
            n = 0;
        }
        if (++n > WAITS)
            break;
    }
    return rc;
}

qn_status qn_server_run(qn_server *s, qn_err *err)
{
    sigset_t pipe_only, before;
    QN_TRY(qn_loader_start(s, err));
    /* writing to who has gone is an error to read, not a signal: TLS writes know no MSG_NOSIGNAL */
    (void)sigemptyset(&pipe_only);
    (void)sigaddset(&pipe_only, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    int rc = run_loop(s);
    close_all(s);
    struct timespec none = {0};
    while (!sigismember(&before, SIGPIPE) && sigtimedwait(&pipe_only, NULL, &none) > 0)
        ;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (atomic_load(&s->models.has_failed)) {
        if (err)
            *err = s->models.err;
        return s->models.err.status;
    }
    return rc < 0 ? qn_fail(err, QN_E_IO, "the event loop failed") : QN_OK;
}

void qn_server_free(qn_server *s)
{
    if (!s)
        return;
    if (s->base)
        close_all(s);
    qn_loader_end(s);
    qn_pulse_end(s);
    qn_loader_join(s);
    qn_secrets_end(s); /* its thread writes to the log */
    qn_models_fini(s);
    qn_workers_free(s->log);
    qn_metrics_free(s->metrics);
    qn_callers_free(s->callers);
    struct event *events[] = {s->wake, s->resume, s->deadline};
    for (size_t i = 0; i < QN_COUNT(events); i++)
        if (events[i])
            event_free(events[i]);
    if (s->base) {
        (void)event_base_loop(s->base,
                              EVLOOP_NONBLOCK); /* callbacks put off keep their bufferevents */
        event_base_free(s->base);
    }
    if (s->wake_fd >= 0)
        (void)close(s->wake_fd);
    (void)pthread_mutex_destroy(&s->ready_lock);
    (void)pthread_mutex_destroy(&s->fresh_lock);
    qn_free(s);
}
