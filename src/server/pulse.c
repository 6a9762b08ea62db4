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
 * Nobody is probed for nobody: only with a watchdog, or while someone asks for /health.
 * A model is looked at with models.lock held, so that the loader does not put it away meanwhile. A probe does not keep it: the loader
 * drops the probe first. While it is put away it counts as one whose operations do not end. I/O thread. */
#include "server/core.h"
#include <quern/measure.h>

#include <string.h>

#define TICK_MS    1000
#define WATCHED_NS 60000000000u /* after someone asked */
#define PROBE_MS   30000
#define PROBE_ROWS 512 /* of a step that QN_LIMIT_STEP_MS is for */

struct qn_beat {
    uint64_t n_opened; /* the model's, as of the last look: which of its engines all this is of */
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
    return (ms * QN_DIV_UP(rows, PROBE_ROWS) + (uint64_t)c->batch_timeout_ms) * QN_NS_PER_MS;
}

static uint64_t probe_every(const qn_server *s)
{
    return (s->cfg->probe_ms > 0 ? (uint64_t)s->cfg->probe_ms : PROBE_MS) * QN_NS_PER_MS;
}

/* What fails for want of memory says nothing about the engine. */
static void judge(qn_beat *b, qn_status st)
{
    if (st != QN_E_NOMEM)
        b->has_failed = st != QN_OK;
}

static void begin_probe(qn_model *m, qn_beat *b)
{
    static const int32_t id = 0; /* any vocabulary has it */
    const qn_config *c = &m->cfg->config;
    qn_prompt prompt = {.ids = &id, .n_ids = 1};
    qn_params p = qn_params_default();
    qn_err err;
    p.temperature = 0;
    p.max_tokens = 1;
    p.ignore_eos = true;
    p.is_probe = true;
    p.class_name = c->classes && c->n_classes > 0 ? c->classes[c->n_classes - 1].name : NULL;
    judge(b, qn_request_submit(&m->probe, m->engine, &prompt, &p, &err));
}

static void read_probe(qn_model *m, qn_beat *b)
{
    qn_event ev;
    qn_err err;
    bool got = true;
    while (m->probe && got) {
        qn_status st = qn_request_poll(m->probe, &ev, &got, &err);
        if (st == QN_OK && (!got || ev.kind != QN_EVENT_DONE))
            continue;
        judge(b, st);
        b->quiet_ns = 0;
        qn_request_drop(m->probe);
        m->probe = NULL;
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
                         (unsigned long long)(ns / QN_NS_PER_SECOND));
    else if (b->has_failed)
        qn_server_notice(s, "sick: model '%s': the token asked for as a probe did not come",
                         m->name);
    else
        qn_server_notice(s, "model '%s' is well again", m->name);
}

/* dt passed since the last look. With models.lock held. */
static void look(const qn_server *s, qn_model *m, qn_beat *b, uint64_t dt)
{
    const qn_resident *r = m->resident;
    const qn_config *c = &m->cfg->config;
    qn_engine_stats st;
    if (r->state == QN_RESIDENT_CLOSING) {
        b->still_ns += dt;
        b->is_stuck = b->still_ns > still_limit(s, c);
        return;
    }
    if (!m->engine || b->n_opened != m->n_opened)
        *b = (qn_beat){.n_opened = m->n_opened};
    if (!m->engine)
        return;
    qn_engine_get_stats(m->engine, &st);
    bool is_moving = st.n_ops != b->n_ops, has_users = st.n_running + st.n_waiting > 0;
    bool has_tokens = st.n_output_tokens != b->n_tokens;
    b->n_ops = st.n_ops;
    b->n_tokens = st.n_output_tokens;
    read_probe(m, b);
    b->still_ns = is_moving || !(has_users || m->probe) ? 0 : b->still_ns + dt;
    b->is_stuck = b->still_ns > still_limit(s, c);
    b->quiet_ns = has_tokens ? 0 : b->quiet_ns + dt;
    b->has_failed &= !has_tokens;
    if (!m->probe && !has_users && !r->is_drained && b->quiet_ns >= probe_every(s))
        begin_probe(m, b);
}

static void look_at_all(qn_server *s, uint64_t dt)
{
    qn_models *all = &s->models;
    s->is_stuck = false;
    for (size_t i = 0; i < all->n; i++) {
        qn_beat *b = &s->beats[i];
        bool was_sick = is_sick(b);
        (void)pthread_mutex_lock(&all->lock);
        look(s, &all->of[i], b, dt);
        (void)pthread_mutex_unlock(&all->lock);
        s->is_stuck |= is_sick(b);
        if (was_sick != is_sick(b))
            tell(s, all->of[i].cfg, b, b->still_ns);
    }
}

static bool arm(qn_server *s)
{
    struct timeval t = qn_time_of((uint64_t)period_ms(s) * QN_NS_PER_MS);
    return event_add(s->pulse, &t) == 0;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    qn_server *s = arg;
    uint64_t now = qn_now_ns(), most = 2 * (uint64_t)period_ms(s) * QN_NS_PER_MS;
    uint64_t dt = QN_MIN(now - s->looked_ns, most);
    (void)fd;
    (void)what;
    s->looked_ns = now;
    look_at_all(s, dt);
    if (s->cfg->watchdog_ms && s->cfg->alive && !qn_pulse_is_sick(s))
        s->cfg->alive(s->cfg->arg);
    bool goes_on = s->cfg->watchdog_ms || s->is_stuck || now - s->asked_ns < WATCHED_NS;
    if (goes_on && !arm(s)) /* no memory for a timer: at the loop's next turn, until there is */
        event_active(s->pulse, EV_TIMEOUT, 0);
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
    (void)arm(s); /* it cannot: the next one who asks */
}

qn_status qn_pulse_init(qn_server *s, qn_err *err)
{
    size_t n = QN_MAX(s->models.n, (size_t)1);
    s->beats = qn_calloc(n, sizeof *s->beats, QN_MEM_MISC);
    s->pulse = evtimer_new(s->base, on_tick, s);
    if (!s->beats || !s->pulse)
        return qn_fail_nomem(err, n * sizeof *s->beats);
    s->looked_ns = qn_now_ns();
    if (s->cfg->watchdog_ms && !arm(s))
        return qn_fail_nomem(err, sizeof *s->beats);
    return QN_OK;
}

void qn_pulse_end(qn_server *s)
{
    if (s->pulse)
        event_free(s->pulse);
    s->pulse = NULL;
    qn_free(s->beats);
    s->beats = NULL;
}
