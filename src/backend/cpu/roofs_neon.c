/* SPDX-License-Identifier: Apache-2.0
 * roofs_neon.c - what a 64-bit ARM core with dot products reads and computes at most.
 * Registers only, with enough independent chains to hide every latency. Threads: any, pure but for the memory read. */
#include <arm_neon.h>

#include "backend/cpu/kernels.h"

/* The compiler may neither drop nor move out of the loop what v is. */
#define OPAQUE(v) __asm__ volatile("" : "+w"(v))

static void read_all(const void *p, size_t bytes)
{
    const uint8_t *a = p;
    uint8x16_t s[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};
    for (size_t i = 0; i < bytes; i += 64)
        for (size_t j = 0; j < 4; j++)
            s[j] = vaddq_u8(s[j], vld1q_u8(a + i + 16 * j));
    s[0] = vaddq_u8(vaddq_u8(s[0], s[1]), vaddq_u8(s[2], s[3]));
    OPAQUE(s[0]);
}

/* 16 sums, one register each. */
#define EACH(X)                                                                                    \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

static double int8_ops(size_t n)
{
    int8x16_t w = vdupq_n_s8(7), x = vdupq_n_s8(3);
#define BEGIN(i) int32x4_t s##i = vdupq_n_s32(i);
#define STEP(i)                                                                                    \
    s##i = vdotq_s32(s##i, w, x);                                                                  \
    OPAQUE(s##i);
    EACH(BEGIN)
    OPAQUE(w);
    OPAQUE(x);
    for (size_t k = 0; k < n; k++) {
        EACH(STEP)
    }
#undef BEGIN
#undef STEP
    return 2.0 * 16 * 16 * (double)n;
}

static double f32_flops(size_t n)
{
    float32x4_t x = vdupq_n_f32(0.999f), y = vdupq_n_f32(1e-9f);
#define BEGIN(i) float32x4_t s##i = y;
#define STEP(i)                                                                                    \
    s##i = vfmaq_f32(s##i, x, y);                                                                  \
    OPAQUE(s##i);
    EACH(BEGIN)
    OPAQUE(x);
    OPAQUE(y);
    for (size_t k = 0; k < n; k++) {
        EACH(STEP)
    }
#undef BEGIN
#undef STEP
    return 2.0 * 4 * 16 * (double)n;
}

void qn_roofs_init_neon(qn_kernels *k)
{
    k->roof_read = read_all;
    k->roof_int8 = int8_ops;
    k->roof_f32 = f32_flops;
}
