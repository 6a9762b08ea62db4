/* SPDX-License-Identifier: Apache-2.0
 * attention.c - ATTENTION of the CPU device over the paged cache, prefill and decode by the same code.
 *
 *   queries of one sequence and kv head: row 0 head 0..G-1, row 1 head 0..G-1, ...  (G = n_heads / n_kv_heads)
 *   cut into groups of up to QUERIES; a decode row is one group of G
 *   keys: chunks of CHUNK positions [0,512) [512,1024) ...; a chunk is tiles of 64 positions, the
 *   blocks of the cache (kv_tile.h)
 *
 * For each tile and all queries of the group: scores, running maximum and sum, weighted sum (Milakov & Gimelshein 2018; Dao et al. 2022). Each chunk has its own maximum, sum and output; chunks are merged upwards
 * (flash decoding). If there are few groups, the threads share the chunks of each.
 *
 * Why any chunking, block order, neighbour or thread count gives a query the same bits:
 *  1. tiles and chunks begin at fixed positions, not where the query begins;
 *  2. a score and an output element are one chain over head_dim and over the tile's keys upwards (kernels.h);
 *  3. a masked key weighs exactly 0, and a tile that is masked as a whole is left out of maximum, sum and output;
 *  4. a chunk without a visible key is left out of the merge. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_device.h"

#define QUERIES                                                                                    \
    48            /* 8 register blocks; 48 x 64 scores, a tile of K and of V stay in the L2 cache */
#define CHUNK 512 /* positions */
_Static_assert(QN_KV_BLOCK == QN_KV_TILE, "a block of the cache is one tile of each head");

typedef struct attn_job {
    const qn_cpu_job *job;
    const qn_operand *q;
    const qn_kv_view *kv;
    qn_kv_type type;
    size_t tile_bytes;
    size_t group;      /* query heads of a kv head */
    size_t dim, width; /* head_dim; the same rounded up to 16 */
    size_t n_groups,
        n_chunks; /* groups of queries; chunks of context, 1 if a thread does all of a group's */
    size_t next;  /* work counter */
    uint32_t window;
} attn_job;

/* Up to QUERIES queries of one sequence and kv head, and a thread's memory for them. */
typedef struct attn_group {
    size_t seq, head, first, n;      /* queries [first, first + n) in the picture above */
    size_t lo[QUERIES], hi[QUERIES]; /* visible positions [lo, hi), both ascending */
    size_t lo_min, hi_max;
    float *q, *s;        /* [QUERIES][width], [QUERIES][QN_KV_TILE] */
    float *part, *total; /* see part_floats */
} attn_group;

/* A result: maxima [QUERIES], sums [QUERIES], outputs [QUERIES][width]. */
static size_t part_floats(size_t n_q, size_t width)
{
    return n_q * (2 + width);
}

static size_t scratch_floats(size_t dim)
{
    size_t width = qn_kv_width(dim);
    return QUERIES * (width + QN_KV_TILE) + 2 * part_floats(QUERIES, width);
}

void qn_cpu_attention_sizes(const qn_device *d, const qn_op *op, qn_cpu_sizes *s)
{
    size_t width = qn_kv_width(op->head_dim), chunks = QN_DIV_UP(d->cfg.max_ctx, CHUNK);
    s->attn = QN_MAX(s->attn, QN_ROUND_UP(scratch_floats(op->head_dim), 16));
    s->attn_parts = QN_MAX(s->attn_parts, chunks * part_floats(op->n_heads, width));
}

static void group_set(attn_group *g, const attn_job *a, size_t index, int thread)
{
    const qn_device *d = a->job->d;
    const qn_batch *batch = a->job->batch;
    const uint32_t *begins = d->attn_tiles;
    float *m = d->attn + (size_t)thread * d->have.attn;
    for (g->seq = 0; begins[g->seq + 1] <= index;)
        g->seq++;
    size_t n_kv = a->kv->n_kv_heads, row0 = batch->row_begin[g->seq];
    size_t n = (batch->row_begin[g->seq + 1] - row0) * a->group;
    index -= begins[g->seq];
    g->head = index % n_kv;
    g->first = index / n_kv * QUERIES;
    g->n = QN_MIN(n - g->first, QUERIES);
    g->q = m;
    g->s = g->q + QUERIES * a->width;
    g->part = g->s + QUERIES * QN_KV_TILE;
    g->total = g->part + part_floats(QUERIES, a->width);
    float scale = 1.0f / sqrtf((float)a->dim);
    for (size_t i = 0; i < g->n; i++) {
        size_t row = row0 + (g->first + i) / a->group;
        size_t head = g->head * a->group + (g->first + i) % a->group;
        g->hi[i] = (size_t)batch->positions[row] + 1;
        g->lo[i] = a->window && g->hi[i] > a->window ? g->hi[i] - a->window : 0;
        QN_ASSERT(i == 0 || g->hi[i] >= g->hi[i - 1]);
        qn_kv_query(&d->k, a->type, qn_cpu_row(a->q, row) + head * a->dim, scale, a->dim,
                    g->q + i * a->width);
    }
    QN_ASSERT(g->n > 0);
    g->lo_min = g->lo[0];
    g->hi_max = g->hi[g->n - 1];
}

/* The group's tile of K or V that begins at position pos. */
static const void *tile_at(const attn_job *a, const attn_group *g, const qn_buf *cache, size_t pos)
{
    const qn_batch *batch = a->job->batch;
    size_t block = batch->block_tables[g->seq * batch->max_blocks + pos / QN_KV_TILE];
    return cache->data + (block * a->kv->n_kv_heads + g->head) * a->tile_bytes;
}

/* Attention of the group to the keys of one chunk. */
static void chunk_run(const attn_job *a, const attn_group *g, size_t chunk, float *part)
{
    const qn_kernels *k = &a->job->d->k;
    const qn_kv_kernels *kv = &k->kv[a->type];
    float *max = part, *sum = max + g->n, *out = sum + g->n, scale[QUERIES];
    size_t begin = QN_MAX(chunk * CHUNK, g->lo_min / QN_KV_TILE * QN_KV_TILE);
    size_t end = QN_MIN((chunk + 1) * CHUNK, g->hi_max);
    for (size_t i = 0; i < g->n; i++)
        max[i] = -INFINITY;
    memset(sum, 0, g->n * (1 + a->width) * sizeof *sum);
    for (size_t pos = begin; pos < end; pos += QN_KV_TILE) {
        size_t n = QN_MIN((size_t)QN_KV_TILE, end - pos);
        size_t first = 0, last = g->n; /* others see none of these keys */
        while (g->hi[first] <= pos)
            first++;
        while (g->lo[last - 1] >= pos + n)
            last--;
        if (first >= last) /* positions with a gap wider than the window */
            continue;
        kv->scores(g->q + first * a->width, last - first, tile_at(a, g, a->kv->k, pos), n, a->dim,
                   g->s);
        for (size_t i = first; i < last; i++) {
            size_t lo = g->lo[i] > pos ? g->lo[i] - pos : 0, hi = QN_MIN(g->hi[i] - pos, n);
            float *s = g->s + (i - first) * QN_KV_TILE;
            scale[i - first] = k->attn_softmax(s, lo, hi, &max[i], &sum[i]);
        }
        kv->weigh(g->s, scale, last - first, tile_at(a, g, a->kv->v, pos), n, a->dim,
                  out + first * a->width);
    }
}

/* total = both, for each query; total's maximum -infinity: nothing in it yet. */
static void merge(const attn_job *a, const attn_group *g, const float *part, float *total)
{
    const qn_kernels *k = &a->job->d->k;
    const float *max = part, *sum = max + g->n, *out = sum + g->n;
    float *t_max = total, *t_sum = t_max + g->n, *t_out = t_sum + g->n;
    for (size_t i = 0; i < g->n; i++, out += a->width, t_out += a->width) {
        if (sum[i] == 0)
            continue;
        if (t_sum[i] == 0) {
            t_max[i] = max[i];
            t_sum[i] = sum[i];
            memcpy(t_out, out, a->width * sizeof *out);
            continue;
        }
        float m = fmaxf(max[i], t_max[i]), mine = expf(t_max[i] - m), other = expf(max[i] - m);
        t_max[i] = m;
        t_sum[i] = fmaf(other, sum[i], t_sum[i] * mine);
        k->scale(t_out, mine, a->width, t_out);
        k->add_scaled(out, other, a->width, t_out);
    }
}

static void total_clear(const attn_job *a, const attn_group *g)
{
    memset(g->total, 0, part_floats(g->n, a->width) * sizeof *g->total);
}

static void write_out(const attn_job *a, const attn_group *g)
{
    const qn_cpu_job *job = a->job;
    const float *sum = g->total + g->n, *out = sum + g->n;
    for (size_t i = 0; i < g->n; i++) {
        size_t row = job->batch->row_begin[g->seq] + (g->first + i) / a->group;
        size_t head = g->head * a->group + (g->first + i) % a->group;
        job->d->k.scale(out + i * a->width, 1.0f / sum[i], a->dim,
                        qn_cpu_row(&job->op->out, row) + head * a->dim);
    }
}

/* Whole groups. The last ones have the longest contexts: they go first, so that the threads end together. */
static void run_groups(attn_job *a, int thread)
{
    attn_group g;
    for (;;) {
        size_t i = __atomic_fetch_add(&a->next, 1, __ATOMIC_RELAXED);
        if (i >= a->n_groups)
            return;
        group_set(&g, a, a->n_groups - 1 - i, thread);
        total_clear(a, &g);
        for (size_t c = g.lo_min / CHUNK; c * CHUNK < g.hi_max; c++) {
            chunk_run(a, &g, c, g.part);
            merge(a, &g, g.part, g.total);
        }
        write_out(a, &g);
    }
}

/* Few groups: their chunks are the pieces of work, the results are merged in the order of run_groups. */
static void run_chunks(attn_job *a, int thread, int n_threads)
{
    qn_device *d = a->job->d;
    attn_group g;
    size_t most = part_floats(a->group, a->width);
    for (;;) {
        size_t i = __atomic_fetch_add(&a->next, 1, __ATOMIC_RELAXED), c = i % a->n_chunks;
        if (i >= a->n_groups * a->n_chunks)
            break;
        group_set(&g, a, i / a->n_chunks, thread);
        if (c >= g.lo_min / CHUNK && c * CHUNK < g.hi_max)
            chunk_run(a, &g, c, d->attn_parts + i * most);
    }
    qn_team_barrier(d->team);
    for (size_t i = (size_t)thread; i < a->n_groups; i += (size_t)n_threads) {
        group_set(&g, a, i, thread);
        total_clear(a, &g);
        for (size_t c = g.lo_min / CHUNK; c * CHUNK < g.hi_max; c++)
            merge(a, &g, d->attn_parts + (i * a->n_chunks + c) * most, g.total);
        write_out(a, &g);
    }
}

static void attention(void *arg, int thread, int n_threads)
{
    attn_job *a = arg;
    if (a->n_chunks > 1)
        run_chunks(a, thread, n_threads);
    else
        run_groups(a, thread);
}

void qn_cpu_attention(const qn_cpu_job *job)
{
    qn_device *d = job->d;
    const qn_op *op = job->op;
    const qn_batch *batch = job->batch;
    qn_kv_type type = qn_kv_type_of(op->kv->dtype);
    attn_job a = {.job = job,
                  .q = &op->in[0],
                  .kv = op->kv,
                  .type = type,
                  .tile_bytes = qn_kv_tile_bytes(type, op->head_dim),
                  .group = op->n_heads / op->n_kv_heads,
                  .dim = op->head_dim,
                  .width = qn_kv_width(op->head_dim),
                  .n_chunks = 1,
                  .window = op->window};
    size_t most_rows = 0, ctx = 0;
    for (uint32_t s = 0; s < batch->n_seqs; s++) {
        size_t rows = batch->row_begin[s + 1] - batch->row_begin[s];
        d->attn_tiles[s] = (uint32_t)a.n_groups;
        a.n_groups += QN_DIV_UP(rows * a.group, (size_t)QUERIES) * op->n_kv_heads;
        most_rows = QN_MAX(most_rows, rows);
        if (rows > 0)
            ctx = QN_MAX(ctx, (size_t)batch->positions[batch->row_begin[s + 1] - 1] + 1);
    }
    d->attn_tiles[batch->n_seqs] = (uint32_t)a.n_groups;
    /* One decode row each, and room for all results: the scratch is for the heads of one row. */
    size_t chunks = QN_DIV_UP(ctx, (size_t)CHUNK);
    if (most_rows == 1 && a.group <= QUERIES && qn_team_size(d->team) > 1 &&
        a.n_groups * chunks * part_floats(a.group, a.width) <= d->have.attn_parts)
        a.n_chunks = chunks;
    qn_team_run(d->team, attention, &a);
}
