/* SPDX-License-Identifier: Apache-2.0
 * cmd_plan.c - `quern plan`: the memory a model takes here, as it is and as other types.
 *
 * The engine is opened dry: every size is computed by the code that will take the memory, weights are
 * not read. What the process then holds (program, vocabulary, tables) is measured. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "cmd/cmd.h"
#include "model/footprint.h"

typedef struct plan_options {
    qn_config config;
    bool check, json;
} plan_options;

static const qn_opt plan_opts[] = {
    {"check", 0, QN_OPT_FLAG, offsetof(plan_options, check),
     .help = "load the model, fill the cache, run, and compare with the memory that took"},
    {"json", 0, QN_OPT_FLAG, offsetof(plan_options, json), .help = "one JSON object"},
};
static const qn_opt_group plan_group = {"Options", plan_opts, QN_COUNT(plan_opts)};

const qn_opts cmd_plan_opts = {
    .command = "plan",
    .args = "",
    .summary = "Show the memory that a model takes, and would take as other types",
    .about = "Bytes in memory with a full K/V cache and full steps: weights as the kernels read "
             "them, K/V, activations and scratch, and the rest of the process. Weights are not "
             "read, but for --check.",
    .groups = {{&plan_group, 0}, {&cmd_config_group, offsetof(plan_options, config)}},
};

qn_status cmd_memory_plan(cmd_memory *out, const qn_config *config, qn_err *err)
{
    qn_engine *e = NULL;
    qn_config c = *config;
    qn_engine_info info;
    c.dry = true;
    c.prefault = false;
    c.progress = NULL;
    QN_TRY(qn_engine_open(&e, &c, err));
    qn_engine_get_info(e, &info);
    *out = (cmd_memory){.weights = info.weight_bytes,
                        .kv = info.kv_bytes,
                        .activations = info.activation_bytes,
                        .other = qn_mem_resident_rest(),
                        .max_ctx = info.max_ctx};
    (void)snprintf(out->type, sizeof out->type, "%s", info.quantization);
    (void)snprintf(out->name, sizeof out->name, "%s", info.name);
    out->total = out->weights + out->kv + out->activations + out->other;
    qn_engine_free(e);
    return QN_OK;
}

typedef struct view {
    qn_str out;
    const cmd_memory *m;
    bool json, first;
} view;

static void add_row(view *v, const char *type, uint64_t weights)
{
    const cmd_memory *m = v->m;
    uint64_t total = m->total - m->weights + weights;
    if (v->json)
        qn_str_addf(&v->out,
                    "%s{\"type\": \"%s\", \"weights\": %" PRIu64 ", \"kv\": %" PRIu64
                    ", \"activations\": %" PRIu64 ", \"other\": %" PRIu64 ", \"total\": %" PRIu64
                    "}",
                    v->first ? "" : ", ", type, weights, m->kv, m->activations, m->other, total);
    else
        qn_str_addf(&v->out, "%-16s %10.1f %10.1f %12.1f %8.1f %10.1f\n", type,
                    (double)weights * 1e-6, (double)m->kv * 1e-6, (double)m->activations * 1e-6,
                    (double)m->other * 1e-6, (double)total * 1e-6);
    v->first = false;
}

static qn_status add_what_if(view *v, const char *path, qn_err *err)
{
    qn_weights *w = NULL;
    qn_model_weights *m = NULL;
    qn_model_config c;
    qn_status s = qn_weights_open(&w, path, err);
    if (s == QN_OK)
        s = qn_model_config_read(&c, w, err);
    if (s == QN_OK)
        s = qn_bind(&m, &c, w, err);
    for (int t = 0; s == QN_OK && t < QN_FOOTPRINT_N; t++)
        add_row(v, qn_footprint_name((qn_footprint_type)t),
                qn_footprint_bytes(&c, m, qn_backend_cpu(), (qn_footprint_type)t));
    qn_model_weights_free(m);
    qn_weights_free(w);
    return s;
}

static bool every_row(void *arg, size_t pos, const float *logits, size_t n_vocab)
{
    (void)arg;
    (void)pos;
    (void)logits;
    (void)n_vocab;
    return true;
}

/* The largest size of the process after full steps that give logits. */
static qn_status measure(const qn_config *config, uint64_t *peak, qn_err *err)
{
    qn_engine *e = NULL;
    qn_config c = *config;
    qn_engine_info info;
    cmd_progress bar = {.start_ns = qn_now_ns()};
    c.prefault = true;
    c.progress = cmd_progress_load;
    c.progress_arg = &bar;
    qn_status s = qn_engine_open(&e, &c, err);
    cmd_progress_end(&bar);
    if (s == QN_OK) {
        qn_engine_get_info(e, &info);
        int rows = QN_MIN(c.max_batch_tokens ? c.max_batch_tokens : 512, info.max_ctx - 8);
        int32_t *ids = qn_calloc((size_t)QN_MAX(rows, 1), sizeof *ids, QN_MEM_MISC);
        for (int i = 0; ids && i < rows; i++) /* all over the vocabulary */
            ids[i] = (int32_t)((uint64_t)i * 2654435761u % (uint64_t)info.n_vocab);
        s = ids ? qn_score(e, ids, (size_t)QN_MAX(rows, 1), 0, every_row, NULL, NULL, err)
                : qn_fail_nomem(err, sizeof *ids);
        qn_free(ids);
    }
    *peak = qn_mem_resident_peak();
    qn_engine_free(e);
    return s;
}

static void add_check(view *v, uint64_t peak)
{
    double total = (double)v->m->total, percent = 100 * ((double)peak - total) / total;
    if (v->json)
        qn_str_addf(&v->out, ", \"peak\": %" PRIu64 ", \"error_percent\": %.3f", peak, percent);
    else
        qn_str_addf(&v->out, "planned %.1f MB, took at most %.1f MB: %+.2f %%\n", total * 1e-6,
                    (double)peak * 1e-6, percent);
}

static qn_status plan(plan_options *o, qn_err *err)
{
    qn_str path = {0};
    cmd_memory m;
    view v = {.m = &m, .json = o->json, .first = true};
    qn_status s = cmd_model_find(&path, o->config.model, err);
    if (s == QN_OK) {
        o->config.model = path.p;
        s = cmd_memory_plan(&m, &o->config, err);
    }
    if (s == QN_OK) {
        char type[48];
        (void)snprintf(type, sizeof type, o->json ? "%s" : "as it is (%s)", m.type);
        if (o->json) {
            qn_str_adds(&v.out, "{\"model\": ");
            qn_str_add_json(&v.out, m.name, strlen(m.name));
            qn_str_addf(&v.out, ", \"max_ctx\": %d, \"unit\": \"bytes\", \"rows\": [", m.max_ctx);
        } else {
            qn_str_addf(&v.out, "%s, %d tokens of context; MB\n%-16s %10s %10s %12s %8s %10s\n",
                        m.name, m.max_ctx, "weights are", "weights", "K/V", "activations", "other",
                        "total");
        }
        add_row(&v, type, m.weights);
        s = add_what_if(&v, path.p, err);
        qn_str_adds(&v.out, o->json ? "]" : "");
    }
    uint64_t peak;
    if (s == QN_OK && o->check) {
        s = measure(&o->config, &peak, err);
        add_check(&v, peak);
    }
    qn_str_adds(&v.out, o->json ? "}\n" : "");
    if (s == QN_OK && v.out.failed)
        s = qn_fail_nomem(err, v.out.n);
    if (s == QN_OK)
        (void)fwrite(v.out.p, 1, v.out.n, stdout);
    qn_str_fini(&v.out);
    qn_str_fini(&path);
    return s;
}

int cmd_plan(int argc, char **argv)
{
    plan_options o = {.config = qn_config_default()};
    qn_opts_found found = {0};
    qn_err err = {0};
    int code = cmd_parse(&cmd_plan_opts, &o, argc, argv, &found);
    if (code < 0 && !o.config.model)
        code = cmd_usage(&cmd_plan_opts, "no model given, want -m MODEL");
    if (code < 0)
        code = plan(&o, &err) == QN_OK ? CMD_OK : cmd_fail(&err);
    qn_opts_found_fini(&found);
    return code;
}
