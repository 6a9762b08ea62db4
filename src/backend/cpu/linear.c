/* SPDX-License-Identifier: Apache-2.0
 * linear.c - LINEAR of the CPU device: norm, products, bias, gate, residual in one pass of the team.
 *
 *   rows of in[0] --(norm)--> acts | barrier, if many | each thread: its outputs of w[0], w[1], ... for all rows, then the epilogue on them
 *
 * Outputs are split by the bytes of their weights. A product that needs an epilogue with another operand goes through the thread's
 * tile, some columns at a time, while it is in the cache. */
#include "backend/cpu/cpu_device.h"

static size_t op_outputs(const qn_op *op)
{
    size_t n = 0;
    for (uint32_t i = 0; i < op->n_w; i++)
        n += qn_dweight_rows(op->w[i]);
    return n;
}

void qn_cpu_linear_sizes(const qn_device *d, const qn_op *op, qn_cpu_sizes *s)
{
    s->act_cols = QN_MAX(s->act_cols, op->in[0].width);
    for (uint32_t i = 0; i < op->n_w; i++)
        s->act_kinds |= qn_cpu_kind(op->w[i]);
    if (op->fuse & QN_FUSE_NORM)
        s->norm = QN_MAX(s->norm, d->cfg.max_rows * op->in[0].width);
    s->tile = QN_MAX(s->tile, QN_MAX((size_t)d->cfg.max_rows * QN_CPU_TILE_COLS, op_outputs(op)));
}

size_t qn_cpu_tile_cols(const qn_device *d, size_t step, size_t n_rows)
{
    return QN_MAX(d->have.tile / n_rows / step, 1) * step;
}

static void put_rows(const qn_cpu_job *job, size_t begin, size_t end)
{
    const qn_device *d = job->d;
    const qn_op *op = job->op;
    const qn_operand *in = &op->in[0];
    if (!(op->fuse & QN_FUSE_NORM)) {
        qn_acts_put(d->acts, &d->k, begin, end, qn_cpu_row(in, 0), in->width, NULL);
        return;
    }
    for (size_t r = begin; r < end; r++)
        d->k.rmsnorm(qn_cpu_row(in, r), qn_cpu_vec(op->vec[0]), in->width, op->eps,
                     d->norm + r * in->width);
    qn_acts_put(d->acts, &d->k, begin, end, d->norm, in->width, NULL);
}

/* Rows that are one thread's share anyway are prepared before the team starts, which saves the barrier. */
static bool is_prepared_first(const qn_cpu_job *job)
{
    return job->n_rows <= QN_ACTS_ROW_STEP;
}

void qn_cpu_begin_rows(const qn_cpu_job *job, unsigned kinds)
{
    qn_acts_begin(job->d->acts, job->n_rows, job->op->in[0].width, kinds);
    if (is_prepared_first(job))
        put_rows(job, 0, job->n_rows);
}

void qn_cpu_prepare_rows(const qn_cpu_job *job, int thread, int n_threads)
{
    size_t begin, end;
    if (is_prepared_first(job))
        return;
    qn_team_split(job->n_rows, QN_ACTS_ROW_STEP, thread, n_threads, &begin, &end);
    if (begin < end)
        put_rows(job, begin, end);
    qn_team_barrier(job->d->team);
}

size_t qn_cpu_gated_step(const qn_dweight *gate, const qn_dweight *up)
{
    return QN_MAX(qn_dweight_row_step(gate), qn_dweight_row_step(up));
}

/* gate in the tile's first half, up in the second. */
void qn_cpu_gated_run(const qn_device *d, const qn_cpu_gated *g, size_t begin, size_t end,
                      int thread)
{
    size_t width = qn_dweight_rows(g->gate);
    size_t cols = qn_cpu_tile_cols(d, qn_cpu_gated_step(g->gate, g->up), 2 * g->n_rows);
    for (size_t c = begin; c < end; c += cols) {
        size_t n = QN_MIN(cols, end - c);
        float *a = qn_cpu_tile(d, thread), *b = a + g->n_rows * n;
        qn_matmul(&d->k, g->gate, g->acts, c, c + n, qn_cpu_tile_at(a, c), n, thread);
        qn_matmul(&d->k, g->up, g->acts, c, c + n, qn_cpu_tile_at(b, c), n, thread);
        for (size_t r = 0; r < g->n_rows; r++, a += n, b += n) {
            float *to = g->h + r * g->stride + c;
            if (g->bias) {
                d->k.add(a, g->bias + c, n, a);
                d->k.add(b, g->bias + width + c, n, b);
            }
            d->k.silu_mul(a, b, n, g->residual ? a : to);
            if (g->residual)
                d->k.add(a, qn_cpu_row(g->residual, r) + c, n, to);
        }
    }
}

/* One weight in a list that is split by bytes. */
typedef struct span {
    size_t total, before, bytes; /* of the list; of the weights before it; its own */
    size_t rows, step;           /* its outputs, and their unit */
} span;

/* Its first output behind the place where i/n of all bytes have passed. */
static size_t border(const span *s, size_t i, size_t n)
{
    size_t at = (size_t)((double)s->total * (double)i / (double)n);
    if (at >= s->before + s->bytes)
        return s->rows;
    if (at <= s->before)
        return 0;
    size_t row = (size_t)((double)(at - s->before) / (double)s->bytes * (double)s->rows);
    return QN_MIN((row + s->step / 2) / s->step * s->step, s->rows);
}

/* Outputs [b, e) of w[i], which are columns `first` + [b, e) of the operation, with bias and residual. */
static void outputs(const qn_cpu_job *job, const qn_dweight *w, size_t first, size_t b, size_t e,
                    int thread)
{
    const qn_device *d = job->d;
    const qn_op *op = job->op;
    const float *bias = op->fuse & QN_FUSE_BIAS ? qn_cpu_vec(op->vec[1]) + first : NULL;
    bool residual = op->fuse & QN_FUSE_RESIDUAL;
    float *out = qn_cpu_row(&op->out, 0) + first;
    size_t cols = residual ? qn_cpu_tile_cols(d, qn_dweight_row_step(w), job->n_rows) : e - b;
    float *tile = qn_cpu_tile(d, thread);
    for (size_t c = b; c < e; c += cols) {
        size_t n = QN_MIN(cols, e - c);
        if (residual)
            qn_matmul(&d->k, w, d->acts, c, c + n, qn_cpu_tile_at(tile, c), n, thread);
        else
            qn_matmul(&d->k, w, d->acts, c, c + n, out, op->out.width, thread);
        for (size_t r = 0; r < job->n_rows; r++) {
            float *to = out + r * op->out.width + c, *y = residual ? tile + r * n : to;
            if (bias)
                d->k.add(y, bias + c, n, y);
            if (residual)
                d->k.add(y, qn_cpu_row(&op->in[1], r) + first + c, n, to);
        }
    }
}

/* A thread's share of the outputs in parts: the first OWN are its own, in one run; the last ones go to whoever is ready for them, so
 * that all end together even if one was held up. */
enum { PARTS = 16, OWN = 12 };

/* Parts [begin, end) of all n_threads * PARTS. */
typedef struct turn {
    size_t begin, end;
    bool is_later; /* not the thread's own first ones */
} turn;

/* What this thread computes next, from {0} on; false: nothing is left. */
static bool next_turn(turn *t, const qn_cpu_job *job, size_t thread, size_t n_threads)
{
    if (!t->is_later) {
        t->is_later = true;
        t->begin = thread * PARTS;
        t->end = t->begin + (job->is_shared ? OWN : PARTS);
        return true;
    }
    if (!job->is_shared)
        return false;
    size_t i = atomic_fetch_add(&job->d->next_piece, 1);
    t->begin = i % n_threads * PARTS + OWN + i / n_threads;
    t->end = t->begin + 1;
    return i < (PARTS - OWN) * n_threads;
}

static void gated_part(const qn_cpu_job *job, const turn *t, int thread, int n_threads)
{
    const qn_op *op = job->op;
    qn_cpu_gated g = {.acts = job->d->acts,
                      .n_rows = job->n_rows,
                      .gate = op->w[0],
                      .up = op->w[1],
                      .bias = op->fuse & QN_FUSE_BIAS ? qn_cpu_vec(op->vec[1]) : NULL,
                      .residual = op->fuse & QN_FUSE_RESIDUAL ? &op->in[1] : NULL,
                      .h = qn_cpu_row(&op->out, 0),
                      .stride = op->out.width};
    size_t rows = qn_dweight_rows(g.gate), n = (size_t)n_threads * PARTS;
    span s = {.total = rows, .bytes = rows, .rows = rows, .step = qn_cpu_gated_step(g.gate, g.up)};
    qn_cpu_gated_run(job->d, &g, border(&s, t->begin, n), border(&s, t->end, n), thread);
}

static void outputs_part(const qn_cpu_job *job, const turn *t, int thread, int n_threads)
{
    const qn_op *op = job->op;
    size_t first = 0, n = (size_t)n_threads * PARTS;
    span s = {0};
    for (uint32_t i = 0; i < op->n_w; i++)
        s.total += qn_dweight_bytes(op->w[i]);
    for (uint32_t i = 0; i < op->n_w; i++) {
        s.bytes = qn_dweight_bytes(op->w[i]);
        s.rows = qn_dweight_rows(op->w[i]);
        s.step = qn_dweight_row_step(op->w[i]);
        outputs(job, op->w[i], first, border(&s, t->begin, n), border(&s, t->end, n), thread);
        s.before += s.bytes;
        first += s.rows;
    }
}

static void linear(void *arg, int thread, int n_threads)
{
    const qn_cpu_job *job = arg;
    turn t = {0};
    qn_cpu_prepare_rows(job, thread, n_threads);
    while (next_turn(&t, job, (size_t)thread, (size_t)n_threads))
        if (job->op->fuse & QN_FUSE_SILU_MUL)
            gated_part(job, &t, thread, n_threads);
        else
            outputs_part(job, &t, thread, n_threads);
}

void qn_cpu_linear(const qn_cpu_job *job)
{
    const qn_op *op = job->op;
    unsigned kinds = 0;
    size_t steps = 0;
    for (uint32_t i = 0; i < op->n_w; i++) {
        kinds |= qn_cpu_kind(op->w[i]);
        steps += qn_dweight_rows(op->w[i]) / qn_dweight_row_step(op->w[i]);
    }
    qn_cpu_job shared = *job;
    size_t n_threads = (size_t)qn_team_size(job->d->team);
    shared.is_shared = n_threads > 1 && steps >= n_threads * PARTS;
    atomic_store(&job->d->next_piece, 0);
    qn_cpu_begin_rows(&shared, kinds);
    qn_team_run(job->d->team, linear, &shared);
}
