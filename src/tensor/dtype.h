/* SPDX-License-Identifier: Apache-2.0
 * dtype.h - the table of element and block formats.
 * Threads: any, pure. Sources: ggml's ggml.h (type ids), safetensors' dtype names. */
#ifndef QN_TENSOR_DTYPE_H
#define QN_TENSOR_DTYPE_H

#include "base/base.h"

/* Order is ours; ggml's numbers are in the table. */
typedef enum qn_dtype {
    QN_F32,
    QN_F16,
    QN_BF16,
    QN_F64,
    QN_I8,
    QN_U8,
    QN_I16,
    QN_I32,
    QN_I64,
    QN_BOOL,
    QN_Q4_0,
    QN_Q4_1,
    QN_Q5_0,
    QN_Q5_1,
    QN_Q8_0,
    QN_Q2_K,
    QN_Q3_K,
    QN_Q4_K,
    QN_Q5_K,
    QN_Q6_K,
    QN_IQ4_NL,
    QN_IQ4_XS,
    QN_IQ1_S,
    QN_IQ1_M,
    QN_IQ2_XXS,
    QN_IQ2_XS,
    QN_IQ2_S,
    QN_IQ3_XXS,
    QN_IQ3_S,
    QN_TQ1_0,
    QN_TQ2_0,
    QN_MXFP4,
    QN_NVFP4,
    QN_F8_E4M3, /* with block scales: qn_weight */
    QN_GPTQ4,
    QN_GPTQ8,
    QN_AWQ4,
    QN_NF4, /* several tensors together: qn_weight */
    QN_N_DTYPES
} qn_dtype;

typedef struct qn_dtype_info {
    const char *name;        /* "Q4_K", "BF16", ... */
    uint32_t block_size;     /* elements of a block along a row */
    uint32_t block_bytes;    /* 0: not a format of one tensor alone */
    int32_t ggml_type;       /* -1: not a GGUF type */
    const char *safetensors; /* its name there, or NULL */
} qn_dtype_info;

const qn_dtype_info *qn_dtype_get(qn_dtype t);
bool qn_dtype_from_ggml(uint32_t ggml_type, qn_dtype *out);
bool qn_dtype_from_safetensors(const char *name, qn_dtype *out);
/* Bytes of a row of n elements; false if n is no multiple of the block or the product overflows. */
QN_MUST_USE bool qn_dtype_row_bytes(qn_dtype t, size_t n, size_t *out);

#endif
