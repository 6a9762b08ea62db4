/* SPDX-License-Identifier: Apache-2.0
 * pulse.c - whether the engines still do what they should: what /health and the watchdog go by.
 *
 *   every second:  requests, and operations go on ------------------> well
 *                  requests, and none has ended for too long -------> sick, until one ends
 *                  idle for half a minute: one token is asked for --> well if it comes, sick if it fails or does not come
 *
 * What is looked at is operations, not steps: a step is as long as a prompt's piece takes on a slow machine, more than a minute for
 * 512 tokens of a large model on two cores, but a single operation of it stays below some seconds. QN_LIMIT_STEP_MS is ten times
 * that, and grows with --max-batch-tokens.
 * Time counts only as far as this timer runs: a process that was stopped, or a machine that slept, is not sick.
 * Nobody is probed for nobody: only with a watchdog, or while someone asks for /health. I/O thread. */
#include "server/core.h"
#include <quern/measure.h>

#include <string.h>

#define TICK_MS       1000
#define WATCHED_NS    60000000000u /* after someone asked */
#define PROBE_MS      30000
#define PROBE_ROWS    512 /* of a step that QN_LIMIT_STEP_MS is for */
#define NS_PER_MS     1000000u
#define NS_PER_SECOND 1000000000u

struct qn_beat {
    qn_engine *engine; /* as of the last look */
    qn_request *probe;
    uint64_t n_ops, n_tokens;
    uint64_t still_ns, quiet_ns; /* no operation ended; nothing showed that tokens come */
    bool is_stuck, has_failed;
};

static int period_ms(const qn_server *s)
{
    int third = s->cfg->watchdog_ms / 3;
    return third ? QN_MIN(third, TICK_MS) : TICK_MS;
}

static uint64_t still_limit(const qn_server *s, const qn_config *c)
{
    uint64_t ms = s->cfg->step_ms > 0 ? (uint64_t)s->cfg->step_ms : QN_LIMIT_STEP_MS;
    uint64_t rows = c->max_batch_tokens > 0 ? (uint64_t)c->max_batch_tokens : PROBE_ROWS;
    return (ms * QN_DIV_UP(rows, PROBE_ROWS) + (uint64_t)c->batch_timeout_ms) * NS_PER_MS;
}

static uint64_t probe_every(const qn_server *s)
{
    return (s->cfg->probe_ms > 0 ? (uint64_t)s->cfg->probe_ms : PROBE_MS) * NS_PER_MS;
}

static void begin_probe(qn_beat *b, const qn_config *c)
{
    static const int32_t id = 0; /* any vocabulary has it */
    qn_prompt prompt = {.ids = &id, .n_ids = 1};
    qn_params p = qn_params_default();
    qn_err err;
    p.temperature = 0;
    p.max_tokens = 1;
    p.ignore_eos = true;
    p.is_probe = true;
    p.class_name = c->classes && c->n_classes > 0 ? c->classes[c->n_classes - 1].name : NULL;
    b->has_failed = qn_request_submit(&b->probe, b->engine, &prompt, &p, &err) != QN_OK;
}

static void end_probe(qn_beat *b)
{
    qn_request_drop(b->probe);
    b->probe = NULL;
}

static void read_probe(qn_beat *b)
{
    qn_event ev;
    qn_err err;
    bool got = true;
    while (b->probe && got) {
        qn_status st = qn_request_poll(b->probe, &ev, &got, &err);
        if (st == QN_OK && (!got || ev.kind != QN_EVENT_DONE))
            continue;
        b->has_failed = st != QN_OK;
        b->quiet_ns = 0;
        end_probe(b);
    }
}

static bool is_sick(const qn_beat *b)
{
    return b->is_stuck || b->has_failed;
}

static void tell(qn_server *s, const qn_server_model *m, const qn_beat *b, uint64_t ns)
{
    if (b->is_stuck)
        qn_server_notice(s, "sick: model '%s': no operation has ended for %llu s", m->name,
                         (unsigned long long)(ns / NS_PER_SECOND));
    else if (b->has_failed)
        qn_server_notice(s, "sick: model '%s': the token asked for as a probe did not come",
                         m->name);
    else
        qn_server_notice(s, "model '%s' is well again", m->name);
}

/* dt passed since the last look. */
static void look(qn_server *s, size_t i, uint64_t dt)
{
    qn_beat *b = &s->beats[i];
    const qn_server_model *m = &s->cfg->models[i];
    bool was_sick = is_sick(b);
    qn_engine_stats st;
    if (b->engine != s->engines[i]) {
        end_probe(b);
        *b = (qn_beat){.engine = s->engines[i]};
    }
    if (!b->engine)
        return;
    qn_engine_get_stats(b->engine, &st);
    bool is_moving = st.n_ops != b->n_ops, has_users = st.n_running + st.n_waiting > 0;
    bool has_tokens = st.n_output_tokens != b->n_tokens;
    b->n_ops = st.n_ops;
    b->n_tokens = st.n_output_tokens;
    read_probe(b);
    b->still_ns = is_moving || !(has_users || b->probe) ? 0 : b->still_ns + dt;
    b->is_stuck = b->still_ns > still_limit(s, &m->config);
    b->quiet_ns = has_tokens ? 0 : b->quiet_ns + dt;
    b->has_failed &= !has_tokens;
    if (!b->probe && !has_users && b->quiet_ns >= probe_every(s))
        begin_probe(b, &m->config);
    if (was_sick != is_sick(b))
        tell(s, m, b, b->still_ns);
}

static void arm(qn_server *s)
{
    int ms = period_ms(s);
    struct timeval t = {ms / 1000, ms % 1000 * 1000L};
    (void)event_add(s->pulse, &t);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    qn_server *s = arg;
    uint64_t now = qn_now_ns(), most = 2 * (uint64_t)period_ms(s) * NS_PER_MS;
    uint64_t dt = QN_MIN(now - s->looked_ns, most);
    (void)fd;
    (void)what;
    s->looked_ns = now;
    s->is_stuck = false;
    for (size_t i = 0; i < s->cfg->n_models; i++) {
        look(s, i, dt);
        s->is_stuck |= is_sick(&s->beats[i]);
    }
    if (s->cfg->watchdog_ms && s->cfg->alive && !qn_pulse_is_sick(s))
        s->cfg->alive(s->cfg->arg);
    if (s->cfg->watchdog_ms || s->is_stuck || now - s->asked_ns < WATCHED_NS)
        arm(s);
}

bool qn_pulse_is_sick(const qn_server *s)
{
    return s->is_sick || s->is_stuck;
}

void qn_pulse_ask(qn_server *s)
{
    s->asked_ns = qn_now_ns();
    if (evtimer_pending(s->pulse, NULL))
        return;
    s->looked_ns = s->asked_ns;
    arm(s);
}

qn_status qn_pulse_init(qn_server *s, qn_err *err)
{
    size_t n = QN_MAX(s->cfg->n_models, (size_t)1);
    s->beats = qn_calloc(n, sizeof *s->beats, QN_MEM_MISC);
    s->pulse = evtimer_new(s->base, on_tick, s);
    if (!s->beats || !s->pulse)
        return qn_fail_nomem(err, n * sizeof *s->beats);
    s->looked_ns = qn_now_ns();
    if (s->cfg->watchdog_ms)
        arm(s);
    return QN_OK;
}

void qn_pulse_end(qn_server *s)
{
    for (size_t i = 0; s->beats && i < s->cfg->n_models; i++)
        end_probe(&s->beats[i]);
    if (s->pulse)
        event_free(s->pulse);
    s->pulse = NULL;
    qn_free(s->beats);
    s->beats = NULL;
}
