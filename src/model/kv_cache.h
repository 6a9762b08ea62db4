/* SPDX-License-Identifier: Apache-2.0
 * kv_cache.h - the bytes of keys and values, paged.
 *
 *   layer l:  K [n_blocks] blocks of QN_KV_BLOCK positions, V the same; the inside of a block is the
 *             device's (backend's kv_block_bytes)
 *
 * A sequence's position p lies in block block_table[p / QN_KV_BLOCK] at offset p % QN_KV_BLOCK.
 * Which block is whose is the block pool's business (sched/block_pool.h); here are only bytes.
 * Threads: engine thread. */
#ifndef QN_MODEL_KV_CACHE_H
#define QN_MODEL_KV_CACHE_H

#include "backend/ops.h"

typedef struct qn_kv_cache {
    const qn_backend *backend;
    qn_kv_view *layers; /* [n_layers] */
    uint32_t n_layers, n_blocks;
    size_t block_bytes; /* of K or V, one layer */
    void *staging;      /* one block, for copies */
} qn_kv_cache;

typedef struct qn_kv_shape {
    uint32_t n_layers, n_kv_heads, head_dim;
    qn_dtype dtype; /* F32, F16 or I8 */
} qn_kv_shape;

/* K and V of all layers, one block. */
size_t qn_kv_block_bytes(const qn_backend *b, const qn_kv_shape *s);
QN_MUST_USE qn_status qn_kv_cache_new(qn_kv_cache **out, const qn_backend *b, qn_device *d,
                                      const qn_kv_shape *s, uint32_t n_blocks, qn_err *err);
void qn_kv_cache_free(qn_kv_cache *c);
/* Makes all of a new cache resident. */
QN_MUST_USE qn_status qn_kv_cache_touch(qn_kv_cache *c, qn_err *err);
/* Copies a block in every layer. */
QN_MUST_USE qn_status qn_kv_cache_copy_block(qn_kv_cache *c, uint32_t to, uint32_t from,
                                             qn_err *err);

#endif
