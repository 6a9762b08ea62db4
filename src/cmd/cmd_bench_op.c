/* SPDX-License-Identifier: Apache-2.0
 * cmd_bench_op.c - `quern bench --op`: single operations of the device on random data, without a model.
 *
 *   layout     a product of each weight format, as stored and in the device's layout, for one row and for many
 *   moe        the experts of a layer: each token and expert on its own, and grouped
 *   attention  over depths and K/V formats, for one row and for many
 *   barrier    what handing work to the team and meeting inside it costs
 *   roofs      what the machine reads and computes at most
 *
 * Weights lie in as many copies as the last cache does not hold. A figure is the median of `repeat` runs of at least MIN_NS. */
#include "cmd/cmd_bench.h"

#include <stdio.h>
#include <string.h>

#include "backend/ops.h"
#include "base/cpu.h"
#include "base/mem.h"
#include "base/thread.h"

#define MIN_NS    20000000u
#define COLD      ((size_t)192 << 20) /* bytes of copies: beyond any last cache of two cores */
#define MANY_ROWS 512

static const qn_opt op_opts[] = {
    {"op", 0, QN_OPT_ENUM, offsetof(bench_op_options, op), "layout|moe|attention|barrier|roofs",
     .help = "measure one operation on random data, without a model"},
    {"shape", 0, QN_OPT_STR, offsetof(bench_op_options, shape), "ROWSxCOLS",
     .def = "8960x1536; moe: 1408x2048", .help = "of the weights (layout, moe)"},
    {"experts", 0, QN_OPT_INT, offsetof(bench_op_options, n_experts), "N", 1, 1024, "60",
     "experts of the layer (moe)"},
    {"topk", 0, QN_OPT_INT, offsetof(bench_op_options, topk), "N", 1, 64, "4",
     "experts of a token (moe)"},
    {"tokens", 0, QN_OPT_INTS, offsetof(bench_op_options, tokens), "N,...", 1, 65536, "1,8,64,1500",
     "tokens of a step (moe)"},
    {"heads", 0, QN_OPT_STR, offsetof(bench_op_options, heads), "QxKVxDIM", .def = "12x2x128",
     .help = "query heads, K/V heads, width of a head (attention)"},
};
const qn_opt_group cmd_bench_op_group = {"Single operations", op_opts, QN_COUNT(op_opts)};

bench_op_options cmd_bench_op_defaults(void)
{
    return (bench_op_options){
        .op = -1, .n_experts = 60, .topk = 4, .tokens = {{1, 8, 64, 1500}, 4}};
}

typedef struct lab {
    const bench_op_run *run;
    const qn_backend *b;
    qn_device *d;
    qn_device_config cfg;
    uint64_t rng;
    const char *head; /* the last table's */
    qn_str json;
    qn_err *err;
} lab;

/* ---- rows of a table ---- */

typedef struct cell {
    const char *name; /* of the column, and the key in JSON */
    double value;     /* below 0: nothing */
    int digits;
} cell;

static void table_row(lab *l, const char *head, const char *label, const cell *cells, size_t n)
{
    if (l->run->is_json) {
        qn_str_addf(&l->json, "%s{\"op\": \"%s\", \"what\": ", l->json.n ? ", " : "", head);
        qn_str_add_json(&l->json, label, strlen(label));
        for (size_t i = 0; i < n; i++)
            if (cells[i].value >= 0)
                qn_str_addf(&l->json, ", \"%s\": %.6g", cells[i].name, cells[i].value);
        qn_str_addc(&l->json, '}');
        return;
    }
    if (l->head != head) {
        printf("%-36s", head);
        for (size_t i = 0; i < n; i++)
            printf(" %12s", cells[i].name);
        (void)puts("");
    }
    l->head = head;
    printf("%-36s", label);
    for (size_t i = 0; i < n; i++)
        if (cells[i].value >= 0)
            printf(" %12.*f", cells[i].digits, cells[i].value);
        else
            printf(" %12s", "-");
    (void)puts("");
    (void)fflush(stdout);
}

/* ---- random data and time ---- */

static uint32_t random_bits(lab *l)
{
    l->rng = l->rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(l->rng >> 32);
}

/* Every byte in 0x18 .. 0x37: what a format reads as a float of 16 or 32 bits is then a small normal number. */
static void *random_bytes(lab *l, size_t n)
{
    unsigned char *p = qn_alloc(n, QN_MEM_MISC);
    for (size_t i = 0; p && i < n; i++)
        p[i] = (unsigned char)(0x18 + (random_bits(l) & 0x1f));
    return p;
}

static qn_status random_floats(lab *l, qn_buf **out, size_t n)
{
    float *x = qn_alloc_array(n, sizeof *x, QN_MEM_MISC);
    if (!x)
        return qn_fail_nomem(l->err, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(int32_t)random_bits(l) * 0x1p-31f;
    qn_status s = l->b->buf_new(out, l->d, n * sizeof *x, QN_MEM_ACTIVATIONS, l->err);
    if (s == QN_OK)
        s = l->b->upload(*out, 0, x, n * sizeof *x, l->err);
    qn_free(x);
    return s;
}

static void buf_free(const lab *l, qn_buf *b)
{
    if (b)
        l->b->buf_free(b);
}

static qn_status device_open(lab *l, uint32_t max_rows, uint32_t max_ctx, bool exact)
{
    l->cfg.exact = exact;
    l->cfg.max_rows = max_rows;
    l->cfg.max_ctx = max_ctx;
    l->cfg.max_seqs = 1;
    return l->b->open(&l->d, &l->cfg, l->err);
}

static void device_close(lab *l)
{
    if (l->d)
        l->b->close(l->d);
    l->d = NULL;
}

/* Milliseconds of one call of fn(arg, i), i = 0, 1, ...: the median of `repeat` series. */
typedef qn_status (*timed_fn)(void *arg, size_t i);
static qn_status timed(lab *l, timed_fn fn, void *arg, double *ms)
{
    double v[1000];
    size_t n = QN_MIN((size_t)l->run->repeat, QN_COUNT(v)), i = 0;
    QN_TRY(fn(arg, i++));
    for (size_t k = 0; k < n; k++) {
        uint64_t t0 = qn_now_ns(), t1 = t0, calls = 0;
        for (; t1 - t0 < MIN_NS; t1 = qn_now_ns(), calls++)
            QN_TRY(fn(arg, i++));
        v[k] = (double)(t1 - t0) * 1e-6 / (double)calls;
    }
    *ms = cmd_median(v, n);
    return QN_OK;
}

/* "8960x1536": n numbers from 1 to 2^20. */
static qn_status parse_shape(const char *text, const char *name, size_t *out, size_t n, qn_err *err)
{
    const char *p = text;
    for (size_t i = 0; i < n; i++) {
        size_t len = strcspn(p, "x");
        uint64_t v = 0;
        if (!qn_parse_u64(p, len, 1 << 20, &v) || !v || (p[len] != 0) != (i + 1 < n))
            return qn_fail(err, QN_E_ARG, "--%s: found '%s', want %zu numbers with x between", name,
                           text, n);
        out[i] = (size_t)v;
        p += len + 1;
    }
    return QN_OK;
}

/* ---- layout ---- */

typedef struct product {
    lab *l;
    qn_op *ops; /* one for each copy */
    qn_dweight **w;
    size_t n;
    qn_batch batch;
} product;

static qn_status run_product(void *arg, size_t i)
{
    product *p = arg;
    return p->l->b->run(p->l->d, &p->ops[i % p->n], &p->batch, p->l->err);
}

static qn_status take_copies(product *p, const qn_weight *view, qn_buf *x, qn_buf *y)
{
    lab *l = p->l;
    p->ops = qn_calloc(p->n, sizeof *p->ops, QN_MEM_MISC);
    p->w = qn_calloc(p->n, sizeof *p->w, QN_MEM_MISC);
    if (!p->ops || !p->w)
        return qn_fail_nomem(l->err, p->n * sizeof *p->ops);
    for (size_t i = 0; i < p->n; i++) {
        qn_weight copy = *view;
        copy.data = (const char *)view->data + i * view->rows * view->stride;
        QN_TRY(l->b->weight_new(&p->w[i], l->d, &copy, false, l->err));
        p->ops[i] = (qn_op){.kind = QN_OP_LINEAR,
                            .layer = -1,
                            .in = {{x, 0, view->cols}},
                            .out = {y, 0, view->rows},
                            .w = {p->w[i]},
                            .n_w = 1};
    }
    return l->b->prepare(l->d, p->ops, p->n, l->err);
}

static qn_status measure_layout(lab *l, const qn_weight *view, size_t n_copies)
{
    product p = {.l = l, .n = n_copies};
    qn_buf *x = NULL, *y = NULL;
    double ms[2] = {0};
    qn_status s = random_floats(l, &x, MANY_ROWS * view->cols);
    if (s == QN_OK)
        s = l->b->buf_new(&y, l->d, MANY_ROWS * view->rows * sizeof(float), QN_MEM_ACTIVATIONS,
                          l->err);
    if (s == QN_OK)
        s = take_copies(&p, view, x, y);
    for (int i = 0; i < 2 && s == QN_OK; i++) {
        p.batch = (qn_batch){.n_rows = i ? MANY_ROWS : 1, .n_seqs = 1};
        s = timed(l, run_product, &p, &ms[i]);
    }
    if (s == QN_OK) {
        char label[64];
        double stored = (double)qn_weight_bytes(view), bytes = (double)l->b->weight_bytes(p.w[0]),
               ops = 2.0 * (double)view->rows * (double)view->cols;
        bool is_stored = l->b->weight_is_borrowed(p.w[0]);
        (void)snprintf(label, sizeof label, "%s, %s, %s", qn_dtype_get(view->dtype)->name,
                       is_stored ? "as stored" : "panels",
                       l->b->weight_is_integer(p.w[0]) ? "int8" : "float32");
        const cell cells[] = {
            {"mb", bytes * 1e-6, 3}, {"extra_mb", is_stored ? 0 : (bytes - stored) * 1e-6, 3},
            {"ms_1", ms[0], 4},      {"gb_s_1", bytes * 1e-6 / ms[0], 2},
            {"ms_512", ms[1], 3},    {"gops_512", MANY_ROWS * ops * 1e-6 / ms[1], 1}};
        table_row(l, "layout", label, cells, QN_COUNT(cells));
    }
    for (size_t i = 0; p.w && i < p.n; i++)
        if (p.w[i])
            l->b->weight_free(p.w[i]);
    qn_free(p.w);
    qn_free(p.ops);
    buf_free(l, x);
    buf_free(l, y);
    return s;
}

static qn_status bench_layout(lab *l)
{
    static const qn_dtype types[] = {QN_F32,  QN_F16,  QN_BF16, QN_Q8_0, QN_Q6_K, QN_Q5_K,
                                     QN_Q5_0, QN_Q4_K, QN_Q4_0, QN_Q3_K, QN_Q2_K};
    size_t shape[2];
    QN_TRY(
        parse_shape(l->run->o->shape ? l->run->o->shape : "8960x1536", "shape", shape, 2, l->err));
    for (size_t i = 0; i < QN_COUNT(types); i++) {
        qn_weight w = {.dtype = types[i], .rows = shape[0], .cols = shape[1]};
        size_t bytes = 0;
        if (!qn_dtype_row_bytes(w.dtype, w.cols, &w.stride) ||
            !qn_mul_size(w.rows, w.stride, &bytes))
            continue; /* a row is no whole number of its blocks */
        size_t n = QN_MIN(QN_DIV_UP(COLD, bytes), (size_t)256);
        void *data = random_bytes(l, n * bytes);
        w.data = data;
        qn_status s = data ? QN_OK : qn_fail_nomem(l->err, n * bytes);
        for (int exact = 1; exact >= 0 && s == QN_OK; exact--) {
            if (!exact && qn_dtype_get(w.dtype)->block_size == 1)
                break; /* has one layout */
            s = device_open(l, MANY_ROWS, 64, exact);
            if (s == QN_OK)
                s = measure_layout(l, &w, n);
            device_close(l);
        }
        qn_free(data);
        if (s != QN_OK)
            return s;
    }
    return QN_OK;
}

/* ---- moe ---- */

typedef struct layer {
    lab *l;
    size_t ffn, hidden, n_experts, topk, max_tokens;
    void *data;
    qn_dweight **w; /* gates, ups, downs */
    qn_experts experts;
    qn_op grouped, *single; /* single: gate and up, then down, of each expert */
    int32_t *ids;           /* [max_tokens][topk] */
    qn_buf *x, *y, *h, *routing;
    qn_batch batch;
} layer;

static qn_status run_grouped(void *arg, size_t i)
{
    layer *m = arg;
    (void)i;
    return m->l->b->run(m->l->d, &m->grouped, &m->batch, m->l->err);
}

/* Each token and each of its experts by itself. */
static qn_status run_naive(void *arg, size_t i)
{
    layer *m = arg;
    const qn_batch one = {.n_rows = 1, .n_seqs = 1};
    (void)i;
    for (size_t t = 0; t < m->batch.n_rows; t++)
        for (size_t k = 0; k < m->topk; k++) {
            qn_op *op = &m->single[2 * (size_t)m->ids[t * m->topk + k]];
            op[0].in[0].offset = t * m->hidden * sizeof(float);
            op[1].out.offset = t * m->hidden * sizeof(float);
            QN_TRY(m->l->b->run(m->l->d, &op[0], &one, m->l->err));
            QN_TRY(m->l->b->run(m->l->d, &op[1], &one, m->l->err));
        }
    return QN_OK;
}

static qn_status layer_weights(layer *m)
{
    lab *l = m->l;
    size_t n = m->n_experts, stride[2], bytes;
    if (!qn_dtype_row_bytes(QN_Q4_0, m->hidden, &stride[0]) ||
        !qn_dtype_row_bytes(QN_Q4_0, m->ffn, &stride[1]))
        return qn_fail(l->err, QN_E_ARG, "--shape: found %zux%zu, want multiples of 32 (Q4_0)",
                       m->ffn, m->hidden);
    bytes = m->ffn * stride[0];
    m->data = random_bytes(l, 3 * n * bytes);
    m->w = qn_calloc(3 * n, sizeof(qn_dweight *), QN_MEM_MISC);
    if (!m->data || !m->w)
        return qn_fail_nomem(l->err, 3 * n * bytes);
    for (size_t i = 0; i < 3 * n; i++) {
        bool is_down = i >= 2 * n;
        qn_weight v = {.dtype = QN_Q4_0,
                       .rows = is_down ? m->hidden : m->ffn,
                       .cols = is_down ? m->ffn : m->hidden,
                       .data = (char *)m->data + i * bytes,
                       .stride = stride[is_down]};
        QN_TRY(l->b->weight_new(&m->w[i], l->d, &v, false, l->err));
    }
    m->experts = (qn_experts){.n_experts = (uint32_t)n,
                              .n_active = (uint32_t)m->topk,
                              .norm_topk = true,
                              .ffn_size = (uint32_t)m->ffn,
                              .gate = m->w,
                              .up = m->w + n,
                              .down = m->w + 2 * n};
    return QN_OK;
}

static qn_status layer_routing(layer *m)
{
    lab *l = m->l;
    size_t k = m->topk, bytes = m->max_tokens * 2 * k * sizeof(float);
    float *rows = qn_calloc(m->max_tokens * 2 * k, sizeof *rows, QN_MEM_MISC);
    m->ids = qn_calloc(m->max_tokens * k, sizeof *m->ids, QN_MEM_MISC);
    qn_status s = rows && m->ids ? QN_OK : qn_fail_nomem(l->err, bytes);
    for (size_t t = 0; s == QN_OK && t < m->max_tokens; t++) {
        int32_t *ids = m->ids + t * k;
        for (size_t i = 0; i < k; i++) { /* the next free one from a random place */
            ids[i] = (int32_t)(random_bits(l) % m->n_experts);
            for (size_t j = 0; j < i; j++)
                if (ids[j] == ids[i]) {
                    ids[i] = (ids[i] + 1) % (int32_t)m->n_experts;
                    j = (size_t)-1;
                }
        }
        memcpy(rows + t * 2 * k, ids, k * sizeof *ids);
        for (size_t i = 0; i < k; i++)
            rows[t * 2 * k + k + i] = 1.0f / (float)k;
    }
    if (s == QN_OK)
        s = l->b->buf_new(&m->routing, l->d, bytes, QN_MEM_ACTIVATIONS, l->err);
    if (s == QN_OK)
        s = l->b->upload(m->routing, 0, rows, bytes, l->err);
    qn_free(rows);
    return s;
}

static qn_status layer_new(layer *m)
{
    lab *l = m->l;
    size_t rows = m->max_tokens;
    QN_TRY(layer_weights(m));
    QN_TRY(layer_routing(m));
    QN_TRY(random_floats(l, &m->x, rows * m->hidden));
    QN_TRY(random_floats(l, &m->y, rows * m->hidden));
    QN_TRY(random_floats(l, &m->h, m->ffn));
    qn_operand x = {m->x, 0, m->hidden}, y = {m->y, 0, m->hidden}, h = {m->h, 0, m->ffn};
    m->grouped = (qn_op){.kind = QN_OP_EXPERTS,
                         .in = {x, {m->routing, 0, 2 * m->topk}},
                         .out = y,
                         .experts = &m->experts};
    m->single = qn_calloc(2 * m->n_experts, sizeof *m->single, QN_MEM_MISC);
    if (!m->single)
        return qn_fail_nomem(l->err, 2 * m->n_experts * sizeof *m->single);
    for (size_t i = 0; i < m->n_experts; i++) {
        m->single[2 * i] = (qn_op){.kind = QN_OP_LINEAR,
                                   .fuse = QN_FUSE_SILU_MUL,
                                   .in = {x},
                                   .out = h,
                                   .w = {m->experts.gate[i], m->experts.up[i]},
                                   .n_w = 2};
        m->single[2 * i + 1] =
            (qn_op){.kind = QN_OP_LINEAR, .in = {h}, .out = y, .w = {m->experts.down[i]}, .n_w = 1};
    }
    QN_TRY(l->b->prepare(l->d, m->single, 2 * m->n_experts, l->err));
    return l->b->prepare(l->d, &m->grouped, 1, l->err);
}

static void layer_free(layer *m)
{
    for (size_t i = 0; m->w && i < 3 * m->n_experts; i++)
        if (m->w[i])
            m->l->b->weight_free(m->w[i]);
    buf_free(m->l, m->x);
    buf_free(m->l, m->y);
    buf_free(m->l, m->h);
    buf_free(m->l, m->routing);
    qn_free(m->w);
    qn_free(m->data);
    qn_free(m->ids);
    qn_free(m->single);
}

static qn_status moe_row(layer *m, size_t tokens)
{
    double ms[2], expert = 0, touched = 0;
    char label[64];
    m->batch = (qn_batch){.n_rows = (uint32_t)tokens, .n_seqs = 1};
    QN_TRY(timed(m->l, run_naive, m, &ms[0]));
    QN_TRY(timed(m->l, run_grouped, m, &ms[1]));
    for (int i = 0; i < 3; i++)
        expert += (double)m->l->b->weight_bytes(m->w[(size_t)i * m->n_experts]);
    for (size_t e = 0; e < m->n_experts; e++) {
        bool any = false;
        for (size_t i = 0; i < tokens * m->topk; i++)
            any = any || m->ids[i] == (int32_t)e;
        touched += any;
    }
    double pairs = (double)(tokens * m->topk),
           ops = pairs * 6 * (double)m->ffn * (double)m->hidden * 1e-6;
    (void)snprintf(label, sizeof label, "%zu tokens, %zu of %zu experts", tokens, m->topk,
                   m->n_experts);
    const cell cells[] = {{"naive_ms", ms[0], 3},
                          {"grouped_ms", ms[1], 3},
                          {"speedup", ms[0] / ms[1], 2},
                          {"experts_used", touched, 0},
                          {"naive_gb_s", pairs * expert * 1e-6 / ms[0], 2},
                          {"grouped_gb_s", touched * expert * 1e-6 / ms[1], 2},
                          {"grouped_gops", ops / ms[1], 1}};
    table_row(m->l, "moe", label, cells, QN_COUNT(cells));
    return QN_OK;
}

static qn_status bench_moe(lab *l)
{
    const bench_op_options *o = l->run->o;
    size_t shape[2];
    layer m = {.l = l, .n_experts = (size_t)o->n_experts, .topk = (size_t)o->topk};
    QN_TRY(parse_shape(o->shape ? o->shape : "1408x2048", "shape", shape, 2, l->err));
    if (m.topk > m.n_experts)
        return qn_fail(l->err, QN_E_ARG, "--topk: found %zu, want at most the %zu experts", m.topk,
                       m.n_experts);
    m.ffn = shape[0];
    m.hidden = shape[1];
    for (size_t i = 0; i < o->tokens.n; i++)
        m.max_tokens = QN_MAX(m.max_tokens, (size_t)o->tokens.items[i]);
    QN_TRY(device_open(l, (uint32_t)m.max_tokens, 64, false));
    qn_status s = layer_new(&m);
    for (size_t i = 0; i < o->tokens.n && s == QN_OK; i++)
        s = moe_row(&m, (size_t)o->tokens.items[i]);
    layer_free(&m);
    device_close(l);
    return s;
}

/* ---- attention ---- */

typedef struct attend {
    lab *l;
    size_t heads, kv_heads, dim, depth;
    qn_kv_view kv;
    qn_buf *q, *out;
    qn_op op;
    qn_batch batch;
    uint32_t *blocks, row_begin[2];
    int32_t positions[MANY_ROWS];
} attend;

static qn_status run_attention(void *arg, size_t i)
{
    attend *a = arg;
    (void)i;
    return a->l->b->run(a->l->d, &a->op, &a->batch, a->l->err);
}

static qn_status attend_new(attend *a, qn_dtype type)
{
    lab *l = a->l;
    size_t n = QN_DIV_UP(a->depth + MANY_ROWS, (size_t)QN_KV_BLOCK);
    size_t bytes = n * l->b->kv_block_bytes(type, (uint32_t)a->kv_heads, (uint32_t)a->dim);
    a->kv = (qn_kv_view){.dtype = type,
                         .n_blocks = (uint32_t)n,
                         .n_kv_heads = (uint32_t)a->kv_heads,
                         .head_dim = (uint32_t)a->dim};
    void *data = random_bytes(l, bytes);
    a->blocks = qn_alloc_array(n, sizeof *a->blocks, QN_MEM_MISC);
    qn_status s = data && a->blocks ? QN_OK : qn_fail_nomem(l->err, bytes);
    qn_buf **bufs[] = {&a->kv.k, &a->kv.v};
    for (int i = 0; i < 2 && s == QN_OK; i++) {
        s = l->b->buf_new(bufs[i], l->d, bytes, QN_MEM_KV, l->err);
        if (s == QN_OK)
            s = l->b->upload(*bufs[i], 0, data, bytes, l->err);
    }
    qn_free(data);
    for (size_t i = 0; s == QN_OK && i < n; i++)
        a->blocks[i] = (uint32_t)i;
    size_t width = a->heads * a->dim;
    if (s == QN_OK)
        s = random_floats(l, &a->q, MANY_ROWS * width);
    if (s == QN_OK)
        s = l->b->buf_new(&a->out, l->d, MANY_ROWS * width * sizeof(float), QN_MEM_ACTIVATIONS,
                          l->err);
    a->op = (qn_op){.kind = QN_OP_ATTENTION,
                    .in = {{a->q, 0, width}},
                    .out = {a->out, 0, width},
                    .n_heads = (uint32_t)a->heads,
                    .n_kv_heads = (uint32_t)a->kv_heads,
                    .head_dim = (uint32_t)a->dim,
                    .kv = &a->kv};
    return s == QN_OK ? l->b->prepare(l->d, &a->op, 1, l->err) : s;
}

static qn_status attend_row(attend *a)
{
    double ms[2], keys[2];
    char label[64];
    for (int i = 0; i < 2; i++) {
        uint32_t n = i ? MANY_ROWS : 1;
        keys[i] = 0;
        for (uint32_t r = 0; r < n; r++) {
            a->positions[r] = (int32_t)(a->depth + r);
            keys[i] += (double)(a->depth + r + 1);
        }
        a->row_begin[1] = n;
        a->batch = (qn_batch){.n_rows = n,
                              .n_seqs = 1,
                              .positions = a->positions,
                              .row_begin = a->row_begin,
                              .block_tables = a->blocks,
                              .max_blocks = a->kv.n_blocks};
        QN_TRY(timed(a->l, run_attention, a, &ms[i]));
    }
    double block =
               2.0 * (double)a->l->b->kv_block_bytes(a->kv.dtype, a->kv.n_kv_heads, a->kv.head_dim),
           flops = 4e-6 * (double)(a->heads * a->dim);
    (void)snprintf(label, sizeof label, "%zu keys of %s, %zux%zux%zu", a->depth + 1,
                   qn_dtype_get(a->kv.dtype)->name, a->heads, a->kv_heads, a->dim);
    const cell cells[] = {{"ms_1", ms[0], 4},
                          {"gb_s_1", keys[0] * block / QN_KV_BLOCK * 1e-6 / ms[0], 2},
                          {"gflops_1", flops * keys[0] / ms[0], 1},
                          {"ms_512", ms[1], 3},
                          {"gflops_512", flops * keys[1] / ms[1], 1}};
    table_row(a->l, "attention", label, cells, QN_COUNT(cells));
    return QN_OK;
}

static qn_status bench_attention(lab *l)
{
    static const qn_dtype types[] = {QN_I8, QN_F16, QN_F32};
    size_t heads[3];
    QN_TRY(
        parse_shape(l->run->o->heads ? l->run->o->heads : "12x2x128", "heads", heads, 3, l->err));
    if (heads[0] % heads[1] || heads[2] % 2)
        return qn_fail(l->err, QN_E_ARG,
                       "--heads: found %zux%zux%zu, want query heads in multiples of the K/V heads "
                       "and an even width",
                       heads[0], heads[1], heads[2]);
    for (size_t t = 0; t < QN_COUNT(types); t++)
        for (size_t i = 0; i < l->run->depths->n; i++) {
            attend a = {.l = l,
                        .heads = heads[0],
                        .kv_heads = heads[1],
                        .dim = heads[2],
                        .depth = (size_t)l->run->depths->items[i]};
            QN_TRY(device_open(l, MANY_ROWS, (uint32_t)a.depth + MANY_ROWS, false));
            qn_status s = attend_new(&a, types[t]);
            if (s == QN_OK)
                s = attend_row(&a);
            buf_free(l, a.kv.k);
            buf_free(l, a.kv.v);
            buf_free(l, a.q);
            buf_free(l, a.out);
            qn_free(a.blocks);
            device_close(l);
            if (s != QN_OK)
                return s;
        }
    return QN_OK;
}

/* ---- barrier and roofs ---- */

#define MEETINGS 1000

typedef struct meeting {
    qn_team *team;
    int n_barriers;
} meeting;

static void meet(void *arg, int thread, int n_threads)
{
    const meeting *m = arg;
    (void)thread;
    (void)n_threads;
    for (int i = 0; i < m->n_barriers; i++)
        qn_team_barrier(m->team);
}

static qn_status run_meeting(void *arg, size_t i)
{
    meeting *m = arg;
    (void)i;
    for (int k = 0; k < (m->n_barriers ? 1 : MEETINGS); k++)
        qn_team_run(m->team, meet, m);
    return QN_OK;
}

static qn_status bench_barrier(lab *l)
{
    for (int n = 1; n <= l->cfg.n_threads; n++) {
        meeting m = {0};
        double run_ms, barrier_ms;
        char label[32];
        QN_TRY(qn_team_new(&m.team, n, l->err));
        qn_status s = timed(l, run_meeting, &m, &run_ms);
        m.n_barriers = MEETINGS;
        if (s == QN_OK)
            s = timed(l, run_meeting, &m, &barrier_ms);
        qn_team_free(m.team);
        if (s != QN_OK)
            return s;
        (void)snprintf(label, sizeof label, "%d threads", n);
        const cell cells[] = {{"run_ns", run_ms * 1e6 / MEETINGS, 0},
                              {"barrier_ns", barrier_ms * 1e6 / MEETINGS, 0}};
        table_row(l, "barrier", label, cells, QN_COUNT(cells));
    }
    return QN_OK;
}

static qn_status bench_roofs(lab *l)
{
    QN_TRY(device_open(l, 1, 64, false));
    for (int i = 0; i < l->run->repeat; i++) {
        qn_roofs r = {0};
        char label[32];
        l->b->measure_roofs(l->d, &r);
        (void)snprintf(label, sizeof label, "run %d, %d threads", i + 1, l->cfg.n_threads);
        const cell cells[] = {{"read_gb_s", r.read_bytes_s * 1e-9, 2},
                              {"int8_gops", r.int8_ops_s * 1e-9, 1},
                              {"f32_gflops", r.f32_flops_s * 1e-9, 1}};
        table_row(l, "roofs", label, cells, QN_COUNT(cells));
    }
    device_close(l);
    return QN_OK;
}

qn_status cmd_bench_op(const bench_op_run *r, qn_err *err)
{
    static qn_status (*const ops[])(lab *) = {bench_layout, bench_moe, bench_attention,
                                              bench_barrier, bench_roofs};
    lab l = {.run = r, .b = qn_backend_cpu(), .rng = 1, .err = err};
    l.cfg.n_threads = r->config->n_threads ? r->config->n_threads : qn_cpu_n_usable();
    l.cfg.cpu_mask = r->config->cpu_mask;
    qn_status s = ops[r->o->op](&l);
    if (s == QN_OK && l.json.failed)
        s = qn_fail_nomem(err, l.json.n);
    if (s == QN_OK && r->is_json)
        printf("{\"threads\": %d, \"rows\": [%s]}\n", l.cfg.n_threads, l.json.p ? l.json.p : "");
    qn_str_fini(&l.json);
    return s;
}
