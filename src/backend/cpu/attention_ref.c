/* SPDX-License-Identifier: Apache-2.0
 * attention_ref.c - the kernels over a tile of keys in plain C: the definition of each. The algorithm is in attention.c.
 * Threads: any, pure. */
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "tensor/fp.h"

static float element(const void *src, qn_dtype type, size_t i)
{
    return type == QN_F16 ? qn_f16_to_f32(((const uint16_t *)src)[i]) : ((const float *)src)[i];
}

static void load_k(const void *src, qn_dtype type, size_t n, size_t dim, float *kt)
{
    for (size_t j = 0; j < n; j++)
        for (size_t d = 0; d < dim; d++)
            kt[d * QN_ATTN_STRIDE + j] = element(src, type, j * dim + d);
}

static void load_v(const void *src, qn_dtype type, size_t n, size_t dim, size_t stride, float *v)
{
    for (size_t j = 0; j < n; j++)
        for (size_t d = 0; d < dim; d++)
            v[j * stride + d] = element(src, type, j * dim + d);
}

static void scores(const float *q, size_t n_q, const float *kt, size_t n, size_t dim, float *s)
{
    for (size_t i = 0; i < n_q; i++) {
        float *row = s + i * QN_ATTN_KEYS;
        memset(row, 0, n * sizeof *row);
        for (size_t d = 0; d < dim; d++)
            for (size_t j = 0; j < n; j++)
                row[j] += q[i * dim + d] * kt[d * QN_ATTN_STRIDE + j];
    }
}

static float tile_softmax(float *s, size_t begin, size_t end, float *max, float *sum)
{
    float old = *max, m = old, l = 0;
    for (size_t j = begin; j < end; j++)
        m = fmaxf(m, s[j]);
    for (size_t j = 0; j < QN_ATTN_KEYS; j++) {
        s[j] = j >= begin && j < end ? expf(s[j] - m) : 0;
        l += s[j];
    }
    float scale = old == m ? 1.0f : expf(old - m);
    *max = m;
    *sum = *sum * scale + l;
    return scale;
}

static void weigh(const float *p, const float *scale, size_t n_q, const float *v, size_t n,
                  size_t stride, float *o)
{
    for (size_t i = 0; i < n_q; i++) {
        float *row = o + i * stride;
        for (size_t d = 0; d < stride; d++)
            row[d] *= scale[i];
        for (size_t j = 0; j < n; j++)
            for (size_t d = 0; d < stride; d++)
                row[d] += p[i * QN_ATTN_KEYS + j] * v[j * stride + d];
    }
}

void qn_attention_init_ref(qn_kernels *k)
{
    k->attn_load_k = load_k;
    k->attn_load_v = load_v;
    k->attn_scores = scores;
    k->attn_softmax = tile_softmax;
    k->attn_weigh = weigh;
}
