/* SPDX-License-Identifier: Apache-2.0
 * cmd_bench.c - `quern bench`: how fast a model runs here, prompt and decode apart, several times over. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cmd/cmd.h"

typedef struct bench_options {
    qn_config config;
    int n_prefill, n_decode, depth, batch, repeat;
    bool json, memory;
    cmd_memory plan; /* --memory */
} bench_options;

static const qn_opt bench_opts[] = {
    {"prefill", 'p', QN_OPT_INT, offsetof(bench_options, n_prefill), "N", 0, 1 << 20, "512",
     "prompt tokens to compute"},
    {"decode", 'n', QN_OPT_INT, offsetof(bench_options, n_decode), "N", 0, 1 << 20, "64",
     "tokens to decode one by one"},
    {"depth", 'd', QN_OPT_INT, offsetof(bench_options, depth), "N", 0, 1 << 20, "0",
     "tokens already in the cache"},
    {"batch", 'b', QN_OPT_INT, offsetof(bench_options, batch), "N", 1, 1024, "1",
     "sequences that decode together"},
    {"repeat", 'r', QN_OPT_INT, offsetof(bench_options, repeat), "N", 1, 1000, "3",
     "runs after one to warm up; the median counts"},
    {"memory", 0, QN_OPT_FLAG, offsetof(bench_options, memory),
     .help = "compare the memory used with the plan's figure (quern plan)"},
    {"json", 0, QN_OPT_FLAG, offsetof(bench_options, json), .help = "one JSON object"},
};
static const qn_opt_group bench_group = {"Options", bench_opts, QN_COUNT(bench_opts)};

const qn_opts cmd_bench_opts = {
    .command = "bench",
    .args = "",
    .summary = "Measure prompt and decode speed",
    .about = "Runs random tokens through the model, without sampling. GB/s counts each matrix once "
             "a step; "
             "GFLOP/s are those of a prompt of 512 tokens, a multiply and an add as two.",
    .groups = {{&bench_group, 0}, {&cmd_config_group, offsetof(bench_options, config)}},
};

/* Above or below the plan, in percent of it. */
static double plan_error(const cmd_memory *m, size_t peak)
{
    return 100.0 * ((double)peak - (double)m->total) / (double)m->total;
}

static int by_value(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* Tokens per second of each run, lowest first; the middle one is the figure. */
typedef struct series {
    double *rate;
    size_t n;
} series;

static double median(const series *s)
{
    return s->n ? s->rate[s->n / 2] : 0;
}

static void print_rows(const bench_options *o, const qn_engine_info *i, const series *pre,
                       const series *dec)
{
    char depth[32] = "";
    if (o->depth)
        (void)snprintf(depth, sizeof depth, " at depth %d", o->depth);
    printf("%s, %s, %.2f GB of weights; %s\n", i->name, i->quantization,
           (double)i->weight_bytes * 1e-9, i->device);
    if (pre->n)
        printf("prefill %5d%s: %8.2f tok/s  (%.2f - %.2f)  %9.2f ms  %7.1f GFLOP/s\n", o->n_prefill,
               depth, median(pre), pre->rate[0], pre->rate[pre->n - 1],
               1e3 * o->n_prefill / median(pre),
               1e-9 * i->prompt_flops / i->prompt_tokens * median(pre));
    if (dec->n)
        printf("decode  %5d%s: %8.2f tok/s  (%.2f - %.2f)  %9.2f ms  %7.1f GB/s%s\n", o->n_decode,
               depth, median(dec), dec->rate[0], dec->rate[dec->n - 1],
               1e3 * o->batch / median(dec),
               1e-9 * (double)i->weight_bytes_per_token * median(dec) / o->batch,
               o->batch > 1 ? "  (all sequences)" : "");
    if (o->memory)
        printf("memory: planned %.1f MB, at most %.1f MB in memory, %+.2f %%\n",
               (double)o->plan.total * 1e-6, (double)qn_mem_resident_peak() * 1e-6,
               plan_error(&o->plan, qn_mem_resident_peak()));
}

static void add_series(qn_str *s, const char *name, const series *v, int tokens)
{
    if (!v->n)
        return;
    qn_str_addf(
        s, ", \"%s_tok_s\": %.4f, \"%s_tok_s_min\": %.4f, \"%s_tok_s_max\": %.4f, \"%s_ms\": %.4f",
        name, median(v), name, v->rate[0], name, v->rate[v->n - 1], name, 1e3 * tokens / median(v));
}

static void print_json(const bench_options *o, const qn_engine_info *i, const series *pre,
                       const series *dec)
{
    qn_str s = {0};
    qn_str_adds(&s, "{\"model\": ");
    qn_str_add_json(&s, i->name, strlen(i->name));
    qn_str_adds(&s, ", \"device\": ");
    qn_str_add_json(&s, i->device, strlen(i->device));
    qn_str_addf(&s,
                ", \"threads\": %d, \"prefill\": %d, \"decode\": %d, \"depth\": %d, \"batch\": %d, "
                "\"repeat\": %d",
                i->n_threads, o->n_prefill, o->n_decode, o->depth, o->batch, o->repeat);
    add_series(&s, "prefill", pre, o->n_prefill);
    add_series(&s, "decode", dec, o->n_decode * o->batch);
    if (dec->n)
        qn_str_addf(&s, ", \"decode_gb_s\": %.4f",
                    1e-9 * (double)i->weight_bytes_per_token * median(dec) / o->batch);
    if (o->memory)
        qn_str_addf(&s,
                    ", \"planned_bytes\": %llu, \"peak_bytes\": %zu, \"plan_error_percent\": %.3f",
                    (unsigned long long)o->plan.total, qn_mem_resident_peak(),
                    plan_error(&o->plan, qn_mem_resident_peak()));
    qn_str_addf(&s, ", \"weight_bytes\": %llu, \"weight_bytes_per_token\": %llu}\n",
                (unsigned long long)i->weight_bytes, (unsigned long long)i->weight_bytes_per_token);
    if (s.p)
        (void)fputs(s.p, stdout);
    qn_str_fini(&s);
}

static qn_status measure(qn_engine *e, const bench_options *o, series *pre, series *dec,
                         qn_err *err)
{
    cmd_progress bar = {.start_ns = qn_now_ns()};
    qn_bench_result r;
    for (int k = -1; k < o->repeat; k++) {
        /* prompt and decode each from their own start: decoding begins at `depth`, not behind the prompt */
        qn_bench_spec p = {.n_prefill = o->n_prefill, .depth = o->depth, .batch = 1, .repeat = 1};
        qn_bench_spec d = {.n_decode = k < 0 ? QN_MIN(o->n_decode, 4) : o->n_decode,
                           .depth = o->depth,
                           .batch = o->batch,
                           .repeat = 1};
        cmd_progress_show(&bar, "measuring", (k + 1.0) / (o->repeat + 1.0), NULL);
        if (o->n_prefill) {
            QN_TRY(qn_bench(e, &p, &r, err));
            if (k >= 0)
                pre->rate[pre->n++] = 1e3 * o->n_prefill / r.prefill_ms;
        }
        if (o->n_decode) {
            QN_TRY(qn_bench(e, &d, &r, err));
            if (k >= 0)
                dec->rate[dec->n++] = 1e3 * d.n_decode * o->batch / r.decode_ms;
        }
    }
    cmd_progress_end(&bar);
    qsort(pre->rate, pre->n, sizeof *pre->rate, by_value);
    qsort(dec->rate, dec->n, sizeof *dec->rate, by_value);
    return QN_OK;
}

static qn_status bench(bench_options *o, qn_err *err)
{
    qn_engine *e = NULL;
    qn_str path = {0};
    cmd_progress bar = {.start_ns = qn_now_ns()};
    series pre = {.rate = qn_calloc((size_t)o->repeat, sizeof(double), QN_MEM_MISC)};
    series dec = {.rate = qn_calloc((size_t)o->repeat, sizeof(double), QN_MEM_MISC)};
    qn_status s =
        pre.rate && dec.rate ? cmd_model_find(&path, o->config.model, err) : qn_fail_nomem(err, 8);
    if (s == QN_OK) {
        o->config.model = path.p;
        o->config.max_seqs = QN_MAX(o->config.max_seqs, o->batch);
        o->config.progress = cmd_progress_load;
        o->config.progress_arg = &bar;
        o->config.prefault |= o->memory;
        if (o->memory)
            s = cmd_memory_plan(&o->plan, &o->config, err);
        if (s == QN_OK)
            s = qn_engine_open(&e, &o->config, err);
        cmd_progress_end(&bar);
    }
    if (s == QN_OK)
        s = measure(e, o, &pre, &dec, err);
    if (s == QN_OK) {
        qn_engine_info info;
        qn_engine_get_info(e, &info);
        (o->json ? print_json : print_rows)(o, &info, &pre, &dec);
    }
    qn_engine_free(e);
    qn_free(pre.rate);
    qn_free(dec.rate);
    qn_str_fini(&path);
    return s;
}

int cmd_bench(int argc, char **argv)
{
    bench_options o = {
        .config = qn_config_default(), .n_prefill = 512, .n_decode = 64, .batch = 1, .repeat = 3};
    qn_opts_found found = {0};
    qn_err err = {0};
    int code = cmd_parse(&cmd_bench_opts, &o, argc, argv, &found);
    if (code < 0 && !o.config.model)
        code = cmd_usage(&cmd_bench_opts, "no model given, want -m MODEL");
    if (code < 0 && o.n_prefill + o.n_decode == 0)
        code = cmd_usage(&cmd_bench_opts,
                         "--prefill and --decode are both 0, want something to measure");
    if (code < 0)
        code = bench(&o, &err) == QN_OK ? CMD_OK : cmd_fail(&err);
    qn_opts_found_fini(&found);
    return code;
}
