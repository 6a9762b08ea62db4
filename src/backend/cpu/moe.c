/* SPDX-License-Identifier: Apache-2.0
 * moe.c - ROUTE, EXPERTS, SHARED_GATE and all of them in one (MOE) of the CPU device.
 *
 *   route   softmax(x·routerᵀ) over all experts in float32, the k largest, ties to the lower id     | barrier
 *   group   counting sort of (row, weight) by expert; an expert's rows stay in order                | barrier
 *   inner   pieces of all experts' gate and up, taken by the threads one by one: the rows of the
 *           piece's expert -> gate, up, silu -> its columns of the hidden rows, prepared for down   | barrier
 *   outer   ranges of columns, taken one by one: sum over the experts of weight * (hidden · downᵀ), plus the residual
 *
 * The rows of the input are prepared once; an expert's rows are gathered from them by each thread that works on it. The hidden rows
 * of all experts stand in one set, each expert's from a multiple of 4.
 *
 * Experts from a source that does not hold all at once come in waves of consecutive ids: inner and outer for each, the sums kept between.
 *
 * Order of a row's sum: its experts by ascending id, then the shared expert, then the residual; and an element of the output belongs
 * to one thread. So a row gives the same bits alone and in a batch, whoever takes which piece. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_device.h"

enum {
    BLOCK_ROWS = QN_CPU_BLOCK_ROWS,
    TILE_FLOATS = 32 * 1024, /* of gate and up: stay in the second-level cache */
    SUM_FLOATS = 64 * 1024,  /* of a range of columns of the output */
    COLUMN_STEP = 32,        /* pieces of hidden rows: a block of the prepared form */
    PIECES = 16              /* of a list, for each thread: the last ones end nearly together */
};

/* An expert and its entries. */
typedef struct qn_cpu_group {
    const qn_dweight *gate, *up, *down;
    const uint32_t *rows; /* NULL: all, in order */
    const float *weights;
    size_t n;
    size_t first_hidden;          /* row of the set of hidden rows */
    size_t first_piece, n_pieces; /* of each block of rows */
} group;

typedef struct moe_job {
    qn_cpu_job base;
    const qn_experts *ex;
    const float *routing; /* rows of n_active ids as int32 bits, n_active weights */
} moe_job;

static unsigned input_kinds(const qn_experts *ex)
{
    unsigned kinds = qn_cpu_kind(ex->router) | qn_cpu_kind(ex->shared_router) |
                     qn_cpu_kind(ex->shared_gate) | qn_cpu_kind(ex->shared_up);
    for (size_t e = 0; e < ex->n_experts && ex->gate; e++)
        kinds |= qn_cpu_kind(ex->gate[e]) | qn_cpu_kind(ex->up[e]);
    return kinds;
}

static unsigned hidden_kinds(const qn_experts *ex)
{
    unsigned kinds = qn_cpu_kind(ex->shared_down);
    for (size_t e = 0; e < ex->n_experts && ex->down; e++)
        kinds |= qn_cpu_kind(ex->down[e]);
    return kinds;
}

/* Columns of the output in one range. */
static size_t range_columns(const qn_device *d, size_t width, size_t rows)
{
    size_t fair = QN_DIV_UP(width, (size_t)d->cfg.n_threads * PIECES / 2), fit = SUM_FLOATS / rows;
    return QN_ROUND_UP(QN_MAX(QN_MIN(fair, fit), (size_t)1), (size_t)QN_PACK_ROWS);
}

void qn_cpu_moe_sizes(const qn_device *d, const qn_op *op, qn_cpu_sizes *s)
{
    size_t rows = d->cfg.max_rows, width = op->in[0].width;
    const qn_experts *ex = op->experts;
    s->act_cols = QN_MAX(s->act_cols, width);
    if (!ex) { /* SHARED_GATE */
        s->act_cols = QN_MAX(s->act_cols, op->in[1].width);
        s->act_kinds |= op->n_w > 0 ? qn_cpu_kind(op->w[0]) : 0;
        s->entries = QN_MAX(s->entries, rows);
        return;
    }
    size_t entries = rows * ex->n_active, n_groups = (size_t)ex->n_experts + 1;
    s->act_kinds |= input_kinds(ex) | (op->n_w > 0 ? qn_cpu_kind(op->w[0]) : 0);
    s->ffn_kinds |= hidden_kinds(ex);
    s->norm = QN_MAX(s->norm, rows * width);
    size_t sums = QN_MAX(rows * QN_PACK_ROWS, (size_t)SUM_FLOATS);
    s->tile = QN_MAX(s->tile, sums + TILE_FLOATS);
    s->logits = QN_MAX(s->logits, rows * ex->n_experts);
    s->routing = QN_MAX(s->routing, rows * 2 * ex->n_active);
    s->entries = QN_MAX(s->entries, entries);
    s->groups = QN_MAX(s->groups, QN_DIV_UP(n_groups * sizeof(group), 4));
    s->expert_begin = QN_MAX(s->expert_begin, n_groups);
    s->gather_cols = QN_MAX(s->gather_cols, ex->gate ? width : 0);
    s->ffn_cols = QN_MAX(s->ffn_cols, ex->ffn_size);
    s->ffn_rows =
        QN_MAX(s->ffn_rows, entries + (QN_ACTS_ROW_STEP - 1) * QN_MIN(entries, ex->n_experts));
    s->shared_cols = QN_MAX(s->shared_cols, ex->shared_ffn_size);
    s->sums = QN_MAX(s->sums, ex->source ? rows * width : 0);
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
                       size_t stride, size_t begin, size_t end)
{
    qn_device *d = job->d;
    size_t n = qn_dweight_rows(router);
    for (size_t r = begin; r < end; r++) {
        d->k.softmax(d->logits + r * n, n);
        top_k(d->logits + r * n, n, job->op->experts, routing + r * stride);
    }
}

static void route(void *arg, int thread, int n_threads)
{
    const qn_cpu_job *job = arg;
    const qn_op *op = job->op;
    size_t b, e;
    qn_cpu_prepare_rows(job, thread, n_threads);
    route_products(job, op->w[0], NULL, thread, n_threads);
    qn_team_barrier(job->d->team);
    qn_team_split(job->n_rows, 1, thread, n_threads, &b, &e);
    route_rows(job, op->w[0], qn_cpu_row(&op->out, 0), op->out.width, b, e);
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

/* ---- groups ---- */

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
static void sort_by_expert(const moe_job *m)
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

/* The wave's experts that have entries by ascending id, after the last wave the shared one. */
static void list_groups(const moe_job *m)
{
    qn_device *d = m->base.d;
    const qn_experts *ex = m->ex;
    size_t n = 0, hidden = 0;
    for (size_t e = d->wave_from; e < d->wave_to; e++) {
        uint32_t b = d->expert_begin[e], n_entries = d->expert_begin[e + 1] - b;
        if (n_entries == 0)
            continue;
        d->groups[n++] = (group){.gate = ex->gate[e],
                                 .up = ex->up[e],
                                 .down = ex->down[e],
                                 .rows = d->entry_rows + b,
                                 .weights = d->entry_weights + b,
                                 .n = n_entries,
                                 .first_hidden = hidden};
        hidden += QN_ROUND_UP(n_entries, (uint32_t)QN_ACTS_ROW_STEP);
    }
    if (m->base.op->kind == QN_OP_MOE && ex->shared_gate && d->wave_to == ex->n_experts)
        d->groups[n++] = (group){.gate = ex->shared_gate,
                                 .up = ex->shared_up,
                                 .down = ex->shared_down,
                                 .weights = d->shared_weights,
                                 .n = m->base.n_rows};
    d->n_groups = n;
}

/* Of a group's inner products, in units of the work of 4 rows; reading or unpacking the weights is another one. */
static size_t group_cost(const group *g)
{
    return (1 + (g->n == 1 ? 0 : QN_DIV_UP(g->n, (size_t)4))) * qn_dweight_rows(g->gate);
}

/* Pieces of about the same cost, no smaller than a PIECES-th of a thread's share. */
static void cut_pieces(qn_device *d, int n_threads)
{
    size_t total = 0, at = 0;
    for (size_t i = 0; i < d->n_groups; i++)
        total += group_cost(&d->groups[i]);
    size_t share = QN_MAX(QN_DIV_UP(total, (size_t)n_threads * PIECES), (size_t)1);
    for (size_t i = 0; i < d->n_groups; i++) {
        group *g = &d->groups[i];
        size_t blocks = QN_DIV_UP(g->n, (size_t)BLOCK_ROWS),
               most = QN_DIV_UP(qn_dweight_rows(g->gate), (size_t)COLUMN_STEP);
        g->first_piece = at;
        g->n_pieces = QN_MIN(QN_MAX(group_cost(g) / blocks / share, (size_t)1), most);
        at += g->n_pieces * blocks;
    }
    d->n_pieces = at;
}

/* The next experts that are in memory together; with no source all of them. One thread; after it, a barrier. */
static void begin_wave(const moe_job *m, uint32_t from, int n_threads)
{
    qn_device *d = m->base.d;
    const qn_experts *ex = m->ex;
    if (from == 0)
        sort_by_expert(m);
    d->n_reads = 0;
    d->wave_from = from;
    d->wave_to = ex->n_experts;
    if (ex->source)
        d->wave_to = ex->source->plan(ex->source, ex, d->expert_begin, from, &d->n_reads);
    list_groups(m);
    cut_pieces(d, n_threads);
    qn_acts_begin(d->gathered, (size_t)n_threads * BLOCK_ROWS, m->base.op->in[0].width,
                  d->gathered->max_kinds);
    qn_acts_begin(d->ffn_acts, d->have.ffn_rows, ex->ffn_size, d->ffn_acts->max_kinds);
    atomic_store(&d->next_read, 0);
    atomic_store(&d->next_piece, 0);
    atomic_store(&d->next_range, 0);
}

/* All threads together; false: it failed. */
static bool read_experts(const moe_job *m)
{
    qn_device *d = m->base.d;
    qn_expert_source *s = m->ex->source;
    size_t i;
    if (d->n_reads == 0)
        return true;
    while ((i = atomic_fetch_add(&d->next_read, 1)) < d->n_reads)
        s->read(s, i);
    qn_team_barrier(d->team);
    return s->status(s, NULL) == QN_OK;
}

/* ---- inner products ---- */

/* The hidden rows of a group, as a set of its own. */
static qn_acts hidden_rows(const qn_device *d, const group *g)
{
    qn_acts h = g->rows ? qn_acts_part(d->ffn_acts, g->first_hidden, g->n) : *d->shared_acts;
    qn_acts_begin(&h, g->n, qn_dweight_cols(g->down), qn_cpu_kind(g->down));
    return h;
}

/* Rows [first, first + n) of a group, as a set. */
static qn_acts input_rows(const qn_device *d, const group *g, size_t first, size_t n, int thread)
{
    if (!g->rows || d->acts->rows == 1)
        return qn_acts_part(d->acts, first, n);
    qn_acts x = qn_acts_part(d->gathered, (size_t)thread * BLOCK_ROWS, n);
    qn_acts_begin(&x, n, d->acts->cols, qn_cpu_kind(g->gate) | qn_cpu_kind(g->up));
    qn_acts_gather(&x, d->acts, g->rows + first);
    return x;
}

/* Columns [begin, end) of hidden rows [first, first + x->rows). */
static void inner_piece(const qn_device *d, const group *g, const qn_acts *x, size_t first,
                        size_t begin, size_t end, int thread)
{
    qn_acts h = hidden_rows(d, g);
    QN_ASSERT(x->rows > 0);
    size_t cols = QN_MAX(TILE_FLOATS / 2 / x->rows / COLUMN_STEP, (size_t)1) * COLUMN_STEP;
    for (size_t c = begin; c < end; c += cols) {
        size_t n = QN_MIN(cols, end - c);
        float *a = qn_cpu_tile(d, thread), *b = a + x->rows * n;
        qn_matmul(&d->k, g->gate, x, c, c + n, qn_cpu_tile_at(a, c), n, thread);
        qn_matmul(&d->k, g->up, x, c, c + n, qn_cpu_tile_at(b, c), n, thread);
        for (size_t r = 0; r < x->rows; r++, a += n, b += n) {
            d->k.silu_mul(a, b, n, a);
            qn_acts_put_columns(&h, &d->k, first + r, c, c + n, a);
        }
    }
}

static void inner(const moe_job *m, int thread)
{
    qn_device *d = m->base.d;
    const group *g = d->groups;
    qn_acts x = {0};
    size_t i, have = SIZE_MAX; /* what x holds */
    while ((i = atomic_fetch_add(&d->next_piece, 1)) < d->n_pieces) {
        while (g + 1 < d->groups + d->n_groups && g[1].first_piece <= i)
            g++;
        size_t block = (i - g->first_piece) / g->n_pieces, first = block * BLOCK_ROWS, b, e;
        if (have != g->first_piece + block * g->n_pieces) {
            x = input_rows(d, g, first, QN_MIN(g->n - first, (size_t)BLOCK_ROWS), thread);
            have = g->first_piece + block * g->n_pieces;
        }
        qn_team_split(qn_dweight_rows(g->gate), COLUMN_STEP, (int)(i - have), (int)g->n_pieces, &b,
                      &e);
        inner_piece(d, g, &x, first, b, e, thread);
    }
}

/* ---- outer products ---- */

/* sum[row][n] += weight * (hidden · downᵀ), outputs [begin, begin + n) */
static void add_group(const qn_device *d, const group *g, size_t begin, size_t n, float *sum,
                      float *tile, int thread)
{
    const qn_acts h = hidden_rows(d, g);
    for (size_t first = 0; first < g->n; first += BLOCK_ROWS) {
        qn_acts part = qn_acts_part(&h, first, QN_MIN(g->n - first, (size_t)BLOCK_ROWS));
        qn_matmul(&d->k, g->down, &part, begin, begin + n, qn_cpu_tile_at(tile, begin), n, thread);
        for (size_t i = 0; i < part.rows; i++) {
            size_t row = g->rows ? g->rows[first + i] : first + i;
            d->k.add_scaled(tile + i * n, g->weights[first + i], n, sum + row * n);
        }
    }
}

/* Columns [begin, begin + n) of a row's sum into the output, or away until the next wave. */
static void put_sum(const moe_job *m, size_t row, size_t begin, size_t n, const float *sum)
{
    const qn_op *op = m->base.op;
    qn_device *d = m->base.d;
    float *out = qn_cpu_row(&op->out, row) + begin;
    if (d->wave_to < m->ex->n_experts)
        memcpy(d->sums + row * op->out.width + begin, sum, n * sizeof *sum);
    else if (op->kind == QN_OP_MOE)
        d->k.add(qn_cpu_row(&op->in[1], row) + begin, sum, n, out);
    else
        memcpy(out, sum, n * sizeof *out);
}

static void outer(const moe_job *m, int thread)
{
    qn_device *d = m->base.d;
    size_t rows = m->base.n_rows, width = m->base.op->out.width,
           cols = range_columns(d, width, rows), b;
    float *sum = qn_cpu_tile(d, thread) + TILE_FLOATS;
    while ((b = atomic_fetch_add(&d->next_range, 1) * cols) < width) {
        size_t n = QN_MIN(cols, width - b);
        memset(sum, 0, rows * n * sizeof *sum);
        for (size_t r = 0; r < rows && d->wave_from > 0; r++)
            memcpy(sum + r * n, d->sums + r * width + b, n * sizeof *sum);
        for (size_t i = 0; i < d->n_groups; i++)
            add_group(d, &d->groups[i], b, n, sum, qn_cpu_tile(d, thread), thread);
        for (size_t r = 0; r < rows; r++)
            put_sum(m, r, b, n, sum + r * n);
    }
}

/* Rows are prepared and routed. If the source fails all threads leave together. */
static void run_experts(const moe_job *m, int thread, int n_threads)
{
    qn_device *d = m->base.d;
    for (uint32_t from = 0; from < m->ex->n_experts; from = d->wave_to) {
        if (from > 0) /* the last wave is over */
            qn_team_barrier(d->team);
        if (thread == 0)
            begin_wave(m, from, n_threads);
        qn_team_barrier(d->team);
        if (!read_experts(m))
            return;
        inner(m, thread);
        qn_team_barrier(d->team);
        outer(m, thread);
    }
}

/* ---- the operations ---- */

static void experts(void *arg, int thread, int n_threads)
{
    const moe_job *m = arg;
    qn_cpu_prepare_rows(&m->base, thread, n_threads);
    run_experts(m, thread, n_threads);
}

void qn_cpu_experts(const qn_cpu_job *job)
{
    const qn_op *op = job->op;
    moe_job m = {.base = *job, .ex = op->experts, .routing = qn_cpu_row(&op->in[1], 0)};
    qn_cpu_begin_rows(job, input_kinds(op->experts));
    qn_team_run(job->d->team, experts, &m);
}

/* Weights of the shared expert for this thread's rows. */
static void shared_weights(const moe_job *m, size_t begin, size_t end)
{
    float *w = m->base.d->shared_weights;
    for (size_t r = begin; r < end; r++)
        w[r] = m->ex->shared_router ? sigmoid(w[r]) : 1.0f;
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
    qn_team_split(job->n_rows, QN_ACTS_ROW_STEP, n_threads - 1 - thread, n_threads, &b, &e);
    route_rows(job, m->ex->router, d->routing, 2 * (size_t)m->ex->n_active, b, e);
    shared_weights(m, b, e);
    if (job->n_rows > QN_ACTS_ROW_STEP) /* else worker 0 has done them all */
        qn_team_barrier(d->team);
    run_experts(m, thread, n_threads);
}

void qn_cpu_moe(const qn_cpu_job *job)
{
    qn_device *d = job->d;
    moe_job m = {.base = *job, .ex = job->op->experts, .routing = d->routing};
    qn_cpu_begin_rows(job, input_kinds(m.ex));
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
