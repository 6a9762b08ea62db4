/* SPDX-License-Identifier: Apache-2.0
 * qblock.c - what the bytes of every one-tensor format mean: the plain decoders that all kernels
 * are measured against.
 *
 * One function decodes one block; a loop around it is generated for each (BLOCKS). Products are
 * formed in the order of the reference, scale first, so that results agree to the bit where the
 * reference computes in float32.
 * Source: formulas after the gguf Python package 0.19.0, quants.py (dequantize_blocks). */
#include "tensor/qblock.h"

#include "tensor/fp.h"
#include "tensor/qblock_tables.h"

#include <string.h>

const int8_t qn_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
const int8_t qn_e2m1_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* ---- small blocks ---- */

static void q4_0(const qn_block_q4_0 *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((b->qs[i] & 15) - 8);
        out[i + 16] = d * (float)((b->qs[i] >> 4) - 8);
    }
}

static void q4_1(const qn_block_q4_1 *b, float *out)
{
    float d = qn_f16_to_f32(b->d), m = qn_f16_to_f32(b->m);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(b->qs[i] & 15) + m;
        out[i + 16] = d * (float)(b->qs[i] >> 4) + m;
    }
}

static uint32_t word(const uint8_t p[4])
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void q5_0(const qn_block_q5_0 *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    uint32_t qh = word(b->qh);
    for (int i = 0; i < 16; i++) {
        int lo = (b->qs[i] & 15) | (int)(qh >> i & 1) << 4;
        int hi = b->qs[i] >> 4 | (int)(qh >> (i + 16) & 1) << 4;
        out[i] = d * (float)(lo - 16);
        out[i + 16] = d * (float)(hi - 16);
    }
}

static void q5_1(const qn_block_q5_1 *b, float *out)
{
    float d = qn_f16_to_f32(b->d), m = qn_f16_to_f32(b->m);
    uint32_t qh = word(b->qh);
    for (int i = 0; i < 16; i++) {
        int lo = (b->qs[i] & 15) | (int)(qh >> i & 1) << 4;
        int hi = b->qs[i] >> 4 | (int)(qh >> (i + 16) & 1) << 4;
        out[i] = d * (float)lo + m;
        out[i + 16] = d * (float)hi + m;
    }
}

static void q8_0(const qn_block_q8_0 *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)b->qs[i];
}

static void iq4_nl(const qn_block_iq4_nl *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)qn_iq4_values[b->qs[i] & 15];
        out[i + 16] = d * (float)qn_iq4_values[b->qs[i] >> 4];
    }
}

static void mxfp4(const qn_block_mxfp4 *b, float *out)
{
    /* 2^(e - 128), half the shared scale, for the values are doubled; below 2^-126 it is
     * subnormal. */
    float d = qn_bits_to_f32(b->e < 2 ? UINT32_C(0x00200000) << b->e : (b->e - UINT32_C(1)) << 23);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)qn_e2m1_values[b->qs[i] & 15];
        out[i + 16] = d * (float)qn_e2m1_values[b->qs[i] >> 4];
    }
}

static void nvfp4(const qn_block_nvfp4 *b, float *out)
{
    for (int g = 0; g < 4; g++, out += 16) {
        uint8_t s = b->d[g];
        int e = s >> 3 & 15, man = s & 7;
        float d = e ? (float)(man + 8) * qn_bits_to_f32((uint32_t)(e + 116) << 23)
                    : (float)man * 0x1p-10f;
        if (s == 0x7f) /* NaN there: the reference reads it as zero */
            d = 0;
        for (int i = 0; i < 8; i++) {
            out[i] = d * (float)qn_e2m1_values[b->qs[g][i] & 15];
            out[i + 8] = d * (float)qn_e2m1_values[b->qs[g][i] >> 4];
        }
    }
}

/* ---- super-blocks ---- */

static void q2_k(const qn_block_q2_k *b, float *out)
{
    float d = qn_f16_to_f32(b->d), dmin = qn_f16_to_f32(b->dmin);
    for (int g = 0; g < 16; g++) {
        float dl = d * (float)(b->scales[g] & 15), ml = dmin * (float)(b->scales[g] >> 4);
        const uint8_t *q = b->qs + g / 8 * 32 + g % 2 * 16;
        int shift = g % 8 / 2 * 2;
        for (int i = 0; i < 16; i++)
            out[16 * g + i] = dl * (float)(q[i] >> shift & 3) - ml;
    }
}

static void q3_k(const qn_block_q3_k *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    int8_t sc[16];
    qn_q3_k_scales(b->scales, sc);
    for (int g = 0; g < 16; g++) {
        float dl = d * (float)sc[g];
        const uint8_t *q = b->qs + g / 8 * 32 + g % 2 * 16, *h = b->hmask + g % 2 * 16;
        int shift = g % 8 / 2 * 2, bit = g / 2;
        for (int i = 0; i < 16; i++)
            out[16 * g + i] = dl * (float)((q[i] >> shift & 3) + (h[i] >> bit & 1) * 4 - 4);
    }
}

static void q4_k(const qn_block_q4_k *b, float *out)
{
    float d = qn_f16_to_f32(b->d), dmin = qn_f16_to_f32(b->dmin);
    uint8_t sc[8], mn[8];
    qn_q4_k_scales(b->scales, sc, mn);
    for (int g = 0; g < 8; g++) {
        float dl = d * (float)sc[g], ml = dmin * (float)mn[g];
        const uint8_t *q = b->qs + g / 2 * 32;
        int shift = g % 2 * 4;
        for (int i = 0; i < 32; i++)
            out[32 * g + i] = dl * (float)(q[i] >> shift & 15) - ml;
    }
}

static void q5_k(const qn_block_q5_k *b, float *out)
{
    float d = qn_f16_to_f32(b->d), dmin = qn_f16_to_f32(b->dmin);
    uint8_t sc[8], mn[8];
    qn_q4_k_scales(b->scales, sc, mn);
    for (int g = 0; g < 8; g++) {
        float dl = d * (float)sc[g], ml = dmin * (float)mn[g];
        const uint8_t *q = b->qs + g / 2 * 32;
        int shift = g % 2 * 4;
        for (int i = 0; i < 32; i++)
            out[32 * g + i] = dl * (float)((q[i] >> shift & 15) | (b->qh[i] >> g & 1) << 4) - ml;
    }
}

static void q6_k(const qn_block_q6_k *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    for (int g = 0; g < 16; g++) {
        float dl = d * (float)b->scales[g];
        int half = g / 8, j = g % 8 / 2, at = g % 2 * 16; /* element 128 half + 32 j + at + i */
        const uint8_t *ql = b->ql + 64 * half + j % 2 * 32 + at, *qh = b->qh + 32 * half + at;
        int shift = j / 2 * 4;
        for (int i = 0; i < 16; i++)
            out[16 * g + i] =
                dl * (float)(((ql[i] >> shift & 15) | (qh[i] >> 2 * j & 3) << 4) - 32);
    }
}

static void iq4_xs(const qn_block_iq4_xs *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    for (int g = 0; g < 8; g++, out += 32) {
        int sc = (b->scales_l[g / 2] >> g % 2 * 4 & 15) | (b->scales_h >> 2 * g & 3) << 4;
        float dl = d * (float)(sc - 32);
        for (int i = 0; i < 16; i++) {
            out[i] = dl * (float)qn_iq4_values[b->qs[16 * g + i] & 15];
            out[i + 16] = dl * (float)qn_iq4_values[b->qs[16 * g + i] >> 4];
        }
    }
}

static void tq1_0(const qn_block_tq1_0 *b, float *out)
{
    static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
    float d = qn_f16_to_f32(b->d);
    /* Times 3^n drops the digits before the n-th (they leave the byte); times 3, the next one is
     * the carry. */
    for (int n = 0; n < 5; n++) {
        for (int i = 0; i < 32; i++)
            out[32 * n + i] = d * (float)(((uint8_t)(b->qs[i] * pow3[n]) * 3 >> 8) - 1);
        for (int i = 0; i < 16; i++)
            out[160 + 16 * n + i] = d * (float)(((uint8_t)(b->qs[32 + i] * pow3[n]) * 3 >> 8) - 1);
    }
    for (int n = 0; n < 4; n++)
        for (int i = 0; i < 4; i++)
            out[240 + 4 * n + i] = d * (float)(((uint8_t)(b->qh[i] * pow3[n]) * 3 >> 8) - 1);
}

static void tq2_0(const qn_block_tq2_0 *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 32; i++)
                out[128 * h + 32 * j + i] = d * (float)((b->qs[32 * h + i] >> 2 * j & 3) - 1);
}

/* ---- grids ---- */

/* Coordinates by their packed number. */
static const float iq2_values[4] = {8, 25, 43, 0}, iq1_values[4] = {-1, 0, 1, 0};
static const float iq3_xxs_values[8] = {4, 12, 20, 28, 36, 44, 52, 62};
static const float iq3_s_values[8] = {1, 3, 5, 7, 9, 11, 13, 15};

/* The 7-bit sign index holds seven signs; the eighth makes their number even. */
static unsigned even_signs(unsigned index)
{
    return index | (unsigned)__builtin_parity(index) << 7;
}

/* v, negated where bit i of signs is set: without a branch, for signs are random. */
static float signed_by(float v, unsigned signs, int i)
{
    return qn_bits_to_f32(qn_f32_to_bits(v) ^ (signs >> i & 1u) << 31);
}

/* Eight elements: scale * coordinate, negative where the bit of signs is set. */
static void iq2_point(float scale, uint16_t point, unsigned signs, float *out)
{
    for (int i = 0; i < 8; i++)
        out[i] = signed_by(scale * iq2_values[point >> 2 * i & 3], signs, i);
}

/* Four elements, with the low four bits of signs. */
static void iq3_point(float scale, uint16_t point, const float values[8], unsigned signs,
                      float *out)
{
    for (int i = 0; i < 4; i++)
        out[i] = signed_by(scale * values[point >> 4 * i & 7], signs, i);
}

static void iq1_point(float scale, uint16_t point, float shift, float *out)
{
    for (int i = 0; i < 8; i++)
        out[i] = scale * (iq1_values[point >> 2 * i & 3] + shift);
}

static void iq2_xxs(const qn_block_iq2_xxs *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    for (int g = 0; g < 8; g++, out += 32) {
        const uint16_t *q = b->qs + 4 * g;
        uint32_t tail = q[2] | (uint32_t)q[3] << 16;
        float dl = d * (0.5f + (float)(tail >> 28)) * 0.25f;
        for (int k = 0; k < 4; k++) {
            unsigned index = q[k / 2] >> k % 2 * 8 & 255;
            iq2_point(dl, qn_grid_iq2_xxs[index], even_signs(tail >> 7 * k & 127), out + 8 * k);
        }
    }
}

static void iq2_xs(const qn_block_iq2_xs *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    for (int k = 0; k < 32; k++) {
        float dl = d * (0.5f + (float)(b->scales[k / 4] >> k / 2 % 2 * 4 & 15)) * 0.25f;
        iq2_point(dl, qn_grid_iq2_xs[b->qs[k] & 511], even_signs(b->qs[k] >> 9), out + 8 * k);
    }
}

static void iq2_s(const qn_block_iq2_s *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    for (int k = 0; k < 32; k++) {
        float dl = d * (0.5f + (float)(b->scales[k / 4] >> k / 2 % 2 * 4 & 15)) * 0.25f;
        unsigned index = b->qs[k] | (b->qh[k / 4] >> k % 4 * 2 & 3u) << 8;
        iq2_point(dl, qn_grid_iq2_s[index], b->signs[k], out + 8 * k);
    }
}

static void iq3_xxs(const qn_block_iq3_xxs *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    for (int g = 0; g < 8; g++) {
        uint32_t tail = b->signs[2 * g] | (uint32_t)b->signs[2 * g + 1] << 16;
        float dl = d * (0.5f + (float)(tail >> 28)) * 0.5f;
        for (int k = 0; k < 8; k++) {
            unsigned signs = even_signs(tail >> 7 * (k / 2) & 127) >> k % 2 * 4;
            iq3_point(dl, qn_grid_iq3_xxs[b->qs[8 * g + k]], iq3_xxs_values, signs,
                      out + 32 * g + 4 * k);
        }
    }
}

static void iq3_s(const qn_block_iq3_s *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    for (int k = 0; k < 64; k++) {
        int g = k / 8;
        float dl = d * (float)(1 + 2 * (b->scales[g / 2] >> g % 2 * 4 & 15));
        unsigned index = b->qs[k] | (b->qh[g] >> k % 8 & 1u) << 8;
        unsigned signs = b->signs[k / 2] >> k % 2 * 4;
        iq3_point(dl, qn_grid_iq3_s[index], iq3_s_values, signs, out + 4 * k);
    }
}

static void iq1_s(const qn_block_iq1_s *b, float *out)
{
    float d = qn_f16_to_f32(b->d);
    for (int k = 0; k < 32; k++) {
        unsigned qh = b->qh[k / 4], index = b->qs[k] | (qh >> k % 4 * 3 & 7) << 8;
        float dl = d * (float)(2 * (qh >> 12 & 7) + 1);
        iq1_point(dl, qn_grid_iq1[index], qh & 0x8000 ? -0.125f : 0.125f, out + 8 * k);
    }
}

static void iq1_m(const qn_block_iq1_m *b, float *out)
{
    const uint16_t *s = b->scales;
    float d = qn_f16_to_f32(
        (uint16_t)(s[0] >> 12 | (s[1] >> 12) << 4 | (s[2] >> 12) << 8 | (s[3] >> 12) << 12));
    for (int k = 0; k < 32; k++) {
        unsigned qh = b->qh[k / 2] >> k % 2 * 4, index = b->qs[k] | (qh & 7) << 8;
        float dl = d * (float)(2 * (s[k / 8] >> k / 2 % 4 * 3 & 7) + 1);
        iq1_point(dl, qn_grid_iq1[index], qh & 8 ? -0.125f : 0.125f, out + 8 * k);
    }
}

/* ---- plain numbers ---- */

#define PLAIN(name, type, expr)                                                                    \
    static void name(const void *src, size_t n, float *out)                                        \
    {                                                                                              \
        const type *p = src;                                                                       \
        for (size_t i = 0; i < n; i++)                                                             \
            out[i] = expr;                                                                         \
    }
PLAIN(f16, uint16_t, qn_f16_to_f32(p[i]))
PLAIN(bf16, uint16_t, qn_bf16_to_f32(p[i]))
PLAIN(f8_e4m3, uint8_t, qn_e4m3_to_f32(p[i]))
PLAIN(f64, double, (float)p[i])
PLAIN(i8, int8_t, (float)p[i])
PLAIN(u8, uint8_t, (float)p[i])
PLAIN(i16, int16_t, (float)p[i])
PLAIN(i32, int32_t, (float)p[i])
PLAIN(i64, int64_t, (float)p[i])

static void f32(const void *src, size_t n, float *out)
{
    memcpy(out, src, n * sizeof *out);
}

/* ---- all ---- */

/* name_blocks: the decoder of one block, over a run of n elements. */
#define BLOCKS(name, size)                                                                         \
    static void name##_blocks(const void *src, size_t n, float *out)                               \
    {                                                                                              \
        const qn_block_##name *b = src;                                                            \
        for (size_t i = 0; i < n / (size); i++)                                                    \
            name(b + i, out + i * (size));                                                         \
    }
BLOCKS(q4_0, 32)
BLOCKS(q4_1, 32)
BLOCKS(q5_0, 32)
BLOCKS(q5_1, 32)
BLOCKS(q8_0, 32)
BLOCKS(iq4_nl, 32)
BLOCKS(mxfp4, 32)
BLOCKS(nvfp4, 64)
BLOCKS(q2_k, 256)
BLOCKS(q3_k, 256)
BLOCKS(q4_k, 256)
BLOCKS(q5_k, 256)
BLOCKS(q6_k, 256)
BLOCKS(iq4_xs, 256)
BLOCKS(iq1_s, 256)
BLOCKS(iq1_m, 256)
BLOCKS(iq2_xxs, 256)
BLOCKS(iq2_xs, 256)
BLOCKS(iq2_s, 256)
BLOCKS(iq3_xxs, 256)
BLOCKS(iq3_s, 256)
BLOCKS(tq1_0, 256)
BLOCKS(tq2_0, 256)

typedef void (*decode_fn)(const void *src, size_t n, float *out);

static const decode_fn decoders[QN_N_DTYPES] = {
    [QN_F32] = f32,
    [QN_F16] = f16,
    [QN_BF16] = bf16,
    [QN_F64] = f64,
    [QN_I8] = i8,
    [QN_U8] = u8,
    [QN_I16] = i16,
    [QN_I32] = i32,
    [QN_I64] = i64,
    [QN_BOOL] = u8,
    [QN_Q4_0] = q4_0_blocks,
    [QN_Q4_1] = q4_1_blocks,
    [QN_Q5_0] = q5_0_blocks,
    [QN_Q5_1] = q5_1_blocks,
    [QN_Q8_0] = q8_0_blocks,
    [QN_Q2_K] = q2_k_blocks,
    [QN_Q3_K] = q3_k_blocks,
    [QN_Q4_K] = q4_k_blocks,
    [QN_Q5_K] = q5_k_blocks,
    [QN_Q6_K] = q6_k_blocks,
    [QN_IQ4_NL] = iq4_nl_blocks,
    [QN_IQ4_XS] = iq4_xs_blocks,
    [QN_IQ1_S] = iq1_s_blocks,
    [QN_IQ1_M] = iq1_m_blocks,
    [QN_IQ2_XXS] = iq2_xxs_blocks,
    [QN_IQ2_XS] = iq2_xs_blocks,
    [QN_IQ2_S] = iq2_s_blocks,
    [QN_IQ3_XXS] = iq3_xxs_blocks,
    [QN_IQ3_S] = iq3_s_blocks,
    [QN_TQ1_0] = tq1_0_blocks,
    [QN_TQ2_0] = tq2_0_blocks,
    [QN_MXFP4] = mxfp4_blocks,
    [QN_NVFP4] = nvfp4_blocks,
    [QN_F8_E4M3] = f8_e4m3,
};

void qn_qblock_decode(qn_dtype t, const void *src, size_t n, float *out)
{
    QN_ASSERT((unsigned)t < QN_N_DTYPES && decoders[t] && n % qn_dtype_get(t)->block_size == 0);
    decoders[t](src, n, out);
}
