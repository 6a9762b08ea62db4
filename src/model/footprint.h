/* SPDX-License-Identifier: Apache-2.0
 * footprint.h - bytes that a model's weights would take in memory if they were of another type.
 * Threads: any, pure. Source: llama.cpp's choice of types for Q4_K_M. */
#ifndef QN_MODEL_FOOTPRINT_H
#define QN_MODEL_FOOTPRINT_H

#include "backend/ops.h"
#include "model/bind.h"

typedef enum qn_footprint_type {
    QN_FOOTPRINT_F32,
    QN_FOOTPRINT_BF16,
    QN_FOOTPRINT_Q8_0,
    QN_FOOTPRINT_Q4_K_M, /* Q4_K; Q6_K for the output matrix and v and down of half of the layers */
    QN_FOOTPRINT_Q4_0,   /* with a Q6_K output matrix, as files have it */
    QN_FOOTPRINT_N
} qn_footprint_type;

const char *qn_footprint_name(qn_footprint_type t);
/* Matrices in the layout of the device, vectors in float32. An embedding that is not multiplied is
 * looked up in the file and not counted. */
uint64_t qn_footprint_bytes(const qn_model_config *c, const qn_model_weights *m,
                            const qn_backend *b, qn_footprint_type t);

#endif
