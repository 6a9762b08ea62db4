/* SPDX-License-Identifier: Apache-2.0
 * kernels.h - the table of CPU kernels. qn_kernels_init fills it with plain C (the definition), then overwrites what the CPU has better
 * versions of, as dav1d does. Mask 0 gives the plain C program. */
#ifndef QN_BACKEND_CPU_KERNELS_H
#define QN_BACKEND_CPU_KERNELS_H

#include "base/base.h"
#include "tensor/dtype.h"

#define QN_ATTN_KEYS   64 /* keys of a tile, which begins at a multiple of this position */
#define QN_ATTN_STRIDE 72 /* of the transposed keys: room for a group of 8 begun at any column */

typedef struct qn_kernels {
    unsigned flags; /* qn_cpu_flags() & mask */
    /* each owner adds its own rows; docs beside them */
    /* ---- matmul (matmul.c, matmul_ref.c, matmul_avx2.c) ---- */
    /* ---- rows (rows_ref.c, rows_avx2.c): one row of n floats; y may be an input, nothing need be aligned ---- */
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
} qn_kernels;

void qn_kernels_init(qn_kernels *k, unsigned cpu_flags);
void qn_matmul_init_ref(qn_kernels *k);
void qn_matmul_init_avx2(qn_kernels *k);
void qn_rows_init_ref(qn_kernels *k);
void qn_rows_init_avx2(qn_kernels *k);
void qn_attention_init_ref(qn_kernels *k);
void qn_attention_init_avx2(qn_kernels *k);

#endif
