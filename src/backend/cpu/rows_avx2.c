/* SPDX-License-Identifier: Apache-2.0
 * rows_avx2.c - the kernels over one row, and the softmax of a tile of scores, for AVX2 + FMA + F16C.
 *
 * Whole vectors of 8, then one masked vector, so that an element's arithmetic does not depend on where a row was cut.
 * Threads: any, pure. Source of the polynomial of exp8: Cephes, expf.c. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "tensor/fp.h"

static const int32_t tail_masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

/* The first n < 8 lanes. */
static inline __m256i tail_mask(size_t n)
{
    return _mm256_loadu_si256((const __m256i *)(tail_masks + 8 - n));
}

/* e^r, where r = x - n ln 2 and |r| <= ln 2 / 2. */
static inline __m256 exp8_fraction(__m256 x, __m256 n)
{
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r);
    return _mm256_add_ps(p, _mm256_set1_ps(1.0f));
}

/* e^x, error below 2 ulp; 0 below -104, infinity above 89, NaN stays. 2^n is applied in two halves, which lets results reach the
 * subnormals and infinity. */
static inline __m256 exp8(__m256 x)
{
    x = _mm256_min_ps(_mm256_set1_ps(89.5f), _mm256_max_ps(_mm256_set1_ps(-104.5f), x));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 p = exp8_fraction(x, n);
    __m256i e = _mm256_cvtps_epi32(n), h = _mm256_srai_epi32(e, 1), bias = _mm256_set1_epi32(127);
    __m256i lo = _mm256_slli_epi32(_mm256_add_epi32(h, bias), 23);
    __m256i hi = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(e, h), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(lo)), _mm256_castsi256_ps(hi));
}

static inline float sum8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline float max8(__m256 v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

static void add(const float *a, const float *b, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
    for (; i < n; i++)
        y[i] = a[i] + b[i];
}

static void scale(const float *x, float s, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(s)));
    for (; i < n; i++)
        y[i] = x[i] * s;
}

static void add_scaled(const float *x, float s, size_t n, float *y)
{
    __m256 vs = _mm256_set1_ps(s);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i,
                         _mm256_fmadd_ps(vs, _mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    for (; i < n; i++)
        y[i] = fmaf(s, x[i], y[i]);
}

static inline __m256 silu_mul8(__m256 g, __m256 u)
{
    __m256 e = exp8(_mm256_xor_ps(g, _mm256_set1_ps(-0.0f)));
    return _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e)), u);
}

static void silu_mul(const float *g, const float *u, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, silu_mul8(_mm256_loadu_ps(g + i), _mm256_loadu_ps(u + i)));
    if (i < n) {
        __m256i m = tail_mask(n - i);
        _mm256_maskstore_ps(y + i, m,
                            silu_mul8(_mm256_maskload_ps(g + i, m), _mm256_maskload_ps(u + i, m)));
    }
}

/* Sums of 8 floats of float64 pairs would cost more than the row's product; four float32 vectors keep the error of a sum of
 * squares near 1e-7 of it. */
static void rmsnorm(const float *x, const float *w, size_t n, float eps, float *y)
{
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                   _mm256_setzero_ps()};
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (size_t j = 0; j < 4; j++) {
            __m256 v = _mm256_loadu_ps(x + i + 8 * j);
            s[j] = _mm256_fmadd_ps(v, v, s[j]);
        }
    for (; i < n; i += 8) {
        __m256 v =
            i + 8 <= n ? _mm256_loadu_ps(x + i) : _mm256_maskload_ps(x + i, tail_mask(n - i));
        s[0] = _mm256_fmadd_ps(v, v, s[0]);
    }
    float sum = sum8(_mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
    float r = 1.0f / sqrtf(sum / (float)n + eps);
    __m256 vr = _mm256_set1_ps(r);
    for (i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), vr),
                                              _mm256_loadu_ps(w + i)));
    for (; i < n; i++)
        y[i] = x[i] * r * w[i];
}

static inline void rope8(__m256 *a, __m256 *b, __m256 c, __m256 s)
{
    __m256 x = *a;
    *a = _mm256_fnmadd_ps(*b, s, _mm256_mul_ps(x, c));
    *b = _mm256_fmadd_ps(x, s, _mm256_mul_ps(*b, c));
}

static void rope(float *x, const float *cos_sin, size_t dim)
{
    size_t half = dim / 2, i = 0;
    float *y = x + half;
    const float *sin = cos_sin + half;
    for (; i + 8 <= half; i += 8) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(y + i);
        rope8(&a, &b, _mm256_loadu_ps(cos_sin + i), _mm256_loadu_ps(sin + i));
        _mm256_storeu_ps(x + i, a);
        _mm256_storeu_ps(y + i, b);
    }
    if (i < half) {
        __m256i m = tail_mask(half - i);
        __m256 a = _mm256_maskload_ps(x + i, m), b = _mm256_maskload_ps(y + i, m);
        rope8(&a, &b, _mm256_maskload_ps(cos_sin + i, m), _mm256_maskload_ps(sin + i, m));
        _mm256_maskstore_ps(x + i, m, a);
        _mm256_maskstore_ps(y + i, m, b);
    }
}

/* 4 pairs a vector: even lanes a c - b s, odd lanes b c + a s. */
static void rope_adjacent(float *x, const float *cos_sin, size_t dim)
{
    size_t half = dim / 2, i = 0;
    const float *sin = cos_sin + half;
    for (; i + 4 <= half; i += 4) {
        __m256 v = _mm256_loadu_ps(x + 2 * i), swapped = _mm256_permute_ps(v, 0xb1);
        __m128 c4 = _mm_loadu_ps(cos_sin + i), s4 = _mm_loadu_ps(sin + i);
        __m256 c = _mm256_set_m128(_mm_unpackhi_ps(c4, c4), _mm_unpacklo_ps(c4, c4));
        __m256 s = _mm256_set_m128(_mm_unpackhi_ps(s4, s4), _mm_unpacklo_ps(s4, s4));
        _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(v, c, _mm256_mul_ps(swapped, s)));
    }
    for (; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos_sin[i] - b * sin[i];
        x[2 * i + 1] = b * cos_sin[i] + a * sin[i];
    }
}

static void softmax(float *x, size_t n)
{
    __m256 vm = _mm256_set1_ps(-INFINITY), vs = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        vm = _mm256_max_ps(vm, _mm256_loadu_ps(x + i));
    float max = max8(vm);
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    vm = _mm256_set1_ps(max);
    for (i = 0; i + 8 <= n; i += 8) {
        __m256 p = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), vm));
        _mm256_storeu_ps(x + i, p);
        vs = _mm256_add_ps(vs, p);
    }
    if (i < n) {
        __m256i m = tail_mask(n - i);
        __m256 p = exp8(_mm256_sub_ps(_mm256_maskload_ps(x + i, m), vm));
        p = _mm256_and_ps(p, _mm256_castsi256_ps(m));
        _mm256_maskstore_ps(x + i, m, p);
        vs = _mm256_add_ps(vs, p);
    }
    float sum = sum8(vs);
    for (i = 0; i < n; i++)
        x[i] /= sum;
}

static void to_f16(const float *x, size_t n, uint16_t *y)
{
    const __m256 top = _mm256_set1_ps(65504.0f), bottom = _mm256_set1_ps(-65504.0f);
    uint16_t last[8];
    for (size_t i = 0; i < n; i += 8) {
        __m256 v =
            i + 8 <= n ? _mm256_loadu_ps(x + i) : _mm256_maskload_ps(x + i, tail_mask(n - i));
        v = _mm256_min_ps(top, _mm256_max_ps(bottom, v)); /* NaN stays */
        __m128i h = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        if (i + 8 <= n) {
            _mm_storeu_si128((__m128i *)(y + i), h);
        } else {
            _mm_storeu_si128((__m128i *)last, h);
            for (size_t j = 0; i + j < n; j++)
                y[i + j] = last[j];
        }
    }
}

/* The largest |x|, as bits: they order as |x| does, with infinity and NaN on top. */
static uint32_t top_bits(const float *x, size_t n)
{
    const __m256i abs = _mm256_set1_epi32(0x7fffffff);
    __m256i top = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 8) {
        __m256 v =
            i + 8 <= n ? _mm256_loadu_ps(x + i) : _mm256_maskload_ps(x + i, tail_mask(n - i));
        top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(v), abs));
    }
    __m128i t = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(t);
}

static float to_i16(const float *x, size_t n, float most, int16_t *y)
{
    uint32_t top = top_bits(x, n);
    float max = qn_bits_to_f32(top);
    if (top >= 0x7f800000u || max < 0x1p-100f) {
        memset(y, 0, n * sizeof *y);
        return top >= 0x7f800000u ? NAN : 0.0f;
    }
    __m256 inv = _mm256_set1_ps(most / max);
    int16_t last[8];
    for (size_t i = 0; i < n; i += 8) {
        bool whole = i + 8 <= n;
        __m256 v = whole ? _mm256_loadu_ps(x + i) : _mm256_maskload_ps(x + i, tail_mask(n - i));
        __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(v, inv));
        __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        _mm_storeu_si128((__m128i *)(whole ? y + i : last), h);
        for (size_t j = 0; !whole && i + j < n; j++)
            y[i + j] = last[j];
    }
    return max / most;
}

/* e^x for -86 <= x <= 0, and at least e^-86 below: the same polynomial, with n in the low bits of x log2 e + 1.5 * 2^23, from where
 * a shift brings it to the exponent of the result. e^0 is 1. */
static inline __m256 exp8_negative(__m256 x)
{
    const __m256 magic = _mm256_set1_ps(0x1.8p23f);
    x = _mm256_max_ps(_mm256_set1_ps(-86.0f), x);
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(0x1.715476p+0f), magic);
    __m256 p = exp8_fraction(x, _mm256_sub_ps(t, magic));
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}

/* Lanes of [begin, end) in the i-th group of 8. */
static inline __m256 range_mask(size_t i, size_t begin, size_t end)
{
    __m256i at = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                  _mm256_set1_epi32((int)(8 * i)));
    __m256i from = _mm256_cmpgt_epi32(at, _mm256_set1_epi32((int)begin - 1));
    return _mm256_castsi256_ps(
        _mm256_and_si256(from, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)end), at)));
}

/* A row of scores in registers: mask what is outside, then as if nothing were. The 8 lanes of the sum stay apart to the end, so that
 * masked keys add 0 and change nothing. */
static float attn_softmax(float *s, size_t begin, size_t end, float *max, float *sum)
{
    enum { N = QN_KV_TILE / 8 };
    const __m256 none = _mm256_set1_ps(-INFINITY);
    __m256 v[N], vm = _mm256_set1_ps(*max), vs = _mm256_setzero_ps();
    bool whole = begin == 0 && end == QN_KV_TILE;
    for (size_t i = 0; i < N; i++) {
        v[i] = _mm256_loadu_ps(s + 8 * i);
        if (!whole)
            v[i] = _mm256_blendv_ps(none, v[i], range_mask(i, begin, end));
        vm = _mm256_max_ps(vm, v[i]);
    }
    float old = *max, m = max8(vm);
    vm = _mm256_set1_ps(m);
    for (size_t i = 0; i < N; i++) {
        __m256 p = exp8_negative(_mm256_sub_ps(v[i], vm));
        if (!whole)
            p = _mm256_and_ps(p, range_mask(i, begin, end));
        _mm256_storeu_ps(s + 8 * i, p);
        vs = _mm256_add_ps(vs, p);
    }
    float r = old == m           ? 1.0f
              : old == -INFINITY ? 0.0f
                                 : _mm256_cvtss_f32(exp8_negative(_mm256_set1_ps(old - m)));
    *max = m;
    *sum = *sum * r + sum8(vs);
    return r;
}

void qn_rows_init_avx2(qn_kernels *k)
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
