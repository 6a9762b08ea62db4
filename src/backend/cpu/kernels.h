/* SPDX-License-Identifier: Apache-2.0
 * kernels.h - the table of CPU kernels. qn_kernels_init fills it with plain C (the definition), then overwrites what the CPU has better
 * versions of, as dav1d does. Mask 0 gives the plain C program. */
#ifndef QN_BACKEND_CPU_KERNELS_H
#define QN_BACKEND_CPU_KERNELS_H

#include "base/base.h"
#include "tensor/dtype.h"

typedef struct qn_kernels {
    unsigned flags; /* qn_cpu_flags() & mask */
    /* each owner adds its own rows; docs beside them */
    /* ---- matmul (matmul.c, matmul_ref.c, matmul_avx2.c) ---- */
    /* ---- rows (rows_ref.c, rows_avx2.c): norms, rope, silu, add, softmax ---- */
    /* ---- attention (attention_ref.c, attention_avx2.c) ---- */
} qn_kernels;

void qn_kernels_init(qn_kernels *k, unsigned cpu_flags);
void qn_matmul_init_ref(qn_kernels *k);
void qn_matmul_init_avx2(qn_kernels *k);
void qn_rows_init_ref(qn_kernels *k);
void qn_rows_init_avx2(qn_kernels *k);
void qn_attention_init_ref(qn_kernels *k);
void qn_attention_init_avx2(qn_kernels *k);

#endif
