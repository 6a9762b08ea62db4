/* SPDX-License-Identifier: Apache-2.0
 * qblock.h - the block formats of GGUF: byte layout and, in qblock.c, their meaning in float32.
 *
 * A row is a run of blocks. Every struct below is the file's bytes: little-endian, no padding,
 * 2-byte aligned at most. d, m, dmin are halves (uint16_t bits). x[i] is element i of the block, w
 * the value it stands for.
 *
 *   format   elements bytes  w
 *   Q4_0       32      18    d * (q - 8)              low nibbles are i = 0..15, high ones 16..31
 *   Q4_1       32      20    d * q + m
 *   Q5_0       32      22    d * (q - 16)             bit 4 of element i is bit i of qh
 *   Q5_1       32      24    d * q + m
 *   Q8_0       32      34    d * q
 *   Q2_K      256      84    d * sc * q - dmin * mn   16 groups of 16; sc, mn 4 bits
 *   Q3_K      256     110    d * sc * q               16 groups of 16; sc 6 bits - 32; q -4..3
 *   Q4_K      256     144    d * sc * q - dmin * mn   8 groups of 32; sc, mn 6 bits
 *   Q5_K      256     176    d * sc * q - dmin * mn   8 groups of 32
 *   Q6_K      256     210    d * sc * (q - 32)        16 groups of 16; sc int8
 *   IQ4_NL     32      18    d * value[q]             16 fixed values
 *   IQ4_XS    256     136    d * sc * value[q]        8 groups of 32; sc 6 bits - 32
 *   IQ2_*, IQ3_*, IQ1_*      d * sc * grid[index], signs apart (IQ1: +- 1/8); qblock_tables.h
 *   TQ1_0     256      54    d * (t - 1)              t ternary, five in a byte (base 3)
 *   TQ2_0     256      66    d * (t - 1)              t 2 bits
 *   MXFP4      32      17    2^(e - 127) * e2m1       e shared exponent
 *   NVFP4      64      36    e4m3 * e2m1              4 groups of 16
 *
 * Threads: any, pure. Source: the formulas are those of the gguf Python package, quants.py. */
#ifndef QN_TENSOR_QBLOCK_H
#define QN_TENSOR_QBLOCK_H

#include "tensor/dtype.h"

typedef struct qn_block_q4_0 {
    uint16_t d;
    uint8_t qs[16];
} qn_block_q4_0;
_Static_assert(sizeof(qn_block_q4_0) == 18, "Q4_0 is 18 bytes");

typedef struct qn_block_q4_1 {
    uint16_t d, m;
    uint8_t qs[16];
} qn_block_q4_1;
_Static_assert(sizeof(qn_block_q4_1) == 20, "Q4_1 is 20 bytes");

typedef struct qn_block_q5_0 {
    uint16_t d;
    uint8_t qh[4]; /* little-endian word of high bits */
    uint8_t qs[16];
} qn_block_q5_0;
_Static_assert(sizeof(qn_block_q5_0) == 22, "Q5_0 is 22 bytes");

typedef struct qn_block_q5_1 {
    uint16_t d, m;
    uint8_t qh[4];
    uint8_t qs[16];
} qn_block_q5_1;
_Static_assert(sizeof(qn_block_q5_1) == 24, "Q5_1 is 24 bytes");

typedef struct qn_block_q8_0 {
    uint16_t d;
    int8_t qs[32];
} qn_block_q8_0;
_Static_assert(sizeof(qn_block_q8_0) == 34, "Q8_0 is 34 bytes");

/* Element 128 h + 32 j + l has its two bits at 2 j of qs[32 h + l]; group g = element / 16. */
typedef struct qn_block_q2_k {
    uint8_t scales[16]; /* low nibble sc, high nibble mn */
    uint8_t qs[64];
    uint16_t d, dmin;
} qn_block_q2_k;
_Static_assert(sizeof(qn_block_q2_k) == 84, "Q2_K is 84 bytes");

/* Low bits as Q2_K; element 32 j + l has its high bit at bit j of hmask[l], and is 4 less when
 * it is clear. */
typedef struct qn_block_q3_k {
    uint8_t hmask[32];
    uint8_t qs[64];
    uint8_t scales[12]; /* qn_q3_k_scales */
    uint16_t d;
} qn_block_q3_k;
_Static_assert(sizeof(qn_block_q3_k) == 110, "Q3_K is 110 bytes");

/* Element 64 p + l is the low nibble of qs[32 p + l], 64 p + 32 + l the high one. */
typedef struct qn_block_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12]; /* qn_q4_k_scales */
    uint8_t qs[128];
} qn_block_q4_k;
_Static_assert(sizeof(qn_block_q4_k) == 144, "Q4_K is 144 bytes");

/* Nibbles as Q4_K; element 32 j + l has bit 4 at bit j of qh[l]. */
typedef struct qn_block_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12]; /* qn_q4_k_scales */
    uint8_t qh[32];
    uint8_t qs[128];
} qn_block_q5_k;
_Static_assert(sizeof(qn_block_q5_k) == 176, "Q5_K is 176 bytes");

/* Half h holds elements 128 h ..: 32 j + l has its low nibble in ql[64 h + 32 (j % 2) + l] (high
 * half of the byte for j >= 2) and its two high bits at 2 j of qh[32 h + l]. */
typedef struct qn_block_q6_k {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint16_t d;
} qn_block_q6_k;
_Static_assert(sizeof(qn_block_q6_k) == 210, "Q6_K is 210 bytes");

typedef struct qn_block_iq4_nl {
    uint16_t d;
    uint8_t qs[16];
} qn_block_iq4_nl;
_Static_assert(sizeof(qn_block_iq4_nl) == 18, "IQ4_NL is 18 bytes");

/* Group g of 32: scale bits 0..3 in nibble g of scales_l, 4..5 at 2 g of scales_h; nibbles as
 * Q4_0 in qs[16 g ..]. */
typedef struct qn_block_iq4_xs {
    uint16_t d, scales_h;
    uint8_t scales_l[4];
    uint8_t qs[128];
} qn_block_iq4_xs;
_Static_assert(sizeof(qn_block_iq4_xs) == 136, "IQ4_XS is 136 bytes");

/* Group of 32 = 8 bytes: four grid indices, then a word of four 7-bit sign indices and a 4-bit
 * scale. */
typedef struct qn_block_iq2_xxs {
    uint16_t d;
    uint16_t qs[32];
} qn_block_iq2_xxs;
_Static_assert(sizeof(qn_block_iq2_xxs) == 66, "IQ2_XXS is 66 bytes");

/* 8 elements = 9-bit grid index and 7-bit sign index; a 4-bit scale for each 16 elements. */
typedef struct qn_block_iq2_xs {
    uint16_t d;
    uint16_t qs[32];
    uint8_t scales[8];
} qn_block_iq2_xs;
_Static_assert(sizeof(qn_block_iq2_xs) == 74, "IQ2_XS is 74 bytes");

/* 8 elements = 10-bit grid index (two high bits in qh) and a byte of signs; a 4-bit scale for
 * each 16 elements. */
typedef struct qn_block_iq2_s {
    uint16_t d;
    uint8_t qs[32], signs[32];
    uint8_t qh[8], scales[8];
} qn_block_iq2_s;
_Static_assert(sizeof(qn_block_iq2_s) == 82, "IQ2_S is 82 bytes");

/* 4 elements = one grid index; for each 32 elements a word of four 7-bit sign indices and a
 * 4-bit scale. */
typedef struct qn_block_iq3_xxs {
    uint16_t d;
    uint8_t qs[64];
    uint16_t signs[16]; /* pairs: low half, high half */
} qn_block_iq3_xxs;
_Static_assert(sizeof(qn_block_iq3_xxs) == 98, "IQ3_XXS is 98 bytes");

/* 4 elements = 9-bit grid index (high bit in qh); a bit of sign each; a 4-bit scale for each 32
 * elements. */
typedef struct qn_block_iq3_s {
    uint16_t d;
    uint8_t qs[64], qh[8], signs[32], scales[4];
} qn_block_iq3_s;
_Static_assert(sizeof(qn_block_iq3_s) == 110, "IQ3_S is 110 bytes");

/* 8 elements = 11-bit grid index; qh of 32 elements: four times 3 high bits, 3 bits of scale,
 * the sign of the shift. */
typedef struct qn_block_iq1_s {
    uint16_t d;
    uint8_t qs[32];
    uint16_t qh[8];
} qn_block_iq1_s;
_Static_assert(sizeof(qn_block_iq1_s) == 50, "IQ1_S is 50 bytes");

/* 8 elements = 11-bit grid index; a nibble of qh for each: 3 high bits and the sign of the
 * shift. scales: four 3-bit scales (16 elements each) in the low 12 bits of a word, and a nibble
 * of d in the high 4. */
typedef struct qn_block_iq1_m {
    uint8_t qs[32], qh[16];
    uint16_t scales[4];
} qn_block_iq1_m;
_Static_assert(sizeof(qn_block_iq1_m) == 56, "IQ1_M is 56 bytes");

/* qs[0..31]: elements 32 n + i; qs[32..47]: 160 + 16 n + i; qh: 240 + 4 n + i; n = 0..4 is the
 * base-3 digit, most significant first, of ceil(value * 256 / 243). */
typedef struct qn_block_tq1_0 {
    uint8_t qs[48], qh[4];
    uint16_t d;
} qn_block_tq1_0;
_Static_assert(sizeof(qn_block_tq1_0) == 54, "TQ1_0 is 54 bytes");

typedef struct qn_block_tq2_0 {
    uint8_t qs[64]; /* as Q2_K */
    uint16_t d;
} qn_block_tq2_0;
_Static_assert(sizeof(qn_block_tq2_0) == 66, "TQ2_0 is 66 bytes");

typedef struct qn_block_mxfp4 {
    uint8_t e;
    uint8_t qs[16]; /* as Q4_0 */
} qn_block_mxfp4;
_Static_assert(sizeof(qn_block_mxfp4) == 17, "MXFP4 is 17 bytes");

typedef struct qn_block_nvfp4 {
    uint8_t d[4];     /* unsigned e4m3, one for each 16 elements */
    uint8_t qs[4][8]; /* low nibbles are elements 0..7 of the 16 */
} qn_block_nvfp4;
_Static_assert(sizeof(qn_block_nvfp4) == 36, "NVFP4 is 36 bytes");

/* The values of IQ4_NL and IQ4_XS, and twice those of e2m1 (MXFP4, NVFP4). */
extern const int8_t qn_iq4_values[16];
extern const int8_t qn_e2m1_values[16];

/* Unpacks the eight 6-bit scales and minima of Q4_K and Q5_K. */
static inline void qn_q4_k_scales(const uint8_t p[12], uint8_t sc[8], uint8_t mn[8])
{
    for (int j = 0; j < 4; j++) {
        sc[j] = p[j] & 63;
        mn[j] = p[j + 4] & 63;
        sc[j + 4] = (uint8_t)((p[j + 8] & 15) | (p[j] >> 6) << 4);
        mn[j + 4] = (uint8_t)(p[j + 8] >> 4 | (p[j + 4] >> 6) << 4);
    }
}

/* Unpacks the sixteen 6-bit scales of Q3_K, less 32. */
static inline void qn_q3_k_scales(const uint8_t p[12], int8_t sc[16])
{
    for (int j = 0; j < 16; j++) {
        int low = j < 8 ? p[j] & 15 : p[j - 8] >> 4;
        int high = p[8 + j % 4] >> (2 * (j / 4)) & 3;
        sc[j] = (int8_t)((low | high << 4) - 32);
    }
}

/* Decodes n elements (a multiple of the block) of a one-tensor format, plain floats and integers
 * included, to float32: the definition. src: as aligned as the format's widest field. */
void qn_qblock_decode(qn_dtype t, const void *src, size_t n, float *out);

#endif
