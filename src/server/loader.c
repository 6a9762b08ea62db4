/* SPDX-License-Identifier: Apache-2.0
 * loader.c - the thread that opens models and puts them away, as residency.h decides.
 *
 * First every model is opened dry, as quern plan does: what each takes is known before the first weight is read, and what can never
 * fit is an error at the start. Under a limit the first model is opened, then those asked for, then the others as far as there is room.
 *
 * What fails at the start ends the server. Later it is told to those that wait, and is not tried again for a while. */
#include "server/core.h"

#include "base/cpu.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define FIRST_RETRY_NS 1000000000u
#define MOST_DOUBLINGS 6

static void on_progress(void *arg, const char *what, double done)
{
    qn_model *m = arg;
    const qn_server_config *cfg = m->server->cfg;
    atomic_store(&m->permille, (int)(1000 * QN_MIN(QN_MAX(done, 0.0), 1.0)));
    if (cfg->progress)
        cfg->progress(cfg->arg, m->cfg->name, what, done);
}

/* ---- what they take ---- */

/* The sum of the table that is printed when it is open. */
static uint64_t bytes_of(const qn_engine_info *i)
{
    return i->weight_bytes + i->kv_bytes + i->activation_bytes + i->vocab_bytes;
}

/* With the lock held. */
static void keep_info(qn_model *m, const qn_engine_info *info)
{
    m->info = *info;
    const char **strings[] = {&m->info.name, &m->info.arch, &m->info.quantization, &m->info.device};
    for (size_t i = 0; i < QN_COUNT(strings); i++) {
        (void)snprintf(m->texts[i], sizeof m->texts[i], "%s", *strings[i] ? *strings[i] : "");
        *strings[i] = m->texts[i];
    }
    m->has_info = true;
}

/* The table, and what is beside it of lists and names. *least: without the experts that may stay on disk. */
static qn_status plan_one(qn_server *s, size_t i, uint64_t *least, qn_err *err)
{
    qn_models *all = &s->models;
    qn_model *m = &all->of[i];
    qn_config c = m->cfg->config;
    qn_engine *e = NULL;
    qn_engine_info info;
    c.dry = true;
    c.prefault = false;
    c.progress = NULL;
    c.mem_limit = all->limit;
    size_t before = qn_mem_live(QN_MEM_MISC);
    QN_TRY(qn_engine_open(&e, &c, err));
    size_t now = qn_mem_live(QN_MEM_MISC);
    qn_engine_get_info(e, &info);
    uint64_t bytes = bytes_of(&info) + (now - QN_MIN(now, before));
    (void)pthread_mutex_lock(&all->lock);
    keep_info(m, &info);
    m->resident->bytes = bytes;
    (void)pthread_mutex_unlock(&all->lock);
    *least = bytes - info.spare_bytes;
    qn_engine_free(e);
    return QN_OK;
}

/* Each must fit alone. A model whose experts do not all fit has what there is for itself. */
static qn_status plan_under_limit(qn_server *s, qn_err *err)
{
    qn_models *all = &s->models;
    uint64_t rest = qn_mem_resident_rest(), limit = s->cfg->mem_limit, least;
    all->limit = limit - QN_MIN(rest, limit);
    if (!all->limit)
        return qn_fail(err, QN_E_NOMEM, "--mem of %.2f GB: the program alone takes %.2f GB",
                       (double)limit * 1e-9, (double)rest * 1e-9);
    for (size_t i = 0; i < all->n; i++) {
        QN_TRY(plan_one(s, i, &least, err));
        qn_resident *r = &all->residents[i];
        if (least > all->limit)
            return qn_fail(
                err, QN_E_NOMEM,
                "model '%s' takes %.1f MB and the program %.1f MB: want --mem of %.1f MB "
                "or more, found %.1f MB; or a smaller --max-ctx, --max-seqs or --max-batch-tokens",
                all->of[i].cfg->name, (double)least * 1e-6, (double)rest * 1e-6,
                (double)(least + rest) * 1e-6, (double)limit * 1e-6);
        r->bytes = QN_MIN(r->bytes, all->limit);
    }
    return QN_OK;
}

/* Without a limit all of them, and the machine must have room. */
static qn_status plan_all(qn_server *s, qn_err *err)
{
    qn_models *all = &s->models;
    uint64_t sum = qn_mem_resident_rest(), room = qn_cpu_memory_bytes(), least;
    bool is_mapped = false;
    for (size_t i = 0; i < all->n; i++) {
        QN_TRY(plan_one(s, i, &least, err));
        sum += all->residents[i].bytes;
        is_mapped |= all->of[i].cfg->config.mmap;
    }
    if (sum > room && !is_mapped)
        return qn_fail(err, QN_E_NOMEM,
                       "the %zu models take %.2f GB together, this machine has %.2f GB: want --mem "
                       "BYTES, under which they are opened when they are asked for",
                       all->n, (double)sum * 1e-9, (double)room * 1e-9);
    return QN_OK;
}

static qn_status plan(qn_server *s, qn_err *err)
{
    qn_models *all = &s->models;
    all->limit = s->cfg->mem_limit;
    if (all->on_demand)
        return plan_under_limit(s, err);
    return all->n > 1 ? plan_all(s, err) : QN_OK;
}

/* ---- opening and closing ---- */

/* The server can not be what it was asked to be. */
static void fail_start(qn_server *s, const qn_err *err)
{
    s->models.err = *err;
    atomic_store(&s->models.has_failed, true);
    qn_server_wake(s);
}

/* With the lock held. */
static void note_failure(qn_model *m, const qn_err *err)
{
    unsigned doublings = QN_MIN(m->n_tries, (unsigned)MOST_DOUBLINGS);
    m->why = *err;
    m->n_failed++;
    m->n_tries++;
    m->retry_ns = qn_now_ns() + ((uint64_t)FIRST_RETRY_NS << doublings);
    m->resident->is_wanted = false;
    qn_model_hand_over(m, err);
}

/* With the lock held. Whether the server is what it is going to be. */
static bool note_ready(qn_models *all)
{
    bool is_ready = true;
    for (size_t i = 0; i < (all->on_demand ? 1 : all->n); i++)
        is_ready &= all->residents[i].state == QN_RESIDENT_IN;
    bool is_new = is_ready && !all->is_ready;
    all->is_ready |= is_ready;
    return is_new;
}

/* With the lock held, which is given up meanwhile. False: that was the end. */
static bool open_one(qn_server *s, size_t i)
{
    qn_models *all = &s->models;
    const qn_server_config *cfg = s->cfg;
    qn_model *m = &all->of[i];
    qn_resident *r = m->resident;
    qn_config c = m->cfg->config;
    qn_engine *e = NULL;
    qn_err err = {0};
    r->state = QN_RESIDENT_OPENING;
    r->at_start = false;
    all->is_opening = true;
    (void)pthread_mutex_unlock(&all->lock);
    atomic_store(&m->permille, 0);
    uint64_t begin = qn_now_ns();
    c.progress = on_progress;
    c.progress_arg = m;
    c.mem_limit = all->limit;
    qn_status st = qn_engine_open(&e, &c, &err);
    uint64_t end = qn_now_ns();
    atomic_store(&m->permille, st == QN_OK ? 1000 : 0);
    if (cfg->opened)
        cfg->opened(cfg->arg, m->cfg->name, e, st == QN_OK ? NULL : &err);
    (void)pthread_mutex_lock(&all->lock);
    all->is_opening = false;
    r->state = st == QN_OK ? QN_RESIDENT_IN : QN_RESIDENT_OUT;
    m->opening_ns += end - begin;
    if (st != QN_OK) {
        note_failure(m, &err);
        if (!all->is_ready)
            fail_start(s, &err);
        return all->is_ready;
    }
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    keep_info(m, &info);
    r->bytes = QN_MAX(r->bytes, bytes_of(&info)); /* a file may be another than the one planned */
    m->engine = e;
    m->n_opened++;
    m->n_tries = 0;
    m->retry_ns = 0;
    r->in_ns = r->used_ns = end;
    r->open_ns = end - begin;
    r->keep_ns = QN_NEVER;
    bool is_ready = note_ready(all);
    qn_model_hand_over(m, NULL);
    (void)pthread_mutex_unlock(&all->lock);
    if (is_ready && cfg->ready)
        cfg->ready(cfg->arg);
    qn_server_wake(s);
    (void)pthread_mutex_lock(&all->lock);
    return true;
}

/* With the lock held, which is given up meanwhile. Nobody uses it. */
static void close_one(qn_server *s, size_t i)
{
    qn_models *all = &s->models;
    qn_model *m = &all->of[i];
    qn_engine *e = m->engine;
    qn_engine_stats *past = &m->past;
    m->resident->state = QN_RESIDENT_CLOSING;
    qn_model_add_stats(m, past);
    past->n_running = past->n_waiting = 0;
    past->n_kv_blocks = past->n_kv_used = past->n_kv_cached = 0;
    for (int c = 0; c < past->n_classes; c++)
        past->classes[c].n_running = past->classes[c].n_waiting = 0;
    qn_request *probe = m->probe;
    m->engine = NULL;
    m->probe = NULL;
    (void)pthread_mutex_unlock(&all->lock);
    qn_request_drop(probe);
    qn_engine_free(e);
    if (s->cfg->closed)
        s->cfg->closed(s->cfg->arg, m->cfg->name);
    (void)pthread_mutex_lock(&all->lock);
    atomic_store(&m->permille, 0);
    m->n_closed++;
    m->resident->state = QN_RESIDENT_OUT;
}

/* ---- the thread ---- */

/* With the lock held. */
static void sleep_until(qn_models *all, uint64_t at)
{
    struct timespec t = {(time_t)(at / 1000000000u), (long)(at % 1000000000u)};
    if (at == QN_NEVER)
        (void)pthread_cond_wait(&all->changed, &all->lock);
    else
        (void)pthread_cond_timedwait(&all->changed, &all->lock, &t);
}

static void serve_wishes(qn_server *s)
{
    qn_models *all = &s->models;
    uint64_t at, limit = all->on_demand ? all->limit : UINT64_MAX;
    bool go_on = true;
    while (go_on && !all->is_ending) {
        switch (qn_residency_next(all->residents, all->n, limit, qn_now_ns(), &at)) {
        case QN_RESIDENCY_OPEN:
            go_on = open_one(s, (size_t)at);
            break;
        case QN_RESIDENCY_CLOSE:
            close_one(s, (size_t)at);
            break;
        case QN_RESIDENCY_WAIT:
            for (size_t i = 0; i < all->n; i++) /* what was drained may go on */
                if (all->residents[i].state == QN_RESIDENT_IN && !all->residents[i].is_drained)
                    qn_model_hand_over(&all->of[i], NULL);
            if (!all->is_ending)
                sleep_until(all, at);
            break;
        }
    }
}

static void *loader_main(void *arg)
{
    qn_server *s = arg;
    qn_models *all = &s->models;
    qn_err err = {0};
    if (plan(s, &err) != QN_OK) {
        fail_start(s, &err);
        return NULL;
    }
    (void)pthread_mutex_lock(&all->lock);
    all->residents[0].is_wanted = true; /* before all others */
    serve_wishes(s);
    (void)pthread_mutex_unlock(&all->lock);
    return NULL;
}

qn_status qn_loader_start(qn_server *s, qn_err *err)
{
    qn_models *all = &s->models;
    if (!all->n)
        return QN_OK;
    if (pthread_create(&all->loader, NULL, loader_main, s))
        return qn_fail(err, QN_E_NOMEM, "cannot start the thread that opens models");
    all->has_loader = true;
    return QN_OK;
}

void qn_loader_end(qn_server *s)
{
    (void)pthread_mutex_lock(&s->models.lock);
    s->models.is_ending = true;
    for (size_t i = 0; s->models.residents && i < s->models.n; i++)
        s->models.residents[i].is_drained = false; /* what came before the end is still answered */
    (void)pthread_cond_signal(&s->models.changed);
    (void)pthread_mutex_unlock(&s->models.lock);
}

void qn_loader_join(qn_server *s)
{
    qn_models *all = &s->models;
    if (all->has_loader)
        (void)pthread_join(all->loader, NULL);
    all->has_loader = false;
    for (size_t i = 0; all->of && i < all->n; i++) {
        qn_request_drop(all->of[i].probe);
        qn_engine_free(all->of[i].engine);
    }
}
