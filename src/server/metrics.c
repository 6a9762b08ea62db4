/* SPDX-License-Identifier: Apache-2.0
 * metrics.c - see metrics.h: the front of tally and timeline, and the Prometheus text.
 *
 * The text goes family by family, since all samples of a name must follow its HELP and TYPE. Whatever is read under a lock is
 * copied first, once: a family and the one beside it then tell of the same moment.
 * Sources: Prometheus exposition format 0.0.4; vLLM's names, vllm/v1/metrics/loggers.py. */
#include "server/metrics.h"
#include <quern/measure.h>

#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/mem.h"
#include "server/snapshot.h"
#include "server/tally.h"
#include "server/timeline.h"

struct qn_metrics {
    qn_tally *tally;
    qn_timeline *timeline;
    qn_snapshots *snapshots;
    double start_time; /* of the process, unix time */
};

/* What is printed of one model: a row for each that is served, or that requests have named. */
typedef struct model_row {
    qn_tally_counts sum; /* of its classes */
    qn_engine_stats stats;
    const qn_model_view *view; /* NULL: it is not served any more */
    bool has_stats;
} model_row;

typedef struct page {
    qn_str *out;
    qn_tally *tally;
    qn_tally_counts *series;
    model_row *models;
    size_t n_series, n_models;
} page;

/* ---- life ---- */

/* Clock ticks after boot, the 22nd field of /proc/self/stat; the name in it may hold blanks, and ends with the last ')'. */
static double process_start(void)
{
    char buf[1024];
    struct timespec now = {0}, up = {0};
    uint64_t ticks = 0;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)clock_gettime(CLOCK_BOOTTIME, &up);
    double boot = (double)(now.tv_sec - up.tv_sec) + (double)(now.tv_nsec - up.tv_nsec) * 1e-9;
    double at = (double)now.tv_sec;
    if (!qn_file_peek("/proc/self/stat", buf, sizeof buf))
        return at;
    const char *p = strrchr(buf, ')');
    for (int field = 2; p && field < 22; field++) {
        p = strchr(p, ' ');
        p = p ? p + 1 : NULL;
    }
    if (p && qn_parse_u64(p, strcspn(p, " "), UINT64_MAX, &ticks))
        at = boot + (double)ticks / (double)sysconf(_SC_CLK_TCK);
    return at;
}

qn_status qn_metrics_new(qn_metrics **out, qn_err *err)
{
    *out = NULL;
    qn_metrics *m = qn_calloc(1, sizeof *m, QN_MEM_MISC);
    if (!m)
        return qn_fail_nomem(err, sizeof *m);
    m->start_time = process_start();
    qn_status s = qn_tally_new(&m->tally, err);
    if (s == QN_OK)
        s = qn_timeline_new(&m->timeline, err);
    if (s == QN_OK)
        s = qn_snapshots_new(&m->snapshots, m->tally, err);
    if (s != QN_OK) {
        qn_metrics_free(m);
        return s;
    }
    *out = m;
    return QN_OK;
}

void qn_metrics_free(qn_metrics *m)
{
    if (!m)
        return;
    qn_snapshots_free(m->snapshots);
    qn_timeline_free(m->timeline);
    qn_tally_free(m->tally);
    qn_free(m);
}

void qn_metrics_http(qn_metrics *m, const char *method, const char *route, int status)
{
    qn_tally_http(m->tally, method, route, status);
}

void qn_metrics_request(qn_metrics *m, const qn_request_record *r)
{
    qn_tally_request(m->tally, r);
    qn_timeline_add(m->timeline, r);
}

void qn_metrics_gap(qn_metrics *m, const char *model, const char *class_name, uint64_t ns)
{
    qn_tally_gap(m->tally, model, class_name, ns);
}

void qn_metrics_timeline(qn_metrics *m, qn_str *out, size_t last, const char *tenant)
{
    qn_timeline_write(m->timeline, out, last, tenant);
}

void qn_metrics_snapshot(qn_metrics *m, qn_str *out, const qn_model_view *models, size_t n)
{
    qn_snapshot_write(m->snapshots, out, models, n);
}

void qn_metrics_report(qn_metrics *m, qn_str *out, const qn_model_view *models, size_t n)
{
    qn_snapshot_report(m->snapshots, out, models, n);
}

/* ---- samples ---- */

static void family(qn_str *out, const char *prefix, const char *name, const char *type,
                   const char *help)
{
    qn_str_addf(out, "# HELP %s%s %s\n# TYPE %s%s %s\n", prefix, name, help, prefix, name, type);
}

/* key="value", with what the format wants escaped. */
static void label(qn_str *out, const char *key, const char *value)
{
    qn_str_addf(out, "%s=\"", key);
    for (const char *p = value; *p;) {
        size_t n = strcspn(p, "\\\"\n");
        qn_utf8_lossy(out, p, n);
        p += n;
        if (*p)
            qn_str_adds(out, *p == '\n' ? "\\n" : *p == '"' ? "\\\"" : "\\\\");
        p += *p != 0;
    }
    qn_str_addc(out, '"');
}

/* vLLM's labels: one engine a model. */
static void vllm_labels(qn_str *out, const char *model)
{
    label(out, "model_name", model);
    qn_str_adds(out, ",engine=\"0\"");
}

static void add_seconds(qn_str *out, uint64_t ns)
{
    qn_str_addf(out, "%" PRIu64 ".%09u", ns / 1000000000u, (unsigned)(ns % 1000000000u));
}

static void histogram(qn_str *out, const char *prefix, const char *name, const char *labels,
                      const qn_measure_info *m, const qn_histogram *h, bool with_ours)
{
    uint64_t n = 0;
    for (size_t i = 0; i < m->n_edges; i++) {
        n += h->n[i];
        if (with_ours || !m->edges[i].is_ours)
            qn_str_addf(out, "%s%s_bucket{%s,le=\"%s\"} %" PRIu64 "\n", prefix, name, labels,
                        m->edges[i].le, n);
    }
    qn_str_addf(out, "%s%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n%s%s_sum{%s} ", prefix, name, labels,
                h->count, prefix, name, labels);
    if (m->is_time)
        add_seconds(out, h->sum);
    else
        qn_str_addf(out, "%" PRIu64, h->sum);
    qn_str_addf(out, "\n%s%s_count{%s} %" PRIu64 "\n", prefix, name, labels, h->count);
}

/* ---- of requests ---- */

static void vllm_histogram(page *p, qn_str *labels, qn_measure of, const char *name)
{
    const qn_measure_info *m = &qn_measures[of];
    family(p->out, "vllm:", name, "histogram", m->help);
    for (size_t i = 0; i < p->n_models; i++) {
        qn_str_clear(labels);
        vllm_labels(labels, p->models[i].sum.model);
        if (!labels->failed)
            histogram(p->out, "vllm:", name, labels->p, m, &p->models[i].sum.of[of], false);
    }
}

static void quern_histogram(page *p, qn_str *labels, qn_measure of)
{
    const qn_measure_info *m = &qn_measures[of];
    family(p->out, "quern:", m->name, "histogram", m->help);
    for (size_t i = 0; i < p->n_series; i++) {
        qn_str_clear(labels);
        label(labels, "model_name", p->series[i].model);
        qn_str_addc(labels, ',');
        label(labels, "class", p->series[i].class_name);
        if (!labels->failed)
            histogram(p->out, "quern:", m->name, labels->p, m, &p->series[i].of[of], true);
    }
}

static void histograms(page *p)
{
    qn_str labels = {0};
    for (qn_measure m = 0; m < QN_N_MEASURES; m++) {
        vllm_histogram(p, &labels, m, qn_measures[m].name);
        if (m == QN_MEASURE_GAP) /* its name until vLLM 0.11 */
            vllm_histogram(p, &labels, m, "time_per_output_token_seconds");
        if (qn_measures[m].is_by_class)
            quern_histogram(p, &labels, m);
    }
    p->out->failed |= labels.failed;
    qn_str_fini(&labels);
}

static void requests(page *p)
{
    qn_str *out = p->out;
    static const struct {
        const char *name, *help;
        size_t at;
    } tokens[] = {
        {"prompt_tokens_total", "Prompt tokens of answered requests.",
         offsetof(qn_tally_counts, n_prompt)},
        {"prompt_tokens_cached_total", "Those of them that the prefix cache had.",
         offsetof(qn_tally_counts, n_cached)},
        {"generation_tokens_total", "Tokens of answers.", offsetof(qn_tally_counts, n_output)},
    };
    for (size_t t = 0; t < QN_COUNT(tokens); t++) {
        family(out, "vllm:", tokens[t].name, "counter", tokens[t].help);
        for (size_t i = 0; i < p->n_models; i++) {
            qn_str_addf(out, "vllm:%s{", tokens[t].name);
            vllm_labels(out, p->models[i].sum.model);
            qn_str_addf(out, "} %" PRIu64 "\n",
                        *(const uint64_t *)((const char *)&p->models[i].sum + tokens[t].at));
        }
        family(out, "quern:", tokens[t].name, "counter", tokens[t].help);
        for (size_t i = 0; i < p->n_series; i++) {
            qn_str_addf(out, "quern:%s{", tokens[t].name);
            label(out, "model_name", p->series[i].model);
            label(out, ",class", p->series[i].class_name);
            qn_str_addf(out, "} %" PRIu64 "\n",
                        *(const uint64_t *)((const char *)&p->series[i] + tokens[t].at));
        }
    }
    family(out, "vllm:", "request_success_total", "counter", "Requests that ended, by reason.");
    for (size_t i = 0; i < p->n_models; i++)
        for (size_t e = 0; e < QN_N_ENDED; e++) {
            qn_str_adds(out, "vllm:request_success_total{");
            vllm_labels(out, p->models[i].sum.model);
            qn_str_addf(out, ",finished_reason=\"%s\"} %" PRIu64 "\n", qn_ended_names[e],
                        p->models[i].sum.n_ended[e]);
        }
    family(out, "quern:", "requests_total", "counter", "Requests that ended, by class and reason.");
    for (size_t i = 0; i < p->n_series; i++)
        for (size_t e = 0; e < QN_N_ENDED; e++) {
            qn_str_adds(out, "quern:requests_total{");
            label(out, "model_name", p->series[i].model);
            label(out, ",class", p->series[i].class_name);
            qn_str_addf(out, ",finished_reason=\"%s\"} %" PRIu64 "\n", qn_ended_names[e],
                        p->series[i].n_ended[e]);
        }
}

static void http(page *p)
{
    qn_str *out = p->out;
    qn_tally_answers a;
    char name[32];
    uint64_t n;
    family(out, "", "http_requests_total", "counter", "HTTP answers by route and kind of status.");
    for (size_t i = 0; qn_tally_http_at(p->tally, i, &a); i++)
        if (a.n) {
            qn_str_addf(out, "http_requests_total{method=\"%s\",", a.method);
            label(out, "handler", a.route);
            qn_str_addf(out, ",status=\"%dxx\"} %" PRIu64 "\n", a.hundreds, a.n);
        }
    family(out, "quern:", "http_responses_total", "counter", "HTTP answers by status.");
    for (int status = 100; status < 600; status++)
        if ((n = qn_tally_status(p->tally, status)) != 0)
            qn_str_addf(out, "quern:http_responses_total{code=\"%d\"} %" PRIu64 "\n", status, n);
    family(out, "quern:", "request_errors_total", "counter", "Requests that failed, by reason.");
    for (size_t i = 0; qn_tally_reason_at(p->tally, i, name, &n); i++) {
        qn_str_adds(out, "quern:request_errors_total{");
        label(out, "reason", name);
        qn_str_addf(out, "} %" PRIu64 "\n", n);
    }
}

/* ---- of engines ---- */

typedef struct field {
    const char *prefix, *name, *type, *help;
    size_t at;
    bool is_u32;
} field;

#define IN(s, f) offsetof(s, f), sizeof(((s *)0)->f) == 4

static const field engine_fields[] = {
    {"vllm:", "num_requests_running", "gauge", "Requests being computed.",
     IN(qn_engine_stats, n_running)},
    {"vllm:", "num_requests_waiting", "gauge", "Requests that wait.",
     IN(qn_engine_stats, n_waiting)},
    {"vllm:", "num_preemptions_total", "counter", "How often a request gave its place to others.",
     IN(qn_engine_stats, n_preempted)},
    {"vllm:", "prefix_cache_queries_total", "counter",
     "Prompt tokens looked for in the prefix cache.", IN(qn_engine_stats, n_cache_queries)},
    {"vllm:", "prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.",
     IN(qn_engine_stats, n_cache_hits)},
    {"vllm:", "spec_decode_num_draft_tokens_total", "counter", "Tokens guessed ahead.",
     IN(qn_engine_stats, n_draft_tokens)},
    {"vllm:", "spec_decode_num_accepted_tokens_total", "counter", "Guessed tokens that came true.",
     IN(qn_engine_stats, n_accepted_tokens)},
    {"quern:", "kv_blocks", "gauge", "Blocks of the K/V cache.", IN(qn_engine_stats, n_kv_blocks)},
    {"quern:", "kv_blocks_used", "gauge", "Blocks held by requests.",
     IN(qn_engine_stats, n_kv_used)},
    {"quern:", "kv_blocks_cached", "gauge", "Free blocks kept for prompts that begin alike.",
     IN(qn_engine_stats, n_kv_cached)},
    {"quern:", "engine_prompt_tokens_total", "counter",
     "Prompt tokens of all requests, running and failed ones too.",
     IN(qn_engine_stats, n_prompt_tokens)},
    {"quern:", "engine_output_tokens_total", "counter",
     "Output tokens of all requests, running and failed ones too.",
     IN(qn_engine_stats, n_output_tokens)},
    {"quern:", "steps_total", "counter", "Steps of the engine.", IN(qn_engine_stats, n_steps)},
    {"quern:", "step_rows_total", "counter",
     "Tokens of all steps: divided by steps_total, the rows of a batch.",
     IN(qn_engine_stats, n_step_rows)},
    {"quern:", "step_sequences_total", "counter", "Sequences of all steps.",
     IN(qn_engine_stats, n_step_seqs)},
};

static const field class_fields[] = {
    {"quern:", "class_requests_running", "gauge", "Requests of the class being computed.",
     IN(qn_class_stats, n_running)},
    {"quern:", "class_requests_waiting", "gauge", "Requests of the class that wait.",
     IN(qn_class_stats, n_waiting)},
    {"quern:", "class_requests_done_total", "counter", "Requests of the class that got an answer.",
     IN(qn_class_stats, n_done)},
    {"quern:", "class_requests_met_total", "counter",
     "Those of them that met the class's target; all, without one.", IN(qn_class_stats, n_met)},
    {"quern:", "class_requests_refused_total", "counter",
     "Requests refused for a full queue or a target out of reach.", IN(qn_class_stats, n_refused)},
    {"quern:", "class_preemptions_total", "counter",
     "How often the class gave its place to others.", IN(qn_class_stats, n_preempted)},
    {"quern:", "class_share", "gauge", "Weight of the class against the others.",
     IN(qn_class_stats, share)},
};

static uint64_t value_of(const void *stats, const field *f)
{
    const char *p = (const char *)stats + f->at;
    uint32_t small;
    uint64_t large;
    memcpy(&small, p, sizeof small);
    if (f->is_u32)
        return small;
    memcpy(&large, p, sizeof large);
    return large;
}

static void engines(page *p)
{
    qn_str *out = p->out;
    for (size_t f = 0; f < QN_COUNT(engine_fields); f++) {
        const field *e = &engine_fields[f];
        family(out, e->prefix, e->name, e->type, e->help);
        for (size_t i = 0; i < p->n_models; i++) {
            if (!p->models[i].has_stats)
                continue;
            qn_str_addf(out, "%s%s{", e->prefix, e->name);
            if (e->prefix[0] == 'v')
                vllm_labels(out, p->models[i].sum.model);
            else
                label(out, "model_name", p->models[i].sum.model);
            qn_str_addf(out, "} %" PRIu64 "\n", value_of(&p->models[i].stats, e));
        }
    }
}

/* ---- which are open ---- */

static const field view_fields[] = {
    {"quern:", "model_waiting", "gauge", "Requests that wait until the model is open.",
     IN(qn_model_view, n_waiting)},
    {"quern:", "model_eviction_rank", "gauge",
     "Which model is put away first when others need its room: 1; 0: it is not open.",
     IN(qn_model_view, rank)},
    {"quern:", "model_bytes", "gauge", "Memory that the model takes, or would take.",
     IN(qn_model_view, bytes)},
    {"quern:", "model_loads_total", "counter", "How often the model was opened.",
     IN(qn_model_view, n_opened)},
    {"quern:", "model_unloads_total", "counter", "How often it was put away.",
     IN(qn_model_view, n_closed)},
    {"quern:", "model_load_failures_total", "counter", "How often it could not be opened.",
     IN(qn_model_view, n_failed)},
};

/* quern:NAME{model_name="..."}, before the value; false: the model is not served any more. */
static bool begin_sample(page *p, size_t i, const char *name)
{
    if (!p->models[i].view)
        return false;
    qn_str_addf(p->out, "quern:%s{", name);
    label(p->out, "model_name", p->models[i].sum.model);
    qn_str_adds(p->out, "} ");
    return true;
}

static void residents(page *p)
{
    qn_str *out = p->out;
    family(out, "quern:", "model_ready", "gauge",
           "1: the model answers; 0: it is loading or put away.");
    for (size_t i = 0; i < p->n_models; i++)
        if (begin_sample(p, i, "model_ready"))
            qn_str_adds(out, p->models[i].view->is_open ? "1\n" : "0\n");
    family(out, "quern:", "model_unloaded", "gauge", "1: put away, since nobody asks for it.");
    for (size_t i = 0; i < p->n_models; i++)
        if (begin_sample(p, i, "model_unloaded"))
            qn_str_adds(out, strcmp(p->models[i].view->state, "unloaded") == 0 ? "1\n" : "0\n");
    for (size_t f = 0; f < QN_COUNT(view_fields); f++) {
        const field *e = &view_fields[f];
        family(out, e->prefix, e->name, e->type, e->help);
        for (size_t i = 0; i < p->n_models; i++)
            if (begin_sample(p, i, e->name))
                qn_str_addf(out, "%" PRIu64 "\n", value_of(p->models[i].view, e));
    }
    family(out, "quern:", "model_load_seconds_total", "counter", "Time that opening it took.");
    for (size_t i = 0; i < p->n_models; i++)
        if (begin_sample(p, i, "model_load_seconds_total")) {
            add_seconds(out, p->models[i].view->opening_ns);
            qn_str_addc(out, '\n');
        }
}

static void kv_cache(page *p)
{
    static const char *const names[] = {"kv_cache_usage_perc", "gpu_cache_usage_perc"};
    qn_str *out = p->out;
    for (size_t k = 0; k < QN_COUNT(names); k++) {
        family(out, "vllm:", names[k], "gauge",
               "Share of the K/V cache that requests hold, 0 to 1.");
        for (size_t i = 0; i < p->n_models; i++) {
            const qn_engine_stats *s = &p->models[i].stats;
            if (!p->models[i].has_stats)
                continue;
            qn_str_addf(out, "vllm:%s{", names[k]);
            vllm_labels(out, p->models[i].sum.model);
            qn_str_addf(out, "} %.6f\n",
                        s->n_kv_blocks ? (double)s->n_kv_used / (double)s->n_kv_blocks : 0);
        }
    }
    family(out, "vllm:", "cache_config_info", "gauge",
           "The K/V cache: tokens of a block, and blocks.");
    for (size_t i = 0; i < p->n_models; i++)
        if (p->models[i].stats.n_kv_blocks) {
            qn_str_adds(out, "vllm:cache_config_info{");
            vllm_labels(out, p->models[i].sum.model);
            qn_str_addf(out, ",block_size=\"%d\",num_gpu_blocks=\"%" PRIu64 "\"} 1\n",
                        QN_SNAPSHOT_BLOCK, p->models[i].stats.n_kv_blocks);
        }
}

static void steps(page *p)
{
    static const char *const parts[] = {"schedule", "model", "sample"};
    qn_str *out = p->out;
    family(out, "quern:", "step_seconds_total", "counter", "Time of the steps by part.");
    for (size_t i = 0; i < p->n_models; i++) {
        const qn_engine_stats *s = &p->models[i].stats;
        const uint64_t ns[] = {s->schedule_ns, s->model_ns, s->sample_ns};
        for (size_t k = 0; p->models[i].has_stats && k < QN_COUNT(parts); k++) {
            qn_str_adds(out, "quern:step_seconds_total{");
            label(out, "model_name", p->models[i].sum.model);
            qn_str_addf(out, ",part=\"%s\"} ", parts[k]);
            add_seconds(out, ns[k]);
            qn_str_addc(out, '\n');
        }
    }
    family(out, "quern:", "weight_read_bytes_total", "counter",
           "Bytes of weights read, counted as those of one token a step.");
    for (size_t i = 0; i < p->n_models; i++)
        if (p->models[i].has_stats) {
            qn_str_adds(out, "quern:weight_read_bytes_total{");
            label(out, "model_name", p->models[i].sum.model);
            qn_str_addf(out, "} %.0f\n",
                        (double)p->models[i].stats.n_steps *
                            (double)p->models[i].view->weight_bytes);
        }
    /* the engine keeps sums, so all steps are in one bucket */
    family(out, "vllm:", "iteration_tokens_total", "histogram",
           "Tokens of a step; their sum and number only.");
    for (size_t i = 0; i < p->n_models; i++) {
        static const char *const ends[] = {"_bucket", "_sum", "_count"};
        const qn_engine_stats *s = &p->models[i].stats;
        for (size_t k = 0; p->models[i].has_stats && k < QN_COUNT(ends); k++) {
            qn_str_addf(out, "vllm:iteration_tokens_total%s{", ends[k]);
            vllm_labels(out, p->models[i].sum.model);
            qn_str_addf(out, "%s} %" PRIu64 "\n", k == 0 ? ",le=\"+Inf\"" : "",
                        k == 1 ? s->n_step_rows : s->n_steps);
        }
    }
}

static void class_labels(qn_str *out, const model_row *m, int c)
{
    label(out, "{model_name", m->sum.model);
    label(out, ",class", m->stats.classes[c].name);
    qn_str_adds(out, "} ");
}

static void classes(page *p)
{
    qn_str *out = p->out;
    for (size_t f = 0; f < QN_COUNT(class_fields); f++) {
        family(out, "quern:", class_fields[f].name, class_fields[f].type, class_fields[f].help);
        for (size_t i = 0; i < p->n_models; i++)
            for (int c = 0; c < p->models[i].stats.n_classes; c++) {
                qn_str_addf(out, "quern:%s", class_fields[f].name);
                class_labels(out, &p->models[i], c);
                qn_str_addf(out, "%" PRIu64 "\n",
                            value_of(&p->models[i].stats.classes[c], &class_fields[f]));
            }
    }
    family(out, "quern:", "class_step_seconds_total", "counter",
           "Time of the steps, by the rows the class had in them.");
    for (size_t i = 0; i < p->n_models; i++)
        for (int c = 0; c < p->models[i].stats.n_classes; c++) {
            qn_str_adds(out, "quern:class_step_seconds_total");
            class_labels(out, &p->models[i], c);
            add_seconds(out, p->models[i].stats.classes[c].used_ns);
            qn_str_addc(out, '\n');
        }
    family(out, "quern:", "class_target_seconds", "gauge",
           "From submit to the end of an answer: what the class is to meet.");
    for (size_t i = 0; i < p->n_models; i++)
        for (int c = 0; c < p->models[i].stats.n_classes; c++) {
            uint32_t ms = p->models[i].stats.classes[c].target_ms;
            if (ms == 0)
                continue;
            qn_str_adds(out, "quern:class_target_seconds");
            class_labels(out, &p->models[i], c);
            qn_str_addf(out, "%u.%03u\n", (unsigned)(ms / 1000), (unsigned)(ms % 1000));
        }
}

/* ---- of the process ---- */

static size_t count_fds(void)
{
    size_t n = 0;
    DIR *d = opendir("/proc/self/fd");
    if (!d)
        return 0;
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        n += e->d_name[0] != '.';
    (void)closedir(d);
    return n > 0 ? n - 1 : 0; /* without the folder's own */
}

static void process(const qn_metrics *m, qn_str *out)
{
    struct timespec cpu = {0};
    struct rlimit fds = {0};
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    family(out, "", "process_start_time_seconds", "gauge", "Start of the process, unix time.");
    qn_str_addf(out, "process_start_time_seconds %.2f\n", m->start_time);
    family(out, "", "process_resident_memory_bytes", "gauge",
           "Memory of the process, mapped files included.");
    qn_str_addf(out, "process_resident_memory_bytes %zu\n", qn_mem_resident());
    family(out, "", "process_cpu_seconds_total", "counter", "Processor time of all threads.");
    qn_str_addf(out, "process_cpu_seconds_total %lld.%09ld\n", (long long)cpu.tv_sec, cpu.tv_nsec);
    family(out, "", "process_open_fds", "gauge", "Open file descriptors.");
    qn_str_addf(out, "process_open_fds %zu\n", count_fds());
    if (getrlimit(RLIMIT_NOFILE, &fds) == 0 && fds.rlim_cur != RLIM_INFINITY) {
        family(out, "", "process_max_fds", "gauge", "File descriptors that may be open.");
        qn_str_addf(out, "process_max_fds %llu\n", (unsigned long long)fds.rlim_cur);
    }
    family(out, "quern:", "build_info", "gauge", "The program's version.");
    qn_str_adds(out, "quern:build_info{version=\"" QN_VERSION "\"} 1\n");
    family(out, "quern:", "limit", "gauge",
           "Limits on what comes from outside, as quern limits prints them.");
#define QN_LIMIT(name, value, unit, over)                                                          \
    qn_str_addf(out, "quern:limit{name=\"" #name "\"} %lld\n", (long long)(value));
#include "base/limits.def"
#undef QN_LIMIT
}

/* ---- the page ---- */

static model_row *row_of(page *p, const char *model)
{
    char name[sizeof p->models->sum.model];
    qn_tally_cut(name, sizeof name, model);
    for (size_t i = 0; i < p->n_models; i++)
        if (strcmp(p->models[i].sum.model, name) == 0)
            return &p->models[i];
    model_row *m = &p->models[p->n_models++];
    memcpy(m->sum.model, name, sizeof name);
    return m;
}

static void read_model(model_row *m, const qn_model_view *v)
{
    m->view = v;
    m->has_stats = v->is_open || v->was_open;
    m->stats = v->stats;
}

/* "other" is there from the start, and shown once something is in it. */
static bool is_empty(const qn_tally_counts *c)
{
    uint64_t n = 0;
    for (size_t i = 0; i < QN_N_ENDED; i++)
        n += c->n_ended[i];
    for (size_t i = 0; i < QN_N_MEASURES; i++)
        n += c->of[i].count;
    return n == 0;
}

static bool read_all(page *p, const qn_model_view *models, size_t n)
{
    size_t n_series = qn_tally_size(p->tally);
    p->series = qn_calloc(n_series, sizeof *p->series, QN_MEM_MISC);
    p->models = qn_calloc(n_series + n, sizeof *p->models, QN_MEM_MISC);
    if (!p->series || !p->models)
        return false;
    for (size_t i = 0; i < n; i++)
        read_model(row_of(p, models[i].name), &models[i]);
    for (size_t i = 0; i < n_series; i++) {
        qn_tally_at(p->tally, i, &p->series[p->n_series]);
        if (is_empty(&p->series[p->n_series]))
            continue;
        qn_tally_counts_add(&row_of(p, p->series[p->n_series].model)->sum, &p->series[p->n_series]);
        p->n_series++;
    }
    return true;
}

void qn_metrics_write(qn_metrics *m, qn_str *out, const qn_model_view *models, size_t n)
{
    page p = {.out = out, .tally = m->tally};
    if (read_all(&p, models, n)) {
        residents(&p);
        engines(&p);
        kv_cache(&p);
        steps(&p);
        classes(&p);
        requests(&p);
        histograms(&p);
        http(&p);
        process(m, out);
    } else {
        out->failed = true;
    }
    qn_free(p.series);
    qn_free(p.models);
}
