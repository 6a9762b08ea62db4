/* SPDX-License-Identifier: Apache-2.0
 * kv_tile.c - one key or value into its tile: converted as a row, then put where kv_tile.h says. */
#include <string.h>

#include "backend/cpu/kernels.h"
#include "tensor/qblock.h"

/* Key `at` is a column, value `at` a row. */
static size_t place(qn_kv_type t, size_t dim, size_t at, bool is_value, size_t i)
{
    return is_value ? qn_kv_at(t, QN_KV_TILE, at, i) : qn_kv_at(t, dim, i, at);
}

/* An int8 tile's element is that of the transformed key less the tile's first; key 0 becomes the first. */
static void key_difference(const qn_kernels *k, const float *x, size_t dim, size_t at, void *tile,
                           float *difference)
{
    float first[QN_KV_MAX_DIM];
    uint16_t *h = qn_kv_first(tile, dim);
    memcpy(difference, x, dim * sizeof *x);
    k->hadamard(difference, dim);
    if (at == 0) {
        memset(h, 0, qn_kv_width(dim) * sizeof *h);
        k->to_f16(difference, dim, h);
    }
    if (k->mm_decode[QN_F16])
        k->mm_decode[QN_F16](h, dim, first);
    else
        qn_qblock_decode(QN_F16, h, dim, first);
    for (size_t i = 0; i < dim; i++)
        difference[i] -= first[i];
}

void qn_kv_put(const qn_kernels *k, qn_kv_type t, const float *x, size_t dim, size_t at,
               bool is_value, void *tile)
{
    float difference[QN_KV_MAX_DIM];
    uint16_t h[QN_KV_MAX_DIM];
    int16_t q[QN_KV_MAX_DIM];
    switch (t) {
    case QN_KV_F32:
        for (size_t i = 0; i < dim; i++)
            ((float *)tile)[place(QN_KV_F32, dim, at, is_value, i)] = x[i];
        break;
    case QN_KV_F16:
        k->to_f16(x, dim, h);
        for (size_t i = 0; i < dim; i++)
            ((uint16_t *)tile)[place(QN_KV_F16, dim, at, is_value, i)] = h[i];
        break;
    default:
        if (!is_value)
            key_difference(k, x, dim, at, tile, difference);
        qn_kv_scales(tile, dim)[at] = k->to_i16(is_value ? x : difference, dim, 127.0f, q);
        for (size_t i = 0; i < dim; i++)
            ((int8_t *)tile)[place(QN_KV_I8, dim, at, is_value, i)] = (int8_t)q[i];
        break;
    }
}

void qn_kv_query(const qn_kernels *k, qn_kv_type t, const float *x, float scale, size_t dim,
                 float *q)
{
    size_t width = qn_kv_width(dim);
    k->scale(x, scale, dim, q);
    memset(q + dim, 0, (width - dim) * sizeof *q);
    if (t != QN_KV_I8)
        return;
    k->hadamard(q, dim);
    q[qn_kv_query_step(dim)] = k->to_i16(q, width, QN_KV_STEPS, (int16_t *)(void *)(q + width));
}
