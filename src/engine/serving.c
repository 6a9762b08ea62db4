/* SPDX-License-Identifier: Apache-2.0
 * serving.c - an engine that many share: the classes of its config, who may come in, and what it
 * tells of itself.
 *
 *   engine thread                         engine->lock              any thread
 *   counts, requests, scheduler --------> stats, forecast --------> qn_engine_get_stats
 *   publish, after each step              + n_inbox since           qn_engine_admit
 *
 * The lock is never held during a step, so that neither waits for one. */
#include "engine/engine.h"

#include <limits.h>
#include <string.h>

/* ---- the config ---- */

static qn_status check_class(const qn_config *c, int i, qn_err *err)
{
    const qn_class *k = &c->classes[i];
    if (!k->name || !qn_slice_is_word(qn_slice_of(k->name), QN_CLASS_NAME))
        return qn_fail(err, QN_E_ARG,
                       "class %d: found the name '%.40s', want 1 to %d of [A-Za-z0-9_-]", i,
                       k->name ? k->name : "", QN_CLASS_NAME);
    for (int j = 0; j < i; j++)
        if (strcmp(c->classes[j].name, k->name) == 0)
            return qn_fail(err, QN_E_ARG, "classes: found '%s' twice", k->name);
    if (k->share < 1 || k->share > 10000)
        return qn_fail(err, QN_E_ARG, "class '%s': found share %u, want 1..10000", k->name,
                       k->share);
    if (k->refuse_late && !k->target_ms)
        return qn_fail(err, QN_E_ARG, "class '%s': refuses what is late, and has no target",
                       k->name);
    return QN_OK;
}

static qn_status check_buckets(const qn_config *c, qn_err *err)
{
    if (c->n_buckets < 0 || c->n_buckets > QN_MAX_BUCKETS || (c->n_buckets && !c->buckets))
        return qn_fail(err, QN_E_ARG, "buckets: found %d, want 0..%d", c->n_buckets,
                       QN_MAX_BUCKETS);
    for (int i = 0; i < c->n_buckets; i++) {
        const qn_bucket *b = &c->buckets[i];
        if (!b->max_seqs)
            return qn_fail(err, QN_E_ARG, "bucket of %u tokens: found no sequences, want 1 or more",
                           b->max_tokens);
        if (i && b[-1].max_tokens >= b->max_tokens)
            return qn_fail(err, QN_E_ARG, "buckets: found %u tokens after %u, want them ascending",
                           b->max_tokens, b[-1].max_tokens);
    }
    return QN_OK;
}

qn_status qn_serving_check(const qn_config *c, qn_err *err)
{
    int n = c->classes ? c->n_classes : 1;
    if (n < 1 || n > QN_MAX_CLASSES || (!c->classes && c->n_classes))
        return qn_fail(err, QN_E_ARG, "classes: found %d, want 1..%d", c->n_classes,
                       QN_MAX_CLASSES);
    for (int i = 0; c->classes && i < n; i++)
        QN_TRY(check_class(c, i, err));
    if (c->default_class < 0 || c->default_class >= n)
        return qn_fail(err, QN_E_ARG, "default_class: found %d, want 0..%d", c->default_class,
                       n - 1);
    int most = c->max_seqs ? c->max_seqs : 16;
    if (c->min_seqs < 0 || c->min_seqs > most)
        return qn_fail(err, QN_E_ARG, "min_seqs: found %d, want 0..%d", c->min_seqs, most);
    return check_buckets(c, err);
}

void qn_serving_init(qn_engine *e)
{
    static const qn_class one = {.name = "default", .share = 1};
    qn_config *c = &e->config;
    c->n_classes = c->classes ? c->n_classes : 1;
    for (int i = 0; i < c->n_classes; i++) {
        e->classes[i] = c->classes ? c->classes[i] : one;
        size_t n = strlen(e->classes[i].name); /* was checked */
        memcpy(e->class_names[i], e->classes[i].name, n + 1);
        e->classes[i].name = e->class_names[i];
    }
    if (c->n_buckets)
        memcpy(e->buckets, c->buckets, (size_t)c->n_buckets * sizeof *c->buckets);
    c->classes = e->classes;
    c->buckets = e->buckets;
}

int qn_engine_class(const qn_engine *e, const char *name)
{
    if (!name)
        return e->config.default_class;
    for (int i = 0; i < e->config.n_classes; i++)
        if (strcmp(e->classes[i].name, name) == 0)
            return i;
    return -1;
}

/* ---- coming in ---- */

static qn_tenant_load *load_of(qn_engine *e, uint64_t id)
{
    for (size_t i = 0; i < e->n_tenants && id; i++)
        if (e->tenants[i].id == id)
            return &e->tenants[i];
    return NULL;
}

static qn_status check_queue(qn_engine *e, const qn_request *r, qn_err *err)
{
    uint32_t n = e->stats.n_waiting, most = (uint32_t)e->config.max_queue;
    for (int i = 0; i < e->config.n_classes; i++)
        n += e->n_inbox[i];
    const qn_tenant_load *t = load_of(e, r->tenant_id);
    uint32_t n_free = most - QN_MIN(n, most), n_mine = t ? t->n_waiting : 0;
    if (n_mine < n_free)
        return QN_OK;
    e->n_refused[r->class_id]++;
    if (!r->tenant_id)
        return qn_fail(err, QN_E_QUEUE_FULL, "%u requests wait, the queue holds %u", n, most);
    return n_free ? qn_fail(err, QN_E_QUEUE_FULL,
                            "%u of your requests wait, and the rest of the queue is for others",
                            n_mine)
                  : qn_fail(err, QN_E_BUSY, "the queue is full");
}

/* r is one of its tenant's, and waits. */
static qn_status add_load(qn_engine *e, qn_request *r, qn_err *err)
{
    qn_tenant_load *t = load_of(e, r->tenant_id);
    if (!r->tenant_id)
        return QN_OK;
    if (!t) {
        if (!qn_grow(&e->tenants, &e->tenants_cap, e->n_tenants + 1, sizeof *t, QN_MEM_MISC))
            return qn_fail_nomem(err, sizeof *t);
        t = &e->tenants[e->n_tenants++];
        *t = (qn_tenant_load){.id = r->tenant_id};
    }
    t->n_requests++;
    t->n_waiting++;
    r->waits = true;
    return QN_OK;
}

/* With e->lock held: of the request's tenant now one more or less waits. */
static void set_waits(qn_engine *e, qn_request *r, bool waits)
{
    qn_tenant_load *t = r->waits != waits ? load_of(e, r->tenant_id) : NULL;
    if (t)
        t->n_waiting += waits ? 1 : UINT32_MAX;
    r->waits = waits;
}

static void end_load(qn_engine *e, qn_request *r)
{
    (void)pthread_mutex_lock(&e->lock);
    set_waits(e, r, false);
    qn_tenant_load *t = load_of(e, r->tenant_id);
    if (t && --t->n_requests == 0)
        *t = e->tenants[--e->n_tenants];
    (void)pthread_mutex_unlock(&e->lock);
}

qn_status qn_engine_admit(qn_engine *e, qn_request *r, qn_err *err)
{
    const qn_class *c = &e->classes[r->class_id];
    if (r->params.is_probe)
        return QN_OK;
    uint32_t n_prompt = (uint32_t)r->n_prompt;
    QN_TRY(check_queue(e, r, err));
    uint32_t n_output = (uint32_t)r->params.max_tokens;
    if (c->refuse_late) { /* an answer may end early, unless it may not */
        uint32_t n_sure =
            r->params.ignore_eos ? n_output : (uint32_t)QN_MAX(r->params.min_tokens, 1);
        uint64_t ms =
            qn_forecast_ns(&e->forecast, (uint32_t)r->class_id, n_prompt, n_sure) / 1000000u;
        if (ms > c->target_ms) {
            e->n_refused[r->class_id]++;
            return qn_fail(
                err, QN_E_TIMEOUT,
                "class '%s': the answer would take at least %llu ms, the target is %u ms", c->name,
                (unsigned long long)ms, c->target_ms);
        }
    }
    QN_TRY(add_load(e, r, err));
    e->n_inbox[r->class_id]++;
    qn_forecast_add(&e->forecast, (uint32_t)r->class_id, n_prompt, n_output,
                    (uint32_t)QN_MAX(QN_MAX(r->params.n, r->params.beam_width), 1));
    return QN_OK;
}

void qn_serving_take(qn_engine *e)
{
    for (int i = 0; i < e->config.n_classes; i++) {
        e->stats.n_waiting += e->n_inbox[i];
        e->stats.classes[i].n_waiting += e->n_inbox[i];
        e->n_inbox[i] = 0;
    }
}

/* ---- telling ---- */

/* Tokens of r, which runs or ends, as far as it came. */
static void add_tokens(qn_engine_stats *s, const qn_request *r)
{
    s->n_prompt_tokens += r->t_start ? r->n_prompt : 0;
    s->n_output_tokens += (uint64_t)r->n_output;
    s->n_draft_tokens += (uint64_t)r->n_drafted;
    s->n_accepted_tokens += (uint64_t)r->n_accepted;
}

void qn_serving_end(qn_engine *e, qn_request *r, bool answered)
{
    qn_class_stats *c = &e->counts.classes[r->class_id];
    uint64_t target = (uint64_t)e->classes[r->class_id].target_ms * 1000000u;
    end_load(e, r);
    if (r->params.is_probe)
        return;
    add_tokens(&e->counts, r);
    c->n_done += answered;
    c->n_met += answered && (!target || qn_now_ns() - r->t_submit <= target);
}

static bool is_running(const qn_request *r)
{
    for (size_t i = 0; i < r->n_seqs; i++)
        if (r->seqs[i]->sched.state == QN_SEQ_RUNNING)
            return true;
    return false;
}

void qn_serving_publish(qn_engine *e)
{
    const qn_scheduler *sched = &e->scheduler;
    qn_forecast forecast;
    qn_engine_stats s = e->counts;
    s.n_classes = e->config.n_classes;
    for (int i = 0; i < s.n_classes; i++) {
        qn_class_stats *c = &s.classes[i];
        c->name = e->classes[i].name;
        c->share = e->classes[i].share;
        c->target_ms = e->classes[i].target_ms;
        c->n_preempted = sched->classes.list[i].n_preempted;
        c->used_ns = sched->classes.list[i].used_ns;
    }
    for (size_t i = 0; i < e->n_active; i++) {
        const qn_request *r = e->active[i];
        bool runs = is_running(r);
        if (r->ends || r->params.is_probe)
            continue;
        add_tokens(&s, r);
        s.n_running += runs;
        s.n_waiting += !runs;
        s.classes[r->class_id].n_running += runs;
        s.classes[r->class_id].n_waiting += !runs;
    }
    s.n_kv_blocks = qn_block_pool_n_blocks(e->pool);
    s.n_kv_used = s.n_kv_blocks - qn_block_pool_n_free(e->pool);
    s.n_kv_cached = qn_block_pool_n_cached(e->pool);
    s.n_cache_queries = sched->n_cache_queries;
    s.n_cache_hits = sched->n_cache_hits;
    s.n_preempted = sched->n_preempted;
    qn_forecast_make(&forecast, sched);
    (void)pthread_mutex_lock(&e->lock);
    for (size_t i = 0; i < e->n_active; i++)
        if (!e->active[i]->ends)
            set_waits(e, e->active[i], !is_running(e->active[i]));
    e->stats = s;
    e->forecast = forecast;
    (void)pthread_mutex_unlock(&e->lock);
}

void qn_engine_get_stats(qn_engine *e, qn_engine_stats *out)
{
    (void)pthread_mutex_lock(&e->lock);
    *out = e->stats;
    out->n_ops = atomic_load_explicit(&e->runner->n_ops, memory_order_relaxed);
    for (int i = 0; i < e->config.n_classes; i++) {
        out->n_waiting += e->n_inbox[i];
        out->classes[i].n_waiting += e->n_inbox[i];
        out->classes[i].n_refused = e->n_refused[i];
    }
    (void)pthread_mutex_unlock(&e->lock);
}
