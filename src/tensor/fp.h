/* SPDX-License-Identifier: Apache-2.0
 * fp.h - scalar conversions of the small floating-point formats. All round to nearest even.
 * Threads: any, pure. */
#ifndef QN_TENSOR_FP_H
#define QN_TENSOR_FP_H

#include <stdint.h>
#include <string.h>

static inline float qn_bits_to_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t qn_f32_to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float qn_bf16_to_f32(uint16_t h)
{
    return qn_bits_to_f32((uint32_t)h << 16);
}

/* a where yes, else b. Not a conditional expression: compilers move the computing of a float into a
 * branch of that, and loops do not become vector code. */
static inline uint32_t qn_select(int yes, uint32_t a, uint32_t b)
{
    uint32_t mask = 0u - (uint32_t)yes;
    return (a & mask) | (b & ~mask);
}

static inline float qn_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, mag = h & 0x7fffu;
    uint32_t normal = (mag << 13) + 0x38000000u;
    uint32_t special = 0x7f800000u | mag << 13;                     /* infinity, NaN */
    uint32_t tiny = qn_f32_to_bits((float)(int32_t)mag * 0x1p-24f); /* zero, subnormal */
    uint32_t u = qn_select(mag >= 0x7c00u, special, normal);
    return qn_bits_to_f32(sign | qn_select(mag < 0x400u, tiny, u));
}

static inline uint16_t qn_f32_to_f16(float f)
{
    uint32_t u = qn_f32_to_bits(f), sign = u >> 16 & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (mag >= 0x477ff000u) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (mag < 0x38800000u) { /* below 2^-14: let the FPU round to a multiple of 2^-24 */
        float m = qn_bits_to_f32(mag) + 0x1p-1f;
        return (uint16_t)(sign | (qn_f32_to_bits(m) - 0x3f000000u));
    }
    mag += 0xfffu + (mag >> 13 & 1u);
    return (uint16_t)(sign | ((mag - 0x38000000u) >> 13));
}

static inline uint16_t qn_f32_to_bf16(float f)
{
    uint32_t u = qn_f32_to_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* OCP FP8 E4M3 (no infinities; 0x7f and 0xff are NaN). */
static inline float qn_e4m3_to_f32(uint8_t b)
{
    uint32_t sign = (uint32_t)(b & 0x80u) << 24, mag = b & 0x7fu;
    uint32_t normal = (mag << 20) + 0x3c000000u;
    uint32_t tiny = qn_f32_to_bits((float)(int32_t)mag * 0x1p-9f); /* zero, subnormal */
    uint32_t u = qn_select(mag < 8u, tiny, normal);
    return qn_bits_to_f32(sign | qn_select(mag == 0x7fu, 0x7fc00000u, u));
}

#endif
