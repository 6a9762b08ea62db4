/* SPDX-License-Identifier: Apache-2.0
 * block_pool.c - see block_pool.h.
 *
 * The free list is linked through next[], newest first, so that every operation is O(1) a block:
 *
 *   head -> 7 -> 3 -> 4 -> QN_BLOCK_NULL      next[7] = 3, next[3] = 4, next[4] = 0
 */
#include "sched/block_pool.h"

#include "base/mem.h"

struct qn_block_pool {
    size_t n_blocks, n_free;
    int32_t head;      /* first free block; QN_BLOCK_NULL: none */
    int32_t *next;     /* [n_blocks] of free blocks */
    uint32_t *ref_cnt; /* [n_blocks] */
};

qn_status qn_block_pool_new(qn_block_pool **out, size_t n_blocks, qn_err *err)
{
    *out = NULL;
    if (n_blocks < 2 || n_blocks > INT32_MAX)
        return qn_fail(err, QN_E_ARG, "KV cache: %zu blocks, want 2 to %d", n_blocks, INT32_MAX);
    qn_block_pool *p = qn_calloc(1, sizeof(*p), QN_MEM_KV);
    if (!p)
        return qn_fail_nomem(err, sizeof(*p));
    p->next = qn_calloc(n_blocks, sizeof(*p->next), QN_MEM_KV);
    p->ref_cnt = qn_calloc(n_blocks, sizeof(*p->ref_cnt), QN_MEM_KV);
    if (!p->next || !p->ref_cnt) {
        qn_block_pool_free(p);
        return qn_fail_nomem(err, n_blocks * sizeof(*p->next));
    }
    p->n_blocks = n_blocks;
    p->n_free = n_blocks - 1;
    p->head = 1;
    for (size_t i = 1; i + 1 < n_blocks; i++)
        p->next[i] = (int32_t)(i + 1);
    *out = p;
    return QN_OK;
}

void qn_block_pool_free(qn_block_pool *p)
{
    if (!p)
        return;
    qn_free(p->next);
    qn_free(p->ref_cnt);
    qn_free(p);
}

bool qn_block_pool_alloc(qn_block_pool *p, size_t n, int32_t *ids)
{
    if (n > p->n_free)
        return false;
    for (size_t i = 0; i < n; i++) {
        ids[i] = p->head;
        p->ref_cnt[p->head] = 1;
        p->head = p->next[p->head];
    }
    p->n_free -= n;
    return true;
}

void qn_block_pool_ref(qn_block_pool *p, int32_t id)
{
    if (id == QN_BLOCK_NULL)
        return;
    QN_ASSERT(id > 0 && (size_t)id < p->n_blocks);
    QN_ASSERT(p->ref_cnt[id] > 0 && p->ref_cnt[id] < UINT32_MAX);
    p->ref_cnt[id]++;
}

void qn_block_pool_unref(qn_block_pool *p, int32_t id)
{
    if (id == QN_BLOCK_NULL)
        return;
    QN_ASSERT(id > 0 && (size_t)id < p->n_blocks);
    QN_ASSERT(p->ref_cnt[id] > 0);
    if (--p->ref_cnt[id] > 0)
        return;
    p->next[id] = p->head;
    p->head = id;
    p->n_free++;
}

size_t qn_block_pool_n_blocks(const qn_block_pool *p)
{
    return p->n_blocks - 1;
}

size_t qn_block_pool_n_free(const qn_block_pool *p)
{
    return p->n_free;
}

uint32_t qn_block_pool_ref_cnt(const qn_block_pool *p, int32_t id)
{
    QN_ASSERT(id >= 0 && (size_t)id < p->n_blocks);
    return p->ref_cnt[id];
}

qn_status qn_block_pool_check(const qn_block_pool *p, qn_err *err)
{
    /* A walk of n_free steps that ends exactly at the end of the list has met no block twice. */
    int32_t id = p->head;
    for (size_t i = 0; i < p->n_free; i++, id = p->next[id]) {
        if (id <= 0 || (size_t)id >= p->n_blocks)
            return qn_fail(err, QN_E_INTERNAL, "free list: block %d after %zu blocks, want %zu", id,
                           i, p->n_free);
        if (p->ref_cnt[id])
            return qn_fail(err, QN_E_INTERNAL, "free list: block %d has %u references, want none",
                           id, p->ref_cnt[id]);
    }
    if (id != QN_BLOCK_NULL)
        return qn_fail(err, QN_E_INTERNAL, "free list: block %d after %zu blocks, want the end", id,
                       p->n_free);
    size_t n_unheld = 0;
    for (size_t i = 1; i < p->n_blocks; i++)
        n_unheld += p->ref_cnt[i] == 0;
    if (n_unheld != p->n_free || p->ref_cnt[QN_BLOCK_NULL])
        return qn_fail(err, QN_E_INTERNAL, "block pool: %zu blocks without references, want %zu",
                       n_unheld, p->n_free);
    return QN_OK;
}
