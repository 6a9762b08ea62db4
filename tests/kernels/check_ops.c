/* SPDX-License-Identifier: Apache-2.0
 * check_ops.c - checks of the kernels over rows (rows_*.c) and over a tile of keys (attention_*.c) against plain C.
 *
 *   rows    random lengths, also unaligned and in place: add, scale, add_scaled, to_f16, to_i16 to the bit, the others within
 *           their bounds
 *   tile    keys, values and queries as stored to the bit; scores, softmax and weighted sums within their bounds, int8 equal
 *   chains  a query's scores and sums are the same bits whatever other queries it is computed with */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bounds.h"
#include "checkkern.h"
#include "tensor/fp.h"

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
    float most = ck_below(2) ? 127.0f : QN_KV_STEPS;
    ck_ref->to_f16(c.a, c.n, h[0]);
    k->to_f16(c.a, c.n, h[1]);
    ck_result(memcmp(h[0], h[1], c.n * 2) == 0 && ck_guard_ok(h[1]), "to_f16, %s: row of %zu",
              isa->name, c.n);
    int16_t *q[2] = {(int16_t *)h[0], (int16_t *)h[1]};
    float step = ck_ref->to_i16(c.a, c.n, most, q[0]);
    ck_result(k->to_i16(c.a, c.n, most, q[1]) == step && memcmp(q[0], q[1], c.n * 2) == 0 &&
                  ck_guard_ok(q[1]),
              "to_i16, %s: row of %zu", isa->name, c.n);
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

static const char *const kv_names[QN_N_KV_TYPES] = {"F32", "F16", "int8"};

typedef struct tile_case {
    qn_kv_type type;
    size_t n_q, n, dim, width;
    float *x[2];                        /* keys, values: [n][dim] */
    void *tile[2];                      /* of them */
    float *q, *s[2], *o[2], scale[100]; /* 0: plain C, 1: the other */
} tile_case;

static void tile_fill(const qn_kernels *k, const tile_case *c, bool is_value, void *tile)
{
    for (size_t j = 0; j < c->n; j++)
        qn_kv_put(k, c->type, c->x[is_value] + j * c->dim, c->dim, j, is_value, tile);
}

static tile_case tile_new(qn_kv_type type)
{
    tile_case c = {.type = type,
                   .n_q = 1 + ck_below(20),
                   .n = 1 + ck_below(QN_KV_TILE),
                   .dim = 2 * (1 + ck_below(40))};
    c.width = qn_kv_width(c.dim);
    float *x = normals(c.n_q * c.dim, 1);
    c.q = ck_in(c.n_q * c.width * sizeof(float));
    memset(c.q, 0, c.n_q * c.width * sizeof(float));
    for (size_t i = 0; i < c.n_q; i++)
        qn_kv_query(ck_ref, type, x + i * c.dim, 0.3f, c.dim, c.q + i * c.width);
    ck_free(x);
    for (int i = 0; i < 2; i++) {
        size_t bytes = qn_kv_tile_bytes(type, c.dim);
        c.x[i] = normals(c.n * c.dim, 1);
        c.tile[i] = ck_in(bytes);
        memset(c.tile[i], 0x3b, bytes); /* stale, finite */
        tile_fill(ck_ref, &c, i, c.tile[i]);
        c.s[i] = ck_out(c.n_q * QN_KV_TILE * sizeof(float));
        c.o[i] = ck_out(c.n_q * c.width * sizeof(float));
    }
    return c;
}

static void tile_result(const tile_case *c, const ck_isa *isa, const char *what, bool ok)
{
    for (int i = 0; i < 2; i++)
        ok = ok && ck_guard_ok(c->s[i]) && ck_guard_ok(c->o[i]);
    ck_result(ok, "%s, %s: %zu queries, %zu keys, head_dim %zu, %s", what, isa->name, c->n_q, c->n,
              c->dim, kv_names[c->type]);
}

static void tile_free(tile_case *c)
{
    ck_free(c->q);
    for (int i = 0; i < 2; i++) {
        ck_free(c->x[i]);
        ck_free(c->tile[i]);
        ck_free(c->s[i]);
        ck_free(c->o[i]);
    }
}

/* Keys, values and queries as stored: to the bit. */
static void check_put(tile_case *c, const ck_isa *isa)
{
    size_t bytes = qn_kv_tile_bytes(c->type, c->dim);
    float *q[2] = {ck_out(c->width * sizeof(float)), ck_out(c->width * sizeof(float))};
    bool ok = true;
    for (int i = 0; i < 2; i++) {
        void *tile = ck_out(bytes);
        memset(tile, 0x3b, bytes);
        tile_fill(&isa->k, c, i, tile);
        ok = ok && memcmp(tile, c->tile[i], bytes) == 0 && ck_guard_ok(tile);
        ck_free(tile);
        memset(q[i], 0, c->width * sizeof(float));
        qn_kv_query(i ? &isa->k : ck_ref, c->type, c->x[0], 0.7f, c->dim, q[i]);
    }
    ok = ok && memcmp(q[0], q[1], c->width * sizeof(float)) == 0 && ck_guard_ok(q[1]);
    tile_result(c, isa, "keys, values and a query", ok);
    ck_free(q[0]);
    ck_free(q[1]);
}

static double element(const tile_case *c, bool is_value, size_t j, size_t d)
{
    size_t at = is_value ? qn_kv_at(c->type, QN_KV_TILE, j, d) : qn_kv_at(c->type, c->dim, d, j);
    const void *t = c->tile[is_value];
    return c->type == QN_KV_F32   ? ((const float *)t)[at]
           : c->type == QN_KV_F16 ? qn_f16_to_f32(((const uint16_t *)t)[at])
                                  : (double)qn_kv_scales(t, c->dim)[j] * ((const int8_t *)t)[at];
}

static void check_scores(tile_case *c, const ck_isa *isa)
{
    ck_ref->kv[c->type].scores(c->q, c->n_q, c->tile[0], c->n, c->dim, c->s[0]);
    isa->k.kv[c->type].scores(c->q, c->n_q, c->tile[0], c->n, c->dim, c->s[1]);
    bool ok = true;
    for (size_t i = 0; i < c->n_q; i++)
        for (size_t j = 0; j < c->n; j++) {
            double sum = 0, a = c->s[0][i * QN_KV_TILE + j], b = c->s[1][i * QN_KV_TILE + j];
            for (size_t d = 0; d < c->dim && c->type != QN_KV_I8; d++)
                sum += fabs((double)c->q[i * c->width + d] * element(c, false, j, d));
            ok = ok && fabs(a - b) <= BOUND_CHAIN(c->dim, sum); /* int8: equal */
        }
    tile_result(c, isa, "scores", ok);
    size_t one = ck_below(c->n_q);
    float *alone = ck_out(QN_KV_TILE * sizeof(float));
    isa->k.kv[c->type].scores(c->q + one * c->width, 1, c->tile[0], c->n, c->dim, alone);
    ok = memcmp(alone, c->s[1] + one * QN_KV_TILE, c->n * sizeof(float)) == 0 && ck_guard_ok(alone);
    tile_result(c, isa, "scores of one query alone", ok);
    ck_free(alone);
}

static void check_tile_softmax(tile_case *c, const ck_isa *isa)
{
    bool ok = true;
    memcpy(c->s[1], c->s[0], c->n_q * QN_KV_TILE * sizeof(float));
    for (size_t i = 0; i < c->n_q; i++) {
        size_t begin = ck_below(c->n), end = begin + 1 + ck_below(c->n - begin);
        float max[2], sum[2], scale[2],
            *s[2] = {c->s[0] + i * QN_KV_TILE, c->s[1] + i * QN_KV_TILE};
        max[0] = max[1] = ck_below(3) ? ck_normal() * 5 : -INFINITY;
        sum[0] = sum[1] = max[0] == -INFINITY ? 0 : 2;
        scale[0] = ck_ref->attn_softmax(s[0], begin, end, &max[0], &sum[0]);
        scale[1] = isa->k.attn_softmax(s[1], begin, end, &max[1], &sum[1]);
        ok = ok && max[0] == max[1] &&
             fabs((double)sum[0] - sum[1]) <= BOUND_SOFTMAX(QN_KV_TILE * 8, (double)sum[0]);
        ok = ok && fabs((double)scale[0] - scale[1]) <= BOUND_TILE_SOFTMAX((double)scale[0]);
        for (size_t j = 0; j < QN_KV_TILE; j++) {
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
    size_t all = c->n_q * c->width;
    float *start = normals(all, 1), *alone = ck_out(c->width * sizeof(float));
    for (int i = 0; i < 2; i++) {
        memcpy(c->o[i], start, all * sizeof(float));
        (i ? &isa->k : ck_ref)
            ->kv[c->type]
            .weigh(c->s[0], c->scale, c->n_q, c->tile[1], c->n, c->dim, c->o[i]);
    }
    bool ok = true;
    for (size_t i = 0; i < c->n_q; i++)
        for (size_t d = 0; d < c->dim; d++) {
            double sum = fabs((double)start[i * c->width + d] * c->scale[i]);
            for (size_t j = 0; j < c->n && c->type != QN_KV_I8; j++)
                sum += fabs((double)c->s[0][i * QN_KV_TILE + j] * element(c, true, j, d));
            double off = fabs((double)c->o[0][i * c->width + d] - c->o[1][i * c->width + d]);
            ok = ok && off <= (c->type == QN_KV_I8 ? 0 : BOUND_CHAIN(c->n + 1, sum));
        }
    tile_result(c, isa, "weighted sums", ok);
    /* alone, and over the whole tile: keys past n weigh 0 */
    size_t one = ck_below(c->n_q);
    memcpy(alone, start + one * c->width, c->width * sizeof(float));
    isa->k.kv[c->type].weigh(c->s[0] + one * QN_KV_TILE, &c->scale[one], 1, c->tile[1], QN_KV_TILE,
                             c->dim, alone);
    ok = memcmp(alone, c->o[1] + one * c->width, c->dim * sizeof(float)) == 0 && ck_guard_ok(alone);
    tile_result(c, isa, "weighted sums of one query alone", ok);
    ck_free(start);
    ck_free(alone);
}

/* ---- bench ---- */

typedef struct ops_bench {
    const qn_kernels *k;
    qn_kv_type type;
    size_t n_q, dim;
    float *q, *s, *o, *x;
    void *tile[2];
    float scale[96];
} ops_bench;

static void bench_tile(void *arg, int thread, int n_threads)
{
    ops_bench *b = arg;
    const qn_kv_kernels *kv = &b->k->kv[b->type];
    (void)thread;
    (void)n_threads;
    kv->scores(b->q, b->n_q, b->tile[0], QN_KV_TILE, b->dim, b->s);
    for (size_t i = 0; i < b->n_q; i++) {
        float max = 0, sum = 1;
        b->scale[i] = b->k->attn_softmax(b->s + i * QN_KV_TILE, 0, QN_KV_TILE, &max, &sum);
    }
    kv->weigh(b->s, b->scale, b->n_q, b->tile[1], QN_KV_TILE, b->dim, b->o);
}

/* The row kernels, on rows that stay what they are however often they run. */
#define ROW 12288
typedef struct row_bench {
    const qn_kernels *k;
    float *x, *ones, *turn, *y; /* turn: ROW / 2 cosines of 1, then sines of 0 */
    void *narrow;
} row_bench;

static void row_add(const row_bench *b)
{
    b->k->add(b->x, b->ones, ROW, b->y);
}

static void row_scale(const row_bench *b)
{
    b->k->scale(b->x, 2.0f, ROW, b->y);
}

static void row_add_scaled(const row_bench *b)
{
    b->k->add_scaled(b->x, 1e-9f, ROW, b->y);
}

static void row_silu_mul(const row_bench *b)
{
    b->k->silu_mul(b->x, b->ones, ROW, b->y);
}

static void row_rmsnorm(const row_bench *b)
{
    b->k->rmsnorm(b->x, b->ones, ROW, 1e-6f, b->y);
}

static void row_rope(const row_bench *b)
{
    b->k->rope(b->x, b->turn, ROW);
}

static void row_rope_adjacent(const row_bench *b)
{
    b->k->rope_adjacent(b->x, b->turn, ROW);
}

static void row_softmax(const row_bench *b)
{
    b->k->softmax(b->y, ROW);
}

static void row_to_f16(const row_bench *b)
{
    b->k->to_f16(b->x, ROW, b->narrow);
}

static void row_to_i16(const row_bench *b)
{
    (void)b->k->to_i16(b->x, ROW, 32767.0f, b->narrow);
}

static void row_quantise(const row_bench *b)
{
    b->k->mm_quantise(b->x, ROW / 32, 1, 0, b->narrow);
}

typedef struct row_call {
    const row_bench *b;
    void (*run)(const row_bench *b);
} row_call;

static void bench_row(void *arg, int thread, int n_threads)
{
    const row_call *c = arg;
    (void)thread;
    (void)n_threads;
    c->run(c->b);
}

static void bench_rows(const ck_isa *isa)
{
    static const struct {
        const char *name;
        void (*run)(const row_bench *b);
        int bytes; /* read and written of an element */
    } rows[] = {{"add", row_add, 12},
                {"scale", row_scale, 8},
                {"add_scaled", row_add_scaled, 12},
                {"silu_mul", row_silu_mul, 12},
                {"rmsnorm", row_rmsnorm, 12},
                {"rope", row_rope, 12},
                {"rope_adjacent", row_rope_adjacent, 12},
                {"softmax", row_softmax, 8},
                {"to_f16", row_to_f16, 6},
                {"to_i16", row_to_i16, 6},
                {"quantise, one row", row_quantise, 5}};
    row_bench b = {.k = &isa->k, .x = normals(ROW, 1), .y = normals(ROW, 1)};
    b.ones = ck_in(ROW * sizeof(float));
    b.turn = ck_in(ROW * sizeof(float));
    b.narrow = ck_in(ROW * sizeof(float));
    for (size_t i = 0; i < ROW; i++) {
        b.ones[i] = 1;
        b.turn[i] = i < ROW / 2;
    }
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
        char name[64];
        row_call call = {&b, rows[i].run};
        (void)snprintf(name, sizeof name, "%s, %d", rows[i].name, ROW);
        ck_row(name, isa->name, 1, ck_time(1, bench_row, &call), 0,
               1e-9 * (double)rows[i].bytes * ROW);
    }
    void *blocks[] = {b.x, b.y, b.ones, b.turn, b.narrow};
    for (size_t i = 0; i < QN_COUNT(blocks); i++)
        ck_free(blocks[i]);
}

static void bench_tiles(const ck_isa *isa, ops_bench *b)
{
    static const size_t queries[] = {48, 7, 6, 1};
    for (b->type = QN_KV_F16; b->type <= QN_KV_I8; b->type++) {
        for (int i = 0; i < 2; i++)
            for (size_t j = 0; j < QN_KV_TILE; j++)
                qn_kv_put(ck_ref, b->type, b->x + j * b->dim, b->dim, j, i, b->tile[i]);
        for (size_t i = 0; i < 48; i++)
            qn_kv_query(ck_ref, b->type, b->x + i * b->dim, 0.1f, b->dim, b->q + i * b->dim);
        for (size_t i = 0; i < QN_COUNT(queries); i++) {
            char name[64];
            b->n_q = queries[i];
            (void)snprintf(name, sizeof name, "attention tile, %zu quer%s, %s", b->n_q,
                           b->n_q == 1 ? "y" : "ies", kv_names[b->type]);
            ck_row(name, isa->name, 1, ck_time(1, bench_tile, b),
                   4e-9 * (double)(b->n_q * QN_KV_TILE * b->dim),
                   2e-9 * (double)qn_kv_tile_bytes(b->type, b->dim));
        }
    }
}

static void bench_ops(const ck_isa *isa)
{
    ops_bench b = {.k = &isa->k, .dim = 128};
    b.x = normals(QN_KV_TILE * b.dim, 1);
    b.q = normals(96 * b.dim, 0.1f);
    b.s = ck_in(96 * QN_KV_TILE * sizeof(float));
    b.o = ck_in(96 * b.dim * sizeof(float));
    memset(b.o, 0, 96 * b.dim * sizeof(float));
    for (int i = 0; i < 2; i++)
        b.tile[i] = ck_in(qn_kv_tile_bytes(QN_KV_F32, b.dim));
    bench_tiles(isa, &b);
    bench_rows(isa);
    void *blocks[] = {b.x, b.q, b.s, b.o, b.tile[0], b.tile[1]};
    for (size_t i = 0; i < QN_COUNT(blocks); i++)
        ck_free(blocks[i]);
}

void check_ops(void)
{
    for (int i = 0; i < ck_n_isas; i++) {
        for (int round = 0; round < 60; round++) {
            check_exact_rows(&ck_isas[i]);
            check_bounded_rows(&ck_isas[i]);
            tile_case c = tile_new((qn_kv_type)(round % QN_N_KV_TYPES));
            check_put(&c, &ck_isas[i]);
            check_scores(&c, &ck_isas[i]);
            check_tile_softmax(&c, &ck_isas[i]);
            check_weigh(&c, &ck_isas[i]);
            tile_free(&c);
        }
        if (ck_is_bench)
            bench_ops(&ck_isas[i]);
    }
}
