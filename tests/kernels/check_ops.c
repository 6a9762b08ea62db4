/* SPDX-License-Identifier: Apache-2.0
 * check_ops.c - checks of the kernels over rows (rows_*.c) and over a tile of keys (attention_*.c) against plain C.
 *
 *   rows    random lengths, also unaligned and in place: add, scale, add_scaled, to_f16 to the bit, the others within their bounds
 *   tile    keys transposed and values widened to the bit; scores, softmax and weighted sums within their bounds
 *   chains  a query's scores and sums are the same bits whatever other queries it is computed with */
#include <math.h>
#include <string.h>

#include "bounds.h"
#include "checkkern.h"

/* Largest |got - want| / bound, where the bound of element i is given. */
typedef double (*bound_fn)(const void *arg, size_t i);

static bool within(const float *got, const float *want, size_t n, bound_fn bound, const void *arg)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= bound(arg, i)))
            return false;
    return true;
}

static float *normals(size_t n, float scale)
{
    float *x = ck_in((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = ck_normal() * scale;
    return x;
}

/* ---- rows ---- */

typedef struct row_case {
    size_t n;
    float *a, *b, *want, *got; /* got is guarded */
    double largest;            /* a bound's factor where all elements share one */
} row_case;

static row_case row_new(float scale)
{
    row_case c = {.n = 2 * (1 + ck_below(150))};
    c.a = normals(c.n, scale);
    c.b = normals(c.n, 1);
    c.want = ck_out(c.n * sizeof(float));
    c.got = ck_out(c.n * sizeof(float));
    return c;
}

static void row_result(row_case *c, const ck_isa *isa, const char *what, bool ok)
{
    ck_result(ok && ck_guard_ok(c->got) && ck_guard_ok(c->want), "%s, %s: row of %zu", what,
              isa->name, c->n);
}

static void row_free(row_case *c)
{
    ck_free(c->a);
    ck_free(c->b);
    ck_free(c->want);
    ck_free(c->got);
}

static bool same(const row_case *c)
{
    return memcmp(c->got, c->want, c->n * sizeof(float)) == 0;
}

static double silu_bound(const void *arg, size_t i)
{
    return BOUND_SILU(fabs((double)((const row_case *)arg)->want[i]));
}

static double rmsnorm_bound(const void *arg, size_t i)
{
    const row_case *c = arg;
    return BOUND_RMSNORM(c->n, fabs((double)c->want[i]));
}

static double softmax_bound(const void *arg, size_t i)
{
    const row_case *c = arg;
    return BOUND_SOFTMAX(c->n, (double)c->want[i]);
}

static double rope_bound(const void *arg, size_t i)
{
    const row_case *c = arg;
    (void)i;
    return BOUND_ROPE(c->largest);
}

static void check_exact_rows(const ck_isa *isa)
{
    const qn_kernels *k = &isa->k;
    row_case c = row_new(2);
    float s = ck_normal();
    ck_ref->add(c.a, c.b, c.n, c.want);
    k->add(c.a, c.b, c.n, c.got);
    row_result(&c, isa, "add", same(&c));
    ck_ref->scale(c.a, s, c.n, c.want);
    memcpy(c.got, c.a, c.n * sizeof(float));
    k->scale(c.got, s, c.n, c.got);
    row_result(&c, isa, "scale in place", same(&c));
    memcpy(c.want, c.b, c.n * sizeof(float));
    memcpy(c.got, c.b, c.n * sizeof(float));
    ck_ref->add_scaled(c.a, s, c.n, c.want);
    k->add_scaled(c.a, s, c.n, c.got);
    row_result(&c, isa, "add_scaled", same(&c));
    /* cut anywhere: the same bits */
    size_t cut = ck_below(c.n);
    memcpy(c.got, c.b, c.n * sizeof(float));
    k->add_scaled(c.a, s, cut, c.got);
    k->add_scaled(c.a + cut, s, c.n - cut, c.got + cut);
    row_result(&c, isa, "add_scaled in two", same(&c));
    for (size_t i = 0; i < c.n; i++) /* all magnitudes that f16 has, and more */
        c.a[i] = ldexpf(c.a[i], (int)ck_below(50) - 30);
    uint16_t *h[2] = {ck_out(c.n * 2), ck_out(c.n * 2)};
    ck_ref->to_f16(c.a, c.n, h[0]);
    k->to_f16(c.a, c.n, h[1]);
    ck_result(memcmp(h[0], h[1], c.n * 2) == 0 && ck_guard_ok(h[1]), "to_f16, %s: row of %zu",
              isa->name, c.n);
    ck_free(h[0]);
    ck_free(h[1]);
    row_free(&c);
}

static void check_bounded_rows(const ck_isa *isa)
{
    const qn_kernels *k = &isa->k;
    row_case c = row_new(ck_below(2) ? 3.0f : 40.0f);
    ck_ref->silu_mul(c.a, c.b, c.n, c.want);
    k->silu_mul(c.a, c.b, c.n, c.got);
    row_result(&c, isa, "silu_mul", within(c.got, c.want, c.n, silu_bound, &c));
    size_t cut = ck_below(c.n);
    memcpy(c.want, c.got, c.n * sizeof(float));
    k->silu_mul(c.a, c.b, cut, c.got);
    k->silu_mul(c.a + cut, c.b + cut, c.n - cut, c.got + cut);
    row_result(&c, isa, "silu_mul in two", same(&c));
    ck_ref->rmsnorm(c.a, c.b, c.n, 1e-6f, c.want);
    memcpy(c.got, c.a, c.n * sizeof(float));
    k->rmsnorm(c.got, c.b, c.n, 1e-6f, c.got);
    row_result(&c, isa, "rmsnorm in place", within(c.got, c.want, c.n, rmsnorm_bound, &c));
    for (int adjacent = 0; adjacent < 2; adjacent++) {
        memcpy(c.want, c.a, c.n * sizeof(float));
        memcpy(c.got, c.a, c.n * sizeof(float));
        (adjacent ? ck_ref->rope_adjacent : ck_ref->rope)(c.want, c.b, c.n);
        (adjacent ? k->rope_adjacent : k->rope)(c.got, c.b, c.n);
        float a = 0, b = 0;
        for (size_t i = 0; i < c.n; i++) {
            a = fmaxf(a, fabsf(c.a[i]));
            b = fmaxf(b, fabsf(c.b[i]));
        }
        c.largest = 2.0 * (double)a * (double)b;
        row_result(&c, isa, adjacent ? "rope_adjacent" : "rope",
                   within(c.got, c.want, c.n, rope_bound, &c));
    }
    memcpy(c.want, c.a, c.n * sizeof(float));
    memcpy(c.got, c.a, c.n * sizeof(float));
    ck_ref->softmax(c.want, c.n);
    k->softmax(c.got, c.n);
    row_result(&c, isa, "softmax", within(c.got, c.want, c.n, softmax_bound, &c));
    row_free(&c);
}

/* ---- a tile of keys ---- */

typedef struct tile_case {
    size_t n_q, n, dim, stride, column; /* keys [column, column + n) */
    qn_dtype dtype;
    void *src;
    float *q, *kt[2], *v[2], *s[2], *o[2], scale[100]; /* 0: plain C, 1: the other */
} tile_case;

static tile_case tile_new(void)
{
    tile_case c = {.n_q = 1 + ck_below(20),
                   .dim = 2 * (1 + ck_below(40)),
                   .dtype = ck_below(2) ? QN_F16 : QN_F32};
    c.n = 1 + ck_below(QN_ATTN_KEYS);
    c.column = ck_below(QN_ATTN_KEYS - c.n + 1);
    c.stride = QN_ROUND_UP(c.dim, (size_t)8);
    float *x = normals(c.n * c.dim, 1);
    c.src = x;
    if (c.dtype == QN_F16) {
        c.src = ck_in(c.n * c.dim * 2);
        ck_ref->to_f16(x, c.n * c.dim, c.src);
        ck_free(x);
    }
    c.q = normals(c.n_q * c.dim, 1);
    for (int i = 0; i < 2; i++) {
        c.kt[i] = ck_out(c.dim * QN_ATTN_STRIDE * sizeof(float));
        c.v[i] = ck_out(QN_ATTN_KEYS * c.stride * sizeof(float));
        c.s[i] = ck_out(c.n_q * QN_ATTN_KEYS * sizeof(float));
        c.o[i] = ck_out(c.n_q * c.stride * sizeof(float));
    }
    return c;
}

static void tile_result(const tile_case *c, const ck_isa *isa, const char *what, bool ok)
{
    for (int i = 0; i < 2; i++)
        ok = ok && ck_guard_ok(c->kt[i]) && ck_guard_ok(c->v[i]) && ck_guard_ok(c->s[i]) &&
             ck_guard_ok(c->o[i]);
    ck_result(ok, "%s, %s: %zu queries, %zu keys at %zu, head_dim %zu, %s", what, isa->name, c->n_q,
              c->n, c->column, c->dim, c->dtype == QN_F16 ? "F16" : "F32");
}

static void tile_free(tile_case *c)
{
    ck_free(c->src);
    ck_free(c->q);
    for (int i = 0; i < 2; i++) {
        ck_free(c->kt[i]);
        ck_free(c->v[i]);
        ck_free(c->s[i]);
        ck_free(c->o[i]);
    }
}

static void check_load(tile_case *c, const ck_isa *isa)
{
    const qn_kernels *k[2] = {ck_ref, &isa->k};
    bool ok = true;
    for (int i = 0; i < 2; i++) {
        k[i]->attn_load_k(c->src, c->dtype, c->n, c->dim, c->kt[i] + c->column);
        k[i]->attn_load_v(c->src, c->dtype, c->n, c->dim, c->stride, c->v[i]);
    }
    for (size_t d = 0; d < c->dim; d++) {
        size_t at = d * QN_ATTN_STRIDE + c->column;
        ok = ok && memcmp(c->kt[0] + at, c->kt[1] + at, c->n * sizeof(float)) == 0;
    }
    for (size_t j = 0; j < c->n; j++)
        ok = ok &&
             memcmp(c->v[0] + j * c->stride, c->v[1] + j * c->stride, c->dim * sizeof(float)) == 0;
    tile_result(c, isa, "keys and values", ok);
    /* From here on the tile is whole: keys begin at column 0, nothing is NaN. */
    for (int i = 0; i < 2; i++) {
        memset(c->kt[i], 0, c->dim * QN_ATTN_STRIDE * sizeof(float));
        memset(c->v[i], 0, QN_ATTN_KEYS * c->stride * sizeof(float));
        ck_ref->attn_load_k(c->src, c->dtype, c->n, c->dim, c->kt[i]);
        ck_ref->attn_load_v(c->src, c->dtype, c->n, c->dim, c->stride, c->v[i]);
    }
}

static void check_scores(tile_case *c, const ck_isa *isa)
{
    ck_ref->attn_scores(c->q, c->n_q, c->kt[0], c->n, c->dim, c->s[0]);
    isa->k.attn_scores(c->q, c->n_q, c->kt[1], c->n, c->dim, c->s[1]);
    bool ok = true;
    for (size_t i = 0; i < c->n_q; i++)
        for (size_t j = 0; j < c->n; j++) {
            double sum = 0;
            for (size_t d = 0; d < c->dim; d++)
                sum += fabs((double)c->q[i * c->dim + d] * c->kt[0][d * QN_ATTN_STRIDE + j]);
            double off =
                fabs((double)c->s[0][i * QN_ATTN_KEYS + j] - c->s[1][i * QN_ATTN_KEYS + j]);
            ok = ok && off <= BOUND_CHAIN(c->dim, sum);
        }
    tile_result(c, isa, "scores", ok);
    size_t one = ck_below(c->n_q);
    float *alone = ck_out(QN_ATTN_KEYS * sizeof(float));
    isa->k.attn_scores(c->q + one * c->dim, 1, c->kt[1], c->n, c->dim, alone);
    ok = memcmp(alone, c->s[1] + one * QN_ATTN_KEYS, c->n * sizeof(float)) == 0 &&
         ck_guard_ok(alone);
    tile_result(c, isa, "scores of one query alone", ok);
    ck_free(alone);
}

static void check_tile_softmax(tile_case *c, const ck_isa *isa)
{
    bool ok = true;
    memcpy(c->s[1], c->s[0], c->n_q * QN_ATTN_KEYS * sizeof(float));
    for (size_t i = 0; i < c->n_q; i++) {
        size_t begin = ck_below(c->n), end = begin + 1 + ck_below(c->n - begin);
        float max[2], sum[2], scale[2],
            *s[2] = {c->s[0] + i * QN_ATTN_KEYS, c->s[1] + i * QN_ATTN_KEYS};
        max[0] = max[1] = ck_below(3) ? ck_normal() * 5 : -INFINITY;
        sum[0] = sum[1] = max[0] == -INFINITY ? 0 : 2;
        scale[0] = ck_ref->attn_softmax(s[0], begin, end, &max[0], &sum[0]);
        scale[1] = isa->k.attn_softmax(s[1], begin, end, &max[1], &sum[1]);
        ok = ok && max[0] == max[1] &&
             fabs((double)sum[0] - sum[1]) <= BOUND_SOFTMAX(QN_ATTN_KEYS * 8, (double)sum[0]);
        ok = ok && fabs((double)scale[0] - scale[1]) <= BOUND_TILE_SOFTMAX((double)scale[0]);
        for (size_t j = 0; j < QN_ATTN_KEYS; j++) {
            double p = s[0][j];
            ok = ok && fabs(p - s[1][j]) <= BOUND_TILE_SOFTMAX(p) &&
                 (j >= begin && j < end ? true : s[1][j] == 0);
        }
        c->scale[i] = scale[0];
    }
    tile_result(c, isa, "softmax of a tile", ok);
}

static void check_weigh(tile_case *c, const ck_isa *isa)
{
    size_t all = c->n_q * c->stride;
    float *start = normals(all, 1), *alone = ck_out(c->stride * sizeof(float));
    for (int i = 0; i < 2; i++)
        memcpy(c->o[i], start, all * sizeof(float));
    ck_ref->attn_weigh(c->s[0], c->scale, c->n_q, c->v[0], c->n, c->stride, c->o[0]);
    isa->k.attn_weigh(c->s[0], c->scale, c->n_q, c->v[1], c->n, c->stride, c->o[1]);
    bool ok = true;
    for (size_t i = 0; i < c->n_q; i++)
        for (size_t d = 0; d < c->dim; d++) {
            double sum = fabs((double)start[i * c->stride + d] * c->scale[i]);
            for (size_t j = 0; j < c->n; j++)
                sum += fabs((double)c->s[0][i * QN_ATTN_KEYS + j] * c->v[0][j * c->stride + d]);
            double off = fabs((double)c->o[0][i * c->stride + d] - c->o[1][i * c->stride + d]);
            ok = ok && off <= BOUND_CHAIN(c->n + 1, sum);
        }
    tile_result(c, isa, "weighted sums", ok);
    /* alone, and over the whole tile: keys past n weigh 0 */
    size_t one = ck_below(c->n_q);
    memcpy(alone, start + one * c->stride, c->stride * sizeof(float));
    for (size_t j = c->n; j < QN_ATTN_KEYS; j++)
        c->s[0][one * QN_ATTN_KEYS + j] = 0;
    isa->k.attn_weigh(c->s[0] + one * QN_ATTN_KEYS, &c->scale[one], 1, c->v[1], QN_ATTN_KEYS,
                      c->stride, alone);
    ok =
        memcmp(alone, c->o[1] + one * c->stride, c->dim * sizeof(float)) == 0 && ck_guard_ok(alone);
    tile_result(c, isa, "weighted sums of one query alone", ok);
    ck_free(start);
    ck_free(alone);
}

/* ---- bench ---- */

typedef struct ops_bench {
    const qn_kernels *k;
    size_t n_q, dim;
    float *q, *kt, *v, *s, *o;
    uint16_t *src;
    float scale[96];
} ops_bench;

static void bench_tile(void *arg, int thread, int n_threads)
{
    ops_bench *b = arg;
    (void)thread;
    (void)n_threads;
    b->k->attn_load_k(b->src, QN_F16, QN_ATTN_KEYS, b->dim, b->kt);
    b->k->attn_load_v(b->src, QN_F16, QN_ATTN_KEYS, b->dim, b->dim, b->v);
    b->k->attn_scores(b->q, b->n_q, b->kt, QN_ATTN_KEYS, b->dim, b->s);
    for (size_t i = 0; i < b->n_q; i++) {
        float max = 0, sum = 1;
        b->scale[i] = b->k->attn_softmax(b->s + i * QN_ATTN_KEYS, 0, QN_ATTN_KEYS, &max, &sum);
    }
    b->k->attn_weigh(b->s, b->scale, b->n_q, b->v, QN_ATTN_KEYS, b->dim, b->o);
}

static void bench_silu(void *arg, int thread, int n_threads)
{
    ops_bench *b = arg;
    (void)thread;
    (void)n_threads;
    b->k->silu_mul(b->q, b->q, 96 * b->dim, b->o);
}

static void bench_rmsnorm(void *arg, int thread, int n_threads)
{
    ops_bench *b = arg;
    (void)thread;
    (void)n_threads;
    b->k->rmsnorm(b->q, b->q, 96 * b->dim, 1e-6f, b->o);
}

static void bench_ops(const ck_isa *isa)
{
    ops_bench b = {.k = &isa->k, .dim = 64};
    float *x = normals(QN_ATTN_KEYS * b.dim, 1);
    b.q = normals(96 * b.dim, 0.1f);
    b.src = ck_in(QN_ATTN_KEYS * b.dim * 2);
    ck_ref->to_f16(x, QN_ATTN_KEYS * b.dim, b.src);
    b.kt = ck_in(b.dim * QN_ATTN_STRIDE * sizeof(float));
    b.v = ck_in(QN_ATTN_KEYS * b.dim * sizeof(float));
    b.s = ck_in(96 * QN_ATTN_KEYS * sizeof(float));
    b.o = ck_in(96 * b.dim * sizeof(float));
    memset(b.o, 0, 96 * b.dim * sizeof(float));
    static const size_t queries[] = {96, 7, 1};
    static const char *const names[] = {"attention tile, 96 queries", "attention tile, 7 queries",
                                        "attention tile, 1 query"};
    for (size_t i = 0; i < QN_COUNT(queries); i++) {
        b.n_q = queries[i];
        ck_row(names[i], isa->name, 1, ck_time(1, bench_tile, &b),
               4e-9 * (double)(b.n_q * QN_ATTN_KEYS * b.dim), 0);
    }
    ck_row("silu_mul, 6144", isa->name, 1, ck_time(1, bench_silu, &b), 0,
           3 * 4e-9 * 96 * (double)b.dim);
    ck_row("rmsnorm, 6144", isa->name, 1, ck_time(1, bench_rmsnorm, &b), 0,
           3 * 4e-9 * 96 * (double)b.dim);
    void *blocks[] = {x, b.q, b.src, b.kt, b.v, b.s, b.o};
    for (size_t i = 0; i < QN_COUNT(blocks); i++)
        ck_free(blocks[i]);
}

void check_ops(void)
{
    for (int i = 0; i < ck_n_isas; i++) {
        for (int round = 0; round < 60; round++) {
            check_exact_rows(&ck_isas[i]);
            check_bounded_rows(&ck_isas[i]);
            tile_case c = tile_new();
            check_load(&c, &ck_isas[i]);
            check_scores(&c, &ck_isas[i]);
            check_tile_softmax(&c, &ck_isas[i]);
            check_weigh(&c, &ck_isas[i]);
            tile_free(&c);
        }
        if (ck_is_bench)
            bench_ops(&ck_isas[i]);
    }
}
