/* SPDX-License-Identifier: Apache-2.0
 * matmul_neon_tmpl.c - integer products with the dot products of ARMv8.2, or with its matrix products (i8mm): compiled by
 * matmul_neon.c and, with QN_I8MM = 1, by matmul_i8mm.c. pack.h draws the layouts and gives the order of every sum; the kernels give
 * the bits of matmul_ref.c.
 *
 * Weights are signed here: quants of 2 to 6 bits as they are, of 8 bits and IQ4 less 128; what a sum begins with makes it that of
 * pack.h. int32 holds every sum, so nothing saturates.
 *
 *   sdot    4 rows x 4 columns a register, 4 activations by lane: 4 rows of sums for 1 token
 *   smmla   2 rows x 8 columns against 2 tokens x 8 columns: sums (r0 t0, r0 t1, r1 t0, r1 t1). Of two groups of 4 columns, 32-bit
 *           zips make both sides: weights when a panel is unpacked, activations in the tile.
 *
 * Threads: any, pure. */
#include <arm_neon.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "tensor/qblock.h"

#define INLINE static inline __attribute__((always_inline))

/* ---- quants and scales of a unit, for 4 rows ---- */

/* What the sums of quants begin with, times the sum of activations. */
INLINE int bias_of(qn_pack_bits b, qn_pack_scales s)
{
    return (b == QN_BITS_8 || b == QN_BITS_N ? 128 : 0) - qn_pack_zero(b, s);
}

INLINE uint8x16_t nibble(const uint8_t *p, bool high)
{
    uint8x16_t v = vld1q_u8(p);
    return high ? v >> 4 : v & 15;
}

/* The bits `mask` of the vector at p after a shift. */
INLINE uint8x16_t bits_at(const uint8_t *p, int left, uint8_t mask)
{
    uint8x16_t v = vld1q_u8(p);
    return (left > 0 ? v << left : v >> -left) & mask;
}

/* Group g (4 columns of 4 rows) of a block's quants as signed bytes. q: of rows 0..3 or, 16 bytes on, of rows 4..7 of 8. */
INLINE int8x16_t quant(qn_pack_bits bits, const uint8_t *q, int g)
{
    const uint8_t *at = q + 32 * (g % 4);
    uint8x16_t v;
    switch (bits) {
    case QN_BITS_4:
        v = nibble(at, g >= 4);
        break;
    case QN_BITS_5:
        v = nibble(at, g >= 4) | bits_at(q + 128, 4 - g, 16);
        break;
    case QN_BITS_6:
        v = nibble(at, g >= 4) | bits_at(q + 128 + 32 * (g / 4), 4 - 2 * (g % 4), 48);
        break;
    case QN_BITS_8:
        v = vld1q_u8(q + 32 * g) ^ 128;
        break;
    case QN_BITS_N:
        return vqtbl1q_s8(vld1q_s8(qn_iq4_values), nibble(at, g >= 4));
    case QN_BITS_2:
        v = bits_at(q + 32 * (g % 2), -2 * (g / 2), 3);
        break;
    case QN_BITS_3:
        v = bits_at(q + 32 * (g % 2), -2 * (g / 2), 3) | bits_at(q + 64, 2 - g, 4);
        break;
    }
    return vreinterpretq_s8_u8(v);
}

INLINE float32x4_t half4(const uint8_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

INLINE float32x4_t byte4(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8((uint32_t)v)))));
}

/* S and M (pack.h) of rows [4 part, 4 part + 4). */
INLINE float32x4x2_t scales_at(qn_pack_scales scales, const uint8_t *u, size_t b, size_t part)
{
    const uint8_t *sc = u + 16 * b + 4 * part;
    float32x4x2_t r = {{half4(u + 8 * part), vdupq_n_f32(0)}};
    if (qn_scales_has_min(scales))
        r.val[1] = half4(u + 32 + 8 * part);
    switch (scales) {
    case QN_SCALES_D:
    case QN_SCALES_DM:
    case QN_SCALES_S:
        break;
    case QN_SCALES_SM:
        r.val[1] = vnegq_f32(r.val[1]);
        break;
    case QN_SCALES_K:
        r.val[0] = vmulq_f32(r.val[0], byte4(sc + 64));
        r.val[1] = vnegq_f32(vmulq_f32(r.val[1], byte4(sc + 64 + 128)));
        break;
    case QN_SCALES_KD:
        r.val[0] = vmulq_f32(r.val[0], byte4(sc + 32));
        break;
    }
    return r;
}

/* Integer scales of columns 0..15 and of 16..31, or with m the minima (SM). */
INLINE int32x4x2_t sub_at(qn_pack_scales scales, const uint8_t *u, size_t b, size_t part, bool m)
{
    size_t at = scales == QN_SCALES_SM ? (m ? 64 + 256 : 64) : 32;
    int16x8_t pairs = vmovl_s8(vreinterpret_s8_u8(vld1_u8(u + at + 32 * b + 8 * part)));
    int32x4_t v = vreinterpretq_s32_s16(pairs);
    int32x4x2_t r = {{v << 16 >> 16, v >> 16}};
    return r;
}

/* ---- many rows of activations ----
 * A slice of a panel is unpacked once, then meets all tokens, 4 at a time. Unpacked block:
 *   quants   rows 0..7, rows 8..15, each 256 bytes of 16-byte vectors, in the order the tile reads
 *            sdot [group 8][4 rows x 4 columns: 2], smmla [two groups: 4][2 rows x 8 columns: 4]
 *   scales   rows 0..7, rows 8..15, each vectors of 4: S, M; for integer scales also sc of columns 0..15, of 16..31, m likewise if there are any
 * A tile is 8 rows x 4 tokens: 8 vectors of sums. They hold sdot: 4 rows of token i / 2; smmla: rows 2 (i / 2), + 1 of the tokens
 * 2 (i % 2), + 1; so smmla has each scale twice. */
enum { SUMS = 8, SCALE_VECTORS = QN_I8MM ? 4 : 2 };

INLINE size_t block_bytes(qn_pack_scales scales)
{
    return 512 + 2 * 16 * SCALE_VECTORS * (qn_scales_has_sub(scales) ? 6 : 2);
}

/* 4 rows of a scale, to where vectors of rows [4 part, 4 part + 4) of 8 lie. */
INLINE void put_scale(int32_t *to, int32x4_t v, size_t part)
{
    if (QN_I8MM) {
        vst1q_s32(to + 8 * part, vzip1q_s32(v, v));
        vst1q_s32(to + 8 * part + 4, vzip2q_s32(v, v));
    } else {
        vst1q_s32(to + 4 * part, v);
    }
}

INLINE void unpack(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *u, size_t b,
                   int8_t *restrict out)
{
    const size_t bytes = qn_bits_bytes(bits), stride = 4 * SCALE_VECTORS;
    const uint8_t *q = u + qn_scales_bytes(scales) + b * 2 * bytes;
#pragma GCC unroll 2
    for (size_t half = 0; half < 2; half++) {
        int32_t *s = (int32_t *)(out + 512) + half * stride * (qn_scales_has_sub(scales) ? 6 : 2);
#pragma GCC unroll 2
        for (size_t part = 0; part < 2; part++) {
            const uint8_t *at = q + half * bytes + 16 * part;
            int8_t *to = out + 256 * half;
#pragma GCC unroll 4
            for (int g = 0; g < 8; g += 2) {
                int32x4_t x = vreinterpretq_s32_s8(quant(bits, at, g)),
                          y = vreinterpretq_s32_s8(quant(bits, at, g + 1));
                int8_t *v = to + 32 * g + (QN_I8MM ? 32 : 16) * part;
                vst1q_s8(v, vreinterpretq_s8_s32(QN_I8MM ? vzip1q_s32(x, y) : x));
                vst1q_s8(v + (QN_I8MM ? 16 : 32),
                         vreinterpretq_s8_s32(QN_I8MM ? vzip2q_s32(x, y) : y));
            }
            float32x4x2_t sm = scales_at(scales, u, b, 2 * half + part);
            put_scale(s, vreinterpretq_s32_f32(sm.val[0]), part);
            put_scale(s + stride, vreinterpretq_s32_f32(sm.val[1]), part);
            if (!qn_scales_has_sub(scales))
                continue;
            int32x4x2_t sc = sub_at(scales, u, b, 2 * half + part, false);
            put_scale(s + 2 * stride, sc.val[0], part);
            put_scale(s + 3 * stride, sc.val[1], part);
            if (!qn_scales_has_min(scales))
                continue;
            int32x4x2_t m = sub_at(scales, u, b, 2 * half + part, true);
            put_scale(s + 4 * stride, m.val[0], part);
            put_scale(s + 5 * stride, m.val[1], part);
        }
    }
}

/* Ends a step: without it gcc takes one sum after the other, and needs more registers than there are. */
INLINE void in_order(int32x4_t sum[SUMS])
{
    __asm__ volatile(""
                     : "+w"(sum[0]), "+w"(sum[1]), "+w"(sum[2]), "+w"(sum[3]), "+w"(sum[4]),
                       "+w"(sum[5]), "+w"(sum[6]), "+w"(sum[7]));
}

/* sum[8] += the products of 16 columns: w as above, a: the 4 groups of 4 tokens. */
INLINE void multiply(const int8_t *restrict w, const int8_t *restrict a, int32x4_t sum[SUMS])
{
#if QN_I8MM
#pragma GCC unroll 2
    for (int g = 0; g < 2; g++, w += 64, a += 32) {
        const int32x4_t x = vreinterpretq_s32_s8(vld1q_s8(a)),
                        y = vreinterpretq_s32_s8(vld1q_s8(a + 16));
        const int8x16_t a0 = vreinterpretq_s8_s32(vzip1q_s32(x, y)),
                        a1 = vreinterpretq_s8_s32(vzip2q_s32(x, y));
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const int8x16_t v = vld1q_s8(w + 16 * i);
            sum[2 * i] = vmmlaq_s32(sum[2 * i], v, a0);
            sum[2 * i + 1] = vmmlaq_s32(sum[2 * i + 1], v, a1);
        }
        in_order(sum);
    }
#else
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++, w += 32, a += 16) {
        const int8x16_t v0 = vld1q_s8(w), v1 = vld1q_s8(w + 16), x = vld1q_s8(a);
        sum[0] = vdotq_laneq_s32(sum[0], v0, x, 0);
        sum[1] = vdotq_laneq_s32(sum[1], v1, x, 0);
        sum[2] = vdotq_laneq_s32(sum[2], v0, x, 1);
        sum[3] = vdotq_laneq_s32(sum[3], v1, x, 1);
        sum[4] = vdotq_laneq_s32(sum[4], v0, x, 2);
        sum[5] = vdotq_laneq_s32(sum[5], v1, x, 2);
        sum[6] = vdotq_laneq_s32(sum[6], v0, x, 3);
        sum[7] = vdotq_laneq_s32(sum[7], v1, x, 3);
        in_order(sum);
    }
#endif
}

/* The value of token [token of vector i] in each lane: twice (t, t + 1), or t four times. */
INLINE int32x4_t of_token(const void *v, int i)
{
    const int32_t *p = (const int32_t *)v + (QN_I8MM ? 2 * (i % 2) : i / 2);
    return QN_I8MM ? vcombine_s32(vld1_s32(p), vld1_s32(p)) : vld1q_dup_s32(p);
}

/* Vector of rows that belongs to vector i of the sums. */
INLINE int rows_of(int i)
{
    return QN_I8MM ? i / 2 : i % 2;
}

/* f[8] (as the sums lie) += 8 rows x 4 tokens over one block. w: its quants, s: its scales. */
INLINE void tile_block(qn_pack_bits bits, qn_pack_scales scales, const int8_t *restrict w,
                       const int32_t *restrict s, const qn_act4 *restrict a, float32x4_t f[SUMS])
{
    const size_t stride = 4 * SCALE_VECTORS;
    const int bias = bias_of(bits, scales);
    int32_t h0[4], h1[4], start[2][4];
    if (qn_scales_has_sub(scales) || bias)
        for (int t = 0; t < 4; t++) {
            h0[t] = a->h[t][0];
            h1[t] = a->h[t][1];
            start[0][t] = bias * (qn_scales_has_sub(scales) ? h0[t] : h0[t] + h1[t]);
            start[1][t] = bias * h1[t];
        }
    int32x4_t sum[SUMS], upper[SUMS];
#pragma GCC unroll 8
    for (int i = 0; i < SUMS; i++) {
        sum[i] = bias ? of_token(start[0], i) : vdupq_n_s32(0);
        upper[i] = bias ? of_token(start[1], i) : vdupq_n_s32(0);
    }
    multiply(w, a->q[0][0], sum);
    multiply(w + 128, a->q[4][0], qn_scales_has_sub(scales) ? upper : sum);
#pragma GCC unroll 8
    for (int i = 0; i < SUMS; i++) {
        const int32_t *at = s + 4 * rows_of(i);
        const float32x4_t d = vreinterpretq_f32_s32(of_token(a->d, i));
        if (qn_scales_has_sub(scales)) {
            sum[i] = vmulq_s32(sum[i], vld1q_s32(at + 2 * stride));
            sum[i] = vmlaq_s32(sum[i], upper[i], vld1q_s32(at + 3 * stride));
        }
        const float32x4_t big_s = vreinterpretq_f32_s32(vld1q_s32(at)),
                          big_m = vreinterpretq_f32_s32(vld1q_s32(at + stride));
        f[i] = vfmaq_f32(f[i], big_s, vmulq_f32(d, vcvtq_f32_s32(sum[i])));
        if (!qn_scales_has_min(scales))
            continue;
        float32x4_t off = vreinterpretq_f32_s32(of_token(a->s, i));
        if (qn_scales_has_sub(scales)) {
            int32x4_t j = vmulq_s32(of_token(h0, i), vld1q_s32(at + 4 * stride));
            j = vmlaq_s32(j, of_token(h1, i), vld1q_s32(at + 5 * stride));
            off = vmulq_f32(d, vcvtq_f32_s32(j));
        }
        f[i] = vfmaq_f32(f[i], big_m, off);
    }
}

/* Between c[4 tokens][16], of which 8 rows, and the order of the sums. */
INLINE void tile_load(const float *c, float32x4_t f[SUMS])
{
#pragma GCC unroll 4
    for (int i = 0; i < SUMS; i += 2) {
        if (!QN_I8MM) {
            f[i] = vld1q_f32(c + QN_PACK_ROWS * (i / 2));
            f[i + 1] = vld1q_f32(c + QN_PACK_ROWS * (i / 2) + 4);
            continue;
        }
        for (int j = 0; j < 2; j++) {
            const float *p = c + QN_PACK_ROWS * 2 * j + i;
            f[i + j] = vzip1q_f32(vcombine_f32(vld1_f32(p), vdup_n_f32(0)),
                                  vcombine_f32(vld1_f32(p + QN_PACK_ROWS), vdup_n_f32(0)));
        }
    }
}

INLINE void tile_store(float *c, const float32x4_t f[SUMS])
{
#pragma GCC unroll 4
    for (int i = 0; i < SUMS; i += 2) {
        if (!QN_I8MM) {
            vst1q_f32(c + QN_PACK_ROWS * (i / 2), f[i]);
            vst1q_f32(c + QN_PACK_ROWS * (i / 2) + 4, f[i + 1]);
            continue;
        }
        for (int j = 0; j < 2; j++) {
            float *p = c + QN_PACK_ROWS * 2 * j + i;
            vst1_f32(p, vget_low_f32(vuzp1q_f32(f[i + j], f[i + j])));
            vst1_f32(p + QN_PACK_ROWS, vget_low_f32(vuzp2q_f32(f[i + j], f[i + j])));
        }
    }
}

INLINE void gemm(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *w, size_t n_blocks,
                 const qn_act4 *a, size_t n_quads, float *c, int8_t *scratch)
{
    const size_t per = qn_scales_blocks(scales), bytes = block_bytes(scales),
                 tail = (bytes - 512) / 2 / sizeof(int32_t);
    const size_t slice = QN_MM_SCRATCH / bytes;
    memset(c, 0, n_quads * 4 * QN_PACK_ROWS * sizeof *c);
    for (size_t b = 0; b < n_blocks; b += slice) {
        size_t n = QN_MIN(slice, n_blocks - b);
        for (size_t i = 0; i < n; i++)
            unpack(bits, scales, w + (b + i) / per * qn_unit_bytes(bits, scales), (b + i) % per,
                   scratch + i * bytes);
        for (size_t t = 0; t < 2 * n_quads; t++) {
            const qn_act4 *x = a + t / 2 * n_blocks + b;
            const size_t half = t % 2;
            float *to = c + t / 2 * 4 * QN_PACK_ROWS + 8 * half;
            float32x4_t f[SUMS];
            tile_load(to, f);
            for (size_t i = 0; i < n; i++) {
                const int8_t *block = scratch + i * bytes;
                tile_block(bits, scales, block + 256 * half,
                           (const int32_t *)(block + 512) + tail * half, x + i, f);
            }
            tile_store(to, f);
        }
    }
}

#define GEMM(name, bits, scales)                                                                   \
    static void gemm_##name(const uint8_t *w, size_t n_blocks, const qn_act4 *a, size_t n_quads,   \
                            float *c, void *scratch)                                               \
    {                                                                                              \
        gemm(bits, scales, w, n_blocks, a, n_quads, c, scratch);                                   \
    }
QN_PACK_LIST(GEMM)
#undef GEMM
