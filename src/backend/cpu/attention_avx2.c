/* SPDX-License-Identifier: Apache-2.0
 * attention_avx2.c - the kernels over a tile of keys for AVX2 + FMA + F16C. The algorithm is in attention.c.
 *
 * Both products hold a block of accumulators in registers: 4 to 6 queries x 16 columns, or 1 to 3 queries x 32. A column is a key
 * (scores) or an element of the output (weigh). Each element is one chain of FMAs, whatever block it falls into.
 * Threads: any, pure. */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))

/* 8 x 8 floats: r[i] = column i of what were rows. */
INLINE void transpose8(__m256 r[8])
{
    __m256 t[8], u[8];
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        u[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

/* 8 keys x 16 dimensions of F16: transposed as 16-bit numbers within each half, then widened. */
INLINE void transpose_f16(const uint16_t *const row[8], size_t d, float *kt)
{
    __m256i r[8], t[8];
    for (int i = 0; i < 8; i++)
        r[i] = _mm256_loadu_si256((const __m256i *)(row[i] + d));
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        r[4 * i] = _mm256_unpacklo_epi32(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm256_unpackhi_epi32(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm256_unpacklo_epi32(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm256_unpackhi_epi32(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_epi64(r[i], r[i + 4]);
        t[2 * i + 1] = _mm256_unpackhi_epi64(r[i], r[i + 4]);
    }
    for (size_t i = 0; i < 8; i++) {
        _mm256_storeu_ps(kt + (d + i) * QN_ATTN_STRIDE,
                         _mm256_cvtph_ps(_mm256_castsi256_si128(t[i])));
        _mm256_storeu_ps(kt + (d + 8 + i) * QN_ATTN_STRIDE,
                         _mm256_cvtph_ps(_mm256_extracti128_si256(t[i], 1)));
    }
}

/* Groups of 8 keys; the last one repeats its last key. */
static void load_k_f16(const uint16_t *src, size_t n, size_t dim, float *kt)
{
    for (size_t j = 0; j < n; j += 8) {
        const uint16_t *row[8];
        size_t d = 0;
        for (size_t i = 0; i < 8; i++)
            row[i] = src + QN_MIN(j + i, n - 1) * dim;
        for (; d + 16 <= dim; d += 16)
            transpose_f16(row, d, kt + j);
        for (; d < dim; d++)
            for (size_t i = 0; i < 8; i++)
                kt[d * QN_ATTN_STRIDE + j + i] = _cvtsh_ss(row[i][d]);
    }
}

static void load_k_f32(const float *src, size_t n, size_t dim, float *kt)
{
    for (size_t j = 0; j < n; j += 8) {
        const float *row[8];
        size_t d = 0;
        for (size_t i = 0; i < 8; i++)
            row[i] = src + QN_MIN(j + i, n - 1) * dim;
        for (; d + 8 <= dim; d += 8) {
            __m256 r[8];
            for (size_t i = 0; i < 8; i++)
                r[i] = _mm256_loadu_ps(row[i] + d);
            transpose8(r);
            for (size_t i = 0; i < 8; i++)
                _mm256_storeu_ps(kt + (d + i) * QN_ATTN_STRIDE + j, r[i]);
        }
        for (; d < dim; d++)
            for (size_t i = 0; i < 8; i++)
                kt[d * QN_ATTN_STRIDE + j + i] = row[i][d];
    }
}

static void load_k(const void *src, qn_dtype type, size_t n, size_t dim, float *kt)
{
    if (type == QN_F16)
        load_k_f16(src, n, dim, kt);
    else
        load_k_f32(src, n, dim, kt);
}

static void load_v(const void *src, qn_dtype type, size_t n, size_t dim, size_t stride, float *v)
{
    for (size_t j = 0; j < n; j++) {
        float *to = v + j * stride;
        if (type == QN_F32) {
            memcpy(to, (const float *)src + j * dim, dim * sizeof *to);
            continue;
        }
        const uint16_t *from = (const uint16_t *)src + j * dim;
        size_t d = 0;
        for (; d + 8 <= dim; d += 8)
            _mm256_storeu_ps(to + d, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + d))));
        for (; d < dim; d++)
            to[d] = _cvtsh_ss(from[d]);
    }
}

typedef struct product_args {
    const float *a, *b;
    size_t a_stride, b_stride, n; /* n: terms of a sum */
    float *out;
    size_t out_stride, n_cols; /* columns: a multiple of 8 */
    const float *scale;        /* of what is in out, for each query; NULL: overwrite */
} product_args;

/* Columns [c, c + 8 n_v) for n_q queries; both are constants where this is inlined. */
INLINE void block(const product_args *p, size_t c, int n_q, int n_v)
{
    const float *a = p->a, *b = p->b + c;
    size_t a_stride = p->a_stride, b_stride = p->b_stride, n = p->n;
    float *out = p->out + c;
    __m256 acc[6][4];
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < n_v; v++)
            acc[i][v] =
                p->scale ? _mm256_mul_ps(_mm256_loadu_ps(out + (size_t)i * p->out_stride + 8 * v),
                                         _mm256_broadcast_ss(p->scale + i))
                         : _mm256_setzero_ps();
    for (size_t t = 0; t < n; t++, a++, b += b_stride) {
        __m256 col[4];
        for (int v = 0; v < n_v; v++)
            col[v] = _mm256_loadu_ps(b + 8 * v);
        for (int i = 0; i < n_q; i++) {
            __m256 x = _mm256_broadcast_ss(a + (size_t)i * a_stride);
            for (int v = 0; v < n_v; v++)
                acc[i][v] = _mm256_fmadd_ps(x, col[v], acc[i][v]);
        }
    }
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < n_v; v++)
            _mm256_storeu_ps(out + (size_t)i * p->out_stride + 8 * v, acc[i][v]);
}

INLINE void strip(const product_args *p, int n_q)
{
    size_t c = 0;
    if (n_q <= 3)
        for (; c + 32 <= p->n_cols; c += 32)
            block(p, c, n_q, 4);
    for (; c + 16 <= p->n_cols; c += 16)
        block(p, c, n_q, 2);
    if (c < p->n_cols)
        block(p, c, n_q, 1);
}

#define STRIP(n_q)                                                                                 \
    static void strip##n_q(const product_args *p)                                                  \
    {                                                                                              \
        strip(p, n_q);                                                                             \
    }
STRIP(1)
STRIP(2)
STRIP(3)
STRIP(4)
STRIP(5)
STRIP(6)

/* Groups of 6, but 7, 8 and 9 as 4 + 3, 4 + 4, 5 + 4: one or two queries alone wait for each FMA. */
static void product(product_args p, size_t n_q)
{
    static void (*const strips[7])(const product_args *) = {NULL,   strip1, strip2, strip3,
                                                            strip4, strip5, strip6};
    while (n_q > 0) {
        size_t g = n_q > 9 || n_q == 6 ? 6 : n_q > 6 ? (n_q + 1) / 2 : n_q;
        strips[g](&p);
        p.a += g * p.a_stride;
        p.out += g * p.out_stride;
        p.scale = p.scale ? p.scale + g : NULL;
        n_q -= g;
    }
}

static void scores(const float *q, size_t n_q, const float *kt, size_t n, size_t dim, float *s)
{
    product_args p = {.a = q,
                      .a_stride = dim,
                      .b = kt,
                      .b_stride = QN_ATTN_STRIDE,
                      .n = dim,
                      .out = s,
                      .out_stride = QN_ATTN_KEYS,
                      .n_cols = QN_ROUND_UP(n, 16)};
    product(p, n_q);
}

static void weigh(const float *p, const float *scale, size_t n_q, const float *v, size_t n,
                  size_t stride, float *o)
{
    product_args args = {.a = p,
                         .a_stride = QN_ATTN_KEYS,
                         .b = v,
                         .b_stride = stride,
                         .n = n,
                         .out = o,
                         .out_stride = stride,
                         .n_cols = stride,
                         .scale = scale};
    product(args, n_q);
}

void qn_attention_init_avx2(qn_kernels *k)
{
    k->attn_load_k = load_k;
    k->attn_load_v = load_v;
    k->attn_scores = scores;
    k->attn_weigh = weigh;
}
