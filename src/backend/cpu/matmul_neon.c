/* SPDX-License-Identifier: Apache-2.0
 * matmul_neon.c - products with ARMv8.2's dot products; the integer products of many rows are in matmul_neon_tmpl.c. All give the bits
 * of matmul_ref.c. Float sums of 8 lanes are two registers: lanes 0..3 and 4..7.
 * Threads: any, pure. */
#include <math.h>

#define QN_I8MM 0
#include "backend/cpu/matmul_neon_tmpl.c"
#include "tensor/fp.h"

/* ---- activations ---- */

static void quantise_neon(const float *x, size_t n_blocks, int lanes, int lane, void *out)
{
    for (size_t b = 0; b < n_blocks; b++, x += 32) {
        float32x4_t v[8];
        uint32x4_t top = vdupq_n_u32(0);
        for (int i = 0; i < 8; i++) {
            v[i] = vld1q_f32(x + 4 * i);
            top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(v[i])));
        }
        uint32_t bits = vmaxvq_u32(top);
        float max = qn_bits_to_f32(bits), inv = 0, d = 0;
        if (bits >= 0x7f800000u) {
            d = NAN;
        } else if (max >= 0x1p-100f) {
            inv = 127.0f / max;
            d = max / 127.0f;
        }
        int16x4_t q[8];
        for (int i = 0; i < 8; i++)
            q[i] = vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(v[i], inv)));
        int8x16_t p[2];
        for (int i = 0; i < 2; i++)
            p[i] = vcombine_s8(vmovn_s16(vcombine_s16(q[4 * i], q[4 * i + 1])),
                               vmovn_s16(vcombine_s16(q[4 * i + 2], q[4 * i + 3])));
        if (bits >= 0x7f800000u)
            p[0] = p[1] = vdupq_n_s8(0);
        int16_t h[2] = {vaddlvq_s8(p[0]), vaddlvq_s8(p[1])};
        float sum = d * (float)(h[0] + h[1]);
        int8_t line[32];
        vst1q_s8(line, p[0]);
        vst1q_s8(line + 16, p[1]);
        if (lanes == 1) {
            qn_act1 *a = (qn_act1 *)out + b;
            a->d = d;
            a->s = sum;
            memcpy(a->h, h, sizeof h);
            memcpy(a->q, line, sizeof line);
        } else {
            qn_act4 *a = (qn_act4 *)out + b;
            a->d[lane] = d;
            a->s[lane] = sum;
            memcpy(a->h[lane], h, sizeof h);
            for (int g = 0; g < 8; g++)
                memcpy(a->q[g][lane], line + 4 * g, 4);
        }
    }
}

/* ---- one row of activations ---- */

/* f[part] of rows [4 part, 4 part + 4) after block b of unit u, whose quants are at q. */
INLINE void gemv_block(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *u, size_t b,
                       const uint8_t *q, const qn_act1 *a, float32x4_t f[4])
{
    const int8x16_t x0 = vld1q_s8(a->q[0]), x1 = vld1q_s8(a->q[4]);
    const int h0 = a->h[0], h1 = a->h[1];
#pragma GCC unroll 4
    for (size_t part = 0; part < 4; part++) {
        const uint8_t *at = q + part / 2 * qn_bits_bytes(bits) + 16 * (part % 2);
        int32x4_t s = vdupq_n_s32(bias_of(bits, scales) * h0),
                  t = vdupq_n_s32(bias_of(bits, scales) * h1);
        s = vdotq_laneq_s32(s, quant(bits, at, 0), x0, 0);
        t = vdotq_laneq_s32(t, quant(bits, at, 4), x1, 0);
        s = vdotq_laneq_s32(s, quant(bits, at, 1), x0, 1);
        t = vdotq_laneq_s32(t, quant(bits, at, 5), x1, 1);
        s = vdotq_laneq_s32(s, quant(bits, at, 2), x0, 2);
        t = vdotq_laneq_s32(t, quant(bits, at, 6), x1, 2);
        s = vdotq_laneq_s32(s, quant(bits, at, 3), x0, 3);
        t = vdotq_laneq_s32(t, quant(bits, at, 7), x1, 3);
        float32x4x2_t sm = scales_at(scales, u, b, part);
        if (qn_scales_has_sub(scales)) {
            int32x4x2_t sc = sub_at(scales, u, b, part, false);
            s = vmlaq_s32(vmulq_s32(s, sc.val[0]), t, sc.val[1]);
        } else {
            s = vaddq_s32(s, t);
        }
        f[part] = vfmaq_f32(f[part], sm.val[0], vmulq_n_f32(vcvtq_f32_s32(s), a->d));
        if (qn_scales_has_min(scales)) {
            float32x4_t off = vdupq_n_f32(a->s);
            if (qn_scales_has_sub(scales)) {
                int32x4x2_t m = sub_at(scales, u, b, part, true);
                int32x4_t j = vmlaq_n_s32(vmulq_n_s32(m.val[0], h0), m.val[1], h1);
                off = vmulq_n_f32(vcvtq_f32_s32(j), a->d);
            }
            f[part] = vfmaq_f32(f[part], sm.val[1], off);
        }
        __asm__ volatile("" : "+w"(f[part])); /* as in_order */
    }
}

INLINE void gemv(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *w, size_t n_panels,
                 size_t n_blocks, const qn_act1 *acts, float *y)
{
    const size_t per = qn_scales_blocks(scales), bytes = 2 * qn_bits_bytes(bits);
    for (; n_panels > 0; n_panels--, y += QN_PACK_ROWS) {
        const qn_act1 *a = acts;
        float32x4_t f[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
        for (size_t i = 0; i < n_blocks; i += per) {
            const uint8_t *u = w;
            w += qn_scales_bytes(scales);
            for (size_t b = 0; b < per; b++, a++, w += bytes)
                gemv_block(bits, scales, u, b, w, a, f);
        }
        for (int part = 0; part < 4; part++)
            vst1q_f32(y + 4 * part, f[part]);
    }
}

#define GEMV(name, bits, scales)                                                                   \
    static void gemv_##name(const uint8_t *w, size_t n_panels, size_t n_blocks, const qn_act1 *a,  \
                            float *y)                                                              \
    {                                                                                              \
        gemv(bits, scales, w, n_panels, n_blocks, a, y);                                           \
    }
QN_PACK_LIST(GEMV)
#undef GEMV

/* ---- float products ---- */

INLINE float sum8(const float32x4_t v[2])
{
    float32x4_t s = vaddq_f32(v[0], v[1]);
    return vaddv_f32(vadd_f32(vget_low_f32(s), vget_high_f32(s)));
}

/* 8 stored columns as float32. */
INLINE void stored8(qn_dtype type, const void *p, float32x4_t out[2])
{
    if (type == QN_F32) {
        out[0] = vreinterpretq_f32_u8(vld1q_u8(p));
        out[1] = vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)p + 16));
        return;
    }
    const uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(p));
    if (type == QN_F16) {
        out[0] = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(h)));
        out[1] = vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(h)));
    } else {
        out[0] = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16));
        out[1] = vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(h), 16));
    }
}

/* The first n < 8 of 8 columns, then zeros. */
INLINE void stored_tail(qn_dtype type, const void *p, size_t n, float32x4_t out[2])
{
    uint8_t tail[32] = {0};
    memcpy(tail, p, n * (type == QN_F32 ? 4 : 2));
    stored8(type, tail, out);
}

INLINE void f32_tile(const qn_mm_f32 *p, size_t r, size_t t, int n_rows, int n_tokens)
{
    const float *w = p->w + r * p->w_stride, *x = p->x + t * p->x_stride;
    float32x4_t acc[8][2];
#pragma GCC unroll 8
    for (int i = 0; i < n_rows * n_tokens; i++)
        acc[i][0] = acc[i][1] = vdupq_n_f32(0);
    for (size_t k = 0; k < p->cols; k += 8) {
        const bool whole = k + 8 <= p->cols;
        float32x4_t v[2][2];
#pragma GCC unroll 2
        for (int j = 0; j < n_tokens; j++) {
            const float *at = x + (size_t)j * p->x_stride + k;
            if (whole)
                stored8(QN_F32, at, v[j]);
            else
                stored_tail(QN_F32, at, p->cols - k, v[j]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < n_rows; i++) {
            const float *at = w + (size_t)i * p->w_stride + k;
            float32x4_t a[2];
            if (whole)
                stored8(QN_F32, at, a);
            else
                stored_tail(QN_F32, at, p->cols - k, a);
#pragma GCC unroll 2
            for (int j = 0; j < n_tokens; j++) {
                float32x4_t *s = acc[i * n_tokens + j];
                s[0] = vfmaq_f32(s[0], a[0], v[j][0]);
                s[1] = vfmaq_f32(s[1], a[1], v[j][1]);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < n_tokens; j++)
            p->y[(t + (size_t)j) * p->y_stride + r + (size_t)i] = sum8(acc[i * n_tokens + j]);
}

/* 4 rows x 2 tokens: 16 sums, 4 activations and 2 weights of the 32 registers. */
static void f32_neon(const qn_mm_f32 *p)
{
    size_t t = 0;
    for (; t + 2 <= p->n_tokens; t += 2) {
        size_t r = 0;
        for (; r + 4 <= p->n_rows; r += 4)
            f32_tile(p, r, t, 4, 2);
        for (; r < p->n_rows; r++)
            f32_tile(p, r, t, 1, 2);
    }
    for (; t < p->n_tokens; t++) {
        size_t r = 0;
        for (; r + 4 <= p->n_rows; r += 4)
            f32_tile(p, r, t, 4, 1);
        for (; r < p->n_rows; r++)
            f32_tile(p, r, t, 1, 1);
    }
}

INLINE void dot_rows(qn_dtype type, const uint8_t *w, size_t stride, int n_rows, const float *x,
                     size_t cols, float *y)
{
    const size_t size = type == QN_F32 ? 4 : 2;
    float32x4_t acc[4][2];
#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++)
        acc[i][0] = acc[i][1] = vdupq_n_f32(0);
    for (size_t k = 0; k < cols; k += 8) {
        const float32x4_t v0 = vld1q_f32(x + k), v1 = vld1q_f32(x + k + 4);
#pragma GCC unroll 4
        for (int i = 0; i < n_rows; i++) {
            const uint8_t *at = w + (size_t)i * stride + k * size;
            float32x4_t a[2];
            if (k + 8 <= cols)
                stored8(type, at, a);
            else
                stored_tail(type, at, cols - k, a);
            acc[i][0] = vfmaq_f32(acc[i][0], a[0], v0);
            acc[i][1] = vfmaq_f32(acc[i][1], a[1], v1);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++)
        y[i] = sum8(acc[i]);
}

INLINE void dot(qn_dtype type, const uint8_t *w, size_t stride, size_t n_rows, const float *x,
                size_t cols, float *y)
{
    size_t r = 0;
    for (; r + 4 <= n_rows; r += 4)
        dot_rows(type, w + r * stride, stride, 4, x, cols, y + r);
    for (; r < n_rows; r++)
        dot_rows(type, w + r * stride, stride, 1, x, cols, y + r);
}

INLINE void decode(qn_dtype type, const uint8_t *p, size_t n, float *out)
{
    float32x4_t v[2];
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        stored8(type, p + 2 * i, v);
        vst1q_f32(out + i, v[0]);
        vst1q_f32(out + i + 4, v[1]);
    }
    if (i < n) {
        float last[8];
        stored_tail(type, p + 2 * i, n - i, v);
        vst1q_f32(last, v[0]);
        vst1q_f32(last + 4, v[1]);
        memcpy(out + i, last, (n - i) * sizeof *out);
    }
}

#define DOT(name, type)                                                                            \
    static void dot_##name(const void *w, size_t stride, size_t n_rows, const float *x,            \
                           size_t cols, float *y)                                                  \
    {                                                                                              \
        dot(type, w, stride, n_rows, x, cols, y);                                                  \
    }
DOT(f32, QN_F32)
DOT(f16, QN_F16)
DOT(bf16, QN_BF16)
#undef DOT

static void decode_f16(const void *src, size_t n, float *out)
{
    decode(QN_F16, src, n, out);
}

static void decode_bf16(const void *src, size_t n, float *out)
{
    decode(QN_BF16, src, n, out);
}

void qn_matmul_init_neon(qn_kernels *k)
{
#define ROWS(name, bits, scales)                                                                   \
    k->mm_gemv[QN_PACK_##name] = gemv_##name;                                                      \
    k->mm_gemm[QN_PACK_##name] = gemm_##name;
    QN_PACK_LIST(ROWS)
#undef ROWS
    k->mm_quantise = quantise_neon;
    k->mm_f32 = f32_neon;
    k->mm_dot[QN_F32] = dot_f32;
    k->mm_dot[QN_F16] = dot_f16;
    k->mm_dot[QN_BF16] = dot_bf16;
    k->mm_decode[QN_F16] = decode_f16;
    k->mm_decode[QN_BF16] = decode_bf16;
}
