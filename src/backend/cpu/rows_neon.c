/* SPDX-License-Identifier: Apache-2.0
 * rows_neon.c - the kernels over one row, and the softmax of a tile of scores, for 64-bit ARM.
 *
 * Whole vectors of 4, then one from a copy that zeros fill up, so that an element's arithmetic does not depend on where a row was
 * cut. Threads: any, pure. Source of the polynomial of exp4_fraction: Cephes, expf.c. */
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "tensor/fp.h"

/* The first n < 4 lanes. */
static inline float32x4_t load_tail(const float *p, size_t n)
{
    float v[4] = {0};
    memcpy(v, p, n * sizeof *v);
    return vld1q_f32(v);
}

static inline void store_tail(float *p, float32x4_t x, size_t n)
{
    float v[4];
    vst1q_f32(v, x);
    memcpy(p, v, n * sizeof *v);
}

/* e^r, where r = x - n ln 2 and |r| <= ln 2 / 2. */
static inline float32x4_t exp4_fraction(float32x4_t x, float32x4_t n)
{
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0x1.62e4p-1f));
    r = vfmsq_f32(r, n, vdupq_n_f32(0x1.7f7d1cp-20f));
    float32x4_t p = vdupq_n_f32(1.9875691500e-4f);
    p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p, r);
    return vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0f));
}

/* e^x, error below 2 ulp; 0 below -104, infinity above 89, NaN stays. 2^n is applied in two halves, which lets results reach the
 * subnormals and infinity. */
static inline float32x4_t exp4(float32x4_t x)
{
    x = vminq_f32(vdupq_n_f32(89.5f), vmaxq_f32(vdupq_n_f32(-104.5f), x));
    float32x4_t n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(0x1.715476p+0f)));
    float32x4_t p = exp4_fraction(x, n);
    int32x4_t e = vcvtnq_s32_f32(n), h = vshrq_n_s32(e, 1), bias = vdupq_n_s32(127);
    int32x4_t lo = vshlq_n_s32(vaddq_s32(h, bias), 23),
              hi = vshlq_n_s32(vaddq_s32(vsubq_s32(e, h), bias), 23);
    return vmulq_f32(vmulq_f32(p, vreinterpretq_f32_s32(lo)), vreinterpretq_f32_s32(hi));
}

static inline float sum4(float32x4_t v)
{
    return vaddv_f32(vadd_f32(vget_low_f32(v), vget_high_f32(v)));
}

static void add(const float *a, const float *b, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vaddq_f32(vld1q_f32(a + i), vld1q_f32(b + i)));
    for (; i < n; i++)
        y[i] = a[i] + b[i];
}

static void scale(const float *x, float s, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_n_f32(vld1q_f32(x + i), s));
    for (; i < n; i++)
        y[i] = x[i] * s;
}

static void add_scaled(const float *x, float s, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vfmaq_n_f32(vld1q_f32(y + i), vld1q_f32(x + i), s));
    for (; i < n; i++)
        y[i] = fmaf(s, x[i], y[i]);
}

static inline float32x4_t silu_mul4(float32x4_t g, float32x4_t u)
{
    float32x4_t e = vaddq_f32(vdupq_n_f32(1.0f), exp4(vnegq_f32(g)));
    return vmulq_f32(vdivq_f32(g, e), u);
}

static void silu_mul(const float *g, const float *u, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, silu_mul4(vld1q_f32(g + i), vld1q_f32(u + i)));
    if (i < n)
        store_tail(y + i, silu_mul4(load_tail(g + i, n - i), load_tail(u + i, n - i)), n - i);
}

/* 8 chains of squares keep the error of their sum near 1e-7 of it. */
static void rmsnorm(const float *x, const float *w, size_t n, float eps, float *y)
{
    float32x4_t s[8];
    size_t i = 0;
    for (size_t j = 0; j < 8; j++)
        s[j] = vdupq_n_f32(0);
    for (; i + 32 <= n; i += 32)
        for (size_t j = 0; j < 8; j++) {
            float32x4_t v = vld1q_f32(x + i + 4 * j);
            s[j] = vfmaq_f32(s[j], v, v);
        }
    for (size_t j = 0; i < n; i += 4, j++) {
        float32x4_t v = i + 4 <= n ? vld1q_f32(x + i) : load_tail(x + i, n - i);
        s[j] = vfmaq_f32(s[j], v, v);
    }
    for (size_t j = 0; j < 4; j++)
        s[j] = vaddq_f32(s[j], s[j + 4]);
    float sum = sum4(vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3])));
    float r = 1.0f / sqrtf(sum / (float)n + eps);
    for (i = 0; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), r), vld1q_f32(w + i)));
    for (; i < n; i++)
        y[i] = x[i] * r * w[i];
}

static inline void rope4(float32x4_t *a, float32x4_t *b, float32x4_t c, float32x4_t s)
{
    float32x4_t x = *a;
    *a = vfmsq_f32(vmulq_f32(x, c), *b, s);
    *b = vfmaq_f32(vmulq_f32(*b, c), x, s);
}

static void rope(float *x, const float *cos_sin, size_t dim)
{
    size_t half = dim / 2, i = 0;
    float *y = x + half;
    const float *sin = cos_sin + half;
    for (; i + 4 <= half; i += 4) {
        float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(y + i);
        rope4(&a, &b, vld1q_f32(cos_sin + i), vld1q_f32(sin + i));
        vst1q_f32(x + i, a);
        vst1q_f32(y + i, b);
    }
    if (i < half) {
        size_t n = half - i;
        float32x4_t a = load_tail(x + i, n), b = load_tail(y + i, n);
        rope4(&a, &b, load_tail(cos_sin + i, n), load_tail(sin + i, n));
        store_tail(x + i, a, n);
        store_tail(y + i, b, n);
    }
}

static void rope_adjacent(float *x, const float *cos_sin, size_t dim)
{
    size_t half = dim / 2, i = 0;
    const float *sin = cos_sin + half;
    for (; i + 4 <= half; i += 4) {
        float32x4x2_t v = vld2q_f32(x + 2 * i);
        rope4(&v.val[0], &v.val[1], vld1q_f32(cos_sin + i), vld1q_f32(sin + i));
        vst2q_f32(x + 2 * i, v);
    }
    for (; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos_sin[i] - b * sin[i];
        x[2 * i + 1] = b * cos_sin[i] + a * sin[i];
    }
}

static void softmax(float *x, size_t n)
{
    float32x4_t vm = vdupq_n_f32(-INFINITY), vs[2] = {vdupq_n_f32(0), vdupq_n_f32(0)};
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vm = vmaxnmq_f32(vm, vld1q_f32(x + i));
    float max = vmaxnmvq_f32(vm);
    for (; i < n; i++)
        max = fmaxf(max, x[i]);
    vm = vdupq_n_f32(max);
    for (i = 0; i + 4 <= n; i += 4) {
        float32x4_t p = exp4(vsubq_f32(vld1q_f32(x + i), vm));
        vst1q_f32(x + i, p);
        vs[i / 4 % 2] = vaddq_f32(vs[i / 4 % 2], p);
    }
    if (i < n) {
        store_tail(x + i, exp4(vsubq_f32(load_tail(x + i, n - i), vm)), n - i);
        vs[i / 4 % 2] = vaddq_f32(vs[i / 4 % 2], load_tail(x + i, n - i));
    }
    float sum = sum4(vaddq_f32(vs[0], vs[1]));
    for (i = 0; i < n; i++)
        x[i] /= sum;
}

static void to_f16(const float *x, size_t n, uint16_t *y)
{
    const float32x4_t top = vdupq_n_f32(65504.0f), bottom = vdupq_n_f32(-65504.0f);
    for (size_t i = 0; i < n; i += 4) {
        float32x4_t v = i + 4 <= n ? vld1q_f32(x + i) : load_tail(x + i, n - i);
        v = vminq_f32(top, vmaxq_f32(bottom, v)); /* NaN stays */
        uint16_t h[4];
        vst1_u16(h, vreinterpret_u16_f16(vcvt_f16_f32(v)));
        memcpy(y + i, h, QN_MIN(n - i, (size_t)4) * sizeof *h);
    }
}

static float to_i16(const float *x, size_t n, float most, int16_t *y)
{
    uint32x4_t vt = vdupq_n_u32(0);
    for (size_t i = 0; i < n; i += 4) {
        float32x4_t v = i + 4 <= n ? vld1q_f32(x + i) : load_tail(x + i, n - i);
        vt = vmaxq_u32(vt, vreinterpretq_u32_f32(vabsq_f32(v)));
    }
    uint32_t top = vmaxvq_u32(vt);
    float max = qn_bits_to_f32(top);
    if (top >= 0x7f800000u || max < 0x1p-100f) {
        memset(y, 0, n * sizeof *y);
        return top >= 0x7f800000u ? NAN : 0.0f;
    }
    float inv = most / max;
    for (size_t i = 0; i < n; i += 4) {
        float32x4_t v = i + 4 <= n ? vld1q_f32(x + i) : load_tail(x + i, n - i);
        int16_t h[4];
        vst1_s16(h, vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(v, inv))));
        memcpy(y + i, h, QN_MIN(n - i, (size_t)4) * sizeof *h);
    }
    return max / most;
}

/* e^x for -86 <= x <= 0, and at least e^-86 below: n is in the low bits of x log2 e + 1.5 * 2^23, from where a shift brings it to the
 * exponent of the result. e^0 is 1. */
static inline float32x4_t exp4_negative(float32x4_t x)
{
    const float32x4_t magic = vdupq_n_f32(0x1.8p23f);
    x = vmaxq_f32(vdupq_n_f32(-86.0f), x);
    float32x4_t t = vfmaq_f32(magic, x, vdupq_n_f32(0x1.715476p+0f));
    float32x4_t p = exp4_fraction(x, vsubq_f32(t, magic));
    return vreinterpretq_f32_s32(
        vaddq_s32(vreinterpretq_s32_f32(p), vshlq_n_s32(vreinterpretq_s32_f32(t), 23)));
}

/* Lanes of [begin, end) in the i-th group of 4. */
static inline uint32x4_t range_mask(size_t i, size_t begin, size_t end)
{
    static const uint32_t first[4] = {0, 1, 2, 3};
    uint32x4_t at = vaddq_u32(vld1q_u32(first), vdupq_n_u32((uint32_t)(4 * i)));
    return vandq_u32(vcgeq_u32(at, vdupq_n_u32((uint32_t)begin)),
                     vcltq_u32(at, vdupq_n_u32((uint32_t)end)));
}

/* A row of scores in registers: mask what is outside, then as if nothing were. The 8 lanes of the sum stay apart to the end, so that
 * masked keys add 0 and change nothing. */
static float attn_softmax(float *s, size_t begin, size_t end, float *max, float *sum)
{
    enum { N = QN_KV_TILE / 4 };
    float32x4_t v[N], vm = vdupq_n_f32(*max), vs[2] = {vdupq_n_f32(0), vdupq_n_f32(0)};
    bool whole = begin == 0 && end == QN_KV_TILE;
    for (size_t i = 0; i < N; i++) {
        v[i] = vld1q_f32(s + 4 * i);
        if (!whole)
            v[i] = vbslq_f32(range_mask(i, begin, end), v[i], vdupq_n_f32(-INFINITY));
        vm = vmaxnmq_f32(vm, v[i]);
    }
    float old = *max, m = vmaxnmvq_f32(vm);
    vm = vdupq_n_f32(m);
    for (size_t i = 0; i < N; i++) {
        float32x4_t p = exp4_negative(vsubq_f32(v[i], vm));
        if (!whole)
            p = vreinterpretq_f32_u32(
                vandq_u32(vreinterpretq_u32_f32(p), range_mask(i, begin, end)));
        vst1q_f32(s + 4 * i, p);
        vs[i % 2] = vaddq_f32(vs[i % 2], p);
    }
    float r = old == m           ? 1.0f
              : old == -INFINITY ? 0.0f
                                 : vgetq_lane_f32(exp4_negative(vdupq_n_f32(old - m)), 0);
    *max = m;
    *sum = *sum * r + sum4(vaddq_f32(vs[0], vs[1]));
    return r;
}

void qn_rows_init_neon(qn_kernels *k)
{
    k->add = add;
    k->scale = scale;
    k->add_scaled = add_scaled;
    k->silu_mul = silu_mul;
    k->rmsnorm = rmsnorm;
    k->rope = rope;
    k->rope_adjacent = rope_adjacent;
    k->softmax = softmax;
    k->to_f16 = to_f16;
    k->to_i16 = to_i16;
    k->attn_softmax = attn_softmax;
}
