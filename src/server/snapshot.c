/* SPDX-License-Identifier: Apache-2.0
 * snapshot.c - see snapshot.h. */
#include "server/snapshot.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"

enum {
    MAX_MODELS = 16, /* with rates */
    N_READINGS = 12,
    NONE = -1
};
#define WINDOW_NS 5000000000ull /* rates are of so long */
#define SPACING_NS                                                                                 \
    500000000ull /* readings are kept so far apart at least: 12 of them reach over the window */
#define NEWEST_NS 200000000ull /* what happened in less says nothing */

typedef struct reading {
    uint64_t at_ns;
    qn_engine_stats of[MAX_MODELS];
} reading;

struct qn_snapshots {
    pthread_mutex_t lock;
    qn_tally *tally;
    uint64_t start_ns;
    uint64_t n; /* readings so far */
    reading kept[N_READINGS];
};

/* One model as it is now, and as it was. */
typedef struct model_now {
    const qn_model_view *view;
    const char *name;
    qn_engine_stats now, before;
} model_now;

typedef struct view {
    qn_tally *tally;
    qn_str *out;
    qn_tally_counts *series;
    size_t n_series;
    model_now *models;
    size_t n_models;
    uint64_t window_ns;
} view;

/* A class of a model: as the engine knows it (stats), as requests have named it (series), or both. */
typedef struct class_row {
    const char *name;
    const qn_class_stats *stats, *before; /* NULL: none */
    int series;                           /* index of the tally's; or NONE */
} class_row;

qn_status qn_snapshots_new(qn_snapshots **out, qn_tally *tally, qn_err *err)
{
    *out = qn_calloc(1, sizeof **out, QN_MEM_MISC);
    if (!*out)
        return qn_fail_nomem(err, sizeof **out);
    (void)pthread_mutex_init(&(*out)->lock, NULL);
    (*out)->tally = tally;
    (*out)->start_ns = qn_now_ns();
    return QN_OK;
}

void qn_snapshots_free(qn_snapshots *s)
{
    if (!s)
        return;
    (void)pthread_mutex_destroy(&s->lock);
    qn_free(s);
}

/* ---- reading ---- */

/* The oldest reading within the window; else the newest before it; NULL: there was none. Under the lock. */
static const reading *base_of(const qn_snapshots *s, uint64_t now)
{
    const reading *best = NULL;
    for (uint64_t i = s->n > N_READINGS ? s->n - N_READINGS : 0; i < s->n; i++) {
        const reading *r = &s->kept[i % N_READINGS];
        if (now - r->at_ns < NEWEST_NS)
            break;
        best = r;
        if (now - r->at_ns <= WINDOW_NS)
            break;
    }
    return best;
}

static void keep(qn_snapshots *s, const view *v, uint64_t now)
{
    if (s->n && now - s->kept[(s->n - 1) % N_READINGS].at_ns < SPACING_NS)
        return;
    reading *r = &s->kept[s->n++ % N_READINGS];
    r->at_ns = now;
    for (size_t i = 0; i < QN_MIN(v->n_models, (size_t)MAX_MODELS); i++)
        r->of[i] = v->models[i].now;
}

static bool read_all(qn_snapshots *s, view *v, const qn_model_view *models)
{
    v->n_series = qn_tally_size(s->tally);
    v->series = qn_calloc(v->n_series, sizeof *v->series, QN_MEM_MISC);
    v->models = qn_calloc(QN_MAX(v->n_models, (size_t)1), sizeof *v->models, QN_MEM_MISC);
    if (!v->series || !v->models)
        return false;
    for (size_t i = 0; i < v->n_series; i++)
        qn_tally_at(s->tally, i, &v->series[i]);
    for (size_t i = 0; i < v->n_models; i++) {
        model_now *m = &v->models[i];
        *m = (model_now){.view = &models[i], .name = models[i].name, .now = models[i].stats};
    }
    (void)pthread_mutex_lock(&s->lock);
    uint64_t now = qn_now_ns();
    const reading *base = base_of(s, now);
    v->window_ns = now - (base ? base->at_ns : s->start_ns);
    for (size_t i = 0; base && i < QN_MIN(v->n_models, (size_t)MAX_MODELS); i++)
        v->models[i].before = base->of[i];
    keep(s, v, now);
    (void)pthread_mutex_unlock(&s->lock);
    return true;
}

static bool is_of(const qn_tally_counts *c, const char *model)
{
    char cut[sizeof c->model];
    qn_tally_cut(cut, sizeof cut, model);
    return strcmp(c->model, cut) == 0;
}

static uint64_t n_requests(const qn_tally_counts *c)
{
    uint64_t n = 0;
    for (size_t i = 0; i < QN_N_ENDED; i++)
        n += c->n_ended[i];
    return n;
}

/* Row i of a model's classes: the engine's in its order, then what requests have named besides. */
static bool row_at(const view *v, const model_now *m, size_t i, class_row *out)
{
    const size_t n = (size_t)m->now.n_classes;
    *out = (class_row){.series = NONE};
    if (i < n) {
        out->stats = &m->now.classes[i];
        out->name = out->stats->name;
        if (m->before.n_classes == m->now.n_classes)
            out->before = &m->before.classes[i];
    }
    for (size_t k = 0, extra = n; k < v->n_series; k++) {
        const qn_tally_counts *c = &v->series[k];
        bool is_known = false;
        if (!is_of(c, m->name))
            continue;
        for (size_t j = 0; j < n; j++)
            is_known |= strcmp(m->now.classes[j].name, c->class_name) == 0;
        if (is_known ? out->name && strcmp(out->name, c->class_name) == 0 : extra++ == i) {
            out->name = c->class_name;
            out->series = (int)k;
            return true;
        }
    }
    return i < n;
}

/* ---- JSON ---- */

static double per_second(uint64_t now, uint64_t before, uint64_t ns)
{
    return ns && now > before ? (double)(now - before) * 1e9 / (double)ns : 0;
}

static double ratio(uint64_t a, uint64_t b)
{
    return b ? (double)a / (double)b : 0;
}

static void add_ratio(qn_str *out, const char *key, uint64_t a, uint64_t b)
{
    if (b)
        qn_str_addf(out, ",\"%s\":%.6g", key, (double)a / (double)b);
    else
        qn_str_addf(out, ",\"%s\":null", key);
}

static void add_percentiles(const view *v, const char *key, int series, qn_measure of,
                            uint64_t *values)
{
    size_t n = series == NONE ? 0 : qn_tally_recent(v->tally, (size_t)series, of, values);
    qn_str_addf(v->out, ",\"%s\":{\"n\":%zu", key, n);
    static const unsigned per_cent[] = {50, 95, 99};
    for (size_t i = 0; i < QN_COUNT(per_cent); i++)
        if (n)
            qn_str_addf(v->out, ",\"p%u\":%.6g", per_cent[i],
                        (double)qn_tally_percentile(values, n, per_cent[i]) * 1e-6);
        else
            qn_str_addf(v->out, ",\"p%u\":null", per_cent[i]);
    qn_str_addc(v->out, '}');
}

static void add_ended(qn_str *out, const qn_tally_counts *c)
{
    qn_str_adds(out, ",\"requests\":{");
    for (size_t i = 0; i < QN_N_ENDED; i++)
        qn_str_addf(out, "%s\"%s\":%" PRIu64, i ? "," : "", qn_ended_names[i],
                    c ? c->n_ended[i] : 0);
    qn_str_addc(out, '}');
}

static void add_class(const view *v, const model_now *m, const class_row *r, uint64_t *values)
{
    static const qn_class_stats none;
    const qn_class_stats *s = r->stats ? r->stats : &none, *b = r->before ? r->before : &none;
    qn_str *out = v->out;
    uint64_t shares = 0, used = 0, all_used = 0;
    for (int i = 0; i < m->now.n_classes; i++) {
        shares += m->now.classes[i].share;
        all_used += m->now.classes[i].used_ns;
        used += m->now.classes[i].used_ns - (r->before ? m->before.classes[i].used_ns : 0);
    }
    qn_str_adds(out, "{\"name\":");
    qn_str_add_json(out, r->name, strlen(r->name));
    qn_str_addf(out,
                ",\"target_ms\":%" PRIu32 ",\"running\":%" PRIu32 ",\"waiting\":%" PRIu32
                ",\"done\":%" PRIu64 ",\"met\":%" PRIu64 ",\"refused\":%" PRIu64
                ",\"preempted\":%" PRIu64,
                s->target_ms, s->n_running, s->n_waiting, s->n_done, s->n_met, s->n_refused,
                s->n_preempted);
    add_ratio(out, "attained", s->n_met, s->target_ms ? s->n_done : 0);
    add_ratio(out, "share", s->share, shares);
    add_ratio(out, "time_share", s->used_ns - b->used_ns, used);
    add_ratio(out, "time_share_total", s->used_ns, all_used);
    add_ended(out, r->series == NONE ? NULL : &v->series[r->series]);
    add_percentiles(v, "e2e_ms", r->series, QN_MEASURE_WHOLE, values);
    add_percentiles(v, "ttft_ms", r->series, QN_MEASURE_FIRST, values);
    add_percentiles(v, "gap_ms", r->series, QN_MEASURE_GAP, values);
    qn_str_addc(out, '}');
}

static void add_engine(const view *v, const model_now *m)
{
    const qn_engine_stats *a = &m->now, *b = &m->before;
    const uint64_t w = v->window_ns, steps = a->n_steps - b->n_steps;
    qn_str *out = v->out;
    qn_str_addf(out,
                ",\"running\":%" PRIu32 ",\"waiting\":%" PRIu32 ",\"prompt_tokens\":%" PRIu64
                ",\"output_tokens\":%" PRIu64
                ",\"prompt_tokens_per_second\":%.6g,\"output_tokens_per_second\":%.6g"
                ",\"kv_blocks\":%" PRIu64 ",\"kv_used\":%" PRIu64 ",\"kv_cached\":%" PRIu64
                ",\"kv_usage\":%.6g,\"cache_queries\":%" PRIu64 ",\"cache_hits\":%" PRIu64,
                a->n_running, a->n_waiting, a->n_prompt_tokens, a->n_output_tokens,
                per_second(a->n_prompt_tokens, b->n_prompt_tokens, w),
                per_second(a->n_output_tokens, b->n_output_tokens, w), a->n_kv_blocks, a->n_kv_used,
                a->n_kv_cached, ratio(a->n_kv_used, a->n_kv_blocks), a->n_cache_queries,
                a->n_cache_hits);
    add_ratio(out, "cache_hit_rate", a->n_cache_hits, a->n_cache_queries);
    qn_str_addf(out,
                ",\"preempted\":%" PRIu64 ",\"draft_tokens\":%" PRIu64
                ",\"accepted_tokens\":%" PRIu64 ",\"steps\":%" PRIu64
                ",\"steps_per_second\":%.6g,\"rows_per_step\":%.6g,\"seqs_per_step\":%.6g"
                ",\"step_ms\":{\"schedule\":%.6g,\"model\":%.6g,\"sample\":%.6g}",
                a->n_preempted, a->n_draft_tokens, a->n_accepted_tokens, a->n_steps,
                per_second(a->n_steps, b->n_steps, w),
                ratio(a->n_step_rows - b->n_step_rows, steps),
                ratio(a->n_step_seqs - b->n_step_seqs, steps),
                ratio(a->schedule_ns - b->schedule_ns, steps) * 1e-6,
                ratio(a->model_ns - b->model_ns, steps) * 1e-6,
                ratio(a->sample_ns - b->sample_ns, steps) * 1e-6);
    /* while the model computes; an idle machine reads nothing */
    if (steps && m->view->weight_bytes && a->model_ns > b->model_ns)
        qn_str_addf(out, ",\"weight_bytes_per_second\":%.6g",
                    (double)steps * (double)m->view->weight_bytes * 1e9 /
                        (double)(a->model_ns - b->model_ns));
    else
        qn_str_adds(out, ",\"weight_bytes_per_second\":null");
}

static void add_model(const view *v, const model_now *m, uint64_t *values)
{
    qn_str *out = v->out;
    class_row row;
    qn_str_adds(out, "{\"name\":");
    qn_str_add_json(out, m->name, strlen(m->name));
    qn_str_addf(out,
                ",\"ready\":%s,\"state\":\"%s\",\"bytes\":%" PRIu64 ",\"waiting_to_open\":%" PRIu32
                ",\"opened\":%" PRIu64 ",\"closed\":%" PRIu64,
                m->view->is_open ? "true" : "false", m->view->state, m->view->bytes,
                m->view->n_waiting, m->view->n_opened, m->view->n_closed);
    add_engine(v, m);
    qn_str_adds(out, ",\"classes\":[");
    for (size_t i = 0; row_at(v, m, i, &row); i++) {
        qn_str_adds(out, i ? "," : "");
        add_class(v, m, &row, values);
    }
    qn_str_adds(out, "]}");
}

static void add_process(const view *v, const qn_snapshots *s)
{
    struct timespec cpu = {0};
    qn_tally_answers a;
    uint64_t by_kind[6] = {0}, n;
    char name[32];
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    qn_str_addf(v->out,
                "{\"version\":\"" QN_VERSION "\",\"uptime_seconds\":%.3f,\"window_seconds\":%.3f,"
                "\"resident_bytes\":%zu,\"cpu_seconds\":%.3f",
                (double)(qn_now_ns() - s->start_ns) * 1e-9, (double)v->window_ns * 1e-9,
                qn_mem_resident(), (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9);
    for (size_t i = 0; qn_tally_http_at(v->tally, i, &a); i++)
        by_kind[a.hundreds] += a.n;
    qn_str_addf(v->out,
                ",\"http\":{\"2xx\":%" PRIu64 ",\"4xx\":%" PRIu64 ",\"5xx\":%" PRIu64
                "},\"errors\":{",
                by_kind[2], by_kind[4], by_kind[5]);
    for (size_t i = 0; qn_tally_reason_at(v->tally, i, name, &n); i++) {
        qn_str_adds(v->out, i ? "," : "");
        qn_str_add_json(v->out, name, strlen(name));
        qn_str_addf(v->out, ":%" PRIu64, n);
    }
    qn_str_adds(v->out, "},\"models\":[");
}

void qn_snapshot_write(qn_snapshots *s, qn_str *out, const qn_model_view *models, size_t n)
{
    view v = {.tally = s->tally, .out = out, .n_models = n};
    uint64_t *values = qn_calloc(QN_TALLY_RECENT, sizeof *values, QN_MEM_MISC);
    if (values && read_all(s, &v, models)) {
        add_process(&v, s);
        for (size_t i = 0; i < n; i++) {
            qn_str_adds(out, i ? "," : "");
            add_model(&v, &v.models[i], values);
        }
        qn_str_adds(out, "]}\n");
    } else {
        out->failed = true;
    }
    qn_free(values);
    qn_free(v.series);
    qn_free(v.models);
}

/* ---- the table ---- */

/* A cell of the given width: value with `digits` behind the point, or "-". */
static void cell(qn_str *out, int width, bool is_there, int digits, double value, const char *unit)
{
    char text[32] = "-";
    if (is_there)
        (void)snprintf(text, sizeof text, "%.*f%s", digits, value, unit);
    qn_str_addf(out, "%*s", width, text);
}

static void report_class(const view *v, const model_now *m, const class_row *r, uint64_t *values)
{
    static const qn_class_stats none;
    static const unsigned per_cent[] = {50, 95, 99};
    const qn_class_stats *s = r->stats ? r->stats : &none;
    uint64_t shares = 0, used = 0;
    for (int i = 0; i < m->now.n_classes; i++) {
        shares += m->now.classes[i].share;
        used += m->now.classes[i].used_ns;
    }
    size_t n = r->series == NONE
                   ? 0
                   : qn_tally_recent(v->tally, (size_t)r->series, QN_MEASURE_WHOLE, values);
    qn_str_addf(v->out, "%-16s %9" PRIu64, r->name,
                r->series == NONE ? 0 : n_requests(&v->series[r->series]));
    for (size_t i = 0; i < QN_COUNT(per_cent); i++)
        cell(v->out, 10, n, 1, (double)qn_tally_percentile(values, n, per_cent[i]) * 1e-6, "");
    cell(v->out, 9, s->target_ms, 0, s->target_ms, "");
    cell(v->out, 9, s->target_ms && s->n_done, 1, 100 * ratio(s->n_met, s->n_done), " %");
    cell(v->out, 8, shares, 0, 100 * ratio(s->share, shares), " %");
    cell(v->out, 8, used, 0, 100 * ratio(s->used_ns, used), " %");
    cell(v->out, 10, r->stats, 0, (double)s->n_preempted, "");
    cell(v->out, 8, r->stats, 0, (double)s->n_refused, "");
    qn_str_addc(v->out, '\n');
}

void qn_snapshot_report(qn_snapshots *s, qn_str *out, const qn_model_view *models, size_t n)
{
    view v = {.tally = s->tally, .out = out, .n_models = n};
    uint64_t *values = qn_calloc(QN_TALLY_RECENT, sizeof *values, QN_MEM_MISC);
    class_row row;
    if (values && read_all(s, &v, models))
        for (size_t i = 0; i < n; i++) {
            qn_str_addf(out, "%s\n%-16s %9s%10s%10s%10s%9s%9s%8s%8s%10s%8s\n", models[i].name,
                        "class", "requests", "p50 ms", "p95 ms", "p99 ms", "target", "attained",
                        "share", "time", "preempted", "refused");
            for (size_t k = 0; row_at(&v, &v.models[i], k, &row); k++)
                report_class(&v, &v.models[i], &row, values);
        }
    else
        out->failed = true;
    qn_free(values);
    qn_free(v.series);
    qn_free(v.models);
}
