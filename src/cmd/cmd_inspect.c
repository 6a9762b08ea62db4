/* SPDX-License-Identifier: Apache-2.0
 * cmd_inspect.c - `quern inspect`: what is in a model: config, metadata, tensors, and the plan with what each pass saved. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "cmd/cmd.h"
#include "format/gguf.h"
#include "model/plan.h"

typedef struct inspect_options {
    const char *model;
    bool metadata, tensors, plan, json;
    int rows, depth;
} inspect_options;

static const qn_opt inspect_opts[] = {
    {"model", 'm', QN_OPT_STR, offsetof(inspect_options, model), "MODEL",
     .help = "a GGUF file, a Hugging Face folder, or OWNER/NAME[:FILE]"},
    {"metadata", 0, QN_OPT_FLAG, offsetof(inspect_options, metadata),
     .help = "every key of the file, or config.json"},
    {"tensors", 0, QN_OPT_FLAG, offsetof(inspect_options, tensors),
     .help = "every tensor: format, shape, bytes"},
    {"plan", 0, QN_OPT_FLAG, offsetof(inspect_options, plan),
     .help = "the operations, and operations, FLOPs and bytes before and after each pass"},
    {"rows", 0, QN_OPT_INT, offsetof(inspect_options, rows), "N", 1, 65536, "512",
     "--plan: tokens of the prompt step that is counted"},
    {"depth", 0, QN_OPT_INT, offsetof(inspect_options, depth), "N", 0, 1 << 24, "0",
     "--plan: tokens before them"},
    {"json", 0, QN_OPT_FLAG, offsetof(inspect_options, json),
     .help = "one JSON object with all that was asked for"},
};
static const qn_opt_group inspect_group = {"Options", inspect_opts, QN_COUNT(inspect_opts)};

const qn_opts cmd_inspect_opts = {
    .command = "inspect",
    .args = "[MODEL]",
    .summary = "Show a model's config, metadata, tensors and plan",
    .max_args = 1,
    .groups = {{&inspect_group, 0}},
};

/* Text and JSON are made side by side: a row adds to `out` in the form asked for. */
typedef struct view {
    const inspect_options *o;
    qn_str out;
    bool first; /* of a JSON list or object */
} view;

static void comma(view *v)
{
    if (!v->first)
        qn_str_adds(&v->out, ", ");
    v->first = false;
}

static void add_text(view *v, const char *key, const char *p, size_t n)
{
    if (v->o->json) {
        comma(v);
        qn_str_add_json(&v->out, key, strlen(key));
        qn_str_adds(&v->out, ": ");
        qn_str_add_json(&v->out, p, n);
        return;
    }
    char shown[160], name[96];
    qn_escape(shown, sizeof shown, p, n);
    qn_escape(name, sizeof name, key, strlen(key));
    qn_str_addf(&v->out, "%-40s %s%s\n", name, shown, strlen(shown) + 4 < n ? "..." : "");
}

static void add_number(view *v, const char *key, double x)
{
    if (v->o->json) {
        comma(v);
        qn_str_add_json(&v->out, key, strlen(key));
        if (x - x == 0)
            qn_str_addf(&v->out, ": %.9g", x);
        else
            qn_str_adds(&v->out, ": null");
        return;
    }
    char name[96];
    qn_escape(name, sizeof name, key, strlen(key));
    qn_str_addf(&v->out, "%-40s %.9g\n", name, x);
}

static void open_part(view *v, const char *name, char bracket)
{
    if (v->o->json) {
        comma(v);
        qn_str_addf(&v->out, "\"%s\": %c", name, bracket);
        v->first = true;
    } else {
        qn_str_addf(&v->out, "%s%s\n", v->out.n ? "\n" : "", name);
    }
}

static void close_part(view *v, char bracket)
{
    if (v->o->json)
        qn_str_addc(&v->out, bracket);
    v->first = false;
}

/* ---- config ---- */

static void show_config(view *v, const qn_model_config *c)
{
    static const char *const quant[] = {"none", "gptq", "awq", "nf4", "fp8"};
    open_part(v, "config", '{');
    add_text(v, "name", c->name, strlen(c->name));
    add_text(v, "arch", qn_arch_name(c->arch), strlen(qn_arch_name(c->arch)));
    const struct {
        const char *key;
        double value;
        bool always;
    } rows[] = {
        {"parameters", (double)qn_model_config_n_params(c), true},
        {"n_layers", c->n_layers, true},
        {"hidden_size", c->hidden_size, true},
        {"n_heads", c->n_heads, true},
        {"n_kv_heads", c->n_kv_heads, true},
        {"head_dim", c->head_dim, true},
        {"ffn_size", c->ffn_size, true},
        {"n_vocab", c->n_vocab, true},
        {"max_ctx", c->max_ctx, true},
        {"rms_eps", (double)c->rms_eps, true},
        {"rope_theta", (double)c->rope_theta, true},
        {"tie_embeddings", c->tie_embeddings, true},
        {"qk_norm", c->qk_norm, false},
        {"n_experts", c->n_experts, false},
        {"n_experts_active", c->n_experts_active, false},
        {"expert_ffn_size", c->expert_ffn_size, false},
        {"shared_ffn_size", c->shared_ffn_size, false},
        {"yarn_factor", (double)c->yarn_factor, false},
        {"yarn_original_ctx", c->yarn_original_ctx, false},
        {"quant_bits", c->quant_bits, false},
        {"quant_group", c->quant_group, false},
    };
    for (size_t i = 0; i < QN_COUNT(rows); i++)
        if (rows[i].always || rows[i].value != 0)
            add_number(v, rows[i].key, rows[i].value);
    add_text(v, "checkpoint_quantization", quant[c->quant], strlen(quant[c->quant]));
    close_part(v, '}');
}

/* ---- metadata ---- */

static void show_gguf(view *v, const qn_gguf_meta *m)
{
    for (size_t i = 0; i < m->n_values; i++) {
        const qn_gguf_value *x = &m->values[i];
        char key[128], text[64];
        (void)snprintf(key, sizeof key, "%.*s", (int)QN_MIN(x->key.n, sizeof key - 1), x->key.p);
        switch (x->type) {
        case QN_GGUF_STRING:
            add_text(v, key, x->v.s.p, x->v.s.n);
            break;
        case QN_GGUF_ARRAY:
            (void)snprintf(text, sizeof text, "array of %zu", x->n);
            add_text(v, key, text, strlen(text));
            break;
        case QN_GGUF_F32:
        case QN_GGUF_F64:
            add_number(v, key, x->v.f);
            break;
        case QN_GGUF_I8:
        case QN_GGUF_I16:
        case QN_GGUF_I32:
        case QN_GGUF_I64:
            add_number(v, key, (double)x->v.i);
            break;
        default:
            add_number(v, key, (double)x->v.u);
        }
    }
}

static void show_metadata(view *v, const qn_weights *w)
{
    open_part(v, "metadata", '{');
    if (w->gguf)
        show_gguf(v, w->gguf);
    const char *key;
    json_t *value;
    json_object_foreach(w->config, key, value)
    {
        qn_str text = {0};
        qn_json_write(&text, value);
        if (json_is_string(value))
            add_text(v, key, json_string_value(value), json_string_length(value));
        else if (text.p)
            add_text(v, key, text.p, text.n);
        qn_str_fini(&text);
    }
    close_part(v, '}');
}

/* ---- tensors ---- */

static void show_tensors(view *v, const qn_weights *w)
{
    open_part(v, "tensors", '[');
    for (size_t i = 0; i < w->n_tensors; i++) {
        const qn_tensor *t = &w->tensors[i];
        char shape[96] = "";
        for (uint32_t d = 0; d < t->n_dims; d++) {
            size_t at = strlen(shape);
            (void)snprintf(shape + at, sizeof shape - at, "%s%" PRIu64, d ? ", " : "", t->dims[d]);
        }
        if (v->o->json) {
            comma(v);
            qn_str_adds(&v->out, "{\"name\": ");
            qn_str_add_json(&v->out, t->name, strlen(t->name));
            qn_str_addf(&v->out, ", \"dtype\": \"%s\", \"shape\": [%s], \"bytes\": %zu}",
                        qn_dtype_get(t->dtype)->name, shape, t->bytes);
        } else {
            char name[128];
            qn_escape(name, sizeof name, t->name, strlen(t->name));
            qn_str_addf(&v->out, "%-44s %-8s [%s]  %zu\n", name, qn_dtype_get(t->dtype)->name,
                        shape, t->bytes);
        }
    }
    close_part(v, ']');
}

/* ---- plan ---- */

static void show_cost(view *v, const char *pass, const qn_plan *p)
{
    size_t rows = (size_t)v->o->rows, depth = (size_t)v->o->depth;
    qn_plan_cost c = qn_plan_cost_of(p, rows, depth, 1), d = qn_plan_cost_of(p, 1, depth + rows, 1);
    if (v->o->json) {
        comma(v);
        qn_str_addf(&v->out,
                    "{\"pass\": \"%s\", \"ops\": %zu, \"prompt_flops\": %.6g, \"decode_flops\": "
                    "%.6g, \"weight_bytes\": %.0f, "
                    "\"activation_bytes\": %.0f, \"buffer_bytes\": %.0f, \"matrix_bytes\": %.0f}",
                    pass, c.n_ops, c.flops, d.flops, c.weight_bytes,
                    c.activation_bytes + c.kv_bytes, c.buffer_bytes, c.matrix_bytes);
        return;
    }
    qn_str_addf(&v->out, "%-8s %6zu %14.3f %14.3f %14.1f %14.1f %12.2f %14.1f\n", pass, c.n_ops,
                c.flops * 1e-9, d.flops * 1e-9, c.weight_bytes * 1e-6,
                (c.activation_bytes + c.kv_bytes) * 1e-6, c.buffer_bytes * 1e-6,
                c.matrix_bytes * 1e-6);
}

static void describe_weights(qn_str *out, const qn_node *n)
{
    for (uint32_t k = 0; k < n->op.n_w; k++)
        qn_str_addf(out, " %s[%zu, %zu]", qn_dtype_get(n->w[k]->dtype)->name, n->w[k]->rows,
                    n->w[k]->cols);
    if (n->experts && n->op.kind != QN_OP_ROUTE)
        qn_str_addf(out, " experts %s[%zu, %zu]",
                    qn_dtype_get(n->experts->expert_gate[0].dtype)->name,
                    n->experts->expert_gate[0].rows, n->experts->expert_gate[0].cols);
}

static void show_node(view *v, const qn_plan *p, const qn_node *n)
{
    qn_str io = {0};
    size_t rows = (size_t)v->o->rows;
    qn_node_costs cost = qn_node_cost(p, n, rows, (size_t)v->o->depth, 1);
    for (int k = 0; k < QN_OP_MAX_IN; k++)
        if (n->in[k] >= 0)
            qn_str_addf(&io, "%s%s.%d", k ? ", " : "", p->bufs[n->in[k]].name, n->in[k]);
    if (n->out >= 0)
        qn_str_addf(&io, " -> %s.%d[%u]", p->bufs[n->out].name, n->out, p->bufs[n->out].width);
    char kind[64];
    qn_op_name(&n->op, kind, sizeof kind);
    if (v->o->json) {
        comma(v);
        qn_str_addf(&v->out,
                    "{\"layer\": %d, \"kind\": \"%s\", \"buffers\": \"%s\", \"flops\": %.6g, "
                    "\"weight_bytes\": %.0f}",
                    n->op.layer, kind, io.p ? io.p : "", cost.flops, cost.weight_bytes);
    } else {
        describe_weights(&io, n);
        qn_str_addf(&v->out, "%5d  %-28s %12.3f %10.2f  %s\n", n->op.layer, kind, cost.flops * 1e-9,
                    cost.weight_bytes * 1e-6, io.p ? io.p : "");
    }
    qn_str_fini(&io);
}

static qn_status show_plan(view *v, const qn_weights *w, const qn_model_config *c, qn_err *err)
{
    qn_model_weights *m = NULL;
    qn_plan *p = NULL;
    qn_status s = qn_bind(&m, c, w, err);
    if (s == QN_OK)
        s = qn_plan_build(&p, c, m, err);
    if (s == QN_OK) {
        open_part(v, "passes", '[');
        if (!v->o->json)
            qn_str_addf(&v->out, "%-8s %6s %14s %14s %14s %14s %12s %14s\n", "pass", "ops",
                        "GFLOP prompt", "GFLOP decode", "MB weights", "MB moved", "MB buffers",
                        "MB resident");
        show_cost(v, "build", p);
        qn_pass_fold(p);
        show_cost(v, "fold", p);
        qn_pass_prune(p);
        show_cost(v, "prune", p);
        qn_pass_fuse(p);
        show_cost(v, "fuse", p);
        s = qn_pass_place(p, (size_t)v->o->rows, 1) ? qn_plan_check(p, err)
                                                    : qn_fail_nomem(err, p->n_bufs);
        show_cost(v, "place", p);
        close_part(v, ']');
    }
    if (s == QN_OK) {
        open_part(v, "operations", '[');
        if (!v->o->json)
            qn_str_addf(&v->out, "%5s  %-28s %12s %10s  %s\n", "layer", "operation", "GFLOP", "MB",
                        "buffers and weights");
        for (size_t i = 0; i < p->n_nodes; i++)
            show_node(v, p, &p->nodes[i]);
        close_part(v, ']');
    }
    qn_plan_free(p);
    qn_model_weights_free(m);
    return s;
}

static qn_status inspect(const inspect_options *o, qn_err *err)
{
    qn_str path = {0};
    qn_weights *w = NULL;
    view v = {.o = o, .first = true};
    qn_model_config c;
    qn_status s = cmd_model_find(&path, o->model, err);
    if (s == QN_OK)
        s = qn_weights_open(&w, path.p, err);
    if (o->json)
        qn_str_addc(&v.out, '{');
    if (s == QN_OK && o->metadata)
        show_metadata(&v, w);
    if (s == QN_OK && o->tensors)
        show_tensors(&v, w);
    if (s == QN_OK && (o->plan || !(o->metadata || o->tensors))) {
        s = qn_model_config_read(&c, w, err);
        if (s == QN_OK)
            show_config(&v, &c);
        if (s == QN_OK && o->plan)
            s = show_plan(&v, w, &c, err);
    }
    if (o->json)
        qn_str_adds(&v.out, "}\n");
    if (s == QN_OK && v.out.failed)
        s = qn_fail_nomem(err, v.out.n);
    if (s == QN_OK)
        (void)fwrite(v.out.p, 1, v.out.n, stdout);
    qn_str_fini(&v.out);
    qn_weights_free(w);
    qn_str_fini(&path);
    return s;
}

int cmd_inspect(int argc, char **argv)
{
    inspect_options o = {.rows = 512};
    qn_opts_found found = {0};
    qn_err err = {0};
    int code = cmd_parse(&cmd_inspect_opts, &o, argc, argv, &found);
    if (code < 0 && found.n_args)
        o.model = found.args[0];
    if (code < 0 && !o.model)
        code = cmd_usage(&cmd_inspect_opts, "no model given, want -m MODEL");
    if (code < 0)
        code = inspect(&o, &err) == QN_OK ? CMD_OK : cmd_fail(&err);
    qn_opts_found_fini(&found);
    return code;
}
