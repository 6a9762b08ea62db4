/* SPDX-License-Identifier: Apache-2.0
 * rows_ref.c - the kernels over one row in plain C: the definition of each.
 * Sums are taken in double, one term after the other. Threads: any, pure. */
#include "backend/cpu/kernels.h"

#include <math.h>

#include "tensor/fp.h"

static void add(const float *a, const float *b, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

static void scale(const float *x, float s, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * s;
}

static void add_scaled(const float *x, float s, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = fmaf(s, x[i], y[i]);
}

static void silu_mul(const float *g, const float *u, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = g[i] / (1.0f + expf(-g[i])) * u[i];
}

static void rmsnorm(const float *x, const float *w, size_t n, float eps, float *y)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    float r = 1.0f / sqrtf((float)(sum / (double)n) + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * r * w[i];
}

/* Split halves, as Hugging Face's rotate_half; not adjacent pairs. */
static void rope(float *x, const float *cos_sin, size_t dim)
{
    size_t half = dim / 2;
    for (size_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half], c = cos_sin[i], s = cos_sin[i + half];
        x[i] = a * c - b * s;
        x[i + half] = b * c + a * s;
    }
}

static void rope_adjacent(float *x, const float *cos_sin, size_t dim)
{
    size_t half = dim / 2;
    for (size_t i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1], c = cos_sin[i], s = cos_sin[i + half];
        x[2 * i] = a * c - b * s;
        x[2 * i + 1] = b * c + a * s;
    }
}

static void softmax(float *x, size_t n)
{
    float max = -INFINITY;
    for (size_t i = 0; i < n; i++)
        max = fmaxf(max, x[i]);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - max);
        sum += x[i];
    }
    for (size_t i = 0; i < n; i++)
        x[i] /= (float)sum;
}

static void to_f16(const float *x, size_t n, uint16_t *y)
{
    for (size_t i = 0; i < n; i++) {
        float v = x[i] > 65504.0f ? 65504.0f : x[i] < -65504.0f ? -65504.0f : x[i];
        y[i] = qn_f32_to_f16(v);
    }
}

float qn_to_i16_ref(const float *x, size_t n, float most, int16_t *y)
{
    /* The bits of |x| order as |x| does, with infinity and NaN on top. */
    uint32_t top = 0;
    for (size_t i = 0; i < n; i++)
        top = QN_MAX(top, qn_f32_to_bits(x[i]) & 0x7fffffffu);
    float max = qn_bits_to_f32(top), inv = 0, scale = 0;
    if (top >= 0x7f800000u) {
        scale = NAN;
    } else if (max >= 0x1p-100f) {
        inv = most / max;
        scale = max / most;
    }
    for (size_t i = 0; i < n; i++)
        y[i] = inv > 0 ? (int16_t)lrintf(x[i] * inv) : 0;
    return scale;
}

void qn_rows_init_ref(qn_kernels *k)
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
    k->to_i16 = qn_to_i16_ref;
}
