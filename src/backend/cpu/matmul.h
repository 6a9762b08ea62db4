/* SPDX-License-Identifier: Apache-2.0
 * matmul.h - products of the CPU backend: y[m,n] = x[m,k] · w[n,k]ᵀ for any stored form of w.
 *
 * Two arithmetics: integer (weights as small integers with scales, packed for the kernels; activations int8 by blocks of 32) and
 * float32 (weights decoded tile by tile as qn_weight_decode says; float formats, and everything in exact mode).
 * Both sum each y element in one fixed order, independent of m, of the neighbours and of the row range asked for.
 *
 * Use inside a team function: every thread prepares its share of the rows, barrier, every thread computes its range of w's rows. */
#ifndef QN_BACKEND_CPU_MATMUL_H
#define QN_BACKEND_CPU_MATMUL_H

#include "backend/cpu/kernels.h"
#include "backend/ops.h"
#include "base/thread.h"

typedef enum qn_mm_kind { QN_MM_F32, QN_MM_INT } qn_mm_kind;

/* Activations prepared for products, for up to max_rows rows of up to max_cols columns. Owned by the device; no allocation after init.
 * A copy of the struct is a view (qn_acts_part); nothing outside matmul.c reads the fields. */
typedef struct qn_acts {
    size_t max_rows, max_cols, rows, cols;
    unsigned kinds, max_kinds; /* bit masks 1 << qn_mm_kind */
    int lanes, n_threads;      /* lanes: rows that lie together in i8, 1 or 4 */
    float *f32;
    void *i8;
    uint8_t *scratch;
    size_t scratch_bytes; /* of one thread */
} qn_acts;

/* Packs on all workers of team (NULL: alone), outside of any run of it. exact: float32 arithmetic whatever the format. */
QN_MUST_USE qn_status qn_dweight_new(qn_dweight **out, qn_team *team, const qn_weight *w,
                                     bool exact, qn_err *err);
/* Panels of w: whether it has them; all of them into out, 64-byte aligned. */
bool qn_dweight_form(const qn_weight *w, uint32_t *form, size_t *bytes);
void qn_dweight_pack(qn_team *team, const qn_weight *w, qn_pack pack, void *out);
/* Of a weight taken from packed bytes: they are there now. */
void qn_dweight_move(qn_dweight *w, const void *packed);
void qn_dweight_free(qn_dweight *w);
qn_mm_kind qn_dweight_kind(const qn_dweight *w);
size_t qn_dweight_rows(const qn_dweight *w);
size_t qn_dweight_cols(const qn_dweight *w);
size_t qn_dweight_bytes(const qn_dweight *w);
bool qn_dweight_is_borrowed(const qn_dweight *w);
size_t qn_dweight_row_step(
    const qn_dweight
        *w); /* row ranges given to qn_matmul begin and end at multiples of this (or at the end) */
/* Row `row` in float32, from whatever layout is kept (EMBED). */
void qn_dweight_row(const qn_dweight *w, size_t row, float *out);

/* kinds: of any set that will be begun. */
QN_MUST_USE qn_status qn_acts_new(qn_acts **out, size_t max_rows, size_t max_cols, unsigned kinds,
                                  int n_threads, qn_err *err);
void qn_acts_free(qn_acts *a);
/* Starts a set of `rows` rows of `cols` columns (one thread, before the team or before a barrier). */
void qn_acts_begin(qn_acts *a, size_t rows, size_t cols, unsigned kinds);
/* Rows prepared together by one thread come in multiples of this. */
#define QN_ACTS_ROW_STEP 4
/* Prepares rows [begin, end): x(row) is given by `src` + index[row] (or row) * stride. Safe in parallel for disjoint ranges. */
void qn_acts_put(qn_acts *a, const qn_kernels *k, size_t begin, size_t end, const float *src,
                 size_t stride, const uint32_t *index);

/* Parts: several sets in the memory of one.
 * Rows [first, first + rows) of a, `first` a multiple of QN_ACTS_ROW_STEP; after qn_acts_begin of the part it is a set of its own. */
qn_acts qn_acts_part(const qn_acts *a, size_t first, size_t rows);
/* Columns [begin, end) of a row, `begin` a multiple of 32, `end` too or all; x: those columns. The rows of a step by one thread, upwards. */
void qn_acts_put_columns(const qn_acts *a, const qn_kernels *k, size_t row, size_t begin,
                         size_t end, const float *x);
/* Row r of a is row index[r] of src, prepared before with at least a's kinds. */
void qn_acts_gather(const qn_acts *a, const qn_acts *src, const uint32_t *index);

/* y[r * y_stride + j] = x_r · w_jᵀ for all prepared rows r and j in [begin, end). thread: picks the scratch. */
void qn_matmul(const qn_kernels *k, const qn_dweight *w, const qn_acts *a, size_t begin, size_t end,
               float *y, size_t y_stride, int thread);

#endif
