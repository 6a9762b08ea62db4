/* SPDX-License-Identifier: Apache-2.0
 * kv_tile.c - one key or value into its tile: converted as a row, then put where kv_tile.h says. */
#include "backend/cpu/kernels.h"

/* Key `at` is a column, value `at` a row. */
static size_t place(qn_kv_type t, size_t dim, size_t at, bool is_value, size_t i)
{
    return is_value ? qn_kv_at(t, QN_KV_TILE, at, i) : qn_kv_at(t, dim, i, at);
}

void qn_kv_put(const qn_kernels *k, qn_kv_type t, const float *x, size_t dim, size_t at,
               bool is_value, void *tile)
{
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
        qn_kv_scales(tile, dim)[at] = k->to_i16(x, dim, 127.0f, q);
        for (size_t i = 0; i < dim; i++)
            ((int8_t *)tile)[place(QN_KV_I8, dim, at, is_value, i)] = (int8_t)q[i];
        break;
    }
}

void qn_kv_query(const qn_kernels *k, qn_kv_type t, const float *x, float scale, size_t dim,
                 float *q)
{
    float scaled[QN_KV_MAX_DIM];
    if (t != QN_KV_I8) {
        k->scale(x, scale, dim, q);
        return;
    }
    k->scale(x, scale, dim, scaled);
    q[qn_kv_width(dim) / 2] = k->to_i16(scaled, dim, QN_KV_STEPS, (int16_t *)(void *)q);
}
