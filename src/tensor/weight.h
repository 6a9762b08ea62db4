/* SPDX-License-Identifier: Apache-2.0
 * weight.h - a weight matrix [rows, cols] in any stored form, and its meaning in float32.
 *
 * Borrowed views of mapped files: nothing is owned here. rows = outputs, cols = inputs (as Hugging Face stores them).
 *
 *   dtype            data                          scale                     zero                   other
 *   F32 ... NVFP4    row-major, stride apart       -                         -                      -
 *   F8_E4M3          u8 [total_rows, cols]         [rows/br, cols/group]     -                      br = block_rows
 *   GPTQ4, GPTQ8     i32 [cols*b/32, total_rows]   [groups, total_rows]      i32 [groups, tr*b/32]  group_index [cols] or NULL
 *   AWQ4             i32 [cols, total_rows/8]      [groups, total_rows]      i32 [groups, tr/8]     columns 0,2,4,6,1,3,5,7
 *   NF4              u8 [total_rows*cols/2]        absmax, one a `group`     -                      code[16], nested_*
 *
 * qn_weight_decode is the definition of every form: w = scale * (q - zero), q through the block's formula, or code[q] * absmax.
 * Threads: any, pure. Sources: gguf-py quants.py, AutoGPTQ, AutoAWQ (GEMM), bitsandbytes NF4, DeepSeek block FP8. */
#ifndef QN_TENSOR_WEIGHT_H
#define QN_TENSOR_WEIGHT_H

#include "tensor/dtype.h"

typedef struct qn_weight {
    qn_dtype dtype;
    size_t rows, cols;
    const void *data;
    size_t stride; /* bytes between rows (formats of one tensor; FP8: cols) */
    size_t row0,
        total_rows; /* this view's first row in the stored matrix, and that matrix's rows (GPTQ, AWQ, NF4, FP8) */
    const void *scale;
    qn_dtype scale_dtype; /* F32, F16, BF16; NF4 with double quantisation: U8 */
    const void *zero;     /* NULL: symmetric, zero = 2^(bits-1) */
    uint32_t zero_offset; /* added to the stored zero: 1 for checkpoint_format "gptq", else 0 */
    const int32_t *group_index; /* GPTQ act-order: group of each column; NULL: col / group */
    size_t group, block_rows;   /* columns (NF4: elements) of a group; FP8: rows of a block */
    const float *code;          /* NF4: 16 values */
    const float *nested_code,
        *nested_scale; /* NF4 double quantisation: [256], [ceil(n_absmax/nested_group)] */
    float nested_offset;
    size_t nested_group;
} qn_weight;

/* out[n, cols] = rows [row, row + n) of w in float32. */
void qn_weight_decode(const qn_weight *w, size_t row, size_t n, float *out);
/* The view of rows [row, row + n). */
qn_weight qn_weight_rows(const qn_weight *w, size_t row, size_t n);
size_t qn_weight_bytes(const qn_weight *w); /* stored bytes of this view, scales included */

#endif
