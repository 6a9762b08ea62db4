/* SPDX-License-Identifier: Apache-2.0
 * cmd_tune.c - `quern tune`: measures what depends on the machine and keeps it for later runs; `quern tune batch`.
 *
 * CACHE/tune.json: {"machine": "...", "threads": 0, "max_batch_tokens": 1024}; 0 is the default. `machine` names processor, cores,
 * those this process may use, and version: what was measured elsewhere or by another version is not used. Tuning never changes results: the bits do not depend on it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/share.h"
#include "cmd/cmd.h"
#include <quern/measure.h>

typedef struct tune_options {
    qn_config config;
    int n_prefill, repeat;
    bool json;
} tune_options;

static const qn_opt tune_opts[] = {
    {"prefill", 'p', QN_OPT_INT, offsetof(tune_options, n_prefill), "N", 1, 1 << 16, "1024",
     "prompt tokens to time"},
    {"repeat", 'r', QN_OPT_INT, offsetof(tune_options, repeat), "N", 1, 50, "3",
     "runs of each setting; the median counts"},
    {"json", 0, QN_OPT_FLAG, offsetof(tune_options, json), .help = "one JSON object"},
};
static const qn_opt_group tune_group = {"Options", tune_opts, QN_COUNT(tune_opts)};

const qn_opts cmd_tune_opts = {
    .command = "tune",
    .args = "[batch]",
    .summary = "Find this machine's best settings and keep them",
    .about =
        "Measures worker threads and tokens of one step, and keeps what is at least 5 % better "
        "than the default; later commands use it where no option says otherwise.\n"
        "With 'batch': how much faster sequences are together, and keeps nothing.",
    .max_args = 1,
    .groups = {{&tune_group, 0}, {&cmd_config_group, offsetof(tune_options, config)}},
};

#define WORTH 1.05 /* gain below which the default stays */
enum { DECODE = 32, MOST = 16, MOST_RUNS = 50 };

/* ---- what is kept ---- */

static void machine(qn_str *out)
{
    qn_share *share;
    qn_share_now now;
    if (qn_share_new(&share, "", NULL) != QN_OK) {
        out->failed = true;
        return;
    }
    qn_share_read(share, 0, &now);
    qn_str_addf(out, "%s, %d of %d cores, quern " QN_VERSION, qn_share_topology(share)->model,
                now.n_workers, qn_share_topology(share)->n_cores);
    qn_share_free(share);
}

static qn_status tune_path(qn_str *out, qn_err *err)
{
    QN_TRY(qn_cache_dir(out, err));
    qn_str_adds(out, "/tune.json");
    return out->failed ? qn_fail_nomem(err, out->n) : QN_OK;
}

static qn_status keep(int threads, int tokens, qn_str *path, qn_err *err)
{
    qn_str text = {0}, name = {0};
    machine(&name);
    qn_str_adds(&text, "{\"machine\": ");
    qn_str_add_json(&text, name.p ? name.p : "", name.n);
    qn_str_addf(&text, ", \"threads\": %d, \"max_batch_tokens\": %d}\n", threads, tokens);
    qn_status s = text.failed || name.failed ? qn_fail_nomem(err, text.n) : tune_path(path, err);
    if (s == QN_OK)
        s = qn_file_write(path->p, text.p, text.n, err);
    qn_str_fini(&text);
    qn_str_fini(&name);
    return s;
}

void cmd_tuned(qn_config *c)
{
    qn_str path = {0}, name = {0};
    json_t *j = NULL;
    const char *made_on = NULL;
    uint32_t threads = 0, tokens = 0;
    if (tune_path(&path, NULL) == QN_OK && qn_file_exists(path.p) &&
        qn_json_load(&j, path.p, 4096, NULL) == QN_OK &&
        qn_json_str(j, path.p, "machine", &made_on, NULL) == QN_OK &&
        qn_json_u32(j, path.p, "threads", 0, QN_LIMIT_THREADS, &threads, NULL) == QN_OK &&
        qn_json_u32(j, path.p, "max_batch_tokens", 0, QN_LIMIT_BATCH_TOKENS, &tokens, NULL) ==
            QN_OK) {
        machine(&name);
        if (made_on && !name.failed && strcmp(made_on, name.p) == 0) {
            c->n_threads = c->n_threads ? c->n_threads : (int)threads;
            c->max_batch_tokens = c->max_batch_tokens ? c->max_batch_tokens : (int)tokens;
        }
    }
    json_decref(j);
    qn_str_fini(&path);
    qn_str_fini(&name);
}

/* ---- measuring ---- */

typedef struct trial {
    int threads, tokens, batch; /* the setting; 0: the default */
    double prefill, decode;     /* tok/s */
} trial;

static int by_value(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* Median tokens per second of a spec; the first run warms up. */
static qn_status rate(qn_engine *e, qn_bench_spec spec, int repeat, double *out, qn_err *err)
{
    qn_bench_result r[MOST_RUNS + 1];
    double v[MOST_RUNS];
    spec.repeat = repeat + 1;
    QN_TRY(qn_bench(e, &spec, r, err));
    for (int i = 0; i < repeat; i++)
        v[i] = spec.n_prefill ? 1e3 * spec.n_prefill / r[i + 1].prefill_ms
                              : 1e3 * spec.n_decode * spec.batch / r[i + 1].decode_ms;
    qsort(v, (size_t)repeat, sizeof *v, by_value);
    *out = v[repeat / 2];
    return QN_OK;
}

static qn_status open_engine(qn_engine **e, const tune_options *o, const trial *t, qn_err *err)
{
    qn_config c = o->config;
    cmd_progress bar = {.start_ns = qn_now_ns()};
    c.n_threads = t->threads ? t->threads : c.n_threads;
    c.max_batch_tokens = t->tokens ? t->tokens : c.max_batch_tokens;
    c.max_seqs = QN_MAX(c.max_seqs, t->batch);
    c.progress = cmd_progress_load;
    c.progress_arg = &bar;
    qn_status s = qn_engine_open(e, &c, err);
    cmd_progress_end(&bar);
    return s;
}

static qn_status try_setting(const tune_options *o, trial *t, qn_err *err)
{
    qn_engine *e = NULL;
    qn_bench_spec pre = {.n_prefill = o->n_prefill, .batch = 1},
                  dec = {.n_decode = DECODE, .batch = 1};
    QN_TRY(open_engine(&e, o, t, err));
    qn_status s = rate(e, pre, o->repeat, &t->prefill, err);
    if (s == QN_OK)
        s = rate(e, dec, o->repeat, &t->decode, err);
    qn_engine_free(e);
    if (s == QN_OK && !o->json) {
        char threads[16] = "default", tokens[16] = "default";
        if (t->threads)
            (void)snprintf(threads, sizeof threads, "%d", t->threads);
        if (t->tokens)
            (void)snprintf(tokens, sizeof tokens, "%d", t->tokens);
        printf("%8s  %12s  %14.1f  %14.2f\n", threads, tokens, t->prefill, t->decode);
        (void)fflush(stdout);
    }
    return s;
}

/* Prompt and decode count the same. */
static double gain(const trial *t, const trial *base)
{
    double p = t->prefill / base->prefill, d = t->decode / base->decode;
    return (p + d) / 2;
}

static qn_status tune(const tune_options *o, qn_err *err)
{
    static const int tokens[] = {128, 256, 1024, 2048};
    trial all[MOST] = {{0}};
    size_t n = 1, best = 0;
    qn_share *share;
    qn_share_now now;
    QN_TRY(qn_share_new(&share, "", err));
    qn_share_read(share, 0, &now);
    qn_share_free(share);
    const int threads[] = {1, now.n_workers / 2, now.n_workers - 1};
    if (!o->json)
        printf("%8s  %12s  %14s  %14s\n", "threads", "tokens/step", "prefill tok/s",
               "decode tok/s");
    QN_TRY(try_setting(o, &all[0], err));
    for (size_t i = 0; i < QN_COUNT(threads); i++) {
        if (threads[i] >= now.n_workers || (i > 0 && threads[i] <= threads[i - 1]))
            continue;
        all[n].threads = threads[i];
        QN_TRY(try_setting(o, &all[n++], err));
    }
    for (size_t i = 1; i < n; i++)
        if (gain(&all[i], &all[0]) > QN_MAX(WORTH, gain(&all[best], &all[0])))
            best = i;
    int best_threads = all[best].threads;
    for (size_t i = 0; i < QN_COUNT(tokens); i++) {
        all[n] = (trial){.threads = best_threads, .tokens = tokens[i]};
        QN_TRY(try_setting(o, &all[n], err));
        if (gain(&all[n], &all[0]) > gain(&all[best], &all[0]) * WORTH)
            best = n;
        n++;
    }
    qn_str path = {0};
    const trial *b = &all[best];
    qn_status s = keep(b->threads, b->tokens, &path, err);
    if (s == QN_OK && o->json)
        printf("{\"threads\": %d, \"max_batch_tokens\": %d, \"base\": {\"prefill_tok_s\": %.2f, "
               "\"decode_tok_s\": %.2f}, \"tuned\": {\"prefill_tok_s\": %.2f, \"decode_tok_s\": "
               "%.2f}}\n",
               b->threads, b->tokens, all[0].prefill, all[0].decode, b->prefill, b->decode);
    else if (s == QN_OK && best == 0)
        printf("the defaults are best here (no setting gains %.0f %%); noted in %s\n",
               (WORTH - 1) * 100, path.p);
    else if (s == QN_OK)
        printf("best: prefill %+.1f %%, decode %+.1f %% against the default; kept in %s\n",
               100 * (b->prefill / all[0].prefill - 1), 100 * (b->decode / all[0].decode - 1),
               path.p);
    qn_str_fini(&path);
    return s;
}

/* The knee: the last batch that gives at least 15 % more tokens for each doubling. */
static qn_status tune_batch(const tune_options *o, qn_err *err)
{
    trial all[MOST];
    size_t n = 0, knee = 0;
    bool is_rising = true;
    qn_engine *e = NULL;
    trial most = {.batch = o->config.max_seqs ? o->config.max_seqs : 32};
    QN_TRY(open_engine(&e, o, &most, err));
    qn_status s = QN_OK;
    for (int b = 1; s == QN_OK && n < MOST && b <= most.batch; b *= 2) {
        qn_bench_spec spec = {.n_decode = DECODE, .batch = b};
        all[n] = (trial){.batch = b};
        s = rate(e, spec, o->repeat, &all[n].decode, err);
        is_rising = is_rising && (n == 0 || all[n].decode > 1.15 * all[n - 1].decode);
        knee = is_rising ? n : knee;
        n++;
    }
    qn_engine_free(e);
    QN_TRY(s);
    if (!o->json)
        printf("%6s  %12s  %14s\n", "batch", "tok/s in all", "ms per token");
    for (size_t i = 0; i < n; i++) {
        double ms = 1e3 * all[i].batch / all[i].decode;
        if (o->json)
            printf("%s{\"batch\": %d, \"tok_s\": %.3f, \"ms_per_token\": %.3f, \"knee\": %s}",
                   i ? ",\n " : "[", all[i].batch, all[i].decode, ms, i == knee ? "true" : "false");
        else
            printf("%6d  %12.2f  %14.2f%s\n", all[i].batch, all[i].decode, ms,
                   i == knee ? "  <- knee" : "");
    }
    if (o->json)
        puts("]");
    return QN_OK;
}

int cmd_tune(int argc, char **argv)
{
    tune_options o = {.config = qn_config_default(), .n_prefill = 1024, .repeat = 3};
    qn_opts_found found = {0};
    qn_err err = {0};
    qn_str path = {0};
    int code = cmd_parse(&cmd_tune_opts, &o, argc, argv, &found);
    bool is_batch = code < 0 && found.n_args == 1;
    if (code < 0 && !o.config.model)
        code = cmd_usage(&cmd_tune_opts, "no model given, want -m MODEL");
    if (code < 0 && is_batch && strcmp(found.args[0], "batch") != 0)
        code = cmd_usage(&cmd_tune_opts, "found '%s', wanted nothing or 'batch'", found.args[0]);
    if (code < 0) {
        qn_status s = cmd_model_find(&path, o.config.model, &err);
        o.config.model = path.p;
        if (s == QN_OK)
            s = (is_batch ? tune_batch : tune)(&o, &err);
        code = s == QN_OK ? CMD_OK : cmd_fail(&err);
    }
    qn_str_fini(&path);
    qn_opts_found_fini(&found);
    return code;
}
