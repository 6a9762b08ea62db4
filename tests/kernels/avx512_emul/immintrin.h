/* SPDX-License-Identifier: Apache-2.0
 * immintrin.h - the AVX-512 instructions that matmul_avx512.c uses, in plain C, after Intel's description of each. Found before the
 * compiler's header of this name, it lets checkkern run those kernels on any CPU: what they compute, not how fast, and not that the
 * compiler chose the right instructions. */
#ifndef QN_TESTS_AVX512_EMUL_H
#define QN_TESTS_AVX512_EMUL_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "tensor/fp.h"

typedef struct __m128i {
    int8_t b[16];
} __m128i;

typedef struct __m256i {
    int8_t b[32];
} __m256i;

typedef struct __m512i {
    union {
        int8_t b[64];
        uint8_t u[64];
        int16_t w[32];
        uint16_t uw[32];
        int32_t d[16];
        uint32_t ud[16];
    };
} __m512i;

typedef struct __m512 {
    float f[16];
} __m512;

/* A function of this type: one statement for each of n elements of r. */
#define EACH(type, name, args, n, statement)                                                       \
    static inline type name args                                                                   \
    {                                                                                              \
        type r;                                                                                    \
        for (int i = 0; i < (n); i++)                                                              \
            statement;                                                                             \
        return r;                                                                                  \
    }

/* Loads take any address. */
#define LOAD(type, name, arg)                                                                      \
    static inline type name(const arg *p)                                                          \
    {                                                                                              \
        type r;                                                                                    \
        memcpy(&r, p, sizeof r);                                                                   \
        return r;                                                                                  \
    }

LOAD(__m128i, _mm_loadu_si128, __m128i)
LOAD(__m256i, _mm256_loadu_si256, __m256i)
LOAD(__m512i, _mm512_loadu_si512, void)
LOAD(__m512, _mm512_loadu_ps, void)

static inline void _mm512_storeu_si512(void *p, __m512i v)
{
    memcpy(p, &v, sizeof v);
}

static inline void _mm512_storeu_ps(void *p, __m512 v)
{
    memcpy(p, &v, sizeof v);
}

static inline __m128i _mm_setr_epi8(char a, char b, char c, char d, char e, char f, char g, char h,
                                    char i, char j, char k, char l, char m, char n, char o, char p)
{
    const char all[16] = {a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p};
    __m128i r;
    memcpy(&r, all, sizeof r);
    return r;
}

EACH(__m512i, _mm512_setzero_si512, (void), 16, r.d[i] = 0)
EACH(__m512i, _mm512_set1_epi8, (char v), 64, r.b[i] = (int8_t)v)
EACH(__m512i, _mm512_set1_epi32, (int v), 16, r.d[i] = v)
EACH(__m512, _mm512_setzero_ps, (void), 16, r.f[i] = 0)
EACH(__m512, _mm512_set1_ps, (float v), 16, r.f[i] = v)

/* The upper half is undefined: here, what shows that it was used. */
EACH(__m512i, _mm512_castsi256_si512, (__m256i v), 64, r.b[i] = i < 32 ? v.b[i] : (int8_t)0xa5)
EACH(__m512i, _mm512_inserti64x4, (__m512i a, __m256i v, int half), 64,
     r.b[i] = i / 32 == half ? v.b[i % 32] : a.b[i])
EACH(__m512i, _mm512_broadcast_i32x4, (__m128i v), 64, r.b[i] = v.b[i % 16])
/* Within each 16 bytes. */
EACH(__m512i, _mm512_shuffle_epi8, (__m512i a, __m512i at), 64,
     r.b[i] = at.u[i] & 0x80 ? 0 : a.b[i / 16 * 16 + (at.u[i] & 15)])

EACH(__m512i, _mm512_and_si512, (__m512i a, __m512i b), 16, r.d[i] = a.d[i] & b.d[i])
EACH(__m512i, _mm512_or_si512, (__m512i a, __m512i b), 16, r.d[i] = a.d[i] | b.d[i])
EACH(__m512i, _mm512_slli_epi16, (__m512i a, unsigned n), 32, r.uw[i] = (uint16_t)(a.uw[i] << n))
EACH(__m512i, _mm512_srli_epi16, (__m512i a, unsigned n), 32, r.uw[i] = (uint16_t)(a.uw[i] >> n))
EACH(__m512i, _mm512_slli_epi32, (__m512i a, unsigned n), 16, r.ud[i] = a.ud[i] << n)
EACH(__m512i, _mm512_srai_epi32, (__m512i a, unsigned n), 16, r.d[i] = a.d[i] >> n)
EACH(__m512i, _mm512_cvtepi8_epi16, (__m256i v), 32, r.w[i] = v.b[i])
EACH(__m512i, _mm512_cvtepi8_epi32, (__m128i v), 16, r.d[i] = v.b[i])

EACH(__m512i, _mm512_add_epi32, (__m512i a, __m512i b), 16, r.ud[i] = a.ud[i] + b.ud[i])
EACH(__m512i, _mm512_mullo_epi32, (__m512i a, __m512i b), 16, r.ud[i] = a.ud[i] * b.ud[i])
EACH(__m512i, _mm512_madd_epi16, (__m512i a, __m512i b), 16,
     r.d[i] = a.w[2 * i] * b.w[2 * i] + a.w[2 * i + 1] * b.w[2 * i + 1])
EACH(__m512i, _mm512_dpbusd_epi32, (__m512i s, __m512i a, __m512i b), 16,
     r.d[i] = s.d[i] + a.u[4 * i] * b.b[4 * i] + a.u[4 * i + 1] * b.b[4 * i + 1] +
              a.u[4 * i + 2] * b.b[4 * i + 2] + a.u[4 * i + 3] * b.b[4 * i + 3])

static inline __m512 _mm512_cvtph_ps(__m256i v)
{
    uint16_t h[16];
    __m512 r;
    memcpy(h, &v, sizeof h);
    for (int i = 0; i < 16; i++)
        r.f[i] = qn_f16_to_f32(h[i]);
    return r;
}

EACH(__m512, _mm512_cvtepi32_ps, (__m512i a), 16, r.f[i] = (float)a.d[i])
EACH(__m512, _mm512_mul_ps, (__m512 a, __m512 b), 16, r.f[i] = a.f[i] * b.f[i])
EACH(__m512, _mm512_fmadd_ps, (__m512 a, __m512 b, __m512 c), 16,
     r.f[i] = fmaf(a.f[i], b.f[i], c.f[i]))

#undef EACH
#undef LOAD
#endif
