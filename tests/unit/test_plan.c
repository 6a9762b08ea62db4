/* SPDX-License-Identifier: Apache-2.0
 * test_plan.c - the plain plan operation by operation, every pass on the golden models and on plans
 * bent so that a pattern does not fit, placement against brute force, and the rewritten plan
 * against the plain one on an exact device. */
#include "golden.h"

#include "base/cpu.h"
#include "engine/runner.h"
#include <math.h>

static const char *const models[] = {
    "models/qwen2-tied-f16", "models/qwen3-untied-f32", "models/llama-tied-bf16",
    "models/qwen2-swa",      "models/qwen2-yarn",       "models/qwen2moe-sparse",
    "models/qwen3moe",       "models/qwen2-gptq4",      "models/qwen3-nf4",
    "models/qwen3-fp8",      "models/qwen3moe-gptq4",   "gguf/qwen2.gguf",
    "gguf/qwen3.gguf",       "gguf/qwen2moe.gguf",      "gguf/qwen3moe.gguf",
};

typedef struct opened {
    qn_weights *files;
    qn_model_config config;
    qn_model_weights *matrices;
    qn_plan *plan;
} opened;

static void check(const qn_plan *p)
{
    qn_err err = {0};
    if (qn_plan_check(p, &err) != QN_OK)
        fail_msg("%s", err.msg);
}

static void open_plan(opened *o, const char *name)
{
    char path[512];
    qn_err err = {0};
    (void)snprintf(path, sizeof path, "%s/tests/golden/%s", QN_SOURCE_DIR, name);
    *o = (opened){0};
    qn_status s = qn_weights_open(&o->files, path, &err);
    if (s == QN_OK)
        s = qn_model_config_read(&o->config, o->files, &err);
    if (s == QN_OK)
        s = qn_bind(&o->matrices, &o->config, o->files, &err);
    if (s == QN_OK)
        s = qn_plan_build(&o->plan, &o->config, o->matrices, &err);
    if (s != QN_OK)
        fail_msg("%s: %s", name, err.msg);
    check(o->plan);
}

static void rebuild(opened *o)
{
    qn_plan_free(o->plan);
    assert_int_equal(qn_plan_build(&o->plan, &o->config, o->matrices, NULL), QN_OK);
}

static void close_plan(opened *o)
{
    qn_plan_free(o->plan);
    qn_model_weights_free(o->matrices);
    qn_weights_free(o->files);
}

/* The operations of one layer (-1: outside), as "linear+norm+bias*3 qkv_store ...". */
static const char *kinds_of(const qn_plan *p, int layer)
{
    static char text[1024];
    static const char *const fused[] = {"+norm", "+bias", "+residual", "+silu_mul"};
    size_t at = 0;
    text[0] = 0;
    for (size_t i = 0; i < p->n_nodes; i++) {
        const qn_op *op = &p->nodes[i].op;
        if (op->layer != layer || p->nodes[i].dead)
            continue;
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", at ? " " : "",
                               qn_op_kind_name(op->kind));
        for (size_t k = 0; k < QN_COUNT(fused); k++)
            if (op->fuse >> k & 1)
                at += (size_t)snprintf(text + at, sizeof text - at, "%s", fused[k]);
        if (op->n_w > 1)
            at += (size_t)snprintf(text + at, sizeof text - at, "*%u", op->n_w);
    }
    return text;
}

static size_t count(const qn_plan *p, qn_op_kind kind)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_nodes; i++)
        n += p->nodes[i].op.kind == kind && !p->nodes[i].dead;
    return n;
}

static qn_node *find(qn_plan *p, qn_op_kind kind, int layer, size_t skip)
{
    for (size_t i = 0; i < p->n_nodes; i++)
        if (p->nodes[i].op.kind == kind && p->nodes[i].op.layer == layer && !skip--)
            return &p->nodes[i];
    fail_msg("layer %d has no %s", layer, qn_op_kind_name(kind));
    return NULL;
}

#define DENSE_FUSED " attention linear+residual linear+norm+silu_mul*2 linear+residual"
#define DENSE_LAST  " attention gather gather linear+residual linear+norm+silu_mul*2 linear+residual"

static void test_operations(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int layer;
        const char *plain, *fused, *last;
    } cases[] = {
        {"models/qwen2-tied-f16", 0,
         "rmsnorm linear bias linear bias linear bias rope rope kv_store attention linear add"
         " rmsnorm linear linear silu_mul linear add",
         "linear+norm+bias*3 qkv_store" DENSE_FUSED, "linear+norm+bias*3 qkv_store" DENSE_LAST},
        {"models/qwen3-untied-f32", 0,
         "rmsnorm linear linear linear rmsnorm rope rmsnorm rope kv_store attention linear add"
         " rmsnorm linear linear silu_mul linear add",
         "linear+norm*3 qkv_store" DENSE_FUSED, "linear+norm*3 qkv_store" DENSE_LAST},
        {"models/qwen3moe", 1,
         "rmsnorm linear linear linear rmsnorm rope rmsnorm rope kv_store attention linear add"
         " rmsnorm route experts add",
         "linear+norm*3 qkv_store attention linear+residual moe+norm",
         "linear+norm*3 qkv_store attention gather gather linear+residual moe+norm"},
        {"gguf/qwen2moe.gguf", 0,
         "rmsnorm linear bias linear bias linear bias rope rope kv_store attention linear add"
         " rmsnorm route experts linear linear silu_mul linear shared_gate add",
         "linear+norm+bias*3 qkv_store attention linear+residual moe+norm",
         "linear+norm+bias*3 qkv_store attention gather gather linear+residual moe+norm"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        opened o;
        open_plan(&o, cases[i].name);
        int last = (int)o.config.n_layers - 1;
        assert_string_equal(kinds_of(o.plan, cases[i].layer), cases[i].plain);
        assert_string_equal(kinds_of(o.plan, last), cases[i].plain);
        assert_string_equal(kinds_of(o.plan, -1), "embed gather rmsnorm linear");
        qn_pass_fold(o.plan);
        check(o.plan);
        qn_pass_prune(o.plan);
        check(o.plan);
        qn_pass_fuse(o.plan);
        check(o.plan);
        assert_string_equal(kinds_of(o.plan, cases[i].layer), cases[i].fused);
        assert_string_equal(kinds_of(o.plan, last), cases[i].last);
        assert_string_equal(kinds_of(o.plan, -1),
                            "embed rmsnorm linear"); /* the final norm is a tap */
        close_plan(&o);
    }
}

/* Shapes, taps and pointers that the kinds do not show. */
static void test_fused_parts(void **state)
{
    (void)state;
    opened o;
    open_plan(&o, "models/qwen3-untied-f32");
    const qn_layer_weights *w = &o.matrices->layers[1];
    const qn_model_config *c = &o.config;
    uint32_t q_width = c->n_heads * c->head_dim, kv_width = c->n_kv_heads * c->head_dim;
    qn_pass_fuse(o.plan);
    check(o.plan);
    const qn_node *qkv = find(o.plan, QN_OP_LINEAR, 1, 0),
                  *store = find(o.plan, QN_OP_QKV_STORE, 1, 0);
    const qn_node *att = find(o.plan, QN_OP_ATTENTION, 1, 0),
                  *out = find(o.plan, QN_OP_LINEAR, 1, 1);
    const qn_node *gate = find(o.plan, QN_OP_LINEAR, 1, 2),
                  *down = find(o.plan, QN_OP_LINEAR, 1, 3);
    assert_ptr_equal(qkv->w[0], &w->q);
    assert_ptr_equal(qkv->w[1], &w->k);
    assert_ptr_equal(qkv->w[2], &w->v);
    assert_ptr_equal(qkv->vec[0][0], &w->attn_norm);
    assert_int_equal(o.plan->bufs[qkv->out].width, q_width + 2 * kv_width);
    assert_int_equal(store->in[0], qkv->out);
    assert_ptr_equal(store->vec[0][0], &w->q_norm);
    assert_ptr_equal(store->vec[1][0], &w->k_norm);
    assert_true(store->in_place);
    assert_int_equal(store->op.rope_dim, c->rope_dim);
    assert_int_equal(att->in[0], store->out);
    assert_int_equal(o.plan->bufs[att->in[0]].width, q_width + 2 * kv_width);
    assert_int_equal(out->in[0], att->out);
    assert_int_equal(out->in[1], qkv->in[0]); /* both start from the residual stream */
    assert_int_equal(gate->in[0], out->out);
    assert_ptr_equal(gate->w[1], &w->up);
    assert_ptr_equal(gate->vec[0][0], &w->ffn_norm);
    assert_int_equal(down->in[1], out->out);
    assert_int_equal(down->tap, 2);
    assert_int_equal(o.plan->nodes[0].tap, 0);
    close_plan(&o);
}

static void test_fold(void **state)
{
    (void)state;
    opened o;
    open_plan(&o, "models/qwen2-tied-f16");
    const qn_node *embed = &o.plan->nodes[0], *logits = &o.plan->nodes[o.plan->n_nodes - 1];
    double table = (double)qn_weight_bytes(embed->w[0]);
    assert_ptr_not_equal(embed->w[0], logits->w[0]);
    double before = qn_plan_cost_of(o.plan, 1, 0, 1).matrix_bytes;
    size_t n_nodes = o.plan->n_nodes;
    qn_pass_fold(o.plan);
    check(o.plan);
    assert_int_equal(o.plan->n_nodes, n_nodes); /* none of its biases is zero */
    assert_ptr_equal(o.plan->nodes[0].w[0], o.plan->nodes[o.plan->n_nodes - 1].w[0]);
    assert_true(before - qn_plan_cost_of(o.plan, 1, 0, 1).matrix_bytes == table);
    /* zeros as the bias of k: one operation less, still one product for q, k and v */
    unsigned char *zeros =
        qn_calloc(1, qn_weight_bytes(&o.matrices->layers[0].k_bias), QN_MEM_MISC);
    o.matrices->layers[0].k_bias.data = zeros;
    rebuild(&o);
    qn_pass_fold(o.plan);
    check(o.plan);
    assert_int_equal(o.plan->n_nodes, n_nodes - 1);
    assert_int_equal(count(o.plan, QN_OP_BIAS), 3 * o.config.n_layers - 1);
    qn_pass_fuse(o.plan);
    check(o.plan);
    assert_string_equal(kinds_of(o.plan, 0), "linear+norm+bias*3 qkv_store" DENSE_FUSED);
    const qn_node *qkv = find(o.plan, QN_OP_LINEAR, 0, 0);
    assert_ptr_equal(qkv->vec[1][0], &o.matrices->layers[0].q_bias);
    assert_null(qkv->vec[1][1]);
    assert_ptr_equal(qkv->vec[1][2], &o.matrices->layers[0].v_bias);
    close_plan(&o);
    qn_free(zeros);
    /* untied: two matrices stay two */
    open_plan(&o, "models/qwen3-untied-f32");
    before = qn_plan_cost_of(o.plan, 1, 0, 1).matrix_bytes;
    qn_pass_fold(o.plan);
    assert_true(qn_plan_cost_of(o.plan, 1, 0, 1).matrix_bytes == before);
    close_plan(&o);
}

static void test_prune(void **state)
{
    (void)state;
    for (size_t m = 0; m < QN_COUNT(models); m++) {
        opened o;
        open_plan(&o, models[m]);
        qn_plan_cost prompt = qn_plan_cost_of(o.plan, 200, 0, 1),
                     all = qn_plan_cost_of(o.plan, 200, 0, 200);
        qn_pass_prune(o.plan);
        check(o.plan);
        qn_plan_cost pruned = qn_plan_cost_of(o.plan, 200, 0, 1);
        if (!(pruned.flops < prompt.flops * (1 - 0.25 / o.config.n_layers)))
            fail_msg("%s: %g FLOPs of a prompt before, %g after", models[m], prompt.flops,
                     pruned.flops);
        assert_true(fabs(qn_plan_cost_of(o.plan, 200, 0, 200).flops - all.flops) <
                    1e-9 * all.flops);
        bool after = false;
        for (size_t i = 0; i < o.plan->n_nodes; i++) {
            const qn_node *n = &o.plan->nodes[i];
            assert_int_equal(n->op.on_logit_rows, after);
            assert_true(n->out < 0 || o.plan->bufs[n->out].on_logit_rows == after);
            after = after ||
                    (n->op.kind == QN_OP_ATTENTION && n->op.layer == (int)o.config.n_layers - 1);
        }
        assert_int_equal(count(o.plan, QN_OP_GATHER), 2);
        close_plan(&o);
    }
}

/* A plan that a pattern does not fit stays as it is. */
static void test_left_alone(void **state)
{
    (void)state;
    opened o;
    open_plan(&o, "models/qwen2-tied-f16");
    int last = (int)o.config.n_layers - 1;
    size_t n_nodes = o.plan->n_nodes;
    /* a third buffer lives across the last attention */
    find(o.plan, QN_OP_ADD, last, 1)->in[2] = find(o.plan, QN_OP_RMSNORM, last, 0)->out;
    qn_node *copy = qn_alloc_array(n_nodes, sizeof *copy, QN_MEM_MISC);
    memcpy(copy, o.plan->nodes, n_nodes * sizeof *copy);
    qn_pass_prune(o.plan);
    assert_int_equal(o.plan->n_nodes, n_nodes);
    assert_memory_equal(o.plan->nodes, copy, n_nodes * sizeof *copy);
    qn_free(copy);
    /* a later attention also reads: normalised rows, q before its rotation, a gate */
    rebuild(&o);
    find(o.plan, QN_OP_ATTENTION, 1, 0)->in[3] = find(o.plan, QN_OP_RMSNORM, 0, 1)->out;
    find(o.plan, QN_OP_ATTENTION, 2, 0)->in[3] = find(o.plan, QN_OP_BIAS, 1, 0)->out;
    find(o.plan, QN_OP_ATTENTION, 2, 0)->in[2] = find(o.plan, QN_OP_LINEAR, 1, 4)->out;
    qn_pass_fuse(o.plan);
    check(o.plan);
    assert_string_equal(kinds_of(o.plan, 0),
                        "linear+norm+bias*3 qkv_store attention linear+residual"
                        " rmsnorm linear+silu_mul*2 linear+residual");
    assert_string_equal(
        kinds_of(o.plan, 1),
        "rmsnorm linear+bias linear+bias linear+bias rope rope kv_store attention linear+residual"
        " rmsnorm linear linear silu_mul linear+residual");
    assert_string_equal(kinds_of(o.plan, 2), "linear+norm+bias*3 qkv_store" DENSE_FUSED);
    close_plan(&o);
}

/* Placement by brute force: who is alive at each operation, and where. */
static void check_places(const char *name, const qn_plan *p, size_t rows, size_t logit_rows)
{
    size_t nb = p->n_bufs, total = 0;
    size_t *first = qn_calloc(nb, sizeof *first, QN_MEM_MISC),
           *last = qn_calloc(nb, sizeof *last, QN_MEM_MISC);
    bool *used = qn_calloc(nb, 1, QN_MEM_MISC);
    for (size_t i = 0; i < p->n_nodes; i++) {
        const qn_node *n = &p->nodes[i];
        for (int k = 0; k < QN_OP_MAX_IN; k++)
            if (n->in[k] >= 0)
                last[n->in[k]] = i;
        if (n->out >= 0) {
            first[n->out] = last[n->out] = i;
            used[n->out] = true;
        }
    }
    for (size_t a = 0; a < nb; a++) {
        size_t bytes = (p->bufs[a].on_logit_rows ? logit_rows : rows) * p->bufs[a].width * 4;
        if (!used[a])
            continue;
        total += bytes;
        assert_int_equal(p->bufs[a].offset % 64, 0);
        assert_true(p->bufs[a].offset + bytes <= p->arena_bytes);
        for (size_t b = 0; b < a; b++) {
            size_t other = (p->bufs[b].on_logit_rows ? logit_rows : rows) * p->bufs[b].width * 4;
            bool together = used[b] && first[a] <= last[b] && first[b] <= last[a];
            bool overlap = p->bufs[a].offset < p->bufs[b].offset + other &&
                           p->bufs[b].offset < p->bufs[a].offset + bytes;
            if (!together || !overlap)
                continue;
            const qn_node *n = &p->nodes[QN_MAX(first[a], first[b])];
            bool shared = n->in_place && QN_MIN(n->in[0], n->out) == (int)b &&
                          QN_MAX(n->in[0], n->out) == (int)a;
            if (!shared)
                fail_msg("%s: '%s' (%zu) and '%s' (%zu) overlap", name, p->bufs[a].name, a,
                         p->bufs[b].name, b);
        }
    }
    for (size_t i = 0; i < p->n_nodes; i++) {
        const qn_node *n = &p->nodes[i];
        if (!n->in_place)
            continue;
        assert_int_equal(p->bufs[n->in[0]].offset, p->bufs[n->out].offset);
        assert_int_equal(last[n->in[0]], i); /* nobody reads what was overwritten */
    }
    if (!(p->arena_bytes < total))
        fail_msg("%s: arena of %zu bytes, buffers of %zu", name, p->arena_bytes, total);
    qn_free(first);
    qn_free(last);
    qn_free(used);
}

static void test_place(void **state)
{
    (void)state;
    static const size_t rows[][2] = {{1, 1}, {512, 64}, {16, 64}};
    for (size_t m = 0; m < QN_COUNT(models); m++)
        for (int rewritten = 0; rewritten < 2; rewritten++)
            for (size_t i = 0; i < QN_COUNT(rows); i++) {
                opened o;
                open_plan(&o, models[m]);
                if (rewritten) {
                    qn_pass_fold(o.plan);
                    qn_pass_prune(o.plan);
                    qn_pass_fuse(o.plan);
                }
                assert_true(qn_pass_place(o.plan, rows[i][0], rows[i][1]));
                check(o.plan);
                check_places(models[m], o.plan, rows[i][0], rows[i][1]);
                assert_true(qn_plan_cost_of(o.plan, 1, 0, 1).buffer_bytes ==
                            (double)o.plan->arena_bytes);
                close_plan(&o);
            }
}

static void test_check_finds(void **state)
{
    (void)state;
    opened o;
    qn_err err;
    open_plan(&o, "models/qwen2-tied-f16");
    qn_node *add = find(o.plan, QN_OP_ADD, 0, 0);
    int in = add->in[0], out = add->out;
    add->in[0] = find(o.plan, QN_OP_ADD, 1, 0)->out;
    assert_int_equal(qn_plan_check(o.plan, &err), QN_E_INTERNAL);
    assert_non_null(strstr(err.msg, "reads 'x' before it is written"));
    add->in[0] = in;
    add->out = in;
    assert_int_equal(qn_plan_check(o.plan, &err), QN_E_INTERNAL);
    assert_non_null(strstr(err.msg, "writes 'x' twice"));
    add->out = out;
    add->op.on_logit_rows = true;
    assert_int_equal(qn_plan_check(o.plan, &err), QN_E_INTERNAL);
    assert_non_null(strstr(err.msg, "wrong side of the gather"));
    add->op.on_logit_rows = false;
    qn_plan_buf *b = &o.plan->bufs[find(o.plan, QN_OP_LINEAR, 0, 0)->out];
    b->width++;
    assert_int_equal(qn_plan_check(o.plan, &err), QN_E_INTERNAL);
    assert_non_null(strstr(err.msg, "weights give"));
    b->width--;
    check(o.plan);
    close_plan(&o);
}

/* ---- the same numbers ---- */

#define N_TOKENS 100u

typedef struct run {
    qn_model *m;
    qn_runner *r;
    qn_seq_rope rope;
} run;

static void open_run(run *r, const char *name, bool plain, unsigned mask)
{
    char path[512];
    qn_err err;
    qn_model_options o = {.device = {.n_threads = 1,
                                     .cpu_mask = mask,
                                     .exact = true,
                                     .max_rows = 64,
                                     .max_seqs = 2,
                                     .max_ctx = 128},
                          .max_logit_rows = 64,
                          .plain_plan = plain};
    (void)snprintf(path, sizeof path, "%s/tests/golden/%s", QN_SOURCE_DIR, name);
    if (qn_model_open(&r->m, path, &o, &err) != QN_OK ||
        qn_runner_new(&r->r, r->m, 4, 2, 128, QN_F32, &err) != QN_OK)
        fail_msg("%s: %s", name, err.msg);
    qn_seq_rope_init(&r->rope, &r->m->rope, QN_ROPE_ALWAYS, N_TOKENS);
}

static void close_run(run *r)
{
    qn_runner_free(r->r);
    qn_model_free(r->m);
}

/* Chunks of 64 and 36 tokens; logits of the last n_logits rows of each into out, NaN elsewhere. */
static void compute(run *r, uint32_t n_logits, float *out)
{
    static const int32_t blocks[] = {2, 1};
    int32_t ids[N_TOKENS];
    size_t nv = r->m->config.n_vocab;
    qn_err err;
    for (uint32_t i = 0; i < N_TOKENS; i++)
        ids[i] = (int32_t)((i * 2654435761u >> 8) % nv);
    for (size_t i = 0; i < N_TOKENS * nv; i++)
        out[i] = NAN;
    for (uint32_t at = 0; at < N_TOKENS; at += 64) {
        uint32_t n_new = QN_MIN(64u, N_TOKENS - at), n = QN_MIN(n_logits, n_new);
        qn_run_seq q = {.tokens = ids,
                        .n_computed = at,
                        .n_new = n_new,
                        .blocks = blocks,
                        .n_blocks = 2,
                        .rope = &r->rope,
                        .n_logits = n};
        if (qn_runner_step(r->r, &q, 1, NULL, &err) != QN_OK)
            fail_msg("%s", err.msg);
        assert_int_equal(r->r->n_logit_rows, n);
        memcpy(out + (at + n_new - n) * nv, r->r->logits, n * nv * sizeof *out);
    }
}

static void test_same_numbers(void **state)
{
    (void)state;
    static const unsigned masks[] = {0, QN_CPU_ALL};
    for (size_t m = 0; m < QN_COUNT(models); m++)
        for (size_t k = 0; k < QN_COUNT(masks); k++) {
            run plain, fast;
            open_run(&plain, models[m], true, masks[k]);
            open_run(&fast, models[m], false, masks[k]);
            assert_true(fast.m->plan->n_nodes < plain.m->plan->n_nodes);
            size_t n = N_TOKENS * plain.m->config.n_vocab;
            float *a = qn_alloc_array(n, sizeof *a, QN_MEM_MISC),
                  *b = qn_alloc_array(n, sizeof *b, QN_MEM_MISC);
            double largest = 0, worst = 0;
            compute(&plain, 64, a);
            compute(&fast, 64, b);
            for (size_t i = 0; i < n; i++) {
                largest = fmax(largest, fabs((double)a[i]));
                worst = worse_of(worst, fabs((double)a[i] - (double)b[i]));
                assert_true(isfinite(a[i]) && isfinite(b[i]));
            }
            if (!(largest > 0.1 && worst <= 1e-5 * largest))
                fail_msg("%s: logits up to %g differ by %g", models[m], largest, worst);
            /* only the last row wanted: the same bits as among all */
            compute(&fast, 1, a);
            for (size_t i = 0; i < n; i++)
                assert_true(isnan(a[i]) || memcmp(&a[i], &b[i], sizeof *a) == 0);
            assert_true(isfinite(a[n - 1]));
            qn_free(a);
            qn_free(b);
            close_run(&plain);
            close_run(&fast);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations),  cmocka_unit_test(test_fused_parts),
        cmocka_unit_test(test_fold),        cmocka_unit_test(test_prune),
        cmocka_unit_test(test_left_alone),  cmocka_unit_test(test_place),
        cmocka_unit_test(test_check_finds), cmocka_unit_test(test_same_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
