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

typedef struct qn_kernels {
    unsigned flags; /* qn_cpu_flags() & mask */
    /* each owner adds its own rows; docs beside them */
    /* ---- matmul (matmul.c, matmul_ref.c, matmul_avx2.c) ---- */
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
    /* ---- rows (rows_ref.c, rows_avx2.c): norms, rope, silu, add, softmax ---- */
    /* ---- attention (attention_ref.c, attention_avx2.c) ---- */
} qn_kernels;
#define QN_MM_SCRATCH (96u * 1024u)

void qn_kernels_init(qn_kernels *k, unsigned cpu_flags);
void qn_matmul_init_ref(qn_kernels *k);
void qn_matmul_init_avx2(qn_kernels *k);
void qn_rows_init_ref(qn_kernels *k);
void qn_rows_init_avx2(qn_kernels *k);
void qn_attention_init_ref(qn_kernels *k);
void qn_attention_init_avx2(qn_kernels *k);

#endif
