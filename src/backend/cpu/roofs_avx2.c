/* SPDX-License-Identifier: Apache-2.0
 * roofs_avx2.c - what a core with AVX2 and FMA reads and computes at most.
 * Registers only, with enough independent chains to hide every latency. Threads: any, pure but for the memory read. */
#include <immintrin.h>

#include "backend/cpu/kernels.h"

/* The compiler may neither drop nor move out of the loop what v is. */
#define OPAQUE(v) __asm__ volatile("" : "+x"(v))

static void read_all(const void *p, size_t bytes)
{
    const __m256i *a = p;
    size_t n = bytes / sizeof *a;
    __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
    for (size_t i = 0; i < n; i += 4) {
        s0 = _mm256_add_epi8(s0, _mm256_load_si256(a + i));
        s1 = _mm256_add_epi8(s1, _mm256_load_si256(a + i + 1));
        s2 = _mm256_add_epi8(s2, _mm256_load_si256(a + i + 2));
        s3 = _mm256_add_epi8(s3, _mm256_load_si256(a + i + 3));
    }
    s0 = _mm256_add_epi8(_mm256_add_epi8(s0, s1), _mm256_add_epi8(s2, s3));
    OPAQUE(s0);
}

enum { CHAINS = 6, STEPS = 8 };

/* Blocks of 32 columns as in mm_gemm: vpmaddubsw summed in int16, then once widened to int32. */
static double int8_ops(size_t n)
{
    __m256i w = _mm256_set1_epi8(7), x = _mm256_set1_epi8(3), one = _mm256_set1_epi16(1);
    __m256i sum[CHAINS] = {_mm256_setzero_si256()};
    for (size_t k = 0; k < n; k++) {
        __m256i acc[CHAINS];
        for (int c = 0; c < CHAINS; c++) {
            OPAQUE(w);
            acc[c] = _mm256_maddubs_epi16(w, x);
            OPAQUE(acc[c]);
        }
        for (int s = 1; s < STEPS; s++)
            for (int c = 0; c < CHAINS; c++) {
                OPAQUE(w);
                acc[c] = _mm256_add_epi16(acc[c], _mm256_maddubs_epi16(w, x));
                OPAQUE(acc[c]);
            }
        for (int c = 0; c < CHAINS; c++)
            sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(acc[c], one));
    }
    for (int c = 0; c < CHAINS; c++)
        OPAQUE(sum[c]);
    return 64.0 * CHAINS * STEPS * (double)n;
}

/* One register each: as an array gcc keeps them in memory. */
#define CHAIN(s)                                                                                   \
    do {                                                                                           \
        (s) = _mm256_fmadd_ps(x, y, s);                                                            \
        OPAQUE(s);                                                                                 \
    } while (0)

static double f32_flops(size_t n)
{
    __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-9f);
    __m256 a = y, b = y, c = y, d = y, e = y, f = y, g = y, h = y, i = y, j = y;
    OPAQUE(x);
    OPAQUE(y);
    for (size_t k = 0; k < n; k++) {
        CHAIN(a);
        CHAIN(b);
        CHAIN(c);
        CHAIN(d);
        CHAIN(e);
        CHAIN(f);
        CHAIN(g);
        CHAIN(h);
        CHAIN(i);
        CHAIN(j);
    }
    return 2.0 * 8 * 10 * (double)n;
}

void qn_roofs_init_avx2(qn_kernels *k)
{
    k->roof_read = read_all;
    k->roof_int8 = int8_ops;
    k->roof_f32 = f32_flops;
}
