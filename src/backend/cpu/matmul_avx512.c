/* SPDX-License-Identifier: Apache-2.0
 * matmul_avx512.c - integer products with AVX-512 VNNI; the rest of the table stays AVX2's. pack.h draws the layouts and gives the
 * order of every sum; the kernels give the bits of matmul_ref.c.
 *
 * A register holds one group of 4 columns of all 16 rows of a panel: two vectors of a block, rows 0..7 and 8..15. vpdpbusd multiplies
 * unsigned weights by signed activations into int32, which nothing saturates, 8-bit weights included. A sum is one register for a token,
 * so nothing is ever summed across lanes.
 * Threads: any, pure. */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))

/* 4 activations of one group, or 2 sums, for every row. */
INLINE __m512i bcast4(const void *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

INLINE __m512 half16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

INLINE __m512 byte16(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

INLINE __m512 negative(__m512 v)
{
    return _mm512_mul_ps(v, _mm512_set1_ps(-1.0f));
}

/* ---- quants and scales of a unit ---- */

/* The vectors at p (rows 0..7) and p + bytes (rows 8..15) after a shift, masked. */
INLINE __m512i bits_at(const uint8_t *p, size_t bytes, int left, int mask)
{
    __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p));
    v = _mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)(p + bytes)), 1);
    if (left > 0)
        v = _mm512_slli_epi16(v, (unsigned)left);
    else if (left < 0)
        v = _mm512_srli_epi16(v, (unsigned)-left);
    return mask == 255 ? v : _mm512_and_si512(v, _mm512_set1_epi8((char)mask));
}

/* IQ4 values + 128, by index. */
INLINE __m512i iq4_values(__m512i index)
{
    const __m128i table =
        _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, (char)129, (char)141, (char)153, (char)166,
                      (char)181, (char)197, (char)217, (char)241);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), index);
}

/* Group g (4 columns of 16 rows) of the block of quants at q. */
INLINE __m512i quant(qn_pack_bits bits, const uint8_t *q, int g)
{
    const size_t n = qn_bits_bytes(bits);
    const __m512i nibble = bits_at(q + 32 * (g % 4), n, g < 4 ? 0 : -4, 15);
    switch (bits) {
    case QN_BITS_4:
        return nibble;
    case QN_BITS_5:
        return _mm512_or_si512(nibble, bits_at(q + 128, n, 4 - g, 16));
    case QN_BITS_6:
        return _mm512_or_si512(nibble, bits_at(q + 128 + 32 * (g / 4), n, 4 - 2 * (g % 4), 48));
    case QN_BITS_8:
        return bits_at(q + 32 * g, n, 0, 255);
    case QN_BITS_N:
        return iq4_values(nibble);
    case QN_BITS_2:
        return bits_at(q + 32 * (g % 2), n, -2 * (g / 2), 3);
    case QN_BITS_3:
        return _mm512_or_si512(bits_at(q + 32 * (g % 2), n, -2 * (g / 2), 3),
                               bits_at(q + 64, n, 2 - g, 4));
    }
    __builtin_unreachable();
}

/* S and M (pack.h) of 16 rows. */
INLINE void scales_at(qn_pack_scales scales, const uint8_t *u, size_t b, __m512 out[2])
{
    const uint8_t *sc = u + 16 * b;
    __m512 d = half16(u), m = _mm512_setzero_ps();
    if (qn_scales_has_min(scales))
        m = half16(u + 32);
    switch (scales) {
    case QN_SCALES_D:
    case QN_SCALES_DM:
    case QN_SCALES_S:
        break;
    case QN_SCALES_SM:
        m = negative(m);
        break;
    case QN_SCALES_K:
        d = _mm512_mul_ps(d, byte16(sc + 64));
        m = negative(_mm512_mul_ps(m, byte16(sc + 64 + 128)));
        break;
    case QN_SCALES_KD:
        d = _mm512_mul_ps(d, byte16(sc + 32));
        break;
    }
    out[0] = d;
    out[1] = m;
}

/* What a sum of quants begins with, so that it becomes one of quants less their zero; h: the sum of the activations. */
INLINE __m512i first_sum(qn_pack_bits bits, qn_pack_scales scales, int h)
{
    return _mm512_set1_epi32(-qn_pack_zero(bits, scales) * h);
}

/* out: integer scales of the columns 0..15 and 16..31 as int32, and the pairs of minima as int16, where there are any. */
INLINE void sub_at(qn_pack_scales scales, const uint8_t *u, size_t b, __m512i out[3])
{
    const uint8_t *at = u + (scales == QN_SCALES_SM ? 64 : 32) + 32 * b;
    __m512i v = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)at));
    out[0] = _mm512_srai_epi32(_mm512_slli_epi32(v, 16), 16);
    out[1] = _mm512_srai_epi32(v, 16);
    out[2] = qn_scales_has_min(scales)
                 ? _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(at + 256)))
                 : _mm512_setzero_si512();
}

/* f of pack.h after one more block. sum: of the columns 0..15 and 16..31, or all in one; h: two int16 sums of activations. */
INLINE __m512 add_block(qn_pack_scales scales, const __m512 sm[2], const __m512i sub[3],
                        const __m512i sum[2], float act_d, float act_s, const int16_t *h, __m512 f)
{
    const __m512 d = _mm512_set1_ps(act_d);
    __m512i i = sum[0];
    if (qn_scales_has_sub(scales))
        i = _mm512_add_epi32(_mm512_mullo_epi32(sum[0], sub[0]),
                             _mm512_mullo_epi32(sum[1], sub[1]));
    f = _mm512_fmadd_ps(sm[0], _mm512_mul_ps(d, _mm512_cvtepi32_ps(i)), f);
    if (!qn_scales_has_min(scales))
        return f;
    __m512 s = _mm512_set1_ps(act_s);
    if (qn_scales_has_sub(scales))
        s = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_madd_epi16(sub[2], bcast4(h))));
    return _mm512_fmadd_ps(sm[1], s, f);
}

/* ---- one row of activations ---- */

/* Bytes ahead of the read; as AVX2's. */
enum { PREFETCH = 2048 };

INLINE void gemv(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *w, size_t n_panels,
                 size_t n_blocks, const qn_act1 *acts, float *y)
{
    const size_t per = qn_scales_blocks(scales), bytes = 2 * qn_bits_bytes(bits);
    for (; n_panels > 0; n_panels--, y += QN_PACK_ROWS) {
        const qn_act1 *a = acts;
        __m512 f = _mm512_setzero_ps();
        for (size_t i = 0; i < n_blocks; i += per) {
            const uint8_t *u = w;
            w += qn_scales_bytes(scales);
            for (size_t b = 0; b < per; b++, a++, w += bytes) {
                __m512 sm[2];
                __m512i sub[3] = {_mm512_setzero_si512()},
                        sum[2] = {first_sum(bits, scales, a->h[0]),
                                  first_sum(bits, scales, a->h[1])};
                for (size_t line = 0; line < bytes; line += 64)
                    __builtin_prefetch(w + PREFETCH + line);
#pragma GCC unroll 8
                for (int g = 0; g < 8; g++)
                    sum[g / 4] =
                        _mm512_dpbusd_epi32(sum[g / 4], quant(bits, w, g), bcast4(a->q[g]));
                scales_at(scales, u, b, sm);
                if (qn_scales_has_sub(scales))
                    sub_at(scales, u, b, sub);
                else
                    sum[0] = _mm512_add_epi32(sum[0], sum[1]);
                f = add_block(scales, sm, sub, sum, a->d, a->s, a->h, f);
            }
        }
        _mm512_storeu_ps(y, f);
    }
}

/* ---- many rows of activations ----
 * A slice of a panel is unpacked once, then meets all tokens, 8 at a time. Unpacked block, 64-byte vectors of 16 rows:
 *   quants [group 8], S, M; for integer scales of 16 columns sc of columns 0..15, of 16..31, pairs of minima */
INLINE size_t block_bytes(qn_pack_scales scales)
{
    return 64 * (8 + 2 + (qn_scales_has_sub(scales) ? 3 : 0));
}

INLINE void unpack(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *u, size_t b,
                   uint8_t *restrict out)
{
    const uint8_t *q = u + qn_scales_bytes(scales) + b * 2 * qn_bits_bytes(bits);
    __m512 sm[2];
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++)
        _mm512_storeu_si512(out + 64 * g, quant(bits, q, g));
    scales_at(scales, u, b, sm);
    _mm512_storeu_ps(out + 512, sm[0]);
    _mm512_storeu_ps(out + 576, sm[1]);
    if (qn_scales_has_sub(scales)) {
        __m512i sub[3];
        sub_at(scales, u, b, sub);
        for (int i = 0; i < 3; i++)
            _mm512_storeu_si512(out + 640 + 64 * i, sub[i]);
    }
}

/* c[n_tokens][16] += 16 rows x n_tokens over n blocks; n_tokens is 4 or 8, the second 4 at a + a_stride. Of 32 registers: 8 sums
 * (16 with integer scales), 8 results, a weight, the scales. */
INLINE void tile(qn_pack_bits bits, qn_pack_scales scales, int n_tokens, const uint8_t *restrict w,
                 size_t n, const qn_act4 *restrict a, size_t a_stride, float *restrict c)
{
    __m512 f[8];
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++)
        f[t] = _mm512_loadu_ps(c + QN_PACK_ROWS * t);
    for (; n > 0; n--, a++, w += block_bytes(scales)) {
        __m512i sum[8][2], sub[3] = {_mm512_setzero_si512()};
        __m512 sm[2] = {_mm512_loadu_ps(w + 512), _mm512_loadu_ps(w + 576)};
#pragma GCC unroll 8
        for (int t = 0; t < n_tokens; t++) {
            const int16_t *h = a[t < 4 ? 0 : a_stride].h[t % 4];
            sum[t][0] = first_sum(bits, scales, qn_scales_has_sub(scales) ? h[0] : h[0] + h[1]);
            sum[t][1] = first_sum(bits, scales, h[1]);
        }
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++) {
            const __m512i v = _mm512_loadu_si512(w + 64 * g);
            const int upper = qn_scales_has_sub(scales) ? g / 4 : 0;
#pragma GCC unroll 8
            for (int t = 0; t < n_tokens; t++)
                sum[t][upper] = _mm512_dpbusd_epi32(sum[t][upper], v,
                                                    bcast4(a[t < 4 ? 0 : a_stride].q[g][t % 4]));
        }
        for (int i = 0; i < 3 && qn_scales_has_sub(scales); i++)
            sub[i] = _mm512_loadu_si512(w + 640 + 64 * i);
#pragma GCC unroll 8
        for (int t = 0; t < n_tokens; t++) {
            const qn_act4 *x = a + (t < 4 ? 0 : a_stride);
            f[t] = add_block(scales, sm, sub, sum[t], x->d[t % 4], x->s[t % 4], x->h[t % 4], f[t]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++)
        _mm512_storeu_ps(c + QN_PACK_ROWS * t, f[t]);
}

INLINE void gemm(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *w, size_t n_blocks,
                 const qn_act4 *a, size_t n_quads, float *c, uint8_t *scratch)
{
    const size_t per = qn_scales_blocks(scales), bytes = block_bytes(scales);
    const size_t slice = QN_MM_SCRATCH / bytes;
    memset(c, 0, n_quads * 4 * QN_PACK_ROWS * sizeof *c);
    for (size_t b = 0; b < n_blocks; b += slice) {
        size_t n = QN_MIN(slice, n_blocks - b), t = 0;
        for (size_t i = 0; i < n; i++)
            unpack(bits, scales, w + (b + i) / per * qn_unit_bytes(bits, scales), (b + i) % per,
                   scratch + i * bytes);
        for (; t + 2 <= n_quads; t += 2)
            tile(bits, scales, 8, scratch, n, a + t * n_blocks + b, n_blocks,
                 c + t * 4 * QN_PACK_ROWS);
        if (t < n_quads)
            tile(bits, scales, 4, scratch, n, a + t * n_blocks + b, 0, c + t * 4 * QN_PACK_ROWS);
    }
}

#define KERNELS(name, bits, scales)                                                                \
    static void gemv_##name(const uint8_t *w, size_t n_panels, size_t n_blocks, const qn_act1 *a,  \
                            float *y)                                                              \
    {                                                                                              \
        gemv(bits, scales, w, n_panels, n_blocks, a, y);                                           \
    }                                                                                              \
    static void gemm_##name(const uint8_t *w, size_t n_blocks, const qn_act4 *a, size_t n_quads,   \
                            float *c, void *scratch)                                               \
    {                                                                                              \
        gemm(bits, scales, w, n_blocks, a, n_quads, c, scratch);                                   \
    }
QN_PACK_LIST(KERNELS)
#undef KERNELS

void qn_matmul_init_avx512(qn_kernels *k)
{
#define ROWS(name, bits, scales)                                                                   \
    k->mm_gemv[QN_PACK_##name] = gemv_##name;                                                      \
    k->mm_gemm[QN_PACK_##name] = gemm_##name;
    QN_PACK_LIST(ROWS)
#undef ROWS
}
