/* SPDX-License-Identifier: Apache-2.0
 * moe.c - ROUTE, EXPERTS, SHARED_GATE and all of them in one (MOE) of the CPU device.
 *
 *   route    softmax(x·routerᵀ) over all experts in float32, the k largest, ties to the lower id
 *   group    counting sort of (row, weight) by expert; an expert's rows stay in order
 *   experts  for each: its rows -> gate, up, silu -> down -> out[row] += weight * result
 *
 * Order of a row's sum: its experts by ascending id, then the shared expert; so a row gives the same bits alone and in a batch.
 * Many rows: the experts one after the other, each split over the team by outputs, three barriers each. One row: all its experts
 * form one list of outputs, two barriers in all. In both an element of out belongs to one thread at a time. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_device.h"

typedef struct moe_job {
    qn_cpu_job base;
    const qn_experts *ex;
    const float *x; /* rows the experts see: in[0], normalised for MOE */
    size_t x_stride;
    const float *routing; /* rows of n_active ids as int32 bits, n_active weights */
    float *sum;           /* rows of sums over experts */
    size_t width, sum_stride;
} moe_job;

/* An expert and its entries. */
typedef struct moe_expert {
    const qn_dweight *gate, *up, *down;
    const uint32_t *rows; /* NULL: all, in order */
    const float *weights;
    size_t n;
} moe_expert;

static bool has_shared(const moe_job *m)
{
    return m->base.op->kind == QN_OP_MOE && m->ex->shared_gate;
}

void qn_cpu_moe_sizes(const qn_device *d, const qn_op *op, qn_cpu_sizes *s)
{
    size_t rows = d->cfg.max_rows, width = op->in[0].width;
    const qn_experts *ex = op->experts;
    s->act_cols = QN_MAX(s->act_cols, width);
    if (!ex) { /* SHARED_GATE */
        s->act_cols = QN_MAX(s->act_cols, op->in[1].width);
        s->entries = QN_MAX(s->entries, rows);
        return;
    }
    size_t ffn = QN_MAX(ex->ffn_size, ex->shared_ffn_size);
    s->norm = QN_MAX(s->norm, rows * width);
    s->tile = QN_MAX(s->tile, QN_MAX(rows * QN_CPU_TILE_COLS, 2 * QN_MAX(ffn, width)));
    s->logits = QN_MAX(s->logits, rows * ex->n_experts);
    s->routing = QN_MAX(s->routing, rows * 2 * ex->n_active);
    s->entries = QN_MAX(s->entries, rows * ex->n_active);
    s->experts = QN_MAX(s->experts, (size_t)ex->n_experts + 1);
    s->ffn_cols = QN_MAX(s->ffn_cols, ffn);
    s->one_cols = QN_MAX(s->one_cols, ffn);
    s->n_one = QN_MAX(s->n_one, (size_t)ex->n_active + 1);
    s->hidden = QN_MAX(s->hidden, QN_MAX(rows, (size_t)ex->n_active + 1) * ffn);
    s->moe_out = QN_MAX(s->moe_out, rows * width);
}

/* ---- routing ---- */

/* The k largest of p[n] (used up), ties to the lower id. */
static void top_k(float *p, size_t n, const qn_experts *ex, float *out)
{
    float sum = 0;
    for (uint32_t i = 0; i < ex->n_active; i++) {
        size_t best = 0;
        for (size_t e = 1; e < n; e++)
            if (p[e] > p[best])
                best = e;
        int32_t id = (int32_t)best;
        memcpy(&out[i], &id, sizeof id);
        out[ex->n_active + i] = p[best];
        sum += p[best];
        p[best] = -INFINITY;
    }
    for (uint32_t i = 0; ex->norm_topk && i < ex->n_active; i++)
        out[ex->n_active + i] /= sum;
}

/* Probabilities of this thread's experts, and the shared expert's gate; rows prepared. Then: a barrier. */
static void route_products(const qn_cpu_job *job, const qn_dweight *router,
                           const qn_dweight *shared_router, int thread, int n_threads)
{
    qn_device *d = job->d;
    size_t b, e, n = qn_dweight_rows(router);
    qn_team_split(n, qn_dweight_row_step(router), thread, n_threads, &b, &e);
    if (b < e)
        qn_matmul(&d->k, router, d->acts, b, e, d->logits, n, thread);
    if (shared_router && thread == n_threads - 1)
        qn_matmul(&d->k, shared_router, d->acts, 0, 1, d->shared_weights, 1, thread);
}

static void route_rows(const qn_cpu_job *job, const qn_dweight *router, float *routing,
                       size_t stride, int thread, int n_threads)
{
    qn_device *d = job->d;
    size_t b, e, n = qn_dweight_rows(router);
    qn_team_split(job->n_rows, 1, thread, n_threads, &b, &e);
    for (size_t r = b; r < e; r++) {
        d->k.softmax(d->logits + r * n, n);
        top_k(d->logits + r * n, n, job->op->experts, routing + r * stride);
    }
}

static void route(void *arg, int thread, int n_threads)
{
    const qn_cpu_job *job = arg;
    const qn_op *op = job->op;
    qn_cpu_prepare_rows(job, thread, n_threads);
    route_products(job, op->w[0], NULL, thread, n_threads);
    qn_team_barrier(job->d->team);
    route_rows(job, op->w[0], qn_cpu_row(&op->out, 0), op->out.width, thread, n_threads);
}

void qn_cpu_route(const qn_cpu_job *job)
{
    qn_cpu_begin_rows(job, qn_cpu_kind(job->op->w[0]));
    qn_team_run(job->d->team, route, (void *)(uintptr_t)job);
}

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* ---- experts ---- */

static int32_t routed_id(const moe_job *m, size_t row, size_t i)
{
    int32_t id;
    memcpy(&id, m->routing + row * 2 * m->ex->n_active + i, sizeof id);
    return id;
}

static float routed_weight(const moe_job *m, size_t row, size_t i)
{
    return m->routing[(row * 2 + 1) * m->ex->n_active + i];
}

/* Counting sort of all routed pairs by expert; rows stay ascending. */
static void group_by_expert(const moe_job *m)
{
    qn_device *d = m->base.d;
    const qn_experts *ex = m->ex;
    uint32_t *begin = d->expert_begin;
    memset(begin, 0, (ex->n_experts + 1) * sizeof *begin);
    for (size_t r = 0; r < m->base.n_rows; r++)
        for (size_t i = 0; i < ex->n_active; i++)
            begin[routed_id(m, r, i) + 1]++;
    for (size_t e = 0; e < ex->n_experts; e++)
        begin[e + 1] += begin[e];
    for (size_t r = 0; r < m->base.n_rows; r++)
        for (size_t i = 0; i < ex->n_active; i++) {
            uint32_t at = begin[routed_id(m, r, i)]++;
            d->entry_rows[at] = (uint32_t)r;
            d->entry_weights[at] = routed_weight(m, r, i);
        }
    for (size_t e = ex->n_experts; e > 0; e--)
        begin[e] = begin[e - 1];
    begin[0] = 0;
}

/* The next expert with entries at or after id `e`, the shared one last; returns its id, n_experts + 1: no more. */
static size_t next_expert(const moe_job *m, size_t e, moe_expert *out)
{
    const qn_device *d = m->base.d;
    const qn_experts *ex = m->ex;
    for (; e < ex->n_experts; e++) {
        uint32_t b = d->expert_begin[e], n = d->expert_begin[e + 1] - b;
        if (n > 0) {
            *out = (moe_expert){ex->gate[e],          ex->up[e], ex->down[e], d->entry_rows + b,
                                d->entry_weights + b, n};
            return e;
        }
    }
    if (e > ex->n_experts || !has_shared(m))
        return (size_t)ex->n_experts + 1;
    *out = (moe_expert){ex->shared_gate,   ex->shared_up, ex->shared_down, NULL,
                        d->shared_weights, m->base.n_rows};
    return e;
}

static void begin_inputs(const moe_job *m, const moe_expert *e)
{
    qn_acts_begin(m->base.d->acts, e->n, m->width, qn_cpu_kind(e->gate) | qn_cpu_kind(e->up));
}

/* sum[row] += weight * (hidden · downᵀ), outputs [b, e) */
static void expert_down(const moe_job *m, const moe_expert *x, const qn_acts *hidden, size_t begin,
                        size_t end, int thread)
{
    const qn_device *d = m->base.d;
    size_t cols = qn_cpu_tile_cols(d, qn_dweight_row_step(x->down), x->n);
    float *tile = qn_cpu_tile(d, thread);
    for (size_t c = begin; c < end; c += cols) {
        size_t n = QN_MIN(cols, end - c);
        qn_matmul(&d->k, x->down, hidden, c, c + n, qn_cpu_tile_at(tile, c), n, thread);
        for (size_t i = 0; i < x->n; i++) {
            size_t row = x->rows ? x->rows[i] : i;
            d->k.add_scaled(tile + i * n, x->weights[i], n, m->sum + row * m->sum_stride + c);
        }
    }
}

static void expert_gated(const moe_job *m, const moe_expert *x, float *hidden, size_t begin,
                         size_t end, int thread)
{
    const qn_device *d = m->base.d;
    qn_cpu_gated g = {.acts = d->acts,
                      .n_rows = x->n,
                      .gate = x->gate,
                      .up = x->up,
                      .h = hidden,
                      .stride = qn_dweight_rows(x->gate)};
    qn_cpu_gated_run(d, &g, begin, end, thread);
}

static void experts_many(const moe_job *m, int thread, int n_threads)
{
    qn_device *d = m->base.d;
    moe_expert x, next;
    size_t b, e;
    qn_team_split(m->base.n_rows, 1, thread, n_threads, &b, &e);
    for (size_t r = b; r < e; r++)
        memset(m->sum + r * m->sum_stride, 0, m->width * sizeof *m->sum);
    if (thread == 0) {
        group_by_expert(m);
        next_expert(m, 0, &x);
        begin_inputs(m, &x);
    }
    qn_team_barrier(d->team);
    for (size_t id = next_expert(m, 0, &x); id <= m->ex->n_experts;
         id = next_expert(m, id + 1, &x)) {
        size_t ffn = qn_dweight_rows(x.gate);
        qn_team_split(x.n, QN_ACTS_ROW_STEP, thread, n_threads, &b, &e);
        if (b < e)
            qn_acts_put(d->acts, &d->k, b, e, m->x, m->x_stride, x.rows);
        qn_team_barrier(d->team);
        /* The last expert's hidden rows are no longer read: everyone has passed a barrier since. */
        if (thread == 0)
            qn_acts_begin(d->ffn_acts, x.n, ffn, qn_cpu_kind(x.down));
        qn_team_split(ffn, qn_cpu_gated_step(x.gate, x.up), thread, n_threads, &b, &e);
        expert_gated(m, &x, d->hidden, b, e, thread);
        qn_team_barrier(d->team);
        if (thread == 0 && next_expert(m, id + 1, &next) <= m->ex->n_experts)
            begin_inputs(m, &next);
        qn_team_split(x.n, QN_ACTS_ROW_STEP, thread, n_threads, &b, &e);
        if (b < e)
            qn_acts_put(d->ffn_acts, &d->k, b, e, d->hidden, ffn, NULL);
        qn_team_barrier(d->team);
        qn_team_split(m->width, qn_dweight_row_step(x.down), thread, n_threads, &b, &e);
        expert_down(m, &x, d->ffn_acts, b, e, thread);
    }
    qn_team_barrier(d->team);
}

/* ---- one row ---- */

static unsigned all_kinds(const moe_job *m)
{
    unsigned kinds = 0;
    for (size_t e = 0; e < m->ex->n_experts; e++)
        kinds |= qn_cpu_kind(m->ex->gate[e]) | qn_cpu_kind(m->ex->up[e]);
    if (m->base.op->kind == QN_OP_MOE)
        kinds |= qn_cpu_kind(m->ex->router) | qn_cpu_kind(m->ex->shared_router) |
                 qn_cpu_kind(m->ex->shared_gate) | qn_cpu_kind(m->ex->shared_up);
    return kinds;
}

/* hidden = inner outputs of all experts, one after the other; the list is split over the team by bytes. */
static void one_gated(const moe_job *m, int thread, int n_threads)
{
    moe_expert x;
    size_t total = 0, before = 0, n_experts = m->ex->n_experts;
    float *hidden = m->base.d->hidden;
    for (size_t id = next_expert(m, 0, &x); id <= n_experts; id = next_expert(m, id + 1, &x))
        total += qn_dweight_bytes(x.gate) + qn_dweight_bytes(x.up);
    for (size_t id = next_expert(m, 0, &x); id <= n_experts; id = next_expert(m, id + 1, &x)) {
        qn_cpu_span span = {.total = total,
                            .before = before,
                            .bytes = qn_dweight_bytes(x.gate) + qn_dweight_bytes(x.up),
                            .rows = qn_dweight_rows(x.gate),
                            .step = qn_cpu_gated_step(x.gate, x.up)};
        expert_gated(m, &x, hidden, qn_cpu_border(&span, thread, n_threads),
                     qn_cpu_border(&span, thread + 1, n_threads), thread);
        before += span.bytes;
        hidden += span.rows;
    }
}

static void one_put_hidden(const moe_job *m, int thread, int n_threads)
{
    qn_device *d = m->base.d;
    moe_expert x;
    const float *hidden = d->hidden;
    int i = 0;
    for (size_t id = next_expert(m, 0, &x); id <= m->ex->n_experts;
         id = next_expert(m, id + 1, &x)) {
        size_t ffn = qn_dweight_rows(x.gate);
        if (i % n_threads == thread) {
            qn_acts_begin(d->one_acts[i], 1, ffn, qn_cpu_kind(x.down));
            qn_acts_put(d->one_acts[i], &d->k, 0, 1, hidden, ffn, NULL);
        }
        hidden += ffn;
        i++;
    }
}

static void one_down(const moe_job *m, int thread, int n_threads)
{
    qn_device *d = m->base.d;
    moe_expert x;
    size_t b, e, step = 1, i = 0, n_experts = m->ex->n_experts;
    for (size_t id = next_expert(m, 0, &x); id <= n_experts; id = next_expert(m, id + 1, &x))
        step = QN_MAX(step, qn_dweight_row_step(x.down));
    qn_team_split(m->width, step, thread, n_threads, &b, &e);
    memset(m->sum + b, 0, (e - b) * sizeof *m->sum);
    for (size_t id = next_expert(m, 0, &x); id <= n_experts; id = next_expert(m, id + 1, &x))
        expert_down(m, &x, d->one_acts[i++], b, e, thread);
}

/* Row 0 is prepared in acts. */
static void experts_one(const moe_job *m, int thread, int n_threads)
{
    qn_team *team = m->base.d->team;
    if (thread == 0)
        group_by_expert(m);
    qn_team_barrier(team);
    one_gated(m, thread, n_threads);
    qn_team_barrier(team);
    one_put_hidden(m, thread, n_threads);
    qn_team_barrier(team);
    one_down(m, thread, n_threads);
    qn_team_barrier(team);
}

/* ---- the operations ---- */

static void experts(void *arg, int thread, int n_threads)
{
    const moe_job *m = arg;
    if (m->base.n_rows > 1) {
        experts_many(m, thread, n_threads);
        return;
    }
    experts_one(m, thread, n_threads);
}

void qn_cpu_experts(const qn_cpu_job *job)
{
    const qn_op *op = job->op;
    moe_job m = {.base = *job,
                 .ex = op->experts,
                 .x = qn_cpu_row(&op->in[0], 0),
                 .x_stride = op->in[0].width,
                 .routing = qn_cpu_row(&op->in[1], 0),
                 .sum = qn_cpu_row(&op->out, 0),
                 .width = op->in[0].width,
                 .sum_stride = op->out.width};
    if (job->n_rows == 1)
        qn_cpu_begin_rows(job, all_kinds(&m));
    qn_team_run(job->d->team, experts, &m);
}

static void moe(void *arg, int thread, int n_threads)
{
    const moe_job *m = arg;
    const qn_cpu_job *job = &m->base;
    qn_device *d = job->d;
    size_t b, e;
    qn_cpu_prepare_rows(job, thread, n_threads);
    route_products(job, m->ex->router, m->ex->shared_router, thread, n_threads);
    qn_team_barrier(d->team);
    route_rows(job, m->ex->router, d->routing, 2 * (size_t)m->ex->n_active, thread, n_threads);
    qn_team_split(job->n_rows, 1, thread, n_threads, &b, &e);
    for (size_t r = b; r < e; r++)
        d->shared_weights[r] = m->ex->shared_router ? sigmoid(d->shared_weights[r]) : 1.0f;
    qn_team_barrier(d->team);
    if (job->n_rows > 1)
        experts_many(m, thread, n_threads);
    else
        experts_one(m, thread, n_threads);
    for (size_t r = b; r < e; r++)
        d->k.add(qn_cpu_row(&job->op->in[1], r), m->sum + r * m->sum_stride, m->width,
                 qn_cpu_row(&job->op->out, r));
}

void qn_cpu_moe(const qn_cpu_job *job)
{
    qn_device *d = job->d;
    const qn_op *op = job->op;
    bool norm = op->fuse & QN_FUSE_NORM;
    moe_job m = {.base = *job,
                 .ex = op->experts,
                 .x = norm ? d->norm : qn_cpu_row(&op->in[0], 0),
                 .x_stride = op->in[0].width,
                 .routing = d->routing,
                 .sum = d->moe_out,
                 .width = op->in[0].width,
                 .sum_stride = op->in[0].width};
    qn_cpu_begin_rows(job, job->n_rows == 1
                               ? all_kinds(&m)
                               : qn_cpu_kind(m.ex->router) | qn_cpu_kind(m.ex->shared_router));
    qn_team_run(d->team, moe, &m);
}

static void shared_gate(void *arg, int thread, int n_threads)
{
    const qn_cpu_job *job = arg;
    const qn_op *op = job->op;
    qn_device *d = job->d;
    const qn_dweight *w = op->n_w > 0 ? op->w[0] : NULL;
    const qn_operand *x = &op->in[1];
    size_t b, e;
    if (w) {
        qn_team_split(job->n_rows, QN_ACTS_ROW_STEP, thread, n_threads, &b, &e);
        if (b < e)
            qn_acts_put(d->acts, &d->k, b, e, qn_cpu_row(x, 0), x->width, NULL);
        qn_team_barrier(d->team);
        if (thread == 0)
            qn_matmul(&d->k, w, d->acts, 0, 1, d->shared_weights, 1, thread);
        qn_team_barrier(d->team);
    }
    qn_team_split(job->n_rows, 1, thread, n_threads, &b, &e);
    for (size_t r = b; r < e; r++) {
        float *out = qn_cpu_row(&op->out, r);
        if (out != qn_cpu_row(&op->in[0], r))
            memcpy(out, qn_cpu_row(&op->in[0], r), op->out.width * sizeof *out);
        d->k.add_scaled(qn_cpu_row(&op->in[2], r), w ? sigmoid(d->shared_weights[r]) : 1.0f,
                        op->out.width, out);
    }
}

void qn_cpu_shared_gate(const qn_cpu_job *job)
{
    const qn_op *op = job->op;
    if (op->n_w > 0)
        qn_acts_begin(job->d->acts, job->n_rows, op->in[1].width, qn_cpu_kind(op->w[0]));
    qn_team_run(job->d->team, shared_gate, (void *)(uintptr_t)job);
}
