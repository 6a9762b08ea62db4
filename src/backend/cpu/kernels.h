/* SPDX-License-Identifier: Apache-2.0
 * kernels.h - the table of CPU kernels. qn_kernels_init fills it with plain C (the definition), then overwrites what the CPU has better
 * versions of, as dav1d does. Mask 0 gives the plain C program. */
#ifndef QN_BACKEND_CPU_KERNELS_H
#define QN_BACKEND_CPU_KERNELS_H

#include "backend/cpu/kv_tile.h"
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

/* Attention to one tile of the K/V cache (kv_tile.h), of n_q queries. Rows of queries and of outputs are `width` floats apart, rows of
 * scores QN_KV_TILE. Each result is one chain over d, or over j, upwards, whatever n_q is. */
typedef struct qn_kv_kernels {
    /* s[i][j] = q_i · k_j; j may run past n, within the tile. q: qn_kv_query */
    void (*scores)(const float *q, size_t n_q, const void *tile, size_t n, size_t dim, float *s);
    /* o[i][d] = o * scale_i + sum over j < n of p[i][j] * v_j[d]; p beyond n is 0. int8: p_j * scale of v_j are rounded to
     * QN_KV_STEPS steps of the largest of them; a p_j of 0 leaves out whatever the tile holds. */
    void (*weigh)(const float *p, const float *scale, size_t n_q, const void *tile, size_t n,
                  size_t dim, float *o);
} qn_kv_kernels;

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
    /* y = x / scale rounded to -most .. most; returns scale, |largest x| / most: 0, and y 0, if that x is below 2^-100; NaN, and y 0, if
     * it is not finite */
    float (*to_i16)(const float *x, size_t n, float most, int16_t *y);
    /* ---- attention (attention_ref.c, attention_<set>.c) ---- */
    qn_kv_kernels kv[QN_N_KV_TYPES];
    /* One query's scores s[QN_KV_TILE] become p_j = exp(s_j - max), 0 outside [begin, end), begin < end; max and sum are carried on.
     * Returns what the output so far must be multiplied by. */
    float (*attn_softmax)(float *s, size_t begin, size_t end, float *max, float *sum);
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
/* kv_tile.c: x[dim] becomes key or value `at` of a tile. */
void qn_kv_put(const qn_kernels *k, qn_kv_type t, const float *x, size_t dim, size_t at,
               bool is_value, void *tile);
/* A query of `scores`, width floats: x * scale; for int8 as int16[dim], and its scale in q[width / 2]. */
#define QN_KV_STEPS 16383.0f /* 256 * 127 * 16383 < 2^31 */
void qn_kv_query(const qn_kernels *k, qn_kv_type t, const float *x, float scale, size_t dim,
                 float *q);
void qn_matmul_init_ref(qn_kernels *k);
void qn_matmul_init_avx2(qn_kernels *k);
void qn_matmul_init_avx512(qn_kernels *k);
void qn_matmul_init_neon(qn_kernels *k);
void qn_matmul_init_i8mm(qn_kernels *k);
void qn_rows_init_ref(qn_kernels *k);
float qn_to_i16_ref(const float *x, size_t n, float most, int16_t *y); /* for attention_ref.c */
void qn_rows_init_avx2(qn_kernels *k);
void qn_rows_init_neon(qn_kernels *k);
void qn_attention_init_ref(qn_kernels *k);
void qn_attention_init_avx2(qn_kernels *k);
void qn_attention_init_neon(qn_kernels *k);
void qn_roofs_init_ref(qn_kernels *k);
void qn_roofs_init_avx2(qn_kernels *k);
void qn_roofs_init_avx512(qn_kernels *k);
void qn_roofs_init_neon(qn_kernels *k);
void qn_roofs_init_i8mm(qn_kernels *k);

#endif
