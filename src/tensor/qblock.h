/* SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TENSOR_QBLOCK_H
#define QN_TENSOR_QBLOCK_H
#include "tensor/dtype.h"
/* Decodes n elements (a multiple of the block) of a one-tensor format to float32: the definition. */
void qn_qblock_decode(qn_dtype t, const void *src, size_t n, float *out);
#endif
