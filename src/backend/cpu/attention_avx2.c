/* SPDX-License-Identifier: Apache-2.0
 * attention_avx2.c - the kernels over a tile of keys for AVX2 + FMA + F16C. kv_tile.h draws the tiles, the algorithm is in attention.c.
 *
 * Scores and weighted sums are the same product: queries (or their weights) times panels of 16 columns, read front to back and
 * converted in registers; a column is a key, or a dimension of the output. A block of accumulators holds 4 to 6 queries x 16 columns,
 * 2 or 3 x 32, or 1 x 64, enough to hide the latency of an FMA. Each element is one chain, whatever block it falls into.
 *
 *   F32, F16   a row is 16 floats: one FMA a vector and query
 *   int8       a pair of rows is 32 bytes, widened to int16: vpmaddwd with a pair of the query's int16, added up in int32, exact:
 *              twice the products of an FMA
 * Threads: any, pure. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "tensor/fp.h"

#define INLINE static inline __attribute__((always_inline))

typedef struct product_args {
    const float *a; /* [n_q][a_stride] */
    size_t a_stride;
    const char *b; /* panels */
    size_t panel_bytes, n_panels;
    size_t n; /* rows: terms of a sum (pairs of them, if int8) */
    float *out;
    size_t out_stride;
    const float *scale;     /* of what is in out, for each query; NULL: overwrite */
    const float *step;      /* int8: of the sum, for each query */
    const float *col_scale; /* int8 scores: of the columns */
    const float *first;     /* int8 scores: added, for each query */
} product_args;

INLINE __m256 column8(const char *b, qn_kv_type t, size_t i)
{
    return t == QN_KV_F16 ? _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)b + i))
                          : _mm256_loadu_ps((const float *)(const void *)b + 8 * i);
}

/* Columns of n_p panels from panel c for n_q queries; t, n_q, n_p are constants where this is inlined. */
INLINE void block_float(const product_args *p, qn_kv_type t, size_t c, int n_q, int n_p)
{
    const float *a = p->a;
    const char *b = p->b + c * p->panel_bytes;
    size_t a_stride = p->a_stride, panel_bytes = p->panel_bytes, n = p->n;
    float *out = p->out + c * QN_KV_PANEL;
    __m256 acc[6][8];
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < 2 * n_p; v++)
            acc[i][v] =
                p->scale ? _mm256_mul_ps(_mm256_loadu_ps(out + (size_t)i * p->out_stride + 8 * v),
                                         _mm256_broadcast_ss(p->scale + i))
                         : _mm256_setzero_ps();
    for (size_t r = 0; r < n; r++, a++, b += t == QN_KV_F16 ? 32 : 64)
        for (int k = 0; k < n_p; k++) {
            __m256 col[2];
            for (size_t v = 0; v < 2; v++)
                col[v] = column8(b + (size_t)k * panel_bytes, t, v);
            for (int i = 0; i < n_q; i++) {
                __m256 x = _mm256_broadcast_ss(a + (size_t)i * a_stride);
                acc[i][2 * k] = _mm256_fmadd_ps(x, col[0], acc[i][2 * k]);
                acc[i][2 * k + 1] = _mm256_fmadd_ps(x, col[1], acc[i][2 * k + 1]);
            }
        }
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < 2 * n_p; v++)
            _mm256_storeu_ps(out + (size_t)i * p->out_stride + 8 * v, acc[i][v]);
}

/* Sums of one panel into the output. */
static void finish_int(const product_args *p, size_t c, size_t n_q, const int32_t sums[6][16])
{
    for (size_t i = 0; i < n_q; i++)
        for (size_t v = 0; v < 16; v += 8) {
            size_t at = c * QN_KV_PANEL + v;
            float *out = p->out + i * p->out_stride + at;
            __m256 f = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(sums[i] + v)));
            __m256 step = _mm256_broadcast_ss(p->step + i);
            if (p->col_scale)
                f = _mm256_fmadd_ps(_mm256_mul_ps(step, _mm256_loadu_ps(p->col_scale + at)), f,
                                    _mm256_broadcast_ss(p->first + i));
            else
                f = _mm256_fmadd_ps(
                    step, f,
                    _mm256_mul_ps(_mm256_loadu_ps(out), _mm256_broadcast_ss(p->scale + i)));
            _mm256_storeu_ps(out, f);
        }
}

/* Two int16 for every column. */
INLINE __m256i pair(const float *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

INLINE void block_int(const product_args *p, size_t c, int n_q)
{
    const float *a = p->a; /* pairs of int16 */
    const char *b = p->b + c * p->panel_bytes;
    size_t a_stride = p->a_stride, n = p->n;
    __m256i acc[6][2];
    for (int i = 0; i < n_q; i++)
        acc[i][0] = acc[i][1] = _mm256_setzero_si256();
    for (size_t r = 0; r < n; r++, a++, b += 32) {
        __m256i col[2];
        for (int v = 0; v < 2; v++)
            col[v] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)b + v));
        for (int i = 0; i < n_q; i++) {
            __m256i x = pair(a + (size_t)i * a_stride);
            for (int v = 0; v < 2; v++) {
                acc[i][v] = _mm256_add_epi32(acc[i][v], _mm256_madd_epi16(x, col[v]));
                __asm__("" : "+x"(acc[i][v])); /* one product at a time: no spills */
            }
        }
    }
    int32_t
        sums[6]
            [16]; /* not straight into the output: the accumulators would leave their registers */
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < 2; v++)
            _mm256_storeu_si256((__m256i *)(sums[i] + 8 * v), acc[i][v]);
    finish_int(p, c, (size_t)n_q, sums);
}

INLINE void strip(const product_args *p, qn_kv_type t, int n_q)
{
    size_t c = 0, wide = n_q == 1 ? 4 : n_q <= 3 ? 2 : 1;
    if (t == QN_KV_I8) {
        for (; c < p->n_panels; c++)
            block_int(p, c, n_q);
        return;
    }
    for (; c + wide <= p->n_panels; c += wide)
        block_float(p, t, c, n_q, n_q == 1 ? 4 : n_q <= 3 ? 2 : 1);
    for (; c < p->n_panels; c++)
        block_float(p, t, c, n_q, 1);
}

#define STRIP(type, name, n_q)                                                                     \
    static void strip_##name##n_q(const product_args *p)                                           \
    {                                                                                              \
        strip(p, type, n_q);                                                                       \
    }
#define STRIPS(type, name)                                                                         \
    STRIP(type, name, 1)                                                                           \
    STRIP(type, name, 2)                                                                           \
    STRIP(type, name, 3)                                                                           \
    STRIP(type, name, 4)                                                                           \
    STRIP(type, name, 5)                                                                           \
    STRIP(type, name, 6)                                                                           \
    static void (*const strips_##name[7])(const product_args *) = {NULL,                           \
                                                                   strip_##name##1,                \
                                                                   strip_##name##2,                \
                                                                   strip_##name##3,                \
                                                                   strip_##name##4,                \
                                                                   strip_##name##5,                \
                                                                   strip_##name##6};
STRIPS(QN_KV_F32, f32)
STRIPS(QN_KV_F16, f16)
STRIPS(QN_KV_I8, i8)

/* Queries of the next strip: groups of 6, but 7, 8 and 9 as 4 + 3, 4 + 4, 5 + 4: one or two alone wait for each FMA. */
static size_t strip_size(size_t n_q)
{
    return n_q > 9 || n_q == 6 ? 6 : n_q > 6 ? (n_q + 1) / 2 : n_q;
}

INLINE void product(product_args p, void (*const strips[7])(const product_args *), size_t n_q)
{
    while (n_q > 0) {
        size_t g = strip_size(n_q);
        strips[g](&p);
        p.a += g * p.a_stride;
        p.out += g * p.out_stride;
        p.scale = p.scale ? p.scale + g : NULL;
        n_q -= g;
    }
}

INLINE product_args scores_args(const float *q, const void *tile, size_t n, size_t dim,
                                size_t element, float *s)
{
    return (product_args){.a = q,
                          .a_stride = qn_kv_width(dim),
                          .b = tile,
                          .panel_bytes = dim * QN_KV_PANEL * element,
                          .n_panels = QN_DIV_UP(n, (size_t)QN_KV_PANEL),
                          .n = dim,
                          .out = s,
                          .out_stride = QN_KV_TILE};
}

INLINE product_args weigh_args(const float *p, const float *scale, const void *tile, size_t n,
                               size_t dim, size_t element, float *o)
{
    return (product_args){.a = p,
                          .a_stride = QN_KV_TILE,
                          .b = tile,
                          .panel_bytes = QN_KV_TILE * QN_KV_PANEL * element,
                          .n_panels = qn_kv_width(dim) / QN_KV_PANEL,
                          .n = n,
                          .out = o,
                          .out_stride = qn_kv_width(dim),
                          .scale = scale};
}

static void scores_f32(const float *q, size_t n_q, const void *tile, size_t n, size_t dim, float *s)
{
    product(scores_args(q, tile, n, dim, 4, s), strips_f32, n_q);
}

static void weigh_f32(const float *p, const float *scale, size_t n_q, const void *tile, size_t n,
                      size_t dim, float *o)
{
    product(weigh_args(p, scale, tile, n, dim, 4, o), strips_f32, n_q);
}

static void scores_f16(const float *q, size_t n_q, const void *tile, size_t n, size_t dim, float *s)
{
    product(scores_args(q, tile, n, dim, 2, s), strips_f16, n_q);
}

static void weigh_f16(const float *p, const float *scale, size_t n_q, const void *tile, size_t n,
                      size_t dim, float *o)
{
    product(weigh_args(p, scale, tile, n, dim, 2, o), strips_f16, n_q);
}

static float dot_first(const float *q, const uint16_t *first, size_t width)
{
    __m256 l = _mm256_setzero_ps();
    for (size_t d = 0; d < width; d += 8)
        l = _mm256_fmadd_ps(_mm256_loadu_ps(q + d),
                            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(first + d))), l);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(l), _mm256_extractf128_ps(l, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static void scores_i8(const float *q, size_t n_q, const void *tile, size_t n, size_t dim, float *s)
{
    product_args p = scores_args(q + qn_kv_width(dim), tile, n, dim, 1, s);
    float step[6], first[6];
    p.a_stride = qn_kv_query_floats(QN_KV_I8, dim);
    p.n = dim / 2;
    p.step = step;
    p.first = first;
    p.col_scale = qn_kv_scales(tile, dim);
    while (n_q > 0) {
        size_t g = strip_size(n_q);
        QN_ASSERT(g > 0);
        for (size_t i = 0; i < g; i++, q += p.a_stride) {
            step[i] = q[qn_kv_query_step(dim)];
            first[i] = dot_first(q, qn_kv_first(tile, dim), qn_kv_width(dim));
        }
        strips_i8[g](&p);
        p.a += g * p.a_stride;
        p.out += g * p.out_stride;
        n_q -= g;
    }
}

/* p_j times the scale of v_j, as int16 (to_i16): a row of the tile in registers. Returns the step. */
static float int_weights(const float *p, const float *v_scale, int16_t *w)
{
    enum { N = QN_KV_TILE / 8 };
    const __m256i abs = _mm256_set1_epi32(0x7fffffff);
    __m256 v[N];
    __m256i top = _mm256_setzero_si256();
    for (size_t i = 0; i < N; i++) {
        __m256 x = _mm256_loadu_ps(p + 8 * i);
        v[i] = _mm256_mul_ps(x, _mm256_loadu_ps(v_scale + 8 * i));
        v[i] = _mm256_and_ps(v[i], _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NEQ_UQ));
        top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(v[i]), abs));
    }
    __m128i t = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    uint32_t bits = (uint32_t)_mm_cvtsi128_si32(t);
    float max = qn_bits_to_f32(bits);
    if (bits >= 0x7f800000u || max < 0x1p-100f) {
        memset(w, 0, QN_KV_TILE * sizeof *w);
        return bits >= 0x7f800000u ? NAN : 0.0f;
    }
    __m256 inv = _mm256_set1_ps(QN_KV_STEPS / max);
    for (size_t i = 0; i < N; i += 2) {
        __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inv));
        __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(v[i + 1], inv));
        _mm256_storeu_si256((__m256i *)(void *)(w + 8 * i),
                            _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
    }
    return max / QN_KV_STEPS;
}

static void weigh_i8(const float *p, const float *scale, size_t n_q, const void *tile, size_t n,
                     size_t dim, float *o)
{
    const float *v_scale = qn_kv_scales(tile, dim);
    product_args args = weigh_args(NULL, scale, tile, n, dim, 1, o);
    float w[6][QN_KV_TILE / 2], step[6]; /* w: pairs of int16 */
    args.a = w[0];
    args.a_stride = QN_KV_TILE / 2;
    args.n = QN_DIV_UP(n, (size_t)2);
    args.step = step;
    while (n_q > 0) {
        size_t g = strip_size(n_q);
        QN_ASSERT(g > 0);
        for (size_t i = 0; i < g; i++)
            step[i] = int_weights(p + i * QN_KV_TILE, v_scale, (int16_t *)(void *)w[i]);
        strips_i8[g](&args);
        p += g * QN_KV_TILE;
        args.out += g * args.out_stride;
        args.scale += g;
        n_q -= g;
    }
}

void qn_attention_init_avx2(qn_kernels *k)
{
    k->kv[QN_KV_F32] = (qn_kv_kernels){scores_f32, weigh_f32};
    k->kv[QN_KV_F16] = (qn_kv_kernels){scores_f16, weigh_f16};
    k->kv[QN_KV_I8] = (qn_kv_kernels){scores_i8, weigh_i8};
}
