/* SPDX-License-Identifier: Apache-2.0
 * cmd_bench.c - `quern bench`: how fast models run here. A row is one thing measured several times over: a prompt, decoding at a
 * depth and batch, a whole answer, loading. Every row says how near it came to what the machine can do at most. */
#include "cmd/cmd_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"

typedef struct bench_options {
    qn_config config;
    qn_opt_list models;
    qn_opt_ints prefill, depths, batches;
    int n_decode, n_in, n_out, repeat;
    bool load, drop_cache, json;
    bench_op_options op;
} bench_options;

static const qn_opt bench_opts[] = {
    {"model", 'm', QN_OPT_LIST, offsetof(bench_options, models), "MODEL",
     .help = "a GGUF file, a Hugging Face folder, or OWNER/NAME[:FILE]; several are compared"},
    {"prefill", 'p', QN_OPT_INTS, offsetof(bench_options, prefill), "N,...", 0, 1 << 20, "512",
     "prompt tokens to compute; 0: none"},
    {"decode", 'n', QN_OPT_INT, offsetof(bench_options, n_decode), "N", 0, 1 << 20, "64",
     "tokens to decode one by one"},
    {"depth", 'd', QN_OPT_INTS, offsetof(bench_options, depths), "N,...", 0, 1 << 20,
     "0; attention: 1024,8192", "tokens already in the cache"},
    {"batch", 'b', QN_OPT_INTS, offsetof(bench_options, batches), "N,...", 1, QN_LIMIT_BATCH_SEQS,
     "1", "sequences that decode together"},
    {"in", 0, QN_OPT_INT, offsetof(bench_options, n_in), "N", 0, 1 << 20, "0",
     "whole requests with prompts of N tokens, sampling included"},
    {"out", 0, QN_OPT_INT, offsetof(bench_options, n_out), "N", 1, 1 << 20, "40",
     "tokens of their answers"},
    {"load", 0, QN_OPT_FLAG, offsetof(bench_options, load),
     .help = "also the time to open the model, and until its first token"},
    {"drop-cache", 0, QN_OPT_FLAG, offsetof(bench_options, drop_cache),
     .help = "--load: first ask the system to forget the model's files"},
    {"repeat", 'r', QN_OPT_INT, offsetof(bench_options, repeat), "N", 1, 1000, "3",
     "runs after one to warm up; the median counts"},
    {"json", 0, QN_OPT_FLAG, offsetof(bench_options, json), .help = "one JSON object"},
};
static const qn_opt_group bench_group = {"Options", bench_opts, QN_COUNT(bench_opts)};

const qn_opts cmd_bench_opts = {
    .command = "bench",
    .args = "",
    .summary = "Measure prompt and decode speed",
    .about = "Runs random tokens. A row for each prompt and batch, at each depth. GB/s are weights "
             "and K/V read, GOPS multiplies and adds; % of roof is the share of what this machine "
             "reads and computes at most, measured at the start.",
    .groups = {{&bench_group, 0},
               {&cmd_bench_op_group, offsetof(bench_options, op)},
               {&cmd_engine_group, offsetof(bench_options, config)}},
};

/* ---- rows ---- */

typedef enum row_kind {
    ROW_LOAD,
    ROW_LOAD_FIRST,
    ROW_PREFILL,
    ROW_DECODE,
    ROW_FIRST,
    ROW_ANSWER,
    ROW_TOTAL
} row_kind;

static const char *const row_names[] = {
    "load",   "load to first token", "prefill", "decode", "time to first token",
    "answer", "prompt and answer"};

typedef struct row {
    row_kind kind;
    int n_in, n_out, depth, batch;
    double tokens; /* of one run; 0: not a rate */
    double *ms;    /* [n], sorted */
    size_t n;
    qn_cost cost; /* of one run; zero: not counted */
    double least_ms;
} row;

typedef struct model_rows {
    qn_str name, quantization, device;
    double weight_bytes;
    int n_threads;
    row *rows;
    size_t n_rows, cap;
} model_rows;

typedef struct bench {
    bench_options *o;
    qn_roofs roofs;
    model_rows *models;
    size_t n_models;
    qn_err *err;
} bench;

static int by_value(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

double cmd_median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return n ? (v[(n - 1) / 2] + v[n / 2]) / 2 : 0;
}

static double row_ms(const row *r)
{
    return r->n ? (r->ms[(r->n - 1) / 2] + r->ms[r->n / 2]) / 2 : 0;
}

/* Milliseconds that the cost takes at the roofs; 0: no roof or no cost. */
static double least_ms(const qn_roofs *roofs, const qn_cost *c)
{
    double read = 0, compute = 0;
    if (roofs->read_bytes_s > 0)
        read = (c->weight_bytes + c->kv_bytes) / roofs->read_bytes_s;
    if (roofs->int8_ops_s > 0 && roofs->f32_flops_s > 0)
        compute = c->int8_ops / roofs->int8_ops_s + c->f32_flops / roofs->f32_flops_s;
    return 1e3 * QN_MAX(read, compute);
}

/* A row with room for `repeat` values. */
static qn_status row_new(bench *b, model_rows *m, const row *like, row **out)
{
    size_t n = (size_t)b->o->repeat;
    if (!qn_grow(&m->rows, &m->cap, m->n_rows + 1, sizeof *m->rows, QN_MEM_MISC))
        return qn_fail_nomem(b->err, sizeof *m->rows);
    row *r = &m->rows[m->n_rows];
    *r = *like;
    r->ms = qn_calloc(n, sizeof *r->ms, QN_MEM_MISC);
    if (!r->ms)
        return qn_fail_nomem(b->err, n * sizeof *r->ms);
    m->n_rows++;
    *out = r;
    return QN_OK;
}

static void row_end(const bench *b, row *r)
{
    (void)cmd_median(r->ms, r->n);
    r->least_ms = least_ms(&b->roofs, &r->cost);
}

/* "decode 64 at 8192, batch 8" */
static void row_label(const row *r, char *buf, size_t size)
{
    qn_str s = {0};
    qn_str_adds(&s, row_names[r->kind]);
    if (r->n_in)
        qn_str_addf(&s, " %d", r->n_in);
    if (r->n_out)
        qn_str_addf(&s, "%s%d", r->n_in ? " + " : " ", r->n_out);
    if (r->depth)
        qn_str_addf(&s, " at %d", r->depth);
    if (r->batch > 1)
        qn_str_addf(&s, ", batch %d", r->batch);
    (void)snprintf(buf, size, "%s", s.p ? s.p : "");
    qn_str_fini(&s);
}

/* ---- measuring ---- */

/* A prompt of p tokens (0: none) and, in turn with it, decoding with batch n (0: none), both at depth d. */
static qn_status measure_pair(bench *b, qn_engine *e, model_rows *m, const qn_bench_spec *spec)
{
    size_t n = (size_t)spec->repeat;
    qn_bench_result *results = qn_calloc(n, sizeof *results, QN_MEM_MISC);
    if (!results)
        return qn_fail_nomem(b->err, n * sizeof *results);
    qn_status s = qn_bench(e, spec, results, b->err);
    row *r = NULL;
    if (s == QN_OK && spec->n_prefill) {
        row like = {.kind = ROW_PREFILL,
                    .n_in = spec->n_prefill,
                    .depth = spec->depth,
                    .batch = 1,
                    .tokens = spec->n_prefill,
                    .cost = results[0].prefill};
        s = row_new(b, m, &like, &r);
        for (size_t i = 0; s == QN_OK && i < n; i++)
            r->ms[r->n++] = results[i].prefill_ms;
        if (s == QN_OK)
            row_end(b, r);
    }
    if (s == QN_OK && spec->n_decode) {
        row like = {.kind = ROW_DECODE,
                    .n_out = spec->n_decode,
                    .depth = spec->depth,
                    .batch = spec->batch,
                    .tokens = (double)spec->n_decode * spec->batch,
                    .cost = results[0].decode};
        s = row_new(b, m, &like, &r);
        for (size_t i = 0; s == QN_OK && i < n; i++)
            r->ms[r->n++] = results[i].decode_ms;
        if (s == QN_OK)
            row_end(b, r);
    }
    qn_free(results);
    return s;
}

/* The first run of anything is slower: pages, caches and clocks are cold. */
static qn_status warm_up(bench *b, qn_engine *e)
{
    qn_bench_result r;
    int most = b->o->prefill.n ? b->o->prefill.items[0] : 0;
    qn_bench_spec spec = {.n_prefill = QN_MAX(QN_MIN(most, 64), 1),
                          .n_decode = QN_MAX(QN_MIN(b->o->n_decode, 4), 1),
                          .batch = 1,
                          .repeat = 1};
    return qn_bench(e, &spec, &r, b->err);
}

static qn_status measure_steps(bench *b, qn_engine *e, model_rows *m, cmd_progress *bar)
{
    const bench_options *o = b->o;
    size_t n_p = o->prefill.n, n_b = o->n_decode ? o->batches.n : 0, n = QN_MAX(n_p, n_b), done = 0;
    for (size_t d = 0; d < o->depths.n; d++)
        for (size_t i = 0; i < n; i++) {
            cmd_progress_show(bar, "measuring", (double)done++ / (double)(o->depths.n * n), NULL);
            qn_bench_spec spec = {.n_prefill = i < n_p ? o->prefill.items[i] : 0,
                                  .n_decode = i < n_b ? o->n_decode : 0,
                                  .depth = o->depths.items[d],
                                  .batch = i < n_b ? o->batches.items[i] : 1,
                                  .repeat = o->repeat};
            if (spec.n_prefill || spec.n_decode)
                QN_TRY(measure_pair(b, e, m, &spec));
        }
    return QN_OK;
}

/* One request; first: until its first token, all: until its end. */
static qn_status answer(bench *b, qn_engine *e, int n_in, int n_out, uint64_t seed, double *first,
                        double *all)
{
    qn_engine_info info;
    qn_request *r = NULL;
    qn_event ev = {0};
    qn_params params = qn_params_default();
    int32_t *ids = qn_alloc_array((size_t)n_in, sizeof *ids, QN_MEM_MISC);
    if (!ids)
        return qn_fail_nomem(b->err, (size_t)n_in * sizeof *ids);
    qn_engine_get_info(e, &info);
    uint64_t x = seed * 2 + 1, t0, t1 = 0;
    for (int i = 0; i < n_in; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((x >> 33) % (uint64_t)info.n_vocab);
    }
    params.temperature = 0;
    params.ignore_eos = true;
    params.max_tokens = n_out;
    qn_prompt prompt = {.ids = ids, .n_ids = (size_t)n_in};
    t0 = qn_now_ns();
    qn_status s = qn_request_submit(&r, e, &prompt, &params, b->err);
    while (s == QN_OK && ev.kind != QN_EVENT_DONE) {
        s = qn_request_next(r, &ev, b->err);
        t1 = t1 ? t1 : qn_now_ns();
    }
    *first = (double)(t1 - t0) * 1e-6;
    *all = (double)(qn_now_ns() - t0) * 1e-6;
    qn_request_free(r);
    qn_free(ids);
    return s;
}

static qn_status measure_answers(bench *b, qn_engine *e, model_rows *m)
{
    const bench_options *o = b->o;
    row *r[3] = {NULL}, like[3] = {{.kind = ROW_FIRST, .n_in = o->n_in, .tokens = o->n_in},
                                   {.kind = ROW_ANSWER, .n_out = o->n_out, .tokens = o->n_out - 1},
                                   {.kind = ROW_TOTAL,
                                    .n_in = o->n_in,
                                    .n_out = o->n_out,
                                    .tokens = (double)o->n_in + o->n_out}};
    size_t first_row = m->n_rows;
    for (int i = 0; i < 3; i++)
        QN_TRY(row_new(b, m, &like[i], &r[i]));
    for (int i = 0; i < 3; i++) /* where they are now: the array has stopped growing */
        r[i] = &m->rows[first_row + (size_t)i];
    for (int k = 0; k < o->repeat; k++) {
        double first = 0, all = 0;
        QN_TRY(answer(b, e, o->n_in, o->n_out, (uint64_t)k + 1, &first, &all));
        r[0]->ms[r[0]->n++] = first;
        r[1]->ms[r[1]->n++] = all - first;
        r[2]->ms[r[2]->n++] = all;
    }
    for (int i = 0; i < 3; i++)
        row_end(b, r[i]);
    return QN_OK;
}

/* Opens the model once, or with --load `repeat` times until its first token. */
static qn_status open_model(bench *b, qn_engine **out, model_rows *m, const char *path)
{
    const bench_options *o = b->o;
    cmd_progress bar = {.start_ns = qn_now_ns()};
    row *r[2] = {NULL}, like[2] = {{.kind = ROW_LOAD}, {.kind = ROW_LOAD_FIRST}};
    for (int i = 0; o->load && i < 2; i++)
        QN_TRY(row_new(b, m, &like[i], &r[i]));
    qn_config config = o->config;
    config.model = path;
    config.progress = cmd_progress_load;
    config.progress_arg = &bar;
    config.prefault |= !o->load; /* clearing pages is not part of a row */
    cmd_tuned(&config);
    for (int k = 0; k < (o->load ? o->repeat : 1); k++) {
        qn_engine_free(*out);
        *out = NULL;
        if (o->load && o->drop_cache)
            QN_TRY(qn_file_drop_cache(path, b->err));
        uint64_t t0 = qn_now_ns();
        qn_status s = qn_engine_open(out, &config, b->err);
        double ms = (double)(qn_now_ns() - t0) * 1e-6, first = 0, all = 0;
        cmd_progress_end(&bar);
        if (s != QN_OK)
            return s;
        if (!o->load)
            break;
        m->rows[0].ms[m->rows[0].n++] = ms;
        QN_TRY(answer(b, *out, 1, 1, 1, &first, &all));
        m->rows[1].ms[m->rows[1].n++] = ms + first;
    }
    for (size_t i = 0; i < m->n_rows; i++)
        row_end(b, &m->rows[i]);
    return QN_OK;
}

/* Sequences, context and K/V blocks for the largest row; what the user gave stays. */
static void size_engine(const bench_options *o, qn_config *c)
{
    int longest = o->n_in ? o->n_in + o->n_out : 16;
    size_t blocks = (size_t)longest / 64 + 2;
    int p = 0;
    for (size_t i = 0; i < o->prefill.n; i++)
        p = QN_MAX(p, o->prefill.items[i]);
    for (size_t d = 0; d < o->depths.n; d++) {
        int n = o->depths.items[d] + QN_MAX(p, o->n_decode);
        longest = QN_MAX(longest, n);
        blocks = QN_MAX(blocks, (size_t)n / 64 + 2);
        for (size_t i = 0; o->n_decode && i < o->batches.n; i++) {
            c->max_seqs = QN_MAX(c->max_seqs, o->batches.items[i]);
            size_t each = (size_t)(i < o->prefill.n ? n : o->depths.items[d] + o->n_decode) / 64;
            blocks = QN_MAX(blocks, (size_t)o->batches.items[i] * (each + 2));
        }
    }
    c->max_ctx = c->max_ctx ? c->max_ctx : QN_MAX(longest, 64);
    c->n_kv_blocks = (int)QN_MIN(blocks, (size_t)INT32_MAX / 2);
}

static qn_status measure_model(bench *b, model_rows *m, const char *name)
{
    const bench_options *o = b->o;
    qn_engine *e = NULL;
    qn_engine_info info;
    qn_str path = {0};
    cmd_progress bar = {.start_ns = qn_now_ns()};
    qn_status s = cmd_model_find(&path, name, b->err);
    if (s == QN_OK)
        s = open_model(b, &e, m, path.p);
    if (s == QN_OK && b->roofs.read_bytes_s <= 0)
        qn_engine_get_roofs(e, &b->roofs);
    if (s == QN_OK)
        s = warm_up(b, e);
    if (s == QN_OK)
        s = measure_steps(b, e, m, &bar);
    if (s == QN_OK && o->n_in)
        s = measure_answers(b, e, m);
    cmd_progress_end(&bar);
    if (s == QN_OK) {
        qn_engine_get_info(e, &info);
        qn_str_adds(&m->name, info.name);
        qn_str_adds(&m->quantization, info.quantization);
        qn_str_adds(&m->device, info.device);
        m->weight_bytes = (double)info.weight_bytes;
        m->n_threads = info.n_threads;
    }
    qn_engine_free(e);
    qn_str_fini(&path);
    return s;
}

/* ---- printing ---- */

static double per_second(double amount, double ms)
{
    return ms > 0 ? 1e3 * amount / ms : 0;
}

static void add_number(qn_str *s, const char *format, double v, int width)
{
    if (v > 0)
        qn_str_addf(s, format, v);
    else
        qn_str_addf(s, "%*s", width, "");
}

static void print_row(const row *r)
{
    char label[80];
    qn_str s = {0};
    double ms = row_ms(r), read = r->cost.weight_bytes + r->cost.kv_bytes;
    row_label(r, label, sizeof label);
    qn_str_addf(&s, "%-28s", label);
    add_number(&s, " %9.2f", per_second(r->tokens, ms), 10);
    qn_str_addf(&s, " %10.2f %10.2f %10.2f", ms, r->n ? r->ms[0] : 0, r->n ? r->ms[r->n - 1] : 0);
    add_number(&s, " %7.2f", 1e-9 * per_second(read, ms), 8);
    add_number(&s, " %8.1f", 1e-9 * per_second(r->cost.int8_ops + r->cost.f32_flops, ms), 9);
    add_number(&s, " %6.1f", ms > 0 ? 100 * r->least_ms / ms : 0, 0);
    while (s.n && s.p[s.n - 1] == ' ')
        s.p[--s.n] = 0;
    (void)puts(s.p ? s.p : label);
    qn_str_fini(&s);
}

static void print_head(const model_rows *m)
{
    char name[96];
    qn_escape(name, sizeof name, m->name.p ? m->name.p : "", m->name.n);
    printf("%s, %s, %.2f GB of weights; %s\n", name, m->quantization.p ? m->quantization.p : "",
           m->weight_bytes * 1e-9, m->device.p ? m->device.p : "");
    printf("%-28s %9s %10s %10s %10s %7s %8s %6s\n", "", "tok/s", "ms", "least ms", "most ms",
           "GB/s", "GOPS", "% roof");
}

/* How many times as fast as the first model each row is, and would be at the roofs. */
static void print_ratios(const bench *b)
{
    const model_rows *first = &b->models[0];
    char label[80];
    for (size_t k = 1; k < b->n_models; k++) {
        char name[96];
        const model_rows *m = &b->models[k];
        qn_escape(name, sizeof name, m->name.p ? m->name.p : "", m->name.n);
        printf("\n%-28s %9s %10s\n", name, "times", "by roofs");
        for (size_t i = 0; i < m->n_rows && i < first->n_rows; i++) {
            const row *r = &m->rows[i], *f = &first->rows[i];
            row_label(r, label, sizeof label);
            printf("%-28s %9.2f", label, row_ms(r) > 0 ? row_ms(f) / row_ms(r) : 0);
            if (r->least_ms > 0)
                printf(" %10.2f", f->least_ms / r->least_ms);
            (void)puts("");
        }
    }
    if (b->n_models > 1)
        (void)puts("times: as fast as the first model; by roofs: by bytes and operations alone");
}

static void print_text(const bench *b)
{
    if (b->roofs.read_bytes_s > 0)
        printf("roofs: %.1f GB/s read, %.0f GOPS int8, %.0f GFLOPS float32\n",
               b->roofs.read_bytes_s * 1e-9, b->roofs.int8_ops_s * 1e-9,
               b->roofs.f32_flops_s * 1e-9);
    for (size_t k = 0; k < b->n_models; k++) {
        print_head(&b->models[k]);
        for (size_t i = 0; i < b->models[k].n_rows; i++)
            print_row(&b->models[k].rows[i]);
    }
    print_ratios(b);
}

static void json_row(qn_str *s, const row *r)
{
    double ms = row_ms(r), least = r->n ? r->ms[0] : 0, most = r->n ? r->ms[r->n - 1] : 0;
    qn_str_addf(s, "{\"row\": \"%s\"", row_names[r->kind]);
    if (r->n_in)
        qn_str_addf(s, ", \"in\": %d", r->n_in);
    if (r->n_out)
        qn_str_addf(s, ", \"out\": %d", r->n_out);
    if (r->kind == ROW_PREFILL || r->kind == ROW_DECODE)
        qn_str_addf(s, ", \"depth\": %d, \"batch\": %d", r->depth, r->batch);
    qn_str_addf(s, ", \"ms\": %.4f, \"ms_min\": %.4f, \"ms_max\": %.4f", ms, least, most);
    if (r->tokens > 0)
        qn_str_addf(s, ", \"tok_s\": %.4f, \"tok_s_min\": %.4f, \"tok_s_max\": %.4f",
                    per_second(r->tokens, ms), per_second(r->tokens, most),
                    per_second(r->tokens, least));
    if (r->cost.weight_bytes > 0)
        qn_str_addf(s,
                    ", \"weight_bytes\": %.0f, \"kv_bytes\": %.0f, \"int8_ops\": %.0f, "
                    "\"f32_flops\": %.0f, \"gb_s\": %.4f, \"gops\": %.4f, \"of_roof\": %.4f",
                    r->cost.weight_bytes, r->cost.kv_bytes, r->cost.int8_ops, r->cost.f32_flops,
                    1e-9 * per_second(r->cost.weight_bytes + r->cost.kv_bytes, ms),
                    1e-9 * per_second(r->cost.int8_ops + r->cost.f32_flops, ms),
                    ms > 0 ? r->least_ms / ms : 0);
    qn_str_addc(s, '}');
}

static void print_json(const bench *b)
{
    qn_str s = {0};
    qn_str_addf(&s,
                "{\"repeat\": %d, \"roofs\": {\"read_bytes_s\": %.0f, \"int8_ops_s\": %.0f, "
                "\"f32_flops_s\": %.0f}, \"models\": [",
                b->o->repeat, b->roofs.read_bytes_s, b->roofs.int8_ops_s, b->roofs.f32_flops_s);
    for (size_t k = 0; k < b->n_models; k++) {
        const model_rows *m = &b->models[k];
        qn_str_adds(&s, k ? ", {\"model\": " : "{\"model\": ");
        qn_str_add_json(&s, m->name.p ? m->name.p : "", m->name.n);
        qn_str_adds(&s, ", \"device\": ");
        qn_str_add_json(&s, m->device.p ? m->device.p : "", m->device.n);
        qn_str_addf(&s, ", \"threads\": %d, \"weight_bytes\": %.0f, \"rows\": [", m->n_threads,
                    m->weight_bytes);
        for (size_t i = 0; i < m->n_rows; i++) {
            qn_str_adds(&s, i ? ", " : "");
            json_row(&s, &m->rows[i]);
        }
        qn_str_adds(&s, "]}");
    }
    qn_str_adds(&s, "]}");
    if (s.p && !s.failed)
        (void)puts(s.p);
    qn_str_fini(&s);
}

/* ---- the command ---- */

static qn_status run(bench_options *o, qn_err *err)
{
    bench b = {.o = o, .err = err, .n_models = o->models.n};
    qn_status s = QN_OK;
    size_engine(o, &o->config);
    b.models = qn_calloc(b.n_models, sizeof *b.models, QN_MEM_MISC);
    if (!b.models)
        return qn_fail_nomem(err, b.n_models * sizeof *b.models);
    for (size_t k = 0; s == QN_OK && k < b.n_models; k++)
        s = measure_model(&b, &b.models[k], o->models.items[k]);
    if (s == QN_OK)
        (o->json ? print_json : print_text)(&b);
    for (size_t k = 0; k < b.n_models; k++) {
        model_rows *m = &b.models[k];
        for (size_t i = 0; i < m->n_rows; i++)
            qn_free(m->rows[i].ms);
        qn_free(m->rows);
        qn_str_fini(&m->name);
        qn_str_fini(&m->quantization);
        qn_str_fini(&m->device);
    }
    qn_free(b.models);
    return s;
}

static bool has_work(const bench_options *o)
{
    bool any = o->n_decode || o->n_in || o->load;
    for (size_t i = 0; i < o->prefill.n; i++)
        any = any || o->prefill.items[i];
    return any;
}

int cmd_bench(int argc, char **argv)
{
    bench_options o = {.config = qn_config_default(),
                       .prefill = {{512}, 1},
                       .batches = {{1}, 1},
                       .n_decode = 64,
                       .n_out = 40,
                       .repeat = 3,
                       .op = cmd_bench_op_defaults()};
    qn_opts_found found = {0};
    qn_err err = {0};
    int code = cmd_parse(&cmd_bench_opts, &o, argc, argv, &found);
    if (code < 0 && o.op.op >= 0 && o.models.n)
        code = cmd_usage(&cmd_bench_opts, "--op needs no model, found one");
    if (code < 0 && o.op.op < 0 && !o.models.n)
        code = cmd_usage(&cmd_bench_opts, "no model given, want -m MODEL or --op NAME");
    if (code < 0 && !has_work(&o))
        code = cmd_usage(&cmd_bench_opts,
                         "--prefill, --decode and --in are all 0, want something to measure");
    if (code < 0 && o.drop_cache && !o.load)
        code = cmd_usage(&cmd_bench_opts, "--drop-cache is for --load");
    if (code < 0 && !o.depths.n)
        o.depths = o.op.op >= 0 ? (qn_opt_ints){{1024, 8192}, 2} : (qn_opt_ints){{0}, 1};
    if (code < 0) {
        bench_op_run op = {&o.op, &o.config, &o.depths, o.repeat, o.json};
        qn_status s = o.op.op >= 0 ? cmd_bench_op(&op, &err) : run(&o, &err);
        code = s == QN_OK ? CMD_OK : cmd_fail(&err);
    }
    qn_opt_list_fini(&o.models);
    qn_opts_found_fini(&found);
    return code;
}
