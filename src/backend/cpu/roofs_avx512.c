/* SPDX-License-Identifier: Apache-2.0
 * roofs_avx512.c - what a core with AVX-512 VNNI multiplies at most; the rest as roofs_avx2.c. Threads: any, pure. */
#include <immintrin.h>

#include "backend/cpu/kernels.h"

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

static double int8_ops(size_t n)
{
    __m512i w = _mm512_set1_epi8(7), x = _mm512_set1_epi8(3);
#define BEGIN(i) __m512i s##i = _mm512_set1_epi32(i);
#define STEP(i)                                                                                    \
    s##i = _mm512_dpbusd_epi32(s##i, w, x);                                                        \
    __asm__ volatile("" : "+v"(s##i));
    EACH(BEGIN)
    __asm__ volatile("" : "+v"(w), "+v"(x));
    for (size_t k = 0; k < n; k++) {
        EACH(STEP)
    }
#undef BEGIN
#undef STEP
    return 2.0 * 64 * 12 * (double)n;
}

void qn_roofs_init_avx512(qn_kernels *k)
{
    k->roof_int8 = int8_ops;
}
