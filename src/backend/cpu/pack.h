/* SPDX-License-Identifier: Apache-2.0
 * pack.h - weights of integer formats in the layout of the kernels, and activations quantised to int8.
 *
 * A panel is 16 rows. Along its columns lie units of 32 columns (K formats: 256, eight blocks of 32), one after the other, so that
 * one pass over a range of panels is one sequential read. A unit is its scales, then its quants:
 *
 *   scales  D     d f16[16]                                          w = d * (q - zero)
 *           DM    d f16[16], m f16[16]                               w = d * q + m
 *           K     d f16[16], dmin f16[16], sc i8[8][16], m i8[8][16] w = d * sc * q - dmin * m
 *           KD    d f16[16], sc i8[8][16]                            w = d * sc * (q - zero)
 *           S     d f16[16], sc i8[8][16][2]                         w = d * sc * (q - zero)   (sc for 16 columns)
 *           SM    d f16[16], dmin f16[16], sc, m i8[8][16][2]        w = d * sc * q - dmin * m (sc, m for 16 columns)
 *   quants of one block of 32 columns: rows 0..7, then rows 8..15, each a number of 32-byte vectors. A vector holds, for 8 rows and
 *   one group g of 4 columns, byte 4 * row + j of column 4g + j; so one broadcast of 4 activations meets one vector.
 *           4     4 vectors v: low nibble group v, high nibble group 4 + v
 *           5     the same, then one vector whose bit g is the fifth bit of group g
 *           6     the same, then 2 vectors e whose bits 2i, 2i+1 are the upper bits of group 4e + i
 *           8     8 vectors, group g (q = value + 128)
 *           N     as 4; the nibble is an index of qn_iq4_values (q = table value + 128)
 *           2     2 vectors v: bits 2i, 2i+1 are group v + 2i
 *           3     the same, then one vector whose bit g is the third bit of group g
 *
 * Activations: blocks of 32 as int8 with one float scale: x = d * a. Four rows lie together (qn_act4) for products of many rows.
 *
 * The sum (matmul_ref.c): per element one chain f over the blocks in order; I and J are exact integers:
 *   D KD   I = sum of (q - zero) * a:       f = fma(S, d * I, f)                            S, M: the row's scale and offset
 *   S      I = sum of sc * (q - zero) * a:  f = fma(S, d * I, f)
 *   DM K   I = sum of q * a:                f = fma(S, d * I, f);  f = fma(M, s, f)         s = d * sum of a
 *   SM     I = sum of sc * q * a:           f = fma(S, d * I, f);  f = fma(M, d * J, f)     J = sum of m * a
 *
 * Threads: any, pure. */
#ifndef QN_BACKEND_CPU_PACK_H
#define QN_BACKEND_CPU_PACK_H

#include "tensor/weight.h"

/* Of everything here; a change of any byte of a panel makes it another. */
#define QN_PACK_LAYOUT 1u

typedef enum qn_pack {
    QN_PACK_4_D,  /* Q4_0, GPTQ4 with zero = 8 */
    QN_PACK_4_DM, /* Q4_1, GPTQ4, AWQ4 */
    QN_PACK_4_K,  /* Q4_K */
    QN_PACK_5_D,  /* Q5_0 */
    QN_PACK_5_DM, /* Q5_1 */
    QN_PACK_5_K,  /* Q5_K */
    QN_PACK_6_S,  /* Q6_K */
    QN_PACK_8_D,  /* Q8_0, GPTQ8 with zero = 128 */
    QN_PACK_8_DM, /* GPTQ8 */
    QN_PACK_N_D,  /* IQ4_NL */
    QN_PACK_N_KD, /* IQ4_XS */
    QN_PACK_2_SM, /* Q2_K */
    QN_PACK_3_S,  /* Q3_K */
    QN_N_PACKS
} qn_pack;

typedef enum qn_pack_bits {
    QN_BITS_4,
    QN_BITS_5,
    QN_BITS_6,
    QN_BITS_8,
    QN_BITS_N,
    QN_BITS_2,
    QN_BITS_3
} qn_pack_bits;

typedef enum qn_pack_scales {
    QN_SCALES_D,
    QN_SCALES_DM,
    QN_SCALES_K,
    QN_SCALES_KD,
    QN_SCALES_S,
    QN_SCALES_SM
} qn_pack_scales;

/* All that can be said of a layout; the kernels are specialised on these constants. */
#define QN_PACK_ROWS 16
#define QN_PACK_LIST(X)                                                                            \
    X(4_D, QN_BITS_4, QN_SCALES_D)                                                                 \
    X(4_DM, QN_BITS_4, QN_SCALES_DM)                                                               \
    X(4_K, QN_BITS_4, QN_SCALES_K)                                                                 \
    X(5_D, QN_BITS_5, QN_SCALES_D)                                                                 \
    X(5_DM, QN_BITS_5, QN_SCALES_DM)                                                               \
    X(5_K, QN_BITS_5, QN_SCALES_K)                                                                 \
    X(6_S, QN_BITS_6, QN_SCALES_S)                                                                 \
    X(8_D, QN_BITS_8, QN_SCALES_D)                                                                 \
    X(8_DM, QN_BITS_8, QN_SCALES_DM)                                                               \
    X(N_D, QN_BITS_N, QN_SCALES_D)                                                                 \
    X(N_KD, QN_BITS_N, QN_SCALES_KD)                                                               \
    X(2_SM, QN_BITS_2, QN_SCALES_SM)                                                               \
    X(3_S, QN_BITS_3, QN_SCALES_S)

typedef struct qn_pack_info {
    const char *name;
    qn_pack_bits bits;
    qn_pack_scales scales;
} qn_pack_info;
extern const qn_pack_info qn_packs[QN_N_PACKS];

/* Bytes of the quants of one block: 8 rows x 32 columns. */
static inline size_t qn_bits_bytes(qn_pack_bits b)
{
    return b == QN_BITS_5   ? 160
           : b == QN_BITS_6 ? 192
           : b == QN_BITS_8 ? 256
           : b == QN_BITS_2 ? 64
           : b == QN_BITS_3 ? 96
                            : 128;
}

/* Integer scales (and minima) of 16 columns. */
static inline bool qn_scales_has_sub(qn_pack_scales s)
{
    return s == QN_SCALES_S || s == QN_SCALES_SM;
}

/* A minimum beside the scale. */
static inline bool qn_scales_has_min(qn_pack_scales s)
{
    return s == QN_SCALES_DM || s == QN_SCALES_K || s == QN_SCALES_SM;
}

/* What is subtracted from q; 0: the format has a minimum instead. */
static inline int qn_pack_zero(qn_pack_bits b, qn_pack_scales s)
{
    return qn_scales_has_min(s) ? 0
           : b == QN_BITS_4     ? 8
           : b == QN_BITS_5     ? 16
           : b == QN_BITS_6     ? 32
           : b == QN_BITS_3     ? 4
                                : 128;
}

/* Blocks of 32 columns in a unit. */
static inline size_t qn_scales_blocks(qn_pack_scales s)
{
    return s == QN_SCALES_D || s == QN_SCALES_DM ? 1 : 8;
}

/* Bytes before a unit's quants. */
static inline size_t qn_scales_bytes(qn_pack_scales s)
{
    return s == QN_SCALES_D    ? 32
           : s == QN_SCALES_DM ? 64
           : s == QN_SCALES_K  ? 64 + 256
           : s == QN_SCALES_KD ? 32 + 128
           : s == QN_SCALES_S  ? 32 + 256
                               : 64 + 512;
}

static inline size_t qn_unit_bytes(qn_pack_bits b, qn_pack_scales s)
{
    return qn_scales_bytes(s) + qn_scales_blocks(s) * 2 * qn_bits_bytes(b);
}

/* Bytes of a panel of `cols` columns (a multiple of the unit). */
size_t qn_pack_panel_bytes(qn_pack p, size_t cols);
/* The layout that holds w, or false: its format has none, or its shape does not fit. */
bool qn_pack_choose(const qn_weight *w, qn_pack *out);
/* Row `row` of 16 of a panel as float32: the bits of qn_weight_decode, but for GPTQ and AWQ, whose
 * offsets a panel rounds (matmul_ref.c). */
void qn_pack_row(qn_pack p, const uint8_t *panel, size_t row, size_t cols, float *out);
/* Writes panel `panel` of w (rows beyond the last: zero) in layout p. */
void qn_pack_panel(const qn_weight *w, qn_pack p, size_t panel, uint8_t *out);

/* 32 columns of one row. */
typedef struct qn_act1 {
    float d, s;     /* scale; d * sum of q */
    int16_t h[2];   /* sums of the columns 0..15 and 16..31 */
    int8_t q[8][4]; /* [group][column] */
} qn_act1;

/* 32 columns of 4 rows. */
typedef struct qn_act4 {
    float d[4], s[4];
    int16_t h[4][2];
    int8_t q[8][4][4]; /* [group][row][column] */
} qn_act4;
_Static_assert(sizeof(qn_act1) == 44 && sizeof(qn_act4) == 4 * sizeof(qn_act1), "no padding");

#endif
