/* SPDX-License-Identifier: Apache-2.0
 * load_run.c - arrivals, requests, clients of the closed loop, interrupts. */
#include "cmd/load_run.h"

#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "cmd/cmd.h"

#define NS_PER_S        1000000000u
#define ARRIVALS_A_TURN 64        /* then the sockets have their turn */
#define HOPELESS        16        /* so many failed, and nothing else: it will not get better */
#define PAUSE_NS        100000000 /* of a client that was refused */
#define MAX_PAUSE_S     30
#define ERROR_BYTES     16384 /* of an error's body that are looked at */

typedef struct run run;

/* One client of the closed loop. */
typedef struct client {
    run *run;
    struct event *pause;
} client;

typedef struct request {
    load_call call;
    load_ask ask;
    run *run;
    client *client; /* NULL: open loop */
    uint64_t intended_ns, first_ns, last_ns, end_ns;
    double longest_gap_ms;
    bool is_counted;
    load_reply reply;
    load_sse sse;
    qn_str error;
    struct request *prev, *next;
} request;

struct run {
    const load_run_config *config;
    load_results *out;
    qn_err *err;
    qn_status status;
    bool is_over; /* nothing is started any more */
    uint64_t n_started, n_ended, n_failed;
    uint64_t n_running, n_pausing;
    uint64_t begin_ns, next_ns, first_ns, last_ns; /* first: intended start of the first counted */
    request *running;
    client *clients;
    struct event *arrival, *interrupt, *tick;
    /* of each class: how many will come, how many may miss */
    uint64_t n_expected[LOAD_MAX_CLASSES], n_missed[LOAD_MAX_CLASSES];
    bool knows_expected;
    cmd_progress bar;
};

static bool start(run *r, client *c, uint64_t intended_ns);

static struct timeval timeval_of(uint64_t ns)
{
    return (struct timeval){.tv_sec = (time_t)(ns / NS_PER_S),
                            .tv_usec = (suseconds_t)(ns % NS_PER_S / 1000)};
}

/* ---- when it is over ---- */

static void request_free(request *q)
{
    run *r = q->run;
    *(q->prev ? &q->prev->next : &r->running) = q->next;
    if (q->next)
        q->next->prev = q->prev;
    r->n_running--;
    load_sse_fini(&q->sse);
    qn_str_fini(&q->call.text);
    qn_str_fini(&q->error);
    qn_free(q);
}

/* Forgets what still runs. */
static void stop(run *r)
{
    r->is_over = true;
    while (r->running) {
        load_client_cancel(r->config->client, &r->running->call);
        request_free(r->running);
    }
    (void)event_base_loopbreak(r->config->base);
}

static void fail(run *r, qn_status s)
{
    if (r->status == QN_OK)
        r->status = s;
    stop(r);
}

/* May another request, meant for then, be started? */
static bool may_start(const run *r, uint64_t intended_ns)
{
    const load_run_config *c = r->config;
    bool is_late = c->duration_s > 0 && r->n_started > c->n_warmup &&
                   (double)(intended_ns - r->first_ns) * 1e-9 >= c->duration_s;
    return !r->is_over && !is_late &&
           (c->n_requests == 0 || r->n_started < c->n_warmup + c->n_requests);
}

static void check_end(run *r)
{
    bool is_open = r->config->work->rate > 0;
    bool more = is_open ? may_start(r, r->next_ns) : r->n_pausing && may_start(r, qn_now_ns());
    if (r->n_running == 0 && !more)
        (void)event_base_loopbreak(r->config->base);
}

static void on_interrupt(evutil_socket_t fd, short what, void *arg)
{
    run *r = arg;
    (void)fd;
    (void)what;
    r->out->is_interrupted = true;
    r->out->n_unended = r->n_running;
    stop(r);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    run *r = arg;
    const load_run_config *c = r->config;
    char detail[96];
    double done = 0;
    (void)fd;
    (void)what;
    if (c->n_requests)
        done = (double)r->n_ended / (double)(c->n_requests + c->n_warmup);
    if (c->duration_s > 0 && r->first_ns)
        done = QN_MAX(done, (double)(qn_now_ns() - r->first_ns) * 1e-9 / c->duration_s);
    (void)snprintf(detail, sizeof(detail), "%llu ended, %llu running, %llu failed",
                   (unsigned long long)r->n_ended, (unsigned long long)r->n_running,
                   (unsigned long long)r->n_failed);
    cmd_progress_show(&r->bar, c->label, QN_MIN(done, 1.0), detail);
}

/* ---- one request ---- */

static qn_status on_event(void *arg, const char *p, size_t n, qn_err *err)
{
    request *q = arg;
    uint64_t now = q->call.read_ns;
    bool is_text;
    QN_TRY(load_reply_event(&q->reply, p, n, &is_text, err));
    if (q->reply.is_ended && !q->end_ns)
        q->end_ns = now;
    if (!is_text)
        return QN_OK;
    /* a server may send a token in pieces, but not without end */
    if (q->reply.n_texts > 1024 + 16 * (uint64_t)q->ask.n_out)
        return qn_fail(err, QN_E_PEER, "found %llu events with text, wanted %u tokens",
                       (unsigned long long)q->reply.n_texts, q->ask.n_out);
    if (q->reply.n_texts == 1) {
        q->first_ns = now;
    } else {
        double gap = (double)(now - q->last_ns) * 1e-6;
        q->longest_gap_ms = QN_MAX(q->longest_gap_ms, gap);
        if (q->is_counted && !load_values_add(&q->run->out->gaps[q->ask.class_i], gap))
            return qn_fail_nomem(err, sizeof gap);
    }
    q->last_ns = now;
    return QN_OK;
}

static qn_status on_body(void *arg, const char *p, size_t n, qn_err *err)
{
    request *q = arg;
    if (q->call.http->status != 200) {
        qn_str_add(&q->error, p, QN_MIN(n, ERROR_BYTES - q->error.n));
        return QN_OK;
    }
    if (!q->call.http->is_events)
        return qn_fail(err, QN_E_FORMAT, "found no text/event-stream: not a streaming server");
    return load_sse_feed(&q->sse, p, n, err);
}

/* Outcome, status and trouble; message: why, if it is not done. */
static void judge(const request *q, load_trouble why, const load_http *http, const qn_err *err,
                  load_record *x, char message[192])
{
    const char *said = err->msg;
    bool is_whole = q->reply.is_ended || q->reply.is_finished;
    *message = 0;
    x->status = (uint16_t)http->status;
    x->outcome = LOAD_FAILED;
    if (why == LOAD_CUT && q->reply.is_ended)
        why = LOAD_NO_TROUBLE;
    if (why == LOAD_NO_TROUBLE && http->status != 200) {
        bool is_refused = http->status == 429 || http->status == 503;
        x->outcome = is_refused ? LOAD_REFUSED : LOAD_FAILED;
        load_reply_message(message, 192, q->error.p ? q->error.p : "", q->error.n);
        return;
    }
    if (why == LOAD_NO_TROUBLE && !is_whole) {
        why = LOAD_CUT;
        said = "the stream ended before the answer did";
    } else if (why == LOAD_NO_TROUBLE && x->n_out == 0) {
        why = LOAD_BAD;
        said = "an answer without tokens";
    }
    x->trouble = (uint8_t)why;
    if (why == LOAD_NO_TROUBLE)
        x->outcome = LOAD_DONE;
    else
        (void)snprintf(message, 192, "%.191s", said);
}

static void note_failure(load_results *out, const load_record *x, const char *message)
{
    if (x->trouble)
        (void)snprintf(out->failure, sizeof(out->failure), "%s", message);
    else
        (void)snprintf(out->failure, sizeof(out->failure), "HTTP %d%s%s", x->status,
                       *message ? ": " : "", message);
}

static double ms_since(uint64_t from, uint64_t to)
{
    return to > from ? (double)(to - from) * 1e-6 : 0;
}

/* Can a class no longer attain what it should? */
static bool is_lost(const run *r)
{
    for (size_t k = 0; k < r->config->work->classes->n; k++)
        if ((double)r->n_missed[k] >
            (100 - r->config->attain) / 100 * (double)r->n_expected[k] + 1e-9)
            return true;
    return false;
}

static void go_on(run *r, client *c, load_outcome outcome, int retry_after_s)
{
    if (outcome == LOAD_DONE) {
        (void)start(r, c, qn_now_ns());
        return;
    }
    uint64_t ns =
        retry_after_s >= 0 ? (uint64_t)QN_MIN(retry_after_s, MAX_PAUSE_S) * NS_PER_S : PAUSE_NS;
    struct timeval t = timeval_of(QN_MAX(ns, (uint64_t)1000));
    if (may_start(r, qn_now_ns() + ns) && evtimer_add(c->pause, &t) == 0)
        r->n_pausing++;
}

static void on_end(load_call *call, load_trouble why, const load_http *http, const qn_err *err)
{
    request *q = call->arg;
    run *r = q->run;
    client *c = q->client;
    uint64_t end = q->end_ns ? q->end_ns : QN_MAX(call->read_ns, call->sent_ns);
    char message[192];
    if (why == LOAD_TIMED_OUT || end == 0)
        end = qn_now_ns();
    load_record x = {.i = q->ask.i,
                     .class_i = (uint32_t)q->ask.class_i,
                     .n_in = q->reply.n_in ? (uint32_t)q->reply.n_in : q->ask.n_in,
                     .n_out = (uint32_t)QN_MAX(q->reply.n_out, q->reply.n_texts)};
    if (q->reply.n_out)
        x.n_out = (uint32_t)q->reply.n_out;
    x.intended_s = ms_since(r->first_ns, q->intended_ns) * 1e-3;
    x.lag_ms = ms_since(q->intended_ns, call->sent_ns ? call->sent_ns : end);
    x.has_gap = q->reply.n_texts > 1;
    x.ms[LOAD_FIRST] = ms_since(q->intended_ns, q->first_ns ? q->first_ns : end);
    x.ms[LOAD_GAP] = q->longest_gap_ms;
    x.ms[LOAD_ALL] = ms_since(q->intended_ns, end);
    judge(q, why, http, err, &x, message);
    bool is_counted = q->is_counted;
    request_free(q);
    r->n_ended++;
    if (x.outcome == LOAD_FAILED && r->n_failed++ == 0)
        note_failure(r->out, &x, message);
    if (is_counted) {
        qn_status s = load_results_add(r->out, &x, message, r->config->work->classes, r->err);
        if (s != QN_OK) {
            fail(r, s);
            return;
        }
        r->last_ns = QN_MAX(r->last_ns, end);
        r->n_missed[x.class_i] += !r->out->records[r->out->n - 1].is_met;
    }
    bool is_hopeless = r->n_failed == HOPELESS && r->n_ended == HOPELESS;
    if (is_hopeless || (r->knows_expected && r->config->attain > 0 && is_lost(r))) {
        r->out->is_cut_short = true;
        stop(r);
        return;
    }
    if (c)
        go_on(r, c, (load_outcome)x.outcome, http->retry_after_s);
    check_end(r);
}

/* False: it was not to be started any more, or memory failed. */
static bool start(run *r, client *c, uint64_t intended_ns)
{
    const load_run_config *o = r->config;
    if (!may_start(r, intended_ns))
        return false;
    request *q = qn_calloc(1, sizeof *q, QN_MEM_REQUEST);
    if (!q) {
        fail(r, qn_fail_nomem(r->err, sizeof *q));
        return false;
    }
    q->run = r;
    q->client = c;
    q->next = r->running;
    if (q->next)
        q->next->prev = q;
    r->running = q;
    r->n_running++;
    load_work_ask(o->work, r->n_started++, &q->ask);
    q->intended_ns = intended_ns;
    q->is_counted = q->ask.i >= o->n_warmup;
    if (q->ask.i == o->n_warmup)
        r->first_ns = r->last_ns = intended_ns;
    q->sse.event = on_event;
    q->sse.arg = q;
    load_work_body(o->work, &q->ask, &q->call.text);
    if (q->call.text.failed) {
        fail(r, qn_fail_nomem(r->err, q->call.text.n));
        return false;
    }
    q->call.method = "POST";
    q->call.path = o->path;
    if (o->work->classes->is_mix)
        q->call.class_name = o->work->classes->items[q->ask.class_i].name;
    q->call.timeout_ns = (uint64_t)(o->timeout_s * 1e9);
    q->call.body = on_body;
    q->call.end = on_end;
    q->call.arg = q;
    load_client_start(o->client, &q->call);
    return true;
}

/* ---- when requests start ---- */

static void on_arrival(evutil_socket_t fd, short what, void *arg)
{
    run *r = arg;
    (void)fd;
    (void)what;
    for (int i = 0; i < ARRIVALS_A_TURN && qn_now_ns() >= r->next_ns; i++) {
        if (!start(r, NULL, r->next_ns))
            break;
        r->next_ns += load_work_gap_ns(r->config->work, r->n_started);
    }
    if (may_start(r, r->next_ns)) {
        uint64_t now = qn_now_ns();
        struct timeval t = timeval_of(r->next_ns > now ? r->next_ns - now : 0);
        (void)evtimer_add(r->arrival, &t);
    }
    check_end(r);
}

static void on_pause_end(evutil_socket_t fd, short what, void *arg)
{
    client *c = arg;
    run *r = c->run;
    (void)fd;
    (void)what;
    r->n_pausing--;
    (void)start(r, c, qn_now_ns());
    check_end(r);
}

/* How many requests of each class will come, where the seed alone says it. */
static void count_expected(run *r)
{
    const load_run_config *c = r->config;
    const load_work *w = c->work;
    uint64_t at = 0;
    bool is_known = c->n_requests || c->duration_s * w->rate < 1e7; /* not worth the counting */
    if (c->attain <= 0 || !is_known || (w->rate <= 0 && c->duration_s > 0))
        return;
    for (uint64_t i = c->n_warmup; !c->n_requests || i < c->n_warmup + c->n_requests; i++) {
        load_ask a;
        if (i > c->n_warmup && w->rate > 0)
            at += load_work_gap_ns(w, i);
        if (c->duration_s > 0 && (double)at * 1e-9 >= c->duration_s)
            break;
        load_work_ask(w, i, &a);
        r->n_expected[a.class_i]++;
    }
    r->knows_expected = true;
}

static qn_status set_up(run *r)
{
    const load_run_config *c = r->config;
    size_t n = c->work->rate > 0 ? 0 : (size_t)c->concurrency;
    const struct timeval tick = {.tv_usec = 200000};
    r->interrupt = evsignal_new(c->base, SIGINT, on_interrupt, r);
    r->tick = event_new(c->base, -1, EV_PERSIST, on_tick, r);
    r->arrival = evtimer_new(c->base, on_arrival, r);
    r->clients = qn_calloc(n + 1, sizeof *r->clients, QN_MEM_MISC);
    bool good = r->interrupt && r->tick && r->arrival && r->clients &&
                event_add(r->interrupt, NULL) == 0 && event_add(r->tick, &tick) == 0;
    for (size_t i = 0; good && i < n; i++) {
        r->clients[i].run = r;
        r->clients[i].pause = evtimer_new(c->base, on_pause_end, &r->clients[i]);
        good = r->clients[i].pause != NULL;
    }
    return good ? QN_OK : qn_fail_nomem(r->err, n * sizeof *r->clients);
}

static void take_down(run *r)
{
    for (int i = 0; r->clients && i < r->config->concurrency && r->clients[i].pause; i++)
        event_free(r->clients[i].pause);
    qn_free(r->clients);
    struct event *const events[] = {r->interrupt, r->tick, r->arrival};
    for (size_t i = 0; i < QN_COUNT(events); i++)
        if (events[i])
            event_free(events[i]);
    cmd_progress_end(&r->bar);
}

qn_status load_run(load_results *out, const load_run_config *config, qn_err *err)
{
    run r = {.config = config, .out = out, .err = err};
    *out = (load_results){0};
    count_expected(&r);
    qn_status s = set_up(&r);
    r.begin_ns = qn_now_ns();
    r.next_ns = r.begin_ns;
    if (s == QN_OK && config->work->rate > 0) {
        on_arrival(-1, 0, &r);
    } else if (s == QN_OK) {
        for (int i = 0; i < config->concurrency && start(&r, &r.clients[i], r.begin_ns); i++)
            ;
    }
    bool is_pending = r.n_running || r.n_pausing || may_start(&r, r.next_ns);
    if (s == QN_OK && !r.is_over && is_pending && event_base_dispatch(config->base) < 0)
        s = qn_fail(err, QN_E_INTERNAL, "the event loop failed");
    if (s == QN_OK)
        s = r.status;
    out->seconds = ms_since(r.first_ns, r.last_ns) * 1e-3;
    take_down(&r);
    if (s != QN_OK)
        load_results_fini(out);
    return s;
}
