/* SPDX-License-Identifier: Apache-2.0
 * generate.c - requests of an engine, and how their events become an answer.
 *
 *   worker          submits all, or drops those it had submitted
 *   engine's thread notify: the exchange goes into the ready list, the loop is woken once
 *   I/O thread      reads every event there is; holds back while the client does not read
 *
 * What is counted of requests is counted here, for every API alike. */
#include "server/core.h"
#include "server/spec.h"

#include <stdio.h>
#include <string.h>

#define LARGE                                                                                      \
    16384 /* tokens of an answer that is written at once: 2 ms; the largest answers take 500 */

/* ---- the books ---- */

static const char *default_class(const qn_model *m)
{
    const qn_config *c = m ? &m->cfg->config : NULL;
    return c && c->classes && c->default_class >= 0 && c->default_class < c->n_classes
               ? c->classes[c->default_class].name
               : "default";
}

/* A record with all that is known before the end. */
static qn_request_record record_of(const qn_exchange *x, const qn_gen *g)
{
    qn_request_record r = {
        .submit_ns = g->submit_ns,
        .first_ns = g->first_ns,
        .end_ns = qn_now_ns(),
        .max_tokens = x->max_tokens,
        .n = x->n,
        .is_stream = x->api && x->api->is_stream,
    };
    (void)snprintf(r.id, sizeof r.id, "%.63s", x->id);
    (void)snprintf(r.model, sizeof r.model, "%s", x->model);
    (void)snprintf(r.class_name, sizeof r.class_name, "%s", x->gen_class);
    (void)snprintf(r.tenant, sizeof r.tenant, "%s", x->tenant ? x->tenant : "");
    (void)snprintf(r.api, sizeof r.api, "%s", x->route ? x->route->path : "");
    return r;
}

static const char *reason_of(qn_status s)
{
    switch (s) {
    case QN_E_QUEUE_FULL:
    case QN_E_BUSY:
        return "queue_full";
    case QN_E_TIMEOUT:
        return "timeout";
    case QN_E_CANCELLED:
        return "cancelled";
    case QN_E_NOMEM:
        return "out_of_memory";
    case QN_E_DEVICE:
        return "device";
    default:
        return "error";
    }
}

/* What a client asked wrongly is no request of the engine's. */
static bool is_of_engine(qn_status s)
{
    return s != QN_E_CANCELLED && qn_x_status(s, NULL) >= 429;
}

static void record_done(qn_exchange *x, qn_gen *g, const qn_event *ev)
{
    qn_request_record r = record_of(x, g);
    r.status = 200;
    r.finish = g->finish != QN_FINISH_NONE ? g->finish : QN_FINISH_STOP;
    r.start_ns = g->submit_ns + x->waited_ns + (uint64_t)(ev->queue_ms * 1e6);
    r.end_ns = ev->at_ns ? ev->at_ns : r.end_ns;
    r.n_prompt = ev->n_prompt_tokens;
    r.n_cached = ev->n_cached_tokens;
    r.n_output = ev->n_output_tokens;
    r.n_preempted = ev->n_preempted;
    r.n_draft = ev->n_draft_tokens;
    r.n_accepted = ev->n_accepted_tokens;
    qn_metrics_request(x->server->metrics, &r);
    x->n_prompt += (uint64_t)ev->n_prompt_tokens;
    x->n_cached += (uint64_t)ev->n_cached_tokens;
    x->n_output +=
        (uint64_t)ev->n_output_tokens - g->n_output; /* of beams only the best one's came */
}

/* ---- submitting ---- */

/* A key is not to be more urgent than its own class; names that are none are the engine's matter. */
static qn_status check_class(const qn_exchange *x, const qn_model *m, const char *class_name,
                             qn_err *err)
{
    if (!m || !class_name || !x->key_class)
        return QN_OK;
    int most = qn_spec_class(&m->cfg->config, x->key_class),
        asked = qn_spec_class(&m->cfg->config, class_name);
    if (asked < 0 || asked >= most)
        return QN_OK;
    return qn_fail(err, QN_E_ARG, "class '%s': this key's requests may be '%s' or less urgent",
                   class_name, x->key_class);
}

/* What log-probabilities take is told, and not so little: all of an answer are kept until it is whole. Where max_tokens is
 * not given it is made to fit. */
static qn_status bound_logprobs(const qn_engine *e, const qn_prompt *prompts, size_t n_prompts,
                                qn_params *p, qn_err *err)
{
    if (p->n_logprobs < 0)
        return QN_OK;
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    size_t longest = 0, each = (size_t)(1 + p->n_logprobs) * (size_t)QN_MAX(p->n, 1) * n_prompts;
    size_t most = QN_LIMIT_LOGPROBS / each, ctx = (size_t)info.max_ctx;
    for (size_t i = 0; i < n_prompts; i++)
        longest = QN_MAX(longest, prompts[i].n_ids);
    if ((size_t)p->max_tokens > most || !most)
        return qn_fail(err, QN_E_ARG,
                       "max_tokens: found %d, want at most %zu with %zu log-probabilities each",
                       p->max_tokens, most, each);
    if (!p->max_tokens && most < ctx && longest < ctx)
        p->max_tokens = (int)QN_MIN(most, ctx - longest);
    return QN_OK;
}

static void on_notify(void *arg)
{
    qn_server_ready(arg, false);
}

qn_status qn_x_generate(qn_exchange *x, const qn_answer_api *api, void *arg, qn_engine *e,
                        const qn_prompt *prompts, size_t n_prompts, const qn_params *params,
                        qn_err *err)
{
    const qn_model *m = x->held;
    qn_params p = *params;
    int most = m && m->cfg->config.max_queue ? m->cfg->config.max_queue : QN_LIMIT_QUEUE;
    if (!qn_caller_is_alone(x->caller))
        most = (most + 1) / 2; /* the most that the engine ever takes of one tenant */
    if (n_prompts == 0 || n_prompts > (size_t)most) /* they wait together */
        return qn_fail(err, QN_E_ARG, "prompts: found %zu, want 1 to %d", n_prompts, most);
    p.class_name = p.class_name ? p.class_name : x->class_name;
    if (!p.tenant && !qn_caller_is_alone(x->caller)) {
        p.tenant = qn_caller_name(x->caller);
        p.shares_prefixes = !x->tenant;
    }
    QN_TRY(check_class(x, m, p.class_name, err));
    QN_TRY(bound_logprobs(e, prompts, n_prompts, &p, err));
    p.notify = on_notify;
    p.notify_arg = x;
    x->model = m ? m->cfg->name : "";
    x->gen_class = default_class(m);
    if (p.class_name) { /* it may be the caller's, and the engine checks it */
        const char *copy = qn_arena_strndup(&x->arena, p.class_name, strlen(p.class_name));
        x->gen_class = copy ? copy : x->gen_class;
    }
    x->max_tokens = p.max_tokens;
    x->n = QN_MAX(p.n, 1);
    x->n_logprobs = p.n_logprobs;
    x->gens = qn_arena_alloc(&x->arena, n_prompts * sizeof *x->gens);
    if (!x->gens)
        return qn_fail_nomem(err, n_prompts * sizeof *x->gens);
    memset(x->gens, 0, n_prompts * sizeof *x->gens);
    for (size_t i = 0; i < n_prompts; i++) {
        qn_gen *g = &x->gens[i];
        g->submit_ns = qn_now_ns() - x->waited_ns;
        qn_status s = atomic_load(&x->is_gone)
                          ? qn_fail(err, QN_E_CANCELLED, "the client has gone")
                          : qn_request_submit(&g->request, e, &prompts[i], &p, err);
        if (s == QN_OK)
            continue;
        for (size_t k = 0; k < i; k++)
            qn_request_drop(x->gens[k].request);
        if (is_of_engine(s)) {
            qn_request_record r = record_of(x, g);
            r.status = qn_x_status(s, NULL);
            r.finish = QN_FINISH_ERROR;
            r.reason = reason_of(s);
            qn_metrics_request(x->server->metrics, &r);
        }
        return s;
    }
    x->api = api;
    x->arg = arg;
    x->n_gens = x->n_open = n_prompts;
    return QN_OK;
}

/* ---- scores ---- */

static bool goes_on(void *arg)
{
    return !qn_x_is_gone(arg);
}

qn_status qn_x_score(const qn_exchange *x, qn_engine *e, const qn_scoring *asked, qn_err *err)
{
    qn_scoring q = *asked;
    q.class_name = q.class_name ? q.class_name : x->class_name;
    q.tenant = qn_caller_is_alone(x->caller) ? NULL : qn_caller_name(x->caller);
    q.goes_on = goes_on;
    q.goes_on_arg = (void *)(uintptr_t)x;
    QN_TRY(check_class(x, x->held, q.class_name, err));
    return qn_score_shared(e, &q, err);
}

/* ---- ending early ---- */

void qn_x_drop(qn_exchange *x, int status, qn_finish finish, const char *reason)
{
    for (size_t i = 0; i < x->n_gens; i++) {
        qn_gen *g = &x->gens[i];
        if (!g->request)
            continue;
        qn_request_drop(g->request);
        g->request = NULL;
        qn_request_record r = record_of(x, g);
        r.status = status;
        r.finish = finish;
        r.reason = reason;
        qn_metrics_request(x->server->metrics, &r);
    }
    x->n_open = 0;
}

static void fail(qn_exchange *x, const qn_err *err)
{
    qn_x_because(x, reason_of(err->status));
    qn_x_drop(x, qn_x_status(err->status, NULL), QN_FINISH_ERROR, reason_of(err->status));
    if (x->api->fail)
        x->api->fail(x, x->arg, err);
    if (!qn_x_is_answered(x))
        qn_x_fail(x, err, NULL);
}

void qn_x_cut(qn_exchange *x)
{
    qn_err err = {0};
    (void)qn_fail(&err, QN_E_TIMEOUT, "the server is shutting down");
    qn_x_because(x, "shutdown");
    if (x->api)
        fail(x, &err);
    else
        qn_x_fail(x, &err, NULL);
}

/* ---- events ---- */

static void note_event(qn_exchange *x, qn_gen *g, const qn_event *ev)
{
    if (ev->kind != QN_EVENT_TOKEN || ev->index < 0 || (size_t)ev->index >= QN_COUNT(g->last_ns))
        return;
    uint64_t *last = &g->last_ns[ev->index];
    g->n_output++;
    x->n_output++; /* also of an answer that is cut */
    if (!g->first_ns)
        g->first_ns = ev->at_ns;
    if (*last && ev->at_ns >= *last)
        qn_metrics_gap(x->server->metrics, x->model, x->gen_class, ev->at_ns - *last);
    *last = ev->at_ns;
}

/* Is there room for what more the client is to be sent? */
static bool has_room(qn_exchange *x)
{
    x->is_held = x->conn && !qn_conn_has_room(x->conn);
    return !x->is_held;
}

/* Whole answers of some ms are written by a worker. */
static bool is_large(const qn_exchange *x)
{
    uint64_t each = x->n_logprobs < 0 ? 1 : 16 * (2 + (uint64_t)x->n_logprobs);
    return !x->api->is_stream && x->n_output * each > LARGE;
}

static void poll_one(qn_exchange *x, size_t i)
{
    qn_gen *g = &x->gens[i];
    while (g->request && !qn_x_is_answered(x) && !x->conn->is_broken && has_room(x)) {
        qn_event ev;
        qn_err err = {0};
        bool got = false;
        if (qn_request_poll(g->request, &ev, &got, &err) != QN_OK) {
            x->server->is_sick |= err.status == QN_E_DEVICE;
            fail(x, &err);
            return;
        }
        if (!got)
            return;
        note_event(x, g, &ev);
        if (ev.kind == QN_EVENT_TOKEN && ev.finish != QN_FINISH_NONE)
            g->finish = ev.finish;
        x->api->event(x, x->arg, i, &ev);
        if (ev.kind != QN_EVENT_DONE)
            continue;
        record_done(x, g, &ev);
        qn_request_drop(g->request);
        g->request = NULL;
        x->n_open--;
    }
}

void qn_x_poll(qn_exchange *x)
{
    if (!x->api || x->n_open == 0)
        return;
    if (x->api->begins_at_once)
        qn_x_begin(x, "text/event-stream");
    x->is_held = false;
    for (size_t i = 0; i < x->n_gens && x->n_open && !x->is_held; i++)
        poll_one(x, i);
    if (x->n_open > 0 || qn_x_is_answered(x))
        return;
    if (is_large(x) && qn_x_hand_over(x, QN_X_FINISH))
        return;
    x->api->done(x, x->arg);
    if (!qn_x_is_answered(x))
        qn_x_error(x, 500, NULL, NULL, "the request was not answered");
}

void qn_x_silence(qn_exchange *x)
{
    if (!x->is_begun || x->is_ended)
        return;
    if (x->api && x->api->idle)
        x->api->idle(x, x->arg);
    else if (x->is_event_stream)
        qn_x_write_comment(x);
    x->wrote_ns = qn_now_ns();
}
