/* SPDX-License-Identifier: Apache-2.0
 * weight.h - a weight matrix [rows, cols] in any stored form, and its meaning in float32.
 *
 * rows = outputs, cols = inputs (as Hugging Face stores them). Borrowed views of mapped files:
 * nothing is owned here, and whoever fills a qn_weight has checked every size and every
 * group_index. tr is total_rows, b the bits of a code (4, 8), groups = ceil(cols / group):
 *
 *   dtype         data                 scale                             zero
 *   F32 .. NVFP4  rows stride apart    -                                 -
 *   F8_E4M3       u8 [tr, cols]        [ceil(tr/block_rows), groups]     -
 *   GPTQ4, GPTQ8  i32 [cols*b/32, tr]  [groups, tr]                      i32 [groups, tr*b/32]
 *   AWQ4          i32 [cols, tr/8]     [groups, tr]                      i32 [groups, tr/8]
 *   NF4           u8 [tr*cols/2]       absmax [ceil(tr*cols/group)]      -
 *
 * Codes in an i32: GPTQ lowest bits first, along the columns (data) or rows (zero); AWQ eight rows
 * in the order 0,2,4,6,1,3,5,7. NF4: over the row-major matrix, first element in the high nibble;
 * groups may span rows.
 *
 * qn_weight_decode is the definition of every form: scale * (q - zero); e4m3(q) * scale; code[q] *
 * absmax, where with double quantisation absmax i is nested_code[scale[i]] * nested_scale[i /
 * nested_group] + nested_offset; and the block's formula (qblock.h).
 *
 * Threads: any, pure. Sources: gguf-py quants.py, AutoGPTQ, AutoAWQ (GEMM), bitsandbytes NF4,
 * DeepSeek block FP8. */
#ifndef QN_TENSOR_WEIGHT_H
#define QN_TENSOR_WEIGHT_H

#include "tensor/dtype.h"

typedef struct qn_weight {
    qn_dtype dtype;
    size_t rows, cols;
    const void *data;
    size_t stride; /* bytes between rows (formats of one tensor; FP8: cols) */
    /* GPTQ, AWQ, NF4, FP8: this view's first row in the stored matrix, and that matrix's rows */
    size_t row0, total_rows;
    const void *scale;
    qn_dtype scale_dtype; /* F32, F16, BF16; NF4 with double quantisation: U8 */
    const void *zero;     /* NULL: symmetric, zero = 2^(bits-1) */
    uint32_t zero_offset; /* added to the stored zero: 1 for checkpoint_format "gptq", else 0 */
    const int32_t *group_index; /* GPTQ act-order: group of each column; NULL: col / group */
    size_t group, block_rows;   /* columns (NF4: elements) of a group; FP8: rows of a block */
    const float *code;          /* NF4: 16 values */
    /* NF4 double quantisation: [256], [ceil(n_absmax/nested_group)] */
    const float *nested_code, *nested_scale;
    float nested_offset;
    size_t nested_group;
    /* the whole view in a device's layout, from a packed file: data may then read as zeros. NULL:
     * none */
    const void *packed;
    uint32_t packed_form;
    size_t packed_bytes;
} qn_weight;

/* out[n, cols] = rows [row, row + n) of w in float32. Cheapest for tiles of 8 or 16 rows. */
void qn_weight_decode(const qn_weight *w, size_t row, size_t n, float *out);
/* The view of rows [row, row + n). */
qn_weight qn_weight_rows(const qn_weight *w, size_t row, size_t n);
size_t qn_weight_bytes(const qn_weight *w); /* stored bytes of this view, scales included */

#endif
