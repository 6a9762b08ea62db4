/* SPDX-License-Identifier: Apache-2.0
 * block_pool.c - see block_pool.h.
 *
 * The free list is a ring through the null block, linked both ways, so that a block found by its
 * identity leaves it in one step:
 *
 *   0 -> 7 -> 3 -> 12 -> 0        taken from the front; freed to the front without, to the back
 *                                 with an identity
 *
 * Identities are in a hash table of lists. No hash is kept: what a list holds is compared word by
 * word, so that equal hashes can never make two texts one. */
#include "sched/block_pool.h"

#include "base/mem.h"
#include <string.h>

typedef struct block {
    int32_t next, prev; /* of the free list */
    uint32_t ref_cnt;
    bool is_cached;               /* has an identity: */
    uint32_t list;                /* of the hash table */
    int32_t same;                 /* next in that list; QN_BLOCK_NULL: none */
    int32_t parent;               /* the block before it; QN_BLOCK_NULL: begins a text */
    uint64_t salt[QN_SALT_WORDS]; /* of one that begins a text */
} block;

struct qn_block_pool {
    size_t n_blocks, n_free, n_cached;
    block *blocks;       /* [n_blocks] */
    uint32_t block_size; /* 0: no cache */
    uint64_t seed;
    int32_t *tokens; /* [n_blocks * block_size] */
    int32_t *lists;  /* [n_lists] first of each; QN_BLOCK_NULL: none */
    uint32_t n_lists;
};

static void link_between(qn_block_pool *p, int32_t id, int32_t prev, int32_t next)
{
    p->blocks[id].prev = prev;
    p->blocks[id].next = next;
    p->blocks[prev].next = id;
    p->blocks[next].prev = id;
}

/* Takes a free block out of the free list. */
static void unlink_free(qn_block_pool *p, int32_t id)
{
    block *b = &p->blocks[id];
    p->blocks[b->prev].next = b->next;
    p->blocks[b->next].prev = b->prev;
    p->n_free--;
    p->n_cached -= b->is_cached;
}

qn_status qn_block_pool_new(qn_block_pool **out, size_t n_blocks, qn_err *err)
{
    *out = NULL;
    if (n_blocks < 2 || n_blocks > INT32_MAX)
        return qn_fail(err, QN_E_ARG, "KV cache: %zu blocks, want 2 to %d", n_blocks, INT32_MAX);
    qn_block_pool *p = qn_calloc(1, sizeof(*p), QN_MEM_KV);
    if (!p)
        return qn_fail_nomem(err, sizeof(*p));
    p->blocks = qn_calloc(n_blocks, sizeof(*p->blocks), QN_MEM_KV);
    if (!p->blocks) {
        qn_block_pool_free(p);
        return qn_fail_nomem(err, n_blocks * sizeof(*p->blocks));
    }
    p->n_blocks = n_blocks;
    p->n_free = n_blocks - 1;
    for (size_t i = 1; i < n_blocks; i++)
        link_between(p, (int32_t)i, (int32_t)(i - 1), QN_BLOCK_NULL);
    *out = p;
    return QN_OK;
}

qn_status qn_block_pool_enable_cache(qn_block_pool *p, uint32_t block_size, uint64_t seed,
                                     uint32_t n_lists, qn_err *err)
{
    QN_ASSERT(!p->block_size && block_size && !(n_lists & (n_lists - 1)));
    for (p->n_lists = n_lists ? n_lists : 1; !n_lists && p->n_lists < p->n_blocks;)
        p->n_lists *= 2;
    p->lists = qn_calloc(p->n_lists, sizeof(*p->lists), QN_MEM_MISC);
    p->tokens = qn_calloc(p->n_blocks, block_size * sizeof(*p->tokens), QN_MEM_MISC);
    if (!p->lists || !p->tokens)
        return qn_fail_nomem(err, p->n_blocks * block_size * sizeof(*p->tokens));
    p->block_size = block_size;
    p->seed = seed;
    return QN_OK;
}

void qn_block_pool_free(qn_block_pool *p)
{
    if (!p)
        return;
    qn_free(p->blocks);
    qn_free(p->tokens);
    qn_free(p->lists);
    qn_free(p);
}

/* ---- identities ---- */

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

static uint32_t list_of(const qn_block_pool *p, int32_t parent, const uint64_t *salt,
                        const int32_t *tokens)
{
    uint64_t h = mix(p->seed, (uint32_t)parent);
    for (int i = 0; i < QN_SALT_WORDS && parent == QN_BLOCK_NULL; i++)
        h = mix(h, salt[i]);
    for (uint32_t i = 0; i < p->block_size; i++)
        h = mix(h, (uint32_t)tokens[i]);
    return (uint32_t)(h >> 32) & (p->n_lists - 1);
}

/* The block of that identity in its list; QN_BLOCK_NULL: there is none. */
static int32_t find(const qn_block_pool *p, uint32_t list, int32_t parent, const uint64_t *salt,
                    const int32_t *tokens)
{
    for (int32_t id = p->lists[list]; id != QN_BLOCK_NULL; id = p->blocks[id].same) {
        const block *b = &p->blocks[id];
        if (b->parent == parent &&
            (parent != QN_BLOCK_NULL || memcmp(b->salt, salt, sizeof(b->salt)) == 0) &&
            memcmp(p->tokens + (size_t)id * p->block_size, tokens,
                   p->block_size * sizeof(*tokens)) == 0)
            return id;
    }
    return QN_BLOCK_NULL;
}

static void name_block(qn_block_pool *p, int32_t id, uint32_t list, int32_t parent,
                       const uint64_t *salt, const int32_t *tokens)
{
    block *b = &p->blocks[id];
    b->is_cached = true;
    b->list = list;
    b->same = p->lists[list];
    b->parent = parent;
    memcpy(b->salt, salt, sizeof(b->salt));
    memcpy(p->tokens + (size_t)id * p->block_size, tokens, p->block_size * sizeof(*tokens));
    p->lists[list] = id;
}

static void forget(qn_block_pool *p, int32_t id)
{
    block *b = &p->blocks[id];
    int32_t *at = &p->lists[b->list];
    while (*at != id)
        at = &p->blocks[*at].same;
    *at = b->same;
    b->is_cached = false;
}

size_t qn_block_pool_get_computed(qn_block_pool *p, const int32_t *tokens, size_t n,
                                  const uint64_t salt[QN_SALT_WORDS], int32_t *ids, qn_miss *miss)
{
    size_t most = p->block_size && n ? (n - 1) / p->block_size : 0, found = 0;
    for (int32_t parent = QN_BLOCK_NULL; found < most; found++) {
        const int32_t *t = tokens + found * p->block_size;
        int32_t id = find(p, list_of(p, parent, salt, t), parent, salt, t);
        if (id == QN_BLOCK_NULL)
            break;
        if (p->blocks[id].ref_cnt++ == 0)
            unlink_free(p, id);
        ids[found] = parent = id;
    }
    if (miss)
        *miss = !p->block_size  ? QN_MISS_OFF
                : !most         ? QN_MISS_SHORT
                : found == most ? QN_MISS_NONE
                : found         ? QN_MISS_PART
                                : QN_MISS_NEW;
    return found;
}

void qn_block_pool_cache_full(qn_block_pool *p, const int32_t *tokens, int32_t *table, size_t from,
                              size_t to, const uint64_t salt[QN_SALT_WORDS])
{
    for (size_t i = from; i < to && p->block_size; i++) {
        const int32_t *t = tokens + i * p->block_size;
        int32_t parent = i ? table[i - 1] : QN_BLOCK_NULL;
        uint32_t list = list_of(p, parent, salt, t);
        int32_t id = find(p, list, parent, salt, t);
        if (id == table[i])
            continue; /* a fork that shares it came first */
        if (id == QN_BLOCK_NULL) {
            name_block(p, table[i], list, parent, salt, t);
            continue;
        }
        if (p->blocks[id].ref_cnt++ == 0)
            unlink_free(p, id);
        qn_block_pool_unref(p, table[i]);
        table[i] = id;
    }
}

/* ---- references ---- */

bool qn_block_pool_alloc(qn_block_pool *p, size_t n, int32_t *ids)
{
    if (n > p->n_free)
        return false;
    for (size_t i = 0; i < n; i++) {
        int32_t id = ids[i] = p->blocks[QN_BLOCK_NULL].next;
        unlink_free(p, id);
        if (p->blocks[id].is_cached)
            forget(p, id);
        p->blocks[id].ref_cnt = 1;
    }
    return true;
}

void qn_block_pool_ref(qn_block_pool *p, int32_t id)
{
    if (id == QN_BLOCK_NULL)
        return;
    QN_ASSERT(id > 0 && (size_t)id < p->n_blocks);
    block *b = &p->blocks[id];
    QN_ASSERT(b->ref_cnt > 0 && b->ref_cnt < UINT32_MAX);
    b->ref_cnt++;
}

void qn_block_pool_unref(qn_block_pool *p, int32_t id)
{
    if (id == QN_BLOCK_NULL)
        return;
    QN_ASSERT(id > 0 && (size_t)id < p->n_blocks);
    block *b = &p->blocks[id];
    QN_ASSERT(b->ref_cnt > 0);
    if (--b->ref_cnt > 0)
        return;
    const block *ring = &p->blocks[QN_BLOCK_NULL];
    if (b->is_cached)
        link_between(p, id, ring->prev, QN_BLOCK_NULL);
    else
        link_between(p, id, QN_BLOCK_NULL, ring->next);
    p->n_free++;
    p->n_cached += b->is_cached;
}

size_t qn_block_pool_n_blocks(const qn_block_pool *p)
{
    return p->n_blocks - 1;
}

size_t qn_block_pool_n_free(const qn_block_pool *p)
{
    return p->n_free;
}

size_t qn_block_pool_n_cached(const qn_block_pool *p)
{
    return p->n_cached;
}

uint32_t qn_block_pool_ref_cnt(const qn_block_pool *p, int32_t id)
{
    QN_ASSERT(id >= 0 && (size_t)id < p->n_blocks);
    return p->blocks[id].ref_cnt;
}

/* ---- checking ---- */

/* A walk of n_free steps that ends exactly at the end of the list has met no block twice. */
static qn_status check_free(const qn_block_pool *p, qn_err *err)
{
    int32_t id = p->blocks[QN_BLOCK_NULL].next;
    size_t n_cached = 0;
    for (size_t i = 0; i < p->n_free; i++, id = p->blocks[id].next) {
        if (id <= 0 || (size_t)id >= p->n_blocks)
            return qn_fail(err, QN_E_INTERNAL, "free list: block %d after %zu blocks, want %zu", id,
                           i, p->n_free);
        const block *b = &p->blocks[id];
        if (b->ref_cnt)
            return qn_fail(err, QN_E_INTERNAL, "free list: block %d has %u references, want none",
                           id, b->ref_cnt);
        if (p->blocks[b->next].prev != id)
            return qn_fail(err, QN_E_INTERNAL, "free list: block %d is not linked back", id);
        if (n_cached && !b->is_cached)
            return qn_fail(err, QN_E_INTERNAL, "free list: block %d comes after cached ones", id);
        n_cached += b->is_cached;
    }
    if (id != QN_BLOCK_NULL)
        return qn_fail(err, QN_E_INTERNAL, "free list: block %d after %zu blocks, want the end", id,
                       p->n_free);
    if (n_cached != p->n_cached)
        return qn_fail(err, QN_E_INTERNAL, "free list: %zu blocks are cached, want %zu", n_cached,
                       p->n_cached);
    return QN_OK;
}

static qn_status check_identity(const qn_block_pool *p, int32_t id, qn_err *err)
{
    const block *b = &p->blocks[id], *parent = &p->blocks[b->parent];
    const int32_t *tokens = p->tokens + (size_t)id * p->block_size;
    int32_t found = find(p, list_of(p, b->parent, b->salt, tokens), b->parent, b->salt, tokens);
    if (found != id)
        return qn_fail(err, QN_E_INTERNAL, "prefix cache: looked for block %d, found %d", id,
                       found);
    if (b->parent != QN_BLOCK_NULL && !parent->is_cached)
        return qn_fail(err, QN_E_INTERNAL, "prefix cache: block %d, before %d, was evicted",
                       b->parent, id);
    if (b->parent != QN_BLOCK_NULL && b->ref_cnt && !parent->ref_cnt)
        return qn_fail(err, QN_E_INTERNAL, "prefix cache: block %d is held, and %d before it not",
                       id, b->parent);
    return QN_OK;
}

qn_status qn_block_pool_check(const qn_block_pool *p, qn_err *err)
{
    QN_TRY(check_free(p, err));
    size_t n_unheld = 0;
    for (size_t i = 1; i < p->n_blocks; i++) {
        n_unheld += p->blocks[i].ref_cnt == 0;
        if (p->blocks[i].is_cached)
            QN_TRY(check_identity(p, (int32_t)i, err));
    }
    if (n_unheld != p->n_free || p->blocks[QN_BLOCK_NULL].ref_cnt)
        return qn_fail(err, QN_E_INTERNAL, "block pool: %zu blocks without references, want %zu",
                       n_unheld, p->n_free);
    return QN_OK;
}
