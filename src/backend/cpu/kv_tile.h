/* SPDX-License-Identifier: Apache-2.0
 * kv_tile.h - how the CPU device lays out K and V: tiles of 64 positions of one kv head, in the order in which the kernels read them.
 *
 *   cache of a layer   K [n_blocks][n_kv_heads] tiles, V the same; a block of the cache is one tile of each head
 *   panel              16 columns; a kernel holds columns in the lanes of its registers and walks down the rows
 *
 *              panels          rows        columns          F32, F16         int8
 *   K tile     64 / 16         head_dim    16 keys          [row][16]        [row / 2][16][2]: rows 2 i and 2 i + 1 side by side
 *   V tile     width / 16      64 values   16 dimensions    [row][16]        [row / 2][16][2]
 *
 * int8: after the panels 64 float32 scales, one for each key (value) of the head: element = scale * int8, |int8| <= 127.
 * width = head_dim rounded up to 16: rows of K and columns of V beyond head_dim stay as the cache was made, zero, and nobody uses them.
 * Head_dim is even.
 *
 * 32 bytes of a row are one load, converted in registers: the panels are read front to back, once for up to 6 queries. */
#ifndef QN_BACKEND_CPU_KV_TILE_H
#define QN_BACKEND_CPU_KV_TILE_H

#include "tensor/dtype.h"

#define QN_KV_TILE    64u /* positions */
#define QN_KV_PANEL   16u
#define QN_KV_MAX_DIM 256u

typedef enum qn_kv_type { QN_KV_F32, QN_KV_F16, QN_KV_I8, QN_N_KV_TYPES } qn_kv_type;

static inline qn_kv_type qn_kv_type_of(qn_dtype t)
{
    return t == QN_F32 ? QN_KV_F32 : t == QN_F16 ? QN_KV_F16 : QN_KV_I8;
}

static inline size_t qn_kv_width(size_t head_dim)
{
    return QN_ROUND_UP(head_dim, (size_t)QN_KV_PANEL);
}

static inline size_t qn_kv_panels_bytes(qn_kv_type t, size_t head_dim)
{
    static const size_t size[QN_N_KV_TYPES] = {4, 2, 1};
    return QN_KV_TILE * qn_kv_width(head_dim) * size[t];
}

static inline size_t qn_kv_tile_bytes(qn_kv_type t, size_t head_dim)
{
    return qn_kv_panels_bytes(t, head_dim) + (t == QN_KV_I8 ? QN_KV_TILE * sizeof(float) : 0);
}

/* The scales of an int8 tile. */
static inline float *qn_kv_scales(const void *tile, size_t head_dim)
{
    return (float *)((uintptr_t)tile + qn_kv_panels_bytes(QN_KV_I8, head_dim));
}

/* Where row `row`, column `col` is, in elements. */
static inline size_t qn_kv_at(qn_kv_type t, size_t n_rows, size_t row, size_t col)
{
    size_t panel = col / QN_KV_PANEL * n_rows * QN_KV_PANEL, c = col % QN_KV_PANEL;
    return t == QN_KV_I8 ? panel + row / 2 * 2 * QN_KV_PANEL + 2 * c + row % 2
                         : panel + row * QN_KV_PANEL + c;
}

#endif
