/* SPDX-License-Identifier: Apache-2.0
 * roofs_i8mm.c - what a 64-bit ARM core with int8 matrix products multiplies at most; the rest as roofs_neon.c. Threads: any, pure. */
#include <arm_neon.h>

#include "backend/cpu/kernels.h"

#define EACH(X)                                                                                    \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

static double int8_ops(size_t n)
{
    int8x16_t w = vdupq_n_s8(7), x = vdupq_n_s8(3);
#define BEGIN(i) int32x4_t s##i = vdupq_n_s32(i);
#define STEP(i)                                                                                    \
    s##i = vmmlaq_s32(s##i, w, x);                                                                 \
    __asm__ volatile("" : "+w"(s##i));
    EACH(BEGIN)
    __asm__ volatile("" : "+w"(w), "+w"(x));
    for (size_t k = 0; k < n; k++) {
        EACH(STEP)
    }
#undef BEGIN
#undef STEP
    return 2.0 * 32 * 16 * (double)n;
}

void qn_roofs_init_i8mm(qn_kernels *k)
{
    k->roof_int8 = int8_ops;
}
