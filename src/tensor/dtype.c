/* SPDX-License-Identifier: Apache-2.0
 * dtype.c - the table of element and block formats, and its look-ups. */
#include "tensor/dtype.h"

#include <string.h>

static const qn_dtype_info table[QN_N_DTYPES] = {
    /*                name     block bytes  ggml  safetensors */
    [QN_F32] = {"F32", 1, 4, 0, "F32"},
    [QN_F16] = {"F16", 1, 2, 1, "F16"},
    [QN_BF16] = {"BF16", 1, 2, 30, "BF16"},
    [QN_F64] = {"F64", 1, 8, 28, "F64"},
    [QN_I8] = {"I8", 1, 1, 24, "I8"},
    [QN_U8] = {"U8", 1, 1, -1, "U8"},
    [QN_I16] = {"I16", 1, 2, 25, "I16"},
    [QN_I32] = {"I32", 1, 4, 26, "I32"},
    [QN_I64] = {"I64", 1, 8, 27, "I64"},
    [QN_BOOL] = {"BOOL", 1, 1, -1, "BOOL"},
    [QN_Q4_0] = {"Q4_0", 32, 18, 2, NULL},
    [QN_Q4_1] = {"Q4_1", 32, 20, 3, NULL},
    [QN_Q5_0] = {"Q5_0", 32, 22, 6, NULL},
    [QN_Q5_1] = {"Q5_1", 32, 24, 7, NULL},
    [QN_Q8_0] = {"Q8_0", 32, 34, 8, NULL},
    [QN_Q2_K] = {"Q2_K", 256, 84, 10, NULL},
    [QN_Q3_K] = {"Q3_K", 256, 110, 11, NULL},
    [QN_Q4_K] = {"Q4_K", 256, 144, 12, NULL},
    [QN_Q5_K] = {"Q5_K", 256, 176, 13, NULL},
    [QN_Q6_K] = {"Q6_K", 256, 210, 14, NULL},
    [QN_IQ4_NL] = {"IQ4_NL", 32, 18, 20, NULL},
    [QN_IQ4_XS] = {"IQ4_XS", 256, 136, 23, NULL},
    [QN_IQ1_S] = {"IQ1_S", 256, 50, 19, NULL},
    [QN_IQ1_M] = {"IQ1_M", 256, 56, 29, NULL},
    [QN_IQ2_XXS] = {"IQ2_XXS", 256, 66, 16, NULL},
    [QN_IQ2_XS] = {"IQ2_XS", 256, 74, 17, NULL},
    [QN_IQ2_S] = {"IQ2_S", 256, 82, 22, NULL},
    [QN_IQ3_XXS] = {"IQ3_XXS", 256, 98, 18, NULL},
    [QN_IQ3_S] = {"IQ3_S", 256, 110, 21, NULL},
    [QN_TQ1_0] = {"TQ1_0", 256, 54, 34, NULL},
    [QN_TQ2_0] = {"TQ2_0", 256, 66, 35, NULL},
    [QN_MXFP4] = {"MXFP4", 32, 17, 39, NULL},
    [QN_NVFP4] = {"NVFP4", 64, 36, 40, NULL},
    [QN_F8_E4M3] = {"F8_E4M3", 1, 1, -1, "F8_E4M3"},
    [QN_GPTQ4] = {"GPTQ4", 1, 0, -1, NULL},
    [QN_GPTQ8] = {"GPTQ8", 1, 0, -1, NULL},
    [QN_AWQ4] = {"AWQ4", 1, 0, -1, NULL},
    [QN_NF4] = {"NF4", 1, 0, -1, NULL},
};

const qn_dtype_info *qn_dtype_get(qn_dtype t)
{
    QN_ASSERT((unsigned)t < QN_N_DTYPES);
    return &table[t];
}

bool qn_dtype_from_ggml(uint32_t ggml_type, qn_dtype *out)
{
    for (unsigned t = 0; t < QN_N_DTYPES; t++)
        if (table[t].ggml_type >= 0 && (uint32_t)table[t].ggml_type == ggml_type) {
            *out = (qn_dtype)t;
            return true;
        }
    return false;
}

bool qn_dtype_from_safetensors(const char *name, qn_dtype *out)
{
    for (unsigned t = 0; t < QN_N_DTYPES; t++)
        if (table[t].safetensors && strcmp(table[t].safetensors, name) == 0) {
            *out = (qn_dtype)t;
            return true;
        }
    return false;
}

bool qn_dtype_row_bytes(qn_dtype t, size_t n, size_t *out)
{
    const qn_dtype_info *d = qn_dtype_get(t);
    if (!d->block_bytes || n % d->block_size)
        return false;
    return qn_mul_size(n / d->block_size, d->block_bytes, out);
}
