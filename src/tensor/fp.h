/* SPDX-License-Identifier: Apache-2.0
 * fp.h - scalar conversions of the small floating-point formats. All round to nearest even. Threads: any, pure. */
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

static inline float qn_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, mag = h & 0x7fffu;
    if (mag >= 0x7c00u) /* infinity, NaN */
        return qn_bits_to_f32(sign | 0x7f800000u | (mag & 0x3ffu) << 13);
    if (mag < 0x400u) { /* zero, subnormal: mag * 2^-24 */
        float f = (float)mag * 0x1p-24f;
        return sign ? -f : f;
    }
    return qn_bits_to_f32(sign | ((mag << 13) + 0x38000000u));
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
    uint32_t sign = (uint32_t)(b & 0x80u) << 24, exp = b >> 3 & 15u, man = b & 7u;
    if (exp == 15u && man == 7u)
        return qn_bits_to_f32(sign | 0x7fc00000u);
    if (exp == 0) {
        float f = (float)man * 0x1p-9f;
        return sign ? -f : f;
    }
    return qn_bits_to_f32(sign | (exp + 120u) << 23 | man << 20);
}

#endif
