/* SPDX-License-Identifier: Apache-2.0
 * block_pool.h - ids of KV cache blocks: how many sequences hold each, which may be taken next.
 *
 * Holds no K/V bytes (see model/kv_cache.h), only integers: a sequence's block table lists ids of
 * this pool, and beams and candidates share blocks by reference.
 *
 * Invariants, checked by qn_block_pool_check():
 *  1. ref_cnt == 0  <=>  the block is in the free list, once.
 *  2. Block 0 is the null block: never free, never given out; a table may name it where nothing is
 *     stored.
 * Threads: engine thread only, no lock.
 * Source: names after vLLM v1 core/block_pool.py. */
#ifndef QN_SCHED_BLOCK_POOL_H
#define QN_SCHED_BLOCK_POOL_H

#include "base/base.h"

#define QN_BLOCK_NULL 0

typedef struct qn_block_pool qn_block_pool;

/* n_blocks counts the null block: n_blocks - 1 can be given out. 2 to 2^31 - 1. */
QN_MUST_USE qn_status qn_block_pool_new(qn_block_pool **out, size_t n_blocks, qn_err *err);
void qn_block_pool_free(qn_block_pool *p); /* NULL allowed */

/* Takes n blocks with one reference each into ids[n], or none: false when fewer are free. The last
 * one freed comes first, since its bytes are likeliest to be in a cache. */
QN_MUST_USE bool qn_block_pool_alloc(qn_block_pool *p, size_t n, int32_t *ids);
/* One more, or one less, holder of a block in use; it is free when nobody holds it. The null block
 * is not counted. */
void qn_block_pool_ref(qn_block_pool *p, int32_t id);
void qn_block_pool_unref(qn_block_pool *p, int32_t id);

size_t qn_block_pool_n_blocks(const qn_block_pool *p); /* that can be given out */
size_t qn_block_pool_n_free(const qn_block_pool *p);
uint32_t qn_block_pool_ref_cnt(const qn_block_pool *p, int32_t id);
/* The invariants above: QN_E_INTERNAL naming the block that breaks one. */
QN_MUST_USE qn_status qn_block_pool_check(const qn_block_pool *p, qn_err *err);

#endif
