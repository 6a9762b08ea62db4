/* SPDX-License-Identifier: Apache-2.0
 * block_pool.h - ids of KV cache blocks: how many sequences hold each, what the full ones hold,
 * which may be taken next.
 *
 * Holds no K/V bytes (see model/kv_cache.h), only integers: a sequence's block table lists ids of
 * this pool, and beams, candidates and prompts that begin alike share blocks by reference.
 *
 * Prefix cache: a full block may be given an identity, which is the block before it (itself with an
 * identity; none for the first of a text, whose salt counts instead) and its token ids. Equal
 * identity is equal K/V, to the bit. Each identity is there once: a second block with the same
 * content gives its place in the table to the first.
 *
 *   free list   taken next -> 7 3 | 12 11 10  5 4 <- freed last
 *                      no identity   identity: least recently used first, a chain's end before its
 *                                    beginning, since a sequence gives its last block back first
 *
 * Invariants, checked by qn_block_pool_check():
 *  1. ref_cnt == 0  <=>  the block is in the free list, once.
 *  2. Block 0 is the null block: never free, never given out; a table may name it where nothing is
 *     stored.
 *  3. A block with an identity is found by it. Who holds it holds the one before it; that one has
 *     an identity too, and is evicted later.
 * Threads: engine thread only, no lock.
 * Source: names after vLLM v1 core/block_pool.py and kv_cache_manager.py. */
#ifndef QN_SCHED_BLOCK_POOL_H
#define QN_SCHED_BLOCK_POOL_H

#include "base/base.h"

#define QN_BLOCK_NULL 0
#define QN_SALT_WORDS 3

typedef struct qn_block_pool qn_block_pool;

/* n_blocks counts the null block: n_blocks - 1 can be given out. 2 to 2^31 - 1. No prefix cache. */
QN_MUST_USE qn_status qn_block_pool_new(qn_block_pool **out, size_t n_blocks, qn_err *err);
/* Of a new pool, once: full blocks of block_size tokens may have an identity. seed: nobody outside
 * may know it, since who does can make lookups slow. n_lists: of the hash table, a power of 2; 0:
 * as suits n_blocks. */
QN_MUST_USE qn_status qn_block_pool_enable_cache(qn_block_pool *p, uint32_t block_size,
                                                 uint64_t seed, uint32_t n_lists, qn_err *err);
void qn_block_pool_free(qn_block_pool *p); /* NULL allowed */

/* Takes n blocks with one reference each into ids[n], or none: false when fewer are free. Those
 * without identity first, the last one freed before others (its bytes are likeliest to be in a
 * processor's cache); then the least recently used, which lose theirs. */
QN_MUST_USE bool qn_block_pool_alloc(qn_block_pool *p, size_t n, int32_t *ids);
/* One more, or one less, holder of a block in use; it is free when nobody holds it. The null block
 * is not counted. */
void qn_block_pool_ref(qn_block_pool *p, int32_t id);
void qn_block_pool_unref(qn_block_pool *p, int32_t id);

/* The blocks that hold tokens[0..n) from its beginning, with one reference more each, into
 * ids[(n - 1) / block_size]: the last token is always left to be computed. Returns how many; *miss
 * (may be NULL): why no more. */
QN_MUST_USE size_t qn_block_pool_get_computed(qn_block_pool *p, const int32_t *tokens, size_t n,
                                              const uint64_t salt[QN_SALT_WORDS], int32_t *ids,
                                              qn_miss *miss);
/* table[from..to) are full now, table[0..from) have identities: gives identities, or puts the block
 * that had it before into the table. Without a cache: nothing. */
void qn_block_pool_cache_full(qn_block_pool *p, const int32_t *tokens, int32_t *table, size_t from,
                              size_t to, const uint64_t salt[QN_SALT_WORDS]);

size_t qn_block_pool_n_blocks(const qn_block_pool *p); /* that can be given out */
size_t qn_block_pool_n_free(const qn_block_pool *p);
size_t qn_block_pool_n_cached(const qn_block_pool *p); /* free, with an identity */
uint32_t qn_block_pool_ref_cnt(const qn_block_pool *p, int32_t id);
/* The invariants above: QN_E_INTERNAL naming the block that breaks one. */
QN_MUST_USE qn_status qn_block_pool_check(const qn_block_pool *p, qn_err *err);

#endif
