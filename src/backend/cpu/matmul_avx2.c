/* SPDX-License-Identifier: Apache-2.0
 * matmul_avx2.c - products with AVX2, FMA and F16C. pack.h draws the layouts and gives the order of every sum; the integer kernels
 * give the bits of matmul_ref.c.
 *
 * Integer kernels multiply unsigned weights by signed activations (vpmaddubsw), 2 columns into an int16. |a| <= 127, so a pair of
 * b-bit weights adds at most 2 * (2^b - 1) * 127, and int16 (32767) holds, without saturation or wrapping:
 *   2, 3, 4 bits  3810 a step: all 8 steps of a block (30480)
 *   5 bits        7874: 4 steps (31496)
 *   6 bits        16002: 2 steps (32004)
 *   8 bits        64770: none; the byte is multiplied as two nibbles, 16 * hi + lo, each as 4 bits
 * and vpmaddwd then folds the pairs into int32, with the integer scale of 16 columns where the format has one.
 *
 * gcc likes to re-associate the chains of vpaddw, which needs more registers than there are and spills; the empty asm in add16 and
 * -fno-tree-reassoc stop it (measured on Zen 3: 143 -> 206 GOPS a core).
 * Threads: any, pure. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "tensor/fp.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256(p);
}

/* 4 activations of one group for every row. */
INLINE __m256i bcast4(const int8_t *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

INLINE __m256i add16(__m256i a, __m256i b)
{
    a = _mm256_add_epi16(a, b);
    __asm__("" : "+x"(a));
    return a;
}

INLINE __m256 half8(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

INLINE __m256 byte8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

/* ---- activations ---- */

static void quantise_avx2(const float *x, size_t n_blocks, int lanes, int lane, void *out)
{
    const __m256i abs = _mm256_set1_epi32(0x7fffffff), one = _mm256_set1_epi16(1);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (size_t b = 0; b < n_blocks; b++, x += 32) {
        __m256 v[4];
        __m256i top = _mm256_setzero_si256();
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(v[i]), abs));
        }
        __m128i t = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
        t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
        t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1));
        uint32_t bits = (uint32_t)_mm_cvtsi128_si32(t);
        float max = qn_bits_to_f32(bits), inv = 0, d = 0;
        if (bits >= 0x7f800000u) {
            d = NAN;
        } else if (max >= 0x1p-100f) {
            inv = 127.0f / max;
            d = max / 127.0f;
        }
        __m256i q[4];
        for (int i = 0; i < 4; i++)
            q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inv)));
        __m256i p =
            _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        p = _mm256_permutevar8x32_epi32(p, order);
        if (bits >= 0x7f800000u)
            p = _mm256_setzero_si256();
        /* Sums of 16 columns: 8 pairs in each half, exact in int16. */
        __m256i lo = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(p)),
                hi = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(p, 1));
        __m256i s = _mm256_hadd_epi32(_mm256_madd_epi16(lo, one), _mm256_madd_epi16(hi, one));
        __m128i u = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
        u = _mm_hadd_epi32(u, u);
        int16_t h[2] = {(int16_t)_mm_cvtsi128_si32(u), (int16_t)_mm_extract_epi32(u, 1)};
        float sum = d * (float)(h[0] + h[1]);
        if (lanes == 1) {
            qn_act1 *a = (qn_act1 *)out + b;
            a->d = d;
            a->s = sum;
            memcpy(a->h, h, sizeof h);
            _mm256_storeu_si256((__m256i *)a->q, p);
        } else {
            qn_act4 *a = (qn_act4 *)out + b;
            int8_t line[32];
            _mm256_storeu_si256((__m256i *)line, p);
            a->d[lane] = d;
            a->s[lane] = sum;
            memcpy(a->h[lane], h, sizeof h);
            for (int g = 0; g < 8; g++)
                memcpy(a->q[g][lane], line + 4 * g, 4);
        }
    }
}

/* ---- quants and scales of a unit ---- */

enum { LOW, HIGH }; /* nibble of an 8-bit quant */

INLINE __m256i shift16(__m256i v, int left)
{
    return left > 0 ? _mm256_slli_epi16(v, left) : left < 0 ? _mm256_srli_epi16(v, -left) : v;
}

INLINE __m256i nibble(const uint8_t *p, bool high)
{
    return _mm256_and_si256(shift16(load(p), high ? -4 : 0), _mm256_set1_epi8(15));
}

/* `mask` of the vector at p after a shift. */
INLINE __m256i bits_at(const uint8_t *p, int left, int mask)
{
    return _mm256_and_si256(shift16(load(p), left), _mm256_set1_epi8((char)mask));
}

/* Nibbles of IQ4 values + 128. */
INLINE __m256i iq4_table(int part)
{
    const __m128i low = _mm_setr_epi8(1, 8, 13, 15, 15, 13, 10, 6, 1, 13, 9, 6, 5, 5, 9, 1);
    const __m128i high = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 13, 15);
    return _mm256_broadcastsi128_si256(part == LOW ? low : high);
}

/* Group g (4 columns of 8 rows) of a block's quants as unsigned bytes; of 8-bit quants the nibble `part`. */
INLINE __m256i quant(qn_pack_bits bits, const uint8_t *q, int g, int part)
{
    const uint8_t *at = q + 32 * (g % 4);
    switch (bits) {
    case QN_BITS_4:
        return nibble(at, g >= 4);
    case QN_BITS_5:
        return _mm256_or_si256(nibble(at, g >= 4), bits_at(q + 128, 4 - g, 16));
    case QN_BITS_6:
        return _mm256_or_si256(nibble(at, g >= 4),
                               bits_at(q + 128 + 32 * (g / 4), 4 - 2 * (g % 4), 48));
    case QN_BITS_8:
        return nibble(q + 32 * g, part == HIGH);
    case QN_BITS_N:
        return _mm256_shuffle_epi8(iq4_table(part), nibble(at, g >= 4));
    case QN_BITS_2:
        return bits_at(q + 32 * (g % 2), -2 * (g / 2), 3);
    case QN_BITS_3:
        return _mm256_or_si256(bits_at(q + 32 * (g % 2), -2 * (g / 2), 3),
                               bits_at(q + 64, 2 - g, 4));
    }
    __builtin_unreachable();
}

INLINE bool has_parts(qn_pack_bits b)
{
    return b == QN_BITS_8 || b == QN_BITS_N;
}

/* Steps of 4 columns that int16 holds (top of the file); a scale of 16 columns ends a chain too. */
INLINE int fold_steps(qn_pack_bits b, qn_pack_scales s)
{
    return b == QN_BITS_6 ? 2 : b == QN_BITS_5 || qn_scales_has_sub(s) ? 4 : 8;
}

/* S and M (pack.h) of 8 rows. */
INLINE void scales_at(qn_pack_scales scales, const uint8_t *u, size_t b, size_t half, __m256 out[2])
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const uint8_t *sc = u + 16 * b + 8 * half;
    __m256 d = half8(u + 16 * half), m = _mm256_setzero_ps();
    if (qn_scales_has_min(scales))
        m = half8(u + 32 + 16 * half);
    switch (scales) {
    case QN_SCALES_D:
    case QN_SCALES_DM:
    case QN_SCALES_S:
        break;
    case QN_SCALES_SM:
        m = _mm256_xor_ps(sign, m);
        break;
    case QN_SCALES_K:
        d = _mm256_mul_ps(d, byte8(sc + 64));
        m = _mm256_xor_ps(sign, _mm256_mul_ps(m, byte8(sc + 64 + 128)));
        break;
    case QN_SCALES_KD:
        d = _mm256_mul_ps(d, byte8(sc + 32));
        break;
    }
    out[0] = d;
    out[1] = m;
}

/* Pairs (scale of columns 0..15, of 16..31) of 8 rows as int16; m: the pairs of the minima. */
INLINE __m256i sub_pairs(qn_pack_scales scales, const uint8_t *u, size_t b, size_t half, bool m)
{
    size_t at = scales == QN_SCALES_SM ? (m ? 64 + 256 : 64) : 32;
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(u + at + 32 * b + 16 * half)));
}

/* One scale of the pair twice, for vpmaddwd. */
INLINE __m256i sub_twice(__m256i pairs, int which)
{
    const __m256i first = _mm256_set1_epi64x(0x0504050401000100);
    const __m256i lanes = _mm256_setr_epi64x(0, 0x0808080808080808, 0, 0x0808080808080808);
    __m256i mask = _mm256_add_epi8(first, lanes);
    return _mm256_shuffle_epi8(pairs, which ? _mm256_add_epi8(mask, _mm256_set1_epi8(2)) : mask);
}

/* Pairs that, times the sums of activations, make J; without a minimum what the zeros add to I. */
INLINE __m256i offset_pairs(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *u, size_t b,
                            size_t half)
{
    const __m256i minus = _mm256_set1_epi16((int16_t)-qn_pack_zero(bits, scales));
    if (!qn_scales_has_sub(scales))
        return minus;
    __m256i pairs = sub_pairs(scales, u, b, half, qn_scales_has_min(scales));
    return qn_scales_has_min(scales) ? pairs : _mm256_mullo_epi16(pairs, minus);
}

/* f after one more block (pack.h), for 8 rows. offset: offset_pairs; d, s, h: of the activations, for every row. */
INLINE __m256 add_block(qn_pack_scales scales, const __m256 sm[2], __m256i sum, __m256i offset,
                        __m256 d, __m256 s, __m256i h, __m256 f)
{
    if (!qn_scales_has_min(scales) || qn_scales_has_sub(scales))
        offset = _mm256_madd_epi16(offset, h);
    if (!qn_scales_has_min(scales))
        sum = _mm256_add_epi32(sum, offset);
    f = _mm256_fmadd_ps(sm[0], _mm256_mul_ps(d, _mm256_cvtepi32_ps(sum)), f);
    if (!qn_scales_has_min(scales))
        return f;
    if (qn_scales_has_sub(scales))
        s = _mm256_mul_ps(d, _mm256_cvtepi32_ps(offset));
    return _mm256_fmadd_ps(sm[1], s, f);
}

/* ---- one row of activations ---- */

/* I of pack.h, zeros aside, for 8 rows of a block, whose quants are at q. */
INLINE __m256i half_sum(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *q,
                        const qn_act1 *a, __m256i pairs)
{
    const __m256i one = _mm256_set1_epi16(1), sixteen = _mm256_set1_epi16(16);
    const int steps = fold_steps(bits, scales), n_parts = has_parts(bits) ? 2 : 1;
    __m256i acc[2][2], sum; /* acc: [columns 16..31][part] */
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        bool is_first = steps == 2 ? v % 2 == 0 : v == 0;
#pragma GCC unroll 4
        for (int i = 0; i < 2 * n_parts; i++) {
            int upper = i & 1, part = i >> 1, g = v + 4 * upper;
            __m256i p = _mm256_maddubs_epi16(quant(bits, q, g, part), bcast4(a->q[g]));
            acc[upper][part] = is_first ? p : add16(acc[upper][part], p);
        }
        if (v != 3 && !(steps == 2 && v == 1))
            continue;
        __m256i *s = acc[0], *t = acc[1], x;
        if (qn_scales_has_sub(scales))
            x = _mm256_add_epi32(_mm256_madd_epi16(s[0], sub_twice(pairs, 0)),
                                 _mm256_madd_epi16(t[0], sub_twice(pairs, 1)));
        else if (n_parts == 2)
            x = _mm256_add_epi32(_mm256_madd_epi16(add16(s[0], t[0]), one),
                                 _mm256_madd_epi16(add16(s[1], t[1]), sixteen));
        else if (steps == 8)
            x = _mm256_madd_epi16(add16(s[0], t[0]), one);
        else
            x = _mm256_add_epi32(_mm256_madd_epi16(s[0], one), _mm256_madd_epi16(t[0], one));
        sum = v == 3 && steps == 2 ? _mm256_add_epi32(sum, x) : x;
    }
    return sum;
}

/* f of pack.h after block b of unit u, for 8 rows. */
INLINE __m256 gemv_half(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *u, size_t b,
                        size_t half, const qn_act1 *a, __m256 f)
{
    const uint8_t *q = u + qn_scales_bytes(scales) + (2 * b + half) * qn_bits_bytes(bits);
    __m256i pairs = _mm256_setzero_si256();
    if (qn_scales_has_sub(scales))
        pairs = sub_pairs(scales, u, b, half, false);
    __m256i sum = half_sum(bits, scales, q, a, pairs),
            offset = offset_pairs(bits, scales, u, b, half);
    __m256 sm[2];
    scales_at(scales, u, b, half, sm);
    return add_block(scales, sm, sum, offset, _mm256_set1_ps(a->d), _mm256_set1_ps(a->s),
                     bcast4((const int8_t *)a->h), f);
}

enum {
    STREAMS = 2,    /* panels read side by side: one stream does not fill the memory's pipe */
    PREFETCH = 2048 /* bytes ahead of each */
};

/* `n_streams` panels, `apart` panels from one another. */
INLINE void gemv_panels(qn_pack_bits bits, qn_pack_scales scales, int n_streams, const uint8_t *w,
                        size_t apart, size_t n_blocks, const qn_act1 *a, float *y)
{
    const size_t per = qn_scales_blocks(scales), bytes = 2 * qn_bits_bytes(bits),
                 head = qn_scales_bytes(scales),
                 stream = apart * (n_blocks / per) * (head + per * bytes);
    __m256 f[2 * STREAMS];
#pragma GCC unroll 4
    for (int i = 0; i < 2 * n_streams; i++)
        f[i] = _mm256_setzero_ps();
    for (size_t unit = 0; unit < n_blocks; unit += per, w += head + per * bytes)
        for (size_t b = 0; b < per; b++, a++)
#pragma GCC unroll 4
            for (int i = 0; i < 2 * n_streams; i++) {
                const uint8_t *u = w + (size_t)(i / 2) * stream, *next = u + head + b * bytes;
                for (size_t line = 0; line < bytes + head / per && i % 2 == 0; line += 64)
                    _mm_prefetch((const char *)next + PREFETCH + line, _MM_HINT_T0);
                f[i] = gemv_half(bits, scales, u, b, (size_t)i % 2, a, f[i]);
                __asm__(""
                        : "+r"(a)); /* or gcc keeps activations for the next rows, on the stack */
            }
#pragma GCC unroll 2
    for (int i = 0; i < n_streams; i++, y += apart * QN_PACK_ROWS) {
        _mm256_storeu_ps(y, f[2 * i]);
        _mm256_storeu_ps(y + 8, f[2 * i + 1]);
    }
}

/* The first half of the panels is one stream, the second the other. */
INLINE void gemv(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *w, size_t n_panels,
                 size_t n_blocks, const qn_act1 *a, float *y)
{
    const size_t half = n_panels / STREAMS,
                 bytes = n_blocks / qn_scales_blocks(scales) * qn_unit_bytes(bits, scales);
    for (size_t i = 0; i < half; i++, w += bytes, y += QN_PACK_ROWS)
        gemv_panels(bits, scales, STREAMS, w, half, n_blocks, a, y);
    if (n_panels % STREAMS != 0)
        gemv_panels(bits, scales, 1, w + half * bytes, 0, n_blocks, a, y + half * QN_PACK_ROWS);
}

/* ---- many rows of activations, 4 at a time ----
 * A slice of a panel is unpacked to memory once and then meets all tokens; for a few tokens, every tile unpacks it in registers
 * instead. Either way the tiles fetch the next slice. Unpacked block, 32-byte vectors:
 *   quants [part][group 8][rows 8..15], S[16], M[16] as float32, and for integer scales of 16 columns
 *   [columns 16..31][rows 8..15] scales twice each, [rows 8..15] offset_pairs */
enum {
    DIRECT_QUADS = 4,    /* tokens / 4 up to which nothing is unpacked to memory */
    DIRECT_BYTES = 16384 /* of a panel, in the first-level cache */
};

/* Of an unpacked block: its quants, and all of it. */
INLINE size_t unpacked_quants(qn_pack_bits bits)
{
    return has_parts(bits) ? 1024 : 512;
}

INLINE size_t unpacked_bytes(qn_pack_bits bits, qn_pack_scales scales)
{
    return unpacked_quants(bits) + 128 + (qn_scales_has_sub(scales) ? 192 : 0);
}

/* Block b of unit u of a panel; or, if b is UNPACKED, the unpacked block u. */
#define UNPACKED SIZE_MAX
typedef struct block {
    const uint8_t *u;
    size_t b;
} block;

INLINE __m256i block_quant(qn_pack_bits bits, qn_pack_scales scales, block w, int g, size_t part,
                           size_t half)
{
    const size_t bytes = qn_bits_bytes(bits);
    if (w.b == UNPACKED)
        return load(w.u + 512 * part + 64 * (size_t)g + 32 * half);
    return quant(bits, w.u + qn_scales_bytes(scales) + (2 * w.b + half) * bytes, g, (int)part);
}

/* Integer scales of the columns 0..15 or 16..31. */
INLINE __m256i block_sub(qn_pack_bits bits, qn_pack_scales scales, block w, int upper, size_t half)
{
    if (w.b == UNPACKED)
        return load(w.u + unpacked_quants(bits) + 128 + 64 * upper + 32 * half);
    return sub_twice(sub_pairs(scales, w.u, w.b, half, false), upper);
}

INLINE void block_scales(qn_pack_bits bits, qn_pack_scales scales, block w, size_t half,
                         __m256 sm[2], __m256i *offset)
{
    const uint8_t *tail = w.u + unpacked_quants(bits);
    if (w.b != UNPACKED) {
        scales_at(scales, w.u, w.b, half, sm);
        *offset = offset_pairs(bits, scales, w.u, w.b, half);
        return;
    }
    sm[0] = _mm256_load_ps((const float *)(tail + 32 * half));
    sm[1] = _mm256_load_ps((const float *)(tail + 64 + 32 * half));
    *offset = qn_scales_has_sub(scales) ? load(tail + 256 + 32 * half)
                                        : offset_pairs(bits, scales, NULL, 0, half);
}

/* c[4][16] += rows [8 half, 8 (half + n_halves)) x 4 tokens of a block. */
INLINE void tile_rows(qn_pack_bits bits, qn_pack_scales scales, block w, const qn_act4 *a, float *c,
                      size_t half, size_t n_halves)
{
    const int steps = fold_steps(bits, scales);
    const size_t n_parts = has_parts(bits) ? 2 : 1;
    const __m256i one = _mm256_set1_epi16(1), sixteen = _mm256_set1_epi16(16);
    __m256i sum[8], acc[2][8], v[2][2]; /* acc: [part][half][token], v: [part][half] */
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
#pragma GCC unroll 4
        for (size_t i = 0; i < n_parts * n_halves; i++)
            v[i / n_halves][i % n_halves] =
                block_quant(bits, scales, w, g, i / n_halves, half + i % n_halves);
#pragma GCC unroll 4
        for (size_t t = 0; t < 4; t++) {
            const __m256i x = bcast4(a->q[g][t]);
#pragma GCC unroll 4
            for (size_t i = 0; i < n_parts * n_halves; i++) {
                __m256i *s = &acc[i / n_halves][i % n_halves * 4 + t],
                        p = _mm256_maddubs_epi16(v[i / n_halves][i % n_halves], x);
                *s = g % steps == 0 ? p : add16(*s, p);
            }
        }
        if (w.b != UNPACKED &&
            g % 4 == 3) /* or gcc keeps loads for the next groups, on the stack */
            __asm__("" : "+r"(a), "+r"(w.u));
        if ((g + 1) % steps != 0)
            continue;
#pragma GCC unroll 8
        for (size_t i = 0; i < n_halves * 4; i++) {
            const __m256i k =
                qn_scales_has_sub(scales) ? block_sub(bits, scales, w, g / 4, half + i / 4) : one;
            __m256i x = _mm256_madd_epi16(acc[0][i], k);
            if (n_parts == 2)
                x = _mm256_add_epi32(x, _mm256_madd_epi16(acc[1][i], sixteen));
            sum[i] = g < steps ? x : _mm256_add_epi32(sum[i], x);
        }
    }
    __m256 sm[2][2];
    __m256i offset[2];
    for (size_t h = 0; h < n_halves; h++)
        block_scales(bits, scales, w, half + h, sm[h], &offset[h]);
#pragma GCC unroll 4
    for (size_t t = 0; t < 4; t++) {
        const __m256 d = _mm256_set1_ps(a->d[t]), s = _mm256_set1_ps(a->s[t]);
        const __m256i k = bcast4((const int8_t *)a->h[t]);
#pragma GCC unroll 2
        for (size_t h = 0; h < n_halves; h++) {
            float *f = c + QN_PACK_ROWS * t + 8 * (half + h);
            _mm256_storeu_ps(f, add_block(scales, sm[h], sum[h * 4 + t], offset[h], d, s, k,
                                          _mm256_loadu_ps(f)));
        }
    }
}

/* c[4][16] += 16 rows x 4 tokens of a block: 8 accumulators, which with 2 weights, a broadcast and a product fit the 16 registers; the
 * float sums stay in c. Quants of two parts take 8 rows at a time. Where several chains make a sum, gcc keeps sums on the stack, which
 * was still faster than 8 rows or 2 tokens at a time (6 bits: 10 %). */
INLINE void tile_block(qn_pack_bits bits, qn_pack_scales scales, block w, const qn_act4 *a,
                       float *c)
{
    if (has_parts(bits)) {
        tile_rows(bits, scales, w, a, c, 0, 1);
        tile_rows(bits, scales, w, a, c, 1, 1);
    } else {
        tile_rows(bits, scales, w, a, c, 0, 2);
    }
}

/* One tile over n units; `share` bytes a block from `next` on are fetched for later. */
INLINE void direct_tile(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *u, size_t n,
                        const qn_act4 *a, float *c, const char *next, size_t share)
{
    for (; n > 0; n--, u += qn_unit_bytes(bits, scales))
        for (size_t b = 0; b < qn_scales_blocks(scales); b++, a++, next += share) {
            for (size_t line = 0; line < share; line += 64)
                _mm_prefetch(next + line, _MM_HINT_T0);
            tile_block(bits, scales, (block){u, b}, a, c);
            __asm__("" : "+r"(c)); /* or gcc keeps its sums on the stack for the loop */
        }
}

/* Slices of the panel that fit the first-level cache meet all tokens; meanwhile every tile fetches its share of the next slice. */
INLINE void direct(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *w, size_t n_blocks,
                   const qn_act4 *a, size_t n_quads, float *c)
{
    const size_t per = qn_scales_blocks(scales), unit = qn_unit_bytes(bits, scales),
                 share = unit / per / n_quads, slice = DIRECT_BYTES / unit * per;
    for (size_t b = 0; b < n_blocks; b += slice) {
        const size_t n = QN_MIN(slice, n_blocks - b);
        const char *next = (const char *)w + n / per * unit;
        for (size_t t = 0; t < n_quads; t++, next += n * share)
            direct_tile(bits, scales, w, n / per, a + t * n_blocks + b, c + t * 4 * QN_PACK_ROWS,
                        next, share);
        w += n / per * unit;
    }
}

INLINE void unpack(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *u, size_t b,
                   uint8_t *restrict out)
{
    const size_t n_parts = has_parts(bits) ? 2 : 1;
    uint8_t *tail = out + unpacked_quants(bits);
#pragma GCC unroll 2
    for (size_t half = 0; half < 2; half++) {
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++)
            for (size_t part = 0; part < n_parts; part++)
                _mm256_store_si256((__m256i *)(out + 512 * part + 64 * (size_t)g + 32 * half),
                                   block_quant(bits, scales, (block){u, b}, g, part, half));
        __m256 sm[2];
        scales_at(scales, u, b, half, sm);
        _mm256_store_ps((float *)(tail + 32 * half), sm[0]);
        _mm256_store_ps((float *)(tail + 64 + 32 * half), sm[1]);
        if (qn_scales_has_sub(scales)) {
            __m256i pairs = sub_pairs(scales, u, b, half, false);
            _mm256_store_si256((__m256i *)(tail + 128 + 32 * half), sub_twice(pairs, 0));
            _mm256_store_si256((__m256i *)(tail + 192 + 32 * half), sub_twice(pairs, 1));
            _mm256_store_si256((__m256i *)(tail + 256 + 32 * half),
                               offset_pairs(bits, scales, u, b, half));
        }
    }
}

INLINE void gemm(qn_pack_bits bits, qn_pack_scales scales, const uint8_t *w, size_t n_blocks,
                 const qn_act4 *a, size_t n_quads, float *c, uint8_t *scratch)
{
    const size_t per = qn_scales_blocks(scales), bytes = unpacked_bytes(bits, scales),
                 unit = qn_unit_bytes(bits, scales), slice = QN_MM_SCRATCH / bytes / per * per;
    memset(c, 0, n_quads * 4 * QN_PACK_ROWS * sizeof *c);
    if (n_quads <= DIRECT_QUADS) {
        direct(bits, scales, w, n_blocks, a, n_quads, c);
        return;
    }
    for (size_t b = 0; b < n_blocks; b += slice) {
        const size_t n = QN_MIN(slice, n_blocks - b), share = n / per * unit / n_quads;
        for (size_t i = 0; i < n; i++)
            unpack(bits, scales, w + i / per * unit, i % per, scratch + i * bytes);
        w += n / per * unit;
        for (size_t t = 0; t < n_quads; t++) {
            float *to = c + t * 4 * QN_PACK_ROWS;
            for (size_t line = 0; line < share; line += 64)
                _mm_prefetch((const char *)w + t * share + line, _MM_HINT_T1);
            for (size_t i = 0; i < n; i++) {
                tile_block(bits, scales, (block){scratch + i * bytes, UNPACKED},
                           a + t * n_blocks + b + i, to);
                __asm__("" : "+r"(to)); /* or gcc keeps its sums on the stack for the loop */
            }
        }
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

/* ---- float products ---- */

INLINE float sum8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* The first n of 8 lanes. */
INLINE __m256i first_lanes(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE void f32_tile(const qn_mm_f32 *p, size_t r, size_t t, int n_rows, int n_tokens)
{
    const float *w = p->w + r * p->w_stride, *x = p->x + t * p->x_stride;
    __m256 acc[12];
#pragma GCC unroll 12
    for (int i = 0; i < n_rows * n_tokens; i++)
        acc[i] = _mm256_setzero_ps();
    size_t k = 0;
    for (; k + 8 <= p->cols; k += 8) {
        __m256 v[4];
#pragma GCC unroll 4
        for (int j = 0; j < n_tokens; j++)
            v[j] = _mm256_loadu_ps(x + (size_t)j * p->x_stride + k);
#pragma GCC unroll 4
        for (int i = 0; i < n_rows; i++) {
            __m256 a = _mm256_loadu_ps(w + (size_t)i * p->w_stride + k);
#pragma GCC unroll 4
            for (int j = 0; j < n_tokens; j++)
                acc[i * n_tokens + j] = _mm256_fmadd_ps(a, v[j], acc[i * n_tokens + j]);
        }
    }
    const __m256i mask = first_lanes(p->cols - k);
#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < n_tokens; j++) {
            __m256 *s = &acc[i * n_tokens + j];
            if (k < p->cols)
                *s = _mm256_fmadd_ps(_mm256_maskload_ps(w + (size_t)i * p->w_stride + k, mask),
                                     _mm256_maskload_ps(x + (size_t)j * p->x_stride + k, mask), *s);
            p->y[(t + (size_t)j) * p->y_stride + r + (size_t)i] = sum8(*s);
        }
}

/* 4 rows x 3 tokens: 12 sums, 3 activations and a weight are the 16 registers. */
static void f32_avx2(const qn_mm_f32 *p)
{
    size_t t = 0;
    for (; t + 3 <= p->n_tokens; t += 3) {
        size_t r = 0;
        for (; r + 4 <= p->n_rows; r += 4)
            f32_tile(p, r, t, 4, 3);
        for (; r < p->n_rows; r++)
            f32_tile(p, r, t, 1, 3);
    }
    for (; t < p->n_tokens; t++) {
        size_t r = 0;
        for (; r + 4 <= p->n_rows; r += 4)
            f32_tile(p, r, t, 4, 1);
        for (; r < p->n_rows; r++)
            f32_tile(p, r, t, 1, 1);
    }
}

/* 8 stored columns as float32. */
INLINE __m256 stored8(qn_dtype type, const void *p)
{
    if (type == QN_F32)
        return _mm256_loadu_ps(p);
    __m128i h = _mm_loadu_si128(p);
    return type == QN_F16 ? _mm256_cvtph_ps(h)
                          : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

INLINE void dot_rows(qn_dtype type, const uint8_t *w, size_t stride, int n_rows, const float *x,
                     size_t cols, float *y)
{
    const size_t size = type == QN_F32 ? 4 : 2;
    __m256 acc[4];
    size_t k = 0;
#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++)
        acc[i] = _mm256_setzero_ps();
    for (; k + 8 <= cols; k += 8) {
        const __m256 v = _mm256_loadu_ps(x + k);
#pragma GCC unroll 4
        for (int i = 0; i < n_rows; i++)
            acc[i] = _mm256_fmadd_ps(stored8(type, w + (size_t)i * stride + k * size), v, acc[i]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++) {
        if (k < cols) {
            uint8_t tail[32] = {0};
            memcpy(tail, w + (size_t)i * stride + k * size, (cols - k) * size);
            acc[i] = _mm256_fmadd_ps(stored8(type, tail), _mm256_loadu_ps(x + k), acc[i]);
        }
        y[i] = sum8(acc[i]);
    }
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

static void dot_f32(const void *w, size_t stride, size_t n_rows, const float *x, size_t cols,
                    float *y)
{
    dot(QN_F32, w, stride, n_rows, x, cols, y);
}

static void dot_f16(const void *w, size_t stride, size_t n_rows, const float *x, size_t cols,
                    float *y)
{
    dot(QN_F16, w, stride, n_rows, x, cols, y);
}

static void dot_bf16(const void *w, size_t stride, size_t n_rows, const float *x, size_t cols,
                     float *y)
{
    dot(QN_BF16, w, stride, n_rows, x, cols, y);
}

/* ---- decoding; products and differences rounded one by one, as the definition does ---- */

INLINE float half1(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return qn_f16_to_f32(h);
}

INLINE __m256 ints8(__m128i bytes)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

/* out[i] = d * q[i] for 16 signed bytes. */
INLINE void scaled16(__m128i q, __m256 d, float *out)
{
    _mm256_storeu_ps(out, _mm256_mul_ps(d, ints8(q)));
    _mm256_storeu_ps(out + 8, _mm256_mul_ps(d, ints8(_mm_srli_si128(q, 8))));
}

static void decode_f16(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, stored8(QN_F16, p + 2 * i));
    for (; i < n; i++)
        out[i] = half1(p + 2 * i);
}

static void decode_bf16(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, stored8(QN_BF16, p + 2 * i));
    for (; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        out[i] = qn_bf16_to_f32(h);
    }
}

static void decode_q4_0(const void *src, size_t n, float *out)
{
    const __m128i m4 = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
    for (const uint8_t *b = src; n > 0; n -= 32, b += 18, out += 32) {
        const __m256 d = _mm256_set1_ps(half1(b));
        __m128i q = _mm_loadu_si128((const __m128i *)(b + 2));
        scaled16(_mm_sub_epi8(_mm_and_si128(q, m4), eight), d, out);
        scaled16(_mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(q, 4), m4), eight), d, out + 16);
    }
}

static void decode_q5_0(const void *src, size_t n, float *out)
{
    const __m256i spread =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201),
                  m4 = _mm256_set1_epi8(15);
    for (const uint8_t *b = src; n > 0; n -= 32, b += 22, out += 32) {
        const __m256 d = _mm256_set1_ps(half1(b));
        int32_t h;
        memcpy(&h, b + 2, 4);
        __m128i q = _mm_loadu_si128((const __m128i *)(b + 6));
        __m256i v = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(q, 4), q), m4);
        /* Without its fifth bit a value is 16 less: 0xf0 is -16. */
        __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(h), spread), bit);
        __m256i unset = _mm256_cmpeq_epi8(set, _mm256_setzero_si256());
        v = _mm256_or_si256(v, _mm256_and_si256(unset, _mm256_set1_epi8((char)0xf0)));
        scaled16(_mm256_castsi256_si128(v), d, out);
        scaled16(_mm256_extracti128_si256(v, 1), d, out + 16);
    }
}

static void decode_q8_0(const void *src, size_t n, float *out)
{
    for (const uint8_t *b = src; n > 0; n -= 32, b += 34, out += 32) {
        const __m256 d = _mm256_set1_ps(half1(b));
        scaled16(_mm_loadu_si128((const __m128i *)(b + 2)), d, out);
        scaled16(_mm_loadu_si128((const __m128i *)(b + 18)), d, out + 16);
    }
}

static void decode_q4_k(const void *src, size_t n, float *out)
{
    const __m128i m4 = _mm_set1_epi8(15);
    for (const uint8_t *b = src; n > 0; n -= 256, b += 144) {
        const uint8_t *s = b + 4;
        float d = half1(b), dmin = half1(b + 2);
        for (int i = 0; i < 8; i++, out += 32) {
            int sc = i < 4 ? s[i] & 63 : (s[i + 4] & 15) | s[i - 4] >> 6 << 4;
            int mn = i < 4 ? s[i + 4] & 63 : s[i + 4] >> 4 | s[i] >> 6 << 4;
            const __m256 ds = _mm256_set1_ps(d * (float)sc), m = _mm256_set1_ps(dmin * (float)mn);
            for (int j = 0; j < 2; j++) {
                __m128i q = _mm_loadu_si128((const __m128i *)(b + 16 + i / 2 * 32 + 16 * j));
                q = _mm_and_si128(i % 2 ? _mm_srli_epi16(q, 4) : q, m4);
                _mm256_storeu_ps(out + 16 * j, _mm256_sub_ps(_mm256_mul_ps(ds, ints8(q)), m));
                _mm256_storeu_ps(out + 16 * j + 8,
                                 _mm256_sub_ps(_mm256_mul_ps(ds, ints8(_mm_srli_si128(q, 8))), m));
            }
        }
    }
}

static void decode_q6_k(const void *src, size_t n, float *out)
{
    const __m128i m4 = _mm_set1_epi8(15), m2 = _mm_set1_epi8(0x30), bias = _mm_set1_epi8(32);
    for (const uint8_t *b = src; n > 0; n -= 256, b += 210, out += 256) {
        float d = half1(b + 208);
        for (int i = 0; i < 16; i++) { /* 16 columns: half i / 8, quarter i / 2 % 4 */
            const uint8_t *ql = b + i / 8 * 64 + i / 2 % 2 * 32 + i % 2 * 16;
            const uint8_t *qh = b + 128 + i / 8 * 32 + i % 2 * 16;
            int quarter = i / 2 % 4;
            __m128i l = _mm_loadu_si128((const __m128i *)ql),
                    h = _mm_loadu_si128((const __m128i *)qh);
            l = quarter >= 2 ? _mm_srli_epi16(l, 4) : l;
            h = quarter == 0   ? _mm_slli_epi16(h, 4)
                : quarter == 1 ? _mm_slli_epi16(h, 2)
                : quarter == 3 ? _mm_srli_epi16(h, 2)
                               : h;
            __m128i q = _mm_or_si128(_mm_and_si128(l, m4), _mm_and_si128(h, m2));
            scaled16(_mm_sub_epi8(q, bias), _mm256_set1_ps(d * (float)(int8_t)b[192 + i]),
                     out + 16 * i);
        }
    }
}

void qn_matmul_init_avx2(qn_kernels *k)
{
#define ROWS(name, bits, scales)                                                                   \
    k->mm_gemv[QN_PACK_##name] = gemv_##name;                                                      \
    k->mm_gemm[QN_PACK_##name] = gemm_##name;
    QN_PACK_LIST(ROWS)
#undef ROWS
    k->mm_quantise = quantise_avx2;
    k->mm_f32 = f32_avx2;
    k->mm_dot[QN_F32] = dot_f32;
    k->mm_dot[QN_F16] = dot_f16;
    k->mm_dot[QN_BF16] = dot_bf16;
    k->mm_decode[QN_F16] = decode_f16;
    k->mm_decode[QN_BF16] = decode_bf16;
    k->mm_decode[QN_Q4_0] = decode_q4_0;
    k->mm_decode[QN_Q5_0] = decode_q5_0;
    k->mm_decode[QN_Q8_0] = decode_q8_0;
    k->mm_decode[QN_Q4_K] = decode_q4_k;
    k->mm_decode[QN_Q6_K] = decode_q6_k;
}
