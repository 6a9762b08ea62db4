/* SPDX-License-Identifier: Apache-2.0
 * attention_neon.c - the kernels over a tile of keys for 64-bit ARM. kv_tile.h draws the tiles, the algorithm is in attention.c.
 *
 * Scores and weighted sums are the same product: queries (or their weights) times panels of 16 columns, read front to back and
 * converted in registers; a column is a key, or a dimension of the output. A block of accumulators holds 4 to 6 queries x 16 columns,
 * 2 or 3 x 32, or 1 x 64, of 32 registers; each element is one chain, whatever block it falls into.
 *
 *   F32, F16   a row is 4 vectors: one FMA each for a query
 *   int8       a pair of rows is 32 bytes, parted and widened to int16: smlal with the query's int16, added up in int32, exact
 * Threads: any, pure. */
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "tensor/fp.h"

#define INLINE static inline __attribute__((always_inline))

enum { VECTORS = QN_KV_PANEL / 4, MAX_QUERIES = 6 };

typedef struct product_args {
    const void *a;    /* float [n_q][a_stride]; int8: int16 */
    size_t a_stride;  /* elements */
    const uint8_t *b; /* panels */
    size_t panel_bytes, n_panels;
    size_t n; /* rows: terms of a sum (int8: rounded up to pairs) */
    float *out;
    size_t out_stride;
    const float *scale;     /* of what is in out, for each query; NULL: overwrite */
    const float *step;      /* int8: of the sum, for each query */
    const float *col_scale; /* int8 scores: of the columns */
    const float *first;     /* int8 scores: added, for each query */
} product_args;

INLINE float32x4_t column4(const uint8_t *b, qn_kv_type t, size_t i)
{
    return t == QN_KV_F16 ? vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(b + 8 * i)))
                          : vreinterpretq_f32_u8(vld1q_u8(b + 16 * i));
}

/* Columns of n_p panels from panel c for n_q queries; t, n_q, n_p are constants where this is inlined. */
INLINE void block_float(const product_args *p, qn_kv_type t, size_t c, int n_q, int n_p)
{
    const float *a = p->a;
    const uint8_t *b = p->b + c * p->panel_bytes;
    const size_t a_stride = p->a_stride, panel_bytes = p->panel_bytes, n = p->n;
    float *out = p->out + c * QN_KV_PANEL;
    float32x4_t acc[MAX_QUERIES][4 * VECTORS];
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < VECTORS * n_p; v++)
            acc[i][v] = p->scale ? vmulq_n_f32(vld1q_f32(out + (size_t)i * p->out_stride + 4 * v),
                                               p->scale[i])
                                 : vdupq_n_f32(0);
    for (size_t r = 0; r < n; r++, a++, b += t == QN_KV_F16 ? 32 : 64)
        for (int k = 0; k < n_p; k++) {
            float32x4_t col[VECTORS];
            for (size_t v = 0; v < VECTORS; v++)
                col[v] = column4(b + (size_t)k * panel_bytes, t, v);
            for (int i = 0; i < n_q; i++) {
                const float x = a[(size_t)i * a_stride];
                for (int v = 0; v < VECTORS; v++)
                    acc[i][VECTORS * k + v] = vfmaq_n_f32(acc[i][VECTORS * k + v], col[v], x);
            }
        }
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < VECTORS * n_p; v++)
            vst1q_f32(out + (size_t)i * p->out_stride + 4 * v, acc[i][v]);
}

INLINE void block_int(const product_args *p, size_t c, int n_q)
{
    const int16_t *a = p->a;
    const uint8_t *b = p->b + c * p->panel_bytes;
    const size_t a_stride = p->a_stride, n = p->n;
    int32x4_t acc[MAX_QUERIES][VECTORS];
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < VECTORS; v++)
            acc[i][v] = vdupq_n_s32(0);
    for (size_t r = 0; r < n; r += 2, a += 2, b += 32) {
        const int8x16_t lo = vreinterpretq_s8_u8(vld1q_u8(b)),
                        hi = vreinterpretq_s8_u8(vld1q_u8(b + 16));
        const int8x16_t row[2] = {vuzp1q_s8(lo, hi), vuzp2q_s8(lo, hi)};
        for (int k = 0; k < 2; k++) {
            const int16x8_t w0 = vmovl_s8(vget_low_s8(row[k])), w1 = vmovl_high_s8(row[k]);
            for (int i = 0; i < n_q; i++) {
                const int16_t x = a[(size_t)i * a_stride + (size_t)k];
                acc[i][0] = vmlal_n_s16(acc[i][0], vget_low_s16(w0), x);
                acc[i][1] = vmlal_high_n_s16(acc[i][1], w0, x);
                acc[i][2] = vmlal_n_s16(acc[i][2], vget_low_s16(w1), x);
                acc[i][3] = vmlal_high_n_s16(acc[i][3], w1, x);
            }
        }
    }
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < VECTORS; v++) {
            const size_t at = c * QN_KV_PANEL + 4 * (size_t)v;
            float *out = p->out + (size_t)i * p->out_stride + at;
            const float32x4_t f = vcvtq_f32_s32(acc[i][v]);
            if (p->col_scale)
                vst1q_f32(out, vfmaq_f32(vdupq_n_f32(p->first[i]),
                                         vmulq_n_f32(vld1q_f32(p->col_scale + at), p->step[i]), f));
            else
                vst1q_f32(out,
                          vfmaq_n_f32(vmulq_n_f32(vld1q_f32(out), p->scale[i]), f, p->step[i]));
        }
}

INLINE void strip(const product_args *p, qn_kv_type t, int n_q)
{
    const int wide = n_q == 1 ? 4 : n_q <= 3 ? 2 : 1;
    size_t c = 0;
    if (t == QN_KV_I8) {
        for (; c < p->n_panels; c++)
            block_int(p, c, n_q);
        return;
    }
    for (; c + (size_t)wide <= p->n_panels; c += (size_t)wide)
        block_float(p, t, c, n_q, wide);
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
    static void (*const strips_##name[MAX_QUERIES])(const product_args *) = {                      \
        strip_##name##1, strip_##name##2, strip_##name##3,                                         \
        strip_##name##4, strip_##name##5, strip_##name##6};
STRIPS(QN_KV_F32, f32)
STRIPS(QN_KV_F16, f16)
STRIPS(QN_KV_I8, i8)

/* Queries of the next strip: groups of 6, but 7, 8 and 9 as 4 + 3, 4 + 4, 5 + 4: one or two alone wait for each FMA. */
static size_t strip_size(size_t n_q)
{
    return n_q > 9 || n_q == 6 ? 6 : n_q > 6 ? (n_q + 1) / 2 : n_q;
}

INLINE void product(product_args p, void (*const strips[])(const product_args *), size_t n_q)
{
    while (n_q > 0) {
        const size_t g = strip_size(n_q);
        strips[g - 1](&p);
        p.a = (const float *)p.a + g * p.a_stride;
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
    float32x4_t lo = vdupq_n_f32(0), hi = vdupq_n_f32(0);
    for (size_t d = 0; d < width; d += 8) {
        const float16x8_t h = vreinterpretq_f16_u16(vld1q_u16(first + d));
        lo = vfmaq_f32(lo, vld1q_f32(q + d), vcvt_f32_f16(vget_low_f16(h)));
        hi = vfmaq_f32(hi, vld1q_f32(q + d + 4), vcvt_f32_f16(vget_high_f16(h)));
    }
    const float32x4_t s = vaddq_f32(lo, hi);
    return (vgetq_lane_f32(s, 0) + vgetq_lane_f32(s, 2)) +
           (vgetq_lane_f32(s, 1) + vgetq_lane_f32(s, 3));
}

static void scores_i8(const float *q, size_t n_q, const void *tile, size_t n, size_t dim, float *s)
{
    const size_t width = qn_kv_width(dim), stride = qn_kv_query_floats(QN_KV_I8, dim);
    product_args args = scores_args(q, tile, n, dim, 1, s);
    float step[MAX_QUERIES], first[MAX_QUERIES];
    args.a_stride = 2 * stride;
    args.step = step;
    args.first = first;
    args.col_scale = qn_kv_scales(tile, dim);
    while (n_q > 0) {
        const size_t g = strip_size(n_q);
        QN_ASSERT(g > 0);
        for (size_t i = 0; i < g; i++) {
            step[i] = q[i * stride + qn_kv_query_step(dim)];
            first[i] = dot_first(q + i * stride, qn_kv_first(tile, dim), width);
        }
        args.a = q + width;
        strips_i8[g - 1](&args);
        q += g * stride;
        args.out += g * args.out_stride;
        n_q -= g;
    }
}

/* p_j times the scale of v_j, as int16 (to_i16): a row of the tile in registers. Returns the step. */
static float int_weights(const float *p, const float *v_scale, int16_t *w)
{
    enum { N = QN_KV_TILE / 4 };
    float32x4_t v[N];
    uint32x4_t top = vdupq_n_u32(0);
    for (size_t i = 0; i < N; i++) {
        const float32x4_t x = vld1q_f32(p + 4 * i);
        const float32x4_t y = vmulq_f32(x, vld1q_f32(v_scale + 4 * i));
        v[i] = vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vceqzq_f32(x)));
        top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(v[i])));
    }
    const uint32_t bits = vmaxvq_u32(top);
    const float max = qn_bits_to_f32(bits);
    if (bits >= 0x7f800000u || max < 0x1p-100f) {
        memset(w, 0, QN_KV_TILE * sizeof *w);
        return bits >= 0x7f800000u ? NAN : 0.0f;
    }
    const float inv = QN_KV_STEPS / max;
    for (size_t i = 0; i < N; i++)
        vst1_s16(w + 4 * i, vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(v[i], inv))));
    return max / QN_KV_STEPS;
}

static void weigh_i8(const float *p, const float *scale, size_t n_q, const void *tile, size_t n,
                     size_t dim, float *o)
{
    const float *v_scale = qn_kv_scales(tile, dim);
    product_args args = weigh_args(NULL, scale, tile, n, dim, 1, o);
    int16_t w[MAX_QUERIES][QN_KV_TILE];
    float step[MAX_QUERIES];
    args.a = w;
    args.step = step;
    while (n_q > 0) {
        const size_t g = strip_size(n_q);
        QN_ASSERT(g > 0);
        for (size_t i = 0; i < g; i++)
            step[i] = int_weights(p + i * QN_KV_TILE, v_scale, w[i]);
        strips_i8[g - 1](&args);
        p += g * QN_KV_TILE;
        args.out += g * args.out_stride;
        args.scale += g;
        n_q -= g;
    }
}

void qn_attention_init_neon(qn_kernels *k)
{
    k->kv[QN_KV_F32] = (qn_kv_kernels){scores_f32, weigh_f32};
    k->kv[QN_KV_F16] = (qn_kv_kernels){scores_f16, weigh_f16};
    k->kv[QN_KV_I8] = (qn_kv_kernels){scores_i8, weigh_i8};
}
