/* SPDX-License-Identifier: Apache-2.0
 * attention_ref.c - the kernels over a tile of keys in plain C: the definition of each. kv_tile.h draws the tiles, the algorithm is in
 * attention.c. Threads: any, pure. */
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "tensor/fp.h"

/* ---- float32 and float16 ---- */

/* n rows of a panel, each column times a[i][row], added to out[i][column]; a row is converted once for all queries. */
static void panel_product(qn_kv_type t, const void *panel, size_t n, const float *a,
                          size_t a_stride, size_t n_q, float *out, size_t out_stride)
{
    for (size_t r = 0; r < n; r++) {
        float row[QN_KV_PANEL];
        for (size_t c = 0; c < QN_KV_PANEL; c++)
            row[c] = t == QN_KV_F16 ? qn_f16_to_f32(((const uint16_t *)panel)[r * QN_KV_PANEL + c])
                                    : ((const float *)panel)[r * QN_KV_PANEL + c];
        for (size_t i = 0; i < n_q; i++)
            for (size_t c = 0; c < QN_KV_PANEL; c++)
                out[i * out_stride + c] += a[i * a_stride + r] * row[c];
    }
}

static void scores(qn_kv_type t, const float *q, size_t n_q, const void *tile, size_t n, size_t dim,
                   float *s)
{
    size_t row = QN_KV_PANEL * (t == QN_KV_F16 ? 2 : 4);
    for (size_t i = 0; i < n_q; i++)
        memset(s + i * QN_KV_TILE, 0, QN_KV_TILE * sizeof *s);
    for (size_t j = 0; j < n; j += QN_KV_PANEL)
        panel_product(t, (const char *)tile + j / QN_KV_PANEL * dim * row, dim, q, qn_kv_width(dim),
                      n_q, s + j, QN_KV_TILE);
}

static void weigh(qn_kv_type t, const float *p, const float *scale, size_t n_q, const void *tile,
                  size_t n, size_t dim, float *o)
{
    size_t width = qn_kv_width(dim), row = QN_KV_PANEL * (t == QN_KV_F16 ? 2 : 4);
    for (size_t i = 0; i < n_q; i++)
        for (size_t d = 0; d < width; d++)
            o[i * width + d] *= scale[i];
    for (size_t d = 0; d < width; d += QN_KV_PANEL)
        panel_product(t, (const char *)tile + d / QN_KV_PANEL * QN_KV_TILE * row, n, p, QN_KV_TILE,
                      n_q, o + d, width);
}

static void scores_f32(const float *q, size_t n_q, const void *tile, size_t n, size_t dim, float *s)
{
    scores(QN_KV_F32, q, n_q, tile, n, dim, s);
}

static void weigh_f32(const float *p, const float *scale, size_t n_q, const void *tile, size_t n,
                      size_t dim, float *o)
{
    weigh(QN_KV_F32, p, scale, n_q, tile, n, dim, o);
}

static void scores_f16(const float *q, size_t n_q, const void *tile, size_t n, size_t dim, float *s)
{
    scores(QN_KV_F16, q, n_q, tile, n, dim, s);
}

static void weigh_f16(const float *p, const float *scale, size_t n_q, const void *tile, size_t n,
                      size_t dim, float *o)
{
    weigh(QN_KV_F16, p, scale, n_q, tile, n, dim, o);
}

/* ---- int8: sums are exact integers; one rounding to float32, one product, one fused step ---- */

static void scores_i8(const float *q, size_t n_q, const void *tile, size_t n, size_t dim, float *s)
{
    const float *k_scale = qn_kv_scales(tile, dim);
    for (size_t i = 0; i < n_q; i++, q += qn_kv_width(dim)) {
        const int16_t *qi = (const int16_t *)(const void *)q;
        for (size_t j = 0; j < n; j++) {
            int32_t sum = 0;
            for (size_t d = 0; d < dim; d++)
                sum += qi[d] * ((const int8_t *)tile)[qn_kv_at(QN_KV_I8, dim, d, j)];
            s[i * QN_KV_TILE + j] = q[qn_kv_width(dim) / 2] * k_scale[j] * (float)sum;
        }
    }
}

static void weigh_i8(const float *p, const float *scale, size_t n_q, const void *tile, size_t n,
                     size_t dim, float *o)
{
    const float *v_scale = qn_kv_scales(tile, dim);
    for (size_t i = 0; i < n_q; i++, p += QN_KV_TILE, o += qn_kv_width(dim)) {
        float w[QN_KV_TILE];
        int16_t w16[QN_KV_TILE];
        for (size_t j = 0; j < n; j++)
            w[j] = p[j] != 0 ? p[j] * v_scale[j] : 0;
        float step = qn_to_i16_ref(w, n, QN_KV_STEPS, w16);
        for (size_t d = 0; d < dim; d++) {
            int32_t sum = 0;
            for (size_t j = 0; j < n; j++)
                sum += w16[j] * ((const int8_t *)tile)[qn_kv_at(QN_KV_I8, QN_KV_TILE, j, d)];
            o[d] = fmaf(step, (float)sum, o[d] * scale[i]);
        }
    }
}

/* ---- softmax ---- */

static float tile_softmax(float *s, size_t begin, size_t end, float *max, float *sum)
{
    float old = *max, m = old, l = 0;
    for (size_t j = begin; j < end; j++)
        m = fmaxf(m, s[j]);
    for (size_t j = 0; j < QN_KV_TILE; j++) {
        s[j] = j >= begin && j < end ? expf(s[j] - m) : 0;
        l += s[j];
    }
    float scale = old == m ? 1.0f : expf(old - m);
    *max = m;
    *sum = *sum * scale + l;
    return scale;
}

void qn_attention_init_ref(qn_kernels *k)
{
    k->kv[QN_KV_F32] = (qn_kv_kernels){scores_f32, weigh_f32};
    k->kv[QN_KV_F16] = (qn_kv_kernels){scores_f16, weigh_f16};
    k->kv[QN_KV_I8] = (qn_kv_kernels){scores_i8, weigh_i8};
    k->attn_softmax = tile_softmax;
}
