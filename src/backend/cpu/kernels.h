/* SPDX-License-Identifier: Apache-2.0
 * kernels.h - the table of CPU kernels. qn_kernels_init fills it with plain C (the definition), then overwrites what the CPU has better
 * versions of, as dav1d does. Mask 0 gives the plain C program. */
#ifndef QN_BACKEND_CPU_KERNELS_H
#define QN_BACKEND_CPU_KERNELS_H

#include "backend/cpu/pack.h"
#include "base/base.h"
#include "tensor/dtype.h"

/* A float product: y[t * y_stride + r] = sum over k of w[r * w_stride + k] * x[t * x_stride + k]. Lane l of 8 sums the columns
 * k = l mod 8 in order; then ((0+4)+(2+6)) + ((1+5)+(3+7)). */
typedef struct qn_mm_f32 {
    const float *w, *x;
    size_t w_stride, x_stride, n_rows, n_tokens, cols;
    float *y;
    size_t y_stride;
} qn_mm_f32;

#define QN_ATTN_KEYS   64 /* keys of a tile, which begins at a multiple of this position */
#define QN_ATTN_STRIDE 72 /* of the transposed keys: room for a group of 8 begun at any column */

typedef struct qn_kernels {
    unsigned flags;      /* qn_cpu_flags() & mask */
    unsigned n_left_out; /* kernels that failed their test */
    /* ---- matmul (matmul.c, matmul_ref.c, matmul_<set>.c) ---- */
    /* n_blocks blocks of 32 of x into out: lanes = 1: qn_act1[], lanes = 4: row `lane` of qn_act4[]. A block whose largest |x| is
     * below 2^-100 is zero; one that is not finite has d = NaN. */
    void (*mm_quantise)(const float *x, size_t n_blocks, int lanes, int lane, void *out);
    /* One row of activations: y[16 * n_panels]. */
    void (*mm_gemv[QN_N_PACKS])(const uint8_t *w, size_t n_panels, size_t n_blocks,
                                const qn_act1 *a, float *y);
    /* One panel, n_quads * 4 rows of activations (quad q at a + q * n_blocks): c[n_quads][4][16]. scratch: QN_MM_SCRATCH bytes, 64-byte
     * aligned. */
    void (*mm_gemm[QN_N_PACKS])(const uint8_t *w, size_t n_blocks, const qn_act4 *a, size_t n_quads,
                                float *c, void *scratch);
    void (*mm_f32)(const qn_mm_f32 *p);
    /* The same sum over stored rows `stride` bytes apart and one row x, whose length is rounded up to 8 with zeros. NULL: decode first. */
    void (*mm_dot[QN_N_DTYPES])(const void *w, size_t stride, size_t n_rows, const float *x,
                                size_t cols, float *y);
    /* As qn_qblock_decode, bit for bit. NULL: use that. */
    void (*mm_decode[QN_N_DTYPES])(const void *src, size_t n, float *out);
    /* ---- rows (rows_ref.c, rows_<set>.c): one row of n floats; y may be an input, nothing need be aligned ---- */
    void (*add)(const float *a, const float *b, size_t n, float *y);
    void (*scale)(const float *x, float s, size_t n, float *y);
    void (*add_scaled)(const float *x, float s, size_t n, float *y); /* y += s * x, one rounding */
    void (*silu_mul)(const float *g, const float *u, size_t n,
                     float *y); /* g / (1 + exp(-g)) * u */
    void (*rmsnorm)(const float *x, const float *w, size_t n, float eps, float *y);
    void (*rope)(float *x, const float *cos_sin,
                 size_t dim); /* pairs (i, i + dim/2) by angle i; cosines, then sines */
    void (*rope_adjacent)(float *x, const float *cos_sin,
                          size_t dim); /* the same for pairs (2i, 2i + 1) */
    void (*softmax)(float *x, size_t n);
    void (*to_f16)(const float *x, size_t n,
                   uint16_t *y); /* beyond the range: the largest number, never infinity */
    /* ---- attention (attention_ref.c, attention_avx2.c): a tile of up to QN_ATTN_KEYS keys, see attention.c ---- */
    /* kt[d * QN_ATTN_STRIDE + j] = key j of src [n][dim]; columns up to the next multiple of 8 may be written */
    void (*attn_load_k)(const void *src, qn_dtype type, size_t n, size_t dim, float *kt);
    /* v[j * stride + d] = value j of src [n][dim] */
    void (*attn_load_v)(const void *src, qn_dtype type, size_t n, size_t dim, size_t stride,
                        float *v);
    /* s[i * QN_ATTN_KEYS + j] = q_i · k_j, summed over d upwards; j may run past n, within the tile */
    void (*attn_scores)(const float *q, size_t n_q, const float *kt, size_t n, size_t dim,
                        float *s);
    /* One query's scores become p_j = exp(s_j - max), 0 outside [begin, end), begin < end; max and sum are carried on.
     * Returns what the output so far must be multiplied by. */
    float (*attn_softmax)(float *s, size_t begin, size_t end, float *max, float *sum);
    /* o[i * stride + d] = o * scale_i + sum over j < n, upwards, of p[i * QN_ATTN_KEYS + j] * v[j * stride + d]; stride % 8 == 0 */
    void (*attn_weigh)(const float *p, const float *scale, size_t n_q, const float *v, size_t n,
                       size_t stride, float *o);
    /* ---- roofs (roofs_ref.c, roofs_<set>.c): as much as a core can do, see roofs.c ---- */
    void (*roof_read)(const void *p, size_t bytes); /* 64-byte aligned, a multiple of 4096 */
    double (*roof_int8)(size_t n); /* n rounds of 8-bit multiply-add; returns operations done */
    double (*roof_f32)(size_t n);  /* the same of float32 */
} qn_kernels;
#define QN_MM_SCRATCH (96u * 1024u)

/* The kernels of these sets, untested: for tests. */
void qn_kernels_init(qn_kernels *k, unsigned cpu_flags);
/* The kernels of these sets that do as plain C does (kernels.c). */
QN_MUST_USE qn_status qn_kernels_choose(qn_kernels *k, unsigned cpu_flags, qn_err *err);
/* Puts safe's kernels in the place of products of k that differ from plain C, and adds their number to n_left_out. */
QN_MUST_USE qn_status qn_kernels_test(qn_kernels *k, const qn_kernels *safe, qn_err *err);
void qn_matmul_init_ref(qn_kernels *k);
void qn_matmul_init_avx2(qn_kernels *k);
void qn_matmul_init_avx512(qn_kernels *k);
void qn_matmul_init_neon(qn_kernels *k);
void qn_matmul_init_i8mm(qn_kernels *k);
void qn_rows_init_ref(qn_kernels *k);
void qn_rows_init_avx2(qn_kernels *k);
void qn_rows_init_neon(qn_kernels *k);
void qn_attention_init_ref(qn_kernels *k);
void qn_attention_init_avx2(qn_kernels *k);
void qn_roofs_init_ref(qn_kernels *k);
void qn_roofs_init_avx2(qn_kernels *k);
void qn_roofs_init_avx512(qn_kernels *k);
void qn_roofs_init_neon(qn_kernels *k);
void qn_roofs_init_i8mm(qn_kernels *k);

#endif
