/* SPDX-License-Identifier: Apache-2.0
 * models.c - models by name: who uses one, and who waits until it is open.
 *
 *   handler: qn_x_model --open--> x->held, to the end of the exchange
 *               |  not open
 *               v
 *   qn_models_wait: x in its model's list --loader: open--> x->held, and the handler is called again
 *                                         --failed, late, the end of the server--> 503
 *                                         --its client has gone--> handed back */
#include "server/core.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define RETRY_S 5 /* for who did not wait, or not long enough */

static void lock(qn_models *m)
{
    (void)pthread_mutex_lock(&m->lock);
}

static void unlock(qn_models *m)
{
    (void)pthread_mutex_unlock(&m->lock);
}

/* ---- life ---- */

qn_status qn_models_init(qn_server *s, qn_err *err)
{
    qn_models *m = &s->models;
    size_t n = s->cfg->n_models, room = QN_MAX(n, (size_t)1);
    pthread_condattr_t clock;
    (void)pthread_condattr_init(&clock);
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC); /* as qn_now_ns */
    (void)pthread_mutex_init(&m->lock, NULL);
    (void)pthread_cond_init(&m->changed, &clock);
    (void)pthread_condattr_destroy(&clock);
    m->of = qn_calloc(room, sizeof *m->of, QN_MEM_MISC);
    m->residents = qn_calloc(room, sizeof *m->residents, QN_MEM_MISC);
    if (!m->of || !m->residents)
        return qn_fail_nomem(err, room * sizeof *m->of);
    m->n = n;
    m->on_demand = s->cfg->mem_limit && n > 1;
    m->first_until_ns = QN_NEVER;
    for (size_t i = 0; i < n; i++) {
        qn_model *of = &m->of[i];
        *of = (qn_model){.cfg = &s->cfg->models[i],
                         .server = s,
                         .resident = &m->residents[i],
                         .created = (uint64_t)time(NULL)};
        of->waiting_end = &of->waiting;
        m->residents[i] = (qn_resident){.at_start = true, .keep_ns = QN_NEVER};
    }
    return QN_OK;
}

void qn_models_fini(qn_server *s)
{
    qn_models *m = &s->models;
    if (m->timer)
        event_free(m->timer);
    (void)pthread_cond_destroy(&m->changed);
    (void)pthread_mutex_destroy(&m->lock);
    qn_free(m->of);
    qn_free(m->residents);
}

/* ---- by name ---- */

static bool has_name(const qn_server_model *m, const char *name)
{
    if (strcmp(m->name, name) == 0)
        return true;
    for (size_t i = 0; i < m->n_aliases; i++)
        if (strcmp(m->aliases[i], name) == 0)
            return true;
    return false;
}

size_t qn_x_n_models(const qn_exchange *x)
{
    return x->server->models.n;
}

size_t qn_x_find(const qn_exchange *x, const char *name)
{
    const qn_models *m = &x->server->models;
    for (size_t i = 0; i < m->n && name; i++)
        if (has_name(m->of[i].cfg, name))
            return i;
    return !name || x->server->cfg->any_model ? 0 : m->n;
}

static void fail_unknown(qn_exchange *x, const char *name)
{
    const qn_models *m = &x->server->models;
    char names[256] = "none";
    for (size_t i = 0, at = 0; i < m->n && at < sizeof names; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s'%s'", i ? ", " : "",
                               m->of[i].cfg->name);
    qn_x_error(x, 404, "model", "model_not_found", "model '%.100s' does not exist; there is %s",
               name ? name : "", names);
}

/* ---- using one ---- */

/* With the lock held: x uses m from now on, if that is allowed now. */
static bool hold(qn_exchange *x, qn_model *m)
{
    qn_resident *r = m->resident;
    if (r->state != QN_RESIDENT_IN || r->is_drained)
        return false;
    r->n_users++;
    r->used_ns = qn_now_ns();
    r->keep_ns = x->server->cfg->keep_ms ? x->server->cfg->keep_ms * (uint64_t)1000000 : QN_NEVER;
    x->held = m;
    return true;
}

/* With the lock held. */
static void let_go(qn_exchange *x)
{
    qn_resident *r = x->held->resident;
    x->held = NULL;
    r->used_ns = qn_now_ns();
    if (--r->n_users == 0)
        (void)pthread_cond_signal(&x->server->models.changed);
}

void qn_models_release(qn_exchange *x)
{
    if (!x->held)
        return;
    lock(&x->server->models);
    let_go(x);
    unlock(&x->server->models);
}

/* "Prefer: wait=5" (RFC 7240). */
static uint64_t patience_of(const qn_exchange *x)
{
    uint64_t most = x->server->times.model_ns, s;
    qn_slice p = qn_x_header(x, "prefer");
    static const char wait[] = "wait=";
    size_t n = sizeof wait - 1;
    for (size_t i = 0; p.p && i + n < p.n; i++) {
        size_t digits = 0;
        while (i + n + digits < p.n && p.p[i + n + digits] >= '0' && p.p[i + n + digits] <= '9')
            digits++;
        if ((i == 0 || strchr(" ,;\t", p.p[i - 1])) && strncasecmp(p.p + i, wait, n) == 0 &&
            qn_parse_u64(p.p + i + n, digits, QN_LIMIT_HTTP_MODEL_MS, &s))
            return QN_MIN(most, s * QN_NS_PER_SECOND);
    }
    return most;
}

static void refuse_loading(qn_exchange *x, const qn_model *m)
{
    qn_x_retry_after(x, RETRY_S);
    int done = atomic_load(&m->permille) / 10;
    if (done || !m->server->models.on_demand)
        qn_x_error(x, 503, "model", "model_loading", "model '%s' is being loaded: %d %%",
                   m->cfg->name, done);
    else
        qn_x_error(x, 503, "model", "model_loading", "model '%s' is not loaded yet", m->cfg->name);
}

static void refuse_failed(qn_exchange *x, const qn_model *m, const qn_err *why, uint64_t retry_ns)
{
    uint64_t now = qn_now_ns();
    qn_x_retry_after(x, retry_ns > now ? QN_DIV_UP(retry_ns - now, QN_NS_PER_SECOND) : 1);
    qn_x_error(x, 503, "model", "model_failed", "model '%s' could not be loaded: %s", m->cfg->name,
               why->msg);
}

qn_engine *qn_x_model(qn_exchange *x, const char *name, const char **served)
{
    qn_server *s = x->server;
    qn_models *all = &s->models;
    size_t i = qn_x_find(x, name);
    if (i >= all->n) {
        fail_unknown(x, name);
        return NULL;
    }
    qn_model *m = &all->of[i];
    if (served)
        *served = m->cfg->name;
    lock(all);
    if (x->held && x->held != m)
        let_go(x);
    qn_engine *e = x->held || hold(x, m) ? m->engine : NULL;
    unlock(all);
    if (e)
        return e;
    if (all->on_demand)
        x->wanted = m; /* and qn_models_wait goes on */
    else
        refuse_loading(x, m);
    return NULL;
}

uint64_t qn_x_waited_ns(const qn_exchange *x)
{
    return x->waited_ns;
}

/* ---- waiting for one ---- */

typedef enum wait_result { WAITS, HOLDS, HAS_NO_TIME, IS_FULL, HAS_FAILED, IS_OVER } wait_result;

/* With the lock held. */
static void wish(qn_models *all, qn_resident *r, uint64_t now)
{
    if (!r->is_wanted)
        r->wanted_ns = now;
    r->is_wanted = true;
    (void)pthread_cond_signal(&all->changed);
}

/* With the lock held. */
static wait_result begin_to_wait(qn_exchange *x, uint64_t patience)
{
    qn_models *all = &x->server->models;
    qn_model *m = x->wanted;
    uint64_t now = qn_now_ns();
    if (hold(x, m))
        return HOLDS;
    if (all->is_ending || qn_x_is_gone(x))
        return IS_OVER;
    if (m->resident->state == QN_RESIDENT_OUT && m->retry_ns > now)
        return HAS_FAILED;
    if (all->n_waiting >= QN_LIMIT_HTTP_MODEL_QUEUE)
        return IS_FULL;
    wish(all, m->resident, now); /* also for who comes back later */
    if (!patience)
        return HAS_NO_TIME;
    x->next_waiting = NULL;
    x->wait_ns = now;
    x->wait_until_ns = now + patience;
    *m->waiting_end = x;
    m->waiting_end = &x->next_waiting;
    all->n_waiting++;
    all->first_until_ns = QN_MIN(all->first_until_ns, x->wait_until_ns);
    return WAITS;
}

bool qn_models_wait(qn_exchange *x)
{
    qn_server *s = x->server;
    qn_model *m = x->wanted;
    uint64_t patience = patience_of(x);
    lock(&s->models);
    wait_result r = begin_to_wait(x, patience);
    qn_err why = m->why;
    uint64_t retry_ns = m->retry_ns;
    unlock(&s->models);
    switch (r) {
    case WAITS:
        qn_server_wake(s); /* it has a time limit */
        return true;
    case HAS_NO_TIME:
        refuse_loading(x, m);
        break;
    case HAS_FAILED:
        refuse_failed(x, m, &why, retry_ns);
        break;
    case IS_FULL:
        qn_x_refuse(x, 503, RETRY_S, "too many requests wait for models to be loaded");
        break;
    case IS_OVER:
        qn_x_refuse(x, 503, RETRY_S, "the server is shutting down");
        break;
    case HOLDS:
        break;
    }
    return false;
}

/* With the lock held. */
static void leave_list(qn_exchange **at)
{
    qn_exchange *x = *at;
    qn_model *m = x->wanted;
    *at = x->next_waiting;
    if (!*at)
        m->waiting_end = at;
    x->server->models.n_waiting--;
    x->waited_ns += qn_now_ns() - x->wait_ns;
}

void qn_models_forget(qn_exchange *x)
{
    qn_models *all = &x->server->models;
    bool was_waiting = false;
    lock(all);
    for (size_t i = 0; i < all->n && !was_waiting; i++) {
        qn_model *m = &all->of[i];
        qn_exchange **at = &m->waiting;
        while (*at && *at != x)
            at = &(*at)->next_waiting;
        was_waiting = *at != NULL;
        if (!was_waiting)
            continue;
        leave_list(at);
        if (!m->waiting) { /* nobody is left who would come back */
            m->resident->is_wanted = false;
            (void)pthread_cond_signal(&all->changed);
        }
    }
    unlock(all);
    if (was_waiting)
        qn_server_ready(x, true);
}

void qn_model_hand_over(qn_model *m, const qn_err *err)
{
    qn_server *s = m->server;
    while (m->waiting && !s->models.is_ending) {
        qn_exchange *x = m->waiting;
        if (!err && !hold(x, m))
            return;
        leave_list(&m->waiting);
        if (err)
            refuse_failed(x, m, err, m->retry_ns);
        else if (qn_workers_put(x->workers ? x->workers : s->workers, &x->job,
                                qn_caller_id(x->caller)))
            continue;
        else
            qn_x_refuse(x, 503, 1, "too many requests wait for a worker");
        qn_server_ready(x, true);
    }
    m->resident->is_wanted = false;
}

/* Ends the waiting of those whose time has come, or (why) of all; their number. */
static size_t refuse_late(qn_server *s, uint64_t now, const char *why)
{
    size_t n = 0;
    qn_models *all = &s->models;
    qn_exchange *late = NULL;
    lock(all);
    all->first_until_ns = QN_NEVER;
    for (size_t i = 0; i < all->n; i++) {
        for (qn_exchange **at = &all->of[i].waiting; *at;) {
            qn_exchange *x = *at;
            if (!why && x->wait_until_ns > now) {
                all->first_until_ns = QN_MIN(all->first_until_ns, x->wait_until_ns);
                at = &x->next_waiting;
                continue;
            }
            leave_list(at);
            x->next_waiting = late;
            late = x;
            n++;
        }
    }
    unlock(all);
    while (late) {
        qn_exchange *x = late;
        late = x->next_waiting;
        if (why)
            qn_x_refuse(x, 503, RETRY_S, why);
        else
            refuse_loading(x, x->wanted);
        qn_server_ready(x, true);
    }
    return n;
}

size_t qn_models_refuse(qn_server *s, const char *why)
{
    return refuse_late(s, 0, why);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    qn_server *s = arg;
    (void)fd;
    (void)what;
    s->models.armed_ns = 0;
    (void)refuse_late(s, qn_now_ns(), NULL);
    qn_models_note(s);
}

void qn_models_note(qn_server *s)
{
    qn_models *m = &s->models;
    lock(m);
    uint64_t at = m->n_waiting ? m->first_until_ns : QN_NEVER, now = qn_now_ns();
    unlock(m);
    if (at == QN_NEVER || (m->armed_ns && m->armed_ns <= at))
        return;
    if (!m->timer)
        m->timer = evtimer_new(s->base, on_timer, s);
    struct timeval t = qn_time_until(at, now);
    if (m->timer && event_add(m->timer, &t) == 0)
        m->armed_ns = at;
}

/* ---- keeping and putting away ---- */

bool qn_x_keep(qn_exchange *x, uint64_t ns)
{
    qn_models *m = &x->server->models;
    if (!m->on_demand || !x->held)
        return false;
    lock(m);
    x->held->resident->keep_ns = ns;
    unlock(m);
    return true;
}

bool qn_x_put_away(qn_exchange *x, size_t i)
{
    qn_models *m = &x->server->models;
    if (!m->on_demand)
        return false;
    lock(m);
    m->residents[i].keep_ns = 0;
    (void)pthread_cond_signal(&m->changed);
    unlock(m);
    return true;
}

/* ---- as others see them ---- */

bool qn_models_are_ready(qn_server *s, double *progress)
{
    qn_models *m = &s->models;
    double sum = 0;
    size_t n = m->on_demand ? 1 : m->n;
    for (size_t i = 0; i < n; i++)
        sum += atomic_load(&m->of[i].permille) / 1000.0;
    *progress = n ? sum / (double)n : 1;
    lock(m);
    bool is_ready = m->is_ready || n == 0;
    unlock(m);
    return is_ready;
}

bool qn_server_is_opening(qn_server *s)
{
    lock(&s->models);
    bool is_opening = s->models.is_opening;
    unlock(&s->models);
    return is_opening;
}

static qn_model_state state_of(const qn_model *m)
{
    switch (m->resident->state) {
    case QN_RESIDENT_IN:
        return QN_MODEL_LOADED;
    case QN_RESIDENT_OPENING:
        return QN_MODEL_LOADING;
    default: /* without a limit it will come by itself */
        return m->server->models.on_demand && !m->resident->is_wanted ? QN_MODEL_UNLOADED
                                                                      : QN_MODEL_LOADING;
    }
}

/* With the lock held. The strings are copied too: those of the model change when it is opened again. */
static const qn_engine_info *copy_info(qn_exchange *x, const qn_model *m)
{
    qn_engine_info *to = qn_arena_alloc(&x->arena, sizeof *to);
    if (!m->has_info || !to)
        return NULL;
    *to = m->info;
    const char **strings[] = {&to->name, &to->arch, &to->quantization, &to->device};
    for (size_t i = 0; i < QN_COUNT(strings); i++) {
        *strings[i] = qn_arena_strndup(&x->arena, *strings[i], strlen(*strings[i]));
        if (!*strings[i])
            return NULL;
    }
    return to;
}

void qn_x_model_at(qn_exchange *x, size_t i, qn_model_entry *out)
{
    qn_models *all = &x->server->models;
    const qn_model *m = &all->of[i];
    const qn_resident *r = m->resident;
    lock(all);
    *out = (qn_model_entry){
        .name = m->cfg->name,
        .created = m->created,
        .state = state_of(m),
        .progress = atomic_load(&m->permille) / 1000.0,
        .keep_ns = QN_NEVER,
        .info = copy_info(x, m),
    };
    if (m->n_tries)
        out->why = qn_arena_strndup(&x->arena, m->why.msg, strlen(m->why.msg));
    if (r->state == QN_RESIDENT_IN && r->keep_ns != QN_NEVER) {
        uint64_t now = qn_now_ns(), idle = now - QN_MIN(r->used_ns, now);
        out->keep_ns = r->keep_ns - (r->n_users ? 0 : QN_MIN(idle, r->keep_ns));
    }
    unlock(all);
}

/* Names of an engine's classes end with it; those of the configuration stay. */
static void name_classes(const qn_config *c, qn_engine_stats *s)
{
    for (int i = 0; i < s->n_classes; i++)
        s->classes[i].name = c->classes && i < c->n_classes ? c->classes[i].name : "default";
}

static void add_class(qn_class_stats *to, const qn_class_stats *now, const qn_class_stats *past)
{
    *to = *now;
    to->n_done += past->n_done;
    to->n_met += past->n_met;
    to->n_refused += past->n_refused;
    to->n_preempted += past->n_preempted;
    to->used_ns += past->used_ns;
}

void qn_model_add_stats(qn_model *m, qn_engine_stats *to)
{
    static const size_t sums[] = {offsetof(qn_engine_stats, n_prompt_tokens),
                                  offsetof(qn_engine_stats, n_output_tokens),
                                  offsetof(qn_engine_stats, n_cache_queries),
                                  offsetof(qn_engine_stats, n_cache_hits),
                                  offsetof(qn_engine_stats, n_preempted),
                                  offsetof(qn_engine_stats, n_draft_tokens),
                                  offsetof(qn_engine_stats, n_accepted_tokens),
                                  offsetof(qn_engine_stats, n_steps),
                                  offsetof(qn_engine_stats, n_step_rows),
                                  offsetof(qn_engine_stats, n_step_seqs),
                                  offsetof(qn_engine_stats, n_ops),
                                  offsetof(qn_engine_stats, schedule_ns),
                                  offsetof(qn_engine_stats, model_ns),
                                  offsetof(qn_engine_stats, sample_ns)};
    qn_engine_stats now = {0}, past = m->past;
    if (!m->engine) {
        *to = past;
        return;
    }
    qn_engine_get_stats(m->engine, &now);
    name_classes(&m->cfg->config, &now);
    *to = now;
    for (size_t i = 0; i < QN_COUNT(sums); i++)
        *(uint64_t *)((char *)to + sums[i]) += *(uint64_t *)((char *)&past + sums[i]);
    for (int i = 0; i < to->n_classes; i++)
        add_class(&to->classes[i], &now.classes[i], &past.classes[i]);
}

qn_model_view *qn_server_views(qn_server *s, size_t *n)
{
    qn_models *all = &s->models;
    qn_model_view *v = qn_calloc(QN_MAX(all->n, (size_t)1), sizeof *v, QN_MEM_MISC);
    *n = v ? all->n : 0;
    lock(all);
    for (size_t i = 0; v && i < all->n; i++) {
        qn_model *m = &all->of[i];
        v[i] = (qn_model_view){
            .name = m->cfg->name,
            .state = qn_model_state_name(state_of(m)),
            .is_open = m->engine != NULL,
            .was_open = m->n_opened > 0,
            .weight_bytes = m->info.weight_bytes_per_token,
            .bytes = m->resident->bytes,
            .rank = (uint32_t)qn_residency_rank(all->residents, all->n, i),
            .n_opened = m->n_opened,
            .n_closed = m->n_closed,
            .n_failed = m->n_failed,
            .opening_ns = m->opening_ns,
        };
        for (const qn_exchange *x = m->waiting; x; x = x->next_waiting)
            v[i].n_waiting++;
        qn_model_add_stats(m, &v[i].stats);
    }
    unlock(all);
    return v;
}
