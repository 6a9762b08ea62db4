/* SPDX-License-Identifier: Apache-2.0
 * models.c - models by name, and the thread that opens them one after the other. */
#include "server/core.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- opening ---- */

static void on_progress(void *arg, const char *what, double done)
{
    qn_model *m = arg;
    const qn_server_config *cfg = m->server->cfg;
    atomic_store(&m->permille, (int)(1000 * QN_MIN(QN_MAX(done, 0.0), 1.0)));
    if (cfg->progress)
        cfg->progress(cfg->arg, m->cfg->name, what, done);
}

static void *loader_main(void *arg)
{
    qn_server *s = arg;
    const qn_server_config *cfg = s->cfg;
    for (size_t i = 0; i < cfg->n_models && atomic_load(&s->n_stops) == 0; i++) {
        qn_model *m = &s->models[i];
        qn_config config = m->cfg->config;
        qn_engine *e = NULL;
        qn_err err = {0};
        config.progress = on_progress;
        config.progress_arg = m;
        if (qn_engine_open(&e, &config, &err) != QN_OK) {
            s->load_err = err;
            if (cfg->opened)
                cfg->opened(cfg->arg, m->cfg->name, NULL, &err);
            atomic_store(&s->has_failed, true);
            qn_server_wake(s);
            return NULL;
        }
        atomic_store(&m->permille, 1000);
        atomic_store(&m->engine, e);
        if (cfg->opened)
            cfg->opened(cfg->arg, m->cfg->name, e, NULL);
        qn_server_wake(s);
    }
    return NULL;
}

qn_status qn_models_init(qn_server *s, qn_err *err)
{
    size_t n = s->cfg->n_models;
    s->models = qn_calloc(QN_MAX(n, (size_t)1), sizeof *s->models, QN_MEM_MISC);
    s->names = qn_calloc(QN_MAX(n, (size_t)1), sizeof *s->names, QN_MEM_MISC);
    s->engines = qn_calloc(QN_MAX(n, (size_t)1), sizeof *s->engines, QN_MEM_MISC);
    if (!s->models || !s->names || !s->engines)
        return qn_fail_nomem(err, n * sizeof *s->models);
    for (size_t i = 0; i < n; i++) {
        s->models[i].cfg = &s->cfg->models[i];
        s->models[i].server = s;
        s->models[i].created = (uint64_t)time(NULL);
        s->names[i] = s->cfg->models[i].name;
    }
    return QN_OK;
}

qn_status qn_models_start(qn_server *s, qn_err *err)
{
    if (s->cfg->n_models && pthread_create(&s->loader, NULL, loader_main, s))
        return qn_fail(err, QN_E_NOMEM, "cannot start the thread that opens models");
    s->has_loader = s->cfg->n_models > 0;
    return QN_OK;
}

void qn_models_note(qn_server *s)
{
    for (size_t i = 0; i < s->cfg->n_models; i++)
        s->engines[i] = atomic_load(&s->models[i].engine);
}

bool qn_models_are_ready(const qn_server *s, double *progress)
{
    double sum = 0;
    size_t n = s->cfg->n_models, n_ready = 0;
    for (size_t i = 0; i < n; i++) {
        sum += atomic_load(&s->models[i].permille) / 1000.0;
        n_ready += atomic_load(&s->models[i].engine) != NULL;
    }
    *progress = n ? sum / (double)n : 1;
    return n_ready == n;
}

const qn_model *qn_model_of(const qn_server *s, const qn_engine *e)
{
    for (size_t i = 0; i < s->cfg->n_models; i++)
        if (atomic_load(&s->models[i].engine) == e)
            return &s->models[i];
    return NULL;
}

/* ---- as exchanges see them ---- */

static bool has_name(const qn_server_model *m, const char *name)
{
    if (strcmp(m->name, name) == 0)
        return true;
    for (size_t i = 0; i < m->n_aliases; i++)
        if (strcmp(m->aliases[i], name) == 0)
            return true;
    return false;
}

static void fail_unknown(qn_exchange *x, const char *name)
{
    const qn_server *s = x->server;
    char names[256] = "none";
    for (size_t i = 0, at = 0; i < s->cfg->n_models && at < sizeof names; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s'%s'", i ? ", " : "", s->names[i]);
    qn_x_error(x, 404, "model", "model_not_found", "model '%.100s' does not exist; there is %s",
               name ? name : "", names);
}

qn_engine *qn_x_model(qn_exchange *x, const char *name, const char **served)
{
    const qn_server *s = x->server;
    const qn_model *m = NULL;
    size_t n = s->cfg->n_models;
    for (size_t i = 0; i < n && name && !m; i++)
        if (has_name(s->models[i].cfg, name))
            m = &s->models[i];
    if (!m && n && (!name || s->cfg->any_model))
        m = &s->models[0];
    if (!m) {
        fail_unknown(x, name);
        return NULL;
    }
    if (served)
        *served = m->cfg->name;
    qn_engine *e = atomic_load(&m->engine);
    if (!e) {
        qn_x_add_header(x, "Retry-After", "5");
        qn_x_error(x, 503, "model", "model_loading", "model '%s' is being loaded: %d %%",
                   m->cfg->name, atomic_load(&m->permille) / 10);
    }
    return e;
}

size_t qn_x_n_models(const qn_exchange *x)
{
    return x->server->cfg->n_models;
}

void qn_x_model_at(const qn_exchange *x, size_t i, qn_model_entry *out)
{
    const qn_model *m = &x->server->models[i];
    *out = (qn_model_entry){
        .name = m->cfg->name,
        .created = m->created,
        .progress = atomic_load(&m->permille) / 1000.0,
        .engine = atomic_load(&m->engine),
    };
    out->is_ready = out->engine != NULL;
}

/* ---- as the program sees them ---- */

size_t qn_server_engines(const qn_server *s, const char *const **names, qn_engine *const **engines)
{
    *names = s->names;
    *engines = s->engines;
    return s->cfg->n_models;
}
