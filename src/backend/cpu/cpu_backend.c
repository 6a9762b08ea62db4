/* SPDX-License-Identifier: Apache-2.0
 * cpu_backend.c - the CPU device: memory, weights, scratch, and the table of operations.
 *
 *   rows operations: a function over a range of rows, which the team shares
 *   team operations: a function that runs the team itself (linear.c, attention.c, moe.c)
 *
 * Threads: the engine thread; run() uses the team. run() allocates nothing: prepare() takes all scratch. */
#include <stdio.h>
#include <string.h>

#include "backend/cpu/cpu_device.h"
#include "base/cpu.h"

/* ---- device ---- */

static void cpu_close(qn_device *d)
{
    if (!d)
        return;
    qn_team_free(d->team);
    qn_share_free(d->share);
    qn_acts_free(d->acts);
    qn_acts_free(d->ffn_acts);
    qn_acts_free(d->shared_acts);
    qn_acts_free(d->gathered);
    void *blocks[] = {d->norm,          d->tile,           d->logits,     d->routing,
                      d->entry_weights, d->shared_weights, d->entry_rows, d->expert_begin,
                      d->groups,        d->sums,           d->attn,       d->attn_parts,
                      d->attn_tiles};
    for (size_t i = 0; i < QN_COUNT(blocks); i++)
        qn_free(blocks[i]);
    qn_free(d);
}

/* Each worker stays on one memory node, so that the weights it packs, and later reads, lie there. The
 * caller's thread is not ours to bind. */
static void bind(void *arg, int thread, int n_threads)
{
    const qn_topology *t = arg;
    qn_cpuset all, node;
    if (thread == 0)
        return;
    qn_cpuset_of_thread(&all);
    qn_topology_place(t, &all, thread, n_threads, &node);
    qn_cpuset_bind_thread(&node);
}

static qn_status open_team(qn_device *d, qn_err *err)
{
    QN_TRY(qn_team_new(&d->team, d->cfg.n_threads, err));
    QN_TRY(qn_share_new(&d->share, "", err));
    const qn_topology *t = qn_share_topology(d->share);
    if (t->n_nodes > 1)
        qn_team_run(d->team, bind, (void *)(uintptr_t)t);
    if (d->cfg.follow)
        qn_team_follow(d->team, d->share);
    return QN_OK;
}

static qn_status cpu_open(qn_device **out, const qn_device_config *cfg, qn_err *err)
{
    *out = NULL;
    if (cfg->n_threads < 1 || cfg->max_rows < 1 || cfg->max_seqs < 1 || cfg->max_ctx < 1)
        return qn_fail(
            err, QN_E_ARG,
            "cpu device: %d threads, %u rows, %u sequences, %u positions; want at least 1 of each",
            cfg->n_threads, cfg->max_rows, cfg->max_seqs, cfg->max_ctx);
    qn_device *d = qn_calloc(1, sizeof *d, QN_MEM_MISC);
    if (!d)
        return qn_fail_nomem(err, sizeof *d);
    d->cfg = *cfg;
    qn_status s = qn_kernels_choose(&d->k, qn_cpu_flags() & cfg->cpu_mask, err);
    if (s != QN_OK) {
        cpu_close(d);
        return s;
    }
    d->attn_tiles = qn_calloc((size_t)cfg->max_seqs + 1, sizeof *d->attn_tiles, QN_MEM_MISC);
    if (!d->attn_tiles) {
        cpu_close(d);
        return qn_fail_nomem(err, ((size_t)cfg->max_seqs + 1) * sizeof *d->attn_tiles);
    }
    s = open_team(d, err);
    if (s != QN_OK) {
        cpu_close(d);
        return s;
    }
    *out = d;
    return QN_OK;
}

static void cpu_describe(const qn_device *d, char *buf, size_t size)
{
    char flags[64], out[64] = "";
    if (d->k.n_left_out > 0)
        (void)snprintf(out, sizeof out, " (%u kernels failed their test: not used)",
                       d->k.n_left_out);
    (void)snprintf(
        buf, size, "cpu: %d thread%s, %s%s%s", d->cfg.n_threads, d->cfg.n_threads == 1 ? "" : "s",
        qn_cpu_flags_name(d->k.flags, flags, sizeof flags), out, d->cfg.exact ? ", exact" : "");
}

/* ---- buffers ---- */

static qn_status buf_new(qn_buf **out, qn_device *d, size_t bytes, qn_mem_tag tag, qn_err *err)
{
    (void)d;
    *out = NULL;
    qn_buf *b = qn_calloc(1, sizeof *b, QN_MEM_MISC);
    if (!b)
        return qn_fail_nomem(err, sizeof *b);
    b->bytes = bytes;
    b->data = qn_calloc(1, QN_MAX(bytes, 1), tag);
    if (!b->data) {
        qn_free(b);
        return qn_fail_nomem(err, bytes);
    }
    *out = b;
    return QN_OK;
}

static void buf_free(qn_buf *b)
{
    if (b)
        qn_free(b->data);
    qn_free(b);
}

static qn_status check_range(const qn_buf *b, size_t offset, size_t bytes, qn_err *err)
{
    if (offset > b->bytes || bytes > b->bytes - offset)
        return qn_fail(err, QN_E_INTERNAL, "buffer of %zu bytes: bytes %zu + %zu asked for",
                       b->bytes, offset, bytes);
    return QN_OK;
}

static qn_status upload(qn_buf *b, size_t offset, const void *src, size_t bytes, qn_err *err)
{
    QN_TRY(check_range(b, offset, bytes, err));
    if (bytes > 0)
        memcpy(b->data + offset, src, bytes);
    return QN_OK;
}

static qn_status download(void *dst, const qn_buf *b, size_t offset, size_t bytes, qn_err *err)
{
    QN_TRY(check_range(b, offset, bytes, err));
    if (bytes > 0)
        memcpy(dst, b->data + offset, bytes);
    return QN_OK;
}

static size_t kv_block_bytes(qn_dtype dtype, uint32_t n_kv_heads, uint32_t head_dim)
{
    return n_kv_heads * qn_kv_tile_bytes(qn_kv_type_of(dtype), head_dim);
}

/* ---- weights ---- */

static qn_status weight_new(qn_dweight **out, qn_device *d, const qn_weight *w, bool rows_only,
                            qn_err *err)
{
    return qn_dweight_new(out, d->team, w, d->cfg.exact || rows_only, err);
}

static void weight_pack(qn_device *d, const qn_weight *w, uint32_t form, void *out)
{
    qn_dweight_pack(d->team, w, (qn_pack)form, out);
}

/* ---- scratch ---- */

static void op_sizes(const qn_device *d, const qn_op *op, qn_cpu_sizes *s)
{
    switch (op->kind) {
    case QN_OP_LINEAR:
        qn_cpu_linear_sizes(d, op, s);
        break;
    case QN_OP_ROUTE:
    case QN_OP_EXPERTS:
    case QN_OP_SHARED_GATE:
    case QN_OP_MOE:
        qn_cpu_moe_sizes(d, op, s);
        break;
    case QN_OP_ATTENTION:
        qn_cpu_attention_sizes(d, op, s);
        break;
    default:
        break;
    }
}

/* *p_ptr, a pointer, has room for n elements of 4 bytes for each of `copies` owners. */
static qn_status need(void *p_ptr, size_t have, size_t n, size_t copies, qn_err *err)
{
    void *p;
    size_t bytes;
    memcpy(&p, p_ptr, sizeof p);
    if (n <= have && (p || n == 0))
        return QN_OK;
    qn_free(p);
    p = NULL;
    if (qn_mul_size(n, copies, &bytes) && qn_mul_size(bytes, 4, &bytes))
        p = qn_calloc(1, bytes, QN_MEM_ACTIVATIONS);
    else
        bytes = SIZE_MAX;
    memcpy(p_ptr, &p, sizeof p);
    return p ? QN_OK : qn_fail_nomem(err, bytes);
}

/* Of a set of activations: what it is for, and how large. */
typedef struct acts_size {
    size_t rows, cols;
    unsigned kinds;
} acts_size;

static qn_status need_acts(qn_acts **a, acts_size have, acts_size want, const qn_device *d,
                           qn_err *err)
{
    bool fits = want.rows <= have.rows && want.cols <= have.cols && want.kinds == have.kinds;
    if (want.cols == 0 || (*a && fits))
        return QN_OK;
    qn_acts_free(*a);
    *a = NULL;
    return qn_acts_new(a, want.rows, want.cols, want.kinds, d->cfg.n_threads, err);
}

/* After a failure the device can only be closed. */
static qn_status prepare(qn_device *d, const qn_op *ops, size_t n_ops, qn_err *err)
{
    qn_cpu_sizes w = d->have;
    const qn_cpu_sizes h = d->have;
    size_t threads = (size_t)d->cfg.n_threads, rows = d->cfg.max_rows,
           blocks = threads * QN_CPU_BLOCK_ROWS;
    for (size_t i = 0; i < n_ops; i++)
        op_sizes(d, &ops[i], &w);
    w.tile = QN_ROUND_UP(w.tile, 16);
    QN_TRY(need_acts(&d->acts, (acts_size){rows, h.act_cols, h.act_kinds},
                     (acts_size){rows, w.act_cols, w.act_kinds}, d, err));
    QN_TRY(need_acts(&d->gathered, (acts_size){blocks, h.gather_cols, h.act_kinds},
                     (acts_size){blocks, w.gather_cols, w.act_kinds}, d, err));
    QN_TRY(need_acts(&d->ffn_acts, (acts_size){h.ffn_rows, h.ffn_cols, h.ffn_kinds},
                     (acts_size){w.ffn_rows, w.ffn_cols, w.ffn_kinds}, d, err));
    QN_TRY(need_acts(&d->shared_acts, (acts_size){rows, h.shared_cols, h.ffn_kinds},
                     (acts_size){rows, w.shared_cols, w.ffn_kinds}, d, err));
    QN_TRY(need(&d->norm, h.norm, w.norm, 1, err));
    QN_TRY(need(&d->tile, h.tile, w.tile, threads, err));
    QN_TRY(need(&d->logits, h.logits, w.logits, 1, err));
    QN_TRY(need(&d->routing, h.routing, w.routing, 1, err));
    QN_TRY(need(&d->entry_rows, h.entries, w.entries, 1, err));
    QN_TRY(need(&d->entry_weights, h.entries, w.entries, 1, err));
    QN_TRY(need(&d->shared_weights, h.entries, w.entries, 1, err));
    QN_TRY(need(&d->expert_begin, h.expert_begin, w.expert_begin, 1, err));
    QN_TRY(need(&d->groups, h.groups, w.groups, 1, err));
    QN_TRY(need(&d->sums, h.sums, w.sums, 1, err));
    QN_TRY(need(&d->attn, h.attn, w.attn, threads, err));
    QN_TRY(need(&d->attn_parts, h.attn_parts, w.attn_parts, 1, err));
    d->have = w;
    return QN_OK;
}

/* ---- operations over rows ---- */

typedef void (*rows_fn)(const qn_cpu_job *job, size_t begin, size_t end);
typedef struct rows_job {
    const qn_cpu_job *job;
    rows_fn fn;
} rows_job;

static void rows_part(void *arg, int thread, int n_threads)
{
    const rows_job *r = arg;
    size_t b, e;
    qn_team_split(r->job->n_rows, 1, thread, n_threads, &b, &e);
    r->fn(r->job, b, e);
}

static void embed(const qn_cpu_job *j, size_t begin, size_t end)
{
    for (size_t r = begin; r < end; r++)
        qn_dweight_row(j->op->w[0], (size_t)j->batch->token_ids[r], qn_cpu_row(&j->op->out, r));
}

static void norm_runs(const qn_cpu_job *j, const float *x, const float *w, size_t n, float *y)
{
    size_t run = j->op->norm_size;
    for (size_t i = 0; i + run <= n; i += run)
        j->d->k.rmsnorm(x + i, w, run, j->op->eps, y + i);
}

static void rmsnorm(const qn_cpu_job *j, size_t begin, size_t end)
{
    const qn_op *op = j->op;
    for (size_t r = begin; r < end; r++)
        norm_runs(j, qn_cpu_row(&op->in[0], r), qn_cpu_vec(op->vec[0]), op->in[0].width,
                  qn_cpu_row(&op->out, r));
}

static void bias(const qn_cpu_job *j, size_t begin, size_t end)
{
    const qn_op *op = j->op;
    for (size_t r = begin; r < end; r++)
        j->d->k.add(qn_cpu_row(&op->in[0], r), qn_cpu_vec(op->vec[1]), op->in[0].width,
                    qn_cpu_row(&op->out, r));
}

static void rotate(const qn_cpu_job *j, size_t row, float *x, size_t n_heads)
{
    const qn_op *op = j->op;
    const qn_kernels *k = &j->d->k;
    void (*rotate_head)(float *, const float *, size_t) =
        op->rope_adjacent ? k->rope_adjacent : k->rope;
    for (size_t h = 0; h < n_heads; h++)
        rotate_head(x + h * op->head_dim, j->batch->rope + row * op->rope_dim, op->rope_dim);
}

static void rope(const qn_cpu_job *j, size_t begin, size_t end)
{
    for (size_t r = begin; r < end; r++)
        rotate(j, r, qn_cpu_row(&j->op->out, r), j->op->out.width / j->op->head_dim);
}

static void q_scale(const qn_cpu_job *j, size_t begin, size_t end)
{
    for (size_t r = begin; r < end && j->batch->q_scale; r++) {
        float *x = qn_cpu_row(&j->op->out, r);
        j->d->k.scale(x, j->batch->q_scale[r], j->op->out.width, x);
    }
}

/* x[n_kv_heads][head_dim] of one row into the cache. */
static void store(const qn_cpu_job *j, qn_buf *cache, size_t row, const float *x)
{
    const qn_kv_view *kv = j->op->kv;
    qn_kv_type type = qn_kv_type_of(kv->dtype);
    size_t dim = kv->head_dim, bytes = qn_kv_tile_bytes(type, dim);
    size_t block = j->batch->slots[row] / QN_KV_BLOCK, at = j->batch->slots[row] % QN_KV_BLOCK;
    for (size_t h = 0; h < kv->n_kv_heads; h++)
        qn_kv_put(&j->d->k, type, x + h * dim, dim, at, cache == kv->v,
                  cache->data + (block * kv->n_kv_heads + h) * bytes);
}

static void kv_store(const qn_cpu_job *j, size_t begin, size_t end)
{
    for (size_t r = begin; r < end; r++) {
        store(j, j->op->kv->k, r, qn_cpu_row(&j->op->in[0], r));
        store(j, j->op->kv->v, r, qn_cpu_row(&j->op->in[1], r));
    }
}

static void qkv_store(const qn_cpu_job *j, size_t begin, size_t end)
{
    const qn_op *op = j->op;
    size_t q_width = (size_t)op->n_heads * op->head_dim,
           kv_width = (size_t)op->n_kv_heads * op->head_dim;
    for (size_t r = begin; r < end; r++) {
        float *q = qn_cpu_row(&op->in[0], r), *k = q + q_width, *v = k + kv_width;
        for (size_t i = 0; op->vec[0] && i < q_width; i += op->head_dim)
            j->d->k.rmsnorm(q + i, qn_cpu_vec(op->vec[0]), op->head_dim, op->eps, q + i);
        for (size_t i = 0; op->vec[1] && i < kv_width; i += op->head_dim)
            j->d->k.rmsnorm(k + i, qn_cpu_vec(op->vec[1]), op->head_dim, op->eps, k + i);
        rotate(j, r, q, op->n_heads);
        rotate(j, r, k, op->n_kv_heads);
        if (j->batch->q_scale)
            j->d->k.scale(q, j->batch->q_scale[r], q_width, q);
        store(j, op->kv->k, r, k);
        store(j, op->kv->v, r, v);
    }
}

static void add(const qn_cpu_job *j, size_t begin, size_t end)
{
    const qn_op *op = j->op;
    for (size_t r = begin; r < end; r++)
        j->d->k.add(qn_cpu_row(&op->in[0], r), qn_cpu_row(&op->in[1], r), op->out.width,
                    qn_cpu_row(&op->out, r));
}

static void silu_mul(const qn_cpu_job *j, size_t begin, size_t end)
{
    const qn_op *op = j->op;
    for (size_t r = begin; r < end; r++)
        j->d->k.silu_mul(qn_cpu_row(&op->in[0], r), qn_cpu_row(&op->in[1], r), op->out.width,
                         qn_cpu_row(&op->out, r));
}

static void gather(const qn_cpu_job *j, size_t begin, size_t end)
{
    const qn_op *op = j->op;
    for (size_t r = begin; r < end; r++)
        memcpy(qn_cpu_row(&op->out, r), qn_cpu_row(&op->in[0], j->batch->logit_rows[r]),
               op->out.width * sizeof(float));
}

/* ---- the table ---- */

static const struct {
    rows_fn rows; /* one of the two */
    void (*team)(const qn_cpu_job *job);
} table[QN_OP_N] = {
    [QN_OP_EMBED] = {.rows = embed},
    [QN_OP_RMSNORM] = {.rows = rmsnorm},
    [QN_OP_LINEAR] = {.team = qn_cpu_linear},
    [QN_OP_BIAS] = {.rows = bias},
    [QN_OP_ROPE] = {.rows = rope},
    [QN_OP_Q_SCALE] = {.rows = q_scale},
    [QN_OP_KV_STORE] = {.rows = kv_store},
    [QN_OP_ATTENTION] = {.team = qn_cpu_attention},
    [QN_OP_ADD] = {.rows = add},
    [QN_OP_SILU_MUL] = {.rows = silu_mul},
    [QN_OP_ROUTE] = {.team = qn_cpu_route},
    [QN_OP_EXPERTS] = {.team = qn_cpu_experts},
    [QN_OP_SHARED_GATE] = {.team = qn_cpu_shared_gate},
    [QN_OP_GATHER] = {.rows = gather},
    [QN_OP_QKV_STORE] = {.rows = qkv_store},
    [QN_OP_MOE] = {.team = qn_cpu_moe},
};

static qn_status check_tokens(const qn_op *op, const qn_batch *batch, qn_err *err)
{
    size_t n = qn_dweight_rows(op->w[0]);
    for (size_t r = 0; r < batch->n_rows; r++)
        if (batch->token_ids[r] < 0 || (size_t)batch->token_ids[r] >= n)
            return qn_fail(err, QN_E_ARG, "token id %d: the vocabulary has %zu",
                           batch->token_ids[r], n);
    return QN_OK;
}

static qn_status run(qn_device *d, const qn_op *op, const qn_batch *batch, qn_err *err)
{
    bool wanted = op->on_logit_rows || op->kind == QN_OP_GATHER;
    qn_cpu_job job = {
        .d = d, .op = op, .batch = batch, .n_rows = wanted ? batch->n_logit_rows : batch->n_rows};
    if (batch->n_rows > d->cfg.max_rows || batch->n_seqs > d->cfg.max_seqs ||
        batch->n_logit_rows > d->cfg.max_rows)
        return qn_fail(err, QN_E_INTERNAL,
                       "batch of %u rows, %u sequences: the device was opened for %u, %u",
                       batch->n_rows, batch->n_seqs, d->cfg.max_rows, d->cfg.max_seqs);
    if (op->kind == QN_OP_EMBED)
        QN_TRY(check_tokens(op, batch, err));
    if (job.n_rows == 0)
        return QN_OK;
    if (table[op->kind].team) {
        table[op->kind].team(&job);
        qn_expert_source *s = op->experts && op->kind != QN_OP_ROUTE ? op->experts->source : NULL;
        return s ? s->status(s, err) : QN_OK;
    }
    rows_job r = {&job, table[op->kind].rows};
    if (job.n_rows == 1)
        r.fn(&job, 0, 1);
    else
        qn_team_run(d->team, rows_part, &r);
    return QN_OK;
}

static bool weight_is_integer(const qn_dweight *w)
{
    return qn_dweight_kind(w) == QN_MM_INT;
}

const qn_backend *qn_backend_cpu(void)
{
    static const qn_backend backend = {
        .name = "cpu",
        .open = cpu_open,
        .close = cpu_close,
        .describe = cpu_describe,
        .buf_new = buf_new,
        .buf_free = buf_free,
        .upload = upload,
        .download = download,
        .kv_block_bytes = kv_block_bytes,
        .weight_new = weight_new,
        .layout = QN_PACK_LAYOUT,
        .weight_form = qn_dweight_form,
        .weight_pack = weight_pack,
        .weight_move = qn_dweight_move,
        .weight_free = qn_dweight_free,
        .weight_bytes = qn_dweight_bytes,
        .weight_is_borrowed = qn_dweight_is_borrowed,
        .weight_is_integer = weight_is_integer,
        .prepare = prepare,
        .run = run,
        .measure_roofs = qn_cpu_measure_roofs,
    };
    return &backend;
}
